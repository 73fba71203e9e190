//! What a filter costs a packet that a machine receives, end to end, beside nftables, iptables and ipset:
//! `cargo bench -p seg-tests --bench stack [-- --quick] [--runs N] [--json FILE] [N…]`.
//!
//! Rule i accepts one source address and one UDP port; all else is dropped.
//! A *hit* is a random rule, whose packet reaches a bound socket that is full; a *miss* is a random source next to those of the rules.
//! Every contender has a namespace of its own, all at once, so that runs alternate between them.
//!
//! - *live*: frames come from `BPF_PROG_TEST_RUN`, the time is the kernel's own: tcx, netfilter, routing, UDP.
//! - *send*: a packet socket sends over a veth pair to the same processor; the time is what the processor was busy, with some
//!   700 ns for sending.
//!
//! A contender that judges a probe wrongly is not measured, and the bench fails; so it does if Seg does not take the rules.

use seg_compiler::decided::Config;
use seg_compiler::pipeline;
use seg_tests::daemon::Daemon;
use seg_tests::live::{self, FRAME_BYTES, FRAMES, Injector, Receiver, Sender, Target};
use seg_tests::measure::{self, Spread, interrupted};
use seg_tests::net::{self, Net};
use seg_tests::random::Random;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Rules that are measured unless others are asked for.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const RUNS: usize = 11;
/// Ports that rules name, each with a socket.
const PORTS: std::ops::Range<u16> = 10_000..10_256;
/// Probes of each kind that every contender must judge rightly.
const PROBES: usize = 256;
/// How long a run should take. Unit: nanoseconds.
const RUN_NS: f64 = 20e6;
const RUN_FRAMES: std::ops::Range<usize> = 512..65_536;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// Of include/uapi/linux/pkt_cls.h.
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;

/// What a contender should do to hits and misses.
#[derive(Clone, Copy, PartialEq)]
enum Verdicts {
    Rules,
    AllPass,
    AllDrop,
}

enum Filter {
    Nothing,
    Seg,
    Tcx(i32),
    Nft(fn(&[Rule]) -> String),
    Iptables,
    Ipset,
}

const SEG: &str = "seg";
const CONTENDERS: [(&str, Verdicts, Filter); 13] = [
    ("none", Verdicts::AllPass, Filter::Nothing),
    (SEG, Verdicts::Rules, Filter::Seg),
    ("tcx pass", Verdicts::AllPass, Filter::Tcx(TC_ACT_OK)),
    ("tcx drop", Verdicts::AllDrop, Filter::Tcx(TC_ACT_SHOT)),
    ("nft accept-all", Verdicts::AllPass, Filter::Nft(nft_accept)),
    ("nft drop-all", Verdicts::AllDrop, Filter::Nft(nft_drop)),
    ("nft concat set", Verdicts::Rules, Filter::Nft(nft_set)),
    ("nft verdict map", Verdicts::Rules, Filter::Nft(nft_map)),
    ("nft interval set", Verdicts::Rules, Filter::Nft(nft_interval)),
    ("nft ct + set", Verdicts::Rules, Filter::Nft(nft_tracked)),
    ("ipset hash:ip,port", Verdicts::Rules, Filter::Ipset),
    ("nft linear", Verdicts::Rules, Filter::Nft(nft_linear)),
    ("iptables linear", Verdicts::Rules, Filter::Iptables),
];

#[derive(Clone, Copy)]
struct Rule {
    source: Ipv4Addr,
    port: u16,
}

/// Different sources all over 10.0.0.0/8: an odd factor permutes its addresses.
fn rules(n: usize) -> Vec<Rule> {
    let mut random = Random::new(4);
    let rule = |i: usize| Rule {
        source: scattered(i),
        port: PORTS.start + random.below(PORTS.len()) as u16,
    };
    (0..n).map(rule).collect()
}

fn scattered(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(10 << 24 | (i as u32 + 1).wrapping_mul(0x9e37_79b1) & 0xff_ffff)
}

