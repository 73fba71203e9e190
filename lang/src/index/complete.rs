//! What may be written at a place: keywords as the grammar takes them, names as they are in scope.
//!
//! Works on the text before the place only, which rarely parses while it is written.

use super::{Index, Symbol, SymbolId, SymbolKind};
use crate::analyze::Analysis;
use crate::ast::{DefineKind, File, Kind, ParamType};
use crate::check::ANNOTATIONS;
use crate::diagnostic::Fix;
use crate::lex::{Lexed, lex};
use crate::parse::{follow, parse};
use crate::resolve::module_name;
use crate::source::{FileId, Span, Spanned};
use crate::stdlib;
use crate::token::Token;
use crate::types::{BUILTINS, Builtin, protocol_number, type_names};
use std::collections::{BTreeMap, BTreeSet};

/// Words that may be written at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The part of the word that is there already.
    pub replace: Span,
    /// The words, best first within their kind.
    pub proposals: Vec<Proposal>,
}

/// One word that may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The word.
    pub word: String,
    /// What it is.
    pub kind: ProposalKind,
    /// More about it, such as the module it is imported from.
    pub detail: String,
    /// What it names.
    pub symbol: Option<SymbolId>,
    /// The edit that imports it.
    pub import: Option<Fix>,
}

/// The kinds of [`Proposal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalKind {
    /// A keyword.
    Keyword,
    /// A name.
    Symbol(SymbolKind),
    /// An annotation.
    Annotation,
    /// An ICMP type, or a port that workloads name.
    Number,
}

/// What may stand between the braces of a block, or outside any.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    File,
    Rules,
    Template,
    Claims,
}

/// The kind of set a name would stand in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Addresses,
    Endpoints,
    /// Endpoints in a claim, where workloads may be named.
    Ends,
    Service,
    /// The argument of a template: either.
    Either,
}

type Tok<'a> = Spanned<Token<'a>>;

impl Index {
    /// What may be written at an offset of a file.
    ///
    /// Cost: linear in the text before it and in the names of the package.
    pub fn complete(&self, analysis: &Analysis, file: FileId, offset: u32) -> Option<Completion> {
        let text = analysis.sources.get(file)?.text.as_str();
        let before = text.get(..offset as usize)?;
        let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let typed = before.trim_end_matches(in_word);
        // In `->` the hyphen is no part of a word.
        let word = before.get(typed.len()..)?.trim_start_matches('-');
        let start = before.len() - word.len();
        let mut proposals = vec![];
        if !in_comment_or_string(file, before) {
            let head = text.get(..start)?;
            let place = Place::new(file, head);
            let tree = analysis.trees.iter().find(|(id, _)| *id == file).map(|(_, tree)| tree);
            let mut at = Proposer { index: self, analysis, file, offset: start, tree, out: vec![] };
            at.propose(&place);
            proposals = at.out;
        }
        Some(Completion { replace: Span::new(file, start, before.len()), proposals })
    }

    fn label_called(&self, file: FileId, name: &str) -> Option<SymbolId> {
        self.scopes.get(&file)?.labels.get(name).copied()
    }
}

fn in_comment_or_string(file: FileId, before: &str) -> bool {
    let Lexed { tokens, comments, .. } = lex(file, before);
    let end = before.len();
    let doc = |t: &Tok<'_>| matches!(t.value, Token::Doc(_));
    let open = |t: &Tok<'_>| match t.value {
        Token::String(text) => text.len() < 2 || !text.ends_with('"'),
        _ => false,
    };
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    comments.last().is_some_and(|span| span.end as usize == end)
        || tokens.last().is_some_and(|t| doc(t) && t.span.end as usize == end)
        || tokens.last().is_some_and(|t| open(t) && t.span.start as usize >= line)
}

/// Where in the structure of a file a text ends.
struct Place<'a> {
    within: Within,
    /// The tokens of the statement so far.
    statement: Vec<Tok<'a>>,
    /// The brackets open in it, as positions in `statement`.
    open: Vec<usize>,
}

