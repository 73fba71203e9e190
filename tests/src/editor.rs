//! An editor that talks to `segc lsp`: over its standard streams, or to the server in this process.
//!
//! It keeps the texts itself and counts positions itself, so that nothing is checked against the server's own opinion.

use crate::random::Random;
use crate::{harness, tools};
use lsp_server::Message;
use seg_lang::analyze::{Config, analyze};
use seg_lang::index::Index;
use seg_lang::lex;
use seg_lang::source::{FileId, Sources, Span};
use segc::lsp::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Something that takes messages and gives answers.
pub trait Peer {
    /// Sends one message and returns what came back: until the answer to a request, until diagnostics after an edit.
    fn exchange(&mut self, message: &Value) -> Vec<Value>;
}

fn value(message: &Message) -> Value {
    serde_json::to_value(message).expect("JSON")
}

/// The server in this process.
#[derive(Default)]
pub struct InProcess(pub Server);

impl Peer for InProcess {
    fn exchange(&mut self, message: &Value) -> Vec<Value> {
        let mut answers =
            self.0.receive(serde_json::from_value(message.clone()).expect("a message"));
        answers.extend(self.0.settle());
        answers.iter().map(value).collect()
    }
}

/// A running `segc lsp`.
pub struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the server in a folder.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path) -> Self {
        let mut segc = Command::new(tools::binaries().join("segc"));
        segc.arg("lsp").current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = segc.spawn().expect("segc starts");
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, to, from }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the server is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        use std::io::Write;
        self.to.write_all(bytes).and_then(|()| self.to.flush()).expect("the server listens");
    }

    /// The next message.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&mut self) -> Value {
        value(&Message::read(&mut self.from).expect("readable").expect("a message"))
    }

    /// Closes the streams and waits; the exit code, and what came behind the last message.
    ///
    /// # Panics
    /// If the server cannot be waited for.
    pub fn end(self) -> (Option<i32>, Vec<u8>) {
        use std::io::Read;
        let Self { mut child, to, mut from } = self;
        drop(to);
        let mut rest = Vec::new();
        from.read_to_end(&mut rest).expect("readable");
        (child.wait().expect("it ends").code(), rest)
    }
}

