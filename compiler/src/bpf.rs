//! BPF programs: typed instructions, their eight-byte encoding, their text, and what every program satisfies.
//!
//! One [`Insn`] is one eight-byte slot, so an index here is an index for the kernel: jumps count slots, and the second
//! slot of a 64-bit immediate is an instruction of its own, [`Insn::High`].
//! Source: RFC 9669; `gotol` and its kin are ISA version 4, Linux 6.6.

use crate::ir::Map;
use std::fmt;

/// A register, `r0` to `r10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The frame pointer, read-only.
    pub const FRAME: Self = Self(10);

    /// Register `number`, if there is such a one.
    pub const fn new(number: u8) -> Option<Self> {
        if number <= 10 { Some(Self(number)) } else { None }
    }

    /// 0 to 10.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Half of a register or all of it. Half-width operations zero the upper half of their result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// `w0`.
    W32,
    /// `r0`.
    W64,
}

/// Bytes of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// `u8`.
    B1,
    /// `u16`.
    B2,
    /// `u32`.
    B4,
    /// `u64`.
    B8,
}

impl Size {
    /// Unit: bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::B1 => 8,
            Self::B2 => 16,
            Self::B4 => 32,
            Self::B8 => 64,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::B4 => 0x00,
            Self::B2 => 0x08,
            Self::B1 => 0x10,
            Self::B8 => 0x18,
        }
    }

    const fn of_code(opcode: u8) -> Self {
        match opcode & 0x18 {
            0x00 => Self::B4,
            0x08 => Self::B2,
            0x10 => Self::B1,
            _ => Self::B8,
        }
    }
}

/// Second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// An immediate; sign-extended where the operation is 64 bits wide.
    Imm(i32),
}

/// What an ALU instruction computes: `dst = dst op src`, or `dst = src`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of RFC 9669, section 4.1")]
pub enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    Xor,
    Mov,
    Arsh,
}

const ALU: [(Alu, u8, &str); 12] = [
    (Alu::Add, 0x00, "+="),
    (Alu::Sub, 0x10, "-="),
    (Alu::Mul, 0x20, "*="),
    (Alu::Div, 0x30, "/="),
    (Alu::Or, 0x40, "|="),
    (Alu::And, 0x50, "&="),
    (Alu::Lsh, 0x60, "<<="),
    (Alu::Rsh, 0x70, ">>="),
    (Alu::Mod, 0x90, "%="),
    (Alu::Xor, 0xa0, "^="),
    (Alu::Mov, 0xb0, "="),
    (Alu::Arsh, 0xc0, "s>>="),
];

/// When a branch is taken: `dst cond src`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of RFC 9669, section 4.3")]
pub enum Cond {
    Eq,
    Gt,
    Ge,
    Set,
    Ne,
    Sgt,
    Sge,
    Lt,
    Le,
    Slt,
    Sle,
}

const COND: [(Cond, u8, &str); 11] = [
    (Cond::Eq, 0x10, "=="),
    (Cond::Gt, 0x20, ">"),
    (Cond::Ge, 0x30, ">="),
    (Cond::Set, 0x40, "&"),
    (Cond::Ne, 0x50, "!="),
    (Cond::Sgt, 0x60, "s>"),
    (Cond::Sge, 0x70, "s>="),
    (Cond::Lt, 0xa0, "<"),
    (Cond::Le, 0xb0, "<="),
    (Cond::Slt, 0xc0, "s<"),
    (Cond::Sle, 0xd0, "s<="),
];

/// Byte order a [`Insn::Swap`] converts to or from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `le16` and so on.
    Little,
    /// `be16` and so on.
    Big,
}

