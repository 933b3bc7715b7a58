//! Probes of PCI drivers that are under way: what partitions wait for from Linux 7.0 on.
//!
//! A partition of type isolated that comes or goes has the kernel flush the workqueue of those probes
//! (`housekeeping_update()` in `kernel/sched/isolation.c`), uninterruptibly and with a lock of all cpusets
//! held: whoever touches a cgroup meanwhile waits as well, systemd too (7.3: 34 s for a probe of 41 s).
//! It flushes more, which is short: RCU, and the work of vmstat and memory cgroups, where nothing waits for a device.
//!
//! A probe may begin between the question and the write (`pci_call_probe()` queues it). What remains then is a
//! wait of the child that writes ([`super::errand`]); the run goes on.

use super::files::Files;
use super::surroundings::release;
use crate::domain::gate::waits_for_probes;

/// How a worker of the kernel is called while it does work of that queue (`wq_worker_comm()`), which is
/// named in `pci_driver_init()`. Only functions with a NUMA node are probed there (`pci_call_probe()`).
const AT_WORK: &str = "+sync_wq";

/// Tells whether partitions of this kernel wait for probes.
pub fn partitions_wait(files: &dyn Files) -> bool {
    let release = release(files).unwrap_or_default();
    release.parse().is_ok_and(waits_for_probes)
}

/// Tells whether a driver is probing a function that partitions would wait for.
pub fn is_under_way(files: &dyn Files) -> bool {
    let names = files.list("/proc").unwrap_or_default();
    let mut pids = names
        .iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    pids.any(|pid| {
        let comm = files.read(&format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.starts_with("kworker/") && comm.trim_end().ends_with(AT_WORK)
    })
}
