//! From syntax to the typed policy: every set gets a type, every rule its place.
//!
//! One mistake gives one diagnostic: a part that is wrong, or that hangs on something wrong, is `None` from there on.

mod annotations;
mod templates;
mod predicates;
mod refine;
mod typing;
mod meaning;

use crate::analyze::Config;
use crate::ast::{
    Arrow, Claim, ClaimsKind, DefineKind, Exempt, Expect, File, Flow, Item, Kind, Name, Path, Rule,
    Same,
};
use crate::codes;
use crate::diagnostic::{Code, Diagnostic};
use crate::policy::{
    self, Annotations, BlockId, Endpoints, LabelId, Match, Policy, RuleKind, Services, WorkloadId,
};
use crate::resolve::{Key, Miss, Names, What, suggest};
use crate::sets::Budget;
use crate::source::{FileId, Sources, Span};
use predicates::speaks_of_processes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use templates::{Frame, Pending, Template};
use typing::{endpoints_weight, services_weight};

pub(crate) use annotations::ANNOTATIONS;
pub(crate) use meaning::{Meaning, meaning};

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

/// What telling the services of one set apart may cost: its parts times the source ports and codes where its ranges end.
///
/// Unit: nodes. Source: chosen; well below a second.
const SERVICES_WORK_MAX: usize = 1 << 22;

/// Values of a label a message lists.
const VALUES_SHOWN_MAX: usize = 12;

