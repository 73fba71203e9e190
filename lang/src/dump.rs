//! The text form of a syntax tree: nested lists, without spans.
//!
//! Stable, for people and for tests: an item a line, what it holds indented below it.

use crate::ast::{
    Action, Annotation, Arrow, Claim, ClaimsKind, DefineKind, Direction, Exempt, Expect, File,
    Flow, Item, Kind, Literal, LiteralValue, Name, ParamType, Path, Port, Same, Set, SetKind, Tier,
};
use crate::source::Spanned;
use std::fmt::Write as _;

/// The text form of a file.
pub fn dump(file: &File) -> String {
    let mut out = String::new();
    items(&file.items, 0, &mut out);
    out
}

fn line(out: &mut String, level: usize, text: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "", indent = level * 2);
}

fn items(items: &[Item], level: usize, out: &mut String) {
    for item in items {
        for doc in &item.docs {
            line(out, level, format!("; {}", doc.value).trim_end());
        }
        for annotation in &item.annotations {
            line(out, level, &annotation_text(annotation));
        }
        kind(&item.kind, level, out);
    }
}

fn kind(kind: &Kind, level: usize, out: &mut String) {
    match kind {
        Kind::Import { path, names: None } => {
            line(out, level, &format!("(import {})", path_text(path)))
        }
        Kind::Import { path, names: Some(list) } => {
            line(out, level, &format!("(import {} [{}])", path_text(path), names(list)));
        }
        Kind::Label { name, values: None } => line(out, level, &format!("(label {})", name.value)),
        Kind::Label { name, values: Some(values) } => {
            line(out, level, &format!("(label {} [{}])", name.value, words(values)));
        }
        Kind::Define { what, name, set } => {
            let what = match what {
                DefineKind::Net => "net",
                DefineKind::Service => "service",
                DefineKind::Group => "group",
            };
            line(out, level, &format!("({what} {} {})", name.value, set_text(set)));
        }
        Kind::Workload { name, at, is, ports } => {
            let (at, is) = (set_text(at), set_text(is));
            let ports =
                ports.iter().map(|(port, set)| format!(" ({} {})", port.value, set_text(set)));
            let on = if ports.len() > 0 {
                format!(" (on{})", ports.collect::<String>())
            } else {
                String::new()
            };
            line(out, level, &format!("(workload {} (at {at}) (is {is}){on})", name.value));
        }
        Kind::Block { tier, staged, name, scope, items: inner } => {
            let staged = if staged.is_some() { "staged " } else { "" };
            let tier = match tier {
                Tier::Guard => "guard",
                Tier::Policy => "policy",
                Tier::Baseline => "baseline",
            };
            let scope =
                scope.as_ref().map(|s| format!(" (for {})", set_text(s))).unwrap_or_default();
            line(out, level, &format!("({staged}{tier} {}{scope}", name.value));
            items(inner, level + 1, out);
            close(out);
        }
        Kind::Template { name, params, items: inner } => {
            let params = params.iter().map(|param| {
                let ty = match param.ty {
                    ParamType::Endpoints => "endpoints",
                    ParamType::Service => "service",
                };
                let default = param.default.as_ref().map(|s| format!(" {}", set_text(s)));
                format!(" ({ty} {}{})", param.name.value, default.unwrap_or_default())
            });
            line(out, level, &format!("(template {}{}", name.value, params.collect::<String>()));
            items(inner, level + 1, out);
            close(out);
        }
        Kind::Use { path, args } => {
            let args = args.iter().map(|(name, set)| match name {
                Some(name) => format!(" (= {} {})", name.value, set_text(set)),
                None => format!(" {}", set_text(set)),
            });
            line(out, level, &format!("(use {}{})", path_text(path), args.collect::<String>()));
        }
        Kind::Claims { what, title, claims } => {
            let what = match what {
                ClaimsKind::Test => "test",
                ClaimsKind::Assert => "assert",
            };
            line(out, level, &format!("({what} {:?}", title.value));
            claims.iter().for_each(|claim| line(out, level + 1, &claim_text(claim)));
            close(out);
        }
        Kind::Rule(rule) => {
            let action = match rule.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            let when = rule.when.as_ref().map(|same| format!(" (when {})", same_text(same)));
            let log = if rule.log.is_some() { " log" } else { "" };
            let head =
                format!("({action} {}{}{log}", flow_text(&rule.flow), when.unwrap_or_default());
            if rule.unless.is_empty() {
                return line(out, level, &format!("{head})"));
            }
            line(out, level, &head);
            line(out, level + 1, "(unless");
            for exempt in &rule.unless {
                match exempt {
                    Exempt::Same(same) => line(out, level + 2, &same_text(same)),
                    Exempt::Flow { annotations, flow } => {
                        for annotation in annotations {
                            line(out, level + 2, &annotation_text(annotation));
                        }
                        line(out, level + 2, &format!("({})", flow_text(flow)));
                    }
                }
            }
            close(out);
            close(out);
        }
        Kind::Isolate { set, direction } => {
            let direction = match direction {
                None => "",
                Some(Direction::Inbound) => " inbound",
                Some(Direction::Outbound) => " outbound",
            };
            line(out, level, &format!("(isolate {}{direction})", set_text(set)));
        }
        Kind::Error => line(out, level, "(error)"),
    }
}

