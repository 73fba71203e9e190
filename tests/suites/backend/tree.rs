//! The size and speed of the lowering of a large decision tree.

use crate::fuzz;
use crate::kernel::ArrayMap;
use crate::native;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{
    AbiParam, Function, InstBuilder, MemFlagsData, Signature, UserFuncName, Value,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use libtest_mimic::Failed;
use seg_compiler::bpf::Insn;
use seg_compiler::lower::lower;
use seg_tests::random::Random;
use std::time::Instant;

const LEAVES: usize = 4_093;
const FIELDS: i32 = 4;
const VERDICTS: usize = 8;

/// Each comparison costs one instruction, and one more where both ways end in leaves that others share.
pub(crate) fn a_large_tree_lowers_to_few_instructions() -> Result<(), Failed> {
    let func = tree(LEAVES);
    let mut best_ms = f64::INFINITY;
    let mut program = lower(&func, "tree")?;
    for _ in 0..5 {
        let start = Instant::now();
        program = lower(&func, "tree")?;
        best_ms = best_ms.min(start.elapsed().as_secs_f64() * 1e3);
    }
    let n = program.insns.len();
    eprintln!("tree of {LEAVES} leaves: {n} instructions, lowered in {best_ms:.1} ms");
    // The bounds check, the fields, the comparisons, the leaves, and a jump for each comparison between two leaves.
    let least = 5 + FIELDS as usize + (LEAVES - 1) + 2 * VERDICTS;
    let twins = n.saturating_sub(least);
    if n > 5_800 || twins > LEAVES / 2 {
        return Err(format!("{n} instructions").into());
    }
    Ok(())
}

/// A tree whose jumps do not all fit into 16 bits.
pub(crate) fn a_tree_beyond_short_jumps_agrees_with_native_code() -> Result<(), Failed> {
    let func = tree(30_000);
    let program = lower(&func, "tree")?;
    if !program.insns.iter().any(|insn| matches!(insn, Insn::JumpLong { .. })) {
        return Err("no long jump".into());
    }
    fuzz::agree(&func, 1, &ArrayMap::new(1, 1)?, 1000)?;
    Ok(())
}

/// A random tree over fields of the packet, loaded once; sibling leaves return different verdicts.
pub(crate) fn tree(n_leaves: usize) -> Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::new(I64));
    signature.returns.push(AbiParam::new(I32));
    let mut func = Function::with_name_signature(UserFuncName::testcase("tree"), signature);
    let mut context = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut func, &mut context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let ctx = builder.block_params(entry)[0];
    let flags = MemFlagsData::trusted();
    let data = builder.ins().uload32(flags, ctx, 76);
    let data_end = builder.ins().uload32(flags, ctx, 80);
    let end = builder.ins().iadd_imm_u(data, 16 + i64::from(4 * FIELDS));
    let short = builder.ins().icmp(IntCC::UnsignedGreaterThan, end, data_end);
    let (leave, stay) = (builder.create_block(), builder.create_block());
    builder.ins().brif(short, leave, &[], stay, &[]);
    builder.switch_to_block(leave);
    let none = builder.ins().iconst(I32, 0);
    builder.ins().return_(&[none]);
    builder.switch_to_block(stay);
    let fields: Vec<Value> =
        (0..FIELDS).map(|i| builder.ins().load(I32, flags, data, 16 + 4 * i)).collect();
    let ranges = vec![(0, u32::MAX); fields.len()];
    split(&mut builder, &mut Random::new(1), &fields, ranges, n_leaves, None);
    builder.seal_all_blocks();
    builder.finalize(native::frontend());
    func
}

/// Fills the current block; returns the verdict if it is a leaf.
fn split(
    builder: &mut FunctionBuilder,
    random: &mut Random,
    fields: &[Value],
    ranges: Vec<(u32, u32)>,
    n_leaves: usize,
    sibling: Option<usize>,
) -> Option<usize> {
    if n_leaves == 1 {
        let mut verdict = random.below(VERDICTS);
        if Some(verdict) == sibling {
            verdict = (verdict + 1) % VERDICTS;
        }
        let value = builder.ins().iconst(I32, verdict as i64);
        builder.ins().return_(&[value]);
        return Some(verdict);
    }
    let wide = |&i: &usize| ranges[i].1 - ranges[i].0 >= 2;
    let candidates: Vec<usize> = (0..fields.len()).filter(wide).collect();
    let field = candidates[random.below(candidates.len())];
    let (low, high) = ranges[field];
    // Near the middle, so that no leaf gets out of reach.
    let quarter = (high - low) / 4;
    let cut = low + 1 + quarter + random.below(2 * quarter as usize + 1) as u32;
    let bound = builder.ins().iconst(I32, i64::from(cut));
    let below = builder.ins().icmp(IntCC::UnsignedLessThan, fields[field], bound);
    let (left, right) = (builder.create_block(), builder.create_block());
    builder.ins().brif(below, left, &[], right, &[]);
    let third = n_leaves / 3;
    let n_left = (third + random.below(third + 1)).clamp(1, n_leaves - 1);
    let mut narrowed = ranges.clone();
    narrowed[field] = (low, cut - 1);
    builder.switch_to_block(left);
    let verdict = split(builder, random, fields, narrowed, n_left, None);
    let mut narrowed = ranges;
    narrowed[field] = (cut, high);
    builder.switch_to_block(right);
    split(builder, random, fields, narrowed, n_leaves - n_left, verdict);
    None
}
