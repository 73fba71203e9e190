//! How a policy is decided on a node: by comparisons, a program for each role, or by tables that all endpoints share.

use crate::cost::{self, Estimate};
use crate::layout::{Layout, layout};
use crate::limits::LimitError;
use crate::normalize::{normalize, rule_labels};
use crate::program::{self, Judge, Way};
use crate::ranges::Ranges;
use crate::rules::{IPV4_FIRST, IPV4_LAST, Labels, Rules, number_address};
use crate::tables::Tables;
use crate::tabulate::{self, tabulate};
use crate::target;
use crate::trees::{self, Trees};
use cranelift_codegen::ir::Function;
use seg_artifact::classes::Classes;
use seg_artifact::manifest::{Net, Roles, Target};
use seg_lang::ast::Direction;
use seg_lang::policy::{self, Policy, RuleKind};

/// The decision of a policy, ready to become programs.
#[derive(Debug)]
pub enum Decided {
    /// By comparisons.
    Trees(Box<Trees>),
    /// By tables.
    Tables(Box<Tabled>),
}

/// A policy in tables.
#[derive(Debug)]
pub struct Tabled {
    /// The canonical rules; their label numbers are the manifest's.
    pub rules: Rules,
    /// The tables.
    pub tables: Tables,
    /// Their bytes.
    pub layout: Layout,
    /// What sorts ends into their classes.
    pub classes: Classes,
    /// The addresses of each ident from 1 on.
    pub nets: Vec<Ranges>,
    roles: [Roles; 2],
}

/// The ways to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Comparisons: nothing is faster for a packet like the one before, or if there is little to compare.
    Tree,
    /// Loads from tables: their number does not depend on that of the rules.
    Tables,
}

/// How to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// In this way; `None` for the one that costs less.
    pub shape: Option<Shape>,
    /// What is preferred in tables.
    pub tables: tabulate::Config,
    /// What is settled about trees.
    pub trees: trees::Config,
}

/// Rules up to this number are decided in both ways before one is chosen. Unit: flows of rules.
const FLOWS_BOTH: usize = 128;

/// A decision, and what was weighed for it.
#[derive(Debug)]
pub struct Choice {
    /// The decision.
    pub decided: Decided,
    /// What each shape that was looked at costs, the one chosen first.
    pub considered: Vec<Estimate>,
}

/// Decides a policy.
///
/// # Errors
/// [`LimitError`] if the policy is too large.
///
/// # Panics
/// If a rule asks what no hook can answer, which [`target::unenforceable`] tells.
pub fn decide(policy: &Policy, config: Config) -> Result<Choice, LimitError> {
    LimitError::of_records(policy)?;
    assert!(target::unenforceable(policy).is_empty(), "such a policy is refused before");
    let trees =
        || trees::compile_as(policy, config.trees).map(|trees| Decided::Trees(Box::new(trees)));
    // Several trees in sequence are not read back, so they have to be asked for.
    let tree = || trees().ok().filter(|decided| !decided.in_parts());
    let tables = || tabled(policy, config.tables).map(Decided::Tables);
    let alone = |decided: Decided| Choice { considered: vec![decided.estimate()], decided };
    match config.shape {
        Some(Shape::Tree) => return trees().map(alone),
        Some(Shape::Tables) => return tables().map(alone),
        None => {}
    }
    let flows = |rule: &policy::Rule| match &rule.kind {
        RuleKind::Match { unless, .. } => 1 + unless.len(),
        RuleKind::Isolate { .. } => 1,
    };
    if policy.rules.iter().map(flows).sum::<usize>() > FLOWS_BOTH {
        // So many comparisons are never cheaper, but they may fit where tables do not.
        return tables().or_else(|error| tree().ok_or(error)).map(alone);
    }
    match (tree(), tables()) {
        (Some(tree), Ok(tables)) => {
            let mut both = [tree, tables].map(|decided| (decided.estimate(), decided));
            // Comparisons if they cost the same.
            both.sort_by_key(|(estimate, _)| estimate.mean_ps());
            let considered = both.iter().map(|(estimate, _)| *estimate).collect();
            let [(_, decided), _] = both;
            Ok(Choice { decided, considered })
        }
        (Some(one), Err(_)) | (None, Ok(one)) => Ok(alone(one)),
        (None, Err(error)) => Err(error),
    }
}

fn tabled(policy: &Policy, config: tabulate::Config) -> Result<Box<Tabled>, LimitError> {
    let rules = normalize(policy, rule_labels(policy));
    let tables = tabulate(&rules, config)?;
    if cfg!(debug_assertions) {
        tables.verify().expect("tables keep their invariant");
    }
    let (classes, nets) = tables.classes();
    let layout = layout(&tables, &nets)?;
    let only = |name: &str| Roles {
        root: Target::Role(0),
        nodes: Vec::new(),
        programs: vec![name.to_owned()],
    };
    let roles = [only("from_0"), only("to_0")];
    Ok(Box::new(Tabled { rules, tables, layout, classes, nets, roles }))
}

