//! The claims of `test` blocks, decided exactly.
//!
//! A claim is about a set of flows, and so a diagram; it holds if nothing is left when the flows with the expected verdict
//! are taken out. The world is open: endpoints may have any labels and addresses, whoever the inventory lists.
//! What no flow can be is left out: addresses of different families, two ends that are the machine itself,
//! a workload of the inventory that talks to its own address.
//!
//! `expect allow` alone is about some flows only: those between workloads of the inventory, or where a side has none,
//! its plainest endpoints, those with the labels the set asks for and no others. Without this no such claim
//! could ever hold, because some workload of every kind is quarantined.

use crate::decide::{End, answer, decide, decide_block, decision, ends, flows};
use crate::diagram::{Edge, Field, Leaf, Manager, Node, Op, Ref};
use crate::limits::{LABELS_MAX, LimitError, NODES_MAX};
use crate::normalize::{self, all_labels, normalize};
use crate::ranges::Ranges;
use crate::rules::{Ends, Flow, IPV4_FIRST, IPV4_LAST, Join, Rules};
use crate::rules::{address_number, number_address};
use seg_lang::ast::{Direction, Expect};
use seg_lang::eval::{self, Decision, Verdict};
use seg_lang::policy::{BlockId, Claim, Endpoints, LabelId, Policy, WorkloadId, protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A claim's outcome, and flows to try on other engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whether the claim is true.
    pub outcome: Outcome,
    /// Flows the claim is about: for each rule that decides some of them, one that it decides.
    pub witnesses: Vec<eval::Flow>,
}

/// What is true of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every flow it is about has the expected verdict.
    Holds,
    /// It is about no flow at all.
    Vacuous,
    /// Some flow has another verdict.
    Fails(Box<Counterexample>),
}

/// A flow that a claim is wrong about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The flow.
    pub flow: eval::Flow,
    /// The policy's decision; of the block alone if the claim names one, with no rule if that says nothing.
    pub decision: Decision,
}

/// Decides every claim: for each `test` block, for each claim.
///
/// # Errors
/// [`LimitError`] if the policy is too large.
pub fn prove(policy: &Policy) -> Result<Vec<Vec<Proof>>, LimitError> {
    if policy.labels.len() > LABELS_MAX {
        return Err(LimitError::Labels { needed: policy.labels.len() });
    }
    let mut prover = Prover::new(policy)?;
    let mut outcomes = Vec::new();
    for test in &policy.tests {
        let claims = test.claims.iter().map(|claim| prover.claim(claim));
        outcomes.push(claims.collect::<Result<_, _>>()?);
    }
    Ok(outcomes)
}

/// Witnesses of one claim. Unit: flows. Each costs a walk of the diagram.
const WITNESSES_MAX: usize = 16;

/// A flow's source is its local end.
const WAY: Direction = Direction::Outbound;

struct Prover<'a> {
    policy: &'a Policy,
    rules: Rules,
    m: Manager,
    /// The decision of every flow.
    whole: Ref,
    /// That of each block a claim has named.
    blocks: BTreeMap<BlockId, Ref>,
    /// The flows there can be.
    possible: Ref,
    /// The workloads of the inventory; none of them is taken for the machine itself.
    inventory: Ends,
    /// Every address range that a rule mentions.
    nets: BTreeSet<(u128, u128)>,
}

impl<'a> Prover<'a> {
    fn new(policy: &'a Policy) -> Result<Self, LimitError> {
        let rules = normalize(policy, all_labels(policy));
        let mut m = Manager::new(&rules.labels, NODES_MAX);
        let whole = decide(&mut m, &rules, WAY)?;
        let possible = possible(&mut m, policy)?;
        let workloads = (0..)
            .map(WorkloadId)
            .zip(&policy.workloads)
            .map(|(id, _)| normalize::ends(policy, &rules.labels, &Endpoints::Workload(id)));
        let inventory = Ends::join(Join::Any, workloads.collect(), &rules.labels);
        let inventory =
            Ends::join(Join::All, vec![inventory, Ends::SelfHost(false)], &rules.labels);
        let nets = normalize::nets(policy);
        let blocks = BTreeMap::new();
        Ok(Self { policy, rules, m, whole, blocks, possible, inventory, nets })
    }

