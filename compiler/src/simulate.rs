//! Flows judged by the compiled code: each end's program runs natively on the flow's first frame.

use crate::frame;
use crate::native::{Engine, NativeError, Outcome};
use crate::pipeline;
use crate::program::PASS;
use crate::rules::Labels;
use crate::trees::Trees;
use seg_artifact::manifest::Roles;
use seg_artifact::maps::{self, Reason};
use seg_lang::ast::Direction;
use seg_lang::eval::{Decision, Endpoint, Flow, Verdict};
use seg_lang::policy::RuleId;

/// The interface a flow's frame is seen on; any number serves.
pub const IFINDEX: u32 = 1;

/// A flow as a node sees it: records of the ends that are endpoints, and the first frame.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Record and own label values of the source, if it is managed.
    pub source: Option<Bound>,
    /// The same of the destination.
    pub destination: Option<Bound>,
    /// The frame.
    pub frame: Vec<u8>,
    /// Key of the connection it may open, in [`maps::CONNTRACK`].
    pub connection: Vec<u8>,
}

/// An endpoint as `segd` would bind it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// As in [`maps::record`].
    pub record: Vec<u8>,
    labels: Vec<u32>,
    is_self: bool,
}

impl Bound {
    /// Index of its program among those of `roles`.
    pub fn role(&self, roles: &Roles) -> Option<u32> {
        roles.role(self.is_self, &self.labels)
    }
}

/// What one end's program made of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Outbound for the source's program, inbound for the destination's.
    pub way: Direction,
    /// Which of the programs in that direction.
    pub role: u32,
    /// What it did.
    pub outcome: Outcome,
}

/// Places a flow on a node.
///
/// `None` if no frame opens it, or both ends are one address.
pub fn place(labels: &Labels, flow: &Flow) -> Option<Placed> {
    if flow.source.address == flow.destination.address {
        return None;
    }
    let frame = frame::first(flow)?;
    let source = bound(labels, &flow.source, None, 1);
    let destination = bound(labels, &flow.destination, Some(&flow.source), 2);
    let connection = frame::connection(flow);
    Some(Placed { source, destination, frame, connection })
}

fn bound(labels: &Labels, end: &Endpoint, other: Option<&Endpoint>, number: u32) -> Option<Bound> {
    let own = end.labels.as_ref()?;
    let value = |label| {
        let text = own.get(&label).map(String::as_str);
        let listed = u32::try_from(labels.number(label, text)).unwrap_or(u32::MAX);
        // Values no rule lists get numbers of their own above the listed, one for each spelling.
        let unlisted = u128::from(listed) > labels.label(label).values.len() as u128;
        let known = other.and_then(|other| other.labels.as_ref()?.get(&label));
        if unlisted && known.is_some_and(|known| Some(known.as_str()) != text) {
            listed + 1
        } else {
            listed
        }
    };
    let own_labels: Vec<u32> = labels.ids().map(value).collect();
    let port =
        |name| end.ports.get(name).map_or(0, |&(protocol, port)| maps::port_value(protocol, port));
    let ports: Vec<u32> = labels.ports().iter().map(port).collect();
    let record = maps::record(number, end.is_self, 0, &[own_labels.clone(), ports].concat());
    Some(Bound { record, labels: own_labels, is_self: end.is_self })
}

/// The compiled code of a policy, ready to judge.
pub struct Simulator<'a> {
    engine: Engine,
    trees: &'a Trees,
}

impl<'a> Simulator<'a> {
    /// Compiles every program natively.
    ///
    /// # Errors
    /// [`NativeError`] if this machine cannot run them.
    pub fn new(trees: &'a Trees) -> Result<Self, NativeError> {
        let functions: Vec<_> =
            pipeline::functions(trees).into_iter().map(|(_, function)| function).collect();
        let n_values = trees.rules.labels.n_values();
        Ok(Self { engine: Engine::new(&functions, n_values)?, trees })
    }

    /// What the programs of both ends make of a flow's first frame; nothing for an end that is not managed.
    pub fn run(&mut self, flow: &Flow) -> Vec<Judged> {
        let Some(placed) = place(&self.trees.rules.labels, flow) else { return Vec::new() };
        self.engine.forget();
        let (source, destination) = (&placed.source, &placed.destination);
        for (end, address) in
            [(source, flow.source.address), (destination, flow.destination.address)]
        {
            if let Some(end) = end {
                self.engine.set_endpoint(address, &end.record);
            }
        }
        let n_outbound = self.trees.outbound.trees.len();
        let ways = [
            (Direction::Outbound, source, &self.trees.outbound.roles, 0),
            (Direction::Inbound, destination, &self.trees.inbound.roles, n_outbound),
        ];
        let mut judged = Vec::new();
        for (way, end, roles, first) in ways {
            let Some(end) = end else { continue };
            let Some(role) = end.role(roles) else { continue };
            self.engine.set_local(IFINDEX, &end.record);
            let outcome = self.engine.run(first + role as usize, IFINDEX, &placed.frame);
            judged.push(Judged { way, role, outcome });
            // Each end judges a first packet; the state the other end left would make it a later one.
            self.engine.forget_connections();
        }
        judged
    }

    /// The decisions among what [`Simulator::run`] gives: frames that never come before policy have none.
    pub fn judge(&mut self, flow: &Flow) -> Vec<Decision> {
        let judged = self.run(flow);
        judged.iter().filter_map(|judged| decision(self.trees, judged.outcome)).collect()
    }
}

/// What a counter that moved says, if policy decided.
pub fn decision(trees: &Trees, outcome: Outcome) -> Option<Decision> {
    let Outcome { action, counter } = outcome;
    let verdict = if action == PASS { Verdict::Allow } else { Verdict::Deny };
    if counter == Reason::Default.counter() {
        return Some(Decision { verdict, tier: None, rule: None });
    }
    let rule = counter.checked_sub(maps::RULE_COUNTERS)?;
    let tier = trees.rules.blocks.get(trees.rules.rules.get(rule as usize)?.block)?.tier;
    Some(Decision { verdict, tier: Some(tier), rule: Some(RuleId(rule)) })
}