/// One eight-byte slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Insn {
    /// Arithmetic.
    Alu {
        /// 32 or 64 bits.
        width: Width,
        /// The operation.
        op: Alu,
        /// First operand and result.
        dst: Reg,
        /// Second operand.
        src: Src,
    },
    /// `dst = -dst`.
    Neg {
        /// 32 or 64 bits.
        width: Width,
        /// Operand and result.
        dst: Reg,
    },
    /// Converts the low bytes between the machine's order and another and zeroes the rest.
    Swap {
        /// The other order.
        order: Order,
        /// How many bytes: two, four or eight.
        size: Size,
        /// Operand and result.
        dst: Reg,
    },
    /// First slot of a 64-bit immediate, with its low half.
    Wide {
        /// Result.
        dst: Reg,
        /// Low 32 bits.
        low: u32,
    },
    /// First slot of the address of a map, with its file descriptor: 0 until loaded.
    MapFd {
        /// Result.
        dst: Reg,
        /// File descriptor.
        fd: i32,
    },
    /// First slot of an address in a map's first value, with the map's file descriptor: 0 until loaded. The second slot has how
    /// far behind its first byte.
    MapValue {
        /// Result.
        dst: Reg,
        /// File descriptor.
        fd: i32,
    },
    /// Second slot after [`Insn::Wide`], [`Insn::MapFd`] and [`Insn::MapValue`].
    High(u32),
    /// `dst = *(size *)(base + offset)`, zero-extended.
    Load {
        /// How many bytes.
        size: Size,
        /// Result.
        dst: Reg,
        /// Address.
        base: Reg,
        /// Unit: bytes.
        offset: i16,
    },
    /// `*(size *)(base + offset) = src`.
    Store {
        /// How many bytes.
        size: Size,
        /// Address.
        base: Reg,
        /// Unit: bytes.
        offset: i16,
        /// What is stored.
        src: Src,
    },
    /// `lock *(size *)(base + offset) += src`; four or eight bytes.
    AtomicAdd {
        /// How many bytes.
        size: Size,
        /// Address.
        base: Reg,
        /// Unit: bytes.
        offset: i16,
        /// What is added.
        src: Reg,
    },
    /// Jumps `offset` slots from the next one.
    Jump {
        /// Unit: slots.
        offset: i16,
    },
    /// Jumps `offset` slots from the next one.
    ///
    /// # Minimum kernel version
    /// 6.6 (cpu v4).
    JumpLong {
        /// Unit: slots.
        offset: i32,
    },
    /// Jumps `offset` slots from the next one if `dst cond src`.
    Branch {
        /// 32 or 64 bits.
        width: Width,
        /// The comparison.
        cond: Cond,
        /// Left operand.
        dst: Reg,
        /// Right operand.
        src: Src,
        /// Unit: slots.
        offset: i16,
    },
    /// Calls a helper by its number in `enum bpf_func_id`.
    Call {
        /// The number.
        helper: u32,
    },
    /// Returns `r0`.
    Exit,
}

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 8;

/// A program, placed but not linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its symbol.
    pub name: String,
    /// The slots.
    pub insns: Vec<Insn>,
    /// Which [`Insn::MapFd`] or [`Insn::MapValue`] stands for which map, by ascending index.
    pub relocations: Vec<(usize, Map)>,
    /// From which index on which source location holds (see [`crate::ir::Stage`]), by ascending index.
    pub lines: Vec<(usize, u32)>,
}

/// What is wrong with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// It has no instructions.
    #[error("the program is empty")]
    Empty,
    /// A jump that leaves the program or lands on the second slot of an immediate.
    #[error("instruction {0} jumps to no instruction")]
    Target(usize),
    /// Control runs past the end.
    #[error("instruction {0} runs off the end")]
    End(usize),
    /// An instruction nothing reaches: the kernel refuses it.
    #[error("instruction {0} is unreachable")]
    Unreachable(usize),
    /// A 64-bit immediate without its second slot, or a second slot without its first.
    #[error("instruction {0} is half of a pair")]
    Half(usize),
    /// Relocations that are not exactly the map addresses.
    #[error("instruction {0} is a map address without a relocation, or the reverse")]
    Relocation(usize),
    /// Source lines out of order, beyond the end, or missing for the first instruction.
    #[error("the source lines are out of order")]
    Lines,
}

