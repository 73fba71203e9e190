//! From canonical rules to tables. Every flow is decided as the rules decide it, with the same deciding rule.
//!
//! A term is one flow of a rule: a pair of predicates on ends, a set of services, and what is cut out of it. The cell of two
//! classes is the terms whose predicates both hold, decided once for every class of services.
//!
//! `isolate` would fill whole rows and columns, so where the rules are in groups it stands apart: an end has a class by whom
//! isolates it, and a cell says beside its rank which isolating blocks allow the flow and so do not deny it.

use crate::classes::{Classes, classify};
use crate::decide::{End, ends, services};
use crate::diagram::{Leaf, Manager, Ref, TierVerdict};
use crate::limits::{BITS_MAX, CELLS_MAX, CLASSES_MAX, EXCEPTIONS_MAX, LimitError, NODES_MAX};
use crate::rules::{Action, Ends, Exempt, Flow, PortId, Ports, Rules, Services};
use crate::shape::counted;
use crate::tables::{Bit, Entry, Group, Isolated, Isolation, List, Tables};
use seg_artifact::classes::GROUPS_MAX;
use seg_lang::ast::Tier;
use seg_lang::policy::{LabelId, RuleId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How readily rules are split into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Classes times classes that one matrix may have without a look at anything better. Unit: cells.
    pub matrix: usize,
    /// What one group more may cost: a look into it for every packet. Unit: cells.
    pub group: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { matrix: 1 << 16, group: 1 << 15 }
    }
}

/// Tabulates the rules of every block that is not staged.
///
/// Cost: linear in the cells.
///
/// # Errors
/// [`LimitError`] if no grouping of the rules keeps within the limits.
pub fn tabulate(rules: &Rules, config: Config) -> Result<Tables, LimitError> {
    let mut m = Manager::new(&rules.labels, NODES_MAX);
    let terms = Terms::new(&mut m, rules)?;
    let packets = classify(&m, &terms.services)?;
    if packets.n() > CLASSES_MAX {
        return Err(LimitError::Cells { rules: Vec::new() });
    }
    let sides = [classify(&m, &terms.sources)?, classify(&m, &terms.destinations)?];
    let leaves = (0..).zip(&terms.leaves).map(|(rank, &leaf)| counted(leaf, rank)).collect();
    let all: Vec<u32> = (0..terms.terms.len() as u32).collect();
    let whole = sides[0].n() * sides[1].n() <= config.matrix;
    let whole = whole.then(|| {
        let mut cells = Cells::new(&terms, &packets, false, WHOLE_MAX);
        let group = group(&terms, &sides, &all, &mut cells)?;
        Ok::<_, LimitError>((vec![group], None, cells))
    });
    let (groups, isolation, cells) = match whole {
        Some(Ok(whole)) => whole,
        Some(Err(_)) | None => {
            let isolates = !terms.isolated.iter().all(Vec::is_empty);
            let isolation = isolates.then(|| isolation(&terms, &sides)).transpose()?;
            let mut cells = Cells::new(&terms, &packets, isolates, EXCEPTIONS_MAX);
            let groups = grouping(&terms, &sides, config)?;
            let groups = groups.iter().map(|of| group(&terms, &sides, of, &mut cells));
            (groups.collect::<Result<_, _>>()?, isolation, cells)
        }
    };
    let (lists, entries) = (cells.lists.values, cells.entries.values);
    Ok(Tables { bits: terms.bits, services: packets, groups, isolation, lists, entries, leaves })
}

/// Values by number in order of first use.
#[derive(Debug)]
struct Numbered<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + std::hash::Hash> Numbered<T> {
    fn new(first: T) -> Self {
        Self { values: vec![first.clone()], numbers: HashMap::from([(first, 0)]) }
    }

    fn number(&mut self, value: T) -> u32 {
        let next = u32::try_from(self.values.len()).expect("bounded by memory");
        *self.numbers.entry(value).or_insert_with_key(|value| {
            self.values.push(value.clone());
            next
        })
    }
}

