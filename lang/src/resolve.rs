//! From names to what they name: modules, imports, label dimensions and the order of definitions.
//!
//! A module is a file. After [`resolve`] every module has a [`Scope`], and [`Names::order`] lists the definitions
//! such that each stands after those it is made of; definitions that are made of themselves are left out.
//! A name that hangs on something broken resolves to an error without a message: its cause was reported.

use crate::ast::{DefineKind, Exempt, File, Item, Kind, Name, Param, Path, Set, SetKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::lex::is_name;
use crate::packages::{Package, Packages};
use crate::policy::{Dimension, LabelId};
use crate::source::{FileId, Sources, Span};
use crate::types::{BUILTINS, Builtin, builtin};
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};

/// The word in front of the modules of the standard library.
pub(crate) const STD: &str = "std";

/// Words that the "did you mean" of a package may look at together, so that thousands of wrong names cost no square.
///
/// Unit: pairs of words. Source: chosen; below a tenth of a second, and hundreds of wrong names.
const COMPARISONS_MAX: usize = 1 << 18;

/// A definition: the thing a path can name.
#[derive(Clone, Copy)]
pub(crate) struct Definition<'a> {
    pub(crate) file: FileId,
    pub(crate) name: &'a Name,
    pub(crate) what: What<'a>,
}

/// What a definition defines.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    Set(DefineKind, &'a Set),
    Workload { at: &'a Set, is: &'a Set },
    Template { params: &'a [Param], items: &'a [Item] },
}

/// Identifies a definition.
pub(crate) type Key<'a> = (FileId, &'a str);

/// What a path in a set stands for.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Builtin(Builtin),
    Definition(Definition<'a>),
}

/// A name that means nothing; `None` if the cause is reported elsewhere.
pub(crate) type Miss = Option<Box<Diagnostic>>;

/// Every name of a package.
pub(crate) struct Names<'a> {
    /// The label dimensions by name.
    pub(crate) labels: Vec<Dimension>,
    /// All definitions that can be understood, parts before wholes.
    pub(crate) order: Vec<Definition<'a>>,
    /// Whether some module has items that did not parse.
    pub(crate) any_broken: bool,
    modules: BTreeMap<String, Module<'a>>,
    scopes: BTreeMap<FileId, Scope<'a>>,
    library: OnceCell<BTreeMap<String, Vec<&'static str>>>,
    /// Comparisons of words that are left.
    comparisons: Cell<usize>,
}

struct Module<'a> {
    file: FileId,
    package: &'a Package,
    tree: &'a File,
    definitions: BTreeMap<&'a str, Definition<'a>>,
    labels: BTreeMap<&'a str, Span>,
    broken: bool,
}

/// What the names of one module mean.
#[derive(Default)]
struct Scope<'a> {
    /// `None` for a name whose import failed.
    names: BTreeMap<&'a str, Option<Bound<'a>>>,
    /// Imported modules by the last part of their name.
    aliases: BTreeMap<&'a str, Option<(String, Span)>>,
    /// Label dimensions that may be used here.
    labels: BTreeMap<&'a str, Option<LabelId>>,
    /// Something that would add names did not parse or was not found.
    open: bool,
    /// Names that were imported and do not exist.
    failed: Vec<&'a str>,
    /// The modules from which they were imported.
    failed_from: Vec<FileId>,
}

#[derive(Clone, Copy)]
struct Bound<'a> {
    definition: Definition<'a>,
    /// Where the name came into this module.
    span: Span,
}

/// Resolves all modules.
pub(crate) fn resolve<'a>(
    sources: &Sources,
    packages: &'a Packages,
    trees: &'a [(FileId, File)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Names<'a> {
    let mut modules = BTreeMap::new();
    for (file, tree) in trees {
        let path = sources.get(*file).map_or("", |s| s.path.as_str());
        let module = declare(*file, tree, packages.of(path), diagnostics);
        modules.insert(module_name(path), module);
    }
    let labels = dimensions(&modules, diagnostics);
    let any_broken = modules.values().any(|m| m.broken);
    let (scopes, library) = (BTreeMap::new(), OnceCell::new());
    let comparisons = Cell::new(COMPARISONS_MAX);
    let order = vec![];
    let mut names = Names { labels, order, any_broken, modules, scopes, library, comparisons };
    let mut scopes = BTreeMap::new();
    for module in names.modules.values() {
        scopes.insert(module.file, names.scope(module, diagnostics));
    }
    names.scopes = scopes;
    names.order = names.sort(diagnostics);
    names
}

