//! Whether a set of services is empty, exactly.
//!
//! A service is a protocol, a port or type, a source port or code, over TCP perhaps a request, and the names that the
//! destination has for its port, which may be any: what ports an endpoint names no declaration tells.
//! For one source port, one request and some names a set is a set of intervals; it changes only where a range of source ports
//! or codes begins or ends, with what predicates tell apart of requests, and with the names that it holds.

use super::{Budget, Intervals, TooLarge, WORK_PER_QUESTION, spend};
use crate::eval::Request;
use crate::kinds::{Http, requests};
use crate::policy::{Services, protocol};
use crate::types::{PORT_PROTOCOLS, port_max, source_port_max};
use std::collections::BTreeSet;

/// Whether no service is in `set`.
///
/// Cost: the size of the set, for each source port or code at which its answer may change, and each choice of its names.
pub(crate) fn services_empty(set: &Services, budget: &mut Budget) -> Result<bool, TooLarge> {
    budget.nodes = budget.nodes.saturating_add(WORK_PER_QUESTION);
    let mut predicates = BTreeSet::new();
    Http::collect(set, &mut predicates);
    let (methods, paths) = requests(&predicates);
    let request = |method: &String, path: &String| {
        let (method, path) = (method.clone(), path.clone());
        Some(Request { method, path }).filter(|_| !predicates.is_empty())
    };
    let requests = methods.iter().flat_map(|m| paths.iter().filter_map(move |p| request(m, p)));
    for request in std::iter::once(None).chain(requests.map(Some)) {
        if carries(set, request.as_ref(), budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether some service with this request is in the set.
fn carries(
    set: &Services,
    request: Option<&Request>,
    budget: &mut Budget,
) -> Result<bool, TooLarge> {
    let mut bounds = Bounds { sources: BTreeSet::from([0]), names: BTreeSet::new() };
    bounds.of(set);
    let names: Vec<&str> = bounds.names.into_iter().collect();
    let n_choices = 1u64.checked_shl(u32::try_from(names.len()).unwrap_or(u32::MAX));
    let n_choices = n_choices.ok_or(TooLarge)?;
    // No name and every name are the likeliest to lead somewhere.
    for choice in [0, n_choices - 1].into_iter().chain(1..n_choices) {
        let chosen = (0..64).zip(&names).filter(|(bit, _)| choice >> bit & 1 == 1);
        let named: BTreeSet<&str> = chosen.map(|(_, name)| *name).collect();
        for source in &bounds.sources {
            let fixed = Fixed { source: *source, request, named: &named };
            if !service_intervals(set, fixed, budget)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The work of telling every service of a set apart. Unit: nodes.
pub(crate) fn services_work(set: &Services, nodes: usize) -> usize {
    let mut bounds = Bounds { sources: BTreeSet::from([0]), names: BTreeSet::new() };
    bounds.of(set);
    let mut predicates = BTreeSet::new();
    Http::collect(set, &mut predicates);
    let (methods, paths) = requests(&predicates);
    let n_requests = methods.len().saturating_mul(paths.len());
    let n_names = u32::try_from(bounds.names.len()).unwrap_or(u32::MAX);
    let n_choices = 1usize.checked_shl(n_names).unwrap_or(usize::MAX);
    nodes.saturating_mul(bounds.sources.len()).saturating_mul(n_choices).saturating_mul(n_requests)
}

/// Where the answer of a set may change.
struct Bounds<'a> {
    /// Source ports and codes where ranges begin, or that come right behind one.
    sources: BTreeSet<u16>,
    /// Names of ports.
    names: BTreeSet<&'a str>,
}

impl<'a> Bounds<'a> {
    fn of(&mut self, set: &'a Services) {
        match set {
            Services::Any | Services::Ports { .. } | Services::Http { .. } => {}
            Services::SourcePorts { first, last } => {
                self.sources.insert(*first);
                self.sources.extend(last.checked_add(1));
            }
            Services::Codes { first, last, .. } => {
                self.sources.extend([u16::from(*first), u16::from(*last) + 1]);
            }
            Services::Named { name, .. } => {
                self.names.insert(name);
            }
            Services::Union(sets) | Services::Intersect(sets) => {
                sets.iter().for_each(|set| self.of(set));
            }
            Services::Except(set, taken) => {
                self.of(set);
                self.of(taken);
            }
        }
    }
}

/// What is told apart before ports are.
#[derive(Clone, Copy)]
struct Fixed<'a> {
    /// Source port or code.
    source: u16,
    request: Option<&'a Request>,
    /// The names of the port.
    named: &'a BTreeSet<&'a str>,
}

/// The services with what is fixed, as intervals of `protocol * 65536 + port`.
fn service_intervals(
    set: &Services,
    fixed: Fixed<'_>,
    budget: &mut Budget,
) -> Result<Intervals, TooLarge> {
    spend(1, budget)?;
    let Fixed { source, request, named } = fixed;
    let ports = |protocol: u8, first: u16, last: u16| {
        let base = u128::from(protocol) << 16;
        Intervals::range(base | u128::from(first), base | u128::from(last))
    };
    // Only TCP carries a request.
    let has =
        |of: &u8| source <= source_port_max(*of) && (request.is_none() || *of == protocol::TCP);
    let whole = |protocol: u8| ports(protocol, 0, port_max(protocol));
    let any = || Intervals::union((0..=u8::MAX).filter(has).map(whole));
    Ok(match set {
        Services::Any => any(),
        Services::Ports { protocol, .. } if !has(protocol) => Intervals::default(),
        Services::Ports { protocol, first, last } => ports(*protocol, *first, *last),
        Services::SourcePorts { first, last } if (*first..=*last).contains(&source) => {
            Intervals::union(PORT_PROTOCOLS.into_iter().filter(has).map(whole))
        }
        Services::Codes { protocol, first, last }
            if (u16::from(*first)..=u16::from(*last)).contains(&source) && has(protocol) =>
        {
            whole(*protocol)
        }
        Services::Http { method, path } => {
            let wanted = Http { method: method.clone(), path: path.clone() };
            match request {
                Some(request) if wanted.holds(request) => whole(protocol::TCP),
                Some(_) | None => Intervals::default(),
            }
        }
        Services::Named { protocol, name } if named.contains(name.as_str()) && has(protocol) => {
            whole(*protocol)
        }
        Services::SourcePorts { .. } | Services::Codes { .. } | Services::Named { .. } => {
            Intervals::default()
        }
        Services::Union(sets) => {
            let parts: Result<Vec<_>, _> =
                sets.iter().map(|set| service_intervals(set, fixed, budget)).collect();
            Intervals::union(parts?)
        }
        Services::Intersect(sets) => {
            let mut common = any();
            for set in sets {
                common = common.intersect(&service_intervals(set, fixed, budget)?);
            }
            common
        }
        Services::Except(set, taken) => {
            let set = service_intervals(set, fixed, budget)?;
            set.except(&service_intervals(taken, fixed, budget)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::below;
    use super::*;
    use crate::eval::{Endpoint, Flow, services_contain};
    use crate::policy::PathPattern;
    use std::collections::BTreeMap;

    #[test]
    fn a_set_of_services_is_empty_exactly_if_no_flow_carries_one() {
        let ports = |n: u8| {
            let named = [("a", 1), ("b", 2)].into_iter().filter(move |(_, bit)| n & bit > 0);
            named.map(|(name, _)| name.to_owned())
        };
        let nobody = Endpoint::at([10, 0, 0, 1].into());
        let end = |ports| Endpoint { labels: Some(BTreeMap::new()), ports, ..nobody.clone() };
        let request = |method: &str, path: &str| {
            Some(Request { method: method.to_owned(), path: path.to_owned() })
        };
        let mut requests = vec![None];
        for method in ["GET", "POST", "PUT"] {
            requests.extend(["/", "/a", "/s/", "/s/a", "/s/b"].map(|path| request(method, path)));
        }
        let mut flows = vec![];
        for protocol in [0, 1, 2, 6, 7, 17, 47, 58, 59, 132, 133, 255] {
            for port in [0, 2, 3, 4, 5, 79, 80, 81].into_iter().filter(|p| *p <= port_max(protocol))
            {
                for source_port in [0, 2, 3, 4, 5, 9, 255, 256, 1024, 1025, 2048, 65_535] {
                    if source_port <= source_port_max(protocol) {
                        let n_requests = if protocol == 6 { requests.len() } else { 1 };
                        for http in requests.iter().take(n_requests) {
                            for n in 0..4 {
                                let own = ports(n).map(|name| (name, (protocol, port))).collect();
                                let (source, destination) = (end(BTreeMap::new()), end(own));
                                let http = http.clone();
                                flows.push(Flow {
                                    source,
                                    destination,
                                    protocol,
                                    port,
                                    source_port,
                                    http,
                                });
                            }
                        }
                    }
                }
            }
        }
        let mut random = 7u64;
        let mut n_empty = 0;
        for case in 0..10_000 {
            let set = services(&mut random, 3);
            let found = flows.iter().find(|flow| services_contain(&set, flow));
            let answer = services_empty(&set, &mut Budget::default());
            assert_eq!(answer, Ok(found.is_none()), "case {case}: {set:?} and {found:?}");
            n_empty += usize::from(found.is_none());
        }
        assert!(n_empty > 500, "too few empty sets to mean anything: {n_empty}");
    }

    fn services(random: &mut u64, depth: usize) -> Services {
        let protocol = [1, 6, 17, 58, 47].get(below(random, 5)).copied().unwrap_or(132);
        let mut range = || [below(random, 3), 3, 80].map(|n| u16::try_from(n).unwrap_or(0));
        let [skip, low, high] = range();
        match below(random, if depth == 0 { 9 } else { 15 }) {
            0 => Services::Any,
            1 => Services::Ports { protocol, first: 0, last: port_max(protocol) },
            2 => Services::Ports { protocol, first: low + skip, last: low + skip },
            3 => Services::Ports { protocol: 6, first: low, last: high },
            4 => Services::SourcePorts {
                first: skip * 1024,
                last: if skip == 2 { u16::MAX } else { 1024 },
            },
            5 => {
                let protocol = if protocol == 58 { 58 } else { 1 };
                Services::Codes { protocol, first: 3, last: if skip == 0 { 4 } else { 255 } }
            }
            6 => Services::Http { method: Some("GET".to_owned()), path: None },
            7 => {
                let path = ["/s/*", "/s/a", "/*", "/a"].get(below(random, 4)).copied();
                let path = path.map(|path| match path.strip_suffix('*') {
                    Some(text) => PathPattern { text: text.to_owned(), prefix: true },
                    None => PathPattern { text: path.to_owned(), prefix: false },
                });
                let method = (skip == 0).then(|| "POST".to_owned());
                Services::Http { method, path }
            }
            8 => {
                let name = if skip == 0 { "a" } else { "b" };
                let protocol = if protocol == 6 { 6 } else { 17 };
                Services::Named { protocol, name: name.to_owned() }
            }
            9 | 10 => {
                Services::Union(vec![services(random, depth - 1), services(random, depth - 1)])
            }
            11 | 12 => {
                Services::Intersect(vec![services(random, depth - 1), services(random, depth - 1)])
            }
            _ => {
                let (set, taken) = (services(random, depth - 1), services(random, depth - 1));
                Services::Except(Box::new(set), Box::new(taken))
            }
        }
    }
}