impl<'a> Place<'a> {
    fn new(file: FileId, text: &'a str) -> Self {
        let mut place = Self { within: Within::File, statement: vec![], open: vec![] };
        let mut outer = vec![];
        let mut end = 0;
        for token in lex(file, text).tokens {
            let gap = text.get(end..token.span.start as usize).unwrap_or_default();
            end = token.span.end as usize;
            place.token(token, gap.contains('\n'), &mut outer);
        }
        let ended = place.statement.last().is_some_and(|t| t.value.ends());
        if ended && place.open.is_empty() && text.get(end..).is_some_and(|gap| gap.contains('\n')) {
            place.statement.clear();
        }
        place
    }

    fn token(&mut self, token: Tok<'a>, starts_line: bool, outer: &mut Vec<Within>) {
        let value = token.value;
        let last = self.statement.last().map(|t| t.value);
        let head = self.statement.iter().map(|t| t.value).find(|t| *t != Token::Staged);
        if starts_line && value.starts_item() && self.open.is_empty() {
            let joined = matches!(last, Some(Token::Staged | Token::Expect));
            if !joined {
                self.statement.clear();
            }
        }
        match value {
            Token::Doc(_) => return,
            Token::NewLine if self.open.is_empty() => return self.statement.clear(),
            Token::OpenBrace if self.open.is_empty() && last.is_some_and(Token::ends) => {
                let body = match head {
                    Some(Token::Guard | Token::Policy | Token::Baseline) => Some(Within::Rules),
                    Some(Token::Template) => Some(Within::Template),
                    Some(Token::Test | Token::Assert) => Some(Within::Claims),
                    _ => None,
                };
                if let Some(body) = body {
                    outer.push(self.within);
                    self.within = body;
                    return self.statement.clear();
                }
            }
            Token::CloseBrace if self.open.is_empty() => {
                self.within = outer.pop().unwrap_or(Within::File);
                return self.statement.clear();
            }
            _ => {}
        }
        match value {
            Token::OpenBrace | Token::OpenParen => self.open.push(self.statement.len()),
            Token::CloseBrace | Token::CloseParen => drop(self.open.pop()),
            _ => {}
        }
        self.statement.push(token);
        // An annotation is a statement of its own, though the item may follow on its line.
        let annotation = self.statement.first().is_some_and(|t| t.value == Token::Mark);
        if annotation && value == Token::CloseParen && self.open.is_empty() {
            self.statement.clear();
        }
    }

    fn value(&self, at: usize) -> Option<Token<'a>> {
        self.statement.get(at).map(|t| t.value)
    }

    /// The token `n` before the place; the last is 1.
    fn back(&self, n: usize) -> Option<Token<'a>> {
        self.value(self.statement.len().checked_sub(n)?)
    }

    fn head(&self) -> Option<Token<'a>> {
        self.value(0)
    }

    /// The name in front of the innermost open bracket, with the mark between them if there is one.
    fn opened_by(&self) -> Option<(&'a str, Option<Token<'a>>)> {
        let open = *self.open.last()?;
        match (self.value(open.checked_sub(1)?)?, open.checked_sub(2).and_then(|n| self.value(n))) {
            (Token::Ident(name), _) => Some((name, None)),
            (mark, Some(Token::Ident(name))) => Some((name, Some(mark))),
            _ => None,
        }
    }

    /// The kind of set a name would stand in.
    fn wanted(&self) -> Wanted {
        let claims = self.within == Within::Claims;
        for token in self.statement.iter().rev() {
            match token.value {
                Token::On | Token::Service => return Wanted::Service,
                Token::Net | Token::At => return Wanted::Addresses,
                Token::Use => return Wanted::Either,
                Token::To | Token::Both | Token::Reach if !claims => return Wanted::Endpoints,
                Token::Unless | Token::NewLine => return Wanted::Endpoints,
                Token::To | Token::Both | Token::Reach | Token::Avoiding => return Wanted::Ends,
                _ => {}
            }
        }
        if claims { Wanted::Ends } else { Wanted::Endpoints }
    }

    /// Whether the next name is one of a `same`.
    fn in_same(&self) -> bool {
        let mut tokens = self.statement.iter().rev().map(|t| t.value);
        loop {
            match (tokens.next(), tokens.next()) {
                (Some(Token::Same), _) => return true,
                (Some(Token::Comma), Some(Token::Ident(_))) => {}
                _ => return false,
            }
        }
    }
}

