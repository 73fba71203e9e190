//! How long the language takes: `cargo bench -p seg-tests --bench language [-- --json] [--runs N] [LINES…]`.
//!
//! Each stage runs alone, on one thread, on packages of several lengths.
//! Wall time suffers from whatever else the machine does; CPU time is that of the thread (user and system), which
//! `CLOCK_THREAD_CPUTIME_ID` counts in nanoseconds where `getrusage` splits by ticks.

use seg_lang::analyze::{Config, Step, analyze, analyze_watched};
use seg_lang::lex::lex;
use seg_lang::parse::parse;
use seg_lang::source::Sources;
use seg_tests::organisation;
use serde_json::{Value, json};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Lengths that are measured unless others are asked for.
///
/// Unit: lines.
const LINES: [usize; 3] = [1_000, 10_000, 100_000];

/// Runs of every stage.
const RUNS: usize = 11;

/// Most a package may take from text to checked policy. Unit: lines, and time on the CPU.
const BARS: [(usize, Duration); 2] =
    [(10_000, Duration::from_millis(50)), (100_000, Duration::from_secs(1))];

const STAGES: [&str; 5] = ["lex", "parse", "resolve", "check", "whole"];

fn main() -> ExitCode {
    let (mut json, mut runs, mut sizes) = (false, RUNS, vec![]);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What `cargo bench` adds.
            "--bench" => {}
            "--json" => json = true,
            "--runs" => runs = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(RUNS).max(1),
            size => match size.parse() {
                Ok(size) => sizes.push(size),
                Err(_) => {
                    eprintln!("usage: language [--json] [--runs N] [LINES…]");
                    return ExitCode::from(2);
                }
            },
        }
    }
    if sizes.is_empty() {
        sizes.extend(LINES);
    }
    let measured: Vec<Measured> = sizes.iter().map(|lines| measure(*lines, runs)).collect();
    if json {
        let packages: Vec<Value> = measured.iter().map(Measured::json).collect();
        println!("{:#}", json!({ "version": 1, "runs": runs, "packages": packages }));
    } else {
        println!(
            "{runs} runs of each stage, one thread; medians; `parse` holds `lex`, `whole` holds all and the freeing"
        );
        let mut before = None;
        for of in &measured {
            of.print(before);
            before = Some(of);
        }
    }
    let late =
        measured.iter().filter(|of| of.bar().is_some_and(|bar| of.stages[4].cpu.median > bar));
    if late.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Times of all runs of a stage.
struct Stage {
    wall: Spread,
    cpu: Spread,
}

/// The middle and both ends.
#[derive(Clone, Copy)]
struct Spread {
    least: Duration,
    median: Duration,
    most: Duration,
}

struct Measured {
    n_lines: usize,
    n_files: usize,
    n_bytes: usize,
    n_rules: usize,
    n_claims: usize,
    stages: [Stage; 5],
}

fn measure(lines: usize, runs: usize) -> Measured {
    let sources = organisation::package(lines);
    let texts = || sources.iter().map(|(_, source)| source.text.as_str());
    let whole = analyze(sources.clone());
    for finding in whole.diagnostics.iter().take(3) {
        let place = finding.labels.first().map(|l| whole.sources.place(l.span));
        eprintln!("{}: {}", place.unwrap_or_default(), finding.message);
    }
    let policy = whole.policy.expect("the package is correct");
    let mut times: [Vec<(Duration, Duration)>; 5] = Default::default();
    for _ in 0..runs {
        times[0].push(timed(|| {
            for (file, source) in sources.iter() {
                black_box(lex(file, &source.text));
            }
        }));
        times[1].push(timed(|| {
            for (file, source) in sources.iter() {
                black_box(parse(file, &source.text));
            }
        }));
        let given = sources.clone();
        let mut started = Clocks::now();
        let analysis = analyze_watched(given, &Config::default(), |step| {
            let stage = match step {
                Step::Parse => None,
                Step::Resolve => Some(2),
                Step::Check => Some(3),
            };
            let ended = Clocks::now();
            if let Some(stage) = stage {
                times[stage].push(ended.since(&started));
            }
            started = Clocks::now();
        });
        drop(black_box(analysis));
        let given: Sources = sources.clone();
        times[4].push(timed(|| drop(black_box(analyze(given)))));
    }
    Measured {
        n_lines: texts().map(|text| text.lines().count()).sum(),
        n_files: texts().count(),
        n_bytes: texts().map(str::len).sum(),
        n_rules: policy.rules.len(),
        n_claims: policy.tests.iter().map(|test| test.claims.len()).sum(),
        stages: times.map(|times| Stage {
            wall: spread(times.iter().map(|t| t.0).collect()),
            cpu: spread(times.iter().map(|t| t.1).collect()),
        }),
    }
}

