//! The diagram and the trees decide as the evaluator does, verdict and deciding rule; claims are proved exactly.
//!
//! `tests/data/diagram` holds policies with their diagrams, roles and trees, `tests/data/prove` ones with their claims' outcomes.

#[path = "diagram/chains.rs"]
mod chains;
#[path = "diagram/layer7.rs"]
mod layer7;

use libtest_mimic::{Failed, Trial};
use seg_compiler::decide::{answer, decide, decision};
use seg_compiler::diagram::{Field, Manager};
use seg_compiler::limits::LimitError;
use seg_compiler::normalize::{normalize, rule_labels};
use seg_compiler::prove::{Counterexample, Outcome, prove};
use seg_compiler::rules::PortId;
use seg_compiler::tree::{self, Family, Kind, Tree};
use seg_compiler::trees::{self, Config, Trees, Way};
use seg_lang::analyze::analyze;
use seg_lang::ast::{Direction, Expect};
use seg_lang::eval::{self, Decision, Flow, Verdict};
use seg_lang::policy::text;
use seg_lang::policy::{BlockId, Claim, Endpoints, LabelId, Match, Policy, WorkloadId};
use seg_lang::render::brief;
use seg_lang::source::Sources;
use seg_tests::generate;
use seg_tests::harness::{self, Case};
use seg_tests::random::Random;
use seg_tests::{flows, package, scale};
use std::process::ExitCode;

/// Flows are judged `POLICIES * FLOWS` times at each end.
const POLICIES: u64 = 120;
const FLOWS: usize = 200;

fn main() -> ExitCode {
    let mut trials = harness::cases("diagram", "seg", shapes);
    trials.extend(harness::cases("prove", "seg", proofs));
    trials.extend([
        Trial::test("diagram_and_trees_decide_as_the_evaluator", agree),
        Trial::test("claims_hold_of_every_flow_or_show_one_they_do_not_hold_of", claims),
        Trial::test("chains_are_found_exactly_where_a_search_finds_them", chains::agree),
        Trial::test("chains_of_large_policies_exist", chains::large),
        Trial::test("requests_processes_and_names_are_decided_as_by_the_evaluator", layer7::agree),
        Trial::test("parted_rules_and_roles_of_peers_decide_the_same", parted),
        harness::unless_missing(
            "classbench_is_decided_as_by_search",
            scale::classbench().err(),
            classbench,
        ),
        Trial::test("rules_about_labels_are_decided_by_role", labels),
        Trial::test("compiling_twice_gives_equal_trees", deterministic),
        Trial::test("a_diagram_beyond_its_budget_names_the_rules_that_cost_most", budget),
    ]);
    harness::main(trials).exit_code()
}

/// Diagram, roles and trees of each direction.
fn shapes(case: &Case) -> Result<String, String> {
    let (policy, _) = analyzed(case)?;
    let trees = trees::compile(&policy).map_err(|error| error.to_string())?;
    let labels = &trees.rules.labels;
    let mut text = String::new();
    for (name, way) in [("outbound", &trees.outbound), ("inbound", &trees.inbound)] {
        text += &format!("{name}\n{}", way.text(labels));
        text += &format!("roles from {:?}\n", way.roles.root);
        for (index, node) in way.roles.nodes.iter().enumerate() {
            let edges = node.edges.iter().map(|edge| format!(" ..{} -> {:?}", edge.last, edge.to));
            text += &format!("  {index} {:?}{}\n", node.field, edges.collect::<String>());
        }
        let programs = way.roles.programs.iter().zip(&way.trees);
        let each = programs.flat_map(|(program, trees)| trees.iter().map(move |t| (program, t)));
        for (program, tree) in each {
            text += &format!(
                "{program}: {} comparisons\n{}",
                tree.n_comparisons(),
                tree.text(&labels.0)
            );
        }
    }
    Ok(text)
}

