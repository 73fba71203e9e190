//! Proves that tables decide every flow as the rules do.
//!
//! ```text
//!  classes, nets, ports --(walk, with the predicates)-- variants: a class, and what holds of some ends in it --+
//!                                                                                                              v
//!  rules --(rules)-- terms: what each flow of a rule asks of both ends and the packet --(said)-- what each pair says
//!                                                                                                              = ?
//!  bytes --(bytes)-- the cell of the pair of classes, its list, the entry of each column ----------------------+
//! ```
//!
//! Nothing here uses what made the tables; places, grouping and the meaning of bits are claims that are checked on the way.
//!
//! Why that is enough: a rule counts wherever it matches, but an `isolate` only where its own block does not allow; of those that
//! count the greatest rank decides. The greatest of all is the greatest of each group's, so rules may be in any group if each is
//! in one, and an `isolate` in that of what its block allows. Where every `isolate` stands apart, it counts unless a group says
//! that its block allows; a group keeps that to itself only where it gives a greater rank anyway.
//!
//! Cost: that of making the tables: linear in the edges of decisions and in pairs of variants with a rule in common.

mod bytes;
mod rules;
mod said;
mod walk;

use crate::diagram::{Field, Manager};
use crate::layout::Layout;
use crate::limits::{LimitError, NODES_MAX};
use crate::rules::{Action, Rules};
use crate::tables::{Bit, Entry};
use bytes::Bytes;
use rules::Terms;
use said::{NOTHING, Said};
use seg_artifact::classes::Classes;
use seg_artifact::manifest::Net;
use seg_artifact::maps::{self, Reason};
use seg_lang::policy::RuleId;
use std::collections::{BTreeMap, BTreeSet};
use walk::{Variants, of_artifact, of_nets, ranges_of_nets, variants};

/// Tables, and what is claimed about them.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The tables.
    pub bytes: &'a [u8],
    /// Where what is; its own bytes are not looked at.
    pub places: &'a Layout,
    /// What the lower bits of a column say, the lowest first.
    pub bits: &'a [Bit],
    /// By group the rules in it, and which of their flows.
    pub groups: &'a [Vec<(RuleId, u32)>],
    /// How ends are sorted into classes.
    pub classes: &'a Classes,
    /// The nets of the manifest.
    pub nets: &'a [Net],
}

/// Why tables do not decide as the rules do, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The predicates are too large.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The parts contradict each other.
    #[error("the tables cannot be read back: {0}")]
    Broken(&'static str),
    /// A table is read outside.
    #[error("index {index} is outside of the table at byte {at}")]
    Outside {
        /// Where the table begins.
        at: u32,
        /// Of the entry.
        index: u64,
    },
    /// A rule asks what no table answers.
    #[error("rules ask {0:?}, which no table answers")]
    Asked(Field),
    /// A flow of a rule is in no group, in several, or where it must not be.
    #[error("flow {flow} of rule #{} is not in one group, or not in the right one", rule.0)]
    Grouping {
        /// The rule.
        rule: RuleId,
        /// Which of its flows.
        flow: u32,
    },
    /// A rank has not the counter or the verdict of its rule.
    #[error("rank {rank} has another counter or verdict than its rule")]
    Leaf {
        /// The rank.
        rank: u32,
    },
    /// Services of one class are told apart.
    #[error("service class {class} is told apart")]
    Services {
        /// The class.
        class: u32,
    },
    /// Ends that a rule tells apart have one pair of classes.
    #[error(
        "group {group}: source class {source_class} and destination class {destination_class} are told apart"
    )]
    Apart {
        /// The group.
        group: usize,
        /// Class of sources.
        source_class: u32,
        /// Class of destinations.
        destination_class: u32,
    },
    /// A cell says something else than the rules.
    #[error(
        "group {group}, source class {source_class}, destination class {destination_class}, column {column:?}: says {says:?}, the rules {wanted:?}"
    )]
    Cell {
        /// The group.
        group: usize,
        /// Class of sources.
        source_class: u32,
        /// Class of destinations.
        destination_class: u32,
        /// Bits, and the class of services.
        column: (u32, u32),
        /// What is found there.
        says: Entry,
        /// What has to be.
        wanted: Entry,
    },
    /// Ends of a class are isolated by others than it says.
    #[error(
        "isolation of {side:?} class {class} is not that of the rules: {says:?}, not {wanted:?}"
    )]
    Isolated {
        /// On which side.
        side: Side,
        /// The class.
        class: u32,
        /// Block and rank of what is found there.
        says: BTreeSet<(u16, u32)>,
        /// What has to be.
        wanted: BTreeSet<(u16, u32)>,
    },
}

/// The ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it begins.
    Source,
    /// Where it ends.
    Destination,
}