/// Closes a list at the end of its last line.
fn close(out: &mut String) {
    out.truncate(out.trim_end().len());
    out.push_str(")\n");
}

fn annotation_text(annotation: &Annotation) -> String {
    format!("(@{}{})", annotation.name.value, literals(&annotation.arguments))
}

fn literals(literals: &[Literal]) -> String {
    let text = |literal: &Literal| match &literal.value {
        LiteralValue::String(text) => format!(" {text:?}"),
        LiteralValue::Number(number) => format!(" {number}"),
        LiteralValue::Date(text) | LiteralValue::Ident(text) => format!(" {text}"),
        LiteralValue::Range(lo, hi) => format!(" {lo}-{hi}"),
    };
    literals.iter().map(text).collect()
}

fn claim_text(claim: &Claim) -> String {
    let expect = match claim.expect {
        Expect::Allow => "allow",
        Expect::Deny => "deny",
        Expect::Only => "only",
    };
    let avoiding = claim.avoiding.as_ref().map(|s| format!(" (avoiding {})", set_text(s)));
    let by = claim.by.as_ref().map(|name| format!(" (by {})", name.value));
    let (avoiding, by) = (avoiding.unwrap_or_default(), by.unwrap_or_default());
    format!("(expect {expect} {}{avoiding}{by})", flow_text(&claim.flow))
}

fn flow_text(flow: &Flow) -> String {
    let arrow = match flow.arrow.value {
        Arrow::To => "->",
        Arrow::Both => "<->",
        Arrow::Reach => "~>",
    };
    let on = flow.on.as_ref().map(|s| format!(" (on {})", set_text(s))).unwrap_or_default();
    format!("{} {arrow} {}{on}", set_text(&flow.from), set_text(&flow.to))
}

fn same_text(same: &Same) -> String {
    format!("(same {})", names(&same.labels))
}

fn path_text(path: &Path) -> String {
    let parts: Vec<&str> = path.parts.iter().map(|part| part.value.as_str()).collect();
    parts.join(".")
}

fn names(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
    names.join(" ")
}

/// Label values; those that are no plain words in quotes.
fn words(words: &[Name]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word = |name: &Name| match name.value.chars().all(plain) && !name.value.is_empty() {
        true => name.value.clone(),
        false => format!("{:?}", name.value),
    };
    words.iter().map(word).collect::<Vec<String>>().join(" ")
}

fn set_text(set: &Set) -> String {
    match &set.kind {
        SetKind::Except(a, b) => format!("(except {} {})", set_text(a), set_text(b)),
        SetKind::And(a, b) => format!("(& {} {})", set_text(a), set_text(b)),
        SetKind::Union(sets) => {
            let sets: Vec<String> = sets.iter().map(set_text).collect();
            format!("{{{}}}", sets.join(" "))
        }
        SetKind::Any => "any".to_owned(),
        SetKind::SelfHost => "self".to_owned(),
        SetKind::Path(path) => path_text(path),
        SetKind::Label { key, values: None } => format!("{}:*", key.value),
        SetKind::Label { key, values: Some(values) } => match values.as_slice() {
            [value] => format!("{}:{}", key.value, words(std::slice::from_ref(value))),
            values => format!("{}:[{}]", key.value, words(values)),
        },
        SetKind::Prefix { address, len } => format!("{address}/{len}"),
        SetKind::Range(a, b) => format!("{a}-{b}"),
        SetKind::Ports { protocol, ports } => {
            format!("{}/{}", protocol.value, ports_text(ports))
        }
        SetKind::Codes { protocol, of, codes } => {
            let of = ports_text(std::slice::from_ref(of));
            format!("{}/{of}/{}", protocol.value, ports_text(codes))
        }
        SetKind::Call { name, arguments } => format!("({}{})", name.value, literals(arguments)),
        SetKind::Error => "(error)".to_owned(),
    }
}

fn ports_text(ports: &[Spanned<Port>]) -> String {
    let port = |port: &Spanned<Port>| match &port.value {
        Port::Range(lo, hi) if lo == hi => lo.to_string(),
        Port::Range(lo, hi) => format!("{lo}-{hi}"),
        Port::Name(name) => name.clone(),
    };
    let ports: Vec<String> = ports.iter().map(port).collect();
    match ports.as_slice() {
        [only] => only.clone(),
        ports => format!("[{}]", ports.join(" ")),
    }
}
