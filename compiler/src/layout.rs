//! Tables as bytes, and where programs find what in them. Deterministic: equal tables give equal bytes.
//!
//! All numbers are little-endian. Every index a program computes is cut to a power of two before it is used, so each table is
//! padded to one; what lies between holds nothing.
//!
//! - *port tables*: `kinds[protocol]: u8`, then `roots[kind << 8 | port >> 8]: u16` and `blocks[block << 8 | port & 255]: u16`,
//!   equal blocks stored once. With source ports a second pair of tables, and `joint[port class * width + source class]: u16`.
//! - *matrix* of a group: `[source class * width + destination class]`: a position.
//! - *rows* of a group, once by source and once by destination: `u64` for each class of the local end: first bucket (32 bits),
//!   mask (16), multiplier (16); in the bucket `first + (class * multiplier >> 8 & mask)` four peer classes as `u16`, then the
//!   four positions. No class is 0xffff.
//! - *positions* lead into `lists`: `base << 12 | default place`, then the entries from place 0 on, which says nothing. An entry
//!   is its rank and, if blocks isolate, as many words of two consents each as any needs; a position counts words, or
//!   [`LIST_ALIGN`] of them where it has 16 bits.
//! - *slots*: `base << 12 | place` at `base + column`, where a base belongs to one function and an empty slot to none.
//! - *leaves*: `counter << 1 | allow` for each rank.
//! - *nets6*: `u64` upper and lower halves of where each range of IPv6 addresses begins, and its ident as `u16`; there are at
//!   least two, and behind the last nothing begins.
//! - *isolated*: `block << 32 | rank` for each class of isolation, as many as any has; block 0 is none.

use crate::classes::{Classes, Target};
use crate::diagram::Field;
use crate::limits::LimitError;
use crate::ranges::Ranges;
use crate::rules::{IPV4_FIRST, IPV4_LAST};
use crate::tables::{self, Entry, Function, Group, List, Tables};
use seg_lang::policy::RuleId;
use std::collections::{BTreeMap, HashMap};

/// Words that lists are aligned to where positions have 16 bits.
pub const LIST_ALIGN: u32 = 4;
/// Bits of a place in a header or slot; the others are the base.
pub const PLACE_BITS: u32 = 12;
/// What a slot of nobody holds.
pub const EMPTY: u32 = u32::MAX;
/// Peer classes in a bucket.
pub const BUCKET: usize = 4;
/// Isolating blocks that may allow one flow in one group.
const CONSENTS_MAX: usize = 8;
/// Matrices up to this size are used in place of rows. Unit: bytes.
const MATRIX_BYTES: usize = 1 << 17;

/// Where tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// All tables.
    pub bytes: Vec<u8>,
    /// Bits below the service class in a column.
    pub n_bits: u32,
    /// Classes of services.
    pub services: Services,
    /// By group.
    pub groups: Vec<Pairs>,
    /// Who isolates, if that stands apart.
    pub isolation: Option<Isolation>,
    /// Unit of a position.
    pub position: Position,
    /// Words of consents in an entry.
    pub consent_words: u32,
    /// The nets of IPv6, if any are told apart.
    pub nets6: Option<Nets6>,
    /// `u32`.
    pub lists: Table,
    /// `u32`.
    pub slots: Table,
    /// `u32`.
    pub leaves: Table,
}

/// A table of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it begins. Unit: bytes.
    pub at: u32,
    /// Largest index; one less than a power of two.
    pub mask: u32,
}

/// How positions are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// `u16`, in units of [`LIST_ALIGN`] words.
    Short,
    /// `u32`, in words.
    Long,
}

/// Tables of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// `u8` by protocol.
    pub kinds: Table,
    /// By destination port.
    pub ports: Ports,
    /// By source port, if any rule asks.
    pub joint: Option<Joint>,
}

/// Classes of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `u16` by kind and upper byte.
    pub roots: Table,
    /// `u16` by block and lower byte.
    pub blocks: Table,
}