/// Proves that tables decide as the rules do.
///
/// The result is the ident of every address that no endpoint has: the last number of each range, ascending.
///
/// # Errors
/// [`TableError`] if they do not, or if that cannot be told.
pub fn check(rules: &Rules, claim: Claim<'_>) -> Result<Vec<(u128, u16)>, TableError> {
    let Claim { places, classes, nets, .. } = claim;
    let mut m = Manager::new(&rules.labels, NODES_MAX);
    let terms = Terms::new(&mut m, rules, claim.bits)?;
    let bytes = Bytes::new(claim.bytes, places);
    if places.n_bits as usize != claim.bits.len() {
        return Err(TableError::Broken("other bits than a column has"));
    }
    counters(&terms, &bytes)?;
    let apart = places.isolation.is_some();
    let groups = grouping(rules, &terms, claim.groups, apart)?;
    let n_decisions = groups.len() + usize::from(apart);
    if places.groups.len() != groups.len() || classes.groups.len() != n_decisions {
        return Err(TableError::Broken("other groups than there are classes for"));
    }
    let ranges = ranges_of_nets(nets)?;
    bytes.nets6(&ranges)?;
    if classes.nets.len() != nets.len() + 1 {
        return Err(TableError::Broken("other nets than there are classes for"));
    }
    let mut said = Said::new(&m, &terms, &bytes, apart)?;
    if said.at(&bytes, 0)? != NOTHING {
        return Err(TableError::Broken("pairs without a list say something"));
    }
    for (group, of) in groups.iter().enumerate() {
        let sides = [Side::Source, Side::Destination].map(|side| {
            let asked = of.iter().flat_map(|&term| terms.asked(term, side)).collect();
            ends(&m, &terms, claim, &ranges, (group, side), &asked)
        });
        let [sources, destinations] = sides;
        Cells { group, terms: &terms, of, sources: &sources?, destinations: &destinations? }
            .check(&bytes, &mut said)?;
    }
    for side in apart.then_some([Side::Source, Side::Destination]).into_iter().flatten() {
        isolation(&m, &terms, claim, &ranges, side, &bytes)?;
    }
    Ok(ranges)
}

/// Every rank has the counter of its rule.
fn counters(terms: &Terms, bytes: &Bytes<'_>) -> Result<(), TableError> {
    let counted = terms.ranked.iter().map(|of| maps::rule_counter(of.rule.0));
    for (rank, wanted) in (0..).zip([Reason::Default.counter()].into_iter().chain(counted)) {
        if bytes.counter(rank)? != wanted {
            return Err(TableError::Leaf { rank });
        }
    }
    Ok(())
}

/// The terms of each group: each is in one, but every `isolate` in none where that stands apart.
fn grouping(
    rules: &Rules,
    terms: &Terms,
    claimed: &[Vec<(RuleId, u32)>],
    apart: bool,
) -> Result<Vec<Vec<u32>>, TableError> {
    let index: BTreeMap<_, u32> = terms.terms.iter().map(|term| term.of).zip(0..).collect();
    let mut place: Vec<Option<usize>> = vec![None; terms.terms.len()];
    let mut groups = Vec::new();
    for (group, of) in claimed.iter().enumerate() {
        let mut found = Vec::with_capacity(of.len());
        for &(rule, flow) in of {
            let misplaced = TableError::Grouping { rule, flow };
            let term = *index.get(&(rule, flow)).ok_or(misplaced.clone())?;
            let is_isolate = terms.terms[term as usize].action == Action::Isolate;
            if place[term as usize].replace(group).is_some() || is_isolate && apart {
                return Err(misplaced);
            }
            found.push(term);
        }
        groups.push(found);
    }
    // Where a block's allow and isolate rules have to be.
    let mut together: Vec<Option<usize>> = vec![None; rules.blocks.len()];
    for (term, place) in terms.terms.iter().zip(place) {
        let (rule, flow) = term.of;
        let misplaced = Err(TableError::Grouping { rule, flow });
        match place {
            None if term.action == Action::Isolate && apart => {}
            None => return misplaced,
            Some(place) => {
                let is_tied = !apart && terms.isolates(term.block) && term.action != Action::Deny;
                if is_tied && *together[term.block].get_or_insert(place) != place {
                    return misplaced;
                }
            }
        }
    }
    Ok(groups)
}

/// All classes an end may have in a group, with what holds of it: endpoints by labels and address, others by their net.
fn ends(
    m: &Manager,
    terms: &Terms,
    claim: Claim<'_>,
    ranges: &[(u128, u16)],
    (group, side): (usize, Side),
    asked: &BTreeSet<u32>,
) -> Result<Variants, TableError> {
    let sides = &claim.classes.groups[group];
    let decision =
        of_artifact(if side == Side::Source { &sides.source } else { &sides.destination })?;
    let of_managed = |managed| {
        let given = |&of: &u32| (of, m.given(terms.ends[of as usize], Field::PeerManaged, managed));
        asked.iter().map(given).collect()
    };
    let mut found = variants(m, &decision, of_managed(1))?;
    let classes = claim.classes.nets.iter().map(|net| match side {
        Side::Source => net.source[group],
        Side::Destination => net.destination[group],
    });
    let decision = of_nets(ranges, &classes.collect::<Vec<_>>());
    found.extend(variants(m, &decision, of_managed(0))?);
    Ok(found)
}

