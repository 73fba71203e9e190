//! The decision of a whole policy as tables: classes of ends and of services, and what each pair of classes decides.
//!
//! ```text
//!  source ──(classes)── row ─┐
//!                            ├─ cell: a list ──┐
//!  destination ─(classes)─ column              ├─ list[column of the service]: a rank
//!  packet, labels in common, named ports ──────┘
//! ```
//!
//! Rules are in groups by how broad they are, so that no pair of sides multiplies; each group gives a rank, and the greatest
//! wins. INVARIANT: ranks ascend as leaves do in a diagram, 0 is the default; cells ascend and hold no list that says nothing;
//! a list's exceptions ascend and differ from its default; list 0 and entry 0 say nothing.

use crate::classes::{Classes, Node, Target};
use crate::diagram::Field;
use crate::ranges::Ranges;
use crate::rules::{IPV4_FIRST, IPV4_LAST, PortId};
use crate::tree::Leaf;
use seg_artifact::classes::{self as artifact, Decision, GROUPS_MAX, Net, Sides};
use seg_lang::policy::{LabelId, RuleId};
use std::collections::{BTreeMap, HashMap};

/// The tables of a policy, for both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// What a column's lower bits say, the lowest first.
    pub bits: Vec<Bit>,
    /// Classes of packets, by protocol, port and source port.
    pub services: Classes,
    /// The groups of rules.
    pub groups: Vec<Group>,
    /// The `isolate` rules, unless cells hold them like the others.
    pub isolation: Option<Isolation>,
    /// What cells say.
    pub lists: Vec<List>,
    /// What lists say.
    pub entries: Vec<Entry>,
    /// The verdict of each rank.
    pub leaves: Vec<Leaf>,
}

/// A fact about a packet and its ends that classes do not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bit {
    /// Both ends have the same value in a dimension, and it is not unset.
    Same(LabelId),
    /// Protocol and port are those the destination has by this name.
    Named(PortId),
}

/// Rules that are decided together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The rules decided here, and which of their flows.
    pub of: Vec<(RuleId, u32)>,
    /// Of sources.
    pub source: Classes,
    /// Of destinations.
    pub destination: Classes,
    /// Source class, destination class, index into [`Tables::lists`].
    pub cells: Vec<(u32, u32, u32)>,
}

/// What a cell says of a column, `service class << bits | bits`, by index into [`Tables::entries`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct List {
    /// Of the columns that are no exceptions.
    pub default: u32,
    /// Column and entry.
    pub exceptions: Vec<(u32, u32)>,
}

/// What one group says of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The strongest rule's.
    pub rank: u32,
    /// The isolating blocks that allow, ascending, if the strongest rule is an allow of their tier: no other is asked about.
    pub consents: Vec<u16>,
}

/// Who isolates which ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// Of sources.
    pub source: Isolated,
    /// Of destinations.
    pub destination: Isolated,
}

/// Who isolates the ends on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolated {
    /// The classes.
    pub classes: Classes,
    /// For each class the isolating blocks, by number from 1 on, and the rank of the rule that does it.
    pub by_class: Vec<Vec<(u16, u32)>>,
}

impl Tables {
    /// What the tables say of a flow with this answer to each field; sources are asked through `source`, destinations
    /// through `destination`, both as if they were the peer.
    pub fn eval(
        &self,
        source: &dyn Fn(Field) -> u128,
        destination: &dyn Fn(Field) -> u128,
        packet: &dyn Fn(Field) -> u128,
    ) -> Leaf {
        let bit = |bit: &Bit| match bit {
            Bit::Same(label) => packet(Field::Same(*label)),
            Bit::Named(port) => destination(Field::PeerPort(*port)),
        };
        let bits = self.bits.iter().rev().fold(0, |bits, of| bits << 1 | u128::from(bit(of) != 0));
        let service = self.services.class(packet);
        let column = service << self.bits.len() | bits as u32;
        let nothing = Entry::default();
        let said: Vec<&Entry> = self
            .groups
            .iter()
            .map(|group| {
                let pair = (group.source.class(source), group.destination.class(destination));
                let cell = group.cells.binary_search_by_key(&pair, |&(s, d, _)| (s, d));
                cell.map_or(&nothing, |cell| self.entry(group.cells[cell].2, column))
            })
            .collect();
        let isolated = self.isolation.iter().flat_map(|isolation| {
            let of = |of: &Isolated, end| of.by_class[of.classes.class(end) as usize].clone();
            [of(&isolation.source, source), of(&isolation.destination, destination)].concat()
        });
        let denied = isolated
            .filter(|(block, _)| !said.iter().any(|entry| entry.consents.contains(block)))
            .map(|(_, rank)| rank);
        let rank = said.iter().map(|entry| entry.rank).chain(denied).max();
        self.leaves[rank.unwrap_or(0) as usize]
    }

