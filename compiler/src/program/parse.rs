//! Headers: from a frame to the connection key and the notes, or to a reason. The table in spec.md is this file in words.

use super::{Kind, MAPPED_LOW, Notes, Program, protocol, skb};
use crate::ir::Stage;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, MemFlagsData, StackSlot, Value, types};
use seg_artifact::maps::{self, Reason};

/// How far into a frame a header may begin.
///
/// Unit: bytes from the start of the Ethernet header.
/// Source: spec.md; RFC 8504, section 5.3, lets nodes limit extension headers. Linux itself has no bound.
pub const TRANSPORT_OFFSET_MAX: i64 = 512;

/// IPv6 extension headers before the transport header. Linux refuses more than 8 options, not headers.
///
/// Unit: headers.
/// Source: spec.md.
pub const EXTENSIONS_MAX: i64 = 8;

/// The part of a frame programs may read: an ICMP error at the bound, the IPv4 header it quotes with all options, and the
/// eight bytes after that (RFC 792).
///
/// Unit: bytes from the start of the Ethernet header.
pub const PULL_BYTES: i64 = TRANSPORT_OFFSET_MAX + 8 + 60 + 8;

const ETHERNET_BYTES: i64 = 14;
const IPV4_BYTES: i64 = 20;
const IPV6_BYTES: i64 = 40;
const VLAN_BYTES: i64 = 4;
const VLAN_TAGS_MAX: i64 = 2;
const TCP_SYN: i64 = 0x02;
const TCP_ACK: i64 = 0x10;

/// A `u16` of the wire as a little-endian load reads it.
const fn wire(n: u16) -> i64 {
    n.swap_bytes() as i64
}

/// What the headers are read from, between two pulls.
struct Frame {
    data: Value,
    data_end: Value,
    /// Where to go if the frame may be longer than what can be read.
    short: Block,
    /// Where to go if the IP packet is too short.
    truncated: Block,
    /// Where to go with the transport header.
    transport: Block,
}

/// Ends with a reason, or goes on with key and notes filled; the source port is noted only if `source_port` says so.
pub(super) fn emit(p: &mut Program<'_>, source_port: bool) {
    p.stage(Stage::Parse);
    let start = p.block();
    p.store_constant(types::I64, 0, p.notes, Notes::PULLED);
    p.jump(start, &[]);

    p.switch(start);
    let (data, data_end) = p.data();
    let [short, truncated, transport] = [(); 3].map(|()| p.block());
    let frame = Frame { data, data_end, short, truncated, transport };
    let (ip4, ip6) = (p.block(), p.block());
    let at = ethernet(p, &frame, ip4, ip6);
    p.switch(ip4);
    ipv4(p, &frame, at);
    p.switch(ip6);
    ipv6(p, &frame, at);

    p.switch(short);
    let pulled = p.load(types::I64, p.notes, Notes::PULLED);
    p.end_if(IntCC::NotEqual, pulled, 0, Reason::Malformed);
    p.pull();
    p.store_constant(types::I64, 1, p.notes, Notes::PULLED);
    p.jump(start, &[]);

    p.switch(truncated);
    let fragment = p.load(types::I8, p.notes, Notes::FRAGMENT);
    p.end_if(IntCC::NotEqual, fragment, 0, Reason::Fragment);
    let malformed = p.reason(Reason::Malformed);
    p.jump(malformed, &[]);

    p.switch(transport);
    ports(p, &frame, source_port);
}

/// Goes to one of the blocks; the result, where the IP header begins, is theirs to use.
fn ethernet(p: &mut Program<'_>, frame: &Frame, ip4: Block, ip6: Block) -> Value {
    let tagged = p.block();
    let kind = p.b.append_block_param(tagged, types::I16);
    let at = p.b.append_block_param(tagged, types::I64);
    let mut offset = ETHERNET_BYTES;
    for n_tags in 0..=VLAN_TAGS_MAX {
        readable(p, frame, frame.data, offset);
        let kind = p.read(types::I16, frame.data, offset as i32 - 2);
        let vlan = p.block();
        // One tag more is not IP.
        if n_tags < VLAN_TAGS_MAX {
            p.leave_if(IntCC::Equal, kind, wire(0x8100), vlan);
            p.leave_if(IntCC::Equal, kind, wire(0x88a8), vlan);
        }
        let at = p.constant(types::I64, offset);
        p.jump(tagged, &[kind, at]);
        if n_tags < VLAN_TAGS_MAX {
            p.switch(vlan);
        }
        offset += VLAN_BYTES;
    }
    p.switch(tagged);
    p.leave_if(IntCC::Equal, kind, wire(0x0800), ip4);
    p.leave_if(IntCC::Equal, kind, wire(0x86dd), ip6);
    p.end_if(IntCC::Equal, kind, wire(0x0806), Reason::Arp);
    let other = p.reason(Reason::NotIp);
    p.jump(other, &[]);
    at
}

