//! Annotations: who, why and until when, what a package requires of its blocks, and which warnings are known.

use super::{Annotations, Checker};
use crate::ast::{Action, Annotation, Item, Kind, LiteralValue, Name, Tier};
use crate::codes;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::lex::is_date;
use crate::policy::text;
use crate::resolve::{nearest, suggest};
use crate::source::{FileId, Span};
use jiff::civil::Date;
use std::collections::BTreeSet;

/// The annotations there are.
pub(crate) const ANNOTATIONS: &[&str] =
    &["expires", "id", "ignore", "owner", "reason", "review", "since", "ticket"];

/// How long before its end an expiry is warned of. Unit: days. Source: chosen.
const SOON_DAYS: i32 = 30;

/// `@ignore("W1302", "…")`.
pub(super) struct Ignore {
    /// Where it stands.
    at: Span,
    code: String,
    /// Warnings in here are not reported.
    covers: Span,
    used: bool,
}

/// What an annotation stands on, which decides whether it may expire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// Something without which less is allowed.
    Allowance,
    /// Something without which more is allowed, and the way out.
    Protection(&'static str),
    /// Something that no date changes.
    Other,
}

impl Checker<'_, '_> {
    /// The annotations of an item.
    pub(super) fn annotations(&mut self, item: &Item) -> Annotations {
        let on = match &item.kind {
            Kind::Rule(rule) if rule.action == Action::Allow => On::Allowance,
            Kind::Rule(_) => On::Protection(
                "a deny stays; put the date on an exemption: `unless { @expires(…) a -> b }`",
            ),
            Kind::Isolate { .. } => On::Protection("an isolate stays; put the date on an `allow`"),
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Block { .. }
            | Kind::Template { .. }
            | Kind::Use { .. }
            | Kind::Claims { .. }
            | Kind::Error => On::Other,
        };
        self.read(&item.annotations, on, item.span)
    }

    /// The annotations of an exemption of an `allow` or a `deny`.
    pub(super) fn exempt_annotations(
        &mut self,
        action: Action,
        annotations: &[Annotation],
        span: Span,
    ) -> Annotations {
        let on = match action {
            Action::Deny => On::Allowance,
            Action::Allow => On::Protection("write a rule for what is to be allowed later"),
        };
        self.read(annotations, on, span)
    }

    fn read(&mut self, annotations: &[Annotation], on: On, covers: Span) -> Annotations {
        let mut found = Annotations::default();
        let mut twice = BTreeSet::new();
        for annotation in annotations {
            let name = annotation.name.value.as_str();
            let (field, date) = match name {
                "owner" => (&mut found.owner, false),
                "ticket" => (&mut found.ticket, false),
                "reason" => (&mut found.reason, false),
                "id" => (&mut found.id, false),
                "since" => (&mut found.since, true),
                "review" => (&mut found.review, true),
                "expires" if self.may_expire(annotation, on) => (&mut found.expires, true),
                "expires" => continue,
                "ignore" => {
                    self.ignore(annotation, covers);
                    continue;
                }
                _ => {
                    let message = format!("no annotation `@{name}`");
                    let report = Diagnostic::new(codes::ANNOTATION, message, annotation.name.span);
                    self.report(match nearest(name, ANNOTATIONS.iter().copied()) {
                        Some(near) => suggest(report, &annotation.name, near),
                        None => report.help(format!("known are: {}", ANNOTATIONS.join(", "))),
                    });
                    continue;
                }
            };
            let value = match annotation.arguments.as_slice() {
                [argument] => match &argument.value {
                    LiteralValue::String(text) if !date => Some(text),
                    LiteralValue::Date(text) if date => Some(text),
                    LiteralValue::String(_)
                    | LiteralValue::Date(_)
                    | LiteralValue::Number(_)
                    | LiteralValue::Ident(_)
                    | LiteralValue::Range(..) => None,
                },
                _ => None,
            };
            let message = match value {
                Some(_) if field.is_some() && !twice.insert(name) => continue,
                Some(_) if field.is_some() => format!("`@{name}` is given twice"),
                Some(value) if value.trim().is_empty() => format!("`@{name}` says nothing"),
                Some(value) => {
                    *field = Some(value.clone());
                    continue;
                }
                None if date => format!("`@{name}` takes one date, as in `@{name}(2026-12-31)`"),
                None => format!("`@{name}` takes one string, as in `@{name}(\"…\")`"),
            };
            let mut report = Diagnostic::new(codes::ANNOTATION, message, annotation.span);
            // A word without quotes, or a date with them.
            if let (None, [argument]) = (value, annotation.arguments.as_slice()) {
                match &argument.value {
                    LiteralValue::Ident(word) if !date => {
                        report = report.fix(argument.span, format!("\"{word}\""));
                    }
                    LiteralValue::String(text) if date && is_date(text) => {
                        report = report.fix(argument.span, text);
                    }
                    _ => {}
                }
            }
            self.report(report);
        }
        found
    }

