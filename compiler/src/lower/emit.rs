//! Allocated [`VCode`] to a [`Program`]: spills and moves, jump threading, layout, long jumps, source lines.

use super::vcode::{Arm, Base, Op, Rhs, Test, VCode};
use super::{LowerError, STACK_BYTES_MAX};
use crate::bpf::{Alu, Cond, Insn, Program, Reg, Size, Src, Width};
use crate::ir::Map;
use regalloc2::{Allocation, Block, Edit, InstOrEdit, Output};
use std::ops::Range;

/// Longest short jump. Unit: slots.
///
/// Source: 16 bits, less what a verified program grows by when the kernel writes out context loads and map lookups: it refuses
/// a short jump that this pushes out of reach (`bpf_adj_branches` in kernel/bpf/core.c).
const REACH: u16 = 24_576;

/// Emits a program.
///
/// # Errors
/// [`LowerError::Stack`] if slots and spills exceed [`STACK_BYTES_MAX`].
pub(super) fn emit(name: &str, code: &VCode, output: &Output) -> Result<Program, LowerError> {
    let bytes = u64::from(code.frame_bytes) + 8 * output.num_spillslots as u64;
    if bytes > u64::from(STACK_BYTES_MAX) {
        return Err(LowerError::Stack { bytes });
    }
    let mut emitter = Emitter { code, output, slots: Vec::new(), blocks: Vec::new() };
    for block in 0..code.blocks.len() {
        emitter.block(Block::new(block));
    }
    emitter.thread();
    Ok(emitter.place(name))
}

/// An instruction on the way to its place.
#[derive(Clone, Copy)]
struct Slot {
    insn: Insn,
    map: Option<Map>,
    line: u32,
}

/// How a block ends.
#[derive(Clone, Copy)]
enum End {
    /// In its last slot.
    Exit,
    Jump(usize),
    Branch {
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Src,
        then: usize,
        otherwise: usize,
    },
}

struct Placed {
    slots: Range<usize>,
    end: End,
    line: u32,
}

struct Emitter<'a> {
    code: &'a VCode,
    output: &'a Output,
    slots: Vec<Slot>,
    blocks: Vec<Placed>,
}

