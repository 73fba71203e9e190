//! What a module says about itself: its `##` lines, and those of every definition in it.
//!
//! Nothing is resolved: a module is documented as it is written, also if it does not check.

use crate::ast::{DefineKind, File, Item, Kind, Tier};
use crate::lex::is_invisible;
use crate::resolve;
use crate::source::{Source, Span, Spanned};

/// The documentation of one module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name as an import writes it, such as `std.services`.
    pub name: String,
    /// What it says about itself; lines, without their marks.
    pub docs: String,
    /// What it defines, in the order written.
    pub entries: Vec<Entry>,
}

/// Something with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The keyword that makes it, such as `service`.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// What is said about it; lines, without their marks.
    pub docs: String,
    /// The `#` line that stands alone above it and begins a part of the module, without mark and full stop; often empty.
    pub heading: String,
    /// How it begins: all of it, or a block up to its brace. A template shows its parameters here.
    pub head: String,
    /// All of it, as written.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Module {
    /// The first line of its documentation.
    pub fn summary(&self) -> &str {
        self.docs.lines().next().unwrap_or_default()
    }
}

/// Reads the documentation of a file.
///
/// The first lines of a file are about the module if an empty line or an import follows; else about the item below.
pub fn module(source: &Source, tree: &File) -> Module {
    let mut module = Module { name: name(&source.path), docs: String::new(), entries: vec![] };
    let mut end = 0;
    for (index, item) in tree.items.iter().enumerate() {
        let mut groups = groups(&item.docs, &source.text);
        // What a blank line or a comment cuts off is not about the item.
        let own = if touches(&groups, item, &source.text) { groups.pop() } else { None };
        let mut docs = own.map(lines).unwrap_or_default();
        if index == 0 {
            if groups.is_empty() && matches!(item.kind, Kind::Import { .. }) {
                module.docs = std::mem::take(&mut docs);
            } else if let Some(first) = groups.first() {
                module.docs = lines(first);
            }
        }
        let cut_off = groups.last().and_then(|group| group.last()).map_or(0, |line| line.span.end);
        let start = own.and_then(|group| group.first()).map_or(u32::MAX, |line| line.span.start);
        let gap = end.max(cut_off) as usize..start.min(outset(item)) as usize;
        let heading = heading(source.text.get(gap).unwrap_or_default());
        end = item.span.end;
        let found = entry(source, item, docs);
        module.entries.extend(found.map(|entry| Entry { heading, ..entry }));
    }
    module
}

/// The comment of one line that stands alone below the item before and above the item.
fn heading(gap: &str) -> String {
    // What follows an item in its line is about that item.
    let Some((_, gap)) = gap.split_once('\n') else { return String::new() };
    let gap = gap.replace("\r\n", "\n");
    // The last part is what touches the item.
    let mut parts = gap.rsplit("\n\n").map(str::trim);
    match (parts.next(), parts.next()) {
        (Some(""), Some(comment)) if !comment.contains('\n') => {
            shown(comment.trim_start_matches('#').trim().trim_end_matches('.'))
        }
        _ => String::new(),
    }
}

/// Where the item begins, with its annotations.
fn outset(item: &Item) -> u32 {
    item.annotations.iter().map(|a| a.span.start).min().unwrap_or(u32::MAX).min(item.span.start)
}

/// The module or definition that was most likely meant; a definition without its module only if `wanted` names none.
pub fn nearest(modules: &[Module], wanted: &str) -> Option<String> {
    let mut known: Vec<String> = vec![];
    for module in modules {
        known.push(module.name.clone());
        for entry in &module.entries {
            known.push(if wanted.contains('.') {
                format!("{}.{}", module.name, entry.name)
            } else {
                entry.name.clone()
            });
        }
    }
    resolve::nearest(wanted, known.iter().map(String::as_str)).map(str::to_owned)
}

/// `std/services.seg` is `std.services`.
fn name(path: &str) -> String {
    path.strip_suffix(".seg").unwrap_or(path).replace('/', ".")
}

fn entry(source: &Source, item: &Item, docs: String) -> Option<Entry> {
    let is_library = source.path.split('/').next() == Some(resolve::STD);
    let (kind, name, block) = match &item.kind {
        Kind::Label { name, .. } => ("label", name, false),
        Kind::Define { what, name, .. } => (
            match what {
                DefineKind::Net => "net",
                DefineKind::Service => "service",
                DefineKind::Group => "group",
            },
            name,
            false,
        ),
        Kind::Workload { name, .. } => ("workload", name, false),
        Kind::Template { name, .. } => ("template", name, true),
        // Only definitions come from the library; its blocks are examples.
        Kind::Block { tier, name, .. } if !is_library => (
            match tier {
                Tier::Guard => "guard",
                Tier::Policy => "policy",
                Tier::Baseline => "baseline",
            },
            name,
            true,
        ),
        Kind::Block { .. }
        | Kind::Import { .. }
        | Kind::Use { .. }
        | Kind::Claims { .. }
        | Kind::Rule(_)
        | Kind::Isolate { .. }
        | Kind::Error => return None,
    };
    let written = source.text.get(item.span.range()).unwrap_or_default();
    // A scope or a default may have braces of its own; that of the block is the first behind them.
    let behind = match &item.kind {
        Kind::Block { scope: Some(scope), .. } => scope.span.end,
        Kind::Template { params, .. } => {
            params.iter().filter_map(|p| p.default.as_ref()).map(|d| d.span.end).max().unwrap_or(0)
        }
        _ => 0,
    };
    let after = behind.saturating_sub(item.span.start) as usize;
    let brace = written.get(after..).and_then(|rest| rest.find('{')).filter(|_| block);
    let head = brace.and_then(|at| written.get(..after + at)).unwrap_or(written);
    Some(Entry {
        kind,
        name: name.value.clone(),
        docs,
        heading: String::new(),
        head: shown(head.trim_end()),
        text: shown(written),
        span: item.span,
    })
}

/// Doc lines that stand together.
fn groups<'a>(docs: &'a [Spanned<String>], text: &str) -> Vec<&'a [Spanned<String>]> {
    docs.chunk_by(|a, b| adjacent(text, a.span.end, b.span.start)).collect()
}

/// Whether the last doc lines stand right above the item, or above its annotations.
fn touches(groups: &[&[Spanned<String>]], item: &Item, text: &str) -> bool {
    let Some(last) = groups.last().and_then(|group| group.last()) else { return false };
    let first = item.annotations.first().map_or(item.span, |a| a.span);
    adjacent(text, last.span.end, first.start) || last.span.start > first.start
}

/// Whether nothing but one line end lies between two places.
fn adjacent(text: &str, end: u32, start: u32) -> bool {
    let gap = text.get(end as usize..start as usize);
    gap.is_some_and(|gap| gap.trim().is_empty() && gap.matches('\n').count() == 1)
}

fn lines(group: &[Spanned<String>]) -> String {
    let lines: Vec<_> = group.iter().map(|line| shown(&line.value)).collect();
    lines.join("\n").trim_end().to_owned()
}

/// Characters that nobody sees, or that a terminal would obey, as `�`.
fn shown(text: &str) -> String {
    let visible =
        |c: char| if is_invisible(c) || c == '\r' { char::REPLACEMENT_CHARACTER } else { c };
    text.replace("\r\n", "\n").chars().map(visible).collect()
}
