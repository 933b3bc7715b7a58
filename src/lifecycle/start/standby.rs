//! Claims that stand by: of VMs whose QEMU is started for a backup.
//!
//! Such a start never fails for CPUs and keeps nobody from them.

use crate::domain::claim::{Claim, ClaimState, Standby, Wishes};
use crate::domain::start::Purpose;
use crate::domain::state::Record;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::fate::Answers;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::{Worked, work};

/// Tells whether a claim in this state stands by: the VM is started for a backup, and its guest does
/// not run.
pub(in crate::lifecycle) fn stands_by(case: &Case, state: &ClaimState) -> bool {
    !matches!(state, ClaimState::Running { .. }) && is_for_backup(case)
}

/// Tells whether a VM is locked for a backup: then it was started for that, if it did not run.
pub(in crate::lifecycle) fn is_for_backup(case: &Case) -> bool {
    Purpose::of(case.guest.lock.as_deref(), "") == Purpose::Backup
}

impl Run<'_> {
    /// Remembers a VM that is started for a backup and could not have its CPUs: it may once it runs.
    pub(in crate::lifecycle) fn stand_by_without(
        &self,
        case: &Case,
        state: ClaimState,
    ) -> Result<Worked, Denied> {
        work(self.host, &Answers::default(), |now| {
            let known = now.claims.get(&case.vmid);
            let claim = Claim {
                standby: Some(Standby::default()),
                ..Claim::new(case.vmid, state, Wishes::none(), known)
            };
            let is_new = known != Some(&claim);
            let record = is_new.then(|| Record::Claim(Box::new(claim)));
            Ok(record.into_iter().collect())
        })
    }
}
