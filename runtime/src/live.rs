//! An applied policy whose endpoints come, change and go: each time a few stores, and no program is loaded that is loaded already.
//!
//! ```text
//!  endpoint -> (inventory) record -> (idents) what it goes by -> actions -> (apply) kernel
//! ```
//!
//! INVARIANT: a change is made as a whole or not at all, and in this order: programs are loaded, what new idents stand for is
//! written, interfaces and IPv6 addresses take them, programs take over hooks of others of ours, IPv4 addresses take their
//! idents, programs take new hooks, which the kernel is slow at, and old hooks are left.

use crate::apply::{self, ApplyError};
use crate::endpoints::{Endpoint, Located, Place};
use crate::idents::{Change, Exhausted, Given, Idents};
use crate::inventory::{Record, Values};
use crate::kernel::{Hook, Kernel, KernelError, Side};
use crate::plan::{self, Action, Binding, Plan, Seen};
use crate::refusal::{Problem, Refusal};
use seg_artifact::manifest::Manifest;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why endpoints stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The endpoint is refused; one line for each reason.
    #[error("{}", lines(.0))]
    Refused(Vec<Refusal>),
    /// There is none of that name.
    #[error("there is no endpoint `{0}`")]
    Unknown(String),
    /// It is one of too many.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The kernel does not answer.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The change failed and is undone.
    #[error(transparent)]
    Failed(Box<ApplyError>),
}

/// The endpoints of an applied policy.
#[derive(Debug)]
pub struct Live {
    manifest: Manifest,
    values: Values,
    idents: Idents,
    members: BTreeMap<String, Member>,
    /// Whose an address is.
    owners: BTreeMap<IpAddr, String>,
    /// Who is behind an interface, by index.
    bound: BTreeMap<u32, String>,
    /// Of the next endpoint.
    number: u32,
}

#[derive(Clone, Debug)]
struct Member {
    record: Record,
    binding: Option<Binding>,
    given: Given,
}

/// How an endpoint's idents change, and how they change back. Both are known to be possible.
struct Steps {
    change: Change,
    idents: Idents,
    back: Vec<Action>,
    as_before: Idents,
}

impl Steps {
    fn new(
        mut idents: Idents,
        before: &Given,
        after: Option<(&Record, Option<u32>)>,
    ) -> Result<Self, Exhausted> {
        let change = idents.change(before, after)?;
        let mut as_before = idents.clone();
        let back = as_before.take_back(before, &change.given)?;
        Ok(Self { change, idents, back, as_before })
    }
}

impl Member {
    /// Programs and where they decide, by index and side: an interface may get another name.
    fn hooks(&self) -> BTreeMap<(u32, Side), (&String, &Hook)> {
        let hooks = self.binding.iter().flat_map(Binding::hooks);
        hooks.map(|(program, at)| ((at.index, at.side), (program, at))).collect()
    }

    fn interface(&self) -> Option<u32> {
        self.binding.as_ref().map(|binding| binding.outbound.index)
    }
}

impl Live {
    /// Of a plan that is applied: that of `records`, which are of `endpoints`.
    pub fn new(
        manifest: &Manifest,
        endpoints: &[Endpoint],
        records: &[Record],
        plan: &Plan,
    ) -> Self {
        let mut values = Values::default();
        values.learn(endpoints, manifest);
        let mut bindings: BTreeMap<&str, &Binding> =
            plan.bindings.iter().map(|binding| (binding.record.name.as_str(), binding)).collect();
        let mut live = Self {
            manifest: manifest.clone(),
            values,
            idents: plan.idents.clone(),
            members: BTreeMap::new(),
            owners: BTreeMap::new(),
            bound: BTreeMap::new(),
            number: records.iter().map(|record| record.number).max().unwrap_or(0).saturating_add(1),
        };
        for (record, given) in records.iter().zip(&plan.given) {
            let binding = bindings.remove(record.name.as_str()).cloned();
            live.enter(Member { record: record.clone(), binding, given: given.clone() });
        }
        live
    }

