//! The claims of `test` blocks, decided exactly.
//!
//! A claim is about a set of flows, and so a diagram; it holds if nothing is left when the flows with the expected verdict
//! are taken out. The world is open: endpoints may have any labels and addresses, whoever the inventory lists.
//! What no flow can be is left out: addresses of different families, two ends that are the machine itself,
//! an address that talks to itself, a named port of a workload of the inventory that does not have it.
//! Other endpoints may name their ports as they like.
//!
//! `expect allow` alone is about some flows only: those between workloads of the inventory, or where a side has none,
//! its plainest endpoints, those with the labels the set asks for and no others. Without this no such claim
//! could ever hold, because some workload of every kind is quarantined.

mod reach;

use crate::atoms::NameId;
use crate::decide::{End, answer, decide, decide_block, decision, ends, flows};
use crate::diagram::{Edge, Field, Leaf, Manager, Node, Op, Ref};
use crate::limits::{LimitError, NODES_MAX};
use crate::normalize::{self, all_labels, normalize};
use crate::ranges::Ranges;
use crate::rules::{Ends, Flow, IPV4_FIRST, IPV4_LAST, Join, Labels, Rules};
use crate::rules::{address_number, number_address};
use seg_lang::ast::{Direction, Expect};
use seg_lang::eval::{self, Decision, Verdict};
use seg_lang::policy::{
    BlockId, Claim, Endpoints, LabelId, Policy, Test, Workload, WorkloadId, protocol,
};
use seg_lang::types::SOURCE_PORT;
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
    /// The flow; the last one of a chain.
    pub flow: eval::Flow,
    /// The policy's decision; of the block alone if the claim names one, with no rule if that says nothing.
    pub decision: Decision,
    /// The connections of the chain before it and their decisions, from the first; empty if the claim is not about chains.
    pub before: Vec<(eval::Flow, Decision)>,
}

impl Counterexample {
    /// The connections of the chain, from the first; one if the claim is not about chains.
    pub fn hops(&self) -> impl Iterator<Item = (&eval::Flow, &Decision)> {
        let before = self.before.iter().map(|(flow, decision)| (flow, decision));
        before.chain([(&self.flow, &self.decision)])
    }
}

