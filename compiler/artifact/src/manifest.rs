//! What an object says about itself, as plain data: enough for `segd` to bind endpoints without knowing the language.

use crate::{maps, version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The manifest. Written as JSON, one value, no time, no absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`version::FORMAT`] of the writer.
    pub format: u32,
    /// Edition of the language.
    pub edition: String,
    /// Version of the compiler.
    pub compiler: String,
    /// Name of the package.
    pub package: String,
    /// Oldest kernel that can enforce it, such as `6.6`.
    pub kernel: String,
    /// Label dimensions in the order of an endpoint record's values.
    pub labels: Vec<Label>,
    /// Names of ports in the order of an endpoint record's ports, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// The nets that rules tell apart; net `i` of the list has ident `i + 1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<Net>,
    /// Which program decides what an endpoint sends.
    pub outbound: Roles,
    /// Which program decides what an endpoint receives.
    pub inbound: Roles,
    /// The inventory that claims were proved on, by name, then address.
    pub workloads: Vec<Workload>,
    /// The last day, in UTC, for which the object was made: the first of the rules' `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// The rules by number.
    pub rules: Vec<Rule>,
    /// The sources by path.
    pub sources: Vec<Source>,
    /// SHA-256 over the canonical rules of each tier, in hexadecimal.
    pub digests: Digests,
}

/// A label dimension and how its values are numbered.
///
/// 0 is unset; value `i` of the list is `i + 1`; in an open dimension the runtime numbers any other value above those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The key.
    pub name: String,
    /// Whether only the listed values may be set.
    pub closed: bool,
    /// The values rules tell apart, sorted.
    pub values: Vec<String>,
}

/// Addresses that no rule tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Ascending ranges, the last address included, which no other range of the manifest overlaps.
    pub ranges: Vec<(IpAddr, IpAddr)>,
}

/// A workload of the sources.
///
/// INVARIANT: no other has any of its addresses; its labels are dimensions of the manifest, its ports have names there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The name, unique in its module.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its value in each dimension where it has one.
    pub labels: BTreeMap<String, String>,
    /// Its named ports, such as `tcp/8443`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, String>,
}

/// A decision over an endpoint's own labels that ends in a role.
///
/// INVARIANT: edges of a node ascend and end at `u32::MAX`; a node refers only to later nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Where to begin.
    pub root: Target,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Program symbol of each role.
    pub programs: Vec<String>,
}

/// One question about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What is asked.
    pub field: Field,
    /// Where each range of answers leads.
    pub edges: Vec<Edge>,
}

/// What a [`Node`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// 1 if the endpoint is the machine itself, else 0.
    IsSelf,
    /// Its value in the dimension with this index.
    Label(u32),
}

/// Answers up to `last` lead to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Largest answer, included.
    pub last: u32,
    /// Where to go.
    pub to: Target,
}

/// Another question, or the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Index into [`Roles::nodes`].
    Node(u32),
    /// Index into [`Roles::programs`].
    Role(u32),
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `guard`, `policy` or `baseline`.
    pub tier: String,
    /// The block.
    pub block: String,
    /// `allow`, `deny` or `isolate`.
    pub action: String,
    /// File, relative to the package.
    pub path: String,
    /// Line from 1.
    pub line: u32,
    /// The statement as written, on one line.
    pub text: String,
    /// `@owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `@ticket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Place of the statement if a template holds it, as `std/patterns.seg:8`; `path` and `line` are then those of the use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Whether its block is staged: it decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// Whether its flows are to be told of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// The last day, in UTC, on which the rule and all its exemptions count, as `2026-12-31`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A source file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Path relative to the package; `std/…` for the standard library.
    pub path: String,
    /// SHA-256 of the text in hexadecimal.
    pub sha256: String,
}

