//! What a start is for, by what PVE has written into the VM's config before it calls pre-start.
//!
//! PVE starts no VM that is locked, unless the one who holds the lock asks for it
//! (`PVE::QemuServer::vm_start`, `skiplock`).

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
}

/// Returns the process that holds a `flock` on a file, from the text of `/proc/locks`; `node` is the
/// file as it is called there.
///
/// A line is `1: FLOCK  ADVISORY  WRITE 750 00:19:1234 0 EOF`, that of one who waits for it has an
/// arrow (`1: -> FLOCK ...`). The process is the one that took the lock, number 0 stands for one of
/// another pid namespace (`fs/locks.c`, `lock_get_status()`).
pub fn holder(locks: &str, node: &str) -> Option<i32> {
    let mut pids = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, of, ..] = words[..] else {
            return None;
        };
        pid.parse().ok().filter(|pid| *pid > 0 && of == node)
    });
    pids.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_flock_is_read_from_the_kernels_text() {
        let locks = "1: POSIX  ADVISORY  WRITE 650 00:19:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 760 00:19:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 750 00:19:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  0 00:19:1235 0 EOF\n\
                     4: OFDLCK ADVISORY  READ  -1 00:06:5 0 0\n\
                     6: FLOCK  ADVISORY\n";
        assert_eq!(holder(locks, "00:19:1234"), Some(750));
        for node in ["00:19:123", "00:19:1235", "00:06:5", "EOF", ""] {
            assert_eq!(holder(locks, node), None, "{node}");
        }
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
