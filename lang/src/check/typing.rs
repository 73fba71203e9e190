//! The typing of sets: each is endpoints or services, inhabited, and not too large to write out.

use super::predicates::{is_local, operands};
use super::{
    Checker, POLICY_NODES_MAX, Place, SERVICES_WORK_MAX, SET_DEPTH_MAX, SET_NODES_MAX,
    VALUES_SHOWN_MAX, Value, Weight, written,
};
use crate::ast::{DefineKind, Name, Path, Port, Set, SetKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::policy::{Endpoints, LabelId, Services, protocol};
use crate::resolve::{Target, What, nearest, suggest};
use crate::sets::{self, TooLarge};
use crate::source::{FileId, Span, Spanned};
use crate::types::{Builtin, PORT_PROTOCOLS, protocol_name, protocol_number, type_names, whole};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

impl<'a> Checker<'a, '_> {
    /// A set that must hold endpoints.
    pub(super) fn endpoints(
        &mut self,
        file: FileId,
        set: &'a Set,
        place: Place,
    ) -> Option<Endpoints> {
        self.nodes = 0;
        self.vague = false;
        let value = self.endpoints_in(file, set, place);
        let value = value.filter(|value| self.fits(endpoints_weight(value), set.span));
        self.failed |= value.is_none();
        value
    }

    /// A set that must hold services.
    pub(super) fn services(&mut self, file: FileId, set: &'a Set) -> Option<Services> {
        self.nodes = 0;
        self.vague = false;
        let value = self.services_in(file, set);
        let value = value.filter(|value| {
            let weight = services_weight(value);
            self.fits(weight, set.span) && self.services_fit(value, weight, set.span)
        });
        self.failed |= value.is_none();
        value
    }

    pub(super) fn endpoints_in(
        &mut self,
        file: FileId,
        set: &'a Set,
        place: Place,
    ) -> Option<Endpoints> {
        self.nodes += 1;
        match &set.kind {
            SetKind::Except(a, b) => {
                let [a, b] = [a, b].map(|side| self.endpoints_in(file, side, place.operand()));
                let value = Endpoints::Except(Box::new(a?), Box::new(b?));
                self.inhabited(value, set.span)
            }
            SetKind::And(a, b) => {
                if operands(set).into_iter().any(is_local) {
                    return self.local(file, set, place);
                }
                let [a, b] = [a, b].map(|side| self.endpoints_in(file, side, place.operand()));
                let mut parts = vec![];
                for side in [a?, b?] {
                    match side {
                        Endpoints::Intersect(inner) => parts.extend(inner),
                        other => parts.push(other),
                    }
                }
                self.inhabited(Endpoints::Intersect(parts), set.span)
            }
            SetKind::Union(sets) => {
                self.not_void(sets, set.span)?;
                let parts: Vec<_> =
                    sets.iter().map(|s| self.endpoints_in(file, s, place)).collect();
                let mut union = vec![];
                for part in parts {
                    match part? {
                        Endpoints::Union(inner) => union.extend(inner),
                        other => union.push(other),
                    }
                }
                Some(Endpoints::Union(union))
            }
            SetKind::Any => Some(Endpoints::Any),
            SetKind::SelfHost => self.beyond_net(place, "`self`", set.span, Endpoints::SelfHost),
            SetKind::Path(path) => self.endpoints_path(file, path, place),
            SetKind::Label { key, values } => {
                let label = self.label(file, key, values.as_deref(), set.span)?;
                let text = format!("`{}`", self.sources.text(set.span));
                self.beyond_net(place, &text, set.span, label)
            }
            SetKind::Prefix { address, len } => {
                let (first, last) = prefix_range(*address, *len);
                let addresses = Endpoints::Addresses(first, last);
                if place == Place::Claim && first == last {
                    return Some(self.endpoint_at(first, addresses));
                }
                Some(addresses)
            }
            SetKind::Range(first, last) => self.range(*first, *last, set.span),
            SetKind::Ports { .. } | SetKind::Codes { .. } => {
                let message =
                    format!("expected endpoints, `{}` is a service", self.sources.text(set.span));
                self.refuse(codes::NOT_ENDPOINTS, message, set.span);
                None
            }
            SetKind::Call { name, arguments } => {
                self.endpoints_call(name, arguments, set.span, place)
            }
            SetKind::Error => None,
        }
    }

    /// The endpoint with an address: the workload of the inventory, or else one outside it.
    fn endpoint_at(&self, address: IpAddr, addresses: Endpoints) -> Endpoints {
        let who = match self.at_address.get(&address) {
            Some(id) => Endpoints::Workload(*id),
            None => Endpoints::Unmanaged,
        };
        Endpoints::Intersect(vec![who, addresses])
    }

    pub(super) fn services_in(&mut self, file: FileId, set: &'a Set) -> Option<Services> {
        self.nodes += 1;
        match &set.kind {
            SetKind::Except(a, b) => {
                let (a, b) = (self.services_in(file, a), self.services_in(file, b));
                self.some_service(Services::Except(Box::new(a?), Box::new(b?)), set.span)
            }
            SetKind::And(..) => self.refined(file, set),
            SetKind::Union(sets) => {
                self.not_void(sets, set.span)?;
                let parts: Vec<_> = sets.iter().map(|s| self.services_in(file, s)).collect();
                let mut union = vec![];
                for part in parts {
                    match part? {
                        Services::Union(inner) => union.extend(inner),
                        other => union.push(other),
                    }
                }
                Some(Services::Union(union))
            }
            SetKind::Any => Some(Services::Any),
            SetKind::Path(path) => self.services_path(file, path),
            SetKind::Ports { protocol, ports } => self.ports(protocol, ports, set.span),
            SetKind::SelfHost
            | SetKind::Label { .. }
            | SetKind::Prefix { .. }
            | SetKind::Range(..) => {
                let text = self.sources.text(set.span);
                let message = format!("expected a service, `{text}` is a set of endpoints");
                self.refuse(codes::NOT_A_SERVICE, message, set.span);
                None
            }
            SetKind::Codes { protocol, of, codes } => self.codes(protocol, of, codes, set.span),
            SetKind::Call { name, .. } => self.services_call(name, set.span),
            SetKind::Error => None,
        }
    }

    fn endpoints_path(&mut self, file: FileId, path: &Path, place: Place) -> Option<Endpoints> {
        if let Some(argument) = self.argument(path) {
            return self.endpoints_argument(&argument, path);
        }
        let name = || written(path);
        let definition = match self.target(file, path)? {
            Target::Builtin(Builtin::Managed) => return Some(Endpoints::Managed),
            Target::Builtin(Builtin::Unmanaged) => return Some(Endpoints::Unmanaged),
            Target::Builtin(Builtin::Protocol(_)) => {
                let message = format!("expected endpoints, `{}` is a service", name());
                self.refuse(codes::NOT_ENDPOINTS, message, path.span);
                return None;
            }
            Target::Definition(definition) => definition,
        };
        let what = definition.what.describe();
        let (code, message) = match definition.what {
            What::Set(DefineKind::Group, _) if place == Place::Net => {
                (codes::NOT_A_NET, format!("a net holds addresses, `{}` is {what}", name()))
            }
            What::Workload { .. } if !matches!(place, Place::Claim | Place::ClaimPart) => {
                let message =
                    format!("a rule speaks of labels and addresses, `{}` is {what}", name());
                (codes::WORKLOAD_IN_RULE, message)
            }
            What::Set(DefineKind::Service, _) => {
                (codes::NOT_ENDPOINTS, format!("expected endpoints, `{}` is {what}", name()))
            }
            What::Template { .. } => {
                (codes::NOT_ENDPOINTS, format!("expected endpoints, `{}` is {what}", name()))
            }
            What::Set(DefineKind::Net | DefineKind::Group, _) | What::Workload { .. } => {
                return match self.values.get(&definition.key())? {
                    Value::Workload(id) => Some(Endpoints::Workload(*id)),
                    Value::Endpoints(set, weight) => {
                        let set = Rc::clone(set);
                        self.room_for(*weight, path.span).then(|| (*set).clone())
                    }
                    Value::Services(..) => None,
                };
            }
        };
        let report = Diagnostic::new(code, message, path.span);
        self.report(report.and(definition.name.span, "defined here"));
        None
    }

    fn services_path(&mut self, file: FileId, path: &Path) -> Option<Services> {
        if let Some(argument) = self.argument(path) {
            return self.services_argument(&argument, path);
        }
        let name = || written(path);
        let definition = match self.target(file, path)? {
            Target::Builtin(Builtin::Protocol(number)) => return Some(whole(number)),
            Target::Builtin(Builtin::Managed | Builtin::Unmanaged) => {
                let message = format!("expected a service, `{}` is a set of endpoints", name());
                self.refuse(codes::NOT_A_SERVICE, message, path.span);
                return None;
            }
            Target::Definition(definition) => definition,
        };
        match definition.what {
            What::Set(DefineKind::Service, _) => match self.values.get(&definition.key())? {
                Value::Services(set, weight) => {
                    let set = Rc::clone(set);
                    self.room_for(*weight, path.span).then(|| (*set).clone())
                }
                Value::Endpoints(..) | Value::Workload(_) => None,
            },
            What::Set(DefineKind::Net | DefineKind::Group, _)
            | What::Workload { .. }
            | What::Template { .. } => {
                let what = definition.what.describe();
                let message = format!("expected a service, `{}` is {what}", name());
                let report = Diagnostic::new(codes::NOT_A_SERVICE, message, path.span);
                self.report(report.and(definition.name.span, "defined here"));
                None
            }
        }
    }

    fn label(
        &mut self,
        file: FileId,
        key: &Name,
        values: Option<&[Name]>,
        span: Span,
    ) -> Option<Endpoints> {
        let label = match self.names.label(file, key) {
            Ok(label) => label,
            Err(miss) => {
                self.missing(miss);
                return None;
            }
        };
        let Some(values) = values else { return Some(Endpoints::Has(label)) };
        if values.is_empty() {
            self.refuse(codes::EMPTY_SET, "nothing is in an empty set", span);
            return None;
        }
        let names = self.names;
        let dimension = names.labels.get(label.0 as usize)?;
        if let Some(declared) = &dimension.values {
            for value in values.iter().filter(|v| !declared.contains(&v.value)) {
                let list = || declared.iter().map(String::as_str);
                let shown = list().take(VALUES_SHOWN_MAX).collect::<Vec<_>>().join(", ");
                let more = if declared.len() > VALUES_SHOWN_MAX { ", …" } else { "" };
                let message = format!("`{}` has no value `{}`", key.value, value.value);
                let report = Diagnostic::new(codes::UNKNOWN_VALUE, message, value.span)
                    .and(dimension.span, format!("values: {shown}{more}"));
                self.report(match names.nearest(&value.value, list()) {
                    Some(near) => suggest(report, value, near),
                    None => report,
                });
            }
            if values.iter().any(|v| !declared.contains(&v.value)) {
                return None;
            }
        }
        Some(Endpoints::Label(label, values.iter().map(|v| v.value.clone()).collect()))
    }

    fn range(&mut self, first: IpAddr, last: IpAddr, span: Span) -> Option<Endpoints> {
        if first.is_ipv4() != last.is_ipv4() {
            let message = "a range cannot run from IPv4 to IPv6";
            self.refuse(codes::MIXED_FAMILIES, message, span);
            return None;
        }
        if first > last {
            self.refuse(codes::BACKWARDS, "this range runs backwards", span);
            return None;
        }
        Some(Endpoints::Addresses(first, last))
    }

    pub(super) fn ports(
        &mut self,
        protocol: &Name,
        ports: &[Spanned<Port>],
        span: Span,
    ) -> Option<Services> {
        let name = protocol.value.as_str();
        let number = protocol_number(name);
        if number.is_none() && name != "proto" {
            let message = format!("no protocol `{name}` here");
            let report = Diagnostic::new(codes::UNKNOWN_NAME, message, protocol.span);
            let known = ["tcp", "udp", "sctp", "icmp", "icmp6", "proto"];
            let same = known.into_iter().find(|k| k.eq_ignore_ascii_case(name));
            self.report(match same.or_else(|| nearest(name, known.into_iter())) {
                Some(near) => suggest(report, protocol, near),
                None => report.help("write it by number, as in `proto/47`"),
            });
            return None;
        }
        if ports.is_empty() {
            self.refuse(codes::EMPTY_SET, "nothing is in an empty set", span);
            return None;
        }
        let parts: Vec<_> = ports.iter().map(|port| self.port(number, name, port)).collect();
        let mut parts = parts.into_iter().collect::<Option<Vec<_>>>()?.concat();
        match parts.len() {
            1 => parts.pop(),
            _ => Some(Services::Union(parts)),
        }
    }

    /// What `port` after `name/` matches; `number` is `None` for `proto`.
    fn port(
        &mut self,
        number: Option<u8>,
        name: &str,
        port: &Spanned<Port>,
    ) -> Option<Vec<Services>> {
        let (first, last) = match &port.value {
            Port::Range(first, last) => (*first, *last),
            Port::Name(word) if number.is_some_and(|n| PORT_PROTOCOLS.contains(&n)) => {
                return self.workload_port(number?, word, port.span).map(|named| vec![named]);
            }
            Port::Name(word) => {
                let number = self.named_port(number, name, word, port.span)?;
                (number, number)
            }
        };
        let (max, what) = match number {
            None => (255, "a protocol number is at most 255"),
            Some(protocol::ICMP | protocol::ICMP6) => (255, "an ICMP type is at most 255"),
            Some(_) => (u16::MAX, "a port is at most 65535"),
        };
        if first > last {
            self.refuse(codes::BACKWARDS, "this range runs backwards", port.span);
            return None;
        }
        if last > max {
            self.refuse(codes::BAD_PORT, what, port.span);
            return None;
        }
        Some(match number {
            Some(protocol) => vec![Services::Ports { protocol, first, last }],
            None => (first..=last).filter_map(|n| u8::try_from(n).ok()).map(whole).collect(),
        })
    }

    fn named_port(
        &mut self,
        number: Option<u8>,
        name: &str,
        word: &str,
        span: Span,
    ) -> Option<u16> {
        let types = number.map_or(&[] as &[_], type_names);
        if let Some((_, number)) = types.iter().find(|(known, _)| *known == word) {
            return Some(*number);
        }
        let icmp = [protocol::ICMP, protocol::ICMP6];
        let is_type = |p: &&u8| type_names(**p).iter().any(|(known, _)| *known == word);
        let report = if types.is_empty() {
            match icmp.iter().find(is_type).and_then(|p| protocol_name(*p)) {
                Some(other) => {
                    let message = format!("`{name}` has no `{word}`; it is a type of `{other}`");
                    Diagnostic::new(codes::NO_PORTS, message, span)
                }
                None => {
                    let message = format!("`{name}` has no names for numbers");
                    let help = "write the number, or a service of `std.services`";
                    Diagnostic::new(codes::NO_PORTS, message, span).help(help)
                }
            }
        } else {
            let message = format!("`{name}` has no type `{word}`");
            let report = Diagnostic::new(codes::NO_PORTS, message, span);
            let word = Spanned { value: word.to_owned(), span };
            match nearest(&word.value, types.iter().map(|(known, _)| *known)) {
                Some(near) => suggest(report, &word, near),
                None => report.help("write the number of the type"),
            }
        };
        self.report(report);
        None
    }

    pub(super) fn workload_addresses(
        &mut self,
        file: FileId,
        at: &'a Set,
    ) -> Option<BTreeSet<IpAddr>> {
        let set = self.endpoints(file, at, Place::Net)?;
        let parts = match set {
            Endpoints::Union(parts) => parts,
            other => vec![other],
        };
        let mut addresses = BTreeSet::new();
        for part in parts {
            match part {
                Endpoints::Addresses(first, last) if first == last => {
                    addresses.insert(first);
                }
                _ => {
                    let message = "a workload has single addresses";
                    let help = "write `at 10.0.0.1` or `at { 10.0.0.1, fd00::1 }`";
                    let report = Diagnostic::new(codes::BAD_WORKLOAD, message, at.span);
                    self.report(report.help(help));
                    return None;
                }
            }
        }
        Some(addresses)
    }

    /// The labels of a workload: one value in each dimension named; `managed` alone for none.
    pub(super) fn workload_labels(
        &mut self,
        file: FileId,
        is: &'a Set,
    ) -> Option<Vec<(LabelId, String)>> {
        let set = self.endpoints(file, is, Place::Rule)?;
        let parts = match set {
            Endpoints::Intersect(parts) => parts,
            other => vec![other],
        };
        let mut labels = BTreeMap::new();
        for part in parts {
            match part {
                Endpoints::Managed => {}
                Endpoints::Label(label, values) if values.len() == 1 => {
                    labels.extend(values.into_iter().map(|value| (label, value)));
                }
                _ => {
                    let message = "the labels of a workload are single values";
                    let help = "write `is app:shop & role:web`, or `is managed` for no label";
                    let report = Diagnostic::new(codes::BAD_WORKLOAD, message, is.span);
                    self.report(report.help(help));
                    return None;
                }
            }
        }
        Some(labels.into_iter().collect())
    }

    pub(super) fn beyond_net(
        &mut self,
        place: Place,
        text: &str,
        span: Span,
        value: Endpoints,
    ) -> Option<Endpoints> {
        if place != Place::Net {
            return Some(value);
        }
        let report = Diagnostic::new(
            codes::NOT_A_NET,
            format!("a net holds addresses, {text} is more"),
            span,
        );
        self.report(report.help("define it as a `group`"));
        None
    }

    /// `value`, unless nothing is in it.
    pub(super) fn inhabited(&mut self, value: Endpoints, span: Span) -> Option<Endpoints> {
        // Recursion over the set must be safe before any question is asked about it.
        if endpoints_weight(&value).depth > SET_DEPTH_MAX {
            return self.too_deep(span);
        }
        if self.vague {
            return Some(value);
        }
        let empty = sets::endpoints_empty(&self.policy, &value, &mut self.budget);
        if !self.answered(empty, span)? {
            return Some(value);
        }
        let text = self.sources.text(span);
        let report = match self.clash(&value) {
            Some((label, words)) => {
                let message = format!("a workload has one `{label}`: `{text}` is empty");
                let help = format!("write `{label}:{{ {} }}` for either", words.join(", "));
                Diagnostic::new(codes::EMPTY_SET, message, span).help(help)
            }
            None => Diagnostic::new(codes::EMPTY_SET, format!("nothing is in `{text}`"), span),
        };
        self.report(report);
        None
    }

    /// Two label tests of one dimension that exclude each other.
    fn clash(&self, value: &Endpoints) -> Option<(&'a str, Vec<String>)> {
        let Endpoints::Intersect(parts) = value else { return None };
        let mut seen: BTreeMap<LabelId, &BTreeSet<String>> = BTreeMap::new();
        for part in parts {
            let Endpoints::Label(label, words) = part else { continue };
            if let Some(before) = seen.insert(*label, words)
                && before.is_disjoint(words)
            {
                let name = &self.names.labels.get(label.0 as usize)?.name;
                return Some((name, before.union(words).cloned().collect()));
            }
        }
        None
    }

    pub(super) fn some_service(&mut self, value: Services, span: Span) -> Option<Services> {
        if services_weight(&value).depth > SET_DEPTH_MAX {
            return self.too_deep(span);
        }
        if self.vague {
            return Some(value);
        }
        let empty = sets::services_empty(&value, &mut self.budget);
        if !self.answered(empty, span)? {
            return Some(value);
        }
        let message = format!("no service is in `{}`", self.sources.text(span));
        self.refuse(codes::EMPTY_SET, message, span);
        None
    }

    fn not_void(&mut self, sets: &[Set], span: Span) -> Option<()> {
        if sets.is_empty() {
            self.refuse(codes::EMPTY_SET, "nothing is in an empty set", span);
            return None;
        }
        Some(())
    }

    pub(super) fn subset(
        &mut self,
        inner: &Endpoints,
        outer: &Endpoints,
        span: Span,
    ) -> Option<bool> {
        let answer = sets::endpoints_subset(&self.policy, inner, outer, &mut self.budget);
        self.answered(answer, span)
    }

    pub(super) fn answered(&mut self, answer: Result<bool, TooLarge>, span: Span) -> Option<bool> {
        match answer {
            Ok(answer) => Some(answer),
            Err(TooLarge) => self.exhaust("the sets of this policy are too large to check", span),
        }
    }

    /// Counts what a name adds to the set at hand; the step over the limit is reported, later ones are not.
    pub(super) fn room_for(&mut self, weight: Weight, span: Span) -> bool {
        let before = self.nodes;
        self.nodes += weight.nodes;
        if before <= SET_NODES_MAX && self.nodes > SET_NODES_MAX {
            return self.too_large::<()>(span).is_some();
        }
        self.nodes <= SET_NODES_MAX
    }

    fn fits(&mut self, weight: Weight, span: Span) -> bool {
        self.policy_nodes += weight.nodes;
        if weight.depth > SET_DEPTH_MAX {
            self.too_deep::<()>(span).is_some()
        } else if weight.nodes > SET_NODES_MAX {
            self.too_large::<()>(span).is_some()
        } else if self.policy_nodes > POLICY_NODES_MAX {
            let message =
                format!("the sets of this policy have more than {POLICY_NODES_MAX} parts together");
            self.exhaust::<()>(&message, span).is_some()
        } else {
            true
        }
    }

    fn services_fit(&mut self, value: &Services, weight: Weight, span: Span) -> bool {
        if sets::services_work(value, weight.nodes) <= SERVICES_WORK_MAX {
            return true;
        }
        let message = "this set tells apart too many source ports, codes, named ports or requests";
        self.refuse(codes::SETS_TOO_LARGE, message, span);
        false
    }

    pub(super) fn target(&mut self, file: FileId, path: &Path) -> Option<Target<'a>> {
        match self.names.target(file, path) {
            Ok(target) => Some(target),
            Err(miss) => {
                let parameter = self.frame.as_ref().and_then(|frame| frame.like(path));
                self.missing(match (miss, parameter) {
                    (Some(_), Some(near)) => {
                        let message = format!("no `{}` here", written(path));
                        let report = Diagnostic::new(codes::UNKNOWN_NAME, message, path.span);
                        path.parts.first().map(|name| Box::new(suggest(report, name, near)))
                    }
                    (miss, _) => miss,
                });
                None
            }
        }
    }
}

