//! Tables with everything that belongs to them.

use seg_artifact::classes::Classes;
use seg_artifact::manifest::Net;
use seg_compiler::atoms::Atoms;
use seg_compiler::check::tables::{Claim, TableError, check};
use seg_compiler::classes::Target;
use seg_compiler::layout::{Layout, Pairs, Table, Width, layout};
use seg_compiler::limits::LimitError;
use seg_compiler::normalize::{normalize, rule_labels};
use seg_compiler::ranges::Ranges;
use seg_compiler::rules::{
    Action, Block, Ends, Exempt, Flow, IPV4_FIRST, IPV4_LAST, Labels, Ports, Rule, Rules, Services,
    number_address,
};
use seg_compiler::tables::{Bit, List, Tables};
use seg_compiler::tabulate::{Config, tabulate};
use seg_lang::ast::Tier;
use seg_lang::policy::{Policy, RuleId};
use seg_tests::random::Random;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// What is proved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) rules: Rules,
    /// What the rest was made of.
    pub(crate) tables: Tables,
    pub(crate) layout: Layout,
    pub(crate) bits: Vec<Bit>,
    pub(crate) groups: Vec<Vec<(RuleId, u32)>>,
    pub(crate) classes: Classes,
    pub(crate) nets: Vec<Net>,
}

/// Where a cell is stored.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    /// Where the base of its list is.
    pub(crate) at: u32,
    pub(crate) base_bytes: u32,
    /// Where its source class is, if it has one.
    pub(crate) key: Option<u32>,
}

