//! Who is measured on what.

use super::Options;
use super::report::{Group, Report, Row, round};
use seg_compiler::decided::Shape;
use seg_tests::bpf::{HASH, LPM_TRIE};
use seg_tests::contest::pattern::{self, Ipcache};
use seg_tests::contest::seg::{Decision, Plug, WholeProgram};
use seg_tests::contest::{Arena, Contender, Ready, linear, primitive, timed, vector};
use seg_tests::workload::trace::{Mode, PACKETS, Trace};
use seg_tests::workload::{BYSTANDER, Packet, classbench, labels};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// First argument of the bench as a compiler.
pub(crate) const COMPILE: &str = "--compile";
/// Most time a policy may take to compile.
const COMPILE_MAX: Duration = Duration::from_secs(120);
/// Most memory the compiler may take. Unit: bytes.
const COMPILE_BYTES_MAX: u64 = 6 << 30;
/// Endpoints of a host.
const LOCAL: usize = 30;
/// Everything is drawn from it.
const SEED: u64 = 0x5e6;

/// Measures every set that is asked for.
pub(crate) fn run(arena: &Arena, options: &Options, report: &mut Report) -> Result<(), String> {
    println!("{} rounds, contenders in turn, one processor, {PACKETS} packets", options.n_rounds);
    for name in &options.sets {
        let size = |name: &str| labels::SIZES.into_iter().find(|size| size.name == name);
        match (name.as_str(), name.strip_prefix("host-").map(size), size(name)) {
            ("primitives", ..) => primitives(arena, options, report)?,
            (_, Some(Some(size)), _) => {
                let set = labels::Set::new(size, SEED);
                let host = set.host(LOCAL, SEED);
                let title = format!("{name}: {LOCAL} endpoints on one host");
                on_labels(arena, options, report, &set, &title, &host)?;
            }
            (_, None, Some(size)) => {
                let set = labels::Set::new(size, SEED);
                on_labels(arena, options, report, &set, &format!("{name}: anyone to anyone"), &[])?;
                one_endpoint(arena, options, report, &set, name)?;
            }
            _ if !classbench::path(&name.replace("_100k", "_10k")).exists() => {
                println!("\n{name}: skipped: not in ../shared/data/classbench");
            }
            _ => on_classbench(arena, options, report, &classbench::Set::named(name)?)?,
        }
    }
    Ok(())
}

/// Contenders, as far as they came.
#[derive(Default)]
struct Line {
    ready: Vec<Ready>,
    absent: Vec<(String, String)>,
}

impl Line {
    fn add(&mut self, arena: &Arena, name: &str, contender: Result<Contender, String>) {
        match contender.and_then(|contender| arena.load(contender)) {
            Ok(ready) => self.ready.push(ready),
            Err(reason) => self.absent.push((name.to_owned(), reason)),
        }
    }
}