    fn claim(&mut self, claim: &Claim) -> Result<Proof, LimitError> {
        let pairs = normalize::flows(self.policy, &self.rules.labels, &claim.flow);
        let (about, wanted) = match claim.expect {
            Expect::Deny => (flows(&mut self.m, &pairs, WAY)?, Verdict::Deny),
            Expect::Allow => (self.plain_flows(&pairs)?, Verdict::Allow),
            Expect::Only => {
                let outside = pairs.iter().map(|flow| Flow {
                    from: flow.from.clone().complement(&self.rules.labels),
                    ..flow.clone()
                });
                let outside: Vec<_> = outside.collect();
                (flows(&mut self.m, &outside, WAY)?, Verdict::Deny)
            }
        };
        let about = self.m.apply(Op::Within, about, self.possible)?;
        let witnesses = self.witnesses(about)?;
        Ok(Proof { outcome: self.all(about, wanted, claim.by)?, witnesses })
    }

    /// One flow of the set for each leaf it reaches.
    fn witnesses(&mut self, set: Ref) -> Result<Vec<eval::Flow>, LimitError> {
        // The default says nothing; outside the set nothing is said either, so it is told apart first.
        let whole = self.m.relabel(self.whole, &|leaf| leaf.max(Leaf::Yes))?;
        let decided = self.m.apply(Op::Within, set, whole)?;
        let mut witnesses = Vec::new();
        for leaf in self.m.leaves(decided).into_iter().rev().take(WITNESSES_MAX) {
            let here =
                self.m.relabel(decided, &|l| if l == leaf { Leaf::Yes } else { Leaf::No })?;
            if leaf != Leaf::No {
                witnesses.push(self.example(here)?);
            }
        }
        Ok(witnesses)
    }

    /// Whether all of these flows have the verdict.
    fn all(
        &mut self,
        about: Ref,
        wanted: Verdict,
        by: Option<BlockId>,
    ) -> Result<Outcome, LimitError> {
        if about == Manager::NO {
            return Ok(Outcome::Vacuous);
        }
        let decided = match by {
            None => self.whole,
            Some(block) => self.block(block)?,
        };
        let as_wanted = self.m.relabel(decided, &|leaf| {
            // The default denies, but a block that says nothing does not.
            let says = leaf != Leaf::No || by.is_none();
            if says && decision(leaf).verdict == wanted { Leaf::Yes } else { Leaf::No }
        })?;
        let wrong = self.m.apply(Op::Without, about, as_wanted)?;
        if wrong == Manager::NO {
            return Ok(Outcome::Holds);
        }
        let flow = self.example(wrong)?;
        let labels = &self.rules.labels;
        let leaf = self.m.eval(decided, &|field| answer(labels, &flow, WAY, field));
        Ok(Outcome::Fails(Box::new(Counterexample { flow, decision: decision(leaf) })))
    }

    fn block(&mut self, block: BlockId) -> Result<Ref, LimitError> {
        if let Some(&known) = self.blocks.get(&block) {
            return Ok(known);
        }
        let decided = decide_block(&mut self.m, &self.rules, block.0 as usize, WAY)?;
        self.blocks.insert(block, decided);
        Ok(decided)
    }

    /// The flows `expect allow` is about.
    fn plain_flows(&mut self, pairs: &[Flow]) -> Result<Ref, LimitError> {
        let mut all = Vec::new();
        for flow in pairs {
            let from = self.plain_ends(&flow.from, End::Local)?;
            let to = self.plain_ends(&flow.to, End::Peer)?;
            let on = Flow { from: Ends::any(), to: Ends::any(), on: flow.on.clone() };
            let on = flows(&mut self.m, &[on], WAY)?;
            let both = self.m.apply(Op::Within, from, to)?;
            all.push(self.m.apply(Op::Within, both, on)?);
        }
        self.m.join(all)
    }

