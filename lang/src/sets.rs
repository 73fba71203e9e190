//! Whether a set is empty and whether one holds another, exactly.
//!
//! An endpoint is an address, a kind (unmanaged, managed, this machine) and at most one value in each label dimension;
//! names resolve to it, and a process of this machine runs in at most one control group.
//! A question is split by kind, then by the parts of unions and one label dimension after another, until only addresses remain,
//! which are intervals.
//! Only values that the set mentions are told apart; one stands for all others.

use crate::kinds::{cgroup_within, name_within};
use crate::policy::{Dimension, Endpoints, LabelId, NamePattern, Policy};
use std::collections::BTreeSet;
use std::net::IpAddr;

mod services;

pub(crate) use services::{services_empty, services_work};

/// How much all questions about one policy may cost together.
///
/// Unit: nodes of split sets visited. Source: chosen; some seconds in a debug build.
const WORK_MAX: usize = 1 << 22;

/// What each question adds to that, so that a large policy of plain sets is not refused.
///
/// Unit: nodes. Source: chosen; some ten times what the sets of a rule take.
const WORK_PER_QUESTION: usize = 1 << 12;

/// Ranges of addresses that cost as much as one node.
///
/// Unit: ranges. Source: chosen; they are copied and merged in one go.
const RANGES_PER_NODE: usize = 64;

/// How often one question may be split on one way to an answer, so that recursion is safe.
///
/// Unit: splits. Source: chosen; more than a set has unions and dimensions.
const SPLITS_MAX: usize = 256;

