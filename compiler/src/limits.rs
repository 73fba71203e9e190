//! Every limit of the compiler: name, unit, source and its own error.

use crate::normalize::request_kinds;
use seg_lang::policy::{Policy, RuleId};

/// Label dimensions of a policy.
///
/// Unit: dimensions. Source: an endpoint record holds four bytes for each and is copied on every update.
pub const LABELS_MAX: usize = 256;

/// Names of ports that workloads have.
///
/// Unit: names. Source: an endpoint record holds four bytes for each, as for label dimensions.
pub const PORTS_MAX: usize = 256;

/// Requests that a policy tells apart: methods times paths.
///
/// Unit: requests. Source: chosen; numbering them takes a second or two.
pub const REQUESTS_MAX: usize = 1 << 14;

/// Nodes a diagram and everything it was joined from may have together.
///
/// Unit: nodes. Source: some 300 bytes each, so a quarter of a gigabyte.
pub const NODES_MAX: usize = 1_000_000;

/// Diagrams that may meet at edges for each node of a budget.
///
/// Unit: diagrams. Source: chosen; 10 to 30 million meet in a second.
pub const WORK_PER_NODE: usize = 100;

/// What one try at the diagram of all rules, or of a part of them, may cost.
///
/// Unit: diagrams that meet. Source: chosen; a third of a second, and some 30 times what 10,000 rules need that are parted well.
pub const WORK_TRY_MAX: usize = 4_000_000;

/// Comparisons up to which one tree is not weighed against several smaller ones.
///
/// Unit: comparisons of a program in the mean. Source: trees in sequence add up their depths;
/// a tree of this size still fits the second cache of a processor.
pub const COMPARISONS_ALONE: usize = 8_192;

/// Roles of one direction.
///
/// Unit: programs. Source: an object holds a program for each; `segd` loads those of its own endpoints.
pub const ROLES_MAX: usize = 4_096;

/// Comparisons of one program.
///
/// Unit: comparisons. Source: the verifier of Linux 6.18 follows 1,000,000 instructions
/// (`BPF_COMPLEXITY_LIMIT_INSNS`) and a comparison was measured to cost it 3 to 4.
pub const COMPARISONS_MAX: usize = 200_000;

/// Questions that sort the ends of flows into classes, and the classes, of one side.
///
/// Unit: nodes. Source: some 500 bytes each while they are made, so half a gigabyte.
pub const CLASS_NODES_MAX: usize = 1 << 20;

/// Classes of one side of a group of rules: their numbers have 16 bits.
///
/// Unit: classes. Source: the map of idents.
pub const CLASSES_MAX: usize = 65_535;

/// Cells of the tables, counted once for each rule that is in them.
///
/// Unit: cells. Source: 12 bytes each while they are sorted, so 200 megabytes.
pub const CELLS_MAX: usize = 1 << 24;

/// Exceptions of all lists of the tables.
///
/// Unit: columns. Source: a slot names the base of its list in 24 bits.
pub const EXCEPTIONS_MAX: usize = 1 << 23;

/// All tables of an object, so that it is less than readers take.
///
/// Unit: bytes. Source: `seg_artifact::object` reads 64 MiB, which the manifest is part of.
pub const TABLES_MAX: usize = 40 << 20;

/// Sets of addresses that rules tell apart, each with an ident of its own beside those of endpoints.
///
/// Unit: sets. Source: idents have 16 bits, and endpoints need some.
pub const NETS_MAX: usize = 60_000;

/// Labels in common and named ports that the tables of one policy tell apart.
///
/// Unit: bits. Source: each doubles the columns.
pub const BITS_MAX: usize = 6;

