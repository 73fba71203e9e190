//! The typing of `http(…)`, `fqdn(…)` and `cgroup(…)`: what they take, and where each may stand.

use super::{Checker, Place};
use crate::ast::{Literal, LiteralValue, Name, Set, SetKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::policy::{Endpoints, NamePattern, PathPattern, Services, protocol};
use crate::resolve::{nearest, suggest};
use crate::sets;
use crate::source::{FileId, Span};
use crate::types::whole;
use std::net::IpAddr;

/// The predicates there are.
const PREDICATES: [&str; 4] = ["cgroup", "fqdn", "http", "sport"];

/// The longest domain name, and the longest label of one. Unit: characters. Source: RFC 1035, section 2.3.4.
const NAME_MAX: usize = 253;
const NAME_LABEL_MAX: usize = 63;

impl<'a> Checker<'a, '_> {
    /// A predicate where endpoints are expected.
    pub(super) fn endpoints_call(
        &mut self,
        name: &'a Name,
        arguments: &[Literal],
        span: Span,
        place: Place,
    ) -> Option<Endpoints> {
        let text = self.sources.text(span);
        match name.value.as_str() {
            "fqdn" => {
                let pattern = self.name_pattern(arguments, span)?;
                self.beyond_net(place, &format!("`{text}`"), span, Endpoints::Name(pattern))
            }
            "cgroup" => {
                let message = format!("`{text}` speaks of processes of this machine");
                let report = Diagnostic::new(codes::NOT_LOCAL, message, span);
                self.report(report.help(format!("write `self & {text}`")));
                None
            }
            "http" | "sport" => {
                let message = format!("expected endpoints, `{text}` is a set of services");
                self.refuse(codes::NOT_ENDPOINTS, message, span);
                None
            }
            _ => self.no_predicate(name),
        }
    }

    /// A predicate where a service is expected, and beside none.
    pub(super) fn services_call(&mut self, name: &'a Name, span: Span) -> Option<Services> {
        let text = self.sources.text(span);
        let example = match name.value.as_str() {
            "http" => "tcp/80",
            "sport" => "tcp/22",
            "fqdn" | "cgroup" => {
                let message = format!("expected a service, `{text}` is a set of endpoints");
                self.refuse(codes::NOT_A_SERVICE, message, span);
                return None;
            }
            _ => return self.no_predicate(name),
        };
        let message = format!("`{text}` refines a service, and none is here");
        let help = format!("refine a service with it, as in `{example} & {text}`");
        self.report(Diagnostic::new(codes::REFINES_NOTHING, message, span).help(help));
        None
    }

    fn no_predicate<T>(&mut self, name: &Name) -> Option<T> {
        let message = format!("no predicate `{}` here", name.value);
        let report = Diagnostic::new(codes::UNKNOWN_NAME, message, name.span);
        self.report(match nearest(&name.value, PREDICATES.into_iter()) {
            Some(near) => suggest(report, name, near),
            None => report.help(format!("known are: {}", PREDICATES.join(", "))),
        });
        None
    }

    /// `a & b & …` with control groups among them: the others must be this machine.
    pub(super) fn local(&mut self, file: FileId, set: &'a Set, place: Place) -> Option<Endpoints> {
        let (local, others): (Vec<_>, Vec<_>) =
            operands(set).into_iter().partition(|operand| is_local(operand));
        let typed: Vec<_> =
            others.iter().map(|set| self.endpoints_in(file, set, place.operand())).collect();
        let cgroups: Vec<_> = local.iter().map(|set| self.cgroups(set)).collect();
        let mut parts = vec![];
        for part in typed {
            match part? {
                Endpoints::Intersect(inner) => parts.extend(inner),
                other => parts.push(other),
            }
        }
        let cgroups = cgroups.into_iter().collect::<Option<Vec<_>>>()?;
        let ends = self.inhabited(Endpoints::Intersect(parts.clone()), set.span)?;
        if !self.vague && !self.subset(&ends, &Endpoints::SelfHost, set.span)? {
            let first = local.first()?.span;
            let text = self.sources.text(first);
            let message = format!("`{text}` speaks of processes of this machine");
            let report = Diagnostic::new(codes::NOT_LOCAL, message, first);
            let report = others.iter().fold(report, |r, set| r.and(set.span, "others are here"));
            self.report(report.help(format!("write `self & {text}`")));
            return None;
        }
        parts.extend(cgroups);
        let parts = self.beyond_net(place, "`cgroup(…)`", set.span, Endpoints::Intersect(parts))?;
        self.inhabited(parts, set.span)
    }

    /// A set of control groups.
    fn cgroups(&mut self, set: &'a Set) -> Option<Endpoints> {
        self.nodes += 1;
        match &set.kind {
            SetKind::Call { arguments, .. } => self.cgroup(arguments, set.span),
            SetKind::Union(sets) => {
                let parts: Vec<_> = sets.iter().map(|set| self.cgroups(set)).collect();
                Some(Endpoints::Union(parts.into_iter().collect::<Option<_>>()?))
            }
            SetKind::And(a, b) => {
                let (a, b) = (self.cgroups(a), self.cgroups(b));
                Some(Endpoints::Intersect(vec![a?, b?]))
            }
            SetKind::Except(a, b) => {
                let (a, b) = (self.cgroups(a), self.cgroups(b));
                Some(Endpoints::Except(Box::new(a?), Box::new(b?)))
            }
            _ => None,
        }
    }

    fn cgroup(&mut self, arguments: &[Literal], span: Span) -> Option<Endpoints> {
        let part = |part: &str| {
            !["", ".", ".."].contains(&part) && !part.chars().any(|c| c.is_control() || c == '*')
        };
        match arguments {
            [Literal { value: LiteralValue::String(path), .. }] if path.split('/').all(part) => {
                Some(Endpoints::Cgroup(path.clone()))
            }
            _ => self.bad_predicate(
                "`cgroup` takes the path of a control group, without a slash in front or behind",
                "write `cgroup(\"system.slice/ssh.service\")`; groups below it are in it",
                span,
            ),
        }
    }

    fn name_pattern(&mut self, arguments: &[Literal], span: Span) -> Option<NamePattern> {
        if let [Literal { value: LiteralValue::String(text), span }] = arguments {
            let label = |label: &str| {
                (1..=NAME_LABEL_MAX).contains(&label.len())
                    && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            };
            if text.parse::<IpAddr>().is_ok() {
                let message = format!("`{text}` is an address and no name");
                return self.bad_predicate(&message, "write the address without `fqdn`", *span);
            }
            let name = text.strip_prefix("*.");
            let (name, below) = (name.unwrap_or(text), name.is_some());
            if text.len() <= NAME_MAX && name.split('.').all(label) {
                return Some(NamePattern { name: name.to_ascii_lowercase(), below });
            }
        }
        self.bad_predicate(
            "`fqdn` takes a domain name in ASCII, without a dot at the end",
            "write `fqdn(\"api.example.com\")`, or `fqdn(\"*.example.com\")` for all names below one",
            span,
        )
    }

    /// A set of requests.
    pub(super) fn requests(&mut self, set: &'a Set) -> Option<Services> {
        self.nodes += 1;
        match &set.kind {
            SetKind::Call { arguments, .. } => self.http(arguments, set.span),
            SetKind::Union(sets) => {
                let parts: Vec<_> = sets.iter().map(|set| self.requests(set)).collect();
                Some(Services::Union(parts.into_iter().collect::<Option<_>>()?))
            }
            SetKind::And(a, b) => {
                let (a, b) = (self.requests(a), self.requests(b));
                Some(Services::Intersect(vec![a?, b?]))
            }
            SetKind::Except(a, b) => {
                let (a, b) = (self.requests(a), self.requests(b));
                Some(Services::Except(Box::new(a?), Box::new(b?)))
            }
            _ => None,
        }
    }

    fn http(&mut self, arguments: &[Literal], span: Span) -> Option<Services> {
        use LiteralValue::{Ident, String};
        let (method, path) = match arguments {
            [method @ Literal { value: Ident(_), .. }] => (Some(method), None),
            [path @ Literal { value: String(_), .. }] => (None, Some(path)),
            [method @ Literal { value: Ident(_), .. }, path @ Literal { value: String(_), .. }] => {
                (Some(method), Some(path))
            }
            _ => {
                return self.bad_predicate(
                    "`http` takes a method, a path, or both in this order",
                    "write `http(POST \"/v1/orders\")`, `http(GET)` or `http(\"/static/*\")`",
                    span,
                );
            }
        };
        let mut wanted = (None, None);
        if let Some(Literal { value: Ident(method), span }) = method {
            if method.chars().any(|c| c.is_ascii_lowercase()) {
                let upper = method.to_ascii_uppercase();
                let message = format!("`{method}` is no method; did you mean `{upper}`?");
                let report = Diagnostic::new(codes::BAD_PREDICATE, message, *span);
                self.report(report.fix(*span, upper));
                return None;
            }
            wanted.0 = Some(method.clone());
        }
        if let Some(Literal { value: String(path), span }) = path {
            let text = path.strip_suffix('*');
            let (text, prefix) = (text.unwrap_or(path), text.is_some());
            let plain = |c: char| c.is_ascii_graphic() && !['?', '#', '*'].contains(&c);
            if !text.starts_with('/') || !text.chars().all(plain) {
                return self.bad_predicate(
                    "the path of a request begins with `/`, and has no query and no spaces",
                    "a `*` may stand at its end, as in `/static/*`",
                    *span,
                );
            }
            wanted.1 = Some(PathPattern { text: text.to_owned(), prefix });
        }
        Some(Services::Http { method: wanted.0, path: wanted.1 })
    }

    /// Whether requests refine services that carry them; if not it is reported.
    pub(super) fn carry_requests(
        &mut self,
        services: &[Services],
        refined: &[&'a Set],
        first: Span,
    ) -> Option<()> {
        if self.vague {
            return Some(());
        }
        let services = Services::Intersect(services.to_vec());
        let tcp = Box::new(whole(protocol::TCP));
        let others = Services::Except(Box::new(services), tcp);
        let none = sets::services_empty(&others, &mut self.budget);
        if self.answered(none, first)? {
            return Some(());
        }
        let text = self.sources.text(first);
        let message = format!("`{text}` refines services of `tcp`");
        let report = Diagnostic::new(codes::REFINES_NOTHING, message, first);
        let report = refined.iter().fold(report, |r, set| r.and(set.span, "others are here"));
        self.report(report.help(format!("write `tcp/80 & {text}`")));
        None
    }

    fn bad_predicate<T>(&mut self, message: &str, help: &str, span: Span) -> Option<T> {
        self.report(Diagnostic::new(codes::BAD_PREDICATE, message, span).help(help));
        None
    }
}

/// The operands of `a & b & …`; the set itself if it is nothing of the kind.
pub(super) fn operands(set: &Set) -> Vec<&Set> {
    let (mut operands, mut rest) = (vec![], set);
    while let SetKind::And(a, b) = &rest.kind {
        operands.push(&**b);
        rest = a;
    }
    operands.push(rest);
    operands.reverse();
    operands
}

/// Whether a set is made of nothing but control groups.
pub(super) fn is_local(set: &Set) -> bool {
    made_of(set, "cgroup")
}

/// Whether a set is made of nothing but requests.
pub(super) fn is_http(set: &Set) -> bool {
    made_of(set, "http")
}

fn made_of(set: &Set, predicate: &str) -> bool {
    match &set.kind {
        SetKind::Call { name, .. } => name.value == predicate,
        SetKind::Union(sets) => !sets.is_empty() && sets.iter().all(|set| made_of(set, predicate)),
        SetKind::And(a, b) | SetKind::Except(a, b) => {
            made_of(a, predicate) && made_of(b, predicate)
        }
        _ => false,
    }
}

/// Whether a set of endpoints asks for control groups.
pub(super) fn speaks_of_processes(set: &Endpoints) -> bool {
    match set {
        Endpoints::Cgroup(_) => true,
        Endpoints::Union(sets) | Endpoints::Intersect(sets) => sets.iter().any(speaks_of_processes),
        Endpoints::Except(set, taken) => speaks_of_processes(set) || speaks_of_processes(taken),
        Endpoints::Any
        | Endpoints::Managed
        | Endpoints::Unmanaged
        | Endpoints::SelfHost
        | Endpoints::Has(_)
        | Endpoints::Label(..)
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_)
        | Endpoints::Name(_) => false,
    }
}
