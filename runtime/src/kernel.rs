//! Everything that talks to the kernel stands behind [`Kernel`]: system calls, aya types and `unsafe` are below, plain values cross.

pub mod linux;
pub mod netlink;

#[cfg(test)]
pub(crate) mod fake;

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

    /// Creates the object's maps. Its programs come with [`Self::load`].
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn open(&mut self, object: &[u8]) -> Result<(), KernelError>;

    /// Undoes [`Self::open`], and every load and fill with it.
    fn close(&mut self);

    /// Has a program verified and loaded.
    ///
    /// # Errors
    /// [`KernelError::Program`] with the end of the verifier's log.
    fn load(&mut self, program: &str) -> Result<(), KernelError>;

    /// Puts a value into a hash map of the object.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn fill(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError>;

    /// Lets a loaded program decide at a hook, before any other program there.
    ///
    /// # Errors
    /// Any [`KernelError`].
    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError>;

    /// Undoes [`Self::attach`]. Closing the last reference of a link cannot fail.
    fn detach(&mut self, at: &Hook);

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
    /// The interface was replaced by another of its name.
    #[error("interface `{0}` was replaced meanwhile")]
    Replaced(String),
}

fn privilege(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (segd needs CAP_BPF and CAP_NET_ADMIN)",
        _ => "",
    }
}
