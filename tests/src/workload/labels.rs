//! Label policies: identities, rules between them, and where their workloads are.
//!
//! An identity has an application, one of three tiers, one of three environments and a zone. Of a hundred rules 55 are from a tier
//! of one application in one environment to another such, 20 from an application to a tier of another, 10 within an application,
//! 7 from an application to a whole environment, 4 from a whole environment to an application, and 4 deny, from a tier to a tier.
//! Each has one to three of eighty services. Addresses of an identity lie anywhere in the /24 blocks of 10.0.0.0/8 that are in use.

use super::{BYSTANDER, Packet, blocks};
use crate::random::Random;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const TIERS: [&str; 3] = ["web", "api", "db"];
const ENVS: [&str; 3] = ["prod", "stage", "dev"];
const ZONES: [&str; 4] = ["a", "b", "c", "d"];
/// Identities of an application: each tier in each environment.
const OF_APP: usize = TIERS.len() * ENVS.len();
/// Addresses used of a /24 block.
const OF_BLOCK: usize = 200;

/// Services: 60 ports of TCP, 20 of UDP.
pub fn services() -> Vec<(u8, u16)> {
    let ports = |protocol, n: u16| (0..n).map(move |i| (protocol, 80 + 97 * i));
    ports(6, 60).chain(ports(17, 20)).collect()
}

/// What a rule asks of an end; `None` is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Application.
    pub app: Option<u16>,
    /// Index of its tier.
    pub tier: Option<u8>,
    /// Index of its environment.
    pub env: Option<u8>,
}

/// What an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Application.
    pub app: u16,
    /// Index of its tier.
    pub tier: u8,
    /// Index of its environment.
    pub env: u8,
    /// Index of its zone; no rule asks for it.
    pub zone: u8,
}

impl Selector {
    /// Whether an identity is meant.
    pub fn holds(self, identity: Identity) -> bool {
        self.app.is_none_or(|app| app == identity.app)
            && self.tier.is_none_or(|tier| tier == identity.tier)
            && self.env.is_none_or(|env| env == identity.env)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where flows come from.
    pub source: Selector,
    /// Where they go.
    pub destination: Selector,
    /// Protocols and ports.
    pub services: Vec<(u8, u16)>,
    /// Whether it denies.
    pub denies: bool,
}

/// A policy and its inventory.
#[derive(Clone, Debug)]
pub struct Set {
    /// Such as `1k x 1k`.
    pub name: String,
    /// The identities.
    pub identities: Vec<Identity>,
    /// The rules, those that deny first.
    pub rules: Vec<Rule>,
    /// Addresses of each identity.
    pub addresses: Vec<Vec<u32>>,
    /// Identity of each address.
    owners: BTreeMap<u32, u32>,
    /// Rules whose destination names the application, by number; rules that name none.
    by_app: ByApp,
}

type ByApp = (BTreeMap<u16, Vec<u32>>, Vec<u32>);

/// What a set is made from.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What it is called.
    pub name: &'static str,
    /// How many identities.
    pub identities: usize,
    /// How many rules.
    pub rules: usize,
    /// How many addresses each identity has.
    pub addresses: usize,
}

/// The sizes that are measured. A node knows 65,535 addresses at most, so the largest have one for each identity.
pub const SIZES: [Size; 6] = [
    Size { name: "10x10", identities: 10, rules: 10, addresses: 4 },
    Size { name: "100x100", identities: 100, rules: 100, addresses: 4 },
    Size { name: "1kx1k", identities: 1_000, rules: 1_000, addresses: 4 },
    Size { name: "10kx10k", identities: 10_000, rules: 10_000, addresses: 4 },
    Size { name: "65kx10k", identities: 65_000, rules: 10_000, addresses: 1 },
    Size { name: "65kx100k", identities: 65_000, rules: 100_000, addresses: 1 },
];

impl Set {
    /// Makes a set.
    pub fn new(size: Size, seed: u64) -> Self {
        let mut random = Random::new(seed ^ (size.identities as u64) << 20 ^ size.rules as u64);
        let identities: Vec<Identity> = (0..size.identities)
            .map(|n| Identity {
                app: (n / OF_APP) as u16,
                tier: (n % TIERS.len()) as u8,
                env: (n / TIERS.len() % ENVS.len()) as u8,
                zone: random.below(ZONES.len()) as u8,
            })
            .collect();
        let mut rules: Vec<Rule> =
            (0..size.rules).map(|_| rule(&identities, &mut random)).collect();
        rules.sort_by_key(|rule| !rule.denies);
        let addresses = place(&identities, size.addresses, &mut random);
        let owners = addresses.iter().zip(0..);
        let owners = owners.flat_map(|(all, owner)| all.iter().map(move |a| (*a, owner))).collect();
        let by_app = by_app(&rules);
        Self { name: size.name.to_owned(), identities, rules, addresses, owners, by_app }
    }