impl Peer for Process {
    fn exchange(&mut self, message: &Value) -> Vec<Value> {
        let text = message.to_string();
        self.send_raw(format!("Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
        let method = message["method"].as_str().unwrap_or_default();
        let edits = ["textDocument/didOpen", "textDocument/didChange"];
        let mut answers = Vec::new();
        if message.get("id").is_none() && !edits.contains(&method) {
            return answers;
        }
        loop {
            let answer = self.read();
            let is_last = match message.get("id") {
                Some(id) => answer.get("id") == Some(id),
                None => {
                    answer["method"] == "textDocument/publishDiagnostics"
                        && answer["params"]["uri"] == message["params"]["textDocument"]["uri"]
                }
            };
            answers.push(answer);
            if is_last {
                return answers;
            }
        }
    }
}

/// An editor: open texts, and the diagnostics it was told last.
pub struct Editor<P> {
    /// The server.
    pub peer: P,
    /// The open texts by URI.
    pub texts: BTreeMap<String, String>,
    /// Diagnostics by URI, as sent.
    pub diagnostics: BTreeMap<String, Vec<Value>>,
    /// Whether columns count bytes.
    utf8: bool,
    version: i32,
    next: u64,
}

impl<P: Peer> Editor<P> {
    /// Introduces itself; `capabilities` are those of the editor.
    ///
    /// # Errors
    /// What the server says.
    pub fn new(peer: P, capabilities: Value) -> Result<Self, String> {
        let (texts, diagnostics) = (BTreeMap::new(), BTreeMap::new());
        let mut editor = Self { peer, texts, diagnostics, utf8: false, version: 0, next: 0 };
        let params = json!({ "processId": null, "rootUri": null, "capabilities": capabilities });
        let result = editor.request("initialize", params)?;
        editor.utf8 = result["capabilities"]["positionEncoding"] == "utf-8";
        editor.notify("initialized", json!({}));
        Ok(editor)
    }

    /// Sends a message and takes note of diagnostics; the other answers.
    pub fn exchange(&mut self, message: &Value) -> Vec<Value> {
        let mut others = Vec::new();
        for answer in self.peer.exchange(message) {
            if answer["method"] != "textDocument/publishDiagnostics" {
                others.push(answer);
                continue;
            }
            let uri = answer["params"]["uri"].as_str().expect("a URI").to_owned();
            // That of a document which is not open is not said.
            assert!(answer["params"]["version"].as_i64() <= Some(self.version.into()), "{answer}");
            let list = answer["params"]["diagnostics"].as_array().expect("a list").clone();
            self.diagnostics.insert(uri, list);
        }
        others
    }

    /// Asks something.
    ///
    /// # Errors
    /// The code and message of an error.
    ///
    /// # Panics
    /// If there is not exactly one answer.
    pub fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next += 1;
        let id = self.next;
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let answers = self.exchange(&message);
        let mut own = answers.iter().filter(|answer| answer["id"] == id);
        let (Some(answer), None) = (own.next(), own.next()) else {
            panic!("{method}: answers {answers:?}")
        };
        match answer.get("error") {
            Some(error) => Err(format!("{}: {}", error["code"], error["message"])),
            None => Ok(answer.get("result").cloned().expect("a result or an error")),
        }
    }

    /// Tells something.
    pub fn notify(&mut self, method: &str, params: Value) -> Vec<Value> {
        self.exchange(&json!({ "jsonrpc": "2.0", "method": method, "params": params }))
    }

    /// Opens a document.
    pub fn open(&mut self, uri: &str, text: &str) {
        self.version += 1;
        self.texts.insert(uri.to_owned(), text.to_owned());
        let document =
            json!({ "uri": uri, "languageId": "seg", "version": self.version, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
    }

    /// Replaces a range of bytes of a document, several in one message if there are several.
    ///
    /// # Panics
    /// If the document is not open or a range does not fit it.
    pub fn edit(&mut self, uri: &str, edits: &[(std::ops::Range<usize>, String)]) {
        self.version += 1;
        let mut text = self.texts.get(uri).expect("an open document").clone();
        let mut changes = Vec::new();
        for (range, new) in edits {
            let (start, end) = (self.position(&text, range.start), self.position(&text, range.end));
            changes.push(json!({ "range": { "start": start, "end": end }, "text": new }));
            text.replace_range(range.clone(), new);
        }
        self.texts.insert(uri.to_owned(), text);
        self.change(uri, &json!(changes));
    }

    /// Replaces a whole document.
    pub fn replace(&mut self, uri: &str, text: &str) {
        self.version += 1;
        self.texts.insert(uri.to_owned(), text.to_owned());
        self.change(uri, &json!([{ "text": text }]));
    }

    fn change(&mut self, uri: &str, changes: &Value) {
        let document = json!({ "uri": uri, "version": self.version });
        let params = json!({ "textDocument": document, "contentChanges": changes });
        self.notify("textDocument/didChange", params);
    }

    /// The position of an offset as this editor counts.
    pub fn position(&self, text: &str, offset: usize) -> Value {
        let (mut line, mut start) = (0, 0);
        for (at, c) in text[..offset].char_indices() {
            let crlf = c == '\r' && text[at + 1..].starts_with('\n');
            if c == '\n' || c == '\r' && !crlf {
                line += 1;
                start = at + 1;
            }
        }
        let units =
            if self.utf8 { offset - start } else { text[start..offset].encode_utf16().count() };
        json!({ "line": line, "character": units })
    }

    /// Parameters that name the place where `mark` begins in a document, `behind` bytes on.
    ///
    /// # Panics
    /// If it is not there.
    pub fn at(&self, uri: &str, mark: &str, behind: usize) -> Value {
        let text = self.texts.get(uri).expect("an open document");
        let offset = text.find(mark).unwrap_or_else(|| panic!("no {mark:?} in {uri}")) + behind;
        json!({ "textDocument": { "uri": uri }, "position": self.position(text, offset) })
    }

    /// Waits until the server has said everything about what it was told.
    ///
    /// # Errors
    /// What the server says.
    pub fn catch_up(&mut self) -> Result<(), String> {
        self.request("workspace/symbol", json!({ "query": "no such name" })).map(drop)
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// What the server says.
    pub fn shut_down(&mut self) -> Result<(), String> {
        self.request("shutdown", Value::Null)?;
        self.notify("exit", Value::Null);
        Ok(())
    }

    /// What a fresh check says of the open texts, and what this editor was told, in one form.
    fn compare(&self, root: &str) -> (Vec<String>, Vec<String>) {
        let mut sources = Sources::default();
        for (uri, text) in &self.texts {
            sources.add(uri.strip_prefix(root).unwrap_or(uri), text.as_str());
        }
        let analysis = analyze(sources);
        let mut fresh = Vec::new();
        for found in &analysis.diagnostics {
            let label = found.labels.first().expect("a place");
            let source = analysis.sources.get(label.span.file).expect("a file");
            let position = |offset: u32| self.position(&source.text, offset as usize);
            let (start, end) = (position(label.span.start), position(label.span.end));
            let uri = format!("{root}{}", source.path);
            fresh.push(format!("{uri} {start}-{end} {} {}", found.code.0, found.message));
        }
        let mut told = Vec::new();
        for (uri, list) in &self.diagnostics {
            for found in list {
                let (start, end) = (&found["range"]["start"], &found["range"]["end"]);
                let message = found["message"].as_str().unwrap_or_default();
                // Notes follow on lines of their own.
                let message = message.lines().next().unwrap_or_default();
                let code = found["code"].as_str().unwrap_or_default();
                told.push(format!("{uri} {start}-{end} {code} {message}"));
            }
        }
        fresh
            .iter_mut()
            .for_each(|line| *line = line.lines().next().unwrap_or_default().to_owned());
        fresh.sort();
        told.sort();
        (fresh, told)
    }
}

/// Edits an example at random and asks at random; after every few edits the diagnostics are those of a fresh check.
///
/// `n_edits` is how many edits are made; equal seeds make equal edits.
///
/// # Errors
/// The first difference or internal error.
pub fn random_edits(example: &str, seed: u64, n_edits: usize) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let from = harness::root().join("examples").join(example);
    tools::copy_folder(&from, folder.path()).map_err(|e| e.to_string())?;
    let root = format!("file://{}/", folder.path().display());
    let mut random = Random::new(seed);
    let utf8 = json!({ "general": { "positionEncodings": ["utf-8", "utf-16"] } });
    let capabilities = if random.chance(30) { utf8 } else { json!({}) };
    let mut editor = Editor::new(InProcess::default(), capabilities)?;
    let originals = sources_below(folder.path(), &root);
    for (uri, text) in &originals {
        editor.open(uri, text);
    }
    let uris: Vec<&String> = originals.keys().collect();
    let mut done = 0;
    while done < n_edits {
        let uri = (*random.pick(&uris)).clone();
        if random.chance(4) {
            editor.replace(&uri, &originals[&uri]);
        }
        let n = 1 + random.below(20);
        let mut text = editor.texts[&uri].clone();
        let mut edits = Vec::new();
        for _ in 0..n {
            let edit = edit(&text, &mut random);
            text.replace_range(edit.0.clone(), &edit.1);
            edits.push(edit);
        }
        editor.edit(&uri, &edits);
        done += n;
        let (fresh, told) = editor.compare(&root);
        if fresh != told {
            return Err(format!(
                "seed {seed}, after {done} edits\nfresh: {fresh:#?}\ntold: {told:#?}"
            ));
        }
        ask(&mut editor, &uri, &mut random)
            .map_err(|error| format!("seed {seed}, after {done} edits: {error}"))?;
    }
    Ok(())
}

/// The `.seg` files below a folder by URI.
fn sources_below(folder: &Path, root: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(sources_below(&entry.path(), &format!("{root}{name}/")));
        } else if name.ends_with(".seg") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            found.insert(format!("{root}{name}"), text);
        }
    }
    found
}