impl Program {
    /// Checks what the kernel, the linker and the disassembler rely on.
    ///
    /// # Errors
    /// [`ProgramError`] names the first instruction that breaks it.
    pub fn verify(&self) -> Result<(), ProgramError> {
        let n = self.insns.len();
        if n == 0 {
            return Err(ProgramError::Empty);
        }
        let starts_pair = |i: usize| self.insns.get(i).is_some_and(|insn| insn.starts_pair());
        for (i, insn) in self.insns.iter().enumerate() {
            let follows_start = i > 0 && starts_pair(i - 1);
            if matches!(insn, Insn::High(_)) != follows_start {
                return Err(ProgramError::Half(i));
            }
        }
        let mut reached = vec![false; n];
        let mut work = vec![0];
        while let Some(i) = work.pop() {
            if std::mem::replace(&mut reached[i], true) {
                continue;
            }
            let (falls, target) = self.successors(i);
            if falls && i + 1 >= n {
                return Err(ProgramError::End(i));
            }
            work.extend(falls.then_some(i + 1));
            if let Some(target) = target {
                let target = usize::try_from(target).map_err(|_| ProgramError::Target(i))?;
                if target >= n || matches!(self.insns[target], Insn::High(_)) {
                    return Err(ProgramError::Target(i));
                }
                work.push(target);
            }
        }
        if let Some(i) = reached.iter().position(|reached| !reached) {
            return Err(ProgramError::Unreachable(i));
        }
        let of_map = |insn| matches!(insn, Insn::MapFd { .. } | Insn::MapValue { .. });
        let maps = (0..n).filter(|&i| of_map(self.insns[i]));
        let mut relocations = self.relocations.iter().map(|&(i, _)| i);
        for i in maps {
            let found = relocations.next();
            if found != Some(i) {
                return Err(ProgramError::Relocation(found.unwrap_or(i).min(i)));
            }
        }
        if let Some(i) = relocations.next() {
            return Err(ProgramError::Relocation(i));
        }
        let ascend = self.lines.is_sorted_by(|a, b| a.0 < b.0);
        let first = self.lines.first().is_none_or(|&(i, _)| i == 0);
        let inside = self.lines.last().is_none_or(|&(i, _)| i < n);
        if ascend && first && inside { Ok(()) } else { Err(ProgramError::Lines) }
    }

    /// Whether instruction `i` goes on to the next, and where else it may go.
    pub fn successors(&self, i: usize) -> (bool, Option<i64>) {
        let target = |offset: i64| Some(i as i64 + 1 + offset);
        match self.insns[i] {
            Insn::Jump { offset } => (false, target(i64::from(offset))),
            Insn::JumpLong { offset } => (false, target(i64::from(offset))),
            Insn::Branch { offset, .. } => (true, target(i64::from(offset))),
            Insn::Exit => (false, None),
            Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Swap { .. }
            | Insn::Wide { .. }
            | Insn::MapFd { .. }
            | Insn::MapValue { .. }
            | Insn::High(_)
            | Insn::Load { .. }
            | Insn::Store { .. }
            | Insn::AtomicAdd { .. }
            | Insn::Call { .. } => (true, None),
        }
    }

    /// The map whose address instruction `i` loads.
    pub fn map(&self, i: usize) -> Option<Map> {
        let found = self.relocations.binary_search_by_key(&i, |&(at, _)| at);
        found.ok().map(|found| self.relocations[found].1)
    }

    /// The bytes the kernel reads, in the byte order of this machine.
    pub fn encode(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.encode()).collect()
    }
}

/// A slot that is no instruction this module knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {index} is no known instruction: {bytes:02x?}")]
pub struct DecodeError {
    /// Which slot.
    pub index: usize,
    /// Its bytes; fewer at a ragged end are padded with zeros.
    pub bytes: [u8; SLOT_BYTES],
}

/// Reads slots back from bytes in the byte order of this machine.
///
/// # Errors
/// [`DecodeError`] at the first slot that [`Insn::encode`] does not write.
pub fn decode(bytes: &[u8]) -> Result<Vec<Insn>, DecodeError> {
    let mut insns: Vec<Insn> = Vec::with_capacity(bytes.len() / SLOT_BYTES);
    for (index, chunk) in bytes.chunks(SLOT_BYTES).enumerate() {
        let mut slot = [0; SLOT_BYTES];
        slot[..chunk.len()].copy_from_slice(chunk);
        let second = insns.last().is_some_and(|insn| insn.starts_pair());
        let insn = if second { decode_high(slot) } else { Insn::decode(slot) };
        match insn {
            Some(insn) if chunk.len() == SLOT_BYTES => insns.push(insn),
            _ => return Err(DecodeError { index, bytes: slot }),
        }
    }
    Ok(insns)
}

fn decode_high(slot: [u8; SLOT_BYTES]) -> Option<Insn> {
    let high = Insn::High(u32::from_ne_bytes([slot[4], slot[5], slot[6], slot[7]]));
    (high.encode() == slot).then_some(high)
}

// Instruction classes and modes, RFC 9669, sections 3 and 5.
const LD_IMM64: u8 = 0x18;
const LDX_MEM: u8 = 0x61;
const ST_MEM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const STX_ATOMIC: u8 = 0xc3;
const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const NEG: u8 = 0x80;
const END: u8 = 0xd0;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const SRC_REG: u8 = 0x08;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