/// One flow of a rule.
struct Term {
    /// The rule, and which of its flows.
    of: (RuleId, u32),
    block: u32,
    action: Action,
    /// In the order of meaning.
    rank: u32,
    /// Index into [`Terms::sources`].
    from: u32,
    /// Index into [`Terms::destinations`].
    to: u32,
    /// For each value of the name bits, index into [`Terms::services`].
    on: Vec<u32>,
    /// Bits that must all be set.
    when: u32,
    /// Cut out where all bits of one of these are set.
    same: Vec<u32>,
    /// Flows cut out, by index into [`Terms::cuts`].
    cuts: Vec<u32>,
}

/// A flow that is cut out of a rule.
struct Cut {
    from: u32,
    to: u32,
    on: Vec<u32>,
}

struct Terms {
    bits: Vec<Bit>,
    /// Bits below are of labels in common, the others of named ports.
    n_same: u32,
    sources: Vec<Ref>,
    destinations: Vec<Ref>,
    services: Vec<Ref>,
    terms: Vec<Term>,
    cuts: Vec<Cut>,
    leaves: Vec<Leaf>,
    /// Blocks that isolate, from number 1 on.
    isolating: BTreeMap<u32, u16>,
    /// For each side the terms that isolate ends on it.
    isolated: [Vec<u32>; 2],
}

impl Terms {
    fn new(m: &mut Manager, rules: &Rules) -> Result<Self, LimitError> {
        let enforced = || rules.rules.iter().filter(|rule| !rules.blocks[rule.block].staged);
        let mut same: BTreeSet<LabelId> = BTreeSet::new();
        let mut names: BTreeSet<PortId> = BTreeSet::new();
        let mut isolating = BTreeMap::new();
        let mut leaves = BTreeSet::from([Leaf::No]);
        for rule in enforced() {
            same.extend(&rule.when);
            let cut = rule.unless.iter().filter_map(|exempt| match exempt {
                Exempt::Same(labels) => {
                    same.extend(labels);
                    None
                }
                Exempt::Flow(flow) => Some(flow),
            });
            let cut: Vec<_> = cut.collect();
            for flow in rule.flows.iter().chain(cut) {
                flow.on.0.iter().for_each(|(_, _, ports)| named(ports, &mut names));
            }
            if rule.action == Action::Isolate && !isolating.contains_key(&(rule.block as u32)) {
                let number = u16::try_from(isolating.len() + 1);
                let number = number.map_err(|_| LimitError::Cells { rules: vec![rule.id] })?;
                isolating.insert(rule.block as u32, number);
            }
            leaves.insert(leaf(rules, rule.block, rule.action, rule.id));
        }
        let n_same = same.len() as u32;
        let bits: Vec<Bit> =
            same.into_iter().map(Bit::Same).chain(names.into_iter().map(Bit::Named)).collect();
        if bits.len() > BITS_MAX {
            return Err(LimitError::Bits { needed: bits.len() });
        }
        let leaves: Vec<Leaf> = leaves.into_iter().collect();
        let mut found = Self {
            bits,
            n_same,
            sources: Vec::new(),
            destinations: Vec::new(),
            services: Vec::new(),
            terms: Vec::new(),
            cuts: Vec::new(),
            leaves,
            isolating,
            isolated: Default::default(),
        };
        let mut known = Known::default();
        for rule in enforced() {
            let rank = leaf(rules, rule.block, rule.action, rule.id);
            let rank = found.leaves.binary_search(&rank).expect("every leaf is listed") as u32;
            let mut exempt_same = Vec::new();
            let mut cuts = Vec::new();
            for exempt in &rule.unless {
                match exempt {
                    Exempt::Same(labels) => exempt_same.push(found.mask(labels)),
                    Exempt::Flow(flow) => {
                        let (from, to, on) = found.sides(m, &mut known, flow)?;
                        cuts.push(found.cuts.len() as u32);
                        found.cuts.push(Cut { from, to, on });
                    }
                }
            }
            for (nth, flow) in (0..).zip(&rule.flows) {
                let (from, to, on) = found.sides(m, &mut known, flow)?;
                if rule.action == Action::Isolate {
                    let side = usize::from(flow.from == Ends::any());
                    found.isolated[side].push(found.terms.len() as u32);
                }
                found.terms.push(Term {
                    of: (rule.id, nth),
                    block: rule.block as u32,
                    action: rule.action,
                    rank,
                    from,
                    to,
                    on,
                    when: found.mask(&rule.when),
                    same: exempt_same.clone(),
                    cuts: cuts.clone(),
                });
            }
        }
        Ok(found)
    }

