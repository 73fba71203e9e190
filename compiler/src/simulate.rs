//! Flows judged by the compiled code: each end's program runs natively on the flow's first frame.

use crate::decided::Decided;
use crate::frame;
use crate::native::{Engine, NativeError, Outcome};
use crate::program::PASS;
use crate::rules::address_number;
use seg_artifact::addresses::Nets;
use seg_artifact::classes::Net;
use seg_artifact::manifest::Roles;
use seg_artifact::maps::{self, About, Reason};
use seg_lang::ast::Direction;
use seg_lang::eval::{Decision, Endpoint, Flow, Verdict};
use seg_lang::policy::RuleId;

/// The interface a flow's frame is seen on; any number serves.
pub const IFINDEX: u32 = 1;

/// The ident of a flow's source and of its destination, where they are endpoints.
pub fn idents(decided: &Decided) -> [u16; 2] {
    let n_nets = decided.records().n_nets;
    [n_nets + 1, n_nets + 2]
}

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
    classes: Net,
    labels: Vec<u32>,
    is_self: bool,
}

impl Bound {
    /// Index of its program among those of `roles`.
    pub fn role(&self, roles: &Roles) -> Option<u32> {
        roles.role(self.is_self, &self.labels)
    }

    /// What a node knows of it that has it behind an interface, or elsewhere (0).
    pub fn about(&self, ifindex: u32) -> About {
        let is_self = if self.is_self { maps::INTERFACE_SELF } else { 0 };
        let record = Some(self.record.clone());
        About { classes: self.classes, interface: ifindex | is_self, record }
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
pub fn place(decided: &Decided, flow: &Flow) -> Option<Placed> {
    if flow.source.address == flow.destination.address {
        return None;
    }
    let frame = frame::first(flow)?;
    let source = bound(decided, &flow.source, None, 1);
    let destination = bound(decided, &flow.destination, Some(&flow.source), 2);
    let connection = frame::connection(flow);
    Some(Placed { source, destination, frame, connection })
}

fn bound(
    decided: &Decided,
    end: &Endpoint,
    other: Option<&Endpoint>,
    number: u32,
) -> Option<Bound> {
    let labels = decided.labels();
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
    let address = address_number(end.address);
    let classes =
        decided.classes().and_then(|of| of.of_endpoint(end.is_self, &own_labels, address));
    let classes = classes.unwrap_or_default();
    Some(Bound { record, classes, labels: own_labels, is_self: end.is_self })
}

/// The compiled code of a policy, ready to judge.
pub struct Simulator<'a> {
    engine: Engine,
    decided: &'a Decided,
}

impl<'a> Simulator<'a> {
    /// Compiles every program natively.
    ///
    /// # Errors
    /// [`NativeError`] if this machine cannot run them, or there are too many nets.
    pub fn new(decided: &'a Decided) -> Result<Self, NativeError> {
        let functions: Vec<_> =
            decided.functions().into_iter().map(|(_, function)| function).collect();
        let mut engine = Engine::new(&functions, decided.records(), decided.constants())?;
        engine.set_nets(Nets::new(&decided.nets()))?;
        let nets = decided.classes().map_or(&[][..], |classes| &classes.nets);
        for (ident, &classes) in (0..).zip(nets) {
            engine.set_ident(ident, &About { classes, ..About::default() });
        }
        Ok(Self { engine, decided })
    }

    /// What the programs of both ends make of a flow's first frame; nothing for an end that is not managed.
    pub fn run(&mut self, flow: &Flow) -> Vec<Judged> {
        let Some(placed) = place(self.decided, flow) else { return Vec::new() };
        self.engine.forget();
        let (source, destination) = (&placed.source, &placed.destination);
        let idents = idents(self.decided);
        let ends = [(source, flow.source.address), (destination, flow.destination.address)];
        for ((end, address), ident) in ends.into_iter().zip(idents) {
            if end.is_some() {
                self.engine.set_address(address, ident).expect("room for two addresses");
            }
        }
        let [outbound, inbound] =
            [Direction::Outbound, Direction::Inbound].map(|way| self.decided.roles(way));
        let ways = [
            (Direction::Outbound, source, outbound, 0),
            (Direction::Inbound, destination, inbound, outbound.programs.len()),
        ];
        let mut judged = Vec::new();
        for (way, end, roles, first) in ways {
            let Some(end) = end else { continue };
            let Some(role) = end.role(roles) else { continue };
            for (other, ident) in [source, destination].into_iter().zip(idents) {
                let Some(other) = other else { continue };
                let ifindex = if std::ptr::eq(other, end) { IFINDEX } else { 0 };
                self.engine.set_ident(ident, &other.about(ifindex));
            }
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
        judged.iter().filter_map(|judged| decision(self.decided, judged.outcome)).collect()
    }
}

/// What a counter that moved says, if policy decided.
pub fn decision(decided: &Decided, outcome: Outcome) -> Option<Decision> {
    let Outcome { action, counter } = outcome;
    let verdict = if action == PASS { Verdict::Allow } else { Verdict::Deny };
    if counter == Reason::Default.counter() {
        return Some(Decision { verdict, tier: None, rule: None });
    }
    let rule = counter.checked_sub(maps::RULE_COUNTERS)?;
    let rules = decided.rules();
    let tier = rules.blocks.get(rules.rules.get(rule as usize)?.block)?.tier;
    Some(Decision { verdict, tier: Some(tier), rule: Some(RuleId(rule)) })
}
