//! What a start is for, by what PVE has written into the VM's config before it calls pre-start.
//!
//! PVE starts no VM that is locked, unless the one who holds the lock asks for it
//! (`PVE::QemuServer::vm_start`, `skiplock`).

use super::guest::Guest;

/// What a start is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The guest is going to run.
    Run,
    /// QEMU is needed to read the disks. The guest does not run, unless somebody starts the VM
    /// meanwhile, or it ran before a backup in mode `stop`.
    ///
    /// vzdump locks the VM before anything else, whoever asked for the backup
    /// (`PVE::VZDump::exec_backup_task`, `lock_vm`), and starts QEMU paused
    /// (`PVE::VZDump::QemuServer::enforce_vm_running_for_backup`).
    Backup,
    /// The guest runs on another node and comes from there.
    ///
    /// Within a cluster PVE names that node in `PVE_MIGRATED_FROM`. Of another cluster it tells
    /// nothing, but the config is locked by then (`mtunnel` in `PVE::API2::Qemu`: `config`).
    Arrive,
}

impl Purpose {
    /// Returns the purpose of a start; `migrated_from` is what `PVE_MIGRATED_FROM` says, and `lock` is
    /// that of the config.
    pub fn of(lock: Option<&str>, migrated_from: &str) -> Self {
        match lock {
            _ if !migrated_from.is_empty() => Purpose::Arrive,
            Some("migrate") => Purpose::Arrive,
            Some("backup") => Purpose::Backup,
            _ => Purpose::Run,
        }
    }

    /// Returns the purpose of a start of this guest.
    pub fn of_guest(guest: &Guest, migrated_from: &str) -> Self {
        Purpose::of(guest.lock.as_deref(), migrated_from)
    }
}

/// Returns the processes that hold a `flock`, from the text of `/proc/locks`.
///
/// A line is `1: FLOCK  ADVISORY  WRITE 750 00:19:1234 0 EOF`, that of one who waits for it has an
/// arrow (`1: -> FLOCK ...`). The process is the one that took the lock, number 0 stands for one of
/// another pid namespace (`fs/locks.c`, `lock_get_status()`).
pub fn holders(locks: &str) -> Vec<i32> {
    let pids = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let pid = words.nth(2)?.parse().ok()?;
        (is_flock && pid > 0).then_some(pid)
    });
    let mut pids: Vec<i32> = pids.collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Tells whether an open file holds a `flock`, from the text of its `/proc/<pid>/fdinfo`: locks that
/// it waits for are not listed there.
pub fn is_held(fdinfo: &str) -> bool {
    let mut locks = fdinfo.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| !holders(lock).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_flock_is_read_from_the_kernels_text() {
        let locks = "1: POSIX  ADVISORY  WRITE 650 00:1a:1100 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 750 00:19:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 760 00:19:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  0 00:19:1235 0 EOF\n\
                     4: OFDLCK ADVISORY  READ  -1 00:06:5 0 0\n\
                     5: FLOCK  ADVISORY  READ  750 00:19:1236 0 EOF\n\
                     6: FLOCK  ADVISORY\n";
        assert_eq!(holders(locks), [750]);
        let held = "pos:\t0\nflags:\t02100001\nmnt_id:\t25\nino:\t1234\n\
                    lock:\t1: FLOCK  ADVISORY  WRITE 750 00:19:1234 0 EOF\n";
        assert!(is_held(held));
        assert!(!is_held(held.split("lock:").next().unwrap()));
        assert!(holders("").is_empty());
    }

    #[test]
    fn the_lock_tells_what_a_start_is_for() {
        let of = Purpose::of;
        assert_eq!(of(None, ""), Purpose::Run);
        assert_eq!(of(Some("suspended"), ""), Purpose::Run);
        assert_eq!(of(Some("backup"), ""), Purpose::Backup);
        assert_eq!(of(Some("migrate"), ""), Purpose::Arrive);
        assert_eq!(of(Some("migrate"), "pve2"), Purpose::Arrive);
        assert_eq!(of(None, "pve2"), Purpose::Arrive);
    }
}
