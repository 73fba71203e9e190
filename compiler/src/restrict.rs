//! From the diagrams to roles: what an endpoint's own labels leave of the policy.
//!
//! Fields of the local end come first along every path, so the distinct diagrams below them are the roles
//! (the `restrict` of NetKAT: Anderson et al., POPL 2014). Each role decides exactly as the whole diagrams do
//! for the endpoints that reach it.

use crate::diagram::{Field, Node, Ref};
use crate::limits::{LimitError, ROLES_MAX};
use crate::partition::Part;
use seg_artifact::manifest::{self, Roles, Target};
use seg_lang::ast::Direction;
use std::collections::{BTreeSet, HashMap};

/// The roles of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restricted {
    /// Which endpoint has which role.
    pub roles: Roles,
    /// What is left for each role of the diagram of each part: questions about the peer and the packet.
    pub decisions: Vec<Vec<Ref>>,
}

/// Cuts the diagrams below the questions about the local end.
///
/// # Errors
/// [`LimitError::Roles`].
pub fn restrict(parts: &[Part], way: Direction) -> Result<Restricted, LimitError> {
    // Only endpoints of the inventory have programs.
    let managed = |part: &Part| part.diagrams.given(part.root, Field::LocalManaged, 1);
    let root: Vec<Ref> = parts.iter().map(managed).collect();
    let mut cut = Cut { parts, nodes: Vec::new(), decisions: Vec::new(), done: HashMap::new() };
    let root = cut.visit(root);
    let (prefix, direction) = match way {
        Direction::Outbound => ("from", "outbound"),
        Direction::Inbound => ("to", "inbound"),
    };
    if cut.decisions.len() > ROLES_MAX {
        let widest = parts.iter().max_by_key(|part| part.diagrams.n_nodes());
        let rules = widest.map(|part| part.diagrams.costliest()).unwrap_or_default();
        return Err(LimitError::Roles { direction, rules });
    }
    let programs = (0..cut.decisions.len()).map(|role| format!("{prefix}_{role}")).collect();
    // Reversed, every node comes before those it leads to.
    let last = count(cut.nodes.len()).wrapping_sub(1);
    let turned = |target: Target| match target {
        Target::Node(place) => Target::Node(last - place),
        Target::Role(_) => target,
    };
    let mut nodes: Vec<_> = cut.nodes.into_iter().rev().collect();
    for edge in nodes.iter_mut().flat_map(|node: &mut manifest::Node| &mut node.edges) {
        edge.to = turned(edge.to);
    }
    let roles = Roles { root: turned(root), nodes, programs };
    Ok(Restricted { roles, decisions: cut.decisions })
}

struct Cut<'a> {
    parts: &'a [Part],
    /// In post order, as are the numbers in targets.
    nodes: Vec<manifest::Node>,
    /// In order of first reach.
    decisions: Vec<Vec<Ref>>,
    done: HashMap<Vec<Ref>, Target>,
}

impl Cut<'_> {
    /// Where the endpoints go for which this is left of each part.
    fn visit(&mut self, at: Vec<Ref>) -> Target {
        if let Some(&done) = self.done.get(&at) {
            return done;
        }
        let asks =
            self.parts.iter().zip(&at).filter_map(|(part, &at)| match part.diagrams.node(at) {
                Node::Ask(field, edges) if own(*field).is_some() => Some((*field, edges)),
                Node::Ask(..) | Node::Leaf(_) => None,
            });
        let Some(field) = asks.clone().map(|(field, _)| field).min() else {
            let role = Target::Role(count(self.decisions.len()));
            // Beyond the limit one more says enough.
            if self.decisions.len() <= ROLES_MAX {
                self.decisions.push(at.clone());
                self.done.insert(at, role);
            }
            return role;
        };
        let bounds = asks.filter(|(asked, _)| *asked == field).flat_map(|(_, edges)| edges.iter());
        let lasts: BTreeSet<u128> = bounds.map(|edge| edge.last).collect();
        let max = *lasts.last().expect("a node has edges");
        let mut edges = Vec::new();
        for last in lasts {
            let given = |(part, &at): (&Part, &Ref)| part.diagrams.given(at, field, last);
            let to = self.visit(self.parts.iter().zip(&at).map(given).collect());
            // A closed dimension ends at its last value; the manifest covers every number.
            let last = if last == max { u32::MAX } else { count(last) };
            edges.push(manifest::Edge { last, to });
        }
        let field = own(field).expect("a question about the local end");
        self.nodes.push(manifest::Node { field, edges });
        let node = Target::Node(count(self.nodes.len()) - 1);
        self.done.insert(at, node);
        node
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
