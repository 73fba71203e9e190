//! BPF over virtual registers: what regalloc2 reads and `emit` writes out.
//!
//! An instruction names no registers; its operands stand beside it in the order each variant gives.
//! INVARIANT: blocks are in reverse postorder, no edge is critical, and only a block with one successor passes arguments.

use crate::bpf::{Alu, Cond, Order, Size, Width};
use crate::ir::Map;
use regalloc2::{Block, Inst, InstRange, Operand, PReg, PRegSet, RegClass, VReg};
use std::ops::Range;

/// Second operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rhs {
    /// The next operand.
    Reg,
    /// An immediate.
    Imm(i32),
}

/// An address, less its offset.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    /// The first operand.
    Reg,
    /// The frame pointer.
    Frame,
}

/// A comparison; its operands are the left side and, if a register, the right one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    pub(super) width: Width,
    pub(super) cond: Cond,
    pub(super) rhs: Rhs,
}

/// A constant that one move loads, as `select` takes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arm {
    /// The next operand.
    Reg,
    /// A constant.
    Const(u64),
}

/// An instruction, with its operands in brackets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// Start of the function [parameters].
    Params,
    /// [result]
    Const(u64),
    /// A map, or this many bytes into the tables [result]
    Map(Map, u32),
    /// Frame pointer plus offset [result].
    Frame(i32),
    /// Zero-extends the lower half [operand, result].
    Low,
    /// [left, right if a register, result in the place of left]
    Alu { width: Width, op: Alu, rhs: Rhs },
    /// [operand, result in its place]
    Neg(Width),
    /// [operand, result in its place]
    Swap { order: Order, size: Size },
    /// [base if a register, result]
    Load { size: Size, base: Base, offset: i16 },
    /// [base if a register, value if a register]
    Store { size: Size, base: Base, offset: i16, value: Rhs },
    /// [base if a register, value]
    AtomicAdd { size: Size, base: Base, offset: i16 },
    /// [test, arms if registers, result in the place of the first arm if that is a register]
    Select { test: Test, arms: [Arm; 2] },
    /// [arguments, result if used]
    Call { helper: u32, has_result: bool },
    /// To the first successor if the test holds, else to the second [test].
    Branch(Test),
    /// To the only successor.
    Jump,
    /// [`r0`]
    Exit,
}

#[derive(Debug, Default)]
pub(super) struct VBlock {
    pub(super) insts: Range<usize>,
    pub(super) succs: Vec<Block>,
    pub(super) preds: Vec<Block>,
    pub(super) params: Vec<VReg>,
    pub(super) args: Vec<VReg>,
}

#[derive(Clone, Debug)]
pub(super) struct VInst {
    pub(super) op: Op,
    pub(super) operands: Range<usize>,
    /// Bits of its source location.
    pub(super) line: u32,
}

#[derive(Debug, Default)]
pub(super) struct VCode {
    pub(super) blocks: Vec<VBlock>,
    pub(super) insts: Vec<VInst>,
    pub(super) operands: Vec<Operand>,
    pub(super) n_vregs: usize,
    /// Of the explicit stack slots. Unit: bytes, a multiple of 8.
    pub(super) frame_bytes: u32,
}

/// The integer register with this number.
pub(super) const fn preg(number: usize) -> PReg {
    PReg::new(number, RegClass::Int)
}

impl regalloc2::Function for VCode {
    fn num_insts(&self) -> usize {
        self.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn entry_block(&self) -> Block {
        Block::new(0)
    }

    fn block_insns(&self, block: Block) -> InstRange {
        let Range { start, end } = self.blocks[block.index()].insts;
        InstRange::new(Inst::new(start), Inst::new(end))
    }

    fn block_succs(&self, block: Block) -> &[Block] {
        &self.blocks[block.index()].succs
    }

    fn block_preds(&self, block: Block) -> &[Block] {
        &self.blocks[block.index()].preds
    }

    fn block_params(&self, block: Block) -> &[VReg] {
        &self.blocks[block.index()].params
    }

    fn is_ret(&self, inst: Inst) -> bool {
        matches!(self.insts[inst.index()].op, Op::Exit)
    }

    fn is_branch(&self, inst: Inst) -> bool {
        matches!(self.insts[inst.index()].op, Op::Branch(_) | Op::Jump)
    }

    fn branch_blockparams(&self, block: Block, _: Inst, _: usize) -> &[VReg] {
        &self.blocks[block.index()].args
    }

    fn inst_operands(&self, inst: Inst) -> &[Operand] {
        &self.operands[self.insts[inst.index()].operands.clone()]
    }

    fn inst_clobbers(&self, inst: Inst) -> PRegSet {
        match self.insts[inst.index()].op {
            // A result is a definition of r0, which must not be named twice.
            Op::Call { has_result, .. } => (usize::from(has_result)..=5).map(preg).collect(),
            _ => PRegSet::empty(),
        }
    }

    fn num_vregs(&self) -> usize {
        self.n_vregs
    }

    fn spillslot_size(&self, _: RegClass) -> usize {
        1
    }
}
