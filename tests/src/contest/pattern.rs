//! Cilium's lookup pattern, an emulation: both addresses find an identity in the ipcache, then a hash of policy entries is asked for
//! (identity, port, protocol), for the identity alone, and for the port and protocol alone.
//!
//! The identity of the local end is part of the key here, where Cilium has one map for each endpoint. Policy entries are written
//! out for every pair of identities, as there; where they are too many, only for pairs of a trace, which flatters it.

use super::{Contender, MAP_LOOKUP_ELEM, entry};
use crate::assembler::{Assembler, MapIndex, r};
use crate::bpf::{HASH, LPM_TRIE, Map};
use crate::workload::labels::Set;
use crate::workload::trace::Trace;
use seg_compiler::bpf::{Alu, Cond, Size};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// How addresses find identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipcache {
    /// An LPM trie, as Cilium does.
    Lpm,
    /// A hash.
    Hash,
}

/// Most policy entries that are written out.
const ENTRIES_MAX: usize = 2_000_000;

/// Policy entries: source and destination identity from 1, port, protocol; whether they allow.
pub type Entries = BTreeMap<(u32, u32, u16, u8), bool>;

/// All entries to these identities, or to all if there are none; if they are too many, only those between pairs of the trace.
pub fn entries(set: &Set, to: &[usize], trace: &Trace) -> (Entries, &'static str) {
    let all: Vec<usize> = (0..set.identities.len()).collect();
    let to = if to.is_empty() { &all } else { to };
    let mut found = Entries::new();
    for &destination in to {
        write_out(set, destination, &all, &mut found);
        if found.len() > ENTRIES_MAX {
            let mut pairs: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
            for packet in &trace.flows {
                let ends = (set.owner(packet.source), set.owner(packet.destination));
                if let (Some(source), Some(destination)) = ends {
                    pairs.entry(destination).or_default().insert(source);
                }
            }
            found.clear();
            for (destination, sources) in pairs {
                let sources: Vec<usize> = sources.into_iter().collect();
                write_out(set, destination, &sources, &mut found);
            }
            return (found, "policy entries only for pairs of the trace");
        }
    }
    (found, "")
}

fn write_out(set: &Set, destination: usize, sources: &[usize], found: &mut Entries) {
    let rules: Vec<_> = set.rules_to(set.identities[destination]).map(|(_, rule)| rule).collect();
    for &source in sources {
        for rule in rules.iter().filter(|rule| rule.source.holds(set.identities[source])) {
            for &(protocol, port) in &rule.services {
                let key = (source as u32 + 1, destination as u32 + 1, port, protocol);
                *found.entry(key).or_insert(true) &= !rule.denies;
            }
        }
    }
}

/// The key of a policy entry, on the stack.
mod key {
    pub(super) const AT: i16 = -16;
    pub(super) const SOURCE: i16 = AT;
    pub(super) const DESTINATION: i16 = AT + 4;
    pub(super) const PORT: i16 = AT + 8;
    pub(super) const PROTOCOL: i16 = AT + 10;
    pub(super) const BYTES: usize = 12;
}
/// The key of the ipcache, on the stack: prefix length, if there is one, then the address.
const ADDRESS: i16 = -24;