/// What is left of the work that may be done for one policy.
pub(crate) struct Budget {
    nodes: usize,
    splits: usize,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Whether no endpoint is in `set`.
pub(crate) fn endpoints_empty(
    policy: &Policy,
    set: &Endpoints,
    budget: &mut Budget,
) -> Result<bool, TooLarge> {
    budget.nodes = budget.nodes.saturating_add(WORK_PER_QUESTION);
    budget.splits = SPLITS_MAX;
    if plainly_inhabited(set) {
        return Ok(false);
    }
    for kind in [Kind::Unmanaged, Kind::Managed, Kind::SelfHost] {
        let node = specialise(policy, set, kind, budget)?;
        if inhabited(policy, node, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether every endpoint in `inner` is in `outer`.
pub(crate) fn endpoints_subset(
    policy: &Policy,
    inner: &Endpoints,
    outer: &Endpoints,
    budget: &mut Budget,
) -> Result<bool, TooLarge> {
    if plainly_within(inner, outer) {
        return Ok(true);
    }
    let rest = Endpoints::Except(Box::new(inner.clone()), Box::new(outer.clone()));
    endpoints_empty(policy, &rest, budget)
}

/// Whether one look at the two sets tells that `outer` holds `inner`; most rules of a scope are of this kind.
fn plainly_within(inner: &Endpoints, outer: &Endpoints) -> bool {
    match inner {
        _ if inner == outer => true,
        Endpoints::Union(parts) => parts.iter().all(|part| plainly_within(part, outer)),
        Endpoints::Intersect(parts) => parts.iter().any(|part| plainly_within(part, outer)),
        Endpoints::Except(set, _) => plainly_within(set, outer),
        Endpoints::Any
        | Endpoints::Managed
        | Endpoints::Unmanaged
        | Endpoints::SelfHost
        | Endpoints::Has(_)
        | Endpoints::Label(..)
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_)
        | Endpoints::Name(_)
        | Endpoints::Cgroup(_) => false,
    }
}

/// Whether one look tells that something is in `set`: a managed endpoint that has to pass one test in a dimension.
fn plainly_inhabited(set: &Endpoints) -> bool {
    let Endpoints::Intersect(parts) = set else { return false };
    parts.iter().enumerate().all(|(at, part)| match part {
        Endpoints::Any | Endpoints::Managed => true,
        Endpoints::Label(id, values) => {
            let tests = |p: &Endpoints| matches!(p, Endpoints::Label(other, _) if other == id);
            !values.is_empty() && !parts.iter().take(at).any(tests)
        }
        Endpoints::Unmanaged
        | Endpoints::SelfHost
        | Endpoints::Has(_)
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_)
        | Endpoints::Union(_)
        | Endpoints::Intersect(_)
        | Endpoints::Except(..)
        | Endpoints::Name(_)
        | Endpoints::Cgroup(_) => false,
    })
}

/// What an endpoint is to the inventory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unmanaged,
    Managed,
    SelfHost,
}

/// A set of endpoints of one kind.
#[derive(Clone)]
enum Node<'a> {
    Label(LabelId, Test<'a>),
    /// No label is set in a dimension that is not mentioned.
    Bare,
    Name(&'a NamePattern),
    Cgroup(&'a str),
    Addresses(Addresses),
    Union(Vec<Node<'a>>),
    Intersect(Vec<Node<'a>>),
    Except(Box<Node<'a>>, Box<Node<'a>>),
}

#[derive(Clone, Copy)]
enum Test<'a> {
    Any,
    OneOf(&'a BTreeSet<String>),
    Only(&'a str),
    Unset,
}

/// What a dimension may hold, as far as a set can tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Unset,
    Other,
    Word(&'a str),
}

fn specialise<'a>(
    policy: &'a Policy,
    set: &'a Endpoints,
    kind: Kind,
    budget: &mut Budget,
) -> Result<Node<'a>, TooLarge> {
    spend(1, budget)?;
    let managed = kind != Kind::Unmanaged;
    let label = |id, test| if managed { Node::Label(id, test) } else { Node::none() };
    Ok(match set {
        Endpoints::Any => Node::all(),
        Endpoints::Managed => Node::constant(managed),
        Endpoints::Unmanaged => Node::constant(!managed),
        Endpoints::SelfHost => Node::constant(kind == Kind::SelfHost),
        Endpoints::Has(id) => label(*id, Test::Any),
        Endpoints::Label(id, values) => label(*id, Test::OneOf(values)),
        Endpoints::Addresses(first, last) => Node::Addresses(Addresses::range(*first, *last)),
        Endpoints::Workload(id) => match policy.workloads.get(id.0 as usize) {
            Some(workload) if managed => {
                let mut parts = vec![Node::Bare];
                for id in (0u32..).map(LabelId).take(policy.labels.len()) {
                    let value = workload.labels.iter().find(|(label, _)| *label == id);
                    let test = value.map_or(Test::Unset, |(_, value)| Test::Only(value));
                    parts.push(Node::Label(id, test));
                }
                let addresses = workload.addresses.iter().map(|a| (*a, *a)).collect();
                parts.push(Node::Addresses(Addresses::ranges(addresses)));
                Node::Intersect(parts)
            }
            Some(_) | None => Node::none(),
        },
        Endpoints::Union(sets) => {
            // Lists of networks are long: together they are one node.
            let (mut ranges, mut nodes) = (vec![], vec![]);
            for set in sets {
                match set {
                    Endpoints::Addresses(first, last) => ranges.push((*first, *last)),
                    other => nodes.push(specialise(policy, other, kind, budget)?),
                }
            }
            if !ranges.is_empty() {
                spend(ranges.len() / RANGES_PER_NODE, budget)?;
                nodes.push(Node::Addresses(Addresses::ranges(ranges)));
            }
            Node::Union(nodes)
        }
        Endpoints::Intersect(sets) => {
            let nodes: Result<_, _> =
                sets.iter().map(|s| specialise(policy, s, kind, budget)).collect();
            Node::Intersect(nodes?)
        }
        Endpoints::Except(set, taken) => Node::Except(
            Box::new(specialise(policy, set, kind, budget)?),
            Box::new(specialise(policy, taken, kind, budget)?),
        ),
        Endpoints::Name(pattern) => Node::Name(pattern),
        Endpoints::Cgroup(path) if kind == Kind::SelfHost => Node::Cgroup(path),
        Endpoints::Cgroup(_) => Node::none(),
    })
}

/// Whether some endpoint is in the set.
fn inhabited(policy: &Policy, node: Node<'_>, budget: &mut Budget) -> Result<bool, TooLarge> {
    budget.splits = budget.splits.checked_sub(1).ok_or(TooLarge)?;
    let answer = split(policy, simplify(node, budget)?, budget);
    budget.splits += 1;
    answer
}

/// Asks the parts of a simple set: of its first union, else of its first label, its first name, its control groups.
fn split(policy: &Policy, node: Node<'_>, budget: &mut Budget) -> Result<bool, TooLarge> {
    let (mut union, rest) = match node {
        Node::Addresses(addresses) => return Ok(!addresses.is_empty()),
        Node::Union(parts) => (parts, Rest { and: vec![], except: None }),
        Node::Intersect(parts) => take_union(parts, None),
        Node::Except(set, taken) => match *set {
            Node::Union(parts) => (parts, Rest { and: vec![], except: Some(*taken) }),
            Node::Intersect(parts) => take_union(parts, Some(*taken)),
            set @ (Node::Label(..)
            | Node::Bare
            | Node::Name(_)
            | Node::Cgroup(_)
            | Node::Addresses(_)
            | Node::Except(..)) => (vec![], Rest { and: vec![set], except: Some(*taken) }),
        },
        node @ (Node::Label(..) | Node::Bare | Node::Name(_) | Node::Cgroup(_)) => {
            (vec![], Rest { and: vec![node], except: None })
        }
    };
    if !union.is_empty() {
        for part in union.drain(..) {
            if inhabited(policy, rest.clone().with(part), budget)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let node = rest.whole();
    if let Some(id) = first_label(&node) {
        // A value that is written down is the likeliest to lead somewhere.
        for value in values(policy, id, &node).into_iter().rev() {
            if inhabited(policy, restrict(&node, id, value, budget)?, budget)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if let Some(name) = first(&node, &|leaf| match leaf {
        Node::Name(name) => Some(*name),
        _ => None,
    }) {
        for known in [true, false] {
            if inhabited(policy, fix_name(&node, name, known, budget)?, budget)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let mut cgroups = BTreeSet::new();
    mentioned_cgroups(&node, &mut cgroups);
    if !cgroups.is_empty() {
        // The process runs right in one that is mentioned, or in none of them.
        for cgroup in cgroups.into_iter().map(Some).chain([None]) {
            if inhabited(policy, fix_cgroup(&node, cgroup, budget)?, budget)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    for bare in [true, false] {
        if inhabited(policy, fix_bare(&node, bare, budget)?, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A set without one of its parts: `and… & part except except`.
#[derive(Clone)]
struct Rest<'a> {
    and: Vec<Node<'a>>,
    except: Option<Node<'a>>,
}

impl<'a> Rest<'a> {
    fn with(mut self, part: Node<'a>) -> Node<'a> {
        self.and.push(part);
        self.whole()
    }

    fn whole(self) -> Node<'a> {
        let set = Node::Intersect(self.and);
        match self.except {
            Some(taken) => Node::Except(Box::new(set), Box::new(taken)),
            None => set,
        }
    }
}

/// The first union among `parts`, and everything else.
fn take_union<'a>(mut parts: Vec<Node<'a>>, except: Option<Node<'a>>) -> (Vec<Node<'a>>, Rest<'a>) {
    let at = parts.iter().position(|part| matches!(part, Node::Union(_)));
    let union = match at.map(|at| parts.remove(at)) {
        Some(Node::Union(union)) => union,
        Some(_) | None => vec![],
    };
    (union, Rest { and: parts, except })
}

/// Folds everything that is decided; without labels the result is [`Node::Addresses`].
fn simplify<'a>(node: Node<'a>, budget: &mut Budget) -> Result<Node<'a>, TooLarge> {
    spend(node.cost(), budget)?;
    Ok(match node {
        Node::Label(..) | Node::Bare | Node::Name(_) | Node::Cgroup(_) | Node::Addresses(_) => node,
        Node::Union(nodes) => {
            let (known, mut open) = fold(nodes, budget)?;
            let known = Addresses::union(known.into_iter());
            if open.is_empty() || known.is_all() {
                return Ok(Node::Addresses(known));
            }
            if !known.is_empty() {
                open.push(Node::Addresses(known));
            }
            Node::Union(open)
        }
        Node::Intersect(nodes) => {
            let (known, mut open) = fold(nodes, budget)?;
            let known = known.iter().fold(Addresses::all(), |a, b| a.intersect(b));
            if open.is_empty() || known.is_empty() {
                return Ok(Node::Addresses(known));
            }
            if !known.is_all() {
                open.push(Node::Addresses(known));
            }
            Node::Intersect(open)
        }
        Node::Except(set, taken) => match (simplify(*set, budget)?, simplify(*taken, budget)?) {
            (Node::Addresses(a), Node::Addresses(b)) => Node::Addresses(a.except(&b)),
            (Node::Addresses(a), _) if a.is_empty() => Node::none(),
            (_, Node::Addresses(b)) if b.is_all() => Node::none(),
            (a, Node::Addresses(b)) if b.is_empty() => a,
            (a, b) => Node::Except(Box::new(a), Box::new(b)),
        },
    })
}

fn fold<'a>(
    nodes: Vec<Node<'a>>,
    budget: &mut Budget,
) -> Result<(Vec<Addresses>, Vec<Node<'a>>), TooLarge> {
    let (mut known, mut open) = (vec![], vec![]);
    for node in nodes {
        match simplify(node, budget)? {
            Node::Addresses(addresses) => known.push(addresses),
            node @ (Node::Label(..)
            | Node::Bare
            | Node::Name(_)
            | Node::Cgroup(_)
            | Node::Union(_)
            | Node::Intersect(_)
            | Node::Except(..)) => open.push(node),
        }
    }
    Ok((known, open))
}

fn restrict<'a>(
    node: &Node<'a>,
    id: LabelId,
    value: Value<'a>,
    budget: &mut Budget,
) -> Result<Node<'a>, TooLarge> {
    map(node, budget, &|leaf| match leaf {
        Node::Label(label, test) if *label == id => Node::constant(match test {
            Test::Any => value != Value::Unset,
            Test::OneOf(words) => matches!(value, Value::Word(w) if words.contains(w)),
            Test::Only(word) => value == Value::Word(word),
            Test::Unset => value == Value::Unset,
        }),
        other => other.clone(),
    })
}

fn fix_bare<'a>(node: &Node<'a>, bare: bool, budget: &mut Budget) -> Result<Node<'a>, TooLarge> {
    map(node, budget, &|leaf| match leaf {
        Node::Bare => Node::constant(bare),
        other => other.clone(),
    })
}

/// An end that a name resolves to is also one of the wider form, and one of a narrower form only then.
fn fix_name<'a>(
    node: &Node<'a>,
    name: &NamePattern,
    known: bool,
    budget: &mut Budget,
) -> Result<Node<'a>, TooLarge> {
    map(node, budget, &|leaf| match leaf {
        Node::Name(other) if known && name_within(name, other) => Node::all(),
        Node::Name(other) if !known && name_within(other, name) => Node::none(),
        other => other.clone(),
    })
}

fn fix_cgroup<'a>(
    node: &Node<'a>,
    cgroup: Option<&str>,
    budget: &mut Budget,
) -> Result<Node<'a>, TooLarge> {
    map(node, budget, &|leaf| match leaf {
        Node::Cgroup(path) => Node::constant(cgroup.is_some_and(|own| cgroup_within(own, path))),
        other => other.clone(),
    })
}

fn map<'a>(
    node: &Node<'a>,
    budget: &mut Budget,
    leaf: &dyn Fn(&Node<'a>) -> Node<'a>,
) -> Result<Node<'a>, TooLarge> {
    spend(node.cost(), budget)?;
    Ok(match node {
        Node::Label(..) | Node::Bare | Node::Name(_) | Node::Cgroup(_) | Node::Addresses(_) => {
            leaf(node)
        }
        Node::Union(nodes) => {
            Node::Union(nodes.iter().map(|n| map(n, budget, leaf)).collect::<Result<_, _>>()?)
        }
        Node::Intersect(nodes) => {
            Node::Intersect(nodes.iter().map(|n| map(n, budget, leaf)).collect::<Result<_, _>>()?)
        }
        Node::Except(a, b) => {
            Node::Except(Box::new(map(a, budget, leaf)?), Box::new(map(b, budget, leaf)?))
        }
    })
}

fn first_label(node: &Node<'_>) -> Option<LabelId> {
    first(node, &|leaf| match leaf {
        Node::Label(id, _) => Some(*id),
        _ => None,
    })
}

/// What `of` says of the first leaf that it says something of.
fn first<'a, T>(node: &Node<'a>, of: &dyn Fn(&Node<'a>) -> Option<T>) -> Option<T> {
    match node {
        Node::Label(..) | Node::Bare | Node::Name(_) | Node::Cgroup(_) | Node::Addresses(_) => {
            of(node)
        }
        Node::Union(nodes) | Node::Intersect(nodes) => nodes.iter().find_map(|n| first(n, of)),
        Node::Except(a, b) => first(a, of).or_else(|| first(b, of)),
    }
}

fn mentioned_cgroups<'a>(node: &Node<'a>, found: &mut BTreeSet<&'a str>) {
    match node {
        Node::Cgroup(path) => {
            found.insert(path);
        }
        Node::Label(..) | Node::Bare | Node::Name(_) | Node::Addresses(_) => {}
        Node::Union(nodes) | Node::Intersect(nodes) => {
            nodes.iter().for_each(|n| mentioned_cgroups(n, found));
        }
        Node::Except(a, b) => {
            mentioned_cgroups(a, found);
            mentioned_cgroups(b, found);
        }
    }
}

