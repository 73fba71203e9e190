//! Instruction selection: CLIF to [`VCode`].
//!
//! Blocks and instructions are visited backwards, so that a value is known to be wanted in a register before the
//! instruction that makes it is reached; what nobody wants and has no effect is not emitted.

use super::legalize::destinations;
use super::vcode::{Arm, Base, Op, Rhs, Test, VBlock, VCode, VInst, preg};
use super::{LowerError, STACK_BYTES_MAX};
use crate::bpf::{Alu, Cond, Order, Size, Width};
use crate::ir::{HELPERS, MAPS, Map};
use cranelift_codegen::entity::{EntityRef, SecondaryMap};
use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{
    self, AtomicRmwOp, BlockArg, BlockCall, Endianness, ExternalName, Function, GlobalValueData,
    InstructionData, MemFlags, Opcode, StackSlot, Type, UserExternalName, Value,
};
use regalloc2::{Block, Operand, RegClass, VReg};

/// Selects instructions for a legalized function.
///
/// # Errors
/// [`LowerError`] for what BPF or the subset lacks.
pub(super) fn select(func: &Function) -> Result<VCode, LowerError> {
    let (offsets, frame_bytes) = place_slots(func)?;
    if func.signature.params.len() > 5 {
        return Err(LowerError::Signature("at most five parameters are passed"));
    }
    if func.signature.returns.len() != 1 {
        return Err(LowerError::Signature("exactly one value is returned"));
    }
    let mut selector = Selector {
        func,
        offsets,
        used: SecondaryMap::with_capacity(func.dfg.num_values()),
        pending: Vec::new(),
        line: u32::MAX,
        code: VCode { n_vregs: func.dfg.num_values(), frame_bytes, ..VCode::default() },
    };
    selector.function()?;
    Ok(selector.code)
}

/// Offsets of the explicit stack slots from the frame pointer, and how much they take together.
fn place_slots(func: &Function) -> Result<(SecondaryMap<StackSlot, i32>, u32), LowerError> {
    let mut offsets = SecondaryMap::new();
    let mut bytes = 0;
    for (slot, data) in func.sized_stack_slots.iter() {
        bytes += u64::from(data.size.next_multiple_of(8));
        if bytes > u64::from(STACK_BYTES_MAX) {
            return Err(LowerError::Stack { bytes });
        }
        offsets[slot] = -(bytes as i32);
    }
    Ok((offsets, bytes as u32))
}

/// A register or an immediate.
#[derive(Clone, Copy)]
enum Second {
    Reg(VReg),
    Imm(i32),
}

/// A comparison and its operands.
#[derive(Clone, Copy)]
struct Tested {
    width: Width,
    cond: Cond,
    lhs: VReg,
    rhs: Second,
}

impl Tested {
    fn test(self) -> Test {
        let rhs = match self.rhs {
            Second::Reg(_) => Rhs::Reg,
            Second::Imm(imm) => Rhs::Imm(imm),
        };
        Test { width: self.width, cond: self.cond, rhs }
    }

    fn operands(self, operand: fn(VReg) -> Operand) -> Vec<Operand> {
        let mut operands = vec![operand(self.lhs)];
        if let Second::Reg(rhs) = self.rhs {
            operands.push(operand(rhs));
        }
        operands
    }
}

struct Selector<'a> {
    func: &'a Function,
    offsets: SecondaryMap<StackSlot, i32>,
    /// Whether a value is wanted in its register.
    used: SecondaryMap<Value, bool>,
    /// What the current CLIF instruction became so far, forwards.
    pending: Vec<VInst>,
    /// Source location of the current CLIF instruction.
    line: u32,
    /// Its instructions stand backwards until the end.
    code: VCode,
}

