//! What was written: the syntax tree of one file, with the span of every part.
//!
//! Nothing is resolved here: a name is a path, a label test is a key and words.
//! Endpoints and services share [`Set`] so that a service where endpoints belong is a type error, not a syntax error.

use crate::source::{Span, Spanned};
use std::net::IpAddr;

/// An identifier with its place.
pub type Name = Spanned<String>;

/// A dotted name such as `std.services.https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The parts, at least one.
    pub parts: Vec<Name>,
    /// From the first part to the last.
    pub span: Span,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The items in the order written.
    pub items: Vec<Item>,
}

/// An item with what stands above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Text of the `##` lines above, without the marks.
    pub docs: Vec<Spanned<String>>,
    /// `@name(…)` in the order written.
    pub annotations: Vec<Annotation>,
    /// What it is.
    pub kind: Kind,
    /// The item without docs and annotations.
    pub span: Span,
}

/// `@name(arguments)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The name after `@`.
    pub name: Name,
    /// The arguments.
    pub arguments: Vec<Literal>,
    /// From `@` to `)`.
    pub span: Span,
}

/// A literal argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// The value.
    pub value: LiteralValue,
    /// Where it stands.
    pub span: Span,
}

/// The value of a [`Literal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiteralValue {
    /// `"text"`, escapes resolved.
    String(String),
    /// Digits.
    Number(u64),
    /// `2026-12-31`, valid in the Gregorian calendar.
    Date(String),
    /// A bare word, such as the `POST` of `http(POST "/x")`.
    Ident(String),
    /// `lo-hi` as written, which may run backwards; only in calls.
    Range(u64, u64),
}

/// The kinds of item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `import path` or `import path.{ a, b }`.
    Import {
        /// The module, or a module and the name of one thing in it.
        path: Path,
        /// The names in braces, if braces were written.
        names: Option<Vec<Name>>,
    },
    /// `label name` (open) or `label name = { a, b }` (closed).
    Label {
        /// The dimension.
        name: Name,
        /// The values of a closed dimension.
        values: Option<Vec<Name>>,
    },
    /// `net name = set`, `service name = set` or `group name = set`.
    Define {
        /// Which keyword.
        what: DefineKind,
        /// The name defined.
        name: Name,
        /// Its meaning.
        set: Set,
    },
    /// `workload name at set is set on { port = set }`.
    Workload {
        /// The name.
        name: Name,
        /// The addresses.
        at: Set,
        /// The labels.
        is: Set,
        /// The named ports.
        ports: Vec<(Name, Set)>,
    },
    /// `guard`, `policy` or `baseline` with a body.
    Block {
        /// The tier.
        tier: Tier,
        /// Whether `staged` stands before it.
        staged: Option<Span>,
        /// The name.
        name: Name,
        /// `for set`.
        scope: Option<Set>,
        /// The items between the braces.
        items: Vec<Item>,
    },
    /// `template name(parameters) { … }`.
    Template {
        /// The name.
        name: Name,
        /// The parameters.
        params: Vec<Param>,
        /// The items between the braces.
        items: Vec<Item>,
    },
    /// `use path(arguments)`.
    Use {
        /// The template.
        path: Path,
        /// The arguments, named or by position.
        args: Vec<(Option<Name>, Set)>,
    },
    /// `test "title" { … }` or `assert "title" { … }`.
    Claims {
        /// Which keyword.
        what: ClaimsKind,
        /// The title.
        title: Spanned<String>,
        /// The claims.
        claims: Vec<Claim>,
    },
    /// `allow …` or `deny …`.
    Rule(Rule),
    /// `isolate set [inbound | outbound]`.
    Isolate {
        /// The set isolated.
        set: Set,
        /// One direction only.
        direction: Option<Direction>,
    },
    /// An item that did not parse; a diagnostic stands for it.
    Error,
}

/// What a [`Kind::Define`] defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefineKind {
    /// Endpoints made of addresses.
    Net,
    /// A set of services.
    Service,
    /// Any endpoints.
    Group,
}

/// The tiers of policy, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Overridden by nobody.
    Guard,
    /// What teams write.
    Policy,
    /// What holds where no team has written anything.
    Baseline,
}

/// Which kind of claims a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsKind {
    /// Run by `segc test`.
    Test,
    /// Must hold in every build.
    Assert,
}

