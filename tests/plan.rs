//! Plans of a start, through the program itself: drop a file into `tests/plan/` to add a case.
//!
//! `<case>.toml` is a VM's table, `<case>.conf` its configuration, `<case>.plan` what the program
//! prints and its exit status. The first lines of the configuration say what it is about:
//!
//! - `# TEST: ...`: what the case shows
//! - `# HOST: ...`: the host of `tests/common/hosts.rs`
//! - `# EXPECT_ERROR: ...`: text that the first error contains; without it there must be none
//! - `# ARGS: ...`: more arguments, such as `-v`
//! - `# FILE: <path> <content>`: one more file of the host (`\n` stands for a new line); without
//!   content the file is removed
//!
//! A case without a table has none, one with an empty configuration belongs to no VM.
//! `UPDATE_GOLDENS=1` rewrites what is expected.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/hosts.rs"]
mod hosts;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// Values of the comments in a configuration with this name.
fn said<'t>(conf: &'t str, name: &str) -> Vec<&'t str> {
    let prefix = format!("# {name}: ");
    conf.lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

fn root_of(case: &Path, conf: &str) -> TempDir {
    let host = *said(conf, "HOST").first().unwrap_or(&"synthetic-5900x");
    let mut entries = hosts::entries(host);
    let (comments, config): (Vec<&str>, Vec<&str>) =
        conf.lines().partition(|line| line.starts_with("# "));
    assert!(!comments.is_empty(), "{}: no # TEST", case.display());
    if !config.is_empty() {
        let path = "/etc/pve/qemu-server/100.conf".to_owned();
        entries.insert(path, config.join("\n") + "\n");
    }
    if let Ok(table) = fs::read_to_string(case.with_extension("toml")) {
        entries.insert("/etc/pin-hook/100.toml".to_owned(), table);
    }
    for file in said(conf, "FILE") {
        let (path, content) = file.split_once(' ').unwrap_or((file, ""));
        match content {
            "" => entries.remove(path),
            _ => entries.insert(path.to_owned(), content.replace("\\n", "\n") + "\n"),
        };
    }
    hosts::unpack(&entries)
}

fn shown(case: &Path, conf: &str) -> String {
    let root = root_of(case, conf);
    let more = said(conf, "ARGS");
    let more = more.iter().flat_map(|args| args.split(' '));
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let command = command.args(["plan", "100", "--root"]).arg(root.path());
    let output = command.args(more).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    format!("{text}exit {}\n", output.status.code().unwrap())
}

/// Checks the first error of what was shown against what the configuration expects.
fn check_error(conf: &str, shown: &str) -> Result<(), String> {
    let prefix = "pin-hook: error: ";
    let error = shown.lines().find_map(|line| line.strip_prefix(prefix));
    match (said(conf, "EXPECT_ERROR").first(), error) {
        (None, None) => Ok(()),
        (Some(expected), Some(error)) if error.contains(expected) => Ok(()),
        (expected, error) => Err(format!("expected {expected:?}, got {error:?}\n{shown}")),
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "conf"));
    paths.sort();
    paths
}

#[test]
fn plans_are_as_expected() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let conf = fs::read_to_string(&case).unwrap();
        let shown = shown(&case, &conf);
        let name = case.display();
        if let Err(error) = check_error(&conf, &shown) {
            wrong.push(format!("{name}: {error}"));
        }
        let expected = case.with_extension("plan");
        if update {
            fs::write(&expected, &shown).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(format!("{name}: now\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_has_its_own_headline() {
    let mut headlines: Vec<String> = Vec::new();
    for case in cases() {
        let conf = fs::read_to_string(&case).unwrap();
        headlines.push(said(&conf, "TEST").concat());
    }
    let n = headlines.len();
    headlines.sort();
    headlines.dedup();
    assert!(n >= 15 && headlines.len() == n, "{headlines:?}");
}

/// A plan must never write: the whole tree is the same afterwards.
#[test]
fn a_plan_changes_nothing() {
    let case = cases().into_iter().find(|case| case.ends_with("vr.conf"));
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
