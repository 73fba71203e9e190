//! Single lookups, for orientation: what one access to a map of some size costs.

use super::{Contender, MAP_LOOKUP_ELEM, entry};
use crate::assembler::{Assembler, MapIndex, r};
use crate::bpf::{HASH, LPM_TRIE, Map};
use crate::random::Random;
use crate::workload::Packet;
use seg_compiler::bpf::{Alu, Cond, Size};
use std::collections::BTreeSet;
use std::io;

/// Addresses that lookups find, and a trace's packets are drawn from.
pub fn keys(n: usize) -> Vec<u32> {
    let mut random = Random::new(n as u64);
    let mut keys = BTreeSet::new();
    while keys.len() < n {
        keys.insert(random.next_u64() as u32);
    }
    keys.into_iter().collect()
}

/// A packet that a lookup finds.
pub fn packet(keys: &[u32], random: &mut Random) -> Packet {
    Packet { source: *random.pick(keys), ..Packet::default() }
}

/// A lookup in an LPM trie or hash of these addresses; the answer is whether it found one.
///
/// # Errors
/// What the kernel says.
pub fn lookup(kind: u32, keys: &[u32]) -> io::Result<Contender> {
    let is_lpm = kind == LPM_TRIE;
    let entries: Vec<(Vec<u8>, Vec<u8>)> = keys
        .iter()
        .map(|key| {
            let address = key.to_be_bytes().to_vec();
            let key =
                if is_lpm { [32_u32.to_ne_bytes().to_vec(), address].concat() } else { address };
            (key, vec![1, 0, 0, 0])
        })
        .collect();
    let mut a = Assembler::default();
    a.load(Size::B4, r(1), r(6), entry::SOURCE);
    a.network(Size::B4, r(1));
    a.store(Size::B4, r(10), -4, r(1));
    a.store(Size::B4, r(10), -8, 32_u32);
    a.mov(r(2), r(10));
    a.alu(Alu::Add, r(2), if is_lpm { -8 } else { -4 });
    a.map(r(1), MapIndex(0));
    a.call(MAP_LOOKUP_ELEM);
    let none = a.label();
    a.branch(Cond::Eq, r(0), 0_u32, none);
    a.mov(r(0), 1_u32);
    a.bind(none);
    let name = if is_lpm { "LPM_TRIE lookup" } else { "hash lookup" };
    debug_assert!(is_lpm || kind == HASH);
    Ok(Contender::new(name, a, vec![Map::of_entries(kind, &entries)?]))
}

/// So many loads from an array, each at a place that the one before it names; the answer is the lowest bit of the last.
///
/// The size is a power of two. Unit: bytes.
///
/// # Errors
/// What the kernel says.
pub fn chain(bytes: usize, n_loads: usize) -> io::Result<(Contender, Vec<u32>)> {
    let mask = (bytes / 4 - 1) as u32;
    let mut random = Random::new(bytes as u64);
    let words: Vec<u32> = (0..bytes / 4).map(|_| random.next_u64() as u32 & mask).collect();
    let mut a = Assembler::default();
    a.load(Size::B4, r(0), r(6), entry::SOURCE);
    for _ in 0..n_loads {
        a.alu(Alu::And, r(0), mask);
        a.alu(Alu::Lsh, r(0), 2_u32);
        a.value(r(1), MapIndex(0), 0);
        a.alu(Alu::Add, r(1), r(0));
        a.load(Size::B4, r(0), r(1), 0);
    }
    a.alu(Alu::And, r(0), 1_u32);
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = format!("{n_loads} dependent loads, {} KB", bytes >> 10);
    Ok((Contender::new(&name, a, vec![Map::of_bytes(&value)?]), words))
}
