//! Random functions: the kernel, running what `lower` made, agrees with native code on result and memory.
//!
//! `SEG_FUZZ_SECONDS` makes it run longer, `SEG_FUZZ_SEED` starts elsewhere.

use crate::kernel::{self, ArrayMap};
use crate::native::{self, Native};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{
    AbiParam, AtomicRmwOp, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, GlobalValue,
    GlobalValueData, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind,
    Type, UserFuncName, Value,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use libtest_mimic::Failed;
use seg_compiler::ir::{Map, helper, helper_name, map_name};
use seg_compiler::lower::lower;
use seg_tests::random::Random;
use std::time::{Duration, Instant};

const ENTRIES: usize = 4;
const WORDS: usize = 8;
const FRAMES: usize = 8;
/// Every frame has at least these bytes, and programs check for no more at once.
const FRAME_BYTES: i64 = 64;
const TYPES: [Type; 4] = [I8, I16, I32, I64];

/// Runs random programs for a second, or as long as the environment says.
pub(crate) fn random_functions_agree() -> Result<(), Failed> {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(setting("SEG_FUZZ_SECONDS").unwrap_or(1));
    let first = setting("SEG_FUZZ_SEED").unwrap_or(1);
    let map = ArrayMap::new(ENTRIES as u32, WORDS)?;
    let start = Instant::now();
    let (mut n_programs, mut n_insns) = (0, 0);
    for seed in first.. {
        if start.elapsed() > time && n_programs > 0 {
            break;
        }
        let func = function(seed);
        n_insns += agree(&func, seed, &map, FRAMES).map_err(|error| {
            format!("SEG_FUZZ_SEED={seed}: {}\n{func}", error.message().unwrap_or_default())
        })?;
        n_programs += 1;
    }
    eprintln!("{n_programs} random programs, {n_insns} instructions, no difference");
    Ok(())
}

/// The number of instructions, if kernel and native code agree on all frames.
pub(crate) fn agree(
    func: &Function,
    seed: u64,
    map: &ArrayMap,
    n_frames: usize,
) -> Result<usize, Failed> {
    let program = lower(func, "random")?;
    let loaded = kernel::load(&program, Some(map))
        .map_err(|log| format!("{}\n{program}", log.message().unwrap_or_default()))?;
    let mut native = Native::new(func, map.n_entries as usize, map.n_words)?;
    let mut random = Random::new(!seed);
    for _ in 0..n_frames {
        let n = FRAME_BYTES as usize + random.below(40);
        // No IP frame, which the kernel would want to be well-formed.
        let mut frame: Vec<u8> = (0..n).map(|_| random.next_u64() as u8).collect();
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let words: Vec<u64> = (0..native.map().len()).map(|_| number(&mut random)).collect();
        native.map().copy_from_slice(&words);
        map.set(&words)?;
        let (found, wanted) = (loaded.run(&frame)?, native.run(&frame));
        if found != wanted {
            return Err(format!("kernel {found:#x}, native {wanted:#x}\n{program}").into());
        }
        let found = map.get()?;
        if found != native.map() {
            let wanted = native.map();
            return Err(format!("map\n{found:x?}\n{wanted:x?}\n{program}").into());
        }
    }
    Ok(program.insns.len())
}

/// A number with a taste for boundaries.
fn number(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next_u64() % 5,
        1 => 0u64.wrapping_sub(random.next_u64() % 5),
        2 => (1u64 << random.below(64)).wrapping_sub(random.next_u64() % 2),
        3 => u64::from(u32::MAX) - random.next_u64() % 2,
        4 => u64::from(random.next_u64() as u32),
        _ => random.next_u64(),
    }
}

struct Generator<'a> {
    b: FunctionBuilder<'a>,
    random: Random,
    /// Numbers that dominate the current place.
    pool: Vec<Value>,
    data: Value,
    data_end: Value,
    slot: StackSlot,
    key: StackSlot,
    lookup: FuncRef,
    map: GlobalValue,
    /// Statements left.
    fuel: u32,
}

