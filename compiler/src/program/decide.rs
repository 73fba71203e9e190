//! The trees: one block per node, each field read once per root.
//!
//! INVARIANT: trees in sequence share no value but the pointers to records. Each reads its fields again and leaves its answer
//! in memory that the kernel's verifier does not track, so that it follows the sum of the trees and not their product.

use super::identify::{Ends, peer_offset};
use super::{Layout, Notes, Program, Way};
use crate::ir::Stage;
use crate::tree::{Field, Leaf, Node, NodeId, Roots, Tree};
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

/// An answer of one tree among several, as 64 bits of a stack slot: the rank, then these 32 bits.
struct Answer;

impl Answer {
    /// Unit: bytes.
    const BYTES: u32 = 8;
    /// Where the rank is, and one more than it so that it is never zero.
    const RANK: i32 = 4;
    /// Keeps the lower half from being zero.
    const NOTED: u32 = 1 << 31;
    /// Whether it allows.
    const ALLOW: u32 = 1 << 30;
    /// The counter.
    const COUNTER: u32 = Self::ALLOW - 1;
}

/// Goes to a verdict with its counter: that of the tree, or the greatest of all trees.
pub(super) fn emit(
    p: &mut Program<'_>,
    way: Way,
    layout: Layout,
    trees: &[Tree],
    ends: Ends,
) -> Verdicts {
    let [allow, deny] = [(); 2].map(|()| p.block());
    if let [tree] = trees {
        emit_tree(p, way, layout, tree, ends, &|p, leaf| {
            p.note_counter(leaf.counter);
            p.jump(if leaf.allow { allow } else { deny }, &[]);
        });
        return Verdicts { allow, deny };
    }
    let offset = |index: usize| (index * Answer::BYTES as usize) as i32;
    let answers = p.slot(offset(trees.len()) as u32);
    for (index, tree) in trees.iter().enumerate() {
        let next = p.block();
        emit_tree(p, way, layout, tree, ends, &|p, leaf| {
            let verdict = if leaf.allow { Answer::ALLOW } else { 0 };
            assert!(leaf.counter <= Answer::COUNTER, "{leaf:?} has no counter");
            let noted = (Answer::NOTED | verdict | leaf.counter) as i32;
            // The upper half second: only a whole that is written in parts is forgotten.
            p.store_constant(types::I32, noted.into(), answers, offset(index));
            let rank = i64::from(leaf.rank) + 1;
            p.store_constant(types::I32, rank, answers, offset(index) + Answer::RANK);
            p.jump(next, &[]);
        });
        p.switch(next);
        p.b.seal_block(next);
    }
    p.stage(Stage::Decide);
    let mut greatest = p.load(types::I64, answers, 0);
    for index in 1..trees.len() {
        // Without a branch: the verifier would follow both ways to the end.
        let other = p.load(types::I64, answers, offset(index));
        let difference = p.b.ins().isub(greatest, other);
        let sign = p.b.ins().sshr_imm_u(difference, 63);
        let missing = p.b.ins().band(difference, sign);
        greatest = p.b.ins().isub(greatest, missing);
    }
    let counter = p.b.ins().band_imm_u(greatest, i64::from(Answer::COUNTER));
    let counter = p.b.ins().ireduce(types::I32, counter);
    p.store(counter, p.notes, Notes::COUNTER);
    let allowed = p.b.ins().band_imm_u(greatest, i64::from(Answer::ALLOW));
    p.branch(allowed, allow, deny);
    Verdicts { allow, deny }
}

/// Whether it matters who the ends are, beyond their addresses.
pub(crate) fn asks_who(tree: &Tree) -> bool {
    let Roots { unmanaged4, managed4, unmanaged6, managed6 } = tree.roots;
    let asks = |node: &Node| match node {
        Node::Compare { field, .. } => of_record(*field) || matches!(field, Field::LocalPort(_)),
        Node::Leaf(_) => false,
    };
    unmanaged4 != managed4 || unmanaged6 != managed6 || tree.nodes.iter().any(asks)
}