    /// The workloads of the inventory in the set, or else its plainest endpoints.
    fn plain_ends(&mut self, set: &Ends, end: End) -> Result<Ref, LimitError> {
        let inventory = ends(&mut self.m, &self.inventory, end)?;
        let set = ends(&mut self.m, set, end)?;
        let listed = self.m.apply(Op::Within, inventory, set)?;
        if listed != Manager::NO {
            return Ok(listed);
        }
        let mut fields = match end {
            End::Local => vec![Field::LocalManaged, Field::LocalSelf],
            End::Peer => vec![Field::PeerManaged, Field::PeerSelf],
        };
        fields.extend(self.rules.labels.ids().map(|label| match end {
            End::Local => Field::LocalLabel(label),
            End::Peer => Field::PeerLabel(label),
        }));
        fields.push(match end {
            End::Local => Field::LocalAddress,
            End::Peer => Field::PeerAddress,
        });
        self.plain(set, &fields, &mut HashMap::new())
    }

    /// Keeps, of the answers to each field that lead to the same place, the plainest.
    fn plain(
        &mut self,
        at: Ref,
        fields: &[Field],
        done: &mut HashMap<(Ref, usize), Ref>,
    ) -> Result<Ref, LimitError> {
        let Some((&field, later)) = fields.split_first() else { return Ok(at) };
        if at == Manager::NO {
            return Ok(at);
        }
        if let Some(&result) = done.get(&(at, fields.len())) {
            return Ok(result);
        }
        let mut kept = Vec::new();
        for (to, answers) in self.answers(at, field) {
            let below = self.plain(to, later, done)?;
            let plainest = self.plainest(field, &answers);
            kept.push(self.m.member(field, &plainest, below, Manager::NO)?);
        }
        let result = self.m.join(kept)?;
        done.insert((at, fields.len()), result);
        Ok(result)
    }

    /// Where the answers to `field` lead, and which lead there.
    fn answers(&self, at: Ref, field: Field) -> BTreeMap<Ref, Ranges> {
        let mut answers: BTreeMap<Ref, Ranges> = BTreeMap::new();
        for (first, last, to) in steps(&self.m, at, field) {
            let known = answers.entry(to).or_default();
            *known = Ranges::union([&*known, &Ranges::new(first, last)]);
        }
        answers
    }

    fn plainest(&self, field: Field, answers: &Ranges) -> Ranges {
        match field {
            Field::LocalAddress | Field::PeerAddress => {
                let v4 = Ranges::new(IPV4_FIRST, IPV4_LAST);
                let v6 = v4.complement(u128::MAX);
                let families = [v4, v6].map(|family| self.outside_nets(answers.intersect(&family)));
                Ranges::union(&families)
            }
            // Neither in the inventory, nor the machine itself, nor labelled, unless asked for.
            _ if answers.contains(0) => Ranges::new(0, 0),
            Field::LocalLabel(label) | Field::PeerLabel(label) => {
                let n_values = self.rules.labels.label(label).values.len() as u128;
                // If any value will do, one that nobody mentions; else each that is asked for.
                let unlisted = Ranges::new(n_values + 1, n_values + 1);
                if answers.contains(n_values + 1) { unlisted } else { answers.clone() }
            }
            _ => answers.clone(),
        }
    }

    /// The addresses in no net that holds only some of them; all, if there are none.
    fn outside_nets(&self, addresses: Ranges) -> Ranges {
        let cutting = self.nets.iter().map(|&(first, last)| Ranges::new(first, last));
        let cutting: Vec<_> =
            cutting.filter(|net| net.intersect(&addresses) != addresses).collect();
        let outside = addresses.intersect(&Ranges::union(&cutting).complement(u128::MAX));
        if outside.is_empty() { addresses } else { outside }
    }