impl Measured {
    fn bar(&self) -> Option<Duration> {
        let near = |lines: usize| (lines..lines + lines / 10).contains(&self.n_lines);
        BARS.iter().find(|(lines, _)| near(*lines)).map(|(_, bar)| *bar)
    }

    fn print(&self, before: Option<&Self>) {
        println!(
            "\n{} lines, {} files, {:.2} MB; {} rules, {} claims",
            self.n_lines,
            self.n_files,
            self.n_bytes as f64 / 1e6,
            self.n_rules,
            self.n_claims
        );
        println!(
            "{:8} {:>10} {:>10} {:>21} {:>8} {:>8} {:>7} {:>14}",
            "stage",
            "CPU ms",
            "wall ms",
            "wall least..most",
            "MB/s",
            "ns/line",
            "share",
            "growth per line"
        );
        let whole = self.stages[4].cpu.median;
        for (index, (name, stage)) in STAGES.iter().zip(&self.stages).enumerate() {
            let cpu = stage.cpu.median;
            let growth = before.map(|before| {
                let earlier = before.stages[index].cpu.median;
                self.per_line(cpu) / before.per_line(earlier)
            });
            println!(
                "{name:8} {:10.3} {:10.3} {:>21} {:8.1} {:8.0} {:6.0}% {:>14}",
                ms(cpu),
                ms(stage.wall.median),
                format!("{:.3}..{:.3}", ms(stage.wall.least), ms(stage.wall.most)),
                self.n_bytes as f64 / 1e6 / cpu.as_secs_f64(),
                self.per_line(cpu),
                100.0 * cpu.as_secs_f64() / whole.as_secs_f64(),
                growth.map_or_else(String::new, |g| format!("x {g:.2}")),
            );
        }
        if let Some(bar) = self.bar() {
            let verdict = if whole <= bar { "met" } else { "MISSED" };
            println!(
                "bar {} ms of CPU: {verdict}, {:.1} times under",
                bar.as_millis(),
                bar.as_secs_f64() / whole.as_secs_f64()
            );
        }
    }

    /// Unit: nanoseconds.
    fn per_line(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / self.n_lines as f64
    }

    fn json(&self) -> Value {
        let spread = |s: &Spread| json!({ "least_ms": ms(s.least), "median_ms": ms(s.median), "most_ms": ms(s.most) });
        let stages: serde_json::Map<String, Value> = STAGES
            .iter()
            .zip(&self.stages)
            .map(|(name, stage)| {
                let rate = self.n_bytes as f64 / 1e6 / stage.cpu.median.as_secs_f64();
                let value = json!({
                    "cpu": spread(&stage.cpu),
                    "wall": spread(&stage.wall),
                    "megabytes_per_second": rate,
                });
                ((*name).to_owned(), value)
            })
            .collect();
        json!({
            "lines": self.n_lines,
            "files": self.n_files,
            "bytes": self.n_bytes,
            "rules": self.n_rules,
            "claims": self.n_claims,
            "bar_ms": self.bar().map(ms),
            "stages": stages,
        })
    }
}

struct Clocks {
    wall: Instant,
    cpu: Duration,
}

impl Clocks {
    fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that lives through the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0, "Linux has this clock");
        let cpu = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
        Self { wall: Instant::now(), cpu }
    }

    /// Wall time and CPU time.
    fn since(&self, start: &Self) -> (Duration, Duration) {
        (self.wall - start.wall, self.cpu.saturating_sub(start.cpu))
    }
}

fn timed(run: impl FnOnce()) -> (Duration, Duration) {
    let start = Clocks::now();
    run();
    Clocks::now().since(&start)
}

fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    Spread { least: times[0], median: times[times.len() / 2], most: times[times.len() - 1] }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
