//! What it means: the typed policy, every name resolved, every set typed.
//!
//! This is the contract between the language and everything that works on policies.
//! The evaluator and the compiler both start here and share nothing else.
//!
//! Invariants: every [`LabelId`], [`BlockId`] and [`WorkloadId`] is in range; values of a closed dimension are
//! declared; prefixes have no host bits; ranges do not run backwards and do not mix address families;
//! rules are numbered in source order (path of the file, then offset).

use crate::ast::{Action, ClaimsKind, Direction, Expect, Tier};
use crate::source::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub mod text;

/// Index into [`Policy::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(pub u32);

/// Index into [`Policy::blocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// Index into [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// Index into [`Policy::workloads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(pub u32);

/// A whole checked policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The label dimensions, by name.
    pub labels: Vec<Dimension>,
    /// Guards, policies and baselines in source order.
    pub blocks: Vec<Block>,
    /// Every `allow`, `deny` and `isolate` of every block, in source order.
    pub rules: Vec<Rule>,
    /// The inventory, in source order.
    pub workloads: Vec<Workload>,
    /// The names of ports that workloads have.
    pub ports: BTreeSet<String>,
    /// The `test` and `assert` blocks in source order, those of templates for each use.
    pub tests: Vec<Test>,
}

/// A label dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// The key.
    pub name: String,
    /// The values of a closed dimension; `None` if any value may be set.
    pub values: Option<BTreeSet<String>>,
    /// Where it was declared.
    pub span: Span,
}

/// A guard, policy or baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name.
    pub name: String,
    /// The tier.
    pub tier: Tier,
    /// Whether it is only evaluated beside the others: a staged block decides nothing.
    pub staged: bool,
    /// `for set`: each rule touches it on one side.
    pub scope: Option<Endpoints>,
    /// Who, why and until when.
    pub annotations: Annotations,
    /// From the tier keyword to the closing brace.
    pub span: Span,
}

/// Facts about a block or rule that decide no packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `@owner("…")`.
    pub owner: Option<String>,
    /// `@ticket("…")`.
    pub ticket: Option<String>,
    /// `@reason("…")`.
    pub reason: Option<String>,
    /// `@since(date)`.
    pub since: Option<String>,
    /// `@review(date)`.
    pub review: Option<String>,
    /// `@id("…")`.
    pub id: Option<String>,
    /// `@expires(date)`: the last day, in UTC, on which the rule or exemption counts. Never inherited.
    pub expires: Option<String>,
}

/// An `allow`, `deny` or `isolate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The block it stands in.
    pub block: BlockId,
    /// What it does.
    pub kind: RuleKind,
    /// Its own annotations, those of the block where it has none.
    pub annotations: Annotations,
    /// The statement; in a template if it comes from one.
    pub span: Span,
    /// The `use` it comes from, outermost first.
    pub uses: Vec<Span>,
    /// What stands in place of the parameters in the statement, by place.
    pub arguments: Vec<(Span, String)>,
}

impl Rule {
    /// Where its author put it: the outermost `use`, or the statement itself.
    pub fn place(&self) -> Span {
        self.uses.first().copied().unwrap_or(self.span)
    }

    /// The last day on which the rule and all its exemptions count; `None` if none of them expires.
    pub fn expires(&self) -> Option<&str> {
        let exempt: &[Exempt] = match &self.kind {
            RuleKind::Match { unless, .. } => unless,
            RuleKind::Isolate { .. } => &[],
        };
        let of_exempt = exempt.iter().filter_map(|exempt| match exempt {
            Exempt::Flow { annotations, .. } => annotations.expires.as_deref(),
            Exempt::Same(_) => None,
        });
        // ISO dates sort as days do.
        of_exempt.chain(self.annotations.expires.as_deref()).min()
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// `allow` or `deny`.
    Match {
        /// Which of the two.
        action: Action,
        /// The flows matched.
        flow: Match,
        /// Only flows whose ends agree in each of these dimensions; empty for no such condition.
        when: Vec<LabelId>,
        /// Flows taken out again; a flow is exempt if any of them matches.
        unless: Vec<Exempt>,
        /// Whether its flows are to be told of; decides nothing.
        log: bool,
    },
    /// `isolate`.
    Isolate {
        /// The set isolated.
        set: Endpoints,
        /// One direction only; `None` for both.
        direction: Option<Direction>,
    },
}

/// `from -> to on services`, or both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Left of the arrow.
    pub from: Endpoints,
    /// Right of the arrow.
    pub to: Endpoints,
    /// Whether `to -> from` matches as well.
    pub both_ways: bool,
    /// The services.
    pub on: Services,
}

/// One exemption of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Both ends have the same value in each of these dimensions.
    Same(Vec<LabelId>),
    /// The flow matches.
    Flow {
        /// The flows.
        flow: Match,
        /// Annotations of the exemption.
        annotations: Box<Annotations>,
        /// Where it stands.
        span: Span,
    },
}

