//! What the benches stand on: workloads mean what their policies say, and contenders answer as the workloads do. No time is measured.

use libtest_mimic::{Failed, Trial};
use seg_compiler::decided::Shape;
use seg_lang::analyze::analyze;
use seg_lang::eval::{Endpoint, Flow, Verdict, decide};
use seg_lang::policy::{LabelId, Policy};
use seg_lang::source::Sources;
use seg_tests::bpf::{HASH, LPM_TRIE};
use seg_tests::contest::pattern::{self, Ipcache};
use seg_tests::contest::seg::{self, Decision, Plug, WholeProgram};
use seg_tests::contest::table::Table;
use seg_tests::contest::{Arena, Contender, linear, primitive, tree, vector};
use seg_tests::harness;
use seg_tests::random::Random;
use seg_tests::workload::trace::{Mode, PACKETS, Trace};
use seg_tests::workload::{BYSTANDER, Packet, classbench, labels};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

fn main() -> ExitCode {
    let data = || {
        let path = classbench::path("acl1_1k");
        (!path.exists()).then(|| "needs ../shared/data/classbench".to_owned())
    };
    let with_data =
        |name: &str, run: fn() -> Result<(), Failed>| harness::unless_missing(name, data(), run);
    let in_kernel = |name: &str, run: fn() -> Result<(), Failed>| {
        harness::unless_missing(name, harness::missing_privilege().or(data()), run)
    };
    let trials = vec![
        with_data("classbench_sets_mean_what_their_policies_say", classbench_policies),
        with_data("a_multiplied_set_is_ten_times_its_seed", multiplied),
        Trial::test("label_policies_mean_what_their_rules_say", label_policies),
        Trial::test("traces_are_drawn_as_they_say", traces),
        Trial::test("tables_find_the_range_of_an_address", tables),
        in_kernel("contenders_answer_on_classbench_as_the_rules_do", on_classbench),
        harness::kernel("contenders_answer_on_labels_as_the_rules_do", on_labels),
        harness::kernel("primitives_and_trees_find_what_is_there", primitives),
        harness::kernel("a_wrong_contender_is_told", wrong),
    ];
    harness::main(trials).exit_code()
}

fn policy(files: Vec<(String, String)>) -> Result<Policy, String> {
    let mut sources = Sources::default();
    for (path, text) in files {
        sources.add(path, text);
    }
    let analysis = analyze(sources);
    let first = analysis.diagnostics.first().map(|d| d.message.clone());
    analysis.policy.ok_or_else(|| first.unwrap_or_default())
}

fn flow(packet: &Packet, [source, destination]: [Endpoint; 2]) -> Flow {
    let Packet { source_port, port, protocol, .. } = *packet;
    Flow { source, destination, protocol, port, source_port, http: None }
}

fn at(address: u32) -> Endpoint {
    Endpoint::at(IpAddr::V4(Ipv4Addr::from(address)))
}

/// Both verdicts must come, and agree.
fn agree<'p>(
    packets: impl Iterator<Item = &'p Packet>,
    allows: impl Fn(&Packet) -> bool,
    meant: impl Fn(&Packet) -> bool,
) -> Result<(), Failed> {
    let mut seen = [0; 2];
    for packet in packets {
        let verdict = allows(packet);
        if verdict != meant(packet) {
            return Err(format!("{packet:?} is {verdict}").into());
        }
        seen[usize::from(verdict)] += 1;
    }
    if seen.contains(&0) { Err(format!("one-sided: {seen:?}").into()) } else { Ok(()) }
}

/// A packet of a rule, or one that differs from it in one field.
fn near(set: &classbench::Set, random: &mut Random) -> Packet {
    let mut packet = set.packet(random);
    match random.below(8) {
        0 => packet.source ^= 1 << random.below(32),
        1 => packet.destination ^= 1 << random.below(32),
        2 if packet.protocol == 6 => packet.port ^= 1 << random.below(16),
        3 if packet.protocol == 6 => packet.source_port ^= 1 << random.below(16),
        _ => {}
    }
    packet
}

/// Some rules of a set, without one that matches everything: such a one denies in `fw4_1k`, and nothing would be left to tell apart.
fn part(name: &str, rules: std::ops::Range<usize>) -> Result<classbench::Set, String> {
    let mut set = classbench::Set::named(name)?;
    set.rules.retain(|rule| !rule.is_everything());
    Ok(classbench::Set { rules: set.rules[rules].to_vec(), ..set })
}

