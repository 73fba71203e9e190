//! From syntax to the typed policy: every set gets a type, every rule its place.
//!
//! One mistake gives one diagnostic: a part that is wrong, or that hangs on something wrong, is `None` from there on.
//! What the grammar knows and this edition gives no meaning is refused ([`codes::NOT_YET`]), never ignored.

mod typing;

use crate::ast::{
    Annotation, Arrow, Claim, ClaimsKind, DefineKind, Exempt, File, Flow, Item, Kind, LiteralValue,
    Name, Path, Rule, Same,
};
use crate::codes;
use crate::diagnostic::{Code, Diagnostic};
use crate::policy::{
    self, Annotations, BlockId, Endpoints, LabelId, Match, Policy, RuleKind, Services, WorkloadId,
};
use crate::resolve::{Key, Miss, Names, What, nearest, suggest};
use crate::sets::Budget;
use crate::source::{FileId, Sources, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use typing::{endpoints_weight, services_weight};

/// Parts a set may have once its names are written out.
///
/// Unit: nodes of [`Endpoints`] or [`Services`]. Source: chosen; a net of 200,000 prefixes fits.
const SET_NODES_MAX: usize = 1 << 18;

/// Parts all sets of a policy may have together.
///
/// Unit: nodes. Source: chosen; keeps a policy below some hundred megabytes.
const POLICY_NODES_MAX: usize = 1 << 22;

/// How deep a set may be once its names are written out, so that recursion over it is safe.
///
/// Unit: nodes from the root to a leaf. Source: chosen.
const SET_DEPTH_MAX: usize = 128;

/// Values of a label a message lists.
const VALUES_SHOWN_MAX: usize = 12;

/// Checks the modules of `package`, in the order given, and says what they mean.
pub(crate) fn check<'a>(
    sources: &'a Sources,
    names: &'a Names<'a>,
    package: &[&'a (FileId, File)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Policy> {
    let policy = Policy { labels: names.labels.clone(), ..Policy::default() };
    let mut checker = Checker {
        sources,
        names,
        policy,
        values: BTreeMap::new(),
        blocks: BTreeMap::new(),
        nodes: 0,
        policy_nodes: 0,
        budget: Budget::default(),
        exhausted: false,
        failed: false,
        diagnostics,
    };
    checker.definitions();
    checker.inventory(package);
    for (file, tree) in package {
        tree.items.iter().for_each(|item| checker.item(*file, item));
    }
    for (file, tree) in package {
        tree.items.iter().for_each(|item| checker.claims(*file, item));
    }
    (!checker.failed).then_some(checker.policy)
}

/// Where a set stands, which decides what may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A `net`: addresses only.
    Net,
    /// A group, or one side of a rule: no workloads.
    Rule,
    /// One side of a claim, or an element of its braces: an address is the endpoint that has it.
    Claim,
    /// Below an `&` or `except` of a claim: an address is any endpoint with it, as in rules.
    ClaimPart,
}

impl Place {
    /// The place of an operand.
    fn operand(self) -> Self {
        if self == Self::Claim { Self::ClaimPart } else { self }
    }
}

/// What a definition means, and its weight when it is written out.
enum Value {
    Endpoints(Rc<Endpoints>, Weight),
    Services(Rc<Services>, Weight),
    Workload(WorkloadId),
}

#[derive(Clone, Copy)]
struct Weight {
    nodes: usize,
    depth: usize,
}

struct Checker<'a, 'd> {
    sources: &'a Sources,
    names: &'a Names<'a>,
    policy: Policy,
    values: BTreeMap<Key<'a>, Value>,
    blocks: BTreeMap<&'a str, (BlockId, Span)>,
    /// Nodes of the set at hand.
    nodes: usize,
    policy_nodes: usize,
    budget: Budget,
    /// A limit for the whole policy was reported.
    exhausted: bool,
    /// Something was left out of the policy, so it must not be used.
    failed: bool,
    diagnostics: &'d mut Vec<Diagnostic>,
}

