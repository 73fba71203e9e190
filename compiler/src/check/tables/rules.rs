//! What rules ask: every flow of a rule as a term.

use super::{Side, TableError};
use crate::decide::{End, ends, services};
use crate::diagram::{Field, Manager, Ref};
use crate::limits::BITS_MAX;
use crate::rules::{Action, Ends, Exempt, Flow, PortId, Ports, Rules, Services};
use crate::tables::Bit;
use seg_lang::ast::Tier;
use seg_lang::policy::{LabelId, RuleId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One flow of a rule.
pub(super) struct Term {
    /// The rule, and which of its flows.
    pub(super) of: (RuleId, u32),
    pub(super) block: usize,
    pub(super) tier: Tier,
    pub(super) action: Action,
    pub(super) rank: u32,
    /// Index into [`Terms::ends`].
    pub(super) from: u32,
    /// Index into [`Terms::ends`].
    pub(super) to: u32,
    /// By what is known of names, index into [`Terms::services`].
    pub(super) on: Vec<u32>,
    /// Bits that must be set.
    pub(super) when: u32,
    /// Bits of which all are set where the rule does not count.
    pub(super) same: Vec<u32>,
    /// Indices into [`Terms::cuts`].
    pub(super) cuts: Vec<u32>,
    /// Whether it is about all that its ends on one side do, and which.
    whole: Option<Side>,
}

/// Flows for which a rule does not count.
pub(super) struct Cut {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) on: Vec<u32>,
}

/// What is known of a rank.
pub(super) struct Ranked {
    pub(super) rule: RuleId,
    tier: Tier,
    pub(super) action: Action,
}

/// All terms of rules that count.
pub(super) struct Terms {
    pub(super) terms: Vec<Term>,
    pub(super) cuts: Vec<Cut>,
    /// Predicates on ends, as if they were the peer.
    pub(super) ends: Vec<Ref>,
    /// Sets of services.
    pub(super) services: Vec<Ref>,
    /// From rank 1 on, the weakest first.
    pub(super) ranked: Vec<Ranked>,
    pub(super) n_bits: u32,
    /// Places of the bits of names.
    names: Vec<(u32, PortId)>,
    /// Numbers of the blocks that isolate, from 1 on.
    isolating: BTreeMap<usize, u16>,
    /// Their tiers by number.
    tiers: BTreeMap<u16, Tier>,
}

impl Terms {
    /// Whether the rule of a rank allows; rank 0 is nobody's and does not.
    pub(super) fn allows(&self, rank: u32) -> Option<bool> {
        match rank.checked_sub(1) {
            None => Some(false),
            Some(rule) => self.ranked.get(rule as usize).map(|of| of.action == Action::Allow),
        }
    }

    pub(super) fn new(m: &mut Manager, rules: &Rules, bits: &[Bit]) -> Result<Self, TableError> {
        if bits.len() > BITS_MAX || bits.iter().collect::<BTreeSet<_>>().len() != bits.len() {
            return Err(TableError::Broken("too many bits, or one twice"));
        }
        let enforced = || rules.rules.iter().filter(|rule| !rules.blocks[rule.block].staged);
        let mut isolating = BTreeMap::new();
        for rule in enforced().filter(|rule| rule.action == Action::Isolate) {
            let next = u16::try_from(isolating.len() + 1);
            let next = next.map_err(|_| TableError::Broken("too many blocks isolate"))?;
            isolating.entry(rule.block).or_insert(next);
        }
        let tier = |block: usize| rules.blocks[block].tier;
        let tiers = isolating.iter().map(|(&block, &number)| (number, tier(block))).collect();
        let mut ranked: Vec<_> = enforced()
            .map(|rule| Ranked { rule: rule.id, tier: tier(rule.block), action: rule.action })
            .collect();
        ranked.sort_by_key(Ranked::strength);
        let ranks: HashMap<RuleId, u32> = ranked.iter().map(|of| of.rule).zip(1..).collect();
        if ranks.len() != ranked.len() {
            return Err(TableError::Broken("two rules have one number"));
        }
        let names = (0..).zip(bits).filter_map(|(place, bit)| match bit {
            Bit::Named(port) => Some((place, *port)),
            Bit::Same(_) => None,
        });
        let names = names.collect();
        let mut known = Known::default();
        let mut all = Self {
            terms: Vec::new(),
            cuts: Vec::new(),
            ends: Vec::new(),
            services: Vec::new(),
            ranked,
            n_bits: bits.len() as u32,
            names,
            isolating,
            tiers,
        };
        for rule in enforced() {
            let (mut same, mut cuts) = (Vec::new(), Vec::new());
            for exempt in &rule.unless {
                match exempt {
                    Exempt::Same(labels) => same.push(mask(bits, labels)?),
                    Exempt::Flow(flow) => {
                        let (from, to, on) = all.sides(m, &mut known, flow)?;
                        cuts.push(all.cuts.len() as u32);
                        all.cuts.push(Cut { from, to, on });
                    }
                }
            }
            let when = mask(bits, &rule.when)?;
            let is_plain = rule.when.is_empty() && rule.unless.is_empty();
            for (nth, flow) in (0..).zip(&rule.flows) {
                let (from, to, on) = all.sides(m, &mut known, flow)?;
                let whole = match () {
                    () if !is_plain || flow.on != Services::any() => None,
                    () if flow.from == Ends::any() => Some(Side::Destination),
                    () if flow.to == Ends::any() => Some(Side::Source),
                    () => None,
                };
                all.terms.push(Term {
                    of: (rule.id, nth),
                    block: rule.block,
                    tier: tier(rule.block),
                    action: rule.action,
                    rank: ranks[&rule.id],
                    from,
                    to,
                    on,
                    when,
                    same: same.clone(),
                    cuts: cuts.clone(),
                    whole,
                });
            }
        }
        Ok(all)
    }

