//! The sources as the tests see them: code without texts, or texts without code.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a source that cannot be read is a failed test"
)]

pub mod imports;

use std::fs;
use std::path::{Path, PathBuf};

/// Source file: its path below the package and its code.
pub struct Source {
    pub path: String,
    pub code: String,
}

pub fn sources(dirs: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    dirs.iter()
        .for_each(|dir| collect(&root.join(dir), &mut paths));
    paths.sort();
    let read = |path: PathBuf| {
        let code = blanked(&fs::read_to_string(&path).unwrap());
        let path = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        Source { path, code }
    };
    paths.into_iter().map(read).collect()
}

/// Returns path and text of the sources, comments and literals included.
pub fn sources_as_written(dirs: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = sources(dirs).into_iter().map(|source| source.path);
    paths
        .map(|path| (path.clone(), fs::read_to_string(root.join(path)).unwrap()))
        .collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Returns Rust code with comments, texts and character literals replaced by blanks, line by line
/// as long as before.
pub fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, code.chars().last());
        let taken = length.unwrap_or(first.len_utf8());
        let (piece, after) = rest.split_at(taken);
        match length {
            Some(_) => code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None => code.push(first),
        }
        rest = after;
    }
    code
}

/// Returns the length of the comment or literal that `text` begins with.
fn literal_length(text: &str, previous: Option<char>) -> Option<usize> {
    let up_to = |end: &str, from: usize| {
        text[from..]
            .find(end)
            .map_or(text.len(), |at| from + at + end.len())
    };
    let in_word = previous.is_some_and(is_word);
    if text.starts_with("//") {
        return Some(up_to("\n", 0) - 1);
    }
    if text.starts_with("/*") {
        return Some(up_to("*/", 2));
    }
    if text.starts_with('r') && !in_word {
        let hashes = text[1..].chars().take_while(|c| *c == '#').count();
        if text[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(up_to(&end, hashes + 2));
        }
    }
    if text.starts_with('"') {
        return Some(quoted_length(text, '"'));
    }
    // A lifetime has no closing quote after its first character.
    let is_char = text.starts_with("'\\") || text.chars().nth(2) == Some('\'');
    (text.starts_with('\'') && is_char).then(|| quoted_length(text, '\''))
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// Returns the position of the brace that closes the one at `open`.
pub fn end_of_block(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + offset;
        }
    }
    code.len()
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the texts in Rust code as the program sees them, each with the code before it.
pub fn texts(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut before = String::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, before.chars().last());
        let (piece, after) = rest.split_at(length.unwrap_or(first.len_utf8()));
        match length {
            Some(_) if piece.starts_with(['"', 'r']) => {
                found.push((before.clone(), unquoted(piece)));
                before.push(' ');
            }
            Some(_) => before.push(' '),
            None => before.push(first),
        }
        rest = after;
    }
    found
}

/// Returns what a literal says.
fn unquoted(literal: &str) -> String {
    if let Some(raw) = literal.strip_prefix('r') {
        return raw.trim_matches('#').trim_matches('"').to_owned();
    }
    let inner = literal.trim_start_matches('"');
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    // A backslash at the end of a line joins it with the next one.
    let mut parts = inner.split("\\\n");
    let mut text = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| text += part.trim_start());
    text.replace("\\\"", "\"")
}