    fn mask(&self, labels: &[LabelId]) -> u32 {
        let bit = |label: &LabelId| {
            let place = self.bits.iter().position(|bit| *bit == Bit::Same(*label));
            1 << place.expect("every label in common has a bit")
        };
        labels.iter().map(bit).sum()
    }

    fn sides(
        &mut self,
        m: &mut Manager,
        known: &mut Known,
        flow: &Flow,
    ) -> Result<(u32, u32, Vec<u32>), LimitError> {
        let from = known.end(m, &mut self.sources, 0, &flow.from)?;
        let to = known.end(m, &mut self.destinations, 1, &flow.to)?;
        let names = &self.bits[self.n_same as usize..];
        let mut on = Vec::new();
        for given in 0..1_u32 << names.len() {
            let calls = |name: PortId| {
                let place = names.iter().position(|bit| *bit == Bit::Named(name));
                given >> place.expect("every name has a bit") & 1 == 1
            };
            let plain = flow.on.0.iter().map(|(a, b, ports)| (*a, *b, plain(ports, &calls)));
            on.push(known.services(m, &mut self.services, Services(plain.collect()))?);
        }
        Ok((from, to, on))
    }
}

fn leaf(rules: &Rules, block: usize, action: Action, rule: RuleId) -> Leaf {
    let verdict = match action {
        Action::Isolate => TierVerdict::Isolate,
        Action::Allow => TierVerdict::Allow,
        Action::Deny => TierVerdict::Deny,
    };
    Leaf::Tier(Reverse(rules.blocks[block].tier), verdict, Reverse(rule))
}

fn named(ports: &Ports, names: &mut BTreeSet<PortId>) {
    if let Ports::Named { name, yes, no } = ports {
        names.insert(*name);
        named(yes, names);
        named(no, names);
    }
}

/// The ports where it is known which names the destination's port has.
fn plain(ports: &Ports, calls: &dyn Fn(PortId) -> bool) -> Ports {
    match ports {
        Ports::Pairs(_) => ports.clone(),
        Ports::Named { name, yes, no } => plain(if calls(*name) { yes } else { no }, calls),
    }
}

/// Predicates by what they are.
#[derive(Default)]
struct Known {
    ends: [HashMap<Ref, u32>; 2],
    services: HashMap<Ref, u32>,
    diagrams: BTreeMap<Ends, Ref>,
}

impl Known {
    fn end(
        &mut self,
        m: &mut Manager,
        list: &mut Vec<Ref>,
        side: usize,
        set: &Ends,
    ) -> Result<u32, LimitError> {
        let at = match self.diagrams.get(set) {
            Some(&at) => at,
            None => {
                let at = ends(m, set, End::Peer)?;
                self.diagrams.insert(set.clone(), at);
                at
            }
        };
        Ok(*self.ends[side].entry(at).or_insert_with(|| {
            list.push(at);
            list.len() as u32 - 1
        }))
    }

    fn services(
        &mut self,
        m: &mut Manager,
        list: &mut Vec<Ref>,
        set: Services,
    ) -> Result<u32, LimitError> {
        let at = services(m, &set, End::Peer)?;
        Ok(*self.services.entry(at).or_insert_with(|| {
            list.push(at);
            list.len() as u32 - 1
        }))
    }
}

