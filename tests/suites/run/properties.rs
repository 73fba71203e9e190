//! Properties of the meaning, over generated policies (spec.md, "What follows").

use libtest_mimic::{Failed, Trial};
use seg_lang::analyze::{Config, analyze_as};
use seg_lang::ast::Tier;
use seg_lang::eval::{Decision, Endpoint, Flow, Verdict, block_verdict, decide, rule_matches};
use seg_lang::policy::{BlockId, LabelId, Policy, RuleKind};
use seg_lang::source::Sources;
use seg_tests::random::Random;
use std::collections::BTreeMap;

const N_POLICIES: u64 = 100;
const N_FLOWS: u64 = 100;

/// One trial for each property.
pub(crate) fn trials() -> Vec<Trial> {
    let property = |name: &str, check: Property| {
        Trial::test(name.to_owned(), move || (0..N_POLICIES).try_for_each(|seed| over(seed, check)))
    };
    vec![
        property("the_order_of_rules_and_blocks_changes_nothing", order_free),
        property("stating_a_block_twice_changes_nothing", idempotent),
        property("a_rogue_allow_opens_no_isolated_set", locally_complete),
        property("two_isolating_blocks_must_both_allow", consent),
        property("a_lower_tier_changes_no_decision_of_a_higher_one", monotone),
        property("a_tier_is_the_join_of_its_blocks", join),
        Trial::test("what_expires_only_narrows", expiry),
    ]
}

/// Given a policy and the source of randomness: another package, and what must hold between the two on one flow.
type Property = fn(&Draft, &mut Random) -> (Draft, Holds);
type Holds = fn(&Policy, &Policy, &Flow) -> bool;

fn over(seed: u64, property: Property) -> Result<(), Failed> {
    let mut random = Random::new(seed);
    let draft = Draft::random(&mut random);
    let (changed, holds) = property(&draft, &mut random);
    let (before, after) = (draft.policy()?, changed.policy()?);
    for _ in 0..N_FLOWS {
        let flow = flow(&mut random);
        if !holds(&before, &after, &flow) {
            let (draft, changed) = (draft.text(), changed.text());
            return Err(format!("seed {seed}: {flow:?}\n{draft}\n--- changed\n{changed}").into());
        }
    }
    Ok(())
}

fn order_free(draft: &Draft, random: &mut Random) -> (Draft, Holds) {
    let mut changed = draft.clone();
    random.shuffle(&mut changed.blocks);
    changed.blocks.iter_mut().for_each(|b| random.shuffle(&mut b.rules));
    (changed, |a, b, flow| outcome(a, flow) == outcome(b, flow))
}

fn idempotent(draft: &Draft, _: &mut Random) -> (Draft, Holds) {
    let mut changed = draft.clone();
    changed.blocks.extend(draft.blocks.clone());
    (changed, |a, b, flow| outcome(a, flow) == outcome(b, flow))
}

fn locally_complete(draft: &Draft, _: &mut Random) -> (Draft, Holds) {
    let mut changed = draft.clone();
    let rules = vec!["allow any -> any".to_owned()];
    changed.blocks.push(Block { tier: "policy", rules });
    let holds: Holds = |before, after, flow| {
        let isolated = isolating_blocks(before, Tier::Policy, flow);
        isolated.is_empty() || outcome(before, flow) == outcome(after, flow)
    };
    (changed, holds)
}

fn consent(draft: &Draft, _: &mut Random) -> (Draft, Holds) {
    let holds: Holds = |policy, _, flow| {
        let decision = decide(policy, flow);
        let allowed = decision.tier == Some(Tier::Policy) && decision.verdict == Verdict::Allow;
        let says_yes =
            |block| block_verdict(policy, block, flow).is_some_and(|(v, _)| v == Verdict::Allow);
        !allowed || isolating_blocks(policy, Tier::Policy, flow).into_iter().all(says_yes)
    };
    (draft.clone(), holds)
}

