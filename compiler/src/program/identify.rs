//! Who the ends of a packet are: an ident for each, all that is known of an address.
//!
//! An IPv4 address leads to its ident through three loads without a branch; both ends' go side by side.

use super::track::kind;
use super::{Kind, MAPPED_LOW, Notes, Program, Way, lookup, skb};
use crate::ir::{Map, Stage};
use crate::layout::Nets6;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Value, types};
use seg_artifact::maps::{self, Reason};

/// What is known of both ends.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// The local endpoint's ident, as `i64`.
    pub(super) own: Value,
    /// The peer's.
    pub(super) peer: Value,
    /// Pointer to the value of [`Map::Idents`].
    pub(super) idents: Value,
    /// The idents above are those of endpoints.
    n_nets: u16,
}

impl Ends {
    /// Whether an ident is an endpoint's.
    pub(super) fn is_managed(self, p: &mut Program<'_>, ident: Value) -> Value {
        is_managed(p, ident, self.n_nets)
    }

    /// By which interface packets of an ident come, with [`maps::INTERFACE_SELF`].
    pub(super) fn interface(self, p: &mut Program<'_>, ident: Value) -> Value {
        interface(p, self.idents, ident)
    }

    /// A class of an ident, as `i32`; `offset` is where that of ident 0 is in the value of [`Map::Idents`].
    pub(super) fn class(self, p: &mut Program<'_>, ident: Value, offset: u32) -> Value {
        let index = p.b.ins().ishl_imm_u(ident, 3);
        let entry = p.b.ins().iadd(self.idents, index);
        let entry = p.b.ins().iadd_imm_u(entry, i64::from(offset));
        let class = p.read(types::I16, entry, 0);
        p.b.ins().uextend(types::I32, class)
    }

    /// Pointer to the record of an endpoint.
    pub(super) fn record(self, p: &mut Program<'_>, ident: Value) -> Value {
        store32(p, ident, Notes::INDEX);
        let record = p.lookup(Map::Records, p.notes, Notes::INDEX);
        // `segd` gives no ident that has no record.
        p.end_if(IntCC::Equal, record, 0, Reason::Spoofed);
        record
    }
}

/// Ends with a reason if the packet is not from whom it says or not for whom it reached, or goes on with both ends.
pub(super) fn emit(p: &mut Program<'_>, way: Way, n_nets: u16, nets6: Option<Nets6>) -> Ends {
    p.stage(Stage::Identify);
    let discovery = p.reason(Reason::NeighbourDiscovery);
    let [no_discovery, judged] = [(); 2].map(|()| p.block());
    if way == Way::Inbound {
        // Its hop limit says that no router has passed it on.
        kind(p, Kind::DISCOVERY, discovery, no_discovery);
        p.switch(no_discovery);
    }
    idents_of_addresses(p, way, nets6);
    let idents = p.only_value(Map::Idents);
    check_own_address(p, way, idents, n_nets);
    if way == Way::Outbound {
        kind(p, Kind::DISCOVERY, no_discovery, judged);
        p.switch(no_discovery);
        leave_if_on_link(p, discovery);
        p.jump(judged, &[]);
        p.switch(judged);
    }
    let [own, peer] = [Notes::OWN, Notes::PEER].map(|note| noted(p, note));
    Ends { own, peer, idents, n_nets }
}

/// Both ends by their addresses alone.
pub(super) fn who(p: &mut Program<'_>, way: Way, n_nets: u16, nets6: Option<Nets6>) -> Ends {
    p.stage(Stage::Identify);
    let [own, peer] = idents_of_addresses(p, way, nets6).expect("those of a flow are values");
    let idents = p.only_value(Map::Idents);
    Ends { own, peer, idents, n_nets }
}

/// Ends nobody asks about.
pub(super) fn nobody(p: &mut Program<'_>, n_nets: u16) -> Ends {
    let none = p.constant(types::I64, 0);
    Ends { own: none, peer: none, idents: none, n_nets }
}

