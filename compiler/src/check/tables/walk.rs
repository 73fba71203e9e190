//! Decisions that end in classes, walked together with predicates.
//!
//! A path ends at a class where no predicate has a question left, so what is found is every class with everything that may
//! hold of what is in it.

use super::TableError;
use crate::classes::{Node, Target};
use crate::diagram::{Field, Manager, Node as Question, Ref};
use crate::rules::{IPV4_FIRST, IPV4_LAST, address_number};
use seg_artifact::classes as artifact;
use seg_artifact::manifest::Net;
use seg_lang::policy::LabelId;
use std::collections::{BTreeSet, HashSet};

/// Classes, each with the predicates that hold of something in it, ascending.
pub(super) type Variants = BTreeSet<(u32, Vec<u32>)>;

/// A decision that ends in classes.
///
/// INVARIANT: edges of a node ascend and cover every answer; fields ascend along every path.
pub(super) struct Decision {
    pub(super) root: Target,
    pub(super) nodes: Vec<Node>,
}

/// Every class, with what holds of something in it.
///
/// # Errors
/// [`TableError::Asked`] if a predicate asks what is not known of packets.
pub(super) fn variants(
    m: &Manager,
    decision: &Decision,
    predicates: Open,
) -> Result<Variants, TableError> {
    let mut walk = Walk { m, decision, seen: HashSet::new(), found: BTreeSet::new() };
    walk.visit(decision.root, predicates, Vec::new())?;
    Ok(walk.found)
}

/// Predicates, and what is left of them.
type Open = Vec<(u32, Ref)>;

struct Walk<'a> {
    m: &'a Manager,
    decision: &'a Decision,
    seen: HashSet<(Target, Open, Vec<u32>)>,
    found: Variants,
}

impl Walk<'_> {
    /// `held` hold on the way here; the `open` predicates have questions left, or are leaves.
    fn visit(&mut self, at: Target, mut open: Open, mut held: Vec<u32>) -> Result<(), TableError> {
        open.retain(|&(id, of)| {
            if of == Manager::YES {
                held.push(id);
            }
            of != Manager::YES && of != Manager::NO
        });
        held.sort_unstable();
        let node = match at {
            Target::Node(node) => Some(&self.decision.nodes[node as usize]),
            Target::Class(_) => None,
        };
        let asks = |of: Ref| match self.m.node(of) {
            Question::Ask(field, edges) => Ok((*field, edges)),
            Question::Leaf(_) => Err(TableError::Broken("a predicate that is none")),
        };
        let mut first = node.map(|node| node.field);
        for &(_, of) in &open {
            let field = asks(of)?.0;
            first = Some(first.map_or(field, |first| first.min(field)));
        }
        let Some(first) = first else {
            let Target::Class(class) = at else { unreachable!("a node has a field") };
            self.found.insert((class, held));
            return Ok(());
        };
        match first {
            Field::PeerSelf | Field::PeerLabel(_) | Field::PeerAddress => {}
            Field::Protocol | Field::Port | Field::SourcePort => {}
            other => return Err(TableError::Asked(other)),
        }
        if !self.seen.insert((at, open.clone(), held.clone())) {
            return Ok(());
        }
        // What the answers from each number on add to what is still open.
        let mut begins: Vec<(u128, u128, u32, Ref)> = Vec::new();
        let mut bounds = vec![self.m.max(first)];
        let mut carried = Vec::new();
        for &(id, of) in &open {
            let (field, edges) = asks(of)?;
            if field != first {
                carried.push((id, of));
                continue;
            }
            let mut from = 0;
            for edge in edges.iter() {
                bounds.push(edge.last);
                if edge.to != Manager::NO {
                    begins.push((from, edge.last, id, edge.to));
                }
                from = edge.last.wrapping_add(1);
            }
        }
        let leads = match node {
            Some(node) if node.field == first => node.edges.as_slice(),
            Some(_) | None => &[(u128::MAX, at)],
        };
        bounds.extend(leads.iter().map(|(last, _)| (*last).min(self.m.max(first))));
        bounds.sort_unstable();
        bounds.dedup();
        begins.sort_unstable();
        let mut begins = begins.into_iter().peekable();
        let mut active: Vec<(u128, u32, Ref)> = Vec::new();
        let (mut lead, mut from) = (0, 0);
        for last in bounds {
            active.retain(|(until, ..)| *until >= from);
            while let Some((_, until, id, to)) = begins.next_if(|(begin, ..)| *begin == from) {
                active.push((until, id, to));
            }
            lead += leads[lead..].partition_point(|(until, _)| *until < last);
            let mut open = carried.clone();
            open.extend(active.iter().map(|&(_, id, to)| (id, to)));
            open.sort_unstable();
            self.visit(leads[lead].1, open, held.clone())?;
            from = last.wrapping_add(1);
        }
        Ok(())
    }
}