impl Selector<'_> {
    fn function(&mut self) -> Result<(), LowerError> {
        let order = reverse_postorder(self.func);
        let mut n_preds: SecondaryMap<ir::Block, u32> = SecondaryMap::new();
        for &block in &order {
            for call in self.successors(block) {
                n_preds[call.block(&self.func.dfg.value_lists)] += 1;
            }
        }
        // A block's edge blocks follow it.
        let splits = |call: BlockCall| {
            let lists = &self.func.dfg.value_lists;
            n_preds[call.block(lists)] > 1 || call.args(lists).len() > 0
        };
        let mut index: SecondaryMap<ir::Block, usize> = SecondaryMap::new();
        let mut n_blocks = 0;
        for &block in &order {
            index[block] = n_blocks;
            let succs = self.successors(block);
            let n_edges =
                if succs.len() > 1 { succs.iter().filter(|c| splits(**c)).count() } else { 0 };
            n_blocks += 1 + n_edges;
        }
        let splits: Vec<Vec<bool>> = order
            .iter()
            .map(|&block| self.successors(block).iter().map(|&call| splits(call)).collect())
            .collect();
        self.code.blocks.resize_with(n_blocks, VBlock::default);
        for (&block, splits) in order.iter().zip(&splits).rev() {
            self.block(block, &index, splits)?;
        }
        let n_insts = self.code.insts.len();
        self.code.insts.reverse();
        for i in 0..n_blocks {
            let insts = &mut self.code.blocks[i].insts;
            *insts = n_insts - insts.end..n_insts - insts.start;
            for succ in self.code.blocks[i].succs.clone() {
                self.code.blocks[succ.index()].preds.push(Block::new(i));
            }
        }
        Ok(())
    }

    fn successors(&self, block: ir::Block) -> Vec<BlockCall> {
        successors(self.func, block).to_vec()
    }

    fn block(
        &mut self,
        block: ir::Block,
        index: &SecondaryMap<ir::Block, usize>,
        splits: &[bool],
    ) -> Result<(), LowerError> {
        let func = self.func;
        let own = index[block];
        let calls = self.successors(block);
        let target = |call: BlockCall| Block::new(index[call.block(&func.dfg.value_lists)]);
        // INVARIANT: Cranelift's verifier wants a terminator in every block.
        let last = func.layout.last_inst(block).expect("a terminator");
        self.line = func.srcloc(last).bits();

        let mut succs = Vec::new();
        let mut edges = Vec::new();
        for (&call, &split) in calls.iter().zip(splits) {
            if calls.len() > 1 && split {
                edges.push((own + 1 + edges.len(), call));
                succs.push(Block::new(own + edges.len()));
            } else {
                succs.push(target(call));
            }
        }
        for &(edge, call) in edges.iter().rev() {
            let start = self.code.insts.len();
            self.jump(edge, call);
            self.flush();
            self.code.blocks[edge].insts = start..self.code.insts.len();
            self.code.blocks[edge].succs = vec![target(call)];
        }

        let start = self.code.insts.len();
        match func.dfg.insts[last] {
            InstructionData::Jump { destination, .. } => self.jump(own, destination),
            InstructionData::Brif { arg, .. } => {
                let tested = self.test(last, arg)?;
                self.push(Op::Branch(tested.test()), &tested.operands(Operand::reg_use));
            }
            InstructionData::MultiAry { opcode: Opcode::Return, .. } => {
                let value = func.dfg.inst_args(last)[0];
                self.int(last, value)?;
                let result = self.reg(value);
                self.push(Op::Exit, &[Operand::reg_fixed_use(result, preg(0))]);
            }
            _ => return Err(self.unsupported(last, "this way to end a block")),
        }
        self.flush();
        for inst in func.layout.block_insts(block).rev().skip(1) {
            self.line = func.srcloc(inst).bits();
            self.inst(inst)?;
            self.flush();
        }
        let params = func.dfg.block_params(block);
        for &param in params {
            if !is_int(func.dfg.value_type(param)) {
                return Err(LowerError::Signature("a block parameter is no integer"));
            }
        }
        let params = params.iter().map(|&param| vreg(param));
        if own == 0 {
            let defs: Vec<Operand> =
                params.zip(1..).map(|(param, r)| Operand::reg_fixed_def(param, preg(r))).collect();
            self.push(Op::Params, &defs);
            self.flush();
        } else {
            self.code.blocks[own].params = params.collect();
        }
        self.code.blocks[own].insts = start..self.code.insts.len();
        self.code.blocks[own].succs = succs;
        Ok(())
    }

    /// Ends a block that has one successor.
    fn jump(&mut self, own: usize, call: BlockCall) {
        let args: Vec<BlockArg> = call.args(&self.func.dfg.value_lists).collect();
        for arg in args {
            // INVARIANT: only `try_call` passes anything else, and `block` refuses it.
            let value = arg.as_value().expect("a value");
            let reg = self.reg(value);
            self.code.blocks[own].args.push(reg);
        }
        self.push(Op::Jump, &[]);
    }

    fn inst(&mut self, inst: ir::Inst) -> Result<(), LowerError> {
        let func = self.func;
        let data = func.dfg.insts[inst];
        let result = func.dfg.inst_results(inst).first().copied();
        let wanted = result.is_some_and(|result| self.used[result]);
        if let Some(result) = result {
            self.int(inst, result)?;
        }
        for &arg in func.dfg.inst_args(inst) {
            self.int(inst, arg)?;
        }
        let opcode = data.opcode();
        let effect = opcode.can_store() || opcode.is_call();
        if !effect && !wanted {
            // Even what is not emitted must be in the subset, or acceptance would depend on who uses it.
            return if supported(opcode) {
                Ok(())
            } else {
                Err(self.unsupported(inst, "the operation"))
            };
        }
        let ty = result.map(|result| func.dfg.value_type(result));
        match (data, result, ty) {
            (InstructionData::Store { opcode, args: [value, base], flags, offset }, ..) => {
                self.native(inst, flags)?;
                let size = access(opcode, func.dfg.value_type(value));
                let size = size.ok_or_else(|| self.unsupported(inst, "the operation"))?;
                self.store(size, value, base, offset.into());
            }
            (InstructionData::AtomicRmw { args: [base, value], flags, op, .. }, ..) => {
                self.native(inst, flags)?;
                let size = match func.dfg.value_type(value) {
                    I32 => Size::B4,
                    I64 => Size::B8,
                    _ => return Err(self.unsupported(inst, "the width")),
                };
                if op != AtomicRmwOp::Add || wanted {
                    return Err(self.unsupported(inst, "only additions without a result exist"));
                }
                let (base, mut operands, offset) = self.address(base, 0);
                operands.push(Operand::reg_use(self.reg(value)));
                self.push(Op::AtomicAdd { size, base, offset }, &operands);
            }
            (InstructionData::Call { func_ref, .. }, ..) => self.call(inst, func_ref, wanted)?,
            (InstructionData::Load { opcode, arg, flags, offset }, Some(result), Some(ty)) => {
                self.native(inst, flags)?;
                let size = access(opcode, ty);
                let size = size.ok_or_else(|| self.unsupported(inst, "the operation"))?;
                let (base, mut operands, offset) = self.address(arg, offset.into());
                operands.push(Operand::reg_def(vreg(result)));
                self.push(Op::Load { size, base, offset }, &operands);
            }
            (InstructionData::Binary { opcode, args }, Some(result), Some(ty)) => {
                self.binary(inst, opcode, args, vreg(result), ty)?;
            }
            (InstructionData::Unary { opcode, arg }, Some(result), Some(ty)) => {
                self.unary(inst, opcode, arg, vreg(result), ty)?;
            }
            (InstructionData::IntCompare { .. }, Some(result), _) => {
                let tested = self.test(inst, result)?;
                self.choose(tested, [Choice::Const(1), Choice::Const(0)], vreg(result));
            }
            (
                InstructionData::Ternary { opcode: Opcode::Select, args: [cond, x, y] },
                Some(result),
                _,
            ) => {
                let tested = self.test(inst, cond)?;
                let arms = [self.choice(x), self.choice(y)];
                self.choose(tested, arms, vreg(result));
            }
            _ => return Err(self.unsupported(inst, "the operation")),
        }
        Ok(())
    }

    fn binary(
        &mut self,
        inst: ir::Inst,
        opcode: Opcode,
        [mut x, mut y]: [Value; 2],
        result: VReg,
        ty: Type,
    ) -> Result<(), LowerError> {
        use Opcode::{Band, Bor, Bxor, Iadd, Imul, Ishl, Isub, Sshr, Ushr};
        let width = width(ty);
        if matches!(opcode, Ishl | Ushr | Sshr) {
            let lhs = self.reg(x);
            let amount = self.amount(y, ty);
            match (opcode, narrow(ty)) {
                (Ishl, _) => self.alu_masked(Alu::Lsh, lhs, amount, result, ty),
                (Ushr, _) => self.alu(width, Alu::Rsh, lhs, amount, result),
                (_, None) => self.alu(width, Alu::Arsh, lhs, amount, result),
                (_, Some(_)) => {
                    let extended = self.sign_extend(lhs, ty);
                    self.alu_masked(Alu::Arsh, extended, amount, result, ty);
                }
            }
            return Ok(());
        }
        let op = match opcode {
            Iadd => Alu::Add,
            Isub => Alu::Sub,
            Imul => Alu::Mul,
            Band => Alu::And,
            Bor => Alu::Or,
            Bxor => Alu::Xor,
            _ => return Err(self.unsupported(inst, "the operation")),
        };
        if op != Alu::Sub && self.constant(x).is_some() && self.constant(y).is_none() {
            std::mem::swap(&mut x, &mut y);
        }
        let lhs = self.reg(x);
        if op == Alu::And && self.constant(y) == Some(u64::from(u32::MAX)) {
            self.push(Op::Low, &[Operand::reg_use(lhs), Operand::reg_def(result)]);
            return Ok(());
        }
        let rhs = self.second(y, width);
        if matches!(op, Alu::And | Alu::Or | Alu::Xor) {
            self.alu(width, op, lhs, rhs, result);
        } else {
            self.alu_masked(op, lhs, rhs, result, ty);
        }
        Ok(())
    }

    fn unary(
        &mut self,
        inst: ir::Inst,
        opcode: Opcode,
        arg: Value,
        result: VReg,
        ty: Type,
    ) -> Result<(), LowerError> {
        let from = self.func.dfg.value_type(arg);
        let arg = self.reg(arg);
        let in_place = [Operand::reg_use(arg), Operand::reg_reuse_def(result, 0)];
        match opcode {
            Opcode::Bnot => {
                let ones = narrow(ty).unwrap_or(-1);
                self.alu(width(ty), Alu::Xor, arg, Second::Imm(ones), result);
            }
            Opcode::Ineg if narrow(ty).is_none() => self.push(Op::Neg(width(ty)), &in_place),
            Opcode::Ineg => {
                let wide = self.fresh();
                let in_place = [Operand::reg_use(arg), Operand::reg_reuse_def(wide, 0)];
                self.push(Op::Neg(Width::W32), &in_place);
                self.mask(wide, result, ty);
            }
            Opcode::Bswap => {
                let size = match ty {
                    I16 => Size::B2,
                    I32 => Size::B4,
                    _ => Size::B8,
                };
                // The unconditional swap is younger than the conversion to the order that is not the machine's.
                let little = cfg!(target_endian = "little");
                let order = if little { Order::Big } else { Order::Little };
                self.push(Op::Swap { order, size }, &in_place);
            }
            Opcode::Ireduce if ty == I32 => {
                self.push(Op::Low, &[Operand::reg_use(arg), Operand::reg_def(result)]);
            }
            Opcode::Ireduce => self.mask(arg, result, ty),
            Opcode::Sextend => {
                let (left, shift) = self.shift_up(arg, from, ty);
                self.alu_masked(Alu::Arsh, left, shift, result, ty);
            }
            _ => return Err(self.unsupported(inst, "the operation")),
        }
        Ok(())
    }

    fn store(&mut self, size: Size, value: Value, base: Value, offset: i64) {
        let (base, mut operands, offset) = self.address(base, offset);
        let bits = size.bits();
        let immediate = self.constant(value).and_then(|value| match bits {
            64 => i32::try_from(value.cast_signed()).ok(),
            // Only the low bits are stored.
            _ => Some((value as u32).cast_signed() << (32 - bits) >> (32 - bits)),
        });
        let value = match immediate {
            Some(imm) => Rhs::Imm(imm),
            None => {
                operands.push(Operand::reg_use(self.reg(value)));
                Rhs::Reg
            }
        };
        self.push(Op::Store { size, base, offset, value }, &operands);
    }

    fn call(
        &mut self,
        inst: ir::Inst,
        func_ref: ir::FuncRef,
        has_result: bool,
    ) -> Result<(), LowerError> {
        let func = self.func;
        let callee = &func.dfg.ext_funcs[func_ref];
        let Some(UserExternalName { namespace: HELPERS, index: helper }) = self.name(&callee.name)
        else {
            return Err(self.unsupported(inst, "the callee is no helper"));
        };
        let args = func.dfg.inst_args(inst);
        let results = func.dfg.inst_results(inst);
        if args.len() > 5 || results.len() > 1 {
            return Err(self.unsupported(inst, "at most five arguments and one result exist"));
        }
        if results.iter().any(|&result| func.dfg.value_type(result) != I64) {
            return Err(self.unsupported(inst, "a helper's result is 64 bits wide"));
        }
        let mut operands = Vec::new();
        for (&arg, r) in args.iter().zip(1..) {
            operands.push(Operand::reg_fixed_use(self.reg(arg), preg(r)));
        }
        if has_result {
            operands.push(Operand::reg_fixed_def(vreg(results[0]), preg(0)));
        }
        self.push(Op::Call { helper, has_result }, &operands);
        Ok(())
    }

    /// The comparison that a truth value stands for: the `icmp` that made it, else that it is not zero.
    fn test(&mut self, inst: ir::Inst, value: Value) -> Result<Tested, LowerError> {
        self.int(inst, value)?;
        let mut value = self.resolve(value);
        let mut negate = false;
        while let Some((cond, x, y)) = self.compare_of(value) {
            let inner = self.resolve(x);
            let truth = self.compare_of(inner).is_some() && self.constant(y) == Some(0);
            match cond {
                IntCC::Equal if truth => negate = !negate,
                IntCC::NotEqual if truth => {}
                _ => {
                    self.int(inst, x)?;
                    let cond = if negate { cond.complement() } else { cond };
                    return Ok(self.compare(cond, x, y));
                }
            }
            value = inner;
        }
        let cond = if negate { Cond::Eq } else { Cond::Ne };
        let width = width(self.func.dfg.value_type(value));
        let lhs = self.reg(value);
        Ok(Tested { width, cond, lhs, rhs: Second::Imm(0) })
    }

    fn compare_of(&self, value: Value) -> Option<(IntCC, Value, Value)> {
        match self.def(value)? {
            InstructionData::IntCompare { args: [x, y], cond, .. } => Some((cond, x, y)),
            _ => None,
        }
    }

    fn compare(&mut self, mut cond: IntCC, mut x: Value, mut y: Value) -> Tested {
        if self.constant(x).is_some() && self.constant(y).is_none() {
            std::mem::swap(&mut x, &mut y);
            cond = cond.swap_args();
        }
        let ty = self.func.dfg.value_type(x);
        let signed = cond != cond.unsigned();
        let (lhs, rhs) = if signed && narrow(ty).is_some() {
            let shift = 32 - ty.bits();
            let lhs = self.reg(x);
            let lhs = self.sign_extend(lhs, ty);
            let rhs = match self.constant(y) {
                Some(value) => Second::Imm((value as u32).cast_signed() << shift >> shift),
                None => {
                    let rhs = self.reg(y);
                    Second::Reg(self.sign_extend(rhs, ty))
                }
            };
            (lhs, rhs)
        } else {
            (self.reg(x), self.second(y, width(ty)))
        };
        let cond = match cond {
            IntCC::Equal => Cond::Eq,
            IntCC::NotEqual => Cond::Ne,
            IntCC::UnsignedLessThan => Cond::Lt,
            IntCC::UnsignedLessThanOrEqual => Cond::Le,
            IntCC::UnsignedGreaterThan => Cond::Gt,
            IntCC::UnsignedGreaterThanOrEqual => Cond::Ge,
            IntCC::SignedLessThan => Cond::Slt,
            IntCC::SignedLessThanOrEqual => Cond::Sle,
            IntCC::SignedGreaterThan => Cond::Sgt,
            IntCC::SignedGreaterThanOrEqual => Cond::Sge,
        };
        Tested { width: width(ty), cond, lhs, rhs }
    }

    fn choice(&mut self, value: Value) -> Choice {
        match self.constant(value) {
            // One move makes it: sign-extended or zero-extended.
            Some(bits)
                if u32::try_from(bits).is_ok() || i32::try_from(bits.cast_signed()).is_ok() =>
            {
                Choice::Const(bits)
            }
            _ => Choice::Reg(self.reg(value)),
        }
    }

    /// `result = if tested { arms[0] } else { arms[1] }`.
    fn choose(&mut self, mut tested: Tested, mut arms: [Choice; 2], result: VReg) {
        if let [Choice::Const(_), Choice::Reg(_)] = arms {
            arms.reverse();
            // INVARIANT: comparisons come from `IntCC`, all of which have inverses.
            tested.cond = tested.cond.inverse().expect("an inverse");
        }
        let mut ops = [Arm::Reg; 2];
        // With a register as first arm the result stands there before the test; else it is written before the test, whose
        // operands must then outlive that.
        let place = tested.operands(Operand::reg_use).len();
        let mut operands = match arms[0] {
            Choice::Reg(_) => tested.operands(Operand::reg_use),
            Choice::Const(_) => tested.operands(Operand::reg_use_at_end),
        };
        for (op, arm) in ops.iter_mut().zip(arms) {
            match arm {
                Choice::Reg(reg) => operands.push(Operand::reg_use(reg)),
                Choice::Const(bits) => *op = Arm::Const(bits),
            }
        }
        operands.push(match arms[0] {
            Choice::Reg(_) => Operand::reg_reuse_def(result, place),
            Choice::Const(_) => Operand::reg_def(result),
        });
        self.push(Op::Select { test: tested.test(), arms: ops }, &operands);
    }

    /// An address as base and offset; constant additions fold into the offset as far as it reaches.
    fn address(&mut self, value: Value, offset: i64) -> (Base, Vec<Operand>, i16) {
        let (mut value, mut offset) = (self.resolve(value), offset);
        while let Some((inner, addend)) = self.add_constant(value) {
            let Some(sum) = offset.checked_add(addend) else { break };
            if i16::try_from(sum).is_err() {
                break;
            }
            (value, offset) = (inner, sum);
        }
        if let Some(frame) = self.frame_offset(value)
            && let Ok(offset) = i16::try_from(i64::from(frame).saturating_add(offset))
        {
            return (Base::Frame, Vec::new(), offset);
        }
        let base = self.reg(value);
        match i16::try_from(offset) {
            Ok(offset) => (Base::Reg, vec![Operand::reg_use(base)], offset),
            Err(_) => {
                let far = self.fresh();
                // An offset of CLIF is 32 bits wide, and what was folded into it keeps it within 16.
                let offset = i32::try_from(offset).expect("an offset of 32 bits");
                self.alu(Width::W64, Alu::Add, base, Second::Imm(offset), far);
                (Base::Reg, vec![Operand::reg_use(far)], 0)
            }
        }
    }

    /// `x` and `k` if the value is 64-bit `x + k`.
    fn add_constant(&self, value: Value) -> Option<(Value, i64)> {
        match self.def(value)? {
            InstructionData::Binary { opcode: Opcode::Iadd, args: [x, y] }
                if self.func.dfg.value_type(value) == I64 =>
            {
                let (inner, addend) = match (self.constant(x), self.constant(y)) {
                    (_, Some(addend)) => (x, addend),
                    (Some(addend), None) => (y, addend),
                    (None, None) => return None,
                };
                Some((self.resolve(inner), addend.cast_signed()))
            }
            _ => None,
        }
    }

    /// Offset from the frame pointer if the value is an address in a stack slot.
    fn frame_offset(&self, mut value: Value) -> Option<i32> {
        let mut sum = 0i32;
        while let Some((inner, addend)) = self.add_constant(value) {
            sum = sum.checked_add(i32::try_from(addend).ok()?)?;
            value = inner;
        }
        match self.def(value)? {
            InstructionData::StackAddr { stack_slot, offset, .. } => {
                self.offsets[stack_slot].checked_add(offset.into())?.checked_add(sum)
            }
            _ => None,
        }
    }

    /// The register a value is in, made here if the value is a constant or a fixed address.
    fn reg(&mut self, value: Value) -> VReg {
        let value = self.resolve(value);
        let remade = if let Some(bits) = self.constant(value) {
            Op::Const(bits)
        } else if let Some(offset) = self.frame_offset(value) {
            Op::Frame(offset)
        } else if let Some((map, offset)) = self.map(value) {
            Op::Map(map, offset)
        } else {
            self.used[value] = true;
            return vreg(value);
        };
        let reg = self.fresh();
        self.push(remade, &[Operand::reg_def(reg)]);
        reg
    }

    fn second(&mut self, value: Value, width: Width) -> Second {
        let immediate = self.constant(value).and_then(|value| match width {
            Width::W64 => i32::try_from(value.cast_signed()).ok(),
            Width::W32 => Some((value as u32).cast_signed()),
        });
        immediate.map_or_else(|| Second::Reg(self.reg(value)), Second::Imm)
    }

    /// A shift amount modulo the width of the type.
    fn amount(&mut self, value: Value, ty: Type) -> Second {
        let mask = ty.bits() - 1;
        if let Some(amount) = self.constant(value) {
            return Second::Imm((amount as u32 & mask).cast_signed());
        }
        let amount = self.reg(value);
        // The hardware's own modulo serves the two widths it has (RFC 9669, section 4.1).
        if narrow(ty).is_none() {
            return Second::Reg(amount);
        }
        let masked = self.fresh();
        self.alu(Width::W32, Alu::And, amount, Second::Imm(mask.cast_signed()), masked);
        Second::Reg(masked)
    }

    /// Sign-extends to 32 bits.
    fn sign_extend(&mut self, reg: VReg, from: Type) -> VReg {
        let (left, shift) = self.shift_up(reg, from, I32);
        let result = self.fresh();
        self.alu(Width::W32, Alu::Arsh, left, shift, result);
        result
    }

    /// First half of a sign extension: the value at the upper end, and how far it moved.
    fn shift_up(&mut self, reg: VReg, from: Type, to: Type) -> (VReg, Second) {
        let width = width(to);
        let shift = if width == Width::W64 { 64 } else { 32 } - from.bits();
        let shift = Second::Imm(shift.cast_signed());
        let left = self.fresh();
        self.alu(width, Alu::Lsh, reg, shift, left);
        (left, shift)
    }

    fn alu(&mut self, width: Width, op: Alu, lhs: VReg, rhs: Second, result: VReg) {
        let def = Operand::reg_reuse_def(result, 0);
        match rhs {
            Second::Reg(rhs) => {
                let operands = [Operand::reg_use(lhs), Operand::reg_use(rhs), def];
                self.push(Op::Alu { width, op, rhs: Rhs::Reg }, &operands);
            }
            Second::Imm(imm) => {
                let operands = [Operand::reg_use(lhs), def];
                self.push(Op::Alu { width, op, rhs: Rhs::Imm(imm) }, &operands);
            }
        }
    }

    /// An operation whose result may have bits above a narrow type.
    fn alu_masked(&mut self, op: Alu, lhs: VReg, rhs: Second, result: VReg, ty: Type) {
        if narrow(ty).is_none() {
            return self.alu(width(ty), op, lhs, rhs, result);
        }
        let wide = self.fresh();
        self.alu(Width::W32, op, lhs, rhs, wide);
        self.mask(wide, result, ty);
    }

    fn mask(&mut self, reg: VReg, result: VReg, ty: Type) {
        let mask = narrow(ty).unwrap_or(-1);
        self.alu(Width::W32, Alu::And, reg, Second::Imm(mask), result);
    }

    /// What makes the same bits: `uextend` changes nothing in a register.
    fn resolve(&self, mut value: Value) -> Value {
        while let Some(InstructionData::Unary { opcode: Opcode::Uextend, arg }) = self.def(value) {
            value = arg;
        }
        value
    }

    fn def(&self, value: Value) -> Option<InstructionData> {
        let inst = self.func.dfg.value_def(value).inst()?;
        Some(self.func.dfg.insts[inst])
    }

    /// The bits of a constant, zero-extended.
    fn constant(&self, value: Value) -> Option<u64> {
        let value = self.resolve(value);
        match self.def(value)? {
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => {
                let ty = self.func.dfg.value_type(value);
                Some(imm.bits().cast_unsigned() & (u64::MAX >> (64 - ty.bits())))
            }
            _ => None,
        }
    }

    /// A map, and how far behind its first byte: only of the tables there is one.
    fn map(&self, value: Value) -> Option<(Map, u32)> {
        let InstructionData::UnaryGlobalValue { global_value, .. } = self.def(value)? else {
            return None;
        };
        let GlobalValueData::Symbol { name, offset, .. } = &self.func.global_values[global_value]
        else {
            return None;
        };
        match self.name(name)? {
            UserExternalName { namespace: MAPS, index } => {
                let map = Map::ALL.get(index as usize).copied()?;
                let offset = u32::try_from(offset.bits()).ok()?;
                (offset == 0 || map == Map::Tables).then_some((map, offset))
            }
            _ => None,
        }
    }

    fn name(&self, name: &ExternalName) -> Option<UserExternalName> {
        match name {
            ExternalName::User(name) => self.func.params.user_named_funcs().get(*name).cloned(),
            _ => None,
        }
    }

    fn int(&self, inst: ir::Inst, value: Value) -> Result<(), LowerError> {
        if is_int(self.func.dfg.value_type(value)) {
            return Ok(());
        }
        Err(self.unsupported(inst, "a value is no integer of 8 to 64 bits"))
    }

    fn native(&self, inst: ir::Inst, flags: MemFlags) -> Result<(), LowerError> {
        let little = cfg!(target_endian = "little");
        let native = if little { Endianness::Little } else { Endianness::Big };
        match self.func.dfg.mem_flags[flags].explicit_endianness() {
            Some(order) if order != native => Err(self.unsupported(inst, "the byte order")),
            _ => Ok(()),
        }
    }

    fn unsupported(&self, inst: ir::Inst, what: &'static str) -> LowerError {
        LowerError::Unsupported { inst: self.func.dfg.display_inst(inst).to_string(), what }
    }

    fn fresh(&mut self) -> VReg {
        let reg = VReg::new(self.code.n_vregs, RegClass::Int);
        self.code.n_vregs += 1;
        reg
    }

    fn push(&mut self, op: Op, operands: &[Operand]) {
        let start = self.code.operands.len();
        self.code.operands.extend_from_slice(operands);
        let operands = start..self.code.operands.len();
        self.pending.push(VInst { op, operands, line: self.line });
    }

    fn flush(&mut self) {
        self.code.insts.extend(self.pending.drain(..).rev());
    }
}

