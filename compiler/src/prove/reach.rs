//! Claims about chains of connections, `expect deny A ~> B on S avoiding W`, decided exactly.
//!
//! Layer 0 is `A`; the next layer is every endpoint from which a chain can go on once one of the layer has connected there,
//! without those known before, until nothing is new. Each layer is a set of local ends, and so a diagram:
//! `∃ source, service: source in layer, source -> destination allowed`, with the destination's fields renamed to local ones,
//! which leaves their order as it is. INVARIANT: the first layer with a connection into `B` gives the shortest chain,
//! because layers hold all that was reached.
//!
//! Forgetting the source is exact although [`Field::Same`] speaks of both ends: it is asked only of two values that nobody
//! lists, of which there are many. No set tells them apart, so a layer that has a source with one of them has that source
//! with every other, and each destination meets both an equal and an unequal one. A set that is built from such sets is one.

use super::{Counterexample, Outcome, Proof, Prover, Taken, WAY, apart, steps};
use crate::decide::{End, decision, ends, flows};
use crate::diagram::{Edge, Field, Leaf, Manager, Node, Op, Ref};
use crate::limits::LimitError;
use crate::normalize;
use crate::ranges::Ranges;
use crate::rules::{Ends, Join, address_number};
use seg_lang::eval::{self, Verdict};
use seg_lang::policy::{Chain, Endpoints, Match, WorkloadId};
use std::collections::{BTreeSet, HashMap};

/// Where a chain of some length may go on.
struct Layer {
    /// The ends of machines that were reached, as local ends.
    sources: Ref,
    /// Of these the very ends that were connected to, perhaps with some of earlier layers.
    reached: Ref,
}

/// What the chains of a claim are made of.
struct Chains {
    /// The connections there can be and that the policy allows.
    hops: Ref,
    /// Those of any source into the claim's destination on its services, allowed or not.
    arrivals: Ref,
    /// What lies between is not in it.
    avoided: Ends,
    /// The workloads of the inventory, whether or not they are the machine itself.
    listed: Ends,
}