/// Classes of both ports together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// By source port.
    pub sources: Ports,
    /// Of a row.
    pub width: u32,
    /// `u16`.
    pub classes: Table,
}

/// What pairs of classes lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// All of them.
    Matrix {
        /// Destination classes in a row.
        width: u32,
        /// Largest source class kept; one less than a power of two.
        sources: u32,
        /// Largest destination class kept; one less than a power of two.
        destinations: u32,
        /// Where it begins. Unit: bytes.
        at: u32,
    },
    /// Only those that lead somewhere.
    Rows {
        /// By source class, for programs of sources.
        by_source: Rows,
        /// By destination class, for programs of destinations.
        by_destination: Rows,
    },
}

/// Ranges of IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nets6 {
    /// Upper half of the first address. `u64`.
    pub upper: Table,
    /// Lower half. `u64`.
    pub lower: Table,
    /// `u16`.
    pub idents: Table,
}

/// Who isolates the ends of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// Entries for a class.
    pub n: u32,
    /// `u64`, for sources.
    pub source: Table,
    /// `u64`, for destinations.
    pub destination: Table,
}

/// Rows of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// `u64` by class of the local end.
    pub rows: Table,
    /// Of buckets.
    pub buckets: Table,
}

impl Position {
    /// Unit: bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Short => 2,
            Self::Long => 4,
        }
    }

    /// Of a bucket: the distance to the next. Unit: bytes; a power of two.
    pub fn bucket_bytes(self) -> u32 {
        match self {
            Self::Short => 16,
            Self::Long => 32,
        }
    }
}

/// Lays out tables; `nets` are the ranges of addresses of each ident from 1 on.
///
/// # Errors
/// [`LimitError::Cells`] if a function has more places or exceptions than a slot can name.
pub fn layout(tables: &Tables, nets: &[Ranges]) -> Result<Layout, LimitError> {
    let mut bytes = Bytes(Vec::new());
    let slots = slots(tables)?;
    let entries = || tables.lists.iter().flat_map(|list| &list.entries);
    let consents = entries().map(|entry| entry.consents.len()).max().unwrap_or(0);
    if consents > CONSENTS_MAX {
        let most = entries().filter(|entry| entry.consents.len() == consents);
        let rule = |entry: &Entry| tables.leaves[entry.rank as usize].rule().map(RuleId);
        return Err(LimitError::Cells { rules: most.filter_map(rule).take(1).collect() });
    }
    let consent_words = offset(consents.div_ceil(2));
    let words = |list: &List| 1 + (list.entries.len() + 1) * (1 + consent_words as usize);
    let short: usize = tables.lists.iter().map(|list| words(list).next_multiple_of(4)).sum();
    let position = if short <= 4 << 16 { Position::Short } else { Position::Long };
    let (lists, positions) = lists(tables, &slots.bases, position, consent_words);
    let services = services(&mut bytes, &tables.services);
    let groups = tables.groups.iter().map(|of| pairs(&mut bytes, of, position, &positions));
    let groups = groups.collect();
    let lists = bytes.table(&lists, 0);
    let slots = bytes.table(&slots.slots, EMPTY);
    let leaf = |leaf: &crate::tree::Leaf| leaf.counter << 1 | u32::from(leaf.allow);
    let leaves: Vec<u32> = tables.leaves.iter().map(leaf).collect();
    let leaves = bytes.table(&leaves, leaves[0]);
    let isolation = tables.isolation.as_ref().map(|of| isolation(&mut bytes, of));
    let nets6 = nets6(&mut bytes, nets);
    Ok(Layout {
        bytes: bytes.0,
        nets6,
        n_bits: tables.bits.len() as u32,
        services,
        groups,
        isolation,
        position,
        consent_words,
        lists,
        slots,
        leaves,
    })
}

