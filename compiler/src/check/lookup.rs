//! What a program that looks its decision up has to compute: one expression over idents, records and what a packet carries.
//!
//! It is put together from where tables are and from how the artifact says that they are read, in the order in which a
//! program may do it; equal expressions have one number, so equal numbers are the same computation. What it finds is in `tables`.

use super::Layout as Records;
use super::expr::{Expr, Exprs, Id, Input};
use super::fields::{self, Fields};
use super::insn::Op;
use crate::layout::{BUCKET, LIST_ALIGN, Layout, PLACE_BITS, Pairs, Ports, Position, Rows, Table};
use crate::rules::{IPV4_FIRST, IPV4_LAST};
use crate::tables::Bit;
use seg_artifact::maps;
use seg_lang::ast::Direction;
use std::rc::Rc;

/// What is claimed of the programs of an object.
pub(super) struct Lookup<'a> {
    pub(super) bytes: Rc<[u8]>,
    pub(super) places: &'a Layout,
    pub(super) bits: &'a [Bit],
    /// The ident of every address that no endpoint has: the last number of each range.
    pub(super) nets: Vec<(u128, u16)>,
    pub(super) records: Records,
}

/// Both ends of a packet.
#[derive(Clone, Copy)]
struct Ends {
    own: Id,
    peer: Id,
    /// Whether the peer is managed; `None` if that was not asked.
    managed: Option<bool>,
}

impl Lookup<'_> {
    /// Whether all addresses of IPv6 in a range that no endpoint has are of one ident.
    pub(super) fn is_net(&self, (first, last): (u128, u128), ident: u16) -> bool {
        let mut from = self.nets.partition_point(|of| of.0 < first);
        loop {
            let (until, of) = self.nets[from];
            // Those mapped from IPv4 are no addresses of IPv6, and ranges of their own.
            if of != ident && !(IPV4_FIRST..=IPV4_LAST).contains(&until) {
                return false;
            }
            if until >= last {
                return true;
            }
            from += 1;
        }
    }

    /// What is looked up if its upper bits are the counter that was noted: not 0 if the packet is allowed.
    pub(super) fn verdict(
        &self,
        exprs: &mut Exprs,
        fields: &Fields,
        way: Direction,
        managed: Option<bool>,
        noted: Id,
    ) -> Option<Id> {
        let one = exprs.number(1);
        for &own in &fields.own {
            for (&peer, known) in fields.peers.iter().zip([Some(true), Some(false)]) {
                let managed = if fields.peers.len() == 1 { managed } else { known };
                let Some(leaf) = self.leaf(exprs, way, Ends { own, peer, managed }) else {
                    continue;
                };
                if exprs.op(Op::Shr, true, leaf, one) == noted {
                    return Some(exprs.op(Op::And, true, leaf, one));
                }
            }
        }
        None
    }

    fn leaf(&self, exprs: &mut Exprs, way: Direction, ends: Ends) -> Option<Id> {
        let places = self.places;
        let column = self.column(exprs, way, ends)?;
        let mut best: Option<Id> = None;
        let mut consents = Vec::new();
        for (group, pairs) in places.groups.iter().enumerate() {
            let classes = classes(exprs, way, ends, group);
            let position = position(exprs, way, places.position, *pairs, classes);
            let (rank, of_group) = self.entry(exprs, position, column);
            best = Some(best.map_or(rank, |best| greater(exprs, best, rank)));
            consents.extend(of_group);
        }
        let mut best = best.unwrap_or_else(|| exprs.number(0));
        if let Some(isolation) = places.isolation {
            let [of_own, of_peer] = match way {
                Direction::Outbound => [isolation.source, isolation.destination],
                Direction::Inbound => [isolation.destination, isolation.source],
            };
            let [own, peer] = classes(exprs, way, ends, places.groups.len());
            for (class, table) in [(own, of_own), (peer, of_peer)] {
                let n = exprs.number(isolation.n.into());
                let first = exprs.op(Op::Mul, true, class, n);
                for nth in 0..isolation.n {
                    let nth = exprs.number(nth.into());
                    let index = exprs.op(Op::Add, true, first, nth);
                    let isolates = entry(exprs, table, index, 8);
                    let denied = denied(exprs, isolates, &consents);
                    best = greater(exprs, best, denied);
                }
            }
        }
        Some(entry(exprs, places.leaves, best, 4))
    }

    /// The class of the service, and the bits below it.
    fn column(&self, exprs: &mut Exprs, way: Direction, ends: Ends) -> Option<Id> {
        let services = self.places.services;
        let [protocol, port, source_port] = [Input::Protocol, Input::Port, Input::SourcePort]
            .map(|input| exprs.intern(Expr::Input(input)));
        let kind = entry(exprs, services.kinds, protocol, 1);
        let mut class = port_class(exprs, services.ports, Some(kind), port);
        if let Some(joint) = services.joint {
            let source = port_class(exprs, joint.sources, None, source_port);
            let width = exprs.number(joint.width.into());
            let row = exprs.op(Op::Mul, true, class, width);
            let index = exprs.op(Op::Add, true, row, source);
            class = entry(exprs, joint.classes, index, 2);
        }
        if self.bits.is_empty() {
            return Some(class);
        }
        let managed = ends.managed?;
        let class = shifted(exprs, Op::Shl, class, self.places.n_bits);
        // Names of this end's ports come first.
        let mut known: [Vec<Id>; 2] = Default::default();
        for (place, bit) in (0..).zip(self.bits) {
            let of_peer = matches!(bit, Bit::Same(_)) || way == Direction::Outbound;
            if of_peer && !managed {
                continue;
            }
            let bit = match (bit, way) {
                (Bit::Same(label), _) => fields::same(exprs, *label, ends.own, ends.peer),
                (Bit::Named(port), Direction::Outbound) => {
                    fields::calls(exprs, self.records, *port, ends.peer)
                }
                (Bit::Named(port), Direction::Inbound) => {
                    fields::calls(exprs, self.records, *port, ends.own)
                }
            };
            known[usize::from(of_peer)].push(shifted(exprs, Op::Shl, bit, place));
        }
        let or = |exprs: &mut Exprs, a: Id, b: Id| exprs.op(Op::Or, true, a, b);
        let none = exprs.number(0);
        let bits = known.into_iter().flatten().fold(none, |all, bit| or(exprs, all, bit));
        Some(or(exprs, class, bits))
    }

    /// The rank and the consents of the list at a position for a column.
    fn entry(&self, exprs: &mut Exprs, position: Id, column: Id) -> (Id, Vec<Id>) {
        let places = self.places;
        let header = entry(exprs, places.lists, position, 4);
        let base = shifted(exprs, Op::Shr, header, PLACE_BITS);
        let index = exprs.op(Op::Add, true, base, column);
        let slot = entry(exprs, places.slots, index, 4);
        let owner = shifted(exprs, Op::Shr, slot, PLACE_BITS);
        let own = equal(exprs, owner, base);
        let differs = exprs.op(Op::Xor, true, header, slot);
        let change = exprs.op(Op::And, true, differs, own);
        let chosen = exprs.op(Op::Xor, true, header, change);
        let mut place = exprs.low(chosen, PLACE_BITS);
        if places.consent_words > 0 {
            let words = exprs.number((1 + places.consent_words).into());
            place = exprs.op(Op::Mul, true, place, words);
        }
        let word = exprs.op(Op::Add, true, position, place);
        let nth = |exprs: &mut Exprs, n: u32| {
            let n = exprs.number((1 + n).into());
            let word = exprs.op(Op::Add, true, word, n);
            entry(exprs, places.lists, word, 4)
        };
        let rank = nth(exprs, 0);
        let mut consents = Vec::new();
        for n in 1..=places.consent_words {
            let two = nth(exprs, n);
            consents.extend([exprs.low(two, 16), shifted(exprs, Op::Shr, two, 16)]);
        }
        (rank, consents)
    }
}

