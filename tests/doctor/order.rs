//! The order in which guests start at boot, where a VM may serve the storage of others.

use tempfile::TempDir;

use crate::{asked, hosts, put};

const NAS: &str = "/etc/pve/qemu-server/110.conf";
const USER: &str = "/etc/pve/qemu-server/101.conf";

/// A node with a storage in the network, VM 101 on it, and VM 110 with the controller of its disks.
fn node() -> TempDir {
    let (dir, _) = hosts::host("synthetic-5900x");
    let storages = "dir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\tserver 10.0.0.2\n\texport /vms\n";
    put(&dir, "/etc/pve/storage.cfg", storages);
    let function = "/sys/bus/pci/devices/0000:03:00.0";
    for (name, text) in [
        ("vendor", "0x1000\n"),
        ("device", "0x0072\n"),
        ("class", "0x010700\n"),
    ] {
        put(&dir, &format!("{function}/{name}"), text);
    }
    put(&dir, NAS, "name: truenas\nonboot: 1\nhostpci0: 03:00\n");
    put(
        &dir,
        USER,
        "onboot: 1\nscsi0: nas:101/vm-101-disk-0.qcow2\n",
    );
    dir
}

/// Returns what is said of the order, and what mends it.
fn said(dir: &TempDir) -> Option<(String, String)> {
    let (text, _) = asked(dir.path(), &["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = json["patients"][0]["results"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == "start-order").unwrap();
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (row["outcome"] == "notice").then(|| (text("found"), text("fix")))
}

#[test]
fn a_vm_on_storage_of_a_vm_that_starts_later_is_told() {
    let dir = node();
    let found = "vm 101 starts before vm 110, which has storage controller 0000:03:00.0, and has disks on nas";
    let fix = "qm set 110 --startup order=1,up=60";
    assert_eq!(said(&dir), Some((found.to_owned(), fix.to_owned())));
    put(
        &dir,
        NAS,
        "onboot: 1\nhostpci0: 03:00\nstartup: order=1,up=60\n",
    );
    assert_eq!(said(&dir), None);
}

/// What is typed has to make the server the first.
#[test]
fn the_fix_puts_the_server_before_every_order_and_keeps_its_times() {
    let dir = node();
    let fix = |user: &str, nas: &str| {
        put(
            &dir,
            USER,
            &format!("onboot: 1\nscsi0: nas:101/a.raw\nstartup: {user}\n"),
        );
        put(
            &dir,
            NAS,
            &format!("onboot: 1\nhostpci0: 03:00\nstartup: {nas}\n"),
        );
        said(&dir).map(|(_, fix)| fix)
    };
    for (user, nas, expected) in [
        ("order=3", "order=2", None),
        (
            "order=2",
            "order=2",
            Some("qm set 110 --startup order=1,up=60"),
        ),
        (
            "order=2",
            "order=5,up=120,down=300",
            Some("qm set 110 --startup order=1,up=120,down=300"),
        ),
        ("order=1", "up=9", Some("qm set 110 --startup order=0,up=9")),
        (
            "order=0,up=5",
            "order=0",
            Some("qm set 110 --startup order=0,up=60 && qm set 101 --startup order=1,up=5"),
        ),
    ] {
        assert_eq!(fix(user, nas).as_deref(), expected, "{user} {nas}");
    }
}

#[test]
fn hosts_without_such_a_vm_or_such_a_storage_are_well() {
    for (path, text) in [
        (NAS, "onboot: 0\nhostpci0: 03:00\n"),
        (NAS, "onboot: 1\n"),
        (USER, "onboot: 0\nscsi0: nas:101/a.raw\n"),
        (USER, "onboot: 1\nscsi0: local:101/a.raw\n"),
        ("/etc/pve/storage.cfg", "nfs: nas\n\tdisable\n"),
        ("/etc/pve/ha/resources.cfg", "vm: 101\n"),
        ("/sys/bus/pci/devices/0000:03:00.0/class", "0x030000\n"),
        // A single NVMe disk is the VM's own.
        ("/sys/bus/pci/devices/0000:03:00.0/class", "0x010802\n"),
        // One of two that may serve it starts first.
        (
            "/etc/pve/qemu-server/100.conf",
            "onboot: 1\nhostpci0: 03:00\n",
        ),
    ] {
        let dir = node();
        assert!(said(&dir).is_some());
        put(&dir, path, text);
        assert_eq!(said(&dir), None, "{path}: {text}");
    }
}

#[test]
fn a_container_on_such_a_storage_is_told_as_well() {
    let dir = node();
    put(
        &dir,
        "/etc/pve/lxc/105.conf",
        "onboot: 1\nstartup: order=0\nrootfs: nas:105/vm-105-disk-0.raw,size=8G\n",
    );
    let (found, fix) = said(&dir).unwrap();
    let told = "vm 101, container 105 start before vm 110";
    assert!(found.starts_with(told), "{found}");
    let typed = "qm set 110 --startup order=0,up=60 && pct set 105 --startup order=1";
    assert_eq!(fix, typed);
}

/// What the doctor goes by is in a capture, with names or without.
#[test]
fn a_capture_tells_the_same() {
    let dir = node();
    put(
        &dir,
        "/etc/pve/lxc/105.conf",
        "hostname: secret\nonboot: 1\nstartup: order=4\nrootfs: nas:105/a.raw\nmp0: /srv/secret,mp=/x\n",
    );
    put(&dir, NAS, "onboot: 1\nhostpci0: 03:00\nstartup: order=5\n");
    let expected = said(&dir).unwrap();
    for words in [&["--names"][..], &[]] {
        let archive = dir.path().join("host.tar");
        let _ = std::fs::remove_file(&archive);
        let name = archive.to_str().unwrap();
        let (text, status) = asked(dir.path(), &[&["capture", name], words].concat());
        assert_eq!(status, 0, "{text}");
        let (text, _) = asked(&archive, &["check", "--json"]);
        assert!(
            text.contains(&expected.0) && text.contains(&expected.1),
            "{text}"
        );
        let bytes = std::fs::read(&archive).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    }
}
