//! From the lines of a section to the guest that PVE starts from them.
//!
//! Types are checked as PVE checks them: a value that fails is as if its line were not there, so
//! an earlier line with the same key counts. Properties of disks and network devices that pin-hook
//! has no use for are not checked.

use super::passthrough::{
    Drive, parse_drive, parse_hostpci, parse_usb, parse_virtiofs, shared_by_args,
};
use super::property::{
    Properties, boolean, cpu_set, index, integer, is_blank, number, plain, ranges, volume_id,
};
use super::section::Section;
use super::smp::Smp;
use super::startup::startup;
use crate::domain::guest::{Disk, Guest, GuestNet, GuestNode, HugepageSize, Iothread, Shared};

/// Network card models of PVE; `model=` or the model itself as the key of the MAC address.
const NET_MODELS: [&str; 14] = [
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

const NET_KEYS: [&str; 11] = [
    "model",
    "macaddr",
    "bridge",
    "queues",
    "rate",
    "tag",
    "trunks",
    "firewall",
    "link_down",
    "mtu",
    "host-managed",
];

const CPU_KEYS: [&str; 8] = [
    "cputype",
    "flags",
    "hidden",
    "hv-vendor-id",
    "level",
    "phys-bits",
    "guest-phys-bits",
    "reported-model",
];

/// Builds the guest of a section.
pub(super) fn of(section: &Section) -> Guest {
    let conf = Typed(section);
    let (sockets, cores) = (conf.sockets(), conf.integer("cores").unwrap_or(1).max(1));
    let args = conf.find("args", |v| Some(v.to_owned()));
    let smp = conf.smp(sockets, cores, args.as_deref());
    let cpu = conf.find("cpu", parse_cpu).unwrap_or_default();
    let memory_mib = conf.find("memory", parse_memory).unwrap_or(512);
    let hotplug = conf.find("hotplug", parse_hotplug).unwrap_or_default();
    let drives = conf.drives();
    Guest {
        name: conf.text("name"),
        description: section.description().map(str::to_owned),
        tags: conf.find("tags", parse_tags).unwrap_or_default(),
        sockets,
        cores,
        configured_vcpus: smp.configured,
        n_vcpus: smp.cpus,
        max_vcpus: smp.max_cpus,
        smt: smp.threads,
        cpu_hotplug: hotplug.contains(&"cpu"),
        memory_hotplug: hotplug.contains(&"memory"),
        cpu_type: cpu.0,
        cpu_flags: cpu.1,
        cpu_limit: conf.find("cpulimit", number).filter(|n| *n > 0.0),
        cpu_weight: conf.integer("cpuunits").unwrap_or(100).clamp(1, 10_000),
        affinity: conf.find("affinity", cpu_set),
        memory_mib,
        balloon_mib: conf.integer("balloon"),
        nodes: conf.nodes(sockets, cores, memory_mib),
        hugepages: conf.find("hugepages", parse_hugepages),
        keep_hugepages: conf.switch("keephugepages", false),
        kvm: conf.switch("kvm", true),
        template: conf.switch("template", false),
        freeze: conf.switch("freeze", false),
        onboot: conf.switch("onboot", false),
        startup: conf.find("startup", startup).unwrap_or_default(),
        lock: conf.text("lock"),
        vmstate: conf.find("vmstate", volume_id),
        hookscript: conf.find("hookscript", volume_id),
        usb: conf.devices("usb", 13, parse_usb),
        iothreads: conf.iothreads(&drives),
        raw_disks: drives.iter().filter_map(Drive::raw).collect(),
        disks: drives.into_iter().filter_map(Drive::disk).collect(),
        efi_disk: conf.disk("efidisk"),
        tpm_state: conf.disk("tpmstate"),
        shares: conf.shares(args.as_deref()),
        args,
        machine: conf.text("machine"),
        bios: conf.text("bios"),
        ostype: conf.text("ostype"),
        scsihw: conf.text("scsihw"),
        nets: conf.devices("net", 31, parse_net),
        hostpci: conf.devices("hostpci", 15, parse_hostpci),
    }
}

/// A section, read with the types of the keys.
struct Typed<'a>(&'a Section);

