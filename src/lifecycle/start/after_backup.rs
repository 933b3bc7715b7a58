//! VMs that were started for a backup and whose guests run nevertheless.
//!
//! No phase comes any more then: reconcile sees it and gives the VM what its table says, as if it was
//! adopted by hand. What is not free then is tried again.

use crate::domain::claim::{Claim, Standby};
use crate::domain::state::{Record, State};
use crate::domain::vm::{TaskId, Vmid};
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::Found;
use crate::lifecycle::engine::account::{Account, Level};
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::fate::{Answers, GUEST_RUNS};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::work;

impl Run<'_> {
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
        let next = Standby {
            obstacle: Some(why.to_owned()),
        };
        self.change_standby(vmid, &next)
    }

    fn change_standby(&self, vmid: Vmid, next: &Standby) -> anyhow::Result<()> {
        work(self.host, &Answers::default(), |now| {
            let claim = now.claims.get(&vmid);
            let claim = claim.filter(|claim| claim.standby.is_some());
            let changed = claim.map(|claim| Claim {
                standby: Some(next.clone()),
                ..claim.clone()
            });
            let records = changed.map(|claim| Record::Claim(Box::new(claim)));
            Ok(records.into_iter().collect())
        })?;
        Ok(())
    }
}