/// The nets of IPv6, where addresses mapped from IPv4 belong to whatever is before them.
fn nets6(bytes: &mut Bytes, nets: &[Ranges]) -> Option<Nets6> {
    let mapped = Ranges::new(IPV4_FIRST, IPV4_LAST).complement(u128::MAX);
    let mut starts: BTreeMap<u128, u16> = BTreeMap::from([(0, 0)]);
    for (ident, net) in (1..).zip(nets) {
        for (first, last) in net.intersect(&mapped).iter() {
            starts.insert(first, ident);
            // Unless another net begins there.
            let behind = last
                .checked_add(1)
                .map(|next| if next == IPV4_FIRST { IPV4_LAST + 1 } else { next });
            behind.map(|next| *starts.entry(next).or_insert(0));
        }
    }
    if starts.len() == 1 && starts[&0] == 0 {
        return None;
    }
    let last = (u128::MAX, *starts.values().next_back().expect("there is a first range"));
    let n = starts.len().next_power_of_two().max(2);
    let ranges: Vec<(u128, u16)> =
        starts.into_iter().chain(std::iter::repeat(last)).take(n).collect();
    let half = |shift: u32| ranges.iter().map(|(a, _)| (a >> shift) as u64).collect::<Vec<_>>();
    Some(Nets6 {
        upper: bytes.table(&half(64), 0),
        lower: bytes.table(&half(0), 0),
        idents: bytes.table(&ranges.iter().map(|(_, ident)| *ident).collect::<Vec<_>>(), 0),
    })
}

fn isolation(bytes: &mut Bytes, of: &tables::Isolation) -> Isolation {
    let sides = [&of.source.by_class, &of.destination.by_class];
    let n = sides.iter().flat_map(|of| of.iter().map(Vec::len)).max().unwrap_or(0);
    let [source, destination] = sides.map(|of| {
        let entry = |&(block, rank): &(u16, u32)| u64::from(block) << 32 | u64::from(rank);
        let padded = of
            .iter()
            .flat_map(|of| of.iter().map(entry).chain(std::iter::repeat_n(0, n - of.len())));
        bytes.table(&padded.collect::<Vec<_>>(), 0)
    });
    Isolation { n: offset(n), source, destination }
}

struct Bytes(Vec<u8>);

impl Bytes {
    /// Stores a table, padded.
    fn table<N: Number>(&mut self, numbers: &[N], empty: N) -> Table {
        self.align();
        let at = offset(self.0.len());
        let n = numbers.len().next_power_of_two();
        let padding = std::iter::repeat_n(empty, n - numbers.len());
        numbers.iter().copied().chain(padding).for_each(|number| number.store(&mut self.0));
        Table { at, mask: offset(n) - 1 }
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
    }
}

fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("tables are bounded")
}

trait Number: Copy {
    fn store(self, to: &mut Vec<u8>);
}

impl Number for u8 {
    fn store(self, to: &mut Vec<u8>) {
        to.push(self);
    }
}