/// A policy that is right and too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// [`LABELS_MAX`].
    #[error("the policy has {needed} label dimensions, the limit is {LABELS_MAX}")]
    Labels {
        /// How many there are.
        needed: usize,
    },
    /// [`PORTS_MAX`].
    #[error("the workloads have {needed} names for ports, the limit is {PORTS_MAX}")]
    Ports {
        /// How many there are.
        needed: usize,
    },
    /// [`REQUESTS_MAX`].
    #[error("the policy tells apart {needed} methods and paths, the limit is {REQUESTS_MAX}")]
    Requests {
        /// How many there are.
        needed: usize,
    },
    /// [`NODES_MAX`], or the budget given instead.
    #[error("the decision needs more than {limit} nodes")]
    Nodes {
        /// The budget.
        limit: usize,
        /// The rules whose verdict is spread over the most nodes, the worst first.
        rules: Vec<RuleId>,
    },
    /// [`CLASS_NODES_MAX`].
    #[error("the rules need more than {limit} questions to tell endpoints apart")]
    Classes {
        /// The limit.
        limit: usize,
    },
    /// [`NETS_MAX`].
    #[error("the rules tell apart {needed} sets of addresses, the limit is {NETS_MAX}")]
    Nets {
        /// How many there are.
        needed: usize,
    },
    /// What the check of an object may take.
    #[error("the object takes more steps to check than are taken")]
    Steps,
    /// [`CELLS_MAX`], [`EXCEPTIONS_MAX`] or [`TABLES_MAX`].
    #[error("no grouping of the rules has tables that fit")]
    Cells {
        /// The rules that take the most room, the worst first.
        rules: Vec<RuleId>,
    },
    /// [`BITS_MAX`].
    #[error(
        "the tables would tell apart {needed} labels in common and named ports, the limit is {BITS_MAX}"
    )]
    Bits {
        /// How many there are.
        needed: usize,
    },
    /// [`WORK_TRY_MAX`], or the budget given instead.
    #[error("the decision takes more than {limit} steps to put together")]
    Work {
        /// The budget.
        limit: usize,
        /// The rules whose verdict is spread over the most nodes, the worst first.
        rules: Vec<RuleId>,
    },
    /// [`ROLES_MAX`].
    #[error("the policy tells apart more than {ROLES_MAX} kinds of {direction} endpoint")]
    Roles {
        /// `inbound` or `outbound`.
        direction: &'static str,
        /// The rules whose verdict is spread over the most nodes, the worst first.
        rules: Vec<RuleId>,
    },
    /// [`COMPARISONS_MAX`].
    #[error("program `{program}` needs {needed} comparisons, the limit is {COMPARISONS_MAX}")]
    Comparisons {
        /// The program.
        program: String,
        /// How many it needs.
        needed: usize,
        /// The rules whose verdict is spread over the most nodes, the worst first.
        rules: Vec<RuleId>,
    },
}

impl LimitError {
    /// Refuses a policy that tells too many requests apart.
    ///
    /// # Errors
    /// [`Self::Requests`].
    pub fn of_requests(policy: &Policy) -> Result<(), Self> {
        match request_kinds(policy) {
            needed if needed > REQUESTS_MAX => Err(Self::Requests { needed }),
            _ => Ok(()),
        }
    }

    /// Refuses a policy whose endpoints would have records too large.
    pub(crate) fn of_records(policy: &Policy) -> Result<(), Self> {
        let (labels, ports) = (policy.labels.len(), policy.ports.len());
        match () {
            () if labels > LABELS_MAX => Err(Self::Labels { needed: labels }),
            () if ports > PORTS_MAX => Err(Self::Ports { needed: ports }),
            () => Ok(()),
        }
    }

    /// The rules that cost most, the worst first; none where it is not about rules.
    pub fn rules(&self) -> &[RuleId] {
        match self {
            Self::Nodes { rules, .. }
            | Self::Cells { rules }
            | Self::Work { rules, .. }
            | Self::Roles { rules, .. }
            | Self::Comparisons { rules, .. } => rules,
            Self::Labels { .. }
            | Self::Ports { .. }
            | Self::Requests { .. }
            | Self::Classes { .. }
            | Self::Nets { .. }
            | Self::Steps
            | Self::Bits { .. } => &[],
        }
    }
}