    /// Time only narrows: what protects may not end by itself.
    fn may_expire(&mut self, annotation: &Annotation, on: On) -> bool {
        let report = match on {
            On::Allowance => return true,
            On::Protection(help) => {
                let message = "this may not expire: it would open traffic by itself";
                Diagnostic::new(codes::WIDENS, message, annotation.span).help(help)
            }
            On::Other => {
                let message = "`@expires` stands on an `allow` or on an exemption of a `deny`";
                Diagnostic::new(codes::ANNOTATION, message, annotation.span)
            }
        };
        self.report(report);
        false
    }

    /// Whether something ended before the day the policy is for, and a warning if it did or soon will.
    pub(super) fn expired(&mut self, expires: Option<&String>, span: Span) -> bool {
        let (Some(expires), Some(as_of)) = (expires, &self.config.as_of) else { return false };
        let days = [expires, as_of].map(|day| day.parse::<Date>());
        let [Ok(last), Ok(now)] = days else { return false };
        let days_left = (last - now).get_days();
        if days_left < 0 {
            let message = format!("expired on {expires}; left out as of {as_of}");
            self.warn(
                Diagnostic::new(codes::EXPIRED, message, span).help("delete it, or set a new date"),
            );
        } else if days_left <= SOON_DAYS {
            let message = format!("expires on {expires}, {}", in_days(days_left));
            self.warn(Diagnostic::new(codes::EXPIRES_SOON, message, span));
        }
        days_left < 0
    }

    /// Whether a file may hold a block of this tier, and whether the block says all that its package requires.
    pub(super) fn may_hold(
        &mut self,
        file: FileId,
        tier: Tier,
        name: &Name,
        annotations: &Annotations,
    ) {
        let path = self.sources.get(file).map_or("", |source| source.path.as_str());
        let package = self.config.packages.of(path);
        let word = text::tier(tier);
        if !package.may_write(tier, path) {
            let message = format!("`{path}` may not hold a {word}");
            let report = Diagnostic::new(codes::MAY_NOT, message, name.span);
            self.report(report.help(format!("`seg.toml` says which files may: `[tiers]`, {word}")));
        }
        for required in package.required.get(&tier).into_iter().flatten() {
            if text::fields(annotations).iter().any(|(of, value)| of == required && value.is_some())
            {
                continue;
            }
            let message = format!("a {word} of this package needs `@{required}(…)`");
            let report = Diagnostic::new(codes::REQUIRED, message, name.span);
            self.report(report.help("`seg.toml` requires it: `[annotations]`"));
        }
    }

    fn ignore(&mut self, annotation: &Annotation, covers: Span) {
        let text = |n: usize| match annotation.arguments.get(n).map(|a| &a.value) {
            Some(LiteralValue::String(text)) if !text.trim().is_empty() => Some(text),
            Some(_) | None => None,
        };
        let (Some(code), Some(_), 2) = (text(0), text(1), annotation.arguments.len()) else {
            let message =
                "`@ignore` takes a warning and a reason, as in `@ignore(\"W1302\", \"…\")`";
            return self.refuse(codes::ANNOTATION, message, annotation.span);
        };
        let known = codes::ALL.iter().map(|(code, _)| *code);
        let mut warnings = known.filter(|code| code.severity() == Severity::Warning);
        if !warnings.clone().any(|Code(known)| known == code) {
            let message = format!("no warning `{code}`");
            let report = Diagnostic::new(codes::ANNOTATION, message, annotation.span);
            let list: Vec<_> = warnings.by_ref().map(|code| code.0).collect();
            return self.report(report.help(format!("known are: {}", list.join(", "))));
        }
        // In a template once for each use, and of use if any of them needs it.
        if !self.ignores.iter().any(|ignore| ignore.at == annotation.span) {
            let (at, code) = (annotation.span, code.clone());
            self.ignores.push(Ignore { at, code, covers, used: false });
        }
    }

    fn warn(&mut self, warning: Diagnostic) {
        if self.defining {
            return;
        }
        let at = warning.labels.first().map(|label| label.span);
        let ignore = self.ignores.iter_mut().find(|ignore| {
            let inside = |at: Span| {
                let covers = ignore.covers;
                at.file == covers.file && covers.start <= at.start && at.end <= covers.end
            };
            ignore.code == warning.code.0 && at.is_some_and(inside)
        });
        match ignore {
            Some(ignore) => ignore.used = true,
            None => self.diagnostics.push(warning),
        }
    }

    /// Reports what was to be ignored and never came up.
    pub(super) fn ignores(&mut self) {
        for ignore in std::mem::take(&mut self.ignores) {
            // Whether something has expired is known as of a day only.
            let dated = [codes::EXPIRED.0, codes::EXPIRES_SOON.0].contains(&ignore.code.as_str());
            if !ignore.used && (!dated || self.config.as_of.is_some()) {
                let message = format!("there is no {} here to ignore", ignore.code);
                let report = Diagnostic::new(codes::UNUSED_IGNORE, message, ignore.at);
                self.diagnostics.push(report.help("delete it"));
            }
        }
    }
}

fn in_days(days: i32) -> String {
    match days {
        0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        days => format!("in {days} days"),
    }
}
