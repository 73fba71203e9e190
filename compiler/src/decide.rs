//! From canonical rules to the diagram of every decision, verdict and deciding rule.
//!
//! One end of a flow is local, the other the peer; which is the source is the direction.

use crate::diagram::{BlockVerdict, Edge, Field, Leaf, Manager, Op, Ref, TierVerdict};
use crate::limits::LimitError;
use crate::ranges::Ranges;
use crate::rules::{
    Action, Ends, Exempt, Flow, Labels, PortId, Ports, Rule, Rules, Services, address_number,
};
use seg_lang::ast::Direction;
use seg_lang::eval::{self, Decision, Verdict};
use seg_lang::policy::LabelId;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The end a program works for.
    Local,
    /// The other.
    Peer,
}

/// What is decided together: parts of a policy whose greatest answers are the policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Index into [`Rules::rules`].
    Rule(usize),
    /// Index into [`Rules::blocks`]: one with `isolate`, which yields to what the block allows and to nothing else.
    Block(usize),
}

/// The units of all that is enforced.
pub fn units(rules: &Rules) -> Vec<Unit> {
    let isolates = rules.rules.iter().filter(|rule| rule.action == Action::Isolate);
    let whole: BTreeSet<usize> = isolates.map(|rule| rule.block).collect();
    let enforced = |block: usize| !rules.blocks[block].staged;
    let alone =
        (0..).zip(&rules.rules).filter(|(_, r)| enforced(r.block) && !whole.contains(&r.block));
    let alone = alone.map(|(rule, _)| Unit::Rule(rule));
    alone.chain(whole.iter().copied().filter(|&b| enforced(b)).map(Unit::Block)).collect()
}

/// Decides every flow.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn decide(m: &mut Manager, rules: &Rules, way: Direction) -> Result<Ref, LimitError> {
    decide_units(m, rules, &units(rules), way)
}

/// Decides every flow as if these were all the policy has.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn decide_units(
    m: &mut Manager,
    rules: &Rules,
    units: &[Unit],
    way: Direction,
) -> Result<Ref, LimitError> {
    let each = units.iter().map(|unit| match *unit {
        Unit::Rule(index) => {
            let rule = &rules.rules[index];
            let verdict = match rule.action {
                Action::Allow => TierVerdict::Allow,
                Action::Deny => TierVerdict::Deny,
                Action::Isolate => unreachable!("a block with `isolate` is one unit"),
            };
            let tier = Reverse(rules.blocks[rule.block].tier);
            decide_rule(m, &rules.labels, rule, way, Leaf::Tier(tier, verdict, Reverse(rule.id)))
        }
        Unit::Block(block) => decide_block(m, rules, block, way),
    });
    let each = each.collect::<Result<_, _>>()?;
    m.join(each)
}

/// Decides every flow as if the block stood alone.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn decide_block(
    m: &mut Manager,
    rules: &Rules,
    block: usize,
    way: Direction,
) -> Result<Ref, LimitError> {
    let of_block = rules.rules.iter().filter(|rule| rule.block == block);
    let said = of_block.map(|rule| {
        let verdict = match rule.action {
            Action::Isolate => BlockVerdict::Isolate,
            Action::Allow => BlockVerdict::Allow,
            Action::Deny => BlockVerdict::Deny,
        };
        decide_rule(m, &rules.labels, rule, way, Leaf::Block(verdict, Reverse(rule.id)))
    });
    let said = said.collect::<Result<_, _>>()?;
    let said = m.join(said)?;
    let tier = Reverse(rules.blocks[block].tier);
    m.relabel(said, &|leaf| match leaf {
        Leaf::Block(BlockVerdict::Isolate, rule) => Leaf::Tier(tier, TierVerdict::Isolate, rule),
        Leaf::Block(BlockVerdict::Allow, rule) => Leaf::Tier(tier, TierVerdict::Allow, rule),
        Leaf::Block(BlockVerdict::Deny, rule) => Leaf::Tier(tier, TierVerdict::Deny, rule),
        Leaf::No | Leaf::Yes | Leaf::Tier(..) => leaf,
    })
}

fn decide_rule(
    m: &mut Manager,
    labels: &Labels,
    rule: &Rule,
    way: Direction,
    leaf: Leaf,
) -> Result<Ref, LimitError> {
    let mut matched = flows(m, &rule.flows, way)?;
    for &label in &rule.when {
        let same = same(m, labels, label)?;
        matched = m.apply(Op::Within, same, matched)?;
    }
    for exempt in &rule.unless {
        let exempt = match exempt {
            Exempt::Flow(flow) => flows(m, std::slice::from_ref(flow), way)?,
            Exempt::Same(dimensions) => {
                dimensions.iter().try_fold(Manager::YES, |all, &label| {
                    let same = same(m, labels, label)?;
                    m.apply(Op::Within, all, same)
                })?
            }
        };
        matched = m.apply(Op::Without, matched, exempt)?;
    }
    let leaf = m.leaf(leaf)?;
    m.apply(Op::Within, matched, leaf)
}