/// What is typed: pieces of the language, and characters that are hard to count or to read.
const TYPED: &[&str] = &[
    "",
    "",
    "",
    "",
    " ",
    "\n",
    "\n",
    "\r\n",
    "\r",
    "a",
    "web",
    "app:",
    "shop",
    ":",
    "&",
    " -> ",
    "{",
    "}",
    "(",
    ")",
    "\"",
    "#",
    "## ",
    "é",
    "😀",
    "\u{202e}",
    "\u{feff}",
    "10.0.0.0/8",
    "tcp/443",
    ",",
    ".",
    "@owner(\"x\")",
    "except ",
    "policy p {\n",
    "allow ",
    "expect deny ",
    "import ",
    "group web = web\n",
    "label app\n",
    "template t(x: endpoints) {\n",
];

/// A range between characters of a text, and what it becomes.
fn edit(text: &str, random: &mut Random) -> (std::ops::Range<usize>, String) {
    let mut place = |near: Option<usize>| {
        let wanted = match near {
            Some(near) => near + random.below(12),
            None => random.below(text.len() + 1),
        };
        let at = text.floor_char_boundary(wanted.min(text.len()));
        // No position lies inside a line end.
        if at > 0 && text[at..].starts_with('\n') && text[..at].ends_with('\r') {
            at - 1
        } else {
            at
        }
    };
    let start = place(None);
    let end = place(Some(start)).max(start);
    (start..end, (*random.pick(TYPED)).to_owned())
}

