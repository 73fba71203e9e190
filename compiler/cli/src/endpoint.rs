//! Endpoints and services as they stand on the command line of `segc explain`.
//!
//! `shop-web-1`, `10.0.0.1`, `self`, `app:shop&role:web`; with `@address` behind it where the address matters.

use seg_lang::analyze::analyze;
use seg_lang::ast::{DefineKind, Kind};
use seg_lang::eval::Endpoint;
use seg_lang::parse::parse;
use seg_lang::policy::{LabelId, Policy, RuleKind, Services, protocol};
use seg_lang::source::{FileId, Source, Sources};
use seg_lang::types;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses for ends given without one: TEST-NET-2 of RFC 5737 and the documentation prefix of RFC 3849.
const PLAIN4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PLAIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// An end as given, its address perhaps still open.
#[derive(Clone, Debug)]
pub struct Term {
    labels: Option<BTreeMap<LabelId, String>>,
    is_self: bool,
    /// The addresses it may have; empty for any.
    addresses: Vec<IpAddr>,
}

/// Reads an end.
///
/// # Errors
/// A message that says what is not known and what would be.
pub fn term(policy: &Policy, text: &str) -> Result<Term, String> {
    let (head, at) = match text.split_once('@') {
        Some((head, address)) => {
            let parsed = address
                .parse()
                .map_err(|_| format!("`{address}` in `{text}` is not an address"))?;
            (head, Some(parsed))
        }
        None => (text, None),
    };
    let mut term = head_term(policy, head)?;
    if let Some(address) = at {
        term.addresses = vec![address];
    }
    Ok(term)
}

fn head_term(policy: &Policy, head: &str) -> Result<Term, String> {
    if let Ok(address) = head.parse::<IpAddr>() {
        // An address of the inventory is that workload, as it is on a node.
        let known = policy.workloads.iter().find(|w| w.addresses.contains(&address));
        let labels = known.map(|w| w.labels.iter().cloned().collect());
        return Ok(Term { labels, is_self: false, addresses: vec![address] });
    }
    if head == "self" {
        return Ok(Term { labels: Some(BTreeMap::new()), is_self: true, addresses: vec![] });
    }
    if let Some(workload) = policy.workloads.iter().find(|w| w.name == head) {
        let labels = Some(workload.labels.iter().cloned().collect());
        return Ok(Term {
            labels,
            is_self: false,
            addresses: workload.addresses.iter().copied().collect(),
        });
    }
    if !head.contains(':') {
        let names: Vec<&str> = policy.workloads.iter().map(|w| w.name.as_str()).collect();
        let known = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
        return Err(format!(
            "`{head}` is neither a workload ({known}), an address, `self`, nor labels such as `app:web`"
        ));
    }
    let mut labels = BTreeMap::new();
    for part in head.split('&') {
        let part = part.trim();
        let Some((key, value)) = part.split_once(':') else {
            return Err(format!("`{part}` is no label; write `key:value`"));
        };
        let Some(index) = policy.labels.iter().position(|d| d.name == key) else {
            let names: Vec<&str> = policy.labels.iter().map(|d| d.name.as_str()).collect();
            return Err(format!("no label dimension `{key}` ({})", names.join(", ")));
        };
        if let Some(values) = policy.labels.get(index).and_then(|d| d.values.as_ref())
            && !values.contains(value)
        {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            return Err(format!("`{key}` has no value `{value}` ({})", values.join(", ")));
        }
        let label = LabelId(u32::try_from(index).unwrap_or(u32::MAX));
        if labels.insert(label, value.to_owned()).is_some_and(|before| before != value) {
            return Err(format!("a workload has one `{key}`"));
        }
    }
    Ok(Term { labels: Some(labels), is_self: false, addresses: vec![] })
}

