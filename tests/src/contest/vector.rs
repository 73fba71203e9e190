//! Linear Bit Vector, an emulation: each field finds a vector with a bit for every rule it satisfies, and the vectors are ANDed
//! word by word until one is not zero. The algorithm of bpf-iptables (Miano et al., CCR 2019).
//!
//! It is spared what the original pays: addresses find their vector by [`Table`] instead of an LPM map, ports and protocols by
//! arrays, and as rules that deny fill whole words at the front, no word is searched for its first bit.

use super::linear::identity_ranges;
use super::table::{SCRATCH, Table};
use super::{Contender, entry};
use crate::assembler::{Assembler, MapIndex, r};
use crate::bpf::Map;
use crate::workload::{WITH_PORTS, classbench, labels};
use seg_compiler::bpf::{Alu, Cond, Reg, Size};
use std::collections::BTreeMap;
use std::io;

/// Most memory of its vectors, before equal ones are one. Unit: bytes.
const BYTES_MAX: usize = 512 << 20;

/// One bit for each rule.
type Bits = Vec<u64>;

/// Where rules are in a vector: those that deny in words of their own.
struct Places {
    n_denies: usize,
    deny_words: usize,
    words: usize,
}

impl Places {
    fn new(n_denies: usize, n_rules: usize) -> Self {
        let deny_words = n_denies.div_ceil(64);
        Self { n_denies, deny_words, words: deny_words + (n_rules - n_denies).div_ceil(64) }
    }

    fn of(&self, rule: usize) -> usize {
        if rule < self.n_denies { rule } else { self.deny_words * 64 + rule - self.n_denies }
    }

    fn vector(&self, rules: impl IntoIterator<Item = usize>) -> Bits {
        let mut bits = vec![0; self.words];
        rules.into_iter().for_each(|rule| toggle(&mut bits, self.of(rule)));
        bits
    }
}

fn toggle(bits: &mut Bits, place: usize) {
    bits[place / 64] ^= 1 << (place % 64);
}

/// Vectors of a field that differ, and which one each range of values has.
#[derive(Default)]
struct Field {
    numbers: BTreeMap<Bits, u32>,
    /// First value of each range, and the number of its vector.
    ranges: Vec<(u32, u32)>,
}

impl Field {
    fn number(&mut self, bits: &Bits) -> u32 {
        if let Some(number) = self.numbers.get(bits) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(bits.clone(), number);
        number
    }

    /// From the ranges of values of each rule, both ends included.
    ///
    /// # Errors
    /// If there may be too many vectors.
    fn of_ranges(
        places: &Places,
        ranges: impl Iterator<Item = (usize, u32, u32)>,
    ) -> Result<Self, String> {
        let mut changes: BTreeMap<u32, Vec<usize>> = BTreeMap::from([(0, Vec::new())]);
        for (rule, lo, hi) in ranges {
            changes.entry(lo).or_default().push(places.of(rule));
            if let Some(behind) = hi.checked_add(1) {
                changes.entry(behind).or_default().push(places.of(rule));
            }
        }
        fits(changes.len() * places.words * 8)?;
        let mut field = Self::default();
        let mut bits = vec![0; places.words];
        for (value, changed) in changes {
            changed.into_iter().for_each(|place| toggle(&mut bits, place));
            let number = field.number(&bits);
            field.ranges.push((value, number));
        }
        Ok(field)
    }