pub(super) fn endpoints_weight(set: &Endpoints) -> Weight {
    match set {
        Endpoints::Union(sets) | Endpoints::Intersect(sets) => {
            Weight::above(sets.iter().map(endpoints_weight))
        }
        Endpoints::Except(a, b) => Weight::above([endpoints_weight(a), endpoints_weight(b)]),
        Endpoints::Any
        | Endpoints::Managed
        | Endpoints::Unmanaged
        | Endpoints::SelfHost
        | Endpoints::Has(_)
        | Endpoints::Label(..)
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_)
        | Endpoints::Name(_)
        | Endpoints::Cgroup(_) => Weight::above([]),
    }
}

pub(super) fn services_weight(set: &Services) -> Weight {
    match set {
        Services::Union(sets) | Services::Intersect(sets) => {
            Weight::above(sets.iter().map(services_weight))
        }
        Services::Except(a, b) => Weight::above([services_weight(a), services_weight(b)]),
        Services::Any
        | Services::Ports { .. }
        | Services::SourcePorts { .. }
        | Services::Codes { .. }
        | Services::Named { .. }
        | Services::Http { .. } => Weight::above([]),
    }
}

impl Weight {
    fn above(parts: impl IntoIterator<Item = Self>) -> Self {
        let start = Self { nodes: 1, depth: 1 };
        parts.into_iter().fold(start, |all, part| Self {
            nodes: all.nodes + part.nodes,
            depth: all.depth.max(part.depth + 1),
        })
    }
}

/// First and last address of a prefix.
fn prefix_range(address: IpAddr, len: u8) -> (IpAddr, IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            let address = u32::from(address);
            (IpAddr::V4((address & !host).into()), IpAddr::V4((address | host).into()))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
            let address = u128::from(address);
            (IpAddr::V6((address & !host).into()), IpAddr::V6((address | host).into()))
        }
    }
}
