//! One function for each command: it prints its result and says how it ended.

mod check;
mod test;
mod explain;
mod dump;
mod inspect;
mod why;
mod fmt;
mod doc;
mod manual;

use crate::describe::count;
use crate::files::Files;
use crate::package::{self, LoadError, Package};
use crate::report::{self, Report, github, json, say};
use clap::ValueEnum;
use seg_artifact::object::open;
use seg_compiler::bpf;
use seg_compiler::check::{CheckError, check as check_object};
use seg_compiler::cost::{Estimate, Size};
use seg_compiler::decided::{Config as Shaping, Decided, Shape};
use seg_compiler::limits::LimitError;
use seg_compiler::pipeline::{self, CompileError, Compiled};
use seg_compiler::target::{Asks, Unenforceable};
use seg_lang::analyze::{Analysis, Config, analyze_as};
use seg_lang::codes;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::policy::{self, Policy, RuleId};
use seg_lang::source::Sources;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

pub use check::{check, check_and_fix};
pub use doc::doc;
pub use dump::{Stage, dump};
pub use explain::explain;
pub use fmt::{Mode, fmt};
pub use inspect::inspect;
pub use manual::{completions, man};
pub use test::test;
pub use why::why;

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

/// How results are printed by commands that have no findings in lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What a command works on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// A package, a file, or `-`.
    pub path: &'a Path,
    /// `--as-of`: the day whose policy is wanted.
    pub as_of: Option<&'a str>,
}

impl Input<'_> {
    fn load(self) -> Result<Package, LoadError> {
        let mut package = package::load(self.path)?;
        package.config.as_of = self.as_of.map(str::to_owned);
        Ok(package)
    }
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs; see compiler/cli/schema/report.json.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Annotations of GitHub Actions.
    Github,
    /// JUnit XML, for CI servers.
    Junit,
}

impl From<Output> for Format {
    fn from(output: Output) -> Self {
        match output {
            Output::Text => Self::Text,
            Output::Json => Self::Json,
        }
    }
}

/// `segc new`.
pub fn new(directory: &Path, output: Output) -> Outcome {
    let made = match package::create(directory) {
        Ok(made) => made.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        Err(error) => return misuse(&error, output),
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

/// How `segc build` works.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildConfig {
    /// The shape to decide in; `None` for the one that costs less.
    pub shape: Option<ShapeName>,
    /// Whether to say what the shapes cost.
    pub explain_shape: bool,
    /// Whether it reads back what it has made.
    pub read_back: ReadBack,
}

/// Whether `segc build` reads back what it has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadBack {
    /// It proves that the object decides as the rules do, or writes nothing.
    #[default]
    Check,
    /// It does not.
    Skip,
}

/// The shapes of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeName {
    /// Comparisons, a program for each role.
    Tree,
    /// Tables, for all endpoints together.
    Tables,
}

impl From<ShapeName> for Shape {
    fn from(name: ShapeName) -> Self {
        match name {
            ShapeName::Tree => Self::Tree,
            ShapeName::Tables => Self::Tables,
        }
    }
}

impl From<Shape> for ShapeName {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Tree => Self::Tree,
            Shape::Tables => Self::Tables,
        }
    }
}