// Statements.
impl<'a> Checker<'a, '_> {
    /// Gives every net, service and group its meaning, parts before wholes.
    fn definitions(&mut self) {
        for definition in &self.names.order {
            let What::Set(what, set) = definition.what else { continue };
            let file = definition.file;
            let value = match what {
                DefineKind::Net => self.endpoints(file, set, Place::Net).map(endpoints_value),
                DefineKind::Group => self.endpoints(file, set, Place::Rule).map(endpoints_value),
                DefineKind::Service => self.services(file, set).map(services_value),
            };
            if let Some(value) = value {
                self.values.insert(definition.key(), value);
            }
        }
    }

    /// Workloads come before rules so that a claim may name one.
    fn inventory(&mut self, package: &[&'a (FileId, File)]) {
        let mut owners: BTreeMap<IpAddr, Span> = BTreeMap::new();
        for (file, item) in package.iter().flat_map(|(f, tree)| tree.items.iter().map(|i| (*f, i)))
        {
            let Kind::Workload { name, at, is } = &item.kind else { continue };
            let addresses = self.workload_addresses(file, at);
            let labels = self.workload_labels(file, is);
            let (Some(addresses), Some(labels)) = (addresses, labels) else { continue };
            for address in &addresses {
                if let Some(first) = owners.insert(*address, name.span) {
                    let message = format!("`{address}` belongs to two workloads");
                    let report = Diagnostic::new(codes::DEFINED_TWICE, message, at.span);
                    self.report(report.and(first, "first here"));
                }
            }
            let id = WorkloadId(index(self.policy.workloads.len()));
            self.values.insert((file, &name.value), Value::Workload(id));
            let (name, span) = (name.value.clone(), item.span);
            self.policy.workloads.push(policy::Workload { name, addresses, labels, span });
        }
    }

    fn item(&mut self, file: FileId, item: &'a Item) {
        let annotations = self.annotations(&item.annotations);
        match &item.kind {
            Kind::Block { tier, staged, name, scope, items } => {
                if let Some(staged) = staged {
                    self.not_yet("`staged`", *staged);
                }
                if let Some((_, first)) = self.blocks.get(name.value.as_str()) {
                    let message = format!("two blocks are called `{}`", name.value);
                    let report = Diagnostic::new(codes::BLOCK_TWICE, message, name.span);
                    let report = report.and(*first, "first here");
                    self.report(report);
                } else {
                    let id = BlockId(index(self.policy.blocks.len()));
                    self.blocks.insert(&name.value, (id, name.span));
                }
                let scope = match scope {
                    Some(scope) => {
                        let set = self.endpoints(file, scope, Place::Rule);
                        set.map(|set| Some((set, scope.span)))
                    }
                    None => Some(None),
                };
                let block = BlockId(index(self.policy.blocks.len()));
                self.policy.blocks.push(policy::Block {
                    name: name.value.clone(),
                    tier: *tier,
                    scope: scope.clone().flatten().map(|(set, _)| set),
                    annotations: annotations.clone(),
                    span: item.span,
                });
                let before = self.policy.rules.len();
                for item in items {
                    self.rule_item(file, item, block, &annotations);
                }
                // A scope that is wrong says nothing about the rules.
                if let Some((scope, span)) = scope.flatten() {
                    self.within(&scope, span, before);
                }
            }
            Kind::Template { name, .. } => self.not_yet("`template`", name.span),
            Kind::Use { path, .. } => self.not_yet("`use`", path.span),
            Kind::Claims { what: ClaimsKind::Assert, title, .. } => {
                self.not_yet("`assert`", title.span);
            }
            Kind::Rule(_) | Kind::Isolate { .. } => {
                let message = "a rule must stand in a guard, policy or baseline";
                self.refuse(codes::MISPLACED, message, item.span);
            }
            Kind::Error => self.failed = true,
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Claims { what: ClaimsKind::Test, .. } => {}
        }
    }

    fn rule_item(&mut self, file: FileId, item: &'a Item, block: BlockId, outer: &Annotations) {
        let own = self.annotations(&item.annotations);
        let kind = match &item.kind {
            Kind::Rule(rule) => self.rule(file, rule),
            Kind::Isolate { set, direction } => self
                .endpoints(file, set, Place::Rule)
                .map(|set| RuleKind::Isolate { set, direction: *direction }),
            Kind::Use { path, .. } => return self.not_yet("`use`", path.span),
            Kind::Error => {
                self.failed = true;
                return;
            }
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Block { .. }
            | Kind::Template { .. }
            | Kind::Claims { .. } => {
                let message = "only `allow`, `deny` and `isolate` may stand in a block";
                return self.refuse(codes::MISPLACED, message, item.span);
            }
        };
        let Some(kind) = kind else {
            self.failed = true;
            return;
        };
        let annotations = inherit(own, outer);
        self.policy.rules.push(policy::Rule { block, kind, annotations, span: item.span });
    }

    /// `for S`: one side of every rule of a block, those from `first` on, lies in `S`.
    fn within(&mut self, scope: &Endpoints, scope_span: Span, first: usize) {
        let rules = self.policy.rules.split_off(first);
        let mut outside = vec![];
        for rule in &rules {
            let (inside, message) = match &rule.kind {
                RuleKind::Match { flow, .. } => {
                    let inside = self.subset(&flow.from, scope, rule.span).and_then(|from| {
                        if from { Some(true) } else { self.subset(&flow.to, scope, rule.span) }
                    });
                    (inside, "neither side of this rule lies in the scope of its block")
                }
                RuleKind::Isolate { set, .. } => {
                    let inside = self.subset(set, scope, rule.span);
                    (inside, "this set does not lie in the scope of its block")
                }
            };
            if inside == Some(false) {
                outside.push((rule.span, message));
            }
        }
        match outside.as_slice() {
            // It is the scope that is wrong.
            [(first, _), _, ..] if outside.len() == rules.len() => {
                let message =
                    format!("none of the {} rules of this block lies in its scope", rules.len());
                let report = Diagnostic::new(codes::OUTSIDE_SCOPE, message, scope_span);
                self.report(report.and(*first, "the first of them"));
            }
            _ => {
                for (span, message) in outside {
                    let report = Diagnostic::new(codes::OUTSIDE_SCOPE, message, span);
                    self.report(report.and(scope_span, "the scope"));
                }
            }
        }
        self.policy.rules.extend(rules);
    }

    fn rule(&mut self, file: FileId, rule: &'a Rule) -> Option<RuleKind> {
        if let Some(log) = rule.log {
            self.not_yet("`log`", log);
        }
        let flow = self.flow(file, &rule.flow, Place::Rule);
        let when = match &rule.when {
            Some(same) => self.same(file, same),
            None => Some(vec![]),
        };
        let mut unless = vec![];
        for exempt in &rule.unless {
            match exempt {
                Exempt::Same(same) => {
                    unless.push(self.same(file, same).map(policy::Exempt::Same));
                }
                Exempt::Flow { annotations, flow } => {
                    let annotations = Box::new(self.annotations(annotations));
                    let span = flow.span;
                    let flow = self.flow(file, flow, Place::Rule);
                    unless.push(flow.map(|flow| policy::Exempt::Flow { flow, annotations, span }));
                }
            }
        }
        let unless = unless.into_iter().collect::<Option<Vec<_>>>()?;
        Some(RuleKind::Match { action: rule.action, flow: flow?, when: when?, unless })
    }

    fn flow(&mut self, file: FileId, flow: &'a Flow, place: Place) -> Option<Match> {
        let both_ways = match flow.arrow.value {
            Arrow::To => Some(false),
            Arrow::Both => Some(true),
            Arrow::Reach if place == Place::Claim => {
                self.not_yet("`~>`", flow.arrow.span);
                None
            }
            Arrow::Reach => {
                let message = "a rule speaks of one connection; `~>` belongs in claims";
                self.refuse(codes::MISPLACED, message, flow.arrow.span);
                None
            }
        };
        let from = self.endpoints(file, &flow.from, place);
        let to = self.endpoints(file, &flow.to, place);
        let on = match &flow.on {
            Some(set) => self.services(file, set),
            None => Some(Services::Any),
        };
        Some(Match { from: from?, to: to?, both_ways: both_ways?, on: on? })
    }

    /// The dimensions of a `same`, each once.
    fn same(&mut self, file: FileId, same: &Same) -> Option<Vec<LabelId>> {
        let mut labels = Some(BTreeSet::new());
        for name in &same.labels {
            match self.names.label(file, name) {
                Ok(label) => {
                    if let Some(labels) = &mut labels {
                        labels.insert(label);
                    }
                    continue;
                }
                Err(miss) => match self.names.otherwise(file, name) {
                    Some(other) => {
                        let message =
                            format!("`same` needs a label dimension, `{}` is {other}", name.value);
                        self.refuse(codes::NO_LABEL, message, name.span);
                    }
                    None => self.missing(miss),
                },
            }
            labels = None;
        }
        labels.map(|l| l.into_iter().collect())
    }

    fn claims(&mut self, file: FileId, item: &'a Item) {
        let Kind::Claims { what: ClaimsKind::Test, title, claims } = &item.kind else { return };
        let claims = claims.iter().filter_map(|claim| self.claim(file, claim)).collect();
        let title = title.value.clone();
        self.policy.tests.push(policy::Test { title, claims, span: item.span });
    }

    fn claim(&mut self, file: FileId, claim: &'a Claim) -> Option<policy::Claim> {
        if let Some(avoiding) = &claim.avoiding {
            self.not_yet("`avoiding`", avoiding.span);
        }
        let flow = self.flow(file, &claim.flow, Place::Claim);
        let by = match &claim.by {
            Some(name) => self.block(name).map(Some),
            None => Some(None),
        };
        let (Some(flow), Some(by)) = (flow, by) else {
            self.failed = true;
            return None;
        };
        Some(policy::Claim { expect: claim.expect, flow, by, span: claim.span })
    }

    fn block(&mut self, name: &Name) -> Option<BlockId> {
        if let Some((id, _)) = self.blocks.get(name.value.as_str()) {
            return Some(*id);
        }
        // The block may stand in what did not parse.
        if !self.names.any_broken {
            let message = format!("no block `{}`", name.value);
            let report = Diagnostic::new(codes::UNKNOWN_BLOCK, message, name.span);
            let report = match nearest(&name.value, self.blocks.keys().copied()) {
                Some(near) => suggest(report, name, near),
                None => report,
            };
            self.report(report);
        }
        None
    }

    fn annotations(&mut self, annotations: &[Annotation]) -> Annotations {
        let mut found = Annotations::default();
        for annotation in annotations {
            let name = annotation.name.value.as_str();
            let (field, date) = match name {
                "owner" => (&mut found.owner, false),
                "ticket" => (&mut found.ticket, false),
                "reason" => (&mut found.reason, false),
                "id" => (&mut found.id, false),
                "since" => (&mut found.since, true),
                "review" => (&mut found.review, true),
                "expires" | "ignore" => {
                    self.not_yet(&format!("`@{name}`"), annotation.span);
                    continue;
                }
                _ => {
                    let message = format!("no annotation `@{name}`");
                    let report = Diagnostic::new(codes::ANNOTATION, message, annotation.name.span);
                    self.report(match nearest(name, ANNOTATIONS.iter().copied()) {
                        Some(near) => suggest(report, &annotation.name, near),
                        None => report.help(format!("known are: {}", ANNOTATIONS.join(", "))),
                    });
                    continue;
                }
            };
            let value = match annotation.arguments.as_slice() {
                [argument] => match &argument.value {
                    LiteralValue::String(text) if !date => Some(text),
                    LiteralValue::Date(text) if date => Some(text),
                    LiteralValue::String(_)
                    | LiteralValue::Date(_)
                    | LiteralValue::Number(_)
                    | LiteralValue::Ident(_) => None,
                },
                _ => None,
            };
            let message = match value {
                Some(_) if field.is_some() => format!("`@{name}` is given twice"),
                Some(value) => {
                    *field = Some(value.clone());
                    continue;
                }
                None if date => format!("`@{name}` takes one date, as in `@{name}(2026-12-31)`"),
                None => format!("`@{name}` takes one string, as in `@{name}(\"…\")`"),
            };
            self.refuse(codes::ANNOTATION, message, annotation.span);
        }
        found
    }
}

