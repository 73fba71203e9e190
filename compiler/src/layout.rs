//! Tables as bytes, and where programs find what in them. Deterministic: equal tables give equal bytes.
//!
//! All numbers are little-endian. Every index a program computes is cut to a power of two before it is used, so each table is
//! padded to one; what lies between holds nothing.
//!
//! - *port tables*: `kinds[protocol]: u8`, then `roots[kind << 8 | port >> 8]: u16` and `blocks[block << 8 | port & 255]: u16`,
//!   equal blocks stored once. With source ports a second pair of tables, and `joint[port class * width + source class]: u16`.
//! - *matrix* of a group: `[source class * width + destination class]: u32`: the base of a list, 0 for one that says nothing.
//! - *rows* of a group, for what has too many pairs: `first[source class]: u32`, and at `first + destination class` in `cells`
//!   `source class << 48 | base: u64`, or `source class << 16 | base: u32` where bases have 16 bits. Rows lie in each other's
//!   gaps; a cell of another class is none.
//! - *slots*: what a list says, as `base << 40 | consent << 24 | rank << 1 | allow: u64`: at its base by default, at
//!   `base + 1 + column` for the column. Lists lie in each other's gaps; a slot of another base is none, and what has none says
//!   nothing. Further consents of a slot are at its index in tables of their own, four 16-bit numbers in a `u64`.
//! - *counters*: `u32` for each rank.
//! - *nets6*: `u64` upper and lower halves of where each range of IPv6 addresses begins, and its ident as `u16`; there are at
//!   least two, and behind the last nothing begins.
//! - *isolated*: `block << 32 | rank << 1` for each class of isolation, as many as any has; block 0 is none.

use crate::classes::{Classes, Target};
use crate::diagram::Field;
use crate::limits::{LimitError, NETS_MAX, TABLES_MAX};
use crate::ranges::Ranges;
use crate::rules::{IPV4_FIRST, IPV4_LAST};
use crate::tables::{self, Entry, Group, List, Tables};
use seg_lang::policy::RuleId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Where in a slot the base of its list is.
pub const OWNER_SHIFT: u32 = 40;
/// Where in a slot a consent is; below are rank and verdict.
pub const CONSENT_SHIFT: u32 = 24;
/// Consents in an entry of a table of further ones.
pub const CONSENTS: u32 = 4;
/// Further consents of an entry.
const MORE_MAX: usize = 7;
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
    /// The nets of IPv6, if any are told apart.
    pub nets6: Option<Nets6>,
    /// `u64`.
    pub slots: Table,
    /// Whether a list says something by default.
    pub defaults: bool,
    /// Further consents of slots, four in each entry. `u64`.
    pub more: Vec<Table>,
    /// How many further consents a slot has at most.
    pub n_more: u32,
    /// `u32`.
    pub counters: Table,
}

/// A table of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it begins. Unit: bytes.
    pub at: u32,
    /// Largest index; one less than a power of two.
    pub mask: u32,
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
        /// `u32` by source class.
        first: Table,
        /// Of this width.
        cells: Table,
        /// Of a cell.
        width: Width,
    },
}

/// How wide a cell of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `u32`.
    Short,
    /// `u64`.
    Long,
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

impl Width {
    /// Unit: bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Short => 4,
            Self::Long => 8,
        }
    }

    /// Where in a cell its source class is, which has 16 bits. Unit: bits.
    pub fn key_shift(self) -> u32 {
        8 * self.bytes() - 16
    }
}

/// Lays out tables; `nets` are the ranges of addresses of each ident from 1 on.
///
/// # Errors
/// [`LimitError::Nets`], and [`LimitError::Cells`] if there are more ranks, bases or consents than a slot can name.
pub fn layout(tables: &Tables, nets: &[Ranges]) -> Result<Layout, LimitError> {
    if nets.len() > NETS_MAX {
        return Err(LimitError::Nets { needed: nets.len() });
    }
    let mut bytes = Bytes(Vec::new());
    let n_more = n_more(tables)?;
    let n_tables = n_more.div_ceil(CONSENTS as usize);
    let services = services(&mut bytes, &tables.services);
    let lists = tables.lists.iter().map(|List { default, exceptions }| {
        let default = (*default != 0).then_some((0, *default));
        default.into_iter().chain(exceptions.iter().map(|&(column, entry)| (1 + column, entry)))
    });
    let lists: Vec<Vec<(u32, u32)>> = lists.map(Iterator::collect).collect();
    let n_columns = (tables.services.n() << tables.bits.len()) as u32;
    let packed = Packed::new(&lists, n_columns + 1);
    if packed.len >> (64 - OWNER_SHIFT) != 0 || tables.leaves.len() >> (CONSENT_SHIFT - 1) != 0 {
        return Err(LimitError::Cells { rules: Vec::new() });
    }
    let groups = tables.groups.iter().map(|of| pairs(&mut bytes, of, &packed.bases));
    let groups = groups.collect();
    let word = |rank: u32| rank << 1 | u32::from(tables.leaves[rank as usize].allow);
    let mut slots = vec![0; packed.len];
    let mut more = vec![vec![0; packed.len]; n_tables];
    for (list, &base) in lists.iter().zip(&packed.bases) {
        for &(place, entry) in list {
            let Entry { rank, consents } = &tables.entries[entry as usize];
            let mut consents = consents.iter().map(|&consent| u64::from(consent));
            let consent = consents.next().unwrap_or(0) << CONSENT_SHIFT;
            let at = (base + place) as usize;
            slots[at] = u64::from(base) << OWNER_SHIFT | consent | u64::from(word(*rank));
            for (nth, consent) in (0..).zip(consents) {
                more[nth / CONSENTS as usize][at] |= consent << (16 * (nth % CONSENTS as usize));
            }
        }
    }
    let slots = bytes.table(&slots, 0);
    let more = more.iter().map(|of| bytes.table(of, 0)).collect();
    let counters: Vec<u32> = tables.leaves.iter().map(|leaf| leaf.counter).collect();
    let counters = bytes.table(&counters, counters[0]);
    let isolation = tables.isolation.as_ref().map(|of| isolation(&mut bytes, of));
    let nets6 = nets6(&mut bytes, nets);
    if bytes.0.len() > TABLES_MAX {
        return Err(LimitError::Cells { rules: Vec::new() });
    }
    Ok(Layout {
        bytes: bytes.0,
        nets6,
        n_bits: tables.bits.len() as u32,
        services,
        groups,
        isolation,
        slots,
        defaults: tables.lists.iter().any(|list| list.default != 0),
        more,
        n_more: offset(n_more),
        counters,
    })
}

