//! Policies as large as real ones get: the ClassBench sets, and rules over labels of thousands of applications.

use crate::harness;
use crate::random::Random;
use seg_lang::ast::{Action, Tier};
use seg_lang::eval::{self, Decision, Flow, Verdict};
use seg_lang::policy::{
    Annotations, Block, BlockId, Dimension, Endpoints, LabelId, Match, Policy, Rule, RuleId,
    RuleKind, Services, protocol,
};
use seg_lang::source::{FileId, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Nothing generated has a place in a source.
const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

/// Where the ClassBench sets are, if this machine has them.
///
/// # Errors
/// Why not, for whoever skips a test.
pub fn classbench() -> Result<PathBuf, String> {
    let folder = harness::root().join("../shared/data/classbench");
    if folder.is_dir() { Ok(folder) } else { Err("no ../shared/data/classbench".to_owned()) }
}

/// One line of a ClassBench set; all ranges are closed.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// IPv4 addresses.
    pub source: (u32, u32),
    /// IPv4 addresses.
    pub destination: (u32, u32),
    /// Of every protocol that has them.
    pub source_ports: (u16, u16),
    /// Of every protocol that has them.
    pub ports: (u16, u16),
    /// `None` for any.
    pub protocol: Option<u8>,
}

/// The lines of a set.
///
/// # Panics
/// If the text is no ClassBench set.
pub fn lines(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let words: Vec<_> = line.trim_start_matches('@').split_whitespace().collect();
        let [source, destination, s0, ":", s1, d0, ":", d1, number, ..] = words[..] else {
            panic!("no ClassBench line: {line}")
        };
        let prefix = |text: &str| {
            let (address, length) = text.split_once('/').expect("a prefix");
            let address: Ipv4Addr = address.parse().expect("an address");
            let host = u32::MAX.checked_shr(length.parse().expect("a length")).unwrap_or(0);
            (address.to_bits() & !host, address.to_bits() | host)
        };
        let port = |text: &str| text.parse::<u16>().expect("a port");
        let (number, mask) = number.split_once('/').expect("a protocol and a mask");
        let number = u8::from_str_radix(number.trim_start_matches("0x"), 16).expect("a protocol");
        Line {
            source: prefix(source),
            destination: prefix(destination),
            source_ports: (port(s0), port(s1)),
            ports: (port(d0), port(d1)),
            protocol: (mask != "0x00").then_some(number),
        }
    };
    text.lines().filter(|line| line.starts_with('@')).map(line).collect()
}

/// The action of a line: each twentieth denies.
fn action(index: usize) -> Action {
    if index % 20 == 6 { Action::Deny } else { Action::Allow }
}

/// The lines as one block, a rule for each.
pub fn policy(lines: &[Line]) -> Policy {
    let rules = lines.iter().enumerate().map(|(index, line)| {
        let addresses = |(first, last)| {
            let [first, last] = [first, last].map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
            Endpoints::Addresses(first, last)
        };
        let ported = [protocol::TCP, protocol::UDP, protocol::SCTP];
        let ((first, last), sources) = (line.ports, line.source_ports);
        let mut on = match line.protocol {
            None if line.ports == (0, u16::MAX) => Services::Any,
            None => {
                let ports = ported.map(|protocol| Services::Ports { protocol, first, last });
                Services::Union(ports.into())
            }
            Some(protocol) if ported.contains(&protocol) => {
                Services::Ports { protocol, first, last }
            }
            Some(protocol) => Services::Ports { protocol, first: 0, last: u16::MAX },
        };
        if sources != (0, u16::MAX) {
            let sources = Services::SourcePorts { first: sources.0, last: sources.1 };
            on = Services::Intersect(vec![on, sources]);
        }
        (action(index), addresses(line.source), addresses(line.destination), on)
    });
    block(Vec::new(), rules)
}

/// What the lines say of a flow, by search from the first: of all that match, those that deny win.
pub fn search(lines: &[Line], flow: &Flow) -> Decision {
    let bits = |end: &eval::Endpoint| match end.address {
        IpAddr::V4(address) => Some(address.to_bits()),
        IpAddr::V6(_) => None,
    };
    let within =
        |(first, last): (u32, u32), n: Option<u32>| n.is_some_and(|n| (first..=last).contains(&n));
    let ported = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&flow.protocol);
    let carried = |(first, last): (u16, u16), port: u16| match ported {
        true => (first..=last).contains(&port),
        false => (first, last) == (0, u16::MAX),
    };
    let matches = |line: &Line| {
        // A line about one protocol without ports is about all of it.
        let ports = ported || line.protocol.is_none();
        within(line.source, bits(&flow.source))
            && within(line.destination, bits(&flow.destination))
            && line.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && (!ports || carried(line.ports, flow.port))
            && carried(line.source_ports, flow.source_port)
    };
    let found = |wanted: Action| {
        let of = lines.iter().enumerate().filter(|(index, _)| action(*index) == wanted);
        of.filter(|(_, line)| matches(line)).map(|(index, _)| index).next()
    };
    let said = |verdict, rule: usize| {
        let rule = RuleId(u32::try_from(rule).expect("a rule number"));
        Decision { verdict, tier: Some(Tier::Policy), rule: Some(rule) }
    };
    match (found(Action::Deny), found(Action::Allow)) {
        (Some(rule), _) => said(Verdict::Deny, rule),
        (None, Some(rule)) => said(Verdict::Allow, rule),
        (None, None) => Decision { verdict: Verdict::Deny, tier: None, rule: None },
    }
}

