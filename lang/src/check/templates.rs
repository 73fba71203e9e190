//! Templates: checked where they are defined, written out where they are used.
//!
//! A definition is checked with parameters that may be anything, so that its mistakes are reported there and once; what only
//! some arguments make wrong is reported at the definition with every use on the way. Expansion is hygienic: names of a
//! template are those of its file, names of an argument those of the file of the use.

use super::{Annotations, BlockId, Checker, Place, Value, endpoints_value, services_value};
use crate::ast::{
    Claim, ClaimsKind, Exempt, Item, Kind, Name, Param, ParamType, Path, Set, SetKind,
};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::parse::DEPTH_MAX;
use crate::policy::text::substitute;
use crate::policy::{self, Endpoints, Services};
use crate::resolve::{Definition, Target, What, nearest, suggest};
use crate::source::{FileId, Span, Spanned};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Uses of templates in a policy, those inside templates counted for each use.
///
/// Unit: uses. Source: chosen; templates that use others twice double with every level.
const USES_MAX: usize = 1 << 16;

/// A template whose definition is sound.
#[derive(Clone, Copy)]
pub(super) struct Template<'a> {
    params: &'a [Param],
    items: &'a [Item],
}

/// What the parameters of the template at hand stand for.
pub(super) struct Frame<'a> {
    arguments: BTreeMap<&'a str, Rc<Argument>>,
    /// The uses that lead here, outermost first, each with the name of its template.
    pub(super) uses: Vec<(Span, &'a str)>,
}

/// What a parameter stands for.
pub(super) struct Argument {
    value: Bound,
    /// As it was written.
    text: String,
    /// Whether the text needs parentheses as an operand.
    compound: bool,
}

enum Bound {
    Known(Value),
    /// In the check of a definition: anything of this type.
    Any(ParamType),
}

/// An assertion of a template, with the arguments of one use.
pub(super) struct Pending<'a> {
    file: FileId,
    span: Span,
    title: &'a Spanned<String>,
    claims: &'a [Claim],
    frame: Option<Rc<Frame<'a>>>,
}

impl Frame<'_> {
    /// The parameter that was probably meant by a name nobody knows.
    pub(super) fn like(&self, path: &Path) -> Option<&str> {
        let [name] = path.parts.as_slice() else { return None };
        nearest(&name.value, self.arguments.keys().copied())
    }
}

// Definitions.
impl<'a> Checker<'a, '_> {
    /// Checks every template by itself, those it uses first.
    pub(super) fn templates(&mut self) {
        let names = self.names;
        for definition in &names.order {
            let What::Template { params, items } = definition.what else { continue };
            let failed = std::mem::replace(&mut self.failed, false);
            self.template(definition, params, items);
            if !self.failed {
                self.templates.insert(definition.key(), Template { params, items });
            }
            self.failed |= failed;
        }
    }

    fn template(&mut self, definition: &Definition<'a>, params: &'a [Param], items: &'a [Item]) {
        let file = definition.file;
        let mut arguments: BTreeMap<&str, Rc<Argument>> = BTreeMap::new();
        for param in params {
            if let Some(default) = &param.default {
                self.bound(file, param, default);
            }
            let any =
                Argument { value: Bound::Any(param.ty), text: String::new(), compound: false };
            if arguments.insert(&param.name.value, Rc::new(any)).is_some() {
                let message = format!("two parameters are called `{}`", param.name.value);
                self.refuse(codes::DEFINED_TWICE, message, param.name.span);
            }
        }
        self.frame = Some(Rc::new(Frame { arguments, uses: vec![] }));
        self.defining = true;
        for item in items {
            self.rule_item(file, item, BlockId(0), &Annotations::default());
        }
        self.defining = false;
        self.frame = None;
    }
}

