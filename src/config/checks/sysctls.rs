//! Sysctls that a VM may wish for: those that can be given back when it ends.

use super::place::At;
use crate::config::error::Problem;
use crate::domain::merge::is_number;
use crate::domain::table::Table;

/// Names below `/proc/sys` that do something when they are written, and keep no value.
const COMMANDS: [&str; 6] = [
    "net.ipv4.route.flush",
    "net.ipv6.route.flush",
    "vm.compact_memory",
    "vm.drop_caches",
    "vm.stat_refresh",
    "kernel.ns_last_pid",
];

/// Names that the kernel lets nobody set back before a reboot, for some or all values
/// (`Documentation/admin-guide/sysctl/kernel.rst`, `Documentation/admin-guide/LSM/Yama.rst`).
const ONE_WAY: [&str; 4] = [
    "kernel.kexec_load_disabled",
    "kernel.modules_disabled",
    "kernel.unprivileged_bpf_disabled",
    "kernel.yama.ptrace_scope",
];

/// Names each of which sets another one to 0 when it is written, and refuses to be 0 itself or does not
/// bring that back (`mm/page-writeback.c`, `mm/util.c`).
const COUPLED: [(&str, &str); 6] = [
    ("vm.dirty_background_bytes", "vm.dirty_background_ratio"),
    ("vm.dirty_background_ratio", "vm.dirty_background_bytes"),
    ("vm.dirty_bytes", "vm.dirty_ratio"),
    ("vm.dirty_ratio", "vm.dirty_bytes"),
    ("vm.overcommit_kbytes", "vm.overcommit_ratio"),
    ("vm.overcommit_ratio", "vm.overcommit_kbytes"),
];

/// The switch of both watchdogs. They read as 0 while it is 0, and it reads as 0 while both are, so that one
/// VM's wish would be taken for what another one found (`kernel/watchdog.c`).
const BOTH_WATCHDOGS: &str = "kernel.watchdog";

/// Sysctl with a key of its own: two keys for one file would contradict each other.
const WATCHDOG: &str = "kernel.watchdog_cpumask";

/// The limit of real-time tasks.
const REAL_TIME: &str = "kernel.sched_rt_runtime_us";

/// Checks that sysctl names stay below `/proc/sys`, and that they can be given back.
pub(super) fn check(table: &Table, at: At<'_, '_>) -> Result<(), Problem> {
    for (name, value) in &table.host.sysctl {
        if let Some((message, help)) = of_name(name) {
            return Err(at.name_problem(&["host", "sysctl", name], message, help));
        }
        if let Some((message, help)) = of_value(name, value.as_str().trim()) {
            return Err(at.problem(&["host", "sysctl", name], None, message, help));
        }
    }
    Ok(())
}

/// Returns what is wrong with a name, and what to do.
fn of_name(name: &str) -> Option<(String, &'static str)> {
    let coupled = COUPLED.iter().find(|(one, _)| *one == name);
    if COMMANDS.contains(&name) {
        let message = format!("{name} is a command, not a setting: it could not be restored");
        let help = "take it out; what it does cannot be undone when the vm ends";
        Some((message, help))
    } else if ONE_WAY.contains(&name) {
        let message = format!("{name} cannot be restored before a reboot");
        Some((message, FOR_GOOD))
    } else if let Some((_, other)) = coupled {
        let message = format!("{name} cannot be restored: it sets {other} to 0");
        Some((message, FOR_GOOD))
    } else if name == BOTH_WATCHDOGS {
        let message = format!("{name} cannot be restored: the watchdogs read as 0 while it is 0");
        let help = "name kernel.soft_watchdog and kernel.nmi_watchdog, or one of them";
        Some((message, help))
    } else if name == WATCHDOG {
        let message = format!("{name} is kept off the owned cpus by isolate.watchdog");
        Some((
            message,
            "take it out, or see isolate.watchdog for what it does",
        ))
    } else if !is_name(name) {
        let message = format!("{name:?} is not the name of a sysctl");
        Some((
            message,
            "names are quoted, with dots, such as \"vm.stat_interval\"",
        ))
    } else {
        None
    }
}

const FOR_GOOD: &str = "take it out; a file in /etc/sysctl.d sets it for good";

/// Returns what is wrong with a value, and what to do.
fn of_value(name: &str, value: &str) -> Option<(String, &'static str)> {
    if name == REAL_TIME && value == "-1" {
        let message = format!("{name} -1 removes the real-time limit of the whole host");
        let help = "leave it out; a vm with cpus of its own does not need that";
        Some((message, help))
    } else if is_number(name) && value.parse::<u32>().is_err() {
        let message = format!("{name} cannot be {value:?}");
        Some((message, "it takes a number, such as 10"))
    } else {
        None
    }
}

/// Tells whether a name stays below `/proc/sys`.
fn is_name(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    // A slash stands for a dot that belongs to a name, such as that of a VLAN interface.
    let part = |part: &str| {
        let mut parts = part.split('/');
        parts.all(|p| !p.is_empty() && p.bytes().all(letter))
    };
    name.contains('.') && name.split('.').all(part)
}
