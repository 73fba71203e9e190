//! Changes that matter, each at a place that some flow uses. `None` where there is nothing to change.

use super::made::Made;
use seg_artifact::classes::{Decision, Target};
use seg_compiler::layout::{Pairs, Position};
use seg_compiler::rules::IPV4_FIRST;
use seg_tests::random::Random;
use std::net::IpAddr;

type Change = fn(&mut Made, &mut Random) -> Option<()>;

pub(crate) const CHANGES: &[(&str, Change)] = &[
    ("cell_emptied", |made, r| {
        let (_, cell, _) = made.any_cell(r)?;
        let bytes = made.layout.position.bytes();
        made.write(cell, bytes, 0);
        Some(())
    }),
    ("cell_with_the_list_of_another", |made, r| {
        let ((_, cell, list), (_, other, other_list)) = (made.any_cell(r)?, made.any_cell(r)?);
        let bytes = made.layout.position.bytes();
        let position = made.read(other, bytes);
        made.write(cell, bytes, position);
        (list != other_list).then_some(())
    }),
    ("cells_swapped", |made, r| {
        let ((_, cell, list), (_, other, other_list)) = (made.any_cell(r)?, made.any_cell(r)?);
        let bytes = made.layout.position.bytes();
        let [a, b] = [cell, other].map(|at| made.read(at, bytes));
        made.write(cell, bytes, b);
        made.write(other, bytes, a);
        (list != other_list).then_some(())
    }),
    ("empty_cell_filled", |made, r| {
        let (group, cell, _) = made.any_cell(r)?;
        let bytes = made.layout.position.bytes();
        let position = made.read(cell, bytes);
        let of = &made.tables.groups[group];
        let [sources, destinations] =
            made.used(group).map(|classes| *classes.iter().nth(r.below(classes.len())).unwrap());
        let (source, destination) = (sources, destinations);
        if of.cells.iter().any(|&(s, d, _)| (s, d) == (source, destination)) {
            return None;
        }
        let empty = made.cell(group, source, destination)?;
        made.write(empty, bytes, position);
        Some(())
    }),
    ("default_place", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        // Where every column is an exception, the default is nobody's.
        let function = made.function(list);
        let n = (made.tables.services.n() as u32) << made.bits.len();
        let plain = |column: &u32| function.exceptions.iter().all(|(of, _)| of != column);
        made.any_column((0..n).filter(plain), r)?;
        let at = made.list(cell);
        let header = made.read(at, 4);
        made.write(at, 4, if header & 0xfff == 0 { header + 1 } else { header - 1 });
        Some(())
    }),
    ("base_of_a_list", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        let function = made.function(list);
        made.any_column(function.exceptions.iter().map(|(column, _)| *column), r)?;
        let at = made.list(cell);
        let header = made.read(at, 4);
        made.write(at, 4, 0xffff_e000 | header & 0xfff);
        Some(())
    }),
    ("slot_with_another_place", |made, r| {
        let (slot, _) = slot(made, r)?;
        let before = made.read(slot, 4);
        made.write(slot, 4, if before & 0xfff == 0 { before + 1 } else { before - 1 });
        Some(())
    }),
    ("slot_of_nobody", |made, r| {
        let (slot, _) = slot(made, r)?;
        made.write(slot, 4, 0xffff_ffff);
        Some(())
    }),
    ("slot_taken_by_who_has_none", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        let function = made.function(list);
        let n = (made.tables.services.n() as u32) << made.bits.len();
        let free = |column: &u32| function.exceptions.iter().all(|(c, _)| c != column);
        let column = made.any_column((0..n).filter(free), r)?;
        let header = made.read(made.list(cell), 4);
        let slot = made.layout.slots.at + 4 * ((header >> 12) as u32 + column);
        made.write(slot, 4, header & !0xfff | u64::from(header & 0xfff == 0));
        Some(())
    }),
    ("rank_raised", |made, r| {
        let (entry, _, _) = made.any_entry(r)?;
        let rank = made.read(entry, 4);
        made.write(entry, 4, rank + 1);
        Some(())
    }),
    ("rank_lowered", |made, r| {
        let (entry, _, _) = made.any_entry(r)?;
        let rank = made.read(entry, 4);
        made.write(entry, 4, rank - 1);
        Some(())
    }),
    ("entries_swapped", |made, r| {
        let (entry, list, place) = made.any_entry(r)?;
        if place == made.tables.lists[list as usize].entries.len() {
            return None;
        }
        let stride = 4 * (1 + made.layout.consent_words);
        for word in 0..=made.layout.consent_words {
            let [a, b] = [entry, entry + stride].map(|at| made.read(at + 4 * word, 4));
            made.write(entry + 4 * word, 4, b);
            made.write(entry + stride + 4 * word, 4, a);
        }
        Some(())
    }),
    ("place_of_nothing_says_something", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        let n = (made.tables.services.n() as u32) << made.bits.len();
        let unsaid = (0..n).filter(|&column| made.place(list, column) == 0);
        let is_asked = made.any_column(unsaid, r).is_some();
        let at = made.list(cell) + 4;
        made.write(at, 4, 1);
        is_asked.then_some(())
    }),
    ("consent_of_another_block", |made, r| {
        let (entry, list, place) = made.any_entry(r)?;
        if made.layout.consent_words == 0 {
            return None;
        }
        let n = made.tables.lists[list as usize].entries[place - 1].consents.len() as u32;
        if n == 2 * made.layout.consent_words {
            return None;
        }
        made.write(entry + 4 + 2 * n, 2, 77);
        Some(())
    }),
    ("leaf_allows_instead", |made, r| {
        let at = leaf(made, r)?;
        let leaf = made.read(at, 4);
        made.write(at, 4, leaf ^ 1);
        Some(())
    }),
    ("leaf_counts_for_another", |made, r| {
        let at = leaf(made, r)?;
        let leaf = made.read(at, 4);
        made.write(at, 4, leaf + 2);
        Some(())
    }),
    ("protocol_of_another_kind", |made, r| {
        let at = made.layout.services.kinds.at + [1, 6, 17, 58][r.below(4)];
        let kind = made.read(at, 1);
        let others = (0..made.layout.services.kinds.mask)
            .map(|protocol| made.read(made.layout.services.kinds.at + protocol, 1));
        let other = others.into_iter().find(|other| *other != kind)?;
        made.write(at, 1, other);
        Some(())
    }),
    ("port_in_another_block", |made, r| {
        let ports = made.layout.services.ports;
        let kind = made.read(made.layout.services.kinds.at + 6, 1) as u32;
        let at = ports.roots.at + 2 * (kind << 8);
        let root = made.read(at, 2);
        let other = (0..=ports.blocks.mask as u64 >> 8).find(|&other| {
            let differs = |n: u32| {
                let of = |root: u64| made.read(ports.blocks.at + 2 * ((root as u32) << 8 | n), 2);
                of(root) != of(other)
            };
            other != root && (0..256).any(differs)
        })?;
        made.write(at, 2, other);
        let _ = r;
        Some(())
    }),
    ("port_of_another_class", |made, r| {
        let ports = made.layout.services.ports;
        let kind = made.read(made.layout.services.kinds.at + 6, 1) as u32;
        let port = [0, 80, 443, 8_080][r.below(4)] as u32;
        let root = made.read(ports.roots.at + 2 * (kind << 8 | port >> 8), 2) as u32;
        let at = ports.blocks.at + 2 * (root << 8 | port & 255);
        let class = made.read(at, 2);
        let other = (0..=ports.blocks.mask).map(|n| made.read(ports.blocks.at + 2 * n, 2));
        let other = other.into_iter().find(|other| *other != class)?;
        made.write(at, 2, other);
        Some(())
    }),
    ("source_port_of_another_class", |made, r| {
        let joint = made.layout.services.joint?;
        let port = r.below(1 << 16) as u32;
        let root = made.read(joint.sources.roots.at + 2 * (port >> 8), 2) as u32;
        let at = joint.sources.blocks.at + 2 * (root << 8 | port & 255);
        let class = made.read(at, 2);
        let other = if class == 0 { 1 } else { class - 1 };
        made.write(at, 2, other);
        (joint.width > 1).then_some(())
    }),
    ("joint_class", |made, r| {
        let joint = made.layout.services.joint?;
        let ports = made.layout.services.ports;
        let kind = made.read(made.layout.services.kinds.at + 6, 1) as u32;
        let root = made.read(ports.roots.at + 2 * (kind << 8), 2) as u32;
        let row = made.read(ports.blocks.at + 2 * (root << 8 | 80), 2) as u32;
        let at = joint.classes.at + 2 * (row * joint.width + r.below(joint.width as usize) as u32);
        let class = made.read(at, 2);
        let other = class.checked_sub(1).unwrap_or(1);
        made.write(at, 2, other);
        (other < made.tables.services.n() as u64 && made.tells_apart(class, other)).then_some(())
    }),
    ("joint_width", |made, _| {
        let joint = made.layout.services.joint.as_mut()?;
        joint.width += 1;
        (joint.width > 2).then_some(())
    }),
    ("bucket_key", |made, r| {
        let (group, cell, _) = made.any_cell(r)?;
        let Pairs::Rows { by_source, .. } = made.layout.groups[group] else { return None };
        let (position, bucket) =
            (made.layout.position.bytes(), made.layout.position.bucket_bytes());
        let in_bucket = (cell - by_source.buckets.at) % bucket;
        let key = cell - in_bucket + (in_bucket - 8) / position * 2;
        let before = made.read(key, 2);
        made.write(key, 2, before ^ 1);
        Some(())
    }),
    ("bucket_key_by_destination", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Rows { by_destination, .. } = made.layout.groups[group] else { return None };
        let bytes = made.layout.position.bucket_bytes();
        let key = (0..=by_destination.buckets.mask)
            .map(|bucket| by_destination.buckets.at + bucket * bytes)
            .filter(|&at| made.read(at, 2) != 0xffff)
            .nth(r.below(50))?;
        made.write(key, 2, 0xffff);
        Some(())
    }),
    ("row_header", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Rows { by_source, by_destination } = made.layout.groups[group] else {
            return None;
        };
        let (rows, by_source) =
            if r.chance(50) { (by_source, true) } else { (by_destination, false) };
        let (source, destination, _) = *r.pick(&made.tables.groups[group].cells);
        let at = rows.rows.at + 8 * if by_source { source } else { destination };
        let row = made.read(at, 8);
        made.write(at, 8, row + 1);
        Some(())
    }),
    ("row_multiplier", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Rows { by_source, .. } = made.layout.groups[group] else { return None };
        let long = |row: &u32| made.read(by_source.rows.at + 8 * row, 8) >> 32 & 0xffff > 7;
        let row = (0..=by_source.rows.mask).find(long)?;
        let at = by_source.rows.at + 8 * row;
        let header = made.read(at, 8);
        made.write(at, 8, header ^ 0x5a5a << 48);
        Some(())
    }),
    ("rows_of_the_other_side", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Rows { by_source, by_destination } = &mut made.layout.groups[group] else {
            return None;
        };
        std::mem::swap(by_source, by_destination);
        Some(())
    }),
    ("matrix_turned", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let cells = &made.tables.groups[group].cells;
        let turned = |&(s, d, list): &(u32, u32, u32)| cells.contains(&(d, s, list));
        let is_symmetric = cells.iter().all(turned);
        let Pairs::Matrix { width, sources, destinations, .. } = &mut made.layout.groups[group]
        else {
            return None;
        };
        std::mem::swap(sources, destinations);
        *width = *destinations + 1;
        let sides = made.classes.groups[group].clone();
        made.classes.groups[group].source = sides.destination;
        made.classes.groups[group].destination = sides.source;
        for net in &mut made.classes.nets {
            std::mem::swap(&mut net.source[group], &mut net.destination[group]);
        }
        (!is_symmetric).then_some(())
    }),
    ("matrix_cut_short", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Matrix { sources, .. } = &mut made.layout.groups[group] else { return None };
        *sources /= 2;
        Some(())
    }),
    ("decision_bound", |made, r| {
        let decision = decision(made, r)?;
        let node = decision.nodes.len() - 1;
        let edge = r.below(decision.nodes[node].edges.len() - 1);
        decision.nodes[node].edges[edge].0 += 1;
        // Unless it meets the next.
        decision.nodes[node].edges.is_sorted_by(|a, b| a.0 < b.0).then_some(())
    }),
    ("decision_leads_to_another_class", |made, r| {
        let decision = decision(made, r)?;
        let node = r.below(decision.nodes.len());
        let edges = &mut decision.nodes[node].edges;
        let edge = r.below(edges.len());
        let Target::Class(class) = &mut edges[edge].1 else { return None };
        *class ^= 1;
        Some(())
    }),
    ("decision_begins_elsewhere", |made, r| {
        let decision = decision(made, r)?;
        let Target::Node(root) = &mut decision.root else { return None };
        *root = root.checked_sub(1)?;
        Some(())
    }),
    ("sides_swapped", |made, r| {
        let group = r.below(made.groups.len());
        let sides = made.classes.groups.get_mut(group)?;
        std::mem::swap(&mut sides.source, &mut sides.destination);
        Some(())
    }),
    ("class_of_a_net", |made, r| {
        let (group, net) = (r.below(made.groups.len()), r.below(made.classes.nets.len()));
        let of_group = made.tables.groups.get(group)?;
        let source = r.chance(50);
        if (if source { of_group.source.n() } else { of_group.destination.n() }) < 2 {
            return None;
        }
        let net = &mut made.classes.nets[net];
        let side = if source { &mut net.source } else { &mut net.destination };
        side[group] = side[group].checked_sub(1).unwrap_or(1);
        Some(())
    }),
    ("bound_of_a_net", |made, r| {
        let net = r.below(made.nets.len());
        let before = made.clone();
        let ranges = &mut made.nets.get_mut(net)?.ranges;
        let range = r.below(ranges.len());
        let first = &mut ranges[range].0;
        match first {
            IpAddr::V4(v4) => *v4 = (v4.to_bits().checked_sub(1)?).into(),
            IpAddr::V6(v6) => *v6 = (v6.to_bits().checked_sub(1)?).into(),
        }
        // Not the addresses mapped from IPv4, which packets of IPv6 do not have.
        let is_seen = match first {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.to_bits() >> 32 != IPV4_FIRST >> 32,
        };
        let address = *first;
        let is_other = before.net(address) != made.net(address);
        (is_seen && is_other).then_some(())
    }),
    ("net_left_out", |made, r| {
        let net = r.below(made.nets.len());
        made.nets.get(net)?;
        made.nets.remove(net);
        made.classes.nets.remove(net + 1);
        Some(())
    }),
    ("first_address_of_a_net_of_ipv6", |made, r| {
        let [_, lower, idents] = made.tables6()?;
        let n = 1 + r.below(lower.mask as usize) as u32;
        let at = lower.at + 8 * n;
        if made.read(idents.at + 2 * n, 2) == made.read(idents.at + 2 * n - 2, 2) {
            return None;
        }
        let before = made.read(at, 8);
        let whole = made.nets.iter().flat_map(|net| &net.ranges).any(|range| match range {
            (IpAddr::V6(first), _) => first.to_bits() as u64 == before && before != u64::MAX,
            (IpAddr::V4(_), _) => false,
        });
        made.write(at, 8, before.wrapping_add(1));
        whole.then_some(())
    }),
    ("ident_of_a_net_of_ipv6", |made, r| {
        let [_, _, idents] = made.tables6()?;
        let _ = r;
        let before = made.read(idents.at, 2);
        made.write(idents.at, 2, before + 1);
        Some(())
    }),
    ("isolation_rank", |made, r| {
        let at = isolated(made, r)?;
        let entry = made.read(at, 8);
        made.write(at, 8, entry - 1);
        Some(())
    }),
    ("isolation_block", |made, r| {
        let at = isolated(made, r)?;
        let entry = made.read(at, 8);
        made.write(at, 8, entry + (1 << 32));
        Some(())
    }),
    ("isolation_left_out", |made, r| {
        let at = isolated(made, r)?;
        made.write(at, 8, 0);
        Some(())
    }),
    ("isolation_of_the_other_side", |made, _| {
        let isolation = made.layout.isolation.as_mut()?;
        std::mem::swap(&mut isolation.source, &mut isolation.destination);
        let of = made.tables.isolation.as_ref()?;
        (of.source.by_class != of.destination.by_class).then_some(())
    }),
    ("no_isolation", |made, _| {
        made.layout.isolation.take()?;
        made.classes.groups.pop();
        Some(())
    }),
    ("rule_in_no_group", |made, r| {
        let group = r.below(made.groups.len());
        made.groups.get_mut(group)?.pop()?;
        Some(())
    }),
    ("rule_in_two_groups", |made, r| {
        let group = r.below(made.groups.len());
        let flow = *made.groups.get(group)?.first()?;
        made.groups.last_mut()?.push(flow);
        Some(())
    }),
    ("rule_in_another_group", |made, r| {
        let group = r.below(made.groups.len());
        let other = (group + 1) % made.groups.len().max(1);
        let n = made.groups.get(group)?.len();
        if group == other || n == 0 {
            return None;
        }
        // What is said by what matches more strongly anyway says nothing; so all of them.
        let moved = made.groups[group].split_off(0);
        made.groups[other].extend(moved);
        Some(())
    }),
    ("bits_swapped", |made, _| {
        if made.bits.len() < 2 {
            return None;
        }
        made.bits.reverse();
        Some(())
    }),
    ("bit_left_out", |made, _| {
        made.bits.pop()?;
        Some(())
    }),
    ("another_number_of_bits", |made, _| {
        made.layout.n_bits += 1;
        Some(())
    }),
    ("another_unit_of_positions", |made, _| {
        made.layout.position = match made.layout.position {
            Position::Short => Position::Long,
            Position::Long => Position::Short,
        };
        made.tables.groups.iter().any(|group| !group.cells.is_empty()).then_some(())
    }),
    ("more_words_of_consents", |made, _| {
        made.layout.consent_words += 1;
        let lists = &made.tables.lists;
        lists.iter().any(|list| !list.entries.is_empty()).then_some(())
    }),
    ("lists_elsewhere", |made, _| {
        made.layout.lists.at += 4;
        let lists = &made.tables.lists;
        lists.iter().any(|list| !list.entries.is_empty()).then_some(())
    }),
    ("leaves_elsewhere", |made, _| {
        made.layout.leaves.at -= 64;
        Some(())
    }),
    ("leaves_cut_short", |made, _| {
        made.layout.leaves.mask /= 2;
        (made.tables.leaves.len() > 1).then_some(())
    }),
    ("bytes_cut_off", |made, _| {
        made.layout.bytes.truncate(made.layout.leaves.at as usize);
        Some(())
    }),
];

