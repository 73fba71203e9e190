//! `segc` as people and CI meet it: commands, exit codes, text and JSON.
//!
//! A case of `tests/data/cli` is a list of shell lines; spec.md section 11 says the exit code that stands before a line.

use libtest_mimic::{Failed, Trial};
use seg_tests::harness::{self, Case};
use seg_tests::tools::{binaries, copy_folder};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

const EXAMPLES: [&str; 4] = ["bastion", "shop", "starwars", "three-tier"];
const STAGES: [&str; 7] = ["tokens", "ast", "policy", "rules", "diagram", "clif", "bpf"];

fn main() -> ExitCode {
    let mut trials = harness::cases("cli", "sh", transcript);
    for example in EXAMPLES {
        let trial = |title: &str, run: fn(&Path) -> Result<(), Failed>| {
            let folder = harness::root().join("examples").join(example);
            Trial::test(format!("{example}/{title}"), move || run(&folder))
        };
        trials.push(trial("every_stage_is_dumped_alike_twice", dumps));
        trials.push(trial("json_says_what_text_says", json));
    }
    trials.push(Trial::test("every_command_has_a_page_that_renders", pages));
    trials.push(Trial::test("completions_know_every_command", completions));
    harness::main(trials).exit_code()
}

/// The commands below `segc`, by the pages that `segc man` writes to `folder`.
fn commands(folder: &Path) -> Result<Vec<String>, Failed> {
    segc(&["man", "pages"], folder)?;
    let mut names = vec![];
    for entry in std::fs::read_dir(folder.join("pages"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let below = name.strip_suffix(".1").and_then(|name| name.strip_prefix("segc-"));
        names.extend(below.map(str::to_owned));
    }
    names.sort();
    assert!(names.len() > 8, "{names:?}");
    Ok(names)
}

/// Sections by their macros; where `groff` is, it has nothing to warn of.
fn pages() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let names = commands(folder.path())?;
    let help = segc(&["--help"], folder.path())?;
    for command in &names {
        let listed = help.lines().any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(listed, "`segc --help` lacks {command}");
        let page = folder.path().join(format!("pages/segc-{command}.1"));
        let text = std::fs::read_to_string(&page)?;
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
            assert!(text.lines().any(|line| line == section), "{command} has no {section}");
        }
        match Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&page).output() {
            Ok(rendered) => {
                assert!(rendered.status.success() && rendered.stderr.is_empty(), "{rendered:?}");
                let shown = String::from_utf8_lossy(&rendered.stdout).into_owned();
                assert!(shown.contains(&format!("segc-{command}")), "{shown}");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn completions() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let names = commands(folder.path())?;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = segc(&["completions", shell], folder.path())?;
        for command in &names {
            assert!(script.contains(command.as_str()), "{shell} does not know {command}");
        }
    }
    Ok(())
}

/// Runs the lines in a folder of their own and shows what each printed, both streams.
fn transcript(case: &Case) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let examples = harness::root().join("examples");
    copy_folder(&examples, &folder.path().join("examples")).map_err(|e| e.to_string())?;
    let mut transcript = String::new();
    for line in case.text.lines() {
        if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(transcript, "{line}");
            continue;
        }
        let coded = line
            .split_once(' ')
            .and_then(|(code, command)| Some((code.parse::<i32>().ok()?, command)));
        let (wanted, command) = coded.unwrap_or((0, line));
        let output = shell(command, folder.path()).map_err(|e| format!("sh: {e}"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.code() != Some(wanted) {
            return Err(format!("$ {command}\n{printed}ended with {}", output.status));
        }
        // The temporary folder has another name each time.
        let printed = printed.replace(&*folder.path().to_string_lossy(), "/tmp/case");
        let shown: String = printed.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        if shown.len() < printed.len() {
            return Err(format!("$ {command}\nprints a control character: {printed:?}"));
        }
        let _ = write!(transcript, "$ {command}\n{printed}");
        let _ = if wanted == 0 { Ok(()) } else { writeln!(transcript, "[{wanted}]") };
    }
    Ok(transcript)
}

fn shell(command: &str, folder: &Path) -> std::io::Result<Output> {
    let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(folder);
    shell.env("PATH", path).env("LC_ALL", "C").env("RUST_BACKTRACE", "0").output()
}

