//! From a role's diagram to a tree of comparisons. The decision of every flow a packet can carry is preserved.
//!
//! Two facts are used: both addresses of a packet are of one family, and `::ffff:0:0/96` is no IPv6 address on the wire.

use crate::decide::decision;
use crate::diagram::{Edge, Field as Question, Leaf, Manager, Map, Node, Ref};
use crate::peers::Peers;
use crate::rules::{IPV4_FIRST, IPV4_LAST};
use crate::tree::{self, Family, Field, NodeId, Roots, Tree};
use seg_artifact::maps::{self, Reason};
use seg_lang::eval::Verdict;
use std::collections::BTreeMap;

/// How a tree finds out what it may know of a managed peer.
#[derive(Clone, Copy, Debug)]
pub enum PeerBy<'a> {
    /// By its labels, one after the other.
    Labels,
    /// By its role in the opposite direction.
    Role(&'a Peers<'a>),
}

/// The tree of a diagram that asks nothing about the local end but its address.
///
/// `ranks` has every leaf of the diagram.
/// Sub-decisions that do not ask for addresses are shared between the roots. Cost: linear in the diagram's edges, and in the peers.
pub fn shape(m: &Manager, root: Ref, ranks: &BTreeMap<Leaf, u32>, peer: PeerBy<'_>) -> Tree {
    let (nodes, index, done) = Default::default();
    let mut shape = Shape { m, ranks, nodes, index, done };
    let unmanaged = m.given(root, Question::PeerManaged, 0);
    let managed = m.given(root, Question::PeerManaged, 1);
    let remains = match peer {
        PeerBy::Labels => vec![managed],
        PeerBy::Role(peers) => peers.remains(m, managed),
    };
    let managed = |shape: &mut Shape<'_>, family| {
        let each = (0..).zip(&remains);
        let steps = each.map(|(last, &at)| Step { last, to: shape.decide(at, family) }).collect();
        shape.balance(Field::PeerRole, &merged(steps))
    };
    let roots = Roots {
        unmanaged4: shape.decide(unmanaged, Family::V4),
        managed4: managed(&mut shape, Family::V4),
        unmanaged6: shape.decide(unmanaged, Family::V6),
        managed6: managed(&mut shape, Family::V6),
    };
    Tree { nodes: shape.nodes, roots }
}

/// Answers up to `last` lead to `to`.
#[derive(Clone, Copy)]
struct Step {
    last: u64,
    to: NodeId,
}

struct Shape<'a> {
    m: &'a Manager,
    ranks: &'a BTreeMap<Leaf, u32>,
    nodes: Vec<tree::Node>,
    index: Map<tree::Node, NodeId>,
    done: Map<(Ref, Family), NodeId>,
}