impl Made {
    /// `None` if the policy does not fit.
    pub(crate) fn of_policy(policy: &Policy, config: Config) -> Option<Self> {
        match Self::new(normalize(policy, rule_labels(policy)), config) {
            Ok(made) => Some(made),
            Err(LimitError::Bits { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn new(rules: Rules, config: Config) -> Result<Self, LimitError> {
        let tables = tabulate(&rules, config)?;
        let (classes, nets) = tables.classes();
        let layout = layout(&tables, &nets)?;
        let (bits, nets) = (tables.bits.clone(), nets.iter().map(net).collect());
        let groups = tables.groups.iter().map(|group| group.of.clone()).collect();
        Ok(Self { rules, tables, layout, bits, groups, classes, nets })
    }

    /// Many addresses, in several tiers and blocks, some isolated; with source ports.
    pub(crate) fn large(seed: u64) -> Self {
        let mut r = Random::new(seed);
        let block = |tier, name: &str| Block { tier, name: name.to_owned(), staged: false };
        let blocks = vec![
            block(Tier::Policy, "first"),
            block(Tier::Policy, "second"),
            block(Tier::Guard, "third"),
            block(Tier::Baseline, "fourth"),
        ];
        let rules = (0..2_500).map(|id| {
            let block = r.below(4);
            let action = match r.below(10) {
                0 if block != 2 => Action::Isolate,
                1 | 2 => Action::Deny,
                _ => Action::Allow,
            };
            let (from, to) = (address(&mut r), address(&mut r));
            let mut unless = Vec::new();
            let flows = match (action, r.chance(50)) {
                (Action::Isolate, true) => vec![flow(from, Ends::any(), Services::any())],
                (Action::Isolate, false) => vec![flow(Ends::any(), to, Services::any())],
                (Action::Allow | Action::Deny, _) => {
                    if r.chance(5) {
                        let (from, to) = (address(&mut r), Ends::any());
                        unless.push(Exempt::Flow(flow(from, to, service(&mut r))));
                    }
                    vec![flow(from, to, service(&mut r))]
                }
            };
            Rule { id: RuleId(id), block, action, flows, when: Vec::new(), unless }
        });
        let rules = rules.collect();
        let labels = Labels::new([], Vec::new(), Atoms::default());
        Self::new(Rules { labels, blocks, rules }, crate::APART).expect("it fits")
    }

    pub(crate) fn check(&self) -> Result<(), TableError> {
        let claim = Claim {
            bytes: &self.layout.bytes,
            places: &self.layout,
            bits: &self.bits,
            groups: &self.groups,
            classes: &self.classes,
            nets: &self.nets,
        };
        check(&self.rules, claim).map(|_| ())
    }

    pub(crate) fn read(&self, at: u32, bytes: u32) -> u64 {
        let at = at as usize;
        let found = &self.layout.bytes[at..at + bytes as usize];
        found.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    pub(crate) fn write(&mut self, at: u32, bytes: u32, number: u64) {
        let (at, n) = (at as usize, bytes as usize);
        self.layout.bytes[at..at + n].copy_from_slice(&number.to_le_bytes()[..n]);
    }

    /// Where a pair of classes has its cell.
    pub(crate) fn cell(&self, group: usize, source: u32, destination: u32) -> Cell {
        match self.layout.groups[group] {
            Pairs::Matrix { width, at, .. } => {
                Cell { at: at + 4 * (source * width + destination), base_bytes: 4, key: None }
            }
            Pairs::Rows { first, cells, width } => {
                let from = self.read(first.at + 4 * source, 4) as u32;
                let at = cells.at + width.bytes() * (from + destination);
                let base_bytes = if width == Width::Short { 2 } else { 4 };
                Cell { at, base_bytes, key: Some(at + width.key_shift() / 8) }
            }
        }
    }

    pub(crate) fn base(&self, cell: Cell) -> u64 {
        self.read(cell.at, cell.base_bytes)
    }

    pub(crate) fn set_base(&mut self, cell: Cell, base: u64) {
        self.write(cell.at, cell.base_bytes, base);
    }

    /// Any cell that says something: its group, where it is, and its list.
    pub(crate) fn any_cell(&self, r: &mut Random) -> Option<(usize, Cell, &List)> {
        let filled = |group: &usize| !self.tables.groups[*group].cells.is_empty();
        let groups: Vec<usize> = (0..self.tables.groups.len()).filter(filled).collect();
        let group = *groups.get(r.below(groups.len()))?;
        let (source, destination, list) = *r.pick(&self.tables.groups[group].cells);
        let list = &self.tables.lists[list as usize];
        Some((group, self.cell(group, source, destination), list))
    }

    /// The slot of a column, or the default's, in the list that a cell leads to.
    pub(crate) fn slot(&self, cell: Cell, column: Option<u32>) -> u32 {
        let base = self.base(cell) as u32;
        self.layout.slots.at + 8 * (base + column.map_or(0, |column| column + 1))
    }

    /// The slot of an exception that some cell's list has.
    pub(crate) fn any_slot(&self, r: &mut Random) -> Option<u32> {
        let (_, cell, list) = self.any_cell(r)?;
        let column = self.any_column(list.exceptions.iter().map(|(column, _)| *column), r)?;
        Some(self.slot(cell, Some(column)))
    }

    /// A column that a list says nothing of by itself.
    pub(crate) fn free_column(&self, list: &List, r: &mut Random) -> Option<u32> {
        let n = (self.tables.services.n() as u32) << self.bits.len();
        let free = |column: &u32| list.exceptions.iter().all(|(of, _)| of != column);
        self.any_column((0..n).filter(free), r)
    }

    /// `rank << 1 | allow`.
    pub(crate) fn word(&self, rank: usize) -> u64 {
        (rank as u64) << 1 | u64::from(self.tables.leaves[rank].allow)
    }

    /// A column of a class of services that packets have, out of these.
    pub(crate) fn any_column(
        &self,
        columns: impl Iterator<Item = u32>,
        r: &mut Random,
    ) -> Option<u32> {
        let used = used(&self.tables.services);
        let columns = columns.filter(|column| used.contains(&(column >> self.bits.len())));
        let columns: Vec<u32> = columns.collect();
        columns.get(r.below(columns.len())).copied()
    }

    /// Whether some cell tells apart what is in two classes of services.
    pub(crate) fn tells_apart(&self, a: u64, b: u64) -> bool {
        let n_bits = self.bits.len();
        let mut cells = self.tables.groups.iter().flat_map(|group| &group.cells);
        cells.any(|&(_, _, list)| {
            (0..1_u32 << n_bits).any(|bits| {
                let entry = |class| self.tables.entry(list, (class as u32) << n_bits | bits);
                entry(a) != entry(b)
            })
        })
    }

    /// The classes of both sides of a group that ends have.
    pub(crate) fn used(&self, group: usize) -> [BTreeSet<u32>; 2] {
        let group = &self.tables.groups[group];
        [&group.source, &group.destination].map(used)
    }

    /// What the classes of an address that no endpoint has are.
    pub(crate) fn net(&self, address: IpAddr) -> &seg_artifact::classes::Net {
        let holds = |net: &Net| net.ranges.iter().any(|(a, b)| (*a..=*b).contains(&address));
        &self.classes.nets[self.nets.iter().position(holds).map_or(0, |net| net + 1)]
    }

    pub(crate) fn tables6(&self) -> Option<[Table; 3]> {
        self.layout.nets6.map(|nets| [nets.upper, nets.lower, nets.idents])
    }
}

/// The classes that a decision leads to.
fn used(of: &seg_compiler::classes::Classes) -> BTreeSet<u32> {
    let below = of.reach(of.root).into_iter().flat_map(|node| &of.nodes[node as usize].edges);
    let targets = below.map(|(_, to)| *to).chain([of.root]);
    let class = |to| match to {
        Target::Class(class) => Some(class),
        Target::Node(_) => None,
    };
    targets.filter_map(class).collect()
}

fn net(ranges: &Ranges) -> Net {
    let v4 = ranges.intersect(&Ranges::new(IPV4_FIRST, IPV4_LAST));
    let v6 = ranges.intersect(&Ranges::new(IPV4_FIRST, IPV4_LAST).complement(u128::MAX));
    let v4 = v4.iter().map(|(a, b)| (number_address(a), number_address(b)));
    let v6 = v6
        .iter()
        .map(|(a, b)| (IpAddr::V6(Ipv6Addr::from_bits(a)), IpAddr::V6(Ipv6Addr::from_bits(b))));
    Net { ranges: v4.chain(v6).collect() }
}

fn flow(from: Ends, to: Ends, on: Services) -> Flow {
    Flow { from, to, on, requests: None }
}

fn address(r: &mut Random) -> Ends {
    let (first, bits) = match r.below(10) {
        0 => (0x2001_0db8 << 96 | (r.below(64) as u128) << 64, 64),
        1 => (IPV4_FIRST + 0x0a00_0000 + ((r.below(4) as u128) << 16), 16),
        _ => (IPV4_FIRST + 0x0a00_0000 + 7 * r.below(3_000) as u128, 0),
    };
    Ends::Address(Ranges::new(first, first + ((1 << bits) - 1)))
}

fn service(r: &mut Random) -> Services {
    let all = Ranges::new(0, 65_535);
    let port = 80 + 3 * r.below(6) as u128;
    let ports = match r.below(4) {
        0 => Ports::any(),
        1 => Ports::Pairs(vec![(Ranges::new(port, port + 200), all)]),
        2 => Ports::Pairs(vec![(Ranges::new(port, port), Ranges::new(1_024, 65_535))]),
        _ => Ports::Pairs(vec![(Ranges::new(port, port), all)]),
    };
    Services(vec![if r.chance(10) { (0, 255, Ports::any()) } else { (6, 6, ports) }])
}