/// Every claim as written, and its outcome.
fn proofs(case: &Case) -> Result<String, String> {
    let (policy, sources) = analyzed(case)?;
    let proofs = prove(&policy, &policy.tests).map_err(|error| error.to_string())?;
    let mut lines = String::new();
    for (test, proofs) in policy.tests.iter().zip(&proofs) {
        for (claim, proof) in test.claims.iter().zip(proofs) {
            let source = sources.get(claim.span.file).ok_or("a claim without a source")?;
            let written = &source.text[claim.span.range()];
            let outcome = match &proof.outcome {
                Outcome::Holds => "holds".to_owned(),
                Outcome::Vacuous => "vacuous".to_owned(),
                Outcome::Fails(counterexample) => {
                    let mut text = "fails".to_owned();
                    for (flow, decision) in counterexample.hops() {
                        if says(&policy, claim.by, flow) != *decision {
                            return Err(format!(
                                "the evaluator does not say {decision:?} of {flow:?}"
                            ));
                        }
                        let verdict = match decision.verdict {
                            Verdict::Allow => "allow",
                            Verdict::Deny => "deny",
                        };
                        let by = flows::decided_by(&policy, &sources, *decision);
                        text += &format!("\n    {} = {verdict} {by}", flow_text(&policy, flow));
                    }
                    text
                }
            };
            lines += &format!("{written}: {outcome}\n");
        }
    }
    Ok(lines)
}

/// In the notation of `.flows` files.
fn flow_text(policy: &Policy, flow: &Flow) -> String {
    let end = |end: &eval::Endpoint| {
        let names: Vec<_> = end.names.iter().map(String::as_str).collect();
        let names = if names.is_empty() { String::new() } else { format!("[{}]", names.join(" ")) };
        let Some(labels) = &end.labels else { return format!("{}{names}", end.address) };
        let own = end.is_self.then(|| "self".to_owned());
        let process = end.cgroup.iter().map(|path| format!("cgroup:{path}"));
        let labels = labels.iter().map(|(id, v)| format!("{}:{v}", text::label(policy, *id)));
        let ports = end.ports.iter().map(|(name, &(protocol, port))| {
            format!("{name}={}", text::ports(protocol, port, port))
        });
        let words: Vec<_> = own.into_iter().chain(process).chain(labels).chain(ports).collect();
        format!("{}{names}{{{}}}", end.address, words.join(" "))
    };
    let service = text::service(flow, text::policy_asked(policy));
    format!("{} -> {} {service}", end(&flow.source), end(&flow.destination))
}

fn analyzed(case: &Case) -> Result<(Policy, Sources), String> {
    let analysis = analyze(package::sources(&case.name, &case.text));
    let Some(policy) = analysis.policy else {
        return Err(brief(&analysis.diagnostics, &analysis.sources));
    };
    Ok((policy, analysis.sources))
}

fn budget() -> Result<(), Failed> {
    // Small policies may fit, and a limit may be reached before any rule has a leaf.
    let named = (0..20).any(|seed| {
        let policy = generate::policy(seed);
        let rules = normalize(&policy, rule_labels(&policy));
        let mut diagrams = Manager::new(&rules.labels, 60);
        let decided = decide(&mut diagrams, &rules, Direction::Outbound);
        matches!(decided, Err(LimitError::Nodes { limit: 60, rules }) if !rules.is_empty())
    });
    if named { Ok(()) } else { Err("no policy is too large, or no rule is named".into()) }
}

fn agree() -> Result<(), Failed> {
    judged_by(&|_| Config::default())
}

fn parted() -> Result<(), Failed> {
    judged_by(&|seed| match seed % 3 {
        0 => Config { parting: Some(&[]), by_role: Some(true) },
        1 => Config { parting: Some(&[2]), by_role: Some(true) },
        _ => Config { parting: Some(&[1, 9, 20]), by_role: None },
    })
}

