//! Requests, control groups and names, judged by the evaluator on every flow of a small universe.
//!
//! The universe has an endpoint and a request of each kind that policies here tell apart. So the diagram decides as the evaluator
//! does if it does so here, and a claim that some flow must not have a verdict holds if and only if no flow here refutes it.

use super::{refuted, says};
use libtest_mimic::Failed;
use seg_compiler::decide::{answer, decide, decision};
use seg_compiler::diagram::Manager;
use seg_compiler::limits::NODES_MAX;
use seg_compiler::normalize::{all_labels, normalize};
use seg_compiler::prove::{Counterexample, Outcome, prove};
use seg_lang::ast::{Action, ClaimsKind, Direction, Expect, Tier};
use seg_lang::eval::{self, Decision, Endpoint, Flow, Request};
use seg_lang::policy::{
    Annotations, Block, BlockId, Claim, Endpoints, Exempt, Match, NamePattern, PathPattern, Policy,
    Rule, RuleKind, Services, Test, protocol,
};
use seg_lang::source::{FileId, Span};
use seg_tests::random::Random;
use std::collections::BTreeMap;

const POLICIES: u64 = 40;
const CLAIMS: usize = 6;
const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

/// The forms of names that policies mention, `*.` first where all names below are meant.
const NAMES: [&str; 3] = ["*.a.com", "x.a.com", "b.com"];
/// Names of an endpoint, for each way these forms can hold.
const RESOLVED: [&[&str]; 6] = [
    &[],
    &["y.a.com", "a.com"],
    &["x.a.com"],
    &["b.com"],
    &["b.com", "y.a.com"],
    &["b.com", "x.a.com"],
];
const CGROUPS: [&str; 2] = ["s", "s/a"];
const PROCESSES: [Option<&str>; 4] = [None, Some("sa"), Some("s/b"), Some("s/a/c")];
const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
const PATHS: [&str; 3] = ["/s/a", "/s/b", "/t"];

/// The diagram decides as the evaluator; claims are decided exactly.
pub(crate) fn agree() -> Result<(), Failed> {
    let (mut holds, mut vacuous, mut fails, mut by_rule) = (0, 0, 0, 0);
    let universe = universe();
    for seed in 0..POLICIES {
        let policy = policy(seed);
        let rules = normalize(&policy, all_labels(&policy));
        let mut m = Manager::new(&rules.labels, NODES_MAX);
        let mut decided: Vec<Decision> = Vec::new();
        for way in [Direction::Outbound, Direction::Inbound] {
            let root = decide(&mut m, &rules, way)?;
            m.verify(root)?;
            for (index, flow) in universe.iter().enumerate() {
                if way == Direction::Outbound {
                    decided.push(eval::decide(&policy, flow));
                }
                let found = m.eval(root, &|field| answer(&rules.labels, flow, way, field));
                if decision(found) != decided[index] {
                    let (wanted, text) = (decided[index], rules.text());
                    return Err(format!(
                        "seed {seed} {way:?}: {found:?}, wanted {wanted:?} {flow:?}\n{text}"
                    )
                    .into());
                }
            }
        }
        by_rule += decided.iter().filter(|decision| decision.rule.is_some()).count();
        let proofs = prove(&policy, &policy.tests)?;
        for (claim, proof) in policy.tests[0].claims.iter().zip(&proofs[0]) {
            let place = || format!("seed {seed} {claim:#?}\n{proof:#?}\n{}", rules.text());
            let about = universe.iter().any(|flow| is_about(&policy, claim, flow));
            let refuted_here = universe.iter().any(|flow| refuted(&policy, claim, flow));
            match &proof.outcome {
                Outcome::Vacuous if about => return Err(format!("not vacuous: {}", place()).into()),
                Outcome::Vacuous => vacuous += 1,
                Outcome::Holds if !about => return Err(format!("vacuous: {}", place()).into()),
                // `allow` speaks of the plainest ends only.
                Outcome::Holds if refuted_here && claim.expect != Expect::Allow => {
                    return Err(format!("refuted: {}", place()).into());
                }
                Outcome::Holds => holds += 1,
                Outcome::Fails(counterexample) => {
                    let Counterexample { flow, decision, .. } = &**counterexample;
                    let shown = says(&policy, claim.by, flow) == *decision
                        && refuted(&policy, claim, flow)
                        && (flow.http.is_none() || flow.protocol == protocol::TCP)
                        && [&flow.source, &flow.destination]
                            .iter()
                            .all(|end| end.cgroup.is_none() || end.is_self);
                    if !shown || !refuted_here {
                        return Err(format!("no counterexample: {}", place()).into());
                    }
                    fails += 1;
                }
            }
            for flow in &proof.witnesses {
                let root = decide(&mut m, &rules, Direction::Outbound)?;
                let way = Direction::Outbound;
                let found = m.eval(root, &|field| answer(&rules.labels, flow, way, field));
                if decision(found) != eval::decide(&policy, flow) || !is_about(&policy, claim, flow)
                {
                    return Err(format!("witness {flow:?}: {}", place()).into());
                }
            }
        }
    }
    let n_flows = universe.len() * usize::try_from(POLICIES)?;
    println!("{n_flows} flows, {by_rule} by a rule; {holds} hold, {vacuous} vacuous, {fails} fail");
    if by_rule * 10 < n_flows * 5 || holds < 20 || fails < 40 || vacuous < 5 {
        return Err("the generated policies exercise too little".into());
    }
    Ok(())
}

