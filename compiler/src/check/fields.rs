//! What the checker takes for granted: where programs keep what they know of a packet, and which expression answers which question.
//!
//! Everything else is proved from here. The suites that send packets check these:
//! - when the ends are looked up, the stack holds the connection key and the notes of the parser at the offsets below;
//! - maps lead from addresses to idents, from idents to interfaces, records and classes, as `seg_artifact::maps` says, and none of
//!   that changes while a packet is judged; `addresses6` knows endpoints only.

use super::Family;
use super::Layout;
use super::expr::{Expr, Exprs, Id, Input, Part, Slot, Test};
use super::insn::Op;
use crate::diagram::{Field, Manager};
use crate::rules::{IPV4_FIRST, IPV4_LAST, PortId};
use seg_artifact::maps;
use seg_lang::ast::Direction;
use seg_lang::policy::LabelId;
use std::collections::HashMap;

/// Offset of the connection key from the end of the stack. Unit: bytes, as all below.
pub(super) const KEY: i16 = -40;
/// Offset of the notes of the parser; below are slots of the compiler's own.
pub(super) const NOTES: i16 = -152;
const FAMILY: i16 = NOTES + 9;
const KIND: i16 = NOTES + 11;
const PORT: i16 = NOTES + 18;
const SOURCE_PORT: i16 = NOTES + 26;
/// The key of the counter to move.
pub(super) const COUNTER: i16 = NOTES + 20;
/// What the program will return.
pub(super) const ACTION: i16 = NOTES + 28;

/// Where the idents of both ends are noted, this end's first.
pub(super) const IDENTS: [i16; 2] = [NOTES + 52, NOTES + 60];

/// Bits of [`Input::Kind`]: may open a connection.
pub(super) const OPENS: u8 = 2;
/// May be a reply.
pub(super) const REPLIES: u8 = 4;
/// An ICMP error.
pub(super) const ERROR: u8 = 8;
/// Neighbour discovery.
pub(super) const DISCOVERY: u8 = 16;

/// Offset of the length of a frame in `__sk_buff`.
pub(super) const SKB_LEN: i32 = 0;
const SKB_INGRESS_IFINDEX: i32 = 36;
const SKB_IFINDEX: i32 = 40;

/// The largest ident.
const IDENT_LAST: u128 = maps::IDENTS_MAX as u128 - 1;

/// How a number in the program answers a question of the diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is the answer.
    Plain(Field),
    /// It is an IPv4 address.
    V4(Field),
    /// It is the upper half of an IPv6 address.
    High(Field),
    /// It is the lower half of an IPv6 address.
    Low(Field),
    /// It is an ident: above this one are those of managed ends.
    Ident(Field, u16),
    /// It is the role of a managed peer in the opposite direction.
    Role,
}

impl Reading {
    /// The question; `None` for that of the role, which is many of them.
    pub(super) fn field(self) -> Option<Field> {
        match self {
            Self::Plain(field) | Self::V4(field) | Self::High(field) => Some(field),
            Self::Low(field) | Self::Ident(field, _) => Some(field),
            Self::Role => None,
        }
    }

    /// All answers that packets of this family have.
    pub(super) fn answers(self, m: &Manager) -> (u128, u128) {
        match self {
            Self::Plain(field) | Self::Ident(field, _) => (0, m.max(field)),
            Self::V4(_) => (IPV4_FIRST, IPV4_LAST),
            Self::High(_) | Self::Low(_) => (0, u128::MAX),
            Self::Role => (0, u16::MAX.into()),
        }
    }

    /// Of `answers` those for which the number is in a range; `None` if they do not follow each other, or the range is no answer.
    pub(super) fn part(
        self,
        (first, last): (u64, u64),
        answers: (u128, u128),
    ) -> Option<(u128, u128)> {
        let (first, last) = (u128::from(first), u128::from(last));
        Some(match self {
            Self::Plain(_) | Self::Role => (first, last),
            Self::V4(_) => (IPV4_FIRST + first, IPV4_FIRST + last),
            Self::High(_) => (first << 64, last << 64 | u128::from(u64::MAX)),
            Self::Low(_) if answers.0 >> 64 == answers.1 >> 64 => {
                let high = answers.0 >> 64 << 64;
                (high | first, high | last)
            }
            Self::Low(_) => return None,
            Self::Ident(_, bound) if (first, last) == (0, bound.into()) => (0, 0),
            Self::Ident(_, bound) if first == u128::from(bound) + 1 && last == IDENT_LAST => (1, 1),
            Self::Ident(..) => return None,
        })
    }
}