fn ipv4(p: &mut Program<'_>, frame: &Frame, at: Value) {
    let header = p.b.ins().iadd(frame.data, at);
    readable(p, frame, header, IPV4_BYTES);
    // Version 4 with at least five words is 0x45..=0x4f.
    let first = p.read_wide(types::I8, header, 0);
    let options = p.b.ins().iadd_imm_s(first, -0x45);
    p.end_if(IntCC::UnsignedGreaterThan, options, 10, Reason::Malformed);
    let words = p.b.ins().iadd_imm_u(options, 5);
    let bytes = p.b.ins().ishl_imm_u(words, 2);
    let total = p.read_network(types::I16, header, 2);
    p.end_if(IntCC::UnsignedLessThan, total, bytes, Reason::Malformed);
    extent(p, at, total);
    let fragment = p.read(types::I16, header, 6);
    let offset = p.b.ins().band_imm_u(fragment, wire(0x1fff));
    p.end_if(IntCC::NotEqual, offset, 0, Reason::Fragment);
    let flags = p.read(types::I8, header, 6);
    let more = p.b.ins().band_imm_u(flags, 0x20);
    p.store(more, p.notes, Notes::FRAGMENT);
    for (from, to) in [(12, maps::CONNTRACK_SOURCE), (16, maps::CONNTRACK_DESTINATION)] {
        let address = p.read(types::I32, header, from);
        mapped(p, address, p.key, to as i32);
    }
    p.store_constant(types::I64, 0, p.key, maps::CONNTRACK_SOURCE_PORT as i32);
    let next = p.read(types::I8, header, 9);
    p.store(next, p.key, maps::CONNTRACK_PROTOCOL as i32);
    p.end_if(IntCC::Equal, next, protocol::ICMP6, Reason::Malformed);
    p.store_constant(types::I8, 4, p.notes, Notes::FAMILY);
    let transport = p.b.ins().iadd(at, bytes);
    note_offset(p, transport, Notes::TRANSPORT);
    p.jump(frame.transport, &[]);
}

/// Stores an IPv4 address as [`maps::address_key`] does.
pub(super) fn mapped(p: &mut Program<'_>, address: Value, slot: StackSlot, offset: i32) {
    p.store_constant(types::I64, 0, slot, offset);
    p.store_constant(types::I32, MAPPED_LOW, slot, offset + 8);
    p.store(address, slot, offset + 12);
}

fn ipv6(p: &mut Program<'_>, frame: &Frame, at: Value) {
    let header = p.b.ins().iadd(frame.data, at);
    readable(p, frame, header, IPV6_BYTES);
    let version = p.read(types::I8, header, 0);
    let version = p.b.ins().band_imm_u(version, 0xf0);
    p.end_if(IntCC::NotEqual, version, 0x60, Reason::Malformed);
    let payload = p.read_network(types::I16, header, 4);
    let total = p.b.ins().iadd_imm_u(payload, IPV6_BYTES);
    extent(p, at, total);
    for (from, to) in [(8, maps::CONNTRACK_SOURCE), (24, maps::CONNTRACK_DESTINATION)] {
        let [high, low] = [0, 8].map(|half| {
            let value = p.read(types::I64, header, from + half);
            p.store(value, p.key, to as i32 + half);
            value
        });
        // One number, so that the verifier learns nothing about the key.
        let word = p.b.ins().ireduce(types::I32, low);
        let word = p.b.ins().bxor_imm_u(word, MAPPED_LOW);
        let word = p.b.ins().uextend(types::I64, word);
        let differs = p.b.ins().bor(high, word);
        p.end_if(IntCC::Equal, differs, 0, Reason::Malformed);
    }
    p.store_constant(types::I64, 0, p.key, maps::CONNTRACK_SOURCE_PORT as i32);
    p.store_constant(types::I8, 0, p.notes, Notes::FRAGMENT);
    p.store_constant(types::I8, 6, p.notes, Notes::FAMILY);
    let hops = p.read(types::I8, header, 7);
    p.store(hops, p.notes, Notes::HOPS);
    let next = p.read(types::I8, header, 6);
    p.store(next, p.key, maps::CONNTRACK_PROTOCOL as i32);
    let transport = p.b.ins().iadd_imm_u(at, IPV6_BYTES);
    note_offset(p, transport, Notes::TRANSPORT);
    extensions(p, frame);
}

