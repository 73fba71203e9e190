//! The decision as a diagram: ordered, reduced, hash-consed nodes with range edges.
//!
//! This is the firewall decision diagram of Gouda and Liu ("Structured firewall design", Computer Networks 51, 2007)
//! with the sharing of Bryant's BDDs. INVARIANT: along a path fields ascend; the edges of a node ascend, cover its field,
//! and neighbours differ in where they lead; no node has one edge; no two nodes are equal. So two diagrams of one
//! manager decide the same if and only if they are the same reference.

use crate::atoms::{Atoms, NameId};
use crate::limits::{LimitError, WORK_PER_NODE};
use crate::ranges::Ranges;
use crate::rules::{self, Labels, PortId};
use seg_lang::ast::Tier;
use seg_lang::policy::{LabelId, RuleId, text};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// What a node asks, in the order along every path unless an [`Order`] says otherwise: first what is known when an endpoint is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// 1 if this end is in the inventory.
    LocalManaged,
    /// 1 if this end is the machine itself.
    LocalSelf,
    /// This end's value in a dimension.
    LocalLabel(LabelId),
    /// 1 if the peer is in the inventory.
    PeerManaged,
    /// 1 if the peer is the machine itself.
    PeerSelf,
    /// The peer's value in a dimension.
    PeerLabel(LabelId),
    /// 1 if both ends have the same value in a dimension. Only asked where both are set and neither is told apart.
    Same(LabelId),
    /// The peer's address.
    PeerAddress,
    /// This end's address.
    LocalAddress,
    /// 1 if a name of this form resolves to the peer. Only in proofs, as the next four: packets do not say.
    PeerName(NameId),
    /// 1 if a name of this form resolves to this end.
    LocalName(NameId),
    /// The peer's control group. Only asked where it is the machine itself.
    PeerCgroup,
    /// This end's control group. Only asked where it is the machine itself.
    LocalCgroup,
    /// IANA protocol number.
    Protocol,
    /// 1 if protocol and port are those the peer has by this name. Only asked of managed destinations, as the next.
    PeerPort(PortId),
    /// 1 if protocol and port are those this end has by this name.
    LocalPort(PortId),
    /// Destination port, or the type for ICMP and ICMPv6.
    Port,
    /// Source port, or the code for ICMP and ICMPv6.
    SourcePort,
    /// The number of the HTTP request. Only in proofs.
    Request,
}

/// What stands at the bottom; of two that are joined the greater wins.
///
/// The derived order is the meaning of a policy: within a block `isolate`, `allow`, `deny`; within a tier `allow`, `isolate`,
/// `deny`; then the tiers; and among equals the first rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// Not in the set; nothing said.
    No,
    /// In the set.
    Yes,
    /// What a block says.
    Block(BlockVerdict, Reverse<RuleId>),
    /// What a tier says.
    Tier(Reverse<Tier>, TierVerdict, Reverse<RuleId>),
}

/// What a rule says inside its block, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockVerdict {
    /// `isolate`.
    Isolate,
    /// `allow`.
    Allow,
    /// `deny`.
    Deny,
}

/// What a block says inside its tier, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierVerdict {
    /// `allow`.
    Allow,
    /// Denied by `isolate`.
    Isolate,
    /// Denied by `deny`.
    Deny,
}

/// A node of a [`Manager`], and the diagram below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ref(u32);

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The end.
    Leaf(Leaf),
    /// A question.
    Ask(Field, Arc<[Edge]>),
}

/// Answers up to `last`, and above those of the edge before, lead to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Largest answer, included.
    pub last: u128,
    /// Where to go.
    pub to: Ref,
}

/// How two diagrams are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The greater of both.
    Join,
    /// The second where the first is not [`Leaf::No`]: intersection of sets, restriction to a set.
    Within,
    /// The first where the second is [`Leaf::No`]: difference of sets.
    Without,
}

/// What comes after questions about who the ends are, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order(pub [Subject; 3]);

