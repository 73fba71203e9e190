//! Checks that hold for every input. Fuzz targets call them; each runs for about a second in `cargo test`.

use crate::random::Random;
use crate::{harness, package};
use seg_artifact::manifest::Manifest;
use seg_artifact::object;
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::eval::{Endpoint, Flow, decide, explain};
use seg_lang::parse::parse;
use seg_lang::source::{FileId, Sources, Span};
use seg_lang::{lex, policy, token};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Reads any bytes as a source: no panic, spans inside the text and on character boundaries, an answer within a second.
///
/// # Panics
/// If the parser breaks a promise.
pub fn parse_never_panics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = FileId(0);
    let inside = |span: Span| text.get(span.range()).is_some() && span.file == file;
    let started = Instant::now();
    let lexed = lex::lex(file, &text);
    let mut end = 0;
    for token in &lexed.tokens {
        assert!(inside(token.span), "{token:?} lies outside the text");
        assert!(token.span.start >= end, "{token:?} overlaps the token before");
        end = token.span.end;
    }
    let (tree, diagnostics) = parse(file, &text);
    for diagnostic in &diagnostics {
        assert!(!diagnostic.labels.is_empty(), "{diagnostic:?} stands nowhere");
        let labels = diagnostic.labels.iter().map(|l| l.span);
        for span in labels.chain(diagnostic.fixes.iter().map(|f| f.span)) {
            assert!(inside(span), "{diagnostic:?} lies outside the text");
        }
    }
    for item in &tree.items {
        assert!(inside(item.span), "an item lies outside the text: {:?}", item.span);
    }
    let error = seg_lang::dump::dump(&tree).contains("(error)");
    assert!(!error || !diagnostics.is_empty(), "a broken item without a diagnostic");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1 + text.len() as u64 / 100_000), "took {took:?}");
}

/// Checks any bytes as a package: no panic, a policy exactly if there is no diagnostic, and one that can be asked and shown.
///
/// # Panics
/// If a promise is broken.
pub fn analyze_never_panics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut sources = Sources::default();
    for (path, text) in package::split("mutant", &text) {
        sources.add(path, text);
    }
    let analysis = analyze(sources);
    let Analysis { sources, policy, diagnostics, .. } = &analysis;
    assert_eq!(policy.is_some(), diagnostics.is_empty(), "{diagnostics:?}");
    for label in diagnostics.iter().flat_map(|d| &d.labels) {
        let source = sources.get(label.span.file);
        let inside = source.is_some_and(|s| s.text.get(label.span.range()).is_some());
        assert!(inside, "{label:?} lies outside its file");
    }
    if let Some(policy) = policy {
        let address = IpAddr::from([10, 20, 1, 11]);
        let source =
            Endpoint { labels: Some(BTreeMap::new()), is_self: true, ..Endpoint::at(address) };
        let destination = Endpoint::at(address);
        let (protocol, port, source_port, http) = (6, 443, 49_152, None);
        let flow = Flow { source, destination, protocol, port, source_port, http };
        let explanation = explain(policy, &flow);
        assert_eq!(explanation.decision, decide(policy, &flow));
        policy::text::dump(policy, sources);
    }
}

/// Deletes, doubles and inserts tokens and bytes of the sound sources for about a second.
///
/// # Errors
/// The seed of the mutation that broke a promise, and its text.
pub fn mutate_sources() -> Result<(), String> {
    mutate("parse/ok", parse_never_panics)
}

/// Hands mutations of the sources in a folder of `tests/data` to a check, for about a second.
///
/// # Errors
/// The seed of the mutation that broke a promise, and its text.
pub fn mutate(folder: &str, check: fn(&[u8])) -> Result<(), String> {
    let folder = harness::root().join("tests/data").join(folder);
    let entries = std::fs::read_dir(&folder).map_err(|e| e.to_string())?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    paths.sort();
    let read = |path| std::fs::read_to_string(path).map_err(|e| e.to_string());
    let texts = paths.iter().map(read).collect::<Result<Vec<String>, String>>()?;
    let seed = seed()?;
    let started = Instant::now();
    let mut n = 0_u64;
    // A fixed number at least, so that a slow machine tests something.
    while n < 200 || started.elapsed() < Duration::from_secs(1) {
        let data = mutant(&texts, seed + n);
        let text = String::from_utf8_lossy(&data).into_owned();
        let checked = std::panic::catch_unwind(|| check(&data));
        checked.map_err(|_| format!("SEG_SEED={} breaks on this text:\n{text}", seed + n))?;
        n += 1;
    }
    println!("{n} mutations from SEG_SEED={seed}");
    Ok(())
}

/// `SEG_SEED`, with which every random run begins; 1 by default.
///
/// # Errors
/// If it is no number.
pub fn seed() -> Result<u64, String> {
    match std::env::var("SEG_SEED") {
        Ok(seed) => seed.parse().map_err(|_| "SEG_SEED is not a number".to_owned()),
        Err(_) => Ok(1),
    }
}

