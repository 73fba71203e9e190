//! The decision as a diagram: ordered, reduced, hash-consed nodes with range edges.
//!
//! This is the firewall decision diagram of Gouda and Liu ("Structured firewall design", Computer Networks 51, 2007)
//! with the sharing of Bryant's BDDs. INVARIANT: along a path fields ascend; the edges of a node ascend, cover its field,
//! and neighbours differ in where they lead; no node has one edge; no two nodes are equal. So two diagrams of one
//! manager decide the same if and only if they are the same reference.

use crate::atoms::{Atoms, NameId};
use crate::limits::LimitError;
use crate::ranges::Ranges;
use crate::rules::{self, Labels, PortId};
use seg_lang::ast::Tier;
use seg_lang::policy::{LabelId, RuleId, text};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// What a node asks, in the order along every path: first what is known when an endpoint is bound.
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

/// Owner of nodes.
#[derive(Debug)]
pub struct Manager {
    nodes: Vec<Node>,
    index: HashMap<Node, Ref>,
    memo: HashMap<(Op, Ref, Ref), Ref>,
    label_max: Vec<u128>,
    atoms: Atoms,
    nodes_max: usize,
}

impl Manager {
    /// A manager over these dimensions that makes at most `nodes_max` nodes.
    pub fn new(labels: &Labels, nodes_max: usize) -> Self {
        let label_max = labels.ids().map(|label| labels.max(label)).collect();
        let nodes = vec![Node::Leaf(Leaf::No), Node::Leaf(Leaf::Yes)];
        let index = HashMap::from([(nodes[0].clone(), Ref(0)), (nodes[1].clone(), Ref(1))]);
        let (memo, atoms) = (HashMap::new(), labels.atoms().clone());
        Self { nodes, index, memo, label_max, atoms, nodes_max }
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
        let field = match (self.field(a), self.field(b)) {
            (Some(a), Some(b)) => a.min(b),
            (Some(field), None) | (None, Some(field)) => field,
            (None, None) => unreachable!("two leaves are trivial"),
        };
        let (of_a, of_b) = (self.edges(a, field), self.edges(b, field));
        let (mut i, mut j, mut edges) = (0, 0, Vec::with_capacity(of_a.len() + of_b.len()));
        // Both end at the field's largest answer, so they run out together.
        while let (Some(x), Some(y)) = (of_a.get(i), of_b.get(j)) {
            let last = x.last.min(y.last);
            edges.push(Edge { last, to: self.apply(op, x.to, y.to)? });
            i += usize::from(x.last == last);
            j += usize::from(y.last == last);
        }
        let result = self.ask(field, edges)?;
        self.memo.insert(key, result);
        Ok(result)
    }

    /// Puts diagrams together pairwise, so that small ones meet first; nothing gives [`Self::NO`].
    ///
    /// # Errors
    /// [`LimitError::Nodes`].
    pub fn join(&mut self, mut all: Vec<Ref>) -> Result<Ref, LimitError> {
        while all.len() > 1 {
            let pairs = all.chunks(2).map(|pair| match *pair {
                [a, b] => self.apply(Op::Join, a, b),
                _ => Ok(pair[0]),
            });
            all = pairs.collect::<Result<_, _>>()?;
        }
        Ok(all.pop().unwrap_or(Self::NO))
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
            if edges.iter().any(|edge| self.field(edge.to).is_some_and(|below| below <= *field)) {
                return Err(format!("{at:?} leads to a node that does not come later"));
            }
        }
        Ok(())
    }

    /// The diagram as text, a line for each node in order of first reach.
    pub fn text(&self, root: Ref, labels: &Labels) -> String {
        let order = self.reach(root);
        let asks = order.iter().filter(|&&at| self.field(at).is_some());
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
            (Op::Join, Some(x), Some(y)) => Some(if x < y { b } else { a }),
            (Op::Join, ..) => (a == b).then_some(a),
            (Op::Within, Some(Leaf::No), _) | (Op::Within, _, Some(Leaf::No)) => Some(Self::NO),
            (Op::Within, Some(_), _) => Some(b),
            (Op::Within, None, _) => (a == b).then_some(a),
            (Op::Without, Some(Leaf::No), _) | (Op::Without, _, Some(Leaf::No)) => Some(a),
            (Op::Without, _, Some(_)) => Some(Self::NO),
            (Op::Without, _, None) => (a == b).then_some(Self::NO),
        }
    }

    fn field(&self, at: Ref) -> Option<Field> {
        match self.node(at) {
            Node::Leaf(_) => None,
            Node::Ask(field, _) => Some(*field),
        }
    }

    /// The edges of a node, or one edge to itself if it does not ask `field`.
    fn edges(&self, at: Ref, field: Field) -> Arc<[Edge]> {
        match self.node(at) {
            Node::Ask(asked, edges) if *asked == field => Arc::clone(edges),
            Node::Ask(..) | Node::Leaf(_) => Arc::new([Edge { last: self.max(field), to: at }]),
        }
    }

    fn intern(&mut self, node: Node) -> Result<Ref, LimitError> {
        if let Some(&known) = self.index.get(&node) {
            return Ok(known);
        }
        if self.nodes.len() >= self.nodes_max {
            return Err(LimitError::Nodes { limit: self.nodes_max, rules: self.costliest() });
        }
        let new = Ref(u32::try_from(self.nodes.len()).expect("nodes are bounded"));
        self.nodes.push(node.clone());
        self.index.insert(node, new);
        Ok(new)
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

fn field_text(field: Field, labels: &Labels) -> String {
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

fn range_text(field: Field, first: u128, last: u128, labels: &Labels) -> String {
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
