//! Canonical rules: the text form of each case in `tests/data/rules`, and what enters a tier's digest.

use libtest_mimic::{Failed, Trial};
use seg_artifact::manifest::Digests;
use seg_compiler::normalize::{normalize, rule_labels};
use seg_compiler::rules::Rules;
use seg_lang::analyze::analyze;
use seg_lang::render::brief;
use seg_tests::harness;
use seg_tests::package;

fn main() {
    let mut trials =
        harness::cases("rules", "seg", |case| Ok(rules(&case.name, &case.text)?.text()));
    trials.extend([
        Trial::test("places_and_order_do_not_change_a_digest", order),
        Trial::test("a_rule_changes_the_digest_of_its_tier_only", tiers),
        Trial::test("values_other_rules_mention_do_not_change_a_digest", values),
    ]);
    harness::main(trials).exit()
}

const BASE: &str = "
    label env = { prod, dev }
    label app
    guard one { deny env:prod -> env:dev on tcp/22; deny app:* except app:shop -> self }
    policy two { allow any -> app:shop on tcp/443; isolate app:shop }
";

fn order() -> Result<(), Failed> {
    let moved = "
        # the same rules, elsewhere
        label app
        label env = { dev, prod }
        policy two { isolate app:shop; allow any -> app:shop on tcp/443 }
        guard one { deny app:* except app:shop -> self; deny env:prod -> env:dev on tcp/22 }
    ";
    equal(&digests(BASE)?, &digests(moved)?)
}

fn tiers() -> Result<(), Failed> {
    let before = digests(BASE)?;
    let after = digests(&format!("{BASE}\nbaseline three {{ allow app:crm -> app:shop }}"))?;
    if before.baseline == after.baseline {
        return Err("a new rule leaves the digest of its tier".into());
    }
    equal(&before, &Digests { baseline: before.baseline.clone(), ..after })
}

fn values() -> Result<(), Failed> {
    let before = digests(BASE)?;
    let after = digests(&format!("{BASE}\npolicy four {{ allow app:aaa -> app:zzz }}"))?;
    equal(&before, &Digests { policy: before.policy.clone(), ..after })
}

fn equal(one: &Digests, other: &Digests) -> Result<(), Failed> {
    if one == other { Ok(()) } else { Err(format!("{one:?}\n{other:?}").into()) }
}

fn digests(text: &str) -> Result<Digests, String> {
    Ok(rules("text", text)?.digests())
}

fn rules(name: &str, text: &str) -> Result<Rules, String> {
    let analysis = analyze(package::sources(name, text));
    match &analysis.policy {
        Some(policy) => Ok(normalize(policy, rule_labels(policy))),
        None => Err(brief(&analysis.diagnostics, &analysis.sources)),
    }
}
