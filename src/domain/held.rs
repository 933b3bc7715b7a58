//! What is remembered of a changed target: earlier values, our values, and how often a write was tried.

use std::time::Duration;

use super::state::Held;
use super::target::{Target, Value};

/// Period in which re-assertions of one target are counted.
const REASSERT_PERIOD: Duration = Duration::from_secs(600);
/// Re-assertions within that period after which somebody else's value is left in place.
const REASSERT_LIMIT: usize = 3;

/// Times that a value is tried which the kernel refuses.
pub(super) const REFUSAL_LIMIT: u8 = 3;

/// Earlier values that are remembered of one target: those of every set of claims of three VMs.
const MAX_EARLIER: usize = 8;

impl Held {
    /// Returns what is remembered of a target at its first touch.
    pub fn new(baseline: Value, ours: Value) -> Self {
        Held {
            baseline,
            ours,
            before: None,
            reasserted: Vec::new(),
            unchangeable: false,
            refused: 0,
            earlier: Vec::new(),
            asked: false,
            due: None,
        }
    }

    /// Tells whether nothing can be given back: the kernel keeps an interrupt that nobody can move
    /// where it was, but it may itself have moved a kernel thread that refused our CPUs.
    pub(super) fn is_given_up(&self, target: &Target) -> bool {
        let was_tried = self.refused >= REFUSAL_LIMIT || matches!(target, Target::Knob(..));
        self.unchangeable && was_tried
    }

    /// Tells whether another writer has reset this setting to its baseline: the kernel does not do that by itself.
    pub(super) fn was_set_back(&self, target: &Target, live: &Value) -> bool {
        let is_kept = target.row().is_some_and(|row| row.is_kept);
        is_kept && self.before.is_none() && self.baseline == *live && self.ours != *live
    }

    /// Forgets that the kernel refused something else than what is to be written now.
    pub(super) fn expect(&mut self, value: &Value) {
        if self.ours != *value {
            self.refused = 0;
        }
    }

    /// Makes a value ours; the one before stays known as one that was.
    pub fn turn_to(&mut self, value: &Value) {
        if self.ours == *value {
            return;
        }
        let old = std::mem::replace(&mut self.ours, value.clone());
        self.refused = 0;
        let baseline = &self.baseline;
        self.earlier
            .retain(|earlier| *earlier != old && earlier != value);
        if old != *baseline {
            self.earlier.insert(0, old);
        }
        self.earlier.truncate(MAX_EARLIER);
    }

    /// Returns the values that are nobody else's: ours, now and earlier, and what it had before.
    pub(super) fn known(&self) -> impl Iterator<Item = &Value> {
        let now = [Some(&self.ours), self.before.as_ref(), Some(&self.baseline)];
        now.into_iter().flatten().chain(&self.earlier)
    }

    /// Forgets how often somebody else's value was replaced and ours was refused; returns whether
    /// there was anything to forget.
    pub fn begin_anew(&mut self) -> bool {
        let was_counted = self.refused > 0 || !self.reasserted.is_empty();
        self.refused = 0;
        self.reasserted.clear();
        was_counted
    }

    /// Counts one more re-assertion; returns whether it may be made, or there were too many of late.
    pub(super) fn reassert(&mut self, now: Duration) -> bool {
        self.reasserted
            .retain(|at| now.saturating_sub(*at) < REASSERT_PERIOD);
        let is_allowed = self.reasserted.len() < REASSERT_LIMIT;
        if is_allowed {
            self.reasserted.push(now);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests;