/// A digest for each tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Of the guards.
    pub guard: String,
    /// Of the policies.
    pub policy: String,
    /// Of the baselines.
    pub baseline: String,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected form.
    // The cause may quote the manifest, whose characters are not yet known to be plain.
    #[error("the manifest does not decode: {}", .0.to_string().replace(is_hidden, "?"))]
    Decode(#[from] serde_json::Error),
    /// Another format.
    #[error("manifest format {found}, this build reads format {wanted}")]
    Format {
        /// What it says.
        found: u32,
        /// [`version::FORMAT`].
        wanted: u32,
    },
    /// Text that a terminal would obey or hide.
    #[error("the manifest holds control or bidirectional characters")]
    Hidden,
    /// The inventory breaks its invariant.
    #[error("workload `{name}` is inconsistent: {what}")]
    Workload {
        /// The workload.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A net breaks its invariant.
    #[error("the nets are inconsistent: {0}")]
    Nets(&'static str),
    /// `not_after` is no date.
    #[error("`{date}` is not a date such as `2026-12-31`")]
    Date {
        /// What it is.
        date: String,
    },
    /// The role decision breaks its invariant.
    #[error("the {direction} roles are inconsistent: {what}")]
    Roles {
        /// `inbound` or `outbound`.
        direction: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl Manifest {
    /// The JSON text, ending in a newline.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads and verifies a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] if it does not decode, is of another format or inconsistent.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        // The format is read alone first, so that a later format is named rather than called malformed.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes)?;
        if format != version::FORMAT {
            return Err(ManifestError::Format { found: format, wanted: version::FORMAT });
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.texts().any(|text| text.contains(is_hidden)) {
            return Err(ManifestError::Hidden);
        }
        for (direction, roles) in [("outbound", &manifest.outbound), ("inbound", &manifest.inbound)]
        {
            let verified = roles.verify(manifest.labels.len());
            verified.map_err(|what| ManifestError::Roles { direction, what })?;
        }
        manifest.verify_nets().map_err(ManifestError::Nets)?;
        manifest.verify_workloads()?;
        if let Some(date) = manifest.not_after.iter().find(|date| !is_date(date)) {
            return Err(ManifestError::Date { date: date.clone() });
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// How many nets there are: the idents above are those of endpoints.
    pub fn n_nets(&self) -> u16 {
        // INVARIANT: `verify_nets` made sure of it.
        u16::try_from(self.nets.len()).unwrap_or(u16::MAX)
    }

    fn verify_nets(&self) -> Result<(), &'static str> {
        if self.nets.len() >= maps::ADDRESSES_MAX as usize {
            return Err("more than there are idents");
        }
        let mut ranges: Vec<(IpAddr, IpAddr)> =
            self.nets.iter().flat_map(|net| net.ranges.iter().copied()).collect();
        if ranges.iter().any(|(first, last)| first.is_ipv4() != last.is_ipv4() || first > last) {
            return Err("a range that runs backwards");
        }
        ranges.sort_unstable();
        match ranges.is_sorted_by(|(_, last), (first, _)| last < first) {
            true => Ok(()),
            false => Err("ranges that overlap"),
        }
    }

    fn verify_workloads(&self) -> Result<(), ManifestError> {
        let known: BTreeSet<&String> = self.labels.iter().map(|label| &label.name).collect();
        let mut taken = BTreeSet::new();
        for Workload { name, addresses, labels, ports } in &self.workloads {
            let what = if !labels.keys().all(|label| known.contains(label)) {
                "a label that does not exist"
            } else if !ports.keys().all(|port| self.ports.contains(port)) {
                "a port that has no name"
            } else if !ports.values().all(|port| parse_port(port).is_some()) {
                "a port that is none"
            } else if !addresses.iter().all(|address| taken.insert(address)) {
                "an address of two workloads"
            } else {
                continue;
            };
            return Err(ManifestError::Workload { name: name.clone(), what });
        }
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        let rules = self.rules.iter().flat_map(|rule| {
            let Rule { tier, block, action, path, text, .. } = rule;
            let Rule { owner, ticket, template, expires, .. } = rule;
            let optional = [owner, ticket, template, expires].into_iter().flatten();
            [tier, block, action, path, text].into_iter().chain(optional)
        });
        let labels = self.labels.iter().flat_map(|l| std::iter::once(&l.name).chain(&l.values));
        let workloads = self.workloads.iter().flat_map(|workload| {
            let Workload { name, addresses: _, labels, ports } = workload;
            let pairs = labels.iter().chain(ports);
            std::iter::once(name).chain(pairs.flat_map(|(key, value)| [key, value]))
        });
        let Digests { guard, policy, baseline } = &self.digests;
        [&self.edition, &self.compiler, &self.package, &self.kernel, guard, policy, baseline]
            .into_iter()
            .chain(labels)
            .chain(&self.ports)
            .chain(workloads)
            .chain(&self.outbound.programs)
            .chain(&self.inbound.programs)
            .chain(&self.not_after)
            .chain(rules)
            .chain(self.sources.iter().flat_map(|source| [&source.path, &source.sha256]))
    }
}

/// Whether a text has the shape `2026-12-31`; such dates sort as days do.
fn is_date(text: &str) -> bool {
    let shape = text.bytes().map(|b| if b.is_ascii_digit() { b'0' } else { b });
    shape.eq(*b"0000-00-00")
}

/// Whether a terminal obeys a character, or shows others in another order for it: UTR 36, section 2.
///
/// The language refuses these in sources; so must whoever names files and packages.
pub fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Labels as the language writes them: `app:shop & role:db`, or `managed` without any.
pub fn labels_text(labels: &BTreeMap<String, String>) -> String {
    let words: Vec<_> = labels.iter().map(|(label, value)| format!("{label}:{value}")).collect();
    if words.is_empty() { "managed".to_owned() } else { words.join(" & ") }
}

/// Protocols whose ports may have names, by IANA number.
const PORT_PROTOCOLS: [(&str, u8); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];

/// Protocol and number of a port such as `tcp/8443`.
pub fn parse_port(text: &str) -> Option<(u8, u16)> {
    let (protocol, port) = text.split_once('/')?;
    let (_, protocol) = PORT_PROTOCOLS.into_iter().find(|(name, _)| *name == protocol)?;
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    Some((protocol, port.parse().ok().filter(|_| digits)?))
}

/// Named ports as the language writes them: `admin = tcp/8443, metrics = tcp/9100`.
pub fn ports_text(ports: &BTreeMap<String, String>) -> String {
    let words: Vec<_> = ports.iter().map(|(name, port)| format!("{name} = {port}")).collect();
    words.join(", ")
}

impl Roles {
    /// The role of an endpoint; `labels` holds one value for each dimension of the manifest.
    pub fn role(&self, is_self: bool, labels: &[u32]) -> Option<u32> {
        let mut target = self.root;
        // A verified node refers only to later ones, so this ends.
        loop {
            let node = match target {
                Target::Role(role) => return Some(role),
                Target::Node(index) => self.nodes.get(index as usize)?,
            };
            let answer = match node.field {
                Field::IsSelf => u32::from(is_self),
                Field::Label(index) => *labels.get(index as usize)?,
            };
            target = node.edges.iter().find(|edge| answer <= edge.last)?.to;
        }
    }

    /// The program of an endpoint.
    pub fn program(&self, is_self: bool, labels: &[u32]) -> Option<&str> {
        let role = self.role(is_self, labels)?;
        self.programs.get(role as usize).map(String::as_str)
    }

    fn verify(&self, n_labels: usize) -> Result<(), &'static str> {
        let check = |target: Target, after: Option<usize>| match target {
            Target::Role(role) if (role as usize) < self.programs.len() => Ok(()),
            Target::Role(_) => Err("a role without a program"),
            Target::Node(index) if (index as usize) >= self.nodes.len() => {
                Err("a node that does not exist")
            }
            Target::Node(index) if after.is_some_and(|after| (index as usize) <= after) => {
                Err("a node that refers backwards")
            }
            Target::Node(_) => Ok(()),
        };
        check(self.root, None)?;
        for (index, node) in self.nodes.iter().enumerate() {
            if let Field::Label(label) = node.field
                && label as usize >= n_labels
            {
                return Err("a label that does not exist");
            }
            if !node.edges.is_sorted_by(|a, b| a.last < b.last) {
                return Err("edges that do not ascend");
            }
            if node.edges.last().is_none_or(|edge| edge.last != u32::MAX) {
                return Err("edges that do not cover every answer");
            }
            for edge in &node.edges {
                check(edge.to, Some(index))?;
            }
        }
        Ok(())
    }
}
