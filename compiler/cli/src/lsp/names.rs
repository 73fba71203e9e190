//! What an editor asks about names: what they are, where they are, what else they could be called.

use super::findings::edit;
use super::workspace::View;
use gen_lsp_types::{
    CompletionItem, CompletionItemKind, CompletionItemTextEdit, CompletionList, Contents,
    Documentation, Hover, Location, MarkupContent, MarkupKind, Position, PrepareRenamePlaceholder,
    PrepareRenameResult, TextEdit, WorkspaceEdit,
};
use seg_lang::ast::DefineKind;
use seg_lang::index::{Index, Mention, Proposal, ProposalKind, SymbolId, SymbolKind};
use seg_lang::source::Span;

fn at<'a>(view: View<'a>, position: Position) -> Option<&'a Mention> {
    view.known.index().at(view.file, super::position::number(view.lines().offset(position)))
}

/// `textDocument/hover`.
pub(crate) fn hover(view: View<'_>, position: Position) -> Option<Hover> {
    let lines = view.lines();
    let offset = super::position::number(lines.offset(position));
    let found = view.known.index().hover(view.analysis(), &view.known.config, view.file, offset)?;
    let contents = Contents::MarkupContent(markdown(found.text));
    Some(Hover { contents, range: Some(lines.range(found.span)) })
}

fn markdown(value: String) -> MarkupContent {
    MarkupContent { kind: MarkupKind::Markdown, value }
}

/// `textDocument/definition`; modules of the standard library only for editors that can show them.
pub(crate) fn definition(view: View<'_>, position: Position, library: bool) -> Option<Location> {
    let index = view.known.index();
    let span = index.symbol(at(view, position)?.symbol)?.span?;
    let is_shown = library || !Index::is_library(&view.analysis().sources, span.file);
    is_shown.then(|| view.location(span))
}

/// `textDocument/references`.
pub(crate) fn references(
    view: View<'_>,
    position: Position,
    declaration: bool,
    library: bool,
) -> Vec<Location> {
    let Some(found) = at(view, position) else { return vec![] };
    let sources = &view.analysis().sources;
    view.known
        .index()
        .mentions(found.symbol)
        .filter(|mention| declaration || !mention.defines)
        .filter(|mention| library || !Index::is_library(sources, mention.span.file))
        .map(|mention| view.location(mention.span))
        .collect()
}

/// `textDocument/documentHighlight`.
pub(crate) fn highlights(view: View<'_>, position: Position) -> Vec<Span> {
    let Some(found) = at(view, position) else { return vec![] };
    let mentions = view.known.index().in_file(view.file).iter();
    mentions.filter(|mention| mention.symbol == found.symbol).map(|mention| mention.span).collect()
}

/// `textDocument/prepareRename`.
///
/// # Errors
/// Why the name cannot be changed.
pub(crate) fn prepare_rename(
    view: View<'_>,
    position: Position,
) -> Result<Option<PrepareRenameResult>, String> {
    let Some(found) = at(view, position) else { return Ok(None) };
    let sources = &view.analysis().sources;
    view.known.index().renameable(sources, found.symbol)?;
    let placeholder = sources.text(found.span).to_owned();
    let range = view.lines().range(found.span);
    let place = PrepareRenamePlaceholder { range, placeholder };
    Ok(Some(PrepareRenameResult::PrepareRenamePlaceholder(place)))
}

/// `textDocument/rename`.
///
/// # Errors
/// Why the name cannot be changed to that.
pub(crate) fn rename(
    view: View<'_>,
    position: Position,
    new: &str,
) -> Result<Option<WorkspaceEdit>, String> {
    let Some(found) = at(view, position) else { return Ok(None) };
    let places = view.known.index().rename(&view.analysis().sources, found.symbol, new)?;
    Ok(Some(edit(view, places.into_iter().map(|span| (span, new)))))
}