/// `org/labels.seg` is `org/labels`; as parts cannot hold `/` this is one to one.
pub(crate) fn module_name(path: &str) -> String {
    path.strip_suffix(".seg").unwrap_or(path).to_owned()
}

/// Collects what a module defines.
fn declare<'a>(
    file: FileId,
    tree: &'a File,
    package: &'a Package,
    diagnostics: &mut Vec<Diagnostic>,
) -> Module<'a> {
    let mut module = Module {
        file,
        package,
        tree,
        definitions: BTreeMap::new(),
        labels: BTreeMap::new(),
        broken: tree.items.iter().any(is_broken),
    };
    for item in &tree.items {
        let (name, what) = match &item.kind {
            Kind::Label { name, values } => {
                if let Some(first) = module.labels.get(name.value.as_str()) {
                    diagnostics.push(twice("label", name, *first));
                } else {
                    module.labels.insert(&name.value, name.span);
                }
                check_values(name, values.as_deref(), diagnostics);
                continue;
            }
            Kind::Define { what, name, set } => (name, What::Set(*what, set)),
            Kind::Workload { name, at, is, .. } => (name, What::Workload { at, is }),
            Kind::Template { name, params, items } => (name, What::Template { params, items }),
            Kind::Import { .. }
            | Kind::Block { .. }
            | Kind::Use { .. }
            | Kind::Claims { .. }
            | Kind::Rule(_)
            | Kind::Isolate { .. }
            | Kind::Error => continue,
        };
        if builtin(&name.value).is_some() {
            let message = format!("`{}` is built in and cannot be defined", name.value);
            diagnostics.push(Diagnostic::new(codes::DEFINED_TWICE, message, name.span));
        } else if let Some(first) = module.definitions.get(name.value.as_str()) {
            diagnostics.push(twice("name", name, first.name.span));
        } else {
            module.definitions.insert(&name.value, Definition { file, name, what });
        }
    }
    module
}

fn is_broken(item: &Item) -> bool {
    match &item.kind {
        Kind::Error => true,
        Kind::Block { items, .. } | Kind::Template { items, .. } => items.iter().any(is_broken),
        Kind::Import { .. }
        | Kind::Label { .. }
        | Kind::Define { .. }
        | Kind::Workload { .. }
        | Kind::Use { .. }
        | Kind::Claims { .. }
        | Kind::Rule(_)
        | Kind::Isolate { .. } => false,
    }
}

fn check_values(name: &Name, values: Option<&[Name]>, diagnostics: &mut Vec<Diagnostic>) {
    let Some(values) = values else { return };
    if values.is_empty() {
        let message = format!("label `{}` can have no value", name.value);
        let help = "list its values, or leave `= { }` out to allow any";
        diagnostics.push(Diagnostic::new(codes::EMPTY_SET, message, name.span).help(help));
    }
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for value in values {
        if let Some(first) = seen.get(value.value.as_str()) {
            diagnostics.push(twice("value", value, *first));
        } else {
            seen.insert(&value.value, value.span);
        }
    }
}

/// The label dimensions of the package by name, each declared once.
fn dimensions(
    modules: &BTreeMap<String, Module<'_>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Dimension> {
    let mut found: BTreeMap<&str, Dimension> = BTreeMap::new();
    for module in modules.values() {
        for item in &module.tree.items {
            let Kind::Label { name, values } = &item.kind else { continue };
            // A second declaration in the same module is reported there.
            if module.labels.get(name.value.as_str()) != Some(&name.span) {
                continue;
            }
            if let Some(first) = found.get(name.value.as_str()) {
                let help =
                    "a label belongs to the whole package: import the module that declares it";
                diagnostics.push(twice("label", name, first.span).help(help));
                continue;
            }
            let values = values.as_ref().map(|v| v.iter().map(|v| v.value.clone()).collect());
            let dimension = Dimension { name: name.value.clone(), values, span: name.span };
            found.insert(&name.value, dimension);
        }
    }
    found.into_values().collect()
}