/// The ident of each end's address, this end's first, of a flow. Those of a packet are noted instead, so that it is forgotten
/// how they were found.
fn idents_of_addresses(p: &mut Program<'_>, way: Way, nets6: Option<Nets6>) -> Option<[Value; 2]> {
    let [ip6, done] = [(); 2].map(|()| p.block());
    let ends = p.flow.map(|_| [(); 2].map(|()| p.b.append_block_param(done, types::I64)));
    p.leave_if_ip6(ip6);
    let peer = peer_offset(way);
    let own = maps::CONNTRACK_DESTINATION as i32 - peer;
    let addresses = p.only_value(Map::Addresses4);
    let sides = [(own, Notes::OWN), (peer, Notes::PEER)];
    let idents = sides.map(|(address, note)| {
        let ident = ident4(p, addresses, address + 12);
        kept(p, ident, note)
    });
    let idents: Vec<Value> = idents.into_iter().flatten().collect();
    p.jump(done, &idents);

    p.switch(ip6);
    let idents = sides.map(|(address, note)| {
        let [known, unknown, found] = [(); 3].map(|()| p.block());
        let ident = p.flow.map(|_| p.b.append_block_param(found, types::I64));
        let key = p.key_at(address);
        let value = p.lookup_at(Map::Addresses6, key);
        p.branch(value, known, unknown);
        p.switch(known);
        let of_endpoint = p.read_wide(types::I16, value, 0);
        let of_endpoint = kept(p, of_endpoint, note);
        p.jump(found, of_endpoint.as_slice());
        p.switch(unknown);
        let of_net = match nets6 {
            Some(nets) => net6(p, nets, address),
            None => p.constant(types::I64, 0),
        };
        let of_net = kept(p, of_net, note);
        p.jump(found, of_net.as_slice());
        p.switch(found);
        ident
    });
    let idents: Vec<Value> = idents.into_iter().flatten().collect();
    p.jump(done, &idents);
    p.switch(done);
    ends
}

/// The ident of an end of a flow; that of a packet is noted.
fn kept(p: &mut Program<'_>, ident: Value, note: i32) -> Option<Value> {
    if p.flow.is_none() {
        note_ident(p, ident, note);
    }
    p.flow.map(|_| ident)
}

/// The ident of the IPv4 address at an offset of the connection key.
fn ident4(p: &mut Program<'_>, addresses: Value, address: i32) -> Value {
    let root = p.key(types::I32, address);
    let root = p.b.ins().bswap(root);
    let root = p.b.ins().ushr_imm_u(root, 16);
    let root = p.b.ins().uextend(types::I64, root);
    let index = p.b.ins().ishl_imm_u(root, 1);
    let entry = p.b.ins().iadd(addresses, index);
    let mut block = p.read_wide(types::I16, entry, 0);
    for byte in [2, 3] {
        // Blocks have smaller numbers; the verifier has to see it.
        let number = p.b.ins().band_imm_u(block, i64::from(maps::BLOCKS4 - 1));
        let start = p.b.ins().ishl_imm_u(number, i64::from(maps::BLOCK_BYTES.ilog2()));
        let index = p.key(types::I8, address + byte);
        let index = p.b.ins().uextend(types::I64, index);
        let index = p.b.ins().ishl_imm_u(index, 1);
        // Older verifiers lose the bounds of what `or` makes.
        let offset = p.b.ins().iadd(start, index);
        let entry = p.b.ins().iadd(addresses, offset);
        let entry = p.b.ins().iadd_imm_u(entry, i64::from(maps::ADDRESSES4_BLOCKS));
        block = p.read_wide(types::I16, entry, 0);
    }
    block
}

/// The ident of an IPv6 address that no endpoint has: the last range that does not begin behind it, found by halving.
///
/// How far the search has come goes through a note, so that the verifier does not follow every way it may take.
fn net6(p: &mut Program<'_>, nets: Nets6, address: i32) -> Value {
    let none = p.constant(types::I64, 0);
    note_ident(p, none, Notes::SEARCH);
    let mut step = nets.idents.mask.div_ceil(2);
    while step > 0 {
        let [equal, further, tried] = [(); 3].map(|()| p.block());
        let at = noted(p, Notes::SEARCH);
        let candidate = p.b.ins().iadd_imm_u(at, i64::from(step));
        let [upper, lower] = [0, 8].map(|half| {
            let half = p.key(types::I64, address + half);
            p.b.ins().bswap(half)
        });
        let first = lookup::entry(p, types::I64, nets.upper, candidate);
        p.leave_if(IntCC::UnsignedGreaterThan, upper, first, further);
        p.leave_if(IntCC::Equal, upper, first, equal);
        p.jump(tried, &[]);
        p.switch(equal);
        let first = lookup::entry(p, types::I64, nets.lower, candidate);
        p.leave_if(IntCC::UnsignedGreaterThanOrEqual, lower, first, further);
        p.jump(tried, &[]);
        p.switch(further);
        note_ident(p, candidate, Notes::SEARCH);
        p.jump(tried, &[]);
        p.switch(tried);
        step /= 2;
    }
    let at = noted(p, Notes::SEARCH);
    lookup::entry(p, types::I16, nets.idents, at)
}