/// The set of flows in any of `flows`.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn flows(m: &mut Manager, flows: &[Flow], way: Direction) -> Result<Ref, LimitError> {
    let (source, destination) = match way {
        Direction::Outbound => (End::Local, End::Peer),
        Direction::Inbound => (End::Peer, End::Local),
    };
    let each = flows.iter().map(|flow| {
        let from = ends(m, &flow.from, source)?;
        let to = ends(m, &flow.to, destination)?;
        let on = services(m, &flow.on, destination)?;
        let both = m.apply(Op::Within, from, to)?;
        let both = m.apply(Op::Within, both, on)?;
        let Some(requests) = &flow.requests else { return Ok(both) };
        let request = m.member(Field::Request, requests, Manager::YES, Manager::NO)?;
        m.apply(Op::Within, both, request)
    });
    let each = each.collect::<Result<_, _>>()?;
    m.join(each)
}

/// The set of flows whose `end` is in the set.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn ends(m: &mut Manager, set: &Ends, end: End) -> Result<Ref, LimitError> {
    let (managed, is_self, address) = match end {
        End::Local => (Field::LocalManaged, Field::LocalSelf, Field::LocalAddress),
        End::Peer => (Field::PeerManaged, Field::PeerSelf, Field::PeerAddress),
    };
    let yes = Ranges::new(1, 1);
    let truth = |is: bool| if is { Manager::YES } else { Manager::NO };
    // An end that is not managed is not the machine itself and has no labels.
    match set {
        Ends::Managed(is) => m.member(managed, &yes, truth(*is), truth(!is)),
        Ends::SelfHost(is) => {
            let known = m.member(is_self, &yes, truth(*is), truth(!is))?;
            m.member(managed, &yes, known, truth(!is))
        }
        Ends::Label(label, values) => {
            let field = match end {
                End::Local => Field::LocalLabel(*label),
                End::Peer => Field::PeerLabel(*label),
            };
            let known = m.member(field, values, Manager::YES, Manager::NO)?;
            m.member(managed, &yes, known, truth(values.contains(0)))
        }
        Ends::Address(ranges) => m.member(address, ranges, Manager::YES, Manager::NO),
        Ends::Name(pattern, is) => {
            let field = |id| match end {
                End::Local => Field::LocalName(id),
                End::Peer => Field::PeerName(id),
            };
            let id = m.atoms().name_id(pattern);
            let mut known = m.member(field(id), &yes, truth(*is), truth(!is))?;
            // With a form of names comes every wider one.
            let mut wider = m.atoms().wider(id).filter(|_| *is);
            while let Some(id) = wider {
                let also = m.member(field(id), &yes, Manager::YES, Manager::NO)?;
                known = m.apply(Op::Within, known, also)?;
                wider = m.atoms().wider(id);
            }
            Ok(known)
        }
        // Another machine's processes are not known.
        Ends::Cgroup(path, is) => {
            let field = match end {
                End::Local => Field::LocalCgroup,
                End::Peer => Field::PeerCgroup,
            };
            let within = m.atoms().within(path);
            let known = m.member(field, &within, truth(*is), truth(!is))?;
            let known = m.member(is_self, &yes, known, truth(!is))?;
            m.member(managed, &yes, known, truth(!is))
        }
        Ends::Union(parts) => {
            let parts = parts.iter().map(|part| ends(m, part, end));
            let parts = parts.collect::<Result<_, _>>()?;
            m.join(parts)
        }
        Ends::Intersect(parts) => parts.iter().try_fold(Manager::YES, |all, part| {
            let part = ends(m, part, end)?;
            m.apply(Op::Within, all, part)
        }),
    }
}

/// The set of flows whose ends have the same value in a dimension.
///
/// # Errors
/// [`LimitError::Nodes`].
pub fn same(m: &mut Manager, labels: &Labels, label: LabelId) -> Result<Ref, LimitError> {
    let max = m.max(Field::LocalLabel(label));
    let one = Ranges::new(1, 1);
    let told_apart = labels.told_apart(label);
    // Among the others only equality can be asked, so that one role serves all of them.
    let others = told_apart.complement(max).intersect(&Ranges::new(1, max.max(1)));
    let agree = m.member(Field::Same(label), &one, Manager::YES, Manager::NO)?;
    let peer = m.member(Field::PeerLabel(label), &others, agree, Manager::NO)?;
    let other = m.member(Field::PeerManaged, &one, peer, Manager::NO)?;
    let mut edges = vec![Edge { last: 0, to: Manager::NO }];
    let mut next = 1;
    for value in told_apart.iter().flat_map(|(first, last)| first..=last) {
        let only = Ranges::new(value, value);
        let peer = m.member(Field::PeerLabel(label), &only, Manager::YES, Manager::NO)?;
        let to = m.member(Field::PeerManaged, &one, peer, Manager::NO)?;
        if next < value {
            edges.push(Edge { last: value - 1, to: other });
        }
        edges.push(Edge { last: value, to });
        next = value + 1;
    }
    if next <= max {
        edges.push(Edge { last: max, to: other });
    }
    let local = m.ask(Field::LocalLabel(label), edges)?;
    m.member(Field::LocalManaged, &one, local, Manager::NO)
}

