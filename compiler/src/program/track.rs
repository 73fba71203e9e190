//! Connection state: what allowed packets open, and which denied packets belong to it all the same.

use super::decide::Verdicts;
use super::identify::Ends;
use super::parse::{TRANSPORT_OFFSET_MAX, mapped};
use super::{DROP, Kind, Notes, PASS, Program, Way, protocol, skb};
use crate::ir::{Map, Stage, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, InstBuilder, MemFlagsData, StackSlot, StackSlotData, StackSlotKind, Value, types,
};
use seg_artifact::maps::{self, Reason};

const SOURCE: i32 = maps::CONNTRACK_SOURCE as i32;
const DESTINATION: i32 = maps::CONNTRACK_DESTINATION as i32;
const SOURCE_PORT: i32 = maps::CONNTRACK_SOURCE_PORT as i32;
const DESTINATION_PORT: i32 = maps::CONNTRACK_DESTINATION_PORT as i32;
const PROTOCOL: i32 = maps::CONNTRACK_PROTOCOL as i32;
const SEEN: i32 = maps::CONNTRACK_SEEN as i32;
const RULE: i32 = maps::CONNTRACK_RULE as i32;

/// Unit: nanoseconds.
const SECOND_NS: i64 = 1_000_000_000;
/// Bytes of an ICMP message before the packet it quotes.
const ICMP_BYTES: i64 = 8;

/// Acts on the verdicts.
pub(super) fn emit(p: &mut Program<'_>, way: Way, ends: Ends, verdicts: Verdicts) {
    p.stage(Stage::Track);
    let (touch, pass) = (p.block(), p.block());
    let [state, now] = [types::I64; 2].map(|ty| p.b.append_block_param(touch, ty));
    let sender = (way == Way::Inbound).then_some(ends);
    allow(p, verdicts.allow, sender, touch, pass);
    deny(p, verdicts.deny, touch);

    // Remembers that the connection is alive.
    p.switch(touch);
    let seen = p.read(types::I64, state, SEEN);
    let until = p.b.ins().iadd_imm_u(seen, maps::REFRESH_S as i64 * SECOND_NS);
    p.leave_if(IntCC::UnsignedGreaterThanOrEqual, until, now, pass);
    p.write(now, state, SEEN);
    p.jump(pass, &[]);
    p.switch(pass);
    p.end(PASS);
}

/// `sender` is given if another program of this node may have judged the packet before.
fn allow(p: &mut Program<'_>, block: Block, sender: Option<Ends>, touch: Block, pass: Block) {
    let [opens, new] = [(); 2].map(|()| p.block());
    p.switch(block);
    kind(p, Kind::OPENS, opens, pass);

    p.switch(opens);
    let now = now(p);
    let state = p.lookup(Map::Conntrack, p.key, 0);
    p.leave_if(IntCC::Equal, state, 0, new);
    p.jump(touch, &[state, now]);

    p.switch(new);
    if let Some(ends) = sender {
        check_way(p, ends);
    }
    let value = p.b.create_sized_stack_slot(StackSlotData::new(
        StackSlotKind::ExplicitSlot,
        maps::CONNTRACK_VALUE_BYTES,
        3,
    ));
    p.store(now, value, SEEN);
    let counter = p.load(types::I32, p.notes, Notes::COUNTER);
    let rule = p.b.ins().iadd_imm_s(counter, -i64::from(maps::RULE_COUNTERS));
    p.store(rule, value, RULE);
    p.store_constant(types::I32, 0, value, RULE + 4);
    let map = p.map(Map::Conntrack);
    let key = p.b.ins().stack_addr(types::I64, p.key, 0);
    let value = p.b.ins().stack_addr(types::I64, value, 0);
    let any = p.constant(types::I64, 0);
    p.call(helper::MAP_UPDATE_ELEM, &[map, key, value, any]);
    p.jump(pass, &[]);
}

/// A packet of an endpoint of this node has passed its program, which has noted the connection; at least it came by its interface.
/// One that did neither comes from a stranger who uses the address.
fn check_way(p: &mut Program<'_>, ends: Ends) {
    let genuine = p.block();
    let interface = ends.interface(p, ends.peer);
    // Negative is the machine itself, whose packets come by none.
    p.leave_if(IntCC::SignedLessThanOrEqual, interface, 0, genuine);
    let ingress = p.read(types::I32, p.skb, skb::INGRESS_IFINDEX);
    p.end_if(IntCC::NotEqual, ingress, interface, Reason::Spoofed);
    p.jump(genuine, &[]);
    p.switch(genuine);
}

