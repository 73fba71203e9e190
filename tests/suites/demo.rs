//! What `cargo demo` shows, as a test: every example's flows as real packets, each as its policy says.

use libtest_mimic::{Failed, Trial};
use seg_tests::daemon::Daemon;
use seg_tests::net::{self, Net};
use seg_tests::{demo, harness, probe, tools};
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let examples = ["bastion", "shop", "starwars"];
    let mut trials: Vec<Trial> =
        examples.map(|name| harness::kernel(name, move || example(name))).into_iter().collect();
    trials.push(harness::kernel("a_stranger_cannot_use_an_endpoints_address", stranger));
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
    let build = Command::new(tools::binaries().join("segc"))
        .arg("build")
        .arg(at("p.seg"))
        .arg("-o")
        .arg(at("p.o"))
        .status()?;
    if !build.success() {
        return Err("the policy does not build".into());
    }
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