/// Fields that an [`Order`] keeps together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The peer's address.
    Peer,
    /// This end's address.
    Local,
    /// Protocol and ports.
    Packet,
}

/// Owner of nodes.
#[derive(Debug)]
pub struct Manager {
    nodes: Vec<Node>,
    /// What is known of each node.
    facts: Vec<Facts>,
    index: Map<Node, Ref>,
    memo: Map<(Op, Ref, Ref), Ref>,
    joined: Map<Box<[Ref]>, Ref>,
    label_max: Vec<u128>,
    atoms: Atoms,
    order: Order,
    budget: Budget,
    /// Unit: diagrams that met at an edge.
    work: usize,
}

/// What a [`Manager`] may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Nodes ever made.
    pub nodes: usize,
    /// Diagrams that meet at edges while others are put together: time, as nodes are room.
    pub work: usize,
}

#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Where its field is in the order; behind all fields for a leaf.
    place: u64,
    /// The greatest leaf below.
    greatest: Leaf,
}

/// A hash table of the compiler's own small keys.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// A hash of a few words. Nothing depends on the order it gives.
#[derive(Debug, Default)]
pub(crate) struct Mix(u64);

impl Manager {
    /// A manager over these dimensions that makes at most `nodes_max` nodes.
    pub fn new(labels: &Labels, nodes_max: usize) -> Self {
        let work = nodes_max.saturating_mul(WORK_PER_NODE);
        Self::ordered(labels, Budget { nodes: nodes_max, work }, Order::USUAL)
    }

    /// A manager with another order of fields.
    pub fn ordered(labels: &Labels, budget: Budget, order: Order) -> Self {
        let label_max = labels.ids().map(|label| labels.max(label)).collect();
        let leaves = [Leaf::No, Leaf::Yes];
        let facts = leaves.map(|greatest| Facts { place: u64::MAX, greatest }).into();
        let nodes = Vec::from(leaves.map(Node::Leaf));
        let index = nodes.iter().cloned().zip([Self::NO, Self::YES]).collect();
        let (memo, joined, atoms) = (Map::default(), Map::default(), labels.atoms().clone());
        Self { nodes, facts, index, memo, joined, label_max, atoms, order, budget, work: 0 }
    }

    /// The empty set.
    pub const NO: Ref = Ref(0);
    /// The set of everything.
    pub const YES: Ref = Ref(1);

    /// The node.
    pub fn node(&self, at: Ref) -> &Node {
        &self.nodes[at.0 as usize]
    }

    /// The numbers of what is asked beyond headers.
    pub fn atoms(&self) -> &Atoms {
        &self.atoms
    }

    /// How many nodes were ever made.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What was spent, as [`Budget::work`].
    pub fn work(&self) -> usize {
        self.work
    }

    /// The order of fields.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Comparisons that tell the answers of a diagram apart: one less than there are edges, at each node.
    pub fn n_comparisons(&self, root: Ref) -> usize {
        let at_node = |at: Ref| match self.node(at) {
            Node::Leaf(_) => 0,
            Node::Ask(_, edges) => edges.len() - 1,
        };
        self.reach(root).into_iter().map(at_node).sum()
    }

    /// Largest answer to a field.
    pub fn max(&self, field: Field) -> u128 {
        match field {
            Field::LocalManaged | Field::LocalSelf | Field::PeerManaged | Field::PeerSelf => 1,
            Field::Same(_) | Field::PeerPort(_) | Field::LocalPort(_) => 1,
            Field::PeerName(_) | Field::LocalName(_) => 1,
            Field::PeerCgroup | Field::LocalCgroup => self.atoms.cgroup_max(),
            Field::Request => self.atoms.request_max(),
            Field::LocalLabel(label) | Field::PeerLabel(label) => self.label_max[label.0 as usize],
            Field::PeerAddress | Field::LocalAddress => u128::MAX,
            Field::Protocol => u128::from(u8::MAX),
            Field::Port | Field::SourcePort => u128::from(u16::MAX),
        }
    }

