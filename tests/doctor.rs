//! The doctor: its rules, what it says through the program itself, and docs/check.md.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "doctor/order.rs"]
mod order;
#[path = "doctor/representors.rs"]
mod representors;
#[path = "doctor/rules.rs"]
mod rules;
#[path = "doctor/size.rs"]
mod size;
#[path = "doctor/tables.rs"]
mod tables;
#[path = "common/trees.rs"]
mod trees;
#[path = "doctor/well.rs"]
mod well;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hosts::asked;
use pin_hook::domain::check::{Check, Judge, checks};
use tempfile::TempDir;

fn put(dir: &TempDir, path: &str, text: &str) {
    let path = dir.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A 5900X with a VM that has a table.
fn node() -> TempDir {
    let (dir, _) = hosts::host("synthetic-5900x");
    put(
        &dir,
        "/etc/pve/qemu-server/100.conf",
        "name: vr\ncores: 2\ncpu: host\nargs: -smp 2,cores=1,threads=2 -global \
         host-x86_64-cpu.topoext=on\nhookscript: local:snippets/pin-hook\n",
    );
    put(&dir, "/etc/pin-hook/100.toml", "cpus = \"11,23\"\n");
    dir
}

#[test]
fn a_healthy_host_is_told_in_few_lines() {
    let dir = node();
    let (text, status) = asked(dir.path(), &["check"]);
    assert_eq!(status, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "host synthetic-5900x: nothing to fix",
            "vm 100 (vr): nothing to fix",
            "  isolation 3 of 5 at its next start: kernel threads and interrupts are kept",
            "    off as well",
            "    for 4: profile = \"low-latency\" in its table",
            "",
        ]
    );
    assert!(lines[6].contains(" checks: ") && lines.len() == 7, "{text}");
}

#[test]
fn findings_are_told_with_what_mends_them() {
    let dir = node();
    put(
        &dir,
        "/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs",
        "",
    );
    put(&dir, "/etc/pin-hook/100.toml", "cpus = \"11,99\"\n");
    let (text, status) = asked(dir.path(), &["check"]);
    assert_eq!(status, 1);
    let told = "  warning  irqbalance: irqbalance runs\n           fix: systemctl disable --now irqbalance\n";
    assert!(text.contains(told), "{text}");
    assert!(
        text.contains("  failure  start: /etc/pin-hook/100.toml: the host has no cpu 99"),
        "{text}"
    );
    assert!(text.contains(": 1 failure, 1 warning, "), "{text}");
    let (short, _) = asked(dir.path(), &["check", "--short"]);
    assert!(
        short.starts_with("warning host irqbalance: irqbalance runs\n"),
        "{short}"
    );
    let (nothing, status) = asked(dir.path(), &["check", "--quiet"]);
    assert_eq!((nothing.as_str(), status), ("", 1));
}

#[test]
fn warnings_alone_have_a_status_of_their_own() {
    let dir = node();
    put(
        &dir,
        "/sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs",
        "",
    );
    assert_eq!(asked(dir.path(), &["check", "--quiet"]).1, 4);
}

#[test]
fn one_vm_is_examined_with_or_without_a_table() {
    let dir = node();
    put(
        &dir,
        "/etc/pve/qemu-server/101.conf",
        "name: nas\ncores: 2\n",
    );
    let (text, status) = asked(dir.path(), &["check", "101"]);
    assert!(
        text.contains("  notice   table: it has no table\n"),
        "{text}"
    );
    assert!(
        text.contains("fix: pin-hook init 101 --write") && status == 0,
        "{text}"
    );
    let (all, _) = asked(dir.path(), &["check"]);
    assert!(!all.contains("vm 101"), "{all}");
    let (none, status) = asked(dir.path(), &["check", "999"]);
    assert!(
        none.starts_with("pin-hook: error: there is no vm 999") && status == 1,
        "{none}"
    );
}

