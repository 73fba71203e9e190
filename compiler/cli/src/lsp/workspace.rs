//! The packages an editor works on: texts from the disk below those of open documents, and what is known about them.

use super::place::{Root, path_of, uri_of};
use super::position::{Encoding, Lines};
use crate::files::Files;
use crate::package::{self, LoadError};
use gen_lsp_types::Uri;
use seg_lang::analyze::{Analysis, Config, analyze_again};
use seg_lang::index::Index;
use seg_lang::source::{FileId, Sources, Span};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// A document that is open in the editor.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Its text, as the editor has it.
    pub(crate) text: String,
    /// The editor's number for that text.
    pub(crate) version: i32,
}

/// What is known about one root.
#[derive(Default)]
struct Package {
    /// What is on disk, or why it cannot be read; `None` if that must be asked again.
    disk: Option<Result<Disk, String>>,
    /// What was known last.
    known: Option<Known>,
    /// Whether that is so still.
    fresh: bool,
}

/// A package as it is on disk.
#[derive(Clone, Default)]
struct Disk {
    texts: BTreeMap<String, String>,
    files: Files,
    config: Config,
}

/// An analysis and what is derived from it.
pub(crate) struct Known {
    /// The analysis.
    pub(crate) analysis: Analysis,
    /// What it depends on besides the texts.
    pub(crate) config: Config,
    /// Why the disk could not be read.
    pub(crate) unreadable: Option<String>,
    /// Where files lie that were read.
    files: Files,
    index: OnceCell<Index>,
}

impl Known {
    /// The index, built when first asked for.
    pub(crate) fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(&self.analysis, &self.config))
    }

    /// The URI of a file of this root, by its path in the package.
    pub(crate) fn uri(&self, root: &Root, path: &str) -> Uri {
        match self.files.path(path).filter(|_| self.config.packages.is_foreign(path)) {
            Some(elsewhere) => uri_of(elsewhere),
            None => root.uri(path),
        }
    }
}

/// All open documents and their packages.
#[derive(Default)]
pub(crate) struct Workspace {
    /// Open documents by URI.
    pub(crate) open: BTreeMap<String, Document>,
    packages: BTreeMap<Root, Package>,
}

/// One document and the package around it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// The package.
    pub(crate) root: &'a Root,
    /// What is known about it.
    pub(crate) known: &'a Known,
    /// The document.
    pub(crate) file: FileId,
    /// What columns count.
    pub(crate) encoding: Encoding,
}

impl<'a> View<'a> {
    /// The analysis.
    pub(crate) fn analysis(self) -> &'a Analysis {
        &self.known.analysis
    }

    /// The text of the document.
    pub(crate) fn text(self) -> &'a str {
        self.text_of(self.file)
    }

    /// The text of a file of the package.
    pub(crate) fn text_of(self, file: FileId) -> &'a str {
        self.known.analysis.sources.get(file).map_or("", |source| source.text.as_str())
    }

    /// The lines of the document.
    pub(crate) fn lines(self) -> Lines<'a> {
        self.lines_of(self.file)
    }

    /// The lines of a file of the package.
    pub(crate) fn lines_of(self, file: FileId) -> Lines<'a> {
        Lines::new(self.text_of(file), self.encoding)
    }

    /// The URI of a file of the package.
    pub(crate) fn uri(self, file: FileId) -> Uri {
        let path = self.known.analysis.sources.get(file).map_or("", |s| s.path.as_str());
        self.known.uri(self.root, path)
    }

    /// Where a span is, for the editor.
    pub(crate) fn location(self, span: Span) -> gen_lsp_types::Location {
        let range = self.lines_of(span.file).range(span);
        gen_lsp_types::Location { uri: self.uri(span.file), range }
    }
}

impl Workspace {
    /// Notes that a document of this root has another text.
    pub(crate) fn touch(&mut self, root: &Root) {
        self.packages.entry(root.clone()).or_default().fresh = false;
    }

    /// Notes that files below this root may have changed on disk.
    pub(crate) fn reload(&mut self, root: &Root) {
        *self.packages.entry(root.clone()).or_default() = Package::default();
    }

    /// Forgets everything that can be found out again.
    pub(crate) fn forget(&mut self) {
        self.packages.values_mut().for_each(|package| *package = Package::default());
    }

    /// The roots in use.
    pub(crate) fn roots(&self) -> Vec<Root> {
        self.packages.keys().cloned().collect()
    }

    /// Drops a root that is none any more.
    pub(crate) fn drop(&mut self, root: &Root) {
        self.packages.remove(root);
    }

    /// What is known about a root, found out if need be.
    pub(crate) fn known(&mut self, root: &Root) -> &Known {
        let package = self.packages.entry(root.clone()).or_default();
        if !package.fresh {
            find_out(root, package, &self.open);
        }
        // It was filled just now.
        package.known.as_ref().expect("an analysis")
    }

    /// A document in its package; `None` if there is no such document.
    pub(crate) fn view<T>(
        &mut self,
        uri: &Uri,
        encoding: Encoding,
        ask: impl FnOnce(View<'_>) -> T,
    ) -> Option<T> {
        let (root, path) = Root::of(uri);
        // A document of its own is only known while it is open.
        if matches!(root, Root::Single(_)) && !self.open.contains_key(&uri.0) {
            return None;
        }
        let known = self.known(&root);
        let file = known.analysis.sources.iter().find(|(_, s)| s.path == path)?.0;
        Some(ask(View { root: &root, known, file, encoding }))
    }
}

fn find_out(root: &Root, package: &mut Package, open: &BTreeMap<String, Document>) {
    let Disk { mut texts, files, config } = match root {
        Root::Package(home) => {
            let disk = package.disk.get_or_insert_with(|| on_disk(package::load(home)));
            disk.clone().unwrap_or_default()
        }
        Root::Single(uri) => {
            let disk = one_file(&Uri(uri.clone()), open);
            package.disk.insert(disk).clone().unwrap_or_default()
        }
    };
    for (uri, document) in open {
        let (at, path) = Root::of(&Uri(uri.clone()));
        if at == *root {
            texts.insert(path, document.text.clone());
        }
    }
    let unreadable = package.disk.as_ref().and_then(|disk| disk.as_ref().err().cloned());
    let mut sources = Sources::default();
    for (path, text) in texts {
        sources.add(path, text);
    }
    let before = package.known.take().map(|known| known.analysis);
    let analysis = analyze_again(sources, &config, before);
    let index = OnceCell::new();
    package.known = Some(Known { analysis, config, unreadable, files, index });
    package.fresh = true;
}

fn on_disk(read: Result<package::Package, LoadError>) -> Result<Disk, String> {
    let package = read.map_err(|error| error.0)?;
    let texts = package.sources.iter().map(|(_, s)| (s.path.clone(), s.text.clone())).collect();
    Ok(Disk { texts, files: package.files, config: package.config })
}

/// An open document and what it imports from its folder.
fn one_file(uri: &Uri, open: &BTreeMap<String, Document>) -> Result<Disk, String> {
    let Some(file) = path_of(uri) else { return Ok(Disk::default()) };
    let Some(folder) = file.parent() else { return Ok(Disk::default()) };
    let (_, path) = Root::of(uri);
    let text = open.get(&uri.0).map(|document| document.text.clone()).unwrap_or_default();
    let texts = BTreeMap::from([(path.clone(), text)]);
    let files = BTreeMap::from([(path.clone(), file.clone())]);
    on_disk(package::load_texts(path, folder, texts, files))
}
