//! Everything that talks to the kernel stands behind [`Kernel`]: system calls, aya types and `unsafe` are below, plain values cross.

pub mod linux;
pub mod memory;
pub mod netlink;

#[cfg(test)]
pub(crate) mod fake;

use seg_artifact::maps::Store;
use std::fmt;
use std::io;

/// What the runtime asks of a kernel.
pub trait Kernel {
    /// What it can do.
    ///
    /// # Errors
    /// [`KernelError::Call`].
    fn features(&mut self) -> Result<Features, KernelError>;

    /// The interfaces of this network namespace.
    ///
    /// # Errors
    /// [`KernelError::Call`].
    fn links(&mut self) -> Result<Vec<Link>, KernelError>;

    /// Looks a named network namespace up.
    ///
    /// # Errors
    /// [`KernelError::Call`].
    fn namespace(&mut self, name: &str) -> Result<Namespace, KernelError>;

    /// Creates the object's maps, [`seg_artifact::maps::RECORDS`] with so many entries. Its programs come with [`Self::load`].
    ///
    /// What is open already goes on beside it, and shares its connection state; calls are about the newest.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn open(&mut self, object: &[u8], n_records: u32) -> Result<(), KernelError>;

    /// Undoes the last [`Self::open`], and every load and fill after it.
    fn close(&mut self);

    /// Closes all that is open but the newest.
    fn retire(&mut self);

    /// Has a program verified and loaded, if it is not yet.
    ///
    /// # Errors
    /// [`KernelError::Program`] with the end of the verifier's log.
    fn load(&mut self, program: &str) -> Result<(), KernelError>;

    /// Puts a value into a hash map of the object.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn fill(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError>;

    /// Takes a key out of a hash map of the object.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn remove(&mut self, map: &str, key: &[u8]) -> Result<(), KernelError>;

    /// Writes into an array map of the object, after everything written before; each 16 bits change at once.
    ///
    /// # Errors
    /// Any [`KernelError`], and only for the first store into a map.
    fn store(&mut self, store: &Store) -> Result<(), KernelError>;

    /// Waits until no packet is judged any more by what maps held before.
    ///
    /// # Errors
    /// [`KernelError::Call`].
    fn settle(&mut self) -> Result<(), KernelError>;

    /// Lets a loaded program decide at a hook, before any other program there. If one of ours does, it takes its place: every
    /// packet is judged by one of both.
    ///
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError>;

    /// Undoes [`Self::attach`]. Closing the last reference of a link cannot fail.
    fn detach(&mut self, at: &Hook);

    /// Undoes an [`Self::attach`] that took the place of a program of what was opened before the newest.
    ///
    /// # Errors
    /// Any [`KernelError`]; the newest goes on deciding there.
    fn restore(&mut self, program: &str, at: &Hook) -> Result<(), KernelError>;

    /// The first `n` counters of the open object, summed over processors.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn counters(&mut self, n: u32) -> Result<Vec<Count>, KernelError>;
}

/// What a kernel can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Its release, such as `6.18.44`.
    pub release: String,
    /// Whether it has the tcx hooks.
    pub tcx: bool,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its `ARPHRD_` number.
    pub link_type: u16,
    /// For one end of a veth pair whose other end is elsewhere, the identifier of that namespace.
    pub leads_to: Option<i32>,
}

/// A named network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// There is none of that name.
    Missing,
    /// No interface here leads into it.
    Unrelated,
    /// Its identifier in this namespace, as in [`Link::leads_to`].
    Known(i32),
}

/// A tcx hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// Index of the interface.
    pub index: u32,
    /// Its name, for people.
    pub interface: String,
    /// What the interface does with the packets.
    pub side: Side,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.interface, self.side.name())
    }
}

/// A direction as an interface sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What it receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Side {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A system call failed.
    #[error("{operation}: {source}{}", privilege(.source))]
    Call {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object's maps are refused.
    #[error("the kernel refuses the object: {0}")]
    Object(String),
    /// Nothing is open, or the object lacks a part.
    #[error("the object has no {kind} `{name}`")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A map of another layout than the contract's.
    #[error(
        "map `{map}` has keys of {key} and values of {value} bytes, not {wanted_key} and {wanted_value}"
    )]
    Layout {
        /// The map.
        map: String,
        /// Unit: bytes.
        key: u32,
        /// Unit: bytes.
        value: u32,
        /// Unit: bytes.
        wanted_key: usize,
        /// Unit: bytes.
        wanted_value: usize,
    },
    /// The verifier refuses a program.
    #[error("the kernel refuses `{program}`: {source}{}{log}", if .log.is_empty() { "" } else { "\n" })]
    Program {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
        /// The last lines of the verifier's log.
        log: String,
    },
    /// A store beyond the end of a map.
    #[error("map `{0}` is smaller than the contract's")]
    Bounds(String),
}

fn privilege(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (segd needs CAP_BPF and CAP_NET_ADMIN)",
        _ => "",
    }
}
