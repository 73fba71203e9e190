//! segd: what it refuses, what it binds, how it answers and how it leaves.

use libtest_mimic::{Failed, Trial};
use seg_artifact::manifest::Workload;
use seg_artifact::maps::{ADDRESSES_MAX, BLOCK_BYTES, RULE_COUNTERS};
use seg_compiler::decided::{Config, Shape};
use seg_compiler::pipeline;
use seg_lang::analyze::analyze;
use seg_lang::source::Sources;
use seg_runtime::endpoints::Endpoint;
use seg_runtime::idents::Network;
use seg_runtime::kernel::linux::Linux;
use seg_runtime::kernel::{Hook, Kernel, Link, Namespace, Side};
use seg_runtime::live::{self, Live};
use seg_runtime::plan::{Action, Plan, Seen};
use seg_runtime::refusal::Refusal;
use seg_runtime::{apply, endpoints, inventory, plan, workloads};
use seg_tests::daemon::{self, Daemon};
use seg_tests::handmade;
use seg_tests::harness::{self, Case};
use seg_tests::net::{self, Net};
use seg_tests::probe::{self, Outcome, Probe, Service};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let mut trials = harness::cases("endpoints", "toml", endpoints_case);
    trials.extend([
        Trial::test("more_addresses_than_the_map_holds_are_refused", more_addresses_than_fit),
        Trial::test("missing_workloads_are_told", missing_workloads_are_told),
        Trial::test("old_kernels_are_refused_by_name", old_kernels_are_refused_by_name),
        Trial::test("wrong_use_exits_2", wrong_use_exits_2),
        Trial::test("a_refusal_exits_1", a_refusal_exits_1),
        Trial::test("a_damaged_object_is_refused", a_damaged_object_is_refused),
        harness::kernel("a_policy_decides_and_counts", a_policy_decides_and_counts),
        harness::kernel("a_refusal_attaches_nothing", a_refusal_attaches_nothing),
        harness::kernel("a_policy_takes_the_place_of_another", a_policy_takes_the_place),
        harness::kernel("an_object_of_the_past_is_refused", object_of_the_past),
        harness::kernel("the_verifier_is_quoted", the_verifier_is_quoted),
        harness::kernel("a_namespace_needs_one_way_in", a_namespace_needs_one_way_in),
        harness::kernel("the_machine_itself_is_bound_the_other_way", the_machine_itself),
        harness::kernel("rubbish_does_not_stop_the_daemon", rubbish_does_not_stop_the_daemon),
        harness::kernel("an_interface_that_went_away_is_said_to_be_gone", an_interface_went_away),
        harness::kernel("a_terminal_that_goes_away_ends_nothing", a_terminal_goes_away),
        harness::kernel("one_daemon_for_each_run_dir", one_daemon_for_each_run_dir),
        harness::kernel("endpoints_come_change_and_go_by_comparisons", || {
            endpoints_come_change_and_go(Shape::Tree)
        }),
        harness::kernel("endpoints_come_change_and_go_by_tables", || {
            endpoints_come_change_and_go(Shape::Tables)
        }),
    ]);
    harness::main(trials).exit_code()
}

/// What stands in for the kernel in the cases of `tests/data/endpoints`.
fn seen() -> Seen {
    let link = |index, name: &str, link_type, leads_to| Link {
        index,
        name: name.to_owned(),
        link_type,
        leads_to,
    };
    let namespaces = [
        ("shop", Namespace::Known(3)),
        ("twofold", Namespace::Known(4)),
        ("lonely", Namespace::Unrelated),
    ];
    Seen {
        links: vec![
            link(1, "lo", 772, None),
            link(2, "eth0", 1, None),
            link(7, "veth7", 1, Some(3)),
            link(8, "veth8", 1, Some(4)),
            link(9, "veth9", 1, Some(4)),
        ],
        namespaces: namespaces.map(|(name, id)| (name.to_owned(), id)).into(),
    }
}

