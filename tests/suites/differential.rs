//! One flow, four judges: evaluator, diagram, native code and the kernel agree on verdict and deciding rule.
//!
//! The kernel runs the object that `segc build` would write, loaded by aya, by `BPF_PROG_TEST_RUN` on the flow's first frame.
//! `SEG_DIFFERENTIAL_POLICIES` sets the number of generated policies for a longer run, `SEG_SEED` the first seed.

use libtest_mimic::{Failed, Trial};
use seg_artifact::maps::{self, Reason, rule_counter};
use seg_compiler::decide::{answer, decision};
use seg_compiler::ir::Map;
use seg_compiler::pipeline::{self, Compiled};
use seg_compiler::program::{DROP, PASS};
use seg_compiler::simulate::{self, IFINDEX, Placed, Simulator};
use seg_compiler::trees;
use seg_lang::analyze::analyze;
use seg_lang::ast::Direction;
use seg_lang::eval::{self, Decision, Flow, Verdict};
use seg_lang::policy::{Policy, protocol};
use seg_lang::source::Sources;
use seg_tests::generate;
use seg_tests::harness;
use seg_tests::random::Random;
use seg_tests::testrun::Kernel;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Policies in `cargo test`.
const POLICIES: u64 = 200;
/// Flows of each policy; not every one has a frame or a managed end.
const FLOWS: usize = 340;
/// Policies with more programs than this are left to the diagram suite: compiling them dominates the time, not judging.
const PROGRAMS_MAX: usize = 48;
/// Trials the policies are spread over, so that they run in parallel.
const TRIALS: u64 = 8;