/// Replies and errors look up the connection they belong to in [`Program::other`].
fn deny(p: &mut Program<'_>, block: Block, touch: Block) {
    let [reply, no_reply, error, look, replied, related, missed, reversed, drop] =
        [(); 9].map(|()| p.block());
    p.switch(block);
    kind(p, Kind::REPLIES, reply, no_reply);
    p.switch(no_reply);
    kind(p, Kind::ERROR, error, drop);

    p.switch(reply);
    reverse(p, p.key, p.other);
    p.jump(look, &[]);
    p.switch(error);
    quote(p, look, drop);

    p.switch(look);
    let now = now(p);
    let state = alive(p, p.other, now, missed);
    kind(p, Kind::REPLIES, replied, related);
    p.switch(replied);
    p.note_counter(Reason::Reply.counter());
    p.jump(touch, &[state, now]);

    // The quoted packet may have been a reply itself.
    p.switch(missed);
    kind(p, Kind::ERROR, reversed, drop);
    p.switch(reversed);
    reverse(p, p.other, p.key);
    alive(p, p.key, now, drop);
    p.jump(related, &[]);
    p.switch(related);
    let reason = p.reason(Reason::Related);
    p.jump(reason, &[]);

    p.switch(drop);
    p.end(DROP);
}

/// Goes to `look` with the connection of the packet an ICMP error quotes, if the error goes to whom sent that packet.
fn quote(p: &mut Program<'_>, look: Block, drop: Block) {
    let [ip4, transport, ports, echo] = [(); 4].map(|()| p.block());
    let at = p.b.append_block_param(transport, types::I64);
    p.pull();
    let (data, data_end) = p.data();
    let end = p.load_wide(types::I32, p.notes, Notes::END);
    let outer = p.load_wide(types::I32, p.notes, Notes::TRANSPORT);
    // The parser made sure of it; the verifier has forgotten.
    p.leave_if(IntCC::UnsignedGreaterThan, outer, TRANSPORT_OFFSET_MAX, drop);
    let inner = p.b.ins().iadd_imm_u(outer, ICMP_BYTES);
    let header = p.b.ins().iadd(data, inner);
    let within = |p: &mut Program<'_>, offset: Value, pointer: Value, bytes: i64| {
        let behind = p.b.ins().iadd_imm_u(offset, bytes);
        p.leave_if(IntCC::UnsignedGreaterThan, behind, end, drop);
        let behind = p.b.ins().iadd_imm_u(pointer, bytes);
        p.leave_if(IntCC::UnsignedGreaterThan, behind, data_end, drop);
    };
    let family = p.load(types::I8, p.notes, Notes::FAMILY);
    p.leave_if(IntCC::Equal, family, 4, ip4);

    within(p, inner, header, 40);
    let version = p.read(types::I8, header, 0);
    let version = p.b.ins().band_imm_u(version, 0xf0);
    p.leave_if(IntCC::NotEqual, version, 0x60, drop);
    for half in [0, 8] {
        let source = p.read(types::I64, header, 8 + half);
        let receiver = p.load(types::I64, p.key, DESTINATION + half);
        p.leave_if(IntCC::NotEqual, source, receiver, drop);
        p.store(source, p.other, SOURCE + half);
        let destination = p.read(types::I64, header, 24 + half);
        p.store(destination, p.other, DESTINATION + half);
    }
    let next = p.read_wide(types::I8, header, 6);
    store_protocol(p, next);
    let behind = p.b.ins().iadd_imm_u(inner, 40);
    p.jump(transport, &[behind]);

    p.switch(ip4);
    within(p, inner, header, 20);
    let first = p.read_wide(types::I8, header, 0);
    let options = p.b.ins().iadd_imm_s(first, -0x45);
    p.leave_if(IntCC::UnsignedGreaterThan, options, 10, drop);
    let fragment = p.read(types::I16, header, 6);
    let fragment = p.b.ins().band_imm_u(fragment, 0xff1f);
    p.leave_if(IntCC::NotEqual, fragment, 0, drop);
    let source = p.read(types::I32, header, 12);
    let receiver = p.load(types::I32, p.key, DESTINATION + 12);
    p.leave_if(IntCC::NotEqual, source, receiver, drop);
    mapped(p, source, p.other, SOURCE);
    let destination = p.read(types::I32, header, 16);
    mapped(p, destination, p.other, DESTINATION);
    let next = p.read_wide(types::I8, header, 9);
    store_protocol(p, next);
    let words = p.b.ins().iadd_imm_u(options, 5);
    let bytes = p.b.ins().ishl_imm_u(words, 2);
    let behind = p.b.ins().iadd(inner, bytes);
    p.jump(transport, &[behind]);

    p.switch(transport);
    let header = p.b.ins().iadd(data, at);
    within(p, at, header, 8);
    let next = p.load(types::I8, p.other, PROTOCOL);
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        p.leave_if(IntCC::Equal, next, number, ports);
    }
    let kind = p.read(types::I8, header, 0);
    // Echo request and reply differ in one bit: 8 and 0, 128 and 129.
    for (number, mask, echoes) in [(protocol::ICMP, 0xf7, 0), (protocol::ICMP6, 0xfe, 128)] {
        let other = p.block();
        p.leave_if(IntCC::NotEqual, next, number, other);
        let kind = p.b.ins().band_imm_u(kind, mask);
        p.leave_if(IntCC::Equal, kind, echoes, echo);
        p.jump(drop, &[]);
        p.switch(other);
    }
    p.jump(drop, &[]);

    p.switch(echo);
    let identifier = p.read(types::I16, header, 4);
    p.store(identifier, p.other, SOURCE_PORT);
    p.store(identifier, p.other, DESTINATION_PORT);
    p.jump(look, &[]);
    p.switch(ports);
    let pair = p.read(types::I32, header, 0);
    p.store(pair, p.other, SOURCE_PORT);
    p.jump(look, &[]);
}

