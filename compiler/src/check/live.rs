//! What a program may still read at each instruction, so that paths that differ in nothing else meet again.
//!
//! Only a help: whatever is forgotten because this says so is unknown afterwards, which proves less, never more.

use super::insn::{FRAME, Insn, Reg, Src};
use crate::ir::helper;

/// What may be read from here on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Live {
    /// A bit for each register.
    pub(super) regs: u16,
    /// A bit for each eight bytes of the stack, counted from its end.
    pub(super) stack: u64,
}

/// Longest key a helper reads behind an address in the stack.
const KEY_BYTES: i32 = 40;

/// What is live before each instruction.
pub(super) fn live(insns: &[Insn]) -> Vec<Live> {
    let mut live = vec![Live::default(); insns.len() + 1];
    let mut changed = true;
    while changed {
        changed = false;
        for (at, insn) in insns.iter().enumerate().rev() {
            let after = match *insn {
                Insn::Jump { to } => live[to],
                Insn::Exit => Live::default(),
                Insn::Branch { to, .. } => Live {
                    regs: live[to].regs | live[at + 1].regs,
                    stack: live[to].stack | live[at + 1].stack,
                },
                _ => live[at + 1],
            };
            let before = before(*insn, after);
            changed |= before != live[at];
            live[at] = before;
        }
    }
    live
}

fn before(insn: Insn, Live { mut regs, mut stack }: Live) -> Live {
    let read = |src: Src| match src {
        Src::Reg(reg) => bit(reg),
        Src::Imm(_) => 0,
    };
    match insn {
        Insn::Op { dst, src, .. } => {
            regs |= bit(dst) | read(src);
            // The address of a key, most likely.
            if let Src::Imm(imm) = src {
                stack |= places(imm as i32, KEY_BYTES);
            }
        }
        Insn::Mov { dst, src, .. } => regs = regs & !bit(dst) | read(src),
        Insn::Opaque { dst } | Insn::Swap { dst, .. } => regs |= bit(dst),
        Insn::Wide { dst, .. } => regs &= !bit(dst),
        Insn::Load { bytes, dst, base, offset } => {
            regs = regs & !bit(dst) | bit(base);
            if base == FRAME {
                stack |= places(offset.into(), bytes.into());
            }
        }
        Insn::Store { bytes, base, offset, src } => {
            regs |= bit(base) | read(src);
            if base == FRAME && bytes == 8 && offset % 8 == 0 {
                stack &= !places(offset.into(), 8);
            }
        }
        Insn::Branch { dst, src, .. } => regs |= bit(dst) | read(src),
        Insn::Call { helper } => {
            let arguments = match helper {
                helper::KTIME_GET_COARSE_NS => 0,
                helper::MAP_LOOKUP_ELEM | helper::SKB_PULL_DATA => 0b0_0110,
                helper::MAP_UPDATE_ELEM => 0b1_1110,
                _ => 0b11_1110,
            };
            regs = regs & !0b11_1111 | arguments;
        }
        Insn::Exit => regs = 1,
        Insn::Jump { .. } | Insn::Second => {}
    }
    Live { regs, stack }
}

fn bit(reg: Reg) -> u16 {
    1 << reg
}

/// The places of the stack that hold some of these bytes.
pub(super) fn places(offset: i32, bytes: i32) -> u64 {
    let all = (offset..offset.saturating_add(bytes)).filter(|at| (-512..0).contains(at));
    all.fold(0, |places, at| places | 1 << ((-at - 1) / 8))
}
