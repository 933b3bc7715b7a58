//! The architecture as tests: which room may name what, which files import which, and how long things
//! may become.
//!
//! The rooms depend on each other in one direction, `cli` → `lifecycle` → `host` → `domain` and
//! `config`. The rules look at code only: comments, texts and character literals are blanked
//! first, so that a document may speak of what code may not use.

#![allow(
    clippy::unwrap_used,
    reason = "a source that cannot be read is a failed test"
)]

mod source;

use std::collections::BTreeMap;

use source::imports::{circles, imports};
use source::{Source, blanked, end_of_block, is_word, sources, sources_as_written};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;

/// Returns the byte positions of `name` in `code` as a whole: not as a part of a longer word.
fn positions(code: &str, name: &str) -> Vec<usize> {
    let is_whole = |at: &usize| {
        let before = code[..*at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let ends_in_word = name.chars().next_back().is_some_and(is_word);
        !(before.is_some_and(is_word) || ends_in_word && after.is_some_and(is_word))
    };
    code.match_indices(name)
        .map(|(at, _)| at)
        .filter(is_whole)
        .collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Returns `path:line: name` wherever a file that `applies` names one of `names`.
fn naming(names: &[&str], applies: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, code } in sources(&["src"])
        .iter()
        .filter(|source| applies(&source.path))
    {
        for name in names {
            let lines = positions(code, name)
                .into_iter()
                .map(|at| line_of(code, at));
            found.extend(lines.map(|line| format!("{path}:{line}: {name}")));
        }
    }
    found
}

fn assert_none(violations: &[String], rule: &str) {
    assert!(
        violations.is_empty(),
        "{rule}:\n  {}",
        violations.join("\n  ")
    );
}

/// Rooms that a room must not name.
fn assert_blind(room: &str, others: &[&str]) {
    let paths =
        |other: &&str| ["crate", "super", "pin_hook"].map(|from| format!("{from}::{other}"));
    let names: Vec<String> = others.iter().flat_map(paths).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = naming(&names, |path| path.starts_with(&format!("src/{room}/")));
    assert_none(
        &found,
        &format!("{room} must not know {}", others.join(", ")),
    );
}

#[test]
fn files_are_touched_through_one_door() {
    let names = [
        "std::fs",
        "tokio::fs",
        "File::",
        "OpenOptions",
        "nix::fcntl",
        "nix::dir",
    ];
    let found = naming(&names, |path| path != "src/host/files.rs");
    assert_none(&found, "only src/host/files.rs touches files");
}

#[test]
fn unsafe_code_is_in_one_file() {
    let found = naming(&["unsafe", "unsafe_code"], |path| path != "src/host/raw.rs");
    assert_none(&found, "only src/host/raw.rs is unsafe");
}

#[test]
fn domain_and_config_touch_nothing_outside() {
    let names = [
        "std::fs",
        "std::process",
        "std::env",
        "std::net",
        "std::os",
        "std::io",
        "std::thread",
        "Instant",
        "SystemTime",
        "nix::",
        "libc::",
    ];
    let is_pure = |path: &str| path.starts_with("src/domain/") || path.starts_with("src/config/");
    assert_none(&naming(&names, is_pure), "domain and config only compute");
}

#[test]
fn rooms_know_each_other_in_one_direction() {
    assert_blind("domain", &["config", "host", "lifecycle", "cli"]);
    assert_blind("config", &["host", "lifecycle", "cli"]);
    assert_blind("host", &["lifecycle", "cli"]);
    assert_blind("lifecycle", &["cli"]);
}

/// The rooms of the lifecycle, each above all that it knows.
#[test]
fn rooms_of_the_lifecycle_know_each_other_in_one_direction() {
    let floors = [
        "engine",
        "case",
        "devices",
        "start",
        "hooking",
        "measuring",
        "show",
    ];
    for (n, room) in floors.iter().enumerate() {
        let above: Vec<String> = floors[n + 1..]
            .iter()
            .map(|other| format!("crate::lifecycle::{other}"))
            .collect();
        let above: Vec<&str> = above.iter().map(String::as_str).collect();
        let found = naming(&above, |path| {
            path.starts_with(&format!("src/lifecycle/{room}/"))
        });
        assert_none(&found, &format!("{room} must not know what is above it"));
    }
    let is_room = |source: &Source| {
        let mut parts = source.path.split('/').skip(2);
        floors.contains(&parts.next().unwrap_or_default()) || source.path == "src/lifecycle/mod.rs"
    };
    let inside = sources(&["src/lifecycle"]);
    let homeless: Vec<String> = inside
        .into_iter()
        .filter(|source| !is_room(source))
        .map(|source| source.path)
        .collect();
    assert_none(&homeless, "every file of the lifecycle is in a room");
}

/// Files that need each other can only be understood together, and nobody knows to which of them a line
/// belongs.
#[test]
fn files_import_each_other_in_no_circle() {
    let imports = imports(&sources(&["src"]));
    let rule = "no file imports one that imports it, also by way of others";
    assert_none(&circles(&imports), rule);
}

#[test]
fn a_circle_of_imports_is_seen() {
    let circles_with = |changed: &[(&str, &str)]| {
        let mut texts = BTreeMap::from([
            ("src/lib.rs", "pub mod a;\npub mod b;"),
            (
                "src/a.rs",
                "use crate::b::{self, N, leaf::{One as Two, Three}};",
            ),
            (
                "src/b/mod.rs",
                "pub(in crate::a) mod leaf;\npub const N: u8 = 0;",
            ),
            (
                "src/b/leaf.rs",
                "// crate::a\n#[cfg(test)]\nmod tests {\n use crate::a::A;\n}",
            ),
        ]);
        texts.extend(changed.iter().copied());
        let sources = texts.into_iter().map(|(path, text)| Source {
            path: path.to_owned(),
            code: blanked(text),
        });
        circles(&imports(&sources.collect::<Vec<_>>()))
    };
    assert!(circles_with(&[]).is_empty());
    let with_leaf = ["src/a.rs -> src/b/leaf.rs -> src/a.rs"];
    for text in ["fn f() { super::super::a::f() }", "use crate::{a as b};"] {
        assert_eq!(circles_with(&[("src/b/leaf.rs", text)]), with_leaf);
    }
    let with_mod = ["src/a.rs -> src/b/mod.rs -> src/a.rs"];
    assert_eq!(
        circles_with(&[("src/b/mod.rs", "pub use super::a;")]),
        with_mod
    );
    let parent = ("src/b/mod.rs", "mod leaf;\nfn f() { leaf::f() }");
    assert!(circles_with(&[parent]).is_empty());
    let with_parent = ["src/b/leaf.rs -> src/b/mod.rs -> src/b/leaf.rs"];
    let child = ("src/b/leaf.rs", "use super::f;");
    assert_eq!(circles_with(&[parent, child]), with_parent);
    let around = ("src/b/mod.rs", "pub use self::leaf::One;");
    let back = ("src/b/leaf.rs", "use crate::c;");
    let long = ["src/a.rs -> src/b/leaf.rs -> src/c.rs -> src/a.rs"];
    let found = circles_with(&[around, back, ("src/c.rs", "use super::a;")]);
    assert_eq!(found[..1], long);
}

#[test]
fn imports_are_written_so_that_the_rules_see_them() {
    let names = ["use std::{", "use crate::{", "use libc::{", "crate::*"];
    assert_none(
        &naming(&names, |_| true),
        "no nested import at the top, no import of everything",
    );
}

/// The knobs that a mechanism is about, with the only file that names them outside of the table and the
/// wishes, and the reason.
const STRUCTURAL: [(&str, &str, &str); 15] = {
    const FILE: &str = "src/domain/target/named.rs";
    [
        (
            "CpusetForChildren",
            FILE,
            "nobody below it: systemd has taken it",
        ),
        (
            "CpusExclusive",
            FILE,
            "tells what is owned when the log is lost",
        ),
        ("Cpus", FILE, "tells what of a partition is isolated"),
        (
            "Partition",
            FILE,
            "waits for probes, and ends before its cgroup",
        ),
        ("ScopeNodes", FILE, "systemd's own wish is read from it"),
        (
            "ListedCpus",
            FILE,
            "a unit that is cut when the log is lost",
        ),
        (
            "OutsideCpus",
            FILE,
            "a cgroup that is cut when the log is lost",
        ),
        (
            "ContainerCpus",
            FILE,
            "a container that is cut when the log is lost",
        ),
        (
            "DriverOverride",
            FILE,
            "a driver cannot have a function back before",
        ),
        ("Online", FILE, "the scrub takes CPUs offline and back"),
        ("DefaultIrqAffinity", FILE, "interrupts are born with it"),
        ("IrqAffinity", FILE, "numbers of interrupts are observed"),
        (
            "UnboundCpus",
            FILE,
            "its mask is observed with those of queues",
        ),
        ("WatchdogCpus", FILE, "the same"),
        ("QueueCpus", FILE, "names of workqueues are observed"),
    ]
};

/// What is to be known of a knob is in its row, so that adding one is adding a row and a wish.
#[test]
fn knobs_are_named_in_the_table_and_the_wishes() {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for Source { path, code } in sources(&["src"]) {
        let is_theirs = path == "src/domain/knob.rs" || path.starts_with("src/domain/desired/");
        if is_theirs || path.ends_with("/tests.rs") {
            continue;
        }
        for at in positions(&code, "Knob::") {
            let rest = code[at + "Knob::".len()..].chars();
            let name: String = rest.take_while(|c| is_word(*c)).collect();
            let is_variant =
                name.chars().any(char::is_lowercase) && !name.starts_with(char::is_lowercase);
            let is_known = |(knob, file, _): &(&str, &str, &str)| *knob == name && *file == path;
            if STRUCTURAL.iter().any(is_known) {
                seen.push(name);
            } else if is_variant {
                found.push(format!("{path}:{}: {name}", line_of(&code, at)));
            }
        }
    }
    assert_none(&found, "only the table and the wishes name a knob");
    let stale = STRUCTURAL
        .iter()
        .filter(|(knob, ..)| !seen.iter().any(|name| name == knob));
    let stale: Vec<String> = stale.map(|(knob, ..)| (*knob).to_owned()).collect();
    assert_none(&stale, "the list names no knob that is not named");
}

#[test]
fn programs_are_executed_through_one_door() {
    let names = [
        "process::Command",
        "Command::new",
        "nix::unistd::fork",
        "nix::unistd::exec",
        "libc::fork",
        "libc::system",
    ];
    let found = naming(&names, |path| path != "src/host/programs.rs");
    assert_none(&found, "only src/host/programs.rs executes programs");
    let shells = ["/bin/sh", "/bin/bash", "\"sh\""];
    let named = sources_as_written(&["src"]);
    let found = named
        .iter()
        .filter(|(_, text)| shells.iter().any(|shell| text.contains(shell)));
    let found: Vec<String> = found.map(|(path, _)| path.clone()).collect();
    assert_none(&found, "no shell is executed");
}

#[test]
fn files_stay_short() {
    let long = sources(&["src", "tests"])
        .into_iter()
        .filter_map(|Source { path, code }| {
            let n = code.lines().count();
            (n > MAX_FILE_LINES).then(|| format!("{path}: {n} lines"))
        });
    assert_none(&long.collect::<Vec<_>>(), "a file has at most 500 lines");
}

#[test]
fn functions_stay_short() {
    let mut long = Vec::new();
    for Source { path, code } in sources(&["src", "tests"]) {
        for (name, line, n) in functions(&code) {
            if n > MAX_FUNCTION_LINES {
                long.push(format!("{path}:{line}: {name} has {n} lines"));
            }
        }
    }
    assert_none(&long, "a function has at most 60 lines");
}

/// Returns name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in positions(code, "fn") {
        let name: String = code[at + 2..]
            .trim_start()
            .chars()
            .take_while(|c| is_word(*c))
            .collect();
        // A type such as fn(u32) has no name, a method without a body no brace before its end.
        let Some(body) = code[at..].find(['{', ';']).map(|offset| at + offset) else {
            continue;
        };
        if name.is_empty() || code[body..].starts_with(';') {
            continue;
        }
        let first = line_of(code, at);
        found.push((
            name,
            first,
            line_of(code, end_of_block(code, body)) - first + 1,
        ));
    }
    found
}