/// Checks the modules of `package`, in the order given, and says what they mean.
pub(crate) fn check<'a>(
    sources: &'a Sources,
    config: &'a Config,
    names: &'a Names<'a>,
    package: &[&'a (FileId, File)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Policy> {
    let mut checker = Checker::new(sources, config, names, package, diagnostics);
    checker.definitions();
    checker.inventory(package);
    checker.templates();
    for (file, tree) in package {
        tree.items.iter().for_each(|item| checker.item(*file, item));
    }
    for (file, tree) in package {
        tree.items.iter().for_each(|item| checker.claims(*file, item));
    }
    checker.asserts();
    checker.ignores();
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
    config: &'a Config,
    names: &'a Names<'a>,
    policy: Policy,
    values: BTreeMap<Key<'a>, Value>,
    blocks: BTreeMap<&'a str, (BlockId, Span)>,
    /// The templates whose definition is sound.
    templates: BTreeMap<Key<'a>, Template<'a>>,
    /// The use of a template that is being written out.
    frame: Option<Rc<Frame<'a>>>,
    /// Whether a template is checked as it is defined: its parameters may be anything, nothing is added to the policy.
    defining: bool,
    /// Whether the set at hand holds a parameter that may be anything, so that nobody knows what is in it.
    vague: bool,
    /// Uses of templates written out so far.
    n_uses: usize,
    /// Assertions of templates, which wait until every block is known.
    asserts: Vec<Pending<'a>>,
    /// `@ignore` of the package, each with what it covers and whether it was of use.
    ignores: Vec<annotations::Ignore>,
    /// The first workload with each address of the inventory.
    at_address: BTreeMap<IpAddr, WorkloadId>,
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

impl<'a, 'd> Checker<'a, 'd> {
    /// Nothing is checked yet.
    fn new(
        sources: &'a Sources,
        config: &'a Config,
        names: &'a Names<'a>,
        package: &[&'a (FileId, File)],
        diagnostics: &'d mut Vec<Diagnostic>,
    ) -> Self {
        let items = package.iter().flat_map(|(_, tree)| &tree.items);
        let ports = items.filter_map(|item| match &item.kind {
            Kind::Workload { ports, .. } => Some(ports),
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Block { .. }
            | Kind::Template { .. }
            | Kind::Use { .. }
            | Kind::Claims { .. }
            | Kind::Rule(_)
            | Kind::Isolate { .. }
            | Kind::Error => None,
        });
        let ports = ports.flatten().map(|(name, _)| name.value.clone()).collect();
        let policy = Policy { labels: names.labels.clone(), ports, ..Policy::default() };
        Self {
            sources,
            config,
            names,
            policy,
            values: BTreeMap::new(),
            blocks: BTreeMap::new(),
            templates: BTreeMap::new(),
            frame: None,
            defining: false,
            vague: false,
            n_uses: 0,
            asserts: vec![],
            ignores: vec![],
            at_address: BTreeMap::new(),
            nodes: 0,
            policy_nodes: 0,
            budget: Budget::default(),
            exhausted: false,
            failed: false,
            diagnostics,
        }
    }
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
            let Kind::Workload { name, at, is, ports } = &item.kind else { continue };
            let addresses = self.workload_addresses(file, at);
            let labels = self.workload_labels(file, is);
            let ports = self.workload_ports(file, ports);
            let (Some(addresses), Some(labels), Some(ports)) = (addresses, labels, ports) else {
                continue;
            };
            for address in &addresses {
                if let Some(first) = owners.insert(*address, name.span) {
                    let message = format!("`{address}` belongs to two workloads");
                    let report = Diagnostic::new(codes::DEFINED_TWICE, message, at.span);
                    self.report(report.and(first, "first here"));
                }
            }
            let id = WorkloadId(index(self.policy.workloads.len()));
            self.values.insert((file, &name.value), Value::Workload(id));
            for address in &addresses {
                self.at_address.entry(*address).or_insert(id);
            }
            let (name, span) = (name.value.clone(), item.span);
            self.policy.workloads.push(policy::Workload { name, addresses, labels, ports, span });
        }
    }

    fn item(&mut self, file: FileId, item: &'a Item) {
        let annotations = self.annotations(item);
        match &item.kind {
            Kind::Block { tier, staged, name, scope, items } => {
                self.may_hold(file, *tier, name, &annotations);
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
                    staged: staged.is_some(),
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
            Kind::Use { .. } => {
                let message = "a `use` must stand in a guard, policy, baseline or template";
                self.refuse(codes::MISPLACED, message, item.span);
            }
            Kind::Rule(_) | Kind::Isolate { .. } => {
                let message = "a rule must stand in a guard, policy, baseline or template";
                self.refuse(codes::MISPLACED, message, item.span);
            }
            Kind::Error => self.failed = true,
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Template { .. }
            | Kind::Claims { .. } => {}
        }
    }

    fn rule_item(&mut self, file: FileId, item: &'a Item, block: BlockId, outer: &Annotations) {
        let own = self.annotations(item);
        let kind = match &item.kind {
            Kind::Rule(rule) => self.rule(file, rule),
            Kind::Isolate { set, direction } => self
                .endpoints(file, set, Place::Rule)
                .map(|set| RuleKind::Isolate { set, direction: *direction }),
            Kind::Use { path, args } => {
                return self.use_template(file, path, args, block, &inherit(own, outer));
            }
            Kind::Claims { what: ClaimsKind::Assert, title, claims } if self.frame.is_some() => {
                return self.template_assert(file, item, title, claims);
            }
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
                let message = match self.frame {
                    Some(_) => "only rules, `use` and `assert` may stand in a template",
                    None => "only `allow`, `deny`, `isolate` and `use` may stand in a block",
                };
                return self.refuse(codes::MISPLACED, message, item.span);
            }
        };
        let Some(kind) = kind else {
            self.failed = true;
            return;
        };
        if self.expired(own.expires.as_ref(), item.span) || self.defining {
            return;
        }
        let annotations = inherit(own, outer);
        let (uses, arguments) = (self.uses(), self.written_arguments(&item.kind));
        let span = item.span;
        self.policy.rules.push(policy::Rule { block, kind, annotations, span, uses, arguments });
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
                outside.push((rule.place(), message));
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
                    let annotations =
                        Box::new(self.exempt_annotations(rule.action, annotations, flow.span));
                    let span = flow.span;
                    let flow = self.flow(file, flow, Place::Rule);
                    if self.expired(annotations.expires.as_ref(), span) {
                        continue;
                    }
                    unless.push(flow.map(|flow| policy::Exempt::Flow { flow, annotations, span }));
                }
            }
        }
        let unless = unless.into_iter().collect::<Option<Vec<_>>>()?;
        let log = rule.log.is_some();
        Some(RuleKind::Match { action: rule.action, flow: flow?, when: when?, unless, log })
    }

    fn flow(&mut self, file: FileId, flow: &'a Flow, place: Place) -> Option<Match> {
        let both_ways = match flow.arrow.value {
            Arrow::To => Some(false),
            Arrow::Both => Some(true),
            Arrow::Reach if place == Place::Claim => Some(false),
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
        let (from, to) = (from?, to?);
        if speaks_of_processes(&from) && speaks_of_processes(&to) {
            let message = "both ends speak of processes of this machine, and only one can be it";
            let report = Diagnostic::new(codes::NOT_LOCAL, message, flow.to.span);
            self.report(report.and(flow.from.span, "the other end"));
            return None;
        }
        Some(Match { from, to, both_ways: both_ways?, on: on? })
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
        let Kind::Claims { what, title, claims } = &item.kind else { return };
        let foreign = self.is_foreign(file);
        let claims: Vec<_> = claims.iter().filter_map(|claim| self.claim(file, claim)).collect();
        // The tests of another package were run where it was built.
        if foreign && *what == ClaimsKind::Test {
            return;
        }
        let (what, title) = (*what, title.value.clone());
        let (span, uses) = (item.span, vec![]);
        self.policy.tests.push(policy::Test { what, title, foreign, uses, claims, span });
    }

    fn claim(&mut self, file: FileId, claim: &'a Claim) -> Option<policy::Claim> {
        let chain = self.chain(file, claim);
        let flow = self.flow(file, &claim.flow, Place::Claim);
        let by = match &claim.by {
            Some(name) => self.block(name).map(Some),
            None => Some(None),
        };
        let (Some(flow), Some(chain), Some(by)) = (flow, chain, by) else {
            self.failed = true;
            return None;
        };
        Some(policy::Claim { expect: claim.expect, flow, by, chain, span: claim.span })
    }

    /// What `~>` and `avoiding` of a claim say, `Some(None)` if it has neither.
    fn chain(&mut self, file: FileId, claim: &'a Claim) -> Option<Option<policy::Chain>> {
        let reach = claim.flow.arrow.value == Arrow::Reach;
        let avoiding = match &claim.avoiding {
            Some(set) => self.endpoints(file, set, Place::Claim).map(Some),
            None => Some(None),
        };
        let report = match (reach, claim.expect, &claim.avoiding, &claim.by) {
            (true, Expect::Deny, _, None) => {
                return Some(Some(policy::Chain { avoiding: avoiding? }));
            }
            (false, _, None, _) => return Some(None),
            (false, _, Some(set), _) => {
                let message =
                    "`avoiding` needs `~>`: nothing lies between the ends of one connection";
                let report = Diagnostic::new(codes::CHAIN_CLAIM, message, set.span);
                let arrow = claim.flow.arrow;
                if claim.expect == Expect::Deny && arrow.value == Arrow::To && claim.by.is_none() {
                    report.fix(arrow.span, "~>")
                } else {
                    report.help("chains are claimed as `expect deny a ~> b avoiding c`")
                }
            }
            (true, Expect::Allow | Expect::Only, ..) => {
                let message =
                    "`~>` needs `expect deny`: a claim about chains says that there is none";
                let report = Diagnostic::new(codes::CHAIN_CLAIM, message, claim.flow.arrow.span);
                report.help("claim each connection of a chain by itself, with `->`")
            }
            (true, Expect::Deny, _, Some(block)) => {
                let message =
                    "no block alone decides a chain, whose connections may be of several blocks";
                let report = Diagnostic::new(codes::CHAIN_CLAIM, message, block.span);
                report.help("leave out `by`, or claim one connection with `->`")
            }
        };
        self.report(report);
        None
    }

    fn block(&mut self, name: &Name) -> Option<BlockId> {
        // Which blocks there are is known where the template is used.
        if self.defining {
            return Some(BlockId(0));
        }
        if let Some((id, _)) = self.blocks.get(name.value.as_str()) {
            return Some(*id);
        }
        // The block may stand in what did not parse.
        if !self.names.any_broken {
            let message = format!("no block `{}`", name.value);
            let report = Diagnostic::new(codes::UNKNOWN_BLOCK, message, name.span);
            let report = match self.names.nearest(&name.value, self.blocks.keys().copied()) {
                Some(near) => suggest(report, name, near),
                None => report,
            };
            self.report(report);
        }
        None
    }
}

