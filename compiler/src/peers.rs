//! What a policy knows of a peer: its role in the opposite direction.
//!
//! Two endpoints with one role as sources cannot be told apart by any destination, and the other way round.
//! So a number for each role answers all that a diagram asks about the peer's labels, except whether they equal the local end's.
//! INVARIANT: the diagrams of both directions have the same parts.

use crate::diagram::{Edge, Field, Manager, Node, Ref};
use seg_artifact::classes::{self, Classes, Net, Sides};
use seg_artifact::manifest::{self, Roles, Target};
use seg_lang::policy::LabelId;
use std::collections::HashSet;

/// An endpoint for each role of the peers' direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers<'a> {
    roles: &'a Roles,
    /// By the number of the role: whether it is the machine itself, then its labels. What is not asked on the way to the role is 0.
    of_role: Vec<Vec<u32>>,
}

impl<'a> Peers<'a> {
    /// The peers of a direction whose opposite has these roles.
    ///
    /// # Panics
    /// If a role cannot be reached, which is a bug of who made the roles.
    pub fn new(roles: &'a Roles, n_labels: usize) -> Self {
        let mut of_role = vec![None; roles.programs.len()];
        let (mut seen, mut pending) = (HashSet::new(), vec![(roles.root, vec![0; 1 + n_labels])]);
        while let Some((target, peer)) = pending.pop() {
            if !seen.insert(target) {
                continue;
            }
            let node = match target {
                Target::Node(node) => &roles.nodes[node as usize],
                Target::Role(role) => {
                    of_role[role as usize] = Some(peer);
                    continue;
                }
            };
            let firsts =
                [0].into_iter().chain(node.edges.iter().map(|edge| edge.last.wrapping_add(1)));
            let each = firsts.zip(&node.edges).map(|(first, edge)| {
                let mut peer = peer.clone();
                peer[place(node.field)] = first;
                (edge.to, peer)
            });
            pending.extend(each.collect::<Vec<_>>().into_iter().rev());
        }
        let of_role = of_role.into_iter().map(|peer| peer.expect("every role is led to")).collect();
        Self { roles, of_role }
    }

    /// What is left of a diagram for each role when the questions about the labels of a managed peer are answered.
    pub fn remains(&self, m: &Manager, root: Ref) -> Vec<Ref> {
        let mut remains = vec![root; self.of_role.len()];
        self.follow(m, root, 0, &mut remains);
        remains
    }

    /// Answers for the roles from `first` on that `remains` has room for. Roles are numbered as their labels ascend, so that
    /// neighbours mostly go the same way.
    fn follow(&self, m: &Manager, at: Ref, first: usize, remains: &mut [Ref]) {
        let Some((field, edges)) = asked(m, at) else { return remains.fill(at) };
        let place = match field {
            Field::PeerLabel(label) => place(manifest::Field::Label(label.0)),
            _ => place(manifest::Field::IsSelf),
        };
        let way = |role: usize| {
            let answer = u128::from(self.of_role[role][place]);
            edges.partition_point(|edge| edge.last < answer)
        };
        let mut from = 0;
        while from < remains.len() {
            let edge = way(first + from);
            let same = (from..remains.len()).take_while(|role| way(first + role) == edge).count();
            self.follow(m, edges[edge].to, first + from, &mut remains[from..from + same]);
            from += same;
        }
    }

    /// Whether any peer of a role would have left the same.
    pub fn verify(&self, m: &Manager, root: Ref) -> Result<(), String> {
        let remains = self.remains(m, root);
        let (mut seen, mut pending) = (HashSet::new(), vec![(self.roles.root, root)]);
        while let Some((target, at)) = pending.pop() {
            if !seen.insert((target, at)) {
                continue;
            }
            let node = match target {
                Target::Node(node) => Some(&self.roles.nodes[node as usize]),
                Target::Role(_) => None,
            };
            let own = node.map(|node| (field(node.field), &node.edges));
            match (asked(m, at), own, target) {
                (None, None, Target::Role(role)) if at != remains[role as usize] => {
                    return Err(format!(
                        "role {role} leaves {at:?} and {:?}",
                        remains[role as usize]
                    ));
                }
                (Some((field, edges)), own, _) if own.as_ref().is_none_or(|own| field < own.0) => {
                    pending.extend(edges.iter().map(|edge| (target, edge.to)));
                }
                (other, Some((field, edges)), _) => {
                    let mut first = 0;
                    for edge in edges {
                        let last = u128::from(edge.last);
                        let within = other.iter().filter(|(asked, _)| *asked == field);
                        let bounds =
                            within.flat_map(|(_, edges)| edges.iter().map(|edge| edge.last));
                        let all =
                            bounds.filter(|bound| (first..last).contains(bound)).chain([last]);
                        let max = m.max(field);
                        let each = all.map(|bound| (edge.to, m.given(at, field, bound.min(max))));
                        pending.extend(each);
                        first = last + 1;
                    }
                }
                (None, None, _) => {}
                (Some(_), None, _) => unreachable!("the guard above holds"),
            }
        }
        Ok(())
    }
}

/// The question about a peer's labels that a diagram begins with.
fn asked(m: &Manager, at: Ref) -> Option<(Field, &[Edge])> {
    match m.node(at) {
        Node::Ask(field @ (Field::PeerSelf | Field::PeerLabel(_)), edges) => Some((*field, edges)),
        Node::Ask(..) | Node::Leaf(_) => None,
    }
}

/// Roles as the only class of each end, for `segd` to tell programs.
pub fn classes([outbound, inbound]: [&Roles; 2]) -> Classes {
    let decision = |roles: &Roles| {
        // The manifest has nodes before those they lead to, classes the other way round.
        let last = roles.nodes.len().saturating_sub(1) as u32;
        let target = |target: Target| match target {
            Target::Node(node) => classes::Target::Node(last - node),
            Target::Role(role) => {
                classes::Target::Class(u16::try_from(role).expect("roles are bounded"))
            }
        };
        let node = |node: &manifest::Node| classes::Node {
            field: match node.field {
                manifest::Field::IsSelf => classes::Field::IsSelf,
                manifest::Field::Label(label) => classes::Field::Label(label),
            },
            edges: node.edges.iter().map(|edge| (widened(edge.last), target(edge.to))).collect(),
        };
        classes::Decision {
            root: target(roles.root),
            nodes: roles.nodes.iter().rev().map(node).collect(),
        }
    };
    let sides = Sides { source: decision(outbound), destination: decision(inbound) };
    Classes { groups: vec![sides], nets: vec![Net::default()] }
}

/// The last edge holds every greater number.
fn widened(last: u32) -> u128 {
    if last == u32::MAX { u128::MAX } else { last.into() }
}

/// Where the answer is among those of a peer.
fn place(field: manifest::Field) -> usize {
    match field {
        manifest::Field::IsSelf => 0,
        manifest::Field::Label(label) => 1 + label as usize,
    }
}

fn field(field: manifest::Field) -> Field {
    match field {
        manifest::Field::IsSelf => Field::PeerSelf,
        manifest::Field::Label(label) => Field::PeerLabel(LabelId(label)),
    }
}