#[test]
fn the_rules_see_code_and_nothing_else() {
    let text = "// std::fs\nlet a = \"std::fs \\\" {\"; let b = r#\"std::fs\"#; let c = '{';\n\
                fn one<'a>(x: &'a str) {\n  std::fs::read(x)\n}\nfn two();\n";
    let code = blanked(text);
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(
        positions(&code, "std::fs"),
        [text.find("  std::fs").unwrap() + 2]
    );
    assert_eq!(functions(&code), [("one".to_owned(), 3, 3)]);
    assert!(positions("RootFiles::new my_std::fs", "File::").is_empty());
}

/// Returns the names of functions and constants that code makes public, with their lines. A type may be
/// public without being named anywhere: a public function returns it.
fn public_names(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (n, line) in code.lines().enumerate() {
        let words: Vec<&str> = line
            .split(|c| !is_word(c))
            .filter(|w| !w.is_empty())
            .collect();
        let is_public = line.trim_start().starts_with("pub");
        let kind = words.iter().position(|word| *word == "fn");
        let kind = kind.or_else(|| {
            words
                .iter()
                .position(|word| *word == "const" || *word == "static")
        });
        let name = kind
            .filter(|at| is_public && *at < 4)
            .and_then(|at| words.get(at + 1));
        found.extend(name.map(|name| (n + 1, *name)));
    }
    found
}

#[test]
fn every_public_name_is_used_outside_of_its_file() {
    let all = sources(&["src", "tests"]);
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Source { path, code } in &all {
        for word in code.split(|c| !is_word(c)) {
            users.entry(word).or_default().push(path);
        }
    }
    let mut unused = Vec::new();
    for Source { path, code } in all.iter().filter(|source| source.path.starts_with("src/")) {
        let names = public_names(code).into_iter();
        let alone = names.filter(|(_, name)| users[name].iter().all(|user| user == path));
        unused.extend(alone.map(|(line, name)| format!("{path}:{line}: {name}")));
    }
    assert_none(&unused, "what only its own file uses is not public");
}

#[test]
fn a_public_name_that_nobody_uses_is_seen() {
    let code = "pub fn one() {}\nfn two() {}\n    pub(super) const THREE: u8 = 3;\npub const fn four() {}\n";
    assert_eq!(public_names(code), [(1, "one"), (3, "THREE"), (4, "four")]);
}