fn function(seed: u64) -> Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::new(I64));
    signature.returns.push(AbiParam::new(I32));
    let mut func = Function::with_name_signature(UserFuncName::testcase("random"), signature);
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut func, &mut context);

    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend([AbiParam::new(I64); 2]);
    signature.returns.push(AbiParam::new(I64));
    let signature = b.import_signature(signature);
    let name = b.func.declare_imported_user_function(helper_name(helper::MAP_LOOKUP_ELEM));
    let name = ExternalName::User(name);
    let lookup = ExtFuncData { name, signature, colocated: false, patchable: false };
    let lookup = b.import_function(lookup);
    let name = b.func.declare_imported_user_function(map_name(Map::Counters));
    let symbol = GlobalValueData::Symbol {
        name: ExternalName::User(name),
        offset: 0.into(),
        colocated: false,
        tls: false,
    };
    let map = b.create_global_value(symbol);
    let slot = |bytes| StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3);
    let (key, slot) = (b.create_sized_stack_slot(slot(4)), b.create_sized_stack_slot(slot(64)));

    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let ctx = b.block_params(entry)[0];
    let flags = MemFlagsData::trusted();
    let data = b.ins().uload32(flags, ctx, 76);
    let data_end = b.ins().uload32(flags, ctx, 80);
    let mut random = Random::new(seed);
    let fuel = 5 + random.below(50) as u32;
    let mut g =
        Generator { b, random, pool: Vec::new(), data, data_end, slot, key, lookup, map, fuel };
    g.body();
    g.b.seal_all_blocks();
    g.b.finalize(native::frontend());
    func
}