// Uses.
impl<'a> Checker<'a, '_> {
    pub(super) fn use_template(
        &mut self,
        file: FileId,
        path: &'a Path,
        args: &'a [(Option<Name>, Set)],
        block: BlockId,
        annotations: &Annotations,
    ) {
        let Some(target) = self.target(file, path) else { return };
        let definition = match target {
            Target::Definition(d) if matches!(d.what, What::Template { .. }) => d,
            Target::Definition(_) | Target::Builtin(_) => {
                let message = format!("`{}` is no template", super::written(path));
                let report = Diagnostic::new(codes::TEMPLATE_ARGUMENTS, message, path.span);
                self.report(match target {
                    Target::Definition(other) => report
                        .and(other.name.span, format!("{} is defined here", other.what.describe())),
                    Target::Builtin(_) => report,
                });
                return;
            }
        };
        // Otherwise its definition was reported.
        let Some(template) = self.templates.get(&definition.key()).copied() else {
            self.failed = true;
            return;
        };
        let Some(arguments) = self.arguments(file, path, &definition, template.params, args) else {
            self.failed = true;
            return;
        };
        if self.defining {
            return;
        }
        let mut uses = self.frame.as_ref().map_or_else(Vec::new, |frame| frame.uses.clone());
        uses.push((path.span, definition.name.value.as_str()));
        self.n_uses += 1;
        if uses.len() > DEPTH_MAX {
            let message = format!("templates use each other more than {DEPTH_MAX} deep");
            return self.refuse(codes::TOO_DEEP, message, path.span);
        }
        if self.n_uses > USES_MAX {
            let message =
                format!("the templates of this policy are used more than {USES_MAX} times");
            self.exhaust::<()>(&message, path.span);
            return;
        }
        let outer = self.frame.replace(Rc::new(Frame { arguments, uses }));
        for item in template.items {
            self.rule_item(definition.file, item, block, annotations);
        }
        self.frame = outer;
    }

    /// Gives each parameter its argument or default.
    fn arguments(
        &mut self,
        file: FileId,
        path: &Path,
        definition: &Definition<'a>,
        params: &'a [Param],
        args: &'a [(Option<Name>, Set)],
    ) -> Option<BTreeMap<&'a str, Rc<Argument>>> {
        let template = definition.name;
        let refuse = |checker: &mut Self, message: String, span| {
            let report = Diagnostic::new(codes::TEMPLATE_ARGUMENTS, message, span);
            checker.report(report.and(template.span, signature(template, params)));
        };
        let mut given: BTreeMap<&str, &'a Set> = BTreeMap::new();
        let mut sound = true;
        let mut positional = params.iter();
        let mut named = false;
        for (name, set) in args {
            let param = match name {
                None if named => {
                    let message = "an argument without a name stands after one with a name";
                    refuse(self, message.to_owned(), set.span);
                    sound = false;
                    continue;
                }
                None => positional.next(),
                Some(name) => {
                    named = true;
                    params.iter().find(|param| param.name.value == name.value)
                }
            };
            let Some(param) = param else {
                sound = false;
                match name {
                    None => {
                        let message = format!("`{}` takes {}", template.value, count(params.len()));
                        refuse(self, message, set.span);
                    }
                    Some(name) => {
                        let message = format!("`{}` has no `{}`", template.value, name.value);
                        let report = Diagnostic::new(codes::TEMPLATE_ARGUMENTS, message, name.span)
                            .and(template.span, signature(template, params));
                        let known = params.iter().map(|param| param.name.value.as_str());
                        self.report(match nearest(&name.value, known) {
                            Some(near) => suggest(report, name, near),
                            None => report,
                        });
                    }
                }
                continue;
            };
            if given.insert(&param.name.value, set).is_some() {
                refuse(self, format!("`{}` is given twice", param.name.value), set.span);
                sound = false;
            }
        }
        let mut arguments = BTreeMap::new();
        let mut missing = vec![];
        for param in params {
            let name = param.name.value.as_str();
            let argument = match (given.get(name), &param.default) {
                (Some(set), _) => self.bound(file, param, set),
                (None, Some(default)) => {
                    // A default is written in the file of the template, without parameters.
                    let frame = self.frame.take();
                    let argument = self.bound(definition.file, param, default);
                    self.frame = frame;
                    argument
                }
                (None, None) => {
                    missing.push(format!("`{name}`"));
                    continue;
                }
            };
            match argument {
                Some(argument) => drop(arguments.insert(name, argument)),
                None => sound = false,
            }
        }
        // A misspelt argument is the one that is missing.
        if !missing.is_empty() && sound {
            refuse(
                self,
                format!("`{}` also needs {}", template.value, missing.join(", ")),
                path.span,
            );
            sound = false;
        }
        sound.then_some(arguments)
    }

    fn bound(&mut self, file: FileId, param: &Param, set: &'a Set) -> Option<Rc<Argument>> {
        let n_found = self.diagnostics.len();
        let value = match param.ty {
            ParamType::Endpoints => self.endpoints(file, set, Place::Rule).map(endpoints_value),
            ParamType::Service => self.services(file, set).map(services_value),
        };
        let typed = [codes::NOT_ENDPOINTS, codes::NOT_A_SERVICE];
        for report in self.diagnostics.iter_mut().skip(n_found).filter(|d| typed.contains(&d.code))
        {
            let takes = match param.ty {
                ParamType::Endpoints => "this parameter takes endpoints",
                ParamType::Service => "this parameter takes a service",
            };
            *report = report.clone().and(param.name.span, takes);
        }
        let value = if self.vague { Bound::Any(param.ty) } else { Bound::Known(value?) };
        let compound = matches!(set.kind, SetKind::And(..) | SetKind::Except(..));
        let mut places = vec![];
        self.places(set, false, &mut places);
        let text = substitute(self.sources.text(set.span), set.span, &places);
        Some(Rc::new(Argument { value, text, compound }))
    }
}