/// `segc build`.
pub fn build(input: Input<'_>, file: &Path, config: BuildConfig, format: Format) -> Outcome {
    let checked = match checked("build", input, format) {
        Ok(checked) => checked,
        Err(outcome) => return outcome,
    };
    // An assertion holds in every build, or there is none.
    match test::assertions(&checked) {
        Ok(failed) if failed.is_empty() => {}
        Ok(failed) => {
            checked.report(&failed).print(format);
            return Outcome::Findings;
        }
        Err(error) => return too_large(&checked, &error.into(), format),
    }
    let shaping = Shaping { shape: config.shape.map(Shape::from), ..Shaping::default() };
    let compiled =
        match pipeline::compile(&checked.policy, &checked.sources, &checked.name, shaping) {
            Ok(compiled) => compiled,
            Err(error) => return too_large(&checked, &error, format),
        };
    let not_read_back = match config.read_back {
        ReadBack::Skip => Some("as asked".to_owned()),
        ReadBack::Check => match read_back_of(&compiled) {
            Ok(what) => what,
            Err(CheckError::Limit(limit)) => return too_large(&checked, &limit.into(), format),
            Err(error) => {
                let message = format!(
                    "the object cannot be shown to do what the rules say, and nothing was written; this is a bug of segc, please report it: {error}"
                );
                failed(&message, format);
                return Outcome::Internal;
            }
        },
    };
    if let Some(what) = not_read_back.as_ref().filter(|_| format != Format::Json) {
        report::complain(&format!("note: not read back: {what}\n"));
    }
    if let Err(error) = write(file, &compiled.object) {
        return misuse(&LoadError(format!("cannot write {}: {error}", file.display())), format);
    }
    // What was written must be what `segd` accepts; anything else is a bug of ours.
    let artifact = open(&compiled.object).expect("a fresh object opens");
    let largest = compiled.programs.iter().map(|program| program.insns.len()).max().unwrap_or(0);
    match format {
        Format::Json => report::print(Built {
            file: file.display().to_string(),
            bytes: compiled.object.len(),
            sha256: artifact.digest,
            not_read_back,
            programs: compiled.programs.iter().map(program_size).collect(),
            shapes: compiled.considered.iter().map(ShapeCost::from).collect(),
            diagnostics: json::findings(checked.report(&checked.warnings)),
        }),
        Format::Text => {
            if config.explain_shape {
                explain_shape(&compiled.considered);
            }
            say!(
                "{}: {} bytes, {} (largest {}), {}, sha256 {}",
                file.display(),
                compiled.object.len(),
                count(compiled.programs.len(), "program"),
                count(largest, "instruction"),
                count(checked.policy.rules.len(), "rule"),
                artifact.digest
            )
        }
        Format::Sarif | Format::Github | Format::Junit => {
            checked.report(&checked.warnings).print(format);
        }
    }
    Outcome::Clean
}

/// Checks what is compiled; what is left out, and why.
fn read_back_of(compiled: &Compiled) -> Result<Option<String>, CheckError> {
    if let Decided::Trees(trees) = &compiled.decided
        && trees.outbound.parts.len() > 1
    {
        return Ok(Some("programs of several trees".to_owned()));
    }
    check_object(&compiled.decided, &compiled.object).map(|_| None)
}

/// Replaces the file in one step: a reader sees the old text or the new one. What is no file, such as `/dev/null` or a pipe,
/// is written to and stays what it is.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if file.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return std::fs::File::options().write(true).open(file)?.write_all(bytes);
    }
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or(std::io::ErrorKind::IsADirectory)?;
    let mut scratch = name.to_owned();
    scratch.push(format!(".{}", std::process::id()));
    let scratch = folder.join(scratch);
    let written = std::fs::File::create(&scratch)
        .and_then(|mut open| {
            if let Ok(before) = file.metadata() {
                open.set_permissions(before.permissions())?;
            }
            open.write_all(bytes)
        })
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
    /// What of it was not checked, if not all of it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_read_back: Option<String>,
    programs: Vec<ProgramSize>,
    /// What each shape that was looked at costs, the one chosen first.
    shapes: Vec<ShapeCost>,
    diagnostics: Vec<json::Finding>,
}

#[derive(Serialize)]
struct ProgramSize {
    name: String,
    instructions: usize,
}

/// What one shape costs per packet.
#[derive(Serialize)]
struct ShapeCost {
    shape: ShapeName,
    /// For packets that differ in all they can. Unit: nanoseconds.
    random_ns: f64,
    /// For a packet like the one before. Unit: nanoseconds.
    same_ns: f64,
}

impl From<&Estimate> for ShapeCost {
    fn from(of: &Estimate) -> Self {
        let ns = |ps: u64| ps as f64 / 1_000.0;
        Self { shape: of.shape.into(), random_ns: ns(of.random_ps), same_ns: ns(of.same_ps) }
    }
}

fn explain_shape(considered: &[Estimate]) {
    for (place, estimate) in considered.iter().enumerate() {
        let ShapeCost { shape, random_ns, same_ns } = estimate.into();
        let size = match estimate.size {
            Size::Tree { programs, comparisons, levels } => format!(
                "{}, the largest of {}, {}.{} on the way to a verdict",
                count(programs, "program"),
                count(comparisons, "comparison"),
                levels / 100,
                levels % 100 / 10
            ),
            Size::Tables { groups, rows, bytes } => {
                format!("{}, {rows} of them as rows, {bytes} bytes", count(groups, "group"))
            }
        };
        let (chosen, name) = (if place == 0 { ", chosen" } else { "" }, shape.to_possible_value());
        let name = name.map(|name| name.get_name().to_owned()).unwrap_or_default();
        say!(
            "shape {name:<6} {random_ns:5.1} ns for packets that differ, {same_ns:4.1} ns for the same again: {size}{chosen}"
        );
    }
}

