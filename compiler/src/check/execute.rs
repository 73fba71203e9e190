//! Runs a program on expressions, up to the next point where it may go two ways.

use super::Refusal;
use super::expr::{Expr, Exprs, Id, Input, Slot, Test, UNKNOWN};
use super::fields::{self, ACTION, COUNTER, Fields, Reading};
use super::insn::{FRAME, Insn, Op, Reg, Src};
use super::live::{Live, live, places};
use super::lookup::Lookup;
use super::object::Program;
use crate::diagram::Field;
use crate::ir::helper;
use seg_artifact::maps;
use seg_lang::ast::Direction;
use std::collections::HashMap;
use std::rc::Rc;

/// Where a run is, and all that may matter from here on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Point {
    pub(super) pc: usize,
    pub(super) regs: [Id; FRAME as usize],
    /// Index into [`Machine::stacks`].
    pub(super) stack: u32,
    pub(super) facts: Facts,
}

/// What the way to a [`Point`] has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    /// A decision has been noted.
    pub(super) noted: bool,
    /// Bits of [`Input::Kind`] that are known, and what they are.
    pub(super) kind: [u8; 2],
    /// The connection is remembered: it was found, or stored.
    pub(super) remembered: bool,
    /// The packet may open a connection: no program judges its source, or it has come by the right interface.
    pub(super) judged: bool,
    /// It has come by another interface than its source's.
    pub(super) strange: bool,
    /// The counter that has been looked up.
    pub(super) counted: Option<Counter>,
    /// Its packets and its bytes were added to.
    pub(super) added: [bool; 2],
    /// Whether the peer is managed, where tables decide.
    pub(super) managed: Option<bool>,
    /// What is known of both addresses while a net of IPv6 is searched, this end's first.
    pub(super) addresses: [Option<(u128, u128)>; 2],
}

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    /// The one that was noted when the decision was made.
    Noted,
    /// The one with this index.
    Is(u32),
}

/// Where a run stops.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// At a branch that goes to the target if the answer is not `negated`.
    Branch { asks: Asks, negated: bool, to: usize },
    /// Behind the store of a counter that ends the decision.
    Noted(Id),
    /// At an exit with this value.
    Exit(u32),
}

/// What a branch depends on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asks {
    /// Whether a number that answers a question lies in a range.
    Range(Reading, (u64, u64)),
    /// Whether a map has no value.
    Missing(Id),
    /// Whether a bit of [`Input::Kind`] is clear.
    Kind(u8),
    /// Whether packets of the peer reach no program of this node.
    Elsewhere,
    /// Whether the packet came by the interface of its source.
    Interface,
    /// Whether [`Machine::verdict`] is 0.
    Denied,
    /// Something that no question is about.
    Open,
}

/// How much is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Constants and addresses: enough for the parser, which has loops.
    Constants,
    /// All that can be expressed.
    Expressions,
}

/// A program and the values met in it.
pub(super) struct Machine<'a> {
    program: &'a Program,
    live: Vec<Live>,
    pub(super) exprs: Exprs,
    /// Sorted by offset; a slot is known whole or not at all.
    stacks: Vec<Rc<[Slot]>>,
    stack_ids: HashMap<Rc<[Slot]>, u32>,
    kept: HashMap<(u32, u64), u32>,
    pub(super) fields: Option<Fields>,
    lookup: Option<&'a Lookup<'a>>,
    /// Not 0 if what was looked up last allows.
    pub(super) verdict: Option<Id>,
    depth: Depth,
    steps_left: usize,
}