/// Whether a claim speaks of a flow.
fn is_about(policy: &Policy, claim: &Claim, flow: &Flow) -> bool {
    let Match { from, to, both_ways, on } = &claim.flow;
    if claim.expect != Expect::Only {
        return eval::flow_matches(policy, &claim.flow, flow);
    }
    let enters = |from, to| {
        !eval::contains(policy, from, &flow.source)
            && eval::contains(policy, to, &flow.destination)
            && eval::services_contain(on, flow)
    };
    enters(from, to) || *both_ways && enters(to, from)
}

fn universe() -> Vec<Flow> {
    let end = |address: [u8; 4]| {
        let mut ends = Vec::new();
        for names in RESOLVED {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let plain = Endpoint { names, ..Endpoint::at(address.into()) };
            let managed = Endpoint { labels: Some(BTreeMap::new()), ..plain.clone() };
            for cgroup in PROCESSES {
                let cgroup = cgroup.map(str::to_owned);
                ends.push(Endpoint { is_self: true, cgroup, ..managed.clone() });
            }
            ends.extend([plain, managed]);
        }
        ends
    };
    let mut requests = vec![None];
    for method in METHODS {
        requests.extend(
            PATHS.map(|path| Some(Request { method: method.to_owned(), path: path.to_owned() })),
        );
    }
    let mut flows = Vec::new();
    for source in end([10, 0, 0, 1]) {
        for destination in end([10, 0, 0, 2]) {
            // No packet leaves a machine for itself.
            if source.is_self && destination.is_self {
                continue;
            }
            let flow = |protocol, port, http: &Option<Request>| {
                let (source, destination) = (source.clone(), destination.clone());
                let (http, source_port) = (http.clone(), 50_000);
                Flow { source, destination, protocol, port, source_port, http }
            };
            flows.extend(requests.iter().map(|http| flow(protocol::TCP, 80, http)));
            flows.extend(requests.iter().map(|http| flow(protocol::TCP, 81, http)));
            flows.push(flow(protocol::UDP, 80, &None));
        }
    }
    flows
}

