//! Walks the trees and asks the resolver about every name.

use super::{Index, Mention, Scope, Symbol, SymbolId, SymbolKind};
use crate::analyze::Analysis;
use crate::ast::{Claim, Exempt, File, Flow, Item, Kind, Name, Path, Same, Set, SetKind};
use crate::packages::Packages;
use crate::policy::LabelId;
use crate::resolve::{Names, Target, module_name, resolve};
use crate::source::{FileId, Span, Spanned};
use std::collections::BTreeMap;

struct Builder<'a> {
    names: &'a Names<'a>,
    index: Index,
    /// Definitions, labels and modules by the place of their name.
    known: BTreeMap<Span, SymbolId>,
    /// Values by label.
    values: BTreeMap<(SymbolId, String), SymbolId>,
    /// Built-in sets.
    builtins: BTreeMap<String, SymbolId>,
    /// Parameters by template.
    params: BTreeMap<(SymbolId, String), SymbolId>,
}

pub(super) fn build(analysis: &Analysis, packages: &Packages) -> Index {
    // The messages were given by `analyze`.
    let names = resolve(&analysis.sources, packages, &analysis.trees, &mut vec![]);
    let mut builder = Builder {
        names: &names,
        index: Index { packages: packages.clone(), ..Index::default() },
        known: BTreeMap::new(),
        values: BTreeMap::new(),
        builtins: BTreeMap::new(),
        params: BTreeMap::new(),
    };
    for (file, tree) in &analysis.trees {
        let path = analysis.sources.get(*file).map_or("", |source| source.path.as_str());
        builder.module(*file, &module_name(path));
        tree.items.iter().for_each(|item| builder.declare(item));
    }
    for (file, tree) in &analysis.trees {
        builder.file(*file, tree);
    }
    let mut index = builder.index;
    index.mentions.sort_by_key(|m| (m.span, !m.defines));
    index.mentions.dedup_by_key(|m| m.span);
    index
}

impl<'a> Builder<'a> {
    fn add(&mut self, symbol: Symbol) -> SymbolId {
        let id = SymbolId(u32::try_from(self.index.symbols.len()).unwrap_or(u32::MAX));
        self.index.symbols.push(symbol);
        id
    }

    /// Adds what has no place of its own.
    fn add_placeless(
        &mut self,
        kind: SymbolKind,
        name: &str,
        parent: Option<SymbolId>,
    ) -> SymbolId {
        let (name, docs) = (name.to_owned(), String::new());
        self.add(Symbol { kind, name, span: None, item: None, docs, parent })
    }

    fn mention(&mut self, span: Span, symbol: SymbolId) {
        self.index.mentions.push(Mention { span, symbol, defines: false });
    }

    fn module(&mut self, file: FileId, path: &str) {
        let name = path.replace('/', ".");
        let id = self.add_placeless(SymbolKind::Module, &name, None);
        let span = Span::new(file, 0, 0);
        if let Some(symbol) = self.index.symbols.last_mut() {
            symbol.span = Some(span);
        }
        self.known.insert(span, id);
        self.index.modules.insert(file, id);
    }

    fn define(&mut self, symbol: SymbolKind, name: &Name, place: Definition<'_>) -> SymbolId {
        let id = self.add(Symbol {
            kind: symbol,
            name: name.value.clone(),
            span: Some(name.span),
            item: Some(place.item),
            docs: docs(place.docs),
            parent: place.parent,
        });
        self.known.insert(name.span, id);
        self.index.mentions.push(Mention { span: name.span, symbol: id, defines: true });
        id
    }

    /// Enters what an item defines, before anything is looked up.
    fn declare(&mut self, item: &Item) {
        let place = Definition { item: item.span, docs: &item.docs, parent: None };
        match &item.kind {
            Kind::Label { name, values } => {
                let label = self.define(SymbolKind::Label, name, place);
                for value in values.iter().flatten() {
                    if !self.values.contains_key(&(label, value.value.clone())) {
                        let place = Definition { docs: &[], parent: Some(label), ..place };
                        let id = self.define(SymbolKind::Value, value, place);
                        self.values.insert((label, value.value.clone()), id);
                    }
                }
            }
            Kind::Define { what, name, .. } => {
                self.define(SymbolKind::Set(*what), name, place);
            }
            Kind::Workload { name, .. } => {
                self.define(SymbolKind::Workload, name, place);
            }
            Kind::Block { tier, name, .. } => {
                let id = self.define(SymbolKind::Block(*tier), name, place);
                self.index.blocks.entry(name.value.clone()).or_insert(id);
            }
            Kind::Template { name, params, items } => {
                let template = self.define(SymbolKind::Template, name, place);
                for param in params {
                    let default = param.default.as_ref().map_or(param.name.span, |set| set.span);
                    let item = param.name.span.to(default);
                    let place = Definition { item, docs: &[], parent: Some(template) };
                    let id = self.define(SymbolKind::Parameter(param.ty), &param.name, place);
                    self.params.insert((template, param.name.value.clone()), id);
                }
                items.iter().for_each(|item| self.declare(item));
            }
            Kind::Claims { title, .. } => {
                self.add(Symbol {
                    kind: SymbolKind::Claims,
                    name: title.value.clone(),
                    span: Some(title.span),
                    item: Some(item.span),
                    docs: docs(&item.docs),
                    parent: None,
                });
            }
            Kind::Import { .. }
            | Kind::Use { .. }
            | Kind::Rule(_)
            | Kind::Isolate { .. }
            | Kind::Error => {}
        }
    }