impl Insn {
    fn starts_pair(self) -> bool {
        matches!(self, Self::Wide { .. } | Self::MapFd { .. } | Self::MapValue { .. })
    }

    /// The eight bytes, in the byte order of this machine.
    pub fn encode(self) -> [u8; SLOT_BYTES] {
        let source = |src: Src| match src {
            Src::Reg(reg) => (SRC_REG, reg.0, 0),
            Src::Imm(imm) => (0, 0, imm),
        };
        match self {
            Self::Alu { width, op, dst, src } => {
                let class = if width == Width::W64 { ALU64 } else { ALU32 };
                let (mode, reg, imm) = source(src);
                slot(class | mode | op.code(), dst.0, reg, 0, imm)
            }
            Self::Neg { width, dst } => {
                slot(NEG | if width == Width::W64 { ALU64 } else { ALU32 }, dst.0, 0, 0, 0)
            }
            Self::Swap { order, size, dst } => {
                let mode = if order == Order::Big { SRC_REG } else { 0 };
                slot(END | ALU32 | mode, dst.0, 0, 0, size.bits() as i32)
            }
            Self::Wide { dst, low } => slot(LD_IMM64, dst.0, 0, 0, low.cast_signed()),
            Self::MapFd { dst, fd } => slot(LD_IMM64, dst.0, PSEUDO_MAP_FD, 0, fd),
            Self::MapValue { dst, fd } => slot(LD_IMM64, dst.0, PSEUDO_MAP_VALUE, 0, fd),
            Self::High(high) => slot(0, 0, 0, 0, high.cast_signed()),
            Self::Load { size, dst, base, offset } => {
                slot(LDX_MEM | size.code(), dst.0, base.0, offset, 0)
            }
            Self::Store { size, base, offset, src: Src::Reg(src) } => {
                slot(STX_MEM | size.code(), base.0, src.0, offset, 0)
            }
            Self::Store { size, base, offset, src: Src::Imm(imm) } => {
                slot(ST_MEM | size.code(), base.0, 0, offset, imm)
            }
            Self::AtomicAdd { size, base, offset, src } => {
                slot(STX_ATOMIC | size.code(), base.0, src.0, offset, 0)
            }
            Self::Jump { offset } => slot(JMP, 0, 0, offset, 0),
            Self::JumpLong { offset } => slot(JMP32, 0, 0, 0, offset),
            Self::Branch { width, cond, dst, src, offset } => {
                let class = if width == Width::W64 { JMP } else { JMP32 };
                let (mode, reg, imm) = source(src);
                slot(class | mode | cond.code(), dst.0, reg, offset, imm)
            }
            Self::Call { helper } => slot(JMP | CALL, 0, 0, 0, helper.cast_signed()),
            Self::Exit => slot(JMP | EXIT, 0, 0, 0, 0),
        }
    }

    /// Reads a slot that is not the second of a pair; `None` unless [`Self::encode`] gives exactly these bytes.
    pub fn decode(bytes: [u8; SLOT_BYTES]) -> Option<Self> {
        let [opcode, regs, o0, o1, i0, i1, i2, i3] = bytes;
        let (low, high) = (regs & 15, regs >> 4);
        let (dst, src) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        let (dst, src_field) = (Reg::new(dst)?, src);
        let src = Reg::new(src)?;
        let offset = i16::from_ne_bytes([o0, o1]);
        let imm = i32::from_ne_bytes([i0, i1, i2, i3]);
        let operand = if opcode & SRC_REG != 0 { Src::Reg(src) } else { Src::Imm(imm) };
        let size = Size::of_code(opcode);
        let width = if matches!(opcode & 7, ALU64 | JMP) { Width::W64 } else { Width::W32 };
        let insn = match (opcode & 7, opcode & 0xf0) {
            _ if opcode == LD_IMM64 && src_field == PSEUDO_MAP_FD => Self::MapFd { dst, fd: imm },
            _ if opcode == LD_IMM64 && src_field == PSEUDO_MAP_VALUE => {
                Self::MapValue { dst, fd: imm }
            }
            _ if opcode == LD_IMM64 => Self::Wide { dst, low: imm.cast_unsigned() },
            (1, _) => Self::Load { size, dst, base: src, offset },
            (2, _) => Self::Store { size, base: dst, offset, src: Src::Imm(imm) },
            (3, 0xc0 | 0xd0) => Self::AtomicAdd { size, base: dst, offset, src },
            (3, _) => Self::Store { size, base: dst, offset, src: Src::Reg(src) },
            (ALU32 | ALU64, NEG) => Self::Neg { width, dst },
            (ALU32, END) => {
                let order = if opcode & SRC_REG != 0 { Order::Big } else { Order::Little };
                let sizes = [Size::B2, Size::B4, Size::B8];
                let size = sizes.into_iter().find(|size| size.bits() as i32 == imm)?;
                Self::Swap { order, size, dst }
            }
            (ALU32 | ALU64, code) => {
                let op = ALU.iter().find(|entry| entry.1 == code)?.0;
                Self::Alu { width, op, dst, src: operand }
            }
            (JMP, 0) => Self::Jump { offset },
            (JMP32, 0) => Self::JumpLong { offset: imm },
            (JMP, CALL) => Self::Call { helper: imm.cast_unsigned() },
            (JMP, EXIT) => Self::Exit,
            (JMP | JMP32, code) => {
                let cond = COND.iter().find(|entry| entry.1 == code)?.0;
                Self::Branch { width, cond, dst, src: operand, offset }
            }
            _ => return None,
        };
        (insn.encode() == bytes).then_some(insn)
    }
}

