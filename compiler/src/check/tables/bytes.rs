//! Reads tables as programs do. A program cuts every index to its table; here one that is too large is refused, so that the
//! cutting changes nothing.

use super::walk::{Decision, extend};
use super::{Side, TableError};
use crate::classes::{Node, Target};
use crate::diagram::Field;
use crate::layout::{BUCKET, Joint, LIST_ALIGN, Layout, Pairs, Ports, Position, Rows, Table};
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

    pub(super) fn pairs(&self, group: usize) -> Pairs {
        self.places.groups[group]
    }

    /// A number of `bytes` bytes, `index` such strides and `offset` bytes behind the beginning of a table.
    fn read(
        &self,
        table: Table,
        index: u64,
        [stride, offset, bytes]: [u32; 3],
    ) -> Result<u64, TableError> {
        let outside = TableError::Outside { at: table.at, index };
        if index > u64::from(table.mask) {
            return Err(outside);
        }
        let at = u64::from(table.at) + index * u64::from(stride) + u64::from(offset);
        let found = self.bytes.get(at as usize..).and_then(|from| from.get(..bytes as usize));
        let found = found.ok_or(outside)?;
        Ok(found.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn entry(&self, table: Table, index: u64, bytes: u32) -> Result<u64, TableError> {
        self.read(table, index, [bytes, 0, bytes])
    }

    /// The leaf of a rank.
    pub(super) fn leaf(&self, rank: u32) -> Result<u32, TableError> {
        Ok(self.entry(self.places.leaves, rank.into(), 4)? as u32)
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

    /// Where a pair of classes leads, as programs of one side find it. Unit: words of the lists.
    pub(super) fn position(
        &self,
        pairs: Pairs,
        by: Side,
        source: u32,
        destination: u32,
    ) -> Result<u32, TableError> {
        let bytes = self.places.position.bytes();
        let found = match pairs {
            Pairs::Matrix { width, sources, destinations, at } => {
                let fits = width.is_power_of_two() && destinations < width;
                if !fits || source > sources || destination > destinations {
                    return Err(TableError::Outside { at, index: source.max(destination).into() });
                }
                let index = u64::from(source) * u64::from(width) + u64::from(destination);
                self.entry(Table { at, mask: u32::MAX }, index, bytes)?
            }
            Pairs::Rows { by_source, by_destination } => {
                let (rows, local, peer) = match by {
                    Side::Source => (by_source, source, destination),
                    Side::Destination => (by_destination, destination, source),
                };
                let row = Row::new(self.entry(rows.rows, local.into(), 8)?);
                let bucket = row.first + ((u64::from(peer) * row.multiplier) >> 8 & row.mask);
                let mut found = 0;
                for place in 0..BUCKET as u32 {
                    if self.key(rows, bucket, place)? == peer {
                        let offset = 2 * BUCKET as u32 + place * bytes;
                        let stride = self.places.position.bucket_bytes();
                        found |= self.read(rows.buckets, bucket, [stride, offset, bytes])?;
                    }
                }
                found
            }
        };
        let words = match self.places.position {
            Position::Short => found * u64::from(LIST_ALIGN),
            Position::Long => found,
        };
        Ok(words as u32)
    }

    fn key(&self, rows: Rows, bucket: u64, place: u32) -> Result<u32, TableError> {
        let stride = self.places.position.bucket_bytes();
        Ok(self.read(rows.buckets, bucket, [stride, 2 * place, 2])? as u32)
    }

    /// Every pair of the classes of both sides that may lead somewhere: source and destination.
    pub(super) fn filled(
        &self,
        pairs: Pairs,
        by: Side,
        [sources, destinations]: &[BTreeSet<u32>; 2],
    ) -> Result<Vec<(u32, u32)>, TableError> {
        let Pairs::Rows { by_source, by_destination } = pairs else {
            let of_source = |&s: &u32| destinations.iter().map(move |&d| (s, d));
            return Ok(sources.iter().flat_map(of_source).collect());
        };
        let (rows, local, peers) = match by {
            Side::Source => (by_source, sources, destinations),
            Side::Destination => (by_destination, destinations, sources),
        };
        let mut found = BTreeSet::new();
        // No two rows share buckets, but for one that all empty ones are.
        let mut left = u64::from(rows.buckets.mask) + 1 + local.len() as u64;
        for &class in local {
            let row = Row::new(self.entry(rows.rows, class.into(), 8)?);
            left = left.checked_sub(row.mask + 1).ok_or(TableError::Broken("rows overlap"))?;
            for bucket in row.first..=row.first + row.mask {
                for place in 0..BUCKET as u32 {
                    let peer = self.key(rows, bucket, place)?;
                    if peers.contains(&peer) {
                        found.insert(match by {
                            Side::Source => (class, peer),
                            Side::Destination => (peer, class),
                        });
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// What a list begins with: its base and default place.
    pub(super) fn header(&self, position: u32) -> Result<u32, TableError> {
        self.word(position.into())
    }

    pub(super) fn slot(&self, index: u64) -> Result<u32, TableError> {
        Ok(self.entry(self.places.slots, index, 4)? as u32)
    }

    /// The entry of a list at a place.
    pub(super) fn list_entry(&self, position: u32, place: u32) -> Result<Entry, TableError> {
        let n = self.places.consent_words;
        let at = u64::from(position) + 1 + u64::from(place) * (1 + u64::from(n));
        let rank = self.word(at)?;
        let mut consents = BTreeSet::new();
        for word in 1..=u64::from(n) {
            let two = self.word(at + word)?;
            consents.extend([two as u16, (two >> 16) as u16]);
        }
        consents.remove(&0);
        Ok(Entry { rank, consents: consents.into_iter().collect() })
    }

    fn word(&self, index: u64) -> Result<u32, TableError> {
        Ok(self.entry(self.places.lists, index, 4)? as u32)
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
            found.insert((block.map_err(|_| TableError::Broken("no block"))?, entry as u32));
        }
        found.remove(&(0, 0));
        Ok(found)
    }
}

/// The parts of a row's entry.
struct Row {
    first: u64,
    mask: u64,
    multiplier: u64,
}

impl Row {
    fn new(entry: u64) -> Self {
        let [a, b, c, d] = [0, 16, 32, 48].map(|shift| entry >> shift & 0xffff);
        Self { first: b << 16 | a, mask: c, multiplier: d }
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