    /// What a list says of a column.
    pub fn entry(&self, list: u32, column: u32) -> &Entry {
        let List { default, exceptions } = &self.lists[list as usize];
        let exception = exceptions.binary_search_by_key(&column, |&(column, _)| column);
        &self.entries[exception.map_or(*default, |exception| exceptions[exception].1) as usize]
    }

    /// What the runtime needs to sort ends into classes, and the nets: the ranges of addresses of each ident from 1 on.
    /// Isolation is the last group.
    ///
    /// # Panics
    /// If there are more groups than an ident has classes.
    pub fn classes(&self) -> (artifact::Classes, Vec<Ranges>) {
        let groups = self.groups.iter().map(|group| [&group.source, &group.destination]);
        let isolation =
            self.isolation.as_ref().map(|of| [&of.source.classes, &of.destination.classes]);
        let groups: Vec<[&Classes; 2]> = groups.chain(isolation).collect();
        assert!(groups.len() <= GROUPS_MAX, "more groups than an ident has classes");
        let sides: Vec<[Vec<(u128, u16)>; 2]> =
            groups.iter().map(|group| group.map(of_addresses)).collect();
        let groups: Vec<Sides> = groups
            .iter()
            .map(|group| {
                let [source, destination] = group.map(of_endpoints);
                Sides { source, destination }
            })
            .collect();
        // Nor do endpoints under two addresses of a net differ: they may have one that is not theirs, such as a group's.
        let decisions = groups.iter().flat_map(|group| [&group.source, &group.destination]);
        let nodes = decisions.flat_map(|decision| &decision.nodes);
        let asked: Vec<&artifact::Node> =
            nodes.filter(|node| node.field == artifact::Field::Address).collect();
        let of_unmanaged = sides.iter().flatten().flatten().map(|of| of.0);
        let of_managed = asked.iter().flat_map(|node| node.edges.iter().map(|edge| edge.0));
        let mut bounds: Vec<u128> = of_unmanaged.chain(of_managed).chain([u128::MAX]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut next = vec![[0; 2]; sides.len()];
        let mut answers = vec![0; asked.len()];
        let mut first = 0;
        let mut ranges: BTreeMap<(Net, Vec<artifact::Target>), Vec<Ranges>> = BTreeMap::new();
        for last in bounds {
            let mut net = Net::default();
            for (group, (sides, next)) in sides.iter().zip(&mut next).enumerate() {
                [net.source[group], net.destination[group]] = [0, 1].map(|side| {
                    let class = &mut next[side];
                    *class += sides[side][*class..].partition_point(|(until, _)| *until < last);
                    sides[side][*class].1
                });
            }
            let targets = asked.iter().zip(&mut answers).map(|(node, answer)| {
                *answer += node.edges[*answer..].partition_point(|(until, _)| *until < last);
                node.edges[*answer].1
            });
            let key = (net, targets.collect());
            ranges.entry(key).or_default().push(Ranges::new(first, last));
            first = last.wrapping_add(1);
        }
        // The addresses that are most in number are of ident 0, which costs no room.
        let whole = ranges.into_iter().map(|((net, _), parts)| (net, Ranges::union(&parts)));
        let mut whole: Vec<_> = whole.collect();
        let most = (0..whole.len()).max_by_key(|&of| (v4(&whole[of].1), whole[of].1.size()));
        whole.swap(0, most.expect("every address has classes"));
        let (nets, ranges): (Vec<_>, Vec<_>) = whole.into_iter().unzip();
        let ranges = ranges.into_iter().skip(1).collect();
        (artifact::Classes { groups, nets }, ranges)
    }

    /// Checks the invariant of the module.
    ///
    /// # Errors
    /// What is wrong, for people who debug the compiler.
    pub fn verify(&self) -> Result<(), String> {
        let n_columns = (self.services.n() as u32) << self.bits.len();
        let outside = |entry: &Entry| entry.rank == 0 || entry.rank as usize >= self.leaves.len();
        if self.entries.iter().skip(1).any(outside) {
            return Err("an entry has a rank that is none".into());
        }
        for (index, List { default, exceptions }) in self.lists.iter().enumerate() {
            let ascend = exceptions.is_sorted_by(|a, b| a.0 < b.0);
            if !ascend || exceptions.iter().any(|&(c, of)| of == *default || c >= n_columns) {
                return Err(format!("list {index} has exceptions that are none"));
            }
            let mut entries = exceptions.iter().map(|(_, entry)| entry).chain([default]);
            if entries.any(|&entry| entry as usize >= self.entries.len()) {
                return Err(format!("list {index} has entries that are none"));
            }
        }
        for (index, Group { source, destination, cells, .. }) in self.groups.iter().enumerate() {
            if !cells.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)) {
                return Err(format!("the cells of group {index} do not ascend"));
            }
            let inside = |&(s, d, list): &(u32, u32, u32)| {
                (s as usize) < source.n()
                    && (d as usize) < destination.n()
                    && (1..self.lists.len()).contains(&(list as usize))
            };
            if !cells.iter().all(inside) {
                return Err(format!("group {index} has a cell outside"));
            }
        }
        Ok(())
    }
}

