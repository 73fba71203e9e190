//! The packet program of one role in one direction, as CLIF.
//!
//! ```text
//!  frame -> (parse) flow, or a reason -> (identify) both ends -> (decide) verdict -> (track) connection -> (count) one counter
//! ```
//!
//! INVARIANTS, for every function built here:
//! - A packet pointer is one SSA value. It is compared with `data_end` and read through that value, never recomputed.
//! - No packet pointer lives across `bpf_skb_pull_data`; both ends of the data are loaded again.
//! - Loads from the context are not `readonly`; there are no traps, divisions or 128-bit values.
//! - What the parser learns, and who the ends are, goes through `Notes`, so that the kernel's verifier forgets the path it came by:
//!   bytes at offsets that are no multiple of 8 are not tracked as values, unless they are zero.
//!   Without this every way through the headers would be a new state in which the whole tree is verified again.
//! - Exactly one counter moves per packet.
//!
//! Machines are little-endian, as is every kernel this compiles for.

mod parse;
mod identify;
mod decide;
mod lookup;
mod track;

use crate::ir::{self, Map, Stage, helper};
use crate::layout::Nets6;
use crate::tables::Bit;
use crate::tree::{Field, Node, Tree};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, GlobalValue,
    GlobalValueData, InstBuilder, MemFlagsData, Signature, SourceLoc, StackSlot, StackSlotData,
    StackSlotKind, Type, UserFuncName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::settings;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use seg_artifact::maps::{self, Reason};
use std::collections::BTreeMap;

use decide::Verdicts;
use identify::Ends;
use lookup::Lookup;

pub(crate) use decide::asks_who;

pub use parse::{EXTENSIONS_MAX, PULL_BYTES, TRANSPORT_OFFSET_MAX};

/// `TC_ACT_UNSPEC`: the packet passes here, the next program decides. Source: uapi/linux/pkt_cls.h.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`: the packet is dropped.
pub const DROP: i32 = 2;

/// Which end of its packets is the local endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Packets come from the local endpoint.
    Outbound,
    /// Packets go to the local endpoint.
    Inbound,
}

impl Way {
    /// The way of the other end's packets.
    pub fn opposite(self) -> Self {
        match self {
            Self::Outbound => Self::Inbound,
            Self::Inbound => Self::Outbound,
        }
    }
}

/// What the manifest says of records and idents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Label dimensions in a record.
    pub n_labels: u32,
    /// Named ports in a record.
    pub n_ports: u32,
    /// Nets; the idents above are those of endpoints.
    pub n_nets: u16,
}

impl Layout {
    /// How many values a record has.
    pub fn n_values(self) -> u32 {
        self.n_labels + self.n_ports
    }
}

/// What a program decides by.
#[derive(Clone, Copy, Debug)]
pub enum Judge<'a> {
    /// Comparisons: trees in sequence, as [`Tree::eval_all`] says.
    Trees(&'a [Tree]),
    /// Tables, and what the lower bits of their columns say.
    Tables(&'a crate::layout::Layout, &'a [Bit]),
}

/// Builds the program that judges packets by `judge`.
///
/// Cost: linear in the nodes of a tree; tables cost the same whatever they hold.
///
/// # Panics
/// If there is no tree, or one breaks its invariants, names a dimension or port the manifest does not have, or allows without a rule: a bug of who built it.
pub fn build(name: &str, way: Way, layout: Layout, judge: Judge<'_>) -> Function {
    function(name, |program| {
        parse::emit(program, judge.source_port());
        let ends = identify::emit(program, way, layout.n_nets, judge.nets6());
        let verdicts = judge.emit(program, way, layout, ends);
        track::emit(program, way, ends, verdicts);
        program.finish();
    })
}