    fn file(&mut self, file: FileId, tree: &'a File) {
        let mut scope = Scope::default();
        for (name, definition) in self.names.names_in(file) {
            if let Some(id) = self.known.get(&definition.name.span) {
                scope.names.insert(name.to_owned(), *id);
            }
        }
        for LabelId(label) in self.names.labels_in(file) {
            if let Some(dimension) = self.names.labels.get(label as usize)
                && let Some(id) = self.known.get(&dimension.span)
            {
                scope.labels.insert(dimension.name.clone(), *id);
            }
        }
        for (alias, module) in self.names.modules_in(file) {
            if let Some(id) = self.known.get(&Span::new(module, 0, 0)) {
                scope.modules.insert(alias.to_owned(), *id);
            }
        }
        self.index.scopes.insert(file, scope);
        tree.items.iter().for_each(|item| self.item(file, item, None));
    }

    /// `template` is the template the item stands in.
    fn item(&mut self, file: FileId, item: &'a Item, template: Option<SymbolId>) {
        match &item.kind {
            Kind::Import { path, names } => self.import(file, path, names.as_deref()),
            Kind::Label { .. } | Kind::Error => {}
            Kind::Define { set, .. } => self.set(file, set, template),
            Kind::Workload { at, is, ports, .. } => {
                self.set(file, at, template);
                self.set(file, is, template);
                ports.iter().for_each(|(_, port)| self.set(file, port, template));
            }
            Kind::Block { scope, items, .. } => {
                scope.iter().for_each(|scope| self.set(file, scope, template));
                items.iter().for_each(|item| self.item(file, item, template));
            }
            Kind::Template { name, params, items } => {
                let template = self.known.get(&name.span).copied();
                for default in params.iter().filter_map(|param| param.default.as_ref()) {
                    self.set(file, default, None);
                }
                items.iter().for_each(|item| self.item(file, item, template));
            }
            Kind::Use { path, args } => {
                let used = self.path(file, path, None);
                for (name, set) in args {
                    if let (Some(name), Some(used)) = (name, used)
                        && let Some(id) = self.params.get(&(used, name.value.clone()))
                    {
                        self.mention(name.span, *id);
                    }
                    self.set(file, set, template);
                }
            }
            Kind::Claims { claims, .. } => {
                claims.iter().for_each(|claim| self.claim(file, claim, template));
            }
            Kind::Rule(rule) => {
                self.flow(file, &rule.flow, template);
                rule.when.iter().for_each(|same| self.same(file, same));
                for exempt in &rule.unless {
                    match exempt {
                        Exempt::Same(same) => self.same(file, same),
                        Exempt::Flow { flow, .. } => self.flow(file, flow, template),
                    }
                }
            }
            Kind::Isolate { set, .. } => self.set(file, set, template),
        }
    }

    fn import(&mut self, file: FileId, path: &Path, names: Option<&[Name]>) {
        let parts: Vec<&str> = path.parts.iter().map(|p| p.value.as_str()).collect();
        if let Some(module) = self.names.module(file, &parts) {
            self.module_mention(module, path.span);
            names.into_iter().flatten().for_each(|name| self.imported(module, name));
        } else if names.is_none()
            && let [first, .., before, last] | [first @ before, last] = path.parts.as_slice()
            && let Some(module) =
                parts.split_last().and_then(|(_, outer)| self.names.module(file, outer))
        {
            self.module_mention(module, first.span.to(before.span));
            self.imported(module, last);
        }
    }

    fn module_mention(&mut self, module: FileId, span: Span) {
        if let Some(id) = self.known.get(&Span::new(module, 0, 0)) {
            self.mention(span, *id);
        }
    }

