//! From rules to diagrams that fit: one for all of them, or one for each part of them.
//!
//! The greatest answer of all parts is the policy's. A single diagram of many rules that are broad on different sides
//! has a node for every way they overlap; rules as broad on the same side overlap as one dimension does
//! (the separable trees of EffiCuts: Vamanan, Voskuilen and Vijaykumar, SIGCOMM 2010, with diagrams in place of trees).
//! How rules are parted and in which order fields are asked is tried, and the fewest comparisons win.

use crate::decide::{Unit, decide_units, units};
use crate::diagram::{Budget, Manager, Order, Ref, Subject};
use crate::limits::{COMPARISONS_ALONE, COMPARISONS_MAX, LimitError, NODES_MAX, WORK_TRY_MAX};
use crate::ranges::Ranges;
use crate::restrict::restrict;
use crate::rules::{Ends, IPV4_FIRST, IPV4_LAST, Labels, Rules};
use seg_lang::ast::Direction;
use std::collections::BTreeMap;

/// What some of the rules decide, in one direction.
#[derive(Debug)]
pub struct Part {
    /// Owner of the diagram.
    pub diagrams: Manager,
    /// The diagram.
    pub root: Ref,
}

/// Numbers of bits that part the sets of ends, in the order tried: a set is broad if it leaves more of an end open.
const PARTINGS: [&[u32]; 3] = [&[8], &[12], &[16]];
/// The same for rules that none of [`PARTINGS`] makes small enough.
const FINER: [&[u32]; 2] = [&[8, 16], &[4, 12, 20]];

/// What one address fixes.
const BITS_MAX: u32 = 32;

/// Orders tried for each part.
const ORDERS: [Order; 4] = [
    Order::USUAL,
    Order([Subject::Local, Subject::Peer, Subject::Packet]),
    Order([Subject::Packet, Subject::Peer, Subject::Local]),
    Order([Subject::Packet, Subject::Local, Subject::Peer]),
];

/// The diagrams of what endpoints send, then of what they receive. Both have the same parts.
///
/// # Errors
/// [`LimitError::Nodes`] or [`LimitError::Work`] of the way tried last if none fits, [`LimitError::Roles`].
pub fn partition(rules: &Rules) -> Result<[Vec<Part>; 2], LimitError> {
    let all = [units(rules)];
    let orders = if asks_addresses(rules) { &ORDERS[..] } else { &ORDERS[..1] };
    let mut best = tried(rules, &all, &ORDERS[..1], |usual| usual);
    // Another order of all rules helps those that nearly fit.
    if let Ok(Tried { cost, .. }) = best
        && (ALONE..NEARLY_ALONE).contains(&cost)
    {
        best = better(best, tried(rules, &all, &orders[1..], Order::mirrored));
    }
    for partings in [&PARTINGS[..], &FINER] {
        if fits(&best) {
            break;
        }
        for bits in partings {
            let parts = parted(rules, &all[0], bits);
            best = better(best, tried(rules, &parts, orders, Order::mirrored));
        }
    }
    best.map(|tried| tried.parts)
}

/// The same with the rules parted at these numbers of bits.
///
/// # Errors
/// As [`partition`].
pub fn parted_by(rules: &Rules, bits: &[u32]) -> Result<[Vec<Part>; 2], LimitError> {
    let mut parts = parted(rules, &units(rules), bits);
    // A policy that says nothing has a diagram too.
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    tried(rules, &parts, &ORDERS, Order::mirrored).map(|tried| tried.parts)
}

/// Diagrams of all rules, and what they cost.
struct Tried {
    parts: [Vec<Part>; 2],
    /// Comparisons of a program in the mean, both directions together.
    cost: usize,
}

/// [`COMPARISONS_ALONE`] of both directions.
const ALONE: usize = 2 * COMPARISONS_ALONE;
const NEARLY_ALONE: usize = 8 * ALONE;

/// Whether to look no further.
fn fits(tried: &Result<Tried, LimitError>) -> bool {
    match tried {
        Ok(Tried { parts: [outbound, _], cost }) => match outbound.len() {
            1 => *cost < ALONE,
            _ => *cost < COMPARISONS_MAX,
        },
        // The endpoints told apart are the same in parts.
        Err(error) => matches!(error, LimitError::Roles { .. }),
    }
}

fn better(
    before: Result<Tried, LimitError>,
    now: Result<Tried, LimitError>,
) -> Result<Tried, LimitError> {
    match (&before, &now) {
        (Ok(a), Ok(b)) if b.cost < a.cost => now,
        (Ok(_), _) => before,
        (Err(_), _) => now,
    }
}

/// Each part in the best of `orders`, by what endpoints send; `turned` gives the order for what they receive.
fn tried(
    rules: &Rules,
    parts: &[Vec<Unit>],
    orders: &[Order],
    turned: impl Fn(Order) -> Order,
) -> Result<Tried, LimitError> {
    let outbound = parts.iter().map(|units| least(rules, units, orders));
    let outbound: Vec<_> = outbound.collect::<Result<_, _>>()?;
    let inbound = parts.iter().zip(&outbound).map(|(units, of)| {
        let order = turned(of.diagrams.order());
        part(rules, units, order, Direction::Inbound, WORK_TRY_MAX)
    });
    let inbound: Vec<_> = inbound.collect::<Result<_, _>>()?;
    let cost = mean(&outbound, Direction::Outbound)? + mean(&inbound, Direction::Inbound)?;
    Ok(Tried { parts: [outbound, inbound], cost })
}

