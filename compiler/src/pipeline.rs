//! The whole way from a policy to an object, stage by stage, so that each can be looked at.

use crate::bpf;
use crate::ir::Stage;
use crate::limits::LimitError;
use crate::link::{self, Line, map_specs};
use crate::lower::{LowerError, lower};
use crate::program::{self, Way};
use crate::target::{self, Unenforceable};
use crate::trees::{self, Trees};
use cranelift_codegen::ir::Function;
use seg_artifact::manifest::{Manifest, ManifestError, Rule, Source, Workload};
use seg_artifact::object::{OpenError, hex};
use seg_artifact::{maps, version};
use seg_lang::ast::Action;
use seg_lang::policy::{self, LabelId, Policy, RuleKind, text};
use seg_lang::source::Sources;
use sha2::{Digest, Sha256};

/// Why a policy does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is too large.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// It has rules that no hook can enforce.
    #[error("the policy has rules that no hook of the target can enforce")]
    Target(Vec<Unenforceable>),
    /// A program does not become BPF.
    #[error("program `{program}`: {source}")]
    Lower {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: LowerError,
    },
    /// The manifest does not encode.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The object does not seal.
    #[error(transparent)]
    Seal(#[from] OpenError),
}

/// A compiled policy.
#[derive(Debug)]
pub struct Compiled {
    /// Rules, diagrams, roles and trees.
    pub trees: Trees,
    /// A program for each role, outbound then inbound.
    pub programs: Vec<bpf::Program>,
    /// The bytes of `policy.bpf.o`.
    pub object: Vec<u8>,
}

/// Compiles a policy; `sources` are the texts it was read from.
///
/// The same input gives the same bytes.
///
/// # Errors
/// [`CompileError`] if it is too large for the target, or asks what no hook can tell.
pub fn compile(
    policy: &Policy,
    sources: &Sources,
    package: &str,
) -> Result<Compiled, CompileError> {
    let unenforceable = target::unenforceable(policy);
    if !unenforceable.is_empty() {
        return Err(CompileError::Target(unenforceable));
    }
    let trees = trees::compile(policy)?;
    let programs = functions(&trees).into_iter().map(|(name, function)| {
        lower(&function, &name).map_err(|source| CompileError::Lower { program: name, source })
    });
    let programs: Vec<_> = programs.collect::<Result<_, _>>()?;
    let manifest = manifest(policy, sources, package, &trees);
    let lines = |location| line(&manifest, location);
    let n_values = trees.rules.labels.n_values();
    let n_rules = u32::try_from(manifest.rules.len()).unwrap_or(u32::MAX);
    let object = link::link(&programs, &map_specs(n_values, n_rules), &manifest.encode()?, &lines);
    Ok(Compiled { trees, programs, object: seg_artifact::object::seal(object)? })
}

/// The packet program of every role, by name, outbound then inbound.
pub fn functions(trees: &Trees) -> Vec<(String, Function)> {
    let labels = &trees.rules.labels;
    let n_values =
        [labels.0.len(), labels.ports().len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let ways = [(Way::Outbound, &trees.outbound), (Way::Inbound, &trees.inbound)];
    let each = ways.into_iter().flat_map(|(way, decisions)| {
        let named = decisions.roles.programs.iter().zip(&decisions.trees);
        named.map(move |(name, tree)| (name.clone(), program::build(name, way, n_values, tree)))
    });
    each.collect()
}

fn manifest(policy: &Policy, sources: &Sources, package: &str, trees: &Trees) -> Manifest {
    let mut files: Vec<Source> = sources
        .iter()
        .map(|(_, source)| Source {
            path: source.path.clone(),
            sha256: hex(&Sha256::digest(&source.text)),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Manifest {
        format: version::FORMAT,
        edition: version::EDITION.to_owned(),
        compiler: env!("CARGO_PKG_VERSION").to_owned(),
        package: package.to_owned(),
        kernel: version::KERNEL_MIN.to_owned(),
        labels: trees.rules.labels.0.clone(),
        ports: trees.rules.labels.ports().to_vec(),
        outbound: trees.outbound.roles.clone(),
        inbound: trees.inbound.roles.clone(),
        workloads: workloads(policy),
        not_after: policy.rules.iter().filter_map(policy::Rule::expires).min().map(str::to_owned),
        rules: rules(policy, sources),
        sources: files,
        digests: trees.rules.digests(),
    }
}

/// The inventory, by name and address: names of two modules may be alike, addresses are not.
fn workloads(policy: &Policy) -> Vec<Workload> {
    let label = |id: LabelId| policy.labels[id.0 as usize].name.clone();
    let port = |(protocol, port): (u8, u16)| text::ports(protocol, port, port);
    let mut workloads: Vec<Workload> = policy
        .workloads
        .iter()
        .map(|workload| Workload {
            name: workload.name.clone(),
            addresses: workload.addresses.iter().copied().collect(),
            labels: workload.labels.iter().map(|(id, v)| (label(*id), v.clone())).collect(),
            ports: workload.ports.iter().map(|(name, p)| (name.clone(), port(*p))).collect(),
        })
        .collect();
    workloads.sort_by(|a, b| (&a.name, &a.addresses).cmp(&(&b.name, &b.addresses)));
    workloads
}

/// The rule table, by number.
pub fn rules(policy: &Policy, sources: &Sources) -> Vec<Rule> {
    policy
        .rules
        .iter()
        .map(|rule| {
            let block = &policy.blocks[rule.block.0 as usize];
            let place = rule.place();
            let source = sources.get(place.file);
            Rule {
                tier: text::tier(block.tier).to_owned(),
                block: block.name.clone(),
                action: match &rule.kind {
                    RuleKind::Match { action: Action::Allow, .. } => "allow",
                    RuleKind::Match { action: Action::Deny, .. } => "deny",
                    RuleKind::Isolate { .. } => "isolate",
                }
                .to_owned(),
                path: source.map(|s| s.path.clone()).unwrap_or_default(),
                line: source.map_or(0, |s| s.position(place.start).0),
                text: text::statement(sources, rule),
                owner: rule.annotations.owner.clone(),
                ticket: rule.annotations.ticket.clone(),
                template: rule.uses.first().map(|_| sources.place(rule.span)),
                staged: block.staged,
                log: matches!(rule.kind, RuleKind::Match { log: true, .. }),
                expires: rule.expires().map(str::to_owned),
            }
        })
        .collect()
}

/// What a source location of a program says to people.
fn line(manifest: &Manifest, location: u32) -> Line {
    let rule = location
        .checked_sub(maps::RULE_COUNTERS)
        .and_then(|rule| manifest.rules.get(rule as usize));
    if let Some(rule) = rule {
        let text = format!("{} {}: {}", rule.tier, rule.block, rule.text);
        return Line { file: rule.path.clone(), line: rule.line, column: 0, text };
    }
    let stage = [Stage::Parse, Stage::Identify, Stage::Decide, Stage::Track, Stage::Count]
        .into_iter()
        .find(|stage| *stage as u32 == location);
    let text = match stage {
        Some(Stage::Parse) | None => "read the headers",
        Some(Stage::Identify) => "find out who the ends are",
        Some(Stage::Decide) => "decide",
        Some(Stage::Track) => "connection state",
        Some(Stage::Count) => "count",
    };
    Line { file: "seg".to_owned(), line: 0, column: 0, text: text.to_owned() }
}
