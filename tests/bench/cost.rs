//! What a policy costs before and beside the packets:
//! `cargo bench -p seg-tests --bench cost [-- --quick] [--runs N] [--json FILE] [compile] [load] [churn] [swap]`.
//!
//! - *compile*: `segc build` as a process of its own, on label policies.
//! - *load*: object and endpoints to loaded programs, filled maps and attached links.
//! - *churn*: an endpoint comes or changes under traffic that its policy begins to allow; from the call to the first packet that
//!   arrives.
//! - *swap*: one policy in place of another under traffic between thirty endpoints. Each packet is of a kind that the old policy
//!   allows, the new one, both, or neither; counters and arrivals must say that at every hook exactly one of them judged it.
//!   A swap that lets go of the old policy first must be seen to be wrong.

use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use aya::programs::SchedClassifier;
use object::{Object, ObjectSymbol, SymbolKind};
use seg_artifact::manifest::Manifest;
use seg_artifact::maps::{self, Reason, Store};
use seg_compiler::decided::Config;
use seg_compiler::pipeline;
use seg_runtime::apply;
use seg_runtime::endpoints::{self, Endpoint};
use seg_runtime::idents::Network;
use seg_runtime::inventory::{self, Record};
use seg_runtime::kernel::linux::Linux;
use seg_runtime::kernel::{Count, Features, Hook, Kernel, KernelError, Link, Namespace};
use seg_runtime::live::Live;
use seg_runtime::plan::{self, Plan, Seen};
use seg_runtime::refusal::Refusal;
use seg_tests::measure::{self, Spread, interrupted};
use seg_tests::net::{self, Net};
use seg_tests::random::Random;
use seg_tests::tools::binaries;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Rules of the policies that are compiled; those of the one that is loaded, and swapped, beside the probes.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const LOADED: usize = 300;
/// Most a build may take: wall time and memory. Unit: rules, seconds; bytes.
const BARS: [(usize, f64); 3] = [(1_000, 0.3), (10_000, 3.0), (100_000, 60.0)];
const MEMORY_BAR: u64 = 3 << 30;
/// What ends a build that does not end. Unit: seconds of CPU; bytes.
const BUILD_S: u64 = 300;
const BUILD_BYTES: u64 = 12 << 30;
/// Time of a round of 120 probes and 30 replies: at two milliseconds 75,000 packets a second, each judged twice.
const ROUND: Duration = Duration::from_millis(2);
/// Traffic before and after a swap.
const AROUND: Duration = Duration::from_millis(50);
/// Most an endpoint may wait for effect. Unit: milliseconds.
const CHURN_BAR_MS: f64 = 1.0;
/// When a change that has no effect is called lost.
const CHURN_MAX: Duration = Duration::from_secs(2);
/// Most a swap may take. Unit: milliseconds.
const SWAP_BAR_MS: f64 = 200.0;
const RUNS: usize = 11;

/// Endpoints of the node, and peers elsewhere whose addresses it knows.
const ENDPOINTS: usize = 30;
const PEERS: usize = 5_000;

const TIERS: [&str; 3] = ["web", "api", "db"];
const ENVS: [&str; 3] = ["prod", "staging", "dev"];

/// A package of `n` label rules: so many do not fit into one file.
fn package(path: &Path, n: usize) -> std::io::Result<()> {
    std::fs::create_dir(path)?;
    std::fs::write(path.join("seg.toml"), "name = \"cost\"\nedition = \"2026\"\n")?;
    std::fs::write(path.join("labels.seg"), "label app\nlabel tier\nlabel env\n")?;
    for (nth, rules) in label_rules(n).chunks(10_000).enumerate() {
        let text = format!("import labels\npolicy cost-{nth} {{\n{}}}\n", rules.concat());
        std::fs::write(path.join(format!("cost-{nth}.seg")), text)?;
    }
    Ok(())
}