/// `n` flows, most of them at a corner of a line.
pub fn flows(lines: &[Line], r: &mut Random, n: usize) -> Vec<Flow> {
    let flow = |r: &mut Random| {
        let line = r.pick(lines);
        let within = |r: &mut Random, (first, last): (u64, u64)| match r.below(4) {
            0 => first,
            1 => last,
            _ => first + r.below((last - first + 1) as usize) as u64,
        };
        let end = |r: &mut Random, (first, last): (u32, u32)| {
            let bits = match r.chance(90) {
                true => within(r, (first.into(), last.into())) as u32,
                false => r.next_u64() as u32,
            };
            let labels = r.chance(80).then(BTreeMap::new);
            eval::Endpoint { labels, ..eval::Endpoint::at(IpAddr::V4(Ipv4Addr::from_bits(bits))) }
        };
        let (source, destination) = (end(r, line.source), end(r, line.destination));
        let known = [protocol::TCP, protocol::UDP, protocol::SCTP];
        let protocol = line.protocol.unwrap_or(*r.pick(&known));
        let [port, source_port] = [line.ports, line.source_ports].map(|(first, last)| {
            let port = within(r, (first.into(), last.into())) as u16;
            if known.contains(&protocol) { port } else { 0 }
        });
        Flow { source, destination, protocol, port, source_port, http: None }
    };
    (0..n).map(|_| flow(r)).collect()
}

/// `n` rules between applications of two tiers in four environments, `n_apps` of them.
pub fn labels(n: usize, n_apps: usize, seed: u64) -> Policy {
    const ENVS: [&str; 4] = ["dev", "prod", "staging", "test"];
    const TIERS: [&str; 4] = ["cache", "db", "front", "logic"];
    let dimension = |name: &str, values: Option<BTreeSet<String>>| Dimension {
        name: name.to_owned(),
        values,
        span: NOWHERE,
    };
    let closed = |values: [&str; 4]| Some(values.map(str::to_owned).into());
    let dimensions = vec![
        dimension("app", None),
        dimension("env", closed(ENVS)),
        dimension("tier", closed(TIERS)),
    ];
    let mut r = Random::new(seed);
    let rule = move |_| {
        let r = &mut r;
        let app = format!("app-{}", r.below(n_apps));
        let label = |id: u32, value: &str| {
            Endpoints::Label(LabelId(id), BTreeSet::from([value.to_owned()]))
        };
        let (env, peer) = (label(1, r.pick::<&str>(&ENVS)), format!("app-{}", r.below(n_apps)));
        let of = |r: &mut Random, app: &str| vec![label(0, app), label(2, r.pick::<&str>(&TIERS))];
        let with = |mut parts: Vec<Endpoints>, part: &Endpoints| {
            parts.push(part.clone());
            Endpoints::Intersect(parts)
        };
        let kind = r.below(100);
        let (from, to) = match kind {
            0..55 => (with(of(r, &app), &env), with(of(r, &peer), &env)),
            55..75 => (label(0, &app), Endpoints::Intersect(of(r, &peer))),
            75..85 => (label(0, &app), label(0, &app)),
            85..92 => (label(0, &app), env),
            92..96 => (env, label(0, &app)),
            _ => (with(of(r, &app), &env), label(0, &peer)),
        };
        let action = if kind < 96 { Action::Allow } else { Action::Deny };
        let ports = (0..1 + r.below(3)).map(|_| {
            let first = 8_000 + 10 * r.below(80) as u16;
            Services::Ports { protocol: protocol::TCP, first, last: first }
        });
        (action, from, to, Services::Union(ports.collect()))
    };
    block(dimensions, (0..n).map(rule))
}

fn block(
    labels: Vec<Dimension>,
    rules: impl Iterator<Item = (Action, Endpoints, Endpoints, Services)>,
) -> Policy {
    let rules = rules.map(|(action, from, to, on)| Rule {
        block: BlockId(0),
        kind: RuleKind::Match {
            action,
            flow: Match { from, to, both_ways: false, on },
            when: Vec::new(),
            unless: Vec::new(),
            log: false,
        },
        annotations: Annotations::default(),
        span: NOWHERE,
        uses: Vec::new(),
        arguments: Vec::new(),
    });
    let block = Block {
        name: "all".to_owned(),
        tier: Tier::Policy,
        staged: false,
        scope: None,
        annotations: Annotations::default(),
        span: NOWHERE,
    };
    Policy { labels, blocks: vec![block], rules: rules.collect(), ..Policy::default() }
}