/// How many consents an entry has at most behind its first.
fn n_more(tables: &Tables) -> Result<usize, LimitError> {
    let most = tables.entries.iter().max_by_key(|entry| entry.consents.len());
    let Some(Entry { rank, consents }) = most else { return Ok(0) };
    let n = consents.len().saturating_sub(1);
    if n > MORE_MAX {
        let rule = tables.leaves[*rank as usize].rule().map(RuleId);
        return Err(LimitError::Cells { rules: rule.into_iter().collect() });
    }
    Ok(n)
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
        let entry = |&(block, rank): &(u16, u32)| u64::from(block) << 32 | u64::from(rank << 1);
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

/// Sparse rows in one table, each in the gaps of others.
struct Packed {
    /// Where each row begins; no two with entries begin at one place, nor at 0, where the empty ones do.
    bases: Vec<u32>,
    len: usize,
}

impl Packed {
    /// Rows are places and values, of places below `width`. The longest come first; each begins behind the one before, if that
    /// is as long, where its places are free, or at the end.
    fn new(rows: &[Vec<(u32, u32)>], width: u32) -> Self {
        const TRIES: u32 = 1 << 13;
        let mut order: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].is_empty()).collect();
        order.sort_by_key(|&row| Reverse(rows[row].len()));
        let mut taken: Vec<bool> = Vec::new();
        let mut bases = vec![0; rows.len()];
        let mut begun = HashSet::from([0]);
        let (mut from, mut length) = (0, 0);
        for row in order {
            let (end, first) = (offset(taken.len()), rows[row][0].0);
            if rows[row].len() != length {
                (from, length) = (0, rows[row].len());
            }
            let is_free = |at: u32| taken.get(at as usize).is_none_or(|taken| !taken);
            let fits = |base: u32| rows[row].iter().all(|(place, _)| is_free(base + place));
            let behind = end.saturating_sub(first);
            let tried = (from..(from + TRIES).min(behind)).chain(behind..);
            let mut fitting = tried.filter(|&base| fits(base) && !begun.contains(&base));
            let base = fitting.next().expect("behind the end it fits");
            begun.insert(base);
            bases[row] = base;
            from = base;
            let last = rows[row][length - 1].0;
            taken.resize(taken.len().max((base + last) as usize + 1), false);
            rows[row].iter().for_each(|(place, _)| taken[(base + place) as usize] = true);
        }
        // A row may be asked for any place.
        let len = bases.iter().max().map_or(0, |&last| (last + width) as usize);
        Self { bases, len }
    }
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

fn pairs(bytes: &mut Bytes, of: &Group, bases: &[u32]) -> Pairs {
    let (sources, destinations) = (of.source.n(), of.destination.n());
    let [n_sources, width] = [sources, destinations].map(usize::next_power_of_two);
    if n_sources * width * 4 <= MATRIX_BYTES {
        let mut matrix = vec![0; n_sources * width];
        for &(s, d, list) in &of.cells {
            matrix[s as usize * width + d as usize] = bases[list as usize];
        }
        let at = bytes.table(&matrix, 0).at;
        let [sources, width] = [n_sources - 1, width].map(offset);
        return Pairs::Matrix { width, sources, destinations: width - 1, at };
    }
    let mut rows = vec![Vec::new(); sources];
    of.cells.iter().for_each(|&(s, d, list)| rows[s as usize].push((d, list)));
    let packed = Packed::new(&rows, offset(destinations));
    let is_short = bases.iter().all(|&base| base <= u32::from(u16::MAX));
    let width = if is_short { Width::Short } else { Width::Long };
    let mut cells = vec![0; packed.len];
    for ((source, row), first) in (0_u64..).zip(&rows).zip(&packed.bases) {
        for &(d, list) in row {
            let base = u64::from(bases[list as usize]);
            cells[(first + d) as usize] = source << width.key_shift() | base;
        }
    }
    let first = bytes.table(&packed.bases, 0);
    let cells = match width {
        Width::Short => bytes.table(&cells.iter().map(|&cell| cell as u32).collect::<Vec<_>>(), 0),
        Width::Long => bytes.table(&cells, 0),
    };
    Pairs::Rows { first, cells, width }
}
