//! From the diagram to roles: what an endpoint's own labels leave of the policy.
//!
//! Fields of the local end come first along every path, so the distinct diagrams below them are the roles
//! (the `restrict` of NetKAT: Anderson et al., POPL 2014). Each role decides exactly as the whole diagram does
//! for the endpoints that reach it.

use crate::diagram::{Field, Manager, Node, Ref};
use crate::limits::{LimitError, ROLES_MAX};
use seg_artifact::manifest::{self, Roles, Target};
use seg_lang::ast::Direction;
use std::collections::BTreeMap;

/// The roles of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restricted {
    /// Which endpoint has which role.
    pub roles: Roles,
    /// What is left of the diagram for each role: questions about the peer and the packet.
    pub decisions: Vec<Ref>,
}

/// Cuts the diagram below the questions about the local end.
///
/// # Errors
/// [`LimitError::Roles`].
pub fn restrict(m: &Manager, root: Ref, way: Direction) -> Result<Restricted, LimitError> {
    // Only endpoints of the inventory have programs.
    let root = m.given(root, Field::LocalManaged, 1);
    let mut cut = Cut { m, post_order: Vec::new(), nodes: BTreeMap::new(), roles: BTreeMap::new() };
    cut.visit(root);
    let (prefix, direction) = match way {
        Direction::Outbound => ("from", "outbound"),
        Direction::Inbound => ("to", "inbound"),
    };
    if cut.roles.len() > ROLES_MAX {
        return Err(LimitError::Roles { direction, rules: m.costliest() });
    }
    let programs = (0..cut.roles.len()).map(|role| format!("{prefix}_{role}")).collect();
    // Reversed, every node comes before those it leads to.
    let nodes = cut.post_order.iter().rev().map(|&at| cut.node(at)).collect();
    let roles = Roles { root: cut.target(root), nodes, programs };
    let mut decisions: Vec<_> =
        cut.roles.iter().map(|(&decision, &role)| (role, decision)).collect();
    decisions.sort_unstable();
    let decisions = decisions.into_iter().map(|(_, decision)| decision).collect();
    Ok(Restricted { roles, decisions })
}

struct Cut<'a> {
    m: &'a Manager,
    post_order: Vec<Ref>,
    /// Place in the post order.
    nodes: BTreeMap<Ref, u32>,
    /// Roles in order of first reach.
    roles: BTreeMap<Ref, u32>,
}

impl Cut<'_> {
    fn visit(&mut self, at: Ref) {
        if self.nodes.contains_key(&at) || self.roles.contains_key(&at) {
            return;
        }
        let m = self.m;
        match m.node(at) {
            Node::Ask(field, edges) if own(*field).is_some() => {
                edges.iter().for_each(|edge| self.visit(edge.to));
                self.nodes.insert(at, count(self.post_order.len()));
                self.post_order.push(at);
            }
            Node::Ask(..) | Node::Leaf(_) => {
                self.roles.insert(at, count(self.roles.len()));
            }
        }
    }

    fn target(&self, at: Ref) -> Target {
        match (self.nodes.get(&at), self.roles.get(&at)) {
            (Some(place), _) => Target::Node(count(self.post_order.len()) - 1 - place),
            (None, Some(role)) => Target::Role(*role),
            (None, None) => unreachable!("every node was visited"),
        }
    }

    fn node(&self, at: Ref) -> manifest::Node {
        let Node::Ask(field, edges) = self.m.node(at) else { unreachable!("a node asks") };
        let edge = |(index, edge): (usize, &crate::diagram::Edge)| {
            // A closed dimension ends at its last value; the manifest covers every number.
            let last = if index + 1 == edges.len() { u32::MAX } else { count(edge.last) };
            manifest::Edge { last, to: self.target(edge.to) }
        };
        manifest::Node {
            field: own(*field).expect("a question about the local end"),
            edges: edges.iter().enumerate().map(edge).collect(),
        }
    }
}

fn own(field: Field) -> Option<manifest::Field> {
    match field {
        Field::LocalSelf => Some(manifest::Field::IsSelf),
        Field::LocalLabel(label) => Some(manifest::Field::Label(label.0)),
        Field::LocalManaged
        | Field::PeerManaged
        | Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::Same(_)
        | Field::PeerAddress
        | Field::LocalAddress
        | Field::Protocol
        | Field::PeerPort(_)
        | Field::LocalPort(_)
        | Field::Port
        | Field::SourcePort => None,
        Field::PeerName(_)
        | Field::LocalName(_)
        | Field::PeerCgroup
        | Field::LocalCgroup
        | Field::Request => unreachable!("{field:?} is asked in proofs only"),
    }
}

fn count<N: TryInto<u32>>(n: N) -> u32 {
    n.try_into().ok().expect("bounded by the number of nodes and values")
}
