//! The decision by tables: loads at computed places, and hardly a branch, whatever the packet.
//!
//! Every index is cut to the mask of its table before it is used: the kernel's verifier sees that no load leaves the tables, and
//! what a damaged ident would lead to is another verdict, never another map.

use super::decide::{Verdicts, calls, same};
use super::identify::Ends;
use super::{Notes, Program, Way};
use crate::ir::Stage;
use crate::layout::{CONSENT_SHIFT, CONSENTS, Layout, OWNER_SHIFT, Pairs, Ports, Table, Width};
use crate::tables::Bit;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use seg_artifact::maps;

/// What is looked up, and for whom.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'a> {
    pub(super) way: Way,
    /// What records look like.
    pub(super) records: super::Layout,
    pub(super) tables: &'a Layout,
    /// What the lower bits of a column say.
    pub(super) bits: &'a [Bit],
    pub(super) ends: Ends,
}

/// Looks the verdict up and goes there, with its counter noted.
pub(super) fn emit(p: &mut Program<'_>, of: Lookup<'_>) -> Verdicts {
    let best = best(p, of);
    let counter = counter(p, of.tables, best);
    p.store(counter, p.notes, Notes::COUNTER);
    let [allow, deny] = [(); 2].map(|()| p.block());
    let allows = p.b.ins().band_imm_u(best, 1);
    p.branch(allows, allow, deny);
    Verdicts { allow, deny }
}

/// `counter << 1 | allow` of the verdict, as `i32`.
pub(super) fn leaf(p: &mut Program<'_>, of: Lookup<'_>) -> Value {
    let best = best(p, of);
    let counter = counter(p, of.tables, best);
    let counter = p.b.ins().ishl_imm_u(counter, 1);
    let allows = p.b.ins().band_imm_u(best, 1);
    let allows = p.b.ins().ireduce(types::I32, allows);
    p.b.ins().bor(counter, allows)
}

fn counter(p: &mut Program<'_>, tables: &Layout, best: Value) -> Value {
    let rank = p.b.ins().ushr_imm_u(best, 1);
    let counter = entry(p, types::I32, tables.counters, rank);
    p.b.ins().ireduce(types::I32, counter)
}

