//! What one definition means, whatever is wrong elsewhere in the package.

use super::{Checker, Value};
use crate::analyze::Config;
use crate::ast::File;
use crate::policy::{Endpoints, Policy, Services};
use crate::resolve::{Key, Names};
use crate::source::{FileId, Sources};

/// What a definition stands for.
pub(crate) enum Meaning {
    /// Endpoints.
    Endpoints(Endpoints),
    /// Services.
    Services(Services),
}

/// The meaning of the definition `key`, if it has one, and a policy that holds the labels and workloads only.
///
/// Cost: that of checking every definition.
pub(crate) fn meaning<'a>(
    sources: &'a Sources,
    config: &'a Config,
    names: &'a Names<'a>,
    package: &[&'a (FileId, File)],
    key: Key<'a>,
) -> (Policy, Option<Meaning>) {
    // The messages are those of `check`.
    let mut diagnostics = vec![];
    let mut checker = Checker::new(sources, config, names, package, &mut diagnostics);
    checker.definitions();
    checker.inventory(package);
    let meaning = match checker.values.get(&key) {
        Some(Value::Endpoints(set, _)) => Some(Meaning::Endpoints((**set).clone())),
        Some(Value::Services(set, _)) => Some(Meaning::Services((**set).clone())),
        Some(Value::Workload(_)) | None => None,
    };
    (checker.policy, meaning)
}
