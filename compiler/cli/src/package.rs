//! Reads a package: its `seg.toml`, every `.seg` file below it, and the packages it depends on; or one file and what it imports.

mod manifest;

use crate::files::Files;
pub use manifest::MANIFEST;
use manifest::Manifest;
use seg_artifact::manifest::is_hidden;
use seg_lang::analyze::Config;
use seg_lang::ast::Kind;
use seg_lang::lex::SOURCE_BYTES_MAX;
use seg_lang::packages::{self, Packages};
use seg_lang::source::{FileId, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Path of the source that is read from standard input.
pub const STDIN: &str = "stdin.seg";
/// Directory nesting below a package that is searched for sources.
const DEPTH_MAX: usize = 32;

/// A package read from disk.
#[derive(Debug)]
pub struct Package {
    /// The name of `seg.toml`, or the file's stem.
    pub name: String,
    /// The texts, by path; those of dependencies below the name of their package.
    pub sources: Sources,
    /// Where they lie.
    pub files: Files,
    /// What `seg.toml` says.
    pub config: Config,
}

/// Why a package could not be read: wrong use rather than a finding.
#[derive(Debug)]
pub struct LoadError(pub String);

/// Reads the package at a path: a directory with `seg.toml`, one `.seg` file, or `-` for standard input.
///
/// A file inside a package stands for that package: its other files decide what its rules mean.
///
/// # Errors
/// [`LoadError`] with a message for the user.
pub fn load(path: &Path) -> Result<Package, LoadError> {
    if path == Path::new("-") {
        let text = utf8(stdin()?, "standard input")?;
        let texts = BTreeMap::from([(STDIN.to_owned(), text)]);
        return load_texts("stdin".to_owned(), Path::new("."), texts, BTreeMap::new());
    }
    let kind = path.metadata().map_err(|e| LoadError(format!("{}: {e}", path.display())))?;
    if kind.is_dir() {
        return load_directory(path);
    }
    let Some(root) = root_of(path) else { return load_file(path) };
    let package = load_directory(&root)?;
    let file = path.canonicalize().ok();
    let named = path.file_name().is_some_and(|name| name == MANIFEST);
    if named || package.files.holds(file.as_deref()) {
        return Ok(package);
    }
    Err(LoadError(format!(
        "{}: the package {} does not hold this file: names that begin with `.` are passed over",
        path.display(),
        root.display()
    )))
}

/// The directory of the package a file belongs to.
pub fn root_of(file: &Path) -> Option<PathBuf> {
    let file = file.canonicalize().ok()?;
    file.ancestors().skip(1).find(|folder| folder.join(MANIFEST).is_file()).map(Path::to_path_buf)
}

fn load_directory(root: &Path) -> Result<Package, LoadError> {
    let manifest = Manifest::read(root)?;
    let mut build = Build::default();
    let package = build.add(root, &manifest, String::new())?;
    if build.texts.is_empty() {
        return Err(LoadError(format!("{}: the package has no `.seg` file", root.display())));
    }
    for package in &build.packages {
        if let Some(path) = build.own.iter().find(|path| path.starts_with(&package.prefix)) {
            return Err(LoadError(format!(
                "{}: `{path}` lies where the modules of the dependency `{}` are; rename the folder",
                root.display(),
                package.prefix.trim_end_matches('/')
            )));
        }
    }
    let packages = Packages { root: package, others: build.packages };
    let config = Config { packages, as_of: None };
    let own: BTreeSet<&String> =
        build.files.keys().filter(|path| !config.packages.is_foreign(path)).collect();
    let files = located(&build.files, |path| own.contains(path))?;
    let sources = sources(build.texts)?;
    Ok(Package { name: manifest.name.0, sources, files, config })
}

/// A package and those it depends on, as they are read.
#[derive(Default)]
struct Build {
    texts: BTreeMap<String, String>,
    files: BTreeMap<String, PathBuf>,
    /// The files of the package that is built.
    own: BTreeSet<String>,
    packages: Vec<packages::Package>,
    /// The prefix of each dependency, by its directory; none while its own dependencies are read.
    known: BTreeMap<PathBuf, Option<String>>,
}

impl Build {
    /// Adds the files of a package below `prefix`, and its dependencies.
    fn add(
        &mut self,
        root: &Path,
        manifest: &Manifest,
        prefix: String,
    ) -> Result<packages::Package, LoadError> {
        let mut found = BTreeSet::new();
        collect(root, "", 0, &manifest.depends(root), &mut found)?;
        if prefix.is_empty() {
            self.own.clone_from(&found);
        }
        let mut dependencies = BTreeMap::new();
        for (name, dependency) in &manifest.dependencies {
            let name = &name.0;
            let inside = |path: &String| {
                path.starts_with(&format!("{name}/")) || *path == format!("{name}.seg")
            };
            if found.iter().any(inside) {
                return Err(LoadError(format!(
                    "{}: the dependency `{name}` is called like a module of the package; give it another name",
                    root.join(MANIFEST).display()
                )));
            }
            let depends = self.dependency(root, name, &root.join(&dependency.path))?;
            dependencies.insert(name.clone(), depends);
        }
        for path in found {
            let file = root.join(&path);
            let key = format!("{prefix}{path}");
            if self.files.insert(key.clone(), file.clone()).is_some() {
                return Err(LoadError(format!(
                    "{}: a dependency has a module `{key}` too; rename the folder",
                    root.display()
                )));
            }
            self.texts.insert(key, read(&file)?);
        }
        manifest.package(prefix, dependencies)
    }

    /// The prefix of a dependency, which is read if it was not before.
    fn dependency(&mut self, of: &Path, name: &str, at: &Path) -> Result<String, LoadError> {
        let named = |error: &str| {
            let manifest = of.join(MANIFEST);
            LoadError(format!("{}: dependency `{name}`: {error}", manifest.display()))
        };
        let root = at.canonicalize().map_err(|e| named(&format!("{}: {e}", at.display())))?;
        match self.known.get(&root) {
            Some(Some(prefix)) => return Ok(prefix.clone()),
            Some(None) => return Err(named("the packages depend on each other")),
            None => {}
        }
        self.known.insert(root.clone(), None);
        let manifest = Manifest::read(at).map_err(|error| named(&error.0))?;
        let prefix = format!("{}/", manifest.name.0);
        if prefix == "std/" {
            return Err(named("no package is called `std`"));
        }
        if self.packages.iter().any(|package| package.prefix == prefix) {
            return Err(named(&format!("two packages are called `{}`", manifest.name.0)));
        }
        let package = self.add(at, &manifest, prefix.clone())?;
        self.packages.push(package);
        self.known.insert(root, Some(prefix.clone()));
        Ok(prefix)
    }
}

/// The files that a path itself stands for, with their texts: those of a package without its dependencies, or one file.
///
/// # Errors
/// [`LoadError`] with a message for the user.
pub fn own_files(path: &Path) -> Result<BTreeMap<PathBuf, String>, LoadError> {
    if path != Path::new("-") && !path.is_dir() {
        return Ok(BTreeMap::from([(path.to_path_buf(), read(path)?)]));
    }
    if path == Path::new("-") {
        let text = utf8(stdin()?, "standard input")?;
        return Ok(BTreeMap::from([(path.to_path_buf(), text)]));
    }
    // Told as for every other command if it is no package.
    load_directory(path)?;
    let mut files = BTreeSet::new();
    collect(path, "", 0, &Manifest::read(path)?.depends(path), &mut files)?;
    let here = path == Path::new(".");
    let place = |name: String| if here { PathBuf::from(name) } else { path.join(name) };
    let read = |name: String| {
        let file = place(name);
        read(&file).map(|text| (file, text))
    };
    files.into_iter().map(read).collect()
}

fn stdin() -> Result<Vec<u8>, LoadError> {
    bounded(io::stdin(), SOURCE_BYTES_MAX).map_err(|e| LoadError(format!("standard input: {e}")))
}

fn load_file(path: &Path) -> Result<Package, LoadError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let texts = BTreeMap::from([(name.clone(), read(path)?)]);
    load_texts(stem, folder, texts, BTreeMap::from([(name, path.to_path_buf())]))
}

