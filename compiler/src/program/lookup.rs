//! The decision by tables: loads at computed places, and hardly a branch, whatever the packet.
//!
//! Every index is cut to the mask of its table before it is used: the kernel's verifier sees that no load leaves the tables, and
//! what a damaged ident would lead to is another verdict, never another map.

use super::decide::{Verdicts, calls, same};
use super::identify::Ends;
use super::{Notes, Program, Way};
use crate::ir::{Map, Stage};
use crate::layout::{BUCKET, LIST_ALIGN, Layout, PLACE_BITS, Pairs, Ports, Position, Rows, Table};
use crate::tables::Bit;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use seg_artifact::maps;

/// Looks the verdict up and goes there, with its counter noted.
pub(super) fn emit(
    p: &mut Program<'_>,
    way: Way,
    records: super::Layout,
    tables: &Layout,
    bits: &[Bit],
    ends: Ends,
) -> Verdicts {
    p.stage(Stage::Decide);
    let column = column(p, way, records, tables, bits, ends);
    let mut sides = [(ends.own, way), (ends.peer, way.opposite())].map(|(ident, side)| Side {
        ident,
        offsets: match side {
            Way::Outbound => [maps::IDENT_SOURCES, maps::IDENT_SOURCES_MORE],
            Way::Inbound => [maps::IDENT_DESTINATIONS, maps::IDENT_DESTINATIONS_MORE],
        },
        four: [None; 2],
    });
    let mut said = Vec::new();
    for (group, pairs) in tables.groups.iter().enumerate() {
        let [own, peer] = [0, 1].map(|side| sides[side].class(p, ends, group));
        let position = position(p, way, tables.position, pairs, own, peer);
        said.push(entry_of(p, tables, position, column));
    }
    let none = p.constant(types::I64, 0);
    let ranks = said.iter().map(|entry| entry.rank).collect::<Vec<_>>();
    let mut best = ranks.into_iter().reduce(|a, b| greater(p, a, b)).unwrap_or(none);
    if let Some(isolation) = tables.isolation {
        let consents: Vec<Value> = said.into_iter().flat_map(|entry| entry.consents).collect();
        let [of_own, of_peer] = match way {
            Way::Outbound => [isolation.source, isolation.destination],
            Way::Inbound => [isolation.destination, isolation.source],
        };
        for (side, table) in [of_own, of_peer].into_iter().enumerate() {
            let class = sides[side].class(p, ends, tables.groups.len());
            let first = p.b.ins().imul_imm_u(class, i64::from(isolation.n));
            for n in 0..isolation.n {
                let index = p.b.ins().iadd_imm_u(first, i64::from(n));
                let isolates = entry(p, types::I64, table, index);
                let denied = denied(p, isolates, &consents);
                best = greater(p, best, denied);
            }
        }
    }
    let leaf = entry(p, types::I32, tables.leaves, best);
    let counter = p.b.ins().ushr_imm_u(leaf, 1);
    let counter = p.b.ins().ireduce(types::I32, counter);
    p.store(counter, p.notes, Notes::COUNTER);
    let [allow, deny] = [(); 2].map(|()| p.block());
    let allows = p.b.ins().band_imm_u(leaf, 1);
    p.branch(allows, allow, deny);
    Verdicts { allow, deny }
}

/// One end as a source or as a destination.
struct Side {
    ident: Value,
    /// Where its classes are, four at a time.
    offsets: [u32; 2],
    /// Those that were loaded.
    four: [Option<Value>; 2],
}

impl Side {
    fn class(&mut self, p: &mut Program<'_>, ends: Ends, group: usize) -> Value {
        let (four, ident) = (group / 4, self.ident);
        let offset = i64::from(self.offsets[four]);
        let classes = *self.four[four].get_or_insert_with(|| {
            let ident = p.b.ins().band_imm_u(ident, i64::from(maps::IDENTS_MAX) - 1);
            let index = p.b.ins().ishl_imm_u(ident, 3);
            let at = p.b.ins().iadd(ends.idents, index);
            let at = p.b.ins().iadd_imm_u(at, offset);
            p.read(types::I64, at, 0)
        });
        let class = match group % 4 {
            0 => classes,
            place => p.b.ins().ushr_imm_u(classes, 16 * place as i64),
        };
        p.b.ins().band_imm_u(class, 0xffff)
    }
}

/// What one group says.
struct Entry {
    rank: Value,
    /// Numbers of blocks, 0 for none.
    consents: Vec<Value>,
}

/// The rank of an isolating rule unless one of `consents` is its block's.
fn denied(p: &mut Program<'_>, isolates: Value, consents: &[Value]) -> Value {
    let block = p.b.ins().ushr_imm_u(isolates, 32);
    let rank = p.b.ins().band_imm_u(isolates, 0xffff_ffff);
    let mut consented: Option<Value> = None;
    for &consent in consents {
        let is = equal(p, block, consent);
        consented = Some(match consented {
            None => is,
            Some(before) => p.b.ins().bor(before, is),
        });
    }
    match consented {
        None => rank,
        Some(consented) => {
            let not = p.b.ins().bnot(consented);
            p.b.ins().band(rank, not)
        }
    }
}

