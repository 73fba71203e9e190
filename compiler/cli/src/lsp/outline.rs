//! What a document consists of: symbols, folding, lenses, colours.

use super::names::kind_word;
use super::place::Root;
use super::position::{Lines, number};
use super::workspace::View;
use crate::describe::count;
use gen_lsp_types::{
    BaseSymbolInformation, CodeLens, Command, DocumentSymbol, FoldingRange, FoldingRangeKind,
    Location, SemanticToken, SymbolInformation, SymbolKind as Shown,
};
use seg_lang::ast::{DefineKind, Item, Kind};
use seg_lang::index::{Index, Symbol, SymbolKind};
use seg_lang::lex::{Lexed, lex};
use seg_lang::source::Span;
use seg_lang::token::Token;
use serde_json::json;

/// The command behind the lens of a test: the editor runs `segc test` on its first argument.
pub(crate) const RUN_TEST: &str = "seg.runTest";

/// The classes of semantic tokens; [`colour`] counts from the first.
pub(crate) const TOKEN_TYPES: &[&str] = &[
    "keyword",
    "comment",
    "string",
    "number",
    "operator",
    "namespace",
    "type",
    "interface",
    "variable",
    "function",
    "parameter",
    "property",
    "enumMember",
    "class",
    "decorator",
];
const KEYWORD: u32 = 0;
const COMMENT: u32 = 1;
const STRING: u32 = 2;
const NUMBER: u32 = 3;
const OPERATOR: u32 = 4;
const DECORATOR: u32 = 14;

/// The modifiers of semantic tokens, lowest bit first.
pub(crate) const TOKEN_MODIFIERS: &[&str] = &["declaration", "documentation", "defaultLibrary"];
const DECLARATION: u32 = 1;
const DOCUMENTATION: u32 = 2;
const LIBRARY: u32 = 4;

fn items<'a>(view: View<'a>) -> &'a [Item] {
    let tree = view.analysis().trees.iter().find(|(file, _)| *file == view.file);
    tree.map_or(&[], |(_, tree)| tree.items.as_slice())
}

/// `textDocument/documentSymbol`.
pub(crate) fn symbols(view: View<'_>) -> Vec<DocumentSymbol> {
    let index = view.known.index();
    let lines = view.lines();
    let here = |symbol: &Symbol| symbol.span.filter(|span| span.file == view.file);
    let mut found: Vec<(Span, DocumentSymbol)> = vec![];
    for (id, symbol) in index.symbols().filter(|(_, symbol)| symbol.parent.is_none()) {
        let (Some(span), Some(item)) = (here(symbol), symbol.item) else { continue };
        let children = index.symbols().filter(|_| symbol.kind == SymbolKind::Template);
        let children = children.filter(|(_, child)| child.parent == Some(id));
        let children: Vec<DocumentSymbol> = children
            .filter_map(|(_, child)| Some(entry(&lines, child, child.item?, child.span?)))
            .collect();
        let mut entry = entry(&lines, symbol, item, span);
        entry.children = (!children.is_empty()).then_some(children);
        found.push((span, entry));
    }
    found.sort_by_key(|(span, _)| *span);
    found.into_iter().map(|(_, entry)| entry).collect()
}

fn entry(lines: &Lines<'_>, symbol: &Symbol, item: Span, span: Span) -> DocumentSymbol {
    #[expect(deprecated, reason = "the field has to be set all the same")]
    DocumentSymbol {
        name: shown_name(symbol),
        detail: Some(kind_word(symbol.kind).to_owned()),
        kind: shown_kind(symbol.kind),
        tags: None,
        deprecated: None,
        range: lines.range(item),
        selection_range: lines.range(span),
        children: None,
    }
}

/// The protocol takes no empty name.
fn shown_name(symbol: &Symbol) -> String {
    if symbol.name.trim().is_empty() { "\"\"".to_owned() } else { symbol.name.clone() }
}

