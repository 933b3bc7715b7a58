//! `check --table` through the program itself: what is wrong, where, and the exit status.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/hosts.rs"]
mod hosts;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// Runs the check of a table called `name` and returns what it prints and its exit status; the
/// name of the directory is left out.
fn checked(root: &Path, name: &str, table: &str, more: &[&str]) -> (String, i32) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(name);
    fs::write(&file, table).unwrap();
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let command = command.arg("check").arg("--table").arg(&file);
    let output = command.arg("--root").arg(root).args(more).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let folder = format!("{}/", dir.path().display());
    (text.replace(&folder, ""), output.status.code().unwrap())
}

#[test]
fn a_table_is_held_against_itself_and_the_host() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    let error = "pin-hook: error: ";
    for (table, expected, status) in [
        (
            "cpus = \"6-11,18-23\"\n",
            "t.toml can be used: cpus 6-11,18-23\n",
            0,
        ),
        (
            "cpus = \"auto\"\n",
            "t.toml can be used: cpus are chosen at the start\n",
            0,
        ),
        (
            "cpus = \"6-8\"\n",
            "pin-hook: warning: cpus 18-20 are not the vm's, and on the same cores",
            0,
        ),
        (
            "\ncpu = \"6\"\n",
            "pin-hook: error: t.toml:2:1: unknown key \"cpu\"",
            2,
        ),
        ("cpus = \"6-\n", "pin-hook: error: t.toml:1:11: ", 2),
        (
            "cpus = \"22-25\"\n",
            "pin-hook: error: t.toml: the host has no cpus 24-25",
            2,
        ),
        (
            "cpus = \"1-11,13-23\"\n",
            "pin-hook: error: t.toml: 2 cores with all",
            2,
        ),
        (
            "cpus = \"6,18\"\n[pin]\nemulator = \"0,99\"\n",
            "pin-hook: error: t.toml: the host has no cpu 99, it has 0-23",
            2,
        ),
        (
            "cpus = \"6,18\"\n[pci]\nreset = \"auto\"\n",
            "t.toml can be used: cpus 6,18\n",
            0,
        ),
    ] {
        let (text, code) = checked(host.path(), "t.toml", table, &[]);
        assert!(text.starts_with(expected), "{table}: {text}");
        assert_eq!(code, status, "{table}");
        assert_eq!(
            text.contains("pin-hook: help: "),
            text.starts_with(error),
            "{text}"
        );
    }
}

#[test]
fn a_class_that_can_stop_the_host_is_an_error() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    let table = "cpus = \"6,18\"\npin.scheduler = \"fifo:1\"\nisolate.backend = \"affinity\"\n";
    let (text, status) = checked(host.path(), "t.toml", table, &[]);
    let expected = "pin-hook: error: t.toml: scheduler fifo:1 can stop the host: with backend affinity \
                    other tasks run on the same cpus\npin-hook: help: leave pin.scheduler out";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(status, 2);
}

/// Also where the CPUs are chosen at the start: whichever they are, it would be refused.
#[test]
fn what_a_start_is_refused_for_is_an_error() {
    let mut entries = hosts::entries("synthetic-5900x");
    let mut put = |path: &str, text: &str| entries.insert(path.to_owned(), text.to_owned());
    put("/proc/sys/kernel/osrelease", "6.14.11-4-pve\n");
    put("/proc/sys/kernel/sched_rt_runtime_us", "-1\n");
    let host = hosts::unpack(&entries);
    for cpus in ["6,18", "auto"] {
        for (wish, expected, help) in [
            (
                "isolate.backend = \"isolated\"\n",
                "backend \"isolated\" is refused: kernel 6.14.11: ",
                "kernel-gate = \"ignore\"",
            ),
            (
                "isolate.workqueues = true\n",
                "workqueues = true is refused: kernel 6.14.11: ",
                "write workqueues = \"auto\"",
            ),
            (
                "pin.scheduler = \"fifo:1\"\n",
                "scheduler fifo:1 can stop the host: kernel.sched_rt_runtime_us is -1",
                "sysctl kernel.sched_rt_runtime_us=950000",
            ),
        ] {
            let table = format!("cpus = \"{cpus}\"\n{wish}");
            let (text, status) = checked(host.path(), "t.toml", &table, &[]);
            let expected = format!("pin-hook: error: t.toml: {expected}");
            assert!(text.starts_with(&expected), "{table}: {text}");
            assert!(text.contains(help), "{table}: {text}");
            assert_eq!(status, 2, "{table}");
        }
    }
}

#[test]
fn the_settings_of_the_host_are_no_table() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    let (text, status) = checked(host.path(), "host.toml", "reserve = \"2\"\n", &[]);
    let expected = "host.toml can be used: settings of the host\n";
    assert_eq!((text.as_str(), status), (expected, 0));
    let (text, status) = checked(host.path(), "host.toml", "cpus = \"2\"\n", &[]);
    assert!(
        text.starts_with("pin-hook: error: host.toml:1:1: unknown key"),
        "{text}"
    );
    assert_eq!(status, 2);
}

