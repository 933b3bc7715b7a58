//! Partitions and the probes of PCI drivers: from Linux 7.0 on the first wait for the others, with locks
//! held that systemd needs as well. So none comes or goes while a driver is probing, and no driver is given
//! back while one may; what a child is late with is not touched again before it has ended.

use super::settling::Settling;
use crate::domain::claim::Claim;
use crate::domain::desired::has_partition;
use crate::domain::diff::Diff;
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::{Host, probe};
use crate::lifecycle::engine::at_work;

/// Why nothing is done about cgroups at the moment.
const PROBING: &str = "a driver is probing a pci device, and on this kernel partitions wait for that: \
                       reconcile does the rest afterwards";

impl Settling<'_, '_> {
    /// Tells whether the changes of a stage would wait for a driver, or for whoever waits for one; then they
    /// are reconcile's.
    pub(super) fn waits_for_probe(&mut self, stage: Stage, diff: &Diff) -> bool {
        let is_of_cgroups = matches!(stage, Stage::Partition | Stage::Members | Stage::Containers);
        let waits = is_of_cgroups
            && !diff.changes.is_empty()
            && probe::partitions_wait(&*self.host.files)
            && is_probing(self.host, self.journal.state());
        if waits {
            self.leave_to_reconcile(PROBING.to_owned());
        }
        waits
    }
}

/// Tells whether a driver is probing a device, or is about to for us.
fn is_probing(host: &Host, state: &State) -> bool {
    probe::is_under_way(&*host.files) || !at_work::functions(host, state).is_empty()
}

/// Tells whether a partition is to come or go, so that no driver may be made to probe: one of a VM that is
/// being started, whose CPUs are being settled or that is being stopped, and one whose VM has ended.
pub fn partition_is_near(host: &Host, state: &State) -> bool {
    let is_near = |claim: &Claim| {
        let comes = claim.state.is_reserved();
        has_partition(&claim.wishes) && (comes || claim.is_unproven || claim.ending.is_some())
    };
    let owns = |vmid: Vmid| state.claims.get(&vmid).is_some_and(Claim::is_running);
    let goes = |target: &Target| {
        target.partitioned().is_some() && target.vmid().is_none_or(|vmid| !owns(vmid))
    };
    probe::partitions_wait(&*host.files)
        && (state.claims.values().any(is_near) || state.held.keys().any(goes))
}