impl<'a> Names<'a> {
    /// What a path in a set of `file` stands for.
    pub(crate) fn target(&self, file: FileId, path: &Path) -> Result<Target<'a>, Miss> {
        let scope = self.scopes.get(&file).ok_or(None)?;
        let (Some(first), Some(last)) = (path.parts.first(), path.parts.last()) else {
            return Err(None);
        };
        if path.parts.len() == 1 {
            if let Some(builtin) = builtin(&first.value) {
                return Ok(Target::Builtin(builtin));
            }
            return match scope.names.get(first.value.as_str()) {
                Some(Some(bound)) => Ok(Target::Definition(bound.definition)),
                Some(None) => Err(None),
                None if scope.open || self.meant(scope, first) => Err(None),
                None => Err(Some(Box::new(self.unknown_name(file, scope, first)))),
            };
        }
        let module = match scope.aliases.get(first.value.as_str()) {
            Some(Some((module, _))) if path.parts.len() == 2 => module,
            Some(None) => return Err(None),
            None if scope.open => return Err(None),
            Some(Some(_)) | None => {
                return Err(Some(Box::new(self.unknown_alias(file, scope, path))));
            }
        };
        let module = self.modules.get(module).ok_or(None)?;
        match module.definitions.get(last.value.as_str()) {
            Some(_) if is_private(last) && module.file != file => {
                Err(Some(Box::new(private(module, last))))
            }
            Some(definition) => Ok(Target::Definition(*definition)),
            None if module.broken => Err(None),
            None => Err(Some(Box::new(self.not_in_module(module, &first.value, last)))),
        }
    }

    /// The label dimension of this name, if `file` may use it.
    pub(crate) fn label(&self, file: FileId, name: &Name) -> Result<LabelId, Miss> {
        let scope = self.scopes.get(&file).ok_or(None)?;
        match scope.labels.get(name.value.as_str()) {
            Some(label) => label.ok_or(None),
            None if scope.open || self.meant(scope, name) => Err(None),
            None => Err(Some(Box::new(self.unknown_label(file, scope, name)))),
        }
    }

    /// As [`nearest`], while there are comparisons left.
    pub(crate) fn nearest<'w>(
        &self,
        word: &str,
        known: impl Iterator<Item = &'w str>,
    ) -> Option<&'w str> {
        let left = &self.comparisons;
        let known = known.inspect(|_| left.set(left.get().saturating_sub(1)));
        if left.get() == 0 { None } else { nearest(word, known) }
    }

    /// Whether an import that failed probably meant this name; once it is mended, so is the use.
    fn meant(&self, scope: &Scope<'_>, name: &Name) -> bool {
        let word = name.value.as_str();
        let defines =
            |m: &Module<'_>| m.definitions.contains_key(word) || m.labels.contains_key(word);
        self.nearest(word, scope.failed.iter().copied()).is_some()
            || self.modules.values().any(|m| scope.failed_from.contains(&m.file) && defines(m))
    }

    /// What else a name that is no label stands for, in words.
    pub(crate) fn otherwise(&self, file: FileId, name: &Name) -> Option<&'static str> {
        let path = Path { parts: vec![name.clone()], span: name.span };
        match self.target(file, &path).ok()? {
            Target::Builtin(Builtin::Protocol(_)) => Some("a service"),
            Target::Builtin(Builtin::Managed | Builtin::Unmanaged) => Some("a set of endpoints"),
            Target::Definition(definition) => Some(definition.what.describe()),
        }
    }

    fn unknown_name(&self, file: FileId, scope: &Scope<'_>, name: &Name) -> Diagnostic {
        let message = format!("no `{}` here", name.value);
        let mut diagnostic = Diagnostic::new(codes::UNKNOWN_NAME, message, name.span);
        let word = name.value.as_str();
        let homes = self.visible(file).filter(|(_, m)| m.definitions.contains_key(word));
        let homes = homes.filter(|_| !is_private(name)).map(|(module, _)| module);
        let library = self.library().get(word).into_iter().flatten().map(|m| dotted(m));
        let homes: BTreeSet<String> = homes.chain(library).collect();
        let here = scope.names.keys().copied().chain(BUILTINS.iter().map(|(n, _)| *n));
        if EVERYTHING.contains(&word) && homes.is_empty() {
            return suggest(diagnostic, name, "any");
        }
        if let Some(service) = service_of(word).filter(|_| homes.is_empty()) {
            return suggest(diagnostic, name, &service);
        }
        // A name that exists is a better guess than one that is spelled nearly so.
        if let Some(near) = self.nearest(word, here).filter(|_| homes.is_empty()) {
            return suggest(diagnostic, name, near);
        }
        for module in homes.iter().take(3) {
            diagnostic = diagnostic.help(import_text(module, &format!(".{{ {word} }}")));
        }
        let mut blocks = self.modules.values().flat_map(|module| &module.tree.items);
        if blocks.any(|item| matches!(&item.kind, Kind::Block { name, .. } if name.value == word)) {
            let help =
                format!("`{word}` is a block, which is no set: name the endpoints it is about");
            diagnostic = diagnostic.help(help);
        }
        if scope.labels.contains_key(name.value.as_str()) {
            let help = format!("`{0}` is a label: write `{0}:value` or `{0}:*`", name.value);
            diagnostic = diagnostic.help(help);
        }
        diagnostic
    }

    /// The modules of the standard library by the names they define, read when a message first asks.
    fn library(&self) -> &BTreeMap<String, Vec<&'static str>> {
        self.library.get_or_init(|| {
            let mut homes: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
            for (path, text) in crate::stdlib::FILES {
                let (tree, _) = crate::parse::parse(FileId(0), text);
                for item in tree.items {
                    if let Kind::Define { name, .. } | Kind::Template { name, .. } = item.kind {
                        let module = path.strip_suffix(".seg").unwrap_or(path);
                        homes.entry(name.value).or_default().push(module);
                    }
                }
            }
            homes
        })
    }

    fn unknown_alias(&self, file: FileId, scope: &Scope<'_>, path: &Path) -> Diagnostic {
        let written: Vec<_> = path.parts.iter().map(|p| p.value.as_str()).collect();
        let (alias, name) = match written.as_slice() {
            [] => (String::new(), ""),
            [name] => (String::new(), *name),
            [module @ .., name] => (module.join("."), *name),
        };
        let message = format!("no module `{alias}` is imported here");
        let span = path.parts.first().map_or(path.span, |first| first.span);
        let mut diagnostic = Diagnostic::new(codes::UNKNOWN_MODULE, message, span);
        if let (Some(near), [first, _]) =
            (self.nearest(&alias, scope.aliases.keys().copied()), path.parts.as_slice())
        {
            return suggest(diagnostic, first, near);
        }
        if scope.labels.contains_key(alias.as_str()) {
            let label = format!("{alias}:{name}");
            return did_you_mean(diagnostic, path.span, &label);
        }
        let suffix = format!(".{alias}");
        for (module, _) in self.visible(file) {
            if module == alias || module.ends_with(&suffix) {
                let help = format!("import {module}.{{ {name} }} and write `{name}`");
                diagnostic = diagnostic.help(help);
            }
        }
        diagnostic
    }

    fn unknown_label(&self, file: FileId, scope: &Scope<'_>, name: &Name) -> Diagnostic {
        let message = format!("no label dimension `{}` here", name.value);
        let diagnostic = Diagnostic::new(codes::UNKNOWN_LABEL, message, name.span);
        let home = self.visible(file).find(|(_, m)| m.labels.contains_key(name.value.as_str()));
        if let Some((module, _)) = home {
            return diagnostic.help(import_text(&module, ""));
        }
        match self.nearest(&name.value, scope.labels.keys().copied()) {
            Some(near) => suggest(diagnostic, name, near),
            None => diagnostic.help(format!("declare it: `label {}`", name.value)),
        }
    }

    /// The modules a file may import, as it would write them.
    fn visible(&self, file: FileId) -> impl Iterator<Item = (String, &Module<'a>)> {
        let from = self.modules.values().find(|m| m.file == file).map(|m| m.package);
        self.modules.iter().filter_map(move |(key, module)| {
            let written = from.and_then(|from| from.written(key, module.package))?;
            Some((written, module))
        })
    }

    /// The module that `file` means by a dotted name.
    pub(crate) fn module(&self, file: FileId, parts: &[&str]) -> Option<FileId> {
        let from = self.modules.values().find(|module| module.file == file)?;
        self.meant_by(from.package, parts).map(|(_, module)| module.file)
    }

    /// The module that a file of a package means by a dotted name, with its key. No path leads around the names of dependencies.
    fn meant_by(&self, package: &Package, parts: &[&str]) -> Option<(String, &Module<'a>)> {
        let (key, prefix) = package.locate(parts);
        let module = self.modules.get(&key).filter(|module| module.package.prefix == prefix)?;
        Some((key, module))
    }

    /// The names that may be used in `file`, its own and imported ones.
    pub(crate) fn names_in(&self, file: FileId) -> impl Iterator<Item = (&'a str, Definition<'a>)> {
        let scope = self.scopes.get(&file).into_iter();
        scope.flat_map(|s| s.names.iter().filter_map(|(n, b)| Some((*n, (*b)?.definition))))
    }

    /// The label dimensions that may be used in `file`.
    pub(crate) fn labels_in(&self, file: FileId) -> impl Iterator<Item = LabelId> {
        self.scopes.get(&file).into_iter().flat_map(|s| s.labels.values().filter_map(|l| *l))
    }

    /// The modules imported whole into `file`, by the word that stands for them there.
    pub(crate) fn modules_in(&self, file: FileId) -> impl Iterator<Item = (&'a str, FileId)> {
        let scope = self.scopes.get(&file).into_iter();
        scope.flat_map(|s| {
            s.aliases.iter().filter_map(|(n, m)| Some((*n, self.modules.get(&m.as_ref()?.0)?.file)))
        })
    }

    fn label_id(&self, name: &str) -> Option<LabelId> {
        let index = self.labels.binary_search_by(|d| d.name.as_str().cmp(name)).ok()?;
        Some(LabelId(u32::try_from(index).ok()?))
    }

    /// What the names of a module mean: its own definitions and its imports.
    fn scope(&self, module: &Module<'a>, diagnostics: &mut Vec<Diagnostic>) -> Scope<'a> {
        let mut scope = Scope { open: module.broken, ..Scope::default() };
        for definition in module.definitions.values() {
            let bound = Bound { definition: *definition, span: definition.name.span };
            scope.names.insert(&definition.name.value, Some(bound));
        }
        for name in module.labels.keys() {
            scope.labels.insert(name, self.label_id(name));
        }
        for item in &module.tree.items {
            if let Kind::Import { path, names } = &item.kind {
                self.import(&mut scope, module, path, names.as_deref(), diagnostics);
            }
        }
        scope
    }

    fn import(
        &self,
        scope: &mut Scope<'a>,
        importer: &Module<'a>,
        path: &'a Path,
        names: Option<&'a [Name]>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let parts: Vec<&str> = path.parts.iter().map(|p| p.value.as_str()).collect();
        let (Some(last), Some(outer)) = (path.parts.last(), parts.split_last()) else { return };
        let whole = self.meant_by(importer.package, &parts);
        let around = self.meant_by(importer.package, outer.1);
        match (whole, names) {
            (Some((_, module)), Some(names)) => {
                for name in names {
                    self.import_name(
                        scope,
                        importer.file,
                        module,
                        &parts.join("."),
                        name,
                        diagnostics,
                    );
                }
            }
            (Some((whole, module)), None) => {
                for label in module.labels.keys() {
                    scope.labels.insert(label, self.label_id(label));
                }
                scope.open |= module.broken;
                match scope.aliases.get(last.value.as_str()) {
                    Some(Some((other, first))) if *other != whole => {
                        diagnostics.push(twice("module", last, *first));
                    }
                    Some(_) | None => {
                        scope.aliases.insert(&last.value, Some((whole, last.span)));
                    }
                }
            }
            (None, None) if around.is_some() => {
                let Some((_, module)) = around else { return };
                let outer = outer.1.join(".");
                self.import_name(scope, importer.file, module, &outer, last, diagnostics);
            }
            (None, names) => {
                diagnostics.push(self.unknown_module(importer.file, path, &parts.join(".")));
                match names {
                    Some(names) => {
                        for name in names {
                            scope.names.entry(&name.value).or_insert(None);
                            scope.labels.entry(&name.value).or_insert(None);
                        }
                    }
                    None => {
                        scope.aliases.entry(&last.value).or_insert(None);
                        scope.open = true;
                    }
                }
            }
        }
    }

    fn import_name(
        &self,
        scope: &mut Scope<'a>,
        importer: FileId,
        module: &Module<'a>,
        module_name: &str,
        name: &'a Name,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let label = module.labels.contains_key(name.value.as_str());
        if label {
            scope.labels.insert(&name.value, self.label_id(&name.value));
        }
        let Some(definition) = module.definitions.get(name.value.as_str()) else {
            if !label {
                if !module.broken {
                    diagnostics.push(self.not_in_module(module, module_name, name));
                }
                scope.names.entry(&name.value).or_insert(None);
                scope.labels.entry(&name.value).or_insert(None);
                scope.failed.push(&name.value);
                scope.failed_from.push(module.file);
            }
            return;
        };
        if is_private(name) && definition.file != importer {
            diagnostics.push(private(module, name));
            scope.names.entry(&name.value).or_insert(None);
            return;
        }
        match scope.names.get(name.value.as_str()) {
            Some(Some(bound)) if bound.definition.key() != definition.key() => {
                diagnostics.push(twice("name", name, bound.span));
            }
            Some(_) | None => {
                let bound = Bound { definition: *definition, span: name.span };
                scope.names.insert(&name.value, Some(bound));
            }
        }
    }

    fn not_in_module(&self, module: &Module<'_>, written: &str, name: &Name) -> Diagnostic {
        let message = format!("no `{}` in module `{written}`", name.value);
        let diagnostic = Diagnostic::new(codes::NOT_IN_MODULE, message, name.span);
        let there = module.definitions.keys().chain(module.labels.keys()).copied();
        match self.nearest(&name.value, there) {
            Some(near) => suggest(diagnostic, name, near),
            None => diagnostic,
        }
    }

    fn unknown_module(&self, file: FileId, path: &Path, written: &str) -> Diagnostic {
        let message = format!("no module `{written}`");
        let diagnostic = Diagnostic::new(codes::UNKNOWN_MODULE, message, path.span);
        let library = crate::stdlib::FILES.iter().map(|(path, _)| dotted(&module_name(path)));
        let own: BTreeSet<String> = self.visible(file).map(|(module, _)| module).collect();
        let known: BTreeSet<String> = own.iter().cloned().chain(library).collect();
        if let Some(near) = self.nearest(written, known.iter().map(String::as_str)) {
            return did_you_mean(diagnostic, path.span, near);
        }
        let own: Vec<String> = own
            .iter()
            .filter(|module| module.split('.').all(is_name) && !module.starts_with("std."))
            .map(|module| format!("`{module}`"))
            .collect();
        match own.len() {
            2..=MODULES_SHOWN_MAX => {
                diagnostic.help(format!("modules here are {}", own.join(", ")))
            }
            _ => diagnostic,
        }
    }

    /// Parts before wholes; reports definitions that are made of themselves and leaves them out.
    fn sort(&self, diagnostics: &mut Vec<Diagnostic>) -> Vec<Definition<'a>> {
        let mut order = vec![];
        let mut state: BTreeMap<Key<'a>, State> = BTreeMap::new();
        for module in self.modules.values() {
            for root in module.definitions.values() {
                self.visit(*root, &mut state, &mut order, diagnostics);
            }
        }
        order
    }

    /// Depth first without recursion: chains of definitions may be long.
    fn visit(
        &self,
        root: Definition<'a>,
        state: &mut BTreeMap<Key<'a>, State>,
        order: &mut Vec<Definition<'a>>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        if state.contains_key(&root.key()) {
            return;
        }
        state.insert(root.key(), State::Open);
        let mut stack = vec![(root, self.parts(&root))];
        while let Some((definition, parts)) = stack.last_mut() {
            let Some(part) = parts.pop() else {
                if state.insert(definition.key(), State::Done) == Some(State::Open) {
                    order.push(*definition);
                }
                stack.pop();
                continue;
            };
            match state.get(&part.key()) {
                Some(State::Done) => {}
                Some(State::Open | State::Cyclic) => {
                    let from = stack.iter().position(|(d, _)| d.key() == part.key());
                    let cycle: Vec<_> = stack.iter().skip(from.unwrap_or(0)).map(|s| s.0).collect();
                    // One report for each definition is enough.
                    if cycle.iter().all(|d| state.get(&d.key()) == Some(&State::Open)) {
                        diagnostics.push(through_itself(&cycle));
                    }
                    for definition in cycle {
                        state.insert(definition.key(), State::Cyclic);
                    }
                }
                None => {
                    state.insert(part.key(), State::Open);
                    stack.push((part, self.parts(&part)));
                }
            }
        }
    }

    /// The definitions a definition names, last first.
    fn parts(&self, definition: &Definition<'a>) -> Vec<Definition<'a>> {
        let mut paths = vec![];
        match definition.what {
            What::Set(_, set) => collect_paths(set, &mut paths),
            What::Workload { at, is } => {
                collect_paths(at, &mut paths);
                collect_paths(is, &mut paths);
            }
            What::Template { params, items } => template_paths(params, items, &mut paths),
        }
        let targets = paths.into_iter().rev().filter_map(|path| {
            match self.target(definition.file, path).ok()? {
                Target::Definition(part) => Some(part),
                Target::Builtin(_) => None,
            }
        });
        targets.collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// On the way from a root.
    Open,
    /// On the way and known to be made of itself.
    Cyclic,
    Done,
}

impl<'a> Definition<'a> {
    pub(crate) fn key(&self) -> Key<'a> {
        (self.file, &self.name.value)
    }
}