/// The plan of a file, or its refusals. `#~ text` on a line demands a refusal there with that text.
fn endpoints_case(case: &Case) -> Result<String, String> {
    let planned = read_and_plan(&case.text);
    let wanted: Vec<(usize, &str)> = (1..)
        .zip(case.text.lines())
        .filter_map(|(line, text)| Some((line, text.split_once("#~")?.1.trim())))
        .collect();
    let refusals = match planned {
        Ok(plan) if wanted.is_empty() => return Ok(show(&plan)),
        Ok(_) => return Err("nothing is refused".to_owned()),
        Err(refusals) => refusals,
    };
    let found: Vec<(usize, String)> =
        refusals.iter().map(|r| (r.at.line as usize, r.problem.to_string())).collect();
    let as_wanted = found.len() == wanted.len()
        && found.iter().zip(&wanted).all(|(f, w)| f.0 == w.0 && f.1.contains(w.1));
    if !as_wanted {
        return Err(format!("wanted {wanted:?}, found {found:?}"));
    }
    Ok(refusals.iter().map(|refusal| format!("{refusal}\n")).collect())
}

fn read_and_plan(text: &str) -> Result<Plan, Vec<Refusal>> {
    let endpoints = endpoints::read(text)?;
    let manifest = handmade::manifest();
    let records = inventory::number(&endpoints, &manifest)?;
    plan::plan(&records, Network::default(), &seen())
}

fn show(plan: &Plan) -> String {
    let mut out = String::new();
    for action in &plan.actions {
        let _ = match action {
            Action::Fill { key, value, .. } => {
                writeln!(out, "{action}: {} = {}", words(key), words(value))
            }
            // Fresh maps hold zeros.
            Action::Store(store) if store.bytes.iter().all(|byte| *byte == 0) => Ok(()),
            Action::Store(store) if store.bytes.len() == BLOCK_BYTES as usize => {
                let entries = store.bytes.chunks(2).map(|e| u16::from_ne_bytes([e[0], e[1]]));
                let set = (0..).zip(entries).filter(|(_, entry)| *entry != 0);
                let set: Vec<String> = set.map(|(i, entry)| format!("{i} = {entry}")).collect();
                writeln!(out, "{action} at {}: block, {}", store.offset, set.join(", "))
            }
            Action::Store(store) => {
                writeln!(out, "{action} at {}: {}", store.offset, words(&store.bytes))
            }
            Action::Open { .. }
            | Action::Load { .. }
            | Action::Remove { .. }
            | Action::Attach { .. }
            | Action::Replace { .. } => writeln!(out, "{action}"),
        };
    }
    out
}

/// Bytes in groups of four.
fn words(bytes: &[u8]) -> String {
    let word = |word: &[u8]| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(4).map(word).collect::<Vec<_>>().join(" ")
}

