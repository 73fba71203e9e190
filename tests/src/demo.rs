//! The examples on real packets: policy, observation and deciding rule side by side.
//!
//! For each example: compile it with `segc`, make a namespace for every endpoint and every outside address its `flows.txt` names,
//! start `segd` where the example's endpoints live, send every flow, and compare with what `segc explain` says.

use crate::daemon::Daemon;
use crate::net::Net;
use crate::probe::{self, Outcome, Probe, Service};
use crate::tools::binaries;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// Longest statement in the table. Unit: characters.
const STATEMENT_MAX: usize = 64;

/// One flow sent.
#[derive(Clone, Debug)]
pub struct Row {
    /// As `flows.txt` names it.
    pub flow: [String; 3],
    /// Whether the policy allows it.
    pub allowed: bool,
    /// What was seen.
    pub outcome: Outcome,
    /// Where the deciding rule stands, or `default`.
    pub rule: String,
    /// What the deciding rule says.
    pub text: String,
}

impl Row {
    /// Whether the observation is what the policy says.
    pub fn agrees(&self) -> bool {
        self.outcome == if self.allowed { Outcome::Allowed } else { Outcome::Dropped }
    }
}

/// An endpoint of `endpoints.toml`, as much as the demo needs.
struct Endpoint {
    addresses: Vec<IpAddr>,
    is_self: bool,
}

/// Runs one example.
///
/// # Errors
/// A message if it could not be set up or `segd` did not behave; everything made is removed first.
pub fn run(example: &Path) -> Result<Vec<Row>, String> {
    let scratch = tempfile::tempdir().map_err(|e| format!("temporary directory: {e}"))?;
    let object = scratch.path().join("policy.bpf.o");
    tool("segc", &["build", &text(example), "-o", &text(&object)])?;
    let toml = read(&example.join("endpoints.toml"))?;
    let endpoints = endpoints(&toml)?;
    let flows = flows(&read(&example.join("flows.txt"))?);

    let mut net = Net::new().map_err(|e| format!("network namespaces: {e}"))?;
    let mut placed = String::new();
    for (name, endpoint) in &endpoints {
        net.attach(name, &endpoint.addresses).map_err(|e| format!("namespace of {name}: {e}"))?;
    }
    for line in toml.lines() {
        let label = line.strip_prefix("netns = ").map(|l| l.trim_matches('"'));
        match label.and_then(|label| net.get(label)) {
            Some(namespace) => writeln!(placed, "netns = \"{}\"", namespace.name),
            None => writeln!(placed, "{line}"),
        }
        .map_err(|e| e.to_string())?;
    }
    for (nth, address) in outside(&flows, &endpoints).iter().enumerate() {
        net.attach(&format!("out{nth}"), &[*address])
            .map_err(|e| format!("namespace of {address}: {e}"))?;
    }
    let placed_path = scratch.path().join("endpoints.toml");
    std::fs::write(&placed_path, placed).map_err(|e| e.to_string())?;

    let itself = endpoints.iter().find(|(_, e)| e.is_self).and_then(|(name, _)| net.get(name));
    let home = itself.unwrap_or_else(|| net.node()).name.clone();
    let run_dir = scratch.path().join("run");
    let daemon = Daemon::start(Some(&home), &object, &placed_path, &run_dir)?;
    let rows = send(example, &net, &endpoints, &flows);
    match daemon.stop(libc::SIGTERM).map_err(|e| format!("segd: {e}"))? {
        (Some(0), _) => rows,
        (code, said) => Err(format!("segd ended with {code:?}: {said}")),
    }
}

fn send(
    example: &Path,
    net: &Net,
    endpoints: &BTreeMap<String, Endpoint>,
    flows: &[[String; 3]],
) -> Result<Vec<Row>, String> {
    let mut probes = Vec::new();
    let mut rows = Vec::new();
    for flow in flows {
        let [source, destination, service] = flow;
        let v6 = service.contains('6') && !service.contains("/6")
            || source.contains(':')
            || destination.contains(':');
        let ends = [end(net, endpoints, source, v6)?, end(net, endpoints, destination, v6)?];
        let [(client, from, from_term), (server, to, to_term)] = ends;
        let plain = service.replacen("tcp6/", "tcp/", 1).replacen("udp6/", "udp/", 1);
        let service = match plain.split_once('/') {
            Some(("tcp", port)) => {
                Service::Tcp(port.parse().map_err(|_| format!("port of `{plain}`"))?)
            }
            Some(("udp", port)) => {
                Service::Udp(port.parse().map_err(|_| format!("port of `{plain}`"))?)
            }
            Some(("icmp" | "icmp6", "echo-request")) => Service::Echo,
            _ => return Err(format!("flows.txt: no probe for `{plain}`")),
        };
        probes.push(Probe { client, from: Some(from), server, to, service });
        let json = tool(
            "segc",
            &["explain", "--format", "json", &from_term, &to_term, &plain, &text(example)],
        )?;
        let json: serde_json::Value =
            serde_json::from_str(&json).map_err(|e| format!("segc explain: {e}"))?;
        let rule = &json["rule"];
        let place = match (rule["path"].as_str(), rule["line"].as_u64()) {
            (Some(path), Some(line)) => format!("{path}:{line}"),
            _ => "default".to_owned(),
        };
        rows.push(Row {
            flow: flow.clone(),
            allowed: json["verdict"] == "allow",
            outcome: Outcome::Dropped,
            rule: place,
            text: rule["text"].as_str().unwrap_or("no rule says anything: deny").to_owned(),
        });
    }
    let outcomes = probe::run(&probes).map_err(|e| format!("probes: {e}"))?;
    for (row, outcome) in rows.iter_mut().zip(outcomes) {
        row.outcome = outcome;
    }
    Ok(rows)
}

