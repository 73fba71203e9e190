//! Records and the interfaces seen, to what must be done. Pure.
//!
//! INVARIANT: in a plan everything is loaded before anything is filled, and everything filled before anything is attached;
//! no interface is bound twice; a bound endpoint gets both of its hooks.

use crate::endpoints::{Located, Place};
use crate::inventory::Record;
use crate::kernel::{Features, Hook, Link, Namespace, Side};
use crate::refusal::{Problem, Refusal, nearest};
use seg_artifact::maps;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// `ARPHRD_ETHER` of include/uapi/linux/if_arp.h.
const ETHERNET: u16 = 1;

/// What the kernel showed before planning.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The interfaces here.
    pub links: Vec<Link>,
    /// The network namespaces that records name.
    pub namespaces: BTreeMap<String, Namespace>,
}

/// One change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the object's maps.
    Open,
    /// Load a program.
    Load {
        /// Its name.
        program: String,
    },
    /// Store a value in a map.
    Fill {
        /// The map.
        map: &'static str,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Let a program decide.
    Attach {
        /// Its name.
        program: String,
        /// Where.
        at: Hook,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Open => write!(f, "create the maps"),
            Self::Load { program } => write!(f, "load program `{program}`"),
            Self::Fill { map, .. } => write!(f, "fill map `{map}`"),
            Self::Attach { program, at } => write!(f, "attach program `{program}` to {at}"),
        }
    }
}

/// What must be done, and what it amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The local endpoints among the records.
    pub bindings: Vec<Binding>,
}

/// An endpoint and its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its record.
    pub record: Record,
    /// Where what it sends is decided.
    pub outbound: Hook,
    /// Where what it receives is decided.
    pub inbound: Hook,
}

/// Why this kernel cannot enforce the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Older than the object needs.
    #[error("the policy object needs Linux {wanted}; this is {found}")]
    Release {
        /// What the manifest says.
        wanted: String,
        /// What runs.
        found: String,
    },
    /// No tcx hooks.
    #[error("kernel feature missing: tcx (BPF links on interfaces, Linux 6.6); this is {found}")]
    Tcx {
        /// What runs.
        found: String,
    },
}

/// Whether a kernel can enforce an object that needs release `wanted`.
///
/// # Errors
/// [`Unsupported`], by name.
pub fn supported(features: &Features, wanted: &str) -> Result<(), Unsupported> {
    let found = features.release.clone();
    if release(&found) < release(wanted) {
        return Err(Unsupported::Release { wanted: wanted.to_owned(), found });
    }
    if !features.tcx {
        return Err(Unsupported::Tcx { found });
    }
    Ok(())
}

/// Major and minor number. What does not parse needs everything, or offers nothing.
fn release(text: &str) -> (u32, u32) {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Plans the binding of records to the interfaces seen.
///
/// # Errors
/// Every place that cannot be bound, in the order of the text.
pub fn plan(records: &[Record], seen: &Seen) -> Result<Plan, Vec<Refusal>> {
    let mut bindings: Vec<Binding> = Vec::new();
    let mut refusals = Vec::new();
    let mut bound: BTreeMap<u32, &Record> = BTreeMap::new();
    for record in records {
        let (at, found) = match &record.place {
            Place::Remote => continue,
            Place::Interface(name) => (name.at, interface(name, seen)),
            Place::Namespace(name) => (name.at, peer(name, seen)),
        };
        let link = match found {
            Ok(link) => link,
            Err(problem) => {
                refusals.push(Refusal { at, problem });
                continue;
            }
        };
        if let Some(first) = bound.get(&link.index) {
            let problem = Problem::SharedInterface {
                interface: link.name.clone(),
                first: first.name.clone(),
                line: first.at.line,
                second: record.name.clone(),
            };
            refusals.push(Refusal { at, problem });
        }
        bound.entry(link.index).or_insert(record);
        bindings.push(bind(record, link));
    }
    if refusals.is_empty() {
        let actions = actions(records, &bindings);
        Ok(Plan { actions, bindings })
    } else {
        Err(refusals)
    }
}

fn interface<'s>(name: &Located<String>, seen: &'s Seen) -> Result<&'s Link, Problem> {
    let name = &name.value;
    let link = seen.links.iter().find(|link| link.name == *name).ok_or_else(|| {
        let near = nearest(name, seen.links.iter().map(|link| link.name.as_str()));
        Problem::NoInterface { interface: name.clone(), near }
    })?;
    ethernet(link)
}

fn peer<'s>(name: &Located<String>, seen: &'s Seen) -> Result<&'s Link, Problem> {
    let netns = &name.value;
    let id = match seen.namespaces.get(netns) {
        Some(Namespace::Known(id)) => *id,
        Some(Namespace::Unrelated) => return Err(Problem::NoVeth(netns.clone())),
        Some(Namespace::Missing) | None => return Err(Problem::NoNamespace(netns.clone())),
    };
    let links: Vec<&Link> = seen.links.iter().filter(|link| link.leads_to == Some(id)).collect();
    match links.as_slice() {
        [] => Err(Problem::NoVeth(netns.clone())),
        [link] => ethernet(link),
        several => Err(Problem::SeveralVeths {
            netns: netns.clone(),
            interfaces: several.iter().map(|link| link.name.clone()).collect(),
        }),
    }
}

fn ethernet(link: &Link) -> Result<&Link, Problem> {
    if link.link_type == ETHERNET {
        return Ok(link);
    }
    Err(Problem::NotEthernet { interface: link.name.clone(), link_type: link.link_type })
}

/// What an endpoint behind an interface sends, the interface receives; what the machine itself sends, its interface sends.
fn bind(record: &Record, link: &Link) -> Binding {
    let hook = |side| Hook { index: link.index, interface: link.name.clone(), side };
    let (outbound, inbound) = match record.is_self {
        false => (hook(Side::Ingress), hook(Side::Egress)),
        true => (hook(Side::Egress), hook(Side::Ingress)),
    };
    Binding { record: record.clone(), outbound, inbound }
}

fn actions(records: &[Record], bindings: &[Binding]) -> Vec<Action> {
    let mut actions = vec![Action::Open];
    let hooks = || {
        bindings.iter().flat_map(|binding| {
            let record = &binding.record;
            [(&record.outbound, &binding.outbound), (&record.inbound, &binding.inbound)]
        })
    };
    let programs: BTreeSet<&String> = hooks().map(|(program, _)| program).collect();
    actions.extend(programs.into_iter().map(|program| Action::Load { program: program.clone() }));
    // The machine's own packets to endpoints of this node come by no interface.
    let others = bindings.iter().filter(|binding| !binding.record.is_self);
    let interfaces: BTreeMap<u32, u32> =
        others.map(|binding| (binding.record.number, binding.outbound.index)).collect();
    for record in records {
        let interface = interfaces.get(&record.number).copied().unwrap_or(0);
        let value = maps::record(record.number, record.is_self, interface, &record.values);
        actions.extend(record.addresses.iter().map(|address| Action::Fill {
            map: maps::ENDPOINTS,
            key: maps::address_key(*address).to_vec(),
            value: value.clone(),
        }));
    }
    actions.extend(bindings.iter().map(|binding| {
        let record = &binding.record;
        Action::Fill {
            map: maps::LOCAL,
            key: binding.outbound.index.to_ne_bytes().to_vec(),
            value: maps::record(record.number, record.is_self, 0, &record.values),
        }
    }));
    actions.extend(
        hooks().map(|(program, at)| Action::Attach { program: program.clone(), at: at.clone() }),
    );
    actions
}
