//! Which ends no rule can tell apart.
//!
//! A predicate is a set of ends; a class is what a set of predicates says of an end: exactly which of them hold.
//! Classes come from the predicates, never from the inventory, so that a new endpoint is in one of them already.
//!
//! INVARIANT: class 0 is where no predicate holds; questions ascend along every path as in a diagram; no two nodes are equal,
//! and neighbours lead elsewhere. Equal predicates give equal numbers.

use crate::diagram::{Field, Manager, Node as Question, Ref};
use crate::limits::{CLASS_NODES_MAX, LimitError};
use std::collections::HashMap;

/// The classes of one side of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Where to begin.
    pub root: Target,
    /// Later nodes refer to earlier ones.
    pub nodes: Vec<Node>,
    /// For each class the predicates that hold, ascending.
    pub held: Vec<Vec<u32>>,
}

/// Another question, or the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Index into [`Classes::nodes`].
    Node(u32),
    /// Index into [`Classes::held`].
    Class(u32),
}

/// A question about an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What is asked.
    pub field: Field,
    /// Answers up to the number, and above those of the edge before, lead there.
    pub edges: Vec<(u128, Target)>,
}

/// The classes of predicates, each a diagram over one end with the leaves yes and no.
///
/// Cost: linear in the nodes of the result times the predicates undecided in each.
///
/// # Errors
/// [`LimitError::Classes`].
pub fn classify(m: &Manager, predicates: &[Ref]) -> Result<Classes, LimitError> {
    let mut found = Classify {
        m,
        nodes: Vec::new(),
        index: HashMap::new(),
        held: vec![Vec::new()],
        class: HashMap::from([(Vec::new(), 0)]),
        done: HashMap::new(),
    };
    let open = (0..).zip(predicates.iter().copied()).collect();
    let root = found.ask(open, Vec::new())?;
    Ok(Classes { root, nodes: found.nodes, held: found.held })
}

/// Predicates with questions left, by number.
type Open = Vec<(u32, Ref)>;

struct Classify<'a> {
    m: &'a Manager,
    nodes: Vec<Node>,
    index: HashMap<Node, Target>,
    held: Vec<Vec<u32>>,
    class: HashMap<Vec<u32>, u32>,
    /// By what is open and what holds.
    done: HashMap<(Open, Vec<u32>), Target>,
}

impl Classify<'_> {
    /// `held` are the predicates known to hold; the `open` ones have questions left, or are leaves.
    fn ask(&mut self, mut open: Vec<(u32, Ref)>, mut held: Vec<u32>) -> Result<Target, LimitError> {
        held.extend(open.iter().filter(|(_, at)| *at == Manager::YES).map(|(id, _)| *id));
        held.sort_unstable();
        open.retain(|(_, at)| *at != Manager::YES && *at != Manager::NO);
        let field = |at: Ref| match self.m.node(at) {
            Question::Ask(field, _) => *field,
            Question::Leaf(_) => unreachable!("a predicate says yes or no"),
        };
        let Some(first) = open.iter().map(|(_, at)| field(*at)).min() else {
            return self.class(held);
        };
        let key = (open, held);
        if let Some(&done) = self.done.get(&key) {
            return Ok(done);
        }
        let (asking, carried): (Vec<_>, Vec<_>) =
            key.0.iter().copied().partition(|(_, at)| field(*at) == first);
        let mut edges: Vec<(u128, Target)> = Vec::new();
        for (last, mut open) in steps(self.m, first, &asking) {
            open.extend_from_slice(&carried);
            open.sort_unstable();
            let to = self.ask(open, key.1.clone())?;
            match edges.last_mut() {
                Some(before) if before.1 == to => before.0 = last,
                _ => edges.push((last, to)),
            }
        }
        let to = match edges[..] {
            [(_, only)] => only,
            _ => self.node(Node { field: first, edges })?,
        };
        self.done.insert(key, to);
        Ok(to)
    }

    fn node(&mut self, node: Node) -> Result<Target, LimitError> {
        if let Some(&known) = self.index.get(&node) {
            return Ok(known);
        }
        if self.nodes.len() >= CLASS_NODES_MAX {
            return Err(LimitError::Classes { limit: CLASS_NODES_MAX });
        }
        let new = Target::Node(number(self.nodes.len()));
        self.nodes.push(node.clone());
        self.index.insert(node, new);
        Ok(new)
    }

    fn class(&mut self, held: Vec<u32>) -> Result<Target, LimitError> {
        let next = number(self.held.len());
        let class = *self.class.entry(held.clone()).or_insert(next);
        if class == next {
            if self.held.len() >= CLASS_NODES_MAX {
                return Err(LimitError::Classes { limit: CLASS_NODES_MAX });
            }
            self.held.push(held);
        }
        Ok(Target::Class(class))
    }
}

