//! CLIF to simpler CLIF: no unreachable blocks, no constant block parameters, equal leaves shared.
//!
//! A leaf is a block that only returns a constant or only jumps with constant arguments. Decision trees are full of them;
//! sharing makes each verdict one block, which branches reach directly.
//! Cranelift's own optimiser stays off: the kernel's verifier learns about registers, and equal values in different
//! registers are not interchangeable to it.

use cranelift_codegen::Context;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, Function, Inst, InstBuilder, InstructionData, Opcode, SourceLoc,
    Type, Value,
};
use cranelift_codegen::settings::{self, Configurable, Flags};
use std::collections::BTreeMap;

/// Where a leaf goes (nowhere: it returns) and with which constants.
type Leaf = (Option<Block>, Vec<Constant>);
/// Bits of the type, value.
type Constant = (u16, i64);

/// Simplifies a function for selection; meaning and the order of effects stay.
///
/// # Panics
/// In debug builds, if Cranelift's verifier rejects the function before or after.
pub fn legalize(func: &Function) -> Function {
    let mut builder = settings::builder();
    // Cranelift's passes would verify after each of them, in release builds too.
    builder.set("enable_verifier", "false").expect("a setting of Cranelift");
    let flags = Flags::new(builder);
    let mut ctx = Context::for_function(func.clone());
    verify(&ctx, &flags);
    share_leaves(&mut ctx.func);
    ctx.compute_cfg();
    ctx.compute_domtree();
    let unreachable = ctx.eliminate_unreachable_code(&flags);
    let phis = ctx.remove_constant_phis(&flags);
    assert!(unreachable.is_ok() && phis.is_ok(), "only verifiers fail: {unreachable:?} {phis:?}");
    ctx.func.dfg.resolve_all_aliases();
    verify(&ctx, &flags);
    ctx.func
}

fn verify(ctx: &Context, flags: &Flags) {
    if cfg!(debug_assertions) {
        let verified = ctx.verify(flags);
        assert!(verified.is_ok(), "{verified:?}\n{}", ctx.func.display());
    }
}

/// Redirects every branch that leads to a leaf, or would be one if it passed its constants itself, to one shared block.
fn share_leaves(func: &mut Function) {
    let mut shared: BTreeMap<Leaf, Block> = BTreeMap::new();
    let mut leaves: BTreeMap<Block, Block> = BTreeMap::new();
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for &block in blocks.iter().skip(1) {
        if let Some(leaf) = leaf_of(func, block) {
            leaves.insert(block, *shared.entry(leaf).or_insert(block));
        }
    }
    for block in blocks {
        let Some(inst) = func.layout.last_inst(block) else { continue };
        let n_targets = destinations(func, inst).len();
        for i in 0..n_targets {
            let call = destinations(func, inst)[i];
            let target = call.block(&func.dfg.value_lists);
            let replacement = match leaves.get(&target) {
                Some(&leaf) => Some(leaf),
                // A jump that passes constants is already as short as the leaf would be.
                None if n_targets < 2 => None,
                None => constants(func, call).filter(|args| !args.is_empty()).map(|args| {
                    let key = (Some(target), args);
                    if let Some(&leaf) = shared.get(&key) {
                        return leaf;
                    }
                    let leaf = make_leaf(func, inst, target, &key.1);
                    shared.insert(key, leaf);
                    leaf
                }),
            };
            if let Some(leaf) = replacement {
                let call = func.dfg.block_call(leaf, &[]);
                let dfg = &mut func.dfg;
                let (tables, exceptions) = (&mut dfg.jump_tables, &mut dfg.exception_tables);
                dfg.insts[inst].branch_destination_mut(tables, exceptions)[i] = call;
            }
        }
    }
}

/// Where a block's last instruction may go.
pub(super) fn destinations(func: &Function, inst: Inst) -> &[BlockCall] {
    let (tables, exceptions) = (&func.dfg.jump_tables, &func.dfg.exception_tables);
    func.dfg.insts[inst].branch_destination(tables, exceptions)
}

/// The leaf a block is, if its only work is to make constants.
fn leaf_of(func: &Function, block: Block) -> Option<Leaf> {
    if !func.dfg.block_params(block).is_empty() {
        return None;
    }
    let last = func.layout.last_inst(block)?;
    let mut before = func.layout.block_insts(block).filter(|&inst| inst != last);
    if !before.all(|inst| func.dfg.insts[inst].opcode() == Opcode::Iconst) {
        return None;
    }
    match func.dfg.insts[last] {
        InstructionData::Jump { destination, .. } => {
            let target = destination.block(&func.dfg.value_lists);
            Some((Some(target), constants(func, destination)?))
        }
        InstructionData::MultiAry { opcode: Opcode::Return, .. } => {
            let values = func.dfg.inst_args(last).iter();
            Some((None, values.map(|&value| constant(func, value)).collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn constants(func: &Function, call: BlockCall) -> Option<Vec<Constant>> {
    let args = call.args(&func.dfg.value_lists);
    args.map(|arg| match arg {
        BlockArg::Value(value) => constant(func, value),
        BlockArg::TryCallRet(_) | BlockArg::TryCallExn(_) => None,
    })
    .collect()
}

/// What an `iconst` makes.
fn constant(func: &Function, value: Value) -> Option<Constant> {
    let inst = func.dfg.value_def(func.dfg.resolve_aliases(value)).inst()?;
    match func.dfg.insts[inst] {
        InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => {
            let bits = u16::try_from(func.dfg.value_type(value).bits()).ok()?;
            Some((bits, imm.bits()))
        }
        _ => None,
    }
}

fn make_leaf(func: &mut Function, branch: Inst, target: Block, args: &[Constant]) -> Block {
    let line: SourceLoc = func.srcloc(branch);
    let leaf = func.dfg.make_block();
    func.layout.append_block(leaf);
    let mut cursor = FuncCursor::new(func).at_bottom(leaf).with_srcloc(line);
    let mut values = Vec::new();
    for &(bits, value) in args {
        // INVARIANT: only integer constants are collected, so the type exists.
        let ty = Type::int(bits).expect("an integer type");
        values.push(BlockArg::Value(cursor.ins().iconst(ty, value)));
    }
    cursor.ins().jump(target, &values);
    leaf
}
