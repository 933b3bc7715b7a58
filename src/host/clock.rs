//! Clocks of the host, and waiting for what takes its time.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::domain::vm::TaskId;

/// Clocks of a host.
pub trait Clock: Debug {
    /// Returns the time since boot, including suspend (`CLOCK_BOOTTIME`).
    fn since_boot(&self) -> Duration;
    /// Returns the time since 1970, which PVE's files count by.
    fn since_epoch(&self) -> Duration {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }
    /// Waits until one of these processes has ended, and no longer than `wait`.
    ///
    /// It may come back early; a number that was given to another process is waited for like the
    /// process itself. So the caller looks again, with a `wait` that it can bear to be too long.
    fn wait_for_end(&self, processes: &[TaskId], wait: Duration);
    /// Takes note of what is being waited for from now on, for whoever reads along; `None` when that is
    /// over. Waits may be nested.
    fn awaits(&self, _what: Option<&str>) {}
}

/// A wait that somebody may be told of; it is over when this is dropped.
#[derive(Debug)]
pub struct Awaited<'c>(&'c dyn Clock);

/// Begins a wait for `what`, such as `vm 107 to shut down`.
pub fn awaiting<'c>(clock: &'c dyn Clock, what: &str) -> Awaited<'c> {
    clock.awaits(Some(what));
    Awaited(clock)
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.awaits(None);
    }
}

/// The running kernel's clocks.
#[derive(Debug, Clone, Copy)]
pub struct KernelClock;

impl Clock for KernelClock {
    fn since_boot(&self) -> Duration {
        // Every kernel since 2.6.39 has this clock, so that the call cannot fail.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }

    fn wait_for_end(&self, processes: &[TaskId], wait: Duration) {
        let mut handles = Vec::new();
        for process in processes {
            let pid = Pid::from_raw(process.tid);
            match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                Some(Ok(handle)) => handles.push(handle),
                // It has ended.
                Some(Err(rustix::io::Errno::SRCH)) => return,
                // It cannot be waited for, so the time decides.
                None | Some(Err(_)) => {}
            }
        }
        let mut polled: Vec<PollFd<'_>> = handles
            .iter()
            .map(|handle| PollFd::new(handle, PollFlags::IN))
            .collect();
        let wait = Timespec::try_from(wait).ok();
        // An interruption is as good as an end: the caller looks.
        let _ = poll(&mut polled, wait.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_boot_never_goes_back() {
        let earlier = KernelClock.since_boot();
        assert!(!earlier.is_zero());
        assert!(KernelClock.since_boot() >= earlier);
    }
}