impl Emitter<'_> {
    fn block(&mut self, block: Block) {
        let (code, output) = (self.code, self.output);
        let succs = &code.blocks[block.index()].succs;
        let start = self.slots.len();
        let mut end = End::Exit;
        let mut line = u32::MAX;
        for item in output.block_insts_and_edits(code, block) {
            let inst = match item {
                InstOrEdit::Edit(Edit::Move { from, to }) => {
                    self.transfer(*from, *to, line);
                    continue;
                }
                InstOrEdit::Inst(inst) => inst,
            };
            let vinst = &code.insts[inst.index()];
            line = vinst.line;
            let mut allocs = Allocs(output.inst_allocs(inst).iter());
            match vinst.op {
                Op::Jump => end = End::Jump(succs[0].index()),
                Op::Branch(test) => {
                    let (dst, src) = allocs.test(test);
                    let (then, otherwise) = (succs[0].index(), succs[1].index());
                    end = End::Branch {
                        width: test.width,
                        cond: test.cond,
                        dst,
                        src,
                        then,
                        otherwise,
                    };
                }
                op => self.op(op, allocs, line),
            }
        }
        self.blocks.push(Placed { slots: start..self.slots.len(), end, line });
    }

    fn push(&mut self, insn: Insn, line: u32) {
        self.slots.push(Slot { insn, map: None, line });
    }

    fn transfer(&mut self, from: Allocation, to: Allocation, line: u32) {
        let offset = |allocation: Allocation| {
            let slot = allocation.as_stack().expect("a register or a stack slot").index();
            // INVARIANT: `emit` checked that all slots lie within the stack.
            -(self.code.frame_bytes as i16) - 8 * (slot as i16 + 1)
        };
        let insn = match (from.as_reg(), to.as_reg()) {
            (Some(_), Some(_)) if from == to => return,
            (Some(_), Some(_)) => {
                let (dst, src) = (reg(to), Src::Reg(reg(from)));
                Insn::Alu { width: Width::W64, op: Alu::Mov, dst, src }
            }
            (Some(_), None) => {
                let src = Src::Reg(reg(from));
                Insn::Store { size: Size::B8, base: Reg::FRAME, offset: offset(to), src }
            }
            (None, _) => {
                let dst = reg(to);
                Insn::Load { size: Size::B8, dst, base: Reg::FRAME, offset: offset(from) }
            }
        };
        self.push(insn, line);
    }

    fn op(&mut self, op: Op, mut allocs: Allocs, line: u32) {
        match op {
            Op::Params => {}
            Op::Const(bits) => self.constant(allocs.next(), bits, line),
            Op::Map(map, offset) => {
                let dst = allocs.next();
                let insn = match map {
                    Map::Tables => Insn::MapValue { dst, fd: 0 },
                    _ => Insn::MapFd { dst, fd: 0 },
                };
                self.slots.push(Slot { insn, map: Some(map), line });
                self.push(Insn::High(offset), line);
            }
            Op::Frame(offset) => {
                let dst = allocs.next();
                self.push(mov(Width::W64, dst, Src::Reg(Reg::FRAME)), line);
                let src = Src::Imm(offset);
                self.push(Insn::Alu { width: Width::W64, op: Alu::Add, dst, src }, line);
            }
            Op::Low => {
                let src = Src::Reg(allocs.next());
                self.push(mov(Width::W32, allocs.next(), src), line);
            }
            Op::Alu { width, op, rhs } => {
                let dst = allocs.next();
                let src = allocs.rhs(rhs);
                self.push(Insn::Alu { width, op, dst, src }, line);
            }
            Op::Neg(width) => self.push(Insn::Neg { width, dst: allocs.next() }, line),
            Op::Swap { order, size } => {
                self.push(Insn::Swap { order, size, dst: allocs.next() }, line);
            }
            Op::Load { size, base, offset } => {
                let base = allocs.base(base);
                self.push(Insn::Load { size, dst: allocs.next(), base, offset }, line);
            }
            Op::Store { size, base, offset, value } => {
                let base = allocs.base(base);
                self.push(Insn::Store { size, base, offset, src: allocs.rhs(value) }, line);
            }
            Op::AtomicAdd { size, base, offset } => {
                let base = allocs.base(base);
                self.push(Insn::AtomicAdd { size, base, offset, src: allocs.next() }, line);
            }
            Op::Select { test, arms: [first, second] } => {
                let (dst, src) = allocs.test(test);
                let (width, cond) = (test.width, test.cond);
                let branch = Insn::Branch { width, cond, dst, src, offset: 1 };
                let arms = [allocs.arm(first), allocs.arm(second)];
                let result = allocs.next();
                if let Chosen::Const(bits) = arms[0] {
                    self.constant(result, bits, line);
                }
                self.push(branch, line);
                match arms[1] {
                    Chosen::Reg(reg) => self.push(mov(Width::W64, result, Src::Reg(reg)), line),
                    Chosen::Const(bits) => self.constant(result, bits, line),
                }
            }
            Op::Call { helper, .. } => self.push(Insn::Call { helper }, line),
            Op::Exit => self.push(Insn::Exit, line),
            Op::Branch(_) | Op::Jump => unreachable!("ends a block"),
        }
    }

    fn constant(&mut self, dst: Reg, bits: u64, line: u32) {
        if let Ok(imm) = i32::try_from(bits.cast_signed()) {
            // The half-width move is the shorter machine code where both do.
            let width = if imm < 0 { Width::W64 } else { Width::W32 };
            self.push(mov(width, dst, Src::Imm(imm)), line);
        } else if let Ok(imm) = u32::try_from(bits) {
            self.push(mov(Width::W32, dst, Src::Imm(imm.cast_signed())), line);
        } else {
            self.push(Insn::Wide { dst, low: bits as u32 }, line);
            self.push(Insn::High((bits >> 32) as u32), line);
        }
    }

    /// Makes every jump go where control really goes on, and jumps to a lone `exit` exits.
    fn thread(&mut self) {
        let final_target = |mut block: usize| {
            // A cycle of empty blocks is an endless loop; any of its blocks will do.
            for _ in 0..self.blocks.len() {
                match self.blocks[block] {
                    Placed { ref slots, end: End::Jump(next), .. } if slots.is_empty() => {
                        block = next
                    }
                    _ => break,
                }
            }
            block
        };
        let targets: Vec<usize> = (0..self.blocks.len()).map(final_target).collect();
        for block in &mut self.blocks {
            match &mut block.end {
                End::Exit => {}
                End::Jump(target) => *target = targets[*target],
                End::Branch { then, otherwise, .. } => {
                    *then = targets[*then];
                    *otherwise = targets[*otherwise];
                    if then == otherwise {
                        block.end = End::Jump(*then);
                    }
                }
            }
        }
    }

    fn place(&self, name: &str) -> Program {
        let order = self.reachable();
        let next = |i: usize| order.get(i + 1).copied();
        // Conditional jumps have 16 bits; lengthening one moves others apart, so repeat until none needs it.
        let mut ends: Vec<Vec<Goto>> =
            order.iter().enumerate().map(|(i, &block)| self.end(block, next(i))).collect();
        let starts = loop {
            let mut starts = vec![0; self.blocks.len()];
            let mut at = 0;
            for (&block, end) in order.iter().zip(&ends) {
                starts[block] = at;
                at += self.blocks[block].slots.len() + end.len();
            }
            if !self.lengthen(&order, &mut ends, &starts) {
                break starts;
            }
        };
        let mut program = Program {
            name: name.to_owned(),
            insns: Vec::new(),
            relocations: Vec::new(),
            lines: Vec::new(),
        };
        for (&block, end) in order.iter().zip(&ends) {
            let block = &self.blocks[block];
            for slot in &self.slots[block.slots.clone()] {
                program.relocations.extend(slot.map.map(|map| (program.insns.len(), map)));
                add(&mut program, slot.insn, slot.line);
            }
            for goto in end {
                let insn = goto.insn(program.insns.len(), &starts);
                add(&mut program, insn, block.line);
            }
        }
        // What comes before the first known line belongs to it.
        if let Some(first) = program.lines.first_mut() {
            first.0 = 0;
        }
        program
    }

    /// The blocks control reaches, in order.
    fn reachable(&self) -> Vec<usize> {
        let mut reached = vec![false; self.blocks.len()];
        let mut work = vec![0];
        while let Some(block) = work.pop() {
            if std::mem::replace(&mut reached[block], true) {
                continue;
            }
            match self.blocks[block].end {
                End::Exit => {}
                End::Jump(target) if self.exits(target) => {}
                End::Jump(target) => work.push(target),
                End::Branch { then, otherwise, .. } => work.extend([then, otherwise]),
            }
        }
        (0..self.blocks.len()).filter(|&block| reached[block]).collect()
    }

    /// Whether a block is nothing but `exit`, which is no longer than a jump to it.
    fn exits(&self, block: usize) -> bool {
        let slots = &self.slots[self.blocks[block].slots.clone()];
        matches!(slots, [Slot { insn: Insn::Exit, .. }])
    }

    fn end(&self, block: usize, next: Option<usize>) -> Vec<Goto> {
        match self.blocks[block].end {
            End::Exit => Vec::new(),
            End::Jump(target) if self.exits(target) => vec![Goto::Exit],
            End::Jump(target) if Some(target) == next => Vec::new(),
            End::Jump(target) => vec![Goto::Always { target }],
            End::Branch { width, cond, dst, src, then, otherwise } => {
                let branch = |cond, target| Goto::If { width, cond, dst, src, target };
                match cond.inverse() {
                    _ if Some(otherwise) == next => vec![branch(cond, then)],
                    Some(inverse) if Some(then) == next => vec![branch(inverse, otherwise)],
                    _ => vec![branch(cond, then), Goto::Always { target: otherwise }],
                }
            }
        }
    }

    /// Replaces conditional jumps that do not reach by a jump around a long one.
    fn lengthen(&self, order: &[usize], ends: &mut [Vec<Goto>], starts: &[usize]) -> bool {
        let mut changed = false;
        for (&block, end) in order.iter().zip(ends) {
            let at = starts[block] + self.blocks[block].slots.len();
            if let Some(&Goto::If { width, cond, dst, src, target }) = end.first()
                && near(distance(at, starts[target])).is_none()
            {
                // INVARIANT: selection makes only conditions that have an inverse.
                let cond = cond.inverse().expect("an inverse");
                end[0] = Goto::Around { width, cond, dst, src };
                end.insert(1, Goto::Always { target });
                changed = true;
            }
        }
        changed
    }
}