fn judged_by(config: &dyn Fn(u64) -> Config) -> Result<(), Failed> {
    let (mut judged, mut by_rule, mut allowed, mut from_programs) = (0_usize, 0, 0, 0);
    for seed in 0..POLICIES {
        let policy = generate::policy(seed);
        let trees = trees::compile_as(&policy, config(seed))?;
        for flow in generate::flows(&policy, &mut Random::new(seed), FLOWS) {
            let wanted = eval::decide(&policy, &flow);
            judged += 1;
            by_rule += usize::from(wanted.rule.is_some());
            allowed += usize::from(wanted.verdict == Verdict::Allow);
            let at_trees = decided(&trees, &flow, wanted);
            from_programs +=
                at_trees.map_err(|e| format!("seed {seed} {e}\n{}", trees.rules.text()))?;
        }
    }
    println!("{judged} flows, {by_rule} by a rule, {allowed} allowed, {from_programs} at trees");
    // The test has power only if flows meet rules.
    if judged < 20_000 || by_rule * 10 < judged * 5 || allowed * 12 < judged {
        return Err("the generated flows meet too few rules".into());
    }
    Ok(())
}

/// At how many ends trees have decided the flow as wanted; the diagrams have at both.
fn decided(trees: &Trees, flow: &Flow, wanted: Decision) -> Result<usize, String> {
    let mut at_trees = 0;
    for direction in [Direction::Outbound, Direction::Inbound] {
        let found = diagram_says(trees, flow, direction);
        let place = || format!("{direction:?} {flow:?}");
        if found != wanted {
            return Err(format!("diagram {found:?}, wanted {wanted:?}: {}", place()));
        }
        let Some(leaf) = tree_says(trees, flow, direction) else { continue };
        at_trees += 1;
        let allow = wanted.verdict == Verdict::Allow;
        if (leaf.allow, leaf.rule()) != (allow, wanted.rule.map(|rule| rule.0)) {
            return Err(format!("tree {leaf:?}, wanted {wanted:?}: {}", place()));
        }
    }
    Ok(at_trees)
}

/// Every set of a thousand rules, and one of ten thousand.
fn classbench() -> Result<(), Failed> {
    let folder = scale::classbench()?;
    let mut sets: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|e| e.path()).collect();
    sets.retain(|set| set.ends_with("fw1_10k") || set.to_string_lossy().ends_with("_1k"));
    sets.sort();
    for set in sets {
        let lines = scale::lines(&std::fs::read_to_string(&set)?);
        let policy = scale::policy(&lines);
        let trees = trees::compile(&policy)?;
        let (mut r, mut by_rule) = (Random::new(1), 0);
        for flow in scale::flows(&lines, &mut r, 2_000) {
            let wanted = scale::search(&lines, &flow);
            by_rule += usize::from(wanted.rule.is_some());
            decided(&trees, &flow, wanted).map_err(|e| format!("{}: {e}", set.display()))?;
        }
        let program = &trees.outbound.trees[0];
        let needed: usize = program.iter().map(Tree::n_comparisons).sum();
        println!("{}: {} trees, {needed} comparisons", set.display(), program.len());
        if by_rule < 1_000 || needed > 9 * lines.len() {
            return Err(format!("{}: {by_rule} by a rule, {needed}", set.display()).into());
        }
    }
    // The search is judged by the evaluator.
    let lines = scale::lines(&std::fs::read_to_string(folder.join("fw1_1k"))?);
    let policy = scale::policy(&lines);
    for flow in scale::flows(&lines, &mut Random::new(2), 1_000) {
        if eval::decide(&policy, &flow) != scale::search(&lines, &flow) {
            return Err(format!("the search is wrong about {flow:?}").into());
        }
    }
    Ok(())
}

/// Rules between applications, with hundreds of roles.
fn labels() -> Result<(), Failed> {
    let policy = scale::labels(300, 40, 1);
    let trees = trees::compile(&policy)?;
    for flow in generate::flows(&policy, &mut Random::new(1), 1_000) {
        decided(&trees, &flow, eval::decide(&policy, &flow))?;
    }
    let comparisons = |trees: &Vec<Tree>| trees.iter().map(Tree::n_comparisons).sum::<usize>();
    let largest = trees.inbound.trees.iter().map(comparisons).max();
    println!("{} roles, at most {largest:?} comparisons", trees.inbound.trees.len());
    Ok(())
}

