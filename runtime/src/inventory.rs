//! Endpoints and manifest to numbered records: labels interned, programs chosen.
//!
//! Preserves every endpoint and its order. Labels and names of ports are checked against the manifest's; the language is not needed.

use crate::endpoints::{Endpoint, Place};
use crate::refusal::{Position, Problem, Refusal, nearest};
use seg_artifact::manifest::{Label, Manifest};
use seg_artifact::maps;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An endpoint in the policy's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// From 1, in the order of the file.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub at: Position,
    /// Whether it is the machine itself.
    pub is_self: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// One value for each dimension of the manifest, 0 if unset, then one for each of its ports, see [`maps::port_value`].
    pub values: Vec<u32>,
    /// Where its packets pass.
    pub place: Place,
    /// Program for what it sends.
    pub outbound: String,
    /// Program for what it receives.
    pub inbound: String,
}

/// Numbers endpoints and their labels.
///
/// In an open dimension, values no rule mentions are numbered above the listed ones in sorted order, the same for every endpoint.
///
/// # Errors
/// Every label, value or name of a port the manifest does not know, in the order of the text.
pub fn number(endpoints: &[Endpoint], manifest: &Manifest) -> Result<Vec<Record>, Vec<Refusal>> {
    let mut values = Values::default();
    values.learn(endpoints, manifest);
    let (mut records, mut refusals) = (Vec::new(), Vec::new());
    for (number, endpoint) in (1..).zip(endpoints) {
        match values.record(number, endpoint, manifest) {
            Ok(record) => records.push(record),
            Err(more) => refusals.extend(more),
        }
    }
    refusals.sort_by_key(|refusal| refusal.at);
    if refusals.is_empty() { Ok(records) } else { Err(refusals) }
}

/// The numbers of label values that no rule mentions, by dimension. A number once given stays.
#[derive(Clone, Debug, Default)]
pub struct Values {
    others: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Values {
    /// Numbers the values of endpoints that have none yet, in sorted order.
    pub fn learn(&mut self, endpoints: &[Endpoint], manifest: &Manifest) {
        for label in manifest.labels.iter().filter(|label| !label.closed) {
            let known = self.others.entry(label.name.clone()).or_default();
            let set = endpoints.iter().flat_map(|e| &e.labels);
            let new: BTreeSet<&String> = set
                .filter(|(key, _)| key.value == label.name)
                .map(|(_, value)| &value.value)
                .filter(|value| !label.values.contains(value) && !known.contains_key(*value))
                .collect();
            let first = label.values.len() + known.len() + 1;
            known.extend(
                (first..).zip(new).filter_map(|(n, v)| Some((v.clone(), u32::try_from(n).ok()?))),
            );
        }
    }

    /// An endpoint in the policy's numbers, once its values are learnt.
    ///
    /// # Errors
    /// As [`number`].
    pub fn record(
        &self,
        number: u32,
        endpoint: &Endpoint,
        manifest: &Manifest,
    ) -> Result<Record, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut labels = vec![0; manifest.labels.len()];
        for (key, value) in &endpoint.labels {
            let mut found = manifest.labels.iter().zip(&mut labels);
            let Some((label, place)) = found.find(|(label, _)| label.name == key.value) else {
                let known = manifest.labels.iter().map(|label| label.name.as_str());
                let near = nearest(&key.value, known);
                let problem = Problem::Label { label: key.value.clone(), near };
                refusals.push(Refusal { at: key.at, problem });
                continue;
            };
            match self.number(label, &value.value) {
                Some(number) => *place = number,
                None => {
                    let problem = Problem::Value {
                        label: label.name.clone(),
                        value: value.value.clone(),
                        values: label.values.clone(),
                        near: nearest(&value.value, label.values.iter().map(String::as_str)),
                    };
                    refusals.push(Refusal { at: value.at, problem });
                }
            }
        }
        let mut ports = vec![0; manifest.ports.len()];
        for (name, (protocol, port)) in &endpoint.ports {
            let mut found = manifest.ports.iter().zip(&mut ports);
            match found.find(|(known, _)| **known == name.value) {
                Some((_, place)) => *place = maps::port_value(*protocol, *port),
                None => {
                    let near = nearest(&name.value, manifest.ports.iter().map(String::as_str));
                    let problem = Problem::PortName { port: name.value.clone(), near };
                    refusals.push(Refusal { at: name.at, problem });
                }
            }
        }
        let program = |roles: &seg_artifact::manifest::Roles| {
            roles.program(endpoint.is_self, &labels).map(str::to_owned)
        };
        let name = endpoint.name.value.clone();
        let at = endpoint.name.at;
        let (Some(outbound), Some(inbound)) =
            (program(&manifest.outbound), program(&manifest.inbound))
        else {
            refusals.push(Refusal { at, problem: Problem::NoProgram(name) });
            return Err(refusals);
        };
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(Record {
            number,
            name,
            at,
            is_self: endpoint.is_self,
            addresses: endpoint.addresses.iter().map(|address| address.value).collect(),
            values: [labels, ports].concat(),
            place: endpoint.place.clone(),
            outbound,
            inbound,
        })
    }

    fn number(&self, label: &Label, value: &str) -> Option<u32> {
        let listed = label.values.iter().position(|listed| listed == value);
        match listed {
            Some(listed) => u32::try_from(listed + 1).ok(),
            None => self.others.get(&label.name)?.get(value).copied(),
        }
    }
}
