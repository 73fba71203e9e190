//! Who the ends of a packet are: the records of the local endpoint and of its peer.

use super::track::kind;
use super::{Kind, MAPPED_LOW, Notes, Program, Way, skb};
use crate::ir::{Map, Stage};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, Value, types};
use seg_artifact::maps::{self, Reason};

/// Pointers to records.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// The local endpoint's.
    pub(super) local: Value,
    /// The peer's, or 0.
    pub(super) peer: Value,
}

/// Ends with a reason if the packet is not from whom it says or not for whom it reached, or goes on with both ends.
pub(super) fn emit(p: &mut Program<'_>, way: Way) -> Ends {
    p.stage(Stage::Identify);
    let discovery = p.reason(Reason::NeighbourDiscovery);
    let [no_discovery, judged] = [(); 2].map(|()| p.block());
    if way == Way::Inbound {
        // Its hop limit says that no router has passed it on.
        kind(p, Kind::DISCOVERY, discovery, no_discovery);
        p.switch(no_discovery);
    }
    let ifindex = p.read(types::I32, p.skb, skb::IFINDEX);
    p.store(ifindex, p.notes, Notes::IFINDEX);
    let local = p.lookup(Map::Local, p.notes, Notes::IFINDEX);
    p.end_if(IntCC::Equal, local, 0, Reason::Spoofed);
    check_own_address(p, way, local);
    if way == Way::Outbound {
        kind(p, Kind::DISCOVERY, no_discovery, judged);
        p.switch(no_discovery);
        leave_if_on_link(p, discovery);
        p.jump(judged, &[]);
        p.switch(judged);
    }
    let peer = p.lookup(Map::Endpoints, p.key, peer_offset(way));
    Ends { local, peer }
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

/// The local end's address must not be another endpoint's. One that no endpoint has may be a destination, such as a group;
/// as a source only what hosts without an address use may stand there: `0.0.0.0`, `::`, `fe80::/10`.
fn check_own_address(p: &mut Program<'_>, way: Way, local: Value) {
    let [unknown, passes] = [(); 2].map(|()| p.block());
    let own = maps::CONNTRACK_DESTINATION as i32 - peer_offset(way);
    let record = p.lookup(Map::Endpoints, p.key, own);
    p.leave_if(IntCC::Equal, record, 0, unknown);
    let [claimed, actual] =
        [record, local].map(|r| p.read(types::I32, r, maps::RECORD_ENDPOINT as i32));
    p.end_if(IntCC::NotEqual, claimed, actual, Reason::Spoofed);
    p.jump(passes, &[]);

    p.switch(unknown);
    if way == Way::Outbound {
        let first = p.load(types::I16, p.key, own);
        let prefix = p.b.ins().band_imm_u(first, 0xc0ff);
        p.leave_if(IntCC::Equal, prefix, 0x80fe, passes);
        let [w0, w1, w2, w3] = [0, 4, 8, 12].map(|word| p.load(types::I32, p.key, own + word));
        let upper = p.b.ins().bor(w0, w1);
        let outer = p.b.ins().bor(upper, w3);
        p.end_if(IntCC::NotEqual, outer, 0, Reason::Spoofed);
        p.leave_if(IntCC::Equal, w2, 0, passes);
        p.end_if(IntCC::NotEqual, w2, MAPPED_LOW, Reason::Spoofed);
    }
    p.jump(passes, &[]);

    p.switch(passes);
}