fn slot(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> [u8; SLOT_BYTES] {
    // The register fields are bit fields of one byte, so their order follows that of the machine.
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), imm.to_ne_bytes());
    [opcode, regs, o0, o1, i0, i1, i2, i3]
}

impl Alu {
    fn entry(self) -> (Self, u8, &'static str) {
        ALU[self as usize]
    }

    fn code(self) -> u8 {
        self.entry().1
    }
}

impl Cond {
    fn entry(self) -> (Self, u8, &'static str) {
        COND[self as usize]
    }

    fn code(self) -> u8 {
        self.entry().1
    }

    /// The condition that holds exactly when this does not; [`Cond::Set`] has none.
    pub const fn inverse(self) -> Option<Self> {
        Some(match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Gt => Self::Le,
            Self::Le => Self::Gt,
            Self::Ge => Self::Lt,
            Self::Lt => Self::Ge,
            Self::Sgt => Self::Sle,
            Self::Sle => Self::Sgt,
            Self::Sge => Self::Slt,
            Self::Slt => Self::Sge,
            Self::Set => return None,
        })
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "u{}", self.bits())
    }
}

/// A register as an operand of this width.
struct Named(Width, Reg);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", if self.0 == Width::W64 { 'r' } else { 'w' }, self.1.0)
    }
}

/// The second operand of an operation of this width.
struct Second(Width, Src);

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.1 {
            Src::Reg(reg) => Named(self.0, reg).fmt(f),
            Src::Imm(imm) => imm.fmt(f),
        }
    }
}

/// An address.
struct At(Reg, i16);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sign = if self.1 < 0 { '-' } else { '+' };
        write!(f, "({} {sign} {})", self.0, self.1.unsigned_abs())
    }
}

/// The text that LLVM and the kernel's verifier log use, numbers in decimal.
impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::Alu { width, op, dst, src } => {
                write!(f, "{} {} {}", Named(width, dst), op.entry().2, Second(width, src))
            }
            Self::Neg { width, dst } => write!(f, "{0} = -{0}", Named(width, dst)),
            Self::Swap { order, size, dst } => {
                let order = if order == Order::Big { "be" } else { "le" };
                write!(f, "{dst} = {order}{} {dst}", size.bits())
            }
            Self::Wide { dst, low } => write!(f, "{dst} = {low:#x} ll"),
            Self::MapFd { dst, fd } => write!(f, "{dst} = map[fd:{fd}]"),
            Self::MapValue { dst, fd } => write!(f, "{dst} = map[fd:{fd}][0]"),
            Self::High(high) => write!(f, "{high:#x} << 32"),
            Self::Load { size, dst, base, offset } => {
                write!(f, "{dst} = *({size} *){}", At(base, offset))
            }
            Self::Store { size, base, offset, src } => {
                write!(f, "*({size} *){} = {}", At(base, offset), Second(Width::W64, src))
            }
            Self::AtomicAdd { size, base, offset, src } => {
                write!(f, "lock *({size} *){} += {src}", At(base, offset))
            }
            Self::Jump { offset } => write!(f, "goto {offset:+}"),
            Self::JumpLong { offset } => write!(f, "gotol {offset:+}"),
            Self::Branch { width, cond, dst, src, offset } => {
                let (left, op) = (Named(width, dst), cond.entry().2);
                let signed = op.starts_with('s') || width == Width::W64;
                match src {
                    // What the comparison sees, which is not always what the field holds.
                    Src::Imm(imm) if !signed => {
                        write!(f, "if {left} {op} {} goto {offset:+}", imm.cast_unsigned())
                    }
                    _ => write!(f, "if {left} {op} {} goto {offset:+}", Second(width, src)),
                }
            }
            Self::Call { helper } => write!(f, "call {helper}"),
            Self::Exit => f.write_str("exit"),
        }
    }
}