/// How an artifact sorts its endpoints.
pub(super) fn of_artifact(of: &artifact::Decision) -> Result<Decision, TableError> {
    let target = |at: artifact::Target| match at {
        artifact::Target::Class(class) => Target::Class(class.into()),
        artifact::Target::Node(node) => Target::Node(node),
    };
    let mut nodes: Vec<Node> = Vec::with_capacity(of.nodes.len());
    for node in &of.nodes {
        let field = match node.field {
            artifact::Field::IsSelf => Field::PeerSelf,
            artifact::Field::Label(label) => Field::PeerLabel(LabelId(label)),
            artifact::Field::Address => Field::PeerAddress,
        };
        let edges: Vec<_> = node.edges.iter().map(|&(last, to)| (last, target(to))).collect();
        let ascends = edges.iter().all(|(_, to)| match to {
            Target::Class(_) => true,
            Target::Node(below) => nodes.get(*below as usize).is_some_and(|n| field < n.field),
        });
        let covers = edges.is_sorted_by(|a, b| a.0 < b.0)
            && edges.last().is_some_and(|(last, _)| *last == u128::MAX);
        if !ascends || !covers {
            return Err(TableError::Broken("a decision of classes asks in no order"));
        }
        nodes.push(Node { field, edges });
    }
    let root = target(of.root);
    if matches!(root, Target::Node(node) if node as usize >= nodes.len()) {
        return Err(TableError::Broken("a decision of classes begins nowhere"));
    }
    Ok(Decision { root, nodes })
}

/// The ident of every address that no endpoint has: the last number of each range, ascending.
///
/// IPv4 addresses are those mapped from them; no address of IPv6 is, and no range holds both.
pub(super) fn ranges_of_nets(nets: &[Net]) -> Result<Vec<(u128, u16)>, TableError> {
    let mut ranges: Vec<(u128, u128, u16)> = Vec::new();
    for (net, ident) in nets.iter().zip(1..) {
        for &(first, last) in &net.ranges {
            let (from, until) = (address_number(first), address_number(last));
            if first.is_ipv4() != last.is_ipv4() || from > until {
                return Err(TableError::Broken("a range of a net runs backwards"));
            }
            if first.is_ipv4() {
                ranges.push((from, until, ident));
                continue;
            }
            let (below, above) = (until.min(IPV4_FIRST - 1), from.max(IPV4_LAST + 1));
            ranges.extend((from <= below).then_some((from, below, ident)));
            ranges.extend((above <= until).then_some((above, until, ident)));
        }
    }
    ranges.sort_unstable();
    if !ranges.is_sorted_by(|a, b| a.1 < b.0) {
        return Err(TableError::Broken("nets overlap"));
    }
    // Between them is ident 0, and no range is of both families.
    let mut all = Vec::new();
    let mut next = Some(0);
    let gap = |from: u128, until: u128| {
        let borders = [IPV4_FIRST - 1, IPV4_LAST, until];
        borders.into_iter().filter(move |&last| (from..=until).contains(&last)).map(|l| (l, 0))
    };
    for (first, last, ident) in ranges {
        let from = next.expect("nothing is behind the last address");
        all.extend(first.checked_sub(1).into_iter().flat_map(|until| gap(from, until)));
        all.push((last, ident));
        next = last.checked_add(1);
    }
    all.extend(next.into_iter().flat_map(|from| gap(from, u128::MAX)));
    all.dedup();
    Ok(all)
}

/// How ends that are no endpoints are sorted; `classes` by ident.
pub(super) fn of_nets(ranges: &[(u128, u16)], classes: &[u16]) -> Decision {
    let mut edges: Vec<(u128, Target)> = Vec::new();
    for &(last, ident) in ranges {
        extend(&mut edges, last, Target::Class(classes[usize::from(ident)].into()));
    }
    decision(Field::PeerAddress, edges)
}

/// Adds an edge, or makes the one before longer if it leads to the same.
pub(super) fn extend(edges: &mut Vec<(u128, Target)>, last: u128, to: Target) {
    match edges.last_mut() {
        Some(before) if before.1 == to => before.0 = last,
        _ => edges.push((last, to)),
    }
}

fn decision(field: Field, edges: Vec<(u128, Target)>) -> Decision {
    Decision { root: Target::Node(0), nodes: vec![Node { field, edges }] }
}