    /// What is known of names, from what all bits say.
    pub(super) fn names(&self, bits: u32) -> usize {
        let set = self.names.iter().enumerate().map(|(nth, (place, _))| (bits >> place & 1) << nth);
        set.sum::<u32>() as usize
    }

    pub(super) fn isolates(&self, block: usize) -> bool {
        self.isolating.contains_key(&block)
    }

    /// The number of a block that isolates.
    pub(super) fn number(&self, block: usize) -> Option<u16> {
        self.isolating.get(&block).copied()
    }

    /// The tier of the isolating block with this number.
    pub(super) fn tier(&self, number: u16) -> Tier {
        self.tiers[&number]
    }

    /// The predicates on one side that a term and what is cut out of it ask.
    pub(super) fn asked(&self, term: u32, side: Side) -> impl Iterator<Item = u32> {
        let term = &self.terms[term as usize];
        let cuts = term.cuts.iter().map(|&cut| &self.cuts[cut as usize]);
        let cuts = cuts.map(|cut| (cut.from, cut.to));
        [(term.from, term.to)].into_iter().chain(cuts).map(move |(from, to)| match side {
            Side::Source => from,
            Side::Destination => to,
        })
    }

    /// For each predicate on one side the blocks that isolate its ends, with the ranks of the rules.
    ///
    /// # Errors
    /// [`TableError::Grouping`] if an `isolate` is not about all that its ends do.
    pub(super) fn isolated(
        &self,
        side: Side,
    ) -> Result<BTreeMap<u32, Vec<(u16, u32)>>, TableError> {
        let mut found: BTreeMap<u32, Vec<(u16, u32)>> = BTreeMap::new();
        for term in self.terms.iter().filter(|term| term.action == Action::Isolate) {
            let (rule, flow) = term.of;
            if term.whole.ok_or(TableError::Grouping { rule, flow })? == side {
                let of = if side == Side::Source { term.from } else { term.to };
                found.entry(of).or_default().push((self.isolating[&term.block], term.rank));
            }
        }
        Ok(found)
    }

    fn sides<'a>(
        &mut self,
        m: &mut Manager,
        known: &mut Known<'a>,
        flow: &'a Flow,
    ) -> Result<(u32, u32, Vec<u32>), TableError> {
        if flow.requests.is_some() {
            return Err(TableError::Asked(Field::Request));
        }
        let from = known.end(m, &mut self.ends, &flow.from)?;
        let to = known.end(m, &mut self.ends, &flow.to)?;
        if let Some(on) = known.on.get(&flow.on) {
            return Ok((from, to, on.clone()));
        }
        let mut on = Vec::new();
        for given in 0..1_u32 << self.names.len() {
            let named = |ports: &Ports| self.named(ports, given);
            let of_each = flow.on.0.iter().map(|(a, b, ports)| Ok((*a, *b, named(ports)?)));
            let set = Services(of_each.collect::<Result<_, TableError>>()?);
            // The end does not matter where no port has a name.
            let at = services(m, &set, End::Peer)?;
            on.push(number(&mut known.services, &mut self.services, at));
        }
        known.on.insert(&flow.on, on.clone());
        Ok((from, to, on))
    }

    /// The ports where it is given which names they have.
    fn named(&self, ports: &Ports, given: u32) -> Result<Ports, TableError> {
        let Ports::Named { name, yes, no } = ports else { return Ok(ports.clone()) };
        let nth = self.names.iter().position(|(_, port)| port == name);
        let nth = nth.ok_or(TableError::Asked(Field::PeerPort(*name)))?;
        self.named(if given >> nth & 1 == 1 { yes } else { no }, given)
    }
}

impl Ranked {
    fn strength(&self) -> (Reverse<Tier>, u8, Reverse<RuleId>) {
        let verdict = match self.action {
            Action::Allow => 0,
            Action::Isolate => 1,
            Action::Deny => 2,
        };
        // Tiers are ordered from the strongest on.
        (Reverse(self.tier), verdict, Reverse(self.rule))
    }
}

fn mask(bits: &[Bit], labels: &[LabelId]) -> Result<u32, TableError> {
    labels.iter().try_fold(0, |mask, &label| {
        let place = bits.iter().position(|bit| *bit == Bit::Same(label));
        Ok(mask | 1 << place.ok_or(TableError::Asked(Field::Same(label)))?)
    })
}

/// Predicates by what they are.
#[derive(Default)]
struct Known<'a> {
    diagrams: BTreeMap<&'a Ends, u32>,
    ends: HashMap<Ref, u32>,
    on: BTreeMap<&'a Services, Vec<u32>>,
    services: HashMap<Ref, u32>,
}

impl<'a> Known<'a> {
    fn end(
        &mut self,
        m: &mut Manager,
        all: &mut Vec<Ref>,
        set: &'a Ends,
    ) -> Result<u32, TableError> {
        if let Some(&known) = self.diagrams.get(set) {
            return Ok(known);
        }
        let at = ends(m, set, End::Peer)?;
        let number = number(&mut self.ends, all, at);
        self.diagrams.insert(set, number);
        Ok(number)
    }
}

fn number(known: &mut HashMap<Ref, u32>, all: &mut Vec<Ref>, at: Ref) -> u32 {
    *known.entry(at).or_insert_with(|| {
        all.push(at);
        all.len() as u32 - 1
    })
}
