//! Reconcile: the loop over all claims, run by the units and after a death.

use super::notify::PATIENT_WAIT;
use super::phase::Phase;
use super::verdict::failed;
use crate::domain::alert::{Alert, Kind};
use crate::domain::claim::ClaimState;
use crate::domain::state::State;
use crate::domain::words::count;
use crate::host::pve;
use crate::host::tracer::remove_left_over;
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::advice::help_without_cpus;
use crate::lifecycle::engine::debts;
use crate::lifecycle::engine::fate;
use crate::lifecycle::engine::journal::{busy, read_state, spooled, unspool};
use crate::lifecycle::engine::report::{Problem, Report};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::{Worked, work};

impl Run<'_> {
    /// Brings every claim up to date with what is alive and settles.
    ///
    /// Says nothing when nothing was to be done, because it runs every few seconds; that another run keeps it
    /// from that it says.
    pub fn reconcile(&self) -> Account {
        let mut account = Account::default();
        units::stop_again(self.host);
        match self.catch_up(&mut account) {
            Ok(Some((report, state))) => conclude(&report, &state, &mut account),
            Ok(None) => {
                account.fail_by("", &busy(&*self.host.files));
                account.exit = Exit::Incomplete;
            }
            Err(error) => account.fail_by("", &error),
        }
        self.notify(&mut account, PATIENT_WAIT);
        account
    }

    /// Does what reconcile does for another command, which tells by itself what came of it for its VM: what could
    /// not be done for others is said and is no failure of the command.
    pub(in crate::lifecycle) fn catch_up_for_command(&self, account: &mut Account) {
        let mut told = Account::default();
        if let Err(error) = self.catch_up(&mut told) {
            told.fail_by("", &error);
        }
        let exit = Exit::Done;
        account.absorb(Account { exit, ..told });
    }

    /// Fulfils the wishes that were left, brings every claim up to date and settles; returns what came of it, or
    /// `None` when another run kept the host lock too long.
    fn catch_up(&self, account: &mut Account) -> anyhow::Result<Option<(Box<Report>, State)>> {
        for vmid in spooled(&*self.host.files) {
            // It may have stopped since.
            if pve::running(&*self.host.files, vmid)?.is_none() {
                unspool(&*self.host.files, vmid);
                continue;
            }
            let caller = self.caller.clone();
            let told = self.perform(Phase::PostStart, vmid, || Run {
                host: self.host,
                caller,
            });
            if !told.is_put_off {
                unspool(&*self.host.files, vmid);
            }
            account.absorb(told);
        }
        // Somebody's measurement was killed. What cannot be removed now can be the next time.
        let _ = remove_left_over(&*self.host.files);
        let known = read_state(&*self.host.files)?;
        let answers = fate::ask_monitors(self.host, &known);
        let asked = debts::ask(self.host, &known);
        let worked = work(self.host, &answers, |now| {
            Ok(debts::pay(self.host, now, &asked, account)?)
        })?;
        let Worked::Done(report, state) = worked else {
            return Ok(None);
        };
        account.tell(&report);
        self.bring_back(&state, account)?;
        self.adopt_started(&state, &answers, account)?;
        self.give_drivers_back(account)?;
        Ok(Some((report, state)))
    }
}

/// Says how much was changed, and which VMs run without CPUs of their own.
fn conclude(report: &Report, state: &State, account: &mut Account) {
    if report.n_changes > 0 {
        let changes = count(report.n_changes, "change");
        account.info(format!("reconcile: {changes}"));
    }
    if report.is_incomplete {
        account.exit = account.exit.max(Exit::Incomplete);
    }
    // What is late is done by the next run, and what the kernel refuses is told once.
    let lasting = report.problems.iter();
    let lasting = lasting.filter(|problem| !problem.is_known && !problem.is_late);
    account.alerts.extend(lasting.map(not_set));
    for claim in state.claims.values() {
        if let ClaimState::Failed { reason, .. } = &claim.state {
            let vmid = claim.vmid;
            let help = help_without_cpus(vmid);
            account.alerts.push(failed(vmid, reason, Kind::State));
            account.fail(Exit::Refused, format!("vm {vmid}: {reason}"), help);
        }
    }
    if report.essential().is_some() {
        account.exit = account.exit.max(Exit::Refused);
    }
}

/// Returns that something that is looked after could not be set.
fn not_set(problem: &Problem) -> Alert {
    let name = &problem.name;
    Alert {
        kind: Kind::State,
        vmid: problem.whose,
        is_error: problem.is_essential,
        key: format!("not set: {name}"),
        title: format!("{name} cannot be set"),
        text: problem.to_string(),
        help: "pin-hook status shows what differs".to_owned(),
    }
}
