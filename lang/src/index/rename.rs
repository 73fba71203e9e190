//! Giving a symbol another name, everywhere at once, if that changes no meaning.

use super::{Index, SymbolId, SymbolKind};
use crate::lex::lex;
use crate::source::{FileId, Sources, Span};
use crate::token::Token;
use crate::types::builtin;

impl Index {
    /// Whether a symbol may be renamed, and if not, why.
    ///
    /// # Errors
    /// A message for the user.
    pub fn renameable(&self, sources: &Sources, id: SymbolId) -> Result<(), String> {
        let symbol = self.symbol(id).ok_or("nothing is named here")?;
        match symbol.kind {
            SymbolKind::Module => {
                return Err("a module is called like its file: rename the file".to_owned());
            }
            SymbolKind::Builtin => return Err(format!("`{}` is built in", symbol.name)),
            SymbolKind::Claims => return Err("a title is no name".to_owned()),
            SymbolKind::Set(_)
            | SymbolKind::Workload
            | SymbolKind::Template
            | SymbolKind::Parameter(_)
            | SymbolKind::Label
            | SymbolKind::Value
            | SymbolKind::Block(_) => {}
        }
        let parent = symbol.parent.and_then(|parent| self.symbol(parent));
        for span in [symbol.span, parent.and_then(|p| p.span)].into_iter().flatten() {
            let path = sources.get(span.file).map_or("", |source| source.path.as_str());
            if Self::is_library(sources, span.file) {
                return Err(format!("`{}` belongs to the standard library", symbol.name));
            }
            if self.packages.is_foreign(path) {
                return Err(format!("`{}` belongs to another package, in `{path}`", symbol.name));
            }
        }
        Ok(())
    }

    /// The places to write `new` at.
    ///
    /// # Errors
    /// A message for the user if the symbol cannot be renamed, `new` is no name, or it means something already.
    pub fn rename(&self, sources: &Sources, id: SymbolId, new: &str) -> Result<Vec<Span>, String> {
        self.renameable(sources, id)?;
        let symbol = self.symbol(id).ok_or("nothing is named here")?;
        let places: Vec<Span> = self.mentions(id).map(|mention| mention.span).collect();
        if new == symbol.name {
            return Ok(places);
        }
        let tokens = lex(FileId(0), new).tokens;
        let [token] = tokens.as_slice() else { return Err(format!("`{new}` is no name")) };
        let whole = token.span.range() == (0..new.len());
        let fits = match token.value {
            Token::Ident(_) => true,
            // A value stands behind its key, where words that start with a digit and keywords may stand too.
            Token::Word(_) | Token::Number(_) => symbol.kind == SymbolKind::Value,
            other => symbol.kind == SymbolKind::Value && other.keyword_text().is_some(),
        };
        if !whole || !fits {
            let keyword = token.value.keyword_text().is_some();
            let what = if keyword { "a keyword" } else { "no name" };
            return Err(format!("`{new}` is {what}"));
        }
        match self.clash(id, new, &places) {
            Some(other) => Err(format!("`{new}` is {other} already")),
            None => Ok(places),
        }
    }

    /// What `new` means already where the symbol is named.
    fn clash(&self, id: SymbolId, new: &str, places: &[Span]) -> Option<&'static str> {
        let symbol = self.symbol(id)?;
        let called = |kind: fn(SymbolKind) -> bool, parent: Option<SymbolId>| {
            self.symbols
                .iter()
                .any(|s| s.name == new && kind(s.kind) && (parent.is_none() || s.parent == parent))
        };
        match symbol.kind {
            SymbolKind::Module | SymbolKind::Builtin | SymbolKind::Claims => None,
            SymbolKind::Value => {
                called(|k| k == SymbolKind::Value, symbol.parent).then_some("a value of this label")
            }
            SymbolKind::Label => {
                // An import names either.
                let name = self.named(new, places);
                called(|k| k == SymbolKind::Label, None).then_some("a label").or(name)
            }
            SymbolKind::Block(_) => {
                called(|k| matches!(k, SymbolKind::Block(_)), None).then_some("a block")
            }
            SymbolKind::Parameter(_) => {
                called(|k| matches!(k, SymbolKind::Parameter(_)), symbol.parent)
                    .then_some("a parameter of this template")
                    .or(self.named(new, places))
            }
            SymbolKind::Set(_) | SymbolKind::Workload | SymbolKind::Template => {
                let label = self.symbols.iter().any(|s| {
                    s.name == new
                        && s.kind == SymbolKind::Label
                        && s.span.map(|s| s.file) == symbol.span.map(|s| s.file)
                });
                self.named(new, places)
                    .or(label.then_some("a label of this module"))
                    .or(self.captured(new, places).then_some("a parameter"))
            }
        }
    }

    /// Whether `new` is a name in one of the files.
    fn named(&self, new: &str, places: &[Span]) -> Option<&'static str> {
        if builtin(new).is_some() {
            return Some("built in");
        }
        let in_scope = |span: &Span| {
            self.scopes.get(&span.file).is_some_and(|scope| scope.names.contains_key(new))
        };
        places.iter().any(in_scope).then_some("a name")
    }

    /// Whether one of the places lies in a template with such a parameter.
    fn captured(&self, new: &str, places: &[Span]) -> bool {
        let templates = self.symbols.iter().filter_map(|param| match param.kind {
            SymbolKind::Parameter(_) if param.name == new => self.symbol(param.parent?)?.item,
            _ => None,
        });
        let inside = |item: Span| {
            places.iter().any(|p| p.file == item.file && item.range().contains(&(p.start as usize)))
        };
        templates.into_iter().any(inside)
    }
}
