//! What the server offers to an editor.

use super::outline;
use super::place::SCHEME;
use super::position::Encoding;
use gen_lsp_types::{
    CodeLensOptions, CompletionOptions, Full, RenameOptions, SemanticTokensLegend,
    SemanticTokensOptions, ServerCapabilities, TextDocumentContentOptions, TextDocumentSyncKind,
    TextDocumentSyncOptions, WorkspaceOptions,
};

/// The capabilities of the server.
pub(crate) fn of_server(encoding: Encoding) -> ServerCapabilities {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let sync = TextDocumentSyncOptions {
        open_close: Some(true),
        change: Some(TextDocumentSyncKind::Incremental),
        will_save: None,
        will_save_wait_until: None,
        save: Some(true.into()),
    };
    let legend = SemanticTokensLegend {
        token_types: words(outline::TOKEN_TYPES),
        token_modifiers: words(outline::TOKEN_MODIFIERS),
    };
    let tokens = SemanticTokensOptions {
        legend,
        range: None,
        full: Some(Full::Bool(true)),
        ..SemanticTokensOptions::default()
    };
    let content = TextDocumentContentOptions { schemes: vec![SCHEME.to_owned()] };
    ServerCapabilities {
        position_encoding: Some(encoding.kind()),
        text_document_sync: Some(sync.into()),
        hover_provider: Some(true.into()),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some(words(&[":", ".", "/", "@", "{", " "])),
            ..CompletionOptions::default()
        }),
        definition_provider: Some(true.into()),
        references_provider: Some(true.into()),
        document_highlight_provider: Some(true.into()),
        rename_provider: Some(
            RenameOptions { prepare_provider: Some(true), ..RenameOptions::default() }.into(),
        ),
        code_action_provider: Some(true.into()),
        document_formatting_provider: Some(true.into()),
        document_symbol_provider: Some(true.into()),
        workspace_symbol_provider: Some(true.into()),
        folding_range_provider: Some(true.into()),
        code_lens_provider: Some(CodeLensOptions::default()),
        semantic_tokens_provider: Some(tokens.into()),
        workspace: Some(WorkspaceOptions {
            text_document_content: Some(content.into()),
            ..WorkspaceOptions::default()
        }),
        ..ServerCapabilities::default()
    }
}