fn claims() -> Result<(), Failed> {
    let (mut holds, mut vacuous, mut fails, mut witnesses, mut checked) = (0, 0, 0, 0, 0);
    for seed in 0..POLICIES {
        let policy = generate::policy(seed);
        let flows = generate::flows(&policy, &mut Random::new(seed), 2 * FLOWS);
        let (trees, proofs) = (trees::compile(&policy)?, prove(&policy, &policy.tests)?);
        for (test, proofs) in policy.tests.iter().zip(&proofs) {
            for (claim, proof) in test.claims.iter().zip(proofs) {
                let place = || format!("seed {seed} {claim:#?}\n{:#?}", proof.outcome);
                for flow in &proof.witnesses {
                    let one_end = Direction::Outbound;
                    if diagram_says(&trees, flow, one_end) != eval::decide(&policy, flow) {
                        return Err(format!("witness {flow:?}: {}", place()).into());
                    }
                }
                witnesses += proof.witnesses.len();
                match &proof.outcome {
                    Outcome::Holds => holds += 1,
                    Outcome::Vacuous => vacuous += 1,
                    Outcome::Fails(counterexample) => {
                        let Counterexample { flow, decision, .. } = &**counterexample;
                        fails += 1;
                        let agreed = says(&policy, claim.by, flow) == *decision
                            && refuted(&policy, claim, flow);
                        if !agreed {
                            return Err(format!("no counterexample: {}", place()).into());
                        }
                        continue;
                    }
                }
                if let Some(flow) = flows.iter().find(|flow| refutes_any(&policy, claim, flow)) {
                    return Err(format!("refuted by {flow:?}: {}", place()).into());
                }
                checked += flows.len();
            }
        }
    }
    println!(
        "{holds} hold, {vacuous} vacuous, {fails} fail; {checked} attempts to refute, {witnesses} witnesses"
    );
    if holds.min(fails) < 80 || vacuous < 10 {
        return Err("the generated claims exercise too little".into());
    }
    Ok(())
}

/// What the policy, or one block, says of a flow.
fn says(policy: &Policy, by: Option<BlockId>, flow: &Flow) -> Decision {
    let Some(block) = by else { return eval::decide(policy, flow) };
    match eval::block_verdict(policy, block, flow) {
        Some((verdict, rule)) => {
            let tier = policy.blocks[block.0 as usize].tier;
            Decision { verdict, tier: Some(tier), rule: Some(rule) }
        }
        None => Decision { verdict: Verdict::Deny, tier: None, rule: None },
    }
}

/// Whether the flow is one that the claim is about, with another verdict than the claim expects.
fn refuted(policy: &Policy, claim: &Claim, flow: &Flow) -> bool {
    let decision = says(policy, claim.by, flow);
    let is =
        |verdict| decision.verdict == verdict && (claim.by.is_none() || decision.rule.is_some());
    let matches = eval::flow_matches(policy, &claim.flow, flow);
    match claim.expect {
        Expect::Allow => matches && !is(Verdict::Allow),
        Expect::Deny => matches && !is(Verdict::Deny),
        Expect::Only => {
            let Match { from, to, both_ways, on } = &claim.flow;
            let enters = |from, to| {
                !eval::contains(policy, from, &flow.source)
                    && eval::contains(policy, to, &flow.destination)
                    && eval::services_contain(on, flow)
            };
            let intrudes = enters(from, to) || *both_ways && enters(to, from);
            intrudes && !is(Verdict::Deny)
        }
    }
}

