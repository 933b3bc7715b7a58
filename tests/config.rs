//! Texts and what they say: drop a file into `tests/config/` to add a case.
//!
//! `vm/<case>.conf` is a VM's configuration, `<case>.json` the guest. `table/<case>.toml` is a
//! table (`host-*`: settings of the host), `<case>.out` its wishes or the error. The first lines
//! of a table say what it shows (`# TEST: ...`) and, if need be, on which node it is read
//! (`# NODE: ...`) and with which defaults (`# DEFAULTS: ...`). `UPDATE_GOLDENS=1` rewrites what
//! is expected.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;

use std::fs;
use std::path::{Path, PathBuf};

use pin_hook::config::error::ConfigError;
use pin_hook::config::keys::{HOST_KEYS, KEYS, Key, Shape};
use pin_hook::config::table::{MAX_BYTES, parse_host_settings, parse_table};
use pin_hook::config::vm_conf::{VmConf, parse_vm_conf};
use pin_hook::domain::table::{Defaults, HostSettings, Table};
use proptest::prelude::*;
use serde::Serialize;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(name)
}

/// Compares what `show` makes of every `*.<from>` in a folder with the `*.<to>` beside it.
fn compare(name: &str, from: &str, to: &str, show: impl Fn(&str, &str) -> String) {
    let update = goldens::update();
    let mut wrong = Vec::new();
    let entries = fs::read_dir(folder(name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|end| end == from));
    assert!(!paths.is_empty(), "no case in {name}");
    for path in paths {
        let case = path.file_stem().unwrap().to_str().unwrap();
        let shown = show(case, &fs::read_to_string(&path).unwrap());
        let expected = path.with_extension(to);
        if update {
            fs::write(&expected, &shown).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(format!("{}: now\n{shown}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn outcome<T: Serialize>(result: Result<T, ConfigError>) -> String {
    match result {
        Ok(value) => json(&value),
        Err(error) => {
            let ConfigError { help, snippet, .. } = &error;
            format!("error: {error}\nhelp: {help}\n\n{snippet}\n")
        }
    }
}

fn header<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let comments = text.trim_start_matches('\u{feff}').lines();
    let mut comments = comments.take_while(|line| line.starts_with('#'));
    comments.find_map(|line| line.strip_prefix(&format!("# {name}: ")))
}

fn show_table(case: &str, text: &str) -> String {
    let described = header(text, "TEST").is_some() || text.is_empty();
    assert!(described, "{case}: the first line is not \"# TEST: ...\"");
    if case.starts_with("host-") {
        return outcome(parse_host_settings("host.toml", text));
    }
    let node = header(text, "NODE").unwrap_or("pve1");
    let defaults = header(text, "DEFAULTS").unwrap_or("{}");
    let defaults = serde_json::from_str(defaults).unwrap();
    outcome(parse_table("100.toml", text, node, &defaults))
}

fn show_conf(conf: &VmConf) -> String {
    let snapshots = conf.snapshots.iter();
    let snapshots = snapshots.map(|(name, section)| (name, &section.lines));
    json(&serde_json::json!({
        "guest": conf.guest(),
        "pending": conf.pending.as_ref().map(|section| &section.lines),
        "snapshots": snapshots.collect::<std::collections::BTreeMap<_, _>>(),
    }))
}

fn parse(text: &str) -> Result<Table, ConfigError> {
    parse_table("100.toml", text, "pve1", &Defaults::default())
}

#[test]
fn tables_say_what_is_expected() {
    compare("table", "toml", "out", show_table);
}

#[test]
fn guests_are_what_pve_would_start() {
    compare("vm", "conf", "json", |_, text| {
        show_conf(&parse_vm_conf(text))
    });
}

#[test]
fn example_has_every_key_of_the_design() {
    let text = fs::read_to_string(folder("example.toml")).unwrap();
    let table = parse(&text).unwrap_or_else(|error| panic!("{}", error.snippet));
    let json = serde_json::to_value(&table).unwrap();
    for key in KEYS
        .iter()
        .filter(|key| key.shape != Shape::Nodes && key.path != "profile")
    {
        let pointer = format!("/{}", key.path.replace('.', "/"));
        let value = json
            .pointer(&pointer)
            .unwrap_or_else(|| panic!("no {}", key.path));
        assert!(!value.is_null(), "the example has no {}", key.path);
    }
}

/// Writes one key with its example, and the word the list knows for each enumerated value.
fn examples(key: &Key) -> Vec<String> {
    let path = key.path.replace("<name>", "pve1");
    match key.shape {
        Shape::Word(words) => words
            .iter()
            .map(|w| format!("{path} = \"{w}\"\n"))
            .collect(),
        _ => vec![format!("{path} = {}\n", key.example)],
    }
}

#[test]
fn every_listed_key_is_accepted() {
    for key in KEYS {
        for line in examples(key) {
            let cpus = if key.path == "cpus" {
                ""
            } else {
                "cpus = \"6-7,18-19\"\n"
            };
            parse(&format!("{cpus}{line}")).unwrap_or_else(|error| panic!("{}", error.snippet));
        }
    }
    for line in HOST_KEYS.iter().flat_map(examples) {
        let settings = parse_host_settings("host.toml", &line);
        settings.unwrap_or_else(|error| panic!("{}", error.snippet));
    }
}

/// Collects the paths of all fields that a value writes; empty maps are fields too.
fn fields(value: &serde_json::Value, path: &str, keys: &[Key], found: &mut Vec<String>) {
    let listed = keys.iter().any(|key| key.path == path);
    match value {
        serde_json::Value::Object(map) if !listed => {
            for (name, value) in map {
                let below = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                fields(value, &below, keys, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_field_has_a_listed_key() {
    let table = parse("cpus = \"auto\"\nmemory.hugepages = {}").unwrap();
    for (value, keys) in [
        (serde_json::to_value(table).unwrap(), KEYS),
        (
            serde_json::to_value(HostSettings::default()).unwrap(),
            HOST_KEYS,
        ),
    ] {
        let mut found = Vec::new();
        fields(&value, "", keys, &mut found);
        let listed = keys.iter().filter(|key| key.shape != Shape::Nodes);
        let mut listed: Vec<_> = listed.map(|key| key.path.to_owned()).collect();
        found.sort();
        listed.sort();
        assert_eq!(found, listed);
    }
}

#[test]
fn stored_wishes_are_read_back() {
    let text = fs::read_to_string(folder("example.toml")).unwrap();
    let table = parse(&text).unwrap();
    let stored = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<Table>(&stored).unwrap(), table);
}

#[test]
fn files_beyond_any_sane_size_are_refused() {
    let comment = "#".repeat(MAX_BYTES);
    let error = parse(&format!("{comment}\ncpus = \"2-3\"")).unwrap_err();
    assert!(
        error.message.contains("bytes, the limit is 65536"),
        "{error}"
    );
}

/// No editor shows it, and what the library expected there does not help.
#[test]
fn a_control_character_is_named() {
    for (text, told) in [
        ("cpus = \"4-7\0\"\n", "1:12: control character U+0000 (NUL)"),
        (
            "cpus = \"4-7\"\n\u{1b}[pin]\n",
            "2:1: control character U+001B",
        ),
        (
            "cpus = \"4-7\" # \u{7f}\n",
            "1:16: control character U+007F",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().ends_with(told), "{error}");
        assert!(error.help.contains("cat -v"), "{}", error.help);
    }
    parse("cpus\t= \"4-7\"\r\n").unwrap();
}

proptest! {
    #[test]
    fn any_text_is_a_table_or_an_error_in_one_line(text in "\\PC{0,80}|[\\x00-\\x7f]{0,80}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn any_values_are_a_table_or_an_error_in_one_line(
        lines in proptest::collection::vec((0..KEYS.len(), value()), 0..6),
        node in any::<bool>(),
    ) {
        let prefix = if node { "node.pve1." } else { "" };
        let line = |(n, value): &(usize, String)| format!("{prefix}{} = {value}\n", KEYS[*n].path);
        let text: String = lines.iter().map(line).collect();
        let _ = parse_host_settings("host.toml", &text);
        if let Err(error) = parse(&text.replace("<name>", "pve1")) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn any_text_is_a_guest(text in "(\\PC|\n|[\\x00-\\x7f]){0,80}") {
        parse_vm_conf(&text).guest();
    }

    #[test]
    fn any_values_are_a_guest(lines in proptest::collection::vec((conf_key(), conf_value()), 0..8)) {
        let line = |(key, value): &(String, String)| format!("{key}: {value}\n");
        parse_vm_conf(&lines.iter().map(line).collect::<String>()).guest();
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("\"auto\"".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "\"[0-9a-z,:*-]{0,8}\"",
        "\"[^\"\\\\\\pC]{0,8}\"",
        "\\[([0-9]{1,9}, ?){0,4}\\]",
        "\\{ [a-z0-9]{1,6} = (\"[0-9,-]{0,5}\"|-?[1-9][0-9]{0,25}) \\}",
    ]
}

fn conf_key() -> impl Strategy<Value = String> {
    let names = [
        "cores", "sockets", "smp", "vcpus", "memory", "numa", "numa0", "cpu", "affinity", "args",
        "hotplug", "hostpci0", "net0", "scsi0", "virtio0", "tags", "cpulimit", "cpuunits",
        "scsihw",
    ];
    proptest::sample::select(names.to_vec()).prop_map(str::to_owned)
}

fn conf_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,12}",
        "on",
        "[0-9,;-]{1,12}",
        "([a-z]{1,8}=)?[0-9a-z:.;-]{1,8}(,[a-z]{1,8}=[0-9;-]{0,6}){0,3}",
        "-smp [0-9a-z=, '\\\\\"]{0,20}",
        "cpus=[0-9;-]{1,12},memory=[0-9.]{1,12}",
    ]
}
