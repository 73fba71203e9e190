//! What a program that looks its decision up has to compute: one expression over idents, records and what a packet carries.
//!
//! It is put together from where tables are and from how the artifact says that they are read, in the order in which a
//! program may do it; equal expressions have one number, so equal numbers are the same computation. What it finds is in `tables`.

use super::Layout as Records;
use super::expr::{Expr, Exprs, Id, Input};
use super::fields::{self, Fields};
use super::insn::Op;
use crate::layout::{CONSENT_SHIFT, CONSENTS, Layout, OWNER_SHIFT, Pairs, Ports, Table};
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

    /// What is looked up if its counter is the one that was noted: not 0 if the packet is allowed.
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
                let Some(best) = self.best(exprs, way, Ends { own, peer, managed }) else {
                    continue;
                };
                let rank = exprs.op(Op::Shr, true, best, one);
                if entry(exprs, self.places.counters, rank, 4) == noted {
                    return Some(exprs.op(Op::And, true, best, one));
                }
            }
        }
        None
    }

    /// `rank << 1 | allow` of what decides.
    fn best(&self, exprs: &mut Exprs, way: Direction, ends: Ends) -> Option<Id> {
        let places = self.places;
        let column = self.column(exprs, way, ends)?;
        let mut best: Option<Id> = None;
        let mut consents = Vec::new();
        for (group, pairs) in places.groups.iter().enumerate() {
            let [own, peer] = classes(exprs, way, ends, group);
            let [source, destination] = match way {
                Direction::Outbound => [own, peer],
                Direction::Inbound => [peer, own],
            };
            let base = base(exprs, *pairs, source, destination);
            let (word, of_group) = self.said(exprs, base, column);
            best = Some(best.map_or(word, |best| greater(exprs, best, word)));
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
        Some(best)
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

    /// The word and the consents of the list at a base for a column.
    fn said(&self, exprs: &mut Exprs, base: Id, column: Id) -> (Id, Vec<Id>) {
        let places = self.places;
        let one = exprs.number(1);
        let column = exprs.op(Op::Add, true, column, one);
        let index = exprs.op(Op::Add, true, base, column);
        let mut slot = |index: Id| {
            let slot = entry(exprs, places.slots, index, 8);
            Owned::new(exprs, slot, base, OWNER_SHIFT)
        };
        let exception = slot(index);
        let default = places.defaults.then(|| slot(base));
        // The exception's, or else the default's.
        let either = |exprs: &mut Exprs, found: Id, of_default: Option<Id>| {
            let Some(of_default) = of_default else { return found };
            let rest = without(exprs, of_default, exception.is);
            exprs.op(Op::Or, true, found, rest)
        };
        let said = either(exprs, exception.value, default.map(|of| of.value));
        if places.isolation.is_none() {
            return (said, Vec::new());
        }
        let mut consents = vec![shifted(exprs, Op::Shr, said, CONSENT_SHIFT)];
        for (more, first) in places.more.iter().zip((0..).step_by(CONSENTS as usize)) {
            let masked = |exprs: &mut Exprs, index: Id, is: Id| {
                let four = entry(exprs, *more, index, 8);
                exprs.op(Op::And, true, four, is)
            };
            let found = masked(exprs, index, exception.is);
            let of_default = default.map(|default| masked(exprs, base, default.is));
            let four = either(exprs, found, of_default);
            for nth in 0..CONSENTS.min(places.n_more.saturating_sub(first)) {
                let consent = shifted(exprs, Op::Shr, four, 16 * nth);
                consents.push(exprs.low(consent, 16));
            }
        }
        (exprs.low(said, CONSENT_SHIFT), consents)
    }
}

/// What an entry holds for its owner.
#[derive(Clone, Copy)]
struct Owned {
    /// What is below the owner's number, or 0.
    value: Id,
    /// All ones if it is the owner's, else 0.
    is: Id,
}

impl Owned {
    fn new(exprs: &mut Exprs, found: Id, owner: Id, shift: u32) -> Self {
        let owner = shifted(exprs, Op::Shl, owner, shift);
        let rest = exprs.op(Op::Xor, true, found, owner);
        let differs = shifted(exprs, Op::Shr, rest, shift);
        let is = is_zero(exprs, differs);
        Self { value: exprs.op(Op::And, true, rest, is), is }
    }
}

fn without(exprs: &mut Exprs, of: Id, mask: Id) -> Id {
    let all = exprs.number(u64::MAX);
    let kept = exprs.op(Op::Xor, true, mask, all);
    exprs.op(Op::And, true, of, kept)
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
        let index = shifted(exprs, Op::Shl, ident, 3);
        let at = exprs.op(Op::Add, true, idents, index);
        exprs.load(at, (offset + 2 * (group as u32 % 4)) as i32, 2)
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

/// Where the list of a pair of classes begins.
fn base(exprs: &mut Exprs, pairs: Pairs, source: Id, destination: Id) -> Id {
    match pairs {
        Pairs::Matrix { width, sources, destinations, at } => {
            let [sources, destinations] = [sources, destinations].map(|n| exprs.number(n.into()));
            let source = exprs.op(Op::And, true, source, sources);
            let destination = exprs.op(Op::And, true, destination, destinations);
            let row = shifted(exprs, Op::Shl, source, width.ilog2());
            let index = exprs.op(Op::Add, true, row, destination);
            let offset = shifted(exprs, Op::Shl, index, 2);
            let tables = exprs.intern(Expr::Tables);
            let cell = exprs.op(Op::Add, true, tables, offset);
            exprs.load(cell, at as i32, 4)
        }
        Pairs::Rows { first, cells, width } => {
            let first = entry(exprs, first, source, 4);
            let index = exprs.op(Op::Add, true, first, destination);
            let cell = entry(exprs, cells, index, width.bytes() as u8);
            Owned::new(exprs, cell, source, width.key_shift()).value
        }
    }
}

/// All ones if a number below 2^63 is 0, else 0: only of 0 one less is negative.
fn is_zero(exprs: &mut Exprs, number: Id) -> Id {
    let one_less = exprs.number(u64::MAX);
    let less = exprs.op(Op::Add, true, number, one_less);
    shifted(exprs, Op::Sar, less, 63)
}

/// The greater of two numbers below 2^63: the first, less what it lacks.
fn greater(exprs: &mut Exprs, a: Id, b: Id) -> Id {
    let difference = exprs.op(Op::Sub, true, a, b);
    let negative = shifted(exprs, Op::Sar, difference, 63);
    let lacks = exprs.op(Op::And, true, difference, negative);
    exprs.op(Op::Sub, true, a, lacks)
}

/// The word of who isolates, or 0 if one of the consents is its block's.
fn denied(exprs: &mut Exprs, isolates: Id, consents: &[Id]) -> Id {
    let block = shifted(exprs, Op::Shr, isolates, 32);
    let word = exprs.low(isolates, 32);
    let consented = consents.iter().map(|&consent| {
        let differs = exprs.op(Op::Xor, true, block, consent);
        is_zero(exprs, differs)
    });
    let consented: Vec<Id> = consented.collect();
    let any = consented.into_iter().reduce(|a, b| exprs.op(Op::Or, true, a, b));
    any.map_or(word, |any| without(exprs, word, any))
}
