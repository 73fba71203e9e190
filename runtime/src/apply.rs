//! The one interpreter of plans: every action or none.

use crate::kernel::{Kernel, KernelError};
use crate::plan::Action;

/// A plan failed half way, and what was done is undone.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}\nnothing stays attached; actions undone: {n_undone}")]
pub struct ApplyError {
    /// What could not be done.
    pub action: Action,
    /// Why.
    #[source]
    pub cause: KernelError,
    /// How many actions had been done.
    pub n_undone: usize,
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
            Action::Open => kernel.open(object),
            Action::Load { program } => kernel.load(program),
            Action::Fill { map, key, value } => kernel.fill(map, key, value),
            Action::Attach { program, at } => kernel.attach(program, at),
        };
        if let Err(cause) = done {
            undo(kernel, actions.get(..n_done).unwrap_or_default());
            return Err(Box::new(ApplyError { action: action.clone(), cause, n_undone: n_done }));
        }
    }
    Ok(())
}

/// Undoes applied actions, the last first.
pub fn undo(kernel: &mut dyn Kernel, actions: &[Action]) {
    for action in actions.iter().rev() {
        match action {
            Action::Open => kernel.close(),
            // Programs and entries live and die with the open object.
            Action::Load { .. } | Action::Fill { .. } => {}
            Action::Attach { at, .. } => kernel.detach(at),
        }
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::endpoints::{Located, Place};
    use crate::inventory::Record;
    use crate::kernel::fake::Fake;
    use crate::kernel::{Hook, Link, Side};
    use crate::plan::{Seen, plan};
    use crate::refusal::Position;
    use seg_artifact::maps;

    /// A bound endpoint, the machine itself, and a remote peer.
    fn actions() -> Vec<Action> {
        let at = Position { line: 1, column: 1 };
        let record = |number, name: &str, is_self, interface: Option<&str>| Record {
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
        };
        let link =
            |index, name: &str| Link { index, name: name.to_owned(), link_type: 1, leads_to: None };
        let records = [
            record(1, "web", false, Some("veth7")),
            record(2, "host", true, Some("eth0")),
            record(3, "peer", false, None),
        ];
        let seen = Seen { links: vec![link(7, "veth7"), link(2, "eth0")], ..Seen::default() };
        plan(&records, &seen).map(|plan| plan.actions).unwrap_or_default()
    }

    fn hook(index: u32, interface: &str, side: Side) -> Hook {
        Hook { index, interface: interface.to_owned(), side }
    }

    #[test]
    fn a_plan_binds_both_directions_and_fills_every_address() {
        let mut fake = Fake::default();
        apply(&mut fake, b"", &actions()).expect("applies");
        let attached: Vec<_> = fake.attached.into_iter().collect();
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
        assert_eq!(fake.loaded.into_iter().collect::<Vec<_>>(), ["in_0", "out_1", "out_2"]);
        let remote = (maps::ENDPOINTS.to_owned(), maps::address_key([10, 0, 0, 3].into()).to_vec());
        assert_eq!(fake.filled.get(&remote), Some(&maps::record(3, false, 0, &[3])));
        let local = (maps::LOCAL.to_owned(), 2_u32.to_ne_bytes().to_vec());
        assert_eq!(fake.filled.get(&local), Some(&maps::record(2, true, 0, &[2])));
        assert_eq!(fake.filled.len(), 5);
    }

    #[test]
    fn a_failure_at_any_step_leaves_nothing() {
        let actions = actions();
        assert!(actions.len() > 10);
        for step in 0..actions.len() {
            let mut fake = Fake { fail_at: Some(step), ..Fake::default() };
            let error = apply(&mut fake, b"", &actions).expect_err("fails");
            assert_eq!(Some(&error.action), actions.get(step));
            assert_eq!(error.n_undone, step);
            assert!(!fake.open && fake.attached.is_empty() && fake.filled.is_empty(), "{step}");
        }
    }

    #[test]
    fn undo_leaves_nothing() {
        let (mut fake, actions) = (Fake::default(), actions());
        apply(&mut fake, b"", &actions).expect("applies");
        undo(&mut fake, &actions);
        assert!(!fake.open && fake.attached.is_empty() && fake.loaded.is_empty());
    }
}