/// A set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Every endpoint.
    Any,
    /// Endpoints of the inventory.
    Managed,
    /// Endpoints outside the inventory.
    Unmanaged,
    /// The machine that loads the artifact.
    SelfHost,
    /// Endpoints with any value in this dimension.
    Has(LabelId),
    /// Endpoints with one of these values.
    Label(LabelId, BTreeSet<String>),
    /// Endpoints with an address in `first..=last`; both of one family.
    Addresses(IpAddr, IpAddr),
    /// Exactly this workload: its labels and one of its addresses. Only in claims.
    Workload(WorkloadId),
    /// In any of these; the empty union is the empty set.
    Union(Vec<Endpoints>),
    /// In all of these.
    Intersect(Vec<Endpoints>),
    /// In the first and not in the second.
    Except(Box<Endpoints>, Box<Endpoints>),
    /// Ends that a name of this form resolves to.
    Name(NamePattern),
    /// Processes of this machine in the control group of this path, or in one below.
    Cgroup(String),
}

/// A domain name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    /// In lower case, without a dot at the end.
    pub name: String,
    /// `*.name`: names with one or more labels in front of `name`, and not `name` itself.
    pub below: bool,
}

/// A set of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// Every protocol and port.
    Any,
    /// A protocol number and the closed range of ports or ICMP types; 0..=65535 where the protocol has neither.
    Ports {
        /// IANA protocol number.
        protocol: u8,
        /// First port or ICMP type.
        first: u16,
        /// Last port or ICMP type.
        last: u16,
    },
    /// In any of these; the empty union is the empty set.
    Union(Vec<Services>),
    /// In all of these.
    Intersect(Vec<Services>),
    /// In the first and not in the second.
    Except(Box<Services>, Box<Services>),
    /// TCP, UDP and SCTP from a source port of this closed range.
    SourcePorts {
        /// First source port.
        first: u16,
        /// Last source port.
        last: u16,
    },
    /// ICMP or ICMPv6 of any type with a code of this closed range.
    Codes {
        /// [`protocol::ICMP`] or [`protocol::ICMP6`].
        protocol: u8,
        /// First code.
        first: u8,
        /// Last code.
        last: u8,
    },
    /// The port that the destination calls by this name, if it is one of the protocol.
    Named {
        /// [`protocol::TCP`], [`protocol::UDP`] or [`protocol::SCTP`].
        protocol: u8,
        /// One of [`Policy::ports`].
        name: String,
    },
    /// HTTP requests. INVARIANT: stands in an intersection with services of TCP.
    Http {
        /// The method; `None` for any.
        method: Option<String>,
        /// The path; `None` for any.
        path: Option<PathPattern>,
    },
}

/// A path of an HTTP request, or all paths with a beginning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    /// Begins with `/`; what stands before the `*` if there is one.
    pub text: String,
    /// Whether other paths that begin so match too.
    pub prefix: bool,
}

/// A workload of the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The name.
    pub name: String,
    /// Its addresses, at least one.
    pub addresses: BTreeSet<IpAddr>,
    /// Its labels, at most one value in each dimension, by dimension.
    pub labels: Vec<(LabelId, String)>,
    /// Protocol and port by name.
    pub ports: BTreeMap<String, (u8, u16)>,
    /// Where it was declared.
    pub span: Span,
}

/// A `test` or `assert` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Which of the two: an `assert` must hold in every build.
    pub what: ClaimsKind,
    /// The title.
    pub title: String,
    /// Whether it belongs to another package.
    pub foreign: bool,
    /// The `use` it comes from, outermost first.
    pub uses: Vec<Span>,
    /// The claims in source order.
    pub claims: Vec<Claim>,
    /// The whole block.
    pub span: Span,
}

/// One `expect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is expected.
    pub expect: Expect,
    /// Of which flows.
    pub flow: Match,
    /// The block that alone must give this verdict.
    pub by: Option<BlockId>,
    /// Whether it is about chains of connections, `~>`. INVARIANT: then [`Expect::Deny`], no `by`, and not both ways.
    pub chain: Option<Chain>,
    /// Where it stands.
    pub span: Span,
}

/// Chains of allowed connections; the last one is of the claim's services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `avoiding set`: nothing between the first and the last end is in it.
    pub avoiding: Option<Endpoints>,
}

/// IANA protocol numbers the language knows by name.
pub mod protocol {
    /// `icmp`, RFC 792.
    pub const ICMP: u8 = 1;
    /// `tcp`, RFC 9293.
    pub const TCP: u8 = 6;
    /// `udp`, RFC 768.
    pub const UDP: u8 = 17;
    /// `icmp6`, RFC 4443.
    pub const ICMP6: u8 = 58;
    /// `sctp`, RFC 9260.
    pub const SCTP: u8 = 132;
}
