//! Instructions as the bytes say them: a decoder that shares nothing with the encoder. Source: RFC 9669.
//!
//! What the checker has no use for decodes to something opaque or not at all; nothing is guessed.

/// A register number, at most [`FRAME`].
pub(super) type Reg = u8;

/// `r10`, the frame pointer.
pub(super) const FRAME: Reg = 10;

/// Bytes of a slot.
pub(super) const SLOT_BYTES: usize = 8;

/// Second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Src {
    Reg(Reg),
    /// Sign-extended.
    Imm(u64),
}

/// What an arithmetic instruction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Or,
    And,
    Shl,
    Shr,
    /// Keeps the sign.
    Sar,
    Xor,
}

/// When a branch is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cond {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Of signed numbers.
    Signed(Signed),
    /// A test of bits.
    Opaque,
}

/// A [`Cond`] of signed numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    Lt,
    Le,
    Gt,
    Ge,
}

impl Signed {
    /// The same of unsigned numbers.
    pub(super) fn unsigned(self) -> Cond {
        match self {
            Self::Lt => Cond::Lt,
            Self::Le => Cond::Le,
            Self::Gt => Cond::Gt,
            Self::Ge => Cond::Ge,
        }
    }
}

/// One instruction; jumps name the slot they go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Insn {
    Op {
        wide: bool,
        op: Op,
        dst: Reg,
        src: Src,
    },
    Mov {
        wide: bool,
        dst: Reg,
        src: Src,
    },
    /// Arithmetic whose result is not followed.
    Opaque {
        dst: Reg,
    },
    /// Between the machine's order and that of the network.
    Swap {
        bytes: u8,
        dst: Reg,
    },
    Wide {
        dst: Reg,
        value: u64,
    },
    /// The second slot of [`Insn::Wide`].
    Second,
    Load {
        bytes: u8,
        dst: Reg,
        base: Reg,
        offset: i16,
    },
    Store {
        bytes: u8,
        base: Reg,
        offset: i16,
        src: Src,
    },
    Jump {
        to: usize,
    },
    Branch {
        wide: bool,
        cond: Cond,
        dst: Reg,
        src: Src,
        to: usize,
    },
    Call {
        helper: u32,
    },
    Exit,
}

/// Decodes a program.
///
/// # Errors
/// The slot that is no instruction of this machine and subset, or leads outside of the program.
pub(super) fn decode(code: &[u8]) -> Result<Vec<Insn>, usize> {
    let (slots, rest) = code.as_chunks::<SLOT_BYTES>();
    if !rest.is_empty() {
        return Err(slots.len());
    }
    let mut insns = Vec::with_capacity(slots.len());
    while let Some(slot) = slots.get(insns.len()) {
        let at = insns.len();
        if slot[0] == 0x18 {
            let second = slots.get(at + 1).filter(|s| s[..4] == [0; 4]).ok_or(at)?;
            let half =
                |s: &[u8; SLOT_BYTES]| u64::from(u32::from_ne_bytes([s[4], s[5], s[6], s[7]]));
            // The source register says what the loader puts in; a relocation says so, too.
            let dst = writable(slot[1] & 15).filter(|_| slot[2..4] == [0; 2]).ok_or(at)?;
            insns.push(Insn::Wide { dst, value: half(second) << 32 | half(slot) });
            insns.push(Insn::Second);
            continue;
        }
        insns.push(insn(*slot, at).ok_or(at)?);
    }
    let leads_nowhere = |(at, insn): (usize, &Insn)| {
        let target = |to: usize| !matches!(insns.get(to), None | Some(Insn::Second));
        let lands = match *insn {
            Insn::Jump { to } => target(to),
            Insn::Branch { to, .. } => target(to) && at + 1 < insns.len(),
            Insn::Exit => true,
            _ => at + 1 < insns.len(),
        };
        (!lands).then_some(at)
    };
    match insns.iter().enumerate().find_map(leads_nowhere) {
        Some(at) => Err(at),
        None if insns.is_empty() => Err(0),
        None => Ok(insns),
    }
}