    /// A flow of the set that people can read: between workloads if there is one.
    fn example(&mut self, set: Ref) -> Result<eval::Flow, LimitError> {
        let mut set = set;
        for end in [End::Peer, End::Local] {
            let inventory = ends(&mut self.m, &self.inventory, end)?;
            let better = self.m.apply(Op::Within, inventory, set)?;
            if better != Manager::NO {
                set = better;
            }
        }
        let label_fields = |of: fn(LabelId) -> Field| self.rules.labels.ids().map(of);
        let mut fields = vec![Field::LocalManaged, Field::LocalSelf];
        fields.extend(label_fields(Field::LocalLabel));
        fields.extend([Field::PeerManaged, Field::PeerSelf]);
        fields.extend(label_fields(Field::PeerLabel));
        fields.extend(label_fields(Field::Same));
        fields.extend([Field::PeerAddress, Field::LocalAddress, Field::Protocol, Field::Port]);
        let mut chosen = BTreeMap::new();
        let mut at = set;
        for field in fields {
            let open: Vec<_> = steps(&self.m, at, field)
                .filter(|&(_, _, to)| to != Manager::NO)
                .map(|(first, last, _)| (first, last))
                .collect();
            let answer = readable(field, &chosen, &open);
            at = self.m.given(at, field, answer);
            chosen.insert(field, answer);
        }
        assert_eq!(at, Manager::YES, "the path to the example ends in the set");
        Ok(self.flow(&chosen))
    }

    fn flow(&self, chosen: &BTreeMap<Field, u128>) -> eval::Flow {
        let labels = |of: fn(LabelId) -> Field, other: &str| {
            let values = self.rules.labels.ids().map(|label| {
                let values = &self.rules.labels.label(label).values;
                let value = match usize::try_from(chosen[&of(label)]).expect("a label value") {
                    0 => return None,
                    n if n <= values.len() => values[n - 1].clone(),
                    _ => unlisted(values, other),
                };
                Some((label, value))
            });
            values.flatten().collect::<BTreeMap<_, _>>()
        };
        let mut source = labels(Field::LocalLabel, "another");
        let destination = labels(Field::PeerLabel, "other");
        for label in self.rules.labels.ids().filter(|&l| chosen[&Field::Same(l)] == 1) {
            if let Some(value) = destination.get(&label) {
                source.insert(label, value.clone());
            }
        }
        let end = |managed, is_self, address, labels| eval::Endpoint {
            address: number_address(chosen[&address]),
            labels: (chosen[&managed] == 1).then_some(labels),
            is_self: chosen[&managed] == 1 && chosen[&is_self] == 1,
        };
        use Field::{LocalAddress, LocalManaged, LocalSelf, PeerAddress, PeerManaged, PeerSelf};
        eval::Flow {
            source: end(LocalManaged, LocalSelf, LocalAddress, source),
            destination: end(PeerManaged, PeerSelf, PeerAddress, destination),
            protocol: u8::try_from(chosen[&Field::Protocol]).expect("a protocol"),
            port: u16::try_from(chosen[&Field::Port]).expect("a port"),
        }
    }
}

/// The flows there can be.
fn possible(m: &mut Manager, policy: &Policy) -> Result<Ref, LimitError> {
    let v4 = Ranges::new(IPV4_FIRST, IPV4_LAST);
    let is_v4 = m.member(Field::LocalAddress, &v4, Manager::YES, Manager::NO)?;
    let is_v6 = m.member(Field::LocalAddress, &v4, Manager::NO, Manager::YES)?;
    let one_family = m.member(Field::PeerAddress, &v4, is_v4, is_v6)?;
    let listed: BTreeSet<_> = policy.workloads.iter().flat_map(|w| &w.addresses).collect();
    let loops = listed.into_iter().map(|&address| {
        let only = Ranges::new(address_number(address), address_number(address));
        let local = m.member(Field::LocalAddress, &only, Manager::YES, Manager::NO)?;
        m.member(Field::PeerAddress, &only, local, Manager::NO)
    });
    let loops = loops.collect::<Result<_, _>>()?;
    let loops = m.join(loops)?;
    let one_family = m.apply(Op::Without, one_family, loops)?;
    let local = ends(m, &Ends::SelfHost(true), End::Local)?;
    let peer = ends(m, &Ends::SelfHost(true), End::Peer)?;
    let both = m.apply(Op::Within, local, peer)?;
    m.apply(Op::Without, one_family, both)
}