/// Measures a line over the traces of all modes and reports it.
fn measure(
    arena: &Arena,
    options: &Options,
    report: &mut Report,
    (title, mut facts): (String, Vec<(&'static str, Value)>),
    line: Line,
    trace: impl Fn(Mode) -> Trace,
    allows: impl Fn(&Packet) -> bool,
) -> Result<(), String> {
    let mut rows: Vec<Row> = line
        .ready
        .iter()
        .map(|ready| Row {
            name: ready.contender.name.clone(),
            note: ready.contender.note.clone(),
            cost: ready.cost(),
            memory: ready.memory,
            times: BTreeMap::new(),
        })
        .collect();
    let mut known = None;
    for &mode in &options.modes {
        // A polluted trace is the uniform one.
        let trace = trace(mode);
        let right = match (mode, known) {
            (Mode::Polluted, Some(right)) => right,
            _ => trace.answers(&allows),
        };
        if mode == Mode::Uniform {
            known = Some(right);
            facts.push((
                "passed",
                json!(format!("{:.0} %", right.passed as f64 / PACKETS as f64 * 100.0)),
            ));
        }
        let times = arena.measure(mode, &trace, right, &line.ready, options.n_rounds)?;
        for (row, times) in rows.iter_mut().zip(times) {
            row.times.insert(mode, times);
        }
    }
    report.add(Group { title, facts, rows, absent: line.absent });
    Ok(())
}

fn on_classbench(
    arena: &Arena,
    options: &Options,
    report: &mut Report,
    set: &classbench::Set,
) -> Result<(), String> {
    let trace = |mode| Trace::new(mode, SEED, |random| set.packet(random));
    let mut line = Line::default();
    let mut facts = vec![("rules", json!(set.rules.len()))];
    let asked = (BYSTANDER, Asked::Addresses);
    facts.extend(seg(arena, options.shape, set.sources(), asked, &mut line));
    line.add(arena, "Linear Bit Vector (emulation)", vector::of_classbench(set));
    let n = largest(arena, set.rules.len(), |n| Ok(linear::of_classbench(&set.sample(n))))?;
    facts.push(("linear code loads up to rules", json!(n)));
    if n == set.rules.len() {
        line.add(arena, "linear code", Ok(linear::of_classbench(set)));
    }
    let title = set.name.clone();
    measure(arena, options, report, (title, facts), line, trace, |p| set.allows(p))?;
    if n < set.rules.len() {
        let name = format!("{}, of its rules as many as linear code loads", set.name);
        let part = classbench::Set { name, ..set.sample(n) };
        on_classbench(arena, options, report, &part)?;
    }
    Ok(())
}

/// Which forms of Seg can take part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Both, about flows to whom no endpoint is.
    Addresses,
    /// Both, about flows to the local endpoint.
    Local,
    /// The decision, about flows to anyone.
    Anyone,
}

/// Adds Seg, and says what compiling took.
fn seg(
    arena: &Arena,
    shape: Option<Shape>,
    files: Vec<(String, String)>,
    (inventory, asked): (&str, Asked),
    line: &mut Line,
) -> Vec<(&'static str, Value)> {
    let built = match compiled(&files, shape) {
        Ok(object) => object,
        Err(reason) => {
            line.absent.push(("seg".to_owned(), reason));
            return Vec::new();
        }
    };
    let (object, anyone) = (&built.bytes[..], asked != Asked::Local);
    let decision = Decision { files, shape, object, inventory, anyone }.contender();
    line.add(arena, "seg, decision alone", decision);
    if asked != Asked::Anyone {
        let whole = WholeProgram { object, inventory, anyone }.contender();
        line.add(arena, "seg, whole program", whole);
    }
    built.facts().to_vec()
}

/// Rules of a step in the search for what loads.
const STEP: usize = 64;

/// The most of `n` rules whose program loads.
fn largest(
    arena: &Arena,
    n: usize,
    contender: impl Fn(usize) -> Result<Contender, String>,
) -> Result<usize, String> {
    let loads = |n: usize| Ok::<bool, String>(arena.load(contender(n)?).is_ok());
    // The verifier has 8,192 branches pending at most, and a rule leaves at least one.
    let mut refused = n + 1;
    if n <= 8_192 && loads(n)? {
        return Ok(n);
    }
    refused = refused.min(8_193);
    let mut loaded = 0;
    while refused - loaded > STEP {
        let middle = loaded + (refused - loaded) / 2;
        if loads(middle)? { loaded = middle } else { refused = middle }
    }
    Ok(loaded)
}

/// Anyone to anyone, or to the endpoints of a host.
fn on_labels(
    arena: &Arena,
    options: &Options,
    report: &mut Report,
    set: &labels::Set,
    title: &str,
    host: &[usize],
) -> Result<(), String> {
    let trace = |mode| Trace::new(mode, SEED, |random| set.packet(host, random));
    let mut line = Line::default();
    let mut facts =
        vec![("identities", json!(set.identities.len())), ("rules", json!(set.rules.len()))];
    // By comparisons each endpoint has a program of its own, and none decides about all.
    let shape = options.shape.or(Some(Shape::Tables));
    let asked = (&set.inventory(None)[..], Asked::Anyone);
    facts.extend(seg(arena, shape, set.sources(), asked, &mut line));
    let n = peers(arena, set, host, &trace(Mode::Uniform), &mut line, &mut facts)?;
    let head = (title.to_owned(), facts);
    measure(arena, options, report, head, line, trace, |p| set.allows(p))?;
    if host.is_empty() && n < set.rules.len() {
        let title = format!("{title}, of its rules as many as linear code loads");
        on_labels(arena, options, report, &set.sample(n), &title, host)?;
    }
    Ok(())
}

/// Adds the peers; where it is about some identities, with the rules about what these receive. Tells how many rules linear code loads.
fn peers(
    arena: &Arena,
    set: &labels::Set,
    to: &[usize],
    trace: &Trace,
    line: &mut Line,
    facts: &mut Vec<(&'static str, Value)>,
) -> Result<usize, String> {
    let told = |e: std::io::Error| e.to_string();
    let (entries, note) = pattern::entries(set, to, trace);
    facts.push(("policy entries", json!(entries.len())));
    for ipcache in [Ipcache::Lpm, Ipcache::Hash] {
        let contender = pattern::of_labels(set, &entries, note, ipcache).map_err(told);
        line.add(arena, "Cilium pattern (emulation)", contender);
    }
    let part = (!to.is_empty()).then(|| set.only_to(to));
    let set = part.as_ref().unwrap_or(set);
    facts.extend(part.as_ref().map(|part| ("rules about them", json!(part.rules.len()))));
    line.add(arena, "Linear Bit Vector (emulation)", vector::of_labels(set));
    let linear = |n| linear::of_labels(&set.sample(n)).map_err(told);
    let n = largest(arena, set.rules.len(), linear)?;
    facts.push(("linear code loads up to rules", json!(n)));
    if n == set.rules.len() {
        line.add(arena, "linear code", linear(n));
    }
    Ok(n)
}

/// From anyone to one endpoint, the one with most rules.
fn one_endpoint(
    arena: &Arena,
    options: &Options,
    report: &mut Report,
    set: &labels::Set,
    name: &str,
) -> Result<(), String> {
    let local = set.busiest(1)[0];
    let trace = |mode| {
        Trace::new(mode, SEED, |random| {
            loop {
                let packet = set.packet(&[local], random);
                if set.owner(packet.source) != Some(local) {
                    return packet;
                }
            }
        })
    };
    let mut facts = vec![("rules", json!(set.rules.len()))];
    let mut line = Line::default();
    let asked = (&set.inventory(Some(local))[..], Asked::Local);
    facts.extend(seg(arena, options.shape, set.sources(), asked, &mut line));
    peers(arena, set, &[local], &trace(Mode::Uniform), &mut line, &mut facts)?;
    let title = format!("{name}: anyone to its busiest endpoint");
    measure(arena, options, report, (title, facts), line, trace, |p| set.allows(p))
}

fn primitives(arena: &Arena, options: &Options, report: &mut Report) -> Result<(), String> {
    for n in [1_000, 10_000, 65_000, 500_000] {
        let keys = primitive::keys(n);
        let mut line = Line::default();
        for (kind, name) in [(LPM_TRIE, "LPM_TRIE lookup"), (HASH, "hash lookup")] {
            let lookup = primitive::lookup(kind, &keys).map_err(|e| e.to_string());
            line.add(arena, name, lookup);
        }
        let trace = |mode| Trace::new(mode, SEED, |random| primitive::packet(&keys, random));
        let facts = vec![("entries", json!(n))];
        measure(arena, options, report, ("primitives".to_owned(), facts), line, trace, |_| true)?;
    }
    Ok(())
}

/// A compiled policy.
struct Object {
    bytes: Vec<u8>,
    time: Duration,
    /// Most memory of the compiler. Unit: bytes.
    peak: u64,
}

impl Object {
    fn facts(&self) -> [(&'static str, Value); 3] {
        [
            ("compile s", json!(round(self.time.as_secs_f64()))),
            ("compile MB", json!(self.peak >> 20)),
            ("object KB", json!(self.bytes.len() >> 10)),
        ]
    }
}

/// The way to decide of this name.
pub(crate) fn shape(text: &str) -> Option<Shape> {
    [Shape::Tree, Shape::Tables].into_iter().find(|shape| name(*shape) == text)
}

fn name(shape: Shape) -> &'static str {
    match shape {
        Shape::Tree => "tree",
        Shape::Tables => "tables",
    }
}

/// Path and text of the sources in a folder, by path.
pub(crate) fn files(folder: &str) -> std::io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, std::fs::read_to_string(&path)?));
    }
    files.sort();
    Ok(files)
}