/// An entry of a table, extended to 64 bits.
pub(super) fn entry(p: &mut Program<'_>, ty: Type, table: Table, index: Value) -> Value {
    let index = p.b.ins().band_imm_u(index, i64::from(table.mask));
    let at = place(p, table.at, index, ty.bytes());
    match ty {
        types::I64 => p.read(ty, at, 0),
        _ => p.read_wide(ty, at, 0),
    }
}

/// Pointer to an entry of `bytes` bytes, a power of two.
fn place(p: &mut Program<'_>, at: u32, index: Value, bytes: u32) -> Value {
    let offset = p.b.ins().ishl_imm_u(index, i64::from(bytes.ilog2()));
    let base = p.map(Map::Tables);
    let base = p.b.ins().iadd_imm_u(base, i64::from(at));
    p.b.ins().iadd(base, offset)
}

/// Class of the service, and the bits below it.
fn column(
    p: &mut Program<'_>,
    way: Way,
    records: super::Layout,
    tables: &Layout,
    bits: &[Bit],
    ends: Ends,
) -> Value {
    let protocol = p.load_wide(types::I8, p.key, maps::CONNTRACK_PROTOCOL as i32);
    let kind = entry(p, types::I8, tables.services.kinds, protocol);
    let port = p.load_wide(types::I16, p.notes, Notes::PORT);
    let mut class = port_class(p, tables.services.ports, Some(kind), port);
    if let Some(joint) = tables.services.joint {
        let port = p.load_wide(types::I16, p.notes, Notes::SOURCE_PORT);
        let source = port_class(p, joint.sources, None, port);
        let row = p.b.ins().imul_imm_u(class, i64::from(joint.width));
        let index = p.b.ins().iadd(row, source);
        class = entry(p, types::I16, joint.classes, index);
    }
    if bits.is_empty() {
        return class;
    }
    let class = p.b.ins().ishl_imm_u(class, i64::from(tables.n_bits));
    let known = bits_of(p, way, records, bits, ends);
    p.b.ins().bor(class, known)
}

fn port_class(p: &mut Program<'_>, of: Ports, kind: Option<Value>, port: Value) -> Value {
    let upper = p.b.ins().ushr_imm_u(port, 8);
    let root = match kind {
        Some(kind) => {
            let kind = p.b.ins().ishl_imm_u(kind, 8);
            p.b.ins().bor(kind, upper)
        }
        None => upper,
    };
    let block = entry(p, types::I16, of.roots, root);
    let block = p.b.ins().ishl_imm_u(block, 8);
    let lower = p.b.ins().band_imm_u(port, 0xff);
    let index = p.b.ins().bor(block, lower);
    entry(p, types::I16, of.blocks, index)
}

/// What the pair of classes leads to. Unit: words of the lists.
fn position(
    p: &mut Program<'_>,
    way: Way,
    unit: Position,
    pairs: &Pairs,
    local: Value,
    peer: Value,
) -> Value {
    let ty = if unit == Position::Short { types::I16 } else { types::I32 };
    let found = match *pairs {
        Pairs::Matrix { width, sources, destinations, at } => {
            let (source, destination) = match way {
                Way::Outbound => (local, peer),
                Way::Inbound => (peer, local),
            };
            let source = p.b.ins().band_imm_u(source, i64::from(sources));
            let destination = p.b.ins().band_imm_u(destination, i64::from(destinations));
            let row = p.b.ins().ishl_imm_u(source, i64::from(width.ilog2()));
            let index = p.b.ins().bor(row, destination);
            let at = place(p, at, index, unit.bytes());
            p.read_wide(ty, at, 0)
        }
        Pairs::Rows { by_source, by_destination } => {
            let rows = match way {
                Way::Outbound => by_source,
                Way::Inbound => by_destination,
            };
            in_row(p, unit, ty, rows, local, peer)
        }
    };
    match unit {
        Position::Short => p.b.ins().ishl_imm_u(found, i64::from(LIST_ALIGN.ilog2())),
        Position::Long => found,
    }
}

/// The position that a row of buckets has for a class, or 0. All places of the bucket are looked at, so that nothing depends
/// on which it is.
fn in_row(
    p: &mut Program<'_>,
    unit: Position,
    ty: Type,
    rows: Rows,
    local: Value,
    peer: Value,
) -> Value {
    let row = entry(p, types::I64, rows.rows, local);
    let multiplier = p.b.ins().ushr_imm_u(row, 48);
    let hash = p.b.ins().imul(peer, multiplier);
    let hash = p.b.ins().ushr_imm_u(hash, 8);
    let mask = p.b.ins().ushr_imm_u(row, 32);
    let hash = p.b.ins().band(hash, mask);
    let hash = p.b.ins().band_imm_u(hash, 0xffff);
    let bucket = p.b.ins().iadd(row, hash);
    let bucket = p.b.ins().band_imm_u(bucket, i64::from(rows.buckets.mask));
    let at = place(p, rows.buckets.at, bucket, unit.bucket_bytes());
    let keys = p.read(types::I64, at, 0);
    let mut found: Option<Value> = None;
    for slot in 0..BUCKET {
        let key = p.b.ins().ushr_imm_u(keys, 16 * slot as i64);
        let key = p.b.ins().band_imm_u(key, 0xffff);
        let is = equal(p, key, peer);
        let value = p.read_wide(ty, at, 8 + (slot as u32 * unit.bytes()) as i32);
        let value = p.b.ins().band(value, is);
        found = Some(match found {
            None => value,
            Some(found) => p.b.ins().bor(found, value),
        });
    }
    found.expect("a bucket has slots")
}

