//! The idents of a node: by which each address is known, and by which who is behind an interface. Pure.
//!
//! INVARIANT: a given ident stands for one endpoint under one address as it is now. If anything about it changes, another is
//! given; the old one is given again only after [`Idents::reclaim`], when no packet is judged by what it stood for.

use crate::inventory::Record;
use crate::plan::Action;
use seg_artifact::addresses::{Addresses4, Full, Nets};
use seg_artifact::classes::Classes;
use seg_artifact::maps::{self, About, Store};
use seg_artifact::object::Artifact;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Nothing is left to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Idents.
    #[error("a node knows at most {max} addresses and interfaces; there are more")]
    Idents {
        /// How many, nets left out.
        max: u32,
    },
    /// Blocks of addresses.
    #[error(transparent)]
    Blocks(#[from] Full),
}

/// Nets times bound endpoints up to which each endpoint has an ident under each net.
///
/// Unit: idents. Source: chosen, so that an endpoint that changes costs a millisecond at most.
const BEHIND_ALL: u32 = 4_096;

/// What a policy says of addresses before any endpoint has one.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// The nets told apart.
    pub nets: Nets,
    /// What sorts ends into classes, if programs ask for them.
    pub classes: Option<Classes>,
}

impl Network {
    /// What an object says.
    pub fn of(artifact: &Artifact) -> Self {
        Self { nets: Nets::new(&artifact.manifest.nets), classes: artifact.classes.clone() }
    }

    /// The stores that make the classes of ident 0 and of the nets known: those of each array at once.
    fn stores(&self) -> Vec<Store> {
        let nets = self.classes.as_ref().map(|classes| classes.nets.as_slice()).unwrap_or_default();
        let each = (0..)
            .zip(nets)
            .flat_map(|(ident, &classes)| About { classes, ..About::default() }.stores(ident));
        let mut arrays: BTreeMap<u32, Store> = BTreeMap::new();
        for (place, store) in each.enumerate() {
            let array = u32::try_from(place % ARRAYS).unwrap_or(0);
            match arrays.get_mut(&array) {
                Some(whole) => whole.bytes.extend(store.bytes),
                None => drop(arrays.insert(array, store)),
            }
        }
        arrays.into_values().collect()
    }

    /// The nets, and 0, under which each of so many bound endpoints has an ident, with an address of each if there is any:
    /// whichever it is, an endpoint under it has the same classes.
    fn behind(&self, n_bound: u32) -> BTreeMap<u16, IpAddr> {
        let all = u32::from(self.nets.count()).saturating_mul(n_bound) <= BEHIND_ALL;
        let mut behind = BTreeMap::from([(0, self.nets.outside())]);
        for (first, last, ident) in self.nets.ranges() {
            if all || is_for_others(first, last) {
                behind.entry(ident).or_insert(Some(first));
            }
        }
        behind.into_iter().filter_map(|(net, address)| Some((net, address?))).collect()
    }
}

/// Arrays that hold something of an ident without a record.
const ARRAYS: usize = 5;

/// What is given, and what can be. Copies are cheap.
#[derive(Clone, Debug)]
pub struct Idents {
    network: Arc<Network>,
    /// See [`Network::behind`].
    behind: Arc<BTreeMap<u16, IpAddr>>,
    addresses: Addresses4,
    /// The first that was never given.
    next: u32,
    /// How many there are records for.
    end: u32,
    free: Vec<u16>,
    retired: Vec<u16>,
}

/// The idents of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// By address.
    pub addresses: BTreeMap<IpAddr, u16>,
    /// By interface, and net of an address that no endpoint has.
    pub behind: BTreeMap<(u32, u16), u16>,
}

/// What gives an endpoint other idents.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Those it has then.
    pub given: Given,
    /// To be done first: what idents stand for, and entries of hashes.
    pub enter: Vec<Action>,
    /// To be done in the end, which cannot fail: IPv4 addresses take their idents, each in one step.
    pub publish: Vec<Action>,
}

