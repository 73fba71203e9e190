//! All a policy decides: its label numbers, its roles, and a tree for each program.

use crate::diagram::{Field, Leaf, Manager, Ref};
use crate::limits::{COMPARISONS_MAX, LimitError};
use crate::normalize::{normalize, rule_labels};
use crate::partition::{Part, parted_by, partition};
use crate::peers::{self, Peers};
use crate::restrict::{Restricted, restrict};
use crate::rules::{Labels, Rules};
use crate::shape::{PeerBy, shape};
use crate::target;
use crate::tree::{self, Node, Roots, Tree};
use seg_artifact::classes::Classes;
use seg_artifact::manifest::Roles;
use seg_lang::ast::Direction;
use seg_lang::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};

/// The decision of a policy, ready to become programs.
#[derive(Debug)]
pub struct Trees {
    /// The canonical rules; their label numbers are the manifest's.
    pub rules: Rules,
    /// What endpoints send.
    pub outbound: Way,
    /// What endpoints receive.
    pub inbound: Way,
    /// The roles of endpoints as their classes, if a tree asks for a peer's.
    pub classes: Option<Classes>,
}

/// One direction.
#[derive(Debug)]
pub struct Way {
    /// The whole decision: the greatest of what these say.
    pub parts: Vec<Part>,
    /// Which endpoint has which role.
    pub roles: Roles,
    /// The decision of each role, in the order of [`Roles::programs`]: a tree for each part that says anything to it.
    pub trees: Vec<Vec<Tree>>,
}

impl Way {
    /// The diagrams as text, one after the other.
    pub fn text(&self, labels: &Labels) -> String {
        self.parts.iter().map(|part| part.diagrams.text(part.root, labels)).collect()
    }

    /// What the whole decision says.
    pub fn eval(&self, answer: &dyn Fn(Field) -> u128) -> Leaf {
        let each = self.parts.iter().map(|part| part.diagrams.eval(part.root, answer));
        each.max().unwrap_or(Leaf::No)
    }
}

/// What is settled beforehand; for experiments and tests, as what is sought by default is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How to part the rules, in bits of an end from which on a set is no longer broad; empty for one part.
    pub parting: Option<&'static [u32]>,
    /// Whether trees find out about peers by their role.
    pub by_role: Option<bool>,
}

/// Compiles a policy down to comparisons.
///
/// # Errors
/// [`LimitError`] if the policy is too large.
///
/// # Panics
/// If a rule asks what no hook can answer, which [`target::unenforceable`] tells.
pub fn compile(policy: &Policy) -> Result<Trees, LimitError> {
    compile_as(policy, Config::default())
}

/// Compiles a policy down to comparisons in a way that is not sought.
///
/// # Errors
/// As [`compile`].
///
/// # Panics
/// As [`compile`].
pub fn compile_as(policy: &Policy, config: Config) -> Result<Trees, LimitError> {
    LimitError::of_records(policy)?;
    assert!(target::unenforceable(policy).is_empty(), "such a policy is refused before");
    let rules = normalize(policy, rule_labels(policy));
    let [sent, received] = match config.parting {
        None => partition(&rules)?,
        Some(bits) => parted_by(&rules, bits)?,
    };
    let outbound = restrict(&sent, Direction::Outbound)?;
    let inbound = restrict(&received, Direction::Inbound)?;
    let n_labels = rules.labels.0.len();
    let sources = Peers::new(&outbound.roles, n_labels);
    let destinations = Peers::new(&inbound.roles, n_labels);
    let to = programs(&sent, &outbound, &destinations, config)?;
    let from = programs(&received, &inbound, &sources, config)?;
    let outbound = Way { parts: sent, roles: outbound.roles, trees: to };
    let inbound = Way { parts: received, roles: inbound.roles, trees: from };
    let mut trees = outbound.trees.iter().chain(&inbound.trees).flatten();
    let asks = trees.any(|tree| asks(tree, |field| field == tree::Field::PeerRole));
    let classes = asks.then(|| peers::classes([&outbound.roles, &inbound.roles]));
    Ok(Trees { rules, outbound, inbound, classes })
}

