//! Who starts a VM: the process without which the start is over.
//!
//! PVE starts a VM under its lock, a `flock` on a file of the VM (`PVE::AbstractConfig::lock_config`), so
//! whoever holds that lock during pre-start is the starter. The parent of this process is mostly the
//! same, but where a hookscript of somebody calls the program it may have ended before QEMU is up.

use std::io;

use super::files::Files;
use super::task;
use crate::domain::start::{holders, is_held};
use crate::domain::vm::{TaskId, Vmid};

/// Returns the process that starts a VM, or `None` when nobody holds the lock that PVE starts it under.
pub fn starter(files: &dyn Files, vmid: Vmid) -> Option<TaskId> {
    let locks = files.read("/proc/locks").ok()?;
    let starts = |pid: &i32| holds(files, *pid, vmid).unwrap_or(false);
    let identity = |pid: i32| Some(task::read_task(files, pid, pid).ok()?.id);
    holders(&locks).into_iter().find(starts).and_then(identity)
}

/// Tells whether a process holds the lock of a VM, and does not only wait for it.
fn holds(files: &dyn Files, pid: i32, vmid: Vmid) -> io::Result<bool> {
    // `/var/lock` is a link to `/run/lock`; the kernel tells the real path.
    let lock = format!("/lock/qemu-server/lock-{vmid}.conf");
    for fd in files.list(&format!("/proc/{pid}/fd"))? {
        // A file may be closed any time.
        let path = files.link(&format!("/proc/{pid}/fd/{fd}"));
        let is_lock = path.is_ok_and(|path| path.ends_with(&lock));
        if is_lock && is_held(&files.read(&format!("/proc/{pid}/fdinfo/{fd}"))?) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::RootFiles;

    #[test]
    fn the_one_who_holds_the_vms_lock_starts_it() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("lock/qemu-server");
        let files = RootFiles::new("/");
        let made = |name: &str| {
            files
                .make_dir(dir.path().join("lock").to_str().unwrap(), 0o755)
                .ok();
            files.make_dir(locks.to_str().unwrap(), 0o755).ok();
            let path = locks.join(name).to_str().unwrap().to_owned();
            files.append(&path, "").unwrap();
            path
        };
        let vmid: Vmid = "987654321".parse().unwrap();
        let path = made("lock-987654321.conf");
        assert_eq!(starter(&files, vmid), None);
        let wait = std::time::Duration::ZERO;
        let _other = files.lock(&made("lock-98765432.conf"), wait).unwrap();
        assert_eq!(starter(&files, vmid), None, "the lock of another vm");
        let held = files
            .lock(&path, wait)
            .unwrap()
            .expect("nobody else has it");
        let own = i32::try_from(std::process::id()).unwrap();
        let own = task::read_task(&files, own, own).unwrap().id;
        assert_eq!(starter(&files, vmid), Some(own));
        drop(held);
        assert_eq!(starter(&files, vmid), None);
    }
}
