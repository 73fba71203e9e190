//! Reads the instructions of an object back and proves that they decide as the rules do.
//!
//! ```text
//!  object -> (object, insn) instructions -> (execute) expressions -> (decision) diagram --+
//!                                                                                         +-- the same?
//!  rules -> (decide) diagram -> what the manifest's roles leave of it --------------------+
//! ```
//!
//! Translation validation (Pnueli, Siegel, Singerman, TACAS 1998): nothing here trusts or uses the steps that made the
//! code. For every way through the manifest's decision of roles, and both address families, the program's decision and the
//! rules' are one diagram, so they agree on every flow, verdict and deciding rule. What is noted is what happens: an allowed packet
//! passes and its connection is remembered; a denied one is dropped unless a remembered connection says otherwise; every packet is counted once.
//! What is taken for granted stands in `fields`. Not proved, and left to the suites that send packets: the parser, whose
//! exits alone are checked, what makes an address the wrong one, and how long a connection is remembered.
//!
//! What is not understood is refused. Cost: linear in the instructions, but for the diagram that both sides share.

pub mod tables;
mod insn;
mod object;
mod live;
mod expr;
mod fields;
mod execute;
mod lookup;
mod decision;

use crate::decide::{decide, decision as meaning};
use crate::decided::Decided;
use crate::diagram::{Edge, Field, Leaf, Manager, Node, Op, Ref, field_text, range_text};
use crate::limits::{LimitError, NODES_MAX};
use crate::ranges::Ranges;
use crate::rules::{IPV4_FIRST, IPV4_LAST, Labels, Rules};
use decision::{Decision, before, leaf};
use execute::Machine;
use lookup::Lookup;
use seg_artifact::classes::{self, Classes, Sides};
use seg_artifact::manifest::{self, Manifest, Roles, Target};
use seg_artifact::object::{OpenError, open};
use seg_lang::ast::Direction;
use seg_lang::eval::Verdict;
use std::collections::{BTreeMap, BTreeSet};
use tables::{Claim, TableError};

/// Why an object does not do what the rules say, as far as can be told.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its tables do not decide as the rules do.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// The diagrams are too large.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Its parts contradict each other.
    #[error("the object cannot be read back: {0}")]
    Object(&'static str),
    /// Its manifest is about something else than the rules.
    #[error("the manifest is not that of the rules: other {0}")]
    Manifest(&'static str),
    /// A program does what is not understood, or must not be.
    #[error("program `{program}`, instruction {instruction}: {what}")]
    Refused {
        /// The program.
        program: String,
        /// The slot, from 0.
        instruction: usize,
        /// Why.
        what: Refusal,
    },
    /// A program decides otherwise.
    #[error("program `{program}`, instruction {instruction}: says {says}, the rules {wanted}, where {}", .region.join(", "))]
    Differs {
        /// The program.
        program: String,
        /// The slot that notes the decision, from 0.
        instruction: usize,
        /// What it says.
        says: String,
        /// What the rules say.
        wanted: String,
        /// Of which flows: a range of answers for each question.
        region: Vec<String>,
    },
}

/// What the checker refuses about an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not of the subset, or a jump to nowhere.
    #[error("no instruction, or it leads nowhere")]
    Instruction,
    /// The line information does not say where the ends are looked up, or nothing leads there.
    #[error("nothing leads to where the ends are looked up")]
    NoEnds,
    /// Memory that is not the stack, a counter or the state of a connection.
    #[error("a store to other memory")]
    Store,
    /// Another helper, or other arguments.
    #[error("a call that is not known")]
    Call,
    /// Not one counter by one packet and its bytes.
    #[error("a packet is not counted once and as noted")]
    Count,
    /// What is returned is not known, or not that of the counter.
    #[error("what becomes of the packet is not what its counter says")]
    Action,
    /// A way that ends without a decision.
    #[error("a packet ends without a decision")]
    Undecided,
    /// A decision that hangs on something no rule asks for.
    #[error("the decision depends on something that is no question of the rules")]
    Depends,
    /// What happens after a decision is neither allowing nor denying.
    #[error("what happens is neither what allows nor what denies with this counter")]
    Outcome,
    /// Something else is looked up than what the tables are for.
    #[error("what is noted is not what the tables hold for the packet")]
    Lookup,
    /// A connection of a packet that may come from a stranger.
    #[error("a packet opens a connection that nobody has judged it for")]
    Stranger,
    /// A way back.
    #[error("a loop")]
    Loop,
    /// Too much to follow.
    #[error("too many steps")]
    Long,
    /// Too many questions in one path.
    #[error("questions nest too deep")]
    Deep,
    /// The lower half of an address where the upper one is anything.
    #[error("the lower half of an address is compared under too many upper halves")]
    Halves,
}