    /// The diagram that says `leaf` to everything.
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn leaf(&mut self, leaf: Leaf) -> Result<Ref, LimitError> {
        self.intern(Node::Leaf(leaf))
    }

    /// The diagram that asks `field`; every diagram below asks later ones. Each edge begins where the one before ends.
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn ask(
        &mut self,
        field: Field,
        edges: impl IntoIterator<Item = Edge>,
    ) -> Result<Ref, LimitError> {
        let mut merged: Vec<Edge> = Vec::new();
        for edge in edges {
            match merged.last_mut() {
                Some(before) if before.to == edge.to => before.last = edge.last,
                _ => merged.push(edge),
            }
        }
        if let [only] = merged[..] {
            return Ok(only.to);
        }
        self.intern(Node::Ask(field, merged.into()))
    }

    /// `yes` where the answer to `field` is in the set, else `no`.
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn member(
        &mut self,
        field: Field,
        set: &Ranges,
        yes: Ref,
        no: Ref,
    ) -> Result<Ref, LimitError> {
        let max = self.max(field);
        let mut edges = Vec::new();
        for (first, last) in set.iter().take_while(|&(first, _)| first <= max) {
            edges.extend(first.checked_sub(1).map(|last| Edge { last, to: no }));
            edges.push(Edge { last: last.min(max), to: yes });
        }
        if edges.last().is_none_or(|edge| edge.last < max) {
            edges.push(Edge { last: max, to: no });
        }
        self.ask(field, edges)
    }

    /// Puts two diagrams together.
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn apply(&mut self, op: Op, a: Ref, b: Ref) -> Result<Ref, LimitError> {
        if let Some(result) = self.trivial(op, a, b) {
            return Ok(result);
        }
        let key = if op == Op::Join { (op, a.min(b), a.max(b)) } else { (op, a, b) };
        if let Some(&result) = self.memo.get(&key) {
            return Ok(result);
        }
        let (of_a, of_b) = (self.fact(a).place, self.fact(b).place);
        let first = if of_a <= of_b { a } else { b };
        let Node::Ask(field, edges) = self.node(first) else { unreachable!("leaves are trivial") };
        let (field, edges) = (*field, Arc::clone(edges));
        let mut joined = Vec::with_capacity(edges.len());
        match of_a.cmp(&of_b) {
            Ordering::Less => {
                for edge in edges.iter() {
                    joined.push(Edge { last: edge.last, to: self.apply(op, edge.to, b)? });
                }
            }
            Ordering::Greater => {
                for edge in edges.iter() {
                    joined.push(Edge { last: edge.last, to: self.apply(op, a, edge.to)? });
                }
            }
            Ordering::Equal => {
                let Node::Ask(_, others) = self.node(b) else { unreachable!("both ask") };
                let others = Arc::clone(others);
                let (mut i, mut j) = (0, 0);
                // Both end at the field's largest answer, so they run out together.
                while let (Some(x), Some(y)) = (edges.get(i), others.get(j)) {
                    let last = x.last.min(y.last);
                    joined.push(Edge { last, to: self.apply(op, x.to, y.to)? });
                    i += usize::from(x.last == last);
                    j += usize::from(y.last == last);
                }
            }
        }
        self.spend(2 * joined.len())?;
        let result = self.ask(field, joined)?;
        self.memo.insert(key, result);
        Ok(result)
    }

