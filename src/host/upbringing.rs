//! What the doctor judges of how the host came up: the kernel's log, the initramfs, PVE's packages, and who makes
//! virtual functions at boot. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use super::files::Files;
use super::surroundings::release;
use crate::config::sections::{Section, parse_sections};
use crate::domain::check::{IdleState, InitramfsFacts, Mtus, QemuServer};
use crate::domain::clean::texts::{AT_BOOT, is_of_iommu, mentions_virtuals, version};

/// Bytes of the kernel's log that are read at most.
const MOST_OF_LOG: usize = 4 << 20;
/// Bytes of a file that are read at most to see whether it mentions something.
const MOST_OF_FILE: usize = 64 << 10;
const MODPROBE: &str = "/etc/modprobe.d";
const NETS: &str = "/sys/class/net";
/// PVE leaves it for as long as VMs that run were started by a version before (`debian/preinst`).
const HELD_BACK: &str = "/run/qemu-server/force-legacy-cleanup";
/// Kinds of storage that every node has (`PVE::Storage::*Plugin`); others may say so.
const SHARED: [&str; 10] = [
    "nfs",
    "cifs",
    "cephfs",
    "glusterfs",
    "rbd",
    "iscsi",
    "iscsidirect",
    "zfs",
    "drbd",
    "esxi",
];

/// Kinds of storage that one address is given for (`server` or `portal`).
const SERVED: [&str; 6] = ["nfs", "cifs", "glusterfs", "iscsi", "iscsidirect", "zfs"];

/// Returns what the kernel has said of its IOMMU since the boot: messages of facility 0 alone, because anybody may
/// write others.
pub fn iommu_messages(files: &dyn Files) -> Option<Vec<String>> {
    let text = files.records("/dev/kmsg", MOST_OF_LOG).ok()?;
    let messages = text.lines().filter_map(|line| {
        let (head, message) = line.split_once(';')?;
        let priority: u32 = head.split(',').next()?.parse().ok()?;
        (priority < 8 && is_of_iommu(message)).then(|| message.to_owned())
    });
    Some(messages.collect())
}

/// Returns the initramfs of the kernel that runs, if a file of modprobe names vfio.
pub fn initramfs(files: &dyn Files) -> Option<InitramfsFacts> {
    let path = format!("/boot/initrd.img-{}", release(files).ok()?);
    let made = files.modified(&path).ok()?;
    let names = files.list(MODPROBE).ok()?.into_iter();
    let named = names.filter(|name| name.ends_with(".conf"));
    let named = named.filter_map(|name| {
        let path = format!("{MODPROBE}/{name}");
        let text = files.read_within(&path, MOST_OF_FILE).ok()?;
        let mut lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let is_meant = lines.any(|line| line.contains("vfio"));
        is_meant.then(|| Some((files.modified(&path).ok()?, path)))?
    });
    let named: Vec<(String, u64)> = named.map(|(written, path)| (path, written)).collect();
    if named.is_empty() {
        return None;
    }
    let stat = files.read("/proc/stat").ok()?;
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(InitramfsFacts {
        path,
        made,
        booted: booted.trim().parse().ok()?,
        files: named,
    })
}

/// Returns the version of PVE's package for VMs.
pub fn qemu_server(files: &dyn Files) -> Option<QemuServer> {
    let status = files.read("/var/lib/dpkg/status").ok()?;
    Some(QemuServer {
        version: version(&status, "qemu-server")?.to_owned(),
        is_held_back: files.exists(HELD_BACK),
    })
}

/// Returns the deepest idle state that the first CPU may enter.
pub fn deepest_idle(files: &dyn Files) -> Option<IdleState> {
    let dir = "/sys/devices/system/cpu/cpu0/cpuidle";
    let states = files.list(dir).ok()?.into_iter();
    let states = states.filter_map(|state| {
        let text = |name: &str| files.read(&format!("{dir}/{state}/{name}")).ok();
        let is_off = text("disable").is_some_and(|text| text.trim() != "0");
        let latency = text("latency")?.trim().parse().ok()?;
        let name = text("name")?.trim().to_owned();
        (!is_off).then_some(IdleState { name, latency })
    });
    states.max_by_key(|state| state.latency)
}

/// Returns the MTU of each network device.
pub fn mtus(files: &dyn Files) -> Mtus {
    let names = files.list(NETS).unwrap_or_default().into_iter();
    let mtus = names.filter_map(|name| {
        let mtu = files.read(&format!("{NETS}/{name}/mtu")).ok()?;
        Some((name, mtu.trim().parse().ok()?))
    });
    mtus.collect()
}

/// Tells of each storage whether every node has it.
pub fn storages(files: &dyn Files) -> BTreeMap<String, bool> {
    let text = files.read("/etc/pve/storage.cfg").unwrap_or_default();
    let sections = parse_sections(&text).into_iter();
    let shared = sections.map(|one| {
        let is_said = one.value("shared").is_some_and(|value| value != "0");
        let is_shared = is_said || SHARED.contains(&one.kind.as_str());
        (one.id, is_shared)
    });
    shared.collect()
}