fn monotone(draft: &Draft, random: &mut Random) -> (Draft, Holds) {
    let mut changed = draft.clone();
    let tier = *random.pick(&["policy", "baseline"]);
    changed.blocks.push(Block { tier, rules: rules(random) });
    let holds: Holds = |before, after, flow| {
        let added = after.blocks.last().map(|b| b.tier);
        let decision = decide(before, flow);
        decision.tier.is_none_or(|t| Some(t) >= added)
            || outcome(before, flow) == outcome(after, flow)
    };
    (changed, holds)
}

fn join(draft: &Draft, _: &mut Random) -> (Draft, Holds) {
    let holds: Holds = |policy, _, flow| {
        let strongest = |tier| {
            let blocks = (0u32..).map(BlockId).zip(&policy.blocks).filter(|(_, b)| b.tier == tier);
            blocks.filter_map(|(id, _)| block_verdict(policy, id, flow)).map(|(v, _)| v).max()
        };
        let expected = [Tier::Guard, Tier::Policy, Tier::Baseline].into_iter().find_map(strongest);
        outcome(policy, flow) == expected.unwrap_or(Verdict::Deny)
    };
    (draft.clone(), holds)
}

/// Dates on some allows and on some exemptions of denies: the later the day, the less is allowed.
fn expiry() -> Result<(), Failed> {
    let mut n_narrowed = 0;
    for seed in 0..N_POLICIES {
        let mut random = Random::new(seed);
        let mut draft = Draft::random(&mut random);
        for rule in draft.blocks.iter_mut().flat_map(|block| &mut block.rules) {
            let date = format!("@expires(202{}-06-30) ", random.below(4));
            *rule = match rule.split_once("unless { ") {
                Some((deny, exempt)) if rule.starts_with("deny") => {
                    format!("{deny}unless {{ {date}{exempt}")
                }
                Some(_) | None if rule.starts_with("allow") => format!("{date}{rule}"),
                Some(_) | None => continue,
            };
        }
        let days = ["2020-01-01", "2021-01-01", "2022-01-01", "2023-01-01", "2024-01-01"];
        let policies = days.map(|day| draft.policy_of(Some(day)));
        let policies = policies.into_iter().collect::<Result<Vec<_>, _>>()?;
        for _ in 0..N_FLOWS {
            let flow = flow(&mut random);
            let verdicts: Vec<_> = policies.iter().map(|p| outcome(p, &flow)).collect();
            // `Allow` sorts before `Deny`.
            if !verdicts.is_sorted() {
                return Err(format!("seed {seed}: {flow:?} {verdicts:?}\n{}", draft.text()).into());
            }
            n_narrowed += usize::from(verdicts.first() != verdicts.last());
        }
    }
    if n_narrowed < 500 { Err(format!("only {n_narrowed} flows narrowed").into()) } else { Ok(()) }
}

fn outcome(policy: &Policy, flow: &Flow) -> Verdict {
    let Decision { verdict, .. } = decide(policy, flow);
    verdict
}

fn isolating_blocks(policy: &Policy, tier: Tier, flow: &Flow) -> Vec<BlockId> {
    let isolates = policy.rules.iter().filter(|rule| {
        let block = &policy.blocks[rule.block.0 as usize];
        block.tier == tier
            && matches!(rule.kind, RuleKind::Isolate { .. })
            && rule_matches(policy, rule, flow)
    });
    isolates.map(|rule| rule.block).collect()
}

/// A package before it is written down.
#[derive(Clone)]
struct Draft {
    blocks: Vec<Block>,
}

#[derive(Clone)]
struct Block {
    tier: &'static str,
    rules: Vec<String>,
}

impl Draft {
    fn random(random: &mut Random) -> Self {
        let n_blocks = 2 + random.below(4);
        let block = |random: &mut Random| {
            let tier = *random.pick(&["guard", "policy", "policy", "policy", "baseline"]);
            Block { tier, rules: rules(random) }
        };
        Self { blocks: (0..n_blocks).map(|_| block(random)).collect() }
    }

    fn text(&self) -> String {
        let mut text =
            "label env = { prod, dev }\nlabel app\nnet near = { 10.0.0.0/8, fd00::/8 }\n"
                .to_owned();
        for (n, block) in self.blocks.iter().enumerate() {
            let rules: String = block.rules.iter().map(|r| format!("    {r}\n")).collect();
            text.push_str(&format!("{} b{n} {{\n{rules}}}\n", block.tier));
        }
        text
    }

