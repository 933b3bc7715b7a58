//! What a child may write: it runs as root and is called by a command line.

use crate::domain::pci::anew::ATTRIBUTES;
use crate::domain::pci::{VFIO, is_address};

/// Tells whether a text may be written to a file by a child: it runs as root and is called by a
/// command line, so it does nothing but what it is for.
pub(super) fn is_allowed(path: &str, text: &str) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    match names.as_slice() {
        ["", "sys", "devices", "system", "cpu", cpu, "online"] => {
            numbered(cpu, "cpu", "") && ["0", "1"].contains(&text)
        }
        ["", "sys", "devices", "system", "node", node, file @ ..] => {
            numbered(node, "node", "") && is_allowed_of_node(file, text)
        }
        ["", "proc", "sys", "vm", "drop_caches"] => text == "1",
        ["", "sys", "fs", "cgroup", "qemu.slice", below @ ..] => is_of_partition(below, text),
        ["", "sys", "kernel", "mm", "ksm", "run"] => ["0", "1", "2"].contains(&text),
        ["", "sys", "class", "pci_bus", bus, "rescan"] => {
            is_address(&format!("{bus}:00.0")) && text == "1"
        }
        ["", "sys", "bus", "pci", "drivers", driver, "bind"] => {
            is_driver(driver) && is_address(text)
        }
        ["", "sys", "bus", "pci", "devices", address, name @ ..] => {
            is_address(address) && is_allowed_of_function(address, &name.join("/"), text)
        }
        _ => false,
    }
}

fn numbered(name: &str, before: &str, after: &str) -> bool {
    let number = name
        .strip_prefix(before)
        .and_then(|n| n.strip_suffix(after));
    number.is_some_and(is_number)
}

fn is_allowed_of_node(file: &[&str], text: &str) -> bool {
    match *file {
        ["compact"] => text == "1",
        ["hugepages", size, "nr_hugepages"] => {
            numbered(size, "hugepages-", "kB") && is_number(text)
        }
        _ => false,
    }
}

fn is_allowed_of_function(address: &str, name: &str, text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b' ';
    match name {
        "reset" | "remove" => text == "1",
        "driver_override" => text == VFIO,
        "driver/unbind" => text == address,
        _ => ATTRIBUTES.iter().any(|(known, _)| *known == name) && text.bytes().all(is_plain),
    }
}

/// What makes, changes and ends the partitions of VMs, by its path below the slice that they are in.
fn is_of_partition(below: &[&str], text: &str) -> bool {
    let is_scope = |scope: &str| numbered(scope, "", ".scope");
    match *below {
        ["cpuset.cpus.exclusive"] => is_list(text),
        [scope, "cpuset.cpus.exclusive"] => is_scope(scope) && is_list(text),
        [scope, "vcpu" | "io", file] if is_scope(scope) => match file {
            "cpuset.cpus.partition" => ["member", "root", "isolated"].contains(&text),
            "cpuset.cpus" | "cpuset.cpus.exclusive" => is_list(text),
            _ => false,
        },
        _ => false,
    }
}

/// A list of CPUs; an empty one is written as a newline.
fn is_list(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_digit() || b"-,\n".contains(&b);
    !text.is_empty() && text.bytes().all(is_plain)
}