/// What endpoints send, in the order with the fewest comparisons, of equal ones the first.
fn least(rules: &Rules, units: &[Unit], orders: &[Order]) -> Result<Part, LimitError> {
    let way = Direction::Outbound;
    let mut best = Err(LimitError::Work { limit: 0, rules: Vec::new() });
    for &order in orders {
        // An order that takes much more work than one before does not end in less.
        let much = |part: &Part| (4 * part.diagrams.work() + 10_000).min(WORK_TRY_MAX);
        let work = best.as_ref().map_or(WORK_TRY_MAX, much);
        let now = part(rules, units, order, way, work);
        best = match (&best, &now) {
            (Ok(a), Ok(b)) if b.n_comparisons() < a.n_comparisons() => now,
            (Ok(_), _) => best,
            (Err(_), _) => now,
        };
    }
    best
}

fn part(
    rules: &Rules,
    units: &[Unit],
    order: Order,
    way: Direction,
    work: usize,
) -> Result<Part, LimitError> {
    let budget = Budget { nodes: NODES_MAX, work };
    let mut diagrams = Manager::ordered(&rules.labels, budget, order);
    let root = decide_units(&mut diagrams, rules, units, way)?;
    Ok(Part { diagrams, root })
}

/// Comparisons of a program in the mean.
fn mean(parts: &[Part], way: Direction) -> Result<usize, LimitError> {
    let restricted = restrict(parts, way)?;
    let below = |role: &Vec<Ref>| -> usize {
        parts.iter().zip(role).map(|(part, &at)| part.diagrams.n_comparisons(at)).sum()
    };
    let all: usize = restricted.decisions.iter().map(below).sum();
    Ok(all / restricted.decisions.len())
}

impl Part {
    /// Comparisons of the whole diagram.
    pub fn n_comparisons(&self) -> usize {
        self.diagrams.n_comparisons(self.root)
    }
}

/// The units by how broad their sources and destinations are.
fn parted(rules: &Rules, units: &[Unit], bits: &[u32]) -> Vec<Vec<Unit>> {
    let class = |n: u32| bits.partition_point(|&bound| bound <= n);
    let mut parts: BTreeMap<[usize; 2], Vec<Unit>> = BTreeMap::new();
    for &unit in units {
        parts.entry(fixed(rules, unit).map(class)).or_default().push(unit);
    }
    parts.into_values().collect()
}

/// Bits of source and destination that the unit fixes, those of its broadest rule.
fn fixed(rules: &Rules, unit: Unit) -> [u32; 2] {
    let of_unit: Vec<_> = match unit {
        Unit::Rule(index) => vec![&rules.rules[index]],
        Unit::Block(block) => rules.rules.iter().filter(|rule| rule.block == block).collect(),
    };
    let each = of_unit.into_iter().flat_map(|rule| &rule.flows);
    let each = each.map(|flow| [&flow.from, &flow.to].map(|set| bits(&rules.labels, set)));
    each.reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1])]).unwrap_or([BITS_MAX; 2])
}

/// How much of an end a set fixes: of an IPv4 address the length of the prefix, of a label as many bits as tell its values apart.
fn bits(labels: &Labels, set: &Ends) -> u32 {
    match set {
        Ends::Managed(_) | Ends::SelfHost(false) | Ends::Name(..) | Ends::Cgroup(..) => 0,
        Ends::SelfHost(true) => BITS_MAX,
        Ends::Label(label, values) => {
            let listed = labels.label(*label).values.len() as u128;
            let within = values.intersect(&Ranges::new(1, listed.max(1))).size();
            // All that no rule lists, and unset, are as many as can be.
            let open = values.contains(0) || values.contains(listed + 1);
            if open { 0 } else { (listed + 1).ilog2() - within.max(1).ilog2() }
        }
        Ends::Address(ranges) => {
            let v4 = ranges.intersect(&Ranges::new(IPV4_FIRST, IPV4_LAST)).size();
            let v6 = ranges.size() - v4;
            let of_v4 = BITS_MAX.saturating_sub(v4.max(1).ilog2());
            let of_v6 = (u128::BITS - v6.max(1).ilog2()) / 3;
            if v6 == 0 {
                of_v4
            } else if v4 == 0 {
                of_v6
            } else {
                of_v4.min(of_v6)
            }
        }
        Ends::Union(parts) => parts.iter().map(|part| bits(labels, part)).min().unwrap_or(BITS_MAX),
        Ends::Intersect(parts) => parts.iter().map(|part| bits(labels, part)).sum(),
    }
}

/// Whether there is a question that [`Order`]s put at different places.
fn asks_addresses(rules: &Rules) -> bool {
    let mut sets: Vec<&Ends> = Vec::new();
    for rule in &rules.rules {
        sets.extend(rule.flows.iter().flat_map(|flow| [&flow.from, &flow.to]));
    }
    while let Some(set) = sets.pop() {
        match set {
            Ends::Address(_) => return true,
            Ends::Union(parts) | Ends::Intersect(parts) => sets.extend(parts),
            Ends::Managed(_)
            | Ends::SelfHost(_)
            | Ends::Label(..)
            | Ends::Name(..)
            | Ends::Cgroup(..) => {}
        }
    }
    false
}