fn main() -> ExitCode {
    let policies = number("SEG_DIFFERENTIAL_POLICIES").unwrap_or(POLICIES);
    let seed = number("SEG_SEED").unwrap_or(1);
    let mut trials: Vec<Trial> = (0..TRIALS)
        .map(|n| {
            harness::kernel(&format!("generated_policies_{n}"), move || {
                // Far apart, so that no trial reaches the next one's seeds.
                generated(seed + n * 1_000_000, policies.div_ceil(TRIALS))
            })
        })
        .collect();
    for example in ["bastion", "shop", "starwars", "three-tier"] {
        let path = format!("examples/{example}");
        trials.push(harness::kernel(&format!("example_{example}"), move || written(&path)));
    }
    trials.push(harness::kernel("every_template_of_the_library", || {
        written("tests/data/run/std-patterns.seg")
    }));
    harness::main(trials).exit_code()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn generated(first_seed: u64, policies: u64) -> Result<(), Failed> {
    let mut tally = Tally::default();
    let (mut seed, mut taken) = (first_seed, 0);
    while taken < policies {
        let policy = generate::policy(seed);
        let trees = trees::compile(&policy)?;
        if trees.outbound.trees.len() + trees.inbound.trees.len() <= PROGRAMS_MAX {
            let compiled = pipeline::compile(&policy, &Sources::default(), "generated")?;
            let agreed = agree(&policy, &compiled, seed, FLOWS, &mut tally);
            agreed.map_err(|e| format!("seed {seed}: {}", e.message().unwrap_or("?")))?;
            taken += 1;
        }
        seed += 1;
    }
    tally.report(policies, policies as usize * 250)
}

/// A package or a file of this repository.
fn written(path: &str) -> Result<(), Failed> {
    let package = segc::package::load(&harness::root().join(path)).map_err(|e| e.0)?;
    let analysis = analyze(package.sources);
    let policy = analysis.policy.ok_or("the policy does not check")?;
    let compiled = pipeline::compile(&policy, &analysis.sources, path)?;
    let mut tally = Tally::default();
    agree(&policy, &compiled, 1, 4_000, &mut tally)?;
    tally.report(1, 2_000)
}

#[derive(Default)]
struct Tally {
    flows: usize,
    runs: usize,
    by_rule: usize,
    allowed: usize,
}

impl Tally {
    /// Prints the totals, and fails if the flows met too little to mean anything.
    fn report(&self, policies: u64, flows_min: usize) -> Result<(), Failed> {
        let Self { flows, runs, by_rule, allowed } = self;
        println!(
            "{policies} policies, {flows} flows, {runs} program runs in the kernel, {by_rule} flows by a rule, {allowed} allowed"
        );
        if *flows < flows_min || by_rule * 10 < *flows || allowed * 200 < *flows {
            return Err("too few flows met a rule".into());
        }
        Ok(())
    }
}

fn agree(
    policy: &Policy,
    compiled: &Compiled,
    seed: u64,
    n: usize,
    tally: &mut Tally,
) -> Result<(), Failed> {
    let trees = &compiled.trees;
    let mut native = Simulator::new(trees)?;
    let mut kernel = Object::new(compiled)?;
    for flow in generate::flows(policy, &mut Random::new(seed), n) {
        let judged = native.run(&flow);
        if judged.is_empty() {
            continue;
        }
        let placed =
            simulate::place(&trees.rules.labels, &flow).ok_or("a flow that runs is placed")?;
        let wanted = eval::decide(policy, &flow);
        tally.flows += 1;
        tally.by_rule += usize::from(wanted.rule.is_some());
        tally.allowed += usize::from(wanted.verdict == Verdict::Allow);
        let (action, counter) = outcome(&flow, wanted);
        for judged in judged {
            let way = match judged.way {
                Direction::Outbound => &trees.outbound,
                Direction::Inbound => &trees.inbound,
            };
            let asked = |field| answer(&trees.rules.labels, &flow, judged.way, field);
            let diagram = decision(trees.diagrams.eval(way.diagram, &asked));
            let name = &way.roles.programs[judged.role as usize];
            let program = compiled.programs.iter().position(|program| program.name == *name);
            let program = program.ok_or("a role has a program")?;
            let seen = [
                ("diagram", outcome(&flow, diagram)),
                ("native", (judged.outcome.action, judged.outcome.counter)),
                ("kernel", kernel.run(program, judged.way, &flow, &placed, counter)?),
            ];
            for (judge, seen) in seen {
                if seen != (action, counter) {
                    let rules = trees.rules.text();
                    return Err(format!("{judge} says {seen:?}, the evaluator {wanted:?}: program {name}, {flow:?}\n{rules}").into());
                }
            }
            tally.runs += 1;
        }
    }
    Ok(())
}

/// What a program does with a flow so decided: its action and the counter it moves.
fn outcome(flow: &Flow, decision: Decision) -> (i32, u32) {
    // Each ICMP belongs to one IP; with the other the frame is malformed (spec.md, section 9).
    let other = if flow.source.address.is_ipv4() { protocol::ICMP6 } else { protocol::ICMP };
    if flow.protocol == other {
        return (DROP, Reason::Malformed.counter());
    }
    let counter = decision.rule.map_or(Reason::Default.counter(), |rule| rule_counter(rule.0));
    (if decision.verdict == Verdict::Allow { PASS } else { DROP }, counter)
}

/// The compiled object in the kernel.
struct Object {
    kernel: Kernel,
    /// How often each counter has moved.
    moved: BTreeMap<u32, u64>,
}

impl Object {
    fn new(compiled: &Compiled) -> Result<Self, String> {
        let names: Vec<String> =
            compiled.programs.iter().map(|program| program.name.clone()).collect();
        Ok(Self { kernel: Kernel::of_object(&compiled.object, &names)?, moved: BTreeMap::new() })
    }

    /// Runs a program on a flow's first frame: the action, and `counter` if exactly that one has moved.
    fn run(
        &mut self,
        program: usize,
        way: Direction,
        flow: &Flow,
        placed: &Placed,
        counter: u32,
    ) -> Result<(i32, u32), Failed> {
        let ends = [
            (&placed.source, flow.source.address),
            (&placed.destination, flow.destination.address),
        ];
        for (end, address) in ends {
            let key = maps::address_key(address);
            match end {
                Some(end) => self.kernel.set(Map::Endpoints, &key, &end.record)?,
                None => self.kernel.remove(Map::Endpoints, &key)?,
            }
        }
        let local = match way {
            Direction::Outbound => &placed.source,
            Direction::Inbound => &placed.destination,
        };
        let local = local.as_ref().ok_or("the local end is managed")?;
        self.kernel.set(Map::Local, &IFINDEX.to_ne_bytes(), &local.record)?;
        let action = self.kernel.run(program, &placed.frame)?;
        self.kernel.remove(Map::Conntrack, &placed.connection)?;
        // A program moves one counter by one. If it is this one, no other has.
        let moved = self.moved.entry(counter).or_default();
        let [packets, _] = self.kernel.counter(counter)?;
        let seen = if packets == *moved + 1 { counter } else { u32::MAX };
        *moved = packets;
        Ok((action, seen))
    }
}
