//! What packets get: the program as machine code, the model, and the kernel must agree.

use libtest_mimic::{Failed, Trial};
use seg_artifact::maps::{self, Reason};
use seg_compiler::lower::lower;
use seg_compiler::program::{self, Way};
use seg_compiler::tree::Tree;
use seg_tests::harness::{self, Case};
use seg_tests::model::{Verdict, packet_parser_agrees};
use seg_tests::packet::{self, Packet};
use seg_tests::random::Random;
use seg_tests::testrun::{IFINDEX, Kernel};
use seg_tests::world::{
    LAYOUT, Who, World, allowing, balanced_tree, inventory, local_interface, mutate, nets,
    random_answer, random_packet, random_tree,
};
use std::collections::BTreeMap;

fn main() {
    let mut trials = harness::cases("packet", "txt", case);
    trials.extend([
        Trial::test("machine_code_and_model_agree_on_random_frames", random_frames),
        Trial::test("machine_code_and_model_agree_on_noise", noise),
        harness::kernel("the_kernel_agrees_on_random_frames", kernel),
        harness::kernel("the_verifier_accepts_large_trees", large),
        harness::kernel("the_kernel_agrees_on_cases", kernel_cases),
    ]);
    harness::main(trials).exit();
}

/// A line of a case: `out DESCRIPTION => OUTCOME`, `in …`, or `wait SECONDS`; `#` begins a comment.
///
/// DESCRIPTION is as [`packet::parse`] reads it, or `hex BYTES`; before it may stand `keep=BYTES` to cut the frame,
/// `set=OFFSET:BYTES` to overwrite some of it, and `linear=BYTES` to leave the rest to be pulled.
enum Line {
    Wait(u64),
    Frame { way: Way, frame: Vec<u8>, linear: usize, outcome: String },
}

fn line(text: &str) -> Result<Option<Line>, String> {
    let text = text.split('#').next().unwrap_or_default().trim();
    let (direction, rest) = match text.split_once(' ') {
        None if text.is_empty() => return Ok(None),
        None => return Err(format!("`{text}` is no step")),
        Some(("wait", seconds)) => {
            return Ok(Some(Line::Wait(seconds.trim().parse().map_err(|e| format!("{e}"))?)));
        }
        Some(parts) => parts,
    };
    let way = match direction {
        "out" => Way::Outbound,
        "in" => Way::Inbound,
        _ => return Err(format!("`{direction}` is neither `out`, `in` nor `wait`")),
    };
    let (mut rest, outcome) = rest.split_once("=>").ok_or("no outcome")?;
    let (mut edits, mut frame) = (Vec::new(), Vec::new());
    loop {
        rest = rest.trim();
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        match word.split_once('=') {
            Some(edit) => edits.push(edit),
            None if word == "hex" => frame = bytes(behind)?,
            None => frame = packet::parse(rest)?.frame(),
        }
        if !word.contains('=') {
            break;
        }
        rest = behind;
    }
    let mut linear = usize::MAX;
    for (edit, value) in edits {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        match edit {
            "keep" => frame.truncate(number(value)?),
            "linear" => linear = number(value)?,
            "set" => {
                let (offset, value) = value.split_once(':').ok_or("`set` needs an offset")?;
                let (offset, value) = (number(offset)?, bytes(value)?);
                let place = frame.get_mut(offset..offset + value.len());
                place.ok_or("`set` beyond the frame")?.copy_from_slice(&value);
            }
            _ => return Err(format!("`{edit}` is no edit")),
        }
    }
    let linear = linear.min(frame.len());
    Ok(Some(Line::Frame { way, frame, linear, outcome: outcome.trim().to_owned() }))
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.split_whitespace().collect();
    let pair = |i| u8::from_str_radix(digits.get(i..i + 2).unwrap_or("?"), 16);
    (0..digits.len()).step_by(2).map(|i| pair(i).map_err(|e| format!("`{text}`: {e}"))).collect()
}

/// What policy says in all cases, both ways: rules 0, 1, and so on.
fn case_trees() -> [Vec<Tree>; 2] {
    let tree = allowing(&[(6, 80), (17, 53), (132, 9), (1, 8), (58, 128), (47, 0)]);
    [vec![tree.clone()], vec![tree]]
}

fn word(verdict: Verdict) -> String {
    let way = if verdict.allow { "pass" } else { "drop" };
    match verdict.counter.checked_sub(maps::RULE_COUNTERS) {
        Some(rule) => format!("{way} rule {rule}"),
        None => format!("{way} {}", Reason::ALL[verdict.counter as usize].name()),
    }
}

