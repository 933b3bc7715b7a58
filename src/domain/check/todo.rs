//! What only the guest can see: a list to tick, by its operating system.

use serde::Serialize;

use super::vm_facts::VmFacts;
use crate::domain::guest::Guest;

/// Something to look at in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Todo {
    /// How it is to be.
    pub what: &'static str,
    /// Where that is seen, and what makes it so.
    pub how: &'static str,
}

/// Entry of a list, and which guests it is for.
struct Entry {
    applies: fn(&Guest) -> bool,
    what: &'static str,
    how: &'static str,
}

const WINDOWS: &[Entry] = &[
    Entry {
        applies: |_| true,
        what: "every device has its driver",
        how: "device manager shows no unknown device; the virtio drivers are on virtio-win.iso",
    },
    Entry {
        applies: has_devices,
        what: "passed-through devices interrupt by messages (msi)",
        how: "device manager, view, resources by type: the irq of the gpu and its audio is negative; else set \
              MSISupported to 1 below Enum\\PCI\\...\\MessageSignaledInterruptProperties in the registry, and restart",
    },
    Entry {
        applies: |_| true,
        what: "the power plan is high performance",
        how: "powercfg /setactive SCHEME_MIN",
    },
    Entry {
        applies: |_| true,
        what: "the clock is windows' own choice",
        how: "bcdedit /enum shows neither useplatformclock nor useplatformtick; bcdedit /deletevalue removes them",
    },
    Entry {
        applies: |guest| guest.cpu_type.as_deref() == Some("host"),
        what: "windows does not run as a guest of its own hypervisor",
        how: "msinfo32: virtualization-based security is not enabled; it makes cpu: host slow, and memory integrity \
              in core isolation switches it off (anti-cheat and wsl2 may need it)",
    },
    Entry {
        applies: has_devices,
        what: "a shutdown is one: fast startup keeps devices as they were",
        how: "powercfg /hibernate off",
    },
];

const LINUX: &[Entry] = &[
    Entry {
        applies: |_| true,
        what: "every device has its driver",
        how: "lspci -k shows a driver in use for each",
    },
    Entry {
        applies: has_devices,
        what: "passed-through devices interrupt by messages (msi)",
        how: "grep PCI-MSI /proc/interrupts lists them",
    },
    Entry {
        applies: |_| true,
        what: "the clock is tsc or kvm-clock",
        how: "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg says why if tsc was unstable",
    },
    Entry {
        applies: |_| true,
        what: "no cpus are isolated that nothing is pinned to",
        how: "cat /proc/cmdline: isolcpus= and nohz_full= only where a program of the guest pins its threads",
    },
    Entry {
        applies: |guest| guest.n_vcpus > 1,
        what: "interrupts stay where they were put",
        how: "systemctl is-active irqbalance says inactive, if threads of the guest are pinned",
    },
    Entry {
        applies: |guest| guest.n_vcpus > 1,
        what: "cores, threads and nodes are those of pin-hook plan",
        how: "lscpu -e",
    },
];

fn has_devices(guest: &Guest) -> bool {
    !guest.hostpci.is_empty()
}

/// Returns what is to be looked at in the guest; nothing for one of which no list is about.
pub fn todo(vm: &VmFacts) -> Vec<Todo> {
    let list = list_of(vm.guest.ostype.as_deref()).iter();
    let meant = list.filter(|one| (one.applies)(&vm.guest));
    meant
        .map(|one| Todo {
            what: one.what,
            how: one.how,
        })
        .collect()
}

/// Returns the list of an operating system, as PVE calls it (`ostype`).
fn list_of(ostype: Option<&str>) -> &'static [Entry] {
    match ostype.unwrap_or_default() {
        "l24" | "l26" => LINUX,
        "w2k" | "w2k3" | "w2k8" | "wvista" | "wxp" => WINDOWS,
        other if other.starts_with("win") => WINDOWS,
        _ => &[],
    }
}
