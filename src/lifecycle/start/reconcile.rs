//! Reconcile: the loop over all claims, run by the units and after a death.

use super::phase::Phase;
use crate::domain::claim::ClaimState;
use crate::domain::words::count;
use crate::host::tracer::remove_left_over;
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::advice::help_without_cpus;
use crate::lifecycle::engine::debts;
use crate::lifecycle::engine::fate;
use crate::lifecycle::engine::journal::{read_state, take_spooled};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::{Worked, work};

impl Run<'_> {
    /// Brings every claim up to date with what is alive and settles.
    ///
    /// Says nothing when nothing was to be done, because it runs every few seconds.
    pub fn reconcile(&self) -> Account {
        let mut account = Account::default();
        for vmid in take_spooled(&*self.host.files) {
            account
                .lines
                .extend(self.phase(Phase::PostStart, vmid).lines);
        }
        // Somebody's measurement was killed. What cannot be removed now can be the next time.
        let _ = remove_left_over(&*self.host.files);
        if let Err(error) = self.reconcile_claims(&mut account) {
            account.fail_by("", &error);
        }
        account
    }

    fn reconcile_claims(&self, account: &mut Account) -> anyhow::Result<()> {
        let known = read_state(&*self.host.files)?;
        let answers = fate::ask_monitors(self.host, &known);
        let asked = debts::ask(self.host, &known);
        let worked = work(self.host, &answers, |now| {
            Ok(debts::pay(self.host, now, &asked, account)?)
        })?;
        let Worked::Done(report, state) = worked else {
            return Ok(());
        };
        account.tell(&report);
        self.bring_back(&state, account)?;
        self.adopt_started(&state, &answers, account)?;
        self.give_drivers_back(account)?;
        if report.n_changes > 0 {
            let changes = count(report.n_changes, "change");
            account.info(format!("reconcile: {changes}"));
        }
        if report.is_incomplete {
            account.exit = account.exit.max(Exit::Incomplete);
        }
        for claim in state.claims.values() {
            if let ClaimState::Failed { reason, .. } = &claim.state {
                let vmid = claim.vmid;
                let help = help_without_cpus(vmid);
                account.fail(Exit::Refused, format!("vm {vmid}: {reason}"), help);
            }
        }
        if report.essential().is_some() {
            account.exit = account.exit.max(Exit::Refused);
        }
        Ok(())
    }
}