impl CheckError {
    fn refused(program: &str, instruction: usize, what: Refusal) -> Self {
        if matches!(what, Refusal::Long | Refusal::Deep) {
            return Self::Limit(LimitError::Steps);
        }
        Self::Refused { program: program.to_owned(), instruction, what }
    }
}

/// The address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// How records and idents are numbered, by the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    n_labels: u32,
    n_ports: u32,
    /// Idents up to this one are no endpoints'.
    n_nets: u16,
    /// The first class of an endpoint's ident is its role.
    by_role: bool,
    /// Whether some of them are nets of IPv6, which are searched.
    nets6: bool,
}

/// Proves that the object decides as the rules do; the number of its programs.
///
/// Of a decision in tables it is taken as a hint where what stands.
///
/// # Errors
/// [`CheckError`] if it does not, or if that cannot be told.
pub fn check(decided: &Decided, object: &[u8]) -> Result<usize, CheckError> {
    let rules = decided.rules();
    let artifact = open(object)?;
    let manifest = &artifact.manifest;
    for (what, same) in [
        ("labels", manifest.labels == rules.labels.0),
        ("named ports", manifest.ports == rules.labels.ports()),
        ("rules", manifest.digests == rules.digests()),
    ] {
        if !same {
            return Err(CheckError::Manifest(what));
        }
    }
    let programs = object::programs(object)?;
    let [n_labels, n_ports] =
        [manifest.labels.len(), manifest.ports.len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let n_nets = u16::try_from(manifest.nets.len()).map_err(|_| CheckError::Manifest("nets"))?;
    let by_role = artifact.classes.as_ref().is_some_and(|classes| are_roles(classes, manifest));
    let layout = Layout { n_labels, n_ports, n_nets, by_role, nets6: false };
    match decided {
        Decided::Trees(_) => by_comparisons(rules, manifest, &programs, layout)?,
        Decided::Tables(tabled) => {
            let bytes = object::tables(object)?;
            let (places, bits) = (&tabled.layout, tabled.tables.bits.as_slice());
            let groups: Vec<_> =
                tabled.tables.groups.iter().map(|group| group.of.clone()).collect();
            let classes = artifact.classes.as_ref().ok_or(CheckError::Manifest("classes"))?;
            let nets = &manifest.nets;
            let claim = Claim { bytes: &bytes, places, bits, groups: &groups, classes, nets };
            let nets = tables::check(rules, claim)?;
            let layout = Layout { nets6: places.nets6.is_some(), ..layout };
            let lookup = Lookup { bytes: bytes.into(), places, bits, nets, records: layout };
            by_tables(rules, manifest, &programs, &lookup)?;
        }
    }
    Ok(programs.len())
}

/// Proves that programs compare as the rules want.
fn by_comparisons(
    rules: &Rules,
    manifest: &Manifest,
    programs: &BTreeMap<String, object::Program>,
    layout: Layout,
) -> Result<(), CheckError> {
    // Both sides together have at most twice the nodes that the rules need.
    let mut m = Manager::new(&rules.labels, 2 * NODES_MAX);
    let mut judge = Judge { labels: &rules.labels, manifest, programs, layout };
    for (way, roles) in
        [(Direction::Outbound, &manifest.outbound), (Direction::Inbound, &manifest.inbound)]
    {
        let decided = decide(&mut m, rules, way)?;
        let decided = m.given(decided, Field::LocalManaged, 1);
        let decided = m.relabel(decided, &|of| {
            let decision = meaning(of);
            leaf(decision.verdict == Verdict::Allow, decision.rule)
        })?;
        let mut walk = Walk { m: &m, roles, seen: BTreeSet::new(), wanted: BTreeMap::new() };
        walk.visit(roles.root, decided);
        for (role, wanted) in walk.wanted {
            judge.program(&mut m, way, &roles.programs[role as usize], &wanted)?;
        }
    }
    Ok(())
}

/// Proves that every program looks up what the tables are for, whoever it works for.
fn by_tables(
    rules: &Rules,
    manifest: &Manifest,
    programs: &BTreeMap<String, object::Program>,
    lookup: &Lookup<'_>,
) -> Result<(), CheckError> {
    for (way, roles) in
        [(Direction::Outbound, &manifest.outbound), (Direction::Inbound, &manifest.inbound)]
    {
        for name in &roles.programs {
            let program = programs.get(name).ok_or(CheckError::Object("a program is missing"))?;
            let mut machine = Machine::new(program, Some(lookup));
            let ends = before(&mut machine, program.cut).map_err(|stuck| stuck.of(name))?;
            for family in [Family::V4, Family::V6] {
                let mut m = Manager::new(&rules.labels, NODES_MAX);
                let mut decision =
                    Decision::new(&mut m, &mut machine, &ends, way, family, lookup.records, roles);
                let says = decision.diagram().map_err(|stuck| stuck.of(name))?;
                if says != Manager::YES {
                    return Err(CheckError::refused(name, program.cut, Refusal::Lookup));
                }
            }
        }
    }
    Ok(())
}

/// Whether the classes are one group of roles: outbound ones of sources, inbound ones of destinations.
fn are_roles(classes: &Classes, manifest: &Manifest) -> bool {
    let [Sides { source, destination }] = &classes.groups[..] else { return false };
    let is = |decision: &classes::Decision, roles: &Roles| {
        let n = roles.nodes.len();
        // Nodes are in the opposite order.
        let same = |class: classes::Target, role: Target| match (class, role) {
            (classes::Target::Class(class), Target::Role(role)) => u32::from(class) == role,
            (classes::Target::Node(one), Target::Node(other)) => {
                one as usize + other as usize + 1 == n
            }
            (classes::Target::Class(_), Target::Node(_))
            | (classes::Target::Node(_), Target::Role(_)) => false,
        };
        let nodes = decision.nodes.iter().rev().zip(&roles.nodes);
        let mut nodes = nodes.map(|(of_class, of_role)| {
            let field = match of_class.field {
                classes::Field::IsSelf => Some(manifest::Field::IsSelf),
                classes::Field::Label(label) => Some(manifest::Field::Label(label)),
                classes::Field::Address => None,
            };
            let mut edges = of_class.edges.iter().zip(&of_role.edges);
            let same = |((last, class), edge): (&(u128, classes::Target), &manifest::Edge)| {
                let ends = if edge.last == u32::MAX { u128::MAX } else { edge.last.into() };
                *last == ends && same(*class, edge.to)
            };
            field == Some(of_role.field)
                && of_class.edges.len() == of_role.edges.len()
                && edges.all(same)
        });
        decision.nodes.len() == n && same(decision.root, roles.root) && nodes.all(|same| same)
    };
    is(source, &manifest.outbound) && is(destination, &manifest.inbound)
}

/// Follows the manifest's decision of roles and the diagram together.
struct Walk<'a> {
    m: &'a Manager,
    roles: &'a Roles,
    seen: BTreeSet<(u32, bool, Ref)>,
    /// What the rules leave for the endpoints of each role.
    wanted: BTreeMap<u32, BTreeSet<Ref>>,
}