/// A package of single files and what they import from a folder.
///
/// # Errors
/// [`LoadError`] if an imported file cannot be read.
pub(crate) fn load_texts(
    name: String,
    folder: &Path,
    mut texts: BTreeMap<String, String>,
    mut files: BTreeMap<String, PathBuf>,
) -> Result<Package, LoadError> {
    let named: BTreeSet<String> = files.keys().cloned().collect();
    follow_imports(folder, &mut texts, &mut files)?;
    let files = located(&files, |path| named.contains(path))?;
    Ok(Package { name, sources: sources(texts)?, files, config: Config::default() })
}

/// Where each text was read, and whether it may be edited.
fn located(
    paths: &BTreeMap<String, PathBuf>,
    is_own: impl Fn(&String) -> bool,
) -> Result<Files, LoadError> {
    let here = std::env::current_dir().map_err(|e| LoadError(format!("current directory: {e}")))?;
    let mut files = Files::new(here);
    for (source, path) in paths {
        files.add(source, path, is_own(source));
    }
    Ok(files)
}

/// Adds the files that imports name, until nothing new is named. What is not found is the checker's to report.
fn follow_imports(
    root: &Path,
    texts: &mut BTreeMap<String, String>,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), LoadError> {
    let mut queue: Vec<String> = texts.values().cloned().collect();
    while let Some(text) = queue.pop() {
        let (tree, _) = seg_lang::parse::parse(FileId(0), &text);
        for item in &tree.items {
            let Kind::Import { path, .. } = &item.kind else { continue };
            let parts: Vec<&str> = path.parts.iter().map(|p| p.value.as_str()).collect();
            // The last part may be a name in the module before it.
            for n in [parts.len(), parts.len().saturating_sub(1)] {
                let name = format!("{}.seg", parts.get(..n).unwrap_or_default().join("/"));
                let file = root.join(&name);
                if n == 0 || !file.is_file() || texts.contains_key(&name) {
                    continue;
                }
                let text = read(&file)?;
                queue.push(text.clone());
                files.insert(name.clone(), file);
                texts.insert(name, text);
            }
        }
    }
    Ok(())
}

fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    depends: &BTreeSet<PathBuf>,
    files: &mut BTreeSet<String>,
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
        if name.starts_with('.') {
            continue;
        }
        let ending = path.extension().unwrap_or_default();
        if path.is_dir() {
            // A package inside a package is its own, and must not leave the build unseen.
            if !path.join(MANIFEST).exists() {
                collect(&path, &format!("{prefix}{name}/"), depth + 1, depends, files)?;
            } else if !path.canonicalize().is_ok_and(|path| depends.contains(&path)) {
                return Err(LoadError(format!(
                    "{}: a package inside a package; name it in `[dependencies]`, or remove its `{MANIFEST}`",
                    path.display()
                )));
            }
        } else if ending == "seg" {
            files.insert(format!("{prefix}{name}"));
        } else if ending.eq_ignore_ascii_case("seg") {
            return Err(LoadError(format!(
                "{}: the name of a source ends in `.seg`",
                path.display()
            )));
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
    // Opening a pipe waits for whoever writes to it.
    let kind = path.metadata()?.file_type();
    if std::os::unix::fs::FileTypeExt::is_fifo(&kind) {
        return Err(io::Error::other("a pipe, and no file"));
    }
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
fn sources(texts: BTreeMap<String, String>) -> Result<Sources, LoadError> {
    let mut sources = Sources::default();
    for (path, text) in texts {
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
        ("labels.seg", include_str!("new/labels.seg").to_owned()),
        ("inventory.seg", include_str!("new/inventory.seg").to_owned()),
        ("shop.seg", include_str!("new/shop.seg").to_owned()),
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
