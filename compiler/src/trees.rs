//! All a policy decides: its label numbers, its roles, and a tree for each program.

use crate::decide::decide;
use crate::diagram::{Manager, Ref};
use crate::limits::{COMPARISONS_MAX, LimitError, NODES_MAX};
use crate::normalize::{normalize, rule_labels};
use crate::restrict::restrict;
use crate::rules::Rules;
use crate::shape::shape;
use crate::target;
use crate::tree::Tree;
use seg_artifact::manifest::Roles;
use seg_lang::ast::Direction;
use seg_lang::policy::Policy;

/// The decision of a policy, ready to become programs.
#[derive(Debug)]
pub struct Trees {
    /// The canonical rules; their label numbers are the manifest's.
    pub rules: Rules,
    /// Owner of the diagrams.
    pub diagrams: Manager,
    /// What endpoints send.
    pub outbound: Way,
    /// What endpoints receive.
    pub inbound: Way,
}

/// One direction.
#[derive(Debug)]
pub struct Way {
    /// The whole decision, in [`Trees::diagrams`].
    pub diagram: Ref,
    /// Which endpoint has which role.
    pub roles: Roles,
    /// The decision of each role, in the order of [`Roles::programs`].
    pub trees: Vec<Tree>,
}

/// Compiles a policy down to comparisons.
///
/// # Errors
/// [`LimitError`] if the policy is too large.
///
/// # Panics
/// If a rule asks what no hook can answer, which [`target::unenforceable`] tells.
pub fn compile(policy: &Policy) -> Result<Trees, LimitError> {
    LimitError::of_records(policy)?;
    assert!(target::unenforceable(policy).is_empty(), "such a policy is refused before");
    let rules = normalize(policy, rule_labels(policy));
    let mut diagrams = Manager::new(&rules.labels, NODES_MAX);
    let outbound = way(&mut diagrams, &rules, Direction::Outbound)?;
    let inbound = way(&mut diagrams, &rules, Direction::Inbound)?;
    Ok(Trees { rules, diagrams, outbound, inbound })
}

fn way(m: &mut Manager, rules: &Rules, way: Direction) -> Result<Way, LimitError> {
    let diagram = decide(m, rules, way)?;
    let restricted = restrict(m, diagram, way)?;
    if cfg!(debug_assertions) {
        m.verify(diagram).expect("a diagram keeps its invariant");
    }
    let programs = restricted.roles.programs.iter().zip(&restricted.decisions);
    let trees = programs.map(|(program, &decision)| {
        let tree = shape(m, decision);
        if cfg!(debug_assertions) {
            tree.verify().expect("a tree keeps its invariant");
        }
        match tree.n_comparisons() {
            needed if needed > COMPARISONS_MAX => {
                let rules = m.costliest();
                Err(LimitError::Comparisons { program: program.clone(), needed, rules })
            }
            _ => Ok(tree),
        }
    });
    let trees = trees.collect::<Result<_, _>>()?;
    Ok(Way { diagram, roles: restricted.roles, trees })
}