/// An arm of [`Selector::choose`].
#[derive(Clone, Copy)]
enum Choice {
    Reg(VReg),
    Const(u64),
}

fn vreg(value: Value) -> VReg {
    VReg::new(value.index(), RegClass::Int)
}

fn is_int(ty: Type) -> bool {
    matches!(ty, I8 | I16 | I32 | I64)
}

fn width(ty: Type) -> Width {
    if ty == I64 { Width::W64 } else { Width::W32 }
}

/// The mask of a type below the width of the hardware's operations.
fn narrow(ty: Type) -> Option<i32> {
    match ty {
        I8 => Some(0xff),
        I16 => Some(0xffff),
        _ => None,
    }
}

/// Bytes a load to, or a store from, a value of this type accesses.
fn access(opcode: Opcode, ty: Type) -> Option<Size> {
    match (opcode, ty) {
        (Opcode::Uload8 | Opcode::Istore8, _) | (Opcode::Load | Opcode::Store, I8) => {
            Some(Size::B1)
        }
        (Opcode::Uload16 | Opcode::Istore16, _) | (Opcode::Load | Opcode::Store, I16) => {
            Some(Size::B2)
        }
        (Opcode::Uload32 | Opcode::Istore32, _) | (Opcode::Load | Opcode::Store, I32) => {
            Some(Size::B4)
        }
        (Opcode::Load | Opcode::Store, I64) => Some(Size::B8),
        _ => None,
    }
}