/// Compiles a policy in a process of its own.
fn compiled(sources: &[(String, String)], shape: Option<Shape>) -> Result<Object, String> {
    let told = |e: std::io::Error| e.to_string();
    let folder = tempfile::tempdir().map_err(told)?;
    for (name, text) in sources {
        std::fs::write(folder.path().join(name), text).map_err(told)?;
    }
    let object = folder.path().join("policy.bpf.o");
    let (ended, time) = timed(|| -> Result<_, String> {
        let mut child = Command::new("prlimit")
            .arg(format!("--as={COMPILE_BYTES_MAX}"))
            .arg(std::env::current_exe().map_err(told)?)
            .arg(COMPILE)
            .args([folder.path(), &object])
            .arg(shape.map_or("cheaper", name))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(told)?;
        let start = Instant::now();
        let mut peak = 0;
        while child.try_wait().map_err(told)?.is_none() {
            peak = memory(child.id()).max(peak);
            if start.elapsed() > COMPILE_MAX {
                child.kill().and_then(|()| child.wait()).map_err(told)?;
                return Err(format!("not compiled in {} s", COMPILE_MAX.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok((child.wait_with_output().map_err(told)?, peak))
    });
    let (output, peak) = ended?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default();
        let signal = output.status.signal().map(|n| format!("signal {n} "));
        return Err(format!("{}{said}", signal.unwrap_or_default()));
    }
    let bytes = std::fs::read(object).map_err(told)?;
    Ok(Object { bytes, time, peak })
}

/// Most memory a process has had. Unit: bytes.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
