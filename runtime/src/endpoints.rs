//! The endpoints file: strict TOML to [`Endpoint`]s, each part with its place.
//!
//! ```toml
//! [[endpoint]]
//! name = "shop-web-1"
//! labels = { app = "shop", role = "web" }
//! addresses = ["10.20.1.11", "fd20::11"]
//! ports = { admin = "tcp/8443" }
//! netns = "shop-web-1"    # or interface = "veth7"; with neither it is a remote peer
//! self = false            # true for the machine itself
//! ```
//!
//! INVARIANT: names, addresses and `self` are unique in the result, and a bound endpoint has an address.

use crate::refusal::{Position, Problem, Refusal, nearest};
use seg_artifact::{manifest, maps};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest endpoints file read. Unit: bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// An endpoint as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, unique.
    pub name: Located<String>,
    /// Label dimension and value.
    pub labels: Vec<(Located<String>, Located<String>)>,
    /// Name of a port, its protocol and number.
    pub ports: Vec<(Located<String>, (u8, u16))>,
    /// Where it is reached, and what it may send from.
    pub addresses: Vec<Located<IpAddr>>,
    /// Where its packets are seen.
    pub place: Place,
    /// Whether it is the machine itself.
    pub is_self: bool,
}

/// Where an endpoint's packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not on this node.
    Remote,
    /// An interface.
    Interface(Located<String>),
    /// The host's end of the veth pair into a named network namespace.
    Namespace(Located<String>),
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Position,
}

/// Reads an endpoints file.
///
/// # Errors
/// Every reason to refuse it, in the order of the text.
pub fn read(text: &str) -> Result<Vec<Endpoint>, Vec<Refusal>> {
    let mut reader = Reader::new(text);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            // A message of several lines would not read as one refusal.
            let message = error.message().replace('\n', ", ");
            reader.refuse(span, Problem::Syntax(message));
            return Err(reader.refusals);
        }
    };
    let mut endpoints = Vec::new();
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("endpoint", DeValue::Array(array)) => {
                endpoints.extend(array.iter().filter_map(|value| reader.endpoint(value)));
            }
            ("endpoint", other) => {
                reader.wrong_type(value.span(), "endpoint", "an array of tables", other);
            }
            (other, _) => reader.unknown(key.span(), other, &["endpoint"]),
        }
    }
    reader.unique(&endpoints);
    reader.refusals.sort_by_key(|refusal| refusal.at);
    if reader.refusals.is_empty() { Ok(endpoints) } else { Err(reader.refusals) }
}

