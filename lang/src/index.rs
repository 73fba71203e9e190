//! Where everything is defined and where it is named: what editors ask.
//!
//! Built from the trees, so it works for packages with errors; what does not parse is not in it.
//! Meanings come from the resolver and the checker: nothing is decided here a second time.
//! INVARIANT: mentions are sorted by file and place and do not overlap.

mod build;
mod complete;
mod hover;
mod rename;

use crate::analyze::{Analysis, Config};
use crate::ast::{DefineKind, ParamType, Tier};
use crate::packages::Packages;
use crate::resolve::STD;
use crate::source::{FileId, Sources, Span};
use std::collections::BTreeMap;

pub use complete::{Completion, Proposal, ProposalKind};
pub use hover::Hover;

/// Index into [`Index::symbols`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymbolId(pub u32);

/// Something that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// What it is.
    pub kind: SymbolKind,
    /// Its name; a module's with dots, a test's title.
    pub name: String,
    /// Where the name is written in its definition; `None` for what is built in and for values of open labels.
    pub span: Option<Span>,
    /// The whole definition.
    pub item: Option<Span>,
    /// The `##` lines above it, joined.
    pub docs: String,
    /// The label of a value, the template of a parameter.
    pub parent: Option<SymbolId>,
}

/// The kinds of [`Symbol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolKind {
    /// A file.
    Module,
    /// A `net`, `service` or `group`.
    Set(DefineKind),
    /// A `workload`.
    Workload,
    /// A `template`.
    Template,
    /// A parameter of a template.
    Parameter(ParamType),
    /// A label dimension.
    Label,
    /// A value of a label.
    Value,
    /// A `guard`, `policy` or `baseline`.
    Block(Tier),
    /// A `test` or `assert`; nothing names it.
    Claims,
    /// `managed`, `unmanaged` or a protocol.
    Builtin,
}

/// A place where a symbol is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The name as written.
    pub span: Span,
    /// What it names.
    pub symbol: SymbolId,
    /// Whether this is the definition.
    pub defines: bool,
}

/// The names that may be used in one file.
#[derive(Clone, Debug, Default)]
struct Scope {
    names: BTreeMap<String, SymbolId>,
    labels: BTreeMap<String, SymbolId>,
    modules: BTreeMap<String, SymbolId>,
}

/// Every definition and every mention of a package.
#[derive(Clone, Debug, Default)]
pub struct Index {
    symbols: Vec<Symbol>,
    mentions: Vec<Mention>,
    scopes: BTreeMap<FileId, Scope>,
    modules: BTreeMap<FileId, SymbolId>,
    packages: Packages,
    blocks: BTreeMap<String, SymbolId>,
}

impl Index {
    /// Indexes a package.
    ///
    /// Cost: that of resolving it, and linear in its trees.
    pub fn new(analysis: &Analysis, config: &Config) -> Self {
        build::build(analysis, &config.packages)
    }

    /// Everything that has a name, by file and place; what has no place of its own comes where it is first named.
    pub fn symbols(&self) -> impl Iterator<Item = (SymbolId, &Symbol)> {
        (0u32..).map(SymbolId).zip(&self.symbols)
    }

    /// The symbol with this index.
    pub fn symbol(&self, id: SymbolId) -> Option<&Symbol> {
        self.symbols.get(id.0 as usize)
    }

    /// The name at an offset: the one it lies in, or else the one that ends there.
    pub fn at(&self, file: FileId, offset: u32) -> Option<&Mention> {
        let near = self.in_file(file);
        let after = near.partition_point(|m| m.span.start <= offset);
        let before = near.get(..after).and_then(<[Mention]>::last)?;
        (offset <= before.span.end).then_some(before)
    }

    /// The mentions in a file, in order.
    pub fn in_file(&self, file: FileId) -> &[Mention] {
        let first = self.mentions.partition_point(|m| m.span.file < file);
        let last = self.mentions.partition_point(|m| m.span.file <= file);
        self.mentions.get(first..last).unwrap_or_default()
    }

    /// Every place that names a symbol, its definition included.
    pub fn mentions(&self, symbol: SymbolId) -> impl Iterator<Item = &Mention> {
        self.mentions.iter().filter(move |m| m.symbol == symbol)
    }

    /// Whether a file is part of the standard library.
    pub fn is_library(sources: &Sources, file: FileId) -> bool {
        sources.get(file).is_some_and(|source| source.path.split('/').next() == Some(STD))
    }
}