impl Prover<'_> {
    /// Decides `expect deny A ~> B on S avoiding W`.
    pub(super) fn chain(&mut self, of: &Match, chain: &Chain) -> Result<Proof, LimitError> {
        let labels = &self.rules.labels;
        let set = |set: &Endpoints| normalize::ends(self.policy, labels, set);
        let from = set(&of.from);
        let into = Match { from: Endpoints::Any, ..of.clone() };
        let into = normalize::flows(self.policy, labels, &into);
        let avoided = chain.avoiding.as_ref().map_or(Ends::none(), set);
        let workloads = self.workloads().map(|id| self.workload(id));
        let listed = Ends::join(Join::Any, workloads.collect(), labels);

        let arrivals = flows(&mut self.m, &into, WAY)?;
        let arrivals = self.m.apply(Op::Within, arrivals, self.possible)?;
        let start = ends(&mut self.m, &from, End::Local)?;
        let departures = self.m.apply(Op::Within, start, self.possible)?;
        if arrivals == Manager::NO || departures == Manager::NO {
            return Ok(Proof { outcome: Outcome::Vacuous, witnesses: Vec::new() });
        }
        let allowed = self.m.relabel(self.whole, &|leaf| match decision(leaf).verdict {
            Verdict::Allow => Leaf::Yes,
            Verdict::Deny => Leaf::No,
        })?;
        let hops = self.m.apply(Op::Within, allowed, self.possible)?;
        self.search(start, &Chains { hops, arrivals, avoided, listed })
    }

    fn search(&mut self, start: Ref, chains: &Chains) -> Result<Proof, LimitError> {
        let avoided = ends(&mut self.m, &chains.avoided, End::Local)?;
        let avoided_peers = ends(&mut self.m, &chains.avoided, End::Peer)?;
        let mut layers = vec![Layer { sources: start, reached: start }];
        let mut known = Manager::NO;
        let mut sources = start;
        loop {
            let step = self.m.apply(Op::Within, sources, chains.hops)?;
            let arrives = self.m.apply(Op::Within, chains.arrivals, step)?;
            let arrives = apart(&mut self.m, arrives)?;
            if arrives != Manager::NO {
                let counterexample = self.trace(&layers, arrives, chains)?;
                let witnesses = counterexample.hops().map(|(flow, _)| flow.clone()).collect();
                return Ok(Proof { outcome: Outcome::Fails(Box::new(counterexample)), witnesses });
            }
            // Before their names are forgotten.
            let step = self.m.apply(Op::Without, step, avoided_peers)?;
            let step = apart(&mut self.m, step)?;
            let reached = project(&mut self.m, step, destination, &mut HashMap::new())?;
            let reached = self.m.apply(Op::Without, reached, avoided)?;
            let all = self.machines(reached, chains)?;
            let all = self.m.apply(Op::Without, all, avoided)?;
            sources = self.m.apply(Op::Without, all, known)?;
            if sources == Manager::NO {
                break;
            }
            known = self.m.apply(Op::Join, known, sources)?;
            layers.push(Layer { sources, reached });
        }
        // What the claim is about: from all that is reached, and from the start, into the destination.
        let all = self.m.apply(Op::Join, known, start)?;
        let about = self.m.apply(Op::Within, all, chains.arrivals)?;
        let about = apart(&mut self.m, about)?;
        Ok(Proof { outcome: Outcome::Holds, witnesses: self.witnesses(about)? })
    }

    /// All ends of the machines that have one in the set: a workload has its addresses, any other managed endpoint may have
    /// any that no workload with its labels has, an unmanaged one is a single address.
    /// What is `self` for one of two ends is not for the other, so this is forgotten too.
    fn machines(&mut self, set: Ref, chains: &Chains) -> Result<Ref, LimitError> {
        let managed = ends(&mut self.m, &Ends::Managed(true), End::Local)?;
        let listed = ends(&mut self.m, &chains.listed, End::Local)?;
        let managed = self.m.apply(Op::Within, managed, set)?;
        let others = self.m.apply(Op::Without, managed, listed)?;
        let others = project(&mut self.m, others, labels_only, &mut HashMap::new())?;
        let others = self.m.apply(Op::Without, others, listed)?;
        let known = self.m.apply(Op::Within, managed, listed)?;
        let mut parts = vec![set, others];
        parts.push(project(&mut self.m, known, but_self, &mut HashMap::new())?);
        for id in self.workloads() {
            if self.policy.workloads[id.0 as usize].addresses.len() > 1 {
                let own = self.workload(id);
                let own = ends(&mut self.m, &own, End::Local)?;
                if self.m.apply(Op::Within, own, known)? != Manager::NO {
                    parts.push(own);
                }
            }
        }
        self.m.join(parts)
    }

    /// A chain that ends with one of `arrives`, which begin in the last layer, hop by hop backwards.
    fn trace(
        &mut self,
        layers: &[Layer],
        arrives: Ref,
        chains: &Chains,
    ) -> Result<Counterexample, LimitError> {
        let avoided = ends(&mut self.m, &chains.avoided, End::Peer)?;
        let last = layers.last().expect("the layer they begin in");
        // Ends that were connected to are easier to follow than others of the same machine.
        let set = self.prefer(arrives, last.reached)?;
        let mut hops = vec![self.example(set)?];
        for layer in layers.iter().rev().skip(1) {
            let next = hops[hops.len() - 1].source.clone();
            let step = self.m.apply(Op::Within, layer.sources, chains.hops)?;
            let machine = self.machine(&next, chains)?;
            let machine = self.m.apply(Op::Without, machine, avoided)?;
            let step = self.m.apply(Op::Within, machine, step)?;
            let step = apart(&mut self.m, step)?;
            assert_ne!(step, Manager::NO, "something of the layer before connects there");
            let same_end = self.end(&next);
            let same_end = ends(&mut self.m, &same_end, End::Peer)?;
            let step = self.prefer(step, same_end)?;
            let step = self.prefer(step, layer.reached)?;
            let ends = hops.iter().flat_map(|flow| [flow.source.address, flow.destination.address]);
            let addresses = ends.map(address_number).collect();
            let taken = Taken { names: next.labels.unwrap_or_default(), addresses };
            hops.push(self.example_to(step, &taken)?);
        }
        let decided = hops.into_iter().rev().map(|flow| {
            let decision = self.decision(self.whole, &flow);
            (flow, decision)
        });
        let mut before: Vec<_> = decided.collect();
        let (flow, decision) = before.pop().expect("a chain has a last connection");
        Ok(Counterexample { flow, decision, before })
    }

    /// As in [`Self::machines`], of one endpoint, as peers.
    fn machine(&mut self, of: &eval::Endpoint, chains: &Chains) -> Result<Ref, LimitError> {
        let is = |id: &WorkloadId| eval::contains(self.policy, &Endpoints::Workload(*id), of);
        if let Some(id) = self.workloads().find(is) {
            let own = self.workload(id);
            return ends(&mut self.m, &own, End::Peer);
        }
        if of.labels.is_none() {
            let own = self.end(of);
            return ends(&mut self.m, &own, End::Peer);
        }
        let own = Ends::join(Join::All, self.labelled(of), &self.rules.labels);
        let own = ends(&mut self.m, &own, End::Peer)?;
        let listed = ends(&mut self.m, &chains.listed, End::Peer)?;
        self.m.apply(Op::Without, own, listed)
    }

    /// The set of one endpoint; values that nobody lists are one.
    fn end(&self, of: &eval::Endpoint) -> Ends {
        let address = address_number(of.address);
        let mut parts = self.labelled(of);
        parts.extend([Ends::SelfHost(of.is_self), Ends::Address(Ranges::new(address, address))]);
        Ends::join(Join::All, parts, &self.rules.labels)
    }

    /// Tests for the labels of an endpoint and whether it is managed.
    fn labelled(&self, of: &eval::Endpoint) -> Vec<Ends> {
        let Some(own) = &of.labels else { return vec![Ends::Managed(false)] };
        let labels = &self.rules.labels;
        let tests = labels.ids().map(|label| {
            let number = labels.number(label, own.get(&label).map(String::as_str));
            let listed = number <= labels.label(label).values.len() as u128;
            let last = if listed { number } else { labels.max(label) };
            Ends::Label(label, Ranges::new(number, last))
        });
        tests.chain([Ends::Managed(true)]).collect()
    }

    fn workload(&self, id: WorkloadId) -> Ends {
        normalize::ends(self.policy, &self.rules.labels, &Endpoints::Workload(id))
    }

    fn workloads(&self) -> impl Iterator<Item = WorkloadId> + use<> {
        (0..u32::try_from(self.policy.workloads.len()).expect("bounded by the source"))
            .map(WorkloadId)
    }
}