fn more_addresses_than_fit() -> Result<(), Failed> {
    let text = |n: u32| {
        let address = |i| format!("\"{}\",", std::net::Ipv4Addr::from(0x0a00_0000 + i));
        let list: String = (0..n).map(address).collect();
        format!("[[endpoint]]\nname = \"a\"\ninterface = \"eth0\"\naddresses = [{list}]\n")
    };
    let refusals = |n| {
        let refusals = read_and_plan(&text(n)).err().unwrap_or_default();
        refusals.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // The interface takes one, too.
    assert!(refusals(ADDRESSES_MAX - 1).is_empty());
    let most = "1:1: a node knows at most 65535 addresses and interfaces; there are more";
    assert_eq!(refusals(ADDRESSES_MAX), [most]);
    assert_eq!(refusals(ADDRESSES_MAX + 1), ["1:1: 65536 addresses; a node knows at most 65535"]);
    Ok(())
}

fn told_as(inventory: &[Workload], labels: &str) -> String {
    let text = format!(
        "[[endpoint]]\nname = \"a\"\ninterface = \"eth0\"\naddresses = [\"10.9.0.4\", \"fd09::4\"]\nlabels = {{ {labels} }}\n"
    );
    let endpoints = endpoints::read(&text).expect("endpoints");
    workloads::warnings(&workloads::differences(&endpoints, inventory), Path::new("e.toml"))
}

/// Of each address, whichever endpoint has the others; beyond a screenful only how many.
fn missing_workloads_are_told() -> Result<(), Failed> {
    let mut inventory = handmade::manifest().workloads;
    let told = |inventory: &[Workload], addresses: &str| {
        let text = format!(
            "[[endpoint]]\nname = \"a\"\ninterface = \"eth0\"\naddresses = [{addresses}]\nlabels = {{ app = \"web\", env = \"dev\" }}\nports.metrics = \"tcp/9100\"\n"
        );
        let endpoints = endpoints::read(&text).expect("endpoints");
        workloads::warnings(&workloads::differences(&endpoints, inventory), Path::new("e.toml"))
    };
    let line = |address: &str| {
        format!(
            "warning: e.toml: workload `back-dev` ({address}) of the policy is no endpoint; it is unmanaged here\n"
        )
    };
    assert_eq!(told(&inventory, r#""fd09::4", "10.9.0.4""#), "");
    let more = "warning: e.toml: endpoint `a` has 10.0.0.1, which the policy does not declare for workload `back-dev`; its claims were proved without it\n";
    assert_eq!(told(&inventory, r#""10.9.0.4", "fd09::4", "10.0.0.1""#), more);
    let other = told_as(&inventory, "app = \"shop\"");
    let wanted = "warning: e.toml: endpoint `a` is app:shop, the policy declares workload `back-dev` (10.9.0.4) as app:web & env:dev; its claims were proved of that\n";
    assert_eq!(other, wanted);
    let other = told_as(&inventory, "app = \"web\", env = \"dev\"");
    let wanted = "warning: e.toml: endpoint `a` has other ports than the policy declares of workload `back-dev` (10.9.0.4): metrics = tcp/9100; its claims were proved of those\n";
    assert_eq!(other, wanted);
    assert_eq!(told(&inventory, r#""::ffff:10.9.0.4""#), line("fd09::4"));
    assert_eq!(told(&inventory, r#""10.0.0.1""#), line("10.9.0.4") + &line("fd09::4"));
    for n in 0..19 {
        let (labels, ports) = Default::default();
        let (name, addresses) = (format!("more-{n}"), vec![[10, 8, 0, n].into()]);
        inventory.push(Workload { name, addresses, labels, ports });
    }
    let text = told(&inventory, r#""10.0.0.1""#);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines.last()), (21, Some(&"warning: and 1 more")));
    Ok(())
}

fn old_kernels_are_refused_by_name() -> Result<(), Failed> {
    let check = |release: &str, tcx, wanted: &str, refusal: Option<&str>| {
        let features = seg_runtime::kernel::Features { release: release.to_owned(), tcx };
        let found = plan::supported(&features, wanted).err().map(|error| error.to_string());
        let holds = match (&found, refusal) {
            (Some(found), Some(refusal)) => found.contains(refusal),
            (found, refusal) => found.is_none() && refusal.is_none(),
        };
        assert!(holds, "{release} for {wanted}: {found:?}");
    };
    check("6.6.0", true, "6.6", None);
    check("6.18.44-fc-v657", true, "6.6", None);
    check("7.0.0-rc1", true, "6.18", None);
    check("6.1.192", true, "6.6", Some("needs Linux 6.6; this is 6.1.192"));
    check("5.10.0-46-amd64", false, "6.6", Some("needs Linux 6.6"));
    check("unknown", true, "6.6", Some("needs Linux 6.6"));
    check("6.6.0", false, "6.6", Some("tcx"));
    Ok(())
}

fn wrong_use_exits_2() -> Result<(), Failed> {
    for arguments in [vec![], vec!["run"], vec!["status", "--format", "xml"], vec!["stop"]] {
        let output = daemon::segd(None, &arguments)?.output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(daemon::segd(None, ["--help"])?.output()?.status.code(), Some(0));
    Ok(())
}

fn a_refusal_exits_1() -> Result<(), Failed> {
    let files = Files::new("")?;
    let missing = files.path("missing");
    let output =
        daemon::segd(None, ["status".as_ref(), "--run-dir".as_ref(), missing.as_os_str()])?
            .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("no segd answers"), "{stderr}");
    Ok(())
}

/// One byte anywhere makes it another object; a prefix is none.
fn a_damaged_object_is_refused() -> Result<(), Failed> {
    let object = handmade::object();
    seg_artifact::object::open(&object)?;
    for at in (0..object.len()).step_by(7) {
        let mut damaged = object.clone();
        if let Some(byte) = damaged.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        assert!(seg_artifact::object::open(&damaged).is_err(), "byte {at} flipped");
        assert!(seg_artifact::object::open(&object[..at]).is_err(), "cut at {at}");
    }
    Ok(())
}

/// A policy object, an endpoints file and a run directory of one test.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(endpoints: &str) -> std::io::Result<Self> {
        let files = Self { folder: tempfile::tempdir()? };
        std::fs::write(files.path("policy.bpf.o"), handmade::object())?;
        std::fs::write(files.path("endpoints.toml"), endpoints)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, namespace: &str) -> Result<Daemon, String> {
        let (policy, endpoints) = (self.path("policy.bpf.o"), self.path("endpoints.toml"));
        Daemon::start(Some(namespace), &policy, &endpoints, &self.path("run"))
    }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().expect("an address")).collect()
}

/// A node with `dev`, `prod` and `outside` attached, the first two in the endpoints file.
fn bound() -> Result<(Net, Files), Failed> {
    let mut net = Net::new()?;
    let dev = net.attach("dev", &addresses(&["10.20.0.1", "fd20::1"]))?.name.clone();
    let prod = net.attach("prod", &addresses(&["10.20.0.2", "fd20::2"]))?.node_interface.clone();
    net.attach("outside", &addresses(&["10.20.0.3", "fd20::3"]))?;
    let endpoints = format!(
        r#"
[[endpoint]]
name = "dev-1"
labels = {{ app = "shop", env = "dev" }}
addresses = ["10.20.0.1", "fd20::1"]
netns = "{dev}"

[[endpoint]]
name = "prod-1"
labels = {{ app = "unheard-of", env = "prod" }}
addresses = ["10.20.0.2", "fd20::2"]
interface = "{prod}"

[[endpoint]]
name = "peer-1"
addresses = ["192.0.2.1"]
"#
    );
    Ok((net, Files::new(&endpoints)?))
}

fn outcomes(net: &Net, client: &str, to: &str) -> Result<Vec<Outcome>, Failed> {
    let server = net.get("outside").ok_or("no outside")?;
    let client = net.get(client).ok_or("no client")?;
    let to = to.parse::<IpAddr>()?;
    let services = [Service::Tcp(80), Service::Udp(53), Service::Echo];
    let probes = services.map(|service| Probe {
        client: client.name.clone(),
        from: None,
        server: server.name.clone(),
        to,
        service,
    });
    Ok(probe::run(&probes)?)
}

fn a_policy_decides_and_counts() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let all = |outcome: Outcome| vec![outcome; 3];
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, all(Outcome::Allowed));
    let daemon = files.start(&net.node().name)?;
    let (dev, prod) = (net.get("dev").ok_or("dev")?, net.get("prod").ok_or("prod")?);
    let lines: Vec<&str> = daemon.started.lines().collect();
    assert_eq!(
        lines.get(..2),
        Some(
            [
                &*format!(
                    "bound dev-1: {} (netns {}), outbound out_pass at ingress, inbound in_pass at egress, 10.20.0.1 fd20::1",
                    dev.node_interface, dev.name
                ),
                &*format!(
                    "bound prod-1: {}, outbound out_drop at ingress, inbound in_pass at egress, 10.20.0.2 fd20::2",
                    prod.node_interface
                ),
            ]
            .as_slice()
        )
    );
    assert!(
        daemon.started.contains("ready: 2 endpoints bound, 5 addresses known, package handmade")
    );

    let before = daemon.status()?;
    for to in ["10.20.0.3", "fd20::3"] {
        assert_eq!(outcomes(&net, "dev", to)?, all(Outcome::Allowed), "dev to {to}");
        assert_eq!(outcomes(&net, "prod", to)?, all(Outcome::Dropped), "prod to {to}");
    }
    let after = daemon.status()?;
    for (rule, (before, after)) in before.rules.iter().zip(&after.rules).enumerate() {
        assert!(after.packets >= before.packets + 3, "rule {rule}: {before:?} {after:?}");
        assert!(after.bytes - before.bytes >= 14 * (after.packets - before.packets));
    }
    assert_eq!(after.rules.len(), 2);
    assert_eq!(after.reasons.len(), seg_artifact::maps::Reason::ALL.len());
    assert!(RULE_COUNTERS as usize >= after.reasons.len());

    let run_dir = files.path("run");
    let text = shown(&run_dir, "text")?;
    assert!(text.contains("policy web  web.seg:3  deny env:prod -> any"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&shown(&run_dir, "json")?)?;
    assert_eq!((&json["version"], &json["rules"][1]["line"]), (&1.into(), &3.into()));

    let (code, rest) = daemon.stop(libc::SIGTERM)?;
    assert_eq!(code, Some(0));
    assert!(rest.contains("detached prod-1: veth2\nstopped by SIGTERM"), "{rest}");
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, all(Outcome::Allowed));
    assert!(!run_dir.join("segd.sock").exists());
    Ok(())
}

fn shown(run_dir: &Path, format: &str) -> Result<String, Failed> {
    let arguments = [
        "status".as_ref(),
        "--run-dir".as_ref(),
        run_dir.as_os_str(),
        "--format".as_ref(),
        format.as_ref(),
    ];
    let output = daemon::segd(None, arguments)?.output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The endpoints exchange their labels; a swap that fails, at once or at its last hook, changes nothing.
fn a_policy_takes_the_place() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let text = std::fs::read_to_string(files.path("endpoints.toml"))?;
    let exchanged = text.replace("\"dev\" }", "\"?\" }").replace("\"prod\" }", "\"dev\" }");
    let exchanged = exchanged.replace("\"?\" }", "\"prod\" }");
    let object = handmade::object();
    let refused = |refusals: Vec<Refusal>| Failed::from(format!("{refusals:?}"));
    let passes = |client| -> Result<bool, Failed> {
        let outcomes = outcomes(&net, client, "10.20.0.3")?;
        Ok(outcomes == vec![Outcome::Allowed; 3])
    };
    net::in_ns(&net.node().name, || {
        let mut kernel = Linux::default();
        let seen = Seen {
            links: kernel.links()?,
            namespaces: [(
                net.get("dev").ok_or("dev")?.name.clone(),
                kernel.namespace(&net.get("dev").ok_or("dev")?.name)?,
            )]
            .into(),
        };
        let planned = |text: &str| {
            let endpoints = endpoints::read(text).map_err(refused)?;
            let records = inventory::number(&endpoints, &handmade::manifest()).map_err(refused)?;
            plan::plan(&records, Network::default(), &seen).map_err(refused)
        };
        let (old, new) = (planned(&text)?, planned(&exchanged)?);
        // Neighbours are known from here on: these programs drop ARP too, and a lost question is asked again after a second.
        assert_eq!((passes("dev")?, passes("prod")?), (true, true));
        apply::apply(&mut kernel, &object, &old.actions)?;
        assert_eq!((passes("dev")?, passes("prod")?), (true, false));

        let damaged = object.get(..object.len() / 2).unwrap_or_default();
        assert!(apply::swap(&mut kernel, damaged, &old.bindings, &new).is_err());
        let mut gone = new.clone();
        let at = Hook { index: 9_999, interface: "gone".to_owned(), side: Side::Ingress };
        gone.actions.push(Action::Attach { program: "in_pass".to_owned(), at, before: None });
        let error =
            apply::swap(&mut kernel, &object, &old.bindings, &gone).expect_err("no interface");
        assert!(error.stuck.is_empty() && error.n_undone > 10, "{error}");
        assert_eq!((passes("dev")?, passes("prod")?), (true, false));

        apply::swap(&mut kernel, &object, &old.bindings, &new)?;
        assert_eq!((passes("dev")?, passes("prod")?), (false, true));
        apply::undo(&mut kernel, &new.actions);
        assert_eq!((passes("dev")?, passes("prod")?), (true, true));
        Ok(())
    })?
}

fn a_refusal_attaches_nothing() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let path = files.path("endpoints.toml");
    let mut text = std::fs::read_to_string(&path)?;
    text.push_str("interface = \"veth9\"\n");
    std::fs::write(&path, text)?;
    let error = files.start(&net.node().name).expect_err("refused");
    assert!(error.contains("endpoints.toml:17:13: no interface `veth9`; did you mean"), "{error}");
    let warning = "workload `back-dev` (10.9.0.4) of the policy is no endpoint; it is unmanaged";
    assert!(error.starts_with("warning: ") && error.contains(warning), "{error}");
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Allowed; 3]);
    Ok(())
}

fn a_namespace_needs_one_way_in() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let node = net.node();
    let (dev, outside) = (net.get("dev").ok_or("no dev")?, net.get("outside").ok_or("no outside")?);
    let inside = std::fs::File::open(net::path(&dev.name))?;
    net::in_ns(&node.name, || net::add_veth("second", "eth1", &inside))??;
    let error = files.start(&node.name).expect_err("two ways in");
    assert!(error.contains("`second`") && error.contains(&dev.node_interface), "{error}");
    assert!(error.contains(&format!("lead into `{}`; give one", dev.name)), "{error}");

    // Seen from `outside`, the node is one hop away and `dev` is not.
    for (netns, wanted) in [
        (dev.name.as_str(), "no veth of this namespace leads into"),
        ("seg-none", "no network namespace `seg-none` in /run/netns"),
    ] {
        let endpoints = format!(
            "[[endpoint]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]\nnetns = \"{netns}\"\n"
        );
        std::fs::write(files.path("endpoints.toml"), endpoints)?;
        let error = files.start(&outside.name).expect_err("no way in");
        assert!(error.contains(wanted), "{error}");
    }
    Ok(())
}

/// What has expired is allowed by no segd, and by none again; what has not is.
fn object_of_the_past() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let mut manifest = handmade::manifest();
    for (date, refused) in [("2020-02-29", true), ("9999-12-31", false)] {
        manifest.not_after = Some(date.to_owned());
        manifest.rules[0].expires = Some(date.to_owned());
        std::fs::write(files.path("policy.bpf.o"), handmade::object_of(&manifest))?;
        match files.start(&net.node().name) {
            Err(error) if refused => {
                let wanted = "made for the days up to 2020-02-29 (UTC)";
                assert!(error.contains(wanted), "{error}");
                assert!(error.contains("web.seg:2 allow any -> any"), "{error}");
                assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Allowed; 3]);
            }
            Ok(daemon) if !refused => assert_eq!(daemon.stop(libc::SIGINT)?.0, Some(0)),
            Ok(_) => return Err("an object of the past is bound".into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn the_verifier_is_quoted() -> Result<(), Failed> {
    let (net, files) = bound()?;
    std::fs::write(files.path("policy.bpf.o"), handmade::refused_object())?;
    let error = files.start(&net.node().name).expect_err("refused");
    for part in ["load program `in_pass`", "R5 !read_ok", "nothing stays attached"] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Allowed; 3]);
    Ok(())
}

