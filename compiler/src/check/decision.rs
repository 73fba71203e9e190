//! From the instructions between the look-up of both ends and the exits to the diagram of what they decide.
//!
//! Bottom-up and memoised by where a run is and what may still be read there, so that shared code is followed once.
//! A branch on something no question is about must not matter: both ways decide the same, or one ends for a reason that is no decision.

use super::execute::{Asks, Counter, Facts, Machine, Point, Stop};
use super::expr::Id;
use super::fields::{DISCOVERY, ERROR, Fields, OPENS, REPLIES, Reading};
use super::{CheckError, Family, Layout, Refusal};
use crate::diagram::{BlockVerdict, Edge, Field, Leaf, Manager, Node, Op, Ref};
use crate::limits::LimitError;
use crate::ranges::Ranges;
use seg_artifact::manifest::{self, Roles, Target};
use seg_artifact::maps::{self, Reason};
use seg_lang::ast::Direction;
use seg_lang::policy::{LabelId, RuleId};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`. Source: uapi/linux/pkt_cls.h.
const PASS: u32 = -1_i32 as u32;
const DROP: u32 = 2;

/// How deep branches on different questions may nest.
const DEPTH_MAX: usize = 2_000;

/// Highest addresses that one comparison of lower halves may be asked for.
const HIGHS_MAX: u128 = 1 << 16;

/// Why a program is not followed to its end.
pub(super) enum Stuck {
    /// The instruction, and what is wrong with it.
    Refused(usize, Refusal),
    /// The diagram is too large.
    Limit(LimitError),
}

impl From<(usize, Refusal)> for Stuck {
    fn from((at, what): (usize, Refusal)) -> Self {
        Self::Refused(at, what)
    }
}

impl From<LimitError> for Stuck {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl Stuck {
    pub(super) fn of(self, program: &str) -> CheckError {
        match self {
            Self::Refused(at, what) => CheckError::refused(program, at, what),
            Self::Limit(error) => CheckError::Limit(error),
        }
    }
}

/// A leaf as both sides of the comparison write it: who allows or denies; [`Leaf::Yes`] is the default.
pub(super) fn leaf(allow: bool, rule: Option<RuleId>) -> Leaf {
    let verdict = if allow { BlockVerdict::Allow } else { BlockVerdict::Deny };
    rule.map_or(Leaf::Yes, |rule| Leaf::Block(verdict, Reverse(rule)))
}

/// The ways a packet may leave a program, as a set.
///
/// The first three have the counter of the decision; then comes a bit for each [`Reason`] that acts as it should.
type Exits = u32;
/// Passes, and the connection is remembered or the packet opens none.
const KEPT: Exits = 1;
/// Passes.
const PASSES: Exits = 2;
/// Is dropped.
const DROPS: Exits = 4;

/// What becomes of packets that are denied: answers and errors of remembered connections pass.
const DENIES: Exits = DROPS | of_reason(Reason::Reply) | of_reason(Reason::Related);

const fn of_reason(reason: Reason) -> Exits {
    8 << reason as u32
}

/// What the parser may say of a packet that has no flow.
const OF_PARSER: Exits = of_reason(Reason::Arp)
    | of_reason(Reason::NotIp)
    | of_reason(Reason::Malformed)
    | of_reason(Reason::Fragment)
    | of_reason(Reason::Extension);

/// What the part of a program before the ends are looked up does: ends with a reason of the parser, or goes on.
///
/// The result is there, with what registers and stack hold in every way to it.
///
/// # Errors
/// [`Stuck`] if it does anything else.
pub(super) fn before(machine: &mut Machine, cut: usize) -> Result<Point, Stuck> {
    let mut ends: Option<Point> = None;
    let (mut seen, mut pending) = (HashSet::new(), vec![machine.entry()]);
    while let Some(mut point) = pending.pop() {
        machine.forget(&mut point);
        if !seen.insert(point.clone()) {
            continue;
        }
        if point.pc == cut {
            ends = Some(match ends {
                Some(other) => machine.common(&other, &point),
                None => point,
            });
            continue;
        }
        match machine.run_to(&mut point, cut)? {
            None => pending.push(point),
            Some(stop @ Stop::Branch { .. }) => {
                pending.extend([true, false].map(|taken| machine.behind(&point, stop, taken)));
            }
            Some(Stop::Exit(action)) => {
                if exits(&point, action)? & OF_PARSER == 0 {
                    return Err(Stuck::Refused(point.pc, Refusal::Undecided));
                }
            }
            Some(Stop::Noted(_)) => unreachable!("nothing is noted before the ends are known"),
        }
    }
    ends.ok_or(Stuck::Refused(cut, Refusal::NoEnds))
}

/// How a packet leaves at an exit.
fn exits(point: &Point, action: u32) -> Result<Exits, Stuck> {
    let refused = Err(Stuck::Refused(point.pc, Refusal::Count));
    let facts = point.facts;
    let Some(counter) = facts.counted.filter(|_| facts.added == [true; 2]) else { return refused };
    let [known, set] = facts.kind;
    let opens = known & OPENS == 0 || set & OPENS != 0;
    Ok(match (counter, action) {
        (Counter::Noted, PASS) if facts.remembered || !opens => KEPT,
        (Counter::Noted, PASS) => PASSES,
        (Counter::Noted, DROP) => DROPS,
        (Counter::Is(index), action) => {
            let reason = Reason::ALL.into_iter().find(|reason| reason.counter() == index);
            let Some(reason) = reason else { return refused };
            let right = match reason {
                Reason::Reply => facts.remembered && set & REPLIES != 0,
                Reason::Related => facts.remembered && set & ERROR != 0,
                Reason::Spoofed => facts.strange,
                _ => true,
            };
            if !right || action != (if reason.passes() { PASS } else { DROP }) {
                return Err(Stuck::Refused(point.pc, Refusal::Action));
            }
            of_reason(reason)
        }
        (Counter::Noted, _) => return Err(Stuck::Refused(point.pc, Refusal::Action)),
    })
}

/// What a program decides for packets of one family.
pub(super) struct Decision<'m, 'a> {
    m: &'m mut Manager,
    machine: &'m mut Machine<'a>,
    way: Direction,
    /// Those of peers.
    roles: &'a Roles,
    start: Point,
    /// `None` while it is being found out.
    decided: HashMap<Point, Option<Decided>>,
    left: HashMap<Point, Option<Exits>>,
    depth: usize,
}

/// A diagram, or `None` if all packets end for a reason that is no decision.
type Decided = Option<Ref>;

impl<'m, 'a> Decision<'m, 'a> {
    /// `ends` is where the ends are looked up, from [`before`].
    pub(super) fn new(
        m: &'m mut Manager,
        machine: &'m mut Machine<'a>,
        ends: &Point,
        way: Direction,
        family: Family,
        layout: Layout,
        roles: &'a Roles,
    ) -> Self {
        let fields = Fields::new(&mut machine.exprs, way, family, layout);
        let start = machine.assume(ends, way, fields);
        let (decided, left) = Default::default();
        Self { m, machine, way, roles, start, decided, left, depth: 0 }
    }

    /// The manager of the diagram.
    pub(super) fn manager(&mut self) -> &mut Manager {
        self.m
    }

    /// The diagram, with [`leaf`]s, as far as packets of the family can tell.
    pub(super) fn diagram(&mut self) -> Result<Ref, Stuck> {
        let start = self.start.clone();
        self.decide(start.clone())?.ok_or(Stuck::Refused(start.pc, Refusal::Undecided))
    }

    fn decide(&mut self, mut at: Point) -> Result<Decided, Stuck> {
        let stop = self.machine.run(&mut at)?;
        self.decide_at(at, stop)
    }

    fn decide_at(&mut self, mut at: Point, stop: Stop) -> Result<Decided, Stuck> {
        let asks = match stop {
            Stop::Branch { asks, .. } => asks,
            Stop::Noted(noted) => {
                let (rules, default) = (maps::RULE_COUNTERS, Reason::Default.counter());
                let is_decision =
                    |counter: u64| counter >= rules.into() || counter == u64::from(default);
                return match self.machine.exprs.constant(noted) {
                    Some(counter) if !self.machine.looks_up() || !is_decision(counter) => {
                        self.noted(at, counter as u32)
                    }
                    _ => self.looked_up(at, noted),
                };
            }
            Stop::Exit(_) => return Err(Stuck::Refused(at.pc, Refusal::Undecided)),
        };
        let peer = match asks {
            Asks::Missing(of) => self.machine.is_peer(of),
            _ => false,
        };
        if peer || matches!(asks, Asks::Range(..)) {
            // A decision is the same whatever the packet means to connection state.
            at.facts.kind = [0; 2];
        }
        self.machine.forget(&mut at);
        match self.decided.get(&at) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(Stuck::Refused(at.pc, Refusal::Loop)),
            None => {}
        }
        self.decided.insert(at.clone(), None);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Stuck::Refused(at.pc, Refusal::Deep));
        }
        let decided = match asks {
            Asks::Range(reading, _) => Some(self.group(&at, reading.field())?),
            Asks::Missing(_) if peer => Some(self.peer(&at, stop)?),
            _ => {
                let mut both = None;
                for taken in [true, false] {
                    let behind = self.machine.behind(&at, stop, taken);
                    let one = self.decide(behind)?;
                    match (both, one) {
                        (Some(a), Some(b)) if a != b => {
                            return Err(Stuck::Refused(at.pc, Refusal::Depends));
                        }
                        (_, one) => both = both.or(one),
                    }
                }
                both
            }
        };
        self.depth -= 1;
        self.decided.insert(at, Some(decided));
        Ok(decided)
    }

    /// Whether the peer is managed.
    fn peer(&mut self, at: &Point, stop: Stop) -> Result<Ref, Stuck> {
        let Stop::Branch { negated, .. } = stop else { unreachable!("not at a branch") };
        let mut sides = [Manager::NO; 2];
        for taken in [true, false] {
            let behind = self.machine.behind(at, stop, taken);
            let decided = self.decide(behind)?;
            let missing = taken != negated;
            sides[usize::from(!missing)] =
                decided.ok_or(Stuck::Refused(at.pc, Refusal::Undecided))?;
        }
        self.ask(Field::PeerManaged, vec![(0, sides[0]), (1, sides[1])])
    }

    /// All comparisons that follow each other with answers to one question, at once.
    fn group(&mut self, at: &Point, field: Option<Field>) -> Result<Ref, Stuck> {
        let mut edges = Vec::new();
        let mut pending = vec![(at.clone(), None)];
        while let Some((mut at, answers)) = pending.pop() {
            let stop = self.machine.run(&mut at)?;
            let asked = match stop {
                Stop::Branch { asks: Asks::Range(reading, range), negated, .. } => {
                    (reading.field() == field).then_some((reading, range, negated))
                }
                _ => None,
            };
            let Some((reading, range, negated)) = asked else {
                let (_, last) = answers.expect("the first stop asks");
                let pc = at.pc;
                let decided = self.decide_at(at, stop)?;
                edges.push((last, decided.ok_or(Stuck::Refused(pc, Refusal::Undecided))?));
                continue;
            };
            let (first, last) = answers.unwrap_or_else(|| reading.answers(self.m));
            let Some((from, to)) = reading.part(range, (first, last)) else {
                if !matches!(reading, Reading::Low(_)) {
                    return Err(Stuck::Refused(at.pc, Refusal::Depends));
                }
                let highs = first >> 64..=last >> 64;
                if highs.end() - highs.start() > HIGHS_MAX {
                    return Err(Stuck::Refused(at.pc, Refusal::Halves));
                }
                let of_high = |high: u128| {
                    let all = (high << 64, high << 64 | u128::from(u64::MAX));
                    (at.clone(), Some((all.0.max(first), all.1.min(last))))
                };
                pending.extend(highs.rev().map(of_high));
                continue;
            };
            let inside = (from.max(first), to.min(last));
            let after = inside.1.checked_add(1).filter(|&from| from <= last).map(|f| (f, last));
            let before = from.checked_sub(1).map(|to| (first, to.min(last)));
            let parts = if inside.0 <= inside.1 {
                [
                    (after, negated),
                    (Some(inside), !negated),
                    (before.filter(|b| b.0 <= b.1), negated),
                ]
            } else {
                [(None, negated), (None, negated), (Some((first, last)), negated)]
            };
            for (answers, taken) in parts {
                if answers.is_some() {
                    pending.push((self.machine.behind(&at, stop, taken), answers));
                }
            }
        }
        match field {
            Some(field) => self.ask(field, edges),
            None => self.by_role(&edges),
        }
    }

    /// What is decided by the role of the peer, as the questions that lead to the role.
    fn by_role(&mut self, of_role: &[(u128, Ref)]) -> Result<Ref, Stuck> {
        let roles = self.roles;
        let mut of_node = vec![Manager::NO; roles.nodes.len()];
        let below = |of_node: &[Ref], target: Target| match target {
            Target::Node(node) => of_node[node as usize],
            Target::Role(role) => {
                of_role[of_role.partition_point(|(last, _)| *last < role.into())].1
            }
        };
        // Nodes refer to later ones.
        for (index, node) in roles.nodes.iter().enumerate().rev() {
            let edges = node.edges.iter().map(|e| (e.last.into(), below(&of_node, e.to)));
            let edges = edges.collect();
            of_node[index] = self.ask(peer_field(node.field), edges)?;
        }
        Ok(below(&of_node, roles.root))
    }

    /// The diagram that asks `field`, with where each range of answers leads; nothing is said of those outside.
    fn ask(&mut self, field: Field, mut edges: Vec<(u128, Ref)>) -> Result<Ref, Stuck> {
        let max = self.m.max(field);
        if let Some(last) = edges.last_mut() {
            last.0 = max;
        }
        let later = |m: &Manager, to: Ref| match m.node(to) {
            Node::Ask(below, _) => *below > field,
            Node::Leaf(_) => true,
        };
        if edges.iter().all(|&(_, to)| later(self.m, to)) {
            return Ok(self.m.ask(field, edges.into_iter().map(|(last, to)| Edge { last, to }))?);
        }
        // Some code below asks what comes before in the order of diagrams.
        let mut first = 0;
        let mut parts = Vec::new();
        for (last, to) in edges {
            let here =
                self.m.member(field, &Ranges::new(first, last), Manager::YES, Manager::NO)?;
            parts.push(self.m.apply(Op::Within, here, to)?);
            first = last.wrapping_add(1);
        }
        Ok(self.m.join(parts)?)
    }

    /// What a counter that has been noted means is what becomes of the packet then.
    fn noted(&mut self, at: Point, counter: u32) -> Result<Decided, Stuck> {
        let pc = at.pc - 1;
        let discovery = at.facts.kind[1] & DISCOVERY != 0;
        let mut at = at;
        at.facts.kind = [0; 2];
        let exits = self.leave(at)?;
        let rule = counter.checked_sub(maps::RULE_COUNTERS).map(RuleId);
        let decided = match exits {
            exits if self.allows(exits) && rule.is_some() => Some(leaf(true, rule)),
            DENIES if rule.is_some() || counter == Reason::Default.counter() => {
                Some(leaf(false, rule))
            }
            DROPS if counter == Reason::Spoofed.counter() => None,
            PASSES if counter == Reason::NeighbourDiscovery.counter() && discovery => None,
            _ => return Err(Stuck::Refused(pc, Refusal::Outcome)),
        };
        Ok(decided.map(|leaf| self.m.leaf(leaf)).transpose()?)
    }

    /// Whether packets that leave so are allowed.
    fn allows(&self, exits: Exits) -> bool {
        // Only what comes in may have been judged before, by the program of its source.
        match self.way {
            Direction::Outbound => exits == KEPT,
            Direction::Inbound => exits & !of_reason(Reason::Spoofed) == KEPT,
        }
    }

    /// What has been noted is what the tables say, and so is what becomes of the packet: [`Manager::YES`].
    fn looked_up(&mut self, mut at: Point, noted: Id) -> Result<Decided, Stuck> {
        let refused = |what| Err(Stuck::Refused(at.pc - 1, what));
        if !self.machine.looked_up(self.way, at.facts.managed, noted) {
            return refused(Refusal::Lookup);
        }
        at.facts = Facts { kind: [0; 2], managed: None, ..at.facts };
        let verdict = self.machine.verdict.and_then(|verdict| self.machine.exprs.constant(verdict));
        if let Some(allow) = verdict {
            let pc = at.pc;
            let exits = self.leave(at)?;
            let right = if allow == 0 { exits == DENIES } else { self.allows(exits) };
            return if right {
                Ok(Some(Manager::YES))
            } else {
                Err(Stuck::Refused(pc, Refusal::Outcome))
            };
        }
        let stop = self.machine.run(&mut at)?;
        let Stop::Branch { asks: Asks::Denied, negated, .. } = stop else {
            return Err(Stuck::Refused(at.pc, Refusal::Outcome));
        };
        self.machine.verdict = None;
        for taken in [true, false] {
            let behind = self.machine.behind(&at, stop, taken);
            let exits = self.leave(behind)?;
            let denied = taken != negated;
            if if denied { exits != DENIES } else { !self.allows(exits) } {
                return Err(Stuck::Refused(at.pc, Refusal::Outcome));
            }
        }
        Ok(Some(Manager::YES))
    }

    /// How packets may leave the program from here on, with the decision made.
    fn leave(&mut self, mut at: Point) -> Result<Exits, Stuck> {
        let stop = self.machine.run(&mut at)?;
        if let Stop::Exit(action) = stop {
            return exits(&at, action);
        }
        self.machine.forget(&mut at);
        match self.left.get(&at) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(Stuck::Refused(at.pc, Refusal::Loop)),
            None => {}
        }
        self.left.insert(at.clone(), None);
        let mut exits = 0;
        for taken in [true, false] {
            let behind = self.machine.behind(&at, stop, taken);
            exits |= self.leave(behind)?;
        }
        self.left.insert(at, Some(exits));
        Ok(exits)
    }

    /// The role of a peer with these answers.
    fn role(&self, answer: &dyn Fn(Field) -> u128) -> u128 {
        let mut target = self.roles.root;
        loop {
            let node = match target {
                Target::Role(role) => return role.into(),
                Target::Node(node) => &self.roles.nodes[node as usize],
            };
            let answer = answer(peer_field(node.field));
            let edge = node.edges.partition_point(|edge| u128::from(edge.last) < answer);
            target = node.edges[edge].to;
        }
    }

    /// The instruction that notes the decision on a flow with these answers.
    pub(super) fn place(&mut self, answer: &dyn Fn(Field) -> u128) -> Result<usize, Stuck> {
        let mut at = self.start.clone();
        loop {
            let stop = self.machine.run(&mut at)?;
            let Stop::Branch { asks, negated, .. } = stop else { return Ok(at.pc - 1) };
            let taken = match asks {
                Asks::Range(reading, range) => {
                    let answer = match reading.field() {
                        Some(field) => answer(field),
                        None => self.role(answer),
                    };
                    let part = reading.part(range, (answer, answer));
                    part.is_some_and(|(from, to)| (from..=to).contains(&answer)) != negated
                }
                Asks::Missing(of) if self.machine.is_peer(of) => {
                    (answer(Field::PeerManaged) == 0) != negated
                }
                _ => {
                    let behind = self.machine.behind(&at, stop, true);
                    self.decide(behind)?.is_some()
                }
            };
            at = self.machine.behind(&at, stop, taken);
        }
    }
}

fn peer_field(field: manifest::Field) -> Field {
    match field {
        manifest::Field::IsSelf => Field::PeerSelf,
        manifest::Field::Label(label) => Field::PeerLabel(LabelId(label)),
    }
}
