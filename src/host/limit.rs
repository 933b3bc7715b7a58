//! The deadline of this run: every wait at every door is shortened to it.
//!
//! PVE has no limit of its own and holds the VM's lock while a phase runs. A bus, a monitor, a lock and
//! a child that are all late at once must not add up, so none of them has time of its own: each may
//! take what it needs at most, and never more than is left of the whole.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::clock::Clock;

/// When a run is to end, by the time since boot. Clones share one deadline; unset, there is none.
#[derive(Debug, Clone, Default)]
pub struct Limit {
    at: Rc<Cell<Option<Duration>>>,
}

impl Limit {
    /// Lets the run go on for `time` from now, whatever was left of it.
    pub fn set(&self, clock: &dyn Clock, time: Duration) {
        self.at.set(Some(clock.since_boot().saturating_add(time)));
    }

    /// Returns what is left; zero when the time is over.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        let at = self.at.get();
        at.map_or(Duration::MAX, |at| at.saturating_sub(clock.since_boot()))
    }
}