    /// With only so many of its rules, spread over all.
    pub fn sample(&self, n: usize) -> Self {
        self.with(super::sample(&self.rules, n))
    }

    fn with(&self, rules: Vec<Rule>) -> Self {
        Self {
            name: self.name.clone(),
            identities: self.identities.clone(),
            addresses: self.addresses.clone(),
            owners: self.owners.clone(),
            by_app: by_app(&rules),
            rules,
        }
    }

    /// With the rules alone whose destination one of these identities may be.
    pub fn only_to(&self, to: &[usize]) -> Self {
        let mut numbers: Vec<usize> =
            to.iter().flat_map(|at| self.rules_to(self.identities[*at])).map(|(n, _)| n).collect();
        numbers.sort_unstable();
        numbers.dedup();
        self.with(numbers.into_iter().map(|n| self.rules[n].clone()).collect())
    }

    /// Index of the identity that has an address.
    pub fn owner(&self, address: u32) -> Option<usize> {
        self.owners.get(&address).map(|owner| *owner as usize)
    }

    /// Rules whose destination an identity may be, in their order.
    pub fn rules_to(&self, identity: Identity) -> impl Iterator<Item = (usize, &Rule)> {
        let (by_app, others) = &self.by_app;
        let named = by_app.get(&identity.app).map_or(&[][..], Vec::as_slice);
        let numbers = named.iter().chain(others).map(|n| *n as usize);
        numbers
            .map(|n| (n, &self.rules[n]))
            .filter(move |(_, rule)| rule.destination.holds(identity))
    }

