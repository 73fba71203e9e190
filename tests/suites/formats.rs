//! What `segc` prints for programs, held by those who define the formats.
//!
//! SARIF: the official schema, and types made from it (`tests/judge`). JSON: our own schema, `compiler/cli/schema/report.json`.
//! JUnit: the facts of Jenkins' `junit-10.xsd`, and an XML parser. GitHub: its escapes, undone here.
//! Judged are all broken cases of `tests/data`, as libraries, and every command, as a binary.

use libtest_mimic::{Failed, Trial};
use roxmltree::{Document, Node};
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::diagnostic::Diagnostic;
use seg_lang::render::visible;
use seg_lang::source::{Source, Span};
use seg_tests::harness;
use seg_tests::package;
use seg_tests::tools::{binaries, copy_folder};
use segc::files::Files;
use segc::report::{Report, github, json, junit, sarif};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const SARIF: &str = "sarif";
const OURS: &str = "compiler/cli/schema/report.json";

/// A format: how findings are printed, the schema, and what else must hold of the text.
struct Judged {
    title: &'static str,
    text: fn(Report<'_>) -> String,
    schema: Option<&'static str>,
    check: fn(Report<'_>, &str) -> Result<(), String>,
}

fn main() {
    let formats = [
        Judged {
            title: "sarif_of_every_broken_case_is_as_the_standard_says",
            text: sarif::log,
            schema: Some(SARIF),
            check: is_sarif,
        },
        Judged {
            title: "json_of_every_broken_case_is_as_our_schema_says",
            text: |report| json::text(json::Found { diagnostics: json::findings(report) }),
            schema: Some(OURS),
            check: is_json,
        },
        Judged {
            title: "junit_of_every_broken_case_is_as_jenkins_reads_it",
            text: junit::of_files,
            schema: None,
            check: is_junit,
        },
        Judged {
            title: "annotations_of_every_broken_case_can_be_read_back",
            text: github::annotations,
            schema: None,
            check: is_github,
        },
    ];
    let mut trials: Vec<Trial> = formats
        .into_iter()
        .map(|format| Trial::test(format.title, move || each_broken_case(&format)))
        .collect();
    trials.push(Trial::test("every_command_prints_what_the_schemas_say", commands));
    trials.push(Trial::test("the_judges_refuse_what_is_wrong", judges_refuse));
    harness::main(trials).exit()
}

/// What the judge has against each of the values; empty where it has nothing.
fn judge(schema: &str, values: &[String]) -> Result<Vec<String>, String> {
    let folder = harness::root().join("tests/judge");
    let target = binaries().parent().ok_or("no target folder")?.join("judge");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "--target-dir"]).arg(target).arg("--");
    command.arg(if schema == SARIF { schema.into() } else { harness::root().join(schema) });
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cargo: {e}"))?;
    let mut stdin = child.stdin.take().ok_or("no standard input")?;
    let text = values.join("\n");
    // It answers while it reads, so that one of the two must not wait for the other.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let written = writer.join().map_err(|_| "the writer panicked")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if !output.status.success() || written.is_err() || lines.len() != values.len() {
        return Err(format!("the judge ended with {}: {said}", output.status));
    }
    Ok(lines)
}

/// Holds the findings of every case below `tests/data/{check,parse}/err` against a format.
fn each_broken_case(format: &Judged) -> Result<(), Failed> {
    let mut n_findings = 0;
    let mut names = vec![];
    let mut texts = vec![];
    for folder in ["check/err", "parse/err"] {
        for entry in std::fs::read_dir(harness::root().join("tests/data").join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "seg") {
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Analysis { sources, diagnostics, .. } = analyze(package::sources(&name, &text));
            let mut files = Files::new(PathBuf::from("/nowhere"));
            for (_, source) in sources.iter().filter(|(_, s)| !s.path.starts_with("std/")) {
                files.add(&source.path, Path::new(&source.path), true);
            }
            n_findings += diagnostics.len();
            let report = Report {
                command: "check",
                package: "cases",
                sources: &sources,
                files: &files,
                diagnostics: &diagnostics,
            };
            let text = (format.text)(report);
            let name = path.display().to_string();
            no_hidden(&text).map_err(|why| format!("{name}: {why}"))?;
            (format.check)(report, &text).map_err(|why| format!("{name}: {why}"))?;
            names.push(name);
            texts.push(text);
        }
    }
    if n_findings < 100 {
        return Err(format!("only {n_findings} findings").into());
    }
    if let Some(schema) = format.schema {
        let said = judge(schema, &texts)?;
        let wrong = names.iter().zip(said).find(|(_, said)| !said.is_empty());
        if let Some((name, said)) = wrong {
            return Err(format!("{name}: {said}").into());
        }
    }
    Ok(())
}

