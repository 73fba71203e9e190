//! Registers for a [`VCode`], by regalloc2.

use super::LowerError;
use super::vcode::{VCode, preg};
use regalloc2::checker::Checker;
use regalloc2::{MachineEnv, Output, PRegSet, RegallocOptions};

/// Allocates registers and spill slots.
///
/// # Errors
/// [`LowerError::Registers`] if an instruction needs more registers than there are.
///
/// # Panics
/// In debug builds, if regalloc2's checker finds the allocation wrong.
pub(super) fn allocate(code: &VCode) -> Result<Output, LowerError> {
    let env = MachineEnv {
        // Values that live across no call should leave r6 to r9 to those that do. r10 is the frame pointer.
        preferred_regs_by_class: [(0..=5).map(preg).collect(), PRegSet::empty(), PRegSet::empty()],
        non_preferred_regs_by_class: [
            (6..=9).map(preg).collect(),
            PRegSet::empty(),
            PRegSet::empty(),
        ],
        scratch_by_class: [None; 3],
        fixed_stack_slots: Vec::new(),
    };
    let options =
        RegallocOptions { validate_ssa: cfg!(debug_assertions), ..RegallocOptions::default() };
    let output = regalloc2::run(code, &env, &options)
        .map_err(|error| LowerError::Registers(error.to_string()))?;
    if cfg!(debug_assertions) {
        let mut checker = Checker::new(code, &env);
        checker.prepare(&output);
        let checked = checker.run();
        assert!(checked.is_ok(), "{checked:?}\n{code:#?}");
    }
    Ok(output)
}