/// What shows whether a packet has passed the program of its source, if that is on this node.
#[derive(Default)]
pub(super) struct Judged {
    /// The interface by which packets of the peer reach programs, as number and as a signed one turned by half; 0 or less if
    /// they do not.
    interfaces: Vec<[Id; 2]>,
    /// The interface by which the packet came.
    ingress: Option<Id>,
}

impl Judged {
    /// Whether both are what the peer's interface is and by which the packet came.
    pub(super) fn is_interface(&self, a: Id, b: Id) -> bool {
        let is =
            |a: Id, b: Id| self.ingress == Some(b) && self.interfaces.iter().any(|i| i[0] == a);
        is(a, b) || is(b, a)
    }

    /// Whether a number in this range says that packets of the peer reach no program.
    pub(super) fn is_elsewhere(&self, of: Id, range: (u64, u64)) -> bool {
        range == (0, 1 << 31) && self.interfaces.iter().any(|interface| interface[1] == of)
    }
}

/// The assumptions about a program.
pub(super) struct Fields {
    /// Slots of the stack when the ends are looked up: offset, size, value.
    pub(super) slots: Vec<Slot>,
    /// Where the ident of an IPv6 peer is, or 0 if it is not managed.
    pub(super) peer: Option<Id>,
    /// The ident of a managed peer.
    peer_ident: Id,
    pub(super) kind: Id,
    /// What the ident of this end may be: its address's, or that of who is behind the interface.
    pub(super) own: Vec<Id>,
    /// What the ident of the peer may be: an endpoint's, then one of a net if that is another expression.
    pub(super) peers: Vec<Id>,
    pub(super) judged: Judged,
    readings: HashMap<Id, Reading>,
    /// Values that are at least, and at most, so much.
    least: HashMap<Id, u64>,
    most: HashMap<Id, u64>,
}

impl Fields {
    /// The least a value may be.
    pub(super) fn least(&self, id: Id) -> u64 {
        self.least.get(&id).copied().unwrap_or(0)
    }

    /// The most a value may be, if less than its bits allow.
    pub(super) fn most(&self, id: Id) -> u64 {
        self.most.get(&id).copied().unwrap_or(u64::MAX)
    }

    /// How an expression answers a question, if it does.
    pub(super) fn reading(&self, id: Id) -> Option<Reading> {
        self.readings.get(&id).copied()
    }

    /// For packets of one family and programs of one direction.
    pub(super) fn new(exprs: &mut Exprs, way: Direction, family: Family, layout: Layout) -> Self {
        let kind = exprs.intern(Expr::Input(Input::Kind));
        let (judged, slots, own, peers) = Default::default();
        let (readings, least, most) = Default::default();
        let mut fields = Self {
            slots,
            peer: None,
            peer_ident: kind,
            kind,
            own,
            peers,
            judged,
            readings,
            least,
            most,
        };
        let (source, destination) =
            (KEY + maps::CONNTRACK_SOURCE as i16, KEY + maps::CONNTRACK_DESTINATION as i16);
        let ends = match way {
            Direction::Outbound => [source, destination],
            Direction::Inbound => [destination, source],
        };
        fields.packet(exprs, family);
        let own = fields.address(exprs, family, true, ends[0]);
        let peer = fields.address(exprs, family, false, ends[1]);
        fields.slots.sort_unstable();
        fields.ends(exprs, family, [own, peer], layout);
        if layout.by_role {
            let classes = match way {
                Direction::Outbound => maps::IDENT_DESTINATIONS,
                Direction::Inbound => maps::IDENT_SOURCES,
            };
            let role = class_of(exprs, fields.peer_ident, classes);
            fields.readings.insert(role, Reading::Role);
        }
        fields
    }

    /// What the parser notes.
    fn packet(&mut self, exprs: &mut Exprs, family: Family) {
        let number = if family == Family::V4 { 4 } else { 6 };
        self.slots.extend([(FAMILY, 1, exprs.number(number)), (KIND, 1, self.kind)]);
        for (input, field, at, bytes) in [
            (Input::Protocol, Field::Protocol, KEY + maps::CONNTRACK_PROTOCOL as i16, 1),
            (Input::Port, Field::Port, PORT, 2),
            (Input::SourcePort, Field::SourcePort, SOURCE_PORT, 2),
        ] {
            let input = exprs.intern(Expr::Input(input));
            self.slots.push((at, bytes, input));
            self.readings.insert(input, Reading::Plain(field));
        }
    }