/// The classes of both ends in a group, this end's first.
fn classes(exprs: &mut Exprs, way: Direction, ends: Ends, group: usize) -> [Id; 2] {
    let idents = fields::only(exprs, maps::IDENTS);
    let more = group / 4;
    let source = [maps::IDENT_SOURCES, maps::IDENT_SOURCES_MORE][more];
    let destination = [maps::IDENT_DESTINATIONS, maps::IDENT_DESTINATIONS_MORE][more];
    let offsets = match way {
        Direction::Outbound => [source, destination],
        Direction::Inbound => [destination, source],
    };
    let mut class = |ident: Id, offset: u32| {
        let ident = exprs.low(ident, maps::IDENTS_MAX.ilog2());
        let index = shifted(exprs, Op::Shl, ident, 3);
        let at = exprs.op(Op::Add, true, idents, index);
        let four = exprs.load(at, offset as i32, 8);
        let class = shifted(exprs, Op::Shr, four, 16 * (group as u32 % 4));
        exprs.low(class, 16)
    };
    [class(ends.own, offsets[0]), class(ends.peer, offsets[1])]
}

fn shifted(exprs: &mut Exprs, op: Op, of: Id, by: u32) -> Id {
    let by = exprs.number(by.into());
    exprs.op(op, true, of, by)
}

/// An entry of a table.
fn entry(exprs: &mut Exprs, table: Table, index: Id, bytes: u8) -> Id {
    let at = place(exprs, table, index, bytes.into());
    exprs.load(at, table.at as i32, bytes)
}

/// Where an entry is, from where the table begins.
fn place(exprs: &mut Exprs, table: Table, index: Id, bytes: u32) -> Id {
    let mask = exprs.number(table.mask.into());
    let index = exprs.op(Op::And, true, index, mask);
    let offset = shifted(exprs, Op::Shl, index, bytes.ilog2());
    let tables = exprs.intern(Expr::Tables);
    exprs.op(Op::Add, true, tables, offset)
}