impl Walk<'_> {
    fn visit(&mut self, target: Target, at: Ref) {
        let (index, is_role) = match target {
            Target::Role(role) => (role, true),
            Target::Node(node) => (node, false),
        };
        if !self.seen.insert((index, is_role, at)) {
            return;
        }
        let (m, roles) = (self.m, self.roles);
        let own = match m.node(at) {
            Node::Ask(field @ (Field::LocalSelf | Field::LocalLabel(_)), edges) => {
                Some((*field, edges))
            }
            Node::Ask(..) | Node::Leaf(_) => None,
        };
        let (asked, ways) = match target {
            Target::Role(role) => match own {
                Some((_, edges)) => return edges.iter().for_each(|e| self.visit(target, e.to)),
                None => {
                    self.wanted.entry(role).or_default().insert(at);
                    return;
                }
            },
            Target::Node(node) => {
                let node = &roles.nodes[node as usize];
                let field = match node.field {
                    manifest::Field::IsSelf => Field::LocalSelf,
                    manifest::Field::Label(label) => {
                        Field::LocalLabel(seg_lang::policy::LabelId(label))
                    }
                };
                (field, &node.edges)
            }
        };
        let only = [Edge { last: m.max(asked), to: at }];
        let edges = match own {
            // A question the manifest asks later, or never; all its answers are possible then.
            Some((field, edges)) if field < asked => {
                return edges.iter().for_each(|edge| self.visit(target, edge.to));
            }
            Some((field, edges)) if field == asked => edges,
            Some(_) | None => &only[..],
        };
        let mut first = 0;
        for way in ways {
            let last = u128::from(way.last).min(m.max(asked));
            let mut from = 0;
            for edge in edges {
                if from <= last && first <= edge.last {
                    self.visit(way.to, edge.to);
                }
                from = edge.last.saturating_add(1);
            }
            first = last + 1;
        }
    }
}

struct Judge<'a> {
    labels: &'a Labels,
    manifest: &'a Manifest,
    layout: Layout,
    programs: &'a BTreeMap<String, object::Program>,
}