/// The values of a dimension that `node` can tell apart: those it mentions, one other if there is one, and unset.
fn values<'a>(policy: &'a Policy, id: LabelId, node: &Node<'a>) -> BTreeSet<Value<'a>> {
    let mut found = BTreeSet::from([Value::Unset]);
    mentioned(node, id, &mut found);
    let declared = policy.labels.get(id.0 as usize).and_then(|d: &Dimension| d.values.as_ref());
    let word_left = |values: &'a BTreeSet<String>| {
        values.iter().any(|value| !found.contains(&Value::Word(value)))
    };
    if declared.is_none_or(word_left) {
        found.insert(Value::Other);
    }
    found
}

fn mentioned<'a>(node: &Node<'a>, id: LabelId, found: &mut BTreeSet<Value<'a>>) {
    match node {
        Node::Label(label, Test::OneOf(words)) if *label == id => {
            found.extend(words.iter().map(|w| Value::Word(w)));
        }
        Node::Label(label, Test::Only(word)) if *label == id => {
            found.insert(Value::Word(word));
        }
        Node::Label(..) | Node::Bare | Node::Name(_) | Node::Cgroup(_) | Node::Addresses(_) => {}
        Node::Union(nodes) | Node::Intersect(nodes) => {
            nodes.iter().for_each(|n| mentioned(n, id, found));
        }
        Node::Except(a, b) => {
            mentioned(a, id, found);
            mentioned(b, id, found);
        }
    }
}

