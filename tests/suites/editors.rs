//! What editors are told about the language says what the language says.

use seg_lang::token::KEYWORDS;
use seg_tests::harness::root;

/// The grammar's own test colours each word of this list.
#[test]
fn the_keywords_of_the_extension_are_those_of_the_lexer() {
    let path = root().join("lang/editors/vscode/test/keywords.json");
    let words: Vec<_> = KEYWORDS.iter().map(|word| format!("  {word:?}")).collect();
    let list = format!("[\n{}\n]\n", words.join(",\n"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &list).expect("the list can be written");
    }
    let known = std::fs::read_to_string(&path).expect("the list is there");
    assert_eq!(known, list, "BLESS=1 writes {}; then run its `npm test`", path.display());
}

/// A grammar that does not name a keyword cannot colour it, with or without node at hand.
#[test]
fn the_grammar_names_every_keyword() {
    let path = root().join("lang/editors/vscode/syntaxes/seg.tmLanguage.json");
    let text = std::fs::read_to_string(path).expect("the grammar is there");
    let grammar: serde_json::Value = serde_json::from_str(&text).expect("the grammar is JSON");
    let patterns = grammar["repository"]["keywords"]["patterns"].as_array().expect("a list");
    let mut named: Vec<&str> = Vec::new();
    for pattern in patterns {
        let pattern = pattern["match"].as_str().expect("an expression");
        // `…(?:allow|deny)…`: the words are the only alternatives.
        let words = pattern.split("(?:").find(|part| part.starts_with(|c: char| c.is_alphabetic()));
        let words = words.and_then(|part| part.split(')').next()).expect("a list of words");
        named.extend(words.split('|'));
    }
    named.sort_unstable();
    let mut keywords = KEYWORDS.to_vec();
    keywords.sort_unstable();
    assert_eq!(named, keywords);
}