/// Steps a program may take for each of its instructions before the checker gives up.
const STEPS_PER_INSTRUCTION: usize = 400;

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a Program, lookup: Option<&'a Lookup<'a>>) -> Self {
        let tables = lookup.map_or_else(|| Rc::from([]), |lookup| Rc::clone(&lookup.bytes));
        let (live, exprs) = (live(&program.insns), Exprs::new(tables));
        let searched = lookup.map_or(0, |lookup| lookup.nets.len());
        let steps_left = STEPS_PER_INSTRUCTION * (program.insns.len() + searched);
        let (stacks, stack_ids, kept) = Default::default();
        let depth = Depth::Constants;
        Self {
            program,
            live,
            exprs,
            stacks,
            stack_ids,
            kept,
            fields: None,
            lookup,
            verdict: None,
            depth,
            steps_left,
        }
    }

    /// The point where the program begins.
    pub(super) fn entry(&mut self) -> Point {
        let mut regs = [UNKNOWN; FRAME as usize];
        regs[1] = self.exprs.intern(Expr::Context);
        self.depth = Depth::Constants;
        Point { pc: 0, regs, stack: self.stack(Vec::new()), facts: Facts::default() }
    }

    /// The point under the assumptions of `fields`, and with all else that is known there.
    ///
    /// What goes out was not judged before.
    pub(super) fn assume(&mut self, point: &Point, way: Direction, fields: Fields) -> Point {
        self.depth = Depth::Expressions;
        let below = self.stacks[point.stack as usize].iter().copied();
        let below = below.take_while(|slot| slot.0 + i16::from(slot.1) <= fields::NOTES);
        let slots = below.chain(fields.slots.iter().copied()).collect();
        let stack = self.stack(slots);
        self.fields = Some(fields);
        let facts = Facts { judged: way == Direction::Outbound, ..Facts::default() };
        Point { stack, facts, ..point.clone() }
    }

    /// What is known at both of two points of one instruction.
    pub(super) fn common(&mut self, a: &Point, b: &Point) -> Point {
        let mut common = a.clone();
        for (reg, other) in common.regs.iter_mut().zip(b.regs) {
            if *reg != other {
                *reg = UNKNOWN;
            }
        }
        let [of_a, of_b] = [a, b].map(|point| Rc::clone(&self.stacks[point.stack as usize]));
        common.stack =
            self.stack(of_a.iter().filter(|slot| of_b.contains(slot)).copied().collect());
        common
    }

    fn stack(&mut self, slots: Vec<Slot>) -> u32 {
        let slots: Rc<[Slot]> = slots.into();
        *self.stack_ids.entry(Rc::clone(&slots)).or_insert_with(|| {
            self.stacks.push(slots);
            u32::try_from(self.stacks.len() - 1).expect("steps are bounded")
        })
    }

    /// Forgets what is not read any more.
    pub(super) fn forget(&mut self, point: &mut Point) {
        let live = self.live[point.pc];
        for (reg, value) in point.regs.iter_mut().enumerate() {
            if live.regs & 1 << reg == 0 {
                *value = UNKNOWN;
            }
        }
        let key = (point.stack, live.stack);
        point.stack = match self.kept.get(&key) {
            Some(&kept) => kept,
            None => {
                let slots = self.stacks[point.stack as usize].iter().copied();
                let read =
                    slots.filter(|slot| live.stack & places(slot.0.into(), slot.1.into()) != 0);
                let read = read.collect();
                let kept = self.stack(read);
                self.kept.insert(key, kept);
                kept
            }
        };
    }

    /// Runs to the next stop, or to the slot `cut`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn run_to(
        &mut self,
        point: &mut Point,
        cut: usize,
    ) -> Result<Option<Stop>, (usize, Refusal)> {
        self.step(point, Some(cut))
    }

    /// Runs to the next stop; `point` is there then: at a branch or an exit, behind the note.
    ///
    /// # Errors
    /// The instruction that does what no program may, and what that is.
    pub(super) fn run(&mut self, point: &mut Point) -> Result<Stop, (usize, Refusal)> {
        Ok(self.step(point, None)?.expect("there is no cut"))
    }

    fn step(
        &mut self,
        point: &mut Point,
        cut: Option<usize>,
    ) -> Result<Option<Stop>, (usize, Refusal)> {
        loop {
            let pc = point.pc;
            if cut == Some(pc) {
                return Ok(None);
            }
            self.steps_left = self.steps_left.checked_sub(1).ok_or((pc, Refusal::Long))?;
            point.pc = pc + 1;
            match self.program.insns[pc] {
                Insn::Jump { to } => point.pc = to,
                Insn::Second => {}
                Insn::Exit => {
                    point.pc = pc;
                    let action = self.exprs.low(point.regs[0], 32);
                    let action = self.exprs.constant(action).ok_or((pc, Refusal::Action))?;
                    return Ok(Some(Stop::Exit(action as u32)));
                }
                Insn::Call { helper } => self.call(point, helper).map_err(|what| (pc, what))?,
                Insn::Store { bytes, base, offset, src } => {
                    let noted = self.store(point, (base, offset, bytes), src);
                    if let Some(counter) = noted.map_err(|what| (pc, what))? {
                        return Ok(Some(Stop::Noted(counter)));
                    }
                }
                Insn::Branch { wide, cond, dst, src, to } => {
                    let (a, b) = (self.reg(point, dst), self.operand(point, src));
                    let test = self.exprs.test(cond, wide, a, b);
                    let (asks, negated) = match test {
                        None => (Asks::Open, false),
                        Some((test, negated)) => match self.asks(test, negated, point.facts) {
                            Ok(asked) => asked,
                            Err(holds) => {
                                point.pc = if holds { to } else { pc + 1 };
                                continue;
                            }
                        },
                    };
                    if !self.chosen(point, test, to) {
                        point.pc = pc;
                        return Ok(Some(Stop::Branch { asks, negated, to }));
                    }
                }
                insn => self.compute(point, pc, insn),
            }
        }
    }

    fn reg(&mut self, point: &Point, reg: Reg) -> Id {
        match reg {
            FRAME => self.exprs.intern(Expr::Frame(0)),
            reg => point.regs[usize::from(reg)],
        }
    }

    fn operand(&mut self, point: &Point, src: Src) -> Id {
        match src {
            Src::Reg(reg) => self.reg(point, reg),
            Src::Imm(imm) => self.exprs.number(imm),
        }
    }

    fn compute(&mut self, point: &mut Point, pc: usize, insn: Insn) {
        let (dst, value) = match insn {
            Insn::Op { wide, op, dst, src } => {
                let (a, b) = (self.reg(point, dst), self.operand(point, src));
                (dst, self.exprs.op(op, wide, a, b))
            }
            Insn::Mov { wide, dst, src } => {
                let value = self.operand(point, src);
                (dst, if wide || value == UNKNOWN { value } else { self.exprs.low(value, 32) })
            }
            Insn::Swap { bytes, dst } => {
                let value = self.reg(point, dst);
                (dst, self.exprs.swap(bytes, value))
            }
            Insn::Wide { dst, value } if self.program.tables.contains(&pc) => {
                let [tables, at] =
                    [Expr::Tables, Expr::Const(value)].map(|of| self.exprs.intern(of));
                (dst, self.exprs.op(Op::Add, true, tables, at))
            }
            Insn::Wide { dst, value } => match self.program.maps.get(&pc) {
                Some(map) => (dst, self.exprs.intern(Expr::Map(map.clone()))),
                None => (dst, self.exprs.number(value)),
            },
            Insn::Load { bytes, dst, base, offset } => {
                let base = self.reg(point, base);
                (dst, self.load(point, base, offset, bytes))
            }
            Insn::Opaque { dst } => (dst, UNKNOWN),
            insn => unreachable!("{insn:?} computes nothing"),
        };
        let simple = matches!(
            self.exprs.get(value),
            Expr::Const(_)
                | Expr::Frame(_)
                | Expr::Context
                | Expr::Map(_)
                | Expr::Value { .. }
                | Expr::Found(_)
        );
        let followed = simple || self.depth == Depth::Expressions;
        point.regs[usize::from(dst)] = if followed { value } else { UNKNOWN };
    }

    fn load(&mut self, point: &Point, base: Id, offset: i16, bytes: u8) -> Id {
        match *self.exprs.get(base) {
            Expr::Frame(at) => self.read(point.stack, at + i32::from(offset), bytes),
            _ => self.exprs.load(base, offset.into(), bytes),
        }
    }

    fn read(&mut self, stack: u32, at: i32, bytes: u8) -> Id {
        let slots = &self.stacks[stack as usize];
        let after = slots.partition_point(|slot| i32::from(slot.0) <= at);
        let Some(&(from, size, value)) = after.checked_sub(1).map(|index| &slots[index]) else {
            return UNKNOWN;
        };
        match at - i32::from(from) {
            0 if size == bytes => value,
            skipped if skipped + i32::from(bytes) <= size.into() => {
                self.exprs.part(value, skipped as u8, bytes)
            }
            _ => UNKNOWN,
        }
    }

    /// Writes memory; the counter that is noted, if it is the note that ends the decision.
    fn store(
        &mut self,
        point: &mut Point,
        (base, offset, bytes): (Reg, i16, u8),
        src: Src,
    ) -> Result<Option<Id>, Refusal> {
        let base = self.reg(point, base);
        let mut value = self.operand(point, src);
        if value != UNKNOWN {
            value = self.exprs.low(value, u32::from(bytes) * 8);
        }
        let at = match *self.exprs.get(base) {
            Expr::Frame(at) => at + i32::from(offset),
            Expr::Found(of) => {
                return self.add(point, of, base, (offset, bytes), value).map(|()| None);
            }
            _ => return Err(Refusal::Store),
        };
        // Of the parser's numbers none but the counter and the action matter.
        if self.depth == Depth::Constants
            && !(COUNTER..=ACTION).contains(&at.try_into().unwrap_or(0))
            && self.exprs.constant(value).is_some()
        {
            value = UNKNOWN;
        }
        let ends = at + i32::from(bytes);
        let slots = self.stacks[point.stack as usize].iter().copied();
        let beside = |slot: &Slot| {
            let from = i32::from(slot.0);
            from >= ends || from + i32::from(slot.1) <= at
        };
        let mut slots: Vec<Slot> = slots.filter(beside).collect();
        let noted = (at == i32::from(COUNTER) && bytes == 4 && self.fields.is_some())
            .then_some(value)
            .filter(|value| *value != UNKNOWN)
            .filter(|_| !std::mem::replace(&mut point.facts.noted, true));
        if noted.is_some() {
            value = self.exprs.intern(Expr::Input(Input::Noted));
        }
        if bytes == 4
            && let Some(end) = fields::IDENTS.iter().position(|note| at == i32::from(*note))
        {
            value = self.net(point, end, value);
        }
        if value != UNKNOWN {
            let at = i16::try_from(at).map_err(|_| Refusal::Store)?;
            slots.insert(slots.partition_point(|slot| slot.0 < at), (at, bytes, value));
        }
        point.stack = self.stack(slots);
        Ok(noted)
    }

    /// An ident that was searched for, by what it is.
    fn net(&mut self, point: &mut Point, end: usize, value: Id) -> Id {
        let Some(lookup) = self.lookup.filter(|lookup| lookup.places.nets6.is_some()) else {
            return value;
        };
        let Some(number) = self.exprs.constant(value) else { return value };
        let range = point.facts.addresses[end].take().unwrap_or((0, u128::MAX));
        if !lookup.is_net(range, number as u16) {
            return value;
        }
        let net = self.exprs.intern(Expr::Input(Input::Net { local: end == 0 }));
        let marked = self.exprs.number(number & !u64::from(u16::MAX));
        self.exprs.op(Op::Or, true, net, marked)
    }

    /// Whether tables decide.
    pub(super) fn looks_up(&self) -> bool {
        self.lookup.is_some()
    }

    /// Takes note of the verdict if `noted` is the counter that belongs to what the tables say; says whether it is.
    pub(super) fn looked_up(&mut self, way: Direction, managed: Option<bool>, noted: Id) -> bool {
        let (Some(lookup), Some(fields)) = (self.lookup, &self.fields) else { return false };
        self.verdict = lookup.verdict(&mut self.exprs, fields, way, managed, noted);
        self.verdict.is_some()
    }

    /// Writes the value of a map: a counter or the state of a connection.
    fn add(
        &mut self,
        point: &mut Point,
        of: Id,
        base: Id,
        (offset, bytes): (i16, u8),
        value: Id,
    ) -> Result<(), Refusal> {
        match self.map_of(of) {
            Some(maps::CONNTRACK) => return Ok(()),
            Some(maps::COUNTERS) => {}
            _ => return Err(Refusal::Store),
        }
        let by = match offset {
            0 => self.exprs.number(1),
            _ => {
                let base = self.exprs.intern(Expr::Context);
                self.exprs.load(base, fields::SKB_LEN, 4)
            }
        };
        let before = self.exprs.load(base, offset.into(), 8);
        let after = self.exprs.op(Op::Add, true, before, by);
        let index = match (offset, bytes) {
            (0, 8) => 0,
            (8, 8) => 1,
            _ => return Err(Refusal::Count),
        };
        // The parser is not followed that far.
        let right = value == after || self.depth == Depth::Constants;
        if !right || std::mem::replace(&mut point.facts.added[index], true) {
            return Err(Refusal::Count);
        }
        Ok(())
    }

    fn map_of(&self, value: Id) -> Option<&str> {
        let Expr::Value { map, .. } = self.exprs.get(value) else { return None };
        match self.exprs.get(*map) {
            Expr::Map(name) => Some(name),
            _ => None,
        }
    }

    fn call(&mut self, point: &mut Point, helper: u32) -> Result<(), Refusal> {
        let [_, map, key, ..] = point.regs;
        let mut result = UNKNOWN;
        match helper {
            helper::MAP_LOOKUP_ELEM | helper::MAP_UPDATE_ELEM => {
                let Expr::Map(name) = self.exprs.get(map) else { return Err(Refusal::Call) };
                let Expr::Frame(at) = *self.exprs.get(key) else { return Err(Refusal::Call) };
                let name = name.as_str();
                if helper == helper::MAP_UPDATE_ELEM {
                    if (name, at) != (maps::CONNTRACK, fields::KEY.into()) {
                        return Err(Refusal::Call);
                    }
                    if !point.facts.judged {
                        return Err(Refusal::Stranger);
                    }
                    point.facts.remembered = true;
                } else {
                    let bytes = match name {
                        maps::ADDRESSES4 | maps::IDENTS | maps::RECORDS => Some(4),
                        maps::ADDRESSES6 => Some(maps::ADDRESS_KEY_BYTES as i32),
                        maps::LOCAL => Some(maps::LOCAL_KEY_BYTES as i32),
                        _ => None,
                    };
                    if name == maps::COUNTERS {
                        point.facts.counted = Some(self.counter(point, at)?);
                    }
                    let key = bytes.and_then(|bytes| self.key(point.stack, at, bytes));
                    result = self.exprs.intern(Expr::Value { map, key });
                }
            }
            helper::SKB_PULL_DATA | helper::KTIME_GET_COARSE_NS => {}
            _ => return Err(Refusal::Call),
        }
        point.regs[..=5].fill(UNKNOWN);
        point.regs[0] = result;
        Ok(())
    }

    /// What a key in the stack holds, if all of it is known.
    fn key(&self, stack: u32, at: i32, bytes: i32) -> Option<Vec<Slot>> {
        let slots = self.stacks[stack as usize].iter();
        let inside = slots.filter(|slot| (at..at + bytes).contains(&slot.0.into()));
        let inside: Vec<Slot> = inside.map(|s| (s.0 - at as i16, s.1, s.2)).collect();
        let whole = inside.iter().map(|slot| i32::from(slot.1)).sum::<i32>() == bytes;
        whole.then_some(inside)
    }

    /// The counter that is looked up: one, and only once.
    fn counter(&mut self, point: &Point, at: i32) -> Result<Counter, Refusal> {
        let key = self.read(point.stack, at, 4);
        let counter = match *self.exprs.get(key) {
            Expr::Const(index) => Counter::Is(index as u32),
            Expr::Input(Input::Noted) => Counter::Noted,
            _ => return Err(Refusal::Count),
        };
        if point.facts.counted.is_some() { Err(Refusal::Count) } else { Ok(counter) }
    }

    /// What a test asks, or whether it holds.
    fn asks(&self, test: Test, negated: bool, facts: Facts) -> Result<(Asks, bool), bool> {
        let Test { less, left, right } = test;
        let (a, b) = (self.exprs.constant(left), self.exprs.constant(right));
        let fields = self.fields.as_ref();
        let (of, range) = match (a, b) {
            (Some(a), Some(b)) => return Err((if less { a < b } else { a == b }) != negated),
            (None, None) if less => return Ok((Asks::Open, negated)),
            (None, None) => {
                let came = |fields: &Fields| fields.judged.is_interface(left, right);
                let asks = if fields.is_some_and(came) { Asks::Interface } else { Asks::Open };
                return Ok((asks, negated));
            }
            (None, Some(b)) if less => (left, b.checked_sub(1).map(|last| (0, last))),
            (Some(a), None) if less => (right, a.checked_add(1).map(|first| (first, u64::MAX))),
            (Some(n), None) => (right, Some((n, n))),
            (None, Some(n)) => (left, Some((n, n))),
        };
        let (least, most) = fields.map_or((0, u64::MAX), |f| (f.least(of), f.most(of)));
        let most = most.min(self.exprs.max(of));
        let Some((first, last)) = range.filter(|range| range.0 <= most) else {
            return Err(negated);
        };
        let last = last.min(most);
        if last < least {
            return Err(negated);
        }
        if first <= least && last == most {
            return Err(!negated);
        }
        if let Some(reading) = fields.and_then(|fields| fields.reading(of)) {
            return Ok((Asks::Range(reading, (first, last)), negated));
        }
        let is_zero = (first, last) == (0, 0);
        let elsewhere = |range| fields.is_some_and(|fields| fields.judged.is_elsewhere(of, range));
        match *self.exprs.get(of) {
            Expr::Value { .. } if is_zero => Ok((Asks::Missing(of), negated)),
            Expr::Found(_) if is_zero => Err(negated),
            _ if self.verdict == Some(of) => Ok((Asks::Denied, negated != (first > 0))),
            _ if elsewhere((first, last)) => Ok((Asks::Elsewhere, negated)),
            _ if last == most && first > 0 && elsewhere((0, first - 1)) => {
                Ok((Asks::Elsewhere, !negated))
            }
            Expr::Op(Op::And, kind, bit)
                if is_zero && fields.is_some_and(|fields| fields.kind == kind) =>
            {
                let bit = self.exprs.constant(bit).filter(|bit| bit.is_power_of_two());
                let Some(bit) = bit.and_then(|bit| u8::try_from(bit).ok()) else {
                    return Ok((Asks::Open, negated));
                };
                match facts.kind[0] & bit {
                    0 => Ok((Asks::Kind(bit), negated)),
                    _ => Err((facts.kind[1] & bit == 0) != negated),
                }
            }
            Expr::Select(inner, yes, no) => {
                let of = |arm: Id| self.exprs.constant(arm).map(|n| (first..=last).contains(&n));
                match (of(yes), of(no)) {
                    (Some(true), Some(true)) => Err(!negated),
                    (Some(false), Some(false)) => Err(negated),
                    (Some(holds), Some(_)) => self.asks(inner, negated == holds, facts),
                    _ => Ok((Asks::Open, negated)),
                }
            }
            _ => Ok((Asks::Open, negated)),
        }
    }

    /// Takes a branch over one move to a register as the choice of a value that it is; says whether it is one.
    fn chosen(&mut self, point: &mut Point, test: Option<(Test, bool)>, to: usize) -> bool {
        let next = point.pc;
        let (width, dst) = match self.program.insns[next] {
            Insn::Mov { dst, .. } => (1, dst),
            Insn::Wide { dst, .. } => (2, dst),
            _ => return false,
        };
        let used = self.live[to].regs & 1 << dst != 0;
        if to != next + width || !used || self.depth == Depth::Constants {
            return false;
        }
        let kept = point.regs[usize::from(dst)];
        self.compute(point, next, self.program.insns[next]);
        let moved = &mut point.regs[usize::from(dst)];
        *moved = test.map_or(UNKNOWN, |test| self.exprs.select(test, kept, *moved));
        point.pc = to;
        true
    }

    /// The point behind a branch; what the branch has shown is known there.
    pub(super) fn behind(&mut self, point: &Point, stop: Stop, taken: bool) -> Point {
        let Stop::Branch { asks, negated, to } = stop else { unreachable!("not at a branch") };
        let mut point = Point { pc: if taken { to } else { point.pc + 1 }, ..point.clone() };
        let holds = taken != negated;
        match asks {
            Asks::Missing(of) => {
                let known = match holds {
                    true => self.exprs.number(0),
                    false => self.exprs.intern(Expr::Found(of)),
                };
                let learn = |id: Id| if id == of { known } else { id };
                point.regs = point.regs.map(learn);
                let slots = self.stacks[point.stack as usize].iter();
                let slots = slots.map(|&(at, bytes, id)| (at, bytes, learn(id))).collect();
                point.stack = self.stack(slots);
                point.facts.judged |= holds && self.is_peer(of);
                match self.map_of(of) {
                    Some(maps::CONNTRACK) if !holds => point.facts.remembered = true,
                    // An index beyond the map counts nothing.
                    Some(maps::COUNTERS) if holds => point.facts.added = [true; 2],
                    _ => {}
                }
            }
            Asks::Kind(bit) => {
                let [known, set] = &mut point.facts.kind;
                *known |= bit;
                *set |= if holds { 0 } else { bit };
            }
            Asks::Elsewhere => point.facts.judged |= holds,
            Asks::Interface => {
                point.facts.judged |= holds;
                point.facts.strange |= !holds;
            }
            Asks::Range(reading, range) if self.lookup.is_some() => {
                learn(&mut point.facts, reading, range, holds);
            }
            Asks::Range(..) | Asks::Denied | Asks::Open => {}
        }
        point
    }

    /// Whether a pointer is the peer's record.
    pub(super) fn is_peer(&self, id: Id) -> bool {
        self.fields.as_ref().is_some_and(|fields| fields.peer == Some(id))
    }
}

/// What a branch shows of the ends where tables decide.
fn learn(facts: &mut Facts, reading: Reading, range: (u64, u64), holds: bool) {
    let end = match reading {
        Reading::Ident(..) => {
            let part = reading.part(range, (0, 1));
            facts.managed = part.map(|(answer, _)| (answer == 1) == holds);
            return;
        }
        Reading::High(field) | Reading::Low(field) => usize::from(field == Field::PeerAddress),
        Reading::Plain(_) | Reading::V4(_) | Reading::Role => return,
    };
    let (first, last) = facts.addresses[end].unwrap_or((0, u128::MAX));
    let Some((from, to)) = reading.part(range, (first, last)) else { return };
    let left = match holds {
        true => (from.max(first), to.min(last)),
        // What is left on one side; of both, all.
        false if from <= first => (first.max(to.saturating_add(1)), last),
        false if to >= last => (first, last.min(from - 1)),
        false => (first, last),
    };
    facts.addresses[end] = Some(left);
}