/// Which terms are decided together.
type Grouping = Vec<Vec<u32>>;

/// Thresholds tried: a predicate that holds in more classes is broad.
const BROAD: [usize; 7] = [usize::MAX, 4_096, 1_024, 256, 64, 16, 4];

/// Splits the terms by the breadth of both sides, so that they have the fewest cells: in two if that is enough, else in three.
fn grouping(terms: &Terms, sides: &[Classes; 2], config: Config) -> Result<Grouping, LimitError> {
    let breadth = [0, 1].map(|side| breadth(&sides[side].held, terms.side(side).len()));
    let halves: Vec<Vec<usize>> = BROAD.iter().map(|&most| vec![most]).collect();
    let thirds: Vec<Vec<usize>> =
        BROAD.windows(3).map(|window| vec![window[0], window[2]]).collect();
    let found = [halves, thirds].iter().find_map(|of| least(terms, sides, &breadth, of, config));
    found.ok_or_else(|| LimitError::Cells { rules: terms.broadest(&breadth) })
}

/// The best of some thresholds: the same for both sides first, then each side's neighbours of the best.
fn least(
    terms: &Terms,
    sides: &[Classes; 2],
    breadth: &[Vec<usize>; 2],
    thresholds: &[Vec<usize>],
    config: Config,
) -> Option<Grouping> {
    let mut best: Option<(usize, Grouping)> = None;
    let mut tried = BTreeSet::new();
    let mut next: Vec<[usize; 2]> = (0..thresholds.len()).map(|step| [step, step]).collect();
    while !next.is_empty() {
        for steps in std::mem::take(&mut next) {
            let outside = steps.iter().any(|&step| step >= thresholds.len());
            if outside || !tried.insert(steps) {
                continue;
            }
            let split = split(terms, breadth, steps.map(|step| thresholds[step].as_slice()));
            let cells: usize = split.iter().map(|of| n_cells(terms, sides, of)).sum();
            let cost = cells.saturating_add(split.len() * config.group);
            let fits = cells <= CELLS_MAX && split.len() < GROUPS_MAX;
            if fits && best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, split));
                let [s, d] = steps;
                next = vec![[s + 1, d], [s, d + 1], [s.wrapping_sub(1), d], [s, d.wrapping_sub(1)]];
            }
        }
    }
    best.map(|(_, split)| split)
}

/// Groups of the terms that do not isolate, by how many of the thresholds each side is above.
fn split(terms: &Terms, breadth: &[Vec<usize>; 2], thresholds: [&[usize]; 2]) -> Grouping {
    let mut split: BTreeMap<[usize; 2], Vec<u32>> = BTreeMap::new();
    for (index, term) in (0..).zip(&terms.terms) {
        if term.action == Action::Isolate {
            continue;
        }
        let held = [breadth[0][term.from as usize], breadth[1][term.to as usize]];
        let place =
            [0, 1].map(|side| thresholds[side].iter().filter(|&&most| held[side] > most).count());
        split.entry(place).or_default().push(index);
    }
    split.into_values().collect()
}

