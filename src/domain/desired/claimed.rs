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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claim::ClaimState;
    use crate::domain::desired::tests::{claim, claims, facts, set, task};

    /// The host would lose CPUs to a VM whose guest does not run.
    #[test]
    fn nothing_is_kept_off_the_cpus_of_a_vm_whose_guest_does_not_run() {
        let (qemu, starter) = (task(50), task(40));
        let (deadline, reason) = (std::time::Duration::ZERO, String::new());
        for (state, expected) in [
            (ClaimState::Reserved { starter, deadline }, ""),
            (ClaimState::Waiting { qemu }, ""),
            (ClaimState::Running { qemu }, "2-4"),
            (ClaimState::Failed { qemu, reason }, ""),
        ] {
            let what = state.to_string();
            let claims = claims([Claim { state, ..claim() }]);
            let cpus = kept_off(&claims, |wishes| wishes.kernel_threads);
            assert_eq!(cpus.to_string(), expected, "{what}");
            assert!(kept_off(&claims, |wishes| wishes.hotplug).is_empty());
        }
    }

    /// The same CPUs would be tried again, and fail again.
    #[test]
    fn an_interrupt_that_found_no_vector_goes_to_other_cpus_of_the_host() {
        let claims = claims([claim()]);
        for (asked, others) in [
            ("0-1", Some("5-7")),
            ("2", Some("0-1,5-7")),
            ("0-1,5-7", None),
        ] {
            let found = other_irq_cpus(&claims, &facts(), &set(asked));
            assert_eq!(found, others.map(set), "{asked}");
        }
    }
}
