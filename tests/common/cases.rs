//! Cases in files: the configuration of a VM, whose first comments say what it is about.
//!
//! - `# TEST: ...`: what the case shows
//! - `# HOST: ...`: the host of `tests/common/hosts.rs`
//! - `# TREE: ...`: devices of `tests/pci/*.tree` that it has
//! - `# EXPECT_ERROR: ...`: text that the first error contains; without it there must be none
//! - `# ARGS: ...`: more arguments, such as `-v`
//! - `# FILE: <path> <content>`: one more file of the host (`\n` stands for a new line); without
//!   content the file is removed
//!
//! The VM has the id 100. A case with an empty configuration belongs to no VM, a `.toml` of the
//! same name is the VM's table.
#![allow(
    dead_code,
    reason = "each test program that includes this file uses a part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a case that cannot be read is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// Values of the comments in a configuration with this name.
pub fn said<'t>(conf: &'t str, name: &str) -> Vec<&'t str> {
    let prefix = format!("# {name}: ");
    conf.lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

/// Unpacks the host of a case.
pub fn root_of(case: &Path, conf: &str) -> TempDir {
    let host = *said(conf, "HOST").first().unwrap_or(&"synthetic-5900x");
    let mut entries = super::hosts::entries(host);
    let (comments, config): (Vec<&str>, Vec<&str>) =
        conf.lines().partition(|line| line.starts_with("# "));
    assert!(!comments.is_empty(), "{}: no # TEST", case.display());
    if !config.is_empty() {
        let path = "/etc/pve/qemu-server/100.conf".to_owned();
        entries.insert(path, config.join("\n") + "\n");
    }
    for tree in said(conf, "TREE") {
        super::trees::add(&mut entries, tree);
    }
    if let Ok(table) = fs::read_to_string(case.with_extension("toml")) {
        entries.insert("/etc/pin-hook/100.toml".to_owned(), table);
    }
    for file in said(conf, "FILE") {
        let (path, content) = file.split_once(' ').unwrap_or((file, ""));
        match content {
            "" => entries.remove(path),
            _ => entries.insert(
                path.to_owned(),
                content.replace("\\n", "\n").replace("\\0", "\0") + "\n",
            ),
        };
    }
    super::hosts::unpack(&entries)
}

fn shown(command_name: &str, case: &Path, conf: &str) -> String {
    let root = root_of(case, conf);
    let more = said(conf, "ARGS");
    let more = more.iter().flat_map(|args| args.split(' '));
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let command = command
        .args([command_name, "100", "--root"])
        .arg(root.path());
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

/// Returns the configurations of the cases in a folder of `tests`, in order.
pub fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "conf"));
    paths.sort();
    paths
}

/// Compares what `pin-hook <command> 100` prints for each case of the folder of that name with
/// `<case>.<command>`.
#[track_caller]
pub fn check(command: &str) {
    let update = super::goldens::update();
    let mut wrong = Vec::new();
    for case in cases(command) {
        let conf = fs::read_to_string(&case).unwrap();
        let shown = shown(command, &case, &conf);
        let name = case.display();
        if let Err(error) = check_error(&conf, &shown) {
            wrong.push(format!("{name}: {error}"));
        }
        let expected = case.with_extension(command);
        if update {
            fs::write(&expected, &shown).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(format!("{name}: now\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks that each case of a folder has a headline of its own, and returns how many there are.
#[track_caller]
pub fn headlines(folder: &str) -> usize {
    let headline = |case: PathBuf| said(&fs::read_to_string(case).unwrap(), "TEST").concat();
    let mut headlines: Vec<String> = cases(folder).into_iter().map(headline).collect();
    let n = headlines.len();
    headlines.sort();
    headlines.dedup();
    assert_eq!(headlines.len(), n, "{headlines:?}");
    n
}