/// A label policy of `n` rules over `n / 10` applications, each in three tiers and environments.
fn label_rules(n: usize) -> Vec<String> {
    let mut random = Random::new(1);
    let rule = |_| {
        let (app, other) = (random.below(n.div_ceil(10)), random.below(n.div_ceil(10)));
        let (tier, to) = (*random.pick(&TIERS), *random.pick(&TIERS));
        let env = *random.pick(&ENVS);
        let ports: BTreeSet<usize> =
            (0..=random.below(3)).map(|_| 8_000 + random.below(80)).collect();
        let ports: Vec<String> = ports.iter().map(usize::to_string).collect();
        let flow = match random.below(100) {
            0..55 => format!(
                "allow app:a{app} & tier:{tier} & env:{env} -> app:a{other} & tier:{to} & env:{env}"
            ),
            55..75 => format!("allow app:a{app} -> app:a{other} & tier:{to}"),
            75..85 => format!("allow app:a{app} -> app:a{app}"),
            85..92 => format!("allow app:a{app} -> env:{env}"),
            92..96 => format!("allow env:{env} -> app:a{app}"),
            _ => format!("deny app:a{app} & env:{env} -> app:a{other} & tier:{to}"),
        };
        format!("    {flow} on tcp/{{ {} }}\n", ports.join(", "))
    };
    (0..n).map(rule).collect()
}

/// Probes of [`Kind`] `i` go to port `PROBE_PORT + i`, and rule `i` decides them.
fn policy(allowed: [Kind; 2], n_rules: usize) -> String {
    let mut text = "label app\nlabel tier\nlabel env\npolicy cost {\n".to_owned();
    for kind in Kind::ALL {
        let verb = if allowed.contains(&kind) { "allow" } else { "deny" };
        let port = PROBE_PORT + kind as u16;
        let _ = writeln!(text, "    {verb} managed -> managed on udp/{port}");
    }
    text + &label_rules(n_rules).concat() + "}\n"
}

const OLD: [Kind; 2] = [Kind::Old, Kind::Both];
const NEW: [Kind; 2] = [Kind::New, Kind::Both];
const PROBE_PORT: u16 = 20_000;

/// Which policy allows a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Old,
    New,
    Both,
    Neither,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Old, Self::New, Self::Both, Self::Neither];
}

struct Options {
    parts: Vec<String>,
    runs: usize,
    quick: bool,
    json: Option<String>,
}

