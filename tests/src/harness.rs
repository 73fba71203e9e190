//! Data-driven suites: one file is one case and one reported result.
//!
//! A suite is a folder under `tests/data/`. A case `x.seg` has its expected output beside it in `x.expected`.
//! `BLESS=1` rewrites the expectations; read the difference before committing it.
//! The harness fails on an empty suite, an orphan expectation, a missing expectation, and an output that differs between two runs.

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The project root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// One case of a suite.
#[derive(Clone, Debug)]
pub struct Case {
    /// Path of the input below `tests/data/`, with `/` between parts and without its ending.
    pub name: String,
    /// The input file.
    pub path: PathBuf,
    /// Its text; bytes that are no UTF-8 become U+FFFD.
    pub text: String,
}

/// Trials for every `*.<ending>` below `tests/data/<suite>`: `run` maps a case to its output, which must equal `<case>.expected`.
///
/// `run` may also check the case itself and return `Err` with what is wrong.
pub fn cases<F>(suite: &str, ending: &str, run: F) -> Vec<Trial>
where
    F: Fn(&Case) -> Result<String, String> + Send + Sync + 'static,
{
    let data = root().join("tests/data");
    let mut files = Vec::new();
    collect(&data.join(suite), &mut files);
    files.sort();
    let run = Arc::new(run);
    let mut trials = Vec::new();
    for path in &files {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let relative = path.strip_prefix(&data).unwrap_or(path).with_extension("");
        let name = relative.to_string_lossy().replace('\\', "/");
        if extension == "expected" && !path.with_extension(ending).exists() {
            trials.push(failing(name.clone(), "an expectation without its case".to_owned()));
        }
        if extension == ending {
            let (path, run) = (path.clone(), Arc::clone(&run));
            let title = name.clone();
            trials.push(Trial::test(title, move || check(&name, &path, &*run)));
        }
    }
    if trials.is_empty() {
        trials.push(failing(suite.to_owned(), format!("no `*.{ending}` in tests/data/{suite}")));
    }
    trials
}

/// A trial that only runs as root with a kernel to talk to; elsewhere it is counted as ignored and says why.
pub fn kernel<F>(name: &str, run: F) -> Trial
where
    F: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    unless_missing(name, missing_privilege(), run)
}

/// A [`kernel`] trial that asks `bpftool` as well.
pub fn bpftool<F>(name: &str, run: F) -> Trial
where
    F: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    let found = Command::new("bpftool").arg("version").output().is_ok();
    let missing = (!found).then(|| "needs bpftool (`apt-get install bpftool`)".to_owned());
    unless_missing(name, missing_privilege().or(missing), run)
}

/// A trial that is counted as ignored, and says why, if something is missing; with `SEG_NO_SKIP` set it fails instead.
pub fn unless_missing<F>(name: &str, missing: Option<String>, run: F) -> Trial
where
    F: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    let Some(reason) = missing else { return Trial::test(name, run).with_kind("kernel") };
    if std::env::var_os("SEG_NO_SKIP").is_some() {
        return Trial::test(name, || Err(reason.into())).with_kind("kernel");
    }
    eprintln!("skipped {name}: {reason}");
    Trial::test(name, run).with_kind("kernel").with_ignored_flag(true)
}

/// Why kernel suites cannot run here, if they cannot.
pub fn missing_privilege() -> Option<String> {
    // SAFETY: geteuid takes nothing, fails never and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    (!root).then(|| "needs root to load BPF and make network namespaces".to_owned())
}

/// Runs trials as the test binary's `main`.
pub fn main(trials: Vec<Trial>) -> Conclusion {
    libtest_mimic::run(&Arguments::from_args(), trials)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

fn failing(name: String, message: String) -> Trial {
    Trial::test(name, move || Err(Failed::from(message)))
}

fn check(
    name: &str,
    path: &Path,
    run: &(dyn Fn(&Case) -> Result<String, String> + Send + Sync),
) -> Result<(), Failed> {
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let case = Case { name: name.to_owned(), path: path.to_path_buf(), text };
    let output = run(&case)?;
    if run(&case)? != output {
        return Err("two runs gave two outputs".into());
    }
    let expected_path = path.with_extension("expected");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&expected_path, &output)?;
        return Ok(());
    }
    let expected = std::fs::read_to_string(&expected_path)
        .map_err(|_| format!("no {}; BLESS=1 writes it", expected_path.display()))?;
    if expected == output {
        return Ok(());
    }
    Err(format!(
        "output differs from {}\n--- expected\n{expected}\n--- output\n{output}",
        expected_path.display()
    )
    .into())
}