/// `rank << 1 | allow` of what decides.
fn best(p: &mut Program<'_>, of: Lookup<'_>) -> Value {
    let Lookup { way, tables, ends, .. } = of;
    p.stage(Stage::Decide);
    let column = column(p, of);
    // Behind the default.
    let column = p.b.ins().iadd_imm_u(column, 1);
    let mut sides = [(ends.own, way), (ends.peer, way.opposite())].map(|(ident, side)| Side {
        ident,
        offsets: match side {
            Way::Outbound => [maps::IDENT_SOURCES, maps::IDENT_SOURCES_MORE],
            Way::Inbound => [maps::IDENT_DESTINATIONS, maps::IDENT_DESTINATIONS_MORE],
        },
        classes: [None; 2],
    });
    let mut said = Vec::new();
    for (group, pairs) in tables.groups.iter().enumerate() {
        let [own, peer] = [0, 1].map(|side| sides[side].class(p, ends, group));
        let [source, destination] = match way {
            Way::Outbound => [own, peer],
            Way::Inbound => [peer, own],
        };
        let base = base(p, pairs, source, destination);
        said.push(said_of(p, tables, base, column));
    }
    let none = p.constant(types::I64, 0);
    let words = said.iter().map(|said| said.word).collect::<Vec<_>>();
    let mut best = words.into_iter().reduce(|a, b| greater(p, a, b)).unwrap_or(none);
    if let Some(isolation) = tables.isolation {
        let consents: Vec<Value> = said.into_iter().flat_map(|said| said.consents).collect();
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
    best
}

/// One end as a source or as a destination.
struct Side {
    ident: Value,
    /// Where its classes are, four at a time.
    offsets: [u32; 2],
    /// Pointers to those that were asked for.
    classes: [Option<Value>; 2],
}

impl Side {
    fn class(&mut self, p: &mut Program<'_>, ends: Ends, group: usize) -> Value {
        let (four, ident) = (group / 4, self.ident);
        let offset = i64::from(self.offsets[four]);
        let classes = *self.classes[four].get_or_insert_with(|| {
            let index = p.b.ins().ishl_imm_u(ident, 3);
            let at = p.b.ins().iadd(ends.idents, index);
            p.b.ins().iadd_imm_u(at, offset)
        });
        p.read_wide(types::I16, classes, 2 * (group % 4) as i32)
    }
}

/// What one group says.
struct Said {
    /// `rank << 1 | allow`.
    word: Value,
    /// Numbers of blocks, 0 for none.
    consents: Vec<Value>,
}

/// The word of an isolating rule unless one of `consents` is its block's.
fn denied(p: &mut Program<'_>, isolates: Value, consents: &[Value]) -> Value {
    let block = p.b.ins().ushr_imm_u(isolates, 32);
    let word = p.b.ins().band_imm_u(isolates, 0xffff_ffff);
    let consented = consents.iter().map(|&consent| {
        let differs = p.b.ins().bxor(block, consent);
        is_zero(p, differs)
    });
    let consented = consented.collect::<Vec<_>>();
    let consented = consented.into_iter().reduce(|a, b| p.b.ins().bor(a, b));
    consented.map_or(word, |consented| without(p, word, consented))
}

/// All ones if a number below 2^63 is 0, else 0.
fn is_zero(p: &mut Program<'_>, number: Value) -> Value {
    let less = p.b.ins().iadd_imm_s(number, -1);
    p.b.ins().sshr_imm_u(less, 63)
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
    let offset = match bytes {
        1 => index,
        _ => p.b.ins().ishl_imm_u(index, i64::from(bytes.ilog2())),
    };
    let base = p.table(at);
    p.b.ins().iadd(base, offset)
}

/// Class of the service, and the bits below it.
fn column(p: &mut Program<'_>, of: Lookup<'_>) -> Value {
    let tables = of.tables;
    let protocol = p.key(types::I8, maps::CONNTRACK_PROTOCOL as i32);
    let protocol = p.b.ins().uextend(types::I64, protocol);
    let kind = entry(p, types::I8, tables.services.kinds, protocol);
    let port = p.port(Notes::PORT);
    let port = p.b.ins().uextend(types::I64, port);
    let mut class = port_class(p, tables.services.ports, Some(kind), port);
    if let Some(joint) = tables.services.joint {
        let port = p.port(Notes::SOURCE_PORT);
        let port = p.b.ins().uextend(types::I64, port);
        let source = port_class(p, joint.sources, None, port);
        let row = p.b.ins().imul_imm_u(class, i64::from(joint.width));
        let index = p.b.ins().iadd(row, source);
        class = entry(p, types::I16, joint.classes, index);
    }
    if of.bits.is_empty() {
        return class;
    }
    let class = p.b.ins().ishl_imm_u(class, i64::from(tables.n_bits));
    let known = bits_of(p, of);
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

/// Where the list of a pair of classes begins.
fn base(p: &mut Program<'_>, pairs: &Pairs, source: Value, destination: Value) -> Value {
    match *pairs {
        Pairs::Matrix { width, sources, destinations, at } => {
            let source = p.b.ins().band_imm_u(source, i64::from(sources));
            let destination = p.b.ins().band_imm_u(destination, i64::from(destinations));
            let row = p.b.ins().ishl_imm_u(source, i64::from(width.ilog2()));
            let index = p.b.ins().iadd(row, destination);
            let at = place(p, at, index, 4);
            p.read_wide(types::I32, at, 0)
        }
        Pairs::Rows { first, cells, width } => {
            let first = entry(p, types::I32, first, source);
            let index = p.b.ins().iadd(first, destination);
            let ty = match width {
                Width::Short => types::I32,
                Width::Long => types::I64,
            };
            let cell = entry(p, ty, cells, index);
            owned(p, cell, source, width.key_shift()).0
        }
    }
}

/// What an entry holds below its owner's number if that is `owner`, else 0, and whether it is, as a mask.
fn owned(p: &mut Program<'_>, entry: Value, owner: Value, shift: u32) -> (Value, Value) {
    let owner = p.b.ins().ishl_imm_u(owner, i64::from(shift));
    let own = p.b.ins().bxor(entry, owner);
    let differs = p.b.ins().ushr_imm_u(own, i64::from(shift));
    let is_own = is_zero(p, differs);
    (p.b.ins().band(own, is_own), is_own)
}

fn without(p: &mut Program<'_>, of: Value, mask: Value) -> Value {
    let kept = p.b.ins().bnot(mask);
    p.b.ins().band(of, kept)
}

/// The greater of two numbers below 2^63.
fn greater(p: &mut Program<'_>, a: Value, b: Value) -> Value {
    let difference = p.b.ins().isub(a, b);
    let negative = p.b.ins().sshr_imm_u(difference, 63);
    let below = p.b.ins().band(difference, negative);
    p.b.ins().isub(a, below)
}

/// What the list at a base says of a column; columns are counted from 1.
fn said_of(p: &mut Program<'_>, tables: &Layout, base: Value, column: Value) -> Said {
    let index = p.b.ins().iadd(base, column);
    let slot = entry(p, types::I64, tables.slots, index);
    let (mut slot, is_own) = owned(p, slot, base, OWNER_SHIFT);
    let is_default = tables.defaults.then(|| {
        let default = entry(p, types::I64, tables.slots, base);
        let (default, is_default) = owned(p, default, base, OWNER_SHIFT);
        let default = without(p, default, is_own);
        slot = p.b.ins().bor(slot, default);
        is_default
    });
    let mut consents = Vec::new();
    if tables.isolation.is_some() {
        consents.push(p.b.ins().ushr_imm_u(slot, i64::from(CONSENT_SHIFT)));
    }
    for (&more, first) in tables.more.iter().zip((0..).step_by(CONSENTS as usize)) {
        let four = entry(p, types::I64, more, index);
        let mut four = p.b.ins().band(four, is_own);
        if let Some(is_default) = is_default {
            let default = entry(p, types::I64, more, base);
            let default = p.b.ins().band(default, is_default);
            let default = without(p, default, is_own);
            four = p.b.ins().bor(four, default);
        }
        for nth in 0..CONSENTS.min(tables.n_more - first) {
            let consent = p.b.ins().ushr_imm_u(four, i64::from(16 * nth));
            consents.push(p.b.ins().band_imm_u(consent, 0xffff));
        }
    }
    let word = match tables.isolation {
        Some(_) => p.b.ins().band_imm_u(slot, (1 << CONSENT_SHIFT) - 1),
        None => slot,
    };
    Said { word, consents }
}

/// What the lower bits of the column say; an end that is no endpoint has nothing in common and names no port.
fn bits_of(p: &mut Program<'_>, of: Lookup<'_>) -> Value {
    let Lookup { way, records, bits, ends, .. } = of;
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