struct Reader<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    refusals: Vec<Refusal>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { text, line_starts, refusals: Vec::new() }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|i| self.line_starts.get(i)).copied();
        let before = self.text.get(start.unwrap_or(0)..offset).unwrap_or_default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position { line: number(line), column: number(before.chars().count() + 1) }
    }

    fn locate<T>(&self, span: Range<usize>, value: T) -> Located<T> {
        Located { value, at: self.position(span.start) }
    }

    fn refuse(&mut self, span: Range<usize>, problem: Problem) {
        self.refusals.push(Refusal { at: self.position(span.start), problem });
    }

    fn unknown(&mut self, span: Range<usize>, key: &str, known: &[&str]) {
        let near = nearest(key, known.iter().copied());
        self.refuse(span, Problem::UnknownKey { key: key.to_owned(), near });
    }

    fn wrong_type(&mut self, span: Range<usize>, key: &str, wanted: &'static str, found: &DeValue) {
        let found = match found {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.refuse(span, Problem::Type { key: key.to_owned(), wanted, found });
    }

    /// An endpoint; `None` when it has no usable name, so that nothing can be said about it.
    fn endpoint(&mut self, value: &Spanned<DeValue>) -> Option<Endpoint> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value.span(), "endpoint", "a table", value.get_ref());
            return None;
        };
        let (mut name, mut labels, mut addresses) = (None, Vec::new(), Vec::new());
        let mut ports = Vec::new();
        let (mut interface, mut netns, mut is_self) = (None, None, false);
        let mut named = false;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => {
                    named = true;
                    name = self.word(value, "name");
                }
                "labels" => labels = self.labels(value),
                "ports" => ports = self.ports(value),
                "addresses" => addresses = self.addresses(value),
                "interface" => interface = self.word(value, "interface"),
                "netns" => netns = self.netns(value),
                "self" => match value.get_ref() {
                    DeValue::Boolean(value) => is_self = *value,
                    other => self.wrong_type(value.span(), "self", "true or false", other),
                },
                other => {
                    let known =
                        ["name", "labels", "ports", "addresses", "interface", "netns", "self"];
                    self.unknown(key.span(), other, &known);
                }
            }
        }
        if !named {
            self.refuse(value.span(), Problem::Unnamed);
        }
        let name = name?;
        let place = match (interface, netns) {
            (Some(interface), None) => Place::Interface(interface),
            (None, Some(netns)) => {
                if is_self {
                    self.refusals.push(Refusal { at: netns.at, problem: Problem::SelfElsewhere });
                }
                Place::Namespace(netns)
            }
            (None, None) => Place::Remote,
            (Some(_), Some(netns)) => {
                self.refusals.push(Refusal { at: netns.at, problem: Problem::TwoPlaces });
                Place::Remote
            }
        };
        let empty = table
            .get("addresses")
            .is_none_or(|a| a.get_ref().as_array().is_some_and(|a| a.is_empty()));
        if place != Place::Remote && empty {
            let problem = Problem::NoAddress(name.value.clone());
            self.refusals.push(Refusal { at: name.at, problem });
        }
        Some(Endpoint { name, labels, ports, addresses, place, is_self })
    }

    /// A non-empty string that prints on one line.
    fn word(&mut self, value: &Spanned<DeValue>, what: &'static str) -> Option<Located<String>> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(value.span(), what, "a string", value.get_ref());
            return None;
        };
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            self.refuse(value.span(), Problem::Word { what, text: text.to_string() });
            return None;
        }
        Some(self.locate(value.span(), text.to_string()))
    }

    /// A namespace's name: one file name, so that it cannot lead elsewhere.
    fn netns(&mut self, value: &Spanned<DeValue>) -> Option<Located<String>> {
        let name = self.word(value, "netns")?;
        if name.value.contains('/') || name.value == "." || name.value == ".." {
            self.refuse(value.span(), Problem::Word { what: "netns", text: name.value });
            return None;
        }
        Some(name)
    }

    fn labels(&mut self, value: &Spanned<DeValue>) -> Vec<(Located<String>, Located<String>)> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value.span(), "labels", "a table", value.get_ref());
            return Vec::new();
        };
        let mut labels = Vec::new();
        for (key, value) in table {
            if let Some(value) = self.word(value, "label value") {
                labels.push((self.locate(key.span(), key.get_ref().to_string()), value));
            }
        }
        labels
    }

    fn ports(&mut self, value: &Spanned<DeValue>) -> Vec<(Located<String>, (u8, u16))> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value.span(), "ports", "a table", value.get_ref());
            return Vec::new();
        };
        let mut ports = Vec::new();
        for (key, value) in table {
            let Some(text) = self.word(value, "port") else { continue };
            match manifest::parse_port(&text.value) {
                Some(port) => {
                    ports.push((self.locate(key.span(), key.get_ref().to_string()), port))
                }
                None => self.refuse(value.span(), Problem::Port(text.value)),
            }
        }
        ports
    }

    fn addresses(&mut self, value: &Spanned<DeValue>) -> Vec<Located<IpAddr>> {
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(value.span(), "addresses", "an array of strings", value.get_ref());
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for value in array.iter() {
            let DeValue::String(text) = value.get_ref() else {
                self.wrong_type(value.span(), "addresses", "strings", value.get_ref());
                continue;
            };
            match text.parse::<IpAddr>() {
                Err(_) => self.refuse(value.span(), Problem::Address(text.to_string())),
                Ok(address) => {
                    // The mapped form is another spelling of an IPv4 address, and has its key.
                    let address = address.to_canonical();
                    if is_endpoint_address(address) {
                        addresses.push(self.locate(value.span(), address));
                    } else {
                        self.refuse(value.span(), Problem::NotUnicast(address));
                    }
                }
            }
        }
        addresses
    }

    /// Names, addresses and `self` are each had once; tables hold what was written.
    fn unique(&mut self, endpoints: &[Endpoint]) {
        let mut names: BTreeMap<&str, Position> = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, (&str, Position)> = BTreeMap::new();
        let mut machine: Option<&str> = None;
        let mut n_bound = 0;
        for endpoint in endpoints {
            let name = endpoint.name.value.as_str();
            let mut refuse = |at, problem| self.refusals.push(Refusal { at, problem });
            if let Some(first) = names.get(name) {
                let problem = Problem::Duplicate { name: name.to_owned(), line: first.line };
                refuse(endpoint.name.at, problem);
            }
            names.entry(name).or_insert(endpoint.name.at);
            for address in &endpoint.addresses {
                if let Some((first, at)) = owners.get(&address.value) {
                    let problem = Problem::Overlap {
                        address: address.value,
                        first: (*first).to_owned(),
                        line: at.line,
                        second: name.to_owned(),
                    };
                    refuse(address.at, problem);
                }
                owners.entry(address.value).or_insert((name, address.at));
            }
            if endpoint.is_self {
                if let Some(first) = machine {
                    let problem = Problem::SecondSelf { first: first.to_owned() };
                    refuse(endpoint.name.at, problem);
                }
                machine.get_or_insert(name);
            }
            n_bound += usize::from(endpoint.place != Place::Remote);
        }
        for (n, what, max) in [
            (owners.len(), "addresses", maps::ADDRESSES_MAX),
            (n_bound, "interfaces", maps::LOCAL_MAX),
        ] {
            if n > max as usize {
                self.refuse(0..0, Problem::TooMany { n, what, max });
            }
        }
        if n_bound == 0 && self.refusals.is_empty() {
            self.refuse(0..0, Problem::NothingBound);
        }
    }
}

fn is_endpoint_address(address: IpAddr) -> bool {
    let broadcast = IpAddr::from([255; 4]);
    !(address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || address == broadcast)
}
