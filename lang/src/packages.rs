//! The packages of a build: which files belong to each, what they may import and write, and how strict it is.
//!
//! A package is a folder with a `seg.toml`. The files of a dependency stand below a folder of their own, its *prefix*;
//! no two packages share one, and that of the package which is built is empty.

use crate::ast::Tier;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::resolve::STD;
use globset::GlobSet;
use std::collections::BTreeMap;

/// One package.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// What its paths begin with: empty, or a folder with `/` at its end.
    pub prefix: String,
    /// The prefixes of the packages it may import, by the name it gives each.
    pub dependencies: BTreeMap<String, String>,
    /// The files, without the prefix, that may hold blocks of a tier; all, for a tier without an entry.
    pub tiers: BTreeMap<Tier, GlobSet>,
    /// The annotations that every block of a tier must have.
    pub required: BTreeMap<Tier, Vec<String>>,
    /// What becomes of warnings, by code.
    pub levels: BTreeMap<Code, Level>,
}

/// What becomes of a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It is not reported.
    Allow,
    /// It is reported.
    Warn,
    /// It is an error.
    Deny,
}

/// All packages of a build.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    /// The package that is built; its prefix is empty.
    pub root: Package,
    /// Those it depends on.
    pub others: Vec<Package>,
}

impl Package {
    /// The key of the module that a file of this package means by a dotted name, and the prefix of the package it must belong to.
    pub(crate) fn locate(&self, parts: &[&str]) -> (String, &str) {
        match parts {
            [STD, ..] => (parts.join("/"), ""),
            [first, rest @ ..] => match self.dependencies.get(*first) {
                Some(prefix) => (format!("{prefix}{}", rest.join("/")), prefix),
                None => (format!("{}{}", self.prefix, parts.join("/")), &self.prefix),
            },
            [] => (String::new(), ""),
        }
    }

    /// How a file of this package writes the module `key` of package `of`; `None` if it may not import it.
    pub(crate) fn written(&self, key: &str, of: &Self) -> Option<String> {
        let rest = key.strip_prefix(of.prefix.as_str())?.replace('/', ".");
        if of.prefix == self.prefix {
            return Some(rest);
        }
        let (name, _) = self.dependencies.iter().find(|(_, prefix)| **prefix == of.prefix)?;
        Some(format!("{name}.{rest}"))
    }

    /// Whether a file may hold blocks of a tier; `path` begins with the prefix.
    pub(crate) fn may_write(&self, tier: Tier, path: &str) -> bool {
        let inside = path.strip_prefix(self.prefix.as_str()).unwrap_or(path);
        self.tiers.get(&tier).is_none_or(|globs| globs.is_match(inside))
    }

    /// Sets the severity that `seg.toml` asks for; `false` if it is not to be reported.
    pub(crate) fn judge(&self, diagnostic: &mut Diagnostic) -> bool {
        if diagnostic.severity == Severity::Error {
            return true;
        }
        match self.levels.get(&diagnostic.code) {
            Some(Level::Allow) => return false,
            Some(Level::Deny) => diagnostic.severity = Severity::Error,
            Some(Level::Warn) | None => {}
        }
        true
    }
}

impl Packages {
    /// The package a file belongs to: that of the longest prefix. Those of the standard library count to the root.
    pub(crate) fn of(&self, path: &str) -> &Package {
        let fitting = self.others.iter().filter(|package| path.starts_with(&package.prefix));
        fitting.max_by_key(|package| package.prefix.len()).unwrap_or(&self.root)
    }

    /// Whether a file belongs to a package that the one which is built depends on.
    pub fn is_foreign(&self, path: &str) -> bool {
        !self.of(path).prefix.is_empty()
    }
}
