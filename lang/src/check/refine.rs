//! The typing of what a service may have besides numbers of ports: source ports, requests, codes of ICMP types, named ports.

use super::Checker;
use super::predicates::{is_http, operands};
use crate::ast::{Literal, LiteralValue, Name, Port, Set, SetKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::policy::{Services, protocol};
use crate::resolve::{nearest, suggest};
use crate::sets;
use crate::source::{FileId, Span, Spanned};
use crate::types::{PORT_PROTOCOLS, code_names, protocol_name, type_names, whole};
use std::collections::BTreeMap;

impl<'a> Checker<'a, '_> {
    /// `a & b & …`: services, and source ports and requests that refine them.
    pub(super) fn refined(&mut self, file: FileId, set: &'a Set) -> Option<Services> {
        let (refining, rest): (Vec<_>, Vec<_>) =
            operands(set).into_iter().partition(|operand| refines(operand));
        let (requests, refined): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|operand| is_http(operand));
        let services: Vec<_> = refined.iter().map(|s| self.services_in(file, s)).collect();
        if let (Some(first), []) = (refining.first().or(requests.first()), refined.as_slice()) {
            return self.services_in(file, first);
        }
        let ports: Vec<_> = refining.iter().map(|set| self.source_ports(set)).collect();
        let asked: Vec<_> = requests.iter().map(|set| self.requests(set)).collect();
        let mut all = services.into_iter().collect::<Option<Vec<_>>>()?;
        if refining.is_empty() && requests.is_empty() {
            return self.some_service(Services::Intersect(all), set.span);
        }
        self.some_service(Services::Intersect(all.clone()), set.span)?;
        if let Some(first) = requests.first() {
            self.carry_requests(&all, &refined, first.span)?;
            all.extend(asked.into_iter().collect::<Option<Vec<_>>>()?);
        }
        let Some(first) = refining.first() else {
            return self.some_service(Services::Intersect(all), set.span);
        };
        let with_ports = Services::Union(PORT_PROTOCOLS.map(whole).to_vec());
        let ported = Services::Intersect(all.iter().cloned().chain([with_ports]).collect());
        let empty = sets::services_empty(&ported, &mut self.budget);
        if self.answered(empty, set.span)? {
            let message = "only `tcp`, `udp` and `sctp` have source ports";
            let report = Diagnostic::new(codes::NO_PORTS, message, first.span);
            let report = refined.iter().fold(report, |r, set| r.and(set.span, "has none"));
            self.report(report);
            return None;
        }
        all.extend(ports.into_iter().collect::<Option<Vec<_>>>()?);
        self.some_service(Services::Intersect(all), set.span)
    }

    /// `sport(…)`, or several in braces.
    fn source_ports(&mut self, set: &'a Set) -> Option<Services> {
        self.nodes += 1;
        let arguments = match &set.kind {
            SetKind::Union(sets) => {
                let parts: Vec<_> = sets.iter().map(|set| self.source_ports(set)).collect();
                return Some(Services::Union(parts.into_iter().collect::<Option<_>>()?));
            }
            SetKind::Call { arguments, .. } => arguments,
            _ => return None,
        };
        let (first, last, span) = match arguments.as_slice() {
            [Literal { value: LiteralValue::Number(port), span }] => (*port, *port, *span),
            [Literal { value: LiteralValue::Range(first, last), span }] => (*first, *last, *span),
            _ => {
                let message = "`sport` takes one port or range";
                let report = Diagnostic::new(codes::EXPECTED, message, set.span);
                self.report(report.help("write `sport(53)` or `sport(1024-65535)`"));
                return None;
            }
        };
        let (Ok(low), Ok(high)) = (u16::try_from(first), u16::try_from(last)) else {
            let message = format!("`{}` is above 65535, the last port", first.max(last));
            self.refuse(codes::BAD_PORT, message, span);
            return None;
        };
        if low > high {
            let message = format!("the range `{low}-{high}` runs backwards");
            let report = Diagnostic::new(codes::BACKWARDS, message, span);
            self.report(report.fix(span, format!("{high}-{low}")));
            return None;
        }
        Some(Services::SourcePorts { first: low, last: high })
    }

    /// `icmp/3/4`: a type and its codes.
    pub(super) fn codes(
        &mut self,
        protocol: &Name,
        of: &Spanned<Port>,
        codes: &[Spanned<Port>],
        span: Span,
    ) -> Option<Services> {
        let types = self.ports(protocol, std::slice::from_ref(of), of.span)?;
        // `proto/1` is a protocol and not a type of it.
        let (
            Services::Ports { protocol: number @ (protocol::ICMP | protocol::ICMP6), first, last },
            true,
        ) = (types, protocol.value != "proto")
        else {
            let message = format!("`{}` has no codes", protocol.value);
            let report = Diagnostic::new(codes::NO_PORTS, message, span);
            self.report(report.help("codes belong to types of `icmp` and `icmp6`"));
            return None;
        };
        if codes.is_empty() {
            self.refuse(codes::EMPTY_SET, "nothing is in an empty set", span);
            return None;
        }
        let names = if first == last { code_names(number, first) } else { &[] };
        let parts: Vec<_> = codes.iter().map(|code| self.code(names, code)).collect();
        let mut sets = vec![];
        for part in parts {
            let (low, high) = part?;
            let types = Services::Ports { protocol: number, first, last };
            let codes = Services::Codes { protocol: number, first: low, last: high };
            sets.push(Services::Intersect(vec![types, codes]));
        }
        if sets.len() == 1 { sets.pop() } else { Some(Services::Union(sets)) }
    }

    /// `tcp/admin`: the port that the destination calls so.
    pub(super) fn workload_port(
        &mut self,
        protocol: u8,
        word: &str,
        span: Span,
    ) -> Option<Services> {
        let name = word.to_owned();
        if self.policy.ports.contains(word) {
            return Some(Services::Named { protocol, name });
        }
        self.failed = true;
        // It may be named in what did not parse.
        if self.names.any_broken {
            return None;
        }
        let icmp = [protocol::ICMP, protocol::ICMP6];
        let is_type = |p: &u8| type_names(*p).iter().any(|(known, _)| *known == word);
        if let Some(other) = icmp.into_iter().find(is_type).and_then(protocol_name) {
            let of = protocol_name(protocol).unwrap_or_default();
            let message = format!("`{of}` has no `{word}`; it is a type of `{other}`");
            self.refuse(codes::NO_PORTS, message, span);
            return None;
        }
        let message = format!("no workload has a port `{word}`");
        let report = Diagnostic::new(codes::UNKNOWN_PORT, message, span);
        let report = match nearest(word, self.policy.ports.iter().map(String::as_str)) {
            Some(near) => suggest(report, &Spanned { value: name, span }, near),
            None => {
                let of = protocol_name(protocol).unwrap_or_default();
                report.help(format!(
                    "write the number, a service of `std.services`, or give a workload `on {{ {word} = {of}/… }}`"
                ))
            }
        };
        self.report(report);
        None
    }

    /// The named ports of a workload: each one protocol and one port.
    pub(super) fn workload_ports(
        &mut self,
        file: FileId,
        ports: &'a [(Name, Set)],
    ) -> Option<BTreeMap<String, (u8, u16)>> {
        let mut known: BTreeMap<String, (u8, u16)> = BTreeMap::new();
        let mut sound = true;
        for (index, (name, set)) in ports.iter().enumerate() {
            if let Some((first, _)) = ports.iter().take(index).find(|(n, _)| n.value == name.value)
            {
                let message = format!("this workload has two ports `{}`", name.value);
                let report = Diagnostic::new(codes::DEFINED_TWICE, message, name.span);
                self.report(report.and(first.span, "first here"));
                sound = false;
                continue;
            }
            match self.services(file, set) {
                Some(Services::Ports { protocol, first, last })
                    if first == last && PORT_PROTOCOLS.contains(&protocol) =>
                {
                    known.insert(name.value.clone(), (protocol, first));
                }
                Some(_) => {
                    let message = "a named port is one port of `tcp`, `udp` or `sctp`";
                    let report = Diagnostic::new(codes::BAD_WORKLOAD, message, set.span);
                    self.report(report.help(format!("write `{} = tcp/8443`", name.value)));
                    sound = false;
                }
                None => sound = false,
            }
        }
        sound.then_some(known)
    }

    fn code(&mut self, names: &[(&str, u16)], code: &Spanned<Port>) -> Option<(u8, u8)> {
        let (first, last) = match &code.value {
            Port::Range(first, last) => (*first, *last),
            Port::Name(word) => match names.iter().find(|(known, _)| known == word) {
                Some((_, number)) => (*number, *number),
                None => {
                    let message = format!("this type has no code `{word}`");
                    let report = Diagnostic::new(codes::NO_PORTS, message, code.span);
                    let word = Spanned { value: word.clone(), span: code.span };
                    self.report(
                        match nearest(&word.value, names.iter().map(|(known, _)| *known)) {
                            Some(near) => suggest(report, &word, near),
                            None => report.help("write the number of the code"),
                        },
                    );
                    return None;
                }
            },
        };
        let (Ok(first), Ok(last)) = (u8::try_from(first), u8::try_from(last)) else {
            self.refuse(codes::BAD_PORT, "an ICMP code is at most 255", code.span);
            return None;
        };
        Some((first, last))
    }
}

/// Whether a set is made of nothing but predicates on source ports.
fn refines(set: &Set) -> bool {
    match &set.kind {
        SetKind::Call { name, .. } => name.value == "sport",
        SetKind::Union(sets) => !sets.is_empty() && sets.iter().all(refines),
        _ => false,
    }
}