impl Decided {
    /// The canonical rules.
    pub fn rules(&self) -> &Rules {
        match self {
            Self::Trees(trees) => &trees.rules,
            Self::Tables(tabled) => &tabled.rules,
        }
    }

    /// How labels are numbered.
    pub fn labels(&self) -> &Labels {
        &self.rules().labels
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Trees(_) => Shape::Tree,
            Self::Tables(_) => Shape::Tables,
        }
    }

    /// Whether programs are several trees in sequence.
    fn in_parts(&self) -> bool {
        matches!(self, Self::Trees(of) if of.outbound.parts.len().max(of.inbound.parts.len()) > 1)
    }

    /// What it costs.
    pub fn estimate(&self) -> Estimate {
        match self {
            Self::Trees(of) => {
                let programs = of.outbound.trees.iter().chain(&of.inbound.trees);
                cost::of_trees(programs.map(Vec::as_slice))
            }
            Self::Tables(of) => cost::of_tables(&of.layout),
        }
    }

    /// Which endpoint has which program.
    pub fn roles(&self, way: Direction) -> &Roles {
        match (self, way) {
            (Self::Trees(trees), Direction::Outbound) => &trees.outbound.roles,
            (Self::Trees(trees), Direction::Inbound) => &trees.inbound.roles,
            (Self::Tables(tabled), Direction::Outbound) => &tabled.roles[0],
            (Self::Tables(tabled), Direction::Inbound) => &tabled.roles[1],
        }
    }

    /// The nets that are told apart by ident.
    pub fn nets(&self) -> Vec<Net> {
        let mapped = Ranges::new(IPV4_FIRST, IPV4_LAST);
        let net = |ranges: &Ranges| {
            let families = [ranges.intersect(&mapped), ranges.without(&mapped)];
            let pairs = families.iter().flat_map(Ranges::iter);
            let pairs = pairs.map(|(first, last)| (number_address(first), number_address(last)));
            Net { ranges: pairs.collect() }
        };
        match self {
            Self::Trees(_) => Vec::new(),
            Self::Tables(tabled) => tabled.nets.iter().map(net).collect(),
        }
    }

    /// What sorts ends into classes, if that is asked.
    pub fn classes(&self) -> Option<&Classes> {
        match self {
            Self::Trees(trees) => trees.classes.as_ref(),
            Self::Tables(tabled) => Some(&tabled.classes),
        }
    }

    /// What programs only read.
    pub fn constants(&self) -> &[u8] {
        match self {
            Self::Trees(_) => &[],
            Self::Tables(tabled) => &tabled.layout.bytes,
        }
    }

    /// How records and idents are laid out.
    pub fn records(&self) -> program::Layout {
        let count = |n| u32::try_from(n).expect("bounded by the limits");
        let labels = self.labels();
        let n_nets = match self {
            Self::Trees(_) => 0,
            Self::Tables(tabled) => count(tabled.nets.len()) as u16,
        };
        program::Layout {
            n_labels: count(labels.0.len()),
            n_ports: count(labels.ports().len()),
            n_nets,
        }
    }

    /// The packet program of every role, by name, outbound then inbound.
    pub fn functions(&self) -> Vec<(String, Function)> {
        self.each(program::build)
    }

    /// The decision alone of every role, over flows in memory: see [`program::decision`].
    pub fn decisions(&self) -> Vec<(String, Function)> {
        self.each(program::decision)
    }

    fn each(
        &self,
        build: fn(&str, Way, program::Layout, Judge<'_>) -> Function,
    ) -> Vec<(String, Function)> {
        let records = self.records();
        let ways = [(Way::Outbound, Direction::Outbound), (Way::Inbound, Direction::Inbound)];
        let mut functions = Vec::new();
        for (way, direction) in ways {
            let names = &self.roles(direction).programs;
            let judges: Vec<Judge<'_>> = match (self, direction) {
                (Self::Trees(of), Direction::Outbound) => {
                    of.outbound.trees.iter().map(|of| Judge::Trees(of)).collect()
                }
                (Self::Trees(of), Direction::Inbound) => {
                    of.inbound.trees.iter().map(|of| Judge::Trees(of)).collect()
                }
                (Self::Tables(of), _) => vec![Judge::Tables(&of.layout, &of.tables.bits)],
            };
            let each = names.iter().zip(judges);
            functions
                .extend(each.map(|(name, judge)| (name.clone(), build(name, way, records, judge))));
        }
        functions
    }
}
