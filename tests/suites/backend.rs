//! CLIF to BPF: text cases, the size of a tree, and agreement of the kernel with native code.

#[path = "backend/fuzz.rs"]
mod fuzz;
#[path = "backend/kernel.rs"]
mod kernel;
#[path = "backend/native.rs"]
mod native;
#[path = "backend/objects.rs"]
mod objects;
#[path = "backend/tree.rs"]
mod tree;

use libtest_mimic::Trial;
use seg_compiler::lower::lower;
use seg_tests::harness::{self, Case};

fn main() {
    let mut trials = harness::cases("clif", "clif", disassemble);
    trials.push(Trial::test(
        "a_large_tree_lowers_to_few_instructions",
        tree::a_large_tree_lowers_to_few_instructions,
    ));
    trials.push(harness::kernel(
        "random_functions_agree_with_native_code",
        fuzz::random_functions_agree,
    ));
    trials.push(harness::kernel(
        "a_tree_beyond_short_jumps_agrees_with_native_code",
        tree::a_tree_beyond_short_jumps_agrees_with_native_code,
    ));
    trials.extend(objects::trials());
    harness::main(trials).exit();
}

/// The program a CLIF function lowers to, or why it does not; only what lies in a folder `refused` is refused.
fn disassemble(case: &Case) -> Result<String, String> {
    let functions =
        cranelift_reader::parse_functions(&case.text).map_err(|error| error.to_string())?;
    let mut output = String::new();
    for func in &functions {
        let lowered = lower(func, func.name.to_string().trim_start_matches('%'));
        if lowered.is_err() != case.name.contains("/refused/") {
            return Err(format!("{lowered:?}"));
        }
        output += &lowered.map_or_else(|error| format!("{error}\n"), |program| program.to_string());
    }
    Ok(output)
}
