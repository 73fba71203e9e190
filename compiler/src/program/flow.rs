//! Flows in memory: what the parser would have made of the first packet.

use super::{MAPPED_LOW, Notes, Program};
use crate::ir::Stage;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};
use seg_artifact::maps;

/// Goes on with key and notes filled; the source port is noted only if `source_port` says so.
pub(super) fn emit(p: &mut Program<'_>, source_port: bool) {
    p.stage(Stage::Parse);
    for at in (0..maps::CONNTRACK_KEY_BYTES as i32).step_by(8) {
        let word = p.read(types::I64, p.skb, at);
        p.store(word, p.key, at);
    }
    let port = |p: &mut Program<'_>, from: u32, note: i32| {
        let port = p.read(types::I16, p.skb, from as i32);
        let port = p.b.ins().bswap(port);
        p.store(port, p.notes, note);
    };
    port(p, maps::CONNTRACK_DESTINATION_PORT, Notes::PORT);
    if source_port {
        port(p, maps::CONNTRACK_SOURCE_PORT, Notes::SOURCE_PORT);
    }
    let [ip6, known] = [(); 2].map(|()| p.block());
    let upper = p.read(types::I64, p.skb, maps::CONNTRACK_SOURCE as i32);
    p.leave_if(IntCC::NotEqual, upper, 0, ip6);
    let prefix = p.read(types::I32, p.skb, maps::CONNTRACK_SOURCE as i32 + 8);
    p.leave_if(IntCC::NotEqual, prefix, MAPPED_LOW, ip6);
    p.store_constant(types::I8, 4, p.notes, Notes::FAMILY);
    p.jump(known, &[]);
    p.switch(ip6);
    p.store_constant(types::I8, 6, p.notes, Notes::FAMILY);
    p.jump(known, &[]);
    p.switch(known);
}
