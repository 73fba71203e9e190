//! The harness itself: what namespaces and probes say when no policy stands between.

use libtest_mimic::Failed;
use seg_tests::harness;
use seg_tests::net::{self, Net};
use seg_tests::probe::{self, Outcome, Probe, Service};
use std::net::IpAddr;
use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(vec![
        harness::kernel("every_service_passes_without_a_policy", every_service_passes),
        harness::kernel("silence_is_a_drop", silence_is_a_drop),
        harness::kernel("no_route_is_an_error", no_route_is_an_error),
        harness::kernel("nothing_is_left_afterwards", nothing_is_left_afterwards),
        harness::kernel("a_panic_leaves_nothing", a_panic_leaves_nothing),
        harness::kernel("namespaces_of_the_dead_are_swept", namespaces_of_the_dead_are_swept),
    ])
    .exit_code()
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().expect("an address")).collect()
}

/// A client and a server with both families, the server with two addresses of IPv4.
fn pair() -> std::io::Result<Net> {
    let mut net = Net::new()?;
    net.attach("client", &addresses(&["10.20.0.1", "fd20::1"]))?;
    net.attach("server", &addresses(&["10.20.0.2", "10.30.0.2", "fd20::2"]))?;
    net.address_node(&addresses(&["10.20.0.254", "fd20::fe"]))?;
    Ok(net)
}

fn probe(net: &Net, client: &str, server: &str, to: &str, service: Service) -> Probe {
    let name = |label| net.get(label).expect("attached").name.clone();
    let to = to.parse().expect("an address");
    Probe { client: name(client), from: None, server: name(server), to, service }
}

fn every_service_passes() -> Result<(), Failed> {
    let net = pair()?;
    let mut probes = Vec::new();
    for service in [Service::Tcp(80), Service::Tcp(443), Service::Udp(53), Service::Echo] {
        for to in ["10.20.0.2", "10.30.0.2", "fd20::2"] {
            probes.push(probe(&net, "client", "server", to, service));
        }
        for to in ["10.20.0.254", "fd20::fe"] {
            probes.push(probe(&net, "client", "node", to, service));
        }
        for to in ["10.20.0.1", "fd20::1"] {
            probes.push(probe(&net, "node", "client", to, service));
            let from = Some(if to.contains(':') { "fd20::2" } else { "10.30.0.2" }.parse()?);
            probes.push(Probe { from, ..probe(&net, "server", "client", to, service) });
        }
    }
    let outcomes = probe::run(&probes)?;
    for (probe, outcome) in probes.iter().zip(outcomes) {
        if outcome != Outcome::Allowed {
            return Err(format!("{probe:?}: {outcome:?}").into());
        }
    }
    Ok(())
}

fn silence_is_a_drop() -> Result<(), Failed> {
    let net = pair()?;
    let server = &net.get("server").ok_or("no server")?.name;
    // Packets arrive; the answers vanish on their way out.
    net::in_ns(server, || {
        addresses(&["10.20.0.1", "fd20::1"]).into_iter().try_for_each(net::add_blackhole)
    })??;
    let mut probes = Vec::new();
    for service in [Service::Tcp(80), Service::Udp(53), Service::Echo] {
        probes.push(probe(&net, "client", "server", "10.20.0.2", service));
        probes.push(probe(&net, "client", "server", "fd20::2", service));
    }
    assert_eq!(probe::run(&probes)?, vec![Outcome::Dropped; 6]);
    Ok(())
}

fn no_route_is_an_error() -> Result<(), Failed> {
    let mut net = pair()?;
    net.attach("four", &addresses(&["10.20.0.4"]))?;
    for service in [Service::Tcp(80), Service::Udp(53), Service::Echo] {
        let probes = [probe(&net, "four", "server", "fd20::2", service)];
        let outcomes = probe::run(&probes)?;
        assert!(matches!(outcomes.as_slice(), [Outcome::Error(_)]), "{service:?}: {outcomes:?}");
    }
    Ok(())
}

fn nothing_is_left_afterwards() -> Result<(), Failed> {
    let net = pair()?;
    let paths: Vec<_> = ["node", "client", "server"]
        .iter()
        .filter_map(|l| net.get(l))
        .map(|n| net::path(&n.name))
        .collect();
    assert!(paths.len() == 3 && paths.iter().all(|p| p.exists()));
    drop(net);
    assert!(paths.iter().all(|p| !p.exists()), "{paths:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(paths.iter().all(|p| !mounts.contains(&*p.to_string_lossy())));
    Ok(())
}

fn a_panic_leaves_nothing() -> Result<(), Failed> {
    let path = std::sync::Mutex::new(None);
    let panicked = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let net = pair().expect("a net");
            *path.lock().expect("alone") = Some(net::path(&net.node().name));
            // Unwinds without the hook that prints.
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        thread.join().is_err()
    });
    let path = path.lock().expect("alone").clone().ok_or("no net")?;
    assert!(panicked && !path.exists());
    Ok(())
}

fn namespaces_of_the_dead_are_swept() -> Result<(), Failed> {
    let net = pair()?;
    let mut child = std::process::Command::new("/bin/true").spawn()?;
    child.wait()?;
    let dead = net::path(&format!("seg-{}-0-node", child.id()));
    std::fs::write(&dead, "")?;
    net::sweep();
    assert!(!dead.exists() && net::path(&net.node().name).exists());
    Ok(())
}
