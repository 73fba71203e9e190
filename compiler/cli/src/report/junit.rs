//! JUnit XML, as CI servers read it.
//!
//! Elements and attributes are those of Jenkins' `junit-10.xsd` (the xUnit plugin); there is no time in it, since equal
//! policies give equal reports.

use super::Report;
use seg_lang::diagnostic::{Diagnostic, Severity};
use seg_lang::render::{render, visible};
use seg_lang::source::FileId;
use std::fmt::Write as _;

/// A `testsuite`.
#[derive(Clone, Debug)]
pub struct Suite<'a> {
    /// Its name.
    pub name: String,
    /// What its cases belong to, as a class belongs to a package; servers split it at dots.
    pub class: String,
    /// Path of the file it is about.
    pub file: Option<String>,
    /// What was judged.
    pub cases: Vec<Case<'a>>,
}

/// A `testcase`.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Its name.
    pub name: String,
    /// What was found; `None` if it passes.
    pub found: Option<&'a Diagnostic>,
}

/// A suite for each file: a case for each finding, or one that passes.
pub fn of_files(report: Report<'_>) -> String {
    let of = |file: Option<FileId>| {
        let here = move |found: &&Diagnostic| found.labels.first().map(|l| l.span.file) == file;
        report.diagnostics.iter().filter(here).map(|found| Case {
            name: format!("{}: {}", found.code.0, found.message),
            found: Some(found),
        })
    };
    let mut suites = vec![];
    let package: Vec<Case<'_>> = of(None).collect();
    if !package.is_empty() {
        let name = report.package.to_owned();
        suites.push(Suite { class: name.clone(), name, file: None, cases: package });
    }
    let is_file_to_blame = suites.is_empty();
    for (file, source) in report.sources.iter() {
        let mut cases: Vec<Case<'_>> = of(Some(file)).collect();
        if cases.is_empty() {
            // The standard library is nobody's file to mend.
            if !is_file_to_blame || source.path.starts_with("std/") {
                continue;
            }
            cases.push(Case { name: report.command.to_owned(), found: None });
        }
        let shown = report.files.shown(&source.path);
        let module = source.path.trim_end_matches(".seg").replace('/', ".");
        let class = format!("{}.{module}", report.package);
        suites.push(Suite { name: source.path.clone(), class, file: Some(shown), cases });
    }
    text(report, &suites)
}

/// The whole document.
pub fn text(report: Report<'_>, suites: &[Suite<'_>]) -> String {
    let failures = |suite: &Suite<'_>| suite.cases.iter().filter(|case| fails(case)).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let n_cases: usize = suites.iter().map(|suite| suite.cases.len()).sum();
    let n_failures: usize = suites.iter().map(failures).sum();
    let _ = writeln!(
        xml,
        "<testsuites name=\"{}\" tests=\"{n_cases}\" failures=\"{n_failures}\" errors=\"0\">",
        attribute(&format!("segc {} {}", report.command, report.package))
    );
    for suite in suites {
        let file = suite.file.as_ref().map(|file| format!(" file=\"{}\"", attribute(file)));
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\"{}>",
            attribute(&suite.name),
            suite.cases.len(),
            failures(suite),
            file.unwrap_or_default()
        );
        for case in &suite.cases {
            let _ = write!(
                xml,
                "    <testcase name=\"{}\" classname=\"{}\"",
                attribute(&case.name),
                attribute(&suite.class)
            );
            xml += &verdict(report, case);
        }
        xml += "  </testsuite>\n";
    }
    xml + "</testsuites>\n"
}

fn fails(case: &Case<'_>) -> bool {
    case.found.is_some_and(|found| found.severity == Severity::Error)
}

/// The rest of a `testcase` behind its attributes.
fn verdict(report: Report<'_>, case: &Case<'_>) -> String {
    let Some(found) = case.found else { return "/>\n".to_owned() };
    let body = content(&render(std::slice::from_ref(found), report.sources));
    let element = match found.severity {
        Severity::Error => format!(
            "<failure type=\"{}\" message=\"{}\">{body}</failure>",
            attribute(found.code.0),
            attribute(&found.message)
        ),
        // A warning is worth reading and fails nothing.
        Severity::Warning => format!("<system-out>{body}</system-out>"),
    };
    format!(">\n      {element}\n    </testcase>\n")
}

/// Text between tags; what XML 1.0 has no character for is shown as a replacement.
fn content(text: &str) -> String {
    let legal = |c: char| if c == '\n' || c == '\t' || !c.is_control() { c } else { '\u{fffd}' };
    let legal: String = visible(text).chars().map(legal).collect();
    // U+FFFE and U+FFFF are characters of Rust and not of XML.
    let legal = legal.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    legal.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Text of an attribute, which a reader would otherwise join to one line.
fn attribute(text: &str) -> String {
    content(text).replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;")
}