/// What `segc` prints on standard output, if it ends clean.
fn segc(arguments: &[&str], folder: &Path) -> Result<String, Failed> {
    let output =
        Command::new(binaries().join("segc")).args(arguments).current_dir(folder).output()?;
    if !output.status.success() || !output.stderr.is_empty() {
        return Err(format!("segc {arguments:?}: {output:?}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn segc_json(arguments: &[&str], folder: &Path) -> Result<Value, Failed> {
    let value: Value =
        serde_json::from_str(&segc(&[arguments, &["--format", "json"]].concat(), folder)?)?;
    assert_eq!(value["version"], 1, "{arguments:?}");
    Ok(value)
}

fn dumps(example: &Path) -> Result<(), Failed> {
    let mut seen = Vec::new();
    for stage in STAGES {
        let text = segc(&["dump", stage], example)?;
        assert!(text.lines().count() > 3, "{stage}: {text}");
        assert_eq!(text, segc(&["dump", stage], example)?, "{stage} twice");
        let json = segc_json(&["dump", stage], example)?;
        assert_eq!(json["text"].as_str().map(str::trim_end), Some(text.trim_end()), "{stage}");
        assert!(!seen.contains(&text), "{stage} is another stage");
        seen.push(text);
    }
    Ok(())
}

fn json(example: &Path) -> Result<(), Failed> {
    assert_eq!(segc_json(&["check"], example)?["diagnostics"], Value::Array(vec![]));

    let tested = segc_json(&["test"], example)?;
    let tests = tested["tests"].as_array().ok_or("no tests")?;
    assert_eq!(tested["diagnostics"], Value::Array(vec![]));
    let claims: Vec<&Value> = tests.iter().flat_map(|t| t["claims"].as_array()).flatten().collect();
    assert!(!claims.is_empty());
    for claim in &claims {
        assert_eq!((&claim["result"], &claim["counterexample"]), (&"holds".into(), &Value::Null));
        let file = claim["file"].as_str().ok_or("no file")?;
        let path = match file.strip_prefix("std/") {
            Some(module) => harness::root().join("stdlib").join(module),
            None => example.join(file),
        };
        let line = claim["start"]["line"].as_u64().ok_or("no line")? as usize;
        let text = std::fs::read_to_string(path)?;
        let text = text.lines().nth(line - 1).ok_or("no such line")?;
        assert!(text.contains("expect"), "{claim} stands at `{text}`");
    }
    let text = segc(&["test"], example)?;
    assert!(text.contains(&format!("{} hold, 0 fail; ", claims.len())), "{text}");

    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("policy.bpf.o");
    let file_name = file.to_str().ok_or("a path that is no text")?;
    let built = segc_json(&["build", "-o", file_name], example)?;
    assert_eq!(built["bytes"], std::fs::metadata(&file)?.len());
    assert_eq!(built["file"], file_name);
    let inspected = segc_json(&["inspect", file_name], example)?;
    assert_eq!(inspected["sha256"], built["sha256"]);
    assert_eq!(inspected["bytes"], built["bytes"]);
    let manifest = &inspected["manifest"];
    let programs: Vec<&Value> = ["outbound", "inbound"]
        .iter()
        .flat_map(|way| manifest[way]["programs"].as_array())
        .flatten()
        .collect();
    let sizes = built["programs"].as_array().ok_or("no programs")?;
    assert_eq!(sizes.iter().map(|p| &p["name"]).collect::<Vec<_>>(), programs);
    assert!(sizes.iter().all(|p| p["instructions"].as_u64() > Some(0)));

    let explained = segc_json(&["explain", "203.0.113.7", "203.0.113.8", "tcp/443"], example)?;
    let verdict = explained["verdict"].as_str().ok_or("no verdict")?;
    let text = segc(&["explain", "203.0.113.7", "203.0.113.8", "tcp/443"], example)?;
    let first = text.lines().next().unwrap_or_default();
    assert!(first.ends_with(&verdict.to_uppercase()), "{first}");
    let tiers = explained["tiers"].as_array().ok_or("no tiers")?;
    let names: Vec<&Value> = tiers.iter().map(|tier| &tier["tier"]).collect();
    assert_eq!(names, ["guard", "policy", "baseline"]);
    for rule in tiers.iter().map(|tier| &tier["rule"]).filter(|rule| !rule.is_null()) {
        let rules = manifest["rules"].as_array().ok_or("no rules")?;
        assert!(rules.contains(rule), "{rule} is no rule of the object");
    }
    Ok(())
}
