//! Everything that the program says, in one file to be read at once: tests/messages.txt.
//!
//! The texts are taken from the sources, so that none is missed, and the help of the command line
//! from the grammar. `UPDATE_GOLDENS=1` writes the file again; read the difference.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use source::{sources_as_written, texts};

const GOLDEN: &str = "tests/messages.txt";

/// Tells whether a text is for people: it has words, not only places for values.
fn is_message(text: &str) -> bool {
    let mut depth = 0_u32;
    let words: String = text
        .chars()
        .map(|c| {
            depth = match c {
                '{' => depth + 1,
                '}' => depth.saturating_sub(1),
                _ => depth,
            };
            if depth == 0 { c } else { '{' }
        })
        .collect();
    let is_word = |word: &&str| word.chars().filter(|c| c.is_alphabetic()).count() > 1;
    text.trim().contains(' ') && words.split_whitespace().any(|word| is_word(&word))
}

/// Tells whether code ends where an attribute says why a lint is allowed, as `#[expect(.., reason =`.
fn is_reason_of_lint(before: &str) -> bool {
    let before = before.trim_end().strip_suffix("reason =");
    before.is_some_and(|attribute| attribute.trim_end().ends_with(','))
}

/// Returns the messages of each source, in its order; what only tests and lints see is left out.
fn messages() -> BTreeMap<String, Vec<String>> {
    let mut messages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources_as_written(&["src"]) {
        if path.ends_with("tests.rs") {
            continue;
        }
        // A module in a file of its own may be declared at the top.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (before, text) in texts(code) {
            if !is_reason_of_lint(&before) && is_message(&text) {
                messages.entry(path.clone()).or_default().push(text);
            }
        }
    }
    messages
}

fn help() -> String {
    let mut grammar = pin_hook::cli::grammar().term_width(100);
    grammar.build();
    let mut text = format!("== help\n{}", grammar.render_long_help());
    for command in grammar.get_subcommands_mut() {
        if !command.is_hide_set() && command.get_name() != "help" {
            let name = command.get_name().to_owned();
            text += &format!("\n== help of {name}\n{}", command.render_help());
        }
    }
    let lines = text.lines().map(str::trim_end);
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_message_is_in_the_list() {
    let mut list = String::from("# Everything that pin-hook says; written by tests/messages.rs.\n");
    for (path, texts) in messages() {
        list += &format!("\n== {path}\n");
        texts.iter().for_each(|text| list += &format!("{text}\n"));
    }
    list += "\n";
    list += &help();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if goldens::update() {
        fs::write(&path, &list).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let new: Vec<&str> = list.lines().filter(|line| !known.contains(line)).collect();
    let gone: Vec<&str> = known.lines().filter(|line| !list.contains(line)).collect();
    assert!(
        known == list,
        "{GOLDEN} is old (UPDATE_GOLDENS=1 writes it again)\n  new: {new:#?}\n  gone: {gone:#?}"
    );
}

/// Sentences are for documents: a message is one line, and begins and ends as one in a log does.
#[test]
fn messages_have_the_form_of_messages() {
    // Documentation of keys and checks, which manual pages and the help quote, is in sentences.
    let is_documentation =
        |path: &str| path == "src/config/keys.rs" || path.starts_with("src/domain/check/");
    // The head of a table that init writes, which is a document too.
    let is_head = |text: &str| text.starts_with("Table of vm");
    let mut wrong = Vec::new();
    for (path, texts) in messages() {
        for text in texts.into_iter().filter(|_| !is_documentation(&path)) {
            let words = text.trim_end_matches("\\n");
            let is_sentence = words.ends_with('.') && !words.ends_with("..");
            let first = words.split([' ', ':']).next().unwrap_or_default();
            let is_name = first.chars().skip(1).any(|c| !c.is_lowercase());
            let is_capital = first.starts_with(|c: char| c.is_uppercase()) && !is_name;
            if (is_sentence || is_capital) && !is_head(&text) {
                wrong.push(format!("{path}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
