//! ClassBench rule sets: read, multiplied, and written as Seg.
//!
//! The sets carry no action; rule number n (from 1) denies if n mod 20 = 7, and else allows. A packet is denied if any rule
//! that denies matches, else allowed if any matches, else denied: the meaning of one block, whatever the order.
//!
//! Protocol numbers of the sets are placeholders in part: two sets ask for ports of protocols that have none. In such a set these
//! protocols, the most used one first, take the place of those of TCP, UDP and SCTP that the set does not use, in all its rules.
//! Ports of a rule for any protocol are those of the protocols that have them.

use super::{ECHO, ICMP, Packet, WITH_PORTS, blocks};
use crate::harness;
use crate::random::Random;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The twelve seeds.
pub const SEEDS: [&str; 12] =
    ["acl1", "acl2", "acl3", "acl4", "acl5", "fw1", "fw2", "fw3", "fw4", "fw5", "ipc1", "ipc2"];

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// First address; host bits are zero.
    pub address: u32,
    /// Unit: bits, at most 32.
    pub len: u8,
}

impl Prefix {
    /// The bits an address must have.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// Its addresses.
    pub fn range(self) -> RangeInclusive<u32> {
        self.address..=self.address | !self.mask()
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where packets come from.
    pub source: Prefix,
    /// Where they go.
    pub destination: Prefix,
    /// First and last source port.
    pub source_ports: (u16, u16),
    /// First and last destination port.
    pub ports: (u16, u16),
    /// `None` is any.
    pub protocol: Option<u8>,
    /// Whether it denies.
    pub denies: bool,
}

/// Every port.
pub const ALL_PORTS: (u16, u16) = (0, u16::MAX);

impl Rule {
    /// Whether it asks for ports.
    pub fn asks_ports(&self) -> bool {
        (self.source_ports, self.ports) != (ALL_PORTS, ALL_PORTS)
    }

    /// Whether every packet is one of its.
    pub fn is_everything(&self) -> bool {
        let ends = self.source.len == 0 && self.destination.len == 0;
        ends && self.protocol.is_none() && !self.asks_ports()
    }

    /// Whether a packet is one of its.
    pub fn matches(&self, packet: &Packet) -> bool {
        let within = |(lo, hi), port| (lo..=hi).contains(&port);
        packet.source & self.source.mask() == self.source.address
            && packet.destination & self.destination.mask() == self.destination.address
            && within(self.source_ports, packet.source_port)
            && within(self.ports, packet.port)
            && match self.protocol {
                Some(protocol) => protocol == packet.protocol,
                None => !self.asks_ports() || WITH_PORTS.contains(&packet.protocol),
            }
    }

    /// A packet of its, anywhere in it.
    pub fn packet(&self, random: &mut Random) -> Packet {
        let address = |prefix: Prefix, random: &mut Random| {
            prefix.address | random.next_u64() as u32 & !prefix.mask()
        };
        let port = |(lo, hi): (u16, u16), random: &mut Random| {
            lo + random.below(usize::from(hi - lo) + 1) as u16
        };
        let any: &[u8] = if self.asks_ports() { &WITH_PORTS } else { &[6, 6, 17, 17, 132, 1, 47] };
        let protocol = self.protocol.unwrap_or_else(|| *random.pick(any));
        let source = address(self.source, random);
        let destination = address(self.destination, random);
        let ports = (port(self.source_ports, random), port(self.ports, random));
        let (source_port, port) = match protocol {
            ICMP => (0, ECHO),
            protocol if WITH_PORTS.contains(&protocol) => ports,
            _ => (0, 0),
        };
        Packet { source, destination, source_port, port, protocol }
    }
}

/// A rule set.
#[derive(Clone, Debug)]
pub struct Set {
    /// Such as `fw1_1k`.
    pub name: String,
    /// Those that deny first, else in the order of the file.
    pub rules: Vec<Rule>,
}

/// Where a seed lies.
pub fn path(name: &str) -> PathBuf {
    harness::root().join("../shared/data/classbench").join(name)
}

impl Set {
    /// Reads a seed, or makes one of 100k from the seed of 10k.
    ///
    /// # Errors
    /// If it is not there, or does not read.
    pub fn named(name: &str) -> Result<Self, String> {
        if let Some(seed) = name.strip_suffix("_100k") {
            return Ok(Self::named(&format!("{seed}_10k"))?.multiplied(name));
        }
        let path = path(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("../shared/data/classbench/{name}: {e}"))?;
        Self::parse(name, &text)
    }

    /// Reads the text of a set.
    ///
    /// # Errors
    /// The line that does not read.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let rules = lines.map(|line| rule(line).ok_or_else(|| format!("{name}: `{line}`")));
        let mut rules = rules.collect::<Result<Vec<_>, _>>()?;
        renumber(&mut rules);
        Ok(Self::new(name, rules))
    }

    fn new(name: &str, mut rules: Vec<Rule>) -> Self {
        for (n, rule) in (1..).zip(&mut rules) {
            rule.denies = n % 20 == 7;
        }
        rules.sort_by_key(|rule| !rule.denies);
        Self { name: name.to_owned(), rules }
    }