/// The slot of an exception that some cell's list asks for.
fn slot(made: &Made, r: &mut Random) -> Option<(u32, u32)> {
    let (_, cell, list) = made.any_cell(r)?;
    let function = made.function(list);
    let column = made.any_column(function.exceptions.iter().map(|(column, _)| *column), r)?;
    let place = made.place(list, column);
    let base = (made.read(made.list(cell), 4) >> 12) as u32;
    Some((made.layout.slots.at + 4 * (base + column), place))
}

fn leaf(made: &Made, r: &mut Random) -> Option<u32> {
    Some(made.layout.leaves.at + 4 * r.below(made.tables.leaves.len()) as u32)
}

/// A decision with questions.
fn decision<'a>(made: &'a mut Made, r: &mut Random) -> Option<&'a mut Decision> {
    let group = r.below(made.classes.groups.len());
    let sides = made.classes.groups.get_mut(group)?;
    let decision = if r.chance(50) { &mut sides.source } else { &mut sides.destination };
    (!decision.nodes.is_empty()).then_some(decision)
}

/// An entry of isolation that is used.
fn isolated(made: &Made, r: &mut Random) -> Option<u32> {
    let (places, of) = (made.layout.isolation?, made.tables.isolation.as_ref()?);
    let (table, of) = match r.chance(50) {
        true => (places.source, &of.source),
        false => (places.destination, &of.destination),
    };
    let used = (0..).zip(&of.by_class).filter(|(_, blocks)| !blocks.is_empty());
    let used: Vec<(u32, _)> = used.collect();
    let (class, blocks) = used.get(r.below(used.len()))?;
    Some(table.at + 8 * (class * places.n + r.below(blocks.len()) as u32))
}