impl Judge<'_> {
    /// Compares what a program decides with what the rules leave for the endpoints it works for.
    fn program(
        &mut self,
        m: &mut Manager,
        way: Direction,
        name: &str,
        wanted: &BTreeSet<Ref>,
    ) -> Result<(), CheckError> {
        let roles = match way {
            Direction::Outbound => &self.manifest.inbound,
            Direction::Inbound => &self.manifest.outbound,
        };
        let program = self.programs.get(name).ok_or(CheckError::Object("a program is missing"))?;
        let mut machine = Machine::new(program, None);
        let ends = before(&mut machine, program.cut).map_err(|stuck| stuck.of(name))?;
        for family in [Family::V4, Family::V6] {
            let layout = self.layout;
            let mut decision = Decision::new(m, &mut machine, &ends, way, family, layout, roles);
            let says = decision.diagram().map_err(|stuck| stuck.of(name))?;
            let says_of = of_family(decision.manager(), family, says)?;
            for &wanted in wanted {
                let m = decision.manager();
                let wanted = of_family(m, family, wanted)?;
                if says_of == wanted {
                    continue;
                }
                let difference = Difference::between(m, says_of, wanted);
                let answer = |field| difference.answer(field);
                let instruction = decision.place(&answer).map_err(|stuck| stuck.of(name))?;
                return Err(CheckError::Differs {
                    program: name.to_owned(),
                    instruction,
                    says: leaf_text(difference.leaves[0]),
                    wanted: leaf_text(difference.leaves[1]),
                    region: difference.text(self.labels),
                });
            }
        }
        Ok(())
    }
}

/// The decision on packets of one family; of others nothing is said.
fn of_family(m: &mut Manager, family: Family, decision: Ref) -> Result<Ref, LimitError> {
    let mapped = Ranges::new(IPV4_FIRST, IPV4_LAST);
    let addresses = match family {
        Family::V4 => mapped,
        Family::V6 => mapped.complement(u128::MAX),
    };
    let local = m.member(Field::LocalAddress, &addresses, Manager::YES, Manager::NO)?;
    let both = m.member(Field::PeerAddress, &addresses, local, Manager::NO)?;
    m.apply(Op::Within, both, decision)
}

/// Flows on which two diagrams differ.
struct Difference {
    /// A range of answers for each question on the way.
    region: Vec<(Field, u128, u128)>,
    leaves: [Leaf; 2],
}

impl Difference {
    /// INVARIANT: the diagrams are not the same, so below one of their edges they differ again.
    fn between(m: &Manager, mut a: Ref, mut b: Ref) -> Self {
        let mut region = Vec::new();
        loop {
            let field = |at: Ref| match m.node(at) {
                Node::Ask(field, _) => Some(*field),
                Node::Leaf(_) => None,
            };
            let asked = match (field(a), field(b)) {
                (Some(a), Some(b)) => a.min(b),
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => break,
            };
            let (mut first, max) = (0, m.max(asked));
            let last_of = |at: Ref, first: u128| match m.node(at) {
                Node::Ask(field, edges) if *field == asked => {
                    edges[edges.partition_point(|edge| edge.last < first)].last
                }
                Node::Ask(..) | Node::Leaf(_) => max,
            };
            loop {
                let last = last_of(a, first).min(last_of(b, first));
                let [of_a, of_b] = [a, b].map(|at| m.given(at, asked, first));
                if of_a != of_b {
                    region.push((asked, first, last));
                    (a, b) = (of_a, of_b);
                    break;
                }
                first = last + 1;
            }
        }
        let leaves = [a, b].map(|at| match m.node(at) {
            Node::Leaf(leaf) => *leaf,
            Node::Ask(..) => unreachable!("both are at a leaf"),
        });
        Self { region, leaves }
    }

    fn answer(&self, field: Field) -> u128 {
        self.region.iter().find(|part| part.0 == field).map_or(0, |part| part.1)
    }

    fn text(&self, labels: &Labels) -> Vec<String> {
        let one = |&(field, first, last): &(Field, u128, u128)| {
            format!("{} is {}", field_text(field, labels), range_text(field, first, last, labels))
        };
        self.region.iter().map(one).collect()
    }
}

fn leaf_text(leaf: Leaf) -> String {
    let verdict = match leaf {
        Leaf::Block(crate::diagram::BlockVerdict::Allow, _) => "allow",
        _ => "deny",
    };
    match leaf.rule() {
        Some(rule) => format!("{verdict} by rule #{}", rule.0),
        None => format!("{verdict} by default"),
    }
}