/// Namespace, address and `segc explain` term of one end.
fn end(
    net: &Net,
    endpoints: &BTreeMap<String, Endpoint>,
    name: &str,
    v6: bool,
) -> Result<(String, IpAddr, String), String> {
    let fits = |address: &&IpAddr| address.is_ipv6() == v6;
    if let Some(endpoint) = endpoints.get(name) {
        let namespace = net.get(name).ok_or_else(|| format!("no namespace for {name}"))?;
        let address = endpoint.addresses.iter().find(fits);
        let address = *address.ok_or_else(|| format!("{name} has no address of that family"))?;
        let term = if endpoint.is_self { "self" } else { name };
        return Ok((namespace.name.clone(), address, format!("{term}@{address}")));
    }
    let address: IpAddr = name.parse().map_err(|_| format!("flows.txt: no endpoint `{name}`"))?;
    let namespace =
        (0..).map_while(|n| net.get(&format!("out{n}"))).find(|ns| ns.addresses.contains(&address));
    let namespace = namespace.ok_or_else(|| format!("no namespace for {name}"))?;
    Ok((namespace.name.clone(), address, name.to_owned()))
}

fn flows(text: &str) -> Vec<[String; 3]> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some([words.next()?, words.next()?, words.next()?])
        })
        .collect()
}

fn outside(flows: &[[String; 3]], endpoints: &BTreeMap<String, Endpoint>) -> Vec<IpAddr> {
    let ends = flows.iter().flat_map(|[from, to, _]| [from, to]);
    let mut found: Vec<IpAddr> = ends
        .filter(|end| !endpoints.contains_key(*end))
        .filter_map(|end| end.parse().ok())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn endpoints(text: &str) -> Result<BTreeMap<String, Endpoint>, String> {
    let table: toml::Table = text.parse().map_err(|e| format!("endpoints.toml: {e}"))?;
    let list = table.get("endpoint").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut endpoints = BTreeMap::new();
    for entry in list {
        let name = entry.get("name").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let addresses =
            entry.get("addresses").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let addresses = addresses.iter().filter_map(|a| a.as_str()?.parse().ok()).collect();
        let is_self = entry.get("self").and_then(toml::Value::as_bool).unwrap_or(false);
        endpoints.insert(name, Endpoint { addresses, is_self });
    }
    Ok(endpoints)
}

fn tool(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(binaries().join(name))
        .args(arguments)
        .output()
        .map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!(
        "{name} {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&said)
    ))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The first words of a long statement.
fn short(text: &str) -> String {
    match text.char_indices().nth(STATEMENT_MAX) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// The rows as a table.
pub fn table(name: &str, rows: &[Row]) -> String {
    let width = |column: fn(&Row) -> usize, least: usize| {
        rows.iter().map(column).max().unwrap_or(0).max(least)
    };
    let [from, to, on] =
        [0, 1, 2].map(|n| rows.iter().map(|r| r.flow[n].len()).max().unwrap_or(0).max(11));
    let rule = width(|r| r.rule.len(), 7);
    let mut table = format!("{name}\n");
    let mut line = |cells: [&str; 7]| {
        let [a, b, c, verdict, seen, place, text] = cells;
        let text =
            format!("  {a:from$}  {b:to$}  {c:on$}  {verdict:6}  {seen:8}  {place:rule$}  {text}");
        table.push_str(text.trim_end());
        table.push('\n');
    };
    line(["source", "destination", "service", "policy", "observed", "rule", ""]);
    for row in rows {
        let [a, b, c] = &row.flow;
        let seen = match (&row.outcome, row.agrees()) {
            (Outcome::Allowed, true) => "passed",
            (Outcome::Dropped, true) => "dropped",
            (Outcome::Allowed, false) => "PASSED!",
            (Outcome::Dropped, false) => "DROPPED!",
            (Outcome::Error(_), _) => "ERROR!",
        };
        let text = match &row.outcome {
            Outcome::Error(error) => error,
            Outcome::Allowed | Outcome::Dropped => &short(&row.text),
        };
        line([a, b, c, if row.allowed { "allow" } else { "deny" }, seen, &row.rule, text]);
    }
    table
}
