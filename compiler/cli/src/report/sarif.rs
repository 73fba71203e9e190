//! SARIF 2.1.0, as code scanning services read it.
//!
//! Source: OASIS, Static Analysis Results Interchange Format 2.1.0; section numbers below are of that text.

use super::Report;
use super::json::{escaped, severity};
use seg_lang::codes;
use seg_lang::diagnostic::{Code, Diagnostic, Fix};
use seg_lang::render::{edit, visible};
use seg_lang::source::{Source, Span};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Where the official schema lives.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// The directory that the command ran in; the name is that of the examples in section 3.14.14.
const HERE: &str = "%SRCROOT%";
/// The standard library, which lies in `segc` and not on disk.
const LIBRARY: &str = "SEGSTD";
/// Name of our fingerprint; the number says how it is made.
const FINGERPRINT: &str = "segFinding/v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    invocations: [Invocation; 1],
    automation_details: AutomationDetails,
    original_uri_base_ids: BTreeMap<&'static str, ArtifactLocation>,
    column_kind: &'static str,
    results: Vec<Outcome>,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
struct Driver {
    name: &'static str,
    version: &'static str,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: &'static str,
    short_description: Message,
    help: Help,
    default_configuration: Configuration,
}

#[derive(Serialize)]
struct Configuration {
    level: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
}

#[derive(Serialize)]
struct AutomationDetails {
    id: String,
}

#[derive(Serialize)]
struct Message {
    text: String,
}

/// A `result`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: &'static str,
    rule_index: usize,
    level: &'static str,
    message: Message,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locations: Vec<Location>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    related_locations: Vec<Location>,
    partial_fingerprints: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<Mend>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<usize>,
    physical_location: PhysicalLocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    region: Region,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactLocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri_base_id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Message>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: u32,
    start_column: u32,
    end_line: u32,
    end_column: u32,
}