    /// A name of another module; a definition before a label.
    fn imported(&mut self, module: FileId, name: &Name) {
        let own = |(visible, definition): &(&str, crate::resolve::Definition<'a>)| {
            *visible == name.value && definition.file == module
        };
        let definition = self.names.names_in(module).find(own).map(|(_, d)| d.name.span);
        let label = |d: &&crate::policy::Dimension| d.name == name.value && d.span.file == module;
        let place = definition.or(self.names.labels.iter().find(label).map(|d| d.span));
        if let Some(id) = place.and_then(|place| self.known.get(&place)) {
            self.mention(name.span, *id);
        }
    }

    fn claim(&mut self, file: FileId, claim: &'a Claim, template: Option<SymbolId>) {
        self.flow(file, &claim.flow, template);
        claim.avoiding.iter().for_each(|set| self.set(file, set, template));
        if let Some(by) = &claim.by
            && let Some(id) = self.index.blocks.get(&by.value)
        {
            self.mention(by.span, *id);
        }
    }

    fn flow(&mut self, file: FileId, flow: &'a Flow, template: Option<SymbolId>) {
        self.set(file, &flow.from, template);
        self.set(file, &flow.to, template);
        flow.on.iter().for_each(|on| self.set(file, on, template));
    }

    fn same(&mut self, file: FileId, same: &Same) {
        for name in &same.labels {
            self.label(file, name);
        }
    }

    fn label(&mut self, file: FileId, name: &Name) -> Option<SymbolId> {
        let LabelId(label) = self.names.label(file, name).ok()?;
        let place = self.names.labels.get(label as usize)?.span;
        let id = *self.known.get(&place)?;
        self.mention(name.span, id);
        Some(id)
    }

    fn value(&mut self, label: SymbolId, name: &Name) {
        let key = (label, name.value.clone());
        let known = self.values.get(&key).copied();
        let id = known
            .unwrap_or_else(|| self.add_placeless(SymbolKind::Value, &name.value, Some(label)));
        self.values.insert(key, id);
        self.mention(name.span, id);
    }

    /// A path in a set, or the template of a `use`.
    fn path(&mut self, file: FileId, path: &Path, template: Option<SymbolId>) -> Option<SymbolId> {
        let (first, last) = (path.parts.first()?, path.parts.last()?);
        if path.parts.len() == 1 {
            let param = template.and_then(|t| self.params.get(&(t, first.value.clone())));
            if let Some(id) = param.copied() {
                self.mention(first.span, id);
                return Some(id);
            }
        } else if let Some(module) =
            self.index.scopes.get(&file).and_then(|scope| scope.modules.get(&first.value))
        {
            self.mention(first.span, *module);
        }
        let id = match self.names.target(file, path).ok()? {
            Target::Definition(definition) => *self.known.get(&definition.name.span)?,
            Target::Builtin(_) => self.builtin(&last.value),
        };
        self.mention(last.span, id);
        Some(id)
    }

    fn builtin(&mut self, name: &str) -> SymbolId {
        let known = self.builtins.get(name).copied();
        let id = known.unwrap_or_else(|| self.add_placeless(SymbolKind::Builtin, name, None));
        self.builtins.insert(name.to_owned(), id);
        id
    }

    fn set(&mut self, file: FileId, set: &'a Set, template: Option<SymbolId>) {
        match &set.kind {
            SetKind::Except(a, b) | SetKind::And(a, b) => {
                self.set(file, a, template);
                self.set(file, b, template);
            }
            SetKind::Union(sets) => sets.iter().for_each(|set| self.set(file, set, template)),
            SetKind::Path(path) => {
                self.path(file, path, template);
            }
            SetKind::Label { key, values } => {
                let Some(label) = self.label(file, key) else { return };
                values.iter().flatten().for_each(|value| self.value(label, value));
            }
            SetKind::Ports { protocol, .. } | SetKind::Codes { protocol, .. } => {
                if crate::types::protocol_number(&protocol.value).is_some() {
                    let id = self.builtin(&protocol.value);
                    self.mention(protocol.span, id);
                }
            }
            SetKind::Any
            | SetKind::SelfHost
            | SetKind::Prefix { .. }
            | SetKind::Range(..)
            | SetKind::Call { .. }
            | SetKind::Error => {}
        }
    }
}

/// What stands around the name of a definition.
#[derive(Clone, Copy)]
struct Definition<'a> {
    item: Span,
    docs: &'a [Spanned<String>],
    parent: Option<SymbolId>,
}

fn docs(lines: &[Spanned<String>]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.value.trim()).collect();
    lines.join("\n")
}