/// Walks the chain of extension headers; position and next header are in the notes and the key.
///
/// INVARIANT: a turn of the loop has one way to the next. The verifier follows each way of each turn anew, so that a branch
/// for each kind of header would cost it ten thousand instructions for every program.
fn extensions(p: &mut Program<'_>, frame: &Frame) {
    let [header, last] = [(); 2].map(|()| p.block());
    let n_seen = p.b.append_block_param(header, types::I32);
    let none = p.constant(types::I32, 0);
    p.jump(header, &[none]);

    p.switch(header);
    let next = p.load_wide(types::I8, p.key, maps::CONNTRACK_PROTOCOL as i32);
    p.leave_if(IntCC::UnsignedGreaterThanOrEqual, next, 64, last);
    let extensions = [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::FRAGMENT,
        protocol::AH,
        protocol::DESTINATION,
    ];
    let set = p.constant(types::I64, extensions.iter().fold(0, |set, number| set | 1 << number));
    let shifted = p.b.ins().ushr(set, next);
    let is_extension = p.b.ins().band_imm_u(shifted, 1);
    p.leave_if(IntCC::Equal, is_extension, 0, last);

    p.end_if(IntCC::Equal, n_seen, EXTENSIONS_MAX, Reason::Extension);
    let eight = p.constant(types::I64, 8);
    let at = position(p, frame, Some(eight));
    let pointer = p.b.ins().iadd(frame.data, at);
    readable(p, frame, pointer, 8);
    let following = p.read(types::I8, pointer, 0);
    let [routing, fragment, ah] =
        [protocol::ROUTING, protocol::FRAGMENT, protocol::AH].map(|number| mask(p, next, number));
    let segments_left = p.read_wide(types::I8, pointer, 3);
    let segments_left = p.b.ins().band(segments_left, routing);
    p.end_if(IntCC::NotEqual, segments_left, 0, Reason::Extension);
    let offset = p.read_wide(types::I16, pointer, 2);
    let offset = p.b.ins().band_imm_u(offset, wire(0xfff8));
    let offset = p.b.ins().band(offset, fragment);
    p.end_if(IntCC::NotEqual, offset, 0, Reason::Fragment);
    let seen = p.load(types::I8, p.notes, Notes::FRAGMENT);
    let this = p.b.ins().ireduce(types::I8, fragment);
    let this = p.b.ins().band_imm_u(this, 1);
    let seen = p.b.ins().bor(seen, this);
    p.store(seen, p.notes, Notes::FRAGMENT);

    let length = p.read_wide(types::I8, pointer, 1);
    let words = p.b.ins().iadd_imm_u(length, 1);
    let bytes = p.b.ins().ishl_imm_u(words, 3);
    let words = p.b.ins().iadd_imm_u(length, 2);
    let ah_bytes = p.b.ins().ishl_imm_u(words, 2);
    let bytes = choose(p, ah, ah_bytes, bytes);
    let bytes = choose(p, fragment, eight, bytes);
    p.store(following, p.key, maps::CONNTRACK_PROTOCOL as i32);
    let transport = p.b.ins().iadd(at, bytes);
    note_offset(p, transport, Notes::TRANSPORT);
    let n_seen = p.b.ins().iadd_imm_u(n_seen, 1);
    p.jump(header, &[n_seen]);

    p.switch(last);
    p.end_if(IntCC::Equal, next, protocol::ICMP, Reason::Malformed);
    p.jump(frame.transport, &[]);
}

/// All bits if a number below 2^63 is another, else none; without a branch.
fn mask(p: &mut Program<'_>, value: Value, number: i64) -> Value {
    let differs = p.b.ins().bxor_imm_u(value, number);
    let borrows = p.b.ins().iadd_imm_s(differs, -1);
    p.b.ins().sshr_imm_u(borrows, 63)
}

/// One of two numbers by a [`mask`].
fn choose(p: &mut Program<'_>, mask: Value, all: Value, none: Value) -> Value {
    let differ = p.b.ins().bxor(all, none);
    let differ = p.b.ins().band(differ, mask);
    p.b.ins().bxor(none, differ)
}

