//! What the parts of the decision look at beside the claims.

use std::collections::BTreeMap;

use crate::domain::cpuset::CpuSet;
use crate::domain::facts::{Facts, VmFacts};
use crate::domain::state::Held;
use crate::domain::target::Target;

/// Everything that wishes depend on beside the claims: what is in our hands and what is observed.
pub(super) struct View<'a> {
    /// Targets in our hands, with their baselines.
    pub(super) held: &'a BTreeMap<Target, Held>,
    /// The host as it is.
    pub(super) facts: &'a Facts,
    /// CPUs of running claims that everything else is kept off by its unit or cgroup.
    pub(super) taken: CpuSet,
}

impl View<'_> {
    /// Returns the CPUs that a target in our hands is given back to.
    pub(super) fn baseline(&self, target: &Target) -> Option<&CpuSet> {
        self.held.get(target).and_then(|held| held.baseline.cpus())
    }

    /// Returns the CPUs that a VM's scope leaves its threads.
    pub(super) fn effective<'v>(&'v self, vm: &'v VmFacts) -> &'v CpuSet {
        vm.effective.as_ref().unwrap_or(&self.facts.shared)
    }
}
