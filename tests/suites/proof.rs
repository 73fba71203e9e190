//! The proof of tables: it accepts what is made of rules, and refuses it with anything changed, unless for every flow of a
//! policy another rule decides anyway.

#[path = "proof/made.rs"]
mod made;
#[path = "proof/changes.rs"]
mod changes;
#[path = "proof/code.rs"]
mod code;

use changes::CHANGES;
use libtest_mimic::{Failed, Trial};
use made::Made;
use seg_compiler::check::check;
use seg_compiler::decided::{self, Decided, Shape};
use seg_compiler::layout::Pairs;
use seg_compiler::limits::LimitError;
use seg_compiler::pipeline::{self, CompileError, Compiled};
use seg_compiler::tabulate::Config;
use seg_lang::analyze::analyze;
use seg_lang::policy::Policy;
use seg_lang::source::Sources;
use seg_tests::generate;
use seg_tests::harness;
use seg_tests::package;
use seg_tests::random::Random;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

const POLICIES: u64 = 150;
/// Policies compiled to objects, in each of three groupings.
const OBJECTS: u64 = 30;
/// Policies whose programs are changed, and places for each kind of change.
const CODE: u64 = 24;
const PLACES: usize = 4;
/// Rows, not a matrix.
const APART: Config = Config { matrix: 0, group: 1 << 20 };
/// Policies whose tables are changed, each in three groupings.
const CHANGED: usize = 30;

/// Changes that in some policies touch only what decides no flow: a net or a rule that others are stronger than everywhere, a
/// counter that reads as it did.
const OF_NO_EFFECT: [&str; 4] =
    ["bound_of_a_net", "net_left_out", "rule_in_another_group", "counters_elsewhere"];

fn main() -> ExitCode {
    let ways = [
        ("one_group", Config { matrix: usize::MAX, group: 0 }),
        ("apart_by_need", Config { matrix: 0, group: 1 << 12 }),
        ("apart_wherever_it_saves_a_cell", Config { matrix: 0, group: 0 }),
    ];
    let accepted = ways.into_iter().map(|(name, config)| {
        Trial::test(format!("generated_policies_in_{name}_are_proved"), move || {
            let mut n = 0;
            for made in generated(config) {
                accept(&made)?;
                n += 1;
            }
            println!("{n} policies");
            if n * 2 < POLICIES { Err("too few fit".into()) } else { Ok(()) }
        })
    });
    let objects = ways.into_iter().map(|(name, config)| {
        Trial::test(format!("objects_of_generated_policies_in_{name}_are_proved"), move || {
            let mut n = 0;
            for seed in 1..=OBJECTS {
                n += usize::from(object(&generate::policy(seed), config)?.is_some());
            }
            println!("{n} objects");
            if n * 2 < OBJECTS as usize { Err("too few fit".into()) } else { Ok(()) }
        })
    });
    let large = Trial::test("tables_with_rows_are_proved", || {
        (1..=6).map(Made::large).try_for_each(|made| accept(&made))
    });
    let made = Arc::new(LazyLock::new(move || {
        let small = ways.into_iter().flat_map(|(_, config)| generated(config).take(CHANGED));
        small.chain((1..=6).map(Made::large)).collect::<Vec<_>>()
    }));
    let large_object = Trial::test("the_object_of_a_large_policy_is_proved", || {
        large_policy().and_then(|policy| object(&policy, APART)).map(|_| ())
    });
    let nets6 = Trial::test("the_object_of_many_nets_of_ipv6_is_proved", || {
        let rule =
            |n| format!("    allow 2001:db8:{:x}::/48 -> any on tcp/{n}\n", n * 40_503 % 65_536);
        let text = format!("policy nets {{\n{}}}\n", (1..=300).map(rule).collect::<String>());
        let analysis = analyze(package::sources("nets", &text));
        object(&analysis.policy.ok_or("the policy does not check")?, Config::default()).map(|_| ())
    });
    let objects_changed = Arc::new(LazyLock::new(move || -> Result<Vec<Compiled>, String> {
        let small = (1..=CODE).map(generate::policy).zip(ways.into_iter().cycle());
        let small = small.map(|(policy, (_, config))| object(&policy, config));
        let large = large_policy().and_then(|policy| object(&policy, APART));
        let all = small.chain([large]).map(|made| made.map_err(|e| format!("{e:?}")));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().flatten().filter(sorts_ends).collect())
    }));
    let code_refused = code::CHANGES.iter().map(move |&(name, change)| {
        let objects = Arc::clone(&objects_changed);
        Trial::test(format!("code_refused/{name}"), move || {
            let mut n = 0;
            for (seed, compiled) in (1..).zip(LazyLock::force(&objects).as_ref()?) {
                let mut random = Random::new(seed);
                for (at, changed) in code::changed(&compiled.object, change, PLACES, &mut random) {
                    n += 1;
                    if check(&compiled.decided, &changed).is_ok() {
                        return Err(format!("object {seed}, slot {at}: accepted").into());
                    }
                }
            }
            println!("{n} changed and refused");
            if n == 0 { Err("nothing was changed".into()) } else { Ok(()) }
        })
    });
    let refused = CHANGES.iter().map(move |&(name, change)| {
        let made = Arc::clone(&made);
        Trial::test(format!("refused/{name}"), move || {
            let (mut n_changed, mut accepted) = (0, Vec::new());
            for (seed, made) in (1..).zip(made.iter()) {
                let mut changed = made.clone();
                if change(&mut changed, &mut Random::new(seed)).is_none() || changed == *made {
                    continue;
                }
                n_changed += 1;
                if changed.check().is_ok() {
                    accepted.push(seed);
                }
            }
            println!("{n_changed} of {} changed; accepted at {accepted:?}", made.len());
            let most = if OF_NO_EFFECT.contains(&name) { n_changed / 10 } else { 0 };
            if accepted.len() > most {
                let rules = made[accepted[0] as usize - 1].rules.text();
                return Err(format!("accepted too often, first of all\n{rules}").into());
            }
            if n_changed < 5 { Err("hardly anything was changed".into()) } else { Ok(()) }
        })
    });
    harness::main(
        accepted
            .chain(objects)
            .chain([large, large_object, nets6])
            .chain(refused)
            .chain(code_refused)
            .collect(),
    )
    .exit_code()
}

