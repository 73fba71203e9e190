//! What registers and slots hold, as hash-consed expressions over what is known of a packet.
//!
//! INVARIANT: equal expressions have one [`Id`]; operands of commutative operations are sorted; half-width arithmetic is
//! written as full-width arithmetic on what it leaves, so that the width of an instruction is not part of its meaning.

use super::insn::{Cond, Op};
use std::collections::HashMap;
use std::rc::Rc;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

/// Nothing is known of it, and nothing may depend on it.
pub(super) const UNKNOWN: Id = Id(0);

/// What an [`Id`] stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expr {
    Unknown,
    Const(u64),
    /// An address in the stack, from its end.
    Frame(i32),
    /// The `__sk_buff`.
    Context,
    /// A map.
    Map(String),
    /// Where the tables are that programs only read.
    Tables,
    /// What the stack holds of a packet when its ends are looked up.
    Input(Input),
    /// The bytes in the other order.
    Swap(u8, Id),
    Op(Op, Id, Id),
    Load {
        bytes: u8,
        base: Id,
        offset: i32,
    },
    /// Where a map has the value of a key, or 0. The key is what the stack held, by offset and size; `None` if not all of it is known.
    Value {
        map: Id,
        key: Option<Vec<Slot>>,
    },
    /// The same, where it is not 0.
    Found(Id),
    /// One if the test holds, else the other.
    Select(Test, Id, Id),
}

/// One slot of the stack, or a part of a key there: offset, bytes, value.
pub(super) type Slot = (i16, u8, Id);

/// Something the parser leaves in the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    Protocol,
    /// Destination port or ICMP type, in the machine's order.
    Port,
    /// Source port or ICMP code, in the machine's order.
    SourcePort,
    /// In the order of the network: 32 bits of IPv4, or half of IPv6.
    Address {
        local: bool,
        part: Part,
    },
    /// What the packet may mean to connection state.
    Kind,
    /// The counter that a decision has noted.
    Noted,
    /// The ident of an IPv6 address that no endpoint has.
    Net {
        local: bool,
    },
}

/// A part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    V4,
    High,
    Low,
}

/// An unsigned comparison of all 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Test {
    /// `left < right` if set, else `left == right`.
    pub(super) less: bool,
    pub(super) left: Id,
    pub(super) right: Id,
}

/// Owner of expressions.
pub(super) struct Exprs {
    all: Vec<(Expr, u32)>,
    /// What [`Expr::Tables`] leads to.
    tables: Rc<[u8]>,
    ids: HashMap<Expr, Id>,
}

impl Exprs {
    pub(super) fn new(tables: Rc<[u8]>) -> Self {
        let ids = HashMap::from([(Expr::Unknown, UNKNOWN)]);
        Self { all: vec![(Expr::Unknown, 64)], tables, ids }
    }

    pub(super) fn get(&self, id: Id) -> &Expr {
        &self.all[id.0 as usize].0
    }

