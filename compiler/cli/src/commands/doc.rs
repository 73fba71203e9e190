//! `segc doc`: modules and definitions as they document themselves.

use super::{Outcome, Output, misuse};
use crate::package::{self, LoadError, MANIFEST};
use crate::report::json::{Place, place};
use crate::report::{self, say};
use seg_lang::docs::{Entry, Module, module, nearest};
use seg_lang::parse::parse;
use seg_lang::source::Sources;
use seg_lang::stdlib;
use serde::Serialize;
use std::iter;
use std::path::Path;

/// Longest set that stands in a table, beside what is said about it. Unit: characters.
const SET_MAX: usize = 40;

/// `segc doc`: all modules, one of them, or one definition.
///
/// Without `path` the package is that of the current directory, if there is one.
pub fn doc(name: Option<&str>, path: Option<&Path>, output: Output) -> Outcome {
    let here = Path::new(".");
    let path = path.or_else(|| Some(here).filter(|here| here.join(MANIFEST).is_file()));
    let mut sources = match path.map(package::load).transpose() {
        Ok(package) => package.map(|package| package.sources).unwrap_or_default(),
        Err(error) => return misuse(&error, output),
    };
    for (path, text) in stdlib::FILES {
        sources.add(*path, *text);
    }
    let modules: Vec<Module> =
        sources.iter().map(|(file, source)| module(source, &parse(file, &source.text).0)).collect();
    let Some(name) = name else {
        list(&modules, output);
        return Outcome::Clean;
    };
    let found = find(&modules, name);
    if found.is_empty() {
        return misuse(&unknown(&modules, name), output);
    }
    match output {
        Output::Json => report::print(Documented {
            modules: found.iter().map(|found| found.json(&sources)).collect(),
        }),
        Output::Text => {
            let texts: Vec<String> = found.iter().map(Found::text).collect();
            say!("{}", texts.join("\n\n"));
        }
    }
    Outcome::Clean
}

/// A module, and which of its entries are shown.
struct Found<'a> {
    module: &'a Module,
    entries: Vec<&'a Entry>,
    whole: bool,
}

/// What a name stands for: a module, a name in a module, or a name in any module.
fn find<'a>(modules: &'a [Module], name: &str) -> Vec<Found<'a>> {
    if let Some(module) = modules.iter().find(|module| module.name == name) {
        return vec![Found { module, entries: module.entries.iter().collect(), whole: true }];
    }
    let (home, last) = match name.rsplit_once('.') {
        Some((home, last)) => (Some(home), last),
        None => (None, name),
    };
    let homes = modules.iter().filter(|module| home.is_none_or(|home| module.name == home));
    let found = homes.map(|module| {
        let entries = module.entries.iter().filter(|entry| entry.name == last).collect();
        Found { module, entries, whole: false }
    });
    found.filter(|found| !found.entries.is_empty()).collect()
}

fn unknown(modules: &[Module], name: &str) -> LoadError {
    let hint = match nearest(modules, name) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`segc doc` lists the modules".to_owned(),
    };
    LoadError(format!("no module and no name `{name}`; {hint}"))
}

fn list(modules: &[Module], output: Output) {
    match output {
        Output::Json => report::print(Documented {
            modules: modules
                .iter()
                .map(|module| Documentation {
                    name: module.name.clone(),
                    docs: module.docs.clone(),
                    definitions: vec![],
                })
                .collect(),
        }),
        Output::Text => {
            let width = modules.iter().map(|module| module.name.len()).max().unwrap_or(0);
            for module in modules {
                let line = format!("{:width$}  {}", module.name, module.summary());
                say!("{}", line.trim_end());
            }
        }
    }
}

impl Found<'_> {
    fn text(&self) -> String {
        let mut text = self.module.name.clone();
        if self.whole && !self.module.docs.is_empty() {
            text += &format!("\n\n{}", self.module.docs);
        }
        let mut rest = self.entries.as_slice();
        while let Some((first, others)) = rest.split_first() {
            if self.whole && !first.heading.is_empty() {
                text += &format!("\n\n# {}", first.heading);
            }
            let alike = others.iter().map_while(|entry| {
                Row::of(entry).filter(|_| entry.kind == first.kind && entry.heading.is_empty())
            });
            rest = others;
            match Row::of(first).filter(|_| self.whole) {
                Some(row) => {
                    let rows: Vec<Row> = iter::once(row).chain(alike).collect();
                    text += &table(&rows);
                    rest = &others[rows.len() - 1..];
                }
                None => {
                    text += &format!("\n\n{}", if self.whole { &first.head } else { &first.text });
                    for line in first.docs.lines() {
                        text += format!("\n    {line}").trim_end_matches(' ');
                    }
                }
            }
        }
        text
    }

    fn json(&self, sources: &Sources) -> Documentation {
        let definitions = self.entries.iter().map(|entry| Definition {
            kind: entry.kind,
            name: entry.name.clone(),
            docs: entry.docs.clone(),
            head: entry.head.clone(),
            text: entry.text.clone(),
            place: place(sources, entry.span),
        });
        Documentation {
            name: self.module.name.clone(),
            docs: self.module.docs.clone(),
            definitions: definitions.collect(),
        }
    }
}

/// A definition that is one line of a table.
struct Row<'a> {
    left: &'a str,
    right: &'a str,
    docs: &'a str,
}

impl<'a> Row<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        let has_set = matches!(entry.kind, "label" | "net" | "service" | "group");
        let parts = entry.head.split_once('=').filter(|_| has_set);
        let (left, right) = parts.unwrap_or((&entry.head, ""));
        let row = Self { left: left.trim_end(), right: right.trim_start(), docs: &entry.docs };
        let is_short = has_set && right.chars().count() <= SET_MAX && !row.docs.contains('\n');
        (!entry.head.contains('\n') && (is_short || row.docs.is_empty())).then_some(row)
    }
}

fn table(rows: &[Row]) -> String {
    let width = |text: &str| text.chars().count();
    let left = rows.iter().map(|row| width(row.left)).max().unwrap_or(0);
    let explained = rows.iter().filter(|row| !row.docs.is_empty());
    let right = explained.map(|row| width(row.right)).max().unwrap_or(0);
    let mut text = "\n".to_owned();
    for row in rows {
        let equals = if row.right.is_empty() { ' ' } else { '=' };
        let line = format!("{:left$} {equals} {:right$}  {}", row.left, row.right, row.docs);
        text += &format!("\n{}", line.trim_end());
    }
    text
}

#[derive(Serialize)]
struct Documented {
    modules: Vec<Documentation>,
}

#[derive(Serialize)]
struct Documentation {
    name: String,
    docs: String,
    definitions: Vec<Definition>,
}

#[derive(Serialize)]
struct Definition {
    kind: &'static str,
    name: String,
    docs: String,
    head: String,
    text: String,
    #[serde(flatten)]
    place: Place,
}