    /// The greatest of many diagrams, all at once: only nodes of the result are made. Nothing gives [`Self::NO`].
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn join(&mut self, mut all: Vec<Ref>) -> Result<Ref, LimitError> {
        self.keep_greatest(&mut all);
        match all[..] {
            [] => return Ok(Self::NO),
            [only] => return Ok(only),
            [a, b] => return self.apply(Op::Join, a, b),
            _ => {}
        }
        if let Some(&result) = self.joined.get(&all[..]) {
            return Ok(result);
        }
        let place = all.iter().map(|&at| self.fact(at).place).min().expect("three or more");
        let (mut field, mut others) = (None, Vec::new());
        // Where each diagram below begins, and where it ends.
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        for &at in &all {
            match self.node(at) {
                Node::Ask(asked, edges) if self.fact(at).place == place => {
                    field = Some(*asked);
                    let mut first = 0;
                    for edge in edges.iter() {
                        if edge.to != Self::NO {
                            begins.push((first, edge.to));
                            ends.push((edge.last, edge.to));
                        }
                        first = edge.last.wrapping_add(1);
                    }
                }
                Node::Ask(..) | Node::Leaf(_) => others.push(at),
            }
        }
        let field = field.expect("two leaves are never left");
        let max = self.max(field);
        begins.sort_unstable();
        ends.sort_unstable();
        let mut here: BTreeMap<Ref, u32> = BTreeMap::new();
        let (mut i, mut j, mut joined) = (0, 0, Vec::new());
        let mut first = 0;
        loop {
            while let Some(&(_, below)) = begins.get(i).filter(|(at, _)| *at == first) {
                *here.entry(below).or_default() += 1;
                i += 1;
            }
            let begin = begins.get(i).map(|&(next, _)| next - 1);
            let end = ends.get(j).map(|&(last, _)| last);
            let last = begin.into_iter().chain(end).chain([max]).min().expect("one at least");
            self.spend(others.len() + here.len())?;
            let below = others.iter().chain(here.keys()).copied().collect();
            joined.push(Edge { last, to: self.join(below)? });
            while let Some(&(_, below)) = ends.get(j).filter(|(at, _)| *at == last) {
                let n = here.get_mut(&below).expect("what ends has begun");
                *n -= 1;
                if *n == 0 {
                    here.remove(&below);
                }
                j += 1;
            }
            if last == max {
                break;
            }
            first = last + 1;
        }
        let result = self.ask(field, joined)?;
        self.joined.insert(all.into(), result);
        Ok(result)
    }

    /// Sorts, and leaves out what a leaf among them is greater than everywhere.
    fn keep_greatest(&self, all: &mut Vec<Ref>) {
        all.sort_unstable();
        all.dedup();
        let leaves = all.iter().filter(|&&at| self.fact(at).place == u64::MAX);
        let greatest = leaves.max_by_key(|&&at| self.fact(at).greatest).copied();
        if let Some(leaf) = greatest {
            let bound = self.fact(leaf).greatest;
            all.retain(|&at| at == leaf || self.fact(at).greatest > bound);
        }
        all.retain(|&at| at != Self::NO);
    }

    /// The same questions with other leaves.
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn relabel(&mut self, root: Ref, leaf: &dyn Fn(Leaf) -> Leaf) -> Result<Ref, LimitError> {
        let mut done = HashMap::new();
        self.relabel_below(root, leaf, &mut done)
    }

    fn relabel_below(
        &mut self,
        at: Ref,
        leaf: &dyn Fn(Leaf) -> Leaf,
        done: &mut HashMap<Ref, Ref>,
    ) -> Result<Ref, LimitError> {
        if let Some(&result) = done.get(&at) {
            return Ok(result);
        }
        let result = match self.node(at).clone() {
            Node::Leaf(old) => self.leaf(leaf(old))?,
            Node::Ask(field, edges) => {
                let edges = edges.iter().map(|edge| {
                    let to = self.relabel_below(edge.to, leaf, done)?;
                    Ok(Edge { last: edge.last, to })
                });
                let edges = edges.collect::<Result<Vec<_>, LimitError>>()?;
                self.ask(field, edges)?
            }
        };
        done.insert(at, result);
        Ok(result)
    }

    /// The diagram below the answer, if the first question is `field`; else the diagram itself.
    pub fn given(&self, at: Ref, field: Field, answer: u128) -> Ref {
        match self.node(at) {
            Node::Ask(asked, edges) if *asked == field => follow(edges, answer),
            Node::Ask(..) | Node::Leaf(_) => at,
        }
    }

