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

/// Operating systems that the list knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Windows,
    Linux,
}

/// Entry of the list, and which guests it is for.
struct Entry {
    family: Family,
    applies: fn(&Guest) -> bool,
    what: &'static str,
    how: &'static str,
}

const LIST: &[Entry] = &[
    Entry {
        family: Family::Windows,
        applies: |_| true,
        what: "every device has its driver",
        how: "device manager shows no unknown device; the virtio drivers are on virtio-win.iso",
    },
    Entry {
        family: Family::Windows,
        applies: has_devices,
        what: "passed-through devices interrupt by messages (msi)",
        how: "device manager, view, resources by type: the irq of the gpu and its audio is negative; else set \
              MSISupported to 1 below Enum\\PCI\\...\\MessageSignaledInterruptProperties in the registry, and restart",
    },
    Entry {
        family: Family::Windows,
        applies: |_| true,
        what: "the power plan is high performance",
        how: "powercfg /setactive SCHEME_MIN",
    },
    Entry {
        family: Family::Windows,
        applies: |_| true,
        what: "the clock is windows' own choice",
        how: "bcdedit /enum shows neither useplatformclock nor useplatformtick; bcdedit /deletevalue removes them",
    },
    Entry {
        family: Family::Windows,
        applies: |guest| guest.cpu_type.as_deref() == Some("host"),
        what: "windows does not run as a guest of its own hypervisor",
        how: "msinfo32: virtualization-based security is not enabled; it makes cpu: host slow, and memory integrity \
              in core isolation switches it off (anti-cheat and wsl2 may need it)",
    },
    Entry {
        family: Family::Windows,
        applies: has_devices,
        what: "a shutdown is one: fast startup keeps devices as they were",
        how: "powercfg /hibernate off",
    },
    Entry {
        family: Family::Linux,
        applies: |_| true,
        what: "every device has its driver",
        how: "lspci -k shows a driver in use for each",
    },
    Entry {
        family: Family::Linux,
        applies: has_devices,
        what: "passed-through devices interrupt by messages (msi)",
        how: "grep PCI-MSI /proc/interrupts lists them",
    },
    Entry {
        family: Family::Linux,
        applies: |_| true,
        what: "the clock is tsc or kvm-clock",
        how: "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg says why if tsc was unstable",
    },
    Entry {
        family: Family::Linux,
        applies: |_| true,
        what: "no cpus are isolated that nothing is pinned to",
        how: "cat /proc/cmdline: isolcpus= and nohz_full= only where a program of the guest pins its threads",
    },
    Entry {
        family: Family::Linux,
        applies: |guest| guest.n_vcpus > 1,
        what: "interrupts stay where they were put",
        how: "systemctl is-active irqbalance says inactive, if threads of the guest are pinned",
    },
    Entry {
        family: Family::Linux,
        applies: |guest| guest.n_vcpus > 1,
        what: "cores, threads and nodes are those of pin-hook plan",
        how: "lscpu -e",
    },
];

fn has_devices(guest: &Guest) -> bool {
    !guest.hostpci.is_empty()
}

/// Returns what is to be looked at in the guest; nothing for one that the list does not know.
pub fn todo(vm: &VmFacts) -> Vec<Todo> {
    let Some(family) = family(vm.guest.ostype.as_deref()) else {
        return Vec::new();
    };
    let meant = LIST.iter();
    let meant = meant.filter(|one| one.family == family && (one.applies)(&vm.guest));
    meant
        .map(|one| Todo {
            what: one.what,
            how: one.how,
        })
        .collect()
}

/// What PVE calls them (`ostype`).
fn family(ostype: Option<&str>) -> Option<Family> {
    match ostype? {
        "l24" | "l26" => Some(Family::Linux),
        "w2k" | "w2k3" | "w2k8" | "wvista" | "wxp" => Some(Family::Windows),
        other => other.starts_with("win").then_some(Family::Windows),
    }
}
