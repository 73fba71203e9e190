//! What `cargo demo` shows, as a test: every example's flows as real packets, each as its policy says.

use libtest_mimic::{Failed, Trial};
use seg_tests::daemon::Daemon;
use seg_tests::net::{self, Net};
use seg_tests::{demo, harness, probe, tools};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let examples = ["bastion", "shop", "starwars", "three-tier"];
    let mut trials: Vec<Trial> =
        examples.map(|name| harness::kernel(name, move || example(name))).into_iter().collect();
    trials.push(harness::kernel("a_stranger_cannot_use_an_endpoints_address", stranger));
    trials.push(harness::kernel("source_ports_and_named_ports_on_the_wire", ports));
    harness::main(trials).exit_code()
}

/// A host outside sends with the address of an endpoint of the node: only what the endpoint itself sends arrives.
fn stranger() -> Result<(), Failed> {
    const PORT: u16 = 5300;
    let [web, db]: [IpAddr; 2] = ["fd00:99::1".parse()?, "fd00:99::2".parse()?];
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let mut net = Net::new()?;
    for (label, address) in [("web", web), ("db", db), ("out", "fd00:99::3".parse()?)] {
        net.attach(label, &[address])?;
    }
    let [web_ns, db_ns, out_ns] =
        ["web", "db", "out"].map(|label| net.get(label).expect("attached").name.clone());
    std::fs::write(
        at("p.seg"),
        "label app = { web, db }\npolicy p { allow app:web -> app:db on udp/5300; isolate app:db }\n",
    )?;
    let endpoint = |app: &str, address: IpAddr, namespace: &str| {
        format!(
            "[[endpoint]]\nname = \"{app}\"\nlabels = {{ app = \"{app}\" }}\naddresses = [\"{address}\"]\nnetns = \"{namespace}\"\n"
        )
    };
    std::fs::write(at("e.toml"), endpoint("web", web, &web_ns) + &endpoint("db", db, &db_ns))?;
    build(&at("p.seg"), &at("p.o"))?;
    let node = net.node().name.clone();
    let daemon = Daemon::start(Some(&node), &at("p.o"), &at("e.toml"), &at("run"))?;

    let server = net::in_ns(&db_ns, || UdpSocket::bind((db, PORT)))??;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let send = |namespace: &str, text: &[u8]| {
        net::in_ns(namespace, || UdpSocket::bind((web, 0))?.send_to(text, (db, PORT)))?
    };
    net::in_ns(&out_ns, || net::add_address("lo", web))??;
    send(&out_ns, b"stranger")?;
    send(&web_ns, b"web")?;
    let mut text = [0; 16];
    let (n, _) = server.recv_from(&mut text)?;
    // One path, so the first to arrive would be the stranger's.
    if &text[..n] != b"web" {
        return Err(format!("{:?} arrived", String::from_utf8_lossy(&text[..n])).into());
    }
    let (code, said) = daemon.stop(libc::SIGTERM)?;
    if code == Some(0) { Ok(()) } else { Err(format!("segd: {code:?}\n{said}").into()) }
}

/// Datagrams pass from the source ports allowed, and to the port that their destination calls so; and answers to them.
fn ports() -> Result<(), Failed> {
    let [from, to]: [IpAddr; 2] = ["10.99.0.1".parse()?, "10.99.0.2".parse()?];
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let mut net = Net::new()?;
    net.attach("client", &[from])?;
    net.attach("server", &[to])?;
    let [client, server] =
        ["client", "server"].map(|label| net.get(label).expect("attached").name.clone());
    std::fs::write(
        at("p.seg"),
        "label app\nworkload s at 10.99.0.2 is app:s on { time = udp/5300 }\n\
         policy p { allow any -> app:s on udp/time & sport(5000-5010) }\n",
    )?;
    // The port is what the endpoints file says, not what the workload was declared with.
    let endpoints = format!(
        "[[endpoint]]\nname = \"s\"\nlabels.app = \"s\"\nports.time = \"udp/5301\"\naddresses = [\"{to}\"]\nnetns = \"{server}\"\n"
    );
    std::fs::write(at("e.toml"), endpoints)?;
    build(&at("p.seg"), &at("p.o"))?;
    let node = net.node().name.clone();
    let daemon = Daemon::start(Some(&node), &at("p.o"), &at("e.toml"), &at("run"))?;

    let sockets = net::in_ns(&server, || {
        [5300, 5301].map(|port| UdpSocket::bind((to, port)).expect("a free port"))
    })?;
    let [other, named] = &sockets;
    named.set_read_timeout(Some(Duration::from_secs(10)))?;
    other.set_nonblocking(true)?;
    // One path, so that whatever passes arrives in this order.
    let mut senders = Vec::new();
    for (source, destination) in [(4999, 5301), (5011, 5301), (5000, 5300), (5010, 5301)] {
        let text = format!("{source} to {destination}");
        let sender = net::in_ns(&client, || UdpSocket::bind((from, source)))??;
        sender.send_to(text.as_bytes(), (to, destination))?;
        senders.push(sender);
    }
    let mut text = [0; 32];
    let (n, sender) = named.recv_from(&mut text)?;
    assert_eq!(String::from_utf8_lossy(&text[..n]), "5010 to 5301");
    // No rule lets the server send: not first, and not to where nothing came from.
    named.send_to(b"unasked", (from, 5000))?;
    named.send_to(b"answer", sender)?;
    let [.., denied, answered] = senders.as_slice() else { return Err("four senders".into()) };
    answered.set_read_timeout(Some(Duration::from_secs(10)))?;
    let n = answered.recv(&mut text)?;
    assert_eq!(String::from_utf8_lossy(&text[..n]), "answer");
    denied.set_nonblocking(true)?;
    assert!(denied.recv(&mut text).is_err(), "an answer to a datagram that was dropped");
    assert!(other.recv_from(&mut text).is_err(), "a datagram to a port without the name");
    let (code, said) = daemon.stop(libc::SIGTERM)?;
    if code == Some(0) { Ok(()) } else { Err(format!("segd: {code:?}\n{said}").into()) }
}

fn build(policy: &Path, object: &Path) -> Result<(), Failed> {
    let mut segc = Command::new(tools::binaries().join("segc"));
    let built = segc.arg("build").arg(policy).arg("-o").arg(object).status()?;
    if built.success() { Ok(()) } else { Err("the policy does not build".into()) }
}

fn example(name: &str) -> Result<(), Failed> {
    let rows = demo::run(&harness::root().join("examples").join(name))?;
    let table = demo::table(name, &rows);
    // A demo in which everything passes, or nothing does, shows nothing.
    let passed = rows.iter().filter(|row| row.outcome == probe::Outcome::Allowed).count();
    if !rows.iter().all(demo::Row::agrees) || passed == 0 || passed == rows.len() {
        return Err(table.into());
    }
    println!("{table}");
    Ok(())
}
