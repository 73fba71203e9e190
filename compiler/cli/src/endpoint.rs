//! Endpoints and services as they stand on the command line of `segc explain`.
//!
//! `shop-web-1`, `10.0.0.1`, `self`, `app:shop&role:web`; with `@address` behind it where the address matters;
//! then `&fqdn(NAME)` for names that resolve to it, and of `self` `&cgroup(PATH)` for the process.

use seg_lang::analyze::{Config, analyze_as};
use seg_lang::ast::{DefineKind, Kind};
use seg_lang::eval::{Endpoint, Flow, Request, services_contain};
use seg_lang::kinds::{self, Http};
use seg_lang::parse::parse;
use seg_lang::policy::{LabelId, Policy, RuleKind, Services, Workload, protocol};
use seg_lang::source::{FileId, Source, Sources};
use seg_lang::types::{self, SOURCE_PORT};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses for ends given without one: TEST-NET-2 of RFC 5737 and the documentation prefix of RFC 3849.
const PLAIN4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PLAIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// An end as given, its address perhaps still open.
#[derive(Clone, Debug, Default)]
pub struct Term {
    labels: Option<BTreeMap<LabelId, String>>,
    is_self: bool,
    ports: BTreeMap<String, (u8, u16)>,
    /// The addresses it may have; empty for any.
    addresses: Vec<IpAddr>,
    names: BTreeSet<String>,
    cgroup: Option<String>,
}

/// Reads an end.
///
/// # Errors
/// A message that says what is not known and what would be.
pub fn term(policy: &Policy, text: &str) -> Result<Term, String> {
    let (mut text, mut names, mut cgroup) = (text, BTreeSet::new(), None);
    while let Some((front, call)) = text.strip_suffix(')').and_then(|text| text.rsplit_once('&')) {
        match call.split_once('(') {
            Some(("fqdn", name)) => {
                names.insert(name.to_ascii_lowercase());
            }
            Some(("cgroup", path)) if cgroup.is_none() => cgroup = Some(path.to_owned()),
            _ => return Err(format!("`{call})` is neither `fqdn(NAME)` nor `cgroup(PATH)` once")),
        }
        text = front;
    }
    let term = address_term(policy, text)?;
    if cgroup.is_some() && !term.is_self {
        return Err(format!("processes of `{text}` are not known, only those of `self`"));
    }
    Ok(Term { names, cgroup, ..term })
}

fn address_term(policy: &Policy, text: &str) -> Result<Term, String> {
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
        return Ok(match known {
            Some(workload) => Term { addresses: vec![address], ..of_workload(workload) },
            None => Term { addresses: vec![address], ..Term::default() },
        });
    }
    if head == "self" {
        let labels = Some(BTreeMap::new());
        return Ok(Term { labels, is_self: true, ..Term::default() });
    }
    if let Some(workload) = policy.workloads.iter().find(|w| w.name == head) {
        return Ok(of_workload(workload));
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
    Ok(Term { labels: Some(labels), ..Term::default() })
}

fn of_workload(workload: &Workload) -> Term {
    Term {
        labels: Some(workload.labels.iter().cloned().collect()),
        ports: workload.ports.clone(),
        addresses: workload.addresses.iter().copied().collect(),
        ..Term::default()
    }
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
                names: term.names.clone(),
                cgroup: term.cgroup.clone(),
                ports: term.ports.clone(),
            };
            return Ok((end(source, from), end(destination, to)));
        }
    }
    Err("the two ends have no address family in common".to_owned())
}

/// Protocol, port or type, source port or code, and request of a flow.
type Carried = (u8, u16, u16, Option<Request>);