struct Proposer<'a> {
    index: &'a Index,
    analysis: &'a Analysis,
    file: FileId,
    offset: usize,
    tree: Option<&'a File>,
    out: Vec<Proposal>,
}

impl Proposer<'_> {
    fn propose(&mut self, place: &Place<'_>) {
        let opened = place.opened_by();
        match (place.head(), place.back(2), place.back(1)) {
            (None, ..) => self.starts(place.within),
            (Some(Token::Import), ..) => self.import(place),
            (Some(Token::Mark), _, last) => {
                if last == Some(Token::Mark) {
                    ANNOTATIONS.iter().for_each(|name| self.push(name, ProposalKind::Annotation));
                }
            }
            (Some(Token::Template), _, Some(Token::Colon)) => {
                ["endpoints", "service"]
                    .into_iter()
                    .for_each(|word| self.push(word, ProposalKind::Keyword));
            }
            (_, Some(Token::Ident(key)), Some(Token::Colon)) => self.values(key),
            (_, Some(Token::Ident(protocol)), Some(Token::Slash)) => self.types(protocol),
            (_, Some(Token::Ident(alias)), Some(Token::Dot)) => self.alias(alias, place.wanted()),
            (_, _, Some(Token::By)) => {
                let blocks: Vec<SymbolId> = self.index.blocks.values().copied().collect();
                blocks.into_iter().for_each(|id| self.symbol(id, ""));
            }
            (_, _, Some(Token::Use)) => self.names(|kind| kind == SymbolKind::Template),
            _ if place.in_same() => self.labels(""),
            _ => match opened {
                Some((key, Some(Token::Colon))) => self.values(key),
                Some((protocol, Some(Token::Slash))) => self.types(protocol),
                _ => self.rest(place),
            },
        }
    }

    fn push(&mut self, word: &str, kind: ProposalKind) {
        let (word, detail) = (word.to_owned(), String::new());
        self.out.push(Proposal { word, kind, detail, symbol: None, import: None });
    }

    /// Proposes a symbol, with `behind` behind its name.
    fn symbol(&mut self, id: SymbolId, behind: &str) {
        let Some(symbol) = self.index.symbol(id) else { return };
        self.out.push(Proposal {
            word: format!("{}{behind}", symbol.name),
            kind: ProposalKind::Symbol(symbol.kind),
            detail: String::new(),
            symbol: Some(id),
            import: None,
        });
    }

    /// What a statement starts with.
    fn starts(&mut self, within: Within) {
        let words: &[&str] = match within {
            Within::File => &[
                "import", "label", "net", "service", "group", "workload", "guard", "policy",
                "baseline", "staged", "template", "test", "assert",
            ],
            Within::Rules => &["allow", "deny", "isolate", "use"],
            Within::Template => &["allow", "deny", "isolate", "use", "assert"],
            Within::Claims => &["expect"],
        };
        words.iter().for_each(|word| self.push(word, ProposalKind::Keyword));
    }

    /// What goes on with a statement.
    fn rest(&mut self, place: &Place<'_>) {
        let next = follow(self.file, &place.statement);
        let wanted = place.wanted();
        for word in &next {
            let is_self = word == "self" && matches!(wanted, Wanted::Service | Wanted::Addresses);
            if Token::keyword(word).is_some() && !is_self {
                self.push(word, ProposalKind::Keyword);
            }
        }
        // Only sets may be `any`; elsewhere a name is a new one.
        if !next.iter().any(|word| word == "any") {
            return;
        }
        if place.head() == Some(Token::Use) {
            self.parameters(place);
        }
        self.set(wanted);
    }

    fn names(&mut self, fits: impl Fn(SymbolKind) -> bool) {
        let Some(scope) = self.index.scopes.get(&self.file) else { return };
        for id in scope.names.values() {
            if self.index.symbol(*id).is_some_and(|symbol| fits(symbol.kind)) {
                self.symbol(*id, "");
            }
        }
    }

    fn labels(&mut self, behind: &str) {
        let Some(scope) = self.index.scopes.get(&self.file) else { return };
        scope.labels.values().for_each(|id| self.symbol(*id, behind));
    }

    /// The values of a label: those of a closed one, those in use of an open one.
    fn values(&mut self, key: &str) {
        let label = self.index.label_called(self.file, key);
        let of_label =
            |s: &Symbol| s.kind == SymbolKind::Value && label.is_some() && s.parent == label;
        let values: Vec<SymbolId> =
            self.index.symbols().filter(|(_, s)| of_label(s)).map(|(id, _)| id).collect();
        values.into_iter().for_each(|id| self.symbol(id, ""));
    }

    fn types(&mut self, protocol: &str) {
        let names = protocol_number(protocol).map_or(&[][..], type_names);
        names.iter().for_each(|(name, _)| self.push(name, ProposalKind::Number));
        if !names.is_empty() {
            return;
        }
        let items = self.analysis.trees.iter().flat_map(|(_, tree)| &tree.items);
        let ports = items.filter_map(|item| match &item.kind {
            Kind::Workload { ports, .. } => Some(ports),
            _ => None,
        });
        let ports: BTreeSet<&str> = ports.flatten().map(|(name, _)| name.value.as_str()).collect();
        ports.into_iter().for_each(|port| self.push(port, ProposalKind::Number));
    }

    /// The parameters of the template used that have no argument yet.
    fn parameters(&mut self, place: &Place<'_>) {
        let Some((name, None)) = place.opened_by() else { return };
        let scope = self.index.scopes.get(&self.file);
        let template = scope.and_then(|scope| scope.names.get(name)).copied();
        let given = |word: &str| place.statement.iter().any(|t| t.value == Token::Ident(word));
        let params: Vec<SymbolId> = self
            .index
            .symbols()
            .filter(|(_, s)| template.is_some() && s.parent == template && !given(&s.name))
            .map(|(id, _)| id)
            .collect();
        params.into_iter().for_each(|id| self.symbol(id, " = "));
    }

    fn set(&mut self, wanted: Wanted) {
        for (name, builtin) in BUILTINS {
            let fits = match builtin {
                Builtin::Managed | Builtin::Unmanaged => wanted != Wanted::Service,
                Builtin::Protocol(_) => matches!(wanted, Wanted::Service | Wanted::Either),
            };
            if fits {
                self.push(name, ProposalKind::Symbol(SymbolKind::Builtin));
            }
        }
        self.names(|kind| fits(kind, wanted));
        self.own_parameters(wanted);
        if !matches!(wanted, Wanted::Service | Wanted::Addresses) {
            self.labels(":");
        }
        if let Some(scope) = self.index.scopes.get(&self.file) {
            for (alias, id) in &scope.modules {
                let kind = ProposalKind::Symbol(SymbolKind::Module);
                let (word, detail) = (format!("{alias}."), String::new());
                self.out.push(Proposal { word, kind, detail, symbol: Some(*id), import: None });
            }
        }
        self.imports(wanted);
    }

    /// The parameters of the template around the place.
    fn own_parameters(&mut self, wanted: Wanted) {
        let around = |template: SymbolId| {
            let item = self.index.symbol(template)?.item?;
            // One that is still open ends with what is written of it.
            let open = !self.analysis.sources.text(item).ends_with('}');
            let inside = item.range().contains(&self.offset);
            Some(item.file == self.file && (inside || open && item.range().end <= self.offset))
        };
        let params: Vec<SymbolId> = self
            .index
            .symbols()
            .filter(|(_, s)| matches!(s.kind, SymbolKind::Parameter(_)) && fits(s.kind, wanted))
            .filter(|(_, s)| s.parent.and_then(around) == Some(true))
            .map(|(id, _)| id)
            .collect();
        params.into_iter().for_each(|id| self.symbol(id, ""));
    }

    /// The names of a module that was imported whole.
    fn alias(&mut self, alias: &str, wanted: Wanted) {
        let scope = self.index.scopes.get(&self.file);
        let module = scope.and_then(|scope| scope.modules.get(alias)).copied();
        let Some(home) = module.and_then(|id| self.index.symbol(id)?.span) else { return };
        self.defined_in(home.file, |kind| fits(kind, wanted));
    }

    fn defined_in(&mut self, home: FileId, fits: impl Fn(SymbolKind) -> bool) {
        let here = |s: &Symbol| s.span.is_some_and(|span| span.file == home);
        let ids: Vec<SymbolId> = self
            .index
            .symbols()
            .filter(|(_, s)| here(s) && s.parent.is_none() && fits(s.kind))
            .filter(|(_, s)| !s.name.starts_with('_'))
            .map(|(id, _)| id)
            .collect();
        ids.into_iter().for_each(|id| self.symbol(id, ""));
    }

    /// `import` and what follows.
    fn import(&mut self, place: &Place<'_>) {
        let path: Vec<&str> = place
            .statement
            .iter()
            .skip(1)
            .take_while(|t| t.value != Token::OpenBrace)
            .filter(|t| t.value != Token::Dot)
            .map(|t| self.analysis.sources.text(t.span))
            .collect();
        let path = path.join(".");
        if matches!(place.back(1), Some(Token::Import | Token::Dot)) {
            let head = if path.is_empty() { String::new() } else { format!("{path}.") };
            for module in self.modules().into_keys() {
                if let Some(rest) = module.strip_prefix(&head).filter(|rest| !rest.is_empty()) {
                    self.push(rest, ProposalKind::Symbol(SymbolKind::Module));
                }
            }
        }
        let in_braces = matches!(place.back(1), Some(Token::OpenBrace | Token::Comma));
        if place.back(1) != Some(Token::Dot) && !in_braces {
            return;
        }
        match self.modules().get(&path).copied().flatten() {
            Some(home) => self.defined_in(home, importable),
            None => library(&path)
                .into_iter()
                .for_each(|(name, kind)| self.push(&name, ProposalKind::Symbol(kind))),
        }
    }

    /// The modules that may be imported here, as they are written here; those of the library may have no symbol yet.
    fn modules(&self) -> BTreeMap<String, Option<FileId>> {
        let packages = &self.index.packages;
        let path = |file: FileId| self.analysis.sources.get(file).map_or("", |s| s.path.as_str());
        let from = packages.of(path(self.file));
        let library = stdlib::FILES.iter().map(|(path, _)| (dotted(path), None));
        let known = self.index.modules.keys().filter(|file| **file != self.file);
        let known = known.filter_map(|file| {
            let path = path(*file);
            let is_library = Index::is_library(&self.analysis.sources, *file);
            let written = match is_library {
                true => dotted(path),
                false => from.written(&module_name(path), packages.of(path))?,
            };
            Some((written, Some(*file)))
        });
        library.chain(known).collect()
    }

    /// Names that are not in scope, each with the edit that imports it.
    fn imports(&mut self, wanted: Wanted) {
        let Some(scope) = self.index.scopes.get(&self.file) else { return };
        for (module, home) in self.modules() {
            let names: Vec<(String, SymbolKind)> = match home {
                Some(home) => {
                    let here = |s: &&Symbol| s.span.is_some_and(|span| span.file == home);
                    let symbols = self.index.symbols.iter().filter(here);
                    symbols.map(|s| (s.name.clone(), s.kind)).collect()
                }
                None => library(&module),
            };
            for (word, kind) in names {
                // Workloads are named where they are listed; a name with `_` in front stays in its module.
                let is_set = matches!(kind, SymbolKind::Set(_)) && !word.starts_with('_');
                if is_set && fits(kind, wanted) && !scope.names.contains_key(&word) {
                    let import = self.import_edit(&module, &word);
                    self.out.push(Proposal {
                        word,
                        kind: ProposalKind::Symbol(kind),
                        detail: module.clone(),
                        symbol: None,
                        import,
                    });
                }
            }
        }
    }

    fn import_edit(&self, module: &str, word: &str) -> Option<Fix> {
        let tree = self.tree?;
        let mut last = None;
        for item in &tree.items {
            let Kind::Import { path, names } = &item.kind else { continue };
            last = Some(item.span.end);
            let parts: Vec<&str> = path.parts.iter().map(|part| part.value.as_str()).collect();
            if let Some(name) = names.as_ref().and_then(|names| names.last())
                && parts.join(".") == module
            {
                let end = name.span.end as usize;
                let text = format!(", {word}");
                return Some(Fix { span: Span::new(self.file, end, end), text, sure: true });
            }
        }
        let line = format!("import {module}.{{ {word} }}");
        let (at, text) = match (last, tree.items.first()) {
            (Some(end), _) => (end, format!("\n{line}")),
            (None, Some(first)) => {
                let docs = first.docs.first().map(|doc| doc.span.start);
                let marks = first.annotations.first().map(|mark| mark.span.start);
                let above = [docs, marks].into_iter().flatten().min();
                (above.unwrap_or(first.span.start).min(first.span.start), format!("{line}\n\n"))
            }
            (None, None) => (0, format!("{line}\n\n")),
        };
        Some(Fix { span: Span::new(self.file, at as usize, at as usize), text, sure: true })
    }
}