#[test]
fn json_has_every_check() {
    let dir = node();
    let (text, _) = asked(dir.path(), &["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let patients = json["patients"].as_array().unwrap();
    let rows = patients
        .iter()
        .flat_map(|one| one["results"].as_array().unwrap());
    let found: BTreeSet<&str> = rows.map(|row| row["id"].as_str().unwrap()).collect();
    let all: BTreeSet<&str> = checks().map(|check| check.id).collect();
    assert_eq!(found, all);
}

/// The list goes by the operating system and by what the VM has.
#[test]
fn what_only_the_guest_sees_is_a_list_to_tick() {
    let dir = node();
    let list = |conf: &str| {
        put(&dir, "/etc/pve/qemu-server/100.conf", conf);
        asked(dir.path(), &["check", "100", "--guest"])
    };
    let (text, status) = list("name: vr\nostype: win11\nhostpci0: 0000:01:00\n");
    let first = "guest of vm 100 (vr), ostype: win11: what the host cannot see\n  [ ] every device";
    assert!(text.starts_with(first) && status == 0, "{text}");
    for told in [
        "(msi)",
        "powercfg /setactive SCHEME_MIN",
        "useplatformclock",
    ] {
        assert!(text.contains(told), "{text}");
    }
    assert!(!text.contains("virtualization-based"), "{text}");
    let (text, _) = list("ostype: l26\ncores: 4\n");
    assert!(
        text.contains("isolcpus=") && text.contains("irqbalance"),
        "{text}"
    );
    assert!(
        !text.contains("(msi)") && !text.contains("powercfg"),
        "{text}"
    );
    let (text, _) = list("ostype: solaris\n");
    assert_eq!(
        text,
        "guest of vm 100: there is no list for ostype: solaris\n"
    );
    let (text, _) = asked(dir.path(), &["check", "100", "--guest", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["ostype"], "solaris");
}

/// Enabling goes through, and what the doctor would say is there in a line each.
#[test]
fn enabling_tells_what_matters() {
    let dir = node();
    fs::create_dir_all(dir.path().join("var/lib/vz/snippets")).unwrap();
    fs::create_dir_all(dir.path().join("etc/pve/nodes")).unwrap();
    let conf = |more: &str| {
        let conf = format!("cores: 2\ncpu: EPYC\nargs: -smp 2,cores=1,threads=2\n{more}");
        put(&dir, "/etc/pve/qemu-server/100.conf", &conf);
        asked(dir.path(), &["enable", "100", "--dry-run"])
    };
    let (text, status) = conf("cpulimit: 1\n");
    let told = "pin-hook: warning: cpu-limit: cpulimit: 1, with 2 vcpus\n\
                pin-hook: help: pin-hook check 100 says what to do about it\n";
    assert!(text.ends_with(told) && status == 0, "{text}");
    let (text, status) = conf("");
    assert!(!text.contains("warning") && status == 0, "{text}");
}

#[test]
fn a_check_explains_itself() {
    let root = Path::new("/");
    let (text, status) = asked(root, &["check", "--explain", "iommu"]);
    assert!(
        text.starts_with("iommu (failure)\n  required: ") && status == 0,
        "{text}"
    );
    let (text, status) = asked(root, &["check", "--explain", "iomu"]);
    assert!(
        text.contains("help: did you mean iommu?") && status == 2,
        "{text}"
    );
}

/// Hosts that are well, as far as their captures go: nothing above a notice.
#[test]
fn no_host_of_the_corpus_gives_a_false_alarm() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let names = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut n_hosts = 0;
    for name in names {
        let (dir, _) = hosts::host(&name);
        let (text, _) = asked(dir.path(), &["check", "--short"]);
        let alarms = text.lines().filter(|line| !line.starts_with("notice "));
        let alarms: Vec<&str> = alarms.filter(|line| line.contains(" host ")).collect();
        assert!(alarms.is_empty(), "{name}: {alarms:?}");
        n_hosts += 1;
    }
    assert!(n_hosts >= 15);
}

/// Everything behind this line of docs/check.md is made of the checks.
const MARK: &str = "# Every check\n";

fn page() -> (PathBuf, String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, behind) = text.split_once(MARK).unwrap();
    (path, before.to_owned(), behind.to_owned())
}

fn told(check: &Check) -> String {
    let Check {
        id,
        required,
        why,
        fix,
        severity,
        ..
    } = check;
    let severity = severity.name();
    format!("\n### {id}\n\nRequired: {required} ({severity} if not).\n\n{why}\n\nFix: {fix}.\n")
}

#[test]
fn the_page_is_made_of_the_checks() {
    let (path, before, behind) = page();
    let of = |is_host: bool| {
        let chosen = checks().filter(|check| matches!(check.judge, Judge::Host(_)) == is_host);
        chosen.map(told).collect::<String>()
    };
    let made = format!("\n## Of the host\n{}\n## Of a VM\n{}", of(true), of(false));
    if goldens::update() {
        fs::write(&path, format!("{before}{MARK}{made}")).unwrap();
    } else {
        assert_eq!(behind, made, "UPDATE_GOLDENS=1 rewrites it");
    }
}

#[test]
fn the_example_on_the_page_has_as_many_checks() {
    let (_, before, _) = page();
    let n_checks = checks().count();
    assert!(
        before.contains(&format!("    {n_checks} checks: ")),
        "{n_checks}"
    );
}

/// PVE applies pending changes before it starts a VM.
#[test]
fn a_vm_is_judged_by_what_its_next_start_makes() {
    let dir = node();
    let disk = "cores: 2\nscsi0: local:100/a.raw,cache=none\n[PENDING]\nscsi0: \
                local:100/a.raw,cache=writeback,aio=native\n";
    put(&dir, "/etc/pve/qemu-server/100.conf", disk);
    let (text, status) = asked(dir.path(), &["check", "100", "--short"]);
    let told = "failure vm 100 disk-aio: scsi0 has aio=native with cache=writeback";
    assert!(text.contains(told) && status == 1, "{text}");
}

/// A fault of the memory is said once, as what refuses the start.
#[test]
fn what_is_told_as_a_failure_is_no_warning_too() {
    let dir = node();
    let conf = "cores: 2\nhugepages: 2\nhookscript: local:snippets/pin-hook\n";
    put(&dir, "/etc/pve/qemu-server/100.conf", conf);
    let (text, _) = asked(dir.path(), &["check", "100", "--short"]);
    let lines = text
        .lines()
        .filter(|line| line.contains("hugepages without numa"));
    let lines: Vec<&str> = lines.collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("failure vm 100 start: "),
        "{text}"
    );
    put(
        &dir,
        "/etc/pve/qemu-server/100.conf",
        &format!("{conf}lock: backup\n"),
    );
    let (text, _) = asked(dir.path(), &["check", "100", "--short"]);
    assert!(
        text.contains("failure vm 100 start: the vm is locked (backup)"),
        "{text}"
    );
    assert!(
        text.contains("warning vm 100 placement: the vm's config has hugepages"),
        "{text}"
    );
}

