//! What the documents say, held against the program.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pin_hook::config::keys::{HOST_KEYS, KEYS, Key};
use pin_hook::config::table::{parse_host_settings, parse_table};
use pin_hook::domain::table::HostSettings;
use pin_hook::domain::vm::Vmid;
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::RootFiles;
use pin_hook::host::limit::Limit;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::KernelSched;
use pin_hook::host::systemd::Bus;
use pin_hook::lifecycle::case::resolve::read_case;
use tempfile::TempDir;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// Keys in the manual page, with whether they are marked as refused.
fn documented() -> Vec<(String, bool)> {
    let page = text("docs/man/pin-hook.toml.5.md");
    let page = page.split("# SEE ALSO").next().unwrap();
    let heads = page.lines().filter(|line| line.starts_with("**"));
    heads
        .flat_map(|head| {
            let refused = head.ends_with("*(refused)*");
            head.split("**")
                .skip(1)
                .step_by(2)
                .map(move |key| (key.to_owned(), refused))
        })
        .collect()
}

#[test]
fn the_manual_page_has_every_key_and_no_other() {
    let known: BTreeSet<&str> = KEYS.iter().chain(HOST_KEYS).map(|key| key.path).collect();
    let documented = documented();
    let said: BTreeSet<&str> = documented.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(said, known);
}

/// A value that is not the default.
fn value(key: &Key) -> &str {
    match key.path {
        "isolate.hotplug" | "isolate.workqueues" => "true",
        "isolate.watchdog" => "false",
        "yield.timeout" | "memory.hugepages.timeout" => "\"10s\"",
        _ => key.example,
    }
}

/// Tells whether a table with this line is refused because the key is not there yet.
fn is_refused(line: &str) -> bool {
    let root = TempDir::new().unwrap();
    for (name, content) in [
        ("etc/hostname", "pve1"),
        ("etc/pve/qemu-server/100.conf", "cores: 4"),
        ("etc/pin-hook/100.toml", line),
    ] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }
    let host = Host {
        files: Box::new(RootFiles::new(root.path())),
        sched: Box::new(KernelSched),
        systemd: Box::new(Bus::default()),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
        limit: Limit::default(),
    };
    let vmid: Vmid = "100".parse().unwrap();
    match read_case(&host, vmid, "") {
        Ok(_) => false,
        Err(error) => error.to_string().contains("not supported by this version"),
    }
}

#[test]
fn the_manual_page_marks_what_is_refused() {
    let documented = documented();
    let of_tables = KEYS.iter().filter(|key| !key.path.contains('<'));
    for key in of_tables {
        let cpus = if key.path == "cpus" {
            ""
        } else {
            "cpus = \"6-11,18-23\"\n"
        };
        let table = format!("{cpus}{} = {}", key.path, value(key));
        let marked = documented
            .iter()
            .any(|(name, refused)| name == key.path && *refused);
        assert_eq!(is_refused(&table), marked, "{table}");
    }
}