/// Each class lists the blocks that isolate its ends, and the strongest rule of each.
fn isolation(
    m: &Manager,
    terms: &Terms,
    claim: Claim<'_>,
    ranges: &[(u128, u16)],
    side: Side,
    bytes: &Bytes<'_>,
) -> Result<(), TableError> {
    let isolating = terms.isolated(side)?;
    let asked = isolating.keys().copied().collect();
    let group = claim.groups.len();
    for (class, held) in ends(m, terms, claim, ranges, (group, side), &asked)? {
        let mut strongest: BTreeMap<u16, u32> = BTreeMap::new();
        for &(block, rank) in held.iter().flat_map(|predicate| &isolating[predicate]) {
            let known = strongest.entry(block).or_default();
            *known = rank.max(*known);
        }
        let says = bytes.isolated(side, class)?;
        let wanted = strongest.into_iter().collect();
        if says != wanted {
            return Err(TableError::Isolated { side, class, says, wanted });
        }
    }
    Ok(())
}

/// Classes of both ends, and the number of what they say together.
type Spoken = Vec<((u32, u32), u32)>;

/// The cells of one group.
struct Cells<'a> {
    group: usize,
    terms: &'a Terms,
    of: &'a [u32],
    sources: &'a Variants,
    destinations: &'a Variants,
}

impl Cells<'_> {
    fn check(&self, bytes: &Bytes<'_>, said: &mut Said<'_>) -> Result<(), TableError> {
        let spoken = self.wanted(said)?;
        let classes = |of: &Variants| of.iter().map(|(class, _)| *class).collect::<BTreeSet<u32>>();
        let sides = [self.sources, self.destinations].map(classes);
        let filled = bytes.filled(self.group, &sides)?;
        let base = |pair: &(u32, u32)| filled.get(pair).copied().unwrap_or(0);
        // Nothing is said anywhere else.
        let known = |pair: &&(u32, u32)| spoken.binary_search_by_key(*pair, |of| of.0).is_ok();
        let others = filled.keys().filter(|pair| !known(pair)).map(|pair| (*pair, NOTHING));
        for (pair, wanted) in spoken.iter().copied().chain(others) {
            let says = said.at(bytes, base(&pair))?;
            if says != wanted {
                return Err(self.differs(said, pair, says, wanted));
            }
        }
        Ok(())
    }

    fn differs(&self, said: &Said<'_>, pair: (u32, u32), says: u32, wanted: u32) -> TableError {
        let (column, [says, wanted]) = said.difference(says, wanted);
        let (source_class, destination_class) = pair;
        TableError::Cell {
            group: self.group,
            source_class,
            destination_class,
            column,
            says,
            wanted,
        }
    }

    /// What the pairs of classes that say something have to say, ascending.
    fn wanted(&self, said: &mut Said<'_>) -> Result<Spoken, TableError> {
        let sources: Vec<(u32, &[u32])> = listed(self.sources);
        let destinations: Vec<(u32, &[u32])> = listed(self.destinations);
        let mut by_source: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &term in self.of {
            by_source.entry(self.terms.terms[term as usize].from).or_default().push(term);
        }
        let mut holding: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (index, (_, held)) in (0..).zip(&destinations) {
            held.iter().for_each(|&of| holding.entry(of).or_default().push(index));
        }
        let mut spoken = Vec::new();
        for class in sources.chunk_by(|a, b| a.0 == b.0) {
            // What each pair of variants says, by class and variant of the destination.
            let mut row: Vec<(u32, u32)> = Vec::new();
            for (_, held) in class {
                let matched = held.iter().flat_map(|of| by_source.get(of).into_iter().flatten());
                let mut pairs: Vec<(u32, u32)> = Vec::new();
                for &term in matched {
                    let to = self.terms.terms[term as usize].to;
                    let ends = holding.get(&to).into_iter().flatten();
                    pairs.extend(ends.map(|&destination| (destination, term)));
                }
                pairs.sort_unstable();
                for of_pair in pairs.chunk_by(|a, b| a.0 == b.0) {
                    let (class, of_destination) = destinations[of_pair[0].0 as usize];
                    let matched = of_pair.iter().map(|(_, term)| *term);
                    row.push((class, said.wanted(matched, held, of_destination)?));
                }
            }
            row.sort_unstable();
            let source = class[0].0;
            for cell in row.chunk_by(|a, b| a.0 == b.0) {
                let (destination, wanted) = cell[0];
                let of_class = destinations.partition_point(|of| of.0 <= destination)
                    - destinations.partition_point(|of| of.0 < destination);
                // A pair of variants that no rule has in common says nothing.
                let all = wanted == NOTHING || cell.len() == class.len() * of_class;
                if !all || cell.iter().any(|of| of.1 != wanted) {
                    return Err(TableError::Apart {
                        group: self.group,
                        source_class: source,
                        destination_class: destination,
                    });
                }
                if wanted != NOTHING {
                    spoken.push(((source, destination), wanted));
                }
            }
        }
        Ok(spoken)
    }
}

fn listed(variants: &Variants) -> Vec<(u32, &[u32])> {
    variants.iter().map(|(class, held)| (*class, held.as_slice())).collect()
}
