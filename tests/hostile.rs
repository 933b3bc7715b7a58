//! What a host says may be anything: whoever asks gets an answer or an error, soon, and at the price of its size.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/garble.rs"]
mod garble;
#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use garble::{Damage, config, damage};
use pin_hook::config::ct_conf::{parse_ct_conf, parse_ct_start};
use pin_hook::config::sections::{parse_sections, parse_storages};
use pin_hook::config::table::{parse_host_settings, parse_table};
use pin_hook::config::vm_conf::parse_vm_conf;
use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::knob::Grammar;
use pin_hook::domain::table::Defaults;
use pin_hook::domain::target::Value;
use pin_hook::lifecycle::engine::journal;
use proptest::prelude::*;
use proptest::sample::Index;

/// Whatever is asked of a host with a VM 100.
const QUESTIONS: &[&[&str]] = &[
    &["plan", "100", "-v"],
    &["plan", "100", "--json"],
    &["check", "-v"],
    &["check", "--json"],
    &["topology"],
    &["status", "-v"],
    &["list"],
    &["report"],
    &["init", "100"],
];

/// Seconds of a CPU, and bytes, that no answer takes about a host of this size.
const LIMITS: [&str; 2] = ["--cpu=20", "--as=536870912"];

fn ask(root: &Path, words: &[&str]) -> Output {
    let program = assert_cmd::cargo::cargo_bin("pin-hook");
    let mut command = Command::new("prlimit");
    command.args(LIMITS).arg(program).arg("--root").arg(root);
    command.args(words).arg("--color=always").output().unwrap()
}

/// Tells whether a terminal takes nothing of a text for a command, but for colours.
fn is_harmless(text: &str) -> bool {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default();
    let mut rests =
        pieces.map(|piece| piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    let is_plain = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
    is_plain(first) && rests.all(|rest| rest.starts_with('m') && is_plain(rest))
}

/// Returns the files of a host by their names without numbers: there are as many of one kind as it has CPUs.
fn kinds(root: &Path) -> Vec<Vec<PathBuf>> {
    let mut kinds = BTreeMap::<String, Vec<PathBuf>>::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().display().to_string();
                let name = name.replace(|letter: char| letter.is_ascii_digit(), "");
                kinds.entry(name).or_default().push(entry.path());
            }
        }
    }
    kinds.into_values().collect()
}

fn damaged(root: &Path, (kind, file, damage): &(Index, Index, Damage)) -> PathBuf {
    let kinds = kinds(root);
    let path = one(file, one::<Vec<PathBuf>>(kind, &kinds));
    let text = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, damage.done_to(&text)).unwrap();
    path.clone()
}

fn one<'t, T>(index: &Index, of: &'t [T]) -> &'t T {
    &of[index.index(of.len())]
}

proptest! {
    #![proptest_config(config(2))]

    #[test]
    fn a_host_that_says_anything_gets_an_answer_or_an_error(
        case in any::<Index>(),
        question in any::<Index>(),
        damages in proptest::collection::vec((any::<Index>(), any::<Index>(), damage()), 1..4),
    ) {
        let cases = cases::cases("plan");
        let case = one(&case, &cases);
        let root = cases::root_of(case, &fs::read_to_string(case).unwrap());
        let paths: Vec<PathBuf> = damages.iter().map(|damage| damaged(root.path(), damage)).collect();
        let words = one(&question, QUESTIONS);
        let output = ask(root.path(), words);
        let is_answer = output.status.code().is_some_and(|status| status <= 4);
        prop_assert!(is_answer, "{case:?} {words:?} {paths:?}\n{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        prop_assert!(is_harmless(&text), "{case:?} {words:?} {paths:?}\n{text:?}");
    }
}

/// Returns the texts that a folder of tests has, of these kinds.
fn corpus(folder: &str, end: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|it| it == end))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    proptest::collection::vec(damage(), 1..5)
}

fn all_done(damages: &[Damage], text: &str) -> String {
    damages
        .iter()
        .fold(text.to_owned(), |text, damage| damage.done_to(&text))
}

const STORAGES: &str = "dir: local\n\tpath /var/lib/vz\n\tcontent snippets,iso\n\nzfspool: data\n\tpool tank/vm\n\tnodes pve1,pve2\n\n\
                        lvmthin: lvm\n\tthinpool data\n\tvgname pve\n\tdisable\n";
const CONTAINER: &str = "arch: amd64\ncores: 2\nhostname: ct\nlxc.cgroup2.cpuset.cpus: 0-3\nonboot: 1\nstartup: order=2,up=5\n\
                         unprivileged: 1\n[snap]\ncores: 1\n";
const LISTS: &[&str] = &["0-3,8", "0-127", "ff,ffffffff,00000001", "0-7:2/4"];

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn a_table_is_read_or_refused_in_one_line(text in any::<Index>(), damages in damages()) {
        let texts = corpus("config/table", "toml");
        let text = all_done(&damages, one::<String>(&text, &texts));
        for error in [
            parse_table("100.toml", &text, "pve1", &Defaults::default()).err(),
            parse_host_settings("host.toml", &text).err(),
        ].into_iter().flatten() {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
            prop_assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
        }
    }

    #[test]
    fn configs_of_pve_are_read_as_far_as_they_say_something(text in any::<Index>(), damages in damages()) {
        let texts = corpus("config/vm", "conf");
        let text = all_done(&damages, one::<String>(&text, &texts));
        parse_vm_conf(&text).guest();
        parse_ct_conf(&text);
        let container = all_done(&damages, CONTAINER);
        parse_ct_conf(&container);
        parse_ct_start(&container);
        let storages = all_done(&damages, STORAGES);
        parse_sections(&storages);
        parse_storages(&storages);
    }

    #[test]
    fn a_list_is_a_list_or_no_list(text in any::<Index>(), damages in damages()) {
        let text = all_done(&damages, one::<&str>(&text, LISTS));
        if let Ok(cpus) = text.parse::<CpuSet>() {
            prop_assert_eq!(cpus.to_string().parse::<CpuSet>().unwrap(), cpus);
        }
        for grammar in [Grammar::CpuList, Grammar::CpuMask, Grammar::Fields, Grammar::Choice] {
            Value::parse(grammar, &text);
        }
    }

    #[test]
    fn a_damaged_journal_says_nothing_that_was_not_in_it(text in any::<Index>(), damages in damages()) {
        let mut texts = corpus("journal", "journal");
        // Of the first version, whose lines had no sums, that cannot be told.
        texts.retain(|text| !text.starts_with("{\"version\":1}"));
        let text = one::<String>(&text, &texts);
        if let Ok(log) = journal::read(&all_done(&damages, text)) {
            for claim in log.state.claims.values() {
                let said = format!("\"vmid\":{}", claim.vmid);
                prop_assert!(text.contains(&said), "{said}");
            }
            for (target, held) in &log.state.held {
                let said = serde_json::to_string(target).unwrap();
                prop_assert!(text.contains(&said), "{said}: {held:?}");
            }
        }
    }
}