/// As [`refuted`], but `allow` speaks only of flows between workloads of the inventory that are not the machine itself.
fn refutes_any(policy: &Policy, claim: &Claim, flow: &Flow) -> bool {
    let listed = |end: &eval::Endpoint| {
        let mut ids = (0..policy.workloads.len() as u32).map(WorkloadId);
        !end.is_self && ids.any(|id| eval::contains(policy, &Endpoints::Workload(id), end))
    };
    let both = listed(&flow.source) && listed(&flow.destination);
    // No packet leaves a machine for itself.
    let loops = flow.source.address == flow.destination.address;
    let spoken_of = match claim.expect {
        Expect::Deny | Expect::Only => true,
        Expect::Allow => both,
    };
    spoken_of && !loops && refuted(policy, claim, flow)
}

fn deterministic() -> Result<(), Failed> {
    for seed in 0..10 {
        let policy = generate::policy(seed);
        let (one, two) = (trees::compile(&policy)?, trees::compile(&policy)?);
        let ways = [(&one.outbound, &two.outbound), (&one.inbound, &two.inbound)];
        if ways.iter().any(|(a, b)| a.roles != b.roles || a.trees != b.trees) {
            return Err(format!("seed {seed} gives two results").into());
        }
    }
    Ok(())
}

fn diagram_says(trees: &Trees, flow: &Flow, direction: Direction) -> Decision {
    let labels = &trees.rules.labels;
    decision(way(trees, direction).eval(&|field| answer(labels, flow, direction, field)))
}

fn way(trees: &Trees, direction: Direction) -> &Way {
    match direction {
        Direction::Outbound => &trees.outbound,
        Direction::Inbound => &trees.inbound,
    }
}

/// What the program of the local end says, if there is one: roles as `segd` binds them, then the tree.
fn tree_says(trees: &Trees, flow: &Flow, direction: Direction) -> Option<tree::Leaf> {
    let ask = |field| answer(&trees.rules.labels, flow, direction, field);
    if ask(Field::LocalManaged) == 0 {
        return None;
    }
    let narrow = |field| u32::try_from(ask(field)).expect("a label value");
    let own: Vec<_> = trees.rules.labels.ids().map(|id| narrow(Field::LocalLabel(id))).collect();
    let peer: Vec<_> = trees.rules.labels.ids().map(|id| narrow(Field::PeerLabel(id))).collect();
    let opposite = match direction {
        Direction::Outbound => &trees.inbound,
        Direction::Inbound => &trees.outbound,
    };
    let peer_role = opposite.roles.role(ask(Field::PeerSelf) == 1, &peer)?;
    let way = way(trees, direction);
    let role = way.roles.role(ask(Field::LocalSelf) == 1, &own)?;
    let trees = &way.trees[role as usize];
    let family = if flow.source.address.is_ipv4() { Family::V4 } else { Family::V6 };
    let kind = Kind { managed: ask(Field::PeerManaged) == 1, family };
    let label = LabelId;
    Some(Tree::eval_all(trees, kind, &|field| match field {
        tree::Field::PeerSelf => ask(Field::PeerSelf) as u64,
        tree::Field::PeerLabel(id) => ask(Field::PeerLabel(label(id))) as u64,
        tree::Field::PeerRole => peer_role.into(),
        tree::Field::Same(id) => ask(Field::Same(label(id))) as u64,
        tree::Field::PeerAddress4 => u64::from(ask(Field::PeerAddress) as u32),
        tree::Field::LocalAddress4 => u64::from(ask(Field::LocalAddress) as u32),
        tree::Field::PeerAddress6High => (ask(Field::PeerAddress) >> 64) as u64,
        tree::Field::PeerAddress6Low => ask(Field::PeerAddress) as u64,
        tree::Field::LocalAddress6High => (ask(Field::LocalAddress) >> 64) as u64,
        tree::Field::LocalAddress6Low => ask(Field::LocalAddress) as u64,
        tree::Field::Protocol => ask(Field::Protocol) as u64,
        tree::Field::PeerPort(id) => ask(Field::PeerPort(PortId(id))) as u64,
        tree::Field::LocalPort(id) => ask(Field::LocalPort(PortId(id))) as u64,
        tree::Field::SourcePort => ask(Field::SourcePort) as u64,
        tree::Field::Port => ask(Field::Port) as u64,
    }))
}