/// Builds the decision alone, for flows rather than packets: `(i64) -> i32`, from a pointer to a flow to
/// `counter << 1 | allow`.
///
/// A flow has the form of a connection key, [`maps::CONNTRACK_KEY_BYTES`], whose ports may also be an ICMP type and code.
/// Its ends are who their addresses say. The local one is the source on the way out.
///
/// # Panics
/// As [`build`].
pub fn decision(name: &str, way: Way, layout: Layout, judge: Judge<'_>) -> Function {
    function(name, |program| {
        program.flow = Some(program.skb);
        let ends = match judge.asks_who() {
            true => identify::who(program, way, layout.n_nets, judge.nets6()),
            false => identify::nobody(program, layout.n_nets),
        };
        if let Judge::Tables(tables, bits) = judge {
            let of = Lookup { way, records: layout, tables, bits, ends };
            let leaf = lookup::leaf(program, of);
            program.b.ins().return_(&[leaf]);
        } else {
            let Verdicts { allow, deny } = judge.emit(program, way, layout, ends);
            for (block, verdict) in [(allow, 1), (deny, 0)] {
                program.switch(block);
                let counter = program.load(types::I32, program.notes, Notes::COUNTER);
                let leaf = program.b.ins().ishl_imm_u(counter, 1);
                let leaf = program.b.ins().bor_imm_u(leaf, verdict);
                program.b.ins().return_(&[leaf]);
            }
        }
        for (reason, block) in std::mem::take(&mut program.reasons) {
            program.switch(block);
            let leaf = i64::from(reason.counter() << 1 | u32::from(reason.passes()));
            let leaf = program.constant(types::I32, leaf);
            program.b.ins().return_(&[leaf]);
        }
    })
}

fn function(name: &str, emit: impl FnOnce(&mut Program<'_>)) -> Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I32));
    let mut function = Function::with_name_signature(UserFuncName::testcase(name), signature);
    let mut context = FunctionBuilderContext::new();
    let mut program = Program::new(&mut function, &mut context);
    emit(&mut program);
    // `FunctionBuilder::finalize` would add stack maps, which nothing here has, and clear a context that ends with the build.
    program.b.seal_all_blocks();
    verify(&function);
    function
}

impl Judge<'_> {
    fn source_port(self) -> bool {
        match self {
            Self::Trees(trees) => asks_source_port(trees),
            Self::Tables(tables, _) => tables.services.joint.is_some(),
        }
    }

    fn nets6(self) -> Option<Nets6> {
        match self {
            Self::Trees(_) => None,
            Self::Tables(tables, _) => tables.nets6,
        }
    }

    /// Whether it matters who the ends are, beyond their addresses.
    fn asks_who(self) -> bool {
        match self {
            Self::Trees(trees) => trees.iter().any(decide::asks_who),
            Self::Tables(..) => true,
        }
    }

    fn emit(self, p: &mut Program<'_>, way: Way, layout: Layout, ends: Ends) -> Verdicts {
        match self {
            Self::Trees(trees) => decide::emit(p, way, layout, trees, ends),
            Self::Tables(tables, bits) => {
                lookup::emit(p, Lookup { way, records: layout, tables, bits, ends })
            }
        }
    }
}

fn asks_source_port(trees: &[Tree]) -> bool {
    let asks = |node: &Node| matches!(node, Node::Compare { field: Field::SourcePort, .. });
    trees.iter().flat_map(|tree| &tree.nodes).any(asks)
}

/// Runs Cranelift's verifier in debug builds.
fn verify(function: &Function) {
    if cfg!(debug_assertions) {
        let flags = settings::Flags::new(settings::builder());
        let verdict = cranelift_codegen::verify_function(function, &flags);
        assert!(verdict.is_ok(), "the packet program is no valid CLIF: {verdict:?}");
    }
}

/// Fields of `struct __sk_buff` that programs read. Unit: bytes. Source: uapi/linux/bpf.h.
pub(crate) mod skb {
    /// Length of the frame, from the Ethernet header.
    pub(crate) const LEN: i32 = 0;
    /// Index of the interface the packet came in by, 0 if it was made here.
    pub(crate) const INGRESS_IFINDEX: i32 = 36;
    /// Index of the interface.
    pub(crate) const IFINDEX: i32 = 40;
    /// Pointer to the first byte.
    pub(crate) const DATA: i32 = 76;
    /// Pointer behind the last byte that can be read directly.
    pub(crate) const DATA_END: i32 = 80;
}