/// Gives both ends addresses of one family: the first both can have, IPv4 before IPv6.
///
/// # Errors
/// If they have none in common.
pub fn pair(source: &Term, destination: &Term) -> Result<(Endpoint, Endpoint), String> {
    let pick = |term: &Term, v4: bool, nth: u8| {
        let plain: IpAddr = if v4 {
            Ipv4Addr::from_bits(PLAIN4.to_bits() + u32::from(nth)).into()
        } else {
            Ipv6Addr::from_bits(PLAIN6.to_bits() + u128::from(nth)).into()
        };
        let open = term.addresses.is_empty().then_some(plain);
        open.or_else(|| term.addresses.iter().copied().find(|a| a.is_ipv4() == v4))
    };
    for v4 in [true, false] {
        if let (Some(from), Some(to)) = (pick(source, v4, 0), pick(destination, v4, 1)) {
            let end = |term: &Term, address| Endpoint {
                address,
                labels: term.labels.clone(),
                is_self: term.is_self,
            };
            return Ok((end(source, from), end(destination, to)));
        }
    }
    Err("the two ends have no address family in common".to_owned())
}

/// Reads a service: `tcp/443`, `icmp/echo-request`, `proto/47`, or a name of the package or of `std.services`.
///
/// A name means its first service that runs over IPv6, if `v6`, or over IPv4.
///
/// # Errors
/// A message that says what a service looks like.
pub fn service(sources: &Sources, text: &str, v6: bool) -> Result<(u8, u16), String> {
    let other = if v6 { protocol::ICMP } else { protocol::ICMP6 };
    let wanted = || {
        format!(
            "`{text}` is not a service; write `tcp/443`, `icmp/echo-request`, `proto/47`, or a name of the package or of std.services"
        )
    };
    let found = match types::parse_service(text) {
        Some(found) => vec![found],
        None => named(sources, text).ok_or_else(wanted)?,
    };
    let family = if v6 { "IPv6" } else { "IPv4" };
    let fits = found.into_iter().find(|(protocol, _)| *protocol != other);
    fits.ok_or_else(|| format!("`{text}` does not run over {family}, which is what the ends speak"))
}

/// The services of a name, in the order written: its first definition in the package, or that of `std.services`.
fn named(sources: &Sources, name: &str) -> Option<Vec<(u8, u16)>> {
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return None;
    }
    let defines = |(file, source): (FileId, &Source)| {
        let (tree, _) = parse(file, &source.text);
        tree.items.iter().any(|item| {
            matches!(&item.kind, Kind::Define { what: DefineKind::Service, name: n, .. } if n.value == name)
        })
    };
    let module = sources.iter().find(|file| defines(*file)).map(|(_, source)| source.path.clone());
    let module = module.unwrap_or_else(|| "std/services.seg".to_owned());
    let module = module.trim_end_matches(".seg").replace('/', ".");
    // The language resolves the name: one more module of the package uses it in a rule.
    let mut package = Sources::default();
    for (_, source) in sources.iter().filter(|(_, source)| !source.path.starts_with("std/")) {
        package.add(source.path.clone(), source.text.clone());
    }
    let text = format!(
        "import {module}.{{ {name} }}\npolicy explained-service {{ allow any -> any on {name} }}\n"
    );
    let added = package.add("explained-service.seg", text);
    let policy = analyze(package).policy?;
    let rule = policy.rules.into_iter().find(|rule| rule.span.file == added)?;
    let RuleKind::Match { flow, .. } = rule.kind else { return None };
    let mut found = Vec::new();
    firsts(&flow.on, &mut found);
    Some(found)
}

fn firsts(services: &Services, found: &mut Vec<(u8, u16)>) {
    match services {
        Services::Ports { protocol, first, .. } => found.push((*protocol, *first)),
        Services::Union(parts) | Services::Intersect(parts) => {
            parts.iter().for_each(|part| firsts(part, found));
        }
        Services::Except(from, _) => firsts(from, found),
        Services::Any => {}
    }
}