/// What a rule does not say itself it takes from its `use` or block; an id stays with what it identifies, a date too.
fn inherit(own: Annotations, outer: &Annotations) -> Annotations {
    Annotations {
        owner: own.owner.or_else(|| outer.owner.clone()),
        ticket: own.ticket.or_else(|| outer.ticket.clone()),
        reason: own.reason.or_else(|| outer.reason.clone()),
        since: own.since.or_else(|| outer.since.clone()),
        review: own.review.or_else(|| outer.review.clone()),
        id: own.id,
        expires: own.expires,
    }
}

// Reports.
impl Checker<'_, '_> {
    fn report(&mut self, mut diagnostic: Diagnostic) {
        self.failed = true;
        // The cause lies in the template or in its arguments: both are shown.
        for (span, template) in self.frame.iter().flat_map(|frame| frame.uses.iter().rev()) {
            diagnostic = diagnostic.and(*span, format!("in this use of `{template}`"));
        }
        self.diagnostics.push(diagnostic);
    }

    fn refuse(&mut self, code: Code, message: impl Into<String>, span: Span) {
        self.report(Diagnostic::new(code, message, span));
    }

    fn missing(&mut self, miss: Miss) {
        self.failed = true;
        if let Some(miss) = miss {
            self.report(*miss);
        }
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