/// Of two reasons the first one counts, as in a plan.
#[test]
fn a_start_is_refused_for_the_reason_that_its_plan_has() {
    let dir = node();
    let conf = "cores: 64\nlock: backup\nhookscript: local:snippets/pin-hook\n";
    put(&dir, "/etc/pve/qemu-server/100.conf", conf);
    put(&dir, "/etc/pin-hook/100.toml", "cpus = \"auto\"\n");
    let (plan, _) = asked(dir.path(), &["plan", "100", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let error = plan["error"]["message"].as_str().unwrap();
    let reason = error.strip_prefix("vm 100: ").unwrap();
    let (text, _) = asked(dir.path(), &["check", "100", "--short"]);
    let told = format!("failure vm 100 start: {reason}\n");
    assert!(text.contains(&told), "{told}: {text}");
}

/// What guides advise is a check, or it is said why not.
#[test]
fn what_guides_advise_is_answered_by_a_check() {
    let (_, before, _) = page();
    let ids: BTreeSet<&str> = checks().map(|check| check.id).collect();
    let rows = before
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| advice"));
    let mut n_rows = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [advice, named, verdict] = cells[..] else {
            panic!("{row}");
        };
        let named = named.split(", ").filter(|name| *name != "-");
        let unknown: Vec<&str> = named
            .map(|name| name.trim_matches('`'))
            .filter(|id| !ids.contains(id))
            .collect();
        assert!(unknown.is_empty(), "{advice}: {unknown:?}");
        assert!(!verdict.is_empty(), "{advice}");
        n_rows += 1;
    }
    assert!(n_rows > 40, "{n_rows}");
}

/// A capture that has no place for groups of the IOMMU says nothing of it.
#[test]
fn what_a_capture_does_not_have_is_no_fault() {
    let dir = node();
    let conf = "name: vr\ncores: 2\nmachine: q35\nhostpci0: 0000:01:00,pcie=1\n";
    put(&dir, "/etc/pve/qemu-server/100.conf", conf);
    let (text, _) = asked(dir.path(), &["check", "--short"]);
    assert!(!text.contains(" iommu: "), "{text}");
    fs::create_dir_all(dir.path().join("sys/kernel/iommu_groups")).unwrap();
    let (text, status) = asked(dir.path(), &["check", "--short"]);
    assert!(
        text.contains("failure host iommu: off, and vm 100 has"),
        "{text}"
    );
    assert_eq!(status, 1);
}