fn spend(nodes: usize, budget: &mut Budget) -> Result<(), TooLarge> {
    budget.nodes = budget.nodes.checked_sub(nodes).ok_or(TooLarge)?;
    Ok(())
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: WORK_MAX, splits: SPLITS_MAX }
    }
}

impl Node<'_> {
    /// Of looking at it or copying it, without its parts.
    fn cost(&self) -> usize {
        match self {
            Self::Addresses(of) => 1 + (of.v4.0.len() + of.v6.0.len()) / RANGES_PER_NODE,
            Self::Label(..)
            | Self::Bare
            | Self::Name(_)
            | Self::Cgroup(_)
            | Self::Union(_)
            | Self::Intersect(_)
            | Self::Except(..) => 1,
        }
    }

    fn all() -> Self {
        Self::Addresses(Addresses::all())
    }

    fn none() -> Self {
        Self::Addresses(Addresses::default())
    }

    fn constant(all: bool) -> Self {
        if all { Self::all() } else { Self::none() }
    }
}

/// Addresses of both families. They are kept apart: no IPv6 range holds an IPv4 address.
#[derive(Clone, Default)]
struct Addresses {
    v4: Intervals,
    v6: Intervals,
}

impl Addresses {
    fn all() -> Self {
        let v4 = Intervals::range(0, u128::from(u32::MAX));
        Self { v4, v6: Intervals::range(0, u128::MAX) }
    }