impl Idents {
    /// For so many addresses and bound endpoints, and as many again; with the actions that make the nets known.
    ///
    /// # Errors
    /// [`Exhausted`] if not even the first fit.
    pub fn new(
        network: Network,
        n_addresses: usize,
        n_bound: usize,
    ) -> Result<(Self, Vec<Action>), Exhausted> {
        let n_nets = u32::from(network.nets.count());
        let (n_addresses, n_bound) = (count(n_addresses), count(n_bound));
        let behind = network.behind(n_bound);
        let n_behind = n_bound.saturating_mul(count(behind.len()));
        let needed = (1 + n_nets).saturating_add(n_addresses).saturating_add(n_behind);
        if needed > maps::IDENTS_MAX {
            return Err(Exhausted::Idents { max: maps::ADDRESSES_MAX - n_nets });
        }
        let end = needed.saturating_mul(2).next_power_of_two();
        let (addresses, of_nets) = network.nets.addresses4()?;
        let stores = network.stores().into_iter().chain(of_nets);
        let stores = stores.map(Action::Store).collect();
        let idents = Self {
            network: Arc::new(network),
            behind: Arc::new(behind),
            addresses,
            next: 1 + n_nets,
            end: end.clamp(maps::RECORDS_MIN, maps::IDENTS_MAX),
            free: Vec::new(),
            retired: Vec::new(),
        };
        Ok((idents, stores))
    }

    /// How many entries [`maps::RECORDS`] must have.
    pub fn n_records(&self) -> u32 {
        self.end
    }

    /// Gives an endpoint idents in place of those it has; none if it goes. `interface` is where it is bound.
    ///
    /// # Errors
    /// [`Exhausted`]; then only a copy made before is of use, perhaps after [`Self::reclaim`].
    pub fn change(
        &mut self,
        before: &Given,
        after: Option<(&Record, Option<u32>)>,
    ) -> Result<Change, Exhausted> {
        let mut change = Change::default();
        if let Some((record, interface)) = after {
            for &address in &record.addresses {
                let ident = self.give(record, interface, number(address), &mut change.enter)?;
                change.given.addresses.insert(address, ident);
            }
            let behind = Arc::clone(&self.behind);
            for (interface, (&net, &address)) in
                interface.iter().flat_map(|at| behind.iter().map(|net| (*at, net)))
            {
                let at = number(address);
                let ident = self.give(record, Some(interface), at, &mut change.enter)?;
                change.given.behind.insert((interface, net), ident);
            }
        }
        let addresses = differences(&before.addresses, &change.given.addresses);
        for (address, old, new) in addresses {
            match address {
                IpAddr::V4(v4) => {
                    let ident = new.unwrap_or_else(|| self.network.nets.ident(address));
                    let stores = self.addresses.set(v4, ident)?;
                    change.publish.extend(stores.into_iter().map(Action::Store));
                }
                IpAddr::V6(_) => {
                    let key = maps::address_key(address).to_vec();
                    change.enter.extend(entry(maps::ADDRESSES6, key, old, new));
                }
            }
        }
        for ((interface, net), old, new) in differences(&before.behind, &change.given.behind) {
            change.enter.extend(entry(maps::LOCAL, maps::local_key(interface, net), old, new));
        }
        self.retired.extend(before.addresses.values().chain(before.behind.values()));
        Ok(change)
    }