fn nft_table(sets: &str, policy: &str, rules: &str) -> String {
    format!(
        "table ip bench {{\n{sets}chain input {{ type filter hook input priority 0; policy {policy};\n{rules}}}\n}}\n"
    )
}

fn nft_accept(_: &[Rule]) -> String {
    nft_table("", "accept", "")
}

fn nft_drop(_: &[Rule]) -> String {
    nft_table("", "drop", "")
}

fn nft_linear(rules: &[Rule]) -> String {
    let rule = |r: &Rule| format!("ip saddr {} udp dport {} accept\n", r.source, r.port);
    nft_table("", "drop", &rules.iter().map(rule).collect::<String>())
}

fn elements(rules: &[Rule], verdict: &str) -> String {
    let element = |r: &Rule| format!("{} . {}{verdict}", r.source, r.port);
    let elements: Vec<String> = rules.iter().map(element).collect();
    format!("elements = {{ {} }}", elements.join(", "))
}

fn nft_set(rules: &[Rule]) -> String {
    let set = format!("set s {{ type ipv4_addr . inet_service; {} }}\n", elements(rules, ""));
    nft_table(&set, "drop", "ip saddr . udp dport @s accept\n")
}

fn nft_interval(rules: &[Rule]) -> String {
    let elements = elements(rules, "");
    let set = format!("set s {{ type ipv4_addr . inet_service; flags interval; {elements} }}\n");
    nft_table(&set, "drop", "ip saddr . udp dport @s accept\n")
}

fn nft_map(rules: &[Rule]) -> String {
    let elements = elements(rules, " : accept");
    let map = format!("map m {{ type ipv4_addr . inet_service : verdict; {elements} }}\n");
    nft_table(&map, "drop", "ip saddr . udp dport vmap @m\n")
}

fn nft_tracked(rules: &[Rule]) -> String {
    let set = format!("set s {{ type ipv4_addr . inet_service; {} }}\n", elements(rules, ""));
    nft_table(&set, "drop", "ct state established,related accept\nip saddr . udp dport @s accept\n")
}

fn iptables(rules: &[Rule]) -> String {
    let mut text = "*filter\n:INPUT DROP\n".to_owned();
    for rule in rules {
        let _ =
            writeln!(text, "-A INPUT -s {}/32 -p udp --dport {} -j ACCEPT", rule.source, rule.port);
    }
    text + "COMMIT\n"
}

fn ipset(rules: &[Rule]) -> String {
    let mut text = "create s hash:ip,port\n".to_owned();
    for rule in rules {
        let _ = writeln!(text, "add s {},udp:{}", rule.source, rule.port);
    }
    text
}

const IPTABLES_OF_SET: &str =
    "*filter\n:INPUT DROP\n-A INPUT -m set --match-set s src,dst -j ACCEPT\nCOMMIT\n";

fn policy(rules: &[Rule]) -> String {
    let mut text = "policy stack {\n".to_owned();
    for rule in rules {
        let _ = writeln!(text, "    allow {} -> self on udp/{}", rule.source, rule.port);
    }
    text + "}\n"
}

/// What keeps a filter in place; namespaces take their tables with them.
enum Installed {
    Itself,
    Link { _link: OwnedFd },
    Daemon { _daemon: Daemon, _files: tempfile::TempDir },
}