/// Reads the transport header; goes on with ports, port and kind noted.
fn ports(p: &mut Program<'_>, frame: &Frame, source_port: bool) {
    let [sized, tcp, icmp, icmp6, echo, noted] = [(); 6].map(|()| p.block());
    let needed = p.b.append_block_param(sized, types::I64);
    let [echo_kind, noted_kind] = [echo, noted].map(|b| p.b.append_block_param(b, types::I8));
    let [echo_port, noted_port] = [echo, noted].map(|b| p.b.append_block_param(b, types::I32));
    let both = Kind::OPENS | Kind::REPLIES;

    let next = p.load(types::I8, p.key, maps::CONNTRACK_PROTOCOL as i32);
    for (number, bytes) in [
        (protocol::TCP, 20),
        (protocol::UDP, 8),
        (protocol::SCTP, 12),
        (protocol::ICMP, 8),
        (protocol::ICMP6, 8),
    ] {
        let bytes = p.constant(types::I64, bytes);
        leave_with(p, next, number, sized, &[bytes]);
    }
    position(p, frame, None);
    let none = p.constant(types::I32, 0);
    if source_port {
        note16(p, none, Notes::SOURCE_PORT);
    }
    let kind = noted_as(p, both);
    p.jump(noted, &[kind, none]);

    p.switch(sized);
    let at = position(p, frame, Some(needed));
    let header = p.b.ins().iadd(frame.data, at);
    readable(p, frame, header, 8);
    if source_port {
        note_code(p, header);
    }
    p.leave_if(IntCC::Equal, next, protocol::ICMP, icmp);
    p.leave_if(IntCC::Equal, next, protocol::ICMP6, icmp6);
    if source_port {
        note_source_port(p, header);
    }
    let pair = p.read(types::I32, header, 0);
    p.store(pair, p.key, maps::CONNTRACK_SOURCE_PORT as i32);
    let port = p.read(types::I16, header, 2);
    let port = p.b.ins().bswap(port);
    let port = p.b.ins().uextend(types::I32, port);
    p.leave_if(IntCC::Equal, next, protocol::TCP, tcp);
    let kind = noted_as(p, both);
    p.jump(noted, &[kind, port]);

    p.switch(tcp);
    readable(p, frame, header, 14);
    let words = p.read(types::I8, header, 12);
    p.end_if(IntCC::UnsignedLessThan, words, 0x50, Reason::Malformed);
    let flags = p.read(types::I8, header, 13);
    let flags = p.b.ins().band_imm_u(flags, TCP_SYN | TCP_ACK);
    let opening = p.b.ins().icmp_imm_u(IntCC::Equal, flags, TCP_SYN);
    let [opens, both] = [Kind::OPENS, both].map(|kind| noted_as(p, kind));
    let kind = p.b.ins().select(opening, opens, both);
    p.jump(noted, &[kind, port]);

    p.switch(icmp);
    let kind = p.read(types::I8, header, 0);
    let kind = p.b.ins().uextend(types::I32, kind);
    icmp_kind(p, kind, [8, 0], &[(3, 3), (11, 12)], [echo, noted]);

    p.switch(icmp6);
    let kind = p.read(types::I8, header, 0);
    let kind = p.b.ins().uextend(types::I32, kind);
    let policy = p.block();
    let from_first = p.b.ins().iadd_imm_s(kind, -133);
    p.leave_if(IntCC::UnsignedGreaterThan, from_first, 4, policy);
    let code = p.read(types::I8, header, 1);
    p.leave_if(IntCC::NotEqual, code, 0, policy);
    let hops = p.load(types::I8, p.notes, Notes::HOPS);
    p.leave_if(IntCC::NotEqual, hops, 255, policy);
    let fragment = p.load(types::I8, p.notes, Notes::FRAGMENT);
    p.leave_if(IntCC::NotEqual, fragment, 0, policy);
    let means = noted_as(p, Kind::DISCOVERY);
    p.jump(noted, &[means, kind]);
    p.switch(policy);
    icmp_kind(p, kind, [128, 129], &[(1, 4)], [echo, noted]);

    p.switch(echo);
    let identifier = p.read(types::I16, header, 4);
    p.store(identifier, p.key, maps::CONNTRACK_SOURCE_PORT as i32);
    p.store(identifier, p.key, maps::CONNTRACK_DESTINATION_PORT as i32);
    p.jump(noted, &[echo_kind, echo_port]);

    p.switch(noted);
    p.store(noted_kind, p.notes, Notes::KIND);
    note16(p, noted_port, Notes::PORT);
}