fn classbench_policies() -> Result<(), Failed> {
    for seed in classbench::SEEDS {
        let set = part(&format!("{seed}_1k"), 0..400)?;
        let policy = policy(set.sources()).map_err(|e| format!("{seed}: {e}"))?;
        let trace = Trace::new(Mode::Zipf, 1, |random| near(&set, random));
        let meant = |packet: &Packet| {
            let ends = [at(packet.source), at(packet.destination)];
            decide(&policy, &flow(packet, ends)).verdict == Verdict::Allow
        };
        agree(trace.flows.iter().take(400), |p| set.allows(p), meant)
            .map_err(|e| format!("{seed}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn multiplied() -> Result<(), Failed> {
    let [seed, many] = ["fw1_10k", "fw1_100k"].map(classbench::Set::named);
    let (seed, many) = (seed?, many?);
    let ratio = many.rules.len() as f64 / seed.rules.len() as f64;
    println!("{} rules of {}", many.rules.len(), seed.rules.len());
    if !(9.0..=10.0).contains(&ratio) {
        return Err(format!("{ratio} times as many").into());
    }
    if many.rules != classbench::Set::named("fw1_100k")?.rules {
        return Err("two runs gave two sets".into());
    }
    Ok(())
}

fn size(identities: usize, rules: usize) -> labels::Size {
    labels::Size { name: "small", identities, rules, addresses: 4 }
}

fn label_policies() -> Result<(), Failed> {
    for (identities, rules) in [(10, 30), (100, 100), (300, 200)] {
        let set = labels::Set::new(size(identities, rules), 7);
        let policy = policy(set.sources())?;
        let id = |name: &str| {
            let found = policy.labels.iter().position(|label| label.name == name);
            LabelId(found.expect("a label of the policy") as u32)
        };
        let [app, tier, env] = ["app", "tier", "env"].map(id);
        let end = |address: u32| {
            let identity = set.identities[set.owner(address).expect("an address of the set")];
            let labels = BTreeMap::from([
                (app, format!("a{}", identity.app)),
                (tier, ["web", "api", "db"][usize::from(identity.tier)].to_owned()),
                (env, ["prod", "stage", "dev"][usize::from(identity.env)].to_owned()),
            ]);
            Endpoint { labels: Some(labels), ..at(address) }
        };
        let trace = Trace::new(Mode::Zipf, 2, |random| set.packet(&[], random));
        let meant = |packet: &Packet| {
            let ends = [end(packet.source), end(packet.destination)];
            decide(&policy, &flow(packet, ends)).verdict == Verdict::Allow
        };
        agree(trace.flows.iter().take(1_000), |p| set.allows(p), meant)?;
    }
    Ok(())
}

fn traces() -> Result<(), Failed> {
    let draw = |random: &mut Random| Packet {
        source: random.next_u64() as u32,
        destination: random.next_u64() as u32,
        protocol: 6,
        ..Packet::default()
    };
    for mode in Mode::ALL {
        let trace = Trace::new(mode, 3, draw);
        let mut counts = BTreeMap::<u32, usize>::new();
        trace.order.iter().for_each(|flow| *counts.entry(*flow).or_default() += 1);
        let most = counts.values().max().copied().unwrap_or_default();
        let right = match mode {
            Mode::Uniform | Mode::Polluted => (PACKETS, 1..=1),
            // The first of 10,000 has a share of 1 / 9.79.
            Mode::Zipf => (counts.len(), 6_200..=7_200),
            Mode::Single => (1, PACKETS..=PACKETS),
        };
        if trace.order.len() != PACKETS || counts.len() != right.0 || !right.1.contains(&most) {
            return Err(format!("{mode:?}: {} flows, {most} of one", counts.len()).into());
        }
        if trace.order != Trace::new(mode, 3, draw).order {
            return Err("two runs gave two traces".into());
        }
    }
    Ok(())
}

fn tables() -> Result<(), Failed> {
    let mut random = Random::new(5);
    for n in [1, 10, 3_000] {
        let mut starts: Vec<u32> = (0..n)
            .map(|_| random.next_u64() as u32 & u32::MAX << random.below(32))
            .chain([0])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let ranges: Vec<(u32, u32)> = starts.iter().map(|s| (*s, s.wrapping_mul(7))).collect();
        let table = Table::new(&ranges);
        for _ in 0..20_000 {
            let near = *random.pick(&starts);
            let address = near.wrapping_add(random.below(3) as u32).wrapping_sub(1);
            let address = *random.pick(&[address, random.clone().next_u64() as u32]);
            let right = ranges[ranges.partition_point(|range| range.0 <= address) - 1].1;
            if table.get(address) != right {
                return Err(format!("{address:#x} has {}, not {right}", table.get(address)).into());
            }
        }
    }
    Ok(())
}

/// Contenders must answer a whole trace rightly.
fn answers(
    trace: &Trace,
    contenders: Vec<Contender>,
    allows: impl Fn(&Packet) -> bool,
) -> Result<(), Failed> {
    let arena = Arena::new()?;
    let right = trace.answers(allows);
    if right.passed == 0 || right.passed == PACKETS as u64 {
        return Err(format!("one-sided: {right:?}").into());
    }
    for contender in contenders {
        let name = contender.name.clone();
        let ready = arena.load(contender).map_err(|e| format!("{name}: {e}"))?;
        let given = arena.answers(&ready, trace)?;
        println!("{name}: {given:?}, {:?}, {} bytes of maps", ready.cost(), ready.memory);
        if given != right {
            return Err(format!("{name} gives {given:?}, not {right:?}").into());
        }
    }
    Ok(())
}

const SHAPES: [Shape; 2] = [Shape::Tree, Shape::Tables];

fn on_classbench() -> Result<(), Failed> {
    for seed in ["acl1", "fw2", "fw4", "ipc1"] {
        // As many as a debug build compiles in a moment, of those that deny and of the others.
        let set = part(&format!("{seed}_1k"), 20..100)?;
        let trace = Trace::new(Mode::Zipf, 4, |random| near(&set, random));
        let mut contenders = vec![linear::of_classbench(&set), vector::of_classbench(&set)?];
        for shape in SHAPES {
            let object = seg::compile(set.sources(), Some(shape))?;
            let (object, inventory, files) = (&object[..], BYSTANDER, set.sources());
            let anyone = true;
            contenders.push(WholeProgram { object, inventory, anyone }.contender()?);
            let shape = Some(shape);
            contenders.push(Decision { files, shape, object, inventory, anyone }.contender()?);
        }
        answers(&trace, contenders, |p| set.allows(p))
            .map_err(|e| format!("{seed}: {}", e.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn on_labels() -> Result<(), Failed> {
    let set = labels::Set::new(size(100, 60), 7);
    let trace = Trace::new(Mode::Zipf, 5, |random| set.packet(&[], random));
    let (entries, note) = pattern::entries(&set, &[], &trace);
    let mut contenders = vec![linear::of_labels(&set)?, vector::of_labels(&set)?];
    for ipcache in [Ipcache::Lpm, Ipcache::Hash] {
        contenders.push(pattern::of_labels(&set, &entries, note, ipcache)?);
    }
    let (files, shape, inventory) = (set.sources(), Some(Shape::Tables), &set.inventory(None)[..]);
    let object = &seg::compile(files.clone(), shape)?[..];
    let anyone = true;
    contenders.push(Decision { files, shape, object, inventory, anyone }.contender()?);
    answers(&trace, contenders, |p| set.allows(p))?;

    let local = set.busiest(1)[0];
    let trace = to_endpoint(&set, local);
    let inventory = set.inventory(Some(local));
    let mut contenders = Vec::new();
    for shape in SHAPES {
        let object = seg::compile(set.sources(), Some(shape))?;
        let (object, inventory, files) = (&object[..], &inventory[..], set.sources());
        let anyone = false;
        contenders.push(WholeProgram { object, inventory, anyone }.contender()?);
        let shape = Some(shape);
        contenders.push(Decision { files, shape, object, inventory, anyone }.contender()?);
    }
    answers(&trace, contenders, |p| set.allows(p))
}

/// Packets to one endpoint from others.
fn to_endpoint(set: &labels::Set, local: usize) -> Trace {
    Trace::new(Mode::Zipf, 6, |random| {
        loop {
            let packet = set.packet(&[local], random);
            if set.owner(packet.source) != Some(local) {
                return packet;
            }
        }
    })
}

fn primitives() -> Result<(), Failed> {
    let keys = primitive::keys(500);
    // Half of the packets are of no key.
    let draw = |random: &mut Random| {
        let mut packet = primitive::packet(&keys, random);
        packet.source ^= u32::from(random.chance(50));
        packet
    };
    let trace = Trace::new(Mode::Zipf, 8, draw);
    let lookups = vec![primitive::lookup(HASH, &keys)?, primitive::lookup(LPM_TRIE, &keys)?];
    answers(&trace, lookups, |p| keys.binary_search(&p.source).is_ok())?;
    answers(&trace, vec![tree::of_bounds(&keys)], |p| tree::answer(&keys, p.source))?;
    let (chain, words) = primitive::chain(1 << 14, 4)?;
    let follow = |at: u32| words[(at as usize) & (words.len() - 1)];
    answers(&trace, vec![chain], |p| follow(follow(follow(follow(p.source)))) & 1 == 1)
}

fn wrong() -> Result<(), Failed> {
    let keys = primitive::keys(64);
    let trace = Trace::new(Mode::Zipf, 9, |random| primitive::packet(&keys, random));
    let told =
        answers(&trace, vec![tree::of_bounds(&keys[1..])], |p| tree::answer(&keys, p.source));
    if told.is_err() { Ok(()) } else { Err("it passed for right".into()) }
}