    /// Adds an endpoint, or has the one of its name be as this one says.
    ///
    /// # Errors
    /// [`LiveError`]; everything is as before.
    pub fn put(&mut self, kernel: &mut dyn Kernel, endpoint: &Endpoint) -> Result<(), LiveError> {
        let known = self.members.get(&endpoint.name.value);
        let number = known.map_or(self.number, |member| member.record.number);
        self.values.learn(std::slice::from_ref(endpoint), &self.manifest);
        let record = self.values.record(number, endpoint, &self.manifest);
        let record = record.map_err(LiveError::Refused)?;
        let refused = |refusal| LiveError::Refused(vec![refusal]);
        // Also for one known: another interface may have its name by now.
        let binding = plan::bind(&record, &look(kernel, [&record])?).map_err(refused)?;
        self.refuse_what_is_taken(&record, &binding).map_err(refused)?;
        self.number = self.number.max(number.saturating_add(1));
        self.change(kernel, &endpoint.name.value, Some((record, binding)))
    }

    /// Removes an endpoint: its addresses are nobody's, and its interface is free.
    ///
    /// # Errors
    /// [`LiveError`]; everything is as before.
    pub fn remove(&mut self, kernel: &mut dyn Kernel, name: &str) -> Result<(), LiveError> {
        if !self.members.contains_key(name) {
            return Err(LiveError::Unknown(name.to_owned()));
        }
        self.change(kernel, name, None)
    }

    fn change(
        &mut self,
        kernel: &mut dyn Kernel,
        name: &str,
        after: Option<(Record, Option<Binding>)>,
    ) -> Result<(), LiveError> {
        let nobody = Given::default();
        let before = self.members.get(name);
        let given = before.map_or(&nobody, |member| &member.given);
        let target = after.as_ref().map(|(record, binding)| {
            (record, binding.as_ref().map(|binding| binding.outbound.index))
        });
        let steps = match Steps::new(self.idents.clone(), given, target) {
            Ok(steps) => steps,
            Err(exhausted) => {
                let mut idents = self.idents.clone();
                if !idents.reclaim() {
                    return Err(exhausted.into());
                }
                kernel.settle()?;
                Steps::new(idents, given, target)?
            }
        };
        let Steps { change, idents, back, as_before } = steps;
        let member = after.map(|(record, binding)| Member { record, binding, given: change.given });
        let old = before.map(Member::hooks).unwrap_or_default();
        let new = member.as_ref().map(Member::hooks).unwrap_or_default();
        let load = |&(program, _): &(&String, &Hook)| Action::Load { program: program.clone() };
        let mut actions: Vec<Action> = new.values().map(load).collect();
        actions.extend(change.enter);
        let each = new.iter().map(|(at, hook)| (hook, old.get(at).map(|(before, _)| *before)));
        let changed = each.filter(|&((program, _), before)| before != Some(*program));
        let attach = changed.map(|((program, at), before)| Action::Attach {
            program: (*program).clone(),
            at: (*at).clone(),
            before: before.cloned(),
        });
        let (attach, replace): (Vec<Action>, Vec<Action>) =
            attach.partition(|action| matches!(action, Action::Attach { before: None, .. }));
        actions.extend(replace.into_iter().chain(change.publish));
        if let Err(mut failed) = apply::apply(kernel, &[], &actions) {
            self.idents = as_before.with_addresses_of(&self.idents);
            failed.kept = true;
            return Err(LiveError::Failed(failed));
        }
        if let Err(mut failed) = apply::apply(kernel, &[], &attach) {
            apply::apply(kernel, &[], &back).map_err(LiveError::Failed)?;
            failed.stuck.extend(apply::undo(kernel, &actions));
            self.idents = as_before;
            failed.kept = true;
            return Err(LiveError::Failed(failed));
        }
        for (at, (_, hook)) in old {
            if !new.contains_key(&at) {
                kernel.detach(hook);
            }
        }

        self.idents = idents;
        if let Some(before) = self.members.remove(name) {
            before.record.addresses.iter().for_each(|address| {
                self.owners.remove(address);
            });
            if let Some(interface) = before.interface() {
                self.bound.remove(&interface);
            }
        }
        if let Some(member) = member {
            self.enter(member);
        }
        Ok(())
    }