fn shown_kind(kind: SymbolKind) -> Shown {
    match kind {
        SymbolKind::Module => Shown::Module,
        SymbolKind::Set(DefineKind::Net) => Shown::Array,
        SymbolKind::Set(DefineKind::Group) | SymbolKind::Builtin => Shown::Variable,
        SymbolKind::Set(DefineKind::Service) => Shown::Interface,
        SymbolKind::Workload => Shown::Struct,
        SymbolKind::Template => Shown::Function,
        SymbolKind::Parameter(_) => Shown::TypeParameter,
        SymbolKind::Label => Shown::Enum,
        SymbolKind::Value => Shown::EnumMember,
        SymbolKind::Block(_) => Shown::Class,
        SymbolKind::Claims => Shown::Event,
    }
}

/// `workspace/symbol`: what a package defines and the letters of the query occur in, in that order.
pub(crate) fn search(view: View<'_>, query: &str) -> Vec<SymbolInformation> {
    let sources = &view.analysis().sources;
    let fits = |symbol: &&Symbol| {
        let named = !matches!(symbol.kind, SymbolKind::Value | SymbolKind::Parameter(_));
        named && subsequence(query, &symbol.name)
    };
    view.known
        .index()
        .symbols()
        .map(|(_, symbol)| symbol)
        .filter(fits)
        .filter_map(|symbol| {
            let span = symbol.span.filter(|span| !Index::is_library(sources, span.file))?;
            let location: Location = view.location(span);
            #[expect(deprecated, reason = "the field has to be set all the same")]
            Some(SymbolInformation {
                deprecated: None,
                location,
                base_symbol_information: BaseSymbolInformation {
                    name: shown_name(symbol),
                    kind: shown_kind(symbol.kind),
                    tags: None,
                    container_name: sources.get(span.file).map(|source| source.path.clone()),
                },
            })
        })
        .collect()
}

fn subsequence(query: &str, name: &str) -> bool {
    let mut letters = name.chars().flat_map(char::to_lowercase);
    query.chars().flat_map(char::to_lowercase).all(|wanted| letters.any(|c| c == wanted))
}

/// `textDocument/foldingRange`: blocks of more than one line, imports, and comments.
pub(crate) fn folding(view: View<'_>) -> Vec<FoldingRange> {
    let lines = view.lines();
    let line = |offset: u32| lines.position(offset).line;
    let mut found = vec![];
    let mut fold = |start_line: u32, end_line: u32, kind: Option<FoldingRangeKind>| {
        if start_line < end_line {
            found.push(FoldingRange {
                start_line,
                start_character: None,
                end_line,
                end_character: None,
                kind,
                collapsed_text: None,
            });
        }
    };
    let mut imports: Option<(u32, u32)> = None;
    for item in items(view) {
        let (first, last) = (line(item.span.start), line(item.span.end));
        if let Kind::Import { .. } = item.kind {
            imports = Some((imports.map_or(first, |(first, _)| first), last));
            continue;
        }
        if let Some((first, last)) = imports.take() {
            fold(first, last, Some(FoldingRangeKind::Imports));
        }
        fold(first, last, None);
        if let Kind::Block { items, .. } | Kind::Template { items, .. } = &item.kind {
            items.iter().for_each(|i| fold(line(i.span.start), line(i.span.end), None));
        }
    }
    if let Some((first, last)) = imports {
        fold(first, last, Some(FoldingRangeKind::Imports));
    }
    let Lexed { tokens, comments, .. } = lex(view.file, view.text());
    let docs = tokens.iter().filter(|t| matches!(t.value, Token::Doc(_))).map(|t| t.span);
    let mut marks: Vec<u32> = comments.into_iter().chain(docs).map(|s| line(s.start)).collect();
    marks.sort_unstable();
    for run in marks.chunk_by(|a, b| a + 1 == *b) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            fold(*first, *last, Some(FoldingRangeKind::Comment));
        }
    }
    found.sort_by_key(|range| (range.start_line, range.end_line));
    found
}

/// `textDocument/codeLens`: each `test` can be run, and says how much it claims.
pub(crate) fn lenses(view: View<'_>) -> Vec<CodeLens> {
    let lines = view.lines();
    let target = match view.root {
        Root::Package(home) => home.display().to_string(),
        Root::Single(uri) => super::place::path_of(&gen_lsp_types::Uri(uri.clone()))
            .map_or_else(|| uri.clone(), |path| path.display().to_string()),
    };
    let mut found = vec![];
    for item in items(view) {
        let Kind::Claims { title, claims, .. } = &item.kind else { continue };
        let range = lines.range(title.span);
        let arguments = Some(vec![json!(target), json!(title.value)]);
        let lens = |title: String, command: &str, arguments| CodeLens {
            range,
            command: Some(Command { title, tooltip: None, command: command.to_owned(), arguments }),
            data: None,
        };
        found.push(lens("run test".to_owned(), RUN_TEST, arguments));
        // A lens without a command is a remark.
        found.push(lens(count(claims.len(), "claim"), "", None));
    }
    found
}