fn writable(reg: Reg) -> Option<Reg> {
    (reg < FRAME).then_some(reg)
}

fn insn(slot: [u8; SLOT_BYTES], at: usize) -> Option<Insn> {
    let [code, regs, o0, o1, i0, i1, i2, i3] = slot;
    let (dst, from) = (regs & 15, regs >> 4);
    let offset = i16::from_ne_bytes([o0, o1]);
    let imm = i32::from_ne_bytes([i0, i1, i2, i3]);
    if dst > FRAME || from > FRAME {
        return None;
    }
    // Whatever an instruction does not use is zero.
    let src = match code & 8 {
        0 if from == 0 => Some(Src::Imm(i64::from(imm).cast_unsigned())),
        8 if imm == 0 => Some(Src::Reg(from)),
        _ => None,
    };
    let bytes = [4, 2, 1, 8][usize::from(code >> 3 & 3)];
    let to = |distance: i32| usize::try_from(at as i64 + 1 + i64::from(distance)).ok();
    match code & 7 {
        // LDX, ST and STX in mode MEM.
        1 if code & 0xe0 == 0x60 && imm == 0 => {
            Some(Insn::Load { bytes, dst: writable(dst)?, base: from, offset })
        }
        2 if code & 0xe0 == 0x60 && from == 0 => {
            let src = Src::Imm(i64::from(imm).cast_unsigned());
            Some(Insn::Store { bytes, base: dst, offset, src })
        }
        3 if code & 0xe0 == 0x60 && imm == 0 => {
            Some(Insn::Store { bytes, base: dst, offset, src: Src::Reg(from) })
        }
        class @ (4 | 7) if offset == 0 => arithmetic(code, class == 7, writable(dst)?, src, imm),
        5 if code == 0x05 && regs == 0 && imm == 0 => Some(Insn::Jump { to: to(offset.into())? }),
        6 if code == 0x06 && regs == 0 && offset == 0 => Some(Insn::Jump { to: to(imm)? }),
        5 if code == 0x85 && regs == 0 && offset == 0 => {
            Some(Insn::Call { helper: imm.cast_unsigned() })
        }
        5 if slot == [0x95, 0, 0, 0, 0, 0, 0, 0] => Some(Insn::Exit),
        class @ (5 | 6) => {
            let cond = match code >> 4 {
                0x1 => Cond::Eq,
                0x2 => Cond::Gt,
                0x3 => Cond::Ge,
                0x5 => Cond::Ne,
                0xa => Cond::Lt,
                0xb => Cond::Le,
                0x4 => Cond::Opaque,
                0x6 => Cond::Signed(Signed::Gt),
                0x7 => Cond::Signed(Signed::Ge),
                0xc => Cond::Signed(Signed::Lt),
                0xd => Cond::Signed(Signed::Le),
                _ => return None,
            };
            let to = to(offset.into())?;
            Some(Insn::Branch { wide: class == 5, cond, dst, src: src?, to })
        }
        _ => None,
    }
}

fn arithmetic(code: u8, wide: bool, dst: Reg, src: Option<Src>, imm: i32) -> Option<Insn> {
    let op = match code >> 4 {
        0x0 => Op::Add,
        0x1 => Op::Sub,
        0x2 => Op::Mul,
        0x4 => Op::Or,
        0x5 => Op::And,
        0x6 => Op::Shl,
        0x7 => Op::Shr,
        0xa => Op::Xor,
        0xc => Op::Sar,
        0xb => return Some(Insn::Mov { wide, dst, src: src? }),
        0x3 | 0x8 | 0x9 => return Some(Insn::Opaque { dst }),
        // To the order of the network, on a machine of the other order.
        0xd if code == 0xdc && cfg!(target_endian = "little") => {
            let bytes = [2, 4, 8].into_iter().find(|bytes| imm == 8 * i32::from(*bytes))?;
            return Some(Insn::Swap { bytes, dst });
        }
        0xd => return Some(Insn::Opaque { dst }),
        _ => return None,
    };
    Some(Insn::Op { wide, op, dst, src: src? })
}
