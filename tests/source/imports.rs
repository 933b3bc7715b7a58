//! Which files import which, and where they do so in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Source, end_of_block, is_word};

/// Files, each with those that it takes something from.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// Files by the modules that they are.
type Modules<'s> = BTreeMap<Vec<&'s str>, &'s str>;

/// Returns which source files import which: by paths from the root of the crate, from the module or
/// the one above it, and by names of child modules. What is for tests only is left out.
pub fn imports(sources: &[Source]) -> Imports {
    let is_of_program = |source: &&Source| !source.path.ends_with("/tests.rs");
    let sources: Vec<&Source> = sources.iter().filter(is_of_program).collect();
    let modules: Modules<'_> = sources
        .iter()
        .map(|source| (module_of(&source.path), source.path.as_str()))
        .collect();
    let imports = sources.iter().map(|source| {
        let module = module_of(&source.path);
        let code = without_tests(&source.code);
        let files = paths(&code)
            .into_iter()
            .filter_map(|path| file_of(&path, &module, &modules))
            .filter(|file| *file != source.path);
        (source.path.clone(), files.map(str::to_owned).collect())
    });
    imports.collect()
}

/// Returns circles of imports, as `a.rs -> b.rs -> a.rs`: the shortest through each file that is in
/// one, as far as no other one tells of the file.
pub fn circles(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    for file in imports.keys() {
        if told.contains(file.as_str()) {
            continue;
        }
        if let Some(circle) = circle_through(file, imports) {
            found.push(circle.join(" -> "));
            told.extend(circle);
        }
    }
    found
}

/// Returns the shortest way from a file back to itself.
fn circle_through<'i>(file: &'i str, imports: &'i Imports) -> Option<Vec<&'i str>> {
    let mut importers: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([file]);
    while let Some(importer) = next.pop_front() {
        for imported in imports.get(importer).into_iter().flatten() {
            if importers.contains_key(imported.as_str()) {
                continue;
            }
            importers.insert(imported, importer);
            next.push_back(imported);
        }
    }
    let mut circle = vec![file, *importers.get(file)?];
    while circle.last() != Some(&file) {
        circle.push(importers[circle[circle.len() - 1]]);
    }
    circle.reverse();
    Some(circle)
}

/// Returns the names of the module that a file is, from the root of the crate.
fn module_of(path: &str) -> Vec<&str> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<&str> = path.split('/').collect();
    if matches!(names.last(), Some(&("mod" | "lib"))) {
        names.pop();
    }
    names
}

/// Returns the file that a path in a module leads into, if it is one of the program's.
fn file_of<'s>(path: &[&'s str], module: &[&'s str], modules: &Modules<'s>) -> Option<&'s str> {
    let n_up = path.iter().take_while(|name| **name == "super").count();
    let (mut place, names) = match path {
        ["crate", names @ ..] => (Vec::new(), names),
        ["self", names @ ..] => (module.to_vec(), names),
        ["super", ..] => {
            let above = module.len().checked_sub(n_up)?;
            (module[..above].to_vec(), &path[n_up..])
        }
        [child, ..] if modules.contains_key(&[module, &[*child]].concat()) => {
            (module.to_vec(), path)
        }
        _ => return None,
    };
    for name in names {
        place.push(name);
        if !modules.contains_key(&place) {
            place.pop();
            break;
        }
    }
    modules.get(&place).copied()
}

/// Returns code without the items that only tests see.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept += &rest[..at];
        let item = &rest[at..];
        let end = match item.find(['{', ';']) {
            Some(open) if item[open..].starts_with('{') => end_of_block(item, open),
            Some(end) => end,
            None => item.len() - 1,
        };
        rest = item.get(end + 1..).unwrap_or_default();
    }
    kept + rest
}

/// Returns the paths of two names and more in code, those of nested imports one by one.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = code[at..].find(is_word) {
        at += offset;
        // Who may see an item says nothing about what the item needs.
        let is_visibility = code[..at].ends_with("pub(in ");
        let n_found = found.len();
        at += read_path(&code[at..], &[], &mut found);
        if is_visibility {
            found.truncate(n_found);
        }
    }
    found.retain(|path| path.len() > 1);
    found
}

/// Reads the path that code begins with, below `above`; returns its length.
fn read_path<'c>(code: &'c str, above: &[&'c str], found: &mut Vec<Vec<&'c str>>) -> usize {
    let mut path = above.to_vec();
    let mut at = 0;
    loop {
        let name = word(&code[at..]);
        if name.is_empty() {
            break;
        }
        path.push(name);
        at += name.len();
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
        if code[at..].starts_with('{') {
            return at + read_group(&code[at..], &path, found);
        }
    }
    found.push(path);
    at
}

/// Reads the braces of a nested import, below `above`; returns their length.
fn read_group<'c>(code: &'c str, above: &[&'c str], found: &mut Vec<Vec<&'c str>>) -> usize {
    let mut at = 1;
    while let Some(c) = code[at..].chars().next() {
        if c == '}' {
            return at + 1;
        }
        if !is_word(c) {
            at += c.len_utf8();
            continue;
        }
        at += read_path(&code[at..], above, found);
        if let Some(alias) = code[at..].strip_prefix(" as ") {
            at += " as ".len() + word(alias).len();
        }
    }
    at
}

/// Returns the word that code begins with.
fn word(code: &str) -> &str {
    let end = code.find(|c| !is_word(c)).unwrap_or(code.len());
    &code[..end]
}