#[test]
fn what_the_host_has_no_file_for_is_told() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    let table = "cpus = \"6,18\"\nhost.sysctl = { \"vm.nope\" = 1 }\n";
    let (text, status) = checked(host.path(), "t.toml", table, &[]);
    let expected =
        "pin-hook: warning: host.sysctl vm.nope is skipped: this host has no /proc/sys/vm/nope";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(status, 0);
}

#[test]
fn nodes_without_memory_are_errors() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    let table = "cpus = \"6,18\"\nmemory.nodes = \"3\"\n";
    let (text, status) = checked(host.path(), "t.toml", table, &[]);
    let expected = "pin-hook: error: t.toml: node 3 of memory.nodes has no memory\n\
                    pin-hook: help: nodes with memory are 0\n";
    assert_eq!((text.as_str(), status), (expected, 2));
}

#[test]
fn a_table_with_the_name_of_a_vm_is_held_against_that_vm() {
    let mut entries = hosts::entries("synthetic-offline");
    let conf = "/etc/pve/qemu-server/100.conf".to_owned();
    entries.insert(conf, "cores: 4\n".to_owned());
    let host = hosts::unpack(&entries);
    let table = "cpus = \"2,8\"\n";
    let (text, status) = checked(host.path(), "100.toml", table, &[]);
    let expected = "pin-hook: error: 100.toml: the table has 2 cpus for 4 vcpus";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(status, 2);
    assert_eq!(checked(host.path(), "101.toml", table, &[]).1, 0);
    let alone = "cpus = \"2,8\"\nyield.stop = [101]\n";
    let (text, status) = checked(host.path(), "101.toml", alone, &[]);
    let expected = "pin-hook: error: 101.toml: yield.stop: vm 101 cannot make room for itself";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(status, 2);
    let (text, status) = checked(host.path(), "101.toml", "cpus = \"2-3,8\"\n", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 2);
    assert_eq!(json["version"], 1);
    assert_eq!(json["ok"], false);
    assert_eq!(json["error"]["message"], "101.toml: cpu 3 is offline");
}

/// A machine that builds images is no node.
#[test]
fn without_a_host_a_table_is_checked_by_itself() {
    let nothing = TempDir::new().unwrap();
    let (text, status) = checked(nothing.path(), "t.toml", "cpus = \"900\"\n", &[]);
    let expected = "pin-hook: the table is not checked against this host: failed to read /sys";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("t.toml can be used: cpu 900\n"), "{text}");
    assert_eq!(status, 0);
    let (text, status) = checked(nothing.path(), "t.toml", "cpus = 900\n", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["error"]["line"], status), (&1.into(), 2));
}

#[test]
fn a_table_that_cannot_be_read_is_an_error() {
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let output = command
        .args(["check", "--table", "/nowhere/t.toml"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("pin-hook: error: cannot read /nowhere/t.toml: "),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_reserve_that_leaves_no_vm_anything_is_an_error() {
    let host = hosts::unpack(&hosts::entries("synthetic-5900x"));
    for (text, told) in [
        (
            "reserve = \"0-1,24-25\"\n",
            "names cpus 24-25, the host has 0-23",
        ),
        (
            "reserve = 12\n",
            "12 cores with all their smt siblings must stay with the host, which has 12",
        ),
    ] {
        let (shown, status) = checked(host.path(), "host.toml", text, &[]);
        assert!(shown.contains(told), "{shown}");
        assert_eq!(status, 2);
    }
    assert_eq!(
        checked(host.path(), "host.toml", "reserve = 11\n", &[]).1,
        0
    );
}

/// The start would only say so once the VM is there.
#[test]
fn a_sysctl_beyond_what_the_kernel_takes_is_told() {
    let mut entries = hosts::entries("synthetic-5900x");
    for (name, value) in [
        ("vm/swappiness", "60"),
        ("kernel/watchdog_thresh", "10"),
        ("vm/stat_interval", "1"),
    ] {
        entries.insert(format!("/proc/sys/{name}"), format!("{value}\n"));
    }
    let host = hosts::unpack(&entries);
    let shown = |wish: &str| {
        let table = format!("cpus = \"6,18\"\nhost.sysctl = {{ {wish} }}\n");
        checked(host.path(), "t.toml", &table, &[]).0
    };
    for (wish, told) in [
        (
            "\"vm.swappiness\" = 500",
            "warning: host.sysctl vm.swappiness: the kernel refuses 500, it takes 0 to 200\n",
        ),
        (
            "\"vm.swappiness\" = -1",
            "warning: host.sysctl vm.swappiness: the kernel refuses -1, it takes 0 to 200\n",
        ),
        (
            "\"kernel.watchdog_thresh\" = 3000",
            "warning: host.sysctl kernel.watchdog_thresh: the kernel refuses 3000, it takes 0 to 60\n",
        ),
    ] {
        let text = shown(wish);
        assert!(text.contains(told), "{text}");
    }
    for wish in [
        "\"vm.swappiness\" = 200",
        "\"kernel.watchdog_thresh\" = 60",
        "\"vm.stat_interval\" = 3000",
    ] {
        let text = shown(wish);
        assert!(!text.contains("warning"), "{text}");
    }
}