fn generated(config: Config) -> impl Iterator<Item = Made> {
    (1..=POLICIES).filter_map(move |seed| Made::of_policy(&generate::policy(seed), config))
}

/// Whether every group has several classes on both sides, so that nothing in its programs is for nothing.
fn sorts_ends(compiled: &Compiled) -> bool {
    let Decided::Tables(tabled) = &compiled.decided else { return false };
    let sorts = |of: &Pairs| match of {
        Pairs::Matrix { sources, destinations, .. } => *sources > 0 && *destinations > 0,
        Pairs::Rows { .. } => true,
    };
    tabled.layout.groups.iter().all(sorts)
}

/// So many addresses that a matrix does not hold them.
fn large_policy() -> Result<Policy, Failed> {
    let mut r = Random::new(1);
    let mut text = String::from("policy pairs {\n");
    for _ in 0..1_200 {
        let [a, b, c, d] = [(); 4].map(|()| r.below(200));
        let action = if r.chance(10) { "deny" } else { "allow" };
        let port = 80 + r.below(5);
        text += &format!("    {action} 10.0.{}.{b} -> 10.1.{}.{d} on tcp/{port}\n", a % 4, c % 4);
    }
    text += "}\n";
    let analysis = analyze(package::sources("large", &text));
    analysis.policy.ok_or_else(|| "the policy does not check".into())
}

/// `None` if the policy does not fit.
fn object(policy: &Policy, tables: Config) -> Result<Option<Compiled>, Failed> {
    let config =
        decided::Config { shape: Some(Shape::Tables), tables, ..decided::Config::default() };
    let compiled = match pipeline::compile(policy, &Sources::default(), "generated", config) {
        Err(CompileError::Limit(LimitError::Bits { .. })) => return Ok(None),
        other => other?,
    };
    check(&compiled.decided, &compiled.object)
        .map_err(|error| format!("{error}\n{}", compiled.decided.rules().text()))?;
    Ok(Some(compiled))
}

fn accept(made: &Made) -> Result<(), Failed> {
    made.check().map_err(|error| format!("{error}\n{}", made.rules.text()).into())
}