    /// The endpoints bound now, for a policy that takes the place of this one.
    pub fn bindings(&self) -> Vec<Binding> {
        self.members.values().filter_map(|member| member.binding.clone()).collect()
    }

    fn enter(&mut self, member: Member) {
        let name = &member.record.name;
        self.owners.extend(member.record.addresses.iter().map(|a| (*a, name.clone())));
        self.bound.extend(member.interface().map(|interface| (interface, name.clone())));
        self.members.insert(name.clone(), member);
    }

    /// Addresses, interfaces and the machine itself are each had once.
    fn refuse_what_is_taken(
        &self,
        record: &Record,
        binding: &Option<Binding>,
    ) -> Result<(), Refusal> {
        let other = |name: &String| self.members.get(name).filter(|m| m.record.name != record.name);
        let interface = binding.as_ref().map(|binding| binding.outbound.index);
        if let Some(first) = interface.and_then(|at| self.bound.get(&at)).and_then(other) {
            return Err(plan::shared(&first.record, record, binding));
        }
        let problem = record.addresses.iter().find_map(|address| {
            let first = &self.owners.get(address).and_then(other)?.record;
            Some(Problem::Overlap {
                address: *address,
                first: first.name.clone(),
                line: first.at.line,
                second: record.name.clone(),
            })
        });
        let mut machines = self.members.values().filter(|_| record.is_self);
        let machine = machines.find(|m| m.record.is_self && m.record.name != record.name);
        let second = machine.map(|m| Problem::SecondSelf { first: m.record.name.clone() });
        match problem.or(second) {
            Some(problem) => Err(Refusal { at: record.at, problem }),
            None => Ok(()),
        }
    }
}

/// What planning needs to see of a kernel.
///
/// # Errors
/// [`KernelError::Call`].
pub fn look<'r>(
    kernel: &mut dyn Kernel,
    records: impl IntoIterator<Item = &'r Record>,
) -> Result<Seen, KernelError> {
    // Interfaces first: listing them gives the namespaces they lead into their identifiers.
    let mut seen = Seen { links: kernel.links()?, ..Seen::default() };
    for record in records {
        if let Place::Namespace(Located { value: name, .. }) = &record.place {
            seen.namespaces.insert(name.clone(), kernel.namespace(name)?);
        }
    }
    Ok(seen)
}

