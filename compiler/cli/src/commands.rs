//! One function for each command: it prints its result and says how it ended.

mod test;
mod explain;
mod dump;
mod inspect;

use crate::describe::count;
use crate::package::{self, LoadError, Package};
use crate::report::{self, say};
use seg_artifact::object::open;
use seg_compiler::bpf;
use seg_compiler::pipeline::{self, CompileError};
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::codes;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::policy::{Policy, RuleId};
use seg_lang::render::render;
use seg_lang::source::Sources;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

pub use dump::{Stage, dump};
pub use explain::explain;
pub use inspect::inspect;
pub use test::test;

/// How a command ended; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Nothing to say against it.
    Clean = 0,
    /// Errors in the policy, claims that fail, an object refused.
    Findings = 1,
    /// Arguments or files that cannot be used.
    Misuse = 2,
    /// A bug of ours.
    Internal = 4,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `segc new`.
pub fn new(directory: &Path, output: Output) -> Outcome {
    let made = match package::create(directory) {
        Ok(made) => made.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        Err(error) => return misuse(&error),
    };
    match output {
        Output::Json => report::print(Made { made }),
        Output::Text => {
            made.iter().for_each(|path| say!("made {path}"));
            say!("next: segc test {}", directory.display());
        }
    }
    Outcome::Clean
}

#[derive(Serialize)]
struct Made {
    made: Vec<String>,
}

/// `segc check`.
pub fn check(path: &Path, output: Output) -> Outcome {
    let package = match package::load(path) {
        Ok(package) => package,
        Err(error) => return misuse(&error),
    };
    let n_files = package.sources.iter().count();
    let analysis = analyze(package.sources);
    match output {
        Output::Json => {
            let diagnostics = report::findings(&analysis.sources, &analysis.diagnostics);
            report::print(Checked { diagnostics });
        }
        Output::Text => {
            report::complain(&render(&analysis.diagnostics, &analysis.sources));
            if let Some(policy) = &analysis.policy {
                let n_claims: usize = policy.tests.iter().map(|test| test.claims.len()).sum();
                say!(
                    "{}: {}, {}, {}, {}",
                    package.name,
                    count(n_files, "file"),
                    count(policy.blocks.len(), "block"),
                    count(policy.rules.len(), "rule"),
                    count(n_claims, "claim")
                );
            }
        }
    }
    if analysis.policy.is_some() { Outcome::Clean } else { Outcome::Findings }
}

#[derive(Serialize)]
struct Checked {
    diagnostics: Vec<report::Finding>,
}

/// `segc build`.
pub fn build(path: &Path, file: &Path, output: Output) -> Outcome {
    let checked = match checked(path, output) {
        Ok(checked) => checked,
        Err(outcome) => return outcome,
    };
    let compiled = match pipeline::compile(&checked.policy, &checked.sources, &checked.name) {
        Ok(compiled) => compiled,
        Err(error) => return too_large(&checked, &error, output),
    };
    if let Err(error) = write(file, &compiled.object) {
        return misuse(&LoadError(format!("cannot write {}: {error}", file.display())));
    }
    // What was written must be what `segd` accepts; anything else is a bug of ours.
    let artifact = open(&compiled.object).expect("a fresh object opens");
    let largest = compiled.programs.iter().map(|program| program.insns.len()).max().unwrap_or(0);
    match output {
        Output::Json => report::print(Built {
            file: file.display().to_string(),
            bytes: compiled.object.len(),
            sha256: artifact.digest,
            programs: compiled.programs.iter().map(program_size).collect(),
        }),
        Output::Text => say!(
            "{}: {} bytes, {} (largest {}), {}, sha256 {}",
            file.display(),
            compiled.object.len(),
            count(compiled.programs.len(), "program"),
            count(largest, "instruction"),
            count(checked.policy.rules.len(), "rule"),
            artifact.digest
        ),
    }
    Outcome::Clean
}

/// Replaces the file in one step: a reader sees the old object or the new one.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or(std::io::ErrorKind::IsADirectory)?;
    let mut scratch = name.to_owned();
    scratch.push(format!(".{}", std::process::id()));
    let scratch = folder.join(scratch);
    let written = std::fs::File::create(&scratch)
        .and_then(|mut open| open.write_all(bytes))
        .and_then(|()| std::fs::rename(&scratch, file));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&scratch);
    }
    written
}

#[derive(Serialize)]
struct Built {
    file: String,
    bytes: usize,
    sha256: String,
    programs: Vec<ProgramSize>,
}

#[derive(Serialize)]
struct ProgramSize {
    name: String,
    instructions: usize,
}

fn program_size(program: &bpf::Program) -> ProgramSize {
    ProgramSize { name: program.name.clone(), instructions: program.insns.len() }
}

/// A package that checks.
struct Checking {
    name: String,
    sources: Sources,
    policy: Policy,
}

/// Loads and checks; what is wrong is printed.
fn checked(path: &Path, output: Output) -> Result<Checking, Outcome> {
    let Package { name, sources } = package::load(path).map_err(|error| misuse(&error))?;
    let Analysis { sources, policy, diagnostics, .. } = analyze(sources);
    match output {
        Output::Text => report::complain(&render(&diagnostics, &sources)),
        Output::Json if policy.is_none() => {
            report::print(Checked { diagnostics: report::findings(&sources, &diagnostics) })
        }
        Output::Json => {}
    }
    let policy = policy.ok_or(Outcome::Findings)?;
    Ok(Checking { name, sources, policy })
}

fn misuse(error: &LoadError) -> Outcome {
    report::complain(&format!("error: {}\n", error.0));
    Outcome::Misuse
}

/// Reports a policy that is right and does not fit the target.
fn too_large(checked: &Checking, error: &CompileError, output: Output) -> Outcome {
    let costly: &[RuleId] = match error {
        CompileError::Limit(limit) => limit.rules(),
        CompileError::Lower { .. } | CompileError::Manifest(_) | CompileError::Seal(_) => &[],
    };
    let spans = costly
        .iter()
        .filter_map(|id| checked.policy.rules.get(id.0 as usize))
        .map(|rule| rule.span);
    let mut spans = spans.collect::<Vec<_>>().into_iter();
    let message = error.to_string();
    if let Some(first) = spans.next() {
        let diagnostic = Diagnostic::new(codes::TARGET_LIMIT, message, first)
            .here("its verdict is spread over the most cases");
        let diagnostic = spans.fold(diagnostic, |d, span| d.and(span, "then this"));
        match output {
            Output::Json => report::print(Checked {
                diagnostics: report::findings(&checked.sources, &[diagnostic]),
            }),
            Output::Text => report::complain(&render(&[diagnostic], &checked.sources)),
        }
    } else {
        report::complain(&format!(
            "error[{}]: {}: {message}\n",
            codes::TARGET_LIMIT.0,
            checked.name
        ));
    }
    Outcome::Findings
}