/// Runs a tool in a namespace with a text as its input.
fn tool(namespace: &str, command: &[&str], input: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let package = command[0].trim_end_matches("-restore").trim_end_matches("-legacy");
            let package = if package == "nft" { "nftables" } else { package };
            format!("needs {} (`apt-get install {package}`)", command[0])
        }
        _ => format!("{}: {error}", command[0]),
    };
    let file = File::open(net::path(namespace)).map_err(|error| error.to_string())?;
    let mut child = Command::new(command[0]);
    child.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only `net::enter` runs, which is one system call on a descriptor opened before.
    unsafe { child.pre_exec(move || net::enter(&file)) };
    let mut child = child.spawn().map_err(failed)?;
    // A tool that ends early says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn install(filter: &Filter, rules: &[Rule], node: &str, at: &str) -> Result<Installed, String> {
    let text = |error: std::io::Error| error.to_string();
    match filter {
        Filter::Nothing => {}
        Filter::Nft(script) => tool(node, &["nft", "-f", "-"], &script(rules))?,
        Filter::Iptables => tool(node, &["iptables-legacy-restore"], &iptables(rules))?,
        Filter::Ipset => {
            tool(node, &["ipset", "restore"], &ipset(rules))?;
            tool(node, &["iptables-legacy-restore"], IPTABLES_OF_SET)?;
        }
        Filter::Tcx(verdict) => {
            let link = net::in_ns(node, || live::attach_tcx(at, *verdict));
            return Ok(Installed::Link { _link: link.and_then(|link| link).map_err(text)? });
        }
        Filter::Seg => {
            let analysis = seg_tests::package::analysis("stack", &policy(rules));
            let policy = analysis.policy.ok_or("the policy does not check")?;
            let compiled =
                pipeline::compile(&policy, &analysis.sources, "stack", Config::default());
            let files = tempfile::tempdir().map_err(text)?;
            let path = |name: &str| files.path().join(name);
            let object = compiled.map_err(|error| error.to_string())?.object;
            std::fs::write(path("policy.bpf.o"), object).map_err(text)?;
            let endpoints = format!(
                "[[endpoint]]\nname = \"node\"\naddresses = [\"{NODE}\"]\ninterface = \"{at}\"\nself = true\n"
            );
            std::fs::write(path("endpoints.toml"), endpoints).map_err(text)?;
            let (policy, endpoints) = (path("policy.bpf.o"), path("endpoints.toml"));
            let daemon = Daemon::start(Some(node), &policy, &endpoints, &path("run"))?;
            return Ok(Installed::Daemon { _daemon: daemon, _files: files });
        }
    }
    Ok(Installed::Itself)
}

/// A contender in its namespaces, with its times.
struct Contender {
    name: &'static str,
    verdicts: Verdicts,
    node: String,
    at: String,
    sender: Sender,
    receiver: Receiver,
    target: Target,
    /// Unit: milliseconds.
    setup_ms: f64,
    /// By meter, then hits and misses. Unit: nanoseconds.
    times: [[Vec<f64>; 2]; 2],
    _installed: Installed,
    _net: Net,
}

const METERS: [&str; 2] = ["live", "send"];
const WAYS: [&str; 2] = ["hit", "miss"];

