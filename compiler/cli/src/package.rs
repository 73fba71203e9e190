//! Reads a package: its `seg.toml` and every `.seg` file below it; or one file and what it imports.

use seg_artifact::manifest::is_hidden;
use seg_lang::ast::Kind;
use seg_lang::lex::SOURCE_BYTES_MAX;
use seg_lang::source::{FileId, Sources};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Name of the file that makes a directory a package.
pub const MANIFEST: &str = "seg.toml";
/// Directory nesting below a package that is searched for sources.
const DEPTH_MAX: usize = 32;

/// A package read from disk.
#[derive(Debug)]
pub struct Package {
    /// The name of `seg.toml`, or the file's stem.
    pub name: String,
    /// The texts, by path.
    pub sources: Sources,
}

/// Why a package could not be read: wrong use rather than a finding.
#[derive(Debug)]
pub struct LoadError(pub String);

/// `seg.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    edition: String,
}

/// Reads the package at a path: a directory with `seg.toml`, one `.seg` file, or `-` for standard input.
///
/// # Errors
/// [`LoadError`] with a message for the user.
pub fn load(path: &Path) -> Result<Package, LoadError> {
    if path == Path::new("-") {
        let bytes = bounded(io::stdin(), SOURCE_BYTES_MAX)
            .map_err(|e| LoadError(format!("standard input: {e}")))?;
        let text = utf8(bytes, "standard input")?;
        let mut files = BTreeSet::from([("stdin.seg".to_owned(), text)]);
        follow_imports(Path::new("."), &mut files)?;
        return Ok(Package { name: "stdin".to_owned(), sources: sources(files)? });
    }
    let kind = path.metadata().map_err(|e| LoadError(format!("{}: {e}", path.display())))?;
    if kind.is_dir() { load_directory(path) } else { load_file(path) }
}

fn load_directory(root: &Path) -> Result<Package, LoadError> {
    let manifest_path = root.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest_path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError(format!(
            "{} is no package: it has no `{MANIFEST}`; `segc new DIR` makes one, and a single file can be named itself",
            root.display()
        )),
        _ => LoadError(format!("{}: {error}", manifest_path.display())),
    })?;
    let manifest: Manifest = toml::from_str(&text)
        .map_err(|e| LoadError(format!("{}: {e}", manifest_path.display())))?;
    if manifest.edition != seg_artifact::version::EDITION {
        return Err(LoadError(format!(
            "{}: this segc reads edition \"{}\", not \"{}\"",
            manifest_path.display(),
            seg_artifact::version::EDITION,
            manifest.edition
        )));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if manifest.name.is_empty() || !manifest.name.chars().all(word) {
        return Err(LoadError(format!(
            "{}: a package's name consists of ASCII letters, digits, `-`, `_` and `.`, unlike {:?}",
            manifest_path.display(),
            manifest.name
        )));
    }
    let mut files = BTreeSet::new();
    collect(root, "", 0, &mut files)?;
    if files.is_empty() {
        return Err(LoadError(format!("{}: the package has no `.seg` file", root.display())));
    }
    Ok(Package { name: manifest.name, sources: sources(files)? })
}

fn load_file(path: &Path) -> Result<Package, LoadError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Inside a package a file's imports count from the package's root.
    let inside = parent.canonicalize().ok();
    let root = inside.as_deref().and_then(|p| p.ancestors().find(|a| a.join(MANIFEST).is_file()));
    let root = root.map_or_else(|| parent.to_path_buf(), Path::to_path_buf);
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let relative = absolute.strip_prefix(&root).ok().or_else(|| path.strip_prefix(&root).ok());
    let name = relative.unwrap_or(path).to_string_lossy().replace('\\', "/");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut files = BTreeSet::from([(name, read(path)?)]);
    follow_imports(&root, &mut files)?;
    Ok(Package { name: stem, sources: sources(files)? })
}

/// Adds the files that imports name, until nothing new is named. What is not found is the checker's to report.
fn follow_imports(root: &Path, files: &mut BTreeSet<(String, String)>) -> Result<(), LoadError> {
    let mut queue: Vec<String> = files.iter().map(|(_, text)| text.clone()).collect();
    while let Some(text) = queue.pop() {
        let (tree, _) = seg_lang::parse::parse(FileId(0), &text);
        for item in &tree.items {
            let Kind::Import { path, .. } = &item.kind else { continue };
            let parts: Vec<&str> = path.parts.iter().map(|p| p.value.as_str()).collect();
            // The last part may be a name in the module before it.
            for n in [parts.len(), parts.len().saturating_sub(1)] {
                let name = format!("{}.seg", parts.get(..n).unwrap_or_default().join("/"));
                let file = root.join(&name);
                if n == 0 || !file.is_file() || files.iter().any(|(known, _)| *known == name) {
                    continue;
                }
                let text = read(&file)?;
                queue.push(text.clone());
                files.insert((name, text));
            }
        }
    }
    Ok(())
}

fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeSet<(String, String)>,
) -> Result<(), LoadError> {
    let context = |error: io::Error| LoadError(format!("{}: {error}", folder.display()));
    if depth > DEPTH_MAX {
        return Err(LoadError(format!(
            "{}: more than {DEPTH_MAX} directories deep",
            folder.display()
        )));
    }
    for entry in std::fs::read_dir(folder).map_err(context)? {
        let entry = entry.map_err(context)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            // A package inside a package is its own.
            if !path.join(MANIFEST).is_file() {
                collect(&path, &format!("{prefix}{name}/"), depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "seg") {
            files.insert((format!("{prefix}{name}"), read(&path)?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, LoadError> {
    let bytes = read_bytes(path, SOURCE_BYTES_MAX)
        .map_err(|e| LoadError(format!("{}: {e}", path.display())))?;
    utf8(bytes, &path.display().to_string())
}

/// Reads a file up to one byte more than the most that is taken, so that devices and logs end and are refused for their size.
pub(crate) fn read_bytes(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    bounded(std::fs::File::open(path)?, most)
}

fn bounded(from: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String, LoadError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
        LoadError(format!("{name}:{line}: not UTF-8 (byte {at}); save the file as UTF-8"))
    })
}

/// Paths are shown and go into objects; none may speak to a terminal.
fn sources(files: BTreeSet<(String, String)>) -> Result<Sources, LoadError> {
    let mut sources = Sources::default();
    for (path, text) in files {
        if path.contains(is_hidden) {
            return Err(LoadError(format!("{path:?}: a control character in the name of a file")));
        }
        sources.add(path, text);
    }
    Ok(sources)
}

/// Makes a new package.
///
/// # Errors
/// [`LoadError`] if the directory exists and is not empty, or cannot be written.
pub fn create(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let context = |error: io::Error| LoadError(format!("{}: {error}", directory.display()));
    if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(LoadError(format!("{} exists and is not empty", directory.display())));
    }
    std::fs::create_dir_all(directory).map_err(context)?;
    let full = directory.canonicalize().map_err(context)?;
    let stem = full.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "policy-");
    }
    let name = name.trim_end_matches('-');
    let files = [
        (
            MANIFEST,
            format!("name = \"{name}\"\nedition = \"{}\"\n", seg_artifact::version::EDITION),
        ),
        ("policy.seg", include_str!("new/policy.seg").to_owned()),
        ("endpoints.toml", include_str!("new/endpoints.toml").to_owned()),
    ];
    files
        .into_iter()
        .map(|(file, text)| {
            let path = directory.join(file);
            std::fs::write(&path, text).map_err(context)?;
            Ok(path)
        })
        .collect()
}