/// The operations without an effect that have a BPF form.
fn supported(opcode: Opcode) -> bool {
    use Opcode::{
        Band, Bnot, Bor, Bswap, Bxor, Iadd, Icmp, Iconst, Imul, Ineg, Ireduce, Ishl, Isub, Load,
        Select, Sextend, Sshr, StackAddr, SymbolValue, Uextend, Uload8, Uload16, Uload32, Ushr,
    };
    matches!(
        opcode,
        Band | Bnot
            | Bor
            | Bswap
            | Bxor
            | Iadd
            | Icmp
            | Iconst
            | Imul
            | Ineg
            | Ireduce
            | Ishl
            | Isub
            | Load
            | Select
            | Sextend
            | Sshr
            | StackAddr
            | SymbolValue
            | Uextend
            | Uload8
            | Uload16
            | Uload32
            | Ushr
    )
}

fn successors(func: &Function, block: ir::Block) -> &[BlockCall] {
    let Some(last) = func.layout.last_inst(block) else { return &[] };
    destinations(func, last)
}

/// Blocks so that each comes before what only it leads to; the last successor follows directly where it can.
fn reverse_postorder(func: &Function) -> Vec<ir::Block> {
    let mut order = Vec::new();
    let mut seen: SecondaryMap<ir::Block, bool> = SecondaryMap::new();
    let mut stack: Vec<(ir::Block, usize)> =
        func.layout.entry_block().map(|b| (b, 0)).into_iter().collect();
    for &(entry, _) in &stack {
        seen[entry] = true;
    }
    while let Some((block, next)) = stack.last_mut() {
        match successors(func, *block).get(*next) {
            Some(call) => {
                *next += 1;
                let target = call.block(&func.dfg.value_lists);
                if !std::mem::replace(&mut seen[target], true) {
                    stack.push((target, 0));
                }
            }
            None => {
                order.push(*block);
                stack.pop();
            }
        }
    }
    order.reverse();
    order
}
