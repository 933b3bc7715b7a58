//! What is born while a target is narrowed, and what it would have had without us.

use crate::domain::cpuset::CpuSet;
use crate::domain::state::Held;
use crate::domain::target::Value;

/// What objects inherit that are born while a target is narrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited<'a> {
    narrowed: [Option<&'a CpuSet>; 2],
    pub(super) baseline: &'a CpuSet,
}

impl<'a> Inherited<'a> {
    /// Returns what is inherited of a target in hand: its value, and the one that it had before
    /// that was written, because something may have been born right before.
    pub(super) fn of(held: &'a Held) -> Option<Self> {
        let values = [Some(&held.ours), held.before.as_ref()];
        let narrowed = |value: &&Value| **value != held.baseline;
        Some(Inherited {
            narrowed: values.map(|value| value.filter(narrowed).and_then(Value::cpus)),
            baseline: held.baseline.cpus()?,
        })
    }

    /// Returns what an object with the CPUs `live` would have had without us, if it was born with
    /// one of what the kernel gives it `at_birth` of a narrowed value, or with all of that.
    pub(super) fn natural(
        &self,
        live: &CpuSet,
        at_birth: &[&dyn Fn(&CpuSet) -> CpuSet],
    ) -> Option<CpuSet> {
        let narrowed = || self.narrowed.iter().flatten();
        let is_born =
            |given: &&&dyn Fn(&CpuSet) -> CpuSet| narrowed().any(|cpus| given(cpus) == *live);
        if let Some(given) = at_birth.iter().find(is_born) {
            return Some(given(self.baseline));
        }
        let is_whole = narrowed().any(|cpus| *cpus == live);
        is_whole.then(|| self.baseline.clone())
    }
}
