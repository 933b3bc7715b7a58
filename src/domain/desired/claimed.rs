//! Which claims are in force, and what they take from everybody else by which means.

use crate::domain::claim::{Claim, Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::{Facts, VmFacts};

/// Returns the claims in force with the VMs that they are about.
pub(super) fn in_force<'a>(
    claims: &'a Claims,
    facts: &'a Facts,
) -> impl Iterator<Item = (&'a Claim, &'a VmFacts)> {
    let running = claims.values().filter(|claim| claim.is_running());
    running.filter_map(|claim| {
        let vm = facts.vms.get(&claim.vmid)?;
        (claim.qemu() == Some(vm.qemu)).then_some((claim, vm))
    })
}

/// Tells whether the backend takes the CPUs by a cpuset partition.
pub fn has_partition(wishes: &Wishes) -> bool {
    wishes.backend.is_partition()
}

/// Tells whether the backend keeps everything else off the CPUs.
pub fn is_exclusive(wishes: &Wishes) -> bool {
    wishes.backend.is_exclusive()
}

/// Returns the CPUs of the running claims that wish for something to be kept off them.
pub fn kept_off(claims: &Claims, wished: impl Fn(&Wishes) -> bool) -> CpuSet {
    let running = claims
        .values()
        .filter(|claim| claim.is_running() && wished(&claim.wishes));
    running.flat_map(|claim| claim.wishes.cpus.iter()).collect()
}

/// Returns the CPUs that an interrupt can go to when those that it was to go to have no vector
/// left, or `None` when there are no others.
pub fn other_irq_cpus(claims: &Claims, facts: &Facts, asked: &CpuSet) -> Option<CpuSet> {
    let owned = kept_off(claims, |wishes| wishes.interrupts);
    let others = facts.housekeeping(&owned).difference(asked);
    (!others.is_empty()).then_some(others)
}