fn is_driver(name: &str) -> bool {
    // There are some with blanks.
    let is_plain = |b: u8| b.is_ascii_graphic() || b == b' ';
    ![".", ".."].contains(&name) && !name.is_empty() && name.bytes().all(is_plain)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_writes_what_it_is_for_and_nothing_else() {
        let online = "/sys/devices/system/cpu/cpu3/online";
        for (path, text, allowed) in [
            (online, "0", true),
            (online, "1", true),
            (online, "2", false),
            (online, "", false),
            ("/sys/devices/system/cpu/cpu/online", "0", false),
            ("/sys/devices/system/cpu/cpu3/../cpu4/online", "0", false),
            ("sys/devices/system/cpu/cpu3/online", "0", false),
            ("/etc/passwd", "0", false),
            ("/sys/devices/system/node/node0/compact", "1", true),
            ("/sys/devices/system/node/node0/compact", "", false),
            (
                "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
                "512",
                true,
            ),
            (
                "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
                "-1",
                false,
            ),
            ("/proc/sys/vm/drop_caches", "1", true),
            ("/proc/sys/vm/drop_caches", "3", false),
            ("/sys/kernel/mm/ksm/run", "2", true),
            ("/sys/kernel/mm/ksm/run", "3", false),
        ] {
            assert_eq!(is_allowed(path, text), allowed, "{path} {text}");
        }
    }

    #[test]
    fn a_child_changes_partitions_of_vms_and_no_others() {
        let vcpu = "/sys/fs/cgroup/qemu.slice/100.scope/vcpu";
        for (path, text, allowed) in [
            (format!("{vcpu}/cpuset.cpus.partition"), "isolated", true),
            (format!("{vcpu}/cpuset.cpus.partition"), "member", true),
            (format!("{vcpu}/cpuset.cpus.partition"), "", false),
            (format!("{vcpu}/cpuset.cpus.exclusive"), "2-5,7", true),
            (format!("{vcpu}/cpuset.cpus"), "2-5; true", false),
            (format!("{vcpu}/cgroup.kill"), "1", false),
            (format!("{vcpu}/../cpuset.cpus.partition"), "root", false),
            (
                "/sys/fs/cgroup/system.slice/cpuset.cpus.partition".to_owned(),
                "root",
                false,
            ),
            (
                "/sys/fs/cgroup/qemu.slice/100.scope/cpuset.cpus.exclusive".to_owned(),
                "\n",
                true,
            ),
            (
                "/sys/fs/cgroup/qemu.slice/cpuset.cpus.exclusive".to_owned(),
                "2-5",
                true,
            ),
            (
                "/sys/fs/cgroup/qemu.slice/cpuset.cpus".to_owned(),
                "2-5",
                false,
            ),
            (
                "/sys/fs/cgroup/system.slice/cpuset.cpus.exclusive".to_owned(),
                "2-5",
                false,
            ),
        ] {
            assert_eq!(is_allowed(&path, text), allowed, "{path} {text}");
        }
    }

    #[test]
    fn a_child_writes_what_resets_functions() {
        for (path, text, allowed) in [
            ("/sys/bus/pci/devices/0000:01:00.0/reset", "1", true),
            ("/sys/bus/pci/devices/0000:01:00.0/reset", "0", false),
            ("/sys/bus/pci/devices/0000:01:00.0/remove", "1", true),
            ("/sys/bus/pci/devices/0000:01:00.0/remove", "0", false),
            ("/sys/bus/pci/devices/../reset", "1", false),
            (
                "/sys/bus/pci/devices/0000:01:00.0/driver_override",
                "vfio-pci",
                true,
            ),
            (
                "/sys/bus/pci/devices/0000:01:00.0/driver_override",
                "nvme",
                false,
            ),
            (
                "/sys/bus/pci/devices/0000:01:00.0/power/control",
                "auto",
                true,
            ),
            (
                "/sys/bus/pci/devices/0000:01:00.0/reset_method",
                "flr bus",
                true,
            ),
            ("/sys/bus/pci/devices/0000:01:00.0/config", "1", false),
            ("/sys/bus/pci/drivers/vfio-pci/bind", "0000:01:00.0", true),
            (
                "/sys/bus/pci/drivers/snd_hda_intel/bind",
                "0000:01:00.0",
                true,
            ),
            ("/sys/bus/pci/drivers/budget dvb/bind", "0000:01:00.0", true),
            ("/sys/bus/pci/drivers/../bind", "0000:01:00.0", false),
            ("/sys/bus/pci/drivers/nvme/bind", "nvme", false),
            (
                "/sys/bus/pci/devices/0000:01:00.0/driver/unbind",
                "0000:01:00.0",
                true,
            ),
            (
                "/sys/bus/pci/devices/0000:01:00.0/driver/unbind",
                "0000:02:00.0",
                false,
            ),
            ("/sys/class/pci_bus/0000:01/rescan", "1", true),
            ("/sys/class/pci_bus/../rescan", "1", false),
            ("/sys/bus/pci/rescan", "1", false),
        ] {
            assert_eq!(is_allowed(path, text), allowed, "{path} {text}");
        }
    }
}
