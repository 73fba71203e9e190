//! Small BPF programs, written instruction by instruction: labels, maps by number, and short names.

use seg_compiler::bpf::{Alu, Cond, Insn, Order, Reg, SLOT_BYTES, Size, Src, Width};
use std::os::fd::RawFd;

/// A place in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Which map of a program, by the order its maps are given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapIndex(pub usize);

#[derive(Clone, Copy, Debug)]
enum Item {
    Insn(Insn),
    Raw([u8; SLOT_BYTES]),
    /// Address of a map, or of a byte of an array's only value.
    Map {
        dst: Reg,
        map: MapIndex,
        value: Option<u32>,
    },
    Jump(Label),
    Branch {
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Src,
        to: Label,
    },
}

/// A program being written.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    items: Vec<Item>,
    /// The slot each label stands for.
    labels: Vec<Option<usize>>,
    n_slots: usize,
}

/// Register `n`.
///
/// # Panics
/// If there is none.
pub const fn r(n: u8) -> Reg {
    Reg::new(n).expect("r0 to r10")
}

const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

impl Assembler {
    /// Unit: slots.
    pub fn len(&self) -> usize {
        self.n_slots
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.n_slots == 0
    }

    fn push(&mut self, item: Item) {
        self.n_slots += if matches!(item, Item::Map { .. }) { 2 } else { 1 };
        self.items.push(item);
    }

    /// Writes an instruction.
    pub fn insn(&mut self, insn: Insn) {
        self.push(Item::Insn(insn));
    }

    /// A place that [`Self::bind`] will set.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Sets a label to what is written next.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.n_slots);
    }

    /// `dst = dst op src`, 64 bits.
    pub fn alu(&mut self, op: Alu, dst: Reg, src: impl Into<Operand>) {
        self.insn(Insn::Alu { width: Width::W64, op, dst, src: src.into().0 });
    }

    /// `dst = dst op src`, 32 bits.
    pub fn alu32(&mut self, op: Alu, dst: Reg, src: impl Into<Operand>) {
        self.insn(Insn::Alu { width: Width::W32, op, dst, src: src.into().0 });
    }

    /// `dst = src`.
    pub fn mov(&mut self, dst: Reg, src: impl Into<Operand>) {
        self.alu(Alu::Mov, dst, src);
    }

    /// Loads and zero-extends.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        self.insn(Insn::Load { size, dst, base, offset });
    }

    /// Stores.
    pub fn store(&mut self, size: Size, base: Reg, offset: i16, src: impl Into<Operand>) {
        self.insn(Insn::Store { size, base, offset, src: src.into().0 });
    }

    /// Converts between the machine's byte order and the network's.
    pub fn network(&mut self, size: Size, dst: Reg) {
        self.insn(Insn::Swap { order: Order::Big, size, dst });
    }

    /// Goes elsewhere.
    pub fn jump(&mut self, to: Label) {
        self.push(Item::Jump(to));
    }

    /// Goes elsewhere if `dst cond src`, 32 bits.
    pub fn branch32(&mut self, cond: Cond, dst: Reg, src: impl Into<Operand>, to: Label) {
        let src = src.into().0;
        self.push(Item::Branch { width: Width::W32, cond, dst, src, to });
    }

    /// Goes elsewhere if `dst cond src`, 64 bits.
    pub fn branch(&mut self, cond: Cond, dst: Reg, src: impl Into<Operand>, to: Label) {
        let src = src.into().0;
        self.push(Item::Branch { width: Width::W64, cond, dst, src, to });
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: u32) {
        self.insn(Insn::Call { helper });
    }

    /// `dst = &map`, for helpers.
    pub fn map(&mut self, dst: Reg, map: MapIndex) {
        self.push(Item::Map { dst, map, value: None });
    }

    /// `dst` = address of a byte of the only value of an array.
    pub fn value(&mut self, dst: Reg, map: MapIndex, offset: u32) {
        self.push(Item::Map { dst, map, value: Some(offset) });
    }

    /// A whole linked program, whose exits go to `end` instead.
    ///
    /// # Errors
    /// If it calls functions of its own, whose exits could not be told from its own.
    pub fn program(&mut self, slots: &[[u8; SLOT_BYTES]], end: Label) -> Result<(), String> {
        for (index, slot) in slots.iter().enumerate() {
            match slot[0] {
                EXIT => self.jump(end),
                CALL if source_field(slot) != 0 => {
                    return Err(format!("instruction {index} calls a function"));
                }
                _ => self.push(Item::Raw(*slot)),
            }
        }
        Ok(())
    }

    /// Writes what another program holds behind this one; its maps begin at number `maps`.
    pub fn append(&mut self, other: &Self, maps: usize) {
        let (slots, labels) = (self.n_slots, self.labels.len());
        self.labels.extend(other.labels.iter().map(|at| at.map(|at| at + slots)));
        let moved = |label: Label| Label(label.0 + labels);
        for &item in &other.items {
            self.push(match item {
                Item::Insn(_) | Item::Raw(_) => item,
                Item::Map { dst, map, value } => {
                    Item::Map { dst, map: MapIndex(map.0 + maps), value }
                }
                Item::Jump(to) => Item::Jump(moved(to)),
                Item::Branch { width, cond, dst, src, to } => {
                    Item::Branch { width, cond, dst, src, to: moved(to) }
                }
            });
        }
    }

    /// The bytes the kernel reads, with these descriptors for its maps.
    ///
    /// # Errors
    /// If a branch goes too far.
    ///
    /// # Panics
    /// If a label is not bound or a map not given: a bug of who wrote the program.
    pub fn assemble(&self, maps: &[RawFd]) -> Result<Vec<u8>, String> {
        let mut code = Vec::with_capacity(self.n_slots * SLOT_BYTES);
        for &item in &self.items {
            let next = code.len() / SLOT_BYTES + 1;
            let distance = |to: Label| {
                let target = self.labels[to.0].expect("a label that is bound");
                target as i32 - next as i32
            };
            match item {
                Item::Insn(insn) => code.extend(insn.encode()),
                Item::Raw(slot) => code.extend(slot),
                Item::Map { dst, map, value } => {
                    let fd = maps[map.0];
                    let first = match value {
                        Some(_) => Insn::MapValue { dst, fd },
                        None => Insn::MapFd { dst, fd },
                    };
                    code.extend(first.encode());
                    code.extend(Insn::High(value.unwrap_or(0)).encode());
                }
                Item::Jump(to) => {
                    let distance = distance(to);
                    let insn = match i16::try_from(distance) {
                        Ok(offset) => Insn::Jump { offset },
                        Err(_) => Insn::JumpLong { offset: distance },
                    };
                    code.extend(insn.encode());
                }
                Item::Branch { width, cond, dst, src, to } => {
                    let offset = i16::try_from(distance(to))
                        .map_err(|_| "a branch of the program goes too far".to_owned())?;
                    code.extend(Insn::Branch { width, cond, dst, src, offset }.encode());
                }
            }
        }
        Ok(code)
    }
}

/// Source field of a slot.
fn source_field(slot: &[u8; SLOT_BYTES]) -> u8 {
    if cfg!(target_endian = "little") { slot[1] >> 4 } else { slot[1] & 15 }
}

/// A second operand: a register, or a number of 32 bits whatever its sign.
#[derive(Clone, Copy, Debug)]
pub struct Operand(Src);

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Self {
        Self(Src::Reg(reg))
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Self {
        Self(Src::Imm(number))
    }
}

impl From<u32> for Operand {
    fn from(number: u32) -> Self {
        Self(Src::Imm(number.cast_signed()))
    }
}
