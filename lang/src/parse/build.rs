//! What the grammar's actions need: spans, and values that are checked while they are built.

use crate::ast::{Name, ParamType, Port, Set, SetKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span, Spanned};
use std::net::IpAddr;

/// The state of one run of the grammar.
pub(crate) struct Build {
    file: FileId,
    /// What is wrong with values; syntax errors are the parser's.
    pub(crate) out: Vec<Diagnostic>,
}

impl Build {
    pub(crate) fn new(file: FileId) -> Self {
        Self { file, out: vec![] }
    }

    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    pub(crate) fn name(&self, text: &str, start: usize, end: usize) -> Name {
        Spanned { value: text.to_owned(), span: self.span(start, end) }
    }

    pub(crate) fn set(&self, kind: SetKind, start: usize, end: usize) -> Set {
        Set { kind, span: self.span(start, end) }
    }

    /// The halves of `key:value`.
    pub(crate) fn pair(&self, text: &str, start: usize, end: usize) -> (Name, Name) {
        let (key, value) = text.split_once(':').unwrap_or((text, ""));
        (self.name(key, start, start + key.len()), self.name(value, end - value.len(), end))
    }

    pub(crate) fn label(&self, text: &str, start: usize, end: usize) -> SetKind {
        let (key, value) = self.pair(text, start, end);
        let values = (value.value != "*").then(|| vec![value]);
        SetKind::Label { key, values }
    }

    pub(crate) fn address(&self, address: IpAddr) -> SetKind {
        SetKind::Prefix { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub(crate) fn addresses(
        &mut self,
        a: Option<IpAddr>,
        b: Option<IpAddr>,
        start: usize,
        end: usize,
    ) -> SetKind {
        let (Some(a), Some(b)) = (a, b) else { return SetKind::Error };
        if a.is_ipv4() == b.is_ipv4() && a > b {
            self.backwards(&a.to_string(), &b.to_string(), start, end);
            return SetKind::Error;
        }
        SetKind::Range(a, b)
    }

    pub(crate) fn prefix_bound(&mut self, start: usize, end: usize) -> Option<IpAddr> {
        let message = "a range runs between addresses, not prefixes";
        self.out.push(Diagnostic::new(codes::BAD_ADDRESS, message, self.span(start, end)));
        None
    }

    pub(crate) fn ports(&mut self, lo: &str, hi: &str, start: usize, end: usize) -> Spanned<Port> {
        let port = match (lo.parse::<u16>().ok(), hi.parse::<u16>().ok()) {
            (Some(a), Some(b)) if a > b => {
                self.backwards(lo, hi, start, end);
                Port::Range(b, a)
            }
            (Some(a), Some(b)) => Port::Range(a, b),
            (a, b) => {
                let bad = if a.is_none() { lo } else { hi };
                let message = format!("`{bad}` is above 65535, the last port");
                self.out.push(Diagnostic::new(codes::BAD_PORT, message, self.span(start, end)));
                Port::Range(a.or(b).unwrap_or(0), a.or(b).unwrap_or(0))
            }
        };
        Spanned { value: port, span: self.span(start, end) }
    }

    pub(crate) fn number(&mut self, text: &str, start: usize, end: usize) -> u64 {
        text.parse().unwrap_or_else(|_| {
            let message = format!("`{text}` is too large a number");
            self.out.push(Diagnostic::new(codes::BAD_PORT, message, self.span(start, end)));
            u64::MAX
        })
    }

    pub(crate) fn param_type(&mut self, name: &str, span: Span) -> ParamType {
        match name {
            "endpoints" => ParamType::Endpoints,
            "service" => ParamType::Service,
            _ => {
                let message = format!("expected `endpoints` or `service`, found `{name}`");
                self.out.push(Diagnostic::new(codes::EXPECTED, message, span));
                ParamType::Endpoints
            }
        }
    }

    fn backwards(&mut self, lo: &str, hi: &str, start: usize, end: usize) {
        let span = self.span(start, end);
        let message = format!("the range `{lo}-{hi}` runs backwards");
        self.out
            .push(Diagnostic::new(codes::BACKWARDS, message, span).fix(span, format!("{hi}-{lo}")));
    }
}
