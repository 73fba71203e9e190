//! Reads tables as programs do. A program cuts every index to its table; here one that is too large is refused, so that the
//! cutting changes nothing.

use super::walk::{Decision, extend};
use super::{Side, TableError};
use crate::classes::{Node, Target};
use crate::diagram::Field;
use crate::layout::{CONSENT_SHIFT, CONSENTS, Joint, Layout, OWNER_SHIFT, Pairs, Ports, Table};
use crate::rules::{IPV4_FIRST, IPV4_LAST};
use crate::tables::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The tables.
pub(super) struct Bytes<'a> {
    bytes: &'a [u8],
    places: &'a Layout,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8], places: &'a Layout) -> Self {
        Self { bytes, places }
    }

    /// A number of `bytes` bytes.
    fn entry(&self, table: Table, index: u64, bytes: u32) -> Result<u64, TableError> {
        let outside = TableError::Outside { at: table.at, index };
        if index > u64::from(table.mask) {
            return Err(outside);
        }
        let at = u64::from(table.at) + index * u64::from(bytes);
        let found = self.bytes.get(at as usize..).and_then(|from| from.get(..bytes as usize));
        let found = found.ok_or(outside)?;
        Ok(found.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The counter of a rank.
    pub(super) fn counter(&self, rank: u32) -> Result<u32, TableError> {
        Ok(self.entry(self.places.counters, rank.into(), 4)? as u32)
    }

    /// Whether IPv6 addresses lead to the net they are in: `ranges` is the last address of each range, and its ident.
    pub(super) fn nets6(&self, ranges: &[(u128, u16)]) -> Result<(), TableError> {
        let differs = Err(TableError::Broken("addresses of IPv6 lead to other nets"));
        let Some(nets) = self.places.nets6 else {
            let told_apart = |(first, of): (u128, &(u128, u16))| {
                of.1 != 0 && !(IPV4_FIRST..=IPV4_LAST).contains(&first)
            };
            return if firsts(ranges).any(told_apart) { differs } else { Ok(()) };
        };
        let n = u64::from(nets.idents.mask) + 1;
        if !n.is_power_of_two() || [nets.upper.mask, nets.lower.mask] != [nets.idents.mask; 2] {
            return Err(TableError::Broken("nets of IPv6 cannot be searched"));
        }
        let mut found: Vec<(u128, u16)> = Vec::new();
        for index in 0..n {
            let half = |table| Ok::<_, TableError>(u128::from(self.entry(table, index, 8)?));
            let first = half(nets.upper)? << 64 | half(nets.lower)?;
            let ident = self.entry(nets.idents, index, 2)? as u16;
            match found.last_mut() {
                None if first != 0 => return differs,
                // Of those that begin at one address the search finds the last.
                Some(before) if before.0 == first => before.1 = ident,
                Some(before) if before.0 > first => return differs,
                Some(_) | None => found.push((first, ident)),
            }
        }
        let ident = |address: u128| found[found.partition_point(|of| of.0 <= address) - 1].1;
        let mapped = IPV4_FIRST..=IPV4_LAST;
        let starts = firsts(ranges).map(|(first, _)| first).chain(found.iter().map(|of| of.0));
        let starts = starts.map(|at| if mapped.contains(&at) { IPV4_LAST + 1 } else { at });
        for at in starts {
            if ident(at) != ranges[ranges.partition_point(|of| of.0 < at)].1 {
                return differs;
            }
        }
        Ok(())
    }

    /// The classes of packets by protocol, port and source port.
    pub(super) fn services(&self) -> Result<Decision, TableError> {
        let services = self.places.services;
        let mut nodes: Vec<Node> = Vec::new();
        let below = match services.joint {
            None => None,
            Some(joint) => Some((joint, self.ports(joint.sources, 0)?)),
        };
        let mut of_kind: BTreeMap<u64, Target> = BTreeMap::new();
        let mut of_port: BTreeMap<u64, Target> = BTreeMap::new();
        let mut protocols = Vec::new();
        for protocol in 0..=u8::MAX {
            let kind = self.entry(services.kinds, protocol.into(), 1)?;
            if let Some(&known) = of_kind.get(&kind) {
                extend(&mut protocols, protocol.into(), known);
                continue;
            }
            let mut edges = Vec::new();
            for (last, class) in self.ports(services.ports, kind)? {
                let to = match (&below, of_port.get(&class)) {
                    (_, Some(&known)) => known,
                    (None, None) => Target::Class(class as u32),
                    (Some((joint, sources)), None) => {
                        self.joint(&mut nodes, *joint, sources, class)?
                    }
                };
                of_port.insert(class, to);
                extend(&mut edges, last, to);
            }
            let to = ask(&mut nodes, Field::Port, edges);
            of_kind.insert(kind, to);
            extend(&mut protocols, protocol.into(), to);
        }
        let root = ask(&mut nodes, Field::Protocol, protocols);
        Ok(Decision { root, nodes })
    }

    /// The last port of each range of one class.
    fn ports(&self, of: Ports, kind: u64) -> Result<Vec<(u128, u64)>, TableError> {
        let mut ranges: Vec<(u128, u64)> = Vec::new();
        for port in 0..=u16::MAX {
            let [upper, lower] = port.to_be_bytes().map(u64::from);
            let block = self.entry(of.roots, kind << 8 | upper, 2)?;
            let class = self.entry(of.blocks, block << 8 | lower, 2)?;
            match ranges.last_mut() {
                Some(before) if before.1 == class => before.0 = port.into(),
                _ => ranges.push((port.into(), class)),
            }
        }
        Ok(ranges)
    }

    fn joint(
        &self,
        nodes: &mut Vec<Node>,
        joint: Joint,
        sources: &[(u128, u64)],
        row: u64,
    ) -> Result<Target, TableError> {
        let mut edges = Vec::new();
        for &(last, source) in sources {
            let index = row * u64::from(joint.width) + source;
            let class = self.entry(joint.classes, index, 2)?;
            extend(&mut edges, last, Target::Class(class as u32));
        }
        Ok(ask(nodes, Field::SourcePort, edges))
    }

    /// Every pair of the classes of both sides that leads somewhere: source and destination, and where its list begins.
    pub(super) fn filled(
        &self,
        group: usize,
        [sources, destinations]: &[BTreeSet<u32>; 2],
    ) -> Result<BTreeMap<(u32, u32), u32>, TableError> {
        let mut found = BTreeMap::new();
        let most = |classes: &BTreeSet<u32>| classes.last().copied().unwrap_or(0);
        match self.places.groups[group] {
            Pairs::Matrix { width, sources: last, destinations: last_destination, at } => {
                let fits = width.is_power_of_two() && last_destination < width;
                if !fits || most(sources) > last || most(destinations) > last_destination {
                    return Err(TableError::Outside { at, index: last.into() });
                }
                for &source in sources {
                    for &destination in destinations {
                        let index = u64::from(source) * u64::from(width) + u64::from(destination);
                        let base = self.entry(Table { at, mask: u32::MAX }, index, 4)?;
                        found.insert((source, destination), base as u32);
                    }
                }
            }
            Pairs::Rows { first, cells, width } => {
                let mut firsts = BTreeMap::new();
                for &source in sources {
                    let from = self.entry(first, source.into(), 4)?;
                    // No pair is looked for beyond the cells.
                    self.entry(cells, from + u64::from(most(destinations)), width.bytes())?;
                    firsts.insert(source, from);
                }
                for index in 0..=u64::from(cells.mask) {
                    let cell = self.entry(cells, index, width.bytes())?;
                    let source = cell >> width.key_shift();
                    let base = cell ^ source << width.key_shift();
                    let source = source as u32;
                    let from = firsts.get(&source).and_then(|from| index.checked_sub(*from));
                    let destination = from.and_then(|place| u32::try_from(place).ok());
                    let destination = destination.filter(|place| destinations.contains(place));
                    if let Some(destination) = destination {
                        let base = u32::try_from(base);
                        let base = base.map_err(|_| TableError::Broken("no base of a list"))?;
                        found.insert((source, destination), base);
                    }
                }
            }
        }
        found.retain(|_, base| *base != 0);
        Ok(found)
    }

    /// The slots of each list by its base: how far behind it, and which.
    pub(super) fn slots(&self) -> Result<BTreeMap<u32, Vec<(u32, u64)>>, TableError> {
        let mut found: BTreeMap<u32, Vec<(u32, u64)>> = BTreeMap::new();
        for index in 0..=u64::from(self.places.slots.mask) {
            let slot = self.entry(self.places.slots, index, 8)?;
            let base = slot >> OWNER_SHIFT;
            if let Some(behind) = index.checked_sub(base).filter(|_| slot != 0) {
                found.entry(base as u32).or_default().push((behind as u32, index));
            }
        }
        Ok(found)
    }

    /// The largest index of a slot.
    pub(super) fn last_slot(&self) -> u32 {
        self.places.slots.mask
    }

    /// Whether what a list says by default is looked at.
    pub(super) fn defaults(&self) -> bool {
        self.places.defaults
    }

    /// Verdict and rank in a slot, and the blocks that consent.
    pub(super) fn said(&self, index: u64) -> Result<(bool, Entry), TableError> {
        let slot = self.entry(self.places.slots, index, 8)? & ((1 << OWNER_SHIFT) - 1);
        let mut consents = BTreeSet::from([(slot >> CONSENT_SHIFT) as u16]);
        for nth in 0..self.places.n_more {
            let more = self.places.more.get((nth / CONSENTS) as usize);
            let more = *more.ok_or(TableError::Broken("no table of further consents"))?;
            let four = self.entry(more, index, 8)?;
            consents.insert((four >> (16 * (nth % CONSENTS))) as u16);
        }
        consents.remove(&0);
        let word = (slot & ((1 << CONSENT_SHIFT) - 1)) as u32;
        let entry = Entry { rank: word >> 1, consents: consents.into_iter().collect() };
        Ok((word & 1 == 1, entry))
    }

    /// Blocks that isolate the ends of a class, and ranks.
    pub(super) fn isolated(
        &self,
        side: Side,
        class: u32,
    ) -> Result<BTreeSet<(u16, u32)>, TableError> {
        let places = self.places.isolation.ok_or(TableError::Broken("nothing isolates"))?;
        let table = if side == Side::Source { places.source } else { places.destination };
        let mut found = BTreeSet::new();
        for nth in 0..places.n {
            let index = u64::from(class) * u64::from(places.n) + u64::from(nth);
            let entry = self.entry(table, index, 8)?;
            let block = u16::try_from(entry >> 32);
            let word = entry as u32;
            if word & 1 != 0 {
                return Err(TableError::Broken("isolation that allows"));
            }
            found.insert((block.map_err(|_| TableError::Broken("no block"))?, word >> 1));
        }
        found.remove(&(0, 0));
        Ok(found)
    }
}

fn ask(nodes: &mut Vec<Node>, field: Field, edges: Vec<(u128, Target)>) -> Target {
    nodes.push(Node { field, edges });
    Target::Node(nodes.len() as u32 - 1)
}

/// Where each range begins.
fn firsts(ranges: &[(u128, u16)]) -> impl Iterator<Item = (u128, &(u128, u16))> {
    let before = std::iter::once(0).chain(ranges.iter().map(|of| of.0.wrapping_add(1)));
    before.zip(ranges)
}