impl What<'_> {
    /// What it is, in words.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Set(DefineKind::Net, _) => "a net",
            Self::Set(DefineKind::Service, _) => "a service",
            Self::Set(DefineKind::Group, _) => "a group of endpoints",
            Self::Workload { .. } => "a workload",
            Self::Template { .. } => "a template",
        }
    }
}

/// The names a template is made of: those of its statements that are no parameters, and the templates it uses.
fn template_paths<'a>(params: &'a [Param], items: &'a [Item], paths: &mut Vec<&'a Path>) {
    let mut sets = vec![];
    let mut flows = vec![];
    for item in items {
        match &item.kind {
            Kind::Rule(rule) => {
                flows.push(&rule.flow);
                flows.extend(rule.unless.iter().filter_map(|exempt| match exempt {
                    Exempt::Flow { flow, .. } => Some(&**flow),
                    Exempt::Same(_) => None,
                }));
            }
            Kind::Isolate { set, .. } => sets.push(set),
            Kind::Use { path, args } => {
                paths.push(path);
                sets.extend(args.iter().map(|(_, set)| set));
            }
            Kind::Claims { claims, .. } => {
                flows.extend(claims.iter().map(|claim| &claim.flow));
                sets.extend(claims.iter().filter_map(|claim| claim.avoiding.as_ref()));
            }
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Block { .. }
            | Kind::Template { .. }
            | Kind::Error => {}
        }
    }
    sets.extend(
        flows.into_iter().flat_map(|flow| [&flow.from, &flow.to].into_iter().chain(&flow.on)),
    );
    sets.iter().for_each(|set| collect_paths(set, paths));
    let is_param = |path: &Path| {
        let [name] = path.parts.as_slice() else { return false };
        params.iter().any(|param| param.name.value == name.value)
    };
    paths.retain(|path| !is_param(path));
    // A default is written where no parameter can be meant.
    params
        .iter()
        .filter_map(|param| param.default.as_ref())
        .for_each(|set| collect_paths(set, paths));
}