fn port_class(exprs: &mut Exprs, of: Ports, kind: Option<Id>, port: Id) -> Id {
    let mut root = shifted(exprs, Op::Shr, port, 8);
    if let Some(kind) = kind {
        let kind = shifted(exprs, Op::Shl, kind, 8);
        root = exprs.op(Op::Or, true, kind, root);
    }
    let block = entry(exprs, of.roots, root, 2);
    let block = shifted(exprs, Op::Shl, block, 8);
    let lower = exprs.low(port, 8);
    let index = exprs.op(Op::Or, true, block, lower);
    entry(exprs, of.blocks, index, 2)
}

/// Where a pair of classes leads. Unit: words of the lists.
fn position(
    exprs: &mut Exprs,
    way: Direction,
    unit: Position,
    pairs: Pairs,
    [own, peer]: [Id; 2],
) -> Id {
    let bytes = unit.bytes();
    let found = match pairs {
        Pairs::Matrix { width, sources, destinations, at } => {
            let (source, destination) = match way {
                Direction::Outbound => (own, peer),
                Direction::Inbound => (peer, own),
            };
            let [sources, destinations] = [sources, destinations].map(|n| exprs.number(n.into()));
            let source = exprs.op(Op::And, true, source, sources);
            let destination = exprs.op(Op::And, true, destination, destinations);
            let row = shifted(exprs, Op::Shl, source, width.ilog2());
            let index = exprs.op(Op::Or, true, row, destination);
            let offset = shifted(exprs, Op::Shl, index, bytes.ilog2());
            let tables = exprs.intern(Expr::Tables);
            let cell = exprs.op(Op::Add, true, tables, offset);
            exprs.load(cell, at as i32, bytes as u8)
        }
        Pairs::Rows { by_source, by_destination } => {
            let rows = match way {
                Direction::Outbound => by_source,
                Direction::Inbound => by_destination,
            };
            in_row(exprs, unit, rows, own, peer)
        }
    };
    match unit {
        Position::Short => shifted(exprs, Op::Shl, found, LIST_ALIGN.ilog2()),
        Position::Long => found,
    }
}

/// The position that a row has for a class, or 0.
fn in_row(exprs: &mut Exprs, unit: Position, rows: Rows, own: Id, peer: Id) -> Id {
    let row = entry(exprs, rows.rows, own, 8);
    let multiplier = shifted(exprs, Op::Shr, row, 48);
    let hash = exprs.op(Op::Mul, true, peer, multiplier);
    let hash = shifted(exprs, Op::Shr, hash, 8);
    let mask = shifted(exprs, Op::Shr, row, 32);
    let hash = exprs.op(Op::And, true, hash, mask);
    let hash = exprs.low(hash, 16);
    let bucket = exprs.op(Op::Add, true, row, hash);
    let at = place(exprs, rows.buckets, bucket, unit.bucket_bytes());
    let from = rows.buckets.at as i32;
    let keys = exprs.load(at, from, 8);
    let mut found = exprs.number(0);
    for nth in 0..BUCKET as u32 {
        let key = shifted(exprs, Op::Shr, keys, 16 * nth);
        let key = exprs.low(key, 16);
        let is = equal(exprs, key, peer);
        let offset = from + (2 * BUCKET as u32 + nth * unit.bytes()) as i32;
        let position = exprs.load(at, offset, unit.bytes() as u8);
        let position = exprs.op(Op::And, true, position, is);
        found = exprs.op(Op::Or, true, found, position);
    }
    found
}

/// All ones if two numbers below 2^63 are equal, else 0: only of 0 one less is negative.
fn equal(exprs: &mut Exprs, a: Id, b: Id) -> Id {
    let differs = exprs.op(Op::Xor, true, a, b);
    let one_less = exprs.number(u64::MAX);
    let less = exprs.op(Op::Add, true, differs, one_less);
    shifted(exprs, Op::Sar, less, 63)
}

/// The greater of two numbers below 2^63: the first, less what it lacks.
fn greater(exprs: &mut Exprs, a: Id, b: Id) -> Id {
    let difference = exprs.op(Op::Sub, true, a, b);
    let negative = shifted(exprs, Op::Sar, difference, 63);
    let lacks = exprs.op(Op::And, true, difference, negative);
    exprs.op(Op::Sub, true, a, lacks)
}

/// The rank of who isolates, or 0 if one of the consents is its block's.
fn denied(exprs: &mut Exprs, isolates: Id, consents: &[Id]) -> Id {
    let block = shifted(exprs, Op::Shr, isolates, 32);
    let rank = exprs.low(isolates, 32);
    let mut consented = exprs.number(0);
    for &consent in consents {
        let is = equal(exprs, block, consent);
        consented = exprs.op(Op::Or, true, consented, is);
    }
    let all = exprs.number(u64::MAX);
    let not = exprs.op(Op::Xor, true, consented, all);
    exprs.op(Op::And, true, rank, not)
}
