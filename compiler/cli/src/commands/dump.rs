//! `segc dump`: any stage as text.

use super::{Checking, Input, Outcome, Output, checked, misuse, too_large};
use crate::describe::count;
use crate::report::{self, say};
use clap::ValueEnum;
use seg_compiler::decided::{Config, Decided, Shape, decide};
use seg_compiler::limits::LimitError;
use seg_compiler::normalize::{normalize, rule_labels};
use seg_compiler::pipeline::{self, CompileError, Compiled};
use seg_compiler::target;
use seg_lang::policy::text as policy_text;
use seg_lang::source::{FileId, Source};
use seg_lang::{dump as ast_text, lex, parse, token};
use serde::Serialize;

/// What `segc dump` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Tokens of each file.
    Tokens,
    /// Syntax tree of each file.
    Ast,
    /// The typed policy.
    Policy,
    /// Canonical rules.
    Rules,
    /// The decision diagrams and the roles they give.
    Diagram,
    /// The packet programs as Cranelift IR.
    Clif,
    /// The packet programs as BPF.
    Bpf,
}

/// `segc dump`.
pub fn dump(stage: Stage, input: Input<'_>, output: Output) -> Outcome {
    // The first two stages exist for files that do not check, too.
    let text = match stage {
        Stage::Tokens => each_file(input, output, |file, source| {
            token::dump(source, &lex::lex(file, &source.text).tokens)
        }),
        Stage::Ast => each_file(input, output, |file, source| {
            ast_text::dump(&parse::parse(file, &source.text).0)
        }),
        Stage::Policy | Stage::Rules | Stage::Diagram | Stage::Clif | Stage::Bpf => {
            checked("dump", input, output).and_then(|checked| later_stage(stage, &checked, output))
        }
    };
    match text {
        Ok(text) if output == Output::Json => report::print(Dumped { text }),
        Ok(text) => say!("{}", text.trim_end()),
        Err(outcome) => return outcome,
    }
    Outcome::Clean
}

#[derive(Serialize)]
struct Dumped {
    text: String,
}

fn each_file(
    input: Input<'_>,
    output: Output,
    text: impl Fn(FileId, &Source) -> String,
) -> Result<String, Outcome> {
    let package = input.load().map_err(|error| misuse(&error, output))?;
    let files = package
        .sources
        .iter()
        .map(|(id, source)| format!("# {}\n{}", source.path, text(id, source)));
    Ok(files.collect::<Vec<_>>().join("\n"))
}

fn later_stage(stage: Stage, checked: &Checking, output: Output) -> Result<String, Outcome> {
    let decided = |shape| {
        let config = Config { shape, ..Config::default() };
        let beyond = target::unenforceable(&checked.policy);
        if !beyond.is_empty() {
            return Err(too_large(checked, &CompileError::Target(beyond), output));
        }
        let choice = decide(&checked.policy, config);
        choice
            .map(|choice| choice.decided)
            .map_err(|error| too_large(checked, &error.into(), output))
    };
    let programs = |compiled: Compiled| -> String {
        let texts = compiled
            .programs
            .iter()
            .map(|p| format!("{}: {}\n{}", p.name, count(p.insns.len(), "instruction"), p));
        texts.collect::<Vec<_>>().join("\n")
    };
    Ok(match stage {
        Stage::Tokens | Stage::Ast | Stage::Policy => {
            policy_text::dump(&checked.policy, &checked.sources)
        }
        Stage::Rules => {
            LimitError::of_requests(&checked.policy)
                .map_err(|error| too_large(checked, &error.into(), output))?;
            normalize(&checked.policy, rule_labels(&checked.policy)).text()
        }
        Stage::Diagram => {
            let Decided::Trees(trees) = decided(Some(Shape::Tree))? else {
                unreachable!("trees were asked for")
            };
            let ways = [("outbound", &trees.outbound), ("inbound", &trees.inbound)];
            let texts = ways.map(|(name, way)| {
                format!(
                    "{name}: {}\n{}",
                    count(way.trees.len(), "role"),
                    way.text(&trees.rules.labels)
                )
            });
            texts.join("\n")
        }
        Stage::Clif => {
            let functions = decided(None)?.functions();
            let texts = functions
                .iter()
                .map(|(name, function)| format!("; {name}\n{}", function.display()));
            texts.collect::<Vec<_>>().join("\n")
        }
        Stage::Bpf => {
            let compiled = pipeline::compile(
                &checked.policy,
                &checked.sources,
                &checked.name,
                Config::default(),
            );
            programs(compiled.map_err(|error| too_large(checked, &error, output))?)
        }
    })
}
