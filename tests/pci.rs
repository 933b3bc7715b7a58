//! Devices: what a line of a VM's configuration asks for, and who else needs it.
//!
//! `tests/pci/*.tree` are synthetic hosts (`tests/common/trees.rs`). `<tree>.verdict` says for each
//! function what speaks against giving it to VM 100. `lines.conf` has lines of a configuration, each
//! a case of its own; `lines.out` what they mean on a host with all of these devices.
//! `UPDATE_GOLDENS=1` rewrites what is expected.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/trees.rs"]
mod trees;

use std::fs;

use pin_hook::config::vm_conf::parse_vm_conf;
use pin_hook::domain::table::HostSettings;
use pin_hook::domain::vm::TaskId;
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::RootFiles;
use pin_hook::host::limit::Limit;
use pin_hook::host::pve::TextFile;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::KernelSched;
use pin_hook::host::systemd::Bus;
use pin_hook::host::topology::read_topology;
use pin_hook::lifecycle::case::room::Room;
use pin_hook::lifecycle::engine::inventory::Devices;
use pin_hook::lifecycle::engine::inventory::besides::other_things;
use pin_hook::lifecycle::engine::inventory::holders::of_running;
use pin_hook::lifecycle::show::lint::lint;
use tempfile::TempDir;

const TREES: [&str; 5] = ["gpu", "hba", "ovs", "switchdev", "vgpu"];

/// Mappings of the cluster; the node is pve1.
const PCI_CFG: &str = "gpu\n\tdescription one card on each node\n\
    \tmap id=10de:2204,iommugroup=2,node=pve1,path=0000:01:00,subsystem-id=10de:0001\n\
    \tmap id=10de:2204,node=pve2,path=0000:41:00\n\n\
    vf\n\tmap id=15b3:101e,node=pve1,path=0000:05:01.0\n\
    \tmap id=15b3:101e,node=pve1,path=0000:05:01.1\n\n\
    both\n\tmap id=15b3:101e,node=pve1,path=0000:05:01.0;0000:05:01.1\n\n\
    nodes\n\tmap id=15b3:101e,node=pve1,path=0000:81:00.3\n\tmap id=15b3:101d,node=pve1,path=0000:05:00.1\n\n\
    moved\n\tmap id=8086:10fb,node=pve1,path=0000:06:00.0\n\n\
    regrouped\n\tmap id=8086:1533,iommugroup=3,node=pve1,path=0000:06:00.0\n\n\
    network\n\tmap id=15b3:101e,node=pve1,path=0000:81:00.2\n\tmap id=15b3:101e,node=pve1,path=0000:81:00.3\n\n\
    elsewhere\n\tmap id=10de:2204,node=pve2,path=0000:41:00\n";

/// A host with VM 101, which runs with a GPU and takes a dongle and a disk, and VM 102, which is being
/// started with a virtual function.
fn host(names: &[&str]) -> (TempDir, Host) {
    let mut entries = hosts::entries("synthetic-2s-4n");
    names.iter().for_each(|name| trees::add(&mut entries, name));
    let (zeros, more) = (["0"; 12].join(" "), ["0"; 30].join(" "));
    for (path, text) in [
        ("/etc/hostname", "pve1\n"),
        ("/proc/sys/kernel/hostname", "pve1\n"),
        ("/etc/pve/mapping/pci.cfg", PCI_CFG),
        (
            "/etc/pve/mapping/usb.cfg",
            "dongle\n\tmap id=0529:0001,node=pve1,path=1-2\n",
        ),
        (
            "/etc/pve/qemu-server/101.conf",
            "usb0: host=0529:0001\nscsi1: /dev/disk/by-id/ata-GUEST\n",
        ),
        ("/run/qemu-server/101.pid", "4711\n"),
        (
            "/proc/4711/task/4711/stat",
            &format!("4711 (kvm) S 1 1 1 0 -1 0 {zeros} 77 {more}"),
        ),
        (
            "/proc/4711/cmdline",
            "/usr/bin/kvm\0-pidfile\0/var/run/qemu-server/101.pid\0-device\0\
             vfio-pci,host=0000:87:00.0,id=hostpci0\0-device\0vfio-pci,host=0000:05:01.2,id=hostpci1\0",
        ),
        (
            "/run/qemu-server/pci-id-reservations",
            "0000:05:01.1 102 time:99999999999\n0000:03:00.0 103 time:1000\n0000:87:00.0 101 pid:4711\n",
        ),
    ] {
        entries.insert(path.to_owned(), text.to_owned());
    }
    let dir = hosts::unpack(&entries);
    let host = Host {
        files: Box::new(RootFiles::new(dir.path())),
        sched: Box::new(KernelSched),
        systemd: Box::new(Bus::default()),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
        limit: Limit::default(),
    };
    (dir, host)
}

