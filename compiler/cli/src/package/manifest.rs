//! `seg.toml`: what a package is called, depends on, allows and requires.

use super::LoadError;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use seg_artifact::version::EDITION;
use seg_lang::ast::Tier;
use seg_lang::codes;
use seg_lang::diagnostic::{Code, Severity};
use seg_lang::packages::Level;
use serde::{Deserialize, Deserializer, de};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name of the file that makes a directory a package.
pub const MANIFEST: &str = "seg.toml";

/// `seg.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) name: PackageName,
    edition: String,
    #[serde(default)]
    pub(super) dependencies: BTreeMap<ImportName, Dependency>,
    #[serde(default)]
    tiers: BTreeMap<TierName, Vec<Pattern>>,
    #[serde(default)]
    annotations: BTreeMap<TierName, Vec<AnnotationName>>,
    #[serde(default)]
    lints: BTreeMap<Warning, LevelName>,
}

/// A package another one builds on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dependency {
    /// Its directory, relative to that of the package that names it.
    pub(super) path: std::path::PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TierName {
    Guard,
    Policy,
    Baseline,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LevelName {
    Allow,
    Warn,
    Deny,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnnotationName {
    Id,
    Owner,
    Reason,
    Review,
    Since,
    Ticket,
}

/// ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackageName(pub(super) String);

/// A name as the language knows them, for use in `import`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ImportName(pub(super) String);

#[derive(Debug)]
struct Pattern(globset::Glob);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Warning(Code);

impl<'de> Deserialize<'de> for PackageName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(word) {
            return Err(de::Error::custom(format!(
                "a package's name consists of ASCII letters, digits, `-`, `_` and `.`, unlike {name:?}"
            )));
        }
        Ok(Self(name))
    }
}

impl<'de> Deserialize<'de> for ImportName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        if !seg_lang::lex::is_name(&name) || name == "std" {
            return Err(de::Error::custom(format!("{name:?} is no name that `import` can use")));
        }
        Ok(Self(name))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let glob = GlobBuilder::new(&text).literal_separator(true).build();
        glob.map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Warning {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let codes = codes::ALL.iter().map(|(code, _)| *code);
        let mut warnings = codes.filter(|code| code.severity() == Severity::Warning);
        let found = warnings.find(|code| code.0 == text);
        found.map(Self).ok_or_else(|| de::Error::custom(format!("no warning is called `{text}`")))
    }
}

impl Manifest {
    /// Reads the manifest of a directory.
    pub(super) fn read(root: &Path) -> Result<Self, LoadError> {
        let path = root.join(MANIFEST);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LoadError(format!(
                "{} is no package: it has no `{MANIFEST}`; `segc new DIR` makes one, and a single file can be named itself",
                root.display()
            )),
            _ => LoadError(format!("{}: {error}", path.display())),
        })?;
        let manifest: Self =
            toml::from_str(&text).map_err(|e| LoadError(format!("{}: {e}", path.display())))?;
        if manifest.edition != EDITION {
            return Err(LoadError(format!(
                "{}: this segc reads edition \"{EDITION}\", not \"{}\"",
                path.display(),
                manifest.edition
            )));
        }
        Ok(manifest)
    }

    /// The directories of the packages it depends on.
    pub(super) fn depends(&self, root: &Path) -> BTreeSet<PathBuf> {
        let at = self.dependencies.values().map(|dependency| root.join(&dependency.path));
        at.filter_map(|path| path.canonicalize().ok()).collect()
    }

    /// What it says in terms of the language.
    pub(super) fn package(
        &self,
        prefix: String,
        dependencies: BTreeMap<String, String>,
    ) -> Result<seg_lang::packages::Package, LoadError> {
        let tiers = self.tiers.iter().map(|(of, patterns)| {
            let mut globs = GlobSetBuilder::new();
            for Pattern(glob) in patterns {
                globs.add(glob.clone());
            }
            Ok((tier(*of), globs.build().map_err(|error| LoadError(error.to_string()))?))
        });
        let tiers: BTreeMap<Tier, GlobSet> = tiers.collect::<Result<_, LoadError>>()?;
        let required = self.annotations.iter().map(|(of, names)| {
            (tier(*of), names.iter().map(|name| annotation(*name).to_owned()).collect())
        });
        let levels = self.lints.iter().map(|(warning, of)| (warning.0, level(*of)));
        Ok(seg_lang::packages::Package {
            prefix,
            dependencies,
            tiers,
            required: required.collect(),
            levels: levels.collect(),
        })
    }
}

fn tier(name: TierName) -> Tier {
    match name {
        TierName::Guard => Tier::Guard,
        TierName::Policy => Tier::Policy,
        TierName::Baseline => Tier::Baseline,
    }
}

fn level(name: LevelName) -> Level {
    match name {
        LevelName::Allow => Level::Allow,
        LevelName::Warn => Level::Warn,
        LevelName::Deny => Level::Deny,
    }
}

fn annotation(name: AnnotationName) -> &'static str {
    match name {
        AnnotationName::Id => "id",
        AnnotationName::Owner => "owner",
        AnnotationName::Reason => "reason",
        AnnotationName::Review => "review",
        AnnotationName::Since => "since",
        AnnotationName::Ticket => "ticket",
    }
}