    fn range(first: IpAddr, last: IpAddr) -> Self {
        Self::ranges(vec![(first, last)])
    }

    fn ranges(ranges: Vec<(IpAddr, IpAddr)>) -> Self {
        let (mut v4, mut v6) = (vec![], vec![]);
        for range in ranges {
            match range {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    v4.push((u32::from(a).into(), u32::from(b).into()))
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => v6.push((a.into(), b.into())),
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Self { v4: Intervals::merged(v4), v6: Intervals::merged(v6) }
    }

    fn union(parts: impl Iterator<Item = Self>) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = parts.map(|p| (p.v4, p.v6)).unzip();
        Self { v4: Intervals::union(v4), v6: Intervals::union(v6) }
    }

    fn intersect(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersect(&other.v4), v6: self.v6.intersect(&other.v6) }
    }

    fn except(&self, other: &Self) -> Self {
        Self { v4: self.v4.except(&other.v4), v6: self.v6.except(&other.v6) }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn is_all(&self) -> bool {
        self.v4.0 == [(0, u128::from(u32::MAX))] && self.v6.0 == [(0, u128::MAX)]
    }
}

/// Closed intervals, ascending, with a gap between neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<(u128, u128)>);

impl Intervals {
    fn range(first: u128, last: u128) -> Self {
        Self(if first <= last { vec![(first, last)] } else { vec![] })
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn union(parts: impl IntoIterator<Item = Self>) -> Self {
        Self::merged(parts.into_iter().flat_map(|p| p.0).collect())
    }

    fn merged(mut all: Vec<(u128, u128)>) -> Self {
        all.retain(|(first, last)| first <= last);
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = vec![];
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                Some(_) | None => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn complement(&self) -> Self {
        let mut gaps = vec![];
        let mut next = Some(0u128);
        for (first, last) in &self.0 {
            if let Some(start) = next
                && start < *first
            {
                gaps.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|start| (start, u128::MAX)));
        Self(gaps)
    }

    fn intersect(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = vec![];
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                common.push((first, last));
            }
            if a.1 < b.1 {
                left.next()
            } else {
                right.next()
            };
        }
        Self(common)
    }