/// Offsets in the stack slot of what the parser notes about a packet besides the connection key. Unit: bytes.
///
/// All but keys of maps and [`Notes::PULLED`] avoid multiples of 8 (see the module's invariants); single bytes are never zero but
/// [`Notes::FRAGMENT`].
struct Notes;

impl Notes {
    /// `u32`: the key of an array.
    const INDEX: i32 = 0;
    /// `u32`: where the transport header begins, from the start of the frame.
    const TRANSPORT: i32 = 4;
    /// `u8`: 4 or 6.
    const FAMILY: i32 = 9;
    /// `u8`: not zero in a first fragment.
    const FRAGMENT: i32 = 10;
    /// `u8`: a set of [`Kind`] bits.
    const KIND: i32 = 11;
    /// `u8`: hop limit of an IPv6 packet.
    const HOPS: i32 = 17;
    /// `u32`: where the IP packet ends, from the start of the frame.
    const END: i32 = 12;
    /// `u16`: destination port or ICMP type, 0 if there is none.
    const PORT: i32 = 18;
    /// `u16`: source port or ICMP code, 0 if there is none; noted only where a tree asks.
    const SOURCE_PORT: i32 = 26;
    /// `u32`: index of the counter to move.
    const COUNTER: i32 = 20;
    /// `i32`: what the program returns.
    const ACTION: i32 = 28;
    /// `u64`: whether the frame has been pulled. The verifier must know it, or it would see an endless loop.
    const PULLED: i32 = 32;
    /// `u32`: interface index, with [`Notes::NET`] the key of [`Map::Local`].
    const IFINDEX: i32 = 40;
    /// `u32`: the ident of an address that no endpoint has.
    const NET: i32 = 44;
    /// `u32`: the ident of the local endpoint plus [`Notes::NOT_ZERO`].
    const OWN: i32 = 52;
    /// `u32`: the same of its peer.
    const PEER: i32 = 60;
    /// `u32`: how far a search has come plus [`Notes::NOT_ZERO`].
    const SEARCH: i32 = 68;
    /// Keeps a note from being zero; above the 16 bits of an ident.
    const NOT_ZERO: i64 = 1 << 16;
    /// Size of the slot.
    const BYTES: u32 = 72;
}

/// What a packet may mean to connection state, as bits of [`Notes::KIND`].
struct Kind;

impl Kind {
    /// Keeps the byte from being zero.
    const NOTED: i64 = 1;
    /// Opens a connection if a rule allows it.
    const OPENS: i64 = 2;
    /// May be a reply.
    const REPLIES: i64 = 4;
    /// An ICMP error.
    const ERROR: i64 = 8;
    /// Neighbour discovery from the same link, or that claims to be.
    const DISCOVERY: i64 = 16;
}

/// Protocol numbers. Source: IANA.
mod protocol {
    pub(super) const HOP_BY_HOP: i64 = 0;
    pub(super) const ICMP: i64 = 1;
    pub(super) const TCP: i64 = 6;
    pub(super) const UDP: i64 = 17;
    pub(super) const ROUTING: i64 = 43;
    pub(super) const FRAGMENT: i64 = 44;
    pub(super) const AH: i64 = 51;
    pub(super) const ICMP6: i64 = 58;
    pub(super) const DESTINATION: i64 = 60;
    pub(super) const SCTP: i64 = 132;
}

/// The first 12 bytes of a mapped IPv4 address, as little-endian words of 8 and 4 bytes.
const MAPPED_LOW: i64 = 0xffff_0000;