/// Reads a service: `tcp/443`, `udp/68&sport(67)`, `icmp/echo-request`, `icmp/3/4`, `proto/47`, or a name of the package or of
/// `std.services`; with a request `tcp/80&http(GET /v1/orders)`.
///
/// A name means its first service that runs over the family of `destination`; `tcp/admin` is what that calls so.
///
/// # Errors
/// A message that says what a service looks like.
pub fn service(
    sources: &Sources,
    config: &Config,
    text: &str,
    destination: &Endpoint,
) -> Result<Carried, String> {
    let v6 = destination.address.is_ipv6();
    let other = if v6 { protocol::ICMP } else { protocol::ICMP6 };
    let wanted = || {
        format!(
            "`{text}` is not a service; write `tcp/443`, `udp/68&sport(67)`, `icmp/echo-request`, `icmp/3/4`, `proto/47`, or a name of the package or of std.services"
        )
    };
    let (service, http) = types::parse_request(text);
    let known = destination.ports.iter().find_map(|(name, &(protocol, port))| {
        (service == format!("{}/{name}", types::protocol_name(protocol)?)).then_some((
            protocol,
            port,
            SOURCE_PORT,
        ))
    });
    let mut found = match types::parse_service(service).or(known) {
        Some((protocol, port, source_port)) => vec![(protocol, port, source_port, None)],
        None => named(sources, config, service, destination).ok_or_else(wanted)?,
    };
    if found.is_empty() {
        return Err(format!(
            "`{service}` is a port by name, and the destination has none of that name"
        ));
    }
    if http.is_some() {
        found.retain(|(of, ..)| *of == protocol::TCP);
        found.iter_mut().for_each(|(.., request)| request.clone_from(&http));
        if found.is_empty() {
            return Err(format!("`{service}` carries no HTTP requests"));
        }
    }
    let family = if v6 { "IPv6" } else { "IPv4" };
    let fits = found.into_iter().find(|(protocol, ..)| *protocol != other);
    fits.ok_or_else(|| format!("`{text}` does not run over {family}, which is what the ends speak"))
}

/// The services of a name, in the order written: its first definition in the package, or that of `std.services`.
fn named(
    sources: &Sources,
    config: &Config,
    name: &str,
    destination: &Endpoint,
) -> Option<Vec<Carried>> {
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
    // What files may hold and blocks must say is no matter of that module.
    let mut config = config.clone();
    config.packages.root.tiers.clear();
    config.packages.root.required.clear();
    let policy = analyze_as(package, &config).policy?;
    let rule = policy.rules.into_iter().find(|rule| rule.span.file == added)?;
    let RuleKind::Match { flow, .. } = rule.kind else { return None };
    let mut bounds =
        Bounds { ports: vec![], named: &destination.ports, sources: vec![SOURCE_PORT, 0] };
    bounds.of(&flow.on);
    let Bounds { ports, sources, .. } = bounds;
    let mut predicates = BTreeSet::new();
    Http::collect(&flow.on, &mut predicates);
    let (methods, paths) = kinds::requests(&predicates);
    let requests: Vec<_> = std::iter::once(None)
        .chain(methods.iter().flat_map(|method| {
            let request = |path: &String| Request { method: method.clone(), path: path.clone() };
            paths.iter().map(move |path| Some(request(path)))
        }))
        .collect();
    let each = ports.iter().filter_map(|&(protocol, port)| {
        let carried = sources.iter().flat_map(|&source_port| {
            let flow = |http: &Option<Request>| {
                let (source, destination) = (destination.clone(), destination.clone());
                let http = http.clone();
                Flow { source, destination, protocol, port, source_port, http }
            };
            requests.iter().map(flow).collect::<Vec<_>>()
        });
        let carried = carried
            .filter(|flow| flow.source_port <= types::source_port_max(protocol))
            .find(|carried| services_contain(&flow.on, carried))?;
        Some((protocol, port, carried.source_port, carried.http))
    });
    Some(each.collect())
}

/// Ends of the ranges in a set of services, in the order written.
struct Bounds<'a> {
    ports: Vec<(u8, u16)>,
    /// What the destination calls its ports.
    named: &'a BTreeMap<String, (u8, u16)>,
    sources: Vec<u16>,
}

impl Bounds<'_> {
    fn of(&mut self, services: &Services) {
        match services {
            Services::Ports { protocol, first, last } => {
                self.ports.extend([(*protocol, *first), (*protocol, *last)]);
            }
            Services::SourcePorts { first, last } => self.sources.extend([*first, *last]),
            Services::Codes { first, last, .. } => {
                self.sources.extend([first, last].map(|code| u16::from(*code)));
            }
            Services::Union(parts) | Services::Intersect(parts) => {
                parts.iter().for_each(|part| self.of(part));
            }
            Services::Except(from, taken) => {
                self.of(from);
                self.of(taken);
            }
            Services::Named { name, .. } => self.ports.extend(self.named.get(name)),
            Services::Any | Services::Http { .. } => {}
        }
    }
}
