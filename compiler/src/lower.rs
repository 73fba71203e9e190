//! From CLIF to BPF: one step made of small ones.
//!
//! ```text
//!  CLIF -> (legalize) CLIF -> (select) vcode -> (allocate) registers -> (emit) Program
//! ```
//!
//! Meaning is preserved exactly; the verifier-friendliness of the input is preserved too: no value is recomputed, moved
//! across a guard or merged with another load.
//!
//! Conventions of the emitted code:
//! - every value is zero-extended to 64 bits in its register, so `uextend` is nothing, and a pointer never meets a
//!   32-bit operation, which would make it a number to the kernel's verifier;
//! - constants and addresses of stack slots and maps are made anew at each use;
//! - a comparison is made anew in each branch and `select` that uses it, because the kernel's verifier learns from branches;
//! - constant offsets fold into loads and stores, which context accesses need.

pub mod legalize;
mod vcode;
mod select;
mod allocate;
mod emit;

use crate::bpf::Program;
use cranelift_codegen::ir::Function;

/// Most bytes of stack a program has.
///
/// Unit: bytes. Source: `MAX_BPF_STACK` in the kernel's include/linux/filter.h.
pub const STACK_BYTES_MAX: u32 = 512;

/// Why a function has no BPF form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// An instruction, or a type it works on, outside the subset.
    #[error("`{inst}` has no BPF form: {what}")]
    Unsupported {
        /// The instruction as CLIF text.
        inst: String,
        /// What about it.
        what: &'static str,
    },
    /// Parameters or results beyond integers in `r1` to `r5` and `r0`.
    #[error("the signature has no BPF form: {0}")]
    Signature(&'static str),
    /// Too much stack.
    #[error("{bytes} bytes of stack, at most {STACK_BYTES_MAX} exist")]
    Stack {
        /// Explicit slots and spilled values together.
        bytes: u64,
    },
    /// No assignment of registers.
    #[error("no registers: {0}")]
    Registers(String),
}

/// Lowers a function to a program of the given name.
///
/// Cost: about linear in the instructions; regalloc2 and selection take similar shares.
///
/// # Errors
/// [`LowerError`] if the function uses what BPF or this subset lacks.
///
/// # Panics
/// If a step breaks its own invariant; in debug builds also if `func` fails Cranelift's verifier or the allocation fails
/// regalloc2's checker.
pub fn lower(func: &Function, name: &str) -> Result<Program, LowerError> {
    let code = select::select(&legalize::legalize(func))?;
    let output = allocate::allocate(&code)?;
    let program = emit::emit(name, &code, &output)?;
    let verified = program.verify();
    assert!(verified.is_ok(), "{verified:?} in\n{program}");
    Ok(program)
}
