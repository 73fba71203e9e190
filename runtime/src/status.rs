//! What a running segd says about itself: the form on the control socket, and the text for people.

use crate::kernel::{Count, Link};
use crate::plan::Plan;
use seg_artifact::manifest::Manifest;
use seg_artifact::maps::{Reason, rule_counter};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Version of [`Status`] and of the control protocol around it.
pub const VERSION: u32 = 1;

/// A running daemon at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// SHA-256 of the object in hexadecimal.
    pub object: String,
    /// Name of its package.
    pub package: String,
    /// The bound endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The rules, in the object's order.
    pub rules: Vec<Rule>,
    /// What was decided without a rule.
    pub reasons: Vec<Decided>,
    /// Control connections turned away because too many were open.
    pub turned_away: u64,
}

/// A bound endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Whether it is the machine itself.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Its interface.
    pub interface: String,
    /// Index of its interface.
    pub index: u32,
    /// Whether that interface is still there; if not, the programs went with it, and one of its name that came since is unguarded.
    pub present: bool,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Program that decides what it sends.
    pub outbound: String,
    /// Program that decides what it receives.
    pub inbound: String,
}

/// A rule and what it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `guard`, `policy` or `baseline`.
    pub tier: String,
    /// The block.
    pub block: String,
    /// `allow`, `deny` or `isolate`.
    pub action: String,
    /// File, relative to the package.
    pub path: String,
    /// Line from 1.
    pub line: u32,
    /// The statement.
    pub text: String,
    /// Packets decided.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// A reason other than a rule, and what it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The reason's name.
    pub reason: String,
    /// Whether its packets pass.
    pub passes: bool,
    /// Packets decided.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// How many counters [`status`] reads.
pub fn n_counters(manifest: &Manifest) -> u32 {
    rule_counter(u32::try_from(manifest.rules.len()).unwrap_or(0))
}

/// The status of an applied plan; `counts` in the order of the counter map, `links` as they are now.
pub fn status(
    manifest: &Manifest,
    digest: &str,
    plan: &Plan,
    links: &[Link],
    counts: &[Count],
    turned_away: u64,
) -> Status {
    let count = |index: u32| counts.get(index as usize).copied().unwrap_or_default();
    let endpoint = |binding: &crate::plan::Binding| Endpoint {
        name: binding.record.name.clone(),
        is_self: binding.record.is_self,
        interface: binding.outbound.interface.clone(),
        index: binding.outbound.index,
        present: links.iter().any(|link| link.index == binding.outbound.index),
        addresses: binding.record.addresses.iter().map(ToString::to_string).collect(),
        outbound: binding.record.outbound.clone(),
        inbound: binding.record.inbound.clone(),
    };
    let rules = (0..).zip(&manifest.rules).map(|(number, rule)| {
        let Count { packets, bytes } = count(rule_counter(number));
        Rule {
            tier: rule.tier.clone(),
            block: rule.block.clone(),
            action: rule.action.clone(),
            path: rule.path.clone(),
            line: rule.line,
            text: rule.text.clone(),
            packets,
            bytes,
        }
    });
    let reasons = Reason::ALL.iter().map(|reason| {
        let Count { packets, bytes } = count(reason.counter());
        Decided { reason: reason.name().to_owned(), passes: reason.passes(), packets, bytes }
    });
    Status {
        object: digest.to_owned(),
        package: manifest.package.clone(),
        endpoints: plan.bindings.iter().map(endpoint).collect(),
        rules: rules.collect(),
        reasons: reasons.collect(),
        turned_away,
    }
}

/// The text for people: three tables, columns aligned.
pub fn text(status: &Status) -> String {
    let mut out = format!("package {}, object {}\n", status.package, status.object);
    let mut rows = vec![row(["ENDPOINT", "INTERFACE", "OUTBOUND", "INBOUND", "ADDRESSES"])];
    rows.extend(status.endpoints.iter().map(|e| {
        let addresses = e.addresses.join(" ");
        let gone = if e.present { "" } else { " (gone: not enforced)" };
        row([&e.name, &format!("{}{gone}", e.interface), &e.outbound, &e.inbound, &addresses])
    }));
    table(&mut out, &rows);
    let mut rows = vec![row(["PACKETS", "BYTES", "RULE", "BLOCK", "WHERE", "TEXT"])];
    rows.extend(status.rules.iter().map(|rule| {
        let (packets, bytes) = (rule.packets.to_string(), rule.bytes.to_string());
        let block = format!("{} {}", rule.tier, rule.block);
        let place = format!("{}:{}", rule.path, rule.line);
        row([&packets, &bytes, &rule.action, &block, &place, &rule.text])
    }));
    table(&mut out, &rows);
    let mut rows = vec![row(["PACKETS", "BYTES", "VERDICT", "REASON"])];
    rows.extend(status.reasons.iter().map(|decided| {
        let verdict = if decided.passes { "pass" } else { "drop" };
        row([&decided.packets.to_string(), &decided.bytes.to_string(), verdict, &decided.reason])
    }));
    table(&mut out, &rows);
    if status.turned_away > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\n{} control connections were turned away", status.turned_away);
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn table(out: &mut String, rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    out.push('\n');
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