/// Decides the claims of some `test` and `assert` blocks of a policy: for each block, for each claim.
///
/// # Errors
/// [`LimitError`] if the policy is too large.
pub fn prove<'t>(
    policy: &Policy,
    tests: impl IntoIterator<Item = &'t Test>,
) -> Result<Vec<Vec<Proof>>, LimitError> {
    LimitError::of_records(policy)?;
    LimitError::of_requests(policy)?;
    let mut prover = Prover::new(policy)?;
    let mut outcomes = Vec::new();
    for test in tests {
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
    /// The workloads of the inventory; none of them is taken for the machine itself, nor known by a name.
    inventory: Ends,
    /// Every address range that a rule mentions.
    nets: BTreeSet<(u128, u128)>,
}

/// What the later connections of a chain settle.
#[derive(Default)]
struct Taken {
    /// Names of the destination's values that are not listed.
    names: BTreeMap<LabelId, String>,
    /// Numbers of addresses that machines have already.
    addresses: Vec<u128>,
}

impl<'a> Prover<'a> {
    fn new(policy: &'a Policy) -> Result<Self, LimitError> {
        let rules = normalize(policy, all_labels(policy));
        let mut m = Manager::new(&rules.labels, NODES_MAX);
        let whole = decide(&mut m, &rules, WAY)?;
        let possible = possible(&mut m, policy, &rules.labels)?;
        let workloads = (0..)
            .map(WorkloadId)
            .zip(&policy.workloads)
            .map(|(id, _)| normalize::ends(policy, &rules.labels, &Endpoints::Workload(id)));
        let inventory = Ends::join(Join::Any, workloads.collect(), &rules.labels);
        let mut plain = vec![inventory, Ends::SelfHost(false)];
        plain.extend(m.atoms().names().iter().map(|name| Ends::Name(name.clone(), false)));
        let inventory = Ends::join(Join::All, plain, &rules.labels);
        let nets = normalize::nets(policy);
        let blocks = BTreeMap::new();
        Ok(Self { policy, rules, m, whole, blocks, possible, inventory, nets })
    }

    fn claim(&mut self, claim: &Claim) -> Result<Proof, LimitError> {
        if let Some(chain) = &claim.chain {
            return self.chain(&claim.flow, chain);
        }
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
        let about = apart(&mut self.m, about)?;
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
            let here = apart(&mut self.m, here)?;
            if leaf != Leaf::No && here != Manager::NO {
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
        let wrong = apart(&mut self.m, wrong)?;
        if wrong == Manager::NO {
            return Ok(Outcome::Holds);
        }
        let flow = self.example(wrong)?;
        let decision = self.decision(decided, &flow);
        Ok(Outcome::Fails(Box::new(Counterexample { flow, decision, before: Vec::new() })))
    }

    fn decision(&self, decided: Ref, flow: &eval::Flow) -> Decision {
        let labels = &self.rules.labels;
        decision(self.m.eval(decided, &|field| answer(labels, flow, WAY, field)))
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
            let on = Flow { from: Ends::any(), to: Ends::any(), ..flow.clone() };
            let on = flows(&mut self.m, &[on], WAY)?;
            let on = self.plain_ports(on)?;
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
        fields.extend(self.m.atoms().name_ids().map(|id| match end {
            End::Local => Field::LocalName(id),
            End::Peer => Field::PeerName(id),
        }));
        fields.push(match end {
            End::Local => Field::LocalCgroup,
            End::Peer => Field::PeerCgroup,
        });
        self.plain(set, &fields, &mut HashMap::new())
    }

    /// Of endpoints that are no workloads, those that name no port unless it is asked for.
    fn plain_ports(&mut self, on: Ref) -> Result<Ref, LimitError> {
        if self.rules.labels.ports().is_empty() {
            return Ok(on);
        }
        let mut fields = vec![Field::Protocol];
        fields.extend(self.rules.labels.port_ids().map(Field::PeerPort));
        let [unmanaged, managed] = [0, 1].map(|is| self.m.given(on, Field::PeerManaged, is));
        let managed = self.plain(managed, &fields, &mut HashMap::new())?;
        let plain = self.m.member(Field::PeerManaged, &Ranges::new(1, 1), managed, unmanaged)?;
        let inventory = ends(&mut self.m, &self.inventory, End::Peer)?;
        let listed = self.m.apply(Op::Within, inventory, on)?;
        self.m.apply(Op::Join, plain, listed)
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
            Field::Protocol => answers.clone(),
            // Neither in the inventory, nor the machine itself, nor labelled, nor known by a name, nor with a name for the port,
            // unless asked for.
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

    /// The part of the set that is also in `liked`, if there is any.
    fn prefer(&mut self, set: Ref, liked: Ref) -> Result<Ref, LimitError> {
        let better = self.m.apply(Op::Within, liked, set)?;
        let better = apart(&mut self.m, better)?;
        Ok(if better == Manager::NO { set } else { better })
    }

    /// A flow of the set, which is [`apart`], that people can read: between workloads if there is one.
    fn example(&mut self, set: Ref) -> Result<eval::Flow, LimitError> {
        self.example_to(set, &Taken::default())
    }

    /// The same as a part of a chain.
    fn example_to(&mut self, set: Ref, taken: &Taken) -> Result<eval::Flow, LimitError> {
        let mut set = set;
        for end in [End::Peer, End::Local] {
            let inventory = ends(&mut self.m, &self.inventory, end)?;
            set = self.prefer(set, inventory)?;
        }
        let label_fields = |of: fn(LabelId) -> Field| self.rules.labels.ids().map(of);
        let mut fields = vec![Field::LocalManaged, Field::LocalSelf];
        fields.extend(label_fields(Field::LocalLabel));
        fields.extend([Field::PeerManaged, Field::PeerSelf]);
        fields.extend(label_fields(Field::PeerLabel));
        fields.extend(label_fields(Field::Same));
        fields.extend([Field::PeerAddress, Field::LocalAddress]);
        fields.extend(self.m.atoms().name_ids().map(Field::PeerName));
        fields.extend(self.m.atoms().name_ids().map(Field::LocalName));
        fields.extend([Field::PeerCgroup, Field::LocalCgroup]);
        fields.push(Field::Protocol);
        fields.extend(self.rules.labels.port_ids().map(Field::PeerPort));
        fields.extend([Field::Port, Field::SourcePort, Field::Request]);
        let mut chosen = BTreeMap::new();
        let mut at = set;
        for field in fields {
            let open: Vec<_> = steps(&self.m, at, field)
                .filter(|&(_, _, to)| to != Manager::NO)
                .map(|(first, last, _)| (first, last))
                .collect();
            let answer = readable(field, &chosen, &open, &taken.addresses);
            at = self.m.given(at, field, answer);
            chosen.insert(field, answer);
        }
        assert_eq!(at, Manager::YES, "the path to the example ends in the set");
        Ok(self.flow(&chosen, &taken.names))
    }

    fn flow(
        &self,
        chosen: &BTreeMap<Field, u128>,
        names: &BTreeMap<LabelId, String>,
    ) -> eval::Flow {
        let labels = |of: fn(LabelId) -> Field, name: &dyn Fn(LabelId, &[String]) -> String| {
            let values = self.rules.labels.ids().map(|label| {
                let values = &self.rules.labels.label(label).values;
                let value = match usize::try_from(chosen[&of(label)]).expect("a label value") {
                    0 => return None,
                    n if n <= values.len() => values[n - 1].clone(),
                    _ => name(label, values),
                };
                Some((label, value))
            });
            values.flatten().collect::<BTreeMap<_, _>>()
        };
        let destination = labels(Field::PeerLabel, &|label, values| {
            names.get(&label).cloned().unwrap_or_else(|| unlisted(values, None, "other"))
        });
        let mut source = labels(Field::LocalLabel, &|label, values| {
            unlisted(values, destination.get(&label), "another")
        });
        for label in self.rules.labels.ids().filter(|&l| chosen[&Field::Same(l)] == 1) {
            if let Some(value) = destination.get(&label) {
                source.insert(label, value.clone());
            }
        }
        let (protocol, port) = (chosen[&Field::Protocol], chosen[&Field::Port]);
        let protocol = u8::try_from(protocol).expect("a protocol");
        let port = u16::try_from(port).expect("a port");
        let names = self.rules.labels.port_ids().zip(self.rules.labels.ports());
        let named = names.filter(|(name, _)| chosen[&Field::PeerPort(*name)] == 1);
        let named: BTreeMap<_, _> =
            named.map(|(_, name)| (name.clone(), (protocol, port))).collect();
        let atoms = self.m.atoms();
        let known = |of: fn(NameId) -> Field| {
            let known = atoms.name_ids().filter(|&id| chosen[&of(id)] == 1).collect();
            atoms.example_names(&known)
        };
        let end = |[managed, is_self, address, cgroup]: [Field; 4],
                   labels: BTreeMap<LabelId, String>,
                   ports,
                   names| {
            let is_managed = chosen[&managed] == 1;
            let mut end = eval::Endpoint {
                address: number_address(chosen[&address]),
                labels: is_managed.then_some(labels),
                is_self: is_managed && chosen[&is_self] == 1,
                ports: if is_managed { ports } else { BTreeMap::new() },
                names,
                cgroup: atoms.cgroup(chosen[&cgroup]).map(str::to_owned),
            };
            // A workload has all its ports, whether the flow is about them or not.
            let is_it = |w: &&Workload| {
                w.addresses.contains(&end.address)
                    && end.labels.as_ref() == Some(&w.labels.iter().cloned().collect())
            };
            if let Some(workload) = self.policy.workloads.iter().find(is_it) {
                end.ports = workload.ports.clone();
            }
            end
        };
        use Field::{LocalAddress, LocalCgroup, LocalManaged, LocalSelf};
        use Field::{PeerAddress, PeerCgroup, PeerManaged, PeerSelf};
        eval::Flow {
            source: end(
                [LocalManaged, LocalSelf, LocalAddress, LocalCgroup],
                source,
                BTreeMap::new(),
                known(Field::LocalName),
            ),
            destination: end(
                [PeerManaged, PeerSelf, PeerAddress, PeerCgroup],
                destination,
                named,
                known(Field::PeerName),
            ),
            protocol,
            port,
            source_port: u16::try_from(chosen[&Field::SourcePort]).expect("a port"),
            http: atoms.request(chosen[&Field::Request]).cloned(),
        }
    }
}

/// The flows there can be, but for [`apart`].
fn possible(m: &mut Manager, policy: &Policy, labels: &Labels) -> Result<Ref, LimitError> {
    let v4 = Ranges::new(IPV4_FIRST, IPV4_LAST);
    let is_v4 = m.member(Field::LocalAddress, &v4, Manager::YES, Manager::NO)?;
    let is_v6 = m.member(Field::LocalAddress, &v4, Manager::NO, Manager::YES)?;
    let one_family = m.member(Field::PeerAddress, &v4, is_v4, is_v6)?;
    let local = ends(m, &Ends::SelfHost(true), End::Local)?;
    let peer = ends(m, &Ends::SelfHost(true), End::Peer)?;
    let both = m.apply(Op::Within, local, peer)?;
    let possible = m.apply(Op::Without, one_family, both)?;
    let misnamed = misnamed(m, policy, labels)?;
    let mut possible = m.apply(Op::Without, possible, misnamed)?;
    for end in [End::Local, End::Peer] {
        let resolved = resolved(m, end)?;
        possible = m.apply(Op::Within, resolved, possible)?;
    }
    Ok(possible)
}

/// The flows with an end that is known by all forms of its names, and not by a narrow one alone.
fn resolved(m: &mut Manager, end: End) -> Result<Ref, LimitError> {
    let field = |id| match end {
        End::Local => Field::LocalName(id),
        End::Peer => Field::PeerName(id),
    };
    let yes = Ranges::new(1, 1);
    let mut all = vec![Manager::YES];
    for id in m.atoms().name_ids() {
        let Some(wider) = m.atoms().wider(id) else { continue };
        let narrow = m.member(field(id), &yes, Manager::NO, Manager::YES)?;
        let wider = m.member(field(wider), &yes, Manager::YES, Manager::NO)?;
        all.push(m.apply(Op::Join, narrow, wider)?);
    }
    // Pairwise, so that what one form implies for thousands does not make a copy for each.
    while all.len() > 1 {
        let pairs = all.chunks(2).map(|pair| match *pair {
            [a, b] => m.apply(Op::Within, a, b),
            _ => Ok(pair[0]),
        });
        all = pairs.collect::<Result<_, _>>()?;
    }
    Ok(all[0])
}

/// Flows to a workload of the inventory whose port has a name there that it does not have, or lacks one that it has.
fn misnamed(m: &mut Manager, policy: &Policy, labels: &Labels) -> Result<Ref, LimitError> {
    if policy.ports.is_empty() {
        return Ok(Manager::NO);
    }
    let mut all = Vec::new();
    for (id, workload) in (0..).map(WorkloadId).zip(&policy.workloads) {
        let set = normalize::ends(policy, labels, &Endpoints::Workload(id));
        let it = ends(m, &set, End::Peer)?;
        let mut wrong = Vec::new();
        for (port, name) in labels.port_ids().zip(labels.ports()) {
            let field = Field::PeerPort(port);
            let one = Ranges::new(1, 1);
            let named = m.member(field, &one, Manager::YES, Manager::NO)?;
            let Some(&(protocol, number)) = workload.ports.get(name) else {
                wrong.push(named);
                continue;
            };
            let number = Ranges::new(number.into(), number.into());
            let lacks = m.member(Field::Port, &number, Manager::YES, Manager::NO)?;
            let has = m.member(Field::Port, &number, Manager::NO, Manager::YES)?;
            let right = m.member(field, &one, has, lacks)?;
            let protocol = Ranges::new(protocol.into(), protocol.into());
            wrong.push(m.member(Field::Protocol, &protocol, right, named)?);
        }
        let wrong = m.join(wrong)?;
        all.push(m.apply(Op::Within, it, wrong)?);
    }
    m.join(all)
}

/// Leaves out peers that can only be the address of the local end itself.
///
/// The set is one of possible flows, so that every path asks both addresses. Where one local address is all there is, its own
/// number is taken from the peers; where there are several, each peer has one that differs. So the diagram hardly grows,
/// other than one in which no address ever meets itself.
fn apart(m: &mut Manager, set: Ref) -> Result<Ref, LimitError> {
    apart_below(m, set, &mut HashMap::new())
}

fn apart_below(m: &mut Manager, at: Ref, done: &mut HashMap<Ref, Ref>) -> Result<Ref, LimitError> {
    let Node::Ask(field, _) = *m.node(at) else { return Ok(at) };
    if let Some(&result) = done.get(&at) {
        return Ok(result);
    }
    let mut edges = Vec::new();
    for (first, last, to) in steps(m, at, field).collect::<Vec<_>>() {
        if field != Field::PeerAddress {
            edges.push(Edge { last, to: apart_below(m, to, done)? });
            continue;
        }
        if let Some(only) = only_local_address(m, to).filter(|a| (first..=last).contains(a)) {
            if first < only {
                edges.push(Edge { last: only - 1, to });
            }
            edges.push(Edge { last: only, to: Manager::NO });
        }
        if edges.last().is_none_or(|edge| edge.last < last) {
            edges.push(Edge { last, to });
        }
    }
    let result = m.ask(field, edges)?;
    done.insert(at, result);
    Ok(result)
}

/// The local address of every flow below a peer's address, if there is only one.
fn only_local_address(m: &Manager, at: Ref) -> Option<u128> {
    let mut open = steps(m, at, Field::LocalAddress).filter(|&(_, _, to)| to != Manager::NO);
    let (first, last, _) = open.next()?;
    (first == last && open.next().is_none()).then_some(first)
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
/// Addresses are not `taken` ones where they need not be.
fn readable(
    field: Field,
    chosen: &BTreeMap<Field, u128>,
    open: &[(u128, u128)],
    taken: &[u128],
) -> u128 {
    let address = |text: &str| address_number(text.parse().expect("an address"));
    let managed = |field: Field| chosen.get(&field) == Some(&1);
    let liked: Vec<u128> = match field {
        Field::PeerManaged => vec![1],
        Field::PeerAddress if managed(Field::PeerManaged) => {
            vec![address("10.0.0.2"), address("10.0.0.3"), address("2001:db8::2")]
        }
        Field::PeerAddress => vec![address("198.51.100.7"), address("2001:db8::7")],
        Field::LocalAddress if managed(Field::LocalManaged) => {
            let hosts = ["10.0.0.1", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
            hosts
                .into_iter()
                .chain(["2001:db8::1", "2001:db8::4", "2001:db8::5"])
                .map(address)
                .collect()
        }
        Field::LocalAddress => vec![address("203.0.113.7"), address("2001:db8::8")],
        Field::Protocol => [protocol::TCP, protocol::UDP, protocol::ICMP].map(u128::from).to_vec(),
        Field::Port => match chosen.get(&Field::Protocol).and_then(|&p| u8::try_from(p).ok()) {
            Some(protocol::TCP | protocol::UDP | protocol::SCTP) => vec![443, 80, 22, 53],
            Some(protocol::ICMP) => vec![8],
            Some(protocol::ICMP6) => vec![128],
            _ => vec![0],
        },
        Field::SourcePort => match chosen.get(&Field::Protocol).and_then(|&p| u8::try_from(p).ok())
        {
            Some(protocol::TCP | protocol::UDP | protocol::SCTP) => vec![SOURCE_PORT.into()],
            _ => vec![0],
        },
        Field::LocalManaged
        | Field::LocalSelf
        | Field::LocalLabel(_)
        | Field::PeerSelf
        | Field::PeerLabel(_)
        | Field::Same(_)
        | Field::PeerName(_)
        | Field::LocalName(_)
        | Field::PeerCgroup
        | Field::LocalCgroup
        | Field::Request
        | Field::PeerPort(_)
        | Field::LocalPort(_) => Vec::new(),
    };
    // Both ends have addresses of their own.
    let other = (field == Field::LocalAddress).then(|| chosen.get(&Field::PeerAddress)).flatten();
    let is_address = matches!(field, Field::LocalAddress | Field::PeerAddress);
    let is_free = |n: &u128| other != Some(n) && !(is_address && taken.contains(n));
    let is_open = |n: &u128| open.iter().any(|(first, last)| (first..=last).contains(&n));
    let v4 = |&(first, last): &(u128, u128)| {
        let range = (first.max(IPV4_FIRST), last.min(IPV4_LAST));
        (range.0 <= range.1).then_some(range)
    };
    match field {
        _ if let Some(n) = liked.into_iter().find(|n| is_open(n) && is_free(n)) => n,
        Field::PeerAddress | Field::LocalAddress => {
            let ranges = open.iter().filter_map(v4).chain(open.iter().copied());
            let some = ranges.flat_map(|(first, last)| {
                // The first address of a net names the net.
                let host = if first & 0xff == 0 { last.min(first + 1) } else { first };
                [host, last.min(host.saturating_add(1)), first]
            });
            let free = some.clone().find(is_free);
            let free = free.or_else(|| some.clone().find(|n| other != Some(n)));
            free.expect("flows are apart")
        }
        _ => open[0].0,
    }
}

/// A value that is neither listed nor that of the other end.
fn unlisted(values: &[String], other: Option<&String>, like: &str) -> String {
    let numbered = (2..).map(|n| format!("{like}-{n}"));
    let mut names = std::iter::once(like.to_owned()).chain(numbered);
    names.find(|name| !values.contains(name) && other != Some(name)).expect("the list ends")
}
