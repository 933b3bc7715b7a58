//! Plans of a start, through the program itself: drop a file into `tests/plan/` to add a case.
//!
//! `tests/common/cases.rs` says what is in it; `<case>.plan` is what the program prints and its
//! exit status. A case without a table has none.
//! `UPDATE_GOLDENS=1` rewrites what is expected.

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
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use cases::{cases, check, headlines, root_of};

#[test]
fn plans_are_as_expected() {
    check("plan");
}

#[test]
fn every_case_has_its_own_headline() {
    assert!(headlines("plan") >= 15);
}

/// A plan must never write: the whole tree is the same afterwards.
#[test]
fn a_plan_changes_nothing() {
    let case = cases("plan")
        .into_iter()
        .find(|case| case.ends_with("vr.conf"));
    let case = case.unwrap();
    let conf = fs::read_to_string(&case).unwrap();
    let root = root_of(&case, &conf);
    let before = tree(root.path());
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let command = command.args(["plan", "100", "--json", "--root"]);
    let output = command.arg(root.path()).output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["outcome"], "ready");
    assert_eq!(json["layout"]["housekeeping"], "0-5,12-17");
    assert!(json["changes"].as_array().unwrap().len() > 10);
    assert_eq!(before, tree(root.path()));
}

fn tree(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                found.push((path.clone(), String::new()));
                found.extend(tree(&path));
            }
            false => found.push((path.clone(), fs::read_to_string(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// A warning that names the nodes says it all.
#[test]
fn vcpus_on_several_nodes_are_told_once() {
    for (cores, table) in [(4, "cpus = \"2-3,10-11\"\n"), (24, "cpus = \"auto\"\n")] {
        let mut entries = hosts::entries("synthetic-2s-4n");
        let conf = format!("cores: {cores}\nhookscript: local:snippets/pin-hook\n");
        entries.insert("/etc/pve/qemu-server/100.conf".to_owned(), conf);
        entries.insert("/etc/pin-hook/100.toml".to_owned(), table.to_owned());
        let root = hosts::unpack(&entries);
        let (text, _) = hosts::asked(root.path(), &["plan", "100"]);
        let told = text.lines().filter(|line| line.contains("numa nodes"));
        let told: Vec<&str> = told.collect();
        assert!(
            matches!(told[..], [line] if line.contains("warning")),
            "{text}"
        );
    }
}
