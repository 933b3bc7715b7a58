//! Configs of guests: the keys that pin-hook reads, and of those what is no secret.

use crate::domain::notes::commands;

/// Keys of a VM that are needed; those of `NUMBERED` have a number at their end.
const KEYS: [&str; 29] = [
    "name",
    "sockets",
    "cores",
    "vcpus",
    "smp",
    "args",
    "cpu",
    "memory",
    "hotplug",
    "cpulimit",
    "cpuunits",
    "affinity",
    "balloon",
    "numa",
    "hugepages",
    "keephugepages",
    "kvm",
    "template",
    "freeze",
    "onboot",
    "startup",
    "lock",
    "vmstate",
    "hookscript",
    "machine",
    "bios",
    "scsihw",
    "delete",
    "ostype",
];
const NUMBERED: [&str; 11] = [
    "numa", "usb", "ide", "sata", "scsi", "virtio", "virtiofs", "net", "hostpci", "efidisk",
    "tpmstate",
];
/// Properties of disks that are serial numbers.
const SERIALS: [&str; 4] = ["serial=", "wwn=", "product=", "vendor="];
/// Options of QEMU whose values are needed.
const OPTIONS: [&str; 5] = ["smp", "cpu", "machine", "virtfs", "fsdev"];

/// Returns what is left of the config of a VM.
pub(super) fn of_vm(text: &str, keeps_names: bool) -> String {
    let mut n_snapshots = 0;
    let lines = text.lines().filter_map(|line| {
        if let Some(notes) = line.strip_prefix('#') {
            return described(notes);
        }
        if let Some(name) = line.strip_prefix('[') {
            let is_pending = name.to_ascii_lowercase().starts_with("pending]");
            if keeps_names || is_pending || name.contains(':') {
                return Some(line.to_owned());
            }
            n_snapshots += 1;
            return Some(format!("[snapshot-{n_snapshots}]"));
        }
        let (key, value) = line.split_once(':')?;
        match key {
            "description" => described(&value.replace("%0A", "\n")),
            "name" if !keeps_names => None,
            "args" => Some(format!("args:{}", of_args(value))),
            key if !is_known(key) => None,
            _ if keeps_names => Some(line.to_owned()),
            key => Some(format!("{key}:{}", without_serials(value))),
        }
    });
    joined(lines)
}

/// Returns what is left of the config of a container.
pub(super) fn of_container(text: &str) -> String {
    const KEPT: [&str; 7] = [
        "cores:",
        "hookscript:",
        "lxc.cgroup",
        "onboot:",
        "startup:",
        "template:",
        "[",
    ];
    let lines = text.lines();
    joined(lines.filter_map(|line| {
        let is_kept = KEPT.iter().any(|key| line.starts_with(key));
        is_kept.then(|| line.to_owned()).or_else(|| volume(line))
    }))
}

/// Returns a volume of a container without what it is for; directories of the host are none.
fn volume(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let number = key.strip_prefix("mp").map(|n| n.parse::<u16>().is_ok());
    let volume = value.trim().split(',').next()?;
    let is_volume = key == "rootfs" || number == Some(true);
    (is_volume && volume.contains(':') && !volume.starts_with('/'))
        .then(|| format!("{key}: {volume}"))
}

fn joined(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

/// Returns the commands in notes, and nothing else of them.
fn described(notes: &str) -> Option<String> {
    let found = commands(notes);
    let lines: Vec<String> = found.iter().map(|one| format!("#{}", one.name)).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn is_known(key: &str) -> bool {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    KEYS.contains(&key) || stem != key && NUMBERED.contains(&stem)
}

fn without_serials(value: &str) -> String {
    let is_serial = |part: &&str| SERIALS.iter().any(|key| part.trim_start().starts_with(key));
    let parts = value.split(',').filter(|part| !is_serial(part));
    parts.collect::<Vec<_>>().join(",")
}

/// Returns arguments of QEMU, most of them without their values.
fn of_args(args: &str) -> String {
    let mut left = String::new();
    let mut is_needed = false;
    for word in args.split_whitespace() {
        let option = word
            .strip_prefix('-')
            .map(|name| name.trim_start_matches('-'));
        if let Some(option) = option {
            is_needed = OPTIONS.contains(&option);
        } else if !is_needed && !word.contains("-cpu.topoext=") {
            // A guest on AMD's processors is told of its SMT by that (-global).
            continue;
        }
        left.push(' ');
        left += word;
    }
    left
}