/// The trees of every role of a direction.
fn programs(
    parts: &[Part],
    restricted: &Restricted,
    peers: &Peers<'_>,
    config: Config,
) -> Result<Vec<Vec<Tree>>, LimitError> {
    if cfg!(debug_assertions) {
        for part in parts {
            part.diagrams.verify(part.root).expect("a diagram keeps its invariant");
        }
    }
    let programs = restricted.roles.programs.iter().zip(&restricted.decisions);
    let trees = programs.map(|(program, decisions)| {
        let trees = sequence(parts, decisions, peers, config);
        let needed = trees.iter().map(Tree::n_comparisons).sum();
        if needed > COMPARISONS_MAX {
            let rules = parts.iter().max_by_key(|part| part.n_comparisons());
            let rules = rules.map(|part| part.diagrams.costliest()).unwrap_or_default();
            return Err(LimitError::Comparisons { program: program.clone(), needed, rules });
        }
        Ok(trees)
    });
    trees.collect()
}

/// The trees of one role. One that answers nothing to every question is left out, unless it is the only one.
fn sequence(parts: &[Part], decisions: &[Ref], peers: &Peers<'_>, config: Config) -> Vec<Tree> {
    let of_parts = || parts.iter().map(|part| &part.diagrams).zip(decisions);
    let leaves = of_parts().flat_map(|(m, &decision)| m.leaves(decision));
    let leaves: BTreeSet<Leaf> = leaves.chain([Leaf::No]).collect();
    let ranks: BTreeMap<Leaf, u32> = leaves.into_iter().zip(0..).collect();
    let mut said: Vec<_> = of_parts().filter(|(_, at)| **at != Manager::NO).collect();
    said.extend(if said.is_empty() { of_parts().next() } else { None });
    let trees = said.into_iter().map(|(m, &decision)| {
        let by_labels = shape(m, decision, &ranks, PeerBy::Labels);
        if !asks_labels(&by_labels) || config.by_role == Some(false) {
            return by_labels;
        }
        if cfg!(debug_assertions) {
            let managed = m.given(decision, Field::PeerManaged, 1);
            peers.verify(m, managed).expect("a role says all there is of a peer");
        }
        let by_role = shape(m, decision, &ranks, PeerBy::Role(peers));
        let better = config.by_role.unwrap_or_else(|| is_shorter(&by_role, &by_labels));
        if better { by_role } else { by_labels }
    });
    let trees: Vec<Tree> = trees.collect();
    if cfg!(debug_assertions) {
        trees.iter().for_each(|tree| tree.verify().expect("a tree keeps its invariant"));
    }
    trees
}

fn asks_labels(tree: &Tree) -> bool {
    asks(tree, |field| matches!(field, tree::Field::PeerSelf | tree::Field::PeerLabel(_)))
}

fn asks(tree: &Tree, which: impl Fn(tree::Field) -> bool) -> bool {
    tree.nodes.iter().any(|node| match node {
        Node::Compare { field, .. } => which(*field),
        Node::Leaf(_) => false,
    })
}

/// Whether a tree by role has fewer levels for managed peers. Roles are at hand; to look up a record is worth a level.
fn is_shorter(by_role: &Tree, by_labels: &Tree) -> bool {
    let levels = |tree: &Tree| {
        let Roots { managed4, managed6, .. } = tree.roots;
        let looked_up = asks(tree, |field| {
            matches!(
                field,
                tree::Field::PeerLabel(_) | tree::Field::Same(_) | tree::Field::PeerPort(_)
            )
        });
        tree.levels(managed4).max(tree.levels(managed6)) + if looked_up { 100 } else { 0 }
    };
    levels(by_role) < levels(by_labels)
}