/// Who isolates which ends.
fn isolation(terms: &Terms, sides: &[Classes; 2]) -> Result<Isolation, LimitError> {
    let [source, destination] = [0, 1].map(|side| {
        let predicate = |term: &Term| if side == 0 { term.from } else { term.to };
        let mut asked = vec![false; terms.side(side).len()];
        let mut by_predicate: BTreeMap<u32, Vec<&Term>> = BTreeMap::new();
        for &term in &terms.isolated[side] {
            let term = &terms.terms[term as usize];
            asked[predicate(term) as usize] = true;
            by_predicate.entry(predicate(term)).or_default().push(term);
        }
        let (to, held) = project(&sides[side].held, &asked);
        if held.len() > CLASSES_MAX {
            let rules = terms.isolated[side].iter().map(|&term| terms.terms[term as usize].of.0);
            return Err(LimitError::Cells { rules: rules.take(5).collect() });
        }
        // Of one block the strongest counts.
        let by_class = held.iter().map(|held| {
            let mut of_blocks: BTreeMap<u16, u32> = BTreeMap::new();
            for term in held.iter().flat_map(|predicate| &by_predicate[predicate]) {
                let rank = of_blocks.entry(terms.isolating[&term.block]).or_default();
                *rank = term.rank.max(*rank);
            }
            of_blocks.into_iter().collect()
        });
        let by_class = by_class.collect();
        Ok(Isolated { classes: sides[side].renumbered(&to, held), by_class })
    });
    Ok(Isolation { source: source?, destination: destination? })
}

/// For each predicate how many classes it holds in.
fn breadth(held: &[Vec<u32>], n: usize) -> Vec<usize> {
    let mut breadth = vec![0; n];
    held.iter().flatten().for_each(|&predicate| breadth[predicate as usize] += 1);
    breadth
}

impl Terms {
    fn side(&self, side: usize) -> &[Ref] {
        if side == 0 { &self.sources } else { &self.destinations }
    }

    /// Which predicates the terms and their cuts ask, for each side.
    fn asked(&self, of: &[u32]) -> [Vec<bool>; 2] {
        let mut asked = [vec![false; self.sources.len()], vec![false; self.destinations.len()]];
        let mut ask = |from: u32, to: u32| {
            asked[0][from as usize] = true;
            asked[1][to as usize] = true;
        };
        for &index in of {
            let term = &self.terms[index as usize];
            ask(term.from, term.to);
            for &cut in &term.cuts {
                let Cut { from, to, .. } = self.cuts[cut as usize];
                ask(from, to);
            }
        }
        asked
    }

    /// The rules whose predicates hold in the most classes, at most five.
    fn broadest(&self, breadth: &[Vec<usize>; 2]) -> Vec<RuleId> {
        let mut cells: BTreeMap<RuleId, usize> = BTreeMap::new();
        for term in &self.terms {
            if let Some(rule) = self.leaves[term.rank as usize].rule() {
                *cells.entry(rule).or_default() +=
                    breadth[0][term.from as usize] * breadth[1][term.to as usize];
            }
        }
        let mut rules: Vec<_> = cells.into_iter().collect();
        rules.sort_by_key(|&(rule, n)| (Reverse(n), rule));
        rules.into_iter().map(|(rule, _)| rule).take(5).collect()
    }
}

/// Classes where only some predicates count: for each old class its new number, and what holds in each new one.
fn project(held: &[Vec<u32>], asked: &[bool]) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut classes = Numbered::new(Vec::new());
    let to = held.iter().map(|held| {
        classes.number(held.iter().copied().filter(|&of| asked[of as usize]).collect())
    });
    let to = to.collect();
    (to, classes.values)
}

fn n_cells(terms: &Terms, sides: &[Classes; 2], of: &[u32]) -> usize {
    let asked = terms.asked(of);
    let breadth = [0, 1].map(|side| {
        let (_, held) = project(&sides[side].held, &asked[side]);
        if held.len() > CLASSES_MAX { None } else { Some(breadth(&held, asked[side].len())) }
    });
    let [Some(from), Some(to)] = breadth else { return usize::MAX >> 8 };
    let cells = |&index: &u32| {
        let term = &terms.terms[index as usize];
        from[term.from as usize] * to[term.to as usize]
    };
    of.iter().map(cells).sum()
}