impl Generator<'_> {
    fn body(&mut self) {
        let all = self.b.ins().iadd_imm_u(self.data, FRAME_BYTES);
        let short = self.b.ins().icmp(IntCC::UnsignedGreaterThan, all, self.data_end);
        self.leave_if(short);
        let base = self.b.ins().stack_addr(I64, self.slot, 0);
        for i in 0..8 {
            let word = self.packet_load(I64, 6 * i);
            self.b.ins().store(MemFlagsData::trusted(), word, base, 8 * i);
        }
        while self.fuel > 0 {
            self.statement(0);
        }
        let mut hash = self.b.ins().iconst(I64, 1);
        let pool = self.pool.clone();
        for value in pool.into_iter().rev().take(10) {
            let value = self.convert(value, I64);
            hash = self.b.ins().imul_imm_u(hash, 0x9e37_79b1);
            hash = self.b.ins().bxor(hash, value);
        }
        let high = self.b.ins().ushr_imm_u(hash, 32);
        let hash = self.b.ins().bxor(hash, high);
        let hash = self.b.ins().ireduce(I32, hash);
        self.b.ins().return_(&[hash]);
    }

    fn statement(&mut self, depth: u32) {
        self.fuel = self.fuel.saturating_sub(1);
        let value = match self.random.below(if depth < 3 { 24 } else { 18 }) {
            0..=6 => self.binary(),
            7 => self.unary(),
            8..=9 => {
                let value = self.any();
                let to = self.ty();
                self.convert_signed(value, to)
            }
            10 => self.compare(),
            11..=12 => self.select(),
            13 => {
                let ty = self.ty();
                let offset = self.random.below(56) as i32;
                self.packet_load(ty, offset)
            }
            14..=15 => return self.stack_store(),
            16 => self.stack_load(),
            17 => self.narrow_load(),
            18 => self.variable_load(),
            19 => return self.map_access(depth),
            20..=21 => self.branch(depth),
            22 => self.count(depth),
            _ => {
                let cond = self.condition();
                return self.leave_if(cond);
            }
        };
        self.pool.push(value);
    }

    fn block(&mut self, depth: u32) {
        for _ in 0..1 + self.random.below(3) {
            self.statement(depth + 1);
        }
    }

    fn ty(&mut self) -> Type {
        *self.random.pick(&TYPES)
    }

    fn constant(&mut self, ty: Type) -> Value {
        let bits = number(&mut self.random) & (u64::MAX >> (64 - ty.bits()));
        self.b.ins().iconst(ty, bits.cast_signed())
    }

    fn any(&mut self) -> Value {
        if self.pool.is_empty() {
            return self.packet_load(I32, 20);
        }
        // Recent values more often, old ones so that they stay alive.
        let recent = self.pool.len().saturating_sub(6);
        let from = if self.random.below(3) == 0 { 0 } else { recent };
        let items = self.pool[from..].to_vec();
        *self.random.pick(&items)
    }

    /// A number of this type, seldom a constant.
    fn get(&mut self, ty: Type) -> Value {
        if self.random.below(5) == 0 {
            return self.constant(ty);
        }
        let matching: Vec<Value> =
            self.pool.iter().copied().filter(|&v| self.b.func.dfg.value_type(v) == ty).collect();
        if !matching.is_empty() && self.random.below(4) != 0 {
            return *self.random.pick(&matching);
        }
        let value = self.any();
        self.convert(value, ty)
    }

    fn convert(&mut self, value: Value, to: Type) -> Value {
        let from = self.b.func.dfg.value_type(value);
        match from.bits().cmp(&to.bits()) {
            std::cmp::Ordering::Less => self.b.ins().uextend(to, value),
            std::cmp::Ordering::Equal => value,
            std::cmp::Ordering::Greater => self.b.ins().ireduce(to, value),
        }
    }

    fn convert_signed(&mut self, value: Value, to: Type) -> Value {
        let from = self.b.func.dfg.value_type(value);
        if from.bits() < to.bits() && self.random.below(2) == 0 {
            return self.b.ins().sextend(to, value);
        }
        self.convert(value, to)
    }

    fn binary(&mut self) -> Value {
        let ty = self.ty();
        let (x, y) = (self.get(ty), self.get(ty));
        match self.random.below(9) {
            0 => self.b.ins().iadd(x, y),
            1 => self.b.ins().isub(x, y),
            2 => self.b.ins().imul(x, y),
            3 => self.b.ins().band(x, y),
            4 => self.b.ins().bor(x, y),
            5 => self.b.ins().bxor(x, y),
            shift => {
                let ty = self.ty();
                let amount = self.get(ty);
                match shift {
                    6 => self.b.ins().ishl(x, amount),
                    7 => self.b.ins().ushr(x, amount),
                    _ => self.b.ins().sshr(x, amount),
                }
            }
        }
    }

    fn unary(&mut self) -> Value {
        match self.random.below(3) {
            0 => {
                let ty = *self.random.pick(&[I16, I32, I64]);
                let value = self.get(ty);
                self.b.ins().bswap(value)
            }
            1 => {
                let value = self.any();
                self.b.ins().bnot(value)
            }
            _ => {
                let value = self.any();
                self.b.ins().ineg(value)
            }
        }
    }

    fn compare(&mut self) -> Value {
        let ty = self.ty();
        let (x, y) = (self.get(ty), self.get(ty));
        let cond = *self.random.pick(&[
            IntCC::Equal,
            IntCC::NotEqual,
            IntCC::SignedLessThan,
            IntCC::SignedGreaterThanOrEqual,
            IntCC::SignedGreaterThan,
            IntCC::SignedLessThanOrEqual,
            IntCC::UnsignedLessThan,
            IntCC::UnsignedGreaterThanOrEqual,
            IntCC::UnsignedGreaterThan,
            IntCC::UnsignedLessThanOrEqual,
        ]);
        self.b.ins().icmp(cond, x, y)
    }

    fn condition(&mut self) -> Value {
        match self.random.below(4) {
            0 => self.any(),
            1 => {
                let inner = self.compare();
                let cond = *self.random.pick(&[IntCC::Equal, IntCC::NotEqual]);
                self.b.ins().icmp_imm_u(cond, inner, 0)
            }
            _ => self.compare(),
        }
    }

    fn select(&mut self) -> Value {
        let ty = self.ty();
        let (cond, x, y) = (self.condition(), self.get(ty), self.get(ty));
        self.b.ins().select(cond, x, y)
    }

    fn packet_load(&mut self, ty: Type, offset: i32) -> Value {
        self.b.ins().load(ty, MemFlagsData::trusted(), self.data, offset)
    }

    /// An aligned place in the stack slot for this many bytes, as base and offset.
    fn stack_place(&mut self, bytes: usize) -> (Value, i32) {
        let offset = bytes * self.random.below(64 / bytes);
        let folded = bytes * self.random.below(offset / bytes + 1);
        let base = self.b.ins().stack_addr(I64, self.slot, 0);
        let base = self.b.ins().iadd_imm_u(base, folded as i64);
        (base, (offset - folded) as i32)
    }

    fn stack_store(&mut self) {
        let flags = MemFlagsData::trusted();
        let value = self.any();
        let value = match self.random.below(3) {
            0 => self.constant(I64),
            _ => value,
        };
        let bytes = self.b.func.dfg.value_type(value).bytes() as usize;
        let width = bytes.min(*self.random.pick(&[1, 2, 4, 8]));
        let (base, offset) = self.stack_place(width);
        if width == bytes {
            self.b.ins().store(flags, value, base, offset);
            return;
        }
        match width {
            1 => self.b.ins().istore8(flags, value, base, offset),
            2 => self.b.ins().istore16(flags, value, base, offset),
            _ => self.b.ins().istore32(flags, value, base, offset),
        };
    }

    fn stack_load(&mut self) -> Value {
        let ty = self.ty();
        let (base, offset) = self.stack_place(ty.bytes() as usize);
        self.b.ins().load(ty, MemFlagsData::trusted(), base, offset)
    }

    fn narrow_load(&mut self) -> Value {
        let flags = MemFlagsData::trusted();
        let offset = self.random.below(56) as i32;
        let to = *self.random.pick(&[I32, I64]);
        match self.random.below(3) {
            0 => self.b.ins().uload8(to, flags, self.data, offset),
            1 => self.b.ins().uload16(to, flags, self.data, offset),
            _ => self.b.ins().uload32(flags, self.data, offset),
        }
    }

    /// A load at an offset from the packet itself, behind its own check.
    fn variable_load(&mut self) -> Value {
        let ty = self.ty();
        let index = self.get(I64);
        let index = self.b.ins().band_imm_u(index, 31);
        let place = self.b.ins().iadd(self.data, index);
        let end = self.b.ins().iadd_imm_u(place, 40);
        let short = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, self.data_end);
        let (inside, join) = (self.b.create_block(), self.b.create_block());
        let result = self.b.append_block_param(join, ty);
        let otherwise = self.constant(ty);
        self.b.ins().brif(short, join, &[BlockArg::Value(otherwise)], inside, &[]);
        self.b.switch_to_block(inside);
        let offset = self.random.below(32) as i32;
        let value = self.b.ins().load(ty, MemFlagsData::trusted(), place, offset);
        self.b.ins().jump(join, &[BlockArg::Value(value)]);
        self.b.switch_to_block(join);
        result
    }

    /// Finds an entry, which may be missing, and changes it.
    fn map_access(&mut self, depth: u32) {
        let flags = MemFlagsData::trusted();
        let key = self.get(I32);
        let key = self.b.ins().band_imm_u(key, 7);
        let place = self.b.ins().stack_addr(I64, self.key, 0);
        self.b.ins().store(flags, key, place, 0);
        let map = self.b.ins().symbol_value(I64, self.map);
        let call = self.b.ins().call(self.lookup, &[map, place]);
        let entry = self.b.inst_results(call)[0];
        let missing = self.b.ins().icmp_imm_u(IntCC::Equal, entry, 0);
        let (found, join) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(missing, join, &[], found, &[]);
        self.b.switch_to_block(found);
        let known = self.pool.len();
        let ty = self.ty();
        let offset = 8 * self.random.below(WORDS) as i32;
        let value = self.b.ins().load(ty, flags, entry, offset);
        self.pool.push(value);
        self.block(depth);
        let ty = *self.random.pick(&[I32, I64]);
        let value = self.get(ty);
        let place = self.b.ins().iadd_imm_u(entry, i64::from(offset));
        self.b.ins().atomic_rmw(ty, flags, AtomicRmwOp::Add, place, value);
        let ty = self.ty();
        let value = self.get(ty);
        let offset = 8 * self.random.below(WORDS) as i32;
        self.b.ins().store(flags, value, entry, offset);
        self.b.ins().jump(join, &[]);
        self.pool.truncate(known);
        self.b.switch_to_block(join);
    }

    /// Two ways that meet, with a value from each.
    fn branch(&mut self, depth: u32) -> Value {
        let ty = self.ty();
        let cond = self.condition();
        let (then, join) = (self.b.create_block(), self.b.create_block());
        let result = self.b.append_block_param(join, ty);
        let known = self.pool.len();
        let direct = self.random.below(3) == 0;
        if direct {
            let value = self.get(ty);
            self.b.ins().brif(cond, then, &[], join, &[BlockArg::Value(value)]);
        } else {
            let otherwise = self.b.create_block();
            self.b.ins().brif(cond, then, &[], otherwise, &[]);
            self.b.switch_to_block(otherwise);
            self.block(depth);
            let value = self.get(ty);
            self.b.ins().jump(join, &[BlockArg::Value(value)]);
            self.pool.truncate(known);
        }
        self.b.switch_to_block(then);
        self.block(depth);
        let value = self.get(ty);
        self.b.ins().jump(join, &[BlockArg::Value(value)]);
        self.pool.truncate(known);
        self.b.switch_to_block(join);
        result
    }

    /// A loop with a fixed number of turns.
    fn count(&mut self, depth: u32) -> Value {
        let ty = self.ty();
        let turns = 1 + self.random.below(4) as i64;
        let (body, after) = (self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(body, I32);
        let sum = self.b.append_block_param(body, ty);
        let result = self.b.append_block_param(after, ty);
        let zero = self.b.ins().iconst(I32, 0);
        let first = self.get(ty);
        self.b.ins().jump(body, &[BlockArg::Value(zero), BlockArg::Value(first)]);
        self.b.switch_to_block(body);
        let known = self.pool.len();
        self.pool.extend([i, sum]);
        self.block(depth.max(2));
        let term = self.get(ty);
        let next_sum = self.b.ins().iadd(sum, term);
        let next = self.b.ins().iadd_imm_u(i, 1);
        let again = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, next, turns);
        let next_args = [BlockArg::Value(next), BlockArg::Value(next_sum)];
        self.b.ins().brif(again, body, &next_args, after, &[BlockArg::Value(next_sum)]);
        self.pool.truncate(known);
        self.b.switch_to_block(after);
        result
    }

    /// Returns one of few constants if the condition holds.
    fn leave_if(&mut self, cond: Value) {
        let (leave, stay) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, leave, &[], stay, &[]);
        self.b.switch_to_block(leave);
        let code = self.random.below(3) as i64;
        let value = self.b.ins().iconst(I32, code);
        self.b.ins().return_(&[value]);
        self.b.switch_to_block(stay);
    }
}