/// Reads texts that are one pattern over and over: what is deep, long or wrong must be no slower than what is sound.
///
/// # Errors
/// The pattern that broke a promise.
pub fn repeat_patterns(bytes: usize, check: fn(&[u8])) -> Result<(), String> {
    let patterns = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "a & ",
        "a.",
        "a,",
        "@",
        "@a(",
        "\"",
        "## a\n",
        "policy p {",
        "policy p {\n",
        "test \"t\" {\n",
        "unless {",
        "allow a -> {",
        "a:{",
        "a -> ",
        "1",
        "1-",
        "1.",
        "1.*",
        "/*",
        "/**/ ",
        "a/* ",
        "// ",
        "* ",
        "! ",
        "=> ",
        "- a\n",
        "a {\n",
        "port 1 ",
        "allow a port ",
        "allow on port ",
        "allow a to ",
        "tcp port ",
        "tcp/1:",
        "::",
        "-",
        "=",
        "a;",
        "a;$",
        "allow a -> b\n",
        "group a = a",
        "a or ",
        "a | ",
        "tcp 1 ",
        "tcp/1,",
        "é",
        "\u{200b}",
        "\u{200b}a\n",
        "template t(",
        "expect\n",
        "staged\n",
        "net a = { 10.0.0.1/8 }\n",
        "{(",
        "{)",
        "(}",
        "same a, ",
        "\r",
        ";",
        "\\",
        "\"\\\"",
    ];
    for pattern in patterns {
        let text = pattern.repeat(bytes / pattern.len());
        for text in [text.clone(), format!("allow {text}"), format!("policy p {{ deny a -> {text}")]
        {
            let checked = std::panic::catch_unwind(|| check(text.as_bytes()));
            checked.map_err(|_| format!("the pattern {pattern:?}"))?;
        }
    }
    Ok(())
}

fn mutant(texts: &[String], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let text = texts.get(random.below(texts.len())).cloned().unwrap_or_default();
    let mut text = if text.is_empty() { b"{".to_vec() } else { text.into_bytes() };
    for _ in 0..=random.below(4) {
        let copy = String::from_utf8_lossy(&text).into_owned();
        text = copy.clone().into_bytes();
        let tokens = lex::lex(FileId(0), &copy).tokens;
        let ranges: Vec<_> = tokens.iter().map(|t| t.span.range()).collect();
        let pick =
            |random: &mut Random| ranges.get(random.below(ranges.len())).cloned().unwrap_or(0..0);
        let (a, b) = (pick(&mut random), pick(&mut random));
        match random.below(8) {
            0 => drop(text.splice(a, [])),
            1 => drop(text.splice(a.start..a.start, copy.as_bytes()[b].iter().copied())),
            2 => drop(text.splice(a, copy.as_bytes()[b].iter().copied())),
            3 => drop(text.splice(a.start.min(b.start)..a.start.max(b.start), [])),
            4 => {
                let word = token::KEYWORDS[random.below(token::KEYWORDS.len())];
                drop(text.splice(a.start..a.start, format!(" {word} ").into_bytes()));
            }
            5 => {
                let marks = b"{}()|+,;\"#&=@:-./\n<>~*\\\xe2\x80\xae\xef\xbb\xbf";
                let at = random.below(text.len() + 1);
                text.insert(at, marks[random.below(marks.len())]);
            }
            6 => {
                let at = random.below(text.len());
                text[at] = random.next_u64() as u8;
            }
            _ => text.truncate(random.below(text.len() + 1)),
        }
        if text.is_empty() {
            text.push(b'{');
        }
    }
    text
}

/// Reads any bytes as a policy object, as they are and sealed.
///
/// No fuzzer guesses a seal, so only sealed bytes reach what lies behind it.
///
/// # Panics
/// If [`read_object`] does.
pub fn object_reader_refuses(data: &[u8]) {
    read_object(data);
    if let Ok(sealed) = object::seal(data.to_vec()) {
        read_object(&sealed);
    }
}

/// Whether the bytes are a policy object: refused with one line, or accepted whole, with a program for every endpoint.
///
/// # Panics
/// If the reader breaks a promise.
pub fn read_object(data: &[u8]) -> bool {
    let artifact = match object::open(data) {
        Ok(artifact) => artifact,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
            return false;
        }
    };
    let manifest = &artifact.manifest;
    for roles in [&manifest.outbound, &manifest.inbound] {
        for value in [0, 1, 2, u32::MAX] {
            let labels = vec![value; manifest.labels.len()];
            let programs = [true, false].map(|is_self| roles.program(is_self, &labels));
            assert!(
                programs.iter().all(Option::is_some),
                "no program where all labels are {value}"
            );
        }
    }
    let again = manifest.encode().and_then(|bytes| Manifest::decode(&bytes));
    assert_eq!(again.ok().as_ref(), Some(manifest), "a manifest does not survive its own text");
    true
}