fn group(
    terms: &Terms,
    sides: &[Classes; 2],
    of: &[u32],
    cells: &mut Cells<'_>,
) -> Result<Group, LimitError> {
    let asked = terms.asked(of);
    let [(source, sources), (destination, destinations)] =
        [0, 1].map(|side| project(&sides[side].held, &asked[side]));
    let members = |held: &[Vec<u32>], n: usize| {
        let mut members = vec![Vec::new(); n];
        for (class, held) in (0..).zip(held) {
            held.iter().for_each(|&predicate| members[predicate as usize].push(class));
        }
        members
    };
    let from: Vec<Vec<u32>> = members(&sources, terms.sources.len());
    let to: Vec<Vec<u32>> = members(&destinations, terms.destinations.len());
    let mut incidences: Vec<(u32, u32, u32)> = Vec::new();
    for &index in of {
        let term = &terms.terms[index as usize];
        for &s in &from[term.from as usize] {
            incidences.extend(to[term.to as usize].iter().map(|&d| (s, d, index)));
        }
    }
    incidences.sort_unstable();
    let mut found: Vec<(u32, u32, u32)> = Vec::new();
    for run in incidences.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (s, d, _) = run[0];
        let holds = |held: &[Vec<u32>], class: u32, predicate: u32| {
            held[class as usize].binary_search(&predicate).is_ok()
        };
        let cuts = |cut: &Cut| holds(&sources, s, cut.from) && holds(&destinations, d, cut.to);
        let list = cells.list(run.iter().map(|&(_, _, term)| term), &cuts)?;
        if list != 0 {
            found.push((s, d, list));
        }
    }
    drop(incidences);
    // Ends that are in equal rows or columns are one class.
    let mut numbers =
        [sources.len(), destinations.len()].map(|n| (0..n as u32).collect::<Vec<_>>());
    for side in [0, 1, 0] {
        let merged = merge(&mut found, side);
        for number in &mut numbers[side] {
            *number = merged.get(number).copied().unwrap_or(0);
        }
    }
    let compact = |side: usize, through: &[u32], old: &Classes| {
        let to: Vec<u32> = through.iter().map(|&class| numbers[side][class as usize]).collect();
        let n = to.iter().max().map_or(1, |&most| most as usize + 1);
        old.renumbered(&to, vec![Vec::new(); n])
    };
    let source = compact(0, &source, &sides[0]);
    let destination = compact(1, &destination, &sides[1]);
    let of = of.iter().map(|&index| terms.terms[index as usize].of).collect();
    Ok(Group { of, source, destination, cells: found })
}

/// Gives rows (side 0) or columns (side 1) with equal cells one number, from 1 on, and sorts; the result leads from old numbers
/// to new ones, and classes without cells are not in it.
fn merge(cells: &mut Vec<(u32, u32, u32)>, side: usize) -> HashMap<u32, u32> {
    let mut lines: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    for &(s, d, list) in &*cells {
        let (line, other) = if side == 0 { (s, d) } else { (d, s) };
        lines.entry(line).or_default().push((other, list));
    }
    let mut numbers = Numbered::new(Vec::new());
    let merged: HashMap<u32, u32> =
        lines.into_iter().map(|(line, of)| (line, numbers.number(of))).collect();
    let whole = (0..).zip(&numbers.values).flat_map(|(line, of): (u32, _)| {
        of.iter().map(
            move |&(other, list)| {
                if side == 0 { (line, other, list) } else { (other, line, list) }
            },
        )
    });
    *cells = whole.collect();
    cells.sort_unstable();
    merged
}

/// Exceptions that one group of all rules may have, without a look at anything better.
const WHOLE_MAX: usize = 1 << 16;

/// Columns that are listed one by one rather than by default.
const FEW: usize = 16;

/// Cells by what they decide.
struct Cells<'a> {
    terms: &'a Terms,
    /// Whether lists say which isolating blocks allow.
    consents: bool,
    n_services: usize,
    /// For each set of services the classes in it.
    sets: Vec<Set>,
    lists: Numbered<List>,
    entries: Numbered<Entry>,
    n_exceptions: usize,
    /// How many exceptions there may be.
    exceptions_max: usize,
    /// By terms and the cuts that count.
    done: HashMap<Vec<u32>, u32>,
}