/// First and last answer of each edge, and where it leads; one edge to itself if the diagram does not begin with `field`.
fn steps(m: &Manager, at: Ref, field: Field) -> impl Iterator<Item = (u128, u128, Ref)> + '_ {
    let own: Vec<Edge> = match m.node(at) {
        Node::Ask(asked, edges) if *asked == field => edges.to_vec(),
        Node::Ask(..) | Node::Leaf(_) => vec![Edge { last: m.max(field), to: at }],
    };
    let mut next = 0;
    own.into_iter().map(move |edge| {
        let first = next;
        next = edge.last.wrapping_add(1);
        (first, edge.last, edge.to)
    })
}

/// Of the open answers one that people read easily: addresses kept for documentation (RFC 5737, RFC 3849), well-known ports.
fn readable(field: Field, chosen: &BTreeMap<Field, u128>, open: &[(u128, u128)]) -> u128 {
    let address = |text: &str| address_number(text.parse().expect("an address"));
    let managed = |field: Field| chosen.get(&field) == Some(&1);
    let liked: Vec<u128> = match field {
        Field::PeerManaged => vec![1],
        Field::PeerAddress if managed(Field::PeerManaged) => {
            vec![address("10.0.0.2"), address("10.0.0.3"), address("2001:db8::2")]
        }
        Field::PeerAddress => vec![address("198.51.100.7"), address("2001:db8::7")],
        Field::LocalAddress if managed(Field::LocalManaged) => {
            vec![address("10.0.0.1"), address("10.0.0.4"), address("2001:db8::1")]
        }
        Field::LocalAddress => vec![address("203.0.113.7"), address("2001:db8::8")],
        Field::Protocol => [protocol::TCP, protocol::UDP, protocol::ICMP].map(u128::from).to_vec(),
        Field::Port => match chosen.get(&Field::Protocol).and_then(|&p| u8::try_from(p).ok()) {
            Some(protocol::TCP | protocol::UDP | protocol::SCTP) => vec![443, 80, 22, 53],
            Some(protocol::ICMP) => vec![8],
            Some(protocol::ICMP6) => vec![128],
            _ => vec![0],
        },
        Field::LocalManaged
        | Field::LocalSelf
        | Field::LocalLabel(_)
        | Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::Same(_) => Vec::new(),
    };
    // The addresses of both ends differ where they can.
    let taken = (field == Field::LocalAddress).then(|| chosen.get(&Field::PeerAddress)).flatten();
    let is_open = |n: &u128| open.iter().any(|(first, last)| (first..=last).contains(&n));
    let v4 = |&(first, last): &(u128, u128)| {
        let range = (first.max(IPV4_FIRST), last.min(IPV4_LAST));
        (range.0 <= range.1).then_some(range)
    };
    match field {
        _ if let Some(n) = liked.into_iter().find(|n| is_open(n) && taken != Some(n)) => n,
        Field::PeerAddress | Field::LocalAddress => {
            let (first, last) = open.iter().find_map(v4).unwrap_or(open[0]);
            // The first address of a net names the net.
            let first = if first & 0xff == 0 { last.min(first + 1) } else { first };
            if taken == Some(&first) { last.min(first + 1) } else { first }
        }
        _ => open[0].0,
    }
}

/// A value that is not listed.
fn unlisted(values: &[String], like: &str) -> String {
    let numbered = (2..).map(|n| format!("{like}-{n}"));
    let mut names = std::iter::once(like.to_owned()).chain(numbered);
    names.find(|name| !values.contains(name)).expect("the list ends")
}