    /// What the diagram says.
    pub fn eval(&self, root: Ref, answer: &dyn Fn(Field) -> u128) -> Leaf {
        let mut at = root;
        loop {
            match self.node(at) {
                Node::Leaf(leaf) => return *leaf,
                Node::Ask(field, edges) => at = follow(edges, answer(*field)),
            }
        }
    }

    /// The nodes of a diagram in order of first reach.
    pub fn reach(&self, root: Ref) -> Vec<Ref> {
        let (mut seen, mut order, mut stack) = (BTreeSet::new(), Vec::new(), vec![root]);
        while let Some(at) = stack.pop() {
            if !seen.insert(at) {
                continue;
            }
            order.push(at);
            if let Node::Ask(_, edges) = self.node(at) {
                stack.extend(edges.iter().rev().map(|edge| edge.to));
            }
        }
        order
    }

    /// The leaves of a diagram.
    pub fn leaves(&self, root: Ref) -> BTreeSet<Leaf> {
        let leaf = |at: Ref| match self.node(at) {
            Node::Leaf(leaf) => Some(*leaf),
            Node::Ask(..) => None,
        };
        self.reach(root).into_iter().filter_map(leaf).collect()
    }

    /// Checks the invariant of the module.
    ///
    /// # Errors
    /// What is wrong, for people who debug the compiler.
    pub fn verify(&self, root: Ref) -> Result<(), String> {
        let mut nodes = HashMap::new();
        for at in self.reach(root) {
            if let Some(twin) = nodes.insert(self.node(at), at) {
                return Err(format!("{at:?} and {twin:?} are equal"));
            }
            let Node::Ask(field, edges) = self.node(at) else { continue };
            if edges.len() < 2 {
                return Err(format!("{at:?} has one edge"));
            }
            if !edges.is_sorted_by(|a, b| a.last < b.last && a.to != b.to) {
                return Err(format!("{at:?} has edges that do not ascend or are not merged"));
            }
            if edges.last().map(|edge| edge.last) != Some(self.max(*field)) {
                return Err(format!("{at:?} does not cover {field:?}"));
            }
            if edges.iter().any(|edge| self.fact(edge.to).place <= self.fact(at).place) {
                return Err(format!("{at:?} leads to a node that does not come later"));
            }
        }
        Ok(())
    }

    /// The diagram as text, a line for each node in order of first reach.
    pub fn text(&self, root: Ref, labels: &Labels) -> String {
        let order = self.reach(root);
        let asks = order.iter().filter(|&&at| matches!(self.node(at), Node::Ask(..)));
        let names: BTreeMap<Ref, usize> = asks.copied().zip(0..).collect();
        let name = |at: Ref| match self.node(at) {
            Node::Leaf(leaf) => leaf_text(*leaf),
            Node::Ask(..) => format!("n{}", names[&at]),
        };
        let mut text = format!("root {}\n", name(root));
        for &at in &order {
            let Node::Ask(field, edges) = self.node(at) else { continue };
            writeln!(text, "{} {}", name(at), field_text(*field, labels)).expect("a string");
            let mut first = 0;
            for edge in edges.iter() {
                let range = range_text(*field, first, edge.last, labels);
                writeln!(text, "  {range} -> {}", name(edge.to)).expect("a string");
                first = edge.last.wrapping_add(1);
            }
        }
        text
    }