/// segd inside the machine `prod`: what the machine sends leaves by egress.
fn the_machine_itself() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let endpoints = "[[endpoint]]\nname = \"host\"\nself = true\nlabels = { env = \"prod\" }\naddresses = [\"10.20.0.2\", \"fd20::2\"]\ninterface = \"eth0\"\n";
    std::fs::write(files.path("endpoints.toml"), endpoints)?;
    let daemon = files.start(&net.get("prod").ok_or("no prod")?.name)?;
    let line = "bound host: eth0 (self), outbound out_drop at egress, inbound in_pass at ingress";
    assert!(daemon.started.starts_with(line), "{}", daemon.started);
    assert!(daemon.started.contains("ready: 1 endpoint bound, 2 addresses known,"));
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Dropped; 3]);
    assert_eq!(outcomes(&net, "dev", "10.20.0.3")?, vec![Outcome::Allowed; 3]);
    assert_eq!(daemon.stop(libc::SIGINT)?.0, Some(0));
    Ok(())
}

fn rubbish_does_not_stop_the_daemon() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let daemon = files.start(&net.node().name)?;
    let socket = files.path("run/segd.sock");
    // Three clients that say nothing, for as long as the test lasts.
    let _silent: Vec<UnixStream> =
        (0..3).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    let flood = "x".repeat(100_000);
    for (line, reply) in [
        ("rubbish\n", "not a request"),
        ("\u{0}\n", "not a request"),
        (r#"{"version":2,"command":"status"}"#, "version 2 is asked"),
        (r#"{"version":1,"command":"stop"}"#, "unknown variant"),
        (r#"{"version":1,"command":"status","more":1}"#, "unknown field"),
        (flood.as_str(), "a line of more than 4096 bytes"),
    ] {
        let mut stream = UnixStream::connect(&socket)?;
        // The daemon may hang up on the flood before all of it is written.
        let _ = stream.write_all(format!("{}\n", line.trim_end()).as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.contains(reply) && answer.starts_with(r#"{"version":1,"error":"#),
            "{answer}"
        );
    }
    assert_eq!(daemon.status()?.endpoints.len(), 2);
    // More than are served: the last are turned away at once, the others answered when they end.
    let mut crowd: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    let mut answers = Vec::new();
    for mut stream in crowd.drain(..).rev() {
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        answers.push(answer);
    }
    assert_eq!(answers.first().map(String::as_str), Some(""));
    assert!(answers.last().is_some_and(|answer| answer.contains("no request")), "{answers:?}");
    assert!(daemon.status()?.turned_away >= 24);
    assert_eq!(daemon.stop(libc::SIGTERM)?.0, Some(0));
    Ok(())
}

/// Also when another of its name takes its place: nothing is attached to that one.
fn an_interface_went_away() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let daemon = files.start(&net.node().name)?;
    let present = |daemon: &Daemon| -> Result<Vec<bool>, Failed> {
        Ok(daemon.status()?.endpoints.iter().map(|endpoint| endpoint.present).collect())
    };
    assert_eq!(present(&daemon)?, [true, true]);
    let prod = net.get("prod").ok_or("no prod")?;
    let inside = std::fs::File::open(net::path(&prod.name))?;
    net::in_ns(&net.node().name, || {
        net::remove_link(&prod.node_interface)?;
        net::add_veth(&prod.node_interface, net::INTERFACE, &inside)
    })??;
    assert_eq!(present(&daemon)?, [true, false]);
    let text = shown(&files.path("run"), "text")?;
    assert!(text.contains("veth2 (gone: not enforced)"), "{text}");
    assert_eq!(daemon.stop(libc::SIGTERM)?.0, Some(0));
    Ok(())
}

fn a_terminal_goes_away() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let daemon = files.start(&net.node().name)?;
    daemon.signal(libc::SIGHUP)?;
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Dropped; 3]);
    let (code, rest) = daemon.stop(libc::SIGTERM)?;
    assert!(code == Some(0) && rest.contains("stopped by SIGTERM"), "{code:?} {rest}");
    Ok(())
}