/// The lookups over these entries.
///
/// # Errors
/// What the kernel says.
pub fn of_labels(
    set: &Set,
    entries: &Entries,
    note: &str,
    ipcache: Ipcache,
) -> io::Result<Contender> {
    const CACHE: MapIndex = MapIndex(0);
    const POLICY: MapIndex = MapIndex(1);
    let (kind, name) = match ipcache {
        Ipcache::Lpm => (LPM_TRIE, "Cilium pattern, LPM ipcache (emulation)"),
        Ipcache::Hash => (HASH, "Cilium pattern, hash ipcache (emulation)"),
    };
    let cache: Vec<(Vec<u8>, Vec<u8>)> = set
        .addresses
        .iter()
        .zip(1_u32..)
        .flat_map(|(all, identity)| all.iter().map(move |address| (*address, identity)))
        .map(|(address, identity)| {
            let mut key = address.to_be_bytes().to_vec();
            if ipcache == Ipcache::Lpm {
                key = [32_u32.to_ne_bytes().to_vec(), key].concat();
            }
            (key, identity.to_ne_bytes().to_vec())
        })
        .collect();
    let policy: Vec<(Vec<u8>, Vec<u8>)> = entries
        .iter()
        .map(|(&(source, destination, port, protocol), allows)| {
            let mut key = [source.to_ne_bytes(), destination.to_ne_bytes()].concat();
            key.extend(port.to_ne_bytes());
            key.extend([protocol, 0]);
            assert_eq!(key.len(), key::BYTES);
            (key, u32::from(*allows).to_ne_bytes().to_vec())
        })
        .collect();
    // A map must have an entry.
    let policy =
        if policy.is_empty() { vec![(vec![0xff; key::BYTES], vec![0; 4])] } else { policy };

    let mut a = Assembler::default();
    let [denied, found, end] = [(); 3].map(|()| a.label());
    a.mov(r(7), 0_u32);
    a.mov(r(8), 0_u32);
    for (field, identity) in [(entry::SOURCE, r(7)), (entry::DESTINATION, r(8))] {
        a.load(Size::B4, r(1), r(6), field);
        a.network(Size::B4, r(1));
        a.store(Size::B4, r(10), ADDRESS + 4, r(1));
        a.mov(r(2), r(10));
        if ipcache == Ipcache::Lpm {
            a.store(Size::B4, r(10), ADDRESS, 32_u32);
            a.alu(Alu::Add, r(2), i32::from(ADDRESS));
        } else {
            a.alu(Alu::Add, r(2), i32::from(ADDRESS + 4));
        }
        a.map(r(1), CACHE);
        a.call(MAP_LOOKUP_ELEM);
        let nobody = a.label();
        a.branch(Cond::Eq, r(0), 0_u32, nobody);
        a.load(Size::B4, identity, r(0), 0);
        a.bind(nobody);
    }
    let probe = |a: &mut Assembler| {
        a.mov(r(2), r(10));
        a.alu(Alu::Add, r(2), i32::from(key::AT));
        a.map(r(1), POLICY);
        a.call(MAP_LOOKUP_ELEM);
        a.branch(Cond::Ne, r(0), 0_u32, found);
    };
    a.store(Size::B4, r(10), key::SOURCE, r(7));
    a.store(Size::B4, r(10), key::DESTINATION, r(8));
    // Port and protocol, then zeros.
    a.load(Size::B2, r(1), r(6), entry::PORT);
    a.store(Size::B2, r(10), key::PORT, r(1));
    a.load(Size::B1, r(1), r(6), entry::PROTOCOL);
    a.store(Size::B2, r(10), key::PROTOCOL, r(1));
    probe(&mut a);
    a.store(Size::B4, r(10), key::PORT, 0_u32);
    probe(&mut a);
    a.store(Size::B4, r(10), key::SOURCE, 0_u32);
    a.load(Size::B2, r(1), r(6), entry::PORT);
    a.store(Size::B2, r(10), key::PORT, r(1));
    a.load(Size::B1, r(1), r(6), entry::PROTOCOL);
    a.store(Size::B2, r(10), key::PROTOCOL, r(1));
    probe(&mut a);
    a.jump(denied);
    a.bind(found);
    a.load(Size::B4, r(0), r(0), 0);
    a.jump(end);
    a.bind(denied);
    a.mov(r(0), 0_u32);
    a.bind(end);
    let maps = vec![Map::of_entries(kind, &cache)?, Map::of_entries(HASH, &policy)?];
    Ok(Contender { note: note.to_owned(), ..Contender::new(name, a, maps) })
}
