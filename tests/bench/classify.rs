//! How long decisions take in the kernel: `cargo bench -p seg-tests --bench classify [-- OPTIONS]`.
//!
//! Rule sets and label policies are decided by Seg and by emulations of how others look policy up, over the same traces and in the
//! same rounds. Tables go to standard output. A contender whose answers are not those of the rules is WRONG and fails the bench.

#[path = "classify/calibrate.rs"]
mod calibrate;
#[path = "classify/groups.rs"]
mod groups;
#[path = "classify/report.rs"]
mod report;

use report::Report;
use seg_compiler::decided::Shape;
use seg_tests::contest::Arena;
use seg_tests::contest::seg;
use seg_tests::workload::trace::Mode;
use seg_tests::{harness, workload};
use std::process::ExitCode;

const USAGE: &str = "usage: classify [--quick] [--sets NAME,…] [--shape tree|tables] [--rounds N] [--json FILE] | --calibrate [--json FILE]";

/// What is measured.
struct Options {
    /// ClassBench sets, any of the twelve with `_1k`, `_10k` or `_100k`; label policies by size, with `host-` in front for one host
    /// of them; `primitives`.
    sets: Vec<String>,
    modes: Vec<Mode>,
    /// In which way Seg decides.
    shape: Option<Shape>,
    n_rounds: usize,
    json: Option<String>,
    calibrate: bool,
}

/// Rounds of every row unless others are asked for.
const ROUNDS: usize = 11;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [command, folder, object, shape] = arguments.as_slice()
        && command == groups::COMPILE
    {
        return compile(folder, object, groups::shape(shape));
    }
    let Some(options) = options(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(reason) = harness::missing_privilege() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(report) if report.wrong == 0 => ExitCode::SUCCESS,
        Ok(report) => {
            eprintln!("{} rows are WRONG", report.wrong);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Report, String> {
    let arena = Arena::new().map_err(|e| e.to_string())?;
    let mut report = Report::default();
    if options.calibrate {
        calibrate::run(&arena, options.n_rounds, &mut report)?;
    } else {
        groups::run(&arena, options, &mut report)?;
    }
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report.json(options.n_rounds));
        std::fs::write(path, text).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(report)
}

fn options(arguments: Vec<String>) -> Option<Options> {
    let names = |suffix: &str| {
        let seeds = workload::classbench::SEEDS.iter();
        seeds.map(|seed| format!("{seed}_{suffix}")).collect::<Vec<_>>()
    };
    let labels = || workload::labels::SIZES.iter().map(|size| size.name.to_owned());
    let hosts = ["10kx10k", "65kx10k", "65kx100k"].map(|size| format!("host-{size}"));
    let mut options = Options {
        sets: std::iter::once("primitives".to_owned())
            .chain(["1k", "10k"].into_iter().flat_map(names))
            .chain(["acl1", "fw1", "ipc1"].map(|seed| format!("{seed}_100k")))
            .chain(labels())
            .chain(hosts)
            .collect(),
        modes: Mode::ALL.to_vec(),
        shape: None,
        n_rounds: ROUNDS,
        json: None,
        calibrate: false,
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--calibrate" => options.calibrate = true,
            "--quick" => {
                options.sets = ["acl1_1k", "fw1_1k", "ipc1_1k", "100x100", "1kx1k"]
                    .map(str::to_owned)
                    .to_vec();
                options.modes = vec![Mode::Uniform, Mode::Zipf, Mode::Single];
            }
            "--sets" => {
                options.sets = arguments.next()?.split(',').map(str::to_owned).collect();
            }
            "--shape" => options.shape = Some(groups::shape(&arguments.next()?)?),
            "--rounds" => options.n_rounds = arguments.next()?.parse().ok().filter(|n| *n > 0)?,
            "--json" => options.json = Some(arguments.next()?),
            _ => return None,
        }
    }
    Some(options)
}

/// What the bench starts itself as: a policy that takes too long or too much memory must not take the bench along.
fn compile(folder: &str, object: &str, shape: Option<Shape>) -> ExitCode {
    let made = groups::files(folder)
        .map_err(|e| e.to_string())
        .and_then(|files| seg::compile(files, shape))
        .and_then(|bytes| std::fs::write(object, bytes).map_err(|e| e.to_string()));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