    fn trivial(&self, op: Op, a: Ref, b: Ref) -> Option<Ref> {
        let leaf = |at: Ref| match self.node(at) {
            Node::Leaf(leaf) => Some(*leaf),
            Node::Ask(..) => None,
        };
        match (op, leaf(a), leaf(b)) {
            (Op::Join, Some(Leaf::No), _) => Some(b),
            (Op::Join, _, Some(Leaf::No)) => Some(a),
            (Op::Join, Some(x), _) if self.fact(b).greatest <= x => Some(a),
            (Op::Join, _, Some(y)) if self.fact(a).greatest <= y => Some(b),
            (Op::Join, ..) => (a == b).then_some(a),
            (Op::Within, Some(Leaf::No), _) | (Op::Within, _, Some(Leaf::No)) => Some(Self::NO),
            (Op::Within, Some(_), _) => Some(b),
            (Op::Within, None, _) => (a == b).then_some(a),
            (Op::Without, Some(Leaf::No), _) | (Op::Without, _, Some(Leaf::No)) => Some(a),
            (Op::Without, _, Some(_)) => Some(Self::NO),
            (Op::Without, _, None) => (a == b).then_some(Self::NO),
        }
    }

    fn fact(&self, at: Ref) -> Facts {
        self.facts[at.0 as usize]
    }

    /// Where a field is in the order.
    fn place(&self, field: Field) -> u64 {
        let subject =
            |subject| 8 + 16 * self.order.0.iter().position(|&s| s == subject).unwrap_or(0);
        let (peer, local) = (subject(Subject::Peer), subject(Subject::Local));
        let packet = subject(Subject::Packet);
        let (group, number) = match field {
            Field::LocalManaged => (0, 0),
            Field::LocalSelf => (1, 0),
            Field::LocalLabel(label) => (2, label.0),
            Field::PeerManaged => (3, 0),
            Field::PeerSelf => (4, 0),
            Field::PeerLabel(label) => (5, label.0),
            Field::Same(label) => (6, label.0),
            Field::PeerAddress => (peer, 0),
            Field::LocalAddress => (local, 0),
            Field::PeerName(name) => (packet, name.0),
            Field::LocalName(name) => (packet + 1, name.0),
            Field::PeerCgroup => (packet + 2, 0),
            Field::LocalCgroup => (packet + 3, 0),
            Field::Protocol => (packet + 4, 0),
            Field::PeerPort(port) => (packet + 5, port.0),
            Field::LocalPort(port) => (packet + 6, port.0),
            Field::Port => (packet + 7, 0),
            Field::SourcePort => (packet + 8, 0),
            Field::Request => (packet + 9, 0),
        };
        (group as u64) << 32 | u64::from(number)
    }

    fn intern(&mut self, node: Node) -> Result<Ref, LimitError> {
        if let Some(&known) = self.index.get(&node) {
            return Ok(known);
        }
        if self.nodes.len() >= self.budget.nodes {
            return Err(LimitError::Nodes { limit: self.budget.nodes, rules: self.costliest() });
        }
        let facts = match &node {
            Node::Leaf(leaf) => Facts { place: u64::MAX, greatest: *leaf },
            Node::Ask(field, edges) => {
                let greatest = edges.iter().map(|edge| self.fact(edge.to).greatest).max();
                let greatest = greatest.expect("a node has edges");
                Facts { place: self.place(*field), greatest }
            }
        };
        self.facts.push(facts);
        let new = Ref(u32::try_from(self.nodes.len()).expect("nodes are bounded"));
        self.nodes.push(node.clone());
        self.index.insert(node, new);
        Ok(new)
    }

    fn spend(&mut self, work: usize) -> Result<(), LimitError> {
        self.work += work;
        match self.budget.work {
            limit if self.work > limit => Err(LimitError::Work { limit, rules: self.costliest() }),
            _ => Ok(()),
        }
    }

    /// The rules whose leaves the most edges lead to, at most five.
    pub(crate) fn costliest(&self) -> Vec<RuleId> {
        let mut edges_to: BTreeMap<RuleId, usize> = BTreeMap::new();
        for node in &self.nodes {
            let Node::Ask(_, edges) = node else { continue };
            for edge in edges.iter() {
                if let Node::Leaf(leaf) = self.node(edge.to)
                    && let Some(rule) = leaf.rule()
                {
                    *edges_to.entry(rule).or_default() += 1;
                }
            }
        }
        let mut rules: Vec<_> = edges_to.into_iter().collect();
        rules.sort_by_key(|&(rule, n)| (Reverse(n), rule));
        rules.into_iter().map(|(rule, _)| rule).take(5).collect()
    }
}