impl Number for u16 {
    fn store(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
}

impl Number for u32 {
    fn store(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
}

impl Number for u64 {
    fn store(self, to: &mut Vec<u8>) {
        to.extend(self.to_le_bytes());
    }
}

struct Slots {
    slots: Vec<u32>,
    /// By function.
    bases: Vec<u32>,
}

/// Packs the exceptions of all functions into one table: each begins where its slots are free, searched for a while and then
/// put at the end.
fn slots(tables: &Tables) -> Result<Slots, LimitError> {
    const TRIES: u32 = 512;
    let n_columns = (tables.services.n() as u32) << tables.bits.len();
    let mut order: Vec<usize> = (0..tables.functions.len()).collect();
    order.sort_by_key(|&f| std::cmp::Reverse(tables.functions[f].exceptions.len()));
    let mut slots: Vec<u32> = Vec::new();
    let mut bases = vec![0; tables.functions.len()];
    let mut taken = std::collections::HashSet::new();
    let mut from = 0;
    for function in order {
        let Function { exceptions, .. } = &tables.functions[function];
        let fits = |base: u32, slots: &[u32]| {
            exceptions.iter().all(|&(column, _)| {
                slots.get((base + column) as usize).is_none_or(|&slot| slot == EMPTY)
            })
        };
        let end = offset(slots.len());
        // Beginning where the first exception meets the first slot that may be free.
        let first = exceptions.first().map_or(0, |&(column, _)| column);
        let start = from - from.min(first);
        let tried = (start..start + TRIES).chain(end..);
        let mut free = tried.filter(|base| !taken.contains(base));
        let base = free.find(|&base| fits(base, &slots)).expect("behind the end it fits");
        if base >= end {
            // What is free there is of no use; the search moves on.
            from = (from + TRIES / 8).min(end);
        }
        taken.insert(base);
        bases[function] = base;
        let too_many = exceptions.iter().any(|&(_, place)| place >> PLACE_BITS != 0);
        if too_many || base >= (1 << (32 - PLACE_BITS)) - 1 {
            return Err(LimitError::Cells { rules: Vec::new() });
        }
        for &(column, place) in exceptions {
            let at = (base + column) as usize;
            if at >= slots.len() {
                slots.resize(at + 1, EMPTY);
            }
            slots[at] = base << PLACE_BITS | place;
        }
    }
    // A function may be asked for any column.
    let most = bases.iter().max().map_or(0, |&base| base + n_columns);
    slots.resize(slots.len().max(most as usize), EMPTY);
    Ok(Slots { slots, bases })
}

/// The lists, and the position of each.
fn lists(
    tables: &Tables,
    bases: &[u32],
    unit: Position,
    consent_words: u32,
) -> (Vec<u32>, Vec<u32>) {
    let (mut words, mut positions) = (Vec::new(), Vec::new());
    let nothing = Entry::default();
    for List { function, entries } in &tables.lists {
        positions.push(match unit {
            Position::Short => offset(words.len()) / LIST_ALIGN,
            Position::Long => offset(words.len()),
        });
        let function = *function as usize;
        words.push(bases[function] << PLACE_BITS | tables.functions[function].default);
        for Entry { rank, consents } in std::iter::once(&nothing).chain(entries) {
            words.push(*rank);
            let consent = |n: u32| u32::from(consents.get(n as usize).copied().unwrap_or(0));
            words.extend((0..consent_words).map(|n| consent(2 * n) | consent(2 * n + 1) << 16));
        }
        if unit == Position::Short {
            words.resize(words.len().next_multiple_of(LIST_ALIGN as usize), 0);
        }
    }
    (words, positions)
}

/// The classes of packets: at most protocol, then port, then source port are asked.
fn services(bytes: &mut Bytes, of: &Classes) -> Services {
    let mut kinds: Vec<Target> = Vec::new();
    let by_protocol: Vec<u8> = each(of, of.root, Field::Protocol, 256)
        .into_iter()
        .map(|target| numbered(&mut kinds, target) as u8)
        .collect();
    // Below the port is a class, or a question about the source port.
    let ports: Vec<Vec<Target>> =
        kinds.iter().map(|&kind| each(of, kind, Field::Port, 1 << 16)).collect();
    let kinds_table = bytes.table(&by_protocol, 0);
    let asks = |target: &Target| matches!(target, Target::Node(_));
    if !ports.iter().flatten().any(asks) {
        let class = |target: &Target| match target {
            Target::Class(class) => *class as u16,
            Target::Node(_) => unreachable!("no source port is asked"),
        };
        let classes: Vec<Vec<u16>> =
            ports.iter().map(|of| of.iter().map(class).collect()).collect();
        return Services { kinds: kinds_table, ports: two_levels(bytes, &classes), joint: None };
    }
    let mut below: HashMap<Target, u16> = HashMap::new();
    let mut order: Vec<Target> = Vec::new();
    let mut number = |target: &Target| {
        *below.entry(*target).or_insert_with(|| {
            order.push(*target);
            offset(order.len() - 1) as u16
        })
    };
    let classes: Vec<Vec<u16>> =
        ports.iter().map(|of| of.iter().map(&mut number).collect()).collect();
    // Source ports that no question tells apart are one class.
    let mut bounds: Vec<u32> = Vec::new();
    for target in &order {
        if let Target::Node(node) = target {
            bounds.extend(of.nodes[*node as usize].edges.iter().map(|(last, _)| *last as u32));
        }
    }
    bounds.push(u32::from(u16::MAX));
    bounds.sort_unstable();
    bounds.dedup();
    let columns: Vec<Vec<u16>> = bounds
        .iter()
        .map(|&port| order.iter().map(|&at| class_of(of, at, Field::SourcePort, port)).collect())
        .collect();
    let mut distinct: BTreeMap<&Vec<u16>, u16> = BTreeMap::new();
    let mut chosen: Vec<&Vec<u16>> = Vec::new();
    let mut sources = vec![0_u16; 1 << 16];
    let mut first = 0;
    for (&last, column) in bounds.iter().zip(&columns) {
        let class = *distinct.entry(column).or_insert_with(|| {
            chosen.push(column);
            offset(chosen.len() - 1) as u16
        });
        sources[first as usize..=last as usize].fill(class);
        first = last + 1;
    }
    let width = offset(chosen.len());
    let joint: Vec<u16> =
        (0..order.len()).flat_map(|row| chosen.iter().map(move |column| column[row])).collect();
    let ports = two_levels(bytes, &classes);
    let sources = two_levels(bytes, &[sources]);
    let joint = Joint { sources, width, classes: bytes.table(&joint, 0) };
    Services { kinds: kinds_table, ports, joint: Some(joint) }
}

fn numbered(all: &mut Vec<Target>, target: Target) -> usize {
    all.iter().position(|known| *known == target).unwrap_or_else(|| {
        all.push(target);
        all.len() - 1
    })
}

/// Where each of `n` answers to a field leads from `at`.
fn each(of: &Classes, at: Target, field: Field, n: usize) -> Vec<Target> {
    match at {
        Target::Node(node) if of.nodes[node as usize].field == field => {
            let mut targets = Vec::with_capacity(n);
            for &(last, to) in &of.nodes[node as usize].edges {
                targets.resize(last as usize + 1, to);
            }
            targets
        }
        Target::Node(_) | Target::Class(_) => vec![at; n],
    }
}

fn class_of(of: &Classes, at: Target, field: Field, answer: u32) -> u16 {
    match at {
        Target::Class(class) => class as u16,
        Target::Node(node) => {
            let node = &of.nodes[node as usize];
            assert!(node.field == field, "the source port is asked last");
            let edge = node.edges.partition_point(|(last, _)| *last < u128::from(answer));
            class_of(of, node.edges[edge].1, field, answer)
        }
    }
}

/// Roots and shared blocks of a table of 65,536 entries for each kind.
fn two_levels(bytes: &mut Bytes, tables: &[Vec<u16>]) -> Ports {
    let mut known: HashMap<&[u16], u16> = HashMap::new();
    let (mut roots, mut blocks): (Vec<u16>, Vec<u16>) = (Vec::new(), Vec::new());
    for block in tables.iter().flat_map(|table| table.chunks(256)) {
        let next = (blocks.len() / 256) as u16;
        roots.push(*known.entry(block).or_insert_with(|| {
            blocks.extend(block);
            next
        }));
    }
    Ports { roots: bytes.table(&roots, 0), blocks: bytes.table(&blocks, 0) }
}

fn pairs(bytes: &mut Bytes, of: &Group, unit: Position, positions: &[u32]) -> Pairs {
    let (sources, destinations) = (of.source.n(), of.destination.n());
    let [sources, destinations] = [sources, destinations].map(|n| n.next_power_of_two());
    let n = sources * destinations;
    if n * unit.bytes() as usize <= MATRIX_BYTES {
        let mut matrix = vec![0; n];
        for &(s, d, list) in &of.cells {
            matrix[s as usize * destinations + d as usize] = positions[list as usize];
        }
        let table = match unit {
            Position::Short => {
                bytes.table(&matrix.iter().map(|&p| p as u16).collect::<Vec<_>>(), 0)
            }
            Position::Long => bytes.table(&matrix, 0),
        };
        let [sources, destinations] = [sources, destinations].map(|n| offset(n) - 1);
        let width = destinations + 1;
        return Pairs::Matrix { width, sources, destinations, at: table.at };
    }
    let cell = |&(s, d, list): &(u32, u32, u32)| (s, d, positions[list as usize]);
    let mut cells: Vec<_> = of.cells.iter().map(cell).collect();
    let by_source = rows(bytes, &cells, of.source.n(), unit);
    cells.iter_mut().for_each(|cell| std::mem::swap(&mut cell.0, &mut cell.1));
    cells.sort_unstable();
    let by_destination = rows(bytes, &cells, of.destination.n(), unit);
    Pairs::Rows { by_source, by_destination }
}

/// A hash table for each row in which no bucket overflows.
fn rows(bytes: &mut Bytes, cells: &[(u32, u32, u32)], n: usize, unit: Position) -> Rows {
    const EMPTY_CLASS: u16 = u16::MAX;
    // Bucket 0 is empty, for the rows that are.
    let mut buckets: Vec<[(u16, u32); BUCKET]> = vec![[(EMPTY_CLASS, 0); BUCKET]];
    let mut headers = vec![0_u64; n];
    for row in cells.chunk_by(|a, b| a.0 == b.0) {
        let mut n_buckets = row.len().div_ceil(BUCKET).next_power_of_two();
        let (multiplier, filled) = loop {
            // Odd numbers spread over what 16 bits hold.
            let tries = (0..16_u32).map(|n| (0x9e37 * (2 * n + 1)) & 0xffff);
            let mut found = tries.filter_map(|multiplier| {
                let mut filled = vec![[(EMPTY_CLASS, 0); BUCKET]; n_buckets];
                for &(_, peer, position) in row {
                    let bucket = &mut filled[bucket(peer, multiplier, n_buckets)];
                    let free = bucket.iter_mut().find(|(class, _)| *class == EMPTY_CLASS)?;
                    *free = (peer as u16, position);
                }
                Some((multiplier, filled))
            });
            if let Some(found) = found.next() {
                break found;
            }
            n_buckets *= 2;
            assert!(n_buckets <= 1 << 16, "distinct classes share no bucket of so many");
        };
        headers[row[0].0 as usize] =
            buckets.len() as u64 | (n_buckets as u64 - 1) << 32 | u64::from(multiplier) << 48;
        buckets.extend(filled);
    }
    let rows = bytes.table(&headers, 0);
    bytes.align();
    let at = offset(bytes.0.len());
    let n_buckets = buckets.len().next_power_of_two();
    buckets.resize(n_buckets, [(EMPTY_CLASS, 0); BUCKET]);
    for bucket in buckets {
        let start = bytes.0.len();
        bucket.iter().for_each(|(class, _)| class.store(&mut bytes.0));
        bucket.iter().for_each(|&(_, position)| match unit {
            Position::Short => (position as u16).store(&mut bytes.0),
            Position::Long => position.store(&mut bytes.0),
        });
        bytes.0.resize(start + unit.bucket_bytes() as usize, 0);
    }
    Rows { rows, buckets: Table { at, mask: offset(n_buckets) - 1 } }
}

fn bucket(peer: u32, multiplier: u32, n_buckets: usize) -> usize {
    ((peer * multiplier) >> 8) as usize & (n_buckets - 1)
}