fn collect_paths<'a>(set: &'a Set, paths: &mut Vec<&'a Path>) {
    match &set.kind {
        SetKind::Except(a, b) | SetKind::And(a, b) => {
            collect_paths(a, paths);
            collect_paths(b, paths);
        }
        SetKind::Union(sets) => sets.iter().for_each(|s| collect_paths(s, paths)),
        SetKind::Path(path) => paths.push(path),
        SetKind::Any
        | SetKind::SelfHost
        | SetKind::Label { .. }
        | SetKind::Prefix { .. }
        | SetKind::Range(..)
        | SetKind::Ports { .. }
        | SetKind::Call { .. }
        | SetKind::Codes { .. }
        | SetKind::Error => {}
    }
}

fn through_itself(cycle: &[Definition<'_>]) -> Diagnostic {
    let mut round: Vec<_> = cycle.iter().map(|d| format!("`{}`", d.name.value)).collect();
    round.extend(round.first().cloned());
    let templates = cycle.iter().all(|d| matches!(d.what, What::Template { .. }));
    let (code, message) = if templates {
        (codes::RECURSION, format!("a template uses itself: {}", round.join(" -> ")))
    } else {
        (codes::CYCLE, format!("defined through itself: {}", round.join(" -> ")))
    };
    let mut spans = cycle.iter().map(|d| d.name.span);
    let Some(first) = spans.next() else {
        return Diagnostic::new(code, message, Span::new(FileId(0), 0, 0));
    };
    let report = Diagnostic::new(code, message, first);
    spans.take(4).fold(report, |report, span| report.and(span, "on the way"))
}

fn twice(what: &str, name: &Name, other: Span) -> Diagnostic {
    let message = format!("{what} `{}` is defined twice", name.value);
    let earlier = name.span.file == other.file && name.span < other;
    let (first, second) = if earlier { (name.span, other) } else { (other, name.span) };
    Diagnostic::new(codes::DEFINED_TWICE, message, second).and(first, "first here")
}

/// A name that starts with `_` stays in its module.
fn is_private(name: &Name) -> bool {
    name.value.starts_with('_')
}

fn private(module: &Module<'_>, name: &Name) -> Diagnostic {
    let message = format!("`{}` is private to its module", name.value);
    let report = Diagnostic::new(codes::NOT_IN_MODULE, message, name.span);
    match module.definitions.get(name.value.as_str()) {
        Some(definition) => report.and(definition.name.span, "a name with `_` in front"),
        None => report,
    }
}

/// The line that makes the names of a module known; or why none can.
fn import_text(module: &str, names: &str) -> String {
    if module.split('.').all(is_name) {
        format!("import {module}{names}")
    } else {
        let file = module.replace('.', "/");
        format!("it is defined in `{file}.seg`, and no import can name that file; rename it")
    }
}

/// Modules a message lists.
const MODULES_SHOWN_MAX: usize = 8;

/// Words of other languages for `any`.
const EVERYTHING: [&str; 7] =
    ["all", "everyone", "everybody", "anyone", "anything", "everything", "anywhere"];

/// `tcp-80` and `tcp80` as a service.
fn service_of(word: &str) -> Option<String> {
    let digits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
    let protocol = word.strip_suffix(digits)?.trim_end_matches(['-', '_']);
    let known = ["tcp", "udp", "sctp"].contains(&protocol);
    (known && digits.parse::<u16>().is_ok()).then(|| format!("{protocol}/{digits}"))
}

/// `org/labels` as it is written.
pub(crate) fn dotted(module: &str) -> String {
    module.replace('/', ".")
}

/// Offers `near` in place of `name`.
pub(crate) fn suggest(diagnostic: Diagnostic, name: &Name, near: &str) -> Diagnostic {
    did_you_mean(diagnostic, name.span, near)
}

pub(crate) fn did_you_mean(mut diagnostic: Diagnostic, span: Span, near: &str) -> Diagnostic {
    diagnostic.message.push_str(&format!("; did you mean `{near}`?"));
    diagnostic.guess(span, near)
}

/// The known word that was most likely meant, if one is close enough.
pub(crate) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let limit = word.chars().count().max(3) / 3;
    // A difference in length is one in spelling; most words need no closer look.
    let close = known.filter(|k| word.chars().count().abs_diff(k.chars().count()) <= limit);
    let scored = close.map(|k| (strsim::damerau_levenshtein(word, k), k));
    let (distance, near) = scored.min()?;
    (distance > 0 && distance <= limit).then_some(near)
}