impl Order {
    /// Addresses, then the packet.
    pub const USUAL: Self = Self([Subject::Peer, Subject::Local, Subject::Packet]);

    /// The order that asks the same of the other direction.
    pub fn mirrored(self) -> Self {
        Self(self.0.map(|subject| match subject {
            Subject::Peer => Subject::Local,
            Subject::Local => Subject::Peer,
            Subject::Packet => Subject::Packet,
        }))
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        // The odd number nearest to 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

impl Leaf {
    /// The rule that says it.
    pub fn rule(self) -> Option<RuleId> {
        match self {
            Self::No | Self::Yes => None,
            Self::Block(_, Reverse(rule)) | Self::Tier(_, _, Reverse(rule)) => Some(rule),
        }
    }
}

fn follow(edges: &[Edge], answer: u128) -> Ref {
    edges[edges.partition_point(|edge| edge.last < answer)].to
}

fn leaf_text(leaf: Leaf) -> String {
    match leaf {
        Leaf::No => "no".to_owned(),
        Leaf::Yes => "yes".to_owned(),
        Leaf::Block(verdict, Reverse(rule)) => {
            format!("{} #{}", format!("{verdict:?}").to_lowercase(), rule.0)
        }
        Leaf::Tier(Reverse(tier), verdict, Reverse(rule)) => {
            let tier = text::tier(tier);
            format!("{tier} {} #{}", format!("{verdict:?}").to_lowercase(), rule.0)
        }
    }
}

pub(crate) fn field_text(field: Field, labels: &Labels) -> String {
    let name = |label: LabelId| &labels.label(label).name;
    match field {
        Field::LocalManaged => "local managed".to_owned(),
        Field::LocalSelf => "local self".to_owned(),
        Field::LocalLabel(label) => format!("local {}", name(label)),
        Field::PeerManaged => "peer managed".to_owned(),
        Field::PeerSelf => "peer self".to_owned(),
        Field::PeerLabel(label) => format!("peer {}", name(label)),
        Field::Same(label) => format!("same {}", name(label)),
        Field::PeerAddress => "peer address".to_owned(),
        Field::LocalAddress => "local address".to_owned(),
        Field::Protocol => "protocol".to_owned(),
        Field::PeerPort(port) => format!("peer port {}", labels.ports()[port.0 as usize]),
        Field::LocalPort(port) => format!("local port {}", labels.ports()[port.0 as usize]),
        Field::Port => "port".to_owned(),
        Field::SourcePort => "source port".to_owned(),
        Field::PeerName(id) => format!("peer {}", text::name_pattern(labels.atoms().name(id))),
        Field::LocalName(id) => format!("local {}", text::name_pattern(labels.atoms().name(id))),
        Field::PeerCgroup => "peer cgroup".to_owned(),
        Field::LocalCgroup => "local cgroup".to_owned(),
        Field::Request => "request".to_owned(),
    }
}

pub(crate) fn range_text(field: Field, first: u128, last: u128, labels: &Labels) -> String {
    let one = |n: u128| match field {
        Field::PeerAddress | Field::LocalAddress => rules::number_address(n).to_string(),
        Field::LocalLabel(label) | Field::PeerLabel(label) => {
            let values = &labels.label(label).values;
            let listed = |n: u128| usize::try_from(n - 1).ok().and_then(|index| values.get(index));
            match n {
                0 => "unset".to_owned(),
                n => listed(n).map_or("other".to_owned(), Clone::clone),
            }
        }
        _ => n.to_string(),
    };
    let (from, to) = (one(first), one(last));
    if from == to { from } else { format!("{from}..{to}") }
}