fn note_ident(p: &mut Program<'_>, ident: Value, note: i32) {
    let kept = p.b.ins().bor_imm_u(ident, Notes::NOT_ZERO);
    store32(p, kept, note);
}

/// Notes the low half of an `i64`.
fn store32(p: &mut Program<'_>, value: Value, note: i32) {
    let notes = p.b.ins().stack_addr(types::I64, p.notes, 0);
    p.b.ins().istore32(MemFlagsData::new().with_notrap(), value, notes, note);
}

fn noted(p: &mut Program<'_>, note: i32) -> Value {
    p.load_wide(types::I16, p.notes, note)
}

fn is_managed(p: &mut Program<'_>, ident: Value, n_nets: u16) -> Value {
    p.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, ident, i64::from(n_nets))
}

fn interface(p: &mut Program<'_>, idents: Value, ident: Value) -> Value {
    let index = p.b.ins().ishl_imm_u(ident, 2);
    let entry = p.b.ins().iadd(idents, index);
    let entry = p.b.ins().iadd_imm_u(entry, i64::from(maps::IDENT_INTERFACES));
    p.read(types::I32, entry, 0)
}

/// Goes to `on_link` if the destination is a group or in the /64 of the source, or if one of both is link-local, which no router
/// passes on (RFC 4291, section 2.5.6). Others are passed on as any packet, and would be a way out beside policy.
fn leave_if_on_link(p: &mut Program<'_>, on_link: Block) {
    let [source, destination] = [maps::CONNTRACK_SOURCE as i32, maps::CONNTRACK_DESTINATION as i32];
    for (end, mask, prefix) in
        [(destination, 0xff, 0xff), (destination, 0xc0ff, 0x80fe), (source, 0xc0ff, 0x80fe)]
    {
        let first = p.load(types::I16, p.key, end);
        let first = p.b.ins().band_imm_u(first, mask);
        p.leave_if(IntCC::Equal, first, prefix, on_link);
    }
    let [source, destination] = [source, destination].map(|end| p.load(types::I64, p.key, end));
    p.leave_if(IntCC::Equal, source, destination, on_link);
}

/// Where in the connection key the peer's address is.
pub(super) fn peer_offset(way: Way) -> i32 {
    match way {
        Way::Outbound => maps::CONNTRACK_DESTINATION as i32,
        Way::Inbound => maps::CONNTRACK_SOURCE as i32,
    }
}

/// The local end's address must be of the endpoint behind the interface, or of none. One that no endpoint has may be a
/// destination, such as a group; as a source only what hosts without an address use may stand there: `0.0.0.0`, `::`,
/// `fe80::/10`. Then the interface says who it is.
fn check_own_address(p: &mut Program<'_>, way: Way, idents: Value, n_nets: u16) {
    let [known, unknown, hidden, passes] = [(); 4].map(|()| p.block());
    let address = maps::CONNTRACK_DESTINATION as i32 - peer_offset(way);
    let ident = noted(p, Notes::OWN);
    let ifindex = p.read(types::I32, p.skb, skb::IFINDEX);
    let managed = is_managed(p, ident, n_nets);
    p.branch(managed, known, unknown);

    p.switch(known);
    let right = interface(p, idents, ident);
    let right = p.b.ins().band_imm_u(right, i64::from(maps::INTERFACE_SELF - 1));
    p.end_if(IntCC::NotEqual, right, ifindex, Reason::Spoofed);
    p.jump(passes, &[]);

    p.switch(unknown);
    if way == Way::Outbound {
        let first = p.load(types::I16, p.key, address);
        let prefix = p.b.ins().band_imm_u(first, 0xc0ff);
        p.leave_if(IntCC::Equal, prefix, 0x80fe, hidden);
        let [w0, w1, w2, w3] = [0, 4, 8, 12].map(|word| p.load(types::I32, p.key, address + word));
        let upper = p.b.ins().bor(w0, w1);
        let outer = p.b.ins().bor(upper, w3);
        p.end_if(IntCC::NotEqual, outer, 0, Reason::Spoofed);
        p.leave_if(IntCC::Equal, w2, 0, hidden);
        p.end_if(IntCC::NotEqual, w2, MAPPED_LOW, Reason::Spoofed);
    }
    p.jump(hidden, &[]);

    p.switch(hidden);
    p.store(ifindex, p.notes, Notes::IFINDEX);
    store32(p, ident, Notes::NET);
    let found = p.lookup(Map::Local, p.notes, Notes::IFINDEX);
    p.end_if(IntCC::Equal, found, 0, Reason::Spoofed);
    let ident = p.read_wide(types::I16, found, 0);
    note_ident(p, ident, Notes::OWN);
    p.jump(passes, &[]);

    p.switch(passes);
}
