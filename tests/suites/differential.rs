//! One flow, four judges: evaluator, diagram, native code and the kernel agree on verdict and deciding rule.
//!
//! The kernel runs the object that `segc build` would write, loaded by aya, by `BPF_PROG_TEST_RUN` on the flow's first frame.
//! `SEG_DIFFERENTIAL_POLICIES` sets the number of generated policies for a longer run, `SEG_SEED` the first seed.

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use libtest_mimic::{Failed, Trial};
use seg_artifact::addresses::Nets;
use seg_artifact::maps::{About, Reason, rule_counter};
use seg_compiler::decide::{answer, decision};
use seg_compiler::decided::{Config, Decided, Shape, decide};
use seg_compiler::ir::Map;
use seg_compiler::limits::LimitError;
use seg_compiler::pipeline::{self, Compiled};
use seg_compiler::program::{DROP, PASS};
use seg_compiler::simulate::{self, IFINDEX, Placed, Simulator};
use seg_compiler::tabulate;
use seg_compiler::trees;
use seg_lang::analyze::analyze;
use seg_lang::ast::Direction;
use seg_lang::eval::{self, Decision, Flow, Verdict};
use seg_lang::policy::{Policy, protocol};
use seg_lang::source::Sources;
use seg_tests::generate;
use seg_tests::harness;
use seg_tests::random::Random;
use seg_tests::scale;
use seg_tests::testrun::Kernel;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Policies in `cargo test`.
const POLICIES: u64 = 40;
/// Flows of each policy; not every one has a frame or a managed end.
const FLOWS: usize = 340;
/// Policies with more programs than this are left to the diagram suite: compiling them dominates the time, not judging.
const PROGRAMS_MAX: usize = 48;
/// Trials the policies are spread over, so that they run in parallel.
const TRIALS: u64 = 8;

fn main() -> ExitCode {
    let policies = number("SEG_DIFFERENTIAL_POLICIES").unwrap_or(POLICIES);
    let seed = number("SEG_SEED").unwrap_or(1);
    let mut trials: Vec<Trial> = Vec::new();
    for (shape, config) in shapes() {
        for n in 0..TRIALS {
            trials.push(harness::kernel(
                &format!("generated_policies_{n}_by_{shape}"),
                move || {
                    // Far apart, so that no trial reaches the next one's seeds.
                    generated(seed + n * 1_000_000, policies.div_ceil(TRIALS), config)
                },
            ));
        }
        for example in ["bastion", "shop", "starwars", "three-tier"] {
            let path = format!("examples/{example}");
            let name = format!("example_{example}_by_{shape}");
            trials.push(harness::kernel(&name, move || written(&path, config)));
        }
        let name = format!("every_template_of_the_library_by_{shape}");
        let path = "tests/data/run/std-patterns.seg";
        trials.push(harness::kernel(&name, move || written(path, config)));
    }
    for set in ["acl4_1k", "fw1_1k", "ipc1_1k"] {
        let missing = harness::missing_privilege().or(scale::classbench().err());
        let name = format!("classbench_{set}_by_trees_in_sequence");
        trials.push(harness::unless_missing(&name, missing, move || classbench(set)));
    }
    harness::main(trials).exit_code()
}

