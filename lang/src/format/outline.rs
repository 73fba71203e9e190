//! Where the statements of a file stand, and which of them hold others: all that the formatter asks the tree.

use crate::ast::{Annotation, Claim, Exempt, File, Flow, Item, Kind, Rule};
use crate::source::Span;

/// A statement; offsets in bytes.
pub(super) struct Node {
    /// Where its documentation and annotations start.
    pub(super) lead: usize,
    /// Where the statement itself starts.
    pub(super) head: usize,
    /// One past its last byte.
    pub(super) end: usize,
    /// What it is to the formatter.
    pub(super) shape: Shape,
}

/// What a statement holds.
pub(super) enum Shape {
    /// No other statement.
    Line,
    /// The statements between its braces.
    Block(Vec<Node>),
    /// The exemptions of its `unless`, which may stand in braces.
    Unless(Vec<Node>),
    /// What did not parse.
    Broken,
}

/// The outline of a file.
pub(super) fn outline(file: &File) -> Vec<Node> {
    items(&file.items)
}

fn items(list: &[Item]) -> Vec<Node> {
    list.iter().map(item).collect()
}

fn item(item: &Item) -> Node {
    let docs = item.docs.iter().map(|doc| doc.span);
    let lead = docs.chain(item.annotations.iter().map(|a| a.span)).map(|span| span.start).min();
    let shape = match &item.kind {
        Kind::Block { items: inner, .. } | Kind::Template { items: inner, .. } => {
            Shape::Block(items(inner))
        }
        Kind::Claims { claims, .. } => Shape::Block(claims.iter().map(claim).collect()),
        Kind::Rule(Rule { unless, .. }) if !unless.is_empty() => {
            Shape::Unless(unless.iter().map(exempt).collect())
        }
        Kind::Error => Shape::Broken,
        Kind::Import { .. }
        | Kind::Label { .. }
        | Kind::Define { .. }
        | Kind::Workload { .. }
        | Kind::Use { .. }
        | Kind::Rule(_)
        | Kind::Isolate { .. } => Shape::Line,
    };
    node(lead, item.span, shape)
}

fn claim(claim: &Claim) -> Node {
    node(None, claim.span, Shape::Line)
}

fn exempt(exempt: &Exempt) -> Node {
    match exempt {
        Exempt::Same(same) => node(None, same.span, Shape::Line),
        Exempt::Flow { annotations, flow } => flow_node(annotations, flow),
    }
}

fn flow_node(annotations: &[Annotation], flow: &Flow) -> Node {
    node(annotations.first().map(|a| a.span.start), flow.span, Shape::Line)
}

fn node(lead: Option<u32>, span: Span, shape: Shape) -> Node {
    let (head, end) = (span.start as usize, span.end as usize);
    Node { lead: lead.map_or(head, |lead| (lead as usize).min(head)), head, end, shape }
}
