//! Claims that stand by: of VMs whose QEMU is started for a backup.
//!
//! Such a start never fails for CPUs and keeps nobody from them. If the guest runs nevertheless, no phase comes any
//! more: reconcile sees it and gives the VM what its table says, as if it was adopted by hand. What is not free then
//! is tried again.

use crate::domain::claim::{Claim, ClaimState, Standby, Wishes};
use crate::domain::start::Purpose;
use crate::domain::state::{Record, State};
use crate::domain::vm::TaskId;
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::{Case, Found};
use crate::lifecycle::engine::account::{Account, Level};
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::fate::{Answers, GUEST_RUNS};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::{Worked, update_claim, work};

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

    /// Gives VMs their CPUs that were started for a backup and whose guests run by now.
    pub(in crate::lifecycle) fn adopt_started(
        &self,
        state: &State,
        answers: &Answers,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        for claim in state.claims.values() {
            let run_state = answers.run_states.get(&claim.vmid);
            let runs = run_state.is_some_and(|state| state == GUEST_RUNS);
            if let (Some(qemu), true, true) = (claim.qemu(), runs, claim.standby.is_some()) {
                self.adopt_standby(claim, qemu, account)?;
            }
        }
        Ok(())
    }

    /// Gives a VM its CPUs whose guest runs and that stands by; what is in the way is told once.
    pub(in crate::lifecycle) fn adopt_standby(
        &self,
        claim: &Claim,
        qemu: TaskId,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let vmid = claim.vmid;
        let case = match read_case(self.host, vmid, &self.caller.migrated_from) {
            Ok(Found::Case(case)) => case,
            Ok(Found::Nothing(why)) => {
                return self.tell_obstacle(claim, &why.to_string(), &why.help(), account);
            }
            Err(error) => {
                return self.tell_obstacle(claim, &error.to_string(), &error.help(), account);
            }
        };
        // What is said of the table is said once it is in force.
        let mut told = Account::default();
        let worked = match self.adopt(&case, qemu, &mut told) {
            Err(Denied::Refused(refusal)) => {
                let help = refusal.help(vmid);
                return self.tell_obstacle(claim, &refusal.to_string(), &help, account);
            }
            worked => worked?,
        };
        account.absorb(told);
        self.conclude(vmid, worked, account);
        Ok(())
    }

    /// Says why a guest that runs has no CPUs of its own, unless that was said before; reconcile
    /// tries again as long as the VM stands by.
    fn tell_obstacle(
        &self,
        claim: &Claim,
        why: &str,
        help: &str,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let vmid = claim.vmid;
        if claim.obstacle() == Some(why) {
            return Ok(());
        }
        let text =
            format!("vm {vmid}: {why}; it runs without cpus of its own, reconcile will try again");
        account.warn(text);
        account.say(Level::Help, help);
        let obstacle = Some(why.to_owned());
        update_claim(self.host, vmid, account, |claim| {
            let stands_by = claim.standby.is_some();
            stands_by
                .then(|| Record::changed(claim, |next| next.standby = Some(Standby { obstacle })))
        })
    }
}