fn policy(seed: u64) -> Policy {
    let mut r = Random::new(seed);
    let mut policy = Policy::default();
    for index in 0..1 + r.below(3) {
        policy.blocks.push(Block {
            name: format!("block-{index}"),
            tier: *r.pick(&[Tier::Guard, Tier::Policy, Tier::Policy, Tier::Baseline]),
            staged: false,
            scope: None,
            annotations: Annotations::default(),
            span: NOWHERE,
        });
        for _ in 0..1 + r.below(4) {
            policy.rules.push(Rule {
                block: BlockId(index as u32),
                kind: rule(&mut r),
                annotations: Annotations::default(),
                span: NOWHERE,
                uses: Vec::new(),
                arguments: Vec::new(),
            });
        }
    }
    let claim = |r: &mut Random| Claim {
        expect: *r.pick(&[Expect::Allow, Expect::Deny, Expect::Only]),
        flow: matched(r),
        by: r.chance(20).then(|| BlockId(r.below(policy.blocks.len()) as u32)),
        chain: None,
        span: NOWHERE,
    };
    let claims = (0..CLAIMS).map(|_| claim(&mut r)).collect();
    policy.tests.push(Test {
        what: ClaimsKind::Test,
        title: "generated".to_owned(),
        foreign: false,
        uses: Vec::new(),
        claims,
        span: NOWHERE,
    });
    policy
}

fn rule(r: &mut Random) -> RuleKind {
    let action = match r.below(10) {
        0..=5 => Action::Allow,
        6..=7 => Action::Deny,
        _ => return RuleKind::Isolate { set: endpoints(r, 1), direction: None },
    };
    let exempt = |r: &mut Random| Exempt::Flow {
        flow: matched(r),
        annotations: Box::default(),
        span: NOWHERE,
    };
    let unless = if r.chance(30) { vec![exempt(r)] } else { Vec::new() };
    RuleKind::Match { action, flow: matched(r), when: Vec::new(), unless, log: false }
}

fn matched(r: &mut Random) -> Match {
    let both_ways = r.chance(20);
    Match { from: endpoints(r, 2), to: endpoints(r, 2), both_ways, on: services(r, 2) }
}

fn endpoints(r: &mut Random, depth: usize) -> Endpoints {
    match r.below(if depth == 0 { 10 } else { 15 }) {
        0..=2 => Endpoints::Any,
        3 => Endpoints::Managed,
        4 => Endpoints::Unmanaged,
        5 => Endpoints::SelfHost,
        6 | 7 => {
            let text = *r.pick(&NAMES);
            let name = text.strip_prefix("*.");
            let below = name.is_some();
            Endpoints::Name(NamePattern { name: name.unwrap_or(text).to_owned(), below })
        }
        8 | 9 => Endpoints::Cgroup((*r.pick(&CGROUPS)).to_owned()),
        10 | 11 => Endpoints::Union(vec![endpoints(r, depth - 1), endpoints(r, depth - 1)]),
        12 | 13 => Endpoints::Intersect(vec![endpoints(r, depth - 1), endpoints(r, depth - 1)]),
        _ => {
            let set = Box::new(endpoints(r, depth - 1));
            Endpoints::Except(set, Box::new(endpoints(r, depth - 1)))
        }
    }
}

fn services(r: &mut Random, depth: usize) -> Services {
    let ports = |protocol, first, last| Services::Ports { protocol, first, last };
    match r.below(if depth == 0 { 7 } else { 12 }) {
        0 | 1 => Services::Any,
        2 => ports(protocol::TCP, 80, 80),
        3 => ports(*r.pick(&[protocol::TCP, protocol::UDP]), 0, u16::MAX),
        4..=6 => {
            let method = r.chance(60).then(|| (*r.pick(&["GET", "POST"])).to_owned());
            let path = r.chance(70).then(|| {
                let (text, prefix) = *r.pick(&[("/s/", true), ("/s/a", false), ("/", true)]);
                PathPattern { text: text.to_owned(), prefix }
            });
            let (first, last) = *r.pick(&[(80, 80), (0, u16::MAX)]);
            let on = ports(protocol::TCP, first, last);
            Services::Intersect(vec![on, Services::Http { method, path }])
        }
        7 | 8 => Services::Union(vec![services(r, depth - 1), services(r, depth - 1)]),
        9 => Services::Intersect(vec![services(r, depth - 1), services(r, depth - 1)]),
        _ => {
            let set = Box::new(services(r, depth - 1));
            Services::Except(set, Box::new(services(r, depth - 1)))
        }
    }
}