/// Stores the protocol and the zeros behind it in [`Program::other`].
fn store_protocol(p: &mut Program<'_>, next: Value) {
    let other = p.b.ins().stack_addr(types::I64, p.other, 0);
    p.b.ins().istore32(MemFlagsData::new().with_notrap(), next, other, PROTOCOL);
}

/// Goes on with the state of a connection that is remembered and not idle for too long, else to `dead`.
fn alive(p: &mut Program<'_>, key: StackSlot, now: Value, dead: Block) -> Value {
    let state = p.lookup(Map::Conntrack, key, 0);
    p.leave_if(IntCC::Equal, state, 0, dead);
    let next = p.load(types::I8, key, PROTOCOL);
    let tcp = p.b.ins().icmp_imm_u(IntCC::Equal, next, protocol::TCP);
    let [tcp_idle, other_idle] =
        [maps::TCP_IDLE_S, maps::OTHER_IDLE_S].map(|idle| p.constant(types::I64, idle as i64));
    let idle = p.b.ins().select(tcp, tcp_idle, other_idle);
    let idle = p.b.ins().imul_imm_u(idle, SECOND_NS);
    // Added, not subtracted: another CPU may have seen a later time.
    let seen = p.read(types::I64, state, SEEN);
    let until = p.b.ins().iadd(seen, idle);
    p.leave_if(IntCC::UnsignedLessThan, until, now, dead);
    state
}

fn now(p: &mut Program<'_>) -> Value {
    p.call(helper::KTIME_GET_COARSE_NS, &[])
}

/// Goes to `yes` if a bit of [`Notes::KIND`] is set, else to `no`.
pub(super) fn kind(p: &mut Program<'_>, bit: i64, yes: Block, no: Block) {
    let kind = p.load(types::I8, p.notes, Notes::KIND);
    let kind = p.b.ins().band_imm_u(kind, bit);
    p.branch(kind, yes, no);
}

/// Stores the key of the same connection seen from the other end.
fn reverse(p: &mut Program<'_>, from: StackSlot, to: StackSlot) {
    for (ty, from_offset, to_offset) in [
        (types::I64, SOURCE, DESTINATION),
        (types::I64, SOURCE + 8, DESTINATION + 8),
        (types::I64, DESTINATION, SOURCE),
        (types::I64, DESTINATION + 8, SOURCE + 8),
        (types::I16, SOURCE_PORT, DESTINATION_PORT),
        (types::I16, DESTINATION_PORT, SOURCE_PORT),
        (types::I32, PROTOCOL, PROTOCOL),
    ] {
        let value = p.load(ty, from, from_offset);
        p.store(value, to, to_offset);
    }
}