fn read(host: &Host, conf: &str) -> Devices {
    let guest = parse_vm_conf(conf).guest();
    Devices::read(host, "100".parse().unwrap(), &guest, &[])
}

#[track_caller]
fn golden(name: &str, shown: &str) {
    let path = format!("{}/tests/pci/{name}", env!("CARGO_MANIFEST_DIR"));
    if goldens::update() {
        fs::write(&path, shown).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == shown, "{name}: now\n{shown}");
}

#[test]
fn nothing_that_others_need_is_given_away() {
    for tree in TREES {
        let (_dir, host) = host(&[tree]);
        let mut shown = String::new();
        for (address, function) in &read(&host, "hostpci0: 99:99").bus {
            if function.is_bridge() {
                continue;
            }
            let devices = read(&host, &format!("hostpci0: {address}"));
            let objections = devices.objections();
            shown += &format!("{address} {}: {}\n", function.model, objections.len());
            for objection in objections {
                let help = objection.help("100".parse().unwrap());
                shown += &format!("  {objection}\n    help: {help}\n");
            }
        }
        golden(&format!("{tree}.verdict"), &shown);
    }
}

/// Returns what a line of a configuration means.
fn meaning(host: &Host, line: &str) -> String {
    let guest = parse_vm_conf(line).guest();
    if guest.hostpci.is_empty() && other_things(host, &guest).is_empty() {
        return "  not valid: PVE reads on as if it were not there\n".to_owned();
    }
    let devices = read(host, line);
    let mut text = String::new();
    for row in devices.rows() {
        let functions: Vec<String> = row.functions.into_iter().map(|one| one.address).collect();
        let taken = if row.chosen { "takes" } else { "may take" };
        let mdev = row.mdev.map(|kind| format!(" for {kind}"));
        if !functions.is_empty() {
            let mdev = mdev.unwrap_or_default();
            text += &format!("  {taken} {}{mdev}\n", functions.join(" "));
        }
    }
    let entry = guest.hostpci.first();
    if entry.is_some_and(|entry| entry.keep_driver) {
        text += "  keeps its driver\n";
    }
    let more = devices
        .warnings("100".parse().unwrap())
        .into_iter()
        .chain(other_things(host, &guest));
    more.for_each(|line| text += &format!("  {line}\n"));
    text
}