/// `textDocument/completion`.
pub(crate) fn completion(view: View<'_>, position: Position) -> CompletionList {
    let lines = view.lines();
    let index = view.known.index();
    let offset = super::position::number(lines.offset(position));
    let found = index.complete(view.analysis(), view.file, offset);
    let items = found.map_or_else(Vec::new, |found| {
        let range = lines.range(found.replace);
        let item = |proposal: &Proposal| {
            let edit = TextEdit { range, new_text: proposal.word.clone() };
            let import = proposal.import.as_ref().map(|fix| {
                vec![TextEdit { range: lines.range(fix.span), new_text: fix.text.clone() }]
            });
            CompletionItem {
                label: proposal.word.clone(),
                kind: Some(item_kind(proposal.kind)),
                detail: detail(index, proposal),
                documentation: docs(index, proposal.symbol),
                sort_text: Some(format!("{}{}", rank(proposal), proposal.word)),
                text_edit: Some(CompletionItemTextEdit::TextEdit(edit)),
                additional_text_edits: import,
                ..CompletionItem::default()
            }
        };
        found.proposals.iter().map(item).collect()
    });
    CompletionList { is_incomplete: false, item_defaults: None, apply_kind: None, items }
}

/// Names before keywords before what would have to be imported.
fn rank(proposal: &Proposal) -> u8 {
    match (&proposal.import, proposal.kind) {
        (Some(_), _) => 3,
        (None, ProposalKind::Keyword) => 2,
        (None, ProposalKind::Symbol(_) | ProposalKind::Annotation | ProposalKind::Number) => 1,
    }
}

fn docs(index: &Index, symbol: Option<SymbolId>) -> Option<Documentation> {
    let docs = symbol.and_then(|id| index.symbol(id)).map(|symbol| symbol.docs.clone())?;
    (!docs.is_empty()).then(|| Documentation::MarkupContent(markdown(docs)))
}

fn detail(index: &Index, proposal: &Proposal) -> Option<String> {
    if !proposal.detail.is_empty() {
        return Some(format!("import {}", proposal.detail));
    }
    let symbol = proposal.symbol.and_then(|id| index.symbol(id))?;
    match (symbol.kind, symbol.parent.and_then(|id| index.symbol(id))) {
        (SymbolKind::Value, Some(label)) => Some(format!("{}:{}", label.name, symbol.name)),
        (kind, _) => Some(kind_word(kind).to_owned()),
    }
}

/// The word for a kind of symbol.
pub(crate) fn kind_word(kind: SymbolKind) -> &'static str {
    match kind {
        SymbolKind::Module => "module",
        SymbolKind::Set(DefineKind::Net) => "net",
        SymbolKind::Set(DefineKind::Service) => "service",
        SymbolKind::Set(DefineKind::Group) => "group",
        SymbolKind::Workload => "workload",
        SymbolKind::Template => "template",
        SymbolKind::Parameter(_) => "parameter",
        SymbolKind::Label => "label",
        SymbolKind::Value => "value",
        SymbolKind::Block(tier) => seg_lang::policy::text::tier(tier),
        SymbolKind::Claims => "test",
        SymbolKind::Builtin => "built in",
    }
}

fn item_kind(kind: ProposalKind) -> CompletionItemKind {
    match kind {
        ProposalKind::Keyword => CompletionItemKind::Keyword,
        ProposalKind::Annotation => CompletionItemKind::Property,
        ProposalKind::Number => CompletionItemKind::Constant,
        ProposalKind::Symbol(kind) => match kind {
            SymbolKind::Module => CompletionItemKind::Module,
            SymbolKind::Set(DefineKind::Service) => CompletionItemKind::Interface,
            SymbolKind::Set(DefineKind::Net | DefineKind::Group) | SymbolKind::Builtin => {
                CompletionItemKind::Variable
            }
            SymbolKind::Workload => CompletionItemKind::Struct,
            SymbolKind::Template => CompletionItemKind::Function,
            SymbolKind::Parameter(_) => CompletionItemKind::TypeParameter,
            SymbolKind::Label => CompletionItemKind::Field,
            SymbolKind::Value => CompletionItemKind::EnumMember,
            SymbolKind::Block(_) => CompletionItemKind::Class,
            SymbolKind::Claims => CompletionItemKind::Event,
        },
    }
}