fn options() -> Option<Options> {
    let mut options = Options { parts: vec![], runs: RUNS, quick: false, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What `cargo bench` adds.
            "--bench" => {}
            "--quick" => (options.quick, options.runs) = (true, 3),
            "--runs" => options.runs = arguments.next()?.parse().ok().filter(|n| *n > 0)?,
            "--json" => options.json = Some(arguments.next()?),
            "compile" | "load" | "churn" | "swap" => options.parts.push(argument),
            _ => return None,
        }
    }
    if options.parts.is_empty() {
        options.parts = ["compile", "load", "churn", "swap"].map(str::to_owned).into();
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: cost [--quick] [--runs N] [--json FILE] [compile] [load] [churn] [swap]");
        return ExitCode::from(2);
    };
    measure::catch_interrupts();
    measure::raise_descriptors();
    let mut found = json!({ "version": 1, "runs": options.runs });
    let mut failed = false;
    for part in &options.parts {
        let run = match (part.as_str(), seg_tests::harness::missing_privilege()) {
            ("compile", _) => compile(&options),
            (_, Some(reason)) => {
                println!("skipped {part}: {reason}");
                continue;
            }
            ("load", None) => load(&options),
            ("churn", None) => churn(&options),
            _ => swap(&options),
        };
        match run {
            Ok(value) => found[part] = value,
            Err(reason) => {
                eprintln!("{part}: {reason}");
                failed = true;
            }
        }
    }
    if let Some(file) = &options.json
        && let Err(error) = std::fs::write(file, format!("{found:#}\n"))
    {
        eprintln!("{file}: {error}");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

// Compile.

struct Built {
    wall: f64,
    cpu: f64,
    /// Unit: bytes.
    memory: u64,
    /// What it said, if it did not build.
    refused: Option<String>,
}

/// Runs `segc build` and asks the kernel what that took.
fn build(source: &Path, object: &Path) -> Result<Built, String> {
    let mut command = Command::new(binaries().join("segc"));
    command.arg("build").arg(source).arg("-o").arg(object);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let limit = |resource, most| {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the limit outlives the call.
        match unsafe { libc::setrlimit(resource, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let limits = move || {
        limit(libc::RLIMIT_CPU, BUILD_S)?;
        limit(libc::RLIMIT_AS, BUILD_BYTES)
    };
    // SAFETY: between fork and exec only setrlimit is called, which is a system call on numbers.
    unsafe { command.pre_exec(limits) };
    let begun = Instant::now();
    let mut child = command.spawn().map_err(text)?;
    let mut said = String::new();
    let read = child.stderr.take().map(|mut s| std::io::Read::read_to_string(&mut s, &mut said));
    read.transpose().map_err(text)?;
    let pid = libc::pid_t::try_from(child.id()).map_err(text)?;
    let mut status = 0;
    // SAFETY: the usage is plain numbers, all of which may be zero.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call; the child is ours and nobody else waits for it.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        return Err(text(std::io::Error::last_os_error()));
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let first = said.lines().next().unwrap_or("it was ended").to_owned();
    Ok(Built {
        wall: begun.elapsed().as_secs_f64(),
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: usage.ru_maxrss.unsigned_abs() << 10,
        refused: (status != 0).then_some(first),
    })
}

fn compile(options: &Options) -> Result<Value, String> {
    println!("compile: `segc build` of label policies, median (least..most)");
    println!(
        "{:>8} {:>20} {:>20} {:>8} {:>10} {:>9} {:>9} {:>9}  bar",
        "rules", "wall s", "CPU s", "MB", "object B", "programs", "largest", "verified"
    );
    let (mut values, files) = (vec![], tempfile::tempdir().map_err(text)?);
    let object = files.path().join("cost.bpf.o");
    for (n, bar) in BARS.iter().filter(|(n, _)| !options.quick || *n == SIZES[0]) {
        let source = files.path().join(n.to_string());
        package(&source, *n).map_err(text)?;
        let (mut walls, mut cpus, mut memory, mut refused) = (vec![], vec![], 0, None);
        // Large builds vary little, and would take the time of everything else.
        for _ in 0..if *n > SIZES[0] { 3.min(options.runs) } else { options.runs } {
            interrupted()?;
            let built = build(&source, &object)?;
            walls.push(built.wall);
            cpus.push(built.cpu);
            memory = memory.max(built.memory);
            refused = built.refused;
            if refused.is_some() {
                break;
            }
        }
        let (wall, cpu) = (Spread::of(&walls), Spread::of(&cpus));
        let mut value = json!({
            "rules": n, "wall_s": wall.json(), "cpu_s": cpu.json(), "memory_bytes": memory, "bar_s": bar,
        });
        print!(
            "{n:8} {:>20} {:>20} {:8.0}",
            wall.to_string(),
            cpu.to_string(),
            memory as f64 / 1e6
        );
        if let Some(reason) = refused {
            println!("  REFUSED: {reason}");
            value["refused"] = json!(reason);
        } else {
            let bytes = std::fs::read(&object).map_err(text)?;
            let programs = programs(&bytes)?;
            let (largest, name) = programs.iter().max().ok_or("an object without programs")?;
            let verified = verified(&bytes, name);
            let shown = verified.as_ref().map_or("-".to_owned(), u32::to_string);
            let met = wall.median <= *bar && memory <= MEMORY_BAR;
            println!(
                " {:10} {:9} {largest:9} {shown:>9}  {bar} s: {}",
                bytes.len(),
                programs.len(),
                if met { "met" } else { "MISSED" }
            );
            if let Err(reason) = &verified {
                println!("  largest program not verified: {reason}");
            }
            value["object_bytes"] = json!(bytes.len());
            value["programs"] = json!(programs.len());
            value["largest_insns"] = json!(largest);
            value["largest_verified_insns"] = json!(verified.ok());
        }
        values.push(value);
    }
    Ok(json!(values))
}

/// Instructions and name of every program of an object.
fn programs(bytes: &[u8]) -> Result<Vec<(u64, String)>, String> {
    let file = object::File::parse(bytes).map_err(text)?;
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    functions.map(|f| Ok((f.size() / 8, f.name().map_err(text)?.to_owned()))).collect()
}

/// How many instructions the kernel followed to verify a program.
fn verified(object: &[u8], name: &str) -> Result<u32, String> {
    if let Some(reason) = seg_tests::harness::missing_privilege() {
        return Err(reason);
    }
    let mut loaded = aya::EbpfLoader::new().load(object).map_err(text)?;
    let program = loaded.program_mut(name).ok_or("no such program")?;
    let program: &mut SchedClassifier = program.try_into().map_err(text)?;
    program.load().map_err(|error| text(error).lines().next().unwrap_or_default().to_owned())?;
    let verified = program.info().map_err(text)?.verified_instruction_count();
    verified.ok_or_else(|| "the kernel does not say".to_owned())
}

// Load.

/// A policy on a node with its endpoints.
struct Bound {
    object: Vec<u8>,
    manifest: Manifest,
    endpoints: Vec<Endpoint>,
    records: Vec<Record>,
    plan: Plan,
}

impl Bound {
    fn new(net: &Net, source: &str, file: &str) -> Result<Self, String> {
        let analysis = seg_tests::package::analysis("cost", source);
        let policy = analysis.policy.ok_or("the policy does not check")?;
        let object = pipeline::compile(&policy, &analysis.sources, "cost", Config::default());
        let object = object.map_err(text)?.object;
        let artifact = seg_artifact::object::open(&object).map_err(text)?;
        let manifest = artifact.manifest.clone();
        let endpoints = endpoints::read(file).map_err(refusals)?;
        let records = inventory::number(&endpoints, &manifest).map_err(refusals)?;
        let links = net::in_ns(&net.node().name, || Linux::default().links());
        let seen = Seen { links: links.map_err(text)?.map_err(text)?, ..Seen::default() };
        let plan = plan::plan(&records, Network::of(&artifact), &seen).map_err(refusals)?;
        Ok(Self { object, manifest, endpoints, records, plan })
    }
}

fn refusals(refusals: Vec<Refusal>) -> String {
    refusals.iter().map(ToString::to_string).collect()
}

fn address(endpoint: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a14_0000 + 1 + endpoint as u32)
}

fn node() -> Result<Net, String> {
    let mut net = Net::new().map_err(text)?;
    for endpoint in 0..ENDPOINTS {
        net.attach(&format!("e{endpoint}"), &[address(endpoint).into()]).map_err(text)?;
    }
    Ok(net)
}

fn endpoints_file(net: &Net) -> String {
    let mut random = Random::new(2);
    let mut text = String::new();
    for endpoint in 0..ENDPOINTS + PEERS {
        let _ = write!(
            text,
            "[[endpoint]]\nname = \"e{endpoint}\"\nlabels = {{ app = \"a{}\", tier = \"{}\", env = \"{}\" }}\naddresses = [\"{}\"]\n",
            random.below(LOADED.div_ceil(10)),
            random.pick(&TIERS),
            random.pick(&ENVS),
            address(endpoint),
        );
        if let Some(namespace) = net.get(&format!("e{endpoint}")) {
            let _ = writeln!(text, "interface = \"{}\"", namespace.node_interface);
        }
    }
    text
}

/// The running kernel, and what each kind of call took.
#[derive(Default)]
struct Timed {
    linux: Linux,
    /// Calls, time and time on the processor, by name.
    calls: BTreeMap<&'static str, (usize, Duration, Duration)>,
}

impl Timed {
    fn timed<T>(&mut self, name: &'static str, call: impl FnOnce(&mut Linux) -> T) -> T {
        let (begun, cpu) = (Instant::now(), measure::thread_time());
        let result = call(&mut self.linux);
        let (n, time, on_cpu) = self.calls.entry(name).or_default();
        *n += 1;
        *time += begun.elapsed();
        *on_cpu += measure::thread_time() - cpu;
        result
    }
}

impl Kernel for Timed {
    fn features(&mut self) -> Result<Features, KernelError> {
        self.linux.features()
    }

    fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        self.linux.links()
    }

    fn namespace(&mut self, name: &str) -> Result<Namespace, KernelError> {
        self.linux.namespace(name)
    }

    fn open(&mut self, object: &[u8], n_records: u32) -> Result<(), KernelError> {
        self.timed("open", |linux| linux.open(object, n_records))
    }

    fn close(&mut self) {
        self.timed("close", Linux::close);
    }

    fn retire(&mut self) {
        self.timed("retire", Linux::retire);
    }

    fn load(&mut self, program: &str) -> Result<(), KernelError> {
        self.timed("load", |linux| linux.load(program))
    }

    fn fill(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        self.timed("fill", |linux| linux.fill(map, key, value))
    }

    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.timed("attach", |linux| linux.attach(program, at))
    }

    fn detach(&mut self, at: &Hook) {
        self.timed("detach", |linux| linux.detach(at));
    }

    fn remove(&mut self, map: &str, key: &[u8]) -> Result<(), KernelError> {
        self.timed("remove", |linux| linux.remove(map, key))
    }

    fn store(&mut self, store: &Store) -> Result<(), KernelError> {
        self.timed("store", |linux| linux.store(store))
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.timed("settle", Linux::settle)
    }

    fn restore(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.timed("restore", |linux| linux.restore(program, at))
    }

    fn counters(&mut self, n: u32) -> Result<Vec<Count>, KernelError> {
        self.linux.counters(n)
    }
}

/// Times of several runs by kind of call. Unit: milliseconds.
#[derive(Default)]
struct Calls(BTreeMap<&'static str, (usize, [Vec<f64>; 2])>);

impl Calls {
    fn add(&mut self, name: &'static str, n: usize, time: Duration, cpu: Duration) {
        let (calls, times) = self.0.entry(name).or_default();
        *calls = n;
        for (times, time) in times.iter_mut().zip([time, cpu]) {
            times.push(time.as_secs_f64() * 1e3);
        }
    }

    /// Those of a kernel, and their sum.
    fn add_all(&mut self, kernel: &mut Timed) {
        let mut all = (0, Duration::ZERO, Duration::ZERO);
        for (name, (n, time, cpu)) in std::mem::take(&mut kernel.calls) {
            all = (all.0 + n, all.1 + time, all.2 + cpu);
            self.add(name, n, time, cpu);
        }
        self.add("all", all.0, all.1, all.2);
    }

    fn print(&self) -> Value {
        println!("{:>10} {:>8} {:>24} {:>24}", "", "calls", "ms", "CPU ms");
        let mut value = json!({});
        for (name, (n, [times, cpu])) in &self.0 {
            let (spread, cpu) = (Spread::of(times), Spread::of(cpu));
            println!("{name:>10} {n:8} {spread:>24} {cpu:>24}");
            value[name] = json!({ "calls": n, "ms": spread.json(), "cpu_ms": cpu.json() });
        }
        value
    }
}

fn load(options: &Options) -> Result<Value, String> {
    let net = node()?;
    let bound = Bound::new(&net, &policy(OLD, LOADED), &endpoints_file(&net))?;
    println!(
        "\nload: a label policy of {LOADED} rules, {ENDPOINTS} endpoints of the node, {PEERS} peers; median (least..most)"
    );
    let mut calls = Calls::default();
    for _ in 0..options.runs {
        interrupted()?;
        net::in_ns(&net.node().name, || {
            let mut kernel = Timed::default();
            apply::apply(&mut kernel, &bound.object, &bound.plan.actions).map_err(text)?;
            calls.add_all(&mut kernel);
            apply::undo(&mut kernel, &bound.plan.actions);
            Ok::<_, String>(())
        })
        .map_err(text)??;
    }
    Ok(calls.print())
}

// Churn.

/// What happens to the endpoint that sends, from what it is before. Without labels it is not known at all.
const CHANGES: [(&str, Sender, Sender); 4] = [
    ("peer added", Sender { app: None, local: false }, Sender { app: Some("good"), local: false }),
    (
        "peer relabelled",
        Sender { app: Some("bad"), local: false },
        Sender { app: Some("good"), local: false },
    ),
    (
        "endpoint relabelled",
        Sender { app: Some("bad"), local: true },
        Sender { app: Some("good"), local: true },
    ),
    (
        "endpoint added",
        Sender { app: None, local: false },
        Sender { app: Some("good"), local: true },
    ),
];

#[derive(Clone, Copy)]
struct Sender {
    app: Option<&'static str>,
    local: bool,
}

impl Sender {
    fn endpoint(self, interface: &str) -> String {
        let Some(app) = self.app else { return String::new() };
        let place =
            if self.local { format!("interface = \"{interface}\"\n") } else { String::new() };
        let address = address(0);
        format!(
            "[[endpoint]]\nname = \"sender\"\nlabels = {{ app = \"{app}\" }}\naddresses = [\"{address}\"]\n{place}"
        )
    }
}

fn churn(options: &Options) -> Result<Value, String> {
    let mut net = Net::new().map_err(text)?;
    let sender = net.attach("sender", &[address(0).into()]).map_err(text)?.clone();
    let server = net.attach("server", &[address(1).into()]).map_err(text)?.clone();
    let opened = net::in_ns(&sender.name, || UdpSocket::bind((address(0), 0)));
    let sends = opened.and_then(|opened| opened).map_err(text)?;
    let opened = net::in_ns(&server.name, || UdpSocket::bind((address(1), PROBE_PORT)));
    let gets = opened.and_then(|opened| opened).map_err(text)?;
    gets.set_nonblocking(true).map_err(text)?;

    let source = format!(
        "label app\npolicy churn {{\n    allow app:good -> app:server on udp/{PROBE_PORT}\n}}\n"
    );
    let server = format!(
        "[[endpoint]]\nname = \"server\"\nlabels = {{ app = \"server\" }}\naddresses = [\"{}\"]\ninterface = \"{}\"\n",
        address(1),
        server.node_interface
    );
    println!(
        "\nchurn: ms from the call to the first packet that passes, and to its return; median (least..most)"
    );
    let mut value = json!({});
    for (name, before, after) in CHANGES {
        let file = server.clone() + &before.endpoint(&sender.node_interface);
        let bound = Bound::new(&net, &source, &file)?;
        let (mut effects, mut returns) = (vec![], vec![]);
        net::in_ns(&net.node().name, || {
            let mut kernel = Linux::default();
            apply::apply(&mut kernel, &bound.object, &bound.plan.actions).map_err(text)?;
            let mut live =
                Live::new(&bound.manifest, &bound.endpoints, &bound.records, &bound.plan);
            let read = |who: Sender| {
                endpoints::read(&(server.clone() + &who.endpoint(&sender.node_interface)))
            };
            for _ in 0..=options.runs {
                interrupted()?;
                let endpoint = read(after).map_err(refusals)?.pop().ok_or("no endpoint")?;
                let (effect, returned) =
                    until_passed(&sends, &gets, || live.put(&mut kernel, &endpoint).map_err(text))?;
                effects.push(effect);
                returns.push(returned);
                match before.app {
                    None => live.remove(&mut kernel, "sender").map_err(text)?,
                    Some(_) => {
                        let endpoint =
                            read(before).map_err(refusals)?.pop().ok_or("no endpoint")?;
                        live.put(&mut kernel, &endpoint).map_err(text)?;
                    }
                }
            }
            Ok::<_, String>(())
        })
        .map_err(text)??;
        // The first loads the program of a role that nobody had.
        let first = effects.remove(0);
        let (effect, returned) = (Spread::of(&effects), Spread::of(&returns[1..]));
        let met = if effect.median <= CHURN_BAR_MS { "met" } else { "MISSED" };
        println!(
            "{name:>20} {effect:>28} {returned:>28}  the first time {first:.2}  bar {CHURN_BAR_MS} ms: {met}"
        );
        value[name] =
            json!({ "effect_ms": effect.json(), "return_ms": returned.json(), "first_ms": first });
    }
    Ok(value)
}

/// Milliseconds from a call to the first packet that arrives, and to its return. Nothing may arrive before.
fn until_passed(
    sends: &UdpSocket,
    gets: &UdpSocket,
    call: impl FnOnce() -> Result<(), String>,
) -> Result<(f64, f64), String> {
    let (called, mut byte) = (AtomicBool::new(false), [0; 1]);
    let probe = |byte: &mut [u8; 1]| -> std::io::Result<bool> {
        sends.send_to(&[0], (address(1), PROBE_PORT))?;
        Ok(gets.recv(byte).is_ok())
    };
    for _ in 0..10 {
        if probe(&mut byte).map_err(text)? {
            return Err("a packet passed before it may".to_owned());
        }
    }
    std::thread::scope(|scope| {
        let passed = scope.spawn(|| {
            let (begun, mut byte) = (Instant::now(), [0; 1]);
            while begun.elapsed() < CHURN_MAX {
                let passed = probe(&mut byte).map_err(text)?;
                if passed && !called.load(Ordering::Acquire) {
                    return Err("a packet passed before it may".to_owned());
                }
                if passed {
                    return Ok(Instant::now());
                }
            }
            Err("no packet passed".to_owned())
        });
        // The traffic flows before the call.
        std::thread::sleep(Duration::from_millis(5));
        called.store(true, Ordering::Release);
        let begun = Instant::now();
        let result = call();
        let returned = begun.elapsed();
        let passed = passed.join().map_err(|_| "the sender panicked")??;
        result?;
        Ok(((passed - begun).as_secs_f64() * 1e3, returned.as_secs_f64() * 1e3))
    })
}

// Swap.

/// Sockets of an endpoint: it sends from one, and gets probes of each kind at the others.
struct Sockets {
    sends: UdpSocket,
    gets: [UdpSocket; 4],
}

impl Sockets {
    fn open(address: Ipv4Addr) -> std::io::Result<Self> {
        let open = |port| {
            let socket = UdpSocket::bind((address, port))?;
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        let [a, b, c, d] = Kind::ALL.map(|kind| open(PROBE_PORT + kind as u16));
        Ok(Self { sends: open(0)?, gets: [a?, b?, c?, d?] })
    }
}

/// By [`Kind`]; `replies` come to probes of both, one each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Traffic {
    sent: [u64; 4],
    arrived: [u64; 4],
    replies: u64,
    /// Probes only the old policy allows that came where one only the new allows had come before.
    backwards: u64,
}

/// Sends a round of probes, from each endpoint to the next, every [`ROUND`] until told to stop, and then a last one.
fn send(sockets: &[Sockets], stop: &AtomicBool) -> std::io::Result<Traffic> {
    let mut traffic = Traffic::default();
    let (mut buffer, mut is_new) = ([0; 16], vec![false; sockets.len()]);
    let mut last = false;
    while !last {
        last = stop.load(Ordering::Acquire);
        let begun = Instant::now();
        for (n, from) in sockets.iter().enumerate() {
            let next = (n + 1) % sockets.len();
            for kind in Kind::ALL {
                from.sends.send_to(&[0; 8], (address(next), PROBE_PORT + kind as u16))?;
                traffic.sent[kind as usize] += 1;
            }
            // What is sent is delivered before the call returns: soft interrupts run on this processor.
            for (kind, socket) in Kind::ALL.iter().zip(&sockets[next].gets) {
                while let Ok((_, back)) = socket.recv_from(&mut buffer) {
                    traffic.arrived[*kind as usize] += 1;
                    is_new[next] |= *kind == Kind::New;
                    traffic.backwards += u64::from(*kind == Kind::Old && is_new[next]);
                    if *kind == Kind::Both {
                        socket.send_to(&[1; 8], back)?;
                    }
                }
            }
            while from.sends.recv(&mut buffer).is_ok() {
                traffic.replies += 1;
            }
        }
        std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
    }
    Ok(traffic)
}

/// The newest map of counters this process has open: it outlives its generation.
fn counters_map() -> Result<PerCpuArray<MapData, [u64; 2]>, String> {
    let folder = std::fs::read_dir("/proc/self/fdinfo").map_err(text)?;
    let ids = folder.flatten().filter_map(|entry| {
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().parse().ok()?;
        let is_counters = MapInfo::from_id(id).ok()?.name_as_str() == Some(maps::COUNTERS);
        is_counters.then_some(id)
    });
    let id: u32 = ids.max().ok_or("no counters")?;
    let map = Map::PerCpuArray(MapData::from_id(id).map_err(text)?);
    PerCpuArray::try_from(map).map_err(text)
}

fn count(counters: &PerCpuArray<MapData, [u64; 2]>, counter: u32) -> Result<u64, String> {
    let each = counters.get(&counter, 0).map_err(text)?;
    Ok(each.iter().map(|[packets, _]| packets).sum())
}

/// What the traffic of one swap shows to be wrong.
fn misjudged(
    traffic: &Traffic,
    old: &PerCpuArray<MapData, [u64; 2]>,
    new: &PerCpuArray<MapData, [u64; 2]>,
) -> Result<Vec<String>, String> {
    let rule = |map, kind: Kind| count(map, maps::rule_counter(kind as u32));
    let replies = count(old, Reason::Reply.counter())? + count(new, Reason::Reply.counter())?;
    let [of_old, of_new, both, neither] = Kind::ALL.map(|kind| traffic.sent[kind as usize]);
    let [got_old, got_new, got_both, got_neither] =
        Kind::ALL.map(|kind| traffic.arrived[kind as usize]);
    let checks = [
        ("probes both allow that did not arrive", both, got_both),
        ("probes neither allows that arrived", 0, got_neither),
        ("replies that did not arrive", got_both, traffic.replies),
        ("old probes after new ones", 0, traffic.backwards),
        // Denied at one hook, by the new policy, or delivered.
        ("decisions on old probes", of_old, got_old + rule(new, Kind::Old)?),
        ("decisions on new probes", of_new, got_new + rule(old, Kind::New)?),
        // Allowed at two hooks.
        ("decisions on probes of both", 2 * both, rule(old, Kind::Both)? + rule(new, Kind::Both)?),
        (
            "decisions on probes of neither",
            neither,
            rule(old, Kind::Neither)? + rule(new, Kind::Neither)?,
        ),
        ("decisions on replies", 2 * got_both, replies),
    ];
    let wrong = checks.iter().filter(|(_, wanted, found)| wanted != found);
    Ok(wrong.map(|(what, wanted, found)| format!("{what}: {found}, not {wanted}")).collect())
}

fn swap(options: &Options) -> Result<Value, String> {
    let net = node()?;
    let old = Bound::new(&net, &policy(OLD, LOADED), &endpoints_file(&net))?;
    let new = Bound::new(&net, &policy(NEW, LOADED), &endpoints_file(&net))?;
    let sockets = (0..ENDPOINTS).map(|endpoint| {
        let namespace = net.get(&format!("e{endpoint}")).ok_or("no namespace")?;
        let opened = net::in_ns(&namespace.name, || Sockets::open(address(endpoint)));
        opened.and_then(|opened| opened).map_err(text)
    });
    let sockets: Vec<Sockets> = sockets.collect::<Result<_, String>>()?;
    println!(
        "\nswap: label policies of {LOADED} rules, {ENDPOINTS} endpoints under traffic, {PEERS} peers; median (least..most)"
    );
    let (mut calls, mut all, mut meanwhile) = (Calls::default(), vec![], 0);
    let (mut total, mut wrong) = (Traffic::default(), vec![]);
    for _ in 0..options.runs {
        interrupted()?;
        let (traffic, counted, found) = net::in_ns(&net.node().name, || {
            one_swap(&sockets, &old, &new, |kernel| {
                let begun = Instant::now();
                apply::swap(kernel, &new.object, &old.plan.bindings, &new.plan).map_err(text)?;
                all.push(begun.elapsed().as_secs_f64() * 1e3);
                calls.add_all(kernel);
                Ok(())
            })
        })
        .map_err(text)??;
        meanwhile += counted;
        wrong.extend(found);
        for kind in 0..4 {
            total.sent[kind] += traffic.sent[kind];
            total.arrived[kind] += traffic.arrived[kind];
        }
        total.replies += traffic.replies;
        total.backwards += traffic.backwards;
    }
    let (.., seen) = net::in_ns(&net.node().name, || {
        one_swap(&sockets, &old, &new, |kernel| {
            apply::undo(kernel, &old.plan.actions);
            apply::apply(kernel, &new.object, &new.plan.actions).map_err(text)
        })
    })
    .map_err(text)??;
    let mut value = calls.print();
    let took = Spread::of(&all);
    println!(
        "{} probes, {} replies; arrived of old, new, both, neither: {:?} of {:?}; decisions of the old policy during swaps: {meanwhile}",
        total.sent.iter().sum::<u64>(),
        total.replies,
        total.arrived,
        total.sent
    );
    println!(
        "misjudged: {}; swap {took} ms (bar {SWAP_BAR_MS}: {})",
        wrong.len(),
        if took.median <= SWAP_BAR_MS { "met" } else { "MISSED" }
    );
    println!("a swap with a gap, for comparison: {}", seen.join("; "));
    if seen.is_empty() {
        return Err("a swap with a gap was not noticed".to_owned());
    }
    value["probes"] = json!(total.sent);
    value["arrived"] = json!(total.arrived);
    value["replies"] = json!(total.replies);
    value["old_decisions_during_swaps"] = json!(meanwhile);
    value["misjudged"] = json!(wrong);
    if wrong.is_empty() { Ok(value) } else { Err(wrong.join("\n")) }
}

/// Traffic around one swap: what it was, how many decisions of the old policy fell into the swap, and what was wrong.
fn one_swap(
    sockets: &[Sockets],
    old: &Bound,
    new: &Bound,
    swap: impl FnOnce(&mut Timed) -> Result<(), String>,
) -> Result<(Traffic, u64, Vec<String>), String> {
    let mut kernel = Timed::default();
    apply::apply(&mut kernel, &old.object, &old.plan.actions).map_err(text)?;
    kernel.calls.clear();
    let old_counters = counters_map()?;
    let stop = AtomicBool::new(false);
    let judged = || {
        let counts = Kind::ALL.iter().map(|k| count(&old_counters, maps::rule_counter(*k as u32)));
        counts.sum::<Result<u64, _>>()
    };
    let (traffic, meanwhile) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(sockets, &stop));
        std::thread::sleep(AROUND);
        let before = judged();
        let swapped = swap(&mut kernel);
        let after = judged();
        std::thread::sleep(AROUND);
        stop.store(true, Ordering::Release);
        let traffic = sender.join().map_err(|_| "the sender panicked")?.map_err(text)?;
        swapped?;
        Ok::<_, String>((traffic, after?.saturating_sub(before?)))
    })?;
    let wrong = misjudged(&traffic, &old_counters, &counters_map()?)?;
    apply::undo(&mut kernel, &new.plan.actions);
    Ok((traffic, meanwhile, wrong))
}