    /// An address in the connection key; the result is it as a key of its own.
    fn address(&mut self, exprs: &mut Exprs, family: Family, local: bool, at: i16) -> Vec<Slot> {
        let field = if local { Field::LocalAddress } else { Field::PeerAddress };
        let mut part = |exprs: &mut Exprs, offset, bytes, part, reading| {
            let wire = exprs.intern(Expr::Input(Input::Address { local, part }));
            self.readings.insert(exprs.swap(bytes, wire), reading);
            (offset, bytes, wire)
        };
        let key = match family {
            Family::V4 => vec![
                // The first twelve bytes of a mapped address.
                (0, 8, exprs.number(0)),
                (8, 4, exprs.number(u64::from(0xffff_u32.to_be()))),
                part(exprs, 12, 4, Part::V4, Reading::V4(field)),
            ],
            Family::V6 => vec![
                part(exprs, 0, 8, Part::High, Reading::High(field)),
                part(exprs, 8, 8, Part::Low, Reading::Low(field)),
            ],
        };
        self.slots.extend(key.iter().map(|&(offset, bytes, id)| (at + offset, bytes, id)));
        key
    }

    /// Idents, interfaces and records of both ends, whose addresses are those keys.
    fn ends(
        &mut self,
        exprs: &mut Exprs,
        family: Family,
        [own, peer]: [Vec<Slot>; 2],
        layout: Layout,
    ) {
        let managed = u64::from(layout.n_nets) + 1;
        let mut of_net = |exprs: &mut Exprs, local| match layout.nets6 {
            true => {
                let net = exprs.intern(Expr::Input(Input::Net { local }));
                self.most.insert(net, layout.n_nets.into());
                net
            }
            false => exprs.number(0),
        };
        let [own_net6, peer_net6] = [true, false].map(|local| of_net(exprs, local));
        let mut of_endpoint = |exprs: &mut Exprs, key| {
            let found = lookup(exprs, maps::ADDRESSES6, key);
            let ident = ident_in(exprs, found);
            self.least.insert(ident, managed);
            (found, ident)
        };
        // Of an address, and of none that an endpoint has.
        let (own_ident, own_net, peer_idents) = match family {
            Family::V4 => {
                let [own, peer] = [own, peer].map(|key| ident4(exprs, key[2].2));
                let reading = Reading::Ident(Field::PeerManaged, layout.n_nets);
                self.readings.insert(peer, reading);
                (own, own, vec![peer])
            }
            Family::V6 => {
                let (_, own) = of_endpoint(exprs, own);
                let (found, peer) = of_endpoint(exprs, peer);
                self.peer = Some(found);
                (own, own_net6, vec![peer, peer_net6])
            }
        };
        self.peer_ident = peer_idents[0];
        let context = exprs.intern(Expr::Context);
        let interface = exprs.load(context, SKB_IFINDEX, 4);
        let behind = lookup(exprs, maps::LOCAL, vec![(0, 4, interface), (4, 4, own_net)]);
        let own_idents = [own_ident, ident_in(exprs, behind)];

        self.judged.ingress = Some(exprs.load(context, SKB_INGRESS_IFINDEX, 4));
        let half = exprs.number(1 << 31);
        for &ident in &peer_idents {
            let interface = interface_of(exprs, ident);
            let turned = exprs.op(Op::Xor, true, interface, half);
            self.judged.interfaces.push([interface, turned]);
        }
        let by = exprs.number(maps::INTERFACE_SELF.ilog2().into());
        let is_self = exprs.op(Op::Shr, true, self.judged.interfaces[0][0], by);
        self.readings.insert(is_self, Reading::Plain(Field::PeerSelf));

        let peer = peer_idents[0];
        for label in (0..layout.n_labels).map(LabelId) {
            let theirs = label_of(exprs, label, peer);
            self.readings.insert(theirs, Reading::Plain(Field::PeerLabel(label)));
            for own in own_idents {
                let same = same(exprs, label, own, peer);
                self.readings.insert(same, Reading::Plain(Field::Same(label)));
            }
        }
        for name in (0..layout.n_ports).map(PortId) {
            for (ident, field) in [
                (peer, Field::PeerPort(name)),
                (own_idents[0], Field::LocalPort(name)),
                (own_idents[1], Field::LocalPort(name)),
            ] {
                let calls = calls(exprs, layout, name, ident);
                self.readings.insert(calls, Reading::Plain(field));
            }
        }
        (self.own, self.peers) = (own_idents.to_vec(), peer_idents);
    }
}

/// The value of an ident in a dimension.
fn label_of(exprs: &mut Exprs, label: LabelId, ident: Id) -> Id {
    let record = record(exprs, ident);
    exprs.load(record, (maps::RECORD_LABELS + 4 * label.0) as i32, 4)
}