/// The set of flows that carry one of the services to `destination`.
pub(crate) fn services(
    m: &mut Manager,
    set: &Services,
    destination: End,
) -> Result<Ref, LimitError> {
    let known = carried(m, set, Some(destination))?;
    if !set.0.iter().any(|(_, _, ports)| matches!(ports, Ports::Named { .. })) {
        return Ok(known);
    }
    // A destination that is not managed has names for no port.
    let unknown = carried(m, set, None)?;
    let managed = match destination {
        End::Local => Field::LocalManaged,
        End::Peer => Field::PeerManaged,
    };
    m.member(managed, &Ranges::new(1, 1), known, unknown)
}

/// The set of flows that carry one of the services; without `names` no port has a name.
fn carried(m: &mut Manager, set: &Services, names: Option<End>) -> Result<Ref, LimitError> {
    let mut edges = Vec::new();
    let mut next = 0;
    for (first, last, of) in &set.0 {
        if next < u128::from(*first) {
            edges.push(Edge { last: u128::from(*first) - 1, to: Manager::NO });
        }
        let to = ports(m, of, names)?;
        edges.push(Edge { last: u128::from(*last), to });
        next = u128::from(*last) + 1;
    }
    if next <= u128::from(u8::MAX) {
        edges.push(Edge { last: u128::from(u8::MAX), to: Manager::NO });
    }
    m.ask(Field::Protocol, edges)
}

fn ports(m: &mut Manager, of: &Ports, names: Option<End>) -> Result<Ref, LimitError> {
    match of {
        Ports::Pairs(pairs) => {
            let parts = pairs.iter().map(|(ports, sources)| {
                let source = m.member(Field::SourcePort, sources, Manager::YES, Manager::NO)?;
                m.member(Field::Port, ports, source, Manager::NO)
            });
            let parts = parts.collect::<Result<_, _>>()?;
            m.join(parts)
        }
        Ports::Named { name, yes, no } => {
            let rest = ports(m, no, names)?;
            let Some(end) = names else { return Ok(rest) };
            let field = match end {
                End::Local => Field::LocalPort(*name),
                End::Peer => Field::PeerPort(*name),
            };
            let named = ports(m, yes, names)?;
            m.member(field, &Ranges::new(1, 1), named, rest)
        }
    }
}

/// The decision a leaf of [`decide`] stands for.
pub fn decision(leaf: Leaf) -> Decision {
    match leaf {
        Leaf::Tier(Reverse(tier), verdict, Reverse(rule)) => {
            let verdict = match verdict {
                TierVerdict::Allow => Verdict::Allow,
                TierVerdict::Isolate | TierVerdict::Deny => Verdict::Deny,
            };
            Decision { verdict, tier: Some(tier), rule: Some(rule) }
        }
        Leaf::No | Leaf::Yes | Leaf::Block(..) => {
            Decision { verdict: Verdict::Deny, tier: None, rule: None }
        }
    }
}

/// What a flow answers to a field.
pub fn answer(labels: &Labels, flow: &eval::Flow, way: Direction, field: Field) -> u128 {
    let (local, peer) = match way {
        Direction::Outbound => (&flow.source, &flow.destination),
        Direction::Inbound => (&flow.destination, &flow.source),
    };
    let own = |end: &'_ eval::Endpoint, label: LabelId| {
        end.labels.as_ref().and_then(|own| own.get(&label)).cloned()
    };
    let calls = |end: &eval::Endpoint, port: PortId| {
        let known =
            end.labels.as_ref().and_then(|_| end.ports.get(&labels.ports()[port.0 as usize]));
        u128::from(known == Some(&(flow.protocol, flow.port)))
    };
    let value = |end, label| labels.number(label, own(end, label).as_deref());
    match field {
        Field::LocalManaged => u128::from(local.labels.is_some()),
        Field::LocalSelf => u128::from(local.is_self),
        Field::LocalLabel(label) => value(local, label),
        Field::PeerManaged => u128::from(peer.labels.is_some()),
        Field::PeerSelf => u128::from(peer.is_self),
        Field::PeerLabel(label) => value(peer, label),
        Field::Same(label) => {
            u128::from(own(local, label).is_some() && own(local, label) == own(peer, label))
        }
        Field::PeerAddress => address_number(peer.address),
        Field::LocalAddress => address_number(local.address),
        Field::Protocol => u128::from(flow.protocol),
        Field::PeerPort(port) => calls(peer, port),
        Field::LocalPort(port) => calls(local, port),
        Field::Port => u128::from(flow.port),
        Field::SourcePort => u128::from(flow.source_port),
        Field::PeerName(id) => u128::from(labels.atoms().resolves(id, peer)),
        Field::LocalName(id) => u128::from(labels.atoms().resolves(id, local)),
        Field::PeerCgroup => labels.atoms().cgroup_number(peer),
        Field::LocalCgroup => labels.atoms().cgroup_number(local),
        Field::Request => labels.atoms().request_number(flow.http.as_ref()),
    }
}