fn program_size(program: &bpf::Program) -> ProgramSize {
    ProgramSize { name: program.name.clone(), instructions: program.insns.len() }
}

/// A package that checks.
struct Checking {
    /// What it was checked for.
    command: &'static str,
    name: String,
    sources: Sources,
    files: Files,
    config: Config,
    policy: Policy,
    /// What was found all the same; people have read it.
    warnings: Vec<Diagnostic>,
}

impl Checking {
    fn report<'a>(&'a self, diagnostics: &'a [Diagnostic]) -> Report<'a> {
        let Self { command, name, sources, files, .. } = self;
        Report { command, package: name, sources, files, diagnostics }
    }
}

/// Loads and checks for a command; what is wrong is printed.
fn checked(
    command: &'static str,
    input: Input<'_>,
    format: impl Into<Format>,
) -> Result<Checking, Outcome> {
    let format = format.into();
    let Package { name, sources, files, config } =
        input.load().map_err(|error| misuse(&error, format))?;
    let Analysis { sources, policy, diagnostics, .. } = analyze_as(sources, &config);
    let report = Report {
        command,
        package: &name,
        sources: &sources,
        files: &files,
        diagnostics: &diagnostics,
    };
    // For programs the command prints one value, which has the warnings of a policy with a meaning.
    if policy.is_none() || format == Format::Text {
        report.print(format);
    }
    let policy = policy.ok_or(Outcome::Findings)?;
    Ok(Checking { command, name, sources, files, config, policy, warnings: diagnostics })
}

/// Says why a command cannot do its work: to people on standard error, to programs that can read it on standard output.
pub fn misuse(error: &LoadError, format: impl Into<Format>) -> Outcome {
    failed(&error.0, format);
    Outcome::Misuse
}

fn failed(message: &str, format: impl Into<Format>) {
    match format.into() {
        Format::Json => report::print(json::Failed { error: message.to_owned() }),
        Format::Github => say!("{}", github::failure(message)),
        // A log of findings has no room for it, and a missing one is noticed.
        Format::Text | Format::Sarif | Format::Junit => {
            report::complain(&format!("error: {message}\n"));
        }
    }
}

/// What is said of a rule that no hook can enforce.
fn no_hook(checked: &Checking, of: &Unenforceable) -> Option<Diagnostic> {
    let rule = checked.policy.rules.get(of.rule.0 as usize)?;
    let what = match of.asks {
        Asks::Request => "the HTTP request",
        Asks::Process => "the process",
        Asks::Name => "the names of an address",
    };
    let message = format!("no hook of the target can enforce this rule: it asks for {what}");
    let found = Diagnostic::new(codes::TARGET_CANNOT, message, rule.place())
        .here(format!("`{}` is not in the headers of a packet", of.predicate));
    let found = if rule.uses.is_empty() { found } else { found.and(rule.span, "the rule") };
    let help = "write the rule without it, by addresses, labels and ports, to build; `segc test` proves it as it is";
    Some(found.help(help))
}

/// Reports a policy that is right and does not fit the target.
fn too_large(checked: &Checking, error: &CompileError, format: impl Into<Format>) -> Outcome {
    let costly: &[RuleId] = match error {
        CompileError::Target(rules) => {
            let found: Vec<_> = rules.iter().filter_map(|rule| no_hook(checked, rule)).collect();
            checked.report(&found).print(format.into());
            return Outcome::Findings;
        }
        CompileError::Limit(limit) => limit.rules(),
        CompileError::Lower { .. } | CompileError::Manifest(_) | CompileError::Seal(_) => &[],
    };
    let spans = costly
        .iter()
        .filter_map(|id| checked.policy.rules.get(id.0 as usize))
        .map(policy::Rule::place);
    let mut spans = spans.collect::<Vec<_>>().into_iter();
    let diagnostic = if let Some(first) = spans.next() {
        let diagnostic = Diagnostic::new(codes::TARGET_LIMIT, error.to_string(), first)
            .here("its verdict is spread over the most cases");
        spans.fold(diagnostic, |d, span| d.and(span, "then this"))
    } else {
        Diagnostic::of_package(codes::TARGET_LIMIT, format!("{}: {error}", checked.name))
    };
    let help = "`segc build --shape tree` may hold such a policy as trees in sequence, which are not read back";
    let diagnostic = match error {
        CompileError::Limit(
            LimitError::Bits { .. }
            | LimitError::Nets { .. }
            | LimitError::Steps
            | LimitError::Cells { .. },
        ) => diagnostic.help(help),
        _ => diagnostic,
    };
    checked.report(&[diagnostic]).print(format.into());
    Outcome::Findings
}
