//! Records and the interfaces seen, to what must be done. Pure.
//!
//! INVARIANT: in a plan everything is loaded before anything is filled, and everything filled before anything is attached;
//! no interface is bound twice; a bound endpoint gets both of its hooks. Every action says what undoes it.

use crate::endpoints::{Located, Place};
use crate::idents::{Exhausted, Given, Idents, Network};
use crate::inventory::Record;
use crate::kernel::{Features, Hook, Link, Namespace, Side};
use crate::refusal::{Position, Problem, Refusal, nearest};
use seg_artifact::maps::Store;
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
    Open {
        /// Entries of [`seg_artifact::maps::RECORDS`].
        n_records: u32,
    },
    /// Load a program, if it is not.
    Load {
        /// Its name.
        program: String,
    },
    /// Write into an array. It is not undone: what fails later leaves nothing that leads there.
    Store(Store),
    /// Put a value into a hash.
    Fill {
        /// The map.
        map: &'static str,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The value it had.
        before: Option<Vec<u8>>,
    },
    /// Take a value out of a hash.
    Remove {
        /// The map.
        map: &'static str,
        /// The key.
        key: Vec<u8>,
        /// The value it had.
        before: Vec<u8>,
    },
    /// Let a program decide.
    Attach {
        /// Its name.
        program: String,
        /// Where.
        at: Hook,
        /// The program that decided there.
        before: Option<String>,
    },
    /// Let a program decide in place of one of the policy before.
    Replace {
        /// Its name.
        program: String,
        /// Where.
        at: Hook,
        /// The other's name.
        before: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Open { .. } => write!(f, "create the maps"),
            Self::Load { program } => write!(f, "load program `{program}`"),
            Self::Store(store) => write!(f, "write into map `{}`", store.map),
            Self::Fill { map, .. } => write!(f, "fill map `{map}`"),
            Self::Remove { map, .. } => write!(f, "remove from map `{map}`"),
            Self::Attach { program, at, .. } => write!(f, "attach program `{program}` to {at}"),
            Self::Replace { program, at, before } => {
                write!(f, "replace program `{before}` by `{program}` at {at}")
            }
        }
    }
}

/// What must be done, and what it amounts to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The local endpoints among the records.
    pub bindings: Vec<Binding>,
    /// What is given then.
    pub idents: Idents,
    /// The idents of each record.
    pub given: Vec<Given>,
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

impl Binding {
    /// Its programs, each with its place.
    pub fn hooks(&self) -> [(&String, &Hook); 2] {
        [(&self.record.outbound, &self.outbound), (&self.record.inbound, &self.inbound)]
    }
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

/// Plans the binding of records to the interfaces seen, in this network.
///
/// # Errors
/// Every place that cannot be bound, in the order of the text; or that there is too much to know.
pub fn plan(records: &[Record], network: Network, seen: &Seen) -> Result<Plan, Vec<Refusal>> {
    let mut bindings: Vec<Option<Binding>> = Vec::new();
    let mut refusals = Vec::new();
    let mut bound: BTreeMap<u32, &Record> = BTreeMap::new();
    for record in records {
        match bind(record, seen) {
            Err(refusal) => refusals.push(refusal),
            Ok(binding) => {
                if let Some(index) = binding.as_ref().map(|binding| binding.outbound.index) {
                    refusals.extend(bound.get(&index).map(|first| shared(first, record, &binding)));
                    bound.entry(index).or_insert(record);
                }
                bindings.push(binding);
            }
        }
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    fill(records, bindings, network).map_err(|exhausted| {
        let at = Position { line: 1, column: 1 };
        vec![Refusal { at, problem: exhausted.into() }]
    })
}

/// Refuses a second endpoint behind an interface.
pub fn shared(first: &Record, second: &Record, binding: &Option<Binding>) -> Refusal {
    let at = match &second.place {
        Place::Interface(name) | Place::Namespace(name) => name.at,
        Place::Remote => second.at,
    };
    let problem = Problem::SharedInterface {
        interface: binding.as_ref().map(|b| b.outbound.interface.clone()).unwrap_or_default(),
        first: first.name.clone(),
        line: first.at.line,
        second: second.name.clone(),
    };
    Refusal { at, problem }
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

/// Where an endpoint's packets are decided, if here. What an endpoint behind an interface sends, the interface receives; what the
/// machine itself sends, its interface sends.
///
/// # Errors
/// Why its place cannot be bound.
pub fn bind(record: &Record, seen: &Seen) -> Result<Option<Binding>, Refusal> {
    let (at, found) = match &record.place {
        Place::Remote => return Ok(None),
        Place::Interface(name) => (name.at, interface(name, seen)),
        Place::Namespace(name) => (name.at, peer(name, seen)),
    };
    let link = found.map_err(|problem| Refusal { at, problem })?;
    let hook = |side| Hook { index: link.index, interface: link.name.clone(), side };
    let (outbound, inbound) = match record.is_self {
        false => (hook(Side::Ingress), hook(Side::Egress)),
        true => (hook(Side::Egress), hook(Side::Ingress)),
    };
    Ok(Some(Binding { record: record.clone(), outbound, inbound }))
}

fn fill(
    records: &[Record],
    bindings: Vec<Option<Binding>>,
    network: Network,
) -> Result<Plan, Exhausted> {
    let n_addresses = records.iter().map(|record| record.addresses.len()).sum();
    let n_bound = bindings.iter().flatten().count();
    let (mut idents, of_nets) = Idents::new(network, n_addresses, n_bound)?;
    let hooks: Vec<(&String, &Hook)> = bindings.iter().flatten().flat_map(Binding::hooks).collect();
    let programs: BTreeSet<&String> = hooks.iter().map(|(program, _)| *program).collect();
    let mut actions = vec![Action::Open { n_records: idents.n_records() }];
    actions.extend(programs.into_iter().map(|program| Action::Load { program: program.clone() }));
    actions.extend(of_nets);
    let mut given = Vec::new();
    for (record, binding) in records.iter().zip(&bindings) {
        let interface = binding.as_ref().map(|binding| binding.outbound.index);
        let change = idents.change(&Given::default(), Some((record, interface)))?;
        actions.extend(change.enter.into_iter().chain(change.publish));
        given.push(change.given);
    }
    actions.extend(hooks.into_iter().map(|(program, at)| Action::Attach {
        program: program.clone(),
        at: at.clone(),
        before: None,
    }));
    Ok(Plan { actions, bindings: bindings.into_iter().flatten().collect(), idents, given })
}

/// What takes the place of an applied plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// What must be done, in this order: the new generation is complete before it decides anywhere.
    pub actions: Vec<Action>,
    /// Hooks that the new plan has nothing at. They are let go when all else is done.
    pub gone: Vec<Hook>,
}

/// Plans the change from a policy that is enforced on these bindings to a plan for another.
///
/// A hook of both is never without a program, nor with two.
pub fn swap(old: &[Binding], new: &Plan) -> Swap {
    let mut decided: BTreeMap<(u32, Side), (&String, &Hook)> = old
        .iter()
        .flat_map(Binding::hooks)
        .map(|(program, at)| ((at.index, at.side), (program, at)))
        .collect();
    let actions = new.actions.iter().map(|action| {
        let Action::Attach { program, at, .. } = action else { return action.clone() };
        let before = decided.remove(&(at.index, at.side));
        before.map_or(action.clone(), |(before, _)| Action::Replace {
            program: program.clone(),
            at: at.clone(),
            before: before.clone(),
        })
    });
    let actions = actions.collect();
    Swap { actions, gone: decided.into_values().map(|(_, at)| at.clone()).collect() }
}