    fn except(&self, other: &Self) -> Self {
        self.intersect(&other.complement())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Endpoint, contains};
    use crate::policy::{Workload, WorkloadId};
    use crate::source::{FileId, Span};
    use std::collections::BTreeMap;

    /// Ends of the ranges in generated sets; with their neighbours they meet every combination of ranges.
    const ADDRESSES: [&str; 8] = [
        "0.0.0.0",
        "10.0.0.0",
        "10.0.0.9",
        "255.255.255.255",
        "::",
        "::ffff:10.0.0.0",
        "fd00::9",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ];

    #[test]
    fn a_set_is_empty_exactly_if_no_endpoint_is_in_it() {
        let policy = policy();
        let endpoints = endpoints();
        let mut random = 7u64;
        let mut n_empty = 0;
        for case in 0..10_000 {
            let set = set(&mut random, 3);
            let found = endpoints.iter().find(|e| contains(&policy, &set, e));
            let answer = endpoints_empty(&policy, &set, &mut Budget::default());
            assert_eq!(answer, Ok(found.is_none()), "case {case}: {set:?} and {found:?}");
            n_empty += usize::from(found.is_none());
        }
        assert!(n_empty > 500, "too few empty sets to mean anything: {n_empty}");
    }

    /// A closed dimension `a`, an open one `b`, one more that no set mentions, and a workload.
    fn policy() -> Policy {
        let span = Span::new(FileId(0), 0, 0);
        let dimension = |name: &str, values: Option<&[&str]>| Dimension {
            name: name.to_owned(),
            values: values.map(|v| v.iter().map(|w| (*w).to_owned()).collect()),
            span,
        };
        let labels =
            vec![dimension("a", Some(&["x", "y"])), dimension("b", None), dimension("c", None)];
        let workloads = vec![Workload {
            name: "w".to_owned(),
            addresses: BTreeSet::from([address(1)]),
            labels: vec![(LabelId(0), "x".to_owned())],
            ports: BTreeMap::new(),
            span,
        }];
        Policy { labels, workloads, ..Policy::default() }
    }

