//! Linear code: the rules one after another, each as comparisons, fields read again before each. How bpfilter compiles chains and
//! Calico compiles policies, without their per-rule bookkeeping. Rules that deny come first, so the first that matches decides.

use super::table::{SCRATCH, Table};
use super::{Contender, entry};
use crate::assembler::{Assembler, Label, MapIndex, r};
use crate::bpf::Map;
use crate::workload::classbench::{self, ALL_PORTS};
use crate::workload::{WITH_PORTS, labels};
use seg_compiler::bpf::{Alu, Cond, Size};
use std::io;

/// Rules of a ClassBench set.
pub fn of_classbench(set: &classbench::Set) -> Contender {
    let mut a = Assembler::default();
    let end = a.label();
    // The kernel refuses instructions behind a rule that matches everything.
    let all = set.rules.iter().position(classbench::Rule::is_everything);
    for rule in &set.rules[..all.unwrap_or(set.rules.len())] {
        let next = a.label();
        for (prefix, field) in
            [(rule.source, entry::SOURCE), (rule.destination, entry::DESTINATION)]
        {
            if prefix.len > 0 {
                a.load(Size::B4, r(1), r(6), field);
                if prefix.len < 32 {
                    a.alu32(Alu::And, r(1), prefix.mask());
                }
                a.branch32(Cond::Ne, r(1), prefix.address, next);
            }
        }
        for (ports, field) in [(rule.source_ports, entry::SOURCE_PORT), (rule.ports, entry::PORT)] {
            if ports != ALL_PORTS {
                within(&mut a, field, ports, next);
            }
        }
        match rule.protocol {
            Some(protocol) => one_of(&mut a, &[protocol], next),
            None if rule.asks_ports() => one_of(&mut a, &WITH_PORTS, next),
            None => {}
        }
        answer(&mut a, !rule.denies, end);
        a.bind(next);
    }
    a.mov(r(0), u32::from(all.is_some_and(|all| !set.rules[all].denies)));
    a.bind(end);
    Contender::new("linear code", a, Vec::new())
}

/// Rules of a label policy; who the ends are is found by tables, as linear search has no part in that.
///
/// # Errors
/// What the kernel says.
pub fn of_labels(set: &labels::Set) -> io::Result<Contender> {
    const TABLE: MapIndex = MapIndex(0);
    const WORDS: MapIndex = MapIndex(1);
    // Entry 0 is nobody.
    let mut words = vec![0_u32];
    words.extend(set.identities.iter().map(|identity| {
        word(labels::Selector {
            app: Some(identity.app),
            tier: Some(identity.tier),
            env: Some(identity.env),
        })
        .0
    }));
    words.resize(words.len().next_power_of_two(), 0);
    let table = Table::new(&identity_ranges(set));
    let mut a = Assembler::default();
    for (field, pointer) in [(entry::SOURCE, r(7)), (entry::DESTINATION, r(8))] {
        a.load(Size::B4, pointer, r(6), field);
        table.emit(&mut a, TABLE, pointer, SCRATCH.0, SCRATCH.1);
        a.alu(Alu::And, pointer, words.len() as u32 - 1);
        a.alu(Alu::Lsh, pointer, 2_u32);
        a.value(r(1), WORDS, 0);
        a.alu(Alu::Add, pointer, r(1));
    }
    let end = a.label();
    for rule in &set.rules {
        for &(protocol, port) in &rule.services {
            let next = a.label();
            for (selector, pointer) in [(rule.source, r(7)), (rule.destination, r(8))] {
                let (value, mask) = word(selector);
                a.load(Size::B4, r(1), pointer, 0);
                a.alu32(Alu::And, r(1), mask);
                a.branch32(Cond::Ne, r(1), value, next);
            }
            within(&mut a, entry::PORT, (port, port), next);
            one_of(&mut a, &[protocol], next);
            answer(&mut a, !rule.denies, end);
            a.bind(next);
        }
    }
    a.mov(r(0), 0_u32);
    a.bind(end);
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let maps = vec![Map::of_bytes(&table.bytes())?, Map::of_bytes(&words)?];
    let note = "identities by table".to_owned();
    Ok(Contender { note, ..Contender::new("linear code", a, maps) })
}

/// Labels in one word, and which of its bits are asked. One bit says that there are labels at all.
fn word(selector: labels::Selector) -> (u32, u32) {
    let part = |value: Option<u32>, shift: u32, bits: u32| {
        value.map_or((0, 0), |value| (value << shift, ((1 << bits) - 1) << shift))
    };
    [
        part(Some(1), 31, 1),
        part(selector.app.map(u32::from), 8, 16),
        part(selector.tier.map(u32::from), 4, 4),
        part(selector.env.map(u32::from), 0, 4),
    ]
    .into_iter()
    .fold((0, 0), |sum, (value, mask)| (sum.0 | value, sum.1 | mask))
}

/// Ranges of addresses to the identity they have, from 1; 0 for nobody.
pub(crate) fn identity_ranges(set: &labels::Set) -> Vec<(u32, u32)> {
    let mut owned: Vec<(u32, u32)> = set
        .addresses
        .iter()
        .zip(1..)
        .flat_map(|(all, identity)| all.iter().map(move |address| (*address, identity)))
        .collect();
    owned.sort_unstable();
    let mut ranges = vec![(0, 0)];
    for (address, identity) in owned {
        if ranges.last().is_some_and(|last| last.0 == address) {
            ranges.pop();
        }
        ranges.push((address, identity));
        ranges.push((address + 1, 0));
    }
    ranges
}

fn within(a: &mut Assembler, field: i16, (lo, hi): (u16, u16), next: Label) {
    a.load(Size::B2, r(1), r(6), field);
    if lo == hi {
        a.branch32(Cond::Ne, r(1), u32::from(lo), next);
        return;
    }
    if lo > 0 {
        a.branch32(Cond::Lt, r(1), u32::from(lo), next);
    }
    if hi < u16::MAX {
        a.load(Size::B2, r(1), r(6), field);
        a.branch32(Cond::Gt, r(1), u32::from(hi), next);
    }
}

fn one_of(a: &mut Assembler, protocols: &[u8], next: Label) {
    a.load(Size::B1, r(1), r(6), entry::PROTOCOL);
    let Some((last, others)) = protocols.split_last() else { return };
    let found = a.label();
    for protocol in others {
        a.branch32(Cond::Eq, r(1), u32::from(*protocol), found);
    }
    a.branch32(Cond::Ne, r(1), u32::from(*last), next);
    a.bind(found);
}

fn answer(a: &mut Assembler, allows: bool, end: Label) {
    a.mov(r(0), u32::from(allows));
    a.jump(end);
}