    /// Ten rules for each: prefixes of both ends move within the prefix that is four bits shorter, to places no other of the ten
    /// has; those shorter than /16 stay, and of equal rules one. Breadths and overlaps are thus those of the seed, and rules
    /// that shared an end still do.
    fn multiplied(&self, name: &str) -> Self {
        let moved = |prefix: Prefix, n: u32| match prefix.len {
            0..16 => prefix,
            len => Prefix { address: prefix.address ^ n << (32 - len), len },
        };
        let mut rules = Vec::with_capacity(10 * self.rules.len());
        for n in 0..10 {
            rules.extend(self.rules.iter().map(|rule| Rule {
                source: moved(rule.source, n),
                destination: moved(rule.destination, n),
                denies: false,
                ..rule.clone()
            }));
        }
        let mut seen = std::collections::BTreeSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
        Self::new(name, rules)
    }

    /// Only so many of its rules, spread over all.
    pub fn sample(&self, n: usize) -> Self {
        Self { name: self.name.clone(), rules: super::sample(&self.rules, n) }
    }

    /// Whether a packet passes, by search.
    pub fn allows(&self, packet: &Packet) -> bool {
        self.rules.iter().find(|rule| rule.matches(packet)).is_some_and(|rule| !rule.denies)
    }

    /// A packet of a random rule.
    pub fn packet(&self, random: &mut Random) -> Packet {
        random.pick(&self.rules).packet(random)
    }

    /// The set as Seg: path and text of each file.
    pub fn sources(&self) -> Vec<(String, String)> {
        blocks("", &self.rules, |rule| {
            let verb = if rule.denies { "deny" } else { "allow" };
            let [source, destination] = [rule.source, rule.destination].map(prefix_text);
            let on = service(rule).map_or_else(String::new, |service| format!(" on {service}"));
            format!("{verb} {source} -> {destination}{on}")
        })
    }
}

fn prefix_text(prefix: Prefix) -> String {
    format!("{}/{}", std::net::Ipv4Addr::from(prefix.address), prefix.len)
}

/// The services of a rule as Seg, `None` if they are all.
fn service(rule: &Rule) -> Option<String> {
    let range = |(lo, hi)| if lo == hi { format!("{lo}") } else { format!("{lo}-{hi}") };
    let one = |protocol: u8| {
        let name = match protocol {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            ICMP => return "icmp".to_owned(),
            other => return format!("proto/{other}"),
        };
        let ports = if rule.ports == ALL_PORTS {
            name.to_owned()
        } else {
            format!("{name}/{}", range(rule.ports))
        };
        match rule.source_ports {
            ALL_PORTS => ports,
            asked => format!("{ports} & sport({})", range(asked)),
        }
    };
    match rule.protocol {
        Some(protocol) => Some(one(protocol)),
        None if rule.asks_ports() => Some(format!("{{ {} }}", WITH_PORTS.map(one).join(", "))),
        None => None,
    }
}

/// `@SRC/LEN DST/LEN LO : HI LO : HI PROTO/MASK FLAGS/MASK`.
fn rule(line: &str) -> Option<Rule> {
    let words: Vec<&str> = line.strip_prefix('@')?.split_whitespace().collect();
    let [source, destination, s0, ":", s1, d0, ":", d1, protocol, ..] = words[..] else {
        return None;
    };
    let prefix = |text: &str| {
        let (address, len) = text.split_once('/')?;
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        let whole = Prefix { address: 0, len: len.parse().ok().filter(|len| *len <= 32)? };
        Some(Prefix { address: u32::from(address) & whole.mask(), ..whole })
    };
    let ports = |lo: &str, hi: &str| Some((lo.parse().ok()?, hi.parse().ok()?));
    let (number, mask) = protocol.split_once('/')?;
    let hex = |text: &str| u8::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some(Rule {
        source: prefix(source)?,
        destination: prefix(destination)?,
        source_ports: ports(s0, s1)?,
        ports: ports(d0, d1)?,
        protocol: match hex(mask)? {
            0 => None,
            _ => Some(hex(number)?),
        },
        denies: false,
    })
}

/// See the module.
fn renumber(rules: &mut [Rule]) {
    let mut uses: BTreeMap<u8, usize> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.asks_ports()) {
        rule.protocol.into_iter().for_each(|protocol| *uses.entry(protocol).or_default() += 1);
    }
    let mut free = WITH_PORTS.into_iter().filter(|protocol| !uses.contains_key(protocol));
    let mut lacking: Vec<(usize, u8)> = uses
        .iter()
        .filter(|(protocol, _)| !WITH_PORTS.contains(protocol))
        .map(|(protocol, n)| (*n, *protocol))
        .collect();
    lacking.sort_unstable_by(|a, b| b.cmp(a));
    let names: BTreeMap<u8, u8> =
        lacking.into_iter().filter_map(|(_, protocol)| Some((protocol, free.next()?))).collect();
    for rule in rules {
        if let Some(name) = rule.protocol.and_then(|protocol| names.get(&protocol)) {
            rule.protocol = Some(*name);
        }
    }
}
