//! Who starts a VM: the process without which the start is over.
//!
//! PVE starts a VM under its lock, a `flock` on a file of the VM (`PVE::AbstractConfig::lock_config`), so
//! whoever holds that lock during pre-start is the starter. The parent of this process is mostly the
//! same, but where a hookscript of somebody calls the program it may have ended before QEMU is up.
//!
//! `/proc/locks` tells it to everybody. The open files of a process would tell it as well, but not to a
//! process with fewer capabilities, and most are dropped before anything is done.

use super::files::Files;
use super::task::{self, Task};
use crate::domain::start::holder;
use crate::domain::vm::{TaskId, Vmid};

/// Where PVE has the locks of its VMs.
const LOCKS: &str = "/var/lock/qemu-server";

/// Returns the process that starts a VM, or `None` when nobody holds the lock that PVE starts it under.
pub fn starter(files: &dyn Files, vmid: Vmid) -> Option<TaskId> {
    Some(holder_of(files, &format!("{LOCKS}/lock-{vmid}.conf"))?.id)
}

/// Returns the process that holds a `flock` on a file, or `None` when nobody does or that cannot be told.
pub fn holder_of(files: &dyn Files, path: &str) -> Option<Task> {
    let node = files.node(path).ok()?;
    let pid = holder(&files.read("/proc/locks").ok()?, &node)?;
    task::read_task(files, pid, pid).ok()
}