/// A jump whose distance is open.
#[derive(Clone, Copy)]
enum Goto {
    Exit,
    Always {
        target: usize,
    },
    If {
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Src,
        target: usize,
    },
    /// Over the next jump.
    Around {
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Src,
    },
}

impl Goto {
    fn insn(self, at: usize, starts: &[usize]) -> Insn {
        match self {
            Self::Exit => Insn::Exit,
            Self::Always { target } => {
                let offset = distance(at, starts[target]);
                near(offset).map_or(Insn::JumpLong { offset }, |offset| Insn::Jump { offset })
            }
            Self::If { width, cond, dst, src, target } => {
                // INVARIANT: `lengthen` left no conditional jump that does not reach.
                let offset = near(distance(at, starts[target])).expect("in reach");
                Insn::Branch { width, cond, dst, src, offset }
            }
            Self::Around { width, cond, dst, src } => {
                Insn::Branch { width, cond, dst, src, offset: 1 }
            }
        }
    }
}

fn distance(from: usize, to: usize) -> i32 {
    // INVARIANT: programs are far below 2^31 slots, or they would not have fitted into memory.
    (to as i64 - from as i64 - 1) as i32
}

/// The offset of a short jump, if it takes no more than one.
fn near(offset: i32) -> Option<i16> {
    i16::try_from(offset).ok().filter(|offset| offset.unsigned_abs() <= REACH)
}