    fn endpoints() -> Vec<Endpoint> {
        let mut addresses = BTreeSet::new();
        for n in 0..ADDRESSES.len() {
            match address(n) {
                IpAddr::V4(a) => {
                    let a = u32::from(a);
                    addresses.extend(
                        [a.saturating_sub(1), a, a.saturating_add(1)].map(|a| IpAddr::V4(a.into())),
                    );
                }
                IpAddr::V6(a) => {
                    let a = u128::from(a);
                    addresses.extend(
                        [a.saturating_sub(1), a, a.saturating_add(1)].map(|a| IpAddr::V6(a.into())),
                    );
                }
            }
        }
        let values: [&[&str]; 3] = [&["", "x", "y"], &["", "p", "q", "other"], &["", "other"]];
        let mut vectors = vec![BTreeMap::new()];
        for (id, values) in (0u32..).map(LabelId).zip(values) {
            vectors = vectors
                .iter()
                .flat_map(|labels: &BTreeMap<_, _>| {
                    values.iter().map(move |value| {
                        let mut labels = labels.clone();
                        if !value.is_empty() {
                            labels.insert(id, (*value).to_owned());
                        }
                        labels
                    })
                })
                .collect();
        }
        let mut all = vec![];
        for address in addresses {
            let end = Endpoint::at(address);
            all.push(end.clone());
            for labels in &vectors {
                for is_self in [false, true] {
                    all.push(Endpoint { labels: Some(labels.clone()), is_self, ..end.clone() });
                }
            }
        }
        all
    }