/// Notes the code of an ICMP message; of other headers the byte means nothing, and [`note_source_port`] replaces it.
fn note_code(p: &mut Program<'_>, header: Value) {
    let code = p.read(types::I8, header, 1);
    let code = p.b.ins().uextend(types::I32, code);
    note16(p, code, Notes::SOURCE_PORT);
}

fn note_source_port(p: &mut Program<'_>, header: Value) {
    let port = p.read(types::I16, header, 0);
    let port = p.b.ins().bswap(port);
    let port = p.b.ins().uextend(types::I32, port);
    note16(p, port, Notes::SOURCE_PORT);
}

/// Notes the lower 16 bits.
fn note16(p: &mut Program<'_>, value: Value, note: i32) {
    let notes = p.b.ins().stack_addr(types::I64, p.notes, 0);
    p.b.ins().istore16(MemFlagsData::new().with_notrap(), value, notes, note);
}

/// What an ICMP message may mean to connection state: `[request, reply]` of echo, and closed ranges of errors.
fn icmp_kind(
    p: &mut Program<'_>,
    kind: Value,
    [request, reply]: [i64; 2],
    errors: &[(i64, i64)],
    [echo, noted]: [Block; 2],
) {
    for (number, means) in [(request, Kind::OPENS), (reply, Kind::REPLIES)] {
        let means = noted_as(p, means);
        leave_with(p, kind, number, echo, &[means, kind]);
    }
    let error = p.block();
    for &(first, last) in errors {
        if first == last {
            p.leave_if(IntCC::Equal, kind, first, error);
            continue;
        }
        let from_first = p.b.ins().iadd_imm_s(kind, -first);
        p.leave_if(IntCC::UnsignedLessThanOrEqual, from_first, last - first, error);
    }
    let means = noted_as(p, 0);
    p.jump(noted, &[means, kind]);
    p.switch(error);
    let means = noted_as(p, Kind::ERROR);
    p.jump(noted, &[means, kind]);
}

fn noted_as(p: &mut Program<'_>, kind: i64) -> Value {
    p.constant(types::I8, Kind::NOTED | kind)
}

/// Goes elsewhere with arguments if `value` is `number`.
fn leave_with(p: &mut Program<'_>, value: Value, number: i64, to: Block, arguments: &[Value]) {
    let arguments: Vec<BlockArg> = arguments.iter().map(|&v| v.into()).collect();
    let is = p.b.ins().icmp_imm_u(IntCC::Equal, value, number);
    let not = p.block();
    p.b.ins().brif(is, to, &arguments, not, &[]);
    p.switch(not);
}

/// Notes where the IP packet that begins at `at` ends, if it is all there.
fn extent(p: &mut Program<'_>, at: Value, bytes: Value) {
    let end = p.b.ins().iadd(at, bytes);
    let len = p.read_wide(types::I32, p.skb, skb::LEN);
    p.end_if(IntCC::UnsignedGreaterThan, end, len, Reason::Malformed);
    note_offset(p, end, Notes::END);
}

fn note_offset(p: &mut Program<'_>, offset: Value, note: i32) {
    let notes = p.b.ins().stack_addr(types::I64, p.notes, 0);
    p.b.ins().istore32(MemFlagsData::new().with_notrap(), offset, notes, note);
}

/// Where the next header begins, if that is within bounds and the IP packet goes on for `needed` bytes from there.
fn position(p: &mut Program<'_>, frame: &Frame, needed: Option<Value>) -> Value {
    let at = p.load_wide(types::I32, p.notes, Notes::TRANSPORT);
    p.end_if(IntCC::UnsignedGreaterThan, at, TRANSPORT_OFFSET_MAX, Reason::Extension);
    let end = p.load_wide(types::I32, p.notes, Notes::END);
    let behind = needed.map_or(at, |needed| p.b.ins().iadd(at, needed));
    p.leave_if(IntCC::UnsignedGreaterThan, behind, end, frame.truncated);
    at
}

/// Makes sure that `bytes` from `pointer` on can be read.
fn readable(p: &mut Program<'_>, frame: &Frame, pointer: Value, bytes: i64) {
    let behind = p.b.ins().iadd_imm_u(pointer, bytes);
    p.leave_if(IntCC::UnsignedGreaterThan, behind, frame.data_end, frame.short);
}
