//! Waiting for devices: for the lock of whoever resets or binds them, and for what the kernel makes of
//! that.

use std::io;
use std::time::Duration;

use crate::host::Host;
use crate::host::files::LockGuard;
use crate::lifecycle::engine::run::Run;

/// LockGuard by whoever resets devices: the kernel does not survive two at once everywhere.
pub(in crate::lifecycle) const LOCK: &str = "/run/pin-hook/pci.lock";
/// How long another run's reset is waited for.
pub(in crate::lifecycle) const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often it is looked whether something has happened.
pub(in crate::lifecycle) const PAUSE: Duration = Duration::from_millis(100);
/// What of the time of a phase is left for telling what has not come back.
const RESERVE: Duration = Duration::from_millis(1500);

/// Returns how much longer a device may take in this run.
pub(in crate::lifecycle) fn time_left(host: &Host) -> Duration {
    host.left().saturating_sub(RESERVE)
}

impl Run<'_> {
    /// Takes the lock of the devices; `None` when another run keeps it: a driver may take its time.
    pub(in crate::lifecycle) fn lock_devices(&self) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.host.files.lock(LOCK, time_left(self.host))
    }
}
