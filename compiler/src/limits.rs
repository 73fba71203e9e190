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

/// Roles of one direction.
///
/// Unit: programs. Source: an object holds a program for each; `segd` loads those of its own endpoints.
pub const ROLES_MAX: usize = 4_096;

/// Comparisons of one program.
///
/// Unit: comparisons. Source: the verifier of Linux 6.18 follows 1,000,000 instructions
/// (`BPF_COMPLEXITY_LIMIT_INSNS`) and a comparison was measured to cost it 3 to 4.
pub const COMPARISONS_MAX: usize = 200_000;

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
            | Self::Roles { rules, .. }
            | Self::Comparisons { rules, .. } => rules,
            Self::Labels { .. } | Self::Ports { .. } | Self::Requests { .. } => &[],
        }
    }
}
