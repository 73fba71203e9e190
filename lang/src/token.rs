//! The tokens of a `.seg` text, and their text form.

use crate::source::{Source, Spanned};
use std::fmt::Write as _;
use std::net::IpAddr;

macro_rules! tokens {
    (keywords { $($keyword:ident = $word:literal,)* } marks { $($mark:ident = $text:literal,)* }) => {
        /// A token; the texts are slices of the source.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Token<'a> {
            $(#[doc = concat!("The keyword `", $word, "`.")] $keyword,)*
            $(#[doc = concat!("The mark `", $text, "`.")] $mark,)*
            /// A name such as `three-tier`.
            Ident(&'a str),
            /// A word that starts with a digit, such as `2048-game`; only a label value.
            Word(&'a str),
            /// `key:value` or `key:*`.
            Pair(&'a str),
            /// Digits.
            Number(&'a str),
            /// `2026-12-31`.
            Date(&'a str),
            /// `"text"` with its quotes; the closing one may be missing.
            String(&'a str),
            /// An address.
            Address(IpAddr),
            /// An address with a prefix length that fits its family; host bits as written.
            Prefix(IpAddr, u8),
            /// What looks like an address and is none; a diagnostic stands for it.
            BadAddress,
            /// `## text` without its mark.
            Doc(&'a str),
            /// The end of a statement: a line end, or `;`.
            NewLine,
            /// Bytes that start no token; a diagnostic stands for them.
            Error,
        }

        impl<'a> Token<'a> {
            /// The keyword written like this.
            pub fn keyword(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$keyword),)*
                    _ => None,
                }
            }

            /// The mark written like this.
            pub(crate) fn mark(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$mark),)*
                    _ => None,
                }
            }

            /// How a keyword is written; nothing for other tokens.
            pub fn keyword_text(self) -> Option<&'static str> {
                match self {
                    $(Self::$keyword => Some($word),)*
                    _ => None,
                }
            }
        }

        /// All keywords, for completion and for "did you mean".
        pub const KEYWORDS: &[&str] = &[$($word),*];
    };
}

tokens! {
    keywords {
        Import = "import",
        Label = "label",
        Net = "net",
        Service = "service",
        Group = "group",
        Workload = "workload",
        At = "at",
        Is = "is",
        Guard = "guard",
        Policy = "policy",
        Baseline = "baseline",
        Staged = "staged",
        For = "for",
        Template = "template",
        Use = "use",
        Test = "test",
        Assert = "assert",
        Expect = "expect",
        Allow = "allow",
        Deny = "deny",
        Only = "only",
        Isolate = "isolate",
        Inbound = "inbound",
        Outbound = "outbound",
        On = "on",
        When = "when",
        Unless = "unless",
        Same = "same",
        Except = "except",
        Any = "any",
        SelfHost = "self",
        Log = "log",
        By = "by",
        Avoiding = "avoiding",
    }
    marks {
        To = "->",
        Both = "<->",
        Reach = "~>",
        And = "&",
        Assign = "=",
        Mark = "@",
        Colon = ":",
        Comma = ",",
        Dash = "-",
        Dot = ".",
        Slash = "/",
        OpenBrace = "{",
        CloseBrace = "}",
        OpenParen = "(",
        CloseParen = ")",
        Pipe = "|",
        Plus = "+",
    }
}

impl Token<'_> {
    /// Whether a statement may end after this token.
    pub(crate) fn ends(self) -> bool {
        matches!(
            self,
            Self::Ident(_)
                | Self::Word(_)
                | Self::Pair(_)
                | Self::Number(_)
                | Self::Date(_)
                | Self::String(_)
                | Self::Address(_)
                | Self::Prefix(..)
                | Self::BadAddress
                | Self::Error
                | Self::CloseBrace
                | Self::CloseParen
                | Self::Any
                | Self::SelfHost
                | Self::Log
                | Self::Inbound
                | Self::Outbound
        )
    }

    /// Whether this token goes on with the statement of the line before.
    pub(crate) fn continues(self) -> bool {
        matches!(
            self,
            Self::To
                | Self::Both
                | Self::Reach
                | Self::On
                | Self::When
                | Self::Unless
                | Self::Except
                | Self::Avoiding
                | Self::By
                | Self::And
                | Self::Pipe
                | Self::Plus
                | Self::OpenBrace
                | Self::CloseBrace
                | Self::CloseParen
                | Self::Comma
                | Self::Assign
                | Self::Dot
                | Self::Is
                | Self::At
                | Self::For
                | Self::Log
                | Self::NewLine
        )
    }

    /// Whether an item or a claim starts with this token and nothing else does.
    pub(crate) fn starts_item(self) -> bool {
        matches!(
            self,
            Self::Import
                | Self::Label
                | Self::Net
                | Self::Service
                | Self::Group
                | Self::Workload
                | Self::Guard
                | Self::Policy
                | Self::Baseline
                | Self::Staged
                | Self::Template
                | Self::Use
                | Self::Test
                | Self::Assert
                | Self::Expect
                | Self::Allow
                | Self::Deny
                | Self::Isolate
        )
    }

    /// The class, as the text form names it.
    fn class(self) -> &'static str {
        match self {
            Self::Ident(_) => "name",
            Self::Word(_) => "word",
            Self::Pair(_) => "label",
            Self::Number(_) => "number",
            Self::Date(_) => "date",
            Self::String(_) => "string",
            Self::Address(_) => "address",
            Self::Prefix(..) => "prefix",
            Self::BadAddress => "bad-address",
            Self::Doc(_) => "doc",
            Self::NewLine => "end",
            Self::Error => "error",
            _ if self.keyword_text().is_some() => "keyword",
            _ => "mark",
        }
    }
}

/// The text form: one token a line as `line:column class text`.
pub fn dump(source: &Source, tokens: &[Spanned<Token<'_>>]) -> String {
    let mut out = String::new();
    let mut places = Places::new(source);
    for token in tokens {
        let (line, column) = places.at(token.span.start);
        let text = source.text.get(token.span.range()).unwrap_or_default();
        let line = format!("{line}:{column} {} {text}", token.value.class());
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Positions of ascending offsets in one walk over the text.
struct Places<'a> {
    rest: std::str::CharIndices<'a>,
    next: usize,
    line: u32,
    column: u32,
}

impl<'a> Places<'a> {
    fn new(source: &'a Source) -> Self {
        Self { rest: source.text.char_indices(), next: 0, line: 1, column: 1 }
    }

    fn at(&mut self, offset: u32) -> (u32, u32) {
        while self.next < offset as usize {
            let Some((start, c)) = self.rest.next() else { break };
            self.next = start + c.len_utf8();
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        (self.line, self.column)
    }
}
