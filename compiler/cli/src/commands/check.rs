//! `segc check`: what is wrong with a package, and with `--fix` what can be mended.

use super::{Format, Input, Outcome, misuse, write};
use crate::describe::count;
use crate::files::Files;
use crate::package::{self, LoadError, Package};
use crate::report::{self, Report, json, say};
use seg_lang::analyze::{Analysis, analyze_as};
use seg_lang::fix::{Edit, Fixed, fix};
use seg_lang::render::visible;
use seg_lang::source::Sources;
use serde::Serialize;
use std::path::Path;

/// `segc check`.
pub fn check(input: Input<'_>, format: Format) -> Outcome {
    let package = match input.load() {
        Ok(package) => package,
        Err(error) => return misuse(&error, format),
    };
    let n_files = package.sources.iter().count();
    let analysis = analyze_as(package.sources, &package.config);
    tell(&analysis, &package.name, &package.files, n_files, format)
}

/// Prints what was found, and for people a summary of what was not wrong.
fn tell(
    analysis: &Analysis,
    package: &str,
    files: &Files,
    n_files: usize,
    format: Format,
) -> Outcome {
    let Analysis { sources, diagnostics, policy, .. } = analysis;
    Report { command: "check", package, sources, files, diagnostics }.print(format);
    let Some(policy) = policy else { return Outcome::Findings };
    if format == Format::Text {
        let n_claims: usize = policy.tests.iter().map(|test| test.claims.len()).sum();
        say!(
            "{package}: {}, {}, {}, {}",
            count(n_files, "file"),
            count(policy.blocks.len(), "block"),
            count(policy.rules.len(), "rule"),
            count(n_claims, "claim")
        );
    }
    Outcome::Clean
}

/// `segc check --fix`: applies the edits that are sure, writes the files, and says what is left.
///
/// Standard input is not a file: its new text goes to standard output, everything else to standard error.
pub fn check_and_fix(input: Input<'_>, format: Format) -> Outcome {
    let is_stdin = input.path == Path::new("-");
    if is_stdin && format != Format::Text {
        let message = "`check --fix -` prints the text it mended; it has no other format";
        return misuse(&LoadError(message.to_owned()), format);
    }
    let Package { name, sources, files, config } = match input.load() {
        Ok(package) => package,
        Err(error) => return misuse(&error, format),
    };
    let n_files = sources.iter().count();
    // A file stands for its package, but it alone was given to be changed.
    let only = input.path.is_file().then(|| input.path.canonicalize().ok()).flatten();
    let given = |source: &str| only.as_deref().is_none_or(|only| files.path(source) == Some(only));
    let may_change = |source: &seg_lang::source::Source| {
        let own = files.is_own(&source.path) && given(&source.path);
        own || is_stdin && source.path == package::STDIN
    };
    let Fixed { analysis, edits } =
        fix(sources.clone(), &|sources| analyze_as(sources, &config), &may_change);
    if !is_stdin && let Err(error) = write_back(&sources, &analysis.sources, &files) {
        return misuse(&error, format);
    }
    let lines: String = edits.iter().map(line).collect();
    let Analysis { sources, diagnostics, policy, .. } = &analysis;
    let report = Report { command: "check", package: &name, sources, files: &files, diagnostics };
    if is_stdin {
        report::complain(&lines);
        report.print(Format::Text);
        let text = sources.iter().find(|(_, source)| source.path == package::STDIN);
        report::print_text(text.map_or("", |(_, source)| source.text.as_str()));
    } else if format == Format::Json {
        let fixed = edits.iter().map(mended).collect();
        report::print(Mended { fixed, diagnostics: json::findings(report) });
    } else {
        if format == Format::Text {
            report::print_text(&lines);
        } else {
            report::complain(&lines);
        }
        return tell(&analysis, &name, &files, n_files, format);
    }
    if policy.is_some() { Outcome::Clean } else { Outcome::Findings }
}

fn line(edit: &Edit) -> String {
    let message = visible(&edit.diagnostic.message);
    format!("fixed {}:{}: {} {message}\n", edit.path, edit.line, edit.diagnostic.code.0)
}

#[derive(Serialize)]
struct Mended {
    fixed: Vec<MendedPlace>,
    diagnostics: Vec<json::Finding>,
}

/// An edit: where the text was when it was edited, which earlier edits may have moved.
#[derive(Serialize)]
struct MendedPlace {
    code: &'static str,
    message: String,
    file: String,
    line: u32,
    column: u32,
    replaced: String,
    replacement: String,
}

fn mended(edit: &Edit) -> MendedPlace {
    MendedPlace {
        code: edit.diagnostic.code.0,
        message: edit.diagnostic.message.clone(),
        file: edit.path.clone(),
        line: edit.line,
        column: edit.column,
        replaced: edit.old.clone(),
        replacement: edit.new.clone(),
    }
}

/// Writes the files whose text is another, each in one step.
fn write_back(before: &Sources, after: &Sources, files: &Files) -> Result<(), LoadError> {
    for ((_, old), (_, new)) in before.iter().zip(after.iter()).filter(|((_, a), (_, b))| a != b) {
        let path = files.path(&old.path).filter(|_| files.is_own(&old.path));
        let path = path.expect("only files of the package are edited");
        let shown = files.shown(&old.path);
        let context = |error| LoadError(format!("cannot write {shown}: {error}"));
        // An editor may have saved it since; its text must not be lost.
        if std::fs::read(path).map_err(context)? != old.text.as_bytes() {
            return Err(LoadError(format!("{shown} has changed meanwhile and is left as it is")));
        }
        write(path, new.text.as_bytes()).map_err(context)?;
    }
    Ok(())
}