impl<'a> Typed<'a> {
    /// Returns the last value of `key` that `parse` accepts.
    fn find<T>(&self, key: &str, parse: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let lines = self.0.lines.iter().rev().filter(|(name, _)| name == key);
        lines.map(|(_, value)| parse(value)).find_map(|value| value)
    }

    fn integer(&self, key: &str) -> Option<u32> {
        self.find(key, integer)
    }

    fn switch(&self, key: &str, default: bool) -> bool {
        self.find(key, boolean).unwrap_or(default)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.find(key, |value| Some(plain(value)))
    }

    /// Returns what `parse` makes of the keys `<prefix>0` to `<prefix><max>`, in their order.
    fn devices<T>(
        &self,
        prefix: &str,
        max: u32,
        parse: impl Fn(&str, &'a str) -> Option<T>,
    ) -> Vec<T> {
        let keys = self.0.lines.iter().map(|(key, _)| key);
        let mut indices: Vec<_> = keys.filter_map(|key| index(key, prefix, max)).collect();
        indices.sort_unstable();
        indices.dedup();
        let keys = indices.iter().map(|n| format!("{prefix}{n}"));
        keys.filter_map(|key| self.find(&key, |value| parse(&key, value)))
            .collect()
    }

    /// Returns the sockets; `smp` is their name from before there were cores.
    fn sockets(&self) -> u32 {
        let sockets = self.integer("sockets").filter(|n| *n > 0);
        sockets.or(self.integer("smp")).unwrap_or(1).max(1)
    }

    fn smp(&self, sockets: u32, cores: u32, args: Option<&str>) -> Smp {
        let max_cpus = sockets.saturating_mul(cores);
        let vcpus = self.integer("vcpus").filter(|n| *n > 0);
        let configured = Smp {
            configured: vcpus.unwrap_or(max_cpus),
            cpus: vcpus.unwrap_or(max_cpus),
            max_cpus,
            threads: 1,
        };
        configured.with_args(args.unwrap_or(""))
    }

    /// Returns the guest's NUMA nodes: those of `numaN`, else one per socket.
    fn nodes(&self, sockets: u32, cores: u32, memory_mib: u32) -> Vec<GuestNode> {
        if !self.switch("numa", false) {
            return Vec::new();
        }
        let nodes = self.devices("numa", 7, parse_node);
        if !nodes.is_empty() {
            return nodes;
        }
        // QEMU has 128 guest nodes at most; more sockets cannot start with NUMA.
        let per_socket = |n: u32| {
            let first = n.saturating_mul(cores);
            GuestNode {
                key: None,
                // No host has more CPUs than that.
                vcpus: (first..first.saturating_add(cores).min(8192)).collect(),
                memory_mib: memory_mib / sockets,
                host_nodes: Vec::new(),
                policy: None,
            }
        };
        (0..sockets.min(128)).map(per_socket).collect()
    }

    fn drives(&self) -> Vec<Drive> {
        let kinds = [("ide", 3), ("sata", 5), ("scsi", 30), ("virtio", 15)];
        let kinds = kinds.into_iter();
        kinds
            .flat_map(|(kind, max)| self.devices(kind, max, parse_drive))
            .collect()
    }

    /// Returns the iothreads; a SCSI disk has one only with a controller of its own.
    fn iothreads(&self, drives: &[Drive]) -> Vec<Iothread> {
        let is_single = self.text("scsihw").as_deref() == Some("virtio-scsi-single");
        let drives = drives.iter();
        drives
            .filter_map(|drive| drive.iothread(is_single))
            .collect()
    }

    /// Returns a disk of which there is one alone.
    fn disk(&self, kind: &str) -> Option<Disk> {
        let drive = self.devices(kind, 0, parse_drive).pop();
        drive.and_then(Drive::disk)
    }

    fn shares(&self, args: Option<&str>) -> Vec<Shared> {
        let mut shares = self.devices("virtiofs", 9, parse_virtiofs);
        shares.extend(shared_by_args(args.unwrap_or("")));
        shares
    }
}

fn parse_cpu(value: &str) -> Option<(Option<String>, Vec<String>)> {
    let properties = Properties::parse(value, Some("cputype"), |key| CPU_KEYS.contains(&key))?;
    let flags = properties.value("flags").unwrap_or("");
    let flags = flags.split(';').filter(|flag| !flag.is_empty());
    let kind = properties.value("cputype").map(str::to_owned);
    Some((kind, flags.map(str::to_owned).collect()))
}

fn parse_memory(value: &str) -> Option<u32> {
    let properties = Properties::parse(value, Some("current"), |key| key == "current")?;
    integer(properties.value("current")?).filter(|mib| *mib >= 16)
}

fn parse_hugepages(value: &str) -> Option<HugepageSize> {
    match plain(value).as_str() {
        "any" => Some(HugepageSize::Any),
        "2" => Some(HugepageSize::Mib(2)),
        "1024" => Some(HugepageSize::Mib(1024)),
        _ => None,
    }
}

fn parse_tags(value: &str) -> Option<Vec<String>> {
    let tags = value.split(|c| c == ',' || c == ';' || is_blank(c));
    let tags: Vec<_> = tags.filter(|tag| !tag.is_empty()).collect();
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = |tag: &&str| {
        tag.bytes().take(1).all(first) && tag.bytes().all(|b| first(b) || b"-+.".contains(&b))
    };
    let all = tags.iter().all(valid);
    all.then(|| tags.into_iter().map(str::to_owned).collect())
}

/// Returns the hotpluggable things of a list, as far as they matter here: `1` is PVE's default list,
/// which has neither CPUs nor memory.
fn parse_hotplug(value: &str) -> Option<Vec<&str>> {
    const FEATURES: [&str; 6] = ["network", "disk", "cpu", "memory", "usb", "cloudinit"];
    if value == "0" || value == "1" {
        return Some(Vec::new());
    }
    let words = value.split(|c| c == ',' || c == ';' || is_blank(c));
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let known = words.iter().all(|word| FEATURES.contains(word));
    known.then_some(words)
}

fn parse_node(key: &str, value: &str) -> Option<GuestNode> {
    const KEYS: [&str; 4] = ["cpus", "memory", "hostnodes", "policy"];
    let properties = Properties::parse(value, None, |key| KEYS.contains(&key))?;
    let memory = properties.value("memory").unwrap_or("0");
    let whole = memory.split_once('.').map_or(memory, |(whole, _)| whole);
    number(memory)?;
    let policy = properties.value("policy");
    if policy.is_some_and(|p| !["preferred", "bind", "interleave"].contains(&p)) {
        return None;
    }
    let host_nodes = properties.value("hostnodes").map(ranges);
    Some(GuestNode {
        key: Some(key.to_owned()),
        vcpus: ranges(properties.value("cpus")?)?,
        memory_mib: integer(whole)?,
        host_nodes: host_nodes.unwrap_or(Some(Vec::new()))?,
        policy: policy.map(str::to_owned),
    })
}

fn parse_net(key: &str, value: &str) -> Option<GuestNet> {
    let known = |key: &str| NET_KEYS.contains(&key) || NET_MODELS.contains(&key);
    let properties = Properties::parse(value, Some("model"), known)?;
    let by_key = properties.keys().find(|key| NET_MODELS.contains(key));
    let model = by_key.or(properties.value("model"))?;
    let queues = properties.value("queues").map_or(Some(1), integer)?;
    // PVE takes 1 for that of the bridge, and ignores one of any other model.
    let mtu = properties.value("mtu").and_then(integer);
    (NET_MODELS.contains(&model) && queues <= 64).then(|| GuestNet {
        key: key.to_owned(),
        model: model.to_owned(),
        queues: queues.max(1),
        bridge: properties.value("bridge").map(str::to_owned),
        mtu: mtu.filter(|mtu| model == "virtio" && *mtu != 1),
    })
}