/// All ones if two numbers below 2^63 are equal, else 0.
fn equal(p: &mut Program<'_>, a: Value, b: Value) -> Value {
    let differs = p.b.ins().bxor(a, b);
    let less = p.b.ins().iadd_imm_s(differs, -1);
    p.b.ins().sshr_imm_u(less, 63)
}

/// The greater of two numbers below 2^63.
fn greater(p: &mut Program<'_>, a: Value, b: Value) -> Value {
    let difference = p.b.ins().isub(a, b);
    let negative = p.b.ins().sshr_imm_u(difference, 63);
    let below = p.b.ins().band(difference, negative);
    p.b.ins().isub(a, below)
}

/// What the list at a position says of a column.
fn entry_of(p: &mut Program<'_>, tables: &Layout, position: Value, column: Value) -> Entry {
    let header = entry(p, types::I32, tables.lists, position);
    let base = p.b.ins().ushr_imm_u(header, i64::from(PLACE_BITS));
    let index = p.b.ins().iadd(base, column);
    let slot = entry(p, types::I32, tables.slots, index);
    let owner = p.b.ins().ushr_imm_u(slot, i64::from(PLACE_BITS));
    let own = equal(p, owner, base);
    // The place of the slot if it is the function's own, else the default.
    let differs = p.b.ins().bxor(header, slot);
    let change = p.b.ins().band(differs, own);
    let place = p.b.ins().bxor(header, change);
    let mut place = p.b.ins().band_imm_u(place, (1 << PLACE_BITS) - 1);
    if tables.consent_words > 0 {
        place = p.b.ins().imul_imm_u(place, i64::from(1 + tables.consent_words));
    }
    let word = p.b.ins().iadd(position, place);
    let nth = |p: &mut Program<'_>, n: u32| {
        let word = p.b.ins().iadd_imm_u(word, i64::from(1 + n));
        entry(p, types::I32, tables.lists, word)
    };
    let rank = nth(p, 0);
    let mut consents = Vec::new();
    for n in 0..tables.consent_words {
        let two = nth(p, 1 + n);
        consents.extend([p.b.ins().band_imm_u(two, 0xffff), p.b.ins().ushr_imm_u(two, 16)]);
    }
    Entry { rank, consents }
}

/// What the lower bits of the column say; an end that is no endpoint has nothing in common and names no port.
fn bits_of(
    p: &mut Program<'_>,
    way: Way,
    records: super::Layout,
    bits: &[Bit],
    ends: Ends,
) -> Value {
    let [known, done] = [(); 2].map(|()| p.block());
    let all = p.b.append_block_param(done, types::I64);
    let own = ends.record(p, ends.own);
    let of_own: Vec<Value> = bits
        .iter()
        .enumerate()
        .filter_map(|(place, bit)| match bit {
            Bit::Named(port) if way == Way::Inbound => {
                Some(shifted(p, place, |p| calls(p, records, own, port.0)))
            }
            Bit::Named(_) | Bit::Same(_) => None,
        })
        .collect();
    let none = p.constant(types::I64, 0);
    let of_own = of_own.into_iter().reduce(|a, b| p.b.ins().bor(a, b)).unwrap_or(none);
    let is_managed = ends.is_managed(p, ends.peer);
    p.b.ins().brif(is_managed, known, &[], done, &[of_own.into()]);
    p.switch(known);
    let peer = ends.record(p, ends.peer);
    let mut found = of_own;
    for (place, bit) in bits.iter().enumerate() {
        let bit = match bit {
            Bit::Same(label) => shifted(p, place, |p| same(p, records, [peer, own], label.0)),
            Bit::Named(port) if way == Way::Outbound => {
                shifted(p, place, |p| calls(p, records, peer, port.0))
            }
            Bit::Named(_) => continue,
        };
        found = p.b.ins().bor(found, bit);
    }
    p.jump(done, &[found]);
    p.switch(done);
    all
}

fn shifted(
    p: &mut Program<'_>,
    place: usize,
    bit: impl FnOnce(&mut Program<'_>) -> Value,
) -> Value {
    let bit = bit(p);
    let bit = p.b.ins().uextend(types::I64, bit);
    p.b.ins().ishl_imm_u(bit, place as i64)
}