/// What is left of the predicates that ask a field, for each range of answers none of them tells apart.
fn steps(m: &Manager, field: Field, asking: &[(u32, Ref)]) -> Vec<(u128, Open)> {
    let mut begin: Vec<(u128, u128, u32, Ref)> = Vec::new();
    for &(id, at) in asking {
        let Question::Ask(_, edges) = m.node(at) else { unreachable!("it asks") };
        let mut first = 0;
        for edge in edges.iter() {
            if edge.to != Manager::NO {
                begin.push((first, edge.last, id, edge.to));
            }
            first = edge.last.wrapping_add(1);
        }
    }
    let max = m.max(field);
    let mut bounds: Vec<u128> = begin.iter().map(|(_, last, ..)| *last).collect();
    bounds.extend(begin.iter().filter_map(|(first, ..)| first.checked_sub(1)));
    bounds.push(max);
    bounds.sort_unstable();
    bounds.dedup();
    begin.sort_unstable();
    let (mut next, mut active) = (0, Vec::<(u128, u32, Ref)>::new());
    let mut first = 0;
    let mut steps = Vec::with_capacity(bounds.len());
    for last in bounds {
        active.retain(|(until, ..)| *until >= first);
        while let Some(&(from, until, id, to)) = begin.get(next).filter(|(from, ..)| *from <= first)
        {
            debug_assert!(from == first, "every beginning is a bound");
            active.push((until, id, to));
            next += 1;
        }
        steps.push((last, active.iter().map(|&(_, id, to)| (id, to)).collect()));
        first = last.wrapping_add(1);
    }
    steps
}

impl Classes {
    /// How many there are.
    pub fn n(&self) -> usize {
        self.held.len()
    }

    /// The class of an end with this answer to each field.
    pub fn class(&self, answer: &dyn Fn(Field) -> u128) -> u32 {
        let mut at = self.root;
        loop {
            match at {
                Target::Class(class) => return class,
                Target::Node(node) => {
                    let Node { field, edges } = &self.nodes[node as usize];
                    let answer = answer(*field);
                    at = edges[edges.partition_point(|(last, _)| *last < answer)].1;
                }
            }
        }
    }

    /// Where the answer to the first question leads, if it is about `field`; else where to begin.
    pub fn given(&self, field: Field, answer: u128) -> Target {
        match self.root {
            Target::Node(node) if self.nodes[node as usize].field == field => {
                let edges = &self.nodes[node as usize].edges;
                edges[edges.partition_point(|(last, _)| *last < answer)].1
            }
            root => root,
        }
    }

    /// The nodes below a target, ascending.
    pub fn reach(&self, root: Target) -> Vec<u32> {
        let mut reached = vec![false; self.nodes.len()];
        let mut pending = vec![root];
        while let Some(target) = pending.pop() {
            let Target::Node(node) = target else { continue };
            if !std::mem::replace(&mut reached[node as usize], true) {
                pending.extend(self.nodes[node as usize].edges.iter().map(|(_, to)| *to));
            }
        }
        (0..).zip(reached).filter(|(_, reached)| *reached).map(|(node, _)| node).collect()
    }

    /// The same ends under other numbers; classes that get one number become one.
    ///
    /// INVARIANT: `to` has a number for each class, and every number up to the largest is used, 0 for class 0.
    pub fn renumbered(&self, to: &[u32], held: Vec<Vec<u32>>) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let mut index: HashMap<Node, Target> = HashMap::new();
        let mut moved: Vec<Target> = Vec::with_capacity(self.nodes.len());
        let place = |at: Target, moved: &[Target]| match at {
            Target::Class(class) => Target::Class(to[class as usize]),
            Target::Node(node) => moved[node as usize],
        };
        for Node { field, edges } in &self.nodes {
            let mut merged: Vec<(u128, Target)> = Vec::new();
            for &(last, at) in edges {
                let at = place(at, &moved);
                match merged.last_mut() {
                    Some(before) if before.1 == at => before.0 = last,
                    _ => merged.push((last, at)),
                }
            }
            moved.push(match merged[..] {
                [(_, only)] => only,
                _ => {
                    let node = Node { field: *field, edges: merged };
                    let next = Target::Node(number(nodes.len()));
                    *index.entry(node).or_insert_with_key(|node| {
                        nodes.push(node.clone());
                        next
                    })
                }
            });
        }
        Self { root: place(self.root, &moved), nodes, held }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by the limit on classes")
}