fn one_daemon_for_each_run_dir() -> Result<(), Failed> {
    let (net, files) = bound()?;
    let node = &net.node().name;
    let first = files.start(node)?;
    let error = files.start(node).expect_err("the run directory is taken");
    assert!(error.contains("another segd runs in"), "{error}");
    assert_eq!(first.status()?.endpoints.len(), 2);
    // Killed: its links die with it, its socket stays and is replaced.
    drop(first);
    assert!(files.path("run/segd.sock").exists());
    assert_eq!(outcomes(&net, "prod", "10.20.0.3")?, vec![Outcome::Allowed; 3]);
    let second = files.start(node)?;
    assert_eq!(second.status()?.endpoints.len(), 2);
    Ok(())
}

/// The endpoints file of some of two endpoints on `net`: who, value of `app`, addresses.
fn inventory_of(net: &Net, members: &[(&str, &str, &[&str])]) -> Result<String, Failed> {
    let mut text = String::new();
    for (name, app, addresses) in members {
        let interface = &net.get(name).ok_or("not attached")?.node_interface;
        writeln!(
            text,
            "[[endpoint]]\nname = \"{name}\"\nlabels.app = \"{app}\"\naddresses = {addresses:?}\ninterface = \"{interface}\""
        )?;
    }
    Ok(text)
}

