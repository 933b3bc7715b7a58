//! The snippet that the boot unit brings up to date, on trees of files.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod pve_tree;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pin_hook::lifecycle::engine::account::{Account, Exit};
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
    assert_eq!(node.announced(), "");
    assert!(!node.has("/var/lib/vz/snippets/pin-hook"));
    node.vm("pve2", 101, &format!("{HOOK}\n"));
    node.boot();
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
    assert_eq!(node.announced(), "local:snippets/pin-hook\n");
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
    let enable = |node: &Node| node.enable(100);
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
    assert_eq!(node.announced(), "");
    node.put(
        "/proc/self/mountinfo",
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 24 8:17 / /mnt/extra rw - xfs /dev/sdb1 rw\n",
    );
    node.boot();
    assert!(node.has("/mnt/extra/snippets/pin-hook"));
    assert_eq!(node.announced(), "extra:snippets/pin-hook\n");
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
        assert_eq!(node.announced(), "extra:snippets/pin-hook\n", "{section}");
    }
}

const ANNOUNCEMENT: &str = "/etc/pve/pin-hook/nodes/pve1";

fn lines(account: &Account) -> Vec<&str> {
    let lines = account.lines.iter();
    lines.map(|line| line.text.as_str()).collect()
}

/// At boot there is no quorum yet: the cluster file system refuses every write.
#[test]
fn a_node_that_cannot_announce_itself_at_boot_does_so_later() {
    let node = node();
    node.vm("pve2", 101, &format!("{HOOK}\n"));
    // A directory in the place of the file.
    node.put(&format!("{ANNOUNCEMENT}/x"), "");
    let booted = node.boot();
    let told = lines(&booted);
    let warning = "the other nodes do not know which snippets this node has: cannot write";
    assert!(
        told.iter().any(|text| text.starts_with(warning)),
        "{told:?}"
    );
    assert!(told.contains(&"pin-hook-announce.service tries again every 30 s"));
    assert_eq!(node.started(), ["pin-hook-announce.service"]);
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
    assert_eq!(node.announce().exit, Exit::Refused);
    assert_eq!(node.started().len(), 1, "the unit starts itself again");
    node.remove(&format!("{ANNOUNCEMENT}/x"));
    node.remove_dir(ANNOUNCEMENT);
    assert_eq!(node.announce().exit, Exit::Done);
    assert_eq!(node.announced(), "local:snippets/pin-hook\n");
    assert!(lines(&node.boot()).is_empty());
}

#[test]
fn a_snippet_that_cannot_be_written_is_not_told_as_an_announcement() {
    let node = node();
    node.vm("pve2", 101, &format!("{HOOK}\n"));
    node.remove_dir("/var/lib/vz/snippets");
    node.put("/var/lib/vz/snippets", "");
    let booted = node.boot();
    let told = lines(&booted);
    assert!(
        told[0].starts_with("the snippet is not up to date: "),
        "{told:?}"
    );
    assert!(node.started().is_empty());
    assert_eq!(node.announced(), "");
}

#[test]
fn the_record_of_a_vm_that_was_destroyed_goes() {
    let node = node();
    for vmid in [100, 101, 102] {
        let record = format!("/etc/pve/pin-hook/{vmid}.chain");
        node.put(&record, "local:snippets/gpu.sh\n");
    }
    node.vm("pve2", 101, &format!("{HOOK}\n"));
    let booted = node.boot();
    let told = "removed /etc/pve/pin-hook/102.chain: no node has that vm any more";
    assert_eq!(lines(&booted), [told]);
    assert!(!node.has("/etc/pve/pin-hook/102.chain"));
    assert!(node.has("/etc/pve/pin-hook/100.chain") && node.has("/etc/pve/pin-hook/101.chain"));
}

/// PVE ignores the list of nodes of `local`.
#[test]
fn local_is_on_every_node_whatever_its_list_says() {
    let node = node();
    let section = "dir: local\n\tpath /var/lib/vz\n\tcontent snippets\n\tnodes pve2\n";
    node.put("/etc/pve/storage.cfg", section);
    node.vm("pve1", 100, &format!("{HOOK}\n"));
    node.boot();
    assert!(node.has("/var/lib/vz/snippets/pin-hook"));
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
