//! Where the sources of a package lie on disk.
//!
//! Messages for people name files by their path within the package; other programs (a CI that annotates lines, an edit)
//! need them on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of a package by their path within it. Sources that are not here were not read from disk: `std`, standard input.
#[derive(Clone, Debug, Default)]
pub struct Files {
    by_source: BTreeMap<String, OnDisk>,
    /// The directory that paths for other programs count from.
    here: PathBuf,
}

#[derive(Clone, Debug)]
struct OnDisk {
    path: PathBuf,
    is_own: bool,
}

impl Files {
    /// No files yet; paths for other programs count from `here`, an absolute directory.
    pub fn new(here: PathBuf) -> Self {
        Self { by_source: BTreeMap::new(), here }
    }

    /// Adds a file, whose path is made absolute; `own` files may be edited.
    pub fn add(&mut self, source: &str, path: &Path, is_own: bool) {
        let path = path.canonicalize().unwrap_or_else(|_| self.here.join(path));
        self.by_source.insert(source.to_owned(), OnDisk { path, is_own });
    }

    /// The absolute path of a source.
    pub fn path(&self, source: &str) -> Option<&Path> {
        self.by_source.get(source).map(|file| file.path.as_path())
    }

    /// Whether some source was read from this path.
    pub fn holds(&self, path: Option<&Path>) -> bool {
        self.by_source.values().any(|file| Some(file.path.as_path()) == path)
    }

    /// Whether the source belongs to the package, or is the file that was named, and may be edited.
    pub fn is_own(&self, source: &str) -> bool {
        self.by_source.get(source).is_some_and(|file| file.is_own)
    }

    /// The source's path from [`Files::here`], absolute if it does not lie below; its own path if it is not on disk.
    pub fn shown(&self, source: &str) -> String {
        let path = self.path(source).unwrap_or(Path::new(source));
        path.strip_prefix(&self.here).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// The directory that [`Files::shown`] counts from.
    pub fn here(&self) -> &Path {
        &self.here
    }
}