// Parameters in sets.
impl<'a> Checker<'a, '_> {
    /// What a path stands for if it is a parameter of the template at hand.
    pub(super) fn argument(&self, path: &Path) -> Option<Rc<Argument>> {
        let [name] = path.parts.as_slice() else { return None };
        self.frame.as_ref()?.arguments.get(name.value.as_str()).cloned()
    }

    pub(super) fn endpoints_argument(
        &mut self,
        argument: &Argument,
        path: &Path,
    ) -> Option<Endpoints> {
        match &argument.value {
            Bound::Known(Value::Endpoints(set, weight)) => {
                self.room_for(*weight, path.span).then(|| (**set).clone())
            }
            Bound::Any(ParamType::Endpoints) => {
                self.vague = true;
                Some(Endpoints::Any)
            }
            Bound::Known(Value::Services(..) | Value::Workload(_))
            | Bound::Any(ParamType::Service) => {
                let message =
                    format!("expected endpoints, `{}` is a service", super::written(path));
                self.refuse(codes::NOT_ENDPOINTS, message, path.span);
                None
            }
        }
    }

    pub(super) fn services_argument(
        &mut self,
        argument: &Argument,
        path: &Path,
    ) -> Option<Services> {
        match &argument.value {
            Bound::Known(Value::Services(set, weight)) => {
                self.room_for(*weight, path.span).then(|| (**set).clone())
            }
            Bound::Any(ParamType::Service) => {
                self.vague = true;
                Some(Services::Any)
            }
            Bound::Known(Value::Endpoints(..) | Value::Workload(_))
            | Bound::Any(ParamType::Endpoints) => {
                let message =
                    format!("expected a service, `{}` is a set of endpoints", super::written(path));
                self.refuse(codes::NOT_A_SERVICE, message, path.span);
                None
            }
        }
    }

    /// The uses that lead to the statement at hand.
    pub(super) fn uses(&self) -> Vec<Span> {
        self.frame.iter().flat_map(|frame| frame.uses.iter().map(|(span, _)| *span)).collect()
    }

    /// What is to be read in place of the parameters in a statement.
    pub(super) fn written_arguments(&self, kind: &Kind) -> Vec<(Span, String)> {
        let mut places = vec![];
        let mut flow = |flow: &crate::ast::Flow| {
            [&flow.from, &flow.to].into_iter().chain(&flow.on).for_each(|set| {
                self.places(set, false, &mut places);
            });
        };
        match kind {
            Kind::Rule(rule) => {
                flow(&rule.flow);
                for exempt in &rule.unless {
                    if let Exempt::Flow { flow: exempt, .. } = exempt {
                        flow(exempt);
                    }
                }
            }
            Kind::Isolate { set, .. } => self.places(set, false, &mut places),
            Kind::Import { .. }
            | Kind::Label { .. }
            | Kind::Define { .. }
            | Kind::Workload { .. }
            | Kind::Block { .. }
            | Kind::Template { .. }
            | Kind::Use { .. }
            | Kind::Claims { .. }
            | Kind::Error => {}
        }
        places
    }

    /// The parameters in a set, with what stands for them.
    fn places(&self, set: &Set, operand: bool, places: &mut Vec<(Span, String)>) {
        match &set.kind {
            SetKind::Except(a, b) | SetKind::And(a, b) => {
                self.places(a, true, places);
                self.places(b, true, places);
            }
            SetKind::Union(sets) => sets.iter().for_each(|set| self.places(set, false, places)),
            SetKind::Path(path) => {
                let Some(argument) = self.argument(path) else { return };
                let text = &argument.text;
                let quoted = operand && argument.compound;
                places.push((path.span, if quoted { format!("({text})") } else { text.clone() }));
            }
            SetKind::Any
            | SetKind::SelfHost
            | SetKind::Label { .. }
            | SetKind::Prefix { .. }
            | SetKind::Range(..)
            | SetKind::Ports { .. }
            | SetKind::Codes { .. }
            | SetKind::Call { .. }
            | SetKind::Error => {}
        }
    }
}