    fn policy(&self) -> Result<Policy, Failed> {
        self.policy_of(None)
    }

    fn policy_of(&self, as_of: Option<&str>) -> Result<Policy, Failed> {
        let mut sources = Sources::default();
        sources.add("generated.seg", self.text());
        let config = Config { as_of: as_of.map(str::to_owned), ..Config::default() };
        let analysis = analyze_as(sources, &config);
        let wrong = format!("{:#?}\n{}", analysis.diagnostics, self.text());
        analysis.policy.ok_or(Failed::from(wrong))
    }
}

fn rules(random: &mut Random) -> Vec<String> {
    (0..1 + random.below(4)).map(|_| rule(random)).collect()
}

fn rule(random: &mut Random) -> String {
    if random.below(4) == 0 {
        let direction = *random.pick(&["", " inbound", " outbound"]);
        return format!("isolate {}{direction}", set(random));
    }
    let action = *random.pick(&["allow", "allow", "deny"]);
    let when = *random.pick(&["", "", " when same env", " when same env, app"]);
    let unless = match random.below(4) {
        0 => " unless same app".to_owned(),
        1 => format!(" unless {{ {}; same env }}", pair(random)),
        _ => String::new(),
    };
    format!("{action} {}{when}{unless}", pair(random))
}

fn pair(random: &mut Random) -> String {
    let arrow = *random.pick(&["->", "->", "<->"]);
    let on = *random.pick(&[
        "",
        " on tcp",
        " on tcp/80",
        " on { tcp/1-99, udp }",
        " on icmp/echo-request",
        " on proto/47",
        " on any except tcp",
        " on { tcp, udp } & sport(1-1023)",
        " on icmp except icmp/3/4",
    ]);
    format!("{} {arrow} {}{on}", set(random), set(random))
}

fn set(random: &mut Random) -> String {
    let atom = |random: &mut Random| {
        *random.pick(&[
            "any",
            "self",
            "managed",
            "unmanaged",
            "env:prod",
            "env:*",
            "app:a",
            "app:{ a, b }",
            "near",
            "10.0.0.0/9",
            "fd00::/16",
            "192.0.2.1-192.0.2.9",
        ])
    };
    match random.below(4) {
        0 => format!("{{ {}, {} }}", atom(random), atom(random)),
        1 => format!("near & {}", *random.pick(&["env:dev", "app:*", "self", "unmanaged"])),
        2 => format!("any except {}", *random.pick(&["self", "near", "env:*", "unmanaged"])),
        _ => atom(random).to_owned(),
    }
}

fn flow(random: &mut Random) -> Flow {
    let (protocol, port, source_port) = *random.pick(&[
        (6, 80, 50_000),
        (6, 99, 50_000),
        (6, 100, 53),
        (17, 53, 53),
        (1, 8, 0),
        (1, 3, 4),
        (1, 3, 3),
        (1, 0, 0),
        (58, 8, 0),
        (47, 0, 0),
    ]);
    let (source, destination) = (endpoint(random), endpoint(random));
    Flow { source, destination, protocol, port, source_port, http: None }
}

fn endpoint(random: &mut Random) -> Endpoint {
    let address = *random.pick(&[
        "10.0.0.1",
        "10.128.0.1",
        "192.0.2.1",
        "192.0.2.10",
        "fd00::1",
        "fdff::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
    ]);
    let address = address.parse().expect("the list holds addresses");
    let mut endpoint = Endpoint::at(address);
    if random.below(4) > 0 {
        // Dimensions are numbered by name: app, env.
        let mut labels = BTreeMap::new();
        let values: [(u32, &[&str]); 2] = [(0, &["", "a", "b", "z"]), (1, &["", "prod", "dev"])];
        for (id, values) in values {
            let value = *random.pick(values);
            if !value.is_empty() {
                labels.insert(LabelId(id), value.to_owned());
            }
        }
        endpoint.labels = Some(labels);
        endpoint.is_self = random.below(4) == 0;
    }
    endpoint
}