fn fits(kind: SymbolKind, wanted: Wanted) -> bool {
    match (kind, wanted) {
        (SymbolKind::Set(DefineKind::Net), wanted) => wanted != Wanted::Service,
        (SymbolKind::Set(DefineKind::Group), wanted) => {
            !matches!(wanted, Wanted::Service | Wanted::Addresses)
        }
        (SymbolKind::Set(DefineKind::Service), wanted) => {
            matches!(wanted, Wanted::Service | Wanted::Either)
        }
        (SymbolKind::Workload, wanted) => wanted == Wanted::Ends,
        (SymbolKind::Parameter(ParamType::Service), wanted) => wanted == Wanted::Service,
        (SymbolKind::Parameter(ParamType::Endpoints), wanted) => wanted != Wanted::Service,
        _ => false,
    }
}

fn importable(kind: SymbolKind) -> bool {
    match kind {
        SymbolKind::Set(_) | SymbolKind::Workload | SymbolKind::Template | SymbolKind::Label => {
            true
        }
        SymbolKind::Module
        | SymbolKind::Parameter(_)
        | SymbolKind::Value
        | SymbolKind::Block(_)
        | SymbolKind::Claims
        | SymbolKind::Builtin => false,
    }
}

/// What a module of the standard library defines.
fn library(module: &str) -> Vec<(String, SymbolKind)> {
    let file = stdlib::FILES.iter().find(|(path, _)| dotted(path) == module);
    let Some((_, text)) = file else { return vec![] };
    let (tree, _) = parse(FileId(0), text);
    let name = |kind: Kind| match kind {
        Kind::Define { what, name, .. } => Some((name.value, SymbolKind::Set(what))),
        Kind::Label { name, .. } => Some((name.value, SymbolKind::Label)),
        Kind::Template { name, .. } => Some((name.value, SymbolKind::Template)),
        _ => None,
    };
    tree.items.into_iter().filter_map(|item| name(item.kind)).collect()
}

fn dotted(path: &str) -> String {
    module_name(path).replace('/', ".")
}