    fn vectors(&self) -> Vec<u8> {
        let mut all: Vec<(&Bits, u32)> = self.numbers.iter().map(|(b, n)| (b, *n)).collect();
        all.sort_unstable_by_key(|(_, number)| *number);
        all.into_iter().flat_map(|(bits, _)| bits).flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Numbers of all values below a bound, as `u16`.
    fn array(&self, n_values: u32) -> Vec<u8> {
        let mut ranges = self.ranges.iter().peekable();
        let mut number = 0;
        let numbers = (0..n_values).flat_map(|value| {
            while let Some(range) = ranges.next_if(|range| range.0 <= value) {
                number = range.1;
            }
            (number as u16).to_ne_bytes()
        });
        numbers.collect()
    }
}

fn fits(bytes: usize) -> Result<(), String> {
    if bytes > BYTES_MAX {
        Err(format!("its vectors would take {} MB", bytes >> 20))
    } else {
        Ok(())
    }
}

/// How a field is read.
#[derive(Clone, Copy)]
enum Kind {
    Address(i16),
    Port(i16),
    Protocol,
}

/// Rules of a ClassBench set.
///
/// # Errors
/// If the vectors are too large, or what the kernel says.
pub fn of_classbench(set: &classbench::Set) -> Result<Contender, String> {
    let n_denies = set.rules.iter().filter(|rule| rule.denies).count();
    let places = Places::new(n_denies, set.rules.len());
    let rules = || set.rules.iter().enumerate();
    let address = |prefix: classbench::Prefix| {
        let range = prefix.range();
        (*range.start(), *range.end())
    };
    let ports = |(lo, hi): (u16, u16)| (u32::from(lo), u32::from(hi));
    let of = |range: &dyn Fn(&classbench::Rule) -> (u32, u32)| {
        let ranges = rules().map(|(n, rule)| {
            let (lo, hi) = range(rule);
            (n, lo, hi)
        });
        Field::of_ranges(&places, ranges)
    };
    let protocols = rules().flat_map(|(n, rule)| match rule.protocol {
        Some(protocol) => vec![(n, protocol.into(), protocol.into())],
        None if rule.asks_ports() => WITH_PORTS.map(|p| (n, p.into(), p.into())).to_vec(),
        None => vec![(n, 0, 255)],
    });
    let fields = [
        (Kind::Address(entry::SOURCE), of(&|rule| address(rule.source))?),
        (Kind::Address(entry::DESTINATION), of(&|rule| address(rule.destination))?),
        (Kind::Port(entry::SOURCE_PORT), of(&|rule| ports(rule.source_ports))?),
        (Kind::Port(entry::PORT), of(&|rule| ports(rule.ports))?),
        (Kind::Protocol, Field::of_ranges(&places, protocols)?),
    ];
    contender(&places, &fields)
}

/// Rules of a label policy, each service a rule of its own.
///
/// # Errors
/// If the vectors are too large, or what the kernel says.
pub fn of_labels(set: &labels::Set) -> Result<Contender, String> {
    let each = |rule| -> Vec<(usize, (u8, u16))> {
        let rule: &(usize, &labels::Rule) = rule;
        rule.1.services.iter().map(|service| (rule.0, *service)).collect()
    };
    let numbered: Vec<(usize, &labels::Rule)> = set.rules.iter().enumerate().collect();
    let single: Vec<(usize, (u8, u16))> = numbered.iter().flat_map(each).collect();
    let n_denies = single.iter().filter(|(rule, _)| set.rules[*rule].denies).count();
    let places = Places::new(n_denies, single.len());
    // Identities of one application, tier and environment share a vector, which is thus computed once.
    let ends = |selector: &dyn Fn(&labels::Rule) -> labels::Selector| {
        let mut field = Field::default();
        let nobody = field.number(&places.vector([]));
        let mut known: BTreeMap<(u16, u8, u8), u32> = BTreeMap::new();
        let mut numbers = vec![nobody];
        for identity in &set.identities {
            let key = (identity.app, identity.tier, identity.env);
            let number = match known.get(&key) {
                Some(number) => *number,
                None => {
                    let holds = |rule: usize| selector(&set.rules[rule]).holds(*identity);
                    let rules = single.iter().enumerate().filter(|(_, (rule, _))| holds(*rule));
                    let bits = places.vector(rules.map(|(n, _)| n));
                    *known.entry(key).or_insert(field.number(&bits))
                }
            };
            numbers.push(number);
        }
        let ranges = identity_ranges(set);
        field.ranges =
            ranges.into_iter().map(|(first, at)| (first, numbers[at as usize])).collect();
        field
    };
    let of = |value: &dyn Fn((u8, u16)) -> u32| {
        let ranges = single.iter().enumerate().map(|(n, (_, service))| {
            let value = value(*service);
            (n, value, value)
        });
        Field::of_ranges(&places, ranges)
    };
    fits(set.identities.len() * places.words * 8)?;
    let fields = [
        (Kind::Address(entry::SOURCE), ends(&|rule| rule.source)),
        (Kind::Address(entry::DESTINATION), ends(&|rule| rule.destination)),
        (Kind::Port(entry::PORT), of(&|service| service.1.into())?),
        (Kind::Protocol, of(&|service| service.0.into())?),
    ];
    contender(&places, &fields)
}

/// Registers for the vectors of up to five fields.
const VECTORS: [Reg; 5] = [r(3), r(4), r(5), r(7), r(8)];

fn contender(places: &Places, fields: &[(Kind, Field)]) -> Result<Contender, String> {
    let bytes: usize = fields.iter().map(|(_, field)| field.numbers.len() * places.words * 8).sum();
    fits(bytes)?;
    let told = |e: io::Error| e.to_string();
    let mut a = Assembler::default();
    let mut maps = Vec::new();
    let [denied, allowed, end] = [(); 3].map(|()| a.label());
    for ((kind, field), vector) in fields.iter().zip(VECTORS) {
        let (index, vectors) = (MapIndex(maps.len()), MapIndex(maps.len() + 1));
        match *kind {
            Kind::Address(offset) => {
                let table = Table::new(&field.ranges);
                a.load(Size::B4, vector, r(6), offset);
                table.emit(&mut a, index, vector, SCRATCH.0, SCRATCH.1);
                maps.push(Map::of_bytes(&table.bytes()).map_err(told)?);
            }
            Kind::Port(offset) => {
                a.load(Size::B2, r(1), r(6), offset);
                indexed(&mut a, index, vector);
                maps.push(Map::of_bytes(&field.array(1 << 16)).map_err(told)?);
            }
            Kind::Protocol => {
                a.load(Size::B1, r(1), r(6), entry::PROTOCOL);
                indexed(&mut a, index, vector);
                maps.push(Map::of_bytes(&field.array(1 << 8)).map_err(told)?);
            }
        }
        // The verifier has to see that the vector is there.
        a.branch32(Cond::Ge, vector, field.numbers.len() as u32, denied);
        a.alu(Alu::Mul, vector, places.words as u32 * 8);
        a.value(r(1), vectors, 0);
        a.alu(Alu::Add, vector, r(1));
        maps.push(Map::of_bytes(&field.vectors()).map_err(told)?);
    }
    for word in 0..places.words {
        let offset = i16::try_from(word * 8).map_err(|_| "too many rules".to_owned())?;
        a.load(Size::B8, r(0), VECTORS[0], offset);
        for (_, vector) in fields.iter().zip(VECTORS).skip(1) {
            a.load(Size::B8, r(1), vector, offset);
            a.alu(Alu::And, r(0), r(1));
        }
        let found = if word < places.deny_words { denied } else { allowed };
        a.branch(Cond::Ne, r(0), 0_u32, found);
    }
    a.bind(denied);
    a.mov(r(0), 0_u32);
    a.jump(end);
    a.bind(allowed);
    a.mov(r(0), 1_u32);
    a.bind(end);
    Ok(Contender::new("Linear Bit Vector (emulation)", a, maps))
}

/// `dst` = the `u16` that `r1` is the index of.
fn indexed(a: &mut Assembler, map: MapIndex, dst: Reg) {
    a.alu(Alu::Lsh, r(1), 1_u32);
    a.value(dst, map, 0);
    a.alu(Alu::Add, dst, r(1));
    a.load(Size::B2, dst, dst, 0);
}
