//! `segc lsp`: the language server. It speaks the Language Server Protocol on standard input and output.
//!
//! [`Server`] takes one message after another and touches no stream, so that tests can talk to it; [`serve`] does the rest.
//! Texts of open documents go before files on disk. What is known about a package is found out when it is asked for,
//! so a row of keystrokes costs one analysis.

mod capabilities;
mod findings;
mod layout;
mod names;
mod outline;
mod place;
mod position;
mod wire;
mod workspace;

use crate::commands::Outcome;
use crate::report::complain;
use gen_lsp_types::{
    CodeActionRequest, CodeLensRequest, CompletionRequest, CompletionResponse, Definition,
    DefinitionRequest, DefinitionResponse, Diagnostic, DidChangeTextDocumentParams,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, DidSaveTextDocumentParams,
    DocumentFormattingRequest, DocumentHighlight, DocumentHighlightRequest, DocumentSymbolRequest,
    DocumentSymbolResponse, FoldingRangeRequest, HoverRequest, InitializeParams, InitializeRequest,
    InitializeResult, LspRequestMethod, PositionEncodingKind, PrepareRenameRequest,
    PublishDiagnosticsParams, ReferencesRequest, RenameRequest, Request, SemanticTokens,
    SemanticTokensRequest, ServerInfo, ShutdownRequest, TextDocumentContentChangeEvent,
    TextDocumentContentRequest, TextDocumentContentResult, Uri, WorkspaceFolders,
    WorkspaceSymbolRequest, WorkspaceSymbolResponse,
};
use lsp_server::{ErrorCode, Message, Notification, RequestId, Response, ResponseError};
use place::{Root, SCHEME};
use position::{Encoding, Lines};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use wire::Bounded;
use workspace::{Document, View, Workspace};

/// Messages read ahead.
const QUEUE_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Started,
    Running,
    ShutDown,
    Exited(Outcome),
}

/// A language server without its streams.
#[derive(Default)]
pub struct Server {
    phase: Phase,
    encoding: Encoding,
    /// Whether the editor shows modules of the standard library.
    shows_library: bool,
    /// Whether the editor can be asked to watch files.
    watches: bool,
    workspace: Workspace,
    /// Roots whose diagnostics may have changed.
    dirty: BTreeSet<Root>,
    /// Documents that were edited since diagnostics were sent.
    edited: BTreeSet<String>,
    /// What was sent, by root and URI.
    published: BTreeMap<Root, BTreeMap<String, Vec<Diagnostic>>>,
}

/// Runs the server on standard input and output until the editor says `exit`.
pub fn serve() -> Outcome {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    // Ends with the process.
    std::thread::spawn(move || {
        let mut from = Bounded(io::stdin().lock());
        loop {
            match Message::read(&mut from) {
                Ok(Some(message)) => {
                    if sender.send(message).is_err() {
                        return;
                    }
                }
                // The next message may be fine. The error may hold all of this one.
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    complain(&format!("segc lsp: {:.200}\n", error.to_string()));
                }
                Ok(None) | Err(_) => return,
            }
        }
    });
    let mut to = io::stdout().lock();
    let mut server = Server::default();
    while let Ok(first) = receiver.recv() {
        let mut next = Some(first);
        while let Some(message) = next.take() {
            // Who asks has heard what there is to say about the text asked about.
            let asks = matches!(message, Message::Request(_));
            let mut answers = if asks { server.settle() } else { vec![] };
            answers.extend(server.receive(message));
            if answers.iter().any(|answer| answer.write(&mut to).is_err()) {
                return Outcome::Findings;
            }
            if let Some(outcome) = server.exited() {
                return outcome;
            }
            next = receiver.try_recv().ok();
        }
        if server.settle().iter().any(|message| message.write(&mut to).is_err()) {
            return Outcome::Findings;
        }
    }
    // The editor is gone without a word.
    Outcome::Findings
}

