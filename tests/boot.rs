//! The snippet that the boot unit brings up to date, on trees of files.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod pve_tree;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pve_tree::Node;

const HOOK: &str = "hookscript: local:snippets/pin-hook";
const OLD: &str = "#!/bin/sh\n# calls pin-hook(8), version 0\n";

fn node() -> Node {
    let node = Node::new();
    node.vm("pve1", 100, "cores: 4\n");
    node
}

#[test]
fn the_boot_unit_puts_the_snippet_where_vms_of_the_cluster_name_it() {
    let node = node();
    node.boot();
    assert_eq!(node.get("/etc/pve/pin-hook/nodes/pve1"), "");
    assert!(!node.has("/var/lib/vz/snippets/pin-hook"));
    node.vm("pve2", 101, &format!("{HOOK}\n"));
    node.boot();
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
    assert_eq!(
        node.get("/etc/pve/pin-hook/nodes/pve1"),
        "local:snippets/pin-hook\n"
    );
    node.put("/var/lib/vz/snippets/pin-hook", OLD);
    node.boot();
    assert!(node.get("/var/lib/vz/snippets/pin-hook").contains("exec"));
}

#[test]
fn a_snippet_that_cannot_be_executed_any_more_is_written_again() {
    let node = node();
    node.put("/etc/pin-hook/100.toml", "cpus = \"2-5\"\n");
    node.enable(100);
    let path = node.real_path("/var/lib/vz/snippets/pin-hook");
    let enable = |node: &Node| {
        node.enable(100);
    };
    for mend in [enable, Node::boot] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        mend(&node);
        let now = fs::metadata(&path).unwrap().permissions();
        assert_eq!(now.mode() & 0o777, 0o755);
    }
}

/// A node whose VM names the snippet of a storage that `storage.cfg` describes so.
fn with_storage(section: &str) -> Node {
    let node = node();
    node.put("/etc/pve/storage.cfg", section);
    node.vm("pve1", 100, "hookscript: extra:snippets/pin-hook\n");
    node
}

#[test]
fn a_storage_that_is_not_mounted_is_not_written_below_its_mount_point() {
    let node = with_storage("dir: extra\n\tpath /mnt/extra\n\tis_mountpoint 1\n");
    node.put("/mnt/extra/.keep", "");
    node.put(
        "/proc/self/mountinfo",
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
    );
    node.boot();
    assert!(!node.has("/mnt/extra/snippets"));
    assert_eq!(node.get("/etc/pve/pin-hook/nodes/pve1"), "");
    node.put(
        "/proc/self/mountinfo",
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 24 8:17 / /mnt/extra rw - xfs /dev/sdb1 rw\n",
    );
    node.boot();
    assert!(node.has("/mnt/extra/snippets/pin-hook"));
    assert_eq!(
        node.get("/etc/pve/pin-hook/nodes/pve1"),
        "extra:snippets/pin-hook\n"
    );
}

#[test]
fn storages_on_the_network_are_left_alone() {
    let mounted =
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 24 0:50 / /mnt/pve/extra rw - nfs4 x:/y rw\n";
    for (section, mountinfo) in [
        ("nfs: extra\n\tserver x\n", ""),
        ("nfs: extra\n\tserver x\n", mounted),
        ("dir: extra\n\tpath /mnt/pve/extra\n\tshared 1\n", ""),
        ("dir: extra\n\tpath /mnt/pve/extra/vz\n", mounted),
    ] {
        let node = with_storage(section);
        for path in ["/mnt/pve/extra", "/mnt/pve/extra/vz"] {
            node.put(&format!("{path}/snippets/pin-hook"), OLD);
        }
        node.put("/proc/self/mountinfo", mountinfo);
        node.boot();
        for path in ["/mnt/pve/extra", "/mnt/pve/extra/vz"] {
            assert_eq!(node.get(&format!("{path}/snippets/pin-hook")), OLD);
        }
        assert_eq!(
            node.get("/etc/pve/pin-hook/nodes/pve1"),
            "extra:snippets/pin-hook\n",
            "{section}"
        );
    }
}

#[test]
fn a_dry_run_leaves_out_what_is_so_already() {
    let node = node();
    node.put("/etc/pin-hook/100.toml", "cpus = \"2-5\"\n");
    let shown = |what: &str| {
        let account = node.dry_enable(100);
        account.lines.iter().any(|line| line.text.contains(what))
    };
    assert!(shown("would enable pin-hook-boot.service"));
    assert!(shown("would write the drop-in"));
    let link = "/etc/systemd/system/multi-user.target.wants/pin-hook-boot.service";
    node.put(link, "");
    node.remove(link);
    let unit = "/usr/lib/systemd/system/pin-hook-boot.service";
    symlink(unit, node.real_path(link)).unwrap();
    node.enable(100);
    assert!(!shown("pin-hook-boot"));
    assert!(!shown("drop-in"));
}
