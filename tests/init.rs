//! Proposed tables, through the program itself: drop a file into `tests/init/` to add a case.
//!
//! `tests/common/cases.rs` says what is in it; `<case>.init` is what the program prints and its
//! exit status. `UPDATE_GOLDENS=1` rewrites what is expected.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/trees.rs"]
mod trees;

use std::fs;

use assert_cmd::Command;
use cases::{cases, check, headlines, root_of};
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::{Files, RootFiles};
use pin_hook::host::limit::Limit;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::CapturedSched;
use pin_hook::host::systemd::Bus;
use pin_hook::host::table::read_table;
use pin_hook::lifecycle::show::init::{Intent, propose, write};

#[test]
fn tables_are_proposed_as_expected() {
    check("init");
}

#[test]
fn every_case_has_its_own_headline() {
    assert!(headlines("init") >= 20);
}

fn proposing(files: &RootFiles) -> Host {
    Host {
        sched: Box::new(CapturedSched(files.clone())),
        files: Box::new(files.clone()),
        systemd: Box::new(Bus::default()),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
        limit: Limit::default(),
    }
}

/// Returns the host and the guest of one of the cases.
fn root_of_12() -> tempfile::TempDir {
    let case = cases("init")
        .into_iter()
        .find(|case| case.ends_with("5900x-12.conf"));
    let case = case.unwrap();
    root_of(&case, &fs::read_to_string(&case).unwrap())
}

#[test]
fn a_table_is_written_whole_and_never_over_another_one() {
    let root = root_of_12();
    let files = RootFiles::new(root.path());
    let host = proposing(&files);
    let vmid = "100".parse().unwrap();
    let path = "/etc/pin-hook/100.toml";
    let mut first = propose(&host, vmid, Intent::default()).unwrap();
    write(&host, &mut first, false).unwrap();
    assert_eq!(first.written.as_deref(), Some(path));
    assert_eq!(files.read(path).ok(), first.table);
    assert_eq!(files.owner(path).unwrap().mode, 0o644);
    files.replace(path, "cpus = \"2\"\n", 0o644).unwrap();
    let mut second = propose(&host, vmid, Intent::default()).unwrap();
    write(&host, &mut second, false).unwrap();
    let message = second.error.as_ref().unwrap().message.clone();
    assert!(
        message.contains("already has a table (/etc/pin-hook/100.toml)"),
        "{message}"
    );
    assert_eq!(files.read(path).unwrap(), "cpus = \"2\"\n");
    second.error = None;
    write(&host, &mut second, true).unwrap();
    assert_eq!(files.read(path).ok(), first.table);
}

#[test]
fn a_table_of_the_cluster_is_said_to_be_hidden_and_not_replaced() {
    let root = root_of_12();
    let files = RootFiles::new(root.path());
    let cluster = "/etc/pve/pin-hook/100.toml";
    files.make_dir("/etc/pve/pin-hook", 0o755).unwrap();
    files.replace(cluster, "cpus = \"2\"\n", 0o644).unwrap();
    let host = proposing(&files);
    let mut proposed = propose(&host, "100".parse().unwrap(), Intent::default()).unwrap();
    write(&host, &mut proposed, false).unwrap();
    assert_eq!(
        proposed.error.take().unwrap().help.unwrap(),
        "pin-hook init 100 --write --force writes /etc/pin-hook/100.toml, which takes precedence \
         on this node; for all nodes, put the proposal into /etc/pve/pin-hook/100.toml"
    );
    write(&host, &mut proposed, true).unwrap();
    assert_eq!(proposed.written.as_deref(), Some("/etc/pin-hook/100.toml"));
    assert_eq!(files.read(cluster).unwrap(), "cpus = \"2\"\n");
}

/// What `init` prints is a table: `plan` takes it, and nobody's CPUs are in it.
#[test]
fn a_proposed_table_can_be_used() {
    for case in cases("init") {
        let conf = fs::read_to_string(&case).unwrap();
        let expected = fs::read_to_string(case.with_extension("init")).unwrap();
        let Some(table) = expected
            .strip_suffix("exit 0\n")
            .filter(|t| t.starts_with('#'))
        else {
            continue;
        };
        let root = root_of(&case, &conf);
        let files = RootFiles::new(root.path());
        if !files.exists("/etc/pin-hook") {
            files.make_dir("/etc/pin-hook", 0o755).unwrap();
        }
        files
            .replace("/etc/pin-hook/100.toml", table, 0o644)
            .unwrap();
        assert!(
            read_table(&files, "100".parse().unwrap())
                .unwrap()
                .is_some()
        );
        let mut command = Command::cargo_bin("pin-hook").unwrap();
        let command = command
            .args(["plan", "100", "--json", "--root"])
            .arg(root.path());
        let output = command.output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["outcome"], "ready", "{}: {json:#}", case.display());
        // Nothing better is known of nodes than what was proposed.
        let warnings = json["warnings"].to_string();
        assert!(
            !warnings.contains("would do"),
            "{}: {warnings}",
            case.display()
        );
    }
}
