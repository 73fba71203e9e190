//! The tree: one block per node, each field read once per root.

use super::identify::{Ends, peer_offset};
use super::{Notes, Program, Way};
use crate::ir::Stage;
use crate::tree::{Field, Node, NodeId, Tree};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, SourceLoc, Type, Value, types};
use cranelift_frontend::Variable;
use seg_artifact::maps;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that verdicts go to, with the counter noted.
#[derive(Clone, Copy)]
pub(super) struct Verdicts {
    pub(super) allow: Block,
    pub(super) deny: Block,
}

/// Goes to a verdict with its counter.
pub(super) fn emit(
    p: &mut Program<'_>,
    way: Way,
    [n_labels, n_ports]: [u32; 2],
    tree: &Tree,
    ends: Ends,
) -> Verdicts {
    let [allow, deny, ip4, ip6, managed4, managed6] = [(); 6].map(|()| p.block());
    let roots = tree.roots;
    let all = [roots.unmanaged4, roots.managed4, roots.unmanaged6, roots.managed6];
    let reached = reachable(tree, &all);
    let blocks: BTreeMap<NodeId, Block> = reached.iter().map(|&id| (id, p.block())).collect();
    let fields: BTreeSet<Field> = reached.iter().filter_map(|&id| field(tree, id)).collect();
    let variables: BTreeMap<Field, Variable> =
        fields.into_iter().map(|field| (field, p.b.declare_var(ty(field)))).collect();

    let family = p.load(types::I8, p.notes, Notes::FAMILY);
    p.leave_if(IntCC::Equal, family, 6, ip6);
    p.jump(ip4, &[]);
    for (family, managed, unmanaged_root, managed_root) in [
        (ip4, managed4, roots.unmanaged4, roots.managed4),
        (ip6, managed6, roots.unmanaged6, roots.managed6),
    ] {
        p.switch(family);
        p.b.seal_block(family);
        let of_packet = fields_below(tree, &[unmanaged_root, managed_root]);
        for field in of_packet.into_iter().filter(|&f| !of_record(f)) {
            let value = match field {
                Field::LocalPort(port) => calls(p, n_labels, n_ports, ends.local, port),
                _ => read_packet_field(p, way, field),
            };
            p.b.def_var(variables[&field], value);
        }
        p.b.ins().brif(ends.peer, managed, &[], blocks[&unmanaged_root], &[]);
        p.switch(managed);
        p.b.seal_block(managed);
        for field in fields_below(tree, &[managed_root]).into_iter().filter(|&f| of_record(f)) {
            let value = match field {
                Field::PeerPort(port) => calls(p, n_labels, n_ports, ends.peer, port),
                _ => read_record_field(p, n_labels, ends, field),
            };
            p.b.def_var(variables[&field], value);
        }
        p.jump(blocks[&managed_root], &[]);
    }

    // Children come before their parents in a tree, so that backwards every block's predecessors are complete.
    for &id in reached.iter().rev() {
        p.switch(blocks[&id]);
        p.b.seal_block(blocks[&id]);
        match tree.nodes[id.0 as usize] {
            Node::Compare { field, bound, below, above } => {
                assert!(below < id && above < id, "node {id:?} refers to a later one");
                p.stage(Stage::Decide);
                let value = p.b.use_var(variables[&field]);
                let bound = bound_of(p, field, bound);
                let condition = p.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, value, bound);
                p.branch(condition, blocks[&below], blocks[&above]);
            }
            Node::Leaf(leaf) => {
                assert!(!leaf.allow || leaf.rule().is_some(), "node {id:?} allows without a rule");
                p.b.set_srcloc(SourceLoc::new(match leaf.rule() {
                    Some(_) => leaf.counter,
                    None => Stage::Decide as u32,
                }));
                p.note_counter(leaf.counter);
                p.jump(if leaf.allow { allow } else { deny }, &[]);
            }
        }
    }
    Verdicts { allow, deny }
}

fn field(tree: &Tree, id: NodeId) -> Option<Field> {
    match tree.nodes[id.0 as usize] {
        Node::Compare { field, .. } => Some(field),
        Node::Leaf(_) => None,
    }
}

fn fields_below(tree: &Tree, roots: &[NodeId]) -> BTreeSet<Field> {
    reachable(tree, roots).into_iter().filter_map(|id| field(tree, id)).collect()
}

fn reachable(tree: &Tree, roots: &[NodeId]) -> BTreeSet<NodeId> {
    let mut reached = BTreeSet::new();
    let mut pending = roots.to_vec();
    while let Some(id) = pending.pop() {
        if !reached.insert(id) {
            continue;
        }
        if let Node::Compare { below, above, .. } = tree.nodes[id.0 as usize] {
            pending.extend([below, above]);
        }
    }
    reached
}

/// Whether the field is read from the peer's record; the others are the packet's, or of it and this end's record.
fn of_record(field: Field) -> bool {
    matches!(field, Field::PeerSelf | Field::PeerLabel(_) | Field::Same(_) | Field::PeerPort(_))
}