/// The outcome stands in the case, by hand; the expectation adds the bytes.
fn case(case: &Case) -> Result<String, String> {
    let mut world = World::new(case_trees());
    let mut output = String::new();
    for (i, text) in case.text.lines().enumerate() {
        let at = |e: String| format!("line {}: {e}", i + 1);
        match line(text).map_err(at)? {
            None => {}
            Some(Line::Wait(seconds)) => world.wait(seconds * 1_000_000_000),
            Some(Line::Frame { way, frame, linear, outcome }) => {
                let verdict = world.judge(way, IFINDEX, &frame, linear).map_err(at)?;
                if word(verdict) != outcome {
                    return Err(at(format!("{}, not {outcome}", word(verdict))));
                }
                let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
                output += &format!("{outcome}: {hex}\n");
            }
        }
    }
    Ok(output)
}

/// The cases without waiting, in the kernel.
fn kernel_cases() -> Result<(), Failed> {
    let folder = harness::root().join("tests/data/packet");
    let mut n_frames = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        if path.extension().is_none_or(|e| e != "txt") || text.contains("\nwait ") {
            continue;
        }
        let kernel = load(&World::new(case_trees()))?;
        for text in text.lines() {
            let Some(Line::Frame { way, frame, outcome, .. }) = line(text)? else { continue };
            if kernel_takes(&frame) {
                let action =
                    kernel.run(way as usize, &frame).map_err(|e| format!("{text}: {e}"))?;
                if (action == program::PASS) != outcome.starts_with("pass") {
                    return Err(format!("{text}: the kernel returns {action}").into());
                }
                n_frames += 1;
            }
        }
    }
    println!("{n_frames} frames");
    if n_frames < 50 { Err("too few cases".into()) } else { Ok(()) }
}

/// Worlds, each with its own trees, and frames in each.
const WORLDS: usize = 80;
const FRAMES: usize = 1_000;