    #[test]
    fn a_set_of_names_and_control_groups_is_empty_exactly_if_no_endpoint_is_in_it() {
        let policy = policy();
        let words = ["x.a.b", "y.a.b", "a.b", "xa.b", "c"];
        let names = (0u32..1 << words.len()).map(|bits| {
            let of = |n: &usize| bits & (1 << n) != 0;
            let chosen = words.iter().enumerate().filter(|(n, _)| of(n));
            chosen.map(|(_, word)| (*word).to_owned()).collect::<BTreeSet<_>>()
        });
        let mut endpoints = vec![];
        for names in names {
            let end = Endpoint { names, ..Endpoint::at(address(1)) };
            endpoints.push(end.clone());
            endpoints.push(Endpoint { labels: Some(BTreeMap::new()), ..end.clone() });
            for cgroup in [None, Some("s"), Some("s/a"), Some("s/a/b"), Some("s/c"), Some("sa")] {
                let labels = Some(BTreeMap::new());
                let cgroup = cgroup.map(str::to_owned);
                endpoints.push(Endpoint { labels, is_self: true, cgroup, ..end.clone() });
            }
        }
        let mut random = 7u64;
        let mut n_empty = 0;
        for case in 0..10_000 {
            let set = local_set(&mut random, 3);
            let found = endpoints.iter().find(|e| contains(&policy, &set, e));
            let answer = endpoints_empty(&policy, &set, &mut Budget::default());
            assert_eq!(answer, Ok(found.is_none()), "case {case}: {set:?} and {found:?}");
            n_empty += usize::from(found.is_none());
        }
        assert!(n_empty > 500, "too few empty sets to mean anything: {n_empty}");
    }

    /// Of names, control groups and what endpoints are to the inventory.
    fn local_set(random: &mut u64, depth: usize) -> Endpoints {
        let name =
            |name: &str, below| Endpoints::Name(NamePattern { name: name.to_owned(), below });
        let both = |random: &mut u64| {
            (local_set(random, depth.saturating_sub(1)), local_set(random, depth.saturating_sub(1)))
        };
        match below(random, if depth == 0 { 9 } else { 15 }) {
            0 => Endpoints::SelfHost,
            1 => Endpoints::Unmanaged,
            2 => name("x.a.b", false),
            3 => name("a.b", false),
            4 => name("a.b", true),
            5 => name("b", true),
            6 => Endpoints::Cgroup("s".to_owned()),
            7 => Endpoints::Cgroup("s/a".to_owned()),
            8 => Endpoints::Cgroup("s/c".to_owned()),
            9 | 10 => {
                let (a, b) = both(random);
                Endpoints::Union(vec![a, b])
            }
            11 | 12 => {
                let (a, b) = both(random);
                Endpoints::Intersect(vec![a, b])
            }
            _ => {
                let (a, b) = both(random);
                Endpoints::Except(Box::new(a), Box::new(b))
            }
        }
    }

    fn address(n: usize) -> IpAddr {
        let text = ADDRESSES.get(n % ADDRESSES.len()).copied().unwrap_or("::");
        text.parse().unwrap_or(IpAddr::V4(0.into()))
    }

    fn set(random: &mut u64, depth: usize) -> Endpoints {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let n = below(random, if depth == 0 { 10 } else { 16 });
        match n {
            0 => Endpoints::Any,
            1 => Endpoints::Managed,
            2 => Endpoints::Unmanaged,
            3 => Endpoints::SelfHost,
            4 => Endpoints::Has(LabelId(0)),
            5 => Endpoints::Has(LabelId(1)),
            6 => Endpoints::Label(LabelId(0), words(&["x"])),
            7 => Endpoints::Label(
                LabelId(1),
                words(if below(random, 2) == 0 { &["p"] } else { &["p", "q"] }),
            ),
            8 => Endpoints::Workload(WorkloadId(0)),
            9 => {
                let family = below(random, 2) * 4;
                let (a, b) =
                    (address(family + below(random, 4)), address(family + below(random, 4)));
                Endpoints::Addresses(a.min(b), a.max(b))
            }
            10 | 11 => Endpoints::Union(vec![set(random, depth - 1), set(random, depth - 1)]),
            12 | 13 => Endpoints::Intersect(vec![set(random, depth - 1), set(random, depth - 1)]),
            _ => {
                let (set, taken) = (set(random, depth - 1), set(random, depth - 1));
                Endpoints::Except(Box::new(set), Box::new(taken))
            }
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn below(random: &mut u64, n: usize) -> usize {
        *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap_or(0)
    }
}