/// Returns the storages that another machine serves, or a VM of this node: those that one address is given for, and
/// LVM on top of them. A Ceph cluster has several.
pub fn served(files: &dyn Files) -> BTreeSet<String> {
    let text = files.read("/etc/pve/storage.cfg").unwrap_or_default();
    let sections = parse_sections(&text);
    let used = sections.iter().filter(|one| !one.is_on("disable"));
    let is_served = |one: &&Section| SERVED.contains(&one.kind.as_str());
    let direct: BTreeSet<String> = used
        .clone()
        .filter(is_served)
        .map(|one| one.id.clone())
        .collect();
    let above = used.filter(|one| {
        let base = one.value("base").and_then(|base| base.split(':').next());
        base.is_some_and(|base| direct.contains(base))
    });
    let above: Vec<String> = above.map(|one| one.id.clone()).collect();
    direct.into_iter().chain(above).collect()
}

/// Tells whether anything that is read at boot mentions SR-IOV; `None` where there is none of that.
pub fn sets_virtuals(files: &dyn Files, command_line: &str) -> Option<bool> {
    let mut is_there = false;
    for place in AT_BOOT {
        let paths = match files.list(place) {
            Ok(names) => names
                .into_iter()
                .map(|name| format!("{place}/{name}"))
                .collect(),
            Err(_) => vec![place.to_owned()],
        };
        for path in paths {
            let Ok(text) = files.read_within(&path, MOST_OF_FILE) else {
                continue;
            };
            is_there = true;
            if mentions_virtuals(&text) || mentions_virtuals(&path) {
                return Some(true);
            }
        }
    }
    is_there.then(|| mentions_virtuals(command_line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::make_dirs;
    use crate::host::files::RootFiles;

    fn host(texts: &[(&str, &str)]) -> (tempfile::TempDir, RootFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = RootFiles::new(dir.path());
        for (path, text) in texts {
            let (parent, _) = path.rsplit_once('/').unwrap();
            make_dirs(&files, parent, 0o755).unwrap();
            files.replace(path, text, 0o644).unwrap();
        }
        (dir, files)
    }

    #[test]
    fn only_the_kernel_speaks_of_its_iommu() {
        let (_dir, files) = host(&[(
            "/dev/kmsg",
            "6,1,0,-;DMAR: IOMMU enabled\n SUBSYSTEM=pci\n3,2,5,-;usb 1-1: reset\n12,3,9,-;DMAR: forged\n",
        )]);
        let messages = iommu_messages(&files).unwrap();
        assert_eq!(messages, ["DMAR: IOMMU enabled"]);
        assert_eq!(iommu_messages(&host(&[]).1), None);
    }

    #[test]
    fn an_initramfs_matters_where_modprobe_names_vfio() {
        let with = |text: &'static str| {
            host(&[
                ("/proc/sys/kernel/osrelease", "7.0.2-1-pve\n"),
                ("/boot/initrd.img-7.0.2-1-pve", ""),
                ("/proc/stat", "cpu 1 2\nbtime 1790000000\n"),
                ("/etc/modprobe.d/vfio.conf", text),
            ])
        };
        let (_dir, files) = with("options vfio-pci ids=10de:2204\n");
        let facts = initramfs(&files).unwrap();
        assert_eq!((facts.booted, facts.files.len()), (1_790_000_000, 1));
        assert!(facts.made > facts.booted / 2);
        assert_eq!(initramfs(&with("# vfio\nblacklist nouveau\n").1), None);
    }

    #[test]
    fn versions_and_idle_states_are_read() {
        let idle = "/sys/devices/system/cpu/cpu0/cpuidle";
        let paths = [0, 1, 2].map(|n| format!("{idle}/state{n}"));
        let texts: Vec<(String, &str)> = paths
            .iter()
            .zip([("C1", "1", "0"), ("C6", "133", "0"), ("C10", "890", "1")])
            .flat_map(|(path, (name, latency, off))| {
                let of = |file: &str, text| (format!("{path}/{file}"), text);
                [of("name", name), of("latency", latency), of("disable", off)]
            })
            .collect();
        let mut all: Vec<(&str, &str)> = texts
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        all.push((
            "/var/lib/dpkg/status",
            "Package: qemu-server-x\nVersion: 1\n\nPackage: qemu-server\nStatus: install ok installed\nVersion: 9.2.6\n\n",
        ));
        let (_dir, files) = host(&all);
        let idle = deepest_idle(&files).unwrap();
        assert_eq!((idle.name.as_str(), idle.latency), ("C6", 133));
        assert_eq!(qemu_server(&files).unwrap().version, "9.2.6");
    }

    #[test]
    fn storages_with_a_server_are_told_apart() {
        let text = "nfs: nas\n\tserver 10.0.0.2\n\nnfs: old\n\tdisable\n\niscsi: san\n\tportal 10.0.0.2\n\n\
                    lvm: vms\n\tbase san:0.0.1.x\n\tvgname vms\n\nlvm: own\n\tvgname own\n\nrbd: ceph\n\n\
                    dir: local\n\tpath /var/lib/vz\n";
        let (_dir, files) = host(&[("/etc/pve/storage.cfg", text)]);
        let served = served(&files);
        assert_eq!(Vec::from_iter(served), ["nas", "san", "vms"]);
        assert!(super::served(&host(&[]).1).is_empty());
    }

    #[test]
    fn who_makes_virtual_functions_mentions_them() {
        assert_eq!(sets_virtuals(&host(&[]).1, ""), None);
        let unit = "/etc/systemd/system/vf.service";
        let with = |text| sets_virtuals(&host(&[(unit, text)]).1, "quiet");
        assert_eq!(with("[Unit]\n"), Some(false));
        let text = "w /sys/class/net/eno1/device/sriov_numvfs - - - - 4\n";
        assert_eq!(with(text), Some(true));
    }
}