/// Classes of services, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn none(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    fn insert(&mut self, class: usize) {
        self.0[class / 64] |= 1 << (class % 64);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & !b).collect())
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).step_by(64).zip(&self.0).flat_map(|(first, &word)| {
            let mut word = word;
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(first + bit)
            })
        })
    }
}

impl<'a> Cells<'a> {
    fn new(terms: &'a Terms, packets: &Classes, consents: bool, exceptions_max: usize) -> Self {
        let n_services = packets.n();
        let mut sets = vec![Set::none(n_services); terms.services.len()];
        for (class, held) in packets.held.iter().enumerate() {
            held.iter().for_each(|&set| sets[set as usize].insert(class));
        }
        Self {
            terms,
            consents,
            n_services,
            sets,
            lists: Numbered::new(List::default()),
            entries: Numbered::new(Entry::default()),
            n_exceptions: 0,
            exceptions_max,
            done: HashMap::new(),
        }
    }

    /// The list of a cell: `cuts` tells which cuts hold for its classes.
    fn list(
        &mut self,
        of: impl Iterator<Item = u32>,
        cuts: &dyn Fn(&Cut) -> bool,
    ) -> Result<u32, LimitError> {
        let n_terms = self.terms.terms.len() as u32;
        let mut key = Vec::new();
        for term in of {
            key.push(term);
            let of_term = self.terms.terms[term as usize].cuts.iter();
            let holding = of_term.filter(|&&cut| cuts(&self.terms.cuts[cut as usize]));
            key.extend(holding.map(|cut| n_terms + cut));
        }
        if let Some(&done) = self.done.get(&key) {
            return Ok(done);
        }
        let list = self.decide(&key)?;
        self.done.insert(key, list);
        Ok(list)
    }

    fn decide(&mut self, key: &[u32]) -> Result<u32, LimitError> {
        let n_bits = self.terms.bits.len();
        let mut columns: Vec<(u32, u32)> = Vec::new();
        for bits in 0..1_u32 << n_bits {
            for (entry, set) in self.column(key, bits) {
                let entry = self.entries.number(entry);
                columns.extend(set.iter().map(|class| (class << n_bits | bits, entry)));
            }
        }
        columns.sort_unstable();
        // Every default is looked up beside the column: it has to be worth it.
        let n_columns = self.n_services << n_bits;
        let mut n_of: BTreeMap<u32, usize> = BTreeMap::from([(0, n_columns - columns.len())]);
        columns.iter().for_each(|(_, entry)| *n_of.entry(*entry).or_default() += 1);
        let most = n_of.iter().map(|(&entry, &n)| (n, Reverse(entry))).max();
        let default = match most {
            Some((_, Reverse(entry))) if columns.len() > FEW => entry,
            _ => 0,
        };
        if default != 0 {
            let said: Vec<(u32, u32)> = std::mem::take(&mut columns);
            columns.extend((0..n_columns as u32).map(|column| (column, 0)));
            said.iter().for_each(|&(column, entry)| columns[column as usize].1 = entry);
            columns.retain(|(_, entry)| *entry != default);
        }
        let (n, before) = (columns.len(), self.lists.values.len());
        let list = self.lists.number(List { default, exceptions: columns });
        if self.lists.values.len() > before {
            self.n_exceptions += n;
            if self.n_exceptions > self.exceptions_max {
                let ranks = n_of.keys().map(|&entry| self.entries.values[entry as usize].rank);
                let rules = ranks.filter_map(|rank| self.terms.leaves[rank as usize].rule());
                return Err(LimitError::Cells { rules: rules.take(5).collect() });
            }
        }
        Ok(list)
    }

