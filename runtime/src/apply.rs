//! The one interpreter of plans: every action or none.

use crate::kernel::{Kernel, KernelError};
use crate::plan::{self, Action, Binding, Plan};

/// A plan failed half way, and what was done is undone.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}\n{}; actions undone: {n_undone}", stays(.kept, .stuck))]
pub struct ApplyError {
    /// What could not be done.
    pub action: Action,
    /// Why.
    #[source]
    pub cause: KernelError,
    /// How many actions had been done.
    pub n_undone: usize,
    /// Whether a policy was enforced before, and still is.
    pub kept: bool,
    /// What could not be undone, such as at an interface that is gone.
    pub stuck: Vec<(Action, KernelError)>,
}

fn stays(kept: &bool, stuck: &[(Action, KernelError)]) -> String {
    let stays = if *kept { "the policy before goes on deciding" } else { "nothing stays attached" };
    let stuck = stuck.iter().map(|(action, cause)| format!(", but cannot undo: {action}: {cause}"));
    stays.to_owned() + &stuck.collect::<String>()
}

/// Applies a plan for an object; on failure undoes it in reverse.
///
/// # Errors
/// [`ApplyError`] with the first action that failed.
pub fn apply(
    kernel: &mut dyn Kernel,
    object: &[u8],
    actions: &[Action],
) -> Result<(), Box<ApplyError>> {
    for (n_done, action) in actions.iter().enumerate() {
        let done = match action {
            Action::Open { n_records } => kernel.open(object, *n_records),
            Action::Load { program } => kernel.load(program),
            Action::Store(store) => kernel.store(store),
            Action::Fill { map, key, value, .. } => kernel.fill(map, key, value),
            Action::Remove { map, key, .. } => kernel.remove(map, key),
            Action::Attach { program, at, .. } => kernel.attach(program, at),
            Action::Replace { program, at, .. } => kernel.attach(program, at),
        };
        if let Err(cause) = done {
            let stuck = undo(kernel, actions.get(..n_done).unwrap_or_default());
            let (action, kept) = (action.clone(), false);
            return Err(Box::new(ApplyError { action, cause, n_undone: n_done, kept, stuck }));
        }
    }
    Ok(())
}

/// Undoes applied actions, the last first; returns those that stay, such as at an interface that is gone.
pub fn undo(kernel: &mut dyn Kernel, actions: &[Action]) -> Vec<(Action, KernelError)> {
    let mut stuck = Vec::new();
    // Entries live and die with the open object.
    let closes = actions.iter().any(|action| matches!(action, Action::Open { .. }));
    for action in actions.iter().rev() {
        // What was there before fits, and whoever was there before goes on.
        let undone = match action {
            Action::Open { .. } => {
                kernel.close();
                Ok(())
            }
            Action::Attach { program: _, at, before: None } => {
                kernel.detach(at);
                Ok(())
            }
            Action::Replace { at, before, .. } => kernel.restore(before, at),
            Action::Attach { at, before: Some(before), .. } => kernel.attach(before, at),
            Action::Fill { map, key, before: Some(before), .. }
            | Action::Remove { map, key, before }
                if !closes =>
            {
                kernel.fill(map, key, before)
            }
            Action::Fill { map, key, before: None, .. } if !closes => kernel.remove(map, key),
            Action::Load { .. }
            | Action::Store(_)
            | Action::Fill { .. }
            | Action::Remove { .. } => Ok(()),
        };
        stuck.extend(undone.err().map(|error| (action.clone(), error)));
    }
    stuck
}

