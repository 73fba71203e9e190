//! What is wrong with an endpoints file: one variant for each cause, each at its place.

use crate::idents::Exhausted;
use std::fmt;
use std::net::IpAddr;

/// A place in a text; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A cause at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where.
    pub at: Position,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem)
    }
}

/// Causes, in the order of the steps that find them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML; the parser's own words.
    #[error("{0}")]
    Syntax(String),
    /// A key no endpoint has.
    #[error("unknown key `{key}`{}", did_you_mean(.near))]
    UnknownKey {
        /// As written.
        key: String,
        /// A known one like it.
        near: Option<String>,
    },
    /// A value of another type.
    #[error("`{key}` wants {wanted}, not {found}")]
    Type {
        /// The key.
        key: String,
        /// Its type.
        wanted: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// No name.
    #[error("an endpoint needs a `name`")]
    Unnamed,
    /// Empty, or not printable on one line.
    #[error("invalid {what} {text:?}")]
    Word {
        /// What it would be.
        what: &'static str,
        /// As written.
        text: String,
    },
    /// Two places.
    #[error("give `interface` or `netns`, not both")]
    TwoPlaces,
    /// The machine in another namespace than itself.
    #[error("the machine itself stands in no other namespace: give its `interface`")]
    SelfElsewhere,
    /// Bound, but with no address its packets could come from.
    #[error("endpoint `{0}` is bound to an interface and needs `addresses`")]
    NoAddress(String),
    /// Neither IPv4 nor IPv6.
    #[error(
        "invalid address `{0}`: give single addresses of IPv4 or IPv6, without prefix length or zone"
    )]
    Address(String),
    /// Group, loopback or unspecified.
    #[error("`{0}` cannot be the address of an endpoint")]
    NotUnicast(IpAddr),
    /// The same address twice.
    #[error("endpoints `{first}` (line {line}) and `{second}` both have address `{address}`")]
    Overlap {
        /// The address.
        address: IpAddr,
        /// Who has it.
        first: String,
        /// Where.
        line: u32,
        /// Who wants it, too.
        second: String,
    },
    /// The same name twice.
    #[error("endpoint `{name}` is defined on line {line} already")]
    Duplicate {
        /// The name.
        name: String,
        /// Of the first.
        line: u32,
    },
    /// More than one machine.
    #[error("`{first}` is the machine itself already; there is one `self`")]
    SecondSelf {
        /// The first.
        first: String,
    },
    /// More than [`seg_artifact::maps::ADDRESSES_MAX`] addresses or [`seg_artifact::maps::LOCAL_MAX`] interfaces.
    #[error("{n} {what}; a node knows at most {max}")]
    TooMany {
        /// How many.
        n: usize,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: u32,
    },
    /// More than programs can look up.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// Nothing to enforce on.
    #[error("no endpoint has an `interface` or `netns`: nothing would be enforced")]
    NothingBound,
    /// A dimension the policy does not declare.
    #[error("the policy has no label dimension `{label}`{}", did_you_mean(.near))]
    Label {
        /// As written.
        label: String,
        /// A declared one like it.
        near: Option<String>,
    },
    /// A value outside a closed dimension.
    #[error("label `{label}` has no value `{value}`; it has {}{}", listed(.values), did_you_mean(.near))]
    Value {
        /// The dimension.
        label: String,
        /// As written.
        value: String,
        /// Its values.
        values: Vec<String>,
        /// The one most like it.
        near: Option<String>,
    },
    /// Neither a port of TCP nor of UDP nor of SCTP.
    #[error("invalid port `{0}`: give one of tcp, udp or sctp, as in `tcp/8443`")]
    Port(String),
    /// A name of a port that the policy does not know.
    #[error("the policy names no port `{port}`{}", did_you_mean(.near))]
    PortName {
        /// As written.
        port: String,
        /// A known one like it.
        near: Option<String>,
    },
    /// The object has no program for these labels: a fault of its compiler.
    #[error("the policy object has no program for endpoint `{0}`")]
    NoProgram(String),
    /// No such interface.
    #[error("no interface `{interface}`{}", did_you_mean(.near))]
    NoInterface {
        /// As written.
        interface: String,
        /// One like it.
        near: Option<String>,
    },
    /// No such namespace.
    #[error("no network namespace `{0}` in /run/netns")]
    NoNamespace(String),
    /// No way in.
    #[error("no veth of this namespace leads into `{0}`; give `interface`")]
    NoVeth(String),
    /// Several ways in.
    #[error("{} lead into `{netns}`; give one as `interface`", listed(.interfaces))]
    SeveralVeths {
        /// The namespace.
        netns: String,
        /// The host's ends.
        interfaces: Vec<String>,
    },
    /// Programs begin at the Ethernet header; elsewhere they would read nonsense.
    #[error(
        "interface `{interface}` is not Ethernet (ARPHRD type {link_type}), which the programs read"
    )]
    NotEthernet {
        /// The interface.
        interface: String,
        /// Its `ARPHRD_` number.
        link_type: u16,
    },
    /// Two endpoints behind one interface.
    #[error(
        "endpoints `{first}` (line {line}) and `{second}` are both bound to interface `{interface}`"
    )]
    SharedInterface {
        /// The interface.
        interface: String,
        /// Who is bound to it.
        first: String,
        /// Where.
        line: u32,
        /// Who would be, too.
        second: String,
    },
}

/// The candidate most like a text, if it is like it at all: at most one letter in three differs.
pub fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(text, candidate);
    let best = candidates.into_iter().min_by_key(|c| distance(c))?;
    (distance(best) <= (text.chars().count() / 3).max(1)).then(|| best.to_owned())
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

fn listed(words: &[String]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
