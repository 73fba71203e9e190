//! Verdict tables: `.flows` files, one flow and its verdict on each line.
//!
//! ```text
//! 10.0.0.1{app:shop role:web} -> 10.0.0.2{app:shop role:db} tcp/5432 = deny 9
//! 203.0.113.7 -> 10.0.0.2{app:shop} icmp/echo-request = deny default
//! 10.0.0.9{self} -> fd00::1{} proto/47 = allow org/guard.seg:3
//! ```
//!
//! An address alone is unmanaged; braces hold the labels of a managed endpoint, its named ports as `admin=tcp/8443`, and `self`
//! for this machine, with `cgroup:PATH` for its process. Names that resolve to an address stand in brackets right behind it:
//! `192.0.2.1[example.org]`. A service may have a request: `tcp/80&http(GET /v1/orders)`.
//! After `=` stands the verdict, then what decided: the line of the rule (with its file if there are several), or `default`.
//! Below a row may stand what `explain` names as near misses, all of them: `near 14 source is role:web, rule wants role:app`.
//! A service may have its source port or code: `udp/68&sport(67)`, `icmp/3/4`.
//! `#` starts a comment.

use seg_lang::eval::{Decision, Endpoint, Flow, Verdict};
use seg_lang::policy::{LabelId, Policy, RuleId};
use seg_lang::source::Sources;
use seg_lang::types::{parse_request, parse_service};
use std::collections::BTreeMap;

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Counted from 1.
    pub line: usize,
    /// The flow.
    pub flow: Flow,
    /// What spec.md says becomes of it.
    pub verdict: Verdict,
    /// The line of the deciding rule, with its file or alone; `default` if no rule decides.
    pub decided_by: String,
    /// Line and reason of each near miss; empty if the table does not list them.
    pub near_misses: Vec<(String, String)>,
}

/// Reads a table against the label dimensions of `policy`.
pub fn parse(policy: &Policy, text: &str) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = vec![];
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        match (text.strip_prefix("near "), rows.last_mut()) {
            (Some(near), Some(row)) => {
                let near = near.split_once(' ').ok_or(format!("line {line}: no reason"))?;
                row.near_misses.push((near.0.to_owned(), near.1.to_owned()));
            }
            (None, _) if text.is_empty() => {}
            (None, _) => {
                rows.push(row(policy, line, text).map_err(|e| format!("line {line}: {e}"))?);
            }
            (Some(_), None) => return Err(format!("line {line}: near to which flow?")),
        }
    }
    if rows.is_empty() { Err("a table without rows".to_owned()) } else { Ok(rows) }
}

fn row(policy: &Policy, line: usize, text: &str) -> Result<Row, String> {
    let (flow, outcome) = text.rsplit_once(" = ").ok_or("no `=`")?;
    let (verdict, decided_by) = outcome.trim().split_once(' ').ok_or("no deciding rule")?;
    let verdict = match verdict {
        "allow" => Verdict::Allow,
        "deny" => Verdict::Deny,
        other => return Err(format!("`{other}` is no verdict")),
    };
    let decided_by = decided_by.trim().to_owned();
    let flow = parse_flow(policy, flow)?;
    Ok(Row { line, flow, verdict, decided_by, near_misses: vec![] })
}

/// Reads `SOURCE -> DESTINATION SERVICE`.
pub fn parse_flow(policy: &Policy, text: &str) -> Result<Flow, String> {
    let (text, http) = parse_request(text.trim());
    let (source, rest) = text.split_once("->").ok_or("no `->`")?;
    let (destination, service) = rest.trim().rsplit_once(' ').ok_or("no service")?;
    let (protocol, port, source_port) =
        parse_service(service).ok_or(format!("`{service}` is no service"))?;
    Ok(Flow {
        source: parse_endpoint(policy, source.trim())?,
        destination: parse_endpoint(policy, destination.trim())?,
        protocol,
        port,
        source_port,
        http,
    })
}

fn parse_endpoint(policy: &Policy, text: &str) -> Result<Endpoint, String> {
    let (address, labels) = match text.split_once('{') {
        Some((address, labels)) => {
            (address, Some(labels.strip_suffix('}').ok_or("braces are not closed")?))
        }
        None => (text, None),
    };
    let (address, names) = match address.split_once('[') {
        Some((address, names)) => (address, names.strip_suffix(']').ok_or("no `]`")?),
        None => (address, ""),
    };
    let address = address.parse().map_err(|_| format!("`{address}` is no address"))?;
    let names = names.split_whitespace().map(str::to_owned).collect();
    let mut endpoint = Endpoint { names, ..Endpoint::at(address) };
    if let Some(labels) = labels {
        let mut found = BTreeMap::new();
        for word in labels.split_whitespace() {
            if word == "self" {
                endpoint.is_self = true;
                continue;
            }
            if let Some(path) = word.strip_prefix("cgroup:") {
                endpoint.cgroup = Some(path.to_owned());
                continue;
            }
            if let Some((name, port)) = word.split_once('=') {
                let (protocol, port, _) =
                    parse_service(port).ok_or(format!("`{word}` is no port"))?;
                endpoint.ports.insert(name.to_owned(), (protocol, port));
                continue;
            }
            let (key, value) = word.split_once(':').ok_or(format!("`{word}` is no label"))?;
            let id = policy.labels.iter().position(|d| d.name == key);
            let id = id.ok_or(format!("no label dimension `{key}`"))?;
            found.insert(LabelId(id as u32), value.to_owned());
        }
        endpoint.labels = Some(found);
    }
    Ok(endpoint)
}

/// What decided, as a table writes it: `LINE`, or `FILE:LINE` where there are several files, or `default`.
pub fn decided_by(policy: &Policy, sources: &Sources, decision: Decision) -> String {
    place(policy, sources, decision.rule)
}

/// Where a rule stands, as a table writes it.
pub fn place(policy: &Policy, sources: &Sources, rule: Option<RuleId>) -> String {
    let Some(rule) = rule.and_then(|id| policy.rules.get(id.0 as usize)) else {
        return "default".to_owned();
    };
    let place = sources.place(rule.place());
    let given = sources.iter().filter(|(_, s)| !s.path.starts_with("std/")).count();
    match place.rsplit_once(':') {
        Some((_, line)) if given == 1 => line.to_owned(),
        _ => place,
    }
}