    /// What each class of services is decided as where the bits are these; classes without a rule are in no set.
    fn column(&self, key: &[u32], bits: u32) -> Vec<(Entry, Set)> {
        let n_terms = self.terms.terms.len() as u32;
        let name = (bits >> self.terms.n_same) as usize;
        // Terms with what is left of their services, block by block, the strongest of a block first.
        let mut said: Vec<(&Term, Set)> = Vec::new();
        for &of in key {
            if of < n_terms {
                let term = &self.terms.terms[of as usize];
                let cut = term.same.iter().any(|mask| bits & mask == *mask);
                let holds = bits & term.when == term.when && !cut;
                let set = match holds {
                    true => self.sets[term.on[name] as usize].clone(),
                    false => Set::none(self.n_services),
                };
                said.push((term, set));
            } else if let Some((_, set)) = said.last_mut() {
                let cut = &self.terms.cuts[(of - n_terms) as usize];
                *set = set.without(&self.sets[cut.on[name] as usize]);
            }
        }
        said.retain(|(_, set)| !set.is_empty());
        said.sort_by_key(|(term, _)| (term.block, Reverse(term.action), term.rank));
        let mut of_blocks: Vec<(u32, Set)> = Vec::new();
        for block in said.chunk_by(|a, b| a.0.block == b.0.block) {
            let mut taken = Set::none(self.n_services);
            for action in block.chunk_by(|a, b| a.0.action == b.0.action) {
                let mut all = taken.clone();
                for (term, set) in action {
                    of_blocks.push((term.rank, set.without(&taken)));
                    all.0.iter_mut().zip(&set.0).for_each(|(all, word)| *all |= word);
                }
                taken = all;
            }
        }
        of_blocks.sort_by_key(|(rank, _)| Reverse(*rank));
        let mut left = Set(vec![u64::MAX; self.n_services.div_ceil(64)]);
        let mut decided: Vec<(u32, Set)> = Vec::new();
        for (rank, set) in of_blocks {
            let set = set.and(&left);
            if set.is_empty() {
                continue;
            }
            left = left.without(&set);
            match decided.last_mut() {
                Some((before, all)) if *before == rank => {
                    all.0.iter_mut().zip(&set.0).for_each(|(all, word)| *all |= word);
                }
                _ => decided.push((rank, set)),
            }
        }
        let plain = |rank| Entry { rank, consents: Vec::new() };
        let mut entries: Vec<(Entry, Set)> =
            decided.into_iter().map(|(rank, set)| (plain(rank), set)).collect();
        if self.consents {
            for block in said.chunk_by(|a, b| a.0.block == b.0.block) {
                self.consent(block, &mut entries);
            }
        }
        entries
    }

    /// Adds what a block's allow rules mean to its own `isolate`, where they are not beaten by more than that.
    fn consent(&self, block: &[(&Term, Set)], entries: &mut Vec<(Entry, Set)>) {
        let Some(&number) = self.terms.isolating.get(&block[0].0.block) else { return };
        let allowing = block.iter().filter(|(term, _)| term.action == Action::Allow);
        let mut allowed = Set::none(self.n_services);
        let mut tier = None;
        for (term, set) in allowing {
            allowed.0.iter_mut().zip(&set.0).for_each(|(all, word)| *all |= word);
            tier = self.terms.tier(term.rank);
        }
        let concerned = |entry: &Entry| self.terms.tier(entry.rank) == tier;
        for (entry, set) in std::mem::take(entries) {
            let both = set.and(&allowed);
            if !concerned(&entry) || both.is_empty() {
                entries.push((entry, set));
                continue;
            }
            let rest = set.without(&allowed);
            let mut with = entry.clone();
            with.consents.push(number);
            with.consents.sort_unstable();
            entries
                .extend([(with, both), (entry, rest)].into_iter().filter(|(_, s)| !s.is_empty()));
        }
    }
}

impl Terms {
    /// The tier of an allow rule's rank.
    fn tier(&self, rank: u32) -> Option<Tier> {
        match self.leaves[rank as usize] {
            Leaf::Tier(Reverse(tier), TierVerdict::Allow, _) => Some(tier),
            _ => None,
        }
    }
}