/// The annotations that have a meaning.
const ANNOTATIONS: &[&str] = &["id", "owner", "reason", "review", "since", "ticket"];

/// What a rule does not say itself it takes from its block; an id stays with what it identifies.
fn inherit(own: Annotations, outer: &Annotations) -> Annotations {
    Annotations {
        owner: own.owner.or_else(|| outer.owner.clone()),
        ticket: own.ticket.or_else(|| outer.ticket.clone()),
        reason: own.reason.or_else(|| outer.reason.clone()),
        since: own.since.or_else(|| outer.since.clone()),
        review: own.review.or_else(|| outer.review.clone()),
        id: own.id,
    }
}

// Reports.
impl Checker<'_, '_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.failed = true;
        self.diagnostics.push(diagnostic);
    }

    fn refuse(&mut self, code: Code, message: impl Into<String>, span: Span) {
        self.report(Diagnostic::new(code, message, span));
    }

    fn missing(&mut self, miss: Miss) {
        self.failed = true;
        self.diagnostics.extend(miss.map(|m| *m));
    }

    fn not_yet(&mut self, what: &str, span: Span) {
        let message = format!("{what} has no meaning in this edition yet");
        self.refuse(codes::NOT_YET, message, span);
    }

    fn too_deep<T>(&mut self, span: Span) -> Option<T> {
        let message =
            format!("with its names written out this set is nested more than {SET_DEPTH_MAX} deep");
        self.refuse(codes::TOO_DEEP, message, span);
        None
    }

    fn too_large<T>(&mut self, span: Span) -> Option<T> {
        let message =
            format!("with its names written out this set has more than {SET_NODES_MAX} parts");
        self.refuse(codes::SETS_TOO_LARGE, message, span);
        None
    }

    /// A limit of the whole policy, reported where it was reached and once.
    fn exhaust<T>(&mut self, message: &str, span: Span) -> Option<T> {
        self.failed = true;
        if !std::mem::replace(&mut self.exhausted, true) {
            self.refuse(codes::SETS_TOO_LARGE, message, span);
        }
        None
    }
}

fn endpoints_value(set: Endpoints) -> Value {
    let weight = endpoints_weight(&set);
    Value::Endpoints(Rc::new(set), weight)
}

fn services_value(set: Services) -> Value {
    let weight = services_weight(&set);
    Value::Services(Rc::new(set), weight)
}

fn written(path: &Path) -> String {
    let parts: Vec<_> = path.parts.iter().map(|p| p.value.as_str()).collect();
    parts.join(".")
}

fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
