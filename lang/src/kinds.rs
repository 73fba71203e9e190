//! What requests, names and control groups are as far as sets can tell them apart.

use crate::eval::Request;
use crate::policy::{NamePattern, PathPattern, Services};
use std::collections::BTreeSet;

/// A predicate on requests: the method and the path it wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Http {
    /// The method; `None` for any.
    pub method: Option<String>,
    /// The path; `None` for any.
    pub path: Option<PathPattern>,
}

impl Http {
    /// Adds the predicates of a set of services.
    pub fn collect(set: &Services, found: &mut BTreeSet<Self>) {
        match set {
            Services::Http { method, path } => {
                found.insert(Self { method: method.clone(), path: path.clone() });
            }
            Services::Union(sets) | Services::Intersect(sets) => {
                sets.iter().for_each(|set| Self::collect(set, found));
            }
            Services::Except(set, taken) => {
                Self::collect(set, found);
                Self::collect(taken, found);
            }
            Services::Any
            | Services::Ports { .. }
            | Services::SourcePorts { .. }
            | Services::Codes { .. }
            | Services::Named { .. } => {}
        }
    }

    /// Whether a request is as wanted.
    pub fn holds(&self, request: &Request) -> bool {
        self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.path.as_ref().is_none_or(|wanted| match wanted.prefix {
                true => request.path.starts_with(&wanted.text),
                false => request.path == wanted.text,
            })
    }
}

/// Methods and paths: every request is for each of the predicates like one with a method and a path of these.
///
/// Cost: for each path of a predicate, those that begin like it.
pub fn requests(predicates: &BTreeSet<Http>) -> (Vec<String>, Vec<String>) {
    let mut methods: Vec<String> = predicates
        .iter()
        .filter_map(|of| of.method.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let common = ["GET", "POST", "PUT", "DELETE"].map(str::to_owned);
    let numbered = (1..).map(|n| "X".repeat(n));
    methods.extend(common.into_iter().chain(numbered).find(|method| !methods.contains(method)));

    let patterns: BTreeSet<&PathPattern> =
        predicates.iter().filter_map(|of| of.path.as_ref()).collect();
    let texts: BTreeSet<&str> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
    let exact = patterns.iter().filter(|pattern| !pattern.prefix).map(|p| p.text.as_str());
    let beginnings = patterns.iter().filter(|pattern| pattern.prefix).map(|p| p.text.as_str());
    let beginnings: BTreeSet<&str> = beginnings.chain(["/"]).collect();
    let mut paths: BTreeSet<String> = exact.map(str::to_owned).collect();
    // Of the paths with a beginning, and with no longer one, stands one whose next character nobody mentions.
    paths.extend(beginnings.into_iter().map(|beginning| {
        let longer = texts.range(beginning..).map_while(|text| text.strip_prefix(beginning));
        let taken: BTreeSet<char> = longer.filter_map(|rest| rest.chars().next()).collect();
        let next = ('x'..='z').chain('a'..='w').chain('0'..='9').chain('\u{a1}'..);
        let next = next.into_iter().find(|next| !taken.contains(next));
        format!("{beginning}{}", next.map(String::from).unwrap_or_default())
    }));
    (methods, paths.into_iter().collect())
}

/// Whether every name of the one form is of the other.
pub fn name_within(inner: &NamePattern, outer: &NamePattern) -> bool {
    let front = inner.name.strip_suffix(&outer.name);
    match (outer.below, front) {
        (_, None) => false,
        (true, Some("")) => inner.below,
        (true, Some(front)) => front.ends_with('.'),
        (false, Some(front)) => front.is_empty() && !inner.below,
    }
}

/// Whether a control group is the other one or below it.
pub fn cgroup_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