/// Returns the blocks of indented or fenced text after a heading.
fn examples(page: &str, heading: &str) -> String {
    let section = page.split(heading).nth(1).unwrap();
    let section = section.split("\n# ").next().unwrap();
    let lines = section.lines();
    lines
        .filter_map(|line| line.strip_prefix("    ").or(line.is_empty().then_some("")))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn assert_table(name: &str, text: &str) {
    let defaults = HostSettings::default().defaults;
    for node in ["pve1", "pve2", "pve3"] {
        if let Err(error) = parse_table(name, text, node, &defaults) {
            panic!("{}", error.snippet);
        }
    }
}

#[test]
fn the_example_of_the_manual_page_is_a_table() {
    let page = text("docs/man/pin-hook.toml.5.md");
    let example = examples(&page, "# EXAMPLE");
    assert!(example.contains("cpus = "), "{example}");
    assert_table("EXAMPLE", &example);
    let one_line = examples(&page, "# DESCRIPTION");
    assert_eq!(one_line.trim(), "cpus = \"6-11,18-23\"");
    assert_table("DESCRIPTION", &one_line);
}

/// The keys of `keys` that a text in TOML has; anything else in it is a failure.
fn written(keys: &[Key], text: &str) -> BTreeSet<String> {
    fn walk(keys: &[Key], above: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
        for (name, value) in table {
            let name = if above == "node." { "<name>" } else { name };
            let path = format!("{above}{name}");
            if keys.iter().any(|key| key.path == path) {
                found.insert(path);
            } else {
                let below = value.as_table().unwrap_or_else(|| panic!("{path}"));
                walk(keys, &format!("{path}."), below, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(keys, "", &text.parse().unwrap(), &mut found);
    found
}

fn paths(keys: &[Key]) -> BTreeSet<String> {
    keys.iter().map(|key| key.path.to_owned()).collect()
}

#[test]
fn the_table_with_every_key_in_the_manual_page_is_read() {
    let page = text("docs/man/pin-hook.toml.5.md");
    let table = examples(&page, "# EVERY KEY\n");
    assert_eq!(written(KEYS, &table), paths(KEYS));
    assert_table("EVERY KEY", &table);
    let host = examples(&page, "# EVERY KEY OF HOST.TOML\n");
    assert_eq!(written(HOST_KEYS, &host), paths(HOST_KEYS));
    parse_host_settings("HOST.TOML", &host).unwrap();
}

#[test]
fn the_examples_can_be_used() {
    let mut n_tables = 0;
    for entry in fs::read_dir(path("docs/examples")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        match name {
            "host.toml" => drop(parse_host_settings(name, &text).unwrap()),
            _ => assert_table(name, &text),
        }
        n_tables += 1;
    }
    assert!(n_tables >= 4);
}

#[test]
fn the_manual_page_has_every_command() {
    let page = text("docs/man/pin-hook.8.md");
    let shown = pin_hook::cli::grammar();
    for command in shown.get_subcommands().filter(|one| !one.is_hide_set()) {
        let head = format!("\n**{}**", command.get_name());
        assert!(page.contains(&head), "{head}");
    }
}

/// Documents that people read, below the package.
fn documents() -> Vec<String> {
    let mut names = vec!["README.md".to_owned(), "tests/lab/README.md".to_owned()];
    for dir in ["docs", "docs/man"] {
        for entry in fs::read_dir(path(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            names.extend(name.ends_with(".md").then(|| format!("{dir}/{name}")));
        }
    }
    names
}

#[test]
fn links_lead_somewhere() {
    for name in documents() {
        let text = text(&name);
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split([')', '#']).next().unwrap();
            let target = path(&name).parent().unwrap().join(link);
            assert!(link.contains("://") || target.exists(), "{name}: {link}");
        }
    }
}

#[test]
fn the_readme_is_short_and_names_the_two_commands() {
    let readme = text("README.md");
    assert!(readme.lines().count() <= 120);
    let first_screen = readme.lines().take(14).collect::<Vec<_>>().join("\n");
    assert!(first_screen.contains("make demo") && first_screen.contains("make check"));
}

/// The README shows a part of a golden, with "..." for what is left out.
#[test]
fn the_readme_shows_what_plan_prints() {
    let readme = text("README.md");
    let plan = text("tests/plan/one-line.plan");
    let shown = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let shown = shown
        .skip_while(|line| !line.starts_with("vm 100"))
        .take_while(|line| !line.starts_with("pin-hook release"));
    let shown: Vec<&str> = shown.filter(|line| *line != "...").collect();
    assert!(shown.len() > 10);
    for line in shown {
        assert!(plan.lines().any(|printed| printed == line), "{line}");
    }
}

/// Whoever changes a file can see which facts it rests on, and nobody looks for a file that has moved.
#[test]
fn each_fact_names_the_files_that_need_it() {
    let page = text("docs/kernel.md");
    let facts: Vec<&str> = page.split("\n* ").skip(1).collect();
    assert!(facts.len() > 40, "{}", facts.len());
    for fact in facts {
        let fact = fact.split("\n\n").next().unwrap();
        let (_, files) = fact
            .rsplit_once("-> ")
            .unwrap_or_else(|| panic!("no file: {fact}"));
        for file in files.split_whitespace() {
            let name = file.trim_end_matches(',').trim_matches('`');
            assert!(path(&format!("src/{name}")).is_file(), "{name}: {fact}");
        }
    }
}