impl Contender {
    fn new(
        name: &'static str,
        verdicts: Verdicts,
        filter: &Filter,
        rules: &[Rule],
    ) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut net = Net::new().map_err(text)?;
        net.address_node(&[NODE.into()]).map_err(text)?;
        let client = net.attach("client", &[IpAddr::V4(CLIENT)]).map_err(text)?.clone();
        let (node, at) = (net.node().name.clone(), client.node_interface.clone());
        let begun = Instant::now();
        let installed = install(filter, rules, &node, &at)?;
        let setup_ms = begun.elapsed().as_secs_f64() * 1e3;
        let inside =
            net::in_ns(&node, || Ok((Receiver::new(PORTS)?, live::hardware_address(&at)?)));
        let (receiver, hardware) = inside.and_then(|inside| inside).map_err(text)?;
        let sender = net::in_ns(&client.name, || Sender::new(net::INTERFACE));
        Ok(Self {
            name,
            verdicts,
            node,
            at,
            sender: sender.and_then(|sender| sender).map_err(text)?,
            receiver,
            target: Target { hardware, address: NODE },
            setup_ms,
            times: Default::default(),
            _installed: installed,
            _net: net,
        })
    }

    /// Whether a frame of this way passes.
    fn passes(&self, way: usize) -> bool {
        match self.verdicts {
            Verdicts::Rules => way == 0,
            Verdicts::AllPass => true,
            Verdicts::AllDrop => false,
        }
    }

    fn frames(&self, picks: &[Rule]) -> Vec<[u8; FRAME_BYTES]> {
        let frame =
            |(tag, r): (usize, &Rule)| live::frame(&self.target, r.source, r.port, tag as u32);
        picks.iter().enumerate().map(frame).collect()
    }

    /// Sends probes and sees which arrive.
    fn check(&self, picks: &[Vec<Rule>; 2]) -> Result<(), String> {
        for (way, picks) in picks.iter().enumerate() {
            let frames = self.frames(&picks[..PROBES]);
            let mut arrived = vec![false; PROBES];
            // One after the other, since a socket holds few.
            for frame in frames.chunks(1) {
                self.sender.send(frame, 1).map_err(|error| error.to_string())?;
                self.receiver.tags().into_iter().for_each(|tag| arrived[tag as usize] = true);
            }
            let n_wrong = arrived.iter().filter(|arrived| **arrived != self.passes(way)).count();
            if n_wrong > 0 {
                let way = WAYS[way];
                return Err(format!("WRONG: {n_wrong} of {PROBES} probes ({way})"));
            }
        }
        Ok(())
    }

    /// One run of one meter: nanoseconds for each frame.
    fn run(&mut self, meter: usize, way: usize, picks: &[Rule]) -> Result<(), String> {
        let frames = self.frames(picks);
        let before = self.times[meter][way].last().copied();
        // The first run only finds out how long one takes.
        let n = before.map_or(RUN_FRAMES.start, |ns| (RUN_NS / ns) as usize);
        let n = n.clamp(RUN_FRAMES.start, RUN_FRAMES.end);
        let (at, sender) = (self.at.as_str(), &self.sender);
        let measured = net::in_ns(&self.node, || {
            measure::pin(measure::processor())?;
            if meter == 0 {
                return Injector::new(&frames)?.run(at, n);
            }
            let before = live::received(at)?;
            let sent = sender.send(&frames, n)?;
            let lost = sent.frames as u64 - (live::received(at)? - before).min(sent.frames as u64);
            if lost > 0 {
                return Err(std::io::Error::other(format!("{lost} frames were not received")));
            }
            Ok(sent.busy.as_secs_f64() * 1e9 / sent.frames as f64)
        });
        let ns = measured.and_then(|ns| ns).map_err(|error| format!("{}: {error}", self.name))?;
        self.times[meter][way].push(ns);
        Ok(())
    }
}

struct Options {
    sizes: Vec<usize>,
    runs: usize,
    json: Option<String>,
}

