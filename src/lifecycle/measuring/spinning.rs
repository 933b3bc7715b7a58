//! Threads that spin on the measured CPUs, and what they see that the kernel does not.

use std::time::Duration;

use anyhow::bail;

use super::subject::{MeasureOf, Subject};
use crate::domain::advice::Advised;
use crate::domain::cpuset::CpuSet;
use crate::domain::measure::account::Accounts;
use crate::domain::measure::gaps::{Gaps, Lookup, Spin};
use crate::domain::measure::spinning::{check_cpus, check_realtime};
use crate::host::Host;
use crate::host::spin::Spinners;
use crate::host::surroundings::throttles_real_time;
use crate::lifecycle::engine::journal::read_state;

/// How long a thread may take to get its CPU.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// Threads that spin while it is measured.
#[derive(Debug)]
pub(super) struct Spinning {
    spinners: Spinners,
    gaps: Gaps,
    lookup: Lookup,
    n_unknown: u64,
    is_realtime: bool,
}

/// Checks that threads may spin on these CPUs for so long, if it is that what is asked for.
///
/// # Errors
/// They would take CPUs from a VM, or all of the host's, or could stop it.
pub(super) fn check(
    host: &Host,
    asked: &MeasureOf,
    online: &CpuSet,
    duration: Duration,
) -> anyhow::Result<()> {
    let MeasureOf::Spinning(cpus, is_realtime) = asked else {
        return Ok(());
    };
    check_cpus(cpus, online, &read_state(&*host.files)?.claims)?;
    if *is_realtime {
        check_realtime(duration, throttles_real_time(&*host.files))?;
    }
    Ok(())
}

impl Spinning {
    /// Begins to spin if that is asked for, and has these threads measured.
    ///
    /// # Errors
    /// The kernel does not let them run there, or not at that priority.
    pub fn begin(
        host: &Host,
        asked: &MeasureOf,
        subject: &mut Subject,
    ) -> anyhow::Result<Option<Self>> {
        let MeasureOf::Spinning(cpus, is_realtime) = asked else {
            return Ok(None);
        };
        let spinners = Spinners::prepare(&*host.sched, cpus, *is_realtime)?;
        for (seat, (_, tid)) in subject.seats.iter_mut().zip(spinners.threads()) {
            seat.thread = tid;
        }
        spinners.spin();
        let wait = Duration::from_millis(1);
        if !host.wait_until(MOST_WAIT, wait, || spinners.are_running()) {
            let fact = format!("a new thread gets no time on {}", cpus.in_words());
            let help = "a real-time program runs there: stop it, or leave its cpu out";
            bail!(Advised::new(fact, help));
        }
        Ok(Some(Spinning {
            spinners,
            gaps: Gaps::default(),
            lookup: Lookup::default(),
            n_unknown: 0,
            is_realtime: *is_realtime,
        }))
    }

    /// Has gaps count that begin at this time or later.
    pub fn count_from(&self, at: u64) {
        self.spinners.count_from(at);
    }

    /// Looks up the long gaps that were over before this time, until which all records are noted.
    pub fn look(&mut self, accounts: &Accounts, until: u64, is_torn: bool) {
        self.spinners.fetch(&mut self.lookup.pending);
        if is_torn {
            // A record that was lost may be the one that explains it.
            self.n_unknown += self.lookup.pending.drain(..).count() as u64;
        }
        self.lookup.look(accounts, until);
    }

    /// Ends the threads.
    pub fn end(&mut self, at: u64) {
        let seen = self.spinners.end(at);
        self.gaps = seen.gaps;
        self.lookup.pending.extend(seen.late);
        self.n_unknown += seen.n_lost;
    }

    /// Returns what they have seen that ended.
    pub fn seen(&self) -> Spin {
        Spin {
            is_realtime: self.is_realtime,
            gaps: self.gaps.tally,
            histogram: self.gaps.histogram,
            unexplained: self.lookup.unexplained,
            n_unknown: self.n_unknown,
            idle_ns: 0,
        }
    }
}
