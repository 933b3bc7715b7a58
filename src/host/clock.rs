//! Clocks of the host.

use std::fmt::Debug;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Clocks of a host.
pub trait Clock: Debug {
    /// Returns the time since boot, including suspend (`CLOCK_BOOTTIME`).
    fn since_boot(&self) -> Duration;
}

/// The running kernel's clocks.
#[derive(Debug, Clone, Copy)]
pub struct KernelClock;

impl Clock for KernelClock {
    fn since_boot(&self) -> Duration {
        // Every kernel since 2.6.39 has this clock, so that the call cannot fail.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
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