fn add(program: &mut Program, insn: Insn, line: u32) {
    let last = program.lines.last().map_or(u32::MAX, |&(_, bits)| bits);
    if line != u32::MAX && line != last {
        program.lines.push((program.insns.len(), line));
    }
    program.insns.push(insn);
}

fn mov(width: Width, dst: Reg, src: Src) -> Insn {
    Insn::Alu { width, op: Alu::Mov, dst, src }
}

fn reg(allocation: Allocation) -> Reg {
    // INVARIANT: every operand is constrained to a register, and r0 to r9 are all the environment has.
    let preg = allocation.as_reg().expect("a register");
    Reg::new(preg.hw_enc() as u8).expect("r0 to r9")
}

/// A `select` arm after allocation.
enum Chosen {
    Reg(Reg),
    Const(u64),
}

/// The allocations of an instruction's operands, taken in order.
struct Allocs<'a>(std::slice::Iter<'a, Allocation>);

impl Allocs<'_> {
    fn next(&mut self) -> Reg {
        reg(*self.0.next().expect("an operand"))
    }

    fn rhs(&mut self, rhs: Rhs) -> Src {
        match rhs {
            Rhs::Reg => Src::Reg(self.next()),
            Rhs::Imm(imm) => Src::Imm(imm),
        }
    }

    fn base(&mut self, base: Base) -> Reg {
        match base {
            Base::Reg => self.next(),
            Base::Frame => Reg::FRAME,
        }
    }

    fn test(&mut self, test: Test) -> (Reg, Src) {
        let dst = self.next();
        (dst, self.rhs(test.rhs))
    }

    fn arm(&mut self, arm: Arm) -> Chosen {
        match arm {
            Arm::Reg => Chosen::Reg(self.next()),
            Arm::Const(bits) => Chosen::Const(bits),
        }
    }
}
