//! The checker of objects: accepts what the compiler emits, refuses what a broken compiler would.

use libtest_mimic::{Failed, Trial};
use seg_compiler::check::check;
use seg_compiler::decided::{Config, Shape};
use seg_compiler::pipeline::{self, CompileError, Compiled};
use seg_compiler::trees;
use seg_lang::analyze::analyze;
use seg_lang::source::Sources;
use seg_tests::{generate, harness, package};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "validate/mutants.rs"]
mod mutants;

/// Generated policies in `cargo test`.
const POLICIES: u64 = 60;
/// Policies with more programs than this are left out: compiling them dominates the time.
const PROGRAMS_MAX: usize = 48;
/// Trials the policies are spread over, so that they run in parallel.
const TRIALS: u64 = 8;

/// Every program decides by comparisons.
fn comparisons() -> Config {
    Config { shape: Some(Shape::Tree), ..Config::default() }
}

fn main() -> ExitCode {
    let mut trials: Vec<Trial> = (0..TRIALS)
        .map(|n| {
            let title = format!("generated_policies_{n}_are_accepted");
            Trial::test(title, move || generated(1 + n * 1_000_000, POLICIES.div_ceil(TRIALS)))
        })
        .collect();
    for path in written() {
        let name = path.strip_prefix(harness::root()).unwrap_or(&path).display().to_string();
        trials.push(Trial::test(format!("{name}_is_accepted"), move || accepted(&path)));
    }
    trials.extend(mutants::trials());
    harness::main(trials).exit_code()
}

/// Examples and written policies.
fn written() -> Vec<PathBuf> {
    let within = |folder: &str| {
        let entries = std::fs::read_dir(harness::root().join(folder)).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let policies: Vec<_> =
            paths.filter(|p| p.is_dir() || p.extension().is_some_and(|e| e == "seg")).collect();
        policies
    };
    let mut all = [within("examples"), within("tests/data/run")].concat();
    all.sort();
    assert!(all.len() > 15, "{all:?}");
    all
}

/// `None` if no hook can enforce the policy.
fn compile(path: &Path) -> Result<Option<Compiled>, Failed> {
    // A table's policy stands alone, and may do without what a package must have.
    let (name, sources) = if path.is_dir() {
        let package = segc::package::load(path).map_err(|e| e.0)?;
        (package.name, package.sources)
    } else {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path)?;
        let sources = package::sources(&name, &text);
        (name, sources)
    };
    let analysis = analyze(sources);
    let policy = analysis.policy.ok_or("the policy does not check")?;
    match pipeline::compile(&policy, &analysis.sources, &name, comparisons()) {
        Ok(compiled) => Ok(Some(compiled)),
        Err(CompileError::Target(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn accepted(path: &Path) -> Result<(), Failed> {
    let Some(compiled) = compile(path)? else {
        println!("{}: no hook enforces it, so there is no object", path.display());
        return Ok(());
    };
    let mut tally = Tally::default();
    tally.check(&compiled)?;
    tally.print(&path.display().to_string());
    Ok(())
}

fn generated(first_seed: u64, policies: u64) -> Result<(), Failed> {
    let mut tally = Tally::default();
    let (mut seed, mut taken) = (first_seed, 0);
    while taken < policies {
        let policy = generate::policy(seed);
        let trees = trees::compile(&policy)?;
        if trees.outbound.trees.len() + trees.inbound.trees.len() <= PROGRAMS_MAX {
            let compiled =
                pipeline::compile(&policy, &Sources::default(), "generated", comparisons())?;
            tally.check(&compiled).map_err(|e| format!("seed {seed}: {e}"))?;
            taken += 1;
        }
        seed += 1;
    }
    tally.print(&format!("{policies} policies"));
    Ok(())
}

#[derive(Default)]
struct Tally {
    programs: usize,
    instructions: usize,
    time: Duration,
}

impl Tally {
    fn check(&mut self, compiled: &Compiled) -> Result<(), String> {
        let started = Instant::now();
        let proved =
            check(&compiled.decided, &compiled.object).map_err(|error| error.to_string())?;
        self.time += started.elapsed();
        if proved != compiled.programs.len() {
            return Err(format!("{proved} programs proved"));
        }
        self.programs += compiled.programs.len();
        self.instructions += compiled.programs.iter().map(|p| p.insns.len()).sum::<usize>();
        Ok(())
    }

    fn print(&self, what: &str) {
        let Self { programs, instructions, time } = self;
        println!("{what}: {programs} programs, {instructions} instructions, {time:?}");
    }
}