/// One request of each kind at a random place: an answer, or a refusal with a reason, but no bug.
fn ask<P: Peer>(editor: &mut Editor<P>, uri: &str, random: &mut Random) -> Result<(), String> {
    let text = editor.texts[uri].clone();
    let offset = text.floor_char_boundary(random.below(text.len() + 1));
    let position = editor.position(&text, offset);
    let document = json!({ "uri": uri });
    let here = json!({ "textDocument": document, "position": position });
    let range = json!({ "start": position, "end": editor.position(&text, text.len()) });
    let with = |key: &str, value: Value| {
        let mut params = here.clone();
        params[key] = value;
        params
    };
    let whole = json!({ "textDocument": document });
    let requests = [
        ("textDocument/completion", here.clone()),
        ("textDocument/definition", here.clone()),
        ("textDocument/references", with("context", json!({ "includeDeclaration": true }))),
        ("textDocument/rename", with("newName", json!("fresh-name"))),
        ("textDocument/documentHighlight", here.clone()),
        (
            "textDocument/codeAction",
            json!({ "textDocument": document, "range": range, "context": { "diagnostics": [] } }),
        ),
        ("textDocument/semanticTokens/full", whole.clone()),
        ("textDocument/documentSymbol", whole.clone()),
        ("textDocument/foldingRange", whole.clone()),
        ("textDocument/codeLens", whole),
        (
            "textDocument/formatting",
            json!({ "textDocument": document, "options": { "tabSize": 4, "insertSpaces": true } }),
        ),
        ("textDocument/hover", here.clone()),
        ("workspace/symbol", json!({ "query": "w" })),
    ];
    // All of them every time would only repeat the same analysis.
    let (method, params) = random.pick(&requests).clone();
    match editor.request(method, params) {
        Err(error) if !error.starts_with("-32803") => Err(format!("{method}: {error}")),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Checks what the index of any package promises: mentions in order, apart, on the text of what they name.
///
/// # Panics
/// If a promise is broken.
pub fn index_is_sound(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut sources = Sources::default();
    for (path, text) in crate::package::split("mutant", &text) {
        sources.add(path, text);
    }
    let analysis = analyze(sources);
    let index = Index::new(&analysis, &Config::default());
    for (file, source) in analysis.sources.iter() {
        let mut end = 0;
        for mention in index.in_file(file) {
            let symbol = index.symbol(mention.symbol).expect("a symbol");
            assert!(mention.span.start >= end, "{mention:?} overlaps the one before");
            end = mention.span.end;
            let written = source.text.get(mention.span.range()).expect("inside its file");
            assert!(!written.is_empty(), "{mention:?} names nothing");
            assert_eq!(index.at(file, mention.span.start).map(|m| m.symbol), Some(mention.symbol));
            assert!(
                mention.defines == (symbol.span == Some(mention.span)),
                "{mention:?} and {symbol:?} disagree on the definition"
            );
        }
        let ends = lex::lex(FileId(0), &source.text).tokens;
        for offset in ends.iter().map(|t| t.span.end).take(20) {
            let found = index.complete(&analysis, file, offset);
            let replace = found.map_or(Span::new(file, 0, 0), |found| found.replace);
            assert!(source.text.get(replace.range()).is_some(), "{replace:?}");
            if offset % 4 == 0 {
                index.hover(&analysis, &Config::default(), file, offset);
            }
        }
    }
}

/// Gives every name of a sound package another one, one after the other: each result is sound.
///
/// # Errors
/// The first name after whose change something is wrong.
pub fn rename_everything(name: &str, text: &str) -> Result<usize, String> {
    const NEW: &str = "renamed-here";
    let analysis = analyze(crate::package::sources(name, text));
    let Some(before) = &analysis.policy else { return Ok(0) };
    let index = Index::new(&analysis, &Config::default());
    let mut renamed = 0;
    for (id, symbol) in index.symbols() {
        let Ok(places) = index.rename(&analysis.sources, id, NEW) else { continue };
        let mut sources = Sources::default();
        for (file, source) in
            analysis.sources.iter().filter(|(f, _)| !Index::is_library(&analysis.sources, *f))
        {
            let mut text = source.text.clone();
            for place in places.iter().rev().filter(|place| place.file == file) {
                text.replace_range(place.range(), NEW);
            }
            sources.add(source.path.as_str(), text);
        }
        let after = analyze(sources);
        let Some(policy) = &after.policy else {
            let found = seg_lang::render::render(&after.diagnostics, &after.sources);
            return Err(format!("{:?} `{}`:\n{found}", symbol.kind, symbol.name));
        };
        let shape = |p: &seg_lang::policy::Policy| {
            (p.rules.len(), p.blocks.len(), p.workloads.len(), p.labels.len(), p.tests.len())
        };
        if shape(before) != shape(policy) {
            return Err(format!("{:?} `{}` changes the policy", symbol.kind, symbol.name));
        }
        renamed += 1;
    }
    Ok(renamed)
}