/// The set without the fields that `keep` has no name for: what some answer to them puts into it.
fn project(
    m: &mut Manager,
    at: Ref,
    keep: fn(Field) -> Option<Field>,
    done: &mut HashMap<Ref, Ref>,
) -> Result<Ref, LimitError> {
    let Node::Ask(field, _) = *m.node(at) else { return Ok(at) };
    if let Some(&result) = done.get(&at) {
        return Ok(result);
    }
    let mut edges = Vec::new();
    for (_, last, to) in steps(m, at, field).collect::<Vec<_>>() {
        edges.push(Edge { last, to: project(m, to, keep, done)? });
    }
    let result = match keep(field) {
        Some(field) => m.ask(field, edges)?,
        None => {
            let distinct: BTreeSet<_> = edges.into_iter().map(|edge| edge.to).collect();
            m.join(distinct.into_iter().collect())?
        }
    };
    done.insert(at, result);
    Ok(result)
}

/// The peer of a connection as the local end of the next.
fn destination(field: Field) -> Option<Field> {
    match field {
        Field::PeerManaged => Some(Field::LocalManaged),
        Field::PeerSelf => Some(Field::LocalSelf),
        Field::PeerLabel(label) => Some(Field::LocalLabel(label)),
        Field::PeerAddress => Some(Field::LocalAddress),
        Field::LocalManaged
        | Field::LocalSelf
        | Field::LocalLabel(_)
        | Field::Same(_)
        | Field::LocalAddress
        | Field::Protocol
        | Field::Port
        | Field::SourcePort
        | Field::PeerPort(_)
        | Field::LocalPort(_)
        | Field::Request => None,
        // The next connection may be another process's, and by another name.
        Field::PeerName(_) | Field::LocalName(_) | Field::PeerCgroup | Field::LocalCgroup => None,
    }
}

fn labels_only(field: Field) -> Option<Field> {
    but_self(field).filter(|field| *field != Field::LocalAddress)
}

fn but_self(field: Field) -> Option<Field> {
    (field != Field::LocalSelf).then_some(field)
}