/// A function being built: where things are, and how the steps write instructions.
struct Program<'a> {
    b: FunctionBuilder<'a>,
    /// The context, `struct __sk_buff *`.
    skb: Value,
    /// The connection key of the packet.
    key: StackSlot,
    /// Another connection key: the reply's, or that of the packet an ICMP error quotes.
    other: StackSlot,
    /// See [`Notes`].
    notes: StackSlot,
    /// Counts and returns as noted.
    end: Block,
    /// Blocks that end with a reason.
    reasons: BTreeMap<Reason, Block>,
    helpers: BTreeMap<u32, FuncRef>,
    /// By map, and how far behind its first byte.
    maps: BTreeMap<(Map, u32), GlobalValue>,
    /// Where the flow is that is decided, in place of a packet with its key and notes.
    flow: Option<Value>,
}

impl<'a> Program<'a> {
    fn new(function: &'a mut Function, context: &'a mut FunctionBuilderContext) -> Self {
        let mut b = FunctionBuilder::new(function, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let skb = b.block_params(entry)[0];
        let key = slot(&mut b, maps::CONNTRACK_KEY_BYTES);
        let other = slot(&mut b, maps::CONNTRACK_KEY_BYTES);
        let notes = slot(&mut b, Notes::BYTES);
        let end = b.create_block();
        let (reasons, helpers, maps) = Default::default();
        Self { b, skb, key, other, notes, end, reasons, helpers, maps, flow: None }
    }

    /// Writes the blocks every packet ends in.
    fn finish(&mut self) {
        self.stage(Stage::Count);
        for (reason, block) in std::mem::take(&mut self.reasons) {
            self.switch(block);
            self.note_counter(reason.counter());
            self.end(if reason.passes() { PASS } else { DROP });
        }
        self.switch(self.end);
        let value = self.lookup(Map::Counters, self.notes, Notes::COUNTER);
        let (count, done) = (self.block(), self.block());
        self.branch(value, count, done);
        self.switch(count);
        let packets = self.read(types::I64, value, 0);
        let packets = self.b.ins().iadd_imm_u(packets, 1);
        self.write(packets, value, 0);
        let bytes = self.read(types::I64, value, 8);
        let len = self.read_wide(types::I32, self.skb, skb::LEN);
        let bytes = self.b.ins().iadd(bytes, len);
        self.write(bytes, value, 8);
        self.b.ins().jump(done, &[]);
        self.switch(done);
        let action = self.load(types::I32, self.notes, Notes::ACTION);
        self.b.ins().return_(&[action]);
    }

    /// Room on the stack.
    fn slot(&mut self, bytes: u32) -> StackSlot {
        slot(&mut self.b, bytes)
    }

    fn stage(&mut self, stage: Stage) {
        self.b.set_srcloc(SourceLoc::new(stage as u32));
    }

    fn block(&mut self) -> Block {
        self.b.create_block()
    }

    fn constant(&mut self, ty: Type, value: i64) -> Value {
        self.b.ins().iconst(ty, value)
    }

    /// Reads memory behind a pointer.
    fn read(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        self.b.ins().load(ty, MemFlagsData::new().with_notrap(), pointer, offset)
    }

    /// Reads memory and extends to 64 bits.
    fn read_wide(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        let value = self.read(ty, pointer, offset);
        self.b.ins().uextend(types::I64, value)
    }

    /// Reads a number in network order and extends to 64 bits.
    fn read_network(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        let value = self.read(ty, pointer, offset);
        let value = self.b.ins().bswap(value);
        self.b.ins().uextend(types::I64, value)
    }

    fn write(&mut self, value: Value, pointer: Value, offset: i32) {
        self.b.ins().store(MemFlagsData::new().with_notrap(), value, pointer, offset);
    }

    /// Reads a stack slot.
    fn load(&mut self, ty: Type, slot: StackSlot, offset: i32) -> Value {
        let address = self.b.ins().stack_addr(types::I64, slot, 0);
        self.read(ty, address, offset)
    }

    /// Reads a stack slot and extends to 64 bits.
    fn load_wide(&mut self, ty: Type, slot: StackSlot, offset: i32) -> Value {
        let value = self.load(ty, slot, offset);
        self.b.ins().uextend(types::I64, value)
    }

    /// Pointer into the connection key of what is decided.
    fn key_at(&mut self, offset: i32) -> Value {
        match self.flow {
            Some(flow) => self.b.ins().iadd_imm_s(flow, i64::from(offset)),
            None => self.b.ins().stack_addr(types::I64, self.key, offset),
        }
    }

    /// Reads the connection key of what is decided.
    fn key(&mut self, ty: Type, offset: i32) -> Value {
        match self.flow {
            Some(flow) => self.read(ty, flow, offset),
            None => self.load(ty, self.key, offset),
        }
    }

    /// Reads a port as it is noted, or in the flow: type and code of ICMP are ports, too.
    fn port(&mut self, note: i32) -> Value {
        let Some(flow) = self.flow else { return self.load(types::I16, self.notes, note) };
        let offset = match note {
            Notes::SOURCE_PORT => maps::CONNTRACK_SOURCE_PORT,
            _ => maps::CONNTRACK_DESTINATION_PORT,
        };
        let port = self.read(types::I16, flow, offset as i32);
        self.b.ins().bswap(port)
    }

    /// Goes to `ip6` if that is the family of what is decided; what is written next runs if not.
    fn leave_if_ip6(&mut self, ip6: Block) {
        if self.flow.is_none() {
            let family = self.load(types::I8, self.notes, Notes::FAMILY);
            return self.leave_if(IntCC::Equal, family, 6, ip6);
        }
        let upper = self.key(types::I64, maps::CONNTRACK_SOURCE as i32);
        self.leave_if(IntCC::NotEqual, upper, 0, ip6);
        let prefix = self.key(types::I32, maps::CONNTRACK_SOURCE as i32 + 8);
        self.leave_if(IntCC::NotEqual, prefix, MAPPED_LOW, ip6);
    }

    /// Writes a stack slot.
    fn store(&mut self, value: Value, slot: StackSlot, offset: i32) {
        let address = self.b.ins().stack_addr(types::I64, slot, 0);
        self.write(value, address, offset);
    }

    fn store_constant(&mut self, ty: Type, value: i64, slot: StackSlot, offset: i32) {
        let value = self.constant(ty, value);
        self.store(value, slot, offset);
    }

    /// Goes to `yes` if `condition` is not zero, else to `no`.
    fn branch(&mut self, condition: Value, yes: Block, no: Block) {
        self.b.ins().brif(condition, yes, &[], no, &[]);
    }

    /// Goes to `elsewhere` if the comparison holds; what is written next runs if not.
    fn leave_if(&mut self, cc: IntCC, value: Value, with: impl Operand, elsewhere: Block) {
        let with = with.value(self, value);
        let condition = self.b.ins().icmp(cc, value, with);
        let on = self.block();
        self.branch(condition, elsewhere, on);
        self.switch(on);
        self.b.seal_block(on);
    }

    /// The block that ends with `reason`.
    fn reason(&mut self, reason: Reason) -> Block {
        let b = &mut self.b;
        *self.reasons.entry(reason).or_insert_with(|| b.create_block())
    }

    /// Ends with `reason` if the comparison holds; what is written next runs if not.
    fn end_if(&mut self, cc: IntCC, value: Value, with: impl Operand, reason: Reason) {
        let block = self.reason(reason);
        self.leave_if(cc, value, with, block);
    }

    /// Counts as noted and returns.
    fn end(&mut self, action: i32) {
        self.store_constant(types::I32, action.into(), self.notes, Notes::ACTION);
        self.b.ins().jump(self.end, &[]);
    }

    fn note_counter(&mut self, counter: u32) {
        self.store_constant(types::I32, counter.into(), self.notes, Notes::COUNTER);
    }

    fn jump(&mut self, block: Block, arguments: &[Value]) {
        let arguments: Vec<BlockArg> = arguments.iter().map(|&v| v.into()).collect();
        self.b.ins().jump(block, &arguments);
    }

    /// What is written next is this block.
    fn switch(&mut self, block: Block) {
        self.b.switch_to_block(block);
    }

    /// First byte of the frame and the end of what can be read directly. The context holds them as 32 bits.
    fn data(&mut self) -> (Value, Value) {
        let data = self.read_wide(types::I32, self.skb, skb::DATA);
        (data, self.read_wide(types::I32, self.skb, skb::DATA_END))
    }

    /// Makes the part of the frame that headers may lie in readable, if there is enough memory. Packet pointers end here.
    fn pull(&mut self) {
        let len = self.read_wide(types::I32, self.skb, skb::LEN);
        let bound = self.constant(types::I64, PULL_BYTES);
        let short = self.b.ins().icmp(IntCC::UnsignedLessThan, len, bound);
        let len = self.b.ins().select(short, len, bound);
        self.call(helper::SKB_PULL_DATA, &[self.skb, len]);
    }

    /// Pointer to the value, or 0.
    fn lookup(&mut self, map: Map, key: StackSlot, offset: i32) -> Value {
        let key = self.b.ins().stack_addr(types::I64, key, offset);
        self.lookup_at(map, key)
    }

    fn lookup_at(&mut self, map: Map, key: Value) -> Value {
        let map = self.map(map);
        self.call(helper::MAP_LOOKUP_ELEM, &[map, key])
    }

    /// Pointer to the only value of an array; no packet passes without it.
    fn only_value(&mut self, map: Map) -> Value {
        self.store_constant(types::I32, 0, self.notes, Notes::INDEX);
        let value = self.lookup(map, self.notes, Notes::INDEX);
        self.end_if(IntCC::Equal, value, 0, Reason::Spoofed);
        value
    }

    fn map(&mut self, map: Map) -> Value {
        self.within(map, 0)
    }

    /// Pointer to a byte of the tables.
    fn table(&mut self, at: u32) -> Value {
        self.within(Map::Tables, at)
    }

    fn within(&mut self, map: Map, at: u32) -> Value {
        let function = &mut self.b;
        let global = *self.maps.entry((map, at)).or_insert_with(|| {
            let name = function.func.declare_imported_user_function(ir::map_name(map));
            function.create_global_value(GlobalValueData::Symbol {
                name: ExternalName::user(name),
                offset: i64::from(at).into(),
                colocated: false,
                tls: false,
            })
        });
        self.b.ins().symbol_value(types::I64, global)
    }

    fn call(&mut self, number: u32, arguments: &[Value]) -> Value {
        let b = &mut self.b;
        let function = *self.helpers.entry(number).or_insert_with(|| {
            let name = b.func.declare_imported_user_function(ir::helper_name(number));
            let mut signature = Signature::new(CallConv::SystemV);
            signature.params = vec![AbiParam::new(types::I64); arguments.len()];
            signature.returns = vec![AbiParam::new(types::I64)];
            let signature = b.import_signature(signature);
            b.import_function(ExtFuncData {
                name: ExternalName::user(name),
                signature,
                colocated: false,
                patchable: false,
            })
        });
        let call = self.b.ins().call(function, arguments);
        self.b.inst_results(call)[0]
    }
}

fn slot(b: &mut FunctionBuilder<'_>, bytes: u32) -> StackSlot {
    b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3))
}

/// The right side of a comparison.
trait Operand {
    fn value(self, program: &mut Program<'_>, left: Value) -> Value;
}

impl Operand for Value {
    fn value(self, _: &mut Program<'_>, _: Value) -> Value {
        self
    }
}

impl Operand for i64 {
    fn value(self, program: &mut Program<'_>, left: Value) -> Value {
        let ty = program.b.func.dfg.value_type(left);
        let bits = self & (u64::MAX >> (64 - ty.bits())) as i64;
        program.constant(ty, bits)
    }
}