fn seed() -> u64 {
    let given = std::env::var("SEG_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or(0x5e6)
}

/// A step of a random history: time, and a frame.
struct Step {
    wait_ns: u64,
    way: Way,
    ifindex: u32,
    frame: Vec<u8>,
    linear: usize,
}

struct History {
    random: Random,
    sent: Vec<Packet>,
}

impl History {
    fn step(&mut self) -> Step {
        let random = &mut self.random;
        let second = 1_000_000_000;
        let wait_ns = match random.below(40) {
            0 => second,
            1 => 180 * second,
            2 => 181 * second,
            3 if random.below(10) == 0 => 4 * 3600 * second,
            n if n < 12 => random.next_u64() % (2 * second),
            _ => 0,
        };
        let packet = match self.sent.len() {
            n if n > 0 && random.below(3) != 0 => {
                let recent = n - 1 - random.below(n.min(20));
                let earlier = self.sent[recent].clone();
                if random.below(4) == 0 { earlier } else { random_answer(random, &earlier) }
            }
            _ => random_packet(random),
        };
        let mut frame = packet.frame();
        if random.below(2) == 0 {
            mutate(random, &mut frame);
        }
        let linear = if random.below(2) == 0 { frame.len() } else { random.below(frame.len() + 1) };
        let mut at = (*random.pick(&[Way::Outbound, Way::Inbound]), *random.pick(&[1, 3, 9]));
        if random.below(4) != 0 {
            let [from, to] = [packet.source, packet.destination].map(local_interface);
            let right = from.map(|n| (Way::Outbound, n)).or(to.map(|n| (Way::Inbound, n)));
            at = right.unwrap_or(at);
        }
        self.sent.push(packet);
        Step { wait_ns, way: at.0, ifindex: at.1, frame, linear }
    }
}

fn random_frames() -> Result<(), Failed> {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    for _ in 0..WORLDS {
        let mut world = World::new(random_trees(&mut random));
        let mut history = History { random: Random::new(random.next_u64()), sent: Vec::new() };
        for _ in 0..FRAMES {
            let step = history.step();
            world.wait(step.wait_ns);
            world.ingress = *random.pick(&[0, 1]);
            let verdict =
                world.judge(step.way, step.ifindex, &step.frame, step.linear).map_err(|e| {
                    format!("SEG_SEED={seed}: {e}\n{} of {:02x?}", step.linear, step.frame)
                })?;
            *seen.entry(verdict.counter).or_default() += 1;
        }
    }
    all_reasons(&seen)
}

/// One tree each way, or up to three in sequence.
fn random_trees(random: &mut Random) -> [Vec<Tree>; 2] {
    [(); 2].map(|()| {
        let n = 1 + random.below(3);
        let size = 10 + random.below(120);
        (0..n).map(|_| random_tree(random, size)).collect()
    })
}

/// Fails if the frames did not try everything.
fn all_reasons(seen: &BTreeMap<u32, usize>) -> Result<(), Failed> {
    for reason in Reason::ALL {
        let n = seen.get(&reason.counter()).copied().unwrap_or(0);
        println!("{:>20} {n}", reason.name());
        if n < 20 {
            return Err(format!("only {n} frames ended with `{}`: {seen:?}", reason.name()).into());
        }
    }
    Ok(())
}

fn noise() -> Result<(), Failed> {
    let mut random = Random::new(seed());
    for _ in 0..5_000 {
        let mut data = vec![random.next_u64() as u8];
        if random.below(2) == 0 {
            data.extend(random_packet(&mut random).frame());
            for _ in 0..random.below(6) {
                mutate(&mut random, &mut data);
            }
        } else {
            data.extend((0..random.below(120)).map(|_| random.next_u64() as u8));
        }
        packet_parser_agrees(&data);
    }
    Ok(())
}

/// Programs of a world, in the kernel.
fn load(world: &World) -> Result<Kernel, String> {
    let programs =
        world.functions().map(|function| lower(&function, "packet").map_err(|e| e.to_string()));
    let [outbound, inbound] = programs;
    let mut kernel = Kernel::new(&[outbound?, inbound?], LAYOUT.n_values(), &[])?;
    kernel.set_nets(&nets())?;
    for known in inventory() {
        kernel.set_ident(known.ident, &known.about);
        match known.who {
            Who::Has(address) => kernel.set_address(address, known.ident)?,
            Who::Behind(ifindex, net) => {
                kernel.set_local(ifindex, net, known.ident).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(kernel)
}

/// `BPF_PROG_TEST_RUN` refuses frames that are too short for their Ethernet type before any program sees them.
fn kernel_takes(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        Some(_) => 14,
        None => return false,
    };
    frame.len() >= least
}

fn kernel() -> Result<(), Failed> {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed ^ 1);
    let (mut n_native_only, mut seen) = (0, BTreeMap::<u32, usize>::new());
    for _ in 0..WORLDS / 2 {
        let mut world = World::new(random_trees(&mut random));
        let kernel = load(&world)?;
        let mut history = History { random: Random::new(random.next_u64()), sent: Vec::new() };
        let mut counted = BTreeMap::<u32, [u64; 2]>::new();
        for _ in 0..FRAMES {
            // Time passes by itself there, and test runs come in on one interface.
            let Step { way, frame, .. } = history.step();
            if !kernel_takes(&frame) {
                n_native_only += 1;
                continue;
            }
            let verdict = world.judge(way, IFINDEX, &frame, frame.len())?;
            let context = || format!("SEG_SEED={seed}: {way:?} {verdict:?}\n{frame:02x?}");
            let action =
                kernel.run(way as usize, &frame).map_err(|e| format!("{e}: {}", context()))?;
            let total = counted.entry(verdict.counter).or_default();
            *total = [total[0] + 1, total[1] + frame.len() as u64];
            let moved = kernel.counter(verdict.counter)?;
            if action != verdict.action() || moved != *total {
                return Err(format!(
                    "the kernel returns {action}, counts {moved:?}: {}",
                    context()
                )
                .into());
            }
            *seen.entry(verdict.counter).or_default() += 1;
        }
        for counter in 0..64 {
            let right = counted.get(&counter).copied().unwrap_or_default();
            let moved = kernel.counter(counter)?;
            if moved != right {
                return Err(format!("counter {counter} says {moved:?}, not {right:?}").into());
            }
        }
    }
    println!("{n_native_only} frames for machine code only; by counter {seen:?}");
    all_reasons(&seen)
}

fn large() -> Result<(), Failed> {
    let mut random = Random::new(seed());
    for size in [300, 3_000, 20_000] {
        let trees = [(); 2].map(|()| vec![random_tree(&mut random, size)]);
        load(&World::new(trees))?;
    }
    load(&World::new([(); 2].map(|()| vec![balanced_tree()])))?;
    Ok(())
}
