//! What a name stands for, in words.

use super::{Index, Symbol, SymbolId, SymbolKind};
use crate::analyze::{Analysis, Config};
use crate::ast::{DefineKind, File, ParamType};
use crate::check::{Meaning, meaning};
use crate::eval::{Endpoint, contains};
use crate::policy::{Endpoints, Policy, text};
use crate::resolve::resolve;
use crate::source::{FileId, Span};
use std::fmt::Write as _;

/// Longest definition or expansion shown.
///
/// Unit: bytes. Source: chosen; a screen has room for more, a reader has not.
const SHOWN_BYTES_MAX: usize = 600;

/// Most names listed one by one.
const LISTED_MAX: usize = 8;

/// What to show about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hover {
    /// The name it is about.
    pub span: Span,
    /// Markdown.
    pub text: String,
}

impl Index {
    /// What is known about the name at an offset: its definition, its documentation and what it comes to.
    ///
    /// Cost: that of checking every definition of the package.
    pub fn hover(
        &self,
        analysis: &Analysis,
        config: &Config,
        file: FileId,
        offset: u32,
    ) -> Option<Hover> {
        let mention = self.at(file, offset)?;
        let symbol = self.symbol(mention.symbol)?;
        let mut out = String::new();
        self.definition_text(analysis, mention.symbol, symbol, &mut out);
        if !symbol.docs.is_empty() {
            let _ = write!(out, "\n\n{}", symbol.docs);
        }
        match symbol.kind {
            SymbolKind::Set(what) => {
                for line in expansion(analysis, config, symbol, what) {
                    let _ = write!(out, "\n\n{line}");
                }
            }
            SymbolKind::Label | SymbolKind::Value => {
                let n = self.mentions(mention.symbol).filter(|m| !m.defines).count();
                let _ = write!(out, "\n\nnamed {n} {}", if n == 1 { "time" } else { "times" });
            }
            SymbolKind::Module
            | SymbolKind::Workload
            | SymbolKind::Template
            | SymbolKind::Parameter(_)
            | SymbolKind::Block(_)
            | SymbolKind::Claims
            | SymbolKind::Builtin => {}
        }
        if let Some(home) = symbol.span.map(|span| span.file).filter(|home| *home != file)
            && symbol.kind != SymbolKind::Module
            && let Some(source) = analysis.sources.get(home)
        {
            let _ = write!(out, "\n\nfrom `{}`", source.path);
        }
        Some(Hover { span: mention.span, text: out })
    }

    fn definition_text(
        &self,
        analysis: &Analysis,
        id: SymbolId,
        symbol: &Symbol,
        out: &mut String,
    ) {
        let parent = symbol.parent.and_then(|parent| self.symbol(parent));
        let code = match symbol.kind {
            SymbolKind::Module => format!("module {}", symbol.name),
            SymbolKind::Value => {
                let key = parent.map_or("", |label| label.name.as_str());
                format!("{key}:{}", symbol.name)
            }
            SymbolKind::Parameter(ty) => {
                let ty = match ty {
                    ParamType::Endpoints => "endpoints",
                    ParamType::Service => "service",
                };
                format!("{}: {ty}", symbol.name)
            }
            SymbolKind::Builtin => symbol.name.clone(),
            // Of what has a body, the line that opens it.
            SymbolKind::Block(_) | SymbolKind::Template | SymbolKind::Claims => {
                let whole = symbol.item.map_or("", |item| analysis.sources.text(item));
                whole.lines().next().unwrap_or_default().trim_end_matches(['{', ' ']).to_owned()
            }
            SymbolKind::Set(_) | SymbolKind::Workload | SymbolKind::Label => {
                shortened(symbol.item.map_or("", |item| analysis.sources.text(item)))
            }
        };
        let _ = write!(out, "```seg\n{code}\n```");
        match symbol.kind {
            SymbolKind::Builtin => {
                let text = match symbol.name.as_str() {
                    "managed" => "every endpoint of the inventory",
                    "unmanaged" => "every address that no endpoint of the inventory has",
                    _ => "every port or type of the protocol",
                };
                let _ = write!(out, "\n\nbuilt in: {text}");
            }
            SymbolKind::Label => {
                let closed = self.symbols.iter().any(|s| s.parent == Some(id) && s.span.is_some());
                let text =
                    if closed { "a closed label" } else { "an open label: any value may be set" };
                let _ = write!(out, "\n\n{text}");
            }
            SymbolKind::Value => {
                let text = if symbol.span.is_some() {
                    "a value of a closed label"
                } else {
                    "a value of an open label"
                };
                let _ = write!(out, "\n\n{text}");
            }
            SymbolKind::Module
            | SymbolKind::Set(_)
            | SymbolKind::Workload
            | SymbolKind::Template
            | SymbolKind::Parameter(_)
            | SymbolKind::Block(_)
            | SymbolKind::Claims => {}
        }
    }
}

/// What a definition comes to with every name written out, and the workloads in it.
fn expansion(
    analysis: &Analysis,
    config: &Config,
    symbol: &Symbol,
    what: DefineKind,
) -> Vec<String> {
    let Some(place) = symbol.span else { return vec![] };
    let names = resolve(&analysis.sources, &config.packages, &analysis.trees, &mut vec![]);
    let package: Vec<&(FileId, File)> = analysis.trees.iter().collect();
    let (policy, meaning) =
        meaning(&analysis.sources, config, &names, &package, (place.file, symbol.name.as_str()));
    match meaning {
        Some(Meaning::Services(set)) => vec![format!("= `{}`", shortened(&text::services(&set)))],
        Some(Meaning::Endpoints(set)) => {
            let mut lines = vec![format!("= `{}`", shortened(&text::endpoints(&policy, &set)))];
            if what == DefineKind::Group {
                lines.push(workloads(&policy, &set));
            }
            lines
        }
        None => vec!["not understood yet: see the errors".to_owned()],
    }
}

fn workloads(policy: &Policy, set: &Endpoints) -> String {
    let holds = |workload: &&crate::policy::Workload| {
        workload.addresses.iter().any(|address| {
            let labels = Some(workload.labels.iter().cloned().collect());
            contains(
                policy,
                set,
                &Endpoint { labels, ports: workload.ports.clone(), ..Endpoint::at(*address) },
            )
        })
    };
    let members: Vec<&str> =
        policy.workloads.iter().filter(holds).map(|workload| workload.name.as_str()).collect();
    let noun = if members.len() == 1 { "workload" } else { "workloads" };
    let mut line = format!("{} {noun}", members.len());
    for (n, name) in members.iter().take(LISTED_MAX).enumerate() {
        let _ = write!(line, "{} `{name}`", if n == 0 { ":" } else { "," });
    }
    if members.len() > LISTED_MAX {
        line.push_str(", …");
    }
    line
}

/// The text, or its beginning.
fn shortened(text: &str) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    format!("{} …", text.get(..end).unwrap_or_default())
}
