//! `cargo demo [EXAMPLE…]`: the examples on real packets; exits 1 on any difference between policy and observation.

use seg_tests::{demo, harness};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(reason) = harness::missing_privilege() {
        eprintln!("cargo demo {reason}; run it as root (`sudo -E cargo demo`)");
        return ExitCode::from(2);
    }
    let folder = harness::root().join("examples");
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let found = entries.filter(|e| e.path().join("flows.txt").is_file());
        names = found.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
    }
    if let Some(unknown) = names.iter().find(|name| !folder.join(name).join("flows.txt").is_file())
    {
        eprintln!(
            "usage: cargo demo [EXAMPLE…]; there is no example `{unknown}` with a flows.txt in {}",
            folder.display()
        );
        return ExitCode::from(2);
    }
    let (mut n_flows, mut n_different) = (0, 0);
    for name in &names {
        match demo::run(&folder.join(name)) {
            Ok(rows) => {
                println!("{}", demo::table(name, &rows));
                n_flows += rows.len();
                n_different += rows.iter().filter(|row| !row.agrees()).count();
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::from(1);
            }
        }
    }
    println!("{n_flows} flows on real packets, {n_different} different from the policy");
    ExitCode::from(u8::from(n_different > 0 || n_flows == 0))
}
