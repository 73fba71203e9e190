//! The pages of `lang/diagnostics`: one for each code, whose examples do what they say, and their index.
//!
//! A page has a title and the sections What, Why, Bad and Good; the last two hold one block each.
//! The block of Bad yields one report, of its code; the one of Good yields none.
//! A block marked `seg` is checked; `seg test` and `seg build`, with options or without, are what `segc test` and `segc build` say about it.
//! A block marked `console` is a transcript. Several files are separated as in [`seg_tests::package`].

use libtest_mimic::{Failed, Trial};
use seg_lang::analyze::analyze;
use seg_lang::codes;
use seg_lang::diagnostic::Code;
use seg_tests::{harness, package, tools};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

const SECTIONS: [&str; 4] = ["What", "Why", "Bad", "Good"];

fn main() {
    let mut trials = vec![];
    for (code, summary) in codes::ALL {
        trials.push(Trial::test(code.0, || page(*code, summary)));
    }
    trials.push(Trial::test("every_page_is_of_a_declared_code", no_orphans));
    trials.push(Trial::test("the_index_is_fresh", index));
    trials.push(Trial::test("spec_md_lists_every_code", spec));
    harness::main(trials).exit();
}

fn folder() -> PathBuf {
    harness::root().join("lang/diagnostics")
}

fn page(code: Code, summary: &str) -> Result<(), Failed> {
    let text = codes::page(code).ok_or("no page")?;
    if text.lines().next() != Some(&format!("# {}: {summary}", code.0)) {
        return Err(format!("the title is not `# {}: {summary}`", code.0).into());
    }
    let mut sections = text.split("\n## ").skip(1);
    let mut blocks = vec![];
    for name in SECTIONS {
        let section = sections.next().and_then(|s| s.strip_prefix(name)?.strip_prefix("\n\n"));
        let section = section.ok_or_else(|| format!("no section {name}, or not in its place"))?;
        if section.trim().is_empty() {
            return Err(format!("nothing in {name}").into());
        }
        blocks.push(block(section));
    }
    let [None, None, Some((bad_info, bad)), Some((good_info, good))] = blocks[..] else {
        return Err("Bad and Good hold one block each, What and Why none".into());
    };
    let bad = found(bad_info, bad)?;
    if bad != [code.0] {
        return Err(format!("Bad yields {bad:?}").into());
    }
    let good = found(good_info, good)?;
    if good.is_empty() { Ok(()) } else { Err(format!("Good yields {good:?}").into()) }
}

/// The mark and the text of the only block of a section.
fn block(section: &str) -> Option<(&str, &str)> {
    let (_, rest) = section.split_once("```")?;
    let (block, after) = rest.split_once("\n```")?;
    block.split_once('\n').filter(|_| !after.contains("```"))
}

/// The codes that a block yields, one for each report.
fn found(info: &str, text: &str) -> Result<Vec<String>, Failed> {
    let scratch = tempfile::tempdir()?;
    if info == "console" {
        let page = format!("```console\n{text}\n```\n");
        return match tools::transcript(&page, scratch.path())? {
            0 => Err("the transcript runs nothing".into()),
            _ => Ok(reported(text)),
        };
    }
    let command = info.strip_prefix("seg").ok_or_else(|| format!("a block of `{info}`"))?;
    let files = package::split("page", text);
    if command.is_empty() && files.iter().all(|(path, _)| path != "seg.toml") {
        let diagnostics = analyze(package::sources("page", text)).diagnostics;
        return Ok(diagnostics.iter().map(|d| d.code.0.to_owned()).collect());
    }
    std::fs::write(scratch.path().join("seg.toml"), "name = \"page\"\nedition = \"2026\"\n")?;
    for (path, text) in files {
        let path = scratch.path().join(path);
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        std::fs::write(path, text)?;
    }
    let command = if command.is_empty() { "check" } else { command };
    let output = Command::new(tools::binaries().join("segc"))
        .args(command.split_whitespace())
        .current_dir(scratch.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let codes = reported(&said);
    if output.status.success() == codes.iter().any(|code| code.starts_with('E')) {
        return Err(format!("{}: {said}", output.status).into());
    }
    Ok(codes)
}

/// The codes that a text reports: `error[E0501]: …`.
fn reported(text: &str) -> Vec<String> {
    let code = |line: &str| {
        let rest = line.strip_prefix("error[").or_else(|| line.strip_prefix("warning["))?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    text.lines().filter_map(code).collect()
}

fn no_orphans() -> Result<(), Failed> {
    for entry in std::fs::read_dir(folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let declared = codes::ALL.iter().any(|(code, _)| name == format!("{}.md", code.0));
        if !declared && name != "README.md" {
            return Err(format!("{name} is no page of a declared code").into());
        }
    }
    Ok(())
}

fn index() -> Result<(), Failed> {
    let mut text = "# Diagnostics\n\n`segc why CODE` prints the page of a code.\n\n| Code | About |\n|---|---|\n".to_owned();
    for (code, summary) in codes::ALL {
        writeln!(text, "| [{0}]({0}.md) | {summary} |", code.0)?;
    }
    let path = folder().join("README.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text)?;
    }
    match std::fs::read_to_string(&path) {
        Ok(found) if found == text => Ok(()),
        Ok(_) | Err(_) => Err(format!("{} is not fresh; BLESS=1 writes it", path.display()).into()),
    }
}

/// The table of spec.md is the list of codes, in its order.
fn spec() -> Result<(), Failed> {
    let spec = std::fs::read_to_string(harness::root().join("spec.md"))?;
    let section = spec.split("\n## ").find(|s| s.starts_with("8. ")).ok_or("no section 8")?;
    let rows: Vec<&str> =
        section.lines().filter(|l| l.starts_with("| E") || l.starts_with("| W")).collect();
    let codes: Vec<String> =
        codes::ALL.iter().map(|(code, summary)| format!("| {} | {summary} |", code.0)).collect();
    match rows.iter().find(|row| !codes.iter().any(|c| c == *row)) {
        Some(row) => Err(format!("no such code: {row}").into()),
        None if rows == codes => Ok(()),
        None => {
            Err(format!("{} rows for {} codes, or in another order", rows.len(), codes.len())
                .into())
        }
    }
}
