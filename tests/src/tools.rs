//! The built binaries, and console transcripts run against them.

use crate::harness::root;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Folder that holds `segc` and `segd`, built on first use.
///
/// # Panics
/// If they do not build.
pub fn binaries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // This executable lies in `<target>/<profile>/` or, as a test, in its `deps/`.
        let own = std::env::current_exe().expect("a path of this executable");
        let mut folder = own.parent().expect("a folder of this executable");
        if folder.ends_with("deps") {
            folder = folder.parent().expect("a folder of the profile");
        }
        let profile = if folder.ends_with("release") { "release" } else { "dev" };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // The whole workspace, so that dependencies have the features they have in `cargo test`, and are built once.
        build.args(["build", "--quiet", "--profile", profile, "--workspace", "--bins"]);
        let status = build.current_dir(root()).status().expect("cargo runs");
        assert!(status.success(), "segc and segd do not build");
        assert!(folder.join("segc").is_file(), "segc is not in {}", folder.display());
        folder.to_path_buf()
    })
}

/// Copies a folder with all below it.
///
/// # Errors
/// What the system says.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Runs every ```` ```console ```` block of a page in `folder`: lines that begin with `$ ` are commands, what follows is what they print.
///
/// A line `...` in the expected output stands for any lines. Standard error is part of the output.
///
/// # Errors
/// The first command whose output differs, with both texts.
pub fn transcript(page: &str, folder: &Path) -> Result<usize, String> {
    let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default());
    let mut n_commands = 0;
    for block in console_blocks(page) {
        for (command, expected) in commands(&block) {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("exec 2>&1\n{command}")])
                .current_dir(folder)
                .env("PATH", &path);
            let output = shell.output().map_err(|e| format!("sh: {e}"))?;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if !matches(&expected, &printed) {
                return Err(format!("$ {command}\n--- expected\n{expected}--- printed\n{printed}"));
            }
            n_commands += 1;
        }
    }
    Ok(n_commands)
}

fn console_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```console") => open = Some(String::new()),
            (None, _) => {}
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), _) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    blocks
}

fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else if let Some((_, expected)) = commands.last_mut() {
            expected.push_str(line);
            expected.push('\n');
        }
    }
    commands
}

/// Whether the text fits, `...` standing for any number of lines.
fn matches(expected: &str, printed: &str) -> bool {
    fn fits(expected: &[&str], printed: &[&str]) -> bool {
        match expected.split_first() {
            None => printed.is_empty(),
            Some((&"...", rest)) => (0..=printed.len()).any(|n| fits(rest, &printed[n..])),
            Some((line, rest)) => printed.first() == Some(line) && fits(rest, &printed[1..]),
        }
    }
    fits(&expected.lines().collect::<Vec<_>>(), &printed.lines().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{commands, console_blocks, matches};

    #[test]
    fn blocks_and_commands_are_found() {
        let page = "text\n```console\n$ a\none\n$ b\n```\n```seg\n$ no\n```\n";
        let found: Vec<_> = console_blocks(page).iter().flat_map(|b| commands(b)).collect();
        assert_eq!(found, [("a".to_owned(), "one\n".to_owned()), ("b".to_owned(), String::new())]);
    }

    #[test]
    fn dots_stand_for_any_lines() {
        assert!(matches("a\n...\nd\n", "a\nb\nc\nd\n"));
        assert!(matches("...\n", ""));
        assert!(!matches("a\n...\nd\n", "a\nb\n"));
        assert!(!matches("a\n", "a\nb\n"));
    }
}