// Assertions.
impl<'a> Checker<'a, '_> {
    pub(super) fn template_assert(
        &mut self,
        file: FileId,
        item: &'a Item,
        title: &'a Spanned<String>,
        claims: &'a [Claim],
    ) {
        let (span, frame) = (item.span, self.frame.clone());
        let pending = Pending { file, span, title, claims, frame };
        if self.defining {
            self.assert(&pending);
        } else {
            self.asserts.push(pending);
        }
    }

    /// The assertions that templates brought along.
    pub(super) fn asserts(&mut self) {
        for pending in std::mem::take(&mut self.asserts) {
            self.frame.clone_from(&pending.frame);
            let claims = self.assert(&pending);
            let uses = self.uses();
            let foreign = uses.first().is_some_and(|span| self.is_foreign(span.file));
            self.policy.tests.push(policy::Test {
                what: ClaimsKind::Assert,
                title: pending.title.value.clone(),
                foreign,
                uses,
                claims,
                span: pending.span,
            });
            self.frame = None;
        }
    }

    fn assert(&mut self, pending: &Pending<'a>) -> Vec<policy::Claim> {
        pending.claims.iter().filter_map(|claim| self.claim(pending.file, claim)).collect()
    }

    /// Whether a file belongs to a package that the one which is built depends on.
    pub(super) fn is_foreign(&self, file: FileId) -> bool {
        self.sources.get(file).is_some_and(|source| self.config.packages.is_foreign(&source.path))
    }
}

/// `tier(clients: endpoints, svc: service)`.
fn signature(name: &Name, params: &[Param]) -> String {
    let params =
        params.iter().map(|param| format!("{}: {}", param.name.value, type_text(param.ty)));
    format!("it is `{}({})`", name.value, params.collect::<Vec<_>>().join(", "))
}

fn type_text(ty: ParamType) -> &'static str {
    match ty {
        ParamType::Endpoints => "endpoints",
        ParamType::Service => "service",
    }
}

fn count(n: usize) -> String {
    format!("{n} argument{}", if n == 1 { "" } else { "s" })
}