fn ty(field: Field) -> Type {
    match field {
        Field::PeerAddress6High
        | Field::PeerAddress6Low
        | Field::LocalAddress6High
        | Field::LocalAddress6Low => types::I64,
        Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::Same(_)
        | Field::PeerPort(_)
        | Field::LocalPort(_)
        | Field::PeerAddress4
        | Field::LocalAddress4
        | Field::Protocol
        | Field::Port
        | Field::SourcePort => types::I32,
    }
}

fn bound_of(p: &mut Program<'_>, field: Field, bound: u64) -> Value {
    let ty = ty(field);
    assert!(bound <= u64::MAX >> (64 - ty.bits()), "{bound} does not fit {field:?}");
    p.constant(ty, bound as i64)
}

/// Fields of the packet come from memory, not from what the parser compared: see the invariants of `program`.
fn read_packet_field(p: &mut Program<'_>, way: Way, field: Field) -> Value {
    let peer = peer_offset(way);
    let local = maps::CONNTRACK_DESTINATION as i32 - peer;
    let (ty, slot, offset) = match field {
        Field::PeerAddress4 => (types::I32, p.key, peer + 12),
        Field::LocalAddress4 => (types::I32, p.key, local + 12),
        Field::PeerAddress6High => (types::I64, p.key, peer),
        Field::PeerAddress6Low => (types::I64, p.key, peer + 8),
        Field::LocalAddress6High => (types::I64, p.key, local),
        Field::LocalAddress6Low => (types::I64, p.key, local + 8),
        Field::Protocol => (types::I8, p.key, maps::CONNTRACK_PROTOCOL as i32),
        Field::Port => (types::I16, p.notes, Notes::PORT),
        Field::SourcePort => (types::I16, p.notes, Notes::SOURCE_PORT),
        Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::Same(_)
        | Field::PeerPort(_)
        | Field::LocalPort(_) => unreachable!("{field:?} is no field of a packet"),
    };
    let value = p.load(ty, slot, offset);
    match ty {
        types::I8 | types::I16 => p.b.ins().uextend(types::I32, value),
        _ => p.b.ins().bswap(value),
    }
}

fn read_record_field(p: &mut Program<'_>, n_labels: u32, ends: Ends, field: Field) -> Value {
    let label = |dimension: u32| {
        assert!(dimension < n_labels, "there is no label dimension {dimension}");
        (maps::RECORD_LABELS + 4 * dimension) as i32
    };
    match field {
        Field::PeerSelf => {
            let flags = p.read(types::I32, ends.peer, maps::RECORD_FLAGS as i32);
            p.b.ins().band_imm_u(flags, i64::from(maps::FLAG_SELF))
        }
        Field::PeerLabel(dimension) => p.read(types::I32, ends.peer, label(dimension)),
        Field::Same(dimension) => {
            let peer = p.read(types::I32, ends.peer, label(dimension));
            let local = p.read(types::I32, ends.local, label(dimension));
            let same = p.b.ins().icmp(IntCC::Equal, peer, local);
            let set = p.b.ins().icmp_imm_u(IntCC::NotEqual, peer, 0);
            let both = p.b.ins().band(same, set);
            p.b.ins().uextend(types::I32, both)
        }
        Field::PeerAddress4
        | Field::LocalAddress4
        | Field::PeerAddress6High
        | Field::PeerAddress6Low
        | Field::LocalAddress6High
        | Field::LocalAddress6Low
        | Field::PeerPort(_)
        | Field::LocalPort(_)
        | Field::Protocol
        | Field::Port
        | Field::SourcePort => unreachable!("{field:?} is no field of a record"),
    }
}

/// 1 if protocol and port of the packet are those the record has by a name.
fn calls(p: &mut Program<'_>, n_labels: u32, n_ports: u32, record: Value, port: u32) -> Value {
    assert!(port < n_ports, "there is no named port {port}");
    let offset = maps::RECORD_LABELS + 4 * (n_labels + port);
    let known = p.read(types::I32, record, offset as i32);
    let protocol = p.load(types::I8, p.key, maps::CONNTRACK_PROTOCOL as i32);
    let protocol = p.b.ins().uextend(types::I32, protocol);
    let port = p.load(types::I16, p.notes, Notes::PORT);
    let port = p.b.ins().uextend(types::I32, port);
    // As in `maps::port_value`.
    let upper = p.b.ins().ishl_imm_u(protocol, 16);
    let carried = p.b.ins().bor(upper, port);
    let same = p.b.ins().icmp(IntCC::Equal, known, carried);
    // Protocol 0 has port 0, and a record without such a port holds 0.
    let set = p.b.ins().icmp_imm_u(IntCC::NotEqual, known, 0);
    let both = p.b.ins().band(same, set);
    p.b.ins().uextend(types::I32, both)
}