/// Every way to decide; in groups wherever that saves a cell, so that small policies have them too.
fn shapes() -> [(&'static str, Config); 5] {
    let config = |shape, tables| Config { shape: Some(shape), tables, ..Config::default() };
    let apart = tabulate::Config { matrix: 0, group: 0 };
    let tree = |parting, by_role| Config {
        shape: Some(Shape::Tree),
        trees: trees::Config { parting: Some(parting), by_role: Some(by_role) },
        ..Config::default()
    };
    [
        ("comparisons", config(Shape::Tree, tabulate::Config::default())),
        ("comparisons_of_roles", tree(&[], true)),
        ("trees_in_sequence", tree(&[1, 9], false)),
        ("one_table", config(Shape::Tables, tabulate::Config { matrix: usize::MAX, group: 0 })),
        ("tables_in_groups", config(Shape::Tables, apart)),
    ]
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn generated(first_seed: u64, policies: u64, config: Config) -> Result<(), Failed> {
    let mut tally = Tally::default();
    let (mut seed, mut taken) = (first_seed, 0);
    while taken < policies {
        let policy = generate::policy(seed);
        match decide(&policy, config) {
            Ok(choice) if choice.decided.functions().len() <= PROGRAMS_MAX => {
                let compiled =
                    pipeline::compile(&policy, &Sources::default(), "generated", config)?;
                let flows = generate::flows(&policy, &mut Random::new(seed), FLOWS);
                let agreed = agree(&policy, &compiled, &flows, &mut tally);
                agreed.map_err(|e| format!("seed {seed}: {}", e.message().unwrap_or("?")))?;
                taken += 1;
            }
            Ok(_) | Err(LimitError::Bits { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        seed += 1;
    }
    tally.report(policies, policies as usize * 250)
}

/// A package or a file of this repository.
fn written(path: &str, config: Config) -> Result<(), Failed> {
    let package = segc::package::load(&harness::root().join(path)).map_err(|e| e.0)?;
    let analysis = analyze(package.sources);
    let policy = analysis.policy.ok_or("the policy does not check")?;
    let compiled = pipeline::compile(&policy, &analysis.sources, path, config)?;
    let mut tally = Tally::default();
    let flows = generate::flows(&policy, &mut Random::new(1), 4_000);
    agree(&policy, &compiled, &flows, &mut tally)?;
    tally.report(1, 2_000)
}

/// A ClassBench set of a thousand rules: programs of several trees, of which the verifier follows the sum.
fn classbench(set: &str) -> Result<(), Failed> {
    let lines = scale::lines(&std::fs::read_to_string(scale::classbench()?.join(set))?);
    let policy = scale::policy(&lines);
    let config = Config { shape: Some(Shape::Tree), ..Config::default() };
    let compiled = pipeline::compile(&policy, &Sources::default(), set, config)?;
    let flows = scale::flows(&lines, &mut Random::new(1), 400);
    let mut tally = Tally::default();
    agree(&policy, &compiled, &flows, &mut tally)?;
    let mut bpf = EbpfLoader::new().load(&compiled.object)?;
    for program in &compiled.programs {
        let loaded = bpf.program_mut(&program.name).ok_or("a program of the object")?;
        let loaded: &mut SchedClassifier = loaded.try_into()?;
        loaded.load()?;
        let n = program.insns.len();
        let followed = loaded.info()?.verified_instruction_count();
        println!("{set} {}: {n} instructions, {followed:?} followed", program.name);
        // What comes before the trees costs some 15,000 whatever they are.
        if followed.is_some_and(|followed| followed as usize > 20_000 + 4 * n) {
            return Err("the verifier follows more than the sum of the trees".into());
        }
    }
    tally.report(1, 200)
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
    flows: &[Flow],
    tally: &mut Tally,
) -> Result<(), Failed> {
    let decided = &compiled.decided;
    let mut native = Simulator::new(decided)?;
    let mut kernel = Object::new(compiled)?;
    for flow in flows {
        let judged = native.run(flow);
        if judged.is_empty() {
            continue;
        }
        let placed = simulate::place(decided, flow).ok_or("a flow that runs is placed")?;
        let wanted = eval::decide(policy, flow);
        tally.flows += 1;
        tally.by_rule += usize::from(wanted.rule.is_some());
        tally.allowed += usize::from(wanted.verdict == Verdict::Allow);
        let (action, counter) = outcome(flow, wanted);
        for judged in judged {
            let asked = |field| answer(decided.labels(), flow, judged.way, field);
            let diagram = match (decided, judged.way) {
                (Decided::Trees(trees), Direction::Outbound) => Some(trees.outbound.eval(&asked)),
                (Decided::Trees(trees), Direction::Inbound) => Some(trees.inbound.eval(&asked)),
                (Decided::Tables(_), _) => None,
            };
            let diagram = diagram.map(decision);
            let name = &decided.roles(judged.way).programs[judged.role as usize];
            let program = compiled.programs.iter().position(|program| program.name == *name);
            let program = program.ok_or("a role has a program")?;
            let seen = [
                ("diagram", outcome(flow, diagram.unwrap_or(wanted))),
                ("native", (judged.outcome.action, judged.outcome.counter)),
                ("kernel", kernel.run(program, judged.way, flow, &placed, counter)?),
            ];
            for (judge, seen) in seen {
                if seen != (action, counter) {
                    let rules = decided.rules().text();
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
    nets: Nets,
    idents: [u16; 2],
    /// How often each counter has moved.
    moved: BTreeMap<u32, u64>,
}

impl Object {
    fn new(compiled: &Compiled) -> Result<Self, String> {
        let names: Vec<String> =
            compiled.programs.iter().map(|program| program.name.clone()).collect();
        let mut kernel = Kernel::of_object(&compiled.object, &names)?;
        let nets = Nets::new(&compiled.decided.nets());
        kernel.set_nets(&nets)?;
        let classes = compiled.decided.classes().map_or(&[][..], |classes| &classes.nets);
        for (ident, &classes) in (0..).zip(classes) {
            kernel.set_ident(ident, &About { classes, ..About::default() });
        }
        let idents = simulate::idents(&compiled.decided);
        Ok(Self { kernel, nets, idents, moved: BTreeMap::new() })
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
            (Direction::Outbound, &placed.source, flow.source.address),
            (Direction::Inbound, &placed.destination, flow.destination.address),
        ];
        for ((side, end, address), ident) in ends.into_iter().zip(self.idents) {
            let Some(end) = end else { continue };
            let ifindex = if side == way { IFINDEX } else { 0 };
            self.kernel.set_ident(ident, &end.about(ifindex));
            self.kernel.set_address(address, ident)?;
        }
        let action = self.kernel.run(program, &placed.frame)?;
        self.kernel.remove(Map::Conntrack, &placed.connection)?;
        for (_, _, address) in ends {
            let net = if address.is_ipv4() { self.nets.ident(address) } else { 0 };
            self.kernel.set_address(address, net)?;
        }
        // A program moves one counter by one. If it is this one, no other has.
        let moved = self.moved.entry(counter).or_default();
        let [packets, _] = self.kernel.counter(counter)?;
        let seen = if packets == *moved + 1 { counter } else { u32::MAX };
        *moved = packets;
        Ok((action, seen))
    }
}
