//! What a pair of ends says: the entry of every column. What the rules want and what a list holds have the same form, and equal
//! ones one number.

use super::TableError;
use super::bytes::Bytes;
use super::rules::{Term, Terms};
use super::walk::variants;
use crate::diagram::Manager;
use crate::rules::Action;
use crate::tables::Entry;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// The number of what says nothing.
pub(super) const NOTHING: u32 = 0;

/// For each value of the bits the entries and the classes of services that have them; none for those that say nothing.
type Columns = BTreeMap<(u32, Entry), Set>;

/// All that is said anywhere.
pub(super) struct Said<'a> {
    terms: &'a Terms,
    /// Whether every `isolate` stands apart, so that entries tell which blocks allow.
    apart: bool,
    /// The classes of services there are.
    all: Set,
    /// By set of services.
    sets: Vec<Set>,
    values: Vec<Columns>,
    numbers: HashMap<Columns, u32>,
    /// By terms, each followed by the cuts that hold.
    wanted: HashMap<Vec<u32>, u32>,
    /// By base of a list.
    at: HashMap<u32, u32>,
    /// By base of a list: how far behind it its slots are, and where.
    slots: BTreeMap<u32, Vec<(u32, u64)>>,
}

impl<'a> Said<'a> {
    /// Every set of services has to be a union of the classes that packets have.
    pub(super) fn new(
        m: &Manager,
        terms: &'a Terms,
        bytes: &Bytes<'_>,
        apart: bool,
    ) -> Result<Self, TableError> {
        let predicates = (0..).zip(terms.services.iter().copied()).collect();
        let classes = variants(m, &bytes.services()?, predicates)?;
        let n = classes.last().map_or(0, |(class, _)| *class as usize + 1);
        let (mut all, mut sets) = (Set::none(n), vec![Set::none(n); terms.services.len()]);
        for (class, held) in &classes {
            if !all.insert(*class) {
                return Err(TableError::Services { class: *class });
            }
            held.iter().for_each(|&of| _ = sets[of as usize].insert(*class));
        }
        let mut said = Self {
            terms,
            apart,
            all,
            sets,
            values: Vec::new(),
            numbers: HashMap::new(),
            wanted: HashMap::new(),
            at: HashMap::new(),
            slots: bytes.slots()?,
        };
        assert!(said.number(Columns::new()) == NOTHING, "the first has number 0");
        Ok(said)
    }

    fn number(&mut self, columns: Columns) -> u32 {
        let next = self.values.len() as u32;
        *self.numbers.entry(columns).or_insert_with_key(|columns| {
            self.values.push(columns.clone());
            next
        })
    }

    /// What the list at a base says.
    pub(super) fn at(&mut self, bytes: &Bytes<'_>, base: u32) -> Result<u32, TableError> {
        if let Some(&known) = self.at.get(&base) {
            return Ok(known);
        }
        let n_bits = self.terms.n_bits;
        let classes = self.all.iter().last().map_or(0, |last| last + 1);
        if u64::from(base) + (u64::from(classes) << n_bits) > bytes.last_slot().into() {
            return Err(TableError::Broken("a list is not among the slots"));
        }
        let mut by_default: Vec<Set> = vec![self.all.clone(); 1 << n_bits];
        let (mut columns, mut default) = (Columns::new(), Entry::default());
        for &(behind, index) in self.slots.get(&base).into_iter().flatten() {
            let entry = self.read(bytes, index)?;
            let Some(column) = behind.checked_sub(1) else {
                default = entry;
                continue;
            };
            let (class, bits) = (column >> n_bits, column & ((1 << n_bits) - 1));
            if class >= classes || !by_default[bits as usize].contains(class) {
                continue;
            }
            by_default[bits as usize].take(class);
            if entry != Entry::default() {
                let set = columns.entry((bits, entry)).or_insert_with(|| Set::like(&self.all));
                set.insert(class);
            }
        }
        if default != Entry::default() {
            if !bytes.defaults() {
                return Err(TableError::Broken("a default that nobody looks at"));
            }
            for (bits, set) in (0..).zip(by_default).filter(|(_, set)| !set.is_empty()) {
                let key = (bits, default.clone());
                columns.entry(key).or_insert_with(|| Set::like(&self.all)).add(&set);
            }
        }
        let number = self.number(columns);
        self.at.insert(base, number);
        Ok(number)
    }

    /// What a slot says, whose verdict is that of its rank.
    fn read(&self, bytes: &Bytes<'_>, index: u64) -> Result<Entry, TableError> {
        let (allows, entry) = bytes.said(index)?;
        let rank = entry.rank;
        let of_rule = self.terms.allows(rank).ok_or(TableError::Leaf { rank })?;
        if allows == of_rule { Ok(entry) } else { Err(TableError::Leaf { rank }) }
    }