/// `textDocument/semanticTokens/full`.
pub(crate) fn colours(view: View<'_>) -> Vec<SemanticToken> {
    let text = view.text();
    let index = view.known.index();
    let lines = view.lines();
    let Lexed { tokens, comments, .. } = lex(view.file, text);
    let mut found: Vec<(Span, u32, u32)> = comments.iter().map(|s| (*s, COMMENT, 0)).collect();
    let mentions = index.in_file(view.file);
    for mention in mentions {
        let Some(symbol) = index.symbol(mention.symbol) else { continue };
        // A module path is several tokens; its last part stands for it.
        let class = colour(symbol.kind);
        let home = symbol.span.map(|span| span.file);
        let library = home.is_none_or(|file| Index::is_library(&view.analysis().sources, file));
        let library = library && symbol.kind != SymbolKind::Value;
        let modifiers = if mention.defines { DECLARATION } else { 0 };
        found.push((mention.span, class, modifiers | if library { LIBRARY } else { 0 }));
    }
    let named = |span: Span| {
        let next = mentions.partition_point(|m| m.span.end <= span.start);
        mentions.get(next).is_some_and(|m| m.span.start < span.end)
    };
    let mut after_mark = false;
    for token in &tokens {
        let (class, modifiers) = match token.value {
            Token::Ident(_) if after_mark => (DECORATOR, 0),
            Token::Doc(_) => (COMMENT, DOCUMENTATION),
            Token::String(_) if !named(token.span) => (STRING, 0),
            Token::Number(_)
            | Token::Date(_)
            | Token::Address(_)
            | Token::Prefix(..)
            | Token::Word(_)
                if !named(token.span) =>
            {
                (NUMBER, 0)
            }
            Token::To | Token::Both | Token::Reach | Token::And => (OPERATOR, 0),
            value if value.keyword_text().is_some() && !named(token.span) => (KEYWORD, 0),
            _ => {
                after_mark = token.value == Token::Mark;
                continue;
            }
        };
        after_mark = false;
        found.push((token.span, class, modifiers));
    }
    found.sort_by_key(|(span, ..)| *span);
    found.dedup_by(|b, a| b.0.start < a.0.end);
    relative(&lines, view, &found)
}

/// Tokens as distances from the one before; none spans two lines.
fn relative(lines: &Lines<'_>, view: View<'_>, found: &[(Span, u32, u32)]) -> Vec<SemanticToken> {
    let (mut line, mut character) = (0, 0);
    let mut out = vec![];
    for (span, token_type, token_modifiers_bitset) in found {
        let start = lines.position(span.start);
        let end = lines.position(span.end);
        let length = if start.line == end.line {
            end.character - start.character
        } else {
            let text = view.analysis().sources.text(*span);
            number(view.encoding.units(text.lines().next().unwrap_or_default()))
        };
        let delta_line = start.line - line;
        let delta_start =
            if delta_line == 0 { start.character - character } else { start.character };
        (line, character) = (start.line, start.character);
        out.push(SemanticToken {
            delta_line,
            delta_start,
            length,
            token_type: *token_type,
            token_modifiers_bitset: *token_modifiers_bitset,
        });
    }
    out
}

fn colour(kind: SymbolKind) -> u32 {
    match kind {
        SymbolKind::Module => 5,
        SymbolKind::Set(DefineKind::Net | DefineKind::Group) => 6,
        SymbolKind::Set(DefineKind::Service) => 7,
        SymbolKind::Workload | SymbolKind::Builtin => 8,
        SymbolKind::Template => 9,
        SymbolKind::Parameter(_) => 10,
        SymbolKind::Label => 11,
        SymbolKind::Value => 12,
        SymbolKind::Block(_) | SymbolKind::Claims => 13,
    }
}
