//! Whether the endpoints are the inventory that the policy's claims were proved on. Pure.
//!
//! A difference is told and not refused: workloads come, go and are relabelled without a new object (a quarantine is a label),
//! and rules hold for each as it is. Only claims and explanations speak of the workloads as they were declared.

use crate::endpoints::Endpoint;
use seg_artifact::manifest::{Workload, labels_text, parse_port, ports_text};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// Most warnings printed; the others are counted.
pub const WARNINGS_MAX: usize = 20;

/// What the policy's inventory and the endpoints of a node do not agree on, in words.
///
/// First endpoints that have an address of a workload and not exactly its labels and ports, or another address too, in the
/// order of the text; then addresses of workloads that no endpoint has, in the order of the workloads.
pub fn differences(endpoints: &[Endpoint], workloads: &[Workload]) -> Vec<String> {
    let owners: BTreeMap<IpAddr, &Workload> =
        workloads.iter().flat_map(|w| w.addresses.iter().map(move |a| (*a, w))).collect();
    let (mut found, mut differences) = (BTreeSet::new(), Vec::new());
    for endpoint in endpoints {
        let labels: BTreeMap<String, String> =
            endpoint.labels.iter().map(|(k, v)| (k.value.clone(), v.value.clone())).collect();
        found.extend(endpoint.addresses.iter().map(|address| address.value));
        let owned =
            endpoint.addresses.iter().filter_map(|a| Some((a.value, owners.get(&a.value)?)));
        let owned: Vec<(IpAddr, &Workload)> = owned.map(|(a, w)| (a, *w)).collect();
        let name = &endpoint.name.value;
        let ports = |w: &Workload| -> BTreeMap<String, (u8, u16)> {
            let known = w.ports.iter().filter_map(|(name, p)| Some((name.clone(), parse_port(p)?)));
            known.collect()
        };
        let own_ports = endpoint.ports.iter().map(|(name, port)| (name.value.clone(), *port));
        let own_ports: BTreeMap<_, _> = own_ports.collect();
        // One address is enough to say it.
        if let Some((address, workload)) = owned.iter().find(|(_, w)| w.labels != labels) {
            differences.push(format!(
                "endpoint `{name}` is {}, the policy declares workload `{}` ({address}) as {}; its claims were proved of that",
                labels_text(&labels),
                workload.name,
                labels_text(&workload.labels),
            ));
        } else if let Some((_, workload)) = owned.first()
            && let Some(more) = endpoint
                .addresses
                .iter()
                .find(|a| owners.get(&a.value).is_none_or(|w| w.name != workload.name))
        {
            differences.push(format!(
                "endpoint `{name}` has {}, which the policy does not declare for workload `{}`; its claims were proved without it",
                more.value, workload.name,
            ));
        } else if let Some((address, workload)) = owned.iter().find(|(_, w)| ports(w) != own_ports)
        {
            differences.push(format!(
                "endpoint `{name}` has other ports than the policy declares of workload `{}` ({address}): {}; its claims were proved of those",
                workload.name,
                if workload.ports.is_empty() { "none".to_owned() } else { ports_text(&workload.ports) },
            ));
        }
    }
    let each = workloads.iter().flat_map(|w| w.addresses.iter().map(move |address| (w, address)));
    let missing = each.filter(|(_, address)| !found.contains(address));
    differences.extend(missing.map(|(workload, address)| {
        let name = &workload.name;
        format!("workload `{name}` ({address}) of the policy is no endpoint; it is unmanaged here")
    }));
    differences
}

/// A line for each difference, at most [`WARNINGS_MAX`] and then how many more there are.
pub fn warnings(differences: &[String], path: &Path) -> String {
    let shown = differences.iter().take(WARNINGS_MAX);
    let mut out: String = shown.map(|d| format!("warning: {}: {d}\n", path.display())).collect();
    let n_more = differences.len().saturating_sub(WARNINGS_MAX);
    if n_more > 0 {
        out.push_str(&format!("warning: and {n_more} more\n"));
    }
    out
}