fn lines(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::idents::Network;
    use crate::kernel::Link;
    use crate::kernel::fake::Fake;
    use crate::refusal::Position;
    use seg_artifact::addresses::Nets;
    use seg_artifact::manifest::{Digests, Edge, Field, Label, Manifest, Net, Node, Roles, Target};
    use seg_artifact::{maps, version};

    const AT: Position = Position { line: 1, column: 1 };

    /// Dimension `app` is open; outbound, `app:web` has a role of its own.
    fn manifest() -> Manifest {
        let edge = |last, role| Edge { last, to: Target::Role(role) };
        let node =
            Node { field: Field::Label(0), edges: vec![edge(0, 0), edge(1, 1), edge(u32::MAX, 0)] };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Manifest {
            format: version::FORMAT,
            edition: String::new(),
            compiler: String::new(),
            package: String::new(),
            kernel: String::new(),
            labels: vec![Label { name: "app".to_owned(), closed: false, values: names(&["web"]) }],
            ports: Vec::new(),
            nets: vec![Net { ranges: vec![([10, 0, 0, 0].into(), [10, 0, 1, 255].into())] }],
            outbound: Roles {
                root: Target::Node(0),
                nodes: vec![node],
                programs: names(&["from_0", "from_1"]),
            },
            inbound: Roles { root: Target::Role(0), nodes: Vec::new(), programs: names(&["to_0"]) },
            workloads: Vec::new(),
            not_after: None,
            rules: Vec::new(),
            sources: Vec::new(),
            digests: Digests {
                guard: String::new(),
                policy: String::new(),
                baseline: String::new(),
            },
        }
    }

    fn located<T>(value: T) -> Located<T> {
        Located { value, at: AT }
    }

    fn endpoint(name: &str, app: &str, addresses: &[IpAddr], place: Option<&str>) -> Endpoint {
        let named = |name: &str| Place::Interface(located(name.to_owned()));
        Endpoint {
            name: located(name.to_owned()),
            labels: vec![(located("app".to_owned()), located(app.to_owned()))],
            ports: Vec::new(),
            addresses: addresses.iter().copied().map(located).collect(),
            place: place.map_or(Place::Remote, named),
            is_self: false,
        }
    }

    /// Two endpoints, one of them behind the first of five interfaces.
    fn start() -> (Fake, Live) {
        let link = |n| Link { index: n, name: format!("veth{n}"), link_type: 1, leads_to: None };
        let mut fake = Fake { links: (1..=5).map(link).collect(), ..Fake::default() };
        let endpoints = [
            endpoint("a", "web", &[[10, 0, 0, 1].into()], Some("veth1")),
            endpoint("b", "db", &[[192, 0, 2, 1].into()], None),
        ];
        let manifest = manifest();
        let records = crate::inventory::number(&endpoints, &manifest).expect("sound");
        let seen = look(&mut fake, &records).expect("seen");
        let network = Network { nets: Nets::new(&manifest.nets), classes: None };
        let plan = plan::plan(&records, network, &seen).expect("bound");
        apply::apply(&mut fake, &[], &plan.actions).expect("applied");
        let live = Live::new(&manifest, &endpoints, &records, &plan);
        (fake, live)
    }

    /// Every address any test uses.
    fn universe() -> Vec<IpAddr> {
        let four = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 1, 1], [10, 0, 2, 1], [192, 0, 2, 1]];
        let six = (1..4).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
        four.into_iter().map(IpAddr::from).chain(six).collect()
    }

    /// Whether a kernel that programs ask says what `live` says, and no more.
    fn agree(fake: &Fake, live: &Live) {
        let of = |ident: Option<u32>| ident.and_then(|ident| u16::try_from(ident).ok());
        let entry = |map: &str, key: Vec<u8>| {
            let value = fake.filled.get(&(map.to_owned(), key))?.clone();
            value.try_into().ok().map(u32::from_ne_bytes)
        };
        let stands_for = |ident: u16, member: &Member| {
            let interface = member.interface().unwrap_or(0);
            let Record { number, values, .. } = &member.record;
            let record = maps::record(*number, false, interface, values);
            assert_eq!(fake.record(ident, record.len()), record, "{ident}");
            assert_eq!(fake.interface(ident), interface, "{ident}");
        };
        for address in universe() {
            let ident = match address {
                IpAddr::V4(v4) => fake.ident(v4),
                IpAddr::V6(_) => {
                    of(entry(maps::ADDRESSES6, maps::address_key(address).to_vec())).unwrap_or(0)
                }
            };
            match live.owners.get(&address) {
                Some(owner) => stands_for(ident, &live.members[owner]),
                None => assert_eq!(ident, Nets::new(&live.manifest.nets).ident(address)),
            }
        }
        let mut hooks = BTreeMap::new();
        let mut n_local = 0;
        for member in live.members.values() {
            for net in member.interface().into_iter().flat_map(|_| [0, 1]) {
                let key = maps::local_key(member.interface().unwrap_or(0), net);
                stands_for(of(entry(maps::LOCAL, key)).expect("an ident"), member);
                n_local += 1;
            }
            let of_member = member.hooks().into_values();
            hooks.extend(of_member.map(|(program, at)| (at.clone(), program.clone())));
        }
        assert_eq!(fake.attached, hooks);
        let six = live.owners.keys().filter(|address| address.is_ipv6()).count();
        assert_eq!(fake.filled.len(), n_local + six);
    }

    #[test]
    fn a_change_of_labels_switches_the_role() {
        let (mut fake, mut live) = start();
        agree(&fake, &live);
        let hook = |side| Hook { index: 1, interface: "veth1".to_owned(), side };
        assert_eq!(fake.attached[&hook(Side::Ingress)], "from_1");
        let changed = endpoint("a", "db", &[[10, 0, 0, 1].into()], Some("veth1"));
        live.put(&mut fake, &changed).expect("changed");
        agree(&fake, &live);
        assert_eq!(fake.attached[&hook(Side::Ingress)], "from_0");
        // `db` is the same value for both, whoever had it first.
        assert_eq!(live.members["a"].record.values, live.members["b"].record.values);
        live.remove(&mut fake, "a").expect("removed");
        agree(&fake, &live);
        assert!(fake.attached.is_empty());
        assert!(matches!(live.remove(&mut fake, "a"), Err(LiveError::Unknown(_))));
    }

    #[test]
    fn an_interface_of_another_name_stays_guarded() {
        let (mut fake, mut live) = start();
        fake.links[0].name = "veth9".to_owned();
        let renamed = endpoint("a", "db", &[[10, 0, 0, 1].into()], Some("veth9"));
        live.put(&mut fake, &renamed).expect("changed");
        let decides: Vec<_> =
            fake.attached.iter().map(|(at, p)| (at.index, at.side, p.as_str())).collect();
        assert_eq!(decides, [(1, Side::Egress, "to_0"), (1, Side::Ingress, "from_0")]);
    }

    #[test]
    fn what_is_taken_is_refused() {
        let (mut fake, mut live) = start();
        let before = fake.n_calls;
        for (address, place, wanted) in [
            ([10, 0, 0, 1], None, "endpoints `a` (line 1) and `c` both have address `10.0.0.1`"),
            ([10, 0, 0, 2], Some("veth1"), "are both bound to interface `veth1`"),
            ([10, 0, 0, 2], Some("veth6"), "no interface `veth6`"),
        ] {
            let error = live.put(&mut fake, &endpoint("c", "web", &[address.into()], place));
            let error = error.expect_err("refused").to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(fake.n_calls, before);
    }

    /// Changes at random, each of which fails at every step before it is made.
    #[test]
    fn changes_are_made_as_a_whole_or_not_at_all() {
        let (mut fake, mut live) = start();
        let mut dice = 1_u64;
        let mut below = |n: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) as usize % n
        };
        let (mut n_failed, mut n_made) = (0, 0);
        while n_made < 600 {
            let name = ["a", "b", "c", "d"][below(4)];
            let addresses: Vec<IpAddr> = universe().into_iter().filter(|_| below(4) == 0).collect();
            let place = ["veth1", "veth2", "veth3", "veth4"].get(below(6)).copied();
            let wanted = endpoint(name, ["web", "db", "x", "y"][below(4)], &addresses, place);
            let removes = below(4) == 0;
            for step in 0.. {
                fake.fail_at = Some(fake.n_calls + step);
                let made = match removes {
                    true => live.remove(&mut fake, name),
                    false => live.put(&mut fake, &wanted),
                };
                agree(&fake, &live);
                match made {
                    Ok(()) => {
                        n_made += 1;
                        break;
                    }
                    Err(LiveError::Refused(_) | LiveError::Unknown(_)) => break,
                    Err(LiveError::Failed(_) | LiveError::Kernel(_)) => n_failed += 1,
                    Err(error @ LiveError::Exhausted(_)) => unreachable!("{error}"),
                }
            }
        }
        assert!(n_failed > 1_000, "{n_failed}");
    }

    #[test]
    fn idents_are_given_again_when_nobody_can_use_them() {
        let (mut fake, mut live) = start();
        let b = endpoint("b", "db", &universe(), None);
        live.remove(&mut fake, "a").expect("removed");
        // More changes of eight addresses than there are idents for.
        for n in 1..=3 * maps::RECORDS_MIN / 8 {
            live.put(&mut fake, &b).expect("changed");
            assert!(fake.n_settled <= (n as usize).div_ceil(500));
        }
        assert!(fake.n_settled >= 2);
        agree(&fake, &live);
    }
}
