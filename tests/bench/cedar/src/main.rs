//! Parses and validates Cedar policies: as many as a package of the language bench has rules, of the same content.
//!
//! `cargo run --release --manifest-path tests/bench/cedar/Cargo.toml [-- RULES…]`

use cedar_policy::{PolicySet, Schema, ValidationMode, Validator};
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

/// Rules of the packages of 1,000, 10,000 and 100,000 lines that the language bench makes.
const RULES: [usize; 3] = [199, 1_999, 19_999];

const RUNS: usize = 5;

const SCHEMA: &str = r#"
entity Endpoint = { app?: String, env?: String, role?: String, zone?: String, managed: Bool };
action connect appliesTo {
    principal: Endpoint,
    resource: Endpoint,
    context: { protocol: String, port: Long },
};
"#;

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|n| n.parse().ok()).collect();
    let sizes = if asked.is_empty() { RULES.to_vec() } else { asked };
    println!("{RUNS} runs, one thread; medians of CPU time");
    println!(
        "{:>8} {:>8} {:>8} {:>10} {:>12}",
        "policies", "lines", "MB", "parse ms", "validate ms"
    );
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("the schema is correct");
    let validator = Validator::new(schema);
    for n_rules in sizes {
        let text = policies(n_rules);
        let (mut parse, mut validate) = (vec![], vec![]);
        for _ in 0..RUNS {
            let start = cpu();
            let set: PolicySet = text.parse().expect("the policies parse");
            parse.push(cpu() - start);
            let start = cpu();
            let result = validator.validate(&set, ValidationMode::Strict);
            validate.push(cpu() - start);
            assert!(result.validation_passed(), "{result}");
            black_box((set, result));
        }
        println!(
            "{n_rules:8} {:8} {:8.2} {:10.1} {:12.1}",
            text.lines().count(),
            text.len() as f64 / 1e6,
            median(parse),
            median(validate)
        );
    }
}

/// The rules of applications in turn: tiers that speak to each other, metrics, operators.
fn policies(n_rules: usize) -> String {
    let mut text = String::new();
    for rule in 0..n_rules {
        let (app, kind) = (rule / 11, rule % 11);
        let body = match kind {
            0 => format!(
                "!principal.managed && resource has app && resource.app == \"app-{app}\" && resource has role && resource.role == \"web\" && context.port == 443"
            ),
            1..=4 => format!(
                "principal has app && principal.app == \"app-{app}\" && principal has role && principal.role == \"api\" &&\n    resource has app && resource.app == \"app-{app}\" && resource has role && [\"db\", \"cache\"].contains(resource.role) &&\n    principal has env && resource has env && principal.env == resource.env &&\n    context.protocol == \"tcp\" && (context.port == 5432 || context.port == 6379)"
            ),
            5 | 6 => format!(
                "principal has app && principal.app == \"app-{app}\" && principal has role && principal.role == \"api\" &&\n    resource has app && resource.app == \"app-{}\" && resource has role && resource.role == \"api\" && context.port == 8443",
                app + kind
            ),
            7 => format!(
                "principal has app && principal.app == \"monitoring\" && resource has app && resource.app == \"app-{app}\" &&\n    resource has env && [\"prod\", \"staging\"].contains(resource.env) && context.port >= 9100 && context.port <= 9200"
            ),
            8 => format!(
                "principal has app && principal.app == \"app-{app}\" && resource has app && resource.app == \"logging\" && context.port == 6514"
            ),
            9 => format!(
                "principal has role && principal.role == \"bastion\" && resource has app && resource.app == \"app-{app}\" &&\n    resource has role && resource.role != \"db\" && context.protocol == \"tcp\" && context.port == 22"
            ),
            _ => format!(
                "principal has env && principal.env == \"dev\" && resource has app && resource.app == \"app-{app}\" && resource has env && resource.env == \"prod\""
            ),
        };
        let effect = if kind == 10 { "forbid" } else { "permit" };
        let _ = writeln!(
            text,
            "{effect} (principal, action == Action::\"connect\", resource)\nwhen {{\n    {body}\n}};"
        );
    }
    text
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