    /// Takes a change back: an endpoint has the idents again that `before` says. Nobody may take those of `after` yet, since some
    /// packet may be judged by them; the actions are for what was published.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn take_back(&mut self, before: &Given, after: &Given) -> Result<Vec<Action>, Exhausted> {
        let mut actions = Vec::new();
        for (address, _, old) in differences(&after.addresses, &before.addresses) {
            if let IpAddr::V4(v4) = address {
                let ident = old.unwrap_or_else(|| self.network.nets.ident(address));
                actions.extend(self.addresses.set(v4, ident)?.into_iter().map(Action::Store));
            }
        }
        let given = before.addresses.values().chain(before.behind.values());
        let given: BTreeSet<u16> = given.copied().collect();
        self.retired.retain(|ident| !given.contains(ident));
        self.retired.extend(after.addresses.values().chain(after.behind.values()));
        Ok(actions)
    }

    /// This, where IPv4 addresses have the idents that they have in `other`.
    pub fn with_addresses_of(self, other: &Self) -> Self {
        Self { addresses: other.addresses.clone(), ..self }
    }

    /// Lets what was given back be given again; whether there was any.
    ///
    /// No packet may still be judged by what it stood for.
    pub fn reclaim(&mut self) -> bool {
        let any = !self.retired.is_empty();
        self.free.append(&mut self.retired);
        self.addresses.reclaim() || any
    }

    /// An ident nothing leads to, and the stores that say what it stands for.
    fn give(
        &mut self,
        record: &Record,
        interface: Option<u32>,
        address: u128,
        actions: &mut Vec<Action>,
    ) -> Result<u16, Exhausted> {
        let unused = u16::try_from(self.next).ok().filter(|_| self.next < self.end);
        let Some(ident) = self.free.pop().or(unused) else {
            return Err(Exhausted::Idents { max: self.end - 1 });
        };
        self.next += u32::from(unused == Some(ident));
        let classes = self.network.classes.as_ref();
        let classes =
            classes.and_then(|of| of.of_endpoint(record.is_self, &record.values, address));
        let about = About { classes: classes.unwrap_or_default(), ..about(record, interface) };
        actions.extend(about.stores(ident).into_iter().map(Action::Store));
        Ok(ident)
    }
}

/// What programs read of an endpoint, but for its classes.
fn about(record: &Record, interface: Option<u32>) -> About {
    let interface = interface.unwrap_or(0);
    // The machine's own packets to endpoints of this node come by no interface.
    let comes_by = if record.is_self { 0 } else { interface };
    About {
        interface: interface | if record.is_self { maps::INTERFACE_SELF } else { 0 },
        record: Some(maps::record(record.number, record.is_self, comes_by, &record.values)),
        ..About::default()
    }
}

fn number(address: IpAddr) -> u128 {
    u128::from_be_bytes(maps::address_key(address))
}

/// Whether a range holds addresses that endpoints have to do with beside their own: those of hosts without one, and groups.
fn is_for_others(first: IpAddr, last: IpAddr) -> bool {
    let four = |first: [u8; 4], last: [u8; 4]| (IpAddr::from(first), IpAddr::from(last));
    let six = |first: u128, last: u128| {
        (IpAddr::from(Ipv6Addr::from(first)), IpAddr::from(Ipv6Addr::from(last)))
    };
    let others = [
        four([0; 4], [0; 4]),
        four([224, 0, 0, 0], [239, 255, 255, 255]),
        four([255; 4], [255; 4]),
        six(0, 0),
        six(0xfe80 << 112, (0xfec0 << 112) - 1),
        six(0xff << 120, u128::MAX),
    ];
    others.iter().any(|(from, to)| first <= *to && *from <= last)
}

/// Every key of either map with its values, by key.
fn differences<K: Copy + Ord>(
    before: &BTreeMap<K, u16>,
    after: &BTreeMap<K, u16>,
) -> Vec<(K, Option<u16>, Option<u16>)> {
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let keys = after.keys().chain(gone);
    keys.map(|key| (*key, before.get(key).copied(), after.get(key).copied())).collect()
}

/// Changes an entry of a hash to an ident.
fn entry(map: &'static str, key: Vec<u8>, old: Option<u16>, new: Option<u16>) -> Option<Action> {
    let [old, new] = [old, new].map(|ident| ident.map(|n| u32::from(n).to_ne_bytes().to_vec()));
    match (old, new) {
        (before, Some(value)) => Some(Action::Fill { map, key, value, before }),
        (Some(before), None) => Some(Action::Remove { map, key, before }),
        (None, None) => None,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
