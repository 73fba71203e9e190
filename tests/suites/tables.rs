//! Decisions in tables: what they say is what the evaluator says, with the same deciding rule, however the rules are grouped.

use libtest_mimic::{Failed, Trial};
use seg_compiler::decide::answer;
use seg_compiler::layout::layout;
use seg_compiler::limits::{LimitError, NETS_MAX};
use seg_compiler::normalize::{normalize, rule_labels};
use seg_compiler::ranges::Ranges;
use seg_compiler::tabulate::{Config, tabulate};
use seg_lang::analyze::analyze;
use seg_lang::ast::Direction;
use seg_lang::eval::{self, Verdict};
use seg_tests::generate;
use seg_tests::harness;
use seg_tests::package;
use seg_tests::random::Random;
use std::process::ExitCode;

const POLICIES: u64 = 60;
const FLOWS: usize = 300;

fn main() -> ExitCode {
    let ways = [
        ("one_group", Config { matrix: usize::MAX, group: 0 }),
        ("apart_by_need", Config { matrix: 0, group: 1 << 12 }),
        ("apart_wherever_it_saves_a_cell", Config { matrix: 0, group: 0 }),
    ];
    let trials = ways.into_iter().map(|(name, config)| {
        Trial::test(format!("generated_policies_in_{name}"), move || generated(config))
    });
    let isolation = Trial::test("more_classes_of_isolation_are_refused", || {
        let blocks = (0..256).flat_map(|n| {
            ["a", "b"]
                .map(|label| format!("policy p{label}{n} {{ isolate {label}:v{n} outbound }}\n"))
        });
        let text = format!("label a\nlabel b\n{}", blocks.collect::<String>());
        let analysis = analyze(package::sources("isolation", &text));
        let policy = analysis.policy.ok_or("the policy does not check")?;
        match tabulate(&normalize(&policy, rule_labels(&policy)), Config::default()) {
            Err(LimitError::Cells { rules }) if !rules.is_empty() => Ok(()),
            other => Err(format!("{:?}", other.map(|tables| tables.lists.len())).into()),
        }
    });
    let nets = Trial::test("more_nets_than_idents_are_refused", more_nets_than_idents_are_refused);
    harness::main(trials.chain([isolation, nets]).collect()).exit_code()
}

fn more_nets_than_idents_are_refused() -> Result<(), Failed> {
    let policy = generate::policy(1);
    let tables = tabulate(&normalize(&policy, rule_labels(&policy)), Config::default())?;
    let nets = |n: usize| (0..n as u128).map(|of| Ranges::new(2 * of, 2 * of)).collect::<Vec<_>>();
    layout(&tables, &nets(NETS_MAX))?;
    match layout(&tables, &nets(1 << 16)) {
        Err(LimitError::Nets { needed }) if needed == 1 << 16 => Ok(()),
        other => Err(format!("{:?}", other.map(|layout| layout.bytes.len())).into()),
    }
}

fn generated(config: Config) -> Result<(), Failed> {
    let (mut n_flows, mut n_ruled, mut n_groups, mut n_apart, mut n_large) = (0, 0, 0, 0, 0);
    for seed in 1..=POLICIES {
        let policy = generate::policy(seed);
        let rules = normalize(&policy, rule_labels(&policy));
        let labels = &rules.labels;
        let tables = match tabulate(&rules, config) {
            Ok(tables) => tables,
            Err(LimitError::Bits { .. }) => {
                n_large += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        tables.verify()?;
        n_groups = n_groups.max(tables.groups.len());
        n_apart += usize::from(tables.isolation.is_some());
        for flow in generate::flows(&policy, &mut Random::new(seed), FLOWS) {
            let source = |field| answer(labels, &flow, Direction::Inbound, field);
            let destination = |field| answer(labels, &flow, Direction::Outbound, field);
            let leaf = tables.eval(&source, &destination, &destination);
            let wanted = eval::decide(&policy, &flow);
            if (leaf.allow, leaf.rule())
                != (wanted.verdict == Verdict::Allow, wanted.rule.map(|r| r.0))
            {
                let text = rules.text();
                return Err(
                    format!("seed {seed}: {leaf:?}, not {wanted:?}: {flow:?}\n{text}").into()
                );
            }
            n_flows += 1;
            n_ruled += usize::from(wanted.rule.is_some());
        }
    }
    println!(
        "{n_flows} flows, {n_ruled} by a rule; up to {n_groups} groups, isolation apart in {n_apart} policies; {n_large} too large"
    );
    if n_flows < 10_000 || n_ruled * 4 < n_flows || n_large * 2 > POLICIES {
        return Err("too little was compared".into());
    }
    Ok(())
}