/// Under an applied policy, each change counts from the next packet on; no daemon, the library in the node's namespace.
fn endpoints_come_change_and_go(shape: Shape) -> Result<(), Failed> {
    let mut sources = Sources::default();
    // Addresses, so that tables tell nets apart.
    let text = "label app\npolicy p { allow app:web & 10.20.0.0/24 -> app:db on tcp/80; allow app:web & fd20::/64 -> app:db on tcp/80 }\n";
    sources.add("p.seg", text);
    let policy = analyze(sources.clone()).policy.ok_or("the policy does not check")?;
    let config = Config { shape: Some(shape), ..Config::default() };
    let object = pipeline::compile(&policy, &sources, "p", config)?.object;
    let artifact = seg_artifact::object::open(&object)?;
    let manifest = &artifact.manifest;

    let mut net = Net::new()?;
    const WEB: &[&str] = &["10.20.0.1", "fd20::1"];
    const DB: &[&str] = &["10.20.0.2", "fd20::2"];
    net.attach("web", &addresses(WEB))?;
    net.attach("db", &addresses(DB))?;
    let probes: Vec<Probe> = DB
        .iter()
        .map(|to| Probe {
            client: net.get("web").expect("attached").name.clone(),
            from: None,
            server: net.get("db").expect("attached").name.clone(),
            to: to.parse().expect("an address"),
            service: Service::Tcp(80),
        })
        .collect();
    let expect = |wanted: Outcome, when: &str| -> Result<(), String> {
        let seen = probe::run(&probes).map_err(|e| e.to_string())?;
        if seen == vec![wanted.clone(); 2] { Ok(()) } else { Err(format!("{when}: {seen:?}")) }
    };
    let one = |text: &str| endpoints::read(text).expect("an endpoint").remove(0);
    let db = one(&inventory_of(&net, &[("db", "db", DB)])?);
    let web = |app: &str, addresses: &[&str]| -> Result<Endpoint, Failed> {
        Ok(one(&inventory_of(&net, &[("web", app, addresses)])?))
    };
    let steps = [
        ("it comes", Some(web("web", WEB)?), Outcome::Allowed),
        ("it is another", Some(web("other", WEB)?), Outcome::Dropped),
        ("it is itself again", Some(web("web", WEB)?), Outcome::Allowed),
        (
            "its addresses are others",
            Some(web("web", &["10.20.0.9", "fd20::9"])?),
            Outcome::Dropped,
        ),
        ("it has them back", Some(web("web", WEB)?), Outcome::Allowed),
        ("it goes", None, Outcome::Dropped),
    ];
    let run = || -> Result<(), String> {
        let mut kernel = Linux::default();
        let text = |e: &dyn std::error::Error| e.to_string();
        let known = std::slice::from_ref(&db);
        let records = inventory::number(known, manifest).expect("sound");
        let seen = live::look(&mut kernel, &records).map_err(|e| text(&e))?;
        let plan = plan::plan(&records, Network::of(&artifact), &seen).expect("bound");
        apply::apply(&mut kernel, &object, &plan.actions).map_err(|e| text(&e))?;
        let mut live = Live::new(manifest, known, &records, &plan);
        expect(Outcome::Dropped, "it is nobody")?;
        for (when, endpoint, wanted) in &steps {
            let before = Instant::now();
            match endpoint {
                Some(endpoint) => live.put(&mut kernel, endpoint),
                None => live.remove(&mut kernel, "web"),
            }
            .map_err(|e| text(&e))?;
            println!("{when}: {:?}", before.elapsed());
            expect(wanted.clone(), when)?;
        }
        live.remove(&mut kernel, "db").map_err(|e| text(&e))?;
        expect(Outcome::Allowed, "nobody is left")
    };
    net::in_ns(&net.node().name, run)??;
    Ok(())
}