/// Regions count lines and columns as we do: both lead to the same bytes.
fn is_sarif(report: Report<'_>, text: &str) -> Result<(), String> {
    let log: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let run = &log["runs"][0];
    let results = run["results"].as_array().ok_or("no results")?;
    if results.len() != report.diagnostics.len() {
        return Err(format!("{} results", results.len()));
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut prints = BTreeSet::new();
    for (result, found) in results.iter().zip(report.diagnostics) {
        let at = result["ruleIndex"].as_u64().ok_or("no rule")?.try_into();
        let at: usize = at.map_err(|_| "no index")?;
        assert_eq!(run["tool"]["driver"]["rules"][at]["id"], found.code.0);
        assert_eq!(result["ruleId"], found.code.0);
        let locations = [list(&result["locations"]), list(&result["relatedLocations"])].concat();
        let regions: Vec<&Value> =
            locations.iter().map(|location| &location["physicalLocation"]["region"]).collect();
        let spans: Vec<Span> = found.labels.iter().map(|label| label.span).collect();
        same_bytes(report, &regions, &spans)?;
        let fixes = list(&result["fixes"]);
        let replacements: Vec<&Value> =
            fixes.iter().map(|fix| &fix["artifactChanges"][0]["replacements"][0]).collect();
        let regions: Vec<&Value> = replacements.iter().map(|r| &r["deletedRegion"]).collect();
        let spans: Vec<Span> = found.fixes.iter().map(|fix| fix.span).collect();
        same_bytes(report, &regions, &spans)?;
        for (replacement, fix) in replacements.iter().zip(&found.fixes) {
            assert_eq!(replacement["insertedContent"]["text"], fix.text);
        }
        let print = result["partialFingerprints"]["segFinding/v1"].as_str();
        if !prints.insert(print.ok_or("no fingerprint")?) {
            return Err("two findings have one fingerprint".to_owned());
        }
    }
    Ok(())
}

fn same_bytes(report: Report<'_>, regions: &[&Value], spans: &[Span]) -> Result<(), String> {
    if regions.len() != spans.len() {
        return Err(format!("{} regions for {} spans", regions.len(), spans.len()));
    }
    for (region, span) in regions.iter().zip(spans) {
        let source = report.sources.get(span.file).ok_or("no file")?;
        let number = |name: &str| region[name].as_i64();
        let start = offset(source, number("startLine"), number("startColumn"))?;
        let end = offset(source, number("endLine"), number("endColumn"))?;
        if (start, end) != (span.start as usize, span.end as usize) {
            return Err(format!("{region:?} is {start}..{end}, not {span:?}"));
        }
    }
    Ok(())
}

/// Byte offset of a line and a column in characters, both from 1: written anew, without `Source::position`.
fn offset(source: &Source, line: Option<i64>, column: Option<i64>) -> Result<usize, String> {
    let (line, column) = (line.ok_or("no line")?, column.ok_or("no column")?);
    let mut lines = source.text.split_inclusive('\n').chain([""]);
    let before: usize = lines
        .by_ref()
        .take(usize::try_from(line - 1).map_err(|e| e.to_string())?)
        .map(str::len)
        .sum();
    let text = lines.next().unwrap_or_default();
    let column = usize::try_from(column - 1).map_err(|e| e.to_string())?;
    let length = text.chars().take(column).map(char::len_utf8).sum::<usize>();
    Ok(before + length)
}

/// What a terminal would obey or hide is not printed.
fn no_hidden(text: &str) -> Result<(), String> {
    let hidden = |c: char| c != '\n' && seg_artifact::manifest::is_hidden(c);
    match text.chars().find(|c| hidden(*c)) {
        Some(c) => Err(format!("U+{:04X} is printed", u32::from(c))),
        None => Ok(()),
    }
}

fn is_json(report: Report<'_>, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let found = value["diagnostics"].as_array().ok_or("no diagnostics")?;
    assert_eq!(found.len(), report.diagnostics.len());
    for (value, found) in found.iter().zip(report.diagnostics) {
        assert_eq!(value["message"], found.message);
        for (value, label) in
            value["labels"].as_array().ok_or("no labels")?.iter().zip(&found.labels)
        {
            let source = report.sources.get(label.span.file).ok_or("no file")?;
            assert_eq!(value["file"], source.path);
            for (end, at) in [("start", label.span.start), ("end", label.span.end)] {
                let position = &value[end];
                assert_eq!(position["offset"], at);
                let read = offset(source, position["line"].as_i64(), position["column"].as_i64())?;
                assert_eq!(read, at as usize);
            }
        }
        for (value, fix) in value["fixes"].as_array().ok_or("no fixes")?.iter().zip(&found.fixes) {
            assert_eq!(value["replacement"], fix.text);
            assert_eq!(value["start"]["offset"], fix.span.start);
        }
    }
    Ok(())
}

/// An element: what it may hold, the attributes it must have, and those it may.
type Element = (&'static str, [&'static [&'static str]; 3]);

/// The elements of a report.
///
/// Source: jenkinsci/xunit-plugin, `junit-10.xsd`: as far as `segc` may need it.
const JUNIT: [Element; 5] = [
    ("testsuites", [&["testsuite"], &[], &["name", "tests", "failures", "errors"]]),
    ("testsuite", [&["testcase"], &["name", "tests", "failures", "errors"], &["file"]]),
    ("testcase", [&["failure", "system-out"], &["name"], &["classname"]]),
    ("failure", [&[], &[], &["type", "message"]]),
    ("system-out", [&[], &[], &[]]),
];

fn junit_node(node: Node<'_, '_>) -> Result<(), String> {
    let name = node.tag_name().name();
    let known = JUNIT.iter().find(|(known, ..)| *known == name);
    let (_, [children, required, optional]) = known.ok_or(format!("an element `{name}`"))?;
    for attribute in node.attributes().map(|a| a.name()) {
        if !required.contains(&attribute) && !optional.contains(&attribute) {
            return Err(format!("`{name}` has no attribute `{attribute}`"));
        }
    }
    if let Some(missing) = required.iter().find(|name| !node.has_attribute(**name)) {
        return Err(format!("`{name}` without `{missing}`"));
    }
    for child in node.children() {
        let is_text = child.is_text() && !child.text().unwrap_or_default().trim().is_empty();
        if child.is_element() && !children.contains(&child.tag_name().name())
            || is_text && !children.is_empty()
        {
            return Err(format!("`{name}` holds {child:?}"));
        }
        if child.is_element() {
            junit_node(child)?;
        }
    }
    let count = |name: &str| node.descendants().filter(|n| n.has_tag_name(name)).count();
    for (attribute, element) in [("tests", "testcase"), ("failures", "failure")] {
        let said = node.attribute(attribute);
        if said.is_some_and(|said| said != count(element).to_string()) {
            return Err(format!("`{name}` counts {said:?} {attribute}, not {}", count(element)));
        }
    }
    Ok(())
}

fn is_junit(report: Report<'_>, text: &str) -> Result<(), String> {
    let document = Document::parse(text).map_err(|e| format!("{e}\n{text}"))?;
    junit_node(document.root_element())?;
    let failures = document.descendants().filter(|node| node.has_tag_name("failure"));
    let mut said: Vec<_> =
        failures.map(|node| (node.attribute("type"), node.attribute("message"))).collect();
    let messages: Vec<String> = report.diagnostics.iter().map(|d| visible(&d.message)).collect();
    let mut wanted: Vec<_> = report
        .diagnostics
        .iter()
        .zip(&messages)
        .map(|(found, message)| (Some(found.code.0), Some(message.as_str())))
        .collect();
    said.sort();
    wanted.sort();
    if said == wanted { Ok(()) } else { Err(format!("said {said:?}\nwanted {wanted:?}")) }
}

fn is_github(report: Report<'_>, text: &str) -> Result<(), String> {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() != report.diagnostics.len() {
        return Err(format!("{} lines", lines.len()));
    }
    lines
        .into_iter()
        .zip(report.diagnostics)
        .try_for_each(|(line, found)| annotation(report, line, found))
}

fn annotation(report: Report<'_>, line: &str, found: &Diagnostic) -> Result<(), String> {
    let command = line.strip_prefix("::error ").ok_or(format!("no error: {line}"))?;
    let (properties, message) = command.split_once("::").ok_or("no message")?;
    let undo = |text: &str| {
        let plain = text.replace("%0A", "\n").replace("%0D", "\r");
        plain.replace("%3A", ":").replace("%2C", ",").replace("%25", "%")
    };
    let properties: Vec<(&str, String)> = properties
        .split(',')
        .map(|property| property.split_once('=').map(|(key, value)| (key, undo(value))))
        .collect::<Option<_>>()
        .ok_or("a property without `=`")?;
    let value = |key| properties.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str());
    let first = found.labels.first().ok_or("no place")?;
    let source = report.sources.get(first.span.file).ok_or("no file")?;
    let (start, column) = source.position(first.span.start);
    let wanted = report.files.shown(&source.path);
    assert_eq!(value("file"), Some(wanted.as_str()), "{line}");
    assert_eq!(value("line"), Some(start.to_string().as_str()), "{line}");
    assert!(value("col").is_none_or(|said| said == column.to_string()), "{line}");
    assert_eq!(value("title"), Some(found.code.0), "{line}");
    let message = undo(message);
    if message.starts_with(&visible(&found.message)) { Ok(()) } else { Err(message) }
}

/// Each command in each format it has, clean and with findings.
fn commands() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    copy_folder(&harness::root().join("examples"), folder.path())?;
    let false_claim = "label app\npolicy p { allow app:a -> app:b on tcp/80 }\n\
                       test \"t\" { expect deny app:a -> app:b }\ntest \"u\" { expect allow app:b -> app:a }\n";
    std::fs::write(folder.path().join("false.seg"), false_claim)?;
    let chain = "label app\npolicy p { allow app:a -> app:b; allow app:b -> app:c }\n\
                 test \"t\" { expect deny app:a ~> app:c }\n";
    std::fs::write(folder.path().join("chain.seg"), chain)?;
    std::fs::write(folder.path().join("lost.seg"), "policy p { permit any -> lost }\n")?;
    std::fs::write(folder.path().join("idle.seg"), "label app\n")?;
    std::fs::write(folder.path().join("wide.seg"), "label   app\n")?;
    std::fs::write(folder.path().join("broken.o"), "")?;
    let (mut sarif, mut ours) = (vec![], vec![]);
    let flow = ["203.0.113.7", "203.0.113.8", "tcp/443"];
    let runs: [(&[&str], i32); 29] = [
        (&["check", "shop"], 0),
        (&["check", "lost.seg"], 1),
        (&["test", "shop"], 0),
        (&["test", "bastion"], 0),
        (&["test", "false.seg"], 1),
        (&["test", "idle.seg"], 1),
        (&["test", "lost.seg"], 1),
        (&["build", "shop", "-o", "shop.o"], 0),
        (&["build", "lost.seg", "-o", "lost.o"], 1),
        (&["explain", flow[0], flow[1], flow[2], "shop"], 0),
        (&["explain", flow[0], flow[1], flow[2], "lost.seg"], 1),
        (&["explain", "nobody", flow[1], flow[2], "shop"], 2),
        (&["dump", "rules", "shop"], 0),
        (&["dump", "tokens", "missing"], 2),
        (&["inspect", "shop.o"], 0),
        (&["inspect", "broken.o"], 1),
        (&["new", "fresh"], 0),
        (&["new", "shop"], 2),
        (&["frobnicate"], 2),
        (&["check", "lost.seg", "--fix"], 1),
        (&["test", "chain.seg"], 1),
        (&["fmt", "--check", "wide.seg"], 1),
        (&["why"], 0),
        (&["why", "E0207"], 0),
        (&["why", "E9999"], 2),
        (&["doc"], 0),
        (&["doc", "std.patterns"], 0),
        (&["man"], 0),
        (&["completions", "bash"], 0),
    ];
    for (arguments, code) in runs {
        let run = |format: &str| -> Result<String, Failed> {
            let output = segc(arguments, format, folder.path())?;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        ours.push((arguments, run("json")?));
        if ["check", "test", "build"].contains(&arguments[0]) {
            sarif.push((arguments, run("sarif")?));
        }
        if ["check", "test"].contains(&arguments[0]) {
            junit_node(Document::parse(&run("junit")?)?.root_element())?;
        }
    }
    for (schema, runs) in [(SARIF, sarif), (OURS, ours)] {
        let texts: Vec<String> = runs.iter().map(|(_, text)| text.clone()).collect();
        for ((arguments, text), said) in runs.iter().zip(judge(schema, &texts)?) {
            assert_eq!(said, "", "{arguments:?}: {text}");
        }
    }
    Ok(())
}

fn segc(arguments: &[&str], format: &str, folder: &Path) -> std::io::Result<Output> {
    let mut segc = Command::new(binaries().join("segc"));
    segc.args(arguments).args(["--format", format]).current_dir(folder).output()
}

/// A judge that accepts everything judges nothing.
fn judges_refuse() -> Result<(), Failed> {
    let log = |result: &str| {
        format!(
            r#"{{ "version": "2.1.0", "runs": [
                {{ "tool": {{ "driver": {{ "name": "segc" }} }}, "results": [{result}] }}] }}"#
        )
    };
    let logs = [
        r#"{ "message": { "text": "t" } }"#,
        "{}",
        r#"{ "message": { "text": "t" }, "level": "fatal" }"#,
        r#"{ "message": { "text": "t" }, "fixes": [{}] }"#,
        r#"{ "message": { "text": "t" }, "nonsense": 1 }"#,
    ];
    let reports = [
        r#"{ "version": 1, "edition": "2026", "diagnostics": [] }"#,
        r#"{ "version": 2, "edition": "2026", "diagnostics": [] }"#,
        r#"{ "version": 1, "edition": "2026" }"#,
        r#"{ "version": 1, "edition": "2026", "diagnostics": [], "more": 1 }"#,
        r#"{ "version": 1, "edition": "2026", "diagnostics": [{ "code": "E0101" }] }"#,
        r#"{ "version": 1, "edition": "2026", "diagnostics": [], "error": "e" }"#,
    ];
    for (schema, values) in
        [(SARIF, logs.map(log).to_vec()), (OURS, reports.map(str::to_owned).to_vec())]
    {
        // Only the first is right.
        for (at, said) in judge(schema, &values)?.iter().enumerate() {
            assert_eq!(at == 0, said.is_empty(), "{}: {said}", values[at]);
        }
    }
    for wrong in [
        "<testsuite/>",
        "<testsuites><testcase name='n'/></testsuites>",
        "<testsuites tests='1'/>",
        "<testsuites time='1'/>",
        "<testsuites>text</testsuites>",
    ] {
        assert!(junit_node(Document::parse(wrong)?.root_element()).is_err(), "{wrong}");
    }
    Ok(())
}
