//! The whole way from a policy to an object, stage by stage, so that each can be looked at.

use crate::bpf;
use crate::cost::Estimate;
use crate::decided::{Choice, Config, Decided, decide};
use crate::ir::Stage;
use crate::limits::LimitError;
use crate::link::{self, Line, Sections, map_specs};
use crate::lower::{LowerError, lower};
use crate::target::{self, Unenforceable};
use seg_artifact::classes::Classes;
use seg_artifact::manifest::{Manifest, ManifestError, Rule, Source, Workload};
use seg_artifact::object::{OpenError, hex};
use seg_artifact::{maps, version};
use seg_lang::ast::{Action, Direction};
use seg_lang::policy::{self, LabelId, Policy, RuleKind, text};
use seg_lang::source::{Sources, Span};
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
    /// How it is decided.
    pub decided: Decided,
    /// What each shape that was looked at costs, the one chosen first.
    pub considered: Vec<Estimate>,
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
    config: Config,
) -> Result<Compiled, CompileError> {
    let unenforceable = target::unenforceable(policy);
    if !unenforceable.is_empty() {
        return Err(CompileError::Target(unenforceable));
    }
    let Choice { decided, considered } = decide(policy, config)?;
    let programs = decided.functions().into_iter().map(|(name, function)| {
        lower(&function, &name).map_err(|source| CompileError::Lower { program: name, source })
    });
    let programs: Vec<_> = programs.collect::<Result<_, _>>()?;
    let manifest = manifest(policy, sources, package, &decided);
    let lines = |location| line(&manifest, location);
    let n_rules = u32::try_from(manifest.rules.len()).unwrap_or(u32::MAX);
    let specs = map_specs(decided.records().n_values(), n_rules);
    let classes = decided.classes().map(Classes::encode).unwrap_or_default();
    let sections =
        Sections { tables: decided.constants(), classes: &classes, manifest: &manifest.encode()? };
    let object = link::link(&programs, &specs, &sections, &lines);
    Ok(Compiled { decided, considered, programs, object: seg_artifact::object::seal(object)? })
}

fn manifest(policy: &Policy, sources: &Sources, package: &str, decided: &Decided) -> Manifest {
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
        labels: decided.labels().0.clone(),
        ports: decided.labels().ports().to_vec(),
        nets: decided.nets(),
        outbound: decided.roles(Direction::Outbound).clone(),
        inbound: decided.roles(Direction::Inbound).clone(),
        workloads: workloads(policy),
        not_after: policy.rules.iter().filter_map(policy::Rule::expires).min().map(str::to_owned),
        rules: rules(policy, sources),
        sources: files,
        digests: decided.rules().digests(),
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
    let starts: Vec<Vec<u32>> = sources.iter().map(|(_, source)| source.line_starts()).collect();
    let line = |span: Span| {
        let starts = starts.get(span.file.0 as usize);
        starts.map_or(0, |of| of.partition_point(|start| *start <= span.start) as u32)
    };
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
                line: line(place),
                text: text::statement(sources, rule),
                owner: rule.annotations.owner.clone(),
                ticket: rule.annotations.ticket.clone(),
                template: rule.uses.first().and_then(|_| {
                    let source = sources.get(rule.span.file)?;
                    Some(format!("{}:{}", source.path, line(rule.span)))
                }),
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
    let text = stage.unwrap_or(Stage::Parse).text().to_owned();
    Line { file: "seg".to_owned(), line: 0, column: 0, text }
}