    /// Whether a packet passes, by search.
    pub fn allows(&self, packet: &Packet) -> bool {
        let ends = [packet.source, packet.destination].map(|address| self.owner(address));
        let [Some(source), Some(destination)] = ends.map(|at| at.map(|at| self.identities[at]))
        else {
            return false;
        };
        let service = (packet.protocol, packet.port);
        let mut allowed = false;
        for (_, rule) in self.rules_to(destination) {
            if rule.source.holds(source) && rule.services.contains(&service) {
                if rule.denies {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }

    /// A packet to one of these identities, or to any if there are none: 70 of a hundred of a rule, the others from anyone.
    pub fn packet(&self, to: &[usize], random: &mut Random) -> Packet {
        let (mut source, destination, service) = match to {
            [] => self.ends_of_rule(random),
            to => {
                let destination = *random.pick(to);
                let rules: Vec<&Rule> =
                    self.rules_to(self.identities[destination]).map(|(_, rule)| rule).collect();
                match rules.as_slice() {
                    [] => (self.anyone(random), destination, *random.pick(&services())),
                    rules => {
                        let rule = *random.pick(rules);
                        let source = self.someone(rule.source, random);
                        (source, destination, *random.pick(&rule.services))
                    }
                }
            }
        };
        let (mut destination, mut service) = (destination, service);
        if random.chance(30) {
            source = self.anyone(random);
            service = *random.pick(&services());
            destination = if to.is_empty() { self.anyone(random) } else { destination };
        }
        Packet {
            source: *random.pick(&self.addresses[source]),
            destination: *random.pick(&self.addresses[destination]),
            source_port: 32_768 + random.below(28_000) as u16,
            port: service.1,
            protocol: service.0,
        }
    }

    fn ends_of_rule(&self, random: &mut Random) -> (usize, usize, (u8, u16)) {
        let rule = random.pick(&self.rules);
        let source = self.someone(rule.source, random);
        (source, self.someone(rule.destination, random), *random.pick(&rule.services))
    }

    fn anyone(&self, random: &mut Random) -> usize {
        random.below(self.identities.len())
    }

    /// An identity that is meant; the identities of an application follow each other.
    fn someone(&self, selector: Selector, random: &mut Random) -> usize {
        let (first, n) = match selector.app {
            Some(app) => (usize::from(app) * OF_APP, OF_APP),
            None => (0, self.identities.len()),
        };
        let last = (first + n).min(self.identities.len());
        loop {
            let found = first + random.below(last - first);
            if selector.holds(self.identities[found]) {
                return found;
            }
        }
    }

    /// The identities with most rules about what they receive, the first of them with the most.
    pub fn busiest(&self, n: usize) -> Vec<usize> {
        let mut all: Vec<(usize, usize)> = (0..self.identities.len())
            .map(|at| (self.rules_to(self.identities[at]).count(), at))
            .collect();
        all.sort_unstable_by_key(|&(n_rules, at)| (std::cmp::Reverse(n_rules), at));
        all.into_iter().take(n).map(|(_, at)| at).collect()
    }

    /// A host: so many identities that have an endpoint there, in ascending order.
    pub fn host(&self, n: usize, seed: u64) -> Vec<usize> {
        let mut random = Random::new(seed);
        let mut all: Vec<usize> = (0..self.identities.len()).collect();
        random.shuffle(&mut all);
        all.truncate(n);
        all.sort_unstable();
        all
    }

    /// The policy as Seg: path and text of each file.
    pub fn sources(&self) -> Vec<(String, String)> {
        let labels = ("labels.seg", "label app\nlabel tier\nlabel env\nlabel zone\n");
        let mut files = blocks("import labels\n\n", &self.rules, |rule| {
            let verb = if rule.denies { "deny" } else { "allow" };
            let [source, destination] = [rule.source, rule.destination].map(selector_text);
            let services = rule.services.iter().map(|(protocol, port)| {
                format!("{}/{port}", if *protocol == 6 { "tcp" } else { "udp" })
            });
            let services: Vec<String> = services.collect();
            format!("{verb} {source} -> {destination} on {{ {} }}", services.join(", "))
        });
        files.push((labels.0.to_owned(), labels.1.to_owned()));
        files.sort();
        files
    }

    /// The endpoints as `segd` reads them; `local` is behind the loopback interface, or else a bystander.
    pub fn inventory(&self, local: Option<usize>) -> String {
        let mut text = if local.is_none() { BYSTANDER.to_owned() } else { String::new() };
        for (at, identity) in self.identities.iter().enumerate() {
            let Identity { app, tier, env, zone } = *identity;
            let [tier, env] = [TIERS[usize::from(tier)], ENVS[usize::from(env)]];
            let zone = ZONES[usize::from(zone)];
            let addresses: Vec<String> = (self.addresses[at].iter())
                .map(|address| format!("\"{}\"", std::net::Ipv4Addr::from(*address)))
                .collect();
            let addresses = addresses.join(", ");
            let place = if local == Some(at) { "interface = \"lo\"\n" } else { "" };
            let _ = writeln!(
                text,
                "[[endpoint]]\nname = \"w{at}\"\naddresses = [{addresses}]\n{place}\
                 labels = {{ app = \"a{app}\", tier = \"{tier}\", env = \"{env}\", zone = \"{zone}\" }}"
            );
        }
        text
    }
}

fn by_app(rules: &[Rule]) -> ByApp {
    let mut by_app = ByApp::default();
    for (number, rule) in (0..).zip(rules) {
        match rule.destination.app {
            Some(app) => by_app.0.entry(app).or_default().push(number),
            None => by_app.1.push(number),
        }
    }
    by_app
}

fn selector_text(selector: Selector) -> String {
    let Selector { app, tier, env } = selector;
    let words = [
        app.map(|app| format!("app:a{app}")),
        tier.map(|tier| format!("tier:{}", TIERS[usize::from(tier)])),
        env.map(|env| format!("env:{}", ENVS[usize::from(env)])),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    words.join(" & ")
}

fn rule(identities: &[Identity], random: &mut Random) -> Rule {
    let [from, to] = [(); 2].map(|()| *random.pick(identities));
    let app = |of: Identity| Selector { app: Some(of.app), ..Selector::default() };
    let env = |of: Identity| Selector { env: Some(of.env), ..Selector::default() };
    let exact =
        |of: Identity| Selector { app: Some(of.app), tier: Some(of.tier), env: Some(of.env) };
    let kind = random.below(100);
    let (source, destination) = match kind {
        0..55 => (exact(from), exact(to)),
        55..75 => (app(from), Selector { tier: Some(to.tier), ..app(to) }),
        75..85 => (app(from), app(from)),
        85..92 => (app(from), env(to)),
        92..96 => (env(from), app(to)),
        _ => (exact(from), exact(to)),
    };
    let all = services();
    let mut services: Vec<(u8, u16)> =
        (0..1 + random.below(3)).map(|_| *random.pick(&all)).collect();
    services.sort_unstable();
    services.dedup();
    Rule { source, destination, services, denies: kind >= 96 }
}

/// Gives every identity so many addresses, each in a block of its node's.
fn place(identities: &[Identity], n: usize, random: &mut Random) -> Vec<Vec<u32>> {
    let n_blocks = (identities.len() * n).div_ceil(OF_BLOCK);
    let mut blocks: Vec<u32> = (0..1 << 16).collect();
    random.shuffle(&mut blocks);
    let mut free: Vec<u32> = blocks[..n_blocks]
        .iter()
        .flat_map(|block| (1..=OF_BLOCK as u32).map(move |host| 10 << 24 | block << 8 | host))
        .collect();
    random.shuffle(&mut free);
    let mut taken = free.chunks(n);
    identities.iter().map(|_| taken.next().unwrap_or_default().to_vec()).collect()
}
