//! `segc inspect`: what a compiled object holds.

use super::{Outcome, Output, failed, misuse};
use crate::describe::count;
use crate::package::{self, LoadError};
use crate::report::{self, say};
use seg_artifact::manifest::{labels_text, ports_text};
use seg_artifact::maps;
use seg_artifact::object::{Artifact, OBJECT_BYTES_MAX, open};
use serde::Serialize;
use std::path::Path;

/// `segc inspect`.
pub fn inspect(file: &Path, output: Output) -> Outcome {
    let bytes = match package::read_bytes(file, OBJECT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            return misuse(&LoadError(format!("{}: {error}", file.display())), output);
        }
    };
    let artifact = match open(&bytes) {
        Ok(artifact) => artifact,
        Err(error) => {
            failed(&format!("{}: {error}", file.display()), output);
            return Outcome::Findings;
        }
    };
    match output {
        Output::Json => report::print(Inspected {
            bytes: bytes.len(),
            sha256: artifact.digest,
            manifest: artifact.manifest,
        }),
        Output::Text => say!("{}", inspect_text(&artifact, bytes.len())),
    }
    Outcome::Clean
}

fn inspect_text(artifact: &Artifact, bytes: usize) -> String {
    let manifest = &artifact.manifest;
    let mut lines = vec![
        format!(
            "package   {} (edition {}, compiled by segc {})",
            manifest.package, manifest.edition, manifest.compiler
        ),
        format!("object    {bytes} bytes, sha256 {}", artifact.digest),
        format!("needs     Linux {} or newer", manifest.kernel),
        format!("guards    sha256 {}", manifest.digests.guard),
    ];
    lines.extend(manifest.not_after.iter().map(|date| format!("not after {date}")));
    for label in &manifest.labels {
        let open = if label.closed { "closed" } else { "open" };
        lines.push(format!("label     {} ({open}): {}", label.name, label.values.join(", ")));
    }
    if !manifest.ports.is_empty() {
        lines.push(format!("ports     {}", manifest.ports.join(", ")));
    }
    for (name, roles) in [("outbound", &manifest.outbound), ("inbound", &manifest.inbound)] {
        lines.push(format!(
            "{name:9} {}: {}",
            count(roles.programs.len(), "role"),
            roles.programs.join(", ")
        ));
    }
    for workload in &manifest.workloads {
        let on = match workload.ports.is_empty() {
            true => String::new(),
            false => format!(" on {{ {} }}", ports_text(&workload.ports)),
        };
        let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
        lines.push(
            format!(
                "workload  {} at {} is {}",
                workload.name,
                addresses.join(" "),
                labels_text(&workload.labels)
            ) + &on,
        );
    }
    for source in &manifest.sources {
        lines.push(format!("source    {} sha256 {}", source.path, source.sha256));
    }
    for (number, rule) in manifest.rules.iter().enumerate() {
        let owner =
            rule.owner.as_ref().map(|owner| format!("   @owner {owner}")).unwrap_or_default();
        let staged = if rule.staged { "staged " } else { "" };
        let until = rule.expires.as_ref().map(|date| format!("   until {date}"));
        lines.push(format!(
            "rule {number:<4} {}:{}   {staged}{} {}: {}{owner}{}",
            rule.path,
            rule.line,
            rule.tier,
            rule.block,
            rule.text,
            until.unwrap_or_default()
        ));
    }
    lines.push(format!(
        "counters  {} for reasons, {} for rules",
        maps::Reason::ALL.len(),
        manifest.rules.len()
    ));
    lines.join("\n")
}

#[derive(Serialize)]
struct Inspected {
    bytes: usize,
    sha256: String,
    manifest: seg_artifact::manifest::Manifest,
}
