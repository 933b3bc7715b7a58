//! Virtual functions in switchdev mode: what stands for them in the host.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use crate::{asked, hosts, put, trees};

const CONF: &str = "/etc/pve/qemu-server/100.conf";

/// A host with two network cards in switchdev mode, one of them below of Open vSwitch.
fn node(conf: &str) -> TempDir {
    let mut entries = hosts::entries("synthetic-5900x");
    for name in ["switchdev", "ovs"] {
        trees::add(&mut entries, name);
    }
    let dir = hosts::unpack(&entries);
    put(&dir, CONF, &format!("name: vr\ncores: 2\n{conf}"));
    dir
}

/// Has a network device be switched on or off.
fn set_flags(dir: &TempDir, name: &str, flags: &str) {
    put(dir, &format!("/sys/class/net/{name}/flags"), flags);
}

/// Returns what is found, how much it matters, and what mends it.
fn said(root: &std::path::Path) -> Vec<(String, String, String)> {
    let (text, _) = asked(root, &["check", "100", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = json["patients"][1]["results"].as_array().unwrap();
    let rows = rows.iter().filter(|row| row["id"] == "vf-representor");
    let found = rows.filter(|row| row["outcome"] != "passed").map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("outcome"), text("found"), text("fix"))
    });
    found.collect()
}

#[track_caller]
fn assert_said(dir: &TempDir, found: &str, fix: &str) {
    let expected = ("notice".to_owned(), found.to_owned(), fix.to_owned());
    assert_eq!(said(dir.path()), [expected]);
}

#[test]
fn a_representor_in_a_bridge_is_well() {
    for conf in ["hostpci0: 0000:05:01.0\n", "hostpci0: 0000:81:00.2\n"] {
        let dir = node(conf);
        assert!(said(dir.path()).is_empty(), "{conf}");
        set_flags(&dir, "enp5s0f1npf1vf0", "0x1003\n");
        assert!(said(dir.path()).is_empty(), "{conf}");
    }
    // In legacy mode nothing stands for a function.
    let dir = node("hostpci0: 0000:05:01.2\n");
    assert!(said(dir.path()).is_empty());
}

#[test]
fn a_representor_that_is_down_or_in_no_bridge_is_told() {
    let dir = node("hostpci0: 0000:05:01.1\n");
    let name = "enp5s0f1npf1vf1";
    let about = format!("0000:05:01.1 is represented by {name}, which is");
    assert_said(
        &dir,
        &format!("{about} in no bridge"),
        &format!("ip link set {name} master BRIDGE"),
    );
    set_flags(&dir, name, "0x1002\n");
    assert_said(
        &dir,
        &format!("{about} in no bridge and down"),
        &format!("ip link set {name} master BRIDGE && ip link set {name} up"),
    );
    // The bridge of the port is the one that is meant.
    let port = dir.path().join("sys/class/net/enp5s0f1np1");
    symlink("/sys/devices/virtual/net/vmbr1", port.join("master")).unwrap();
    set_flags(&dir, name, "0x1003\n");
    assert_said(
        &dir,
        &format!("{about} in no bridge"),
        &format!("ip link set {name} master vmbr1"),
    );
    // A route of its own is a use as well.
    put(
        &dir,
        "/proc/net/route",
        &format!(
            "Iface\tDestination\n{name}\t00000A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        ),
    );
    assert!(said(dir.path()).is_empty());
}

#[test]
fn open_vswitch_is_told_by_its_own_command() {
    let dir = node("hostpci0: 0000:81:00.2\n");
    let net = dir.path().join("sys/class/net/ovs-sw1pf0vf0");
    for link in ["master", "upper_ovs-system"] {
        fs::remove_file(net.join(link)).unwrap();
    }
    assert_said(
        &dir,
        "0000:81:00.2 is represented by ovs-sw1pf0vf0, which is in no bridge",
        "ovs-vsctl add-port BRIDGE ovs-sw1pf0vf0",
    );
}

/// The kernel's documentation has representors below of no function.
#[test]
fn a_representor_apart_from_its_function_is_known_by_its_port() {
    let dir = node("hostpci0: 0000:05:01.2\n");
    let net = |name: &str| {
        put(
            &dir,
            &format!("/sys/devices/virtual/net/{name}/phys_port_name"),
            "pf1vf2\n",
        );
        let link = dir.path().join(format!("sys/class/net/{name}"));
        symlink(format!("../../devices/virtual/net/{name}"), link).unwrap();
    };
    net("rep2");
    assert_said(
        &dir,
        "0000:05:01.2 is represented by rep2, which is in no bridge",
        "ip link set rep2 master BRIDGE",
    );
    // Two cards may have a port of that name.
    net("rep3");
    assert!(said(dir.path()).is_empty());
}

#[test]
fn a_capture_tells_of_representors() {
    let dir = node("hostpci0: 0000:05:01.1\n");
    set_flags(&dir, "enp5s0f1npf1vf1", "0x1002\n");
    // The doctor examines a VM by itself that has a table.
    put(&dir, "/etc/pin-hook/100.toml", "cpus = \"4-5\"\n");
    let archive = dir.path().join("host.tar");
    let (text, status) = asked(dir.path(), &["capture", archive.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
    let expected = said(dir.path());
    assert!(expected[0].1.ends_with("in no bridge and down"));
    assert_eq!(said(&archive), expected);
}