#[test]
fn lines_mean_what_pve_would_do() {
    let (_dir, host) = host(&TREES);
    let path = format!("{}/tests/pci/lines.conf", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .collect();
    assert!(lines.len() >= 30, "{}", lines.len());
    let shown = lines
        .iter()
        .map(|line| format!("{line}\n{}", meaning(&host, line)));
    golden("lines.out", &shown.collect::<String>());
}

#[test]
fn what_a_vm_has_is_found_by_its_qemu_or_by_the_reservations() {
    let (dir, host) = host(&TREES);
    let of = |vmid: &str, tid| {
        let found = of_running(&host, vmid.parse().unwrap(), TaskId { tid, start: 77 });
        found.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(of("101", 4711), ["0000:05:01.2", "0000:87:00.0"]);
    assert_eq!(of("102", 4712), ["0000:05:01.1"]);
    let cmdline = dir.path().join("proc/4711/cmdline");
    fs::write(cmdline, "/usr/bin/kvm\0").unwrap();
    assert_eq!(of("101", 4711), ["0000:87:00.0"]);
    assert!(of("104", 4713).is_empty());
}

#[test]
fn a_host_without_consoles_on_a_display_gives_its_boot_vga_away() {
    let (dir, host) = host(&["gpu"]);
    let count = || read(&host, "hostpci0: 00:02.0").objections().len();
    assert_eq!(count(), 1);
    fs::write(dir.path().join("sys/class/vtconsole/vtcon1/bind"), "0\n").unwrap();
    assert_eq!(count(), 0);
}

/// A second start must not be told of VMs that will have made room.
#[test]
fn vms_that_make_room_hold_nothing() {
    let (_dir, host) = host(&TREES);
    let guest = parse_vm_conf("hostpci0: 87:00.0").guest();
    let objections = |leaving: &[&str]| {
        let leaving: Vec<_> = leaving.iter().map(|vmid| vmid.parse().unwrap()).collect();
        Devices::read(&host, "100".parse().unwrap(), &guest, &leaving)
            .objections()
            .len()
    };
    assert_eq!(objections(&[]), 1);
    assert_eq!(objections(&["101"]), 0);
}

/// `check` says of the devices of the VM what a plan would.
#[test]
fn a_check_of_the_table_gives_the_same_advice() {
    let (dir, host) = host(&TREES);
    let conf = dir.path().join("etc/pve/qemu-server/100.conf");
    fs::write(conf, "cores: 2\nhostpci0: 87:00.0\n").unwrap();
    let file = TextFile {
        path: "100.toml".to_owned(),
        text: "cpus = \"8-9\"\n".to_owned(),
    };
    let warnings = lint(&host, &file).warnings;
    let expected = "hostpci0 (0000:87:00.0) is in use by vm 101";
    assert!(
        warnings.iter().any(|warning| warning.text == expected),
        "{warnings:?}"
    );
}

/// What a start would refuse to bind is wrong with the table.
#[test]
fn a_check_of_the_table_judges_what_is_to_be_bound() {
    let (dir, host) = host(&TREES);
    let conf = dir.path().join("etc/pve/qemu-server/100.conf");
    fs::write(
        conf,
        "cores: 2\nhostpci0: 01:00.0\nhostpci1: 87:00.0,driver=keep\n",
    )
    .unwrap();
    for (bind, expected) in [
        (
            "hostpci7 = \"stay\"",
            "cannot bind hostpci7 to vfio-pci: the vm has no such device",
        ),
        (
            "hostpci1 = \"stay\"",
            "cannot bind hostpci1 to vfio-pci: it stays with its driver",
        ),
        ("\"*\" = \"stay\"", ""),
    ] {
        let file = TextFile {
            path: "100.toml".to_owned(),
            text: format!("cpus = \"8-9\"\n[pci]\nbind = {{ {bind} }}\n"),
        };
        let error = lint(&host, &file).error.map(|error| error.message);
        let error = error.unwrap_or_default();
        assert_eq!(error.is_empty(), expected.is_empty(), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// What docs/json.md says of the devices of a plan.
#[test]
fn programs_are_told_what_people_are() {
    let (_dir, host) = host(&TREES);
    let rows = read(&host, "hostpci0: mapping=vf").rows();
    let json = serde_json::to_value(rows).unwrap();
    assert_eq!(json[0]["chosen"], true);
    assert_eq!(json[1]["chosen"], false);
    assert_eq!(json[0]["mapping"], "vf");
    let function = &json[0]["functions"][0];
    assert_eq!(function["address"], "0000:05:01.0");
    assert_eq!(function["iommu_group"], 22);
    assert_eq!(function["reset_methods"], serde_json::json!(["flr"]));
    let objection = json[1]["objections"][0].as_str().unwrap();
    assert!(objection.contains("reserved for vm 102"), "{objection}");
}

/// sysfs entries vanish while they are read: what is left is judged, nothing panics.
#[test]
fn entries_may_vanish_under_our_feet() {
    let (dir, host) = host(&TREES);
    let base = dir.path().join("sys/devices/pci0000:87/0000:87:00.0");
    for name in ["class", "device", "numa_node", "iommu_group", "vendor"] {
        fs::remove_file(base.join(name)).unwrap();
        let devices = read(&host, "hostpci0: 87:00.0");
        assert!(devices.rows().len() == 1);
    }
    fs::remove_dir_all(dir.path().join("sys/bus/pci/devices")).unwrap();
    let devices = read(&host, "hostpci0: 87:00.0");
    assert!(devices.bus.is_empty());
    assert_eq!(
        devices.warnings("100".parse().unwrap()),
        ["hostpci0: there is no pci device 0000:87:00.0; pve will refuse the start"]
    );
}

/// Of a mapping with a device on each of two nodes the VM gets one, and is near that alone.
#[test]
fn a_vm_is_near_the_alternative_that_it_gets() {
    let (_dir, host) = host(&TREES);
    let guest = parse_vm_conf("hostpci0: mapping=nodes").guest();
    let topology = read_topology(&*host.files).unwrap();
    let settings = HostSettings::default();
    let vmid = "100".parse().unwrap();
    let room = Room::read(&host, vmid, &guest, &settings, &topology, None).unwrap();
    let near = room
        .devices
        .iter()
        .map(|one| (one.address.as_str(), one.node));
    assert_eq!(Vec::from_iter(near), [("0000:81:00.3", Some(1))]);
}

/// A virtual function whose representor is in a bridge is bound and reset: that is how switchdev works.
#[test]
fn a_representor_in_a_bridge_is_no_reason_to_refuse() {
    let (_dir, host) = host(&TREES);
    let devices = read(&host, "hostpci0: mapping=network");
    assert_eq!(devices.chosen().len(), 1);
    assert_eq!(devices.check(), Ok(()));
}