/// How the inventory's ends are sorted.
fn of_endpoints(of: &Classes) -> Decision {
    let root = of.given(Field::PeerManaged, 1);
    let mut places: HashMap<u32, u32> = HashMap::new();
    let mut nodes = Vec::new();
    let reached = of.reach(root);
    let target = |target: Target, places: &HashMap<u32, u32>| match target {
        Target::Class(class) => artifact::Target::Class(class as u16),
        Target::Node(node) => artifact::Target::Node(places[&node]),
    };
    for index in reached {
        let Node { field, edges } = &of.nodes[index as usize];
        let field = match field {
            Field::PeerSelf => artifact::Field::IsSelf,
            Field::PeerLabel(label) => artifact::Field::Label(label.0),
            Field::PeerAddress => artifact::Field::Address,
            other => unreachable!("{other:?} is not asked of an endpoint"),
        };
        let mut edges: Vec<_> =
            edges.iter().map(|&(last, to)| (last, target(to, &places))).collect();
        // A closed dimension ends at its last value; every number is covered.
        edges.last_mut().expect("a node has edges").0 = u128::MAX;
        places.insert(index, nodes.len() as u32);
        nodes.push(artifact::Node { field, edges });
    }
    Decision { root: target(root, &places), nodes }
}

/// The class of every address that is no endpoint's: the last address of each range, ascending.
fn of_addresses(of: &Classes) -> Vec<(u128, u16)> {
    match of.given(Field::PeerManaged, 0) {
        Target::Class(class) => vec![(u128::MAX, class as u16)],
        Target::Node(node) => {
            let Node { field, edges } = &of.nodes[node as usize];
            assert!(*field == Field::PeerAddress, "only the address is known of other ends");
            let class = |&(last, to): &(u128, Target)| match to {
                Target::Class(class) => (last, class as u16),
                Target::Node(_) => unreachable!("the address is asked last"),
            };
            edges.iter().map(class).collect()
        }
    }
}

/// How many IPv4 addresses there are among these.
fn v4(of: &Ranges) -> u128 {
    of.intersect(&Ranges::new(IPV4_FIRST, IPV4_LAST)).size()
}