/// A template parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The name.
    pub name: Name,
    /// `endpoints` or `service`.
    pub ty: ParamType,
    /// The value when the argument is left out.
    pub default: Option<Set>,
}

/// The type of a template parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// A set of endpoints.
    Endpoints,
    /// A set of services.
    Service,
}

/// `allow` or `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The flow may pass.
    Allow,
    /// The flow may not pass.
    Deny,
}

/// `inbound` or `outbound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Flows that enter the set.
    Inbound,
    /// Flows that leave the set.
    Outbound,
}

/// `allow flow [when same …] [unless …] [log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `allow` or `deny`.
    pub action: Action,
    /// Which flows.
    pub flow: Flow,
    /// `when same …`.
    pub when: Option<Same>,
    /// `unless …`.
    pub unless: Vec<Exempt>,
    /// `log`.
    pub log: Option<Span>,
}

/// `same a, b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Same {
    /// The label dimensions that must agree.
    pub labels: Vec<Name>,
    /// From `same` to the last name.
    pub span: Span,
}

/// One exemption of an `unless`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// `same a, b`.
    Same(Same),
    /// A flow, with annotations of its own.
    Flow {
        /// `@name(…)` above the flow.
        annotations: Vec<Annotation>,
        /// The flow.
        flow: Box<Flow>,
    },
}

/// `set -> set on set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Left of the arrow.
    pub from: Set,
    /// The arrow.
    pub arrow: Spanned<Arrow>,
    /// Right of the arrow.
    pub to: Set,
    /// After `on`.
    pub on: Option<Set>,
    /// The whole flow.
    pub span: Span,
}

/// The arrows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrow {
    /// `->`
    To,
    /// `<->`, both ways.
    Both,
    /// `~>`, through any chain of allowed flows; only in claims.
    Reach,
}

/// `expect allow|deny|only flow [avoiding set] [by name]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is expected.
    pub expect: Expect,
    /// Of which flows.
    pub flow: Flow,
    /// `avoiding set`.
    pub avoiding: Option<Set>,
    /// `by block`.
    pub by: Option<Name>,
    /// The whole claim.
    pub span: Span,
}

/// The three expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The flows pass.
    Allow,
    /// No flow passes.
    Deny,
    /// Of all flows into the right side, only these pass.
    Only,
}

/// A set of endpoints or services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The expression.
    pub kind: SetKind,
    /// Where it stands.
    pub span: Span,
}

/// The forms of a [`Set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// `a except b`.
    Except(Box<Set>, Box<Set>),
    /// `a & b`.
    And(Box<Set>, Box<Set>),
    /// `{ a, b }`.
    Union(Vec<Set>),
    /// `any`.
    Any,
    /// `self`.
    SelfHost,
    /// A name.
    Path(Path),
    /// `key:value`, `key:{ v, w }` or `key:*`.
    Label {
        /// The dimension.
        key: Name,
        /// The values; `None` for `*`.
        values: Option<Vec<Name>>,
    },
    /// An address or a prefix, host bits as written.
    Prefix {
        /// The address.
        address: IpAddr,
        /// Leading bits that count: 0..=32 or 0..=128.
        len: u8,
    },
    /// `a-b`, both included.
    Range(IpAddr, IpAddr),
    /// `tcp/80`, `tcp/{ 80, 443 }`, `icmp/echo-request`, `proto/47`.
    Ports {
        /// The protocol.
        protocol: Name,
        /// The ports, ICMP types or protocol numbers.
        ports: Vec<Spanned<Port>>,
    },
    /// `http(POST "/x")`, `sport(1024-65535)`.
    Call {
        /// The predicate.
        name: Name,
        /// Its arguments.
        arguments: Vec<Literal>,
    },
    /// A set that did not parse; a diagnostic stands for it.
    Error,
    /// `icmp/3/4`, `icmp/destination-unreachable/{ 0, 4 }`.
    Codes {
        /// The protocol.
        protocol: Name,
        /// The ICMP types.
        of: Spanned<Port>,
        /// The codes of these types.
        codes: Vec<Spanned<Port>>,
    },
}

/// What may follow `tcp/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// `lo-hi`, both included; `lo = hi` for a single number.
    Range(u16, u16),
    /// A name, such as `echo-request`.
    Name(String),
}