/// Puts a plan for another object in place of what is enforced on these bindings: the new object is loaded and filled, then hook by hook it decides.
///
/// A packet is judged at each hook by one of the two. Connection state is shared, so that replies pass before, meanwhile and after;
/// counters begin at zero.
///
/// # Errors
/// [`ApplyError`]; the old policy is as it was.
pub fn swap(
    kernel: &mut dyn Kernel,
    object: &[u8],
    old: &[Binding],
    new: &Plan,
) -> Result<(), Box<ApplyError>> {
    let swap = plan::swap(old, new);
    apply(kernel, object, &swap.actions).map_err(|mut error| {
        error.kept = true;
        error
    })?;
    swap.gone.iter().for_each(|at| kernel.detach(at));
    kernel.retire();
    Ok(())
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::endpoints::{Located, Place};
    use crate::idents::Network;
    use crate::inventory::Record;
    use crate::kernel::fake::Fake;
    use crate::kernel::{Hook, Link, Side};
    use crate::plan::{Seen, plan};
    use crate::refusal::Position;
    use seg_artifact::maps;

    fn record(number: u32, name: &str, is_self: bool, interface: Option<&str>) -> Record {
        let at = Position { line: 1, column: 1 };
        Record {
            number,
            name: name.to_owned(),
            at,
            is_self,
            addresses: vec![std::net::IpAddr::from([10, 0, 0, u8::try_from(number).unwrap_or(0)])],
            values: vec![number],
            place: interface.map_or(Place::Remote, |name| {
                Place::Interface(Located { value: name.to_owned(), at })
            }),
            outbound: format!("out_{number}"),
            inbound: "in_0".to_owned(),
        }
    }

    fn planned(records: &[Record]) -> Plan {
        let link =
            |index, name: &str| Link { index, name: name.to_owned(), link_type: 1, leads_to: None };
        let links = vec![link(7, "veth7"), link(8, "veth8"), link(2, "eth0")];
        plan(records, Network::default(), &Seen { links, ..Seen::default() }).expect("it fits")
    }

    /// A bound endpoint, the machine itself, and a remote peer.
    fn old() -> Plan {
        planned(&[
            record(1, "web", false, Some("veth7")),
            record(2, "host", true, Some("eth0")),
            record(3, "peer", false, None),
        ])
    }

    /// The endpoint has another program, the machine is no endpoint, and there is a new one.
    fn new() -> Plan {
        planned(&[record(4, "web", false, Some("veth7")), record(5, "db", false, Some("veth8"))])
    }

    fn actions() -> Vec<Action> {
        old().actions
    }

    fn hook(index: u32, interface: &str, side: Side) -> Hook {
        Hook { index, interface: interface.to_owned(), side }
    }

    #[test]
    fn a_plan_binds_both_directions_and_fills_every_address() {
        let mut fake = Fake::default();
        apply(&mut fake, b"", &actions()).expect("applies");
        let attached: Vec<_> = fake.attached.clone().into_iter().collect();
        assert_eq!(
            attached,
            [
                // The machine itself sends by its interface's egress.
                (hook(2, "eth0", Side::Ingress), "in_0".to_owned()),
                (hook(2, "eth0", Side::Egress), "out_2".to_owned()),
                (hook(7, "veth7", Side::Ingress), "out_1".to_owned()),
                (hook(7, "veth7", Side::Egress), "in_0".to_owned()),
            ]
        );
        assert_eq!(fake.loaded.iter().collect::<Vec<_>>(), ["in_0", "out_1", "out_2"]);
        // Number 1 and the address of each; 2, 4 and 5 are the interface of the machine, its address, and the peer.
        for (number, ident, interface, is_self) in
            [(1, 1, 7, false), (1, 2, 7, false), (2, 3, 2, true), (2, 4, 2, true), (3, 5, 0, false)]
        {
            let comes_by = if is_self { 0 } else { interface };
            let record = maps::record(number, is_self, comes_by, &[number]);
            assert_eq!(fake.record(ident, record.len()), record, "{ident}");
            let self_bit = if is_self { maps::INTERFACE_SELF } else { 0 };
            assert_eq!(fake.interface(ident), interface | self_bit, "{ident}");
        }
        let local = |interface| (maps::LOCAL.to_owned(), maps::local_key(interface, 0));
        assert_eq!(fake.filled.get(&local(7)), Some(&2_u32.to_ne_bytes().to_vec()));
        assert_eq!(fake.filled.get(&local(2)), Some(&4_u32.to_ne_bytes().to_vec()));
        assert_eq!(fake.filled.len(), 2);
        for (last, ident) in [(1, 1), (2, 3), (3, 5), (4, 0)] {
            assert_eq!(fake.ident(std::net::Ipv4Addr::new(10, 0, 0, last)), ident);
        }
    }

    #[test]
    fn a_failure_at_any_step_leaves_nothing() {
        let actions = actions();
        assert!(actions.len() > 10);
        let mut failed = Vec::new();
        loop {
            let mut fake = Fake { fail_at: Some(failed.len()), ..Fake::default() };
            let Err(error) = apply(&mut fake, b"", &actions) else { break };
            assert_eq!(Some(&error.action), actions.get(error.n_undone));
            assert!(!fake.open && fake.attached.is_empty() && fake.filled.is_empty());
            failed.push(error.n_undone);
        }
        // Everything but stores into an array already mapped, in order.
        assert!(failed.is_sorted_by(|a, b| a < b));
        let can_fail = actions.iter().filter(|action| !matches!(action, Action::Store(_)));
        assert_eq!(failed.len(), can_fail.count() + 3);
    }

    #[test]
    fn undo_leaves_nothing() {
        let (mut fake, actions) = (Fake::default(), actions());
        apply(&mut fake, b"", &actions).expect("applies");
        undo(&mut fake, &actions);
        assert!(!fake.open && fake.attached.is_empty() && fake.loaded.is_empty());
    }

    #[test]
    fn a_swap_replaces_attaches_and_lets_go() {
        let (old, new) = (old(), new());
        let mut fake = Fake::default();
        apply(&mut fake, b"", &old.actions).expect("applies");
        swap(&mut fake, b"", &old.bindings, &new).expect("swaps");
        assert!(fake.older.is_empty() && fake.generations.len() == fake.attached.len());
        assert_eq!(fake.ident(std::net::Ipv4Addr::new(10, 0, 0, 1)), 0);
        let attached: Vec<_> = fake.attached.clone().into_iter().collect();
        assert_eq!(
            attached,
            [
                (hook(7, "veth7", Side::Ingress), "out_4".to_owned()),
                (hook(7, "veth7", Side::Egress), "in_0".to_owned()),
                (hook(8, "veth8", Side::Ingress), "out_5".to_owned()),
                (hook(8, "veth8", Side::Egress), "in_0".to_owned()),
            ]
        );
        undo(&mut fake, &new.actions);
        assert!(!fake.open && fake.attached.is_empty());
    }

    #[test]
    fn a_swap_that_fails_at_any_step_leaves_the_old_policy_whole() {
        let (old, new) = (old(), new());
        let mut n_failed = 0;
        loop {
            let mut fake = Fake::default();
            apply(&mut fake, b"", &old.actions).expect("applies");
            let whole = Fake { n_calls: 0, ..fake.clone() };
            fake.fail_at = Some(fake.n_calls + n_failed);
            let Err(error) = swap(&mut fake, b"", &old.bindings, &new) else { break };
            assert!(error.to_string().contains("the policy before goes on deciding"), "{error}");
            assert_eq!(Fake { n_calls: 0, fail_at: None, ..fake }, whole, "{error}");
            n_failed += 1;
        }
        let swap = plan::swap(&old.bindings, &new);
        let can_fail = swap.actions.iter().filter(|action| !matches!(action, Action::Store(_)));
        assert_eq!(n_failed, can_fail.count() + 3);
    }

    #[test]
    fn an_interface_of_another_name_is_the_same_hook() {
        let (old, mut new) = (old(), old());
        for action in &mut new.actions {
            if let Action::Attach { at, .. } = action {
                at.interface += "-renamed";
            }
        }
        let swap = plan::swap(&old.bindings, &new);
        assert!(swap.gone.is_empty());
        assert!(!swap.actions.iter().any(|action| matches!(action, Action::Attach { .. })));
    }
}