fn options() -> Option<Options> {
    let mut options = Options { sizes: vec![], runs: RUNS, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What `cargo bench` adds.
            "--bench" => {}
            "--quick" => {
                options.sizes.extend([10, 1_000]);
                options.runs = 3;
            }
            "--runs" => options.runs = arguments.next()?.parse().ok().filter(|n| *n > 0)?,
            "--json" => options.json = Some(arguments.next()?),
            size => options.sizes.push(size.parse().ok()?),
        }
    }
    if options.sizes.is_empty() {
        options.sizes.extend(SIZES);
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: stack [--quick] [--runs N] [--json FILE] [RULES…]");
        return ExitCode::from(2);
    };
    if let Some(reason) = seg_tests::harness::missing_privilege() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    measure::catch_interrupts();
    measure::raise_descriptors();
    match contest(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every contender judged rightly.
fn contest(options: &Options) -> Result<bool, String> {
    println!(
        "ns for each packet: median (least..most) of {} runs in turn; ratio: the contender's over seg's, median of rounds",
        options.runs
    );
    let (mut right, mut sizes) = (true, vec![]);
    for n in &options.sizes {
        let rules = rules(*n);
        let mut random = Random::new(7);
        let hits = (0..FRAMES).map(|_| *random.pick(&rules)).collect();
        let misses = (0..FRAMES)
            .map(|i| Rule { source: scattered(rules.len() + i), port: random.pick(&rules).port });
        let picks: [Vec<Rule>; 2] = [hits, misses.collect()];
        println!("\n{n} rules");
        let mut contenders = vec![];
        for (name, verdicts, filter) in &CONTENDERS {
            interrupted()?;
            let contender = Contender::new(name, *verdicts, filter, &rules);
            let checked = contender.and_then(|c| c.check(&picks).map(|()| c));
            match checked {
                Ok(contender) => contenders.push(contender),
                Err(reason) => {
                    right &= *name != SEG && !reason.starts_with("WRONG");
                    println!("skipped {name}: {reason}");
                }
            }
        }
        measure_all(&mut contenders, options.runs, &picks)?;
        print(&contenders);
        sizes.push(json!({ "rules": n, "contenders": json_of(&contenders) }));
    }
    if let Some(file) = &options.json {
        let all = json!({ "version": 1, "runs": options.runs, "sizes": sizes });
        std::fs::write(file, format!("{all:#}\n")).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(right)
}

fn measure_all(
    contenders: &mut [Contender],
    runs: usize,
    picks: &[Vec<Rule>; 2],
) -> Result<(), String> {
    for meter in 0..METERS.len() {
        // Only injected frames need a program at XDP, and sent ones would pay for it.
        let links = contenders.iter().filter(|_| meter == 0);
        let links: std::io::Result<Vec<OwnedFd>> =
            links.map(|c| net::in_ns(&c.node, || live::attach_xdp(&c.at))?).collect();
        let links = links.map_err(|error| format!("attach to XDP: {error}"))?;
        // One more: the first tells how long a run takes, and warms.
        for _ in 0..=runs {
            for (way, picks) in picks.iter().enumerate() {
                for contender in contenders.iter_mut() {
                    interrupted()?;
                    contender.run(meter, way, picks)?;
                }
            }
        }
        drop(links);
    }
    for times in contenders.iter_mut().flat_map(|c| c.times.iter_mut().flatten()) {
        times.remove(0);
    }
    Ok(())
}

/// The contender's time over Seg's, round by round; the median.
fn ratio(contender: &Contender, seg: Option<&Contender>, meter: usize, way: usize) -> Option<f64> {
    let pairs = contender.times[meter][way].iter().zip(&seg?.times[meter][way]);
    Some(Spread::of(&pairs.map(|(other, own)| other / own).collect::<Vec<_>>()).median)
}

fn print(contenders: &[Contender]) {
    let seg = contenders.iter().find(|c| c.name == SEG);
    print!("{:20} {:>8}", "", "setup ms");
    for (meter, way) in METERS.iter().flat_map(|m| WAYS.map(|w| (m, w))) {
        print!(" {:>20} {:>6}", format!("{meter} {way}"), "ratio");
    }
    println!();
    for contender in contenders {
        print!("{:20} {:8.0}", contender.name, contender.setup_ms);
        for (meter, way) in (0..METERS.len()).flat_map(|m| [(m, 0), (m, 1)]) {
            let ratio = ratio(contender, seg, meter, way).unwrap_or(f64::NAN);
            print!(" {:>20} {ratio:6.2}", Spread::of(&contender.times[meter][way]).to_string());
        }
        println!();
    }
    let set = contenders.iter().find(|c| c.name == "nft concat set");
    for (meter, name) in METERS.iter().enumerate() {
        let Some([hit, miss]) =
            set.and_then(|set| Some([ratio(set, seg, meter, 0)?, ratio(set, seg, meter, 1)?]))
        else {
            continue;
        };
        let met = |ratio: f64, bar: f64| if ratio >= bar { "met" } else { "MISSED" };
        println!(
            "{name}: nft concat set over seg {hit:.2} on the accept path (bar 1.0: {}), {miss:.2} on the drop path (bar 1.5: {})",
            met(hit, 1.0),
            met(miss, 1.5)
        );
    }
}

fn json_of(contenders: &[Contender]) -> Vec<Value> {
    let seg = contenders.iter().find(|c| c.name == SEG);
    let one = |contender: &Contender| {
        let mut value = json!({ "name": contender.name, "setup_ms": contender.setup_ms });
        for (meter, meter_name) in METERS.iter().enumerate() {
            for (way, way_name) in WAYS.iter().enumerate() {
                let mut of = Spread::of(&contender.times[meter][way]).json();
                of["over_seg"] = json!(ratio(contender, seg, meter, way));
                value[format!("{meter_name}_{way_name}_ns")] = of;
            }
        }
        value
    };
    contenders.iter().map(one).collect()
}