impl Shape<'_> {
    fn decide(&mut self, at: Ref, family: Family) -> NodeId {
        if let Some(&done) = self.done.get(&(at, family)) {
            return done;
        }
        let m = self.m;
        let node = match m.node(at) {
            Node::Leaf(leaf) => self.intern(tree::Node::Leaf(counted(*leaf, self.ranks[leaf]))),
            Node::Ask(Question::PeerAddress, edges) => match family {
                Family::V4 => self.address4(Field::PeerAddress4, edges),
                Family::V6 => self.address6(Field::PeerAddress6High, Field::PeerAddress6Low, edges),
            },
            Node::Ask(Question::LocalAddress, edges) => match family {
                Family::V4 => self.address4(Field::LocalAddress4, edges),
                Family::V6 => {
                    self.address6(Field::LocalAddress6High, Field::LocalAddress6Low, edges)
                }
            },
            Node::Ask(question, edges) => {
                let field = match question {
                    Question::PeerSelf => Field::PeerSelf,
                    Question::PeerLabel(label) => Field::PeerLabel(label.0),
                    Question::Same(label) => Field::Same(label.0),
                    Question::Protocol => Field::Protocol,
                    Question::PeerPort(port) => Field::PeerPort(port.0),
                    Question::LocalPort(port) => Field::LocalPort(port.0),
                    Question::Port => Field::Port,
                    Question::SourcePort => Field::SourcePort,
                    Question::LocalManaged
                    | Question::LocalSelf
                    | Question::LocalLabel(_)
                    | Question::PeerManaged
                    | Question::PeerAddress
                    | Question::LocalAddress => unreachable!("asked before: {question:?}"),
                    Question::PeerName(_)
                    | Question::LocalName(_)
                    | Question::PeerCgroup
                    | Question::LocalCgroup
                    | Question::Request => unreachable!("asked in proofs only: {question:?}"),
                };
                let steps = edges
                    .iter()
                    .map(|edge| Step { last: number(edge.last), to: self.decide(edge.to, family) });
                let steps: Vec<_> = steps.collect();
                self.balance(field, &merged(steps))
            }
        };
        self.done.insert((at, family), node);
        node
    }

    fn address4(&mut self, field: Field, edges: &[Edge]) -> NodeId {
        let from = edges.partition_point(|edge| edge.last < IPV4_FIRST);
        let to = edges.partition_point(|edge| edge.last < IPV4_LAST);
        let steps = edges[from..=to].iter().map(|edge| Step {
            last: number(edge.last.min(IPV4_LAST) - IPV4_FIRST),
            to: self.decide(edge.to, Family::V4),
        });
        let steps: Vec<_> = steps.collect();
        self.balance(field, &merged(steps))
    }

    fn address6(&mut self, high: Field, low: Field, edges: &[Edge]) -> NodeId {
        // An edge that holds mapped addresses only is never taken: the next one begins where it did.
        let firsts = std::iter::once(0).chain(edges.iter().map(|edge| edge.last.wrapping_add(1)));
        let real = firsts
            .zip(edges)
            .filter(|(first, edge)| !(*first >= IPV4_FIRST && edge.last <= IPV4_LAST));
        let mut whole: Vec<(u128, NodeId)> = Vec::new();
        for (_, edge) in real {
            let to = self.decide(edge.to, Family::V6);
            match whole.last_mut() {
                Some(before) if before.1 == to => before.0 = edge.last,
                _ => whole.push((edge.last, to)),
            }
        }
        // Steps over the upper half; an upper half that a bound cuts asks the lower one.
        let mut steps: Vec<Step> = Vec::new();
        let mut cut: Option<(u64, Vec<Step>)> = None;
        for (last, to) in whole {
            let (upper, lower) = ((last >> 64) as u64, last as u64);
            if let Some((at, mut lowers)) = cut.take() {
                let ends = if upper == at { lower } else { u64::MAX };
                lowers.push(Step { last: ends, to });
                if ends < u64::MAX {
                    cut = Some((at, lowers));
                    continue;
                }
                steps.push(Step { last: at, to: self.balance(low, &lowers) });
                if upper == at {
                    continue;
                }
            }
            let next = steps.last().map_or(0, |step| step.last + 1);
            if lower == u64::MAX {
                steps.push(Step { last: upper, to });
                continue;
            }
            if upper > next {
                steps.push(Step { last: upper - 1, to });
            }
            cut = Some((upper, vec![Step { last: lower, to }]));
        }
        self.balance(high, &merged(steps))
    }

    /// The comparisons that find the step of an answer, halving what is left each time.
    fn balance(&mut self, field: Field, steps: &[Step]) -> NodeId {
        if let [only] = steps {
            return only.to;
        }
        let (left, right) = steps.split_at(steps.len() / 2);
        let bound = left[left.len() - 1].last;
        let (below, above) = (self.balance(field, left), self.balance(field, right));
        self.intern(tree::Node::Compare { field, bound, below, above })
    }

    fn intern(&mut self, node: tree::Node) -> NodeId {
        if let Some(&known) = self.index.get(&node) {
            return known;
        }
        let new = NodeId(u32::try_from(self.nodes.len()).expect("bounded by the diagram"));
        self.nodes.push(node);
        self.index.insert(node, new);
        new
    }
}

fn merged(steps: Vec<Step>) -> Vec<Step> {
    let mut merged: Vec<Step> = Vec::new();
    for step in steps {
        match merged.last_mut() {
            Some(before) if before.to == step.to => before.last = step.last,
            _ => merged.push(step),
        }
    }
    merged
}

pub(crate) fn counted(leaf: Leaf, rank: u32) -> tree::Leaf {
    let decision = decision(leaf);
    let counter =
        decision.rule.map_or(Reason::Default.counter(), |rule| maps::rule_counter(rule.0));
    tree::Leaf { allow: decision.verdict == Verdict::Allow, counter, rank }
}

fn number(n: u128) -> u64 {
    u64::try_from(n).expect("the field has at most 64 bits")
}