fn emit_tree(
    p: &mut Program<'_>,
    way: Way,
    layout: Layout,
    tree: &Tree,
    ends: Ends,
    answer: &dyn Fn(&mut Program<'_>, Leaf),
) {
    let [ip4, ip6, managed4, managed6] = [(); 4].map(|()| p.block());
    let roots = tree.roots;
    let all = [roots.unmanaged4, roots.managed4, roots.unmanaged6, roots.managed6];
    let reached = reachable(tree, &all);
    let blocks: BTreeMap<NodeId, Block> = reached.iter().map(|&id| (id, p.block())).collect();
    let fields: BTreeSet<Field> = reached.iter().filter_map(|&id| field(tree, id)).collect();
    let variables: BTreeMap<Field, Variable> =
        fields.into_iter().map(|field| (field, p.b.declare_var(ty(field)))).collect();

    p.leave_if_ip6(ip6);
    p.jump(ip4, &[]);
    for (family, managed, unmanaged_root, managed_root) in [
        (ip4, managed4, roots.unmanaged4, roots.managed4),
        (ip6, managed6, roots.unmanaged6, roots.managed6),
    ] {
        p.switch(family);
        p.b.seal_block(family);
        let of_packet = fields_below(tree, &[unmanaged_root, managed_root]);
        let of_peer = fields_below(tree, &[managed_root]);
        let asks_own = of_packet.iter().any(|f| matches!(f, Field::LocalPort(_)))
            || of_peer.iter().any(|f| matches!(f, Field::Same(_)));
        let own = asks_own.then(|| ends.record(p, ends.own));
        for field in of_packet.into_iter().filter(|&f| !of_record(f)) {
            let value = match (field, own) {
                (Field::LocalPort(port), Some(own)) => calls(p, layout, own, port),
                _ => read_packet_field(p, way, field),
            };
            p.b.def_var(variables[&field], value);
        }
        if unmanaged_root == managed_root {
            p.jump(managed, &[]);
        } else {
            let is_managed = ends.is_managed(p, ends.peer);
            p.b.ins().brif(is_managed, managed, &[], blocks[&unmanaged_root], &[]);
        }
        p.switch(managed);
        p.b.seal_block(managed);
        let elsewhere = |field| matches!(field, Field::PeerSelf | Field::PeerRole);
        let asks_peer = of_peer.iter().any(|&f| of_record(f) && !elsewhere(f));
        let peer = asks_peer.then(|| ends.record(p, ends.peer));
        for field in of_peer.into_iter().filter(|&f| of_record(f)) {
            let value = match (field, peer, own) {
                (Field::PeerPort(port), Some(peer), _) => calls(p, layout, peer, port),
                (Field::PeerLabel(dimension), Some(peer), _) => {
                    read_label(p, layout, peer, dimension)
                }
                (Field::Same(dimension), Some(peer), Some(own)) => {
                    same(p, layout, [peer, own], dimension)
                }
                (Field::PeerSelf, ..) => {
                    let interface = ends.interface(p, ends.peer);
                    p.b.ins().ushr_imm_u(interface, i64::from(maps::INTERFACE_SELF.ilog2()))
                }
                (Field::PeerRole, ..) => {
                    let classes = match way {
                        Way::Outbound => maps::IDENT_DESTINATIONS,
                        Way::Inbound => maps::IDENT_SOURCES,
                    };
                    ends.class(p, ends.peer, classes)
                }
                _ => unreachable!("{field:?} is no field of a record that was looked up"),
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
                answer(p, leaf);
            }
        }
    }
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

/// Whether the field is of the peer as an endpoint; the others are the packet's, or of it and this end's record.
fn of_record(field: Field) -> bool {
    match field {
        Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::PeerRole
        | Field::Same(_)
        | Field::PeerPort(_) => true,
        Field::LocalPort(_)
        | Field::PeerAddress4
        | Field::LocalAddress4
        | Field::PeerAddress6High
        | Field::PeerAddress6Low
        | Field::LocalAddress6High
        | Field::LocalAddress6Low
        | Field::Protocol
        | Field::Port
        | Field::SourcePort => false,
    }
}

fn ty(field: Field) -> Type {
    match field {
        Field::PeerAddress6High
        | Field::PeerAddress6Low
        | Field::LocalAddress6High
        | Field::LocalAddress6Low => types::I64,
        Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::PeerRole
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
    let value = match field {
        Field::PeerAddress4 => p.key(types::I32, peer + 12),
        Field::LocalAddress4 => p.key(types::I32, local + 12),
        Field::PeerAddress6High => p.key(types::I64, peer),
        Field::PeerAddress6Low => p.key(types::I64, peer + 8),
        Field::LocalAddress6High => p.key(types::I64, local),
        Field::LocalAddress6Low => p.key(types::I64, local + 8),
        Field::Protocol => p.key(types::I8, maps::CONNTRACK_PROTOCOL as i32),
        Field::Port => p.port(Notes::PORT),
        Field::SourcePort => p.port(Notes::SOURCE_PORT),
        Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::PeerRole
        | Field::Same(_)
        | Field::PeerPort(_)
        | Field::LocalPort(_) => unreachable!("{field:?} is no field of a packet"),
    };
    match p.b.func.dfg.value_type(value) {
        types::I8 | types::I16 => p.b.ins().uextend(types::I32, value),
        _ => p.b.ins().bswap(value),
    }
}

fn read_label(p: &mut Program<'_>, layout: Layout, record: Value, dimension: u32) -> Value {
    assert!(dimension < layout.n_labels, "there is no label dimension {dimension}");
    p.read(types::I32, record, (maps::RECORD_LABELS + 4 * dimension) as i32)
}

/// 1 if both records have a value in the dimension, and the same one.
pub(super) fn same(
    p: &mut Program<'_>,
    layout: Layout,
    records: [Value; 2],
    dimension: u32,
) -> Value {
    let [peer, own] = records.map(|record| read_label(p, layout, record, dimension));
    let same = p.b.ins().icmp(IntCC::Equal, peer, own);
    let set = p.b.ins().icmp_imm_u(IntCC::NotEqual, peer, 0);
    let both = p.b.ins().band(same, set);
    p.b.ins().uextend(types::I32, both)
}

/// 1 if protocol and port of the packet are those the record has by a name.
pub(super) fn calls(p: &mut Program<'_>, layout: Layout, record: Value, port: u32) -> Value {
    assert!(port < layout.n_ports, "there is no named port {port}");
    let offset = maps::RECORD_LABELS + 4 * (layout.n_labels + port);
    let known = p.read(types::I32, record, offset as i32);
    let protocol = p.key(types::I8, maps::CONNTRACK_PROTOCOL as i32);
    let protocol = p.b.ins().uextend(types::I32, protocol);
    let port = p.port(Notes::PORT);
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