    /// What terms say together, of ends of which these predicates hold.
    pub(super) fn wanted(
        &mut self,
        matched: impl Iterator<Item = u32>,
        source: &[u32],
        destination: &[u32],
    ) -> Result<u32, TableError> {
        let terms = self.terms;
        let n_terms = terms.terms.len() as u32;
        let mut key = Vec::new();
        for term in matched {
            key.push(term);
            let holds = |&cut: &u32| {
                let cut = &terms.cuts[cut as usize];
                let holds = |held: &[u32], of| held.binary_search(&of).is_ok();
                holds(source, cut.from) && holds(destination, cut.to)
            };
            let cuts = terms.terms[term as usize].cuts.iter().copied().filter(holds);
            key.extend(cuts.map(|cut| n_terms + cut));
        }
        if let Some(&known) = self.wanted.get(&key) {
            return Ok(known);
        }
        let mut columns = Columns::new();
        for bits in 0..1 << terms.n_bits {
            for (entry, set) in self.decided(&key, bits) {
                columns.entry((bits, entry)).or_insert_with(|| Set::like(&set)).add(&set);
            }
        }
        let number = self.number(columns);
        self.wanted.insert(key, number);
        Ok(number)
    }

    /// What each class of services is decided as where the bits are these.
    fn decided(&self, key: &[u32], bits: u32) -> Vec<(Entry, Set)> {
        let Terms { terms, cuts, .. } = self.terms;
        let names = self.terms.names(bits);
        let mut counting: Vec<(&Term, Set)> = Vec::new();
        for &part in key {
            match (part as usize).checked_sub(terms.len()) {
                None => {
                    let term = &terms[part as usize];
                    counting.push((term, self.sets[term.on[names] as usize].clone()));
                }
                Some(cut) => {
                    let cut = &self.sets[cuts[cut].on[names] as usize];
                    counting.last_mut().expect("cuts follow a term").1.remove(cut);
                }
            }
        }
        counting.retain(|(term, set)| {
            let cut = term.same.iter().any(|same| bits & same == *same);
            bits & term.when == term.when && !cut && !set.is_empty()
        });
        // What each block that isolates allows, by its number.
        let mut allowed: BTreeMap<u16, Set> = BTreeMap::new();
        for (term, set) in counting.iter().filter(|(term, _)| term.action == Action::Allow) {
            if let Some(number) = self.terms.number(term.block) {
                allowed.entry(number).or_insert_with(|| Set::like(set)).add(set);
            }
        }
        counting.sort_by_key(|(term, _)| Reverse(term.rank));
        let mut left = self.all.clone();
        let mut decided = Vec::new();
        for (term, mut set) in counting {
            let own = self.terms.number(term.block).and_then(|number| allowed.get(&number));
            if let Some(allows) = own.filter(|_| term.action == Action::Isolate) {
                set.remove(allows);
            }
            set.keep(&left);
            left.remove(&set);
            if !self.apart || term.action != Action::Allow {
                decided.push((Entry { rank: term.rank, consents: Vec::new() }, set));
                continue;
            }
            // Which blocks of the tier allow: any of them, in any combination.
            let of_tier =
                allowed.iter().filter(|(number, _)| self.terms.tier(**number) == term.tier);
            let mut parts = vec![(Vec::new(), set)];
            for (number, allows) in of_tier {
                for (mut consents, mut part) in std::mem::take(&mut parts) {
                    let mut without = part.clone();
                    without.remove(allows);
                    part.keep(allows);
                    parts.push((consents.clone(), without));
                    consents.push(*number);
                    parts.push((consents, part));
                }
                parts.retain(|(_, part)| !part.is_empty());
            }
            let entry = |(consents, part)| (Entry { rank: term.rank, consents }, part);
            decided.extend(parts.into_iter().map(entry));
        }
        decided.retain(|(_, set)| !set.is_empty());
        decided
    }

    /// The first column where two differ, and what each says there.
    pub(super) fn difference(&self, a: u32, b: u32) -> ((u32, u32), [Entry; 2]) {
        let entry = |of: u32, bits: u32, class: u32| {
            let of_bits = self.values[of as usize].iter();
            let mut found = of_bits.filter(|((b, _), set)| *b == bits && set.contains(class));
            found.next().map_or(Entry::default(), |((_, entry), _)| entry.clone())
        };
        for bits in 0..1 << self.terms.n_bits {
            for class in self.all.iter() {
                let both = [a, b].map(|of| entry(of, bits, class));
                if both[0] != both[1] {
                    return ((bits, class), both);
                }
            }
        }
        unreachable!("they have other numbers")
    }
}

/// Classes of services, one bit each. All sets have as many words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Set(Vec<u64>);

impl Set {
    fn none(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    fn like(other: &Self) -> Self {
        Self(vec![0; other.0.len()])
    }

    /// Whether it is new.
    fn insert(&mut self, class: u32) -> bool {
        let is_new = !self.contains(class);
        self.0[class as usize / 64] |= 1 << (class % 64);
        is_new
    }

    fn take(&mut self, class: u32) {
        self.0[class as usize / 64] &= !(1 << (class % 64));
    }

    fn contains(&self, class: u32) -> bool {
        self.0[class as usize / 64] >> (class % 64) & 1 == 1
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.0.len() as u32 * 64).filter(|&class| self.contains(class))
    }
}