    pub(super) fn constant(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Expr::Const(value) => Some(*value),
            _ => None,
        }
    }

    /// How many low bits may be set.
    fn bits(&self, id: Id) -> u32 {
        self.all[id.0 as usize].1
    }

    /// The largest value it may have.
    pub(super) fn max(&self, id: Id) -> u64 {
        u64::MAX.checked_shr(64 - self.bits(id)).unwrap_or(0)
    }

    pub(super) fn intern(&mut self, expr: Expr) -> Id {
        if let Some(&known) = self.ids.get(&expr) {
            return known;
        }
        let bits = match &expr {
            Expr::Const(value) => 64 - value.leading_zeros(),
            Expr::Input(Input::Protocol | Input::Kind) => 8,
            Expr::Input(Input::Port | Input::SourcePort | Input::Net { .. }) => 16,
            Expr::Input(Input::Address { part: Part::V4, .. } | Input::Noted) => 32,
            Expr::Swap(bytes, _) | Expr::Load { bytes, .. } => u32::from(*bytes) * 8,
            Expr::Op(Op::And, a, b) => self.bits(*a).min(self.bits(*b)),
            Expr::Op(Op::Or | Op::Xor, a, b) => self.bits(*a).max(self.bits(*b)),
            Expr::Op(Op::Mul, a, b) => (self.bits(*a) + self.bits(*b)).min(64),
            Expr::Op(Op::Add, a, b) => (self.bits(*a).max(self.bits(*b)) + 1).min(64),
            Expr::Op(op @ (Op::Shl | Op::Shr), a, b) => match (op, self.constant(*b)) {
                (Op::Shl, Some(by)) => (self.bits(*a) + by as u32).min(64),
                (Op::Shr, Some(by)) => self.bits(*a).saturating_sub(by as u32),
                _ => 64,
            },
            Expr::Select(_, a, b) => self.bits(*a).max(self.bits(*b)),
            _ => 64,
        };
        let new = Id(u32::try_from(self.all.len()).expect("steps are bounded"));
        self.all.push((expr.clone(), bits));
        self.ids.insert(expr, new);
        new
    }

    pub(super) fn number(&mut self, value: u64) -> Id {
        self.intern(Expr::Const(value))
    }

    /// The low bits, the others zero.
    pub(super) fn low(&mut self, id: Id, bits: u32) -> Id {
        let mask = self.number(u64::MAX >> (64 - bits));
        self.op(Op::And, true, id, mask)
    }

    /// What an instruction computes.
    pub(super) fn op(&mut self, op: Op, wide: bool, a: Id, b: Id) -> Id {
        if a == UNKNOWN || b == UNKNOWN {
            return UNKNOWN;
        }
        let bits = if wide { 64 } else { 32 };
        let [mut a, mut b] = if wide { [a, b] } else { [a, b].map(|id| self.low(id, 32)) };
        // Of what has no sign.
        let op = if op == Op::Sar && self.bits(a) < bits { Op::Shr } else { op };
        let shifts = matches!(op, Op::Shl | Op::Shr | Op::Sar);
        let by_known = self.constant(b).is_some_and(|by| by < bits.into());
        if shifts && !by_known || op == Op::Sar && !wide {
            return UNKNOWN;
        }
        if matches!(op, Op::Add | Op::Mul | Op::Or | Op::And | Op::Xor) {
            // Sorted, but a constant comes second.
            let constant = |id: Id| self.constant(id).is_some();
            if (constant(a), a) > (constant(b), b) {
                (a, b) = (b, a);
            }
        }
        // Numbers without a bit in common: a sum is as good as `or`.
        let op =
            if op == Op::Add && (self.is_above(a, b) || self.is_above(b, a)) { Op::Or } else { op };
        let whole = match (self.get(a), self.get(b)) {
            (&Expr::Const(x), &Expr::Const(y)) => {
                let value = match op {
                    Op::Add => x.wrapping_add(y),
                    Op::Sub => x.wrapping_sub(y),
                    Op::Mul => x.wrapping_mul(y),
                    Op::Or => x | y,
                    Op::And => x & y,
                    Op::Xor => x ^ y,
                    Op::Shl => x << y,
                    Op::Shr => x >> y,
                    Op::Sar => (x.cast_signed() >> y).cast_unsigned(),
                };
                self.number(value)
            }
            (&Expr::Frame(at), &Expr::Const(by)) if op == Op::Add && wide => {
                self.intern(Expr::Frame(at.wrapping_add(by as i32)))
            }
            (&Expr::Op(Op::Add, c, of), &Expr::Const(y))
                if op == Op::Add && self.constant(of).is_some() =>
            {
                let sum = self.constant(of).unwrap_or(0).wrapping_add(y);
                let sum = self.number(sum);
                return self.op(Op::Add, wide, c, sum);
            }
            // A constant is added last.
            (&Expr::Op(Op::Add, c, of), _)
                if op == Op::Add && wide && self.constant(of).is_some() =>
            {
                let sum = self.op(Op::Add, true, c, b);
                return self.op(Op::Add, true, sum, of);
            }
            (_, &Expr::Op(Op::Add, c, of))
                if op == Op::Add && wide && self.constant(of).is_some() =>
            {
                let sum = self.op(Op::Add, true, a, c);
                return self.op(Op::Add, true, sum, of);
            }
            (&Expr::Op(Op::And, c, of), &Expr::Const(mask))
                if op == Op::And && self.constant(of).is_some() =>
            {
                let mask = self.number(mask & self.constant(of).unwrap_or(0));
                return self.op(Op::And, true, c, mask);
            }
            // Bits that are set and masked again.
            (&Expr::Op(Op::Or, c, of), &Expr::Const(mask))
                if op == Op::And && self.constant(of).is_some_and(|set| set & mask == 0) =>
            {
                return self.op(Op::And, true, c, b);
            }
            (_, &Expr::Const(0)) if !matches!(op, Op::Mul | Op::And) => a,
            (_, &Expr::Const(mask)) if op == Op::And && mask.trailing_ones() >= self.bits(a) => a,
            _ => self.intern(Expr::Op(op, a, b)),
        };
        if self.bits(whole) <= bits { whole } else { self.low(whole, bits) }
    }

    /// Whether a number is shifted beyond all bits of another.
    fn is_above(&self, a: Id, b: Id) -> bool {
        match *self.get(a) {
            Expr::Op(Op::Shl, _, by) => {
                self.constant(by).is_some_and(|by| u64::from(self.bits(b)) <= by)
            }
            _ => false,
        }
    }

    /// Some of the bytes that a value has in memory.
    pub(super) fn part(&mut self, value: Id, from: u8, bytes: u8) -> Id {
        let skipped =
            if cfg!(target_endian = "little") { 8 * u64::from(from) } else { return UNKNOWN };
        let by = self.number(skipped);
        let from = self.op(Op::Shr, true, value, by);
        if from == UNKNOWN { from } else { self.low(from, 8 * u32::from(bytes)) }
    }

    /// Whether a value is an address in the value of a map.
    fn is_pointer(&self, id: Id) -> bool {
        match *self.get(id) {
            Expr::Found(_) | Expr::Context | Expr::Tables => true,
            Expr::Op(Op::Add, a, b) => self.is_pointer(a) || self.is_pointer(b),
            _ => false,
        }
    }

    /// What memory holds that is not the stack.
    pub(super) fn load(&mut self, base: Id, offset: i32, bytes: u8) -> Id {
        match *self.get(base) {
            Expr::Op(Op::Add, of, by) if let Some(by) = self.constant(by) => {
                self.load(of, offset.wrapping_add(by as i32), bytes)
            }
            Expr::Tables => {
                let from = usize::try_from(offset).ok().and_then(|from| self.tables.get(from..));
                let found = from.and_then(|from| from.get(..bytes.into()));
                let number = |bytes: &[u8]| {
                    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
                };
                match found.map(number) {
                    Some(number) => self.number(number),
                    None => UNKNOWN,
                }
            }
            _ if self.is_pointer(base) => self.intern(Expr::Load { bytes, base, offset }),
            _ => UNKNOWN,
        }
    }

    /// What a conversion of byte order leaves.
    pub(super) fn swap(&mut self, bytes: u8, id: Id) -> Id {
        match *self.get(id) {
            Expr::Unknown => UNKNOWN,
            Expr::Const(value) => {
                let bits = u32::from(bytes) * 8;
                self.number(value.swap_bytes() >> (64 - bits))
            }
            _ => {
                let id = self.low(id, u32::from(bytes) * 8);
                self.intern(Expr::Swap(bytes, id))
            }
        }
    }

    /// The test an instruction makes, and whether the instruction says the opposite of it.
    pub(super) fn test(&mut self, cond: Cond, wide: bool, a: Id, b: Id) -> Option<(Test, bool)> {
        // Turned by half, signed numbers are in the order of unsigned ones.
        let (a, b, cond) = match cond {
            Cond::Signed(cond) if a != UNKNOWN && b != UNKNOWN => {
                let half = self.number(if wide { 1 << 63 } else { 1 << 31 });
                let turned = [a, b].map(|id| self.op(Op::Xor, wide, id, half));
                (turned[0], turned[1], cond.unsigned())
            }
            cond => (a, b, cond),
        };
        let (less, swapped, negated) = match cond {
            Cond::Eq => (false, false, false),
            Cond::Ne => (false, false, true),
            Cond::Lt => (true, false, false),
            Cond::Ge => (true, false, true),
            Cond::Gt => (true, true, false),
            Cond::Le => (true, true, true),
            Cond::Signed(_) | Cond::Opaque => return None,
        };
        if a == UNKNOWN || b == UNKNOWN {
            return None;
        }
        let [a, b] = if wide { [a, b] } else { [a, b].map(|id| self.low(id, 32)) };
        let swapped = if less { swapped } else { a > b };
        let (left, right) = if swapped { (b, a) } else { (a, b) };
        Some((Test { less, left, right }, negated))
    }

    /// One value if an instruction's comparison holds, else the other.
    pub(super) fn select(&mut self, (test, negated): (Test, bool), yes: Id, no: Id) -> Id {
        let (yes, no) = if negated { (no, yes) } else { (yes, no) };
        if yes == UNKNOWN || no == UNKNOWN {
            return UNKNOWN;
        }
        self.intern(Expr::Select(test, yes, no))
    }
}
