//! One file per kernel interface or neighbour; each touches one outside thing.
//!
//! [`Host`] bundles the doors. The real host, a captured tree and the simulated kernel of the
//! tests differ only in what stands behind them.

pub mod blocks;
pub mod busy;
pub mod cgroup;
pub mod clock;
pub mod cluster;
pub mod container;
pub mod cpufreq;
pub mod dbus;
pub mod deadline;
pub mod dirs;
pub mod drivers;
pub mod errand;
pub mod files;
pub mod health;
pub mod hugepages;
pub mod irq;
pub mod ksm;
pub mod limit;
pub mod log;
pub mod meminfo;
pub mod mounts;
pub mod nets;
pub mod once;
pub mod pci;
pub mod priority;
pub mod privilege;
pub mod probe;
pub mod programs;
pub mod pve;
pub mod qmp;
pub mod raw;
pub mod record;
pub mod sched;
pub mod seen;
pub mod signals;
pub mod spin;
pub mod starter;
pub mod surroundings;
pub mod symbols;
pub mod systemd;
pub mod table;
pub mod tar;
pub mod target;
pub mod task;
pub mod terminal;
pub mod topology;
pub mod tracer;
pub mod tree;
pub mod trouble;
pub mod units;
pub mod upbringing;
pub mod usb;
pub mod workqueue;

use std::time::Duration;

pub use clock::Clock;

/// Everything outside of the program, behind one door each.
#[derive(Debug)]
pub struct Host {
    /// Files of `/proc`, `/sys`, `/etc` and `/run`.
    pub files: Box<dyn files::Files>,
    /// Affinity of tasks.
    pub sched: Box<dyn sched::Sched>,
    /// The service manager.
    pub systemd: Box<dyn systemd::Systemd>,
    /// The monitors of running VMs.
    pub qmp: Box<dyn qmp::Qmp>,
    /// Clocks.
    pub clock: Box<dyn Clock>,
    /// The deadline of this run.
    pub limit: limit::Limit,
}

impl Host {
    /// Returns the time that is left of the run, zero when somebody has waited long enough.
    pub fn left(&self) -> Duration {
        self.limit.left(&*self.clock)
    }

    /// Lets the run take `time` from now on: at its beginning, and after waits that are not its own.
    pub fn allow(&self, time: Duration) {
        self.limit.set(&*self.clock, time);
    }

    /// Looks every `period`, for `wait` at most, whether something is so; tells whether it is.
    pub fn wait_until(
        &self,
        wait: Duration,
        period: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> bool {
        let until = self.clock.since_boot() + wait;
        loop {
            if is_so() {
                return true;
            }
            if self.clock.since_boot() >= until {
                return false;
            }
            self.clock.wait_for_end(&[], period);
        }
    }
}
