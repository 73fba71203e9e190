//! Rows as text and as JSON.

use seg_tests::bpf::Cost;
use seg_tests::measure::Spread;
use seg_tests::workload::trace::{Answers, Mode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    groups: Vec<Value>,
    /// Rows whose answers were not those of the rules.
    pub(crate) wrong: usize,
}

/// One contender.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) note: String,
    pub(crate) cost: Cost,
    /// Unit: bytes.
    pub(crate) memory: u64,
    pub(crate) times: BTreeMap<Mode, Result<Spread, Answers>>,
}

/// Contenders that decided the same packets.
pub(crate) struct Group {
    pub(crate) title: String,
    /// What belongs to all of them, such as the number of rules.
    pub(crate) facts: Vec<(&'static str, Value)>,
    pub(crate) rows: Vec<Row>,
    /// Contenders that did not come to be measured, and why.
    pub(crate) absent: Vec<(String, String)>,
}

impl Report {
    /// Prints a group and keeps it.
    pub(crate) fn add(&mut self, group: Group) {
        let facts = group.facts.iter().map(|(name, value)| match value {
            Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        });
        let facts: Vec<String> = facts.collect();
        println!("\n{}: {}", group.title, facts.join(", "));
        let modes: Vec<Mode> =
            group.rows.first().map(|row| row.times.keys().copied().collect()).unwrap_or_default();
        if !group.rows.is_empty() {
            print!("  {:41}", "ns above the baseline: least (median)");
            modes.iter().for_each(|mode| print!(" {:>15}", mode.name()));
            println!(
                " {:>7} {:>8} {:>8} {:>8} {:>9}",
                "insns", "verified", "jited B", "load ms", "maps KB"
            );
        }
        for row in &group.rows {
            print!("  {:41}", row.name);
            for times in row.times.values() {
                match times {
                    Ok(Spread { least, median, .. }) => {
                        print!(" {:>15}", format!("{least:.1} ({median:.1})"))
                    }
                    Err(_) => {
                        self.wrong += 1;
                        print!(" {:>15}", "WRONG");
                    }
                }
            }
            let Cost { insns, verified, jited, load } = row.cost;
            let (load, memory) = (load.as_secs_f64() * 1e3, row.memory >> 10);
            println!(" {insns:7} {verified:8} {jited:8} {load:8.1} {memory:9}  {}", row.note);
        }
        for (name, reason) in &group.absent {
            println!("  {name:41} absent: {reason}");
        }
        self.groups.push(group.json());
    }

    /// Keeps figures that are no group.
    pub(crate) fn keep(&mut self, value: Value) {
        self.groups.push(value);
    }

    /// Everything, and where it was measured.
    pub(crate) fn json(&self, n_rounds: usize) -> Value {
        let told = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
        };
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map(|text| text.trim_start_matches([' ', '\t', ':'])).unwrap_or_default();
        // Where the result goes is no part of what made it.
        let mut arguments: Vec<String> =
            std::env::args().skip(1).filter(|a| a != "--bench").collect();
        if let Some(at) = arguments.iter().position(|a| a == "--json") {
            arguments.drain(at..(at + 2).min(arguments.len()));
        }
        json!({
            "version": 1,
            "date": told("date", &["-u", "+%F"]),
            "machine": format!("{model}, {} CPUs", info.matches("processor\t").count()),
            "kernel": told("uname", &["-r"]),
            "command": format!("cargo bench -p seg-tests --bench classify -- {}", arguments.join(" ")),
            "rounds": n_rounds,
            "groups": self.groups,
        })
    }
}

impl Group {
    fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let absent = self.absent.iter();
        let absent: Vec<Value> =
            absent.map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        json!({ "title": self.title, "facts": facts, "rows": rows, "absent": absent })
    }
}

impl Row {
    fn json(&self) -> Value {
        let times: serde_json::Map<String, Value> = self
            .times
            .iter()
            .map(|(mode, times)| {
                let value = match times {
                    Ok(Spread { least, median, most }) => {
                        json!({ "least_ns": round(*least), "median_ns": round(*median), "most_ns": round(*most) })
                    }
                    Err(given) => json!({ "wrong": { "passed": given.passed, "places": given.places } }),
                };
                (mode.name().to_owned(), value)
            })
            .collect();
        json!({
            "name": self.name,
            "note": self.note,
            "times": times,
            "instructions": self.cost.insns,
            "verified_instructions": self.cost.verified,
            "machine_code_bytes": self.cost.jited,
            "load_ms": round(self.cost.load.as_secs_f64() * 1e3),
            "map_bytes": self.memory,
        })
    }
}

/// Two decimals: what lies behind them is noise.
pub(crate) fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
