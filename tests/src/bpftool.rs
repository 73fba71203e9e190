//! bpftool as an independent loader of objects.

use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// Loads every program of an object with its maps, and what the kernel made of the named ones, source lines included.
///
/// # Errors
/// What bpftool says; no pin stays in any case.
pub fn load_and_dump(object: &Path, programs: &[&str]) -> Result<String, Failed> {
    let pins = load(object)?;
    let mut dumps = String::new();
    for program in programs {
        let pin = pins.0.join(program);
        let words = ["prog", "dump", "xlated", "pinned"].map(Path::new);
        dumps += &bpftool(&[&words[..], &[&pin, "linum".as_ref()]].concat())?;
    }
    Ok(dumps)
}

/// Loads an object and runs one of its programs on a frame; the result is what it returns.
///
/// # Errors
/// As [`load_and_dump`].
pub fn load_and_run(object: &Path, program: &str, frame: &[u8]) -> Result<u32, Failed> {
    let pins = load(object)?;
    let folder = tempfile::tempdir()?;
    let (pin, data) = (pins.0.join(program), folder.path().join("frame"));
    std::fs::write(&data, frame)?;
    let words = ["prog", "run", "pinned"].map(Path::new);
    let said = bpftool(&[&words[..], &[&pin, "data_in".as_ref(), &data]].concat())?;
    let number = said.split("Return value: ").nth(1).and_then(|rest| rest.split(',').next());
    Ok(number.ok_or_else(|| said.clone())?.parse()?)
}

fn load(object: &Path) -> Result<Pins, Failed> {
    let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let pins = Pins(PathBuf::from(format!("/sys/fs/bpf/seg-test-{}-{n}", std::process::id())));
    bpftool(&["prog".as_ref(), "loadall".as_ref(), object, &pins.0])?;
    Ok(pins)
}

/// A folder of pins, removed in the end whatever happens.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // What cannot be removed was never made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bpftool(arguments: &[&Path]) -> Result<String, Failed> {
    let output = Command::new("bpftool").args(arguments).output()?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(format!("bpftool {arguments:?}: {log}").into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