impl Server {
    /// How the server ended, if it has.
    pub fn exited(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Exited(outcome) => Some(outcome),
            Phase::Started | Phase::Running | Phase::ShutDown => None,
        }
    }

    /// Takes a message and returns those to send.
    pub fn receive(&mut self, message: Message) -> Vec<Message> {
        match message {
            Message::Request(asked) => {
                let work = |server: &mut Self| server.request(&asked.method, asked.params);
                vec![self.answer(asked.id, work).into()]
            }
            Message::Notification(told) => {
                let work = |server: &mut Self| server.notification(&told.method, told.params);
                self.guarded(work).unwrap_or_else(|failure| {
                    complain(&format!("segc lsp: {}: {}\n", told.method, failure.message));
                    vec![]
                })
            }
            // To a request of ours; none of them needs an answer.
            Message::Response(_) => vec![],
        }
    }

    /// Answers the request `id` with what `work` returns; a panic becomes an internal error.
    pub fn answer(
        &mut self,
        id: RequestId,
        work: impl FnOnce(&mut Self) -> Result<Value, ResponseError>,
    ) -> Response {
        Response { id, response_result: self.guarded(work) }
    }

    /// The diagnostics that have changed, as messages to send.
    pub fn settle(&mut self) -> Vec<Message> {
        let mut messages = vec![];
        for root in std::mem::take(&mut self.dirty) {
            match self.guarded(|server| Ok(server.publish(&root))) {
                Ok(changed) => messages.extend(changed),
                Err(failure) => complain(&format!("segc lsp: {}\n", failure.message)),
            }
        }
        self.edited.clear();
        messages
    }

    /// Runs `work`; a panic, whose message the default hook prints, is a failure and takes all derived state with it.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ResponseError>,
    ) -> Result<T, ResponseError> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            self.workspace.forget();
            Err(failure(ErrorCode::InternalError, "a bug in segc; its standard error says more"))
        })
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value, ResponseError> {
        let method = LspRequestMethod::from(method);
        match (self.phase, &method) {
            (Phase::Started, LspRequestMethod::Initialize) | (Phase::Running, _) => {}
            (Phase::Started, _) => {
                return Err(failure(ErrorCode::ServerNotInitialized, "`initialize` comes first"));
            }
            (Phase::ShutDown | Phase::Exited(_), _) => {
                return Err(failure(ErrorCode::InvalidRequest, "the server is shut down"));
            }
        }
        let library = self.shows_library;
        match method {
            LspRequestMethod::Initialize => {
                on::<InitializeRequest>(params, |p| self.initialize(&p))
            }
            LspRequestMethod::Shutdown => on::<ShutdownRequest>(params, |()| {
                self.phase = Phase::ShutDown;
                Ok(())
            }),
            LspRequestMethod::TextDocumentHover => on::<HoverRequest>(params, |p| {
                let p = p.text_document_position_params;
                Ok(self.look(&p.text_document.uri, |view| names::hover(view, p.position)))
            }),
            LspRequestMethod::TextDocumentCompletion => on::<CompletionRequest>(params, |p| {
                let p = p.text_document_position_params;
                let ask = |view: View<'_>| Some(names::completion(view, p.position));
                let list = self.look(&p.text_document.uri, ask);
                Ok(list.map(CompletionResponse::CompletionList))
            }),
            LspRequestMethod::TextDocumentDefinition => on::<DefinitionRequest>(params, |p| {
                let p = p.text_document_position_params;
                let ask = |view: View<'_>| names::definition(view, p.position, library);
                let place = self.look(&p.text_document.uri, ask);
                Ok(place.map(|at| DefinitionResponse::Definition(Definition::Location(at))))
            }),
            LspRequestMethod::TextDocumentReferences => on::<ReferencesRequest>(params, |p| {
                let own = p.context.include_declaration;
                let p = p.text_document_position_params;
                let ask = |view: View<'_>| Some(names::references(view, p.position, own, library));
                Ok(self.look(&p.text_document.uri, ask))
            }),
            LspRequestMethod::TextDocumentDocumentHighlight => {
                on::<DocumentHighlightRequest>(params, |p| {
                    let p = p.text_document_position_params;
                    Ok(self.look(&p.text_document.uri, |view| {
                        let lines = view.lines();
                        let spans = names::highlights(view, p.position).into_iter();
                        let shown =
                            |span| DocumentHighlight { range: lines.range(span), kind: None };
                        Some(spans.map(shown).collect())
                    }))
                })
            }
            LspRequestMethod::TextDocumentPrepareRename => {
                on::<PrepareRenameRequest>(params, |p| {
                    let p = p.text_document_position_params;
                    let ask = |view: View<'_>| Some(names::prepare_rename(view, p.position));
                    self.look(&p.text_document.uri, ask).unwrap_or(Ok(None)).map_err(refused)
                })
            }
            LspRequestMethod::TextDocumentRename => on::<RenameRequest>(params, |p| {
                let new = p.new_name;
                let p = p.text_document_position_params;
                let ask = |view: View<'_>| Some(names::rename(view, p.position, &new));
                self.look(&p.text_document.uri, ask).unwrap_or(Ok(None)).map_err(refused)
            }),
            LspRequestMethod::TextDocumentCodeAction => on::<CodeActionRequest>(params, |p| {
                let ask = |view: View<'_>| Some(findings::actions(view, p.range));
                Ok(self.look(&p.text_document.uri, ask))
            }),
            LspRequestMethod::TextDocumentFormatting => {
                on::<DocumentFormattingRequest>(params, |p| {
                    Ok(self.look(&p.text_document.uri, |view| Some(layout::edits(view))))
                })
            }
            LspRequestMethod::TextDocumentDocumentSymbol => {
                on::<DocumentSymbolRequest>(params, |p| {
                    let list = self.look(&p.text_document.uri, |view| Some(outline::symbols(view)));
                    Ok(list.map(DocumentSymbolResponse::DocumentSymbolList))
                })
            }
            LspRequestMethod::WorkspaceSymbol => on::<WorkspaceSymbolRequest>(params, |p| {
                Ok(Some(WorkspaceSymbolResponse::SymbolInformationList(self.search(&p.query))))
            }),
            LspRequestMethod::TextDocumentFoldingRange => on::<FoldingRangeRequest>(params, |p| {
                Ok(self.look(&p.text_document.uri, |view| Some(outline::folding(view))))
            }),
            LspRequestMethod::TextDocumentCodeLens => on::<CodeLensRequest>(params, |p| {
                Ok(self.look(&p.text_document.uri, |view| Some(outline::lenses(view))))
            }),
            LspRequestMethod::TextDocumentSemanticTokensFull => {
                on::<SemanticTokensRequest>(params, |p| {
                    let data = self.look(&p.text_document.uri, |view| Some(outline::colours(view)));
                    Ok(data.map(|data| SemanticTokens { result_id: None, data }))
                })
            }
            LspRequestMethod::WorkspaceTextDocumentContent => {
                on::<TextDocumentContentRequest>(params, |p| library_text(&p.uri))
            }
            other => Err(failure(
                ErrorCode::MethodNotFound,
                format!("`{}` is not supported", other.as_str()),
            )),
        }
    }

    /// Asks about a document; the default if there is no such document.
    fn look<T>(&mut self, uri: &Uri, ask: impl FnOnce(View<'_>) -> Option<T>) -> Option<T> {
        self.workspace.view(uri, self.encoding, ask).flatten()
    }

    fn initialize(&mut self, params: &InitializeParams) -> Result<InitializeResult, ResponseError> {
        if self.phase != Phase::Started {
            return Err(failure(ErrorCode::InvalidRequest, "`initialize` comes once"));
        }
        self.phase = Phase::Running;
        let capabilities = &params.capabilities;
        let encodings = capabilities.general.as_ref().and_then(|g| g.position_encodings.as_ref());
        // Bytes are what spans are made of.
        if encodings.is_some_and(|known| known.contains(&PositionEncodingKind::UTF8)) {
            self.encoding = Encoding::Utf8;
        }
        let workspace = capabilities.workspace.as_ref();
        self.shows_library = workspace.is_some_and(|w| w.text_document_content.is_some());
        let watched = workspace.and_then(|w| w.did_change_watched_files.as_ref());
        self.watches = watched.is_some_and(|w| w.dynamic_registration == Some(true));
        #[expect(deprecated, reason = "editors without folders send it")]
        let root = params.root_uri.clone();
        let folders = match &params.workspace_folders_initialize_params.workspace_folders {
            Some(WorkspaceFolders::WorkspaceFolderList(folders)) => {
                folders.iter().map(|folder| folder.uri.clone()).collect()
            }
            Some(WorkspaceFolders::Null) | None => root.into_iter().collect::<Vec<_>>(),
        };
        for home in folders.iter().filter_map(place::path_of) {
            if home.join(crate::package::MANIFEST).is_file() {
                self.changed(Root::Package(home));
            }
        }
        let server = ServerInfo {
            name: "segc".to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        let capabilities = capabilities::of_server(self.encoding);
        Ok(InitializeResult { capabilities, server_info: Some(server) })
    }

    fn notification(&mut self, method: &str, params: Value) -> Result<Vec<Message>, ResponseError> {
        if method == "exit" {
            let orderly = self.phase == Phase::ShutDown;
            let outcome = if orderly { Outcome::Clean } else { Outcome::Findings };
            self.phase = Phase::Exited(outcome);
        }
        if self.phase != Phase::Running {
            return Ok(vec![]);
        }
        match method {
            "initialized" => return Ok(self.watch()),
            "textDocument/didOpen" => {
                let DidOpenTextDocumentParams { text_document: opened } = read(params)?;
                let document = Document { text: opened.text, version: opened.version };
                self.workspace.open.insert(opened.uri.0.clone(), document);
                self.edit(&opened.uri);
            }
            "textDocument/didChange" => self.change(read(params)?)?,
            "textDocument/didSave" => {
                let DidSaveTextDocumentParams { text_document, .. } = read(params)?;
                let (root, _) = Root::of(&text_document.uri);
                self.workspace.reload(&root);
                self.changed(root);
            }
            "textDocument/didClose" => {
                let DidCloseTextDocumentParams { text_document } = read(params)?;
                self.workspace.open.remove(&text_document.uri.0);
                let (root, _) = Root::of(&text_document.uri);
                self.workspace.reload(&root);
                self.changed(root);
            }
            "workspace/didChangeWatchedFiles" => {
                // A manifest that comes or goes moves files from one root to another.
                self.workspace.forget();
                let open = self.workspace.open.keys().map(|uri| Root::of(&Uri(uri.clone())).0);
                self.dirty.extend(open.collect::<Vec<_>>());
                self.dirty.extend(self.workspace.roots());
            }
            // Notifications may be ignored; those that begin with `$/` are meant to be.
            _ => {}
        }
        Ok(vec![])
    }

    /// Asks the editor to tell about changes on disk.
    fn watch(&self) -> Vec<Message> {
        if !self.watches {
            return vec![];
        }
        let watchers = json!([{ "globPattern": "**/*.seg" }, { "globPattern": "**/seg.toml" }]);
        let registration = json!({
            "id": "watch",
            "method": "workspace/didChangeWatchedFiles",
            "registerOptions": { "watchers": watchers },
        });
        let params = json!({ "registrations": [registration] });
        let method = "client/registerCapability".to_owned();
        vec![lsp_server::Request::new("watch".to_owned().into(), method, params).into()]
    }

    fn change(&mut self, params: DidChangeTextDocumentParams) -> Result<(), ResponseError> {
        let uri = Uri(params.text_document.text_document_identifier.uri.0);
        let encoding = self.encoding;
        let Some(document) = self.workspace.open.get_mut(&uri.0) else {
            return Err(failure(ErrorCode::InvalidParams, format!("{} is not open", uri.0)));
        };
        for change in params.content_changes {
            match change {
                TextDocumentContentChangeEvent::TextDocumentContentChangePartial(part) => {
                    let bytes = Lines::new(&document.text, encoding).bytes(part.range);
                    document.text.replace_range(bytes, &part.text);
                }
                TextDocumentContentChangeEvent::TextDocumentContentChangeWholeDocument(whole) => {
                    document.text = whole.text;
                }
            }
        }
        document.version = params.text_document.version;
        self.edit(&uri);
        Ok(())
    }

    fn edit(&mut self, uri: &Uri) {
        self.edited.insert(uri.0.clone());
        self.changed(Root::of(uri).0);
    }

    fn changed(&mut self, root: Root) {
        self.workspace.touch(&root);
        self.dirty.insert(root);
    }

    /// Finds out the diagnostics of a root; returns messages for those that the editor does not have.
    fn publish(&mut self, root: &Root) -> Vec<Message> {
        let gone = match root {
            Root::Single(uri) => {
                let here = Root::of(&Uri(uri.clone())).0 == *root;
                !here || !self.workspace.open.contains_key(uri)
            }
            Root::Package(home) => !home.join(crate::package::MANIFEST).is_file(),
        };
        let found = if gone {
            self.workspace.drop(root);
            BTreeMap::new()
        } else {
            findings::by_uri(root, self.workspace.known(root), self.encoding)
        };
        let before = self.published.remove(root).unwrap_or_default();
        let mut uris: BTreeSet<&String> = before.keys().chain(found.keys()).collect();
        let edited = self.edited.iter();
        uris.extend(edited.filter(|uri| Root::of(&Uri((*uri).clone())).0 == *root));
        let mut messages = vec![];
        for uri in uris {
            if before.get(uri) == found.get(uri) && !self.edited.contains(uri) {
                continue;
            }
            let params = PublishDiagnosticsParams {
                uri: Uri(uri.clone()),
                version: self.workspace.open.get(uri).map(|document| document.version),
                diagnostics: found.get(uri).cloned().unwrap_or_default(),
            };
            let method = "textDocument/publishDiagnostics".to_owned();
            messages.push(Notification::new(method, params).into());
        }
        if !found.is_empty() {
            self.published.insert(root.clone(), found);
        }
        messages
    }

    fn search(&mut self, query: &str) -> Vec<gen_lsp_types::SymbolInformation> {
        let mut found = vec![];
        for root in self.workspace.roots() {
            let known = self.workspace.known(&root);
            let file = seg_lang::source::FileId(0);
            let view = View { root: &root, known, file, encoding: self.encoding };
            found.extend(outline::search(view, query));
        }
        found
    }
}

/// Reads the parameters of a request, and writes its result.
fn on<R: Request>(
    params: Value,
    work: impl FnOnce(R::Params) -> Result<R::Result, ResponseError>,
) -> Result<Value, ResponseError> {
    let result = work(read(params)?)?;
    serde_json::to_value(result).map_err(|e| failure(ErrorCode::InternalError, e.to_string()))
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, ResponseError> {
    serde_json::from_value(params).map_err(|e| failure(ErrorCode::InvalidParams, e.to_string()))
}

fn refused(why: String) -> ResponseError {
    failure(ErrorCode::RequestFailed, why)
}

/// Why a request gets no result.
fn failure(code: ErrorCode, message: impl Into<String>) -> ResponseError {
    ResponseError { code: code as i32, message: message.into(), data: None }
}

/// A module of the standard library, for editors that show them.
fn library_text(uri: &Uri) -> Result<TextDocumentContentResult, ResponseError> {
    let path = uri.0.strip_prefix(SCHEME).map(|rest| rest.trim_start_matches([':', '/']));
    let file = seg_lang::stdlib::FILES.iter().find(|(known, _)| Some(*known) == path);
    match file {
        Some((_, text)) => Ok(TextDocumentContentResult { text: (*text).to_owned() }),
        None => Err(refused(format!("no module `{}`", uri.0))),
    }
}