/// One line for each instruction: index, text, and after `;` where its source location changes.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}:", self.name)?;
        let mut lines = self.lines.iter().peekable();
        for (i, insn) in self.insns.iter().enumerate() {
            let text = match (insn, self.map(i)) {
                (Insn::MapFd { dst, .. } | Insn::MapValue { dst, .. }, Some(map)) => {
                    format!("{dst} = {map:?}")
                }
                _ => insn.to_string(),
            };
            match lines.next_if(|line| line.0 == i) {
                Some((_, bits)) => writeln!(f, "{i:4}: {text:<32} ; @{bits}")?,
                None => writeln!(f, "{i:4}: {text}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(insns: Vec<Insn>) -> Program {
        Program { name: "p".to_owned(), insns, relocations: Vec::new(), lines: Vec::new() }
    }

    #[test]
    fn every_opcode_that_decodes_encodes_to_itself_and_most_do_not_decode() {
        let mut known = 0;
        for opcode in 0..=255 {
            for regs in [0x00, 0x10, 0x21, 0xa3, 0xb0, 0x0b] {
                for imm in [0, 16, -1] {
                    let mut bytes = slot(opcode, 0, 0, 5, imm);
                    bytes[1] = regs;
                    let Some(insn) = Insn::decode(bytes) else { continue };
                    assert_eq!(insn.encode(), bytes, "{insn}");
                    known += 1;
                }
            }
        }
        assert!(known > 100, "{known}");
        assert_eq!(Insn::decode([0; 8]), None);
    }

    #[test]
    fn tables_stand_in_the_order_of_their_enums() {
        assert!(ALU.iter().all(|entry| entry.0.entry() == *entry));
        assert!(COND.iter().all(|entry| entry.0.entry() == *entry));
    }

    #[test]
    fn the_verifier_names_what_breaks_a_program() {
        let r0 = Reg::new(0).unwrap();
        let exit = Insn::Exit;
        let wide = Insn::Wide { dst: r0, low: 1 };
        let fd = Insn::MapFd { dst: r0, fd: 0 };
        let cases = [
            (vec![], ProgramError::Empty),
            (vec![wide, exit], ProgramError::Half(1)),
            (vec![Insn::High(0), exit], ProgramError::Half(0)),
            (vec![Insn::Call { helper: 1 }], ProgramError::End(0)),
            (vec![Insn::Jump { offset: 1 }, exit], ProgramError::Target(0)),
            (vec![Insn::Jump { offset: -2 }, exit], ProgramError::Target(0)),
            (vec![exit, exit], ProgramError::Unreachable(1)),
            (vec![fd, Insn::High(0), exit], ProgramError::Relocation(0)),
        ];
        for (insns, error) in cases {
            assert_eq!(program(insns).verify(), Err(error));
        }
        let into_pair = vec![
            Insn::Branch {
                width: Width::W64,
                cond: Cond::Eq,
                dst: r0,
                src: Src::Imm(0),
                offset: 1,
            },
            wide,
            Insn::High(0),
            exit,
        ];
        assert_eq!(program(into_pair).verify(), Err(ProgramError::Target(0)));
        let mut good = program(vec![wide, Insn::High(0), exit]);
        assert_eq!(good.verify(), Ok(()));
        good.lines = vec![(1, 7)];
        assert_eq!(good.verify(), Err(ProgramError::Lines));
        good.lines = vec![];
        good.relocations = vec![(0, Map::Local)];
        assert_eq!(good.verify(), Err(ProgramError::Relocation(0)));
        assert_eq!(decode(&good.encode()), Ok(good.insns));
    }
}