/// 1 if both idents have the same value in a dimension, and it is set.
pub(super) fn same(exprs: &mut Exprs, label: LabelId, own: Id, peer: Id) -> Id {
    let [theirs, ours] = [peer, own].map(|ident| label_of(exprs, label, ident));
    equal_and_set(exprs, theirs, ours)
}

/// 1 if protocol and port are those an ident has by a name.
pub(super) fn calls(exprs: &mut Exprs, layout: Layout, name: PortId, ident: Id) -> Id {
    // As `maps::port_value` puts them together.
    let [protocol, port] =
        [Input::Protocol, Input::Port].map(|input| exprs.intern(Expr::Input(input)));
    let by = exprs.number(16);
    let upper = exprs.op(Op::Shl, true, protocol, by);
    let carried = exprs.op(Op::Or, true, upper, port);
    let record = record(exprs, ident);
    let offset = maps::RECORD_LABELS + 4 * (layout.n_labels + name.0);
    let known = exprs.load(record, offset as i32, 4);
    equal_and_set(exprs, known, carried)
}

/// Where a map has the value of a key, or 0.
fn lookup(exprs: &mut Exprs, map: &str, key: Vec<Slot>) -> Id {
    let map = exprs.intern(Expr::Map(map.to_owned()));
    exprs.intern(Expr::Value { map, key: Some(key) })
}

/// The only value of an array.
pub(super) fn only(exprs: &mut Exprs, map: &str) -> Id {
    let key = vec![(0, 4, exprs.number(0))];
    let found = lookup(exprs, map, key);
    exprs.intern(Expr::Found(found))
}

/// The ident that a map has.
fn ident_in(exprs: &mut Exprs, found: Id) -> Id {
    let found = exprs.intern(Expr::Found(found));
    exprs.load(found, 0, 2)
}

/// The ident of an IPv4 address, as [`maps::ADDRESSES4`] says.
fn ident4(exprs: &mut Exprs, wire: Id) -> Id {
    let addresses = only(exprs, maps::ADDRESSES4);
    let entry = |exprs: &mut Exprs, index: Id, from: u32| {
        let at = exprs.op(Op::Add, true, addresses, index);
        exprs.load(at, from as i32, 2)
    };
    let [one, root_bits, block_bits] =
        [1, 16, maps::BLOCK_BYTES.ilog2().into()].map(|n| exprs.number(n));
    let address = exprs.swap(4, wire);
    let root = exprs.op(Op::Shr, true, address, root_bits);
    let root = exprs.op(Op::Shl, true, root, one);
    let mut ident = entry(exprs, root, 0);
    for byte in [2, 3] {
        let block = exprs.low(ident, maps::BLOCKS4.ilog2());
        let block = exprs.op(Op::Shl, true, block, block_bits);
        let index = exprs.part(wire, byte, 1);
        let index = exprs.op(Op::Shl, true, index, one);
        let index = exprs.op(Op::Or, true, block, index);
        ident = entry(exprs, index, maps::ADDRESSES4_BLOCKS);
    }
    ident
}

/// The interface of an ident.
fn interface_of(exprs: &mut Exprs, ident: Id) -> Id {
    let idents = only(exprs, maps::IDENTS);
    let by = exprs.number(2);
    let index = exprs.op(Op::Shl, true, ident, by);
    let at = exprs.op(Op::Add, true, idents, index);
    exprs.load(at, maps::IDENT_INTERFACES as i32, 4)
}

/// The first class of an ident.
fn class_of(exprs: &mut Exprs, ident: Id, classes: u32) -> Id {
    let idents = only(exprs, maps::IDENTS);
    let by = exprs.number(3);
    let index = exprs.op(Op::Shl, true, ident, by);
    let at = exprs.op(Op::Add, true, idents, index);
    exprs.load(at, classes as i32, 2)
}

/// The record of an ident.
fn record(exprs: &mut Exprs, ident: Id) -> Id {
    let found = lookup(exprs, maps::RECORDS, vec![(0, 4, ident)]);
    exprs.intern(Expr::Found(found))
}

/// 1 if `a` is `b` and not 0, else 0.
fn equal_and_set(exprs: &mut Exprs, a: Id, b: Id) -> Id {
    let [zero, one] = [0, 1].map(|n| exprs.number(n));
    let mut equals = |a: Id, b: Id, [yes, no]: [Id; 2]| {
        let (left, right) = if a > b { (b, a) } else { (a, b) };
        exprs.intern(Expr::Select(Test { less: false, left, right }, yes, no))
    };
    let same = equals(a, b, [one, zero]);
    let set = equals(a, zero, [zero, one]);
    exprs.op(Op::And, true, same, set)
}
