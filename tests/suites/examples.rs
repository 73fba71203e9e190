//! Every example: its README's console blocks print what they say, in a copy, so that nothing is written to the tree.

use libtest_mimic::{Failed, Trial};
use seg_tests::{harness, tools};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let folder = harness::root().join("examples");
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        trials.push(Trial::test(name, move || readme(&path)));
    }
    trials.push(Trial::test("README", || {
        let empty = tempfile::tempdir()?;
        page(&harness::root().join("README.md"), empty.path())
    }));
    assert!(trials.len() > 3, "no examples in {}", folder.display());
    harness::main(trials).exit_code()
}

fn readme(example: &Path) -> Result<(), Failed> {
    let copy = tempfile::tempdir()?;
    tools::copy_folder(example, copy.path())?;
    page(&example.join("README.md"), copy.path())
}

fn page(page: &Path, folder: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(page).map_err(|e| format!("{}: {e}", page.display()))?;
    let n_commands = tools::transcript(&text, folder)?;
    if n_commands == 0 { Err(format!("{} runs nothing", page.display()).into()) } else { Ok(()) }
}