/// A `fix`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mend {
    description: Message,
    artifact_changes: [ArtifactChange; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactChange {
    artifact_location: ArtifactLocation,
    replacements: [Replacement; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replacement {
    deleted_region: Region,
    inserted_content: Message,
}

/// The whole log: one run with a result for each finding.
pub fn log(report: Report<'_>) -> String {
    let found: BTreeSet<Code> = report.diagnostics.iter().map(|found| found.code).collect();
    let rules: Vec<Code> = found.into_iter().collect();
    let mut seen = BTreeMap::new();
    let results = report.diagnostics.iter().map(|found| result(report, found, &rules, &mut seen));
    let run = Run {
        results: results.collect(),
        tool: Tool {
            driver: Driver {
                name: "segc",
                version: env!("CARGO_PKG_VERSION"),
                rules: rules.iter().copied().map(rule).collect(),
            },
        },
        invocations: [Invocation { execution_successful: true }],
        // What one command found in one package replaces what it found there before, and nothing else (3.17).
        automation_details: AutomationDetails {
            id: format!("segc/{}/{}/", report.command, report.package),
        },
        original_uri_base_ids: base_ids(report),
        column_kind: "unicodeCodePoints",
    };
    let log = Log { schema: SCHEMA, version: "2.1.0", runs: [run] };
    // The forms here hold strings, numbers and lists only; they always encode.
    escaped(&serde_json::to_string_pretty(&log).expect("logs encode"))
}

/// The page of a code, for viewers that show Markdown and for those that do not.
#[derive(Serialize)]
struct Help {
    text: &'static str,
    markdown: &'static str,
}

fn message(text: impl Into<String>) -> Message {
    Message { text: text.into() }
}

fn rule(code: Code) -> Rule {
    let summary = codes::ALL.iter().find(|(known, _)| *known == code).map_or("", |(_, text)| text);
    let page = codes::page(code).unwrap_or(summary);
    Rule {
        id: code.0,
        short_description: message(summary),
        help: Help { text: page, markdown: page },
        default_configuration: Configuration { level: severity(code.severity()) },
    }
}

fn base_ids(report: Report<'_>) -> BTreeMap<&'static str, ArtifactLocation> {
    let here = ArtifactLocation {
        uri: Some(file_uri(&format!(
            "{}/",
            report.files.here().to_string_lossy().trim_end_matches('/')
        ))),
        uri_base_id: None,
        description: Some(message("the directory segc ran in")),
    };
    let library = ArtifactLocation {
        uri: None,
        uri_base_id: None,
        description: Some(message("the standard library, part of segc")),
    };
    BTreeMap::from([(HERE, here), (LIBRARY, library)])
}

fn result(
    report: Report<'_>,
    found: &Diagnostic,
    rules: &[Code],
    seen: &mut BTreeMap<String, usize>,
) -> Outcome {
    let hash = fingerprint(report, found);
    let nth = seen.entry(hash.clone()).and_modify(|n| *n += 1).or_insert(1);
    let related = found.labels.iter().skip(1).enumerate();
    Outcome {
        rule_id: found.code.0,
        rule_index: rules.iter().position(|code| *code == found.code).unwrap_or_default(),
        level: severity(found.severity),
        message: message(report.lines(found)),
        locations: found
            .labels
            .iter()
            .take(1)
            .filter_map(|label| location(report, label.span, None))
            .collect(),
        related_locations: related
            .filter_map(|(at, label)| {
                let mut location = location(report, label.span, Some(at + 1))?;
                location.message = Some(message(visible(&label.text)));
                Some(location)
            })
            .collect(),
        partial_fingerprints: BTreeMap::from([(FINGERPRINT, format!("{hash}:{nth}"))]),
        fixes: found.fixes.iter().filter_map(|fix| mend(report, fix)).collect(),
    }
}

/// What a finding is about, whatever its line: the code, the file, the words marked and the lines they stand in.
///
/// Two findings may have one fingerprint; the number behind it tells them apart.
fn fingerprint(report: Report<'_>, found: &Diagnostic) -> String {
    let mut parts = vec![found.code.0.to_owned()];
    if let Some(span) = found.labels.first().map(|label| label.span)
        && let Some(source) = report.sources.get(span.file)
    {
        let start = source.text.get(..span.start as usize).and_then(|text| text.rfind('\n'));
        let start = start.map_or(0, |at| at + 1);
        let rest = source.text.get(start..).unwrap_or_default();
        let length = (span.end as usize).saturating_sub(start);
        let end = rest.get(length..).and_then(|text| text.find('\n')).map(|at| length + at);
        let lines = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        // Indentation and alignment are no part of it.
        let words: Vec<&str> = lines.split_whitespace().collect();
        parts.extend([source.path.clone(), report.sources.text(span).to_owned(), words.join(" ")]);
    }
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn location(report: Report<'_>, span: Span, id: Option<usize>) -> Option<Location> {
    let source = report.sources.get(span.file)?;
    let physical_location = PhysicalLocation {
        artifact_location: artifact(report, source),
        region: region(source, span),
    };
    Some(Location { id, physical_location, message: None })
}

fn region(source: &Source, span: Span) -> Region {
    let (start_line, start_column) = source.position(span.start);
    let (end_line, end_column) = source.position(span.end);
    Region { start_line, start_column, end_line, end_column }
}

fn artifact(report: Report<'_>, source: &Source) -> ArtifactLocation {
    let shown = report.files.shown(&source.path);
    let on_disk = report.files.path(&source.path).is_some();
    let (uri, uri_base_id) = if shown.starts_with('/') {
        (file_uri(&shown), None)
    } else if on_disk {
        (encoded(&shown), Some(HERE))
    } else if let Some(module) = shown.strip_prefix("std/") {
        (encoded(module), Some(LIBRARY))
    } else {
        (encoded(&shown), None)
    };
    ArtifactLocation { uri: Some(uri), uri_base_id, description: None }
}

fn mend(report: Report<'_>, fix: &Fix) -> Option<Mend> {
    let source = report.sources.get(fix.span.file)?;
    Some(Mend {
        description: message(edit(fix, report.sources)),
        artifact_changes: [ArtifactChange {
            artifact_location: artifact(report, source),
            replacements: [Replacement {
                deleted_region: region(source, fix.span),
                inserted_content: message(fix.text.as_str()),
            }],
        }],
    })
}

/// An absolute path as a URI (RFC 8089).
fn file_uri(path: &str) -> String {
    format!("file://{}", encoded(path))
}

/// A path with all but RFC 3986's unreserved characters and `/` percent-encoded.
fn encoded(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
