//! Changes at places that some flow uses. `None` where there is nothing to change.

use super::made::Made;
use seg_artifact::classes::{Decision, Target};
use seg_compiler::layout::{CONSENT_SHIFT, OWNER_SHIFT, Pairs};
use seg_compiler::rules::IPV4_FIRST;
use seg_tests::random::Random;
use std::net::IpAddr;

type Change = fn(&mut Made, &mut Random) -> Option<()>;

pub(crate) const CHANGES: &[(&str, Change)] = &[
    ("cell_emptied", |made, r| {
        let (_, cell, _) = made.any_cell(r)?;
        made.set_base(cell, 0);
        Some(())
    }),
    ("cell_with_the_list_of_another", |made, r| {
        let ((_, cell, list), (_, other, other_list)) = (made.any_cell(r)?, made.any_cell(r)?);
        let differs = list != other_list;
        made.set_base(cell, made.base(other));
        differs.then_some(())
    }),
    ("cells_swapped", |made, r| {
        let ((_, cell, list), (_, other, other_list)) = (made.any_cell(r)?, made.any_cell(r)?);
        let differs = list != other_list;
        let [a, b] = [cell, other].map(|of| made.base(of));
        made.set_base(cell, b);
        made.set_base(other, a);
        differs.then_some(())
    }),
    ("empty_cell_filled", |made, r| {
        let (group, cell, _) = made.any_cell(r)?;
        let base = made.base(cell);
        let [source, destination] =
            made.used(group).map(|classes| *classes.iter().nth(r.below(classes.len())).unwrap());
        let of = &made.tables.groups[group];
        if of.cells.iter().any(|&(s, d, _)| (s, d) == (source, destination)) {
            return None;
        }
        let empty = made.cell(group, source, destination);
        made.set_base(empty, base);
        if let Some(key) = empty.key {
            made.write(key, 2, source.into());
        }
        Some(())
    }),
    ("default_left_out", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        // Where every column is an exception, the default is nobody's.
        let has_default = list.default != 0 && made.free_column(list, r).is_some();
        made.write(made.slot(cell, None), 8, 0);
        has_default.then_some(())
    }),
    ("default_of_who_has_none", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        let has_none = list.default == 0 && made.free_column(list, r).is_some();
        let base = made.base(cell);
        made.write(made.slot(cell, None), 8, base << OWNER_SHIFT | made.word(1));
        has_none.then_some(())
    }),
    ("defaults_not_looked_at", |made, r| {
        let (_, _, list) = made.any_cell(r)?;
        let has_default = list.default != 0 && made.free_column(list, r).is_some();
        made.layout.defaults = false;
        has_default.then_some(())
    }),
    ("slot_of_nobody", |made, r| {
        let slot = made.any_slot(r)?;
        made.write(slot, 8, 0);
        Some(())
    }),
    ("slot_of_another_list", |made, r| {
        let slot = made.any_slot(r)?;
        let before = made.read(slot, 8);
        made.write(slot, 8, before ^ 1 << OWNER_SHIFT);
        Some(())
    }),
    ("slot_taken_by_who_has_none", |made, r| {
        let (_, cell, list) = made.any_cell(r)?;
        let is_free = list.default == 0;
        let column = made.free_column(list, r)?;
        let base = made.base(cell);
        made.write(made.slot(cell, Some(column)), 8, base << OWNER_SHIFT | made.word(1));
        is_free.then_some(())
    }),
    ("rank_raised", |made, r| {
        let slot = made.any_slot(r)?;
        let before = made.read(slot, 8);
        made.write(slot, 8, before + 2);
        Some(())
    }),
    ("rank_lowered", |made, r| {
        let slot = made.any_slot(r)?;
        let before = made.read(slot, 8);
        made.write(slot, 8, before - 2);
        (before & 0xff_ffff > 1).then_some(())
    }),
    ("slot_allows_instead", |made, r| {
        let slot = made.any_slot(r)?;
        let before = made.read(slot, 8);
        made.write(slot, 8, before ^ 1);
        Some(())
    }),
    ("consent_of_another_block", |made, r| {
        made.layout.isolation?;
        let consent = made.any_slot(r)? + CONSENT_SHIFT / 8;
        made.write(consent, 2, 77);
        Some(())
    }),
    ("consent_withdrawn", |made, r| {
        let consents = (0..100).filter_map(|_| Some(made.any_slot(r)? + CONSENT_SHIFT / 8));
        let consents = consents.collect::<Vec<_>>();
        let consent = consents.into_iter().find(|&at| made.read(at, 2) != 0)?;
        made.write(consent, 2, 0);
        Some(())
    }),
    ("further_consent", |made, r| {
        let more = *made.layout.more.first()?;
        let slot = made.any_slot(r)?;
        made.write(more.at + (slot - made.layout.slots.at), 2, 77);
        Some(())
    }),
    ("rank_counts_for_another", |made, r| {
        let rank = r.below(made.tables.leaves.len()) as u32;
        let at = made.layout.counters.at + 4 * rank;
        let counter = made.read(at, 4);
        made.write(at, 4, counter + 1);
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
    ("cell_of_another_row", |made, r| {
        let (_, cell, _) = made.any_cell(r)?;
        let at = cell.key?;
        let key = made.read(at, 2);
        made.write(at, 2, key ^ 1);
        Some(())
    }),
    ("row_begins_elsewhere", |made, r| {
        let (group, ..) = made.any_cell(r)?;
        let Pairs::Rows { first, .. } = made.layout.groups[group] else { return None };
        let (source, ..) = *r.pick(&made.tables.groups[group].cells);
        let at = first.at + 4 * source;
        let from = made.read(at, 4);
        made.write(at, 4, from + 1);
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
        made.write(at, 8, entry - 2);
        Some(())
    }),
    ("isolation_that_allows", |made, r| {
        let at = isolated(made, r)?;
        let entry = made.read(at, 8);
        made.write(at, 8, entry | 1);
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
        let n = made.bits.len() as u32;
        made.bits.reverse();
        let turned = |column: u32| {
            let bits = (0..n).fold(0, |bits, place| bits << 1 | column >> place & 1);
            column >> n << n | bits
        };
        let columns = (made.tables.services.n() as u32) << n;
        let mut cells = made.tables.groups.iter().flat_map(|group| &group.cells);
        let entry = |list, column| made.tables.entry(list, column);
        let differs = cells
            .any(|&(_, _, list)| (0..columns).any(|c| entry(list, c) != entry(list, turned(c))));
        differs.then_some(())
    }),
    ("bit_left_out", |made, _| {
        made.bits.pop()?;
        Some(())
    }),
    ("another_number_of_bits", |made, _| {
        made.layout.n_bits += 1;
        Some(())
    }),
    ("slots_elsewhere", |made, _| {
        made.layout.slots.at += 8;
        made.tables.lists.iter().any(|list| !list.exceptions.is_empty()).then_some(())
    }),
    ("counters_elsewhere", |made, _| {
        made.layout.counters.at -= 64;
        Some(())
    }),
    ("counters_cut_short", |made, _| {
        made.layout.counters.mask /= 2;
        (made.tables.leaves.len() > 1).then_some(())
    }),
    ("bytes_cut_off", |made, _| {
        made.layout.bytes.truncate(made.layout.counters.at as usize);
        Some(())
    }),
];

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
