//! What an operator asks for by hand: apply a table now, let go now.

use crate::domain::advice::Advised;
use crate::domain::claim::Claim;
use crate::domain::state::{Record, State};
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::table::hidden_table;
use crate::host::{pve, task};
use crate::lifecycle::case::known::{Known, known};
use crate::lifecycle::case::nothing::{There, look_up};
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::{Case, CaseError, Found};
use crate::lifecycle::devices::binding;
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::debts;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal::{busy, check_room, kept_off, read_state};
use crate::lifecycle::engine::recover::recover;
use crate::lifecycle::engine::report::Report;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::{Worked, work};

impl Run<'_> {
    /// Applies the table of a running VM as it is now.
    pub fn apply(&self, vmid: Vmid) -> Account {
        let mut account = Account::default();
        match read_case(self.host, vmid, &self.caller.migrated_from) {
            Ok(Found::Case(case)) => {
                if let Err(denied) = self.apply_case(&case, &mut account) {
                    account.deny(vmid, &denied);
                    self.tell_kept(vmid, &mut account);
                }
            }
            Ok(Found::Nothing(why)) => {
                account.fail(Exit::Refused, why.to_string(), why.help());
                self.tell_kept(vmid, &mut account);
            }
            Err(error) => {
                let exit = match error {
                    CaseError::Other(_) => Exit::Refused,
                    _ => Exit::Usage,
                };
                account.fail(exit, format!("vm {vmid}: {error}"), error.help());
                self.tell_kept(vmid, &mut account);
            }
        }
        account
    }

    /// Says what a VM has nevertheless whose table was not applied.
    fn tell_kept(&self, vmid: Vmid, account: &mut Account) {
        let claims = read_state(&*self.host.files).unwrap_or_default().claims;
        if let Some(claim) = claims.get(&vmid).filter(|claim| claim.owns()) {
            let cpus = claim.wishes.cpus.in_words();
            account.info(format!("vm {vmid} still owns {cpus}, as before"));
        }
    }

    fn apply_case(&self, case: &Case, account: &mut Account) -> Result<(), Denied> {
        let vmid = case.vmid;
        match pve::running(&*self.host.files, vmid)? {
            None => account.does_not_run(vmid),
            Some(qemu) => {
                // Half applied, it would lose what it has.
                check_room(&*self.host.files)?;
                if let Some(hidden) = hidden_table(&*self.host.files, vmid) {
                    let path = &case.table_path;
                    account.info(format!("vm {vmid}: {path} is read, {hidden} is not"));
                }
                if let Some(text) = case.on_vcpus() {
                    account.info(format!("vm {vmid}: {text}"));
                }
                let mut worked = self.adopt(case, qemu, account)?;
                if !task::is_process(&*self.host.files, qemu) {
                    let text = format!("vm {vmid} has stopped meanwhile");
                    let help = "pin-hook reconcile restores the host now";
                    account.fail(Exit::Refused, text, help);
                    return Ok(());
                }
                if let Worked::Done(report, state) = &mut worked {
                    // Where nothing is new they were not asked for.
                    units::keep_watch(self.host, state, report);
                }
                let late = match &worked {
                    Worked::Done(report, _) => report.is_unfinished.then_some(None),
                    Worked::Busy => Some(Some(kept_off(&*self.host.files))),
                };
                let owns = |state: &State| state.claims.get(&vmid).is_some_and(Claim::owns);
                let is_owner = matches!(&worked, Worked::Done(_, state) if owns(state));
                self.conclude(vmid, worked, account);
                if is_owner && !case.guest.is_hooked() {
                    account.info(format!(
                        "vm {vmid} has its cpus until it stops: pve does not call pin-hook for it before \
                         pin-hook enable {vmid}"
                    ));
                }
                if let Some(why) = late {
                    not_applied_yet(vmid, why, account);
                }
            }
        }
        Ok(())
    }

    /// Lets go of what a VM owns, or with `None` of everything, whether it runs or not.
    pub fn release(&self, vmid: Option<Vmid>) -> Account {
        let mut account = Account::default();
        if let Err(error) = self.try_release(vmid, &mut account) {
            account.fail_by("", &error);
        }
        account
    }

    fn try_release(&self, vmid: Option<Vmid>, account: &mut Account) -> anyhow::Result<()> {
        if vmid.is_none() {
            account.warn_all(recover(self.host)?);
        }
        // What reconcile gives back is let go of as well.
        let is_lost = matches!(known(self.host), Ok(Known::Rebuilt(_)));
        let mut had_something = is_lost || has_something(&read_state(&*self.host.files)?, vmid);
        // Threads that were born in the VM's partition are found and moved while the claim is
        // still there; afterwards nobody would know whose they are.
        self.catch_up_for_command(account);
        let worked = work(self.host, &Default::default(), |state| {
            had_something |= has_something(state, vmid);
            // Reconcile has said why devices are still away; without the claim drivers would take them.
            let claimed = state
                .claims
                .values()
                .filter(|claim| claim.away().is_empty());
            let claimed = claimed.map(|claim| claim.vmid);
            let ended = claimed.filter(|claimed| vmid.is_none_or(|vmid| vmid == *claimed));
            let now = self.host.clock.since_boot();
            let debts = debts::let_go(state, vmid, now);
            Ok(ended.map(Record::End).chain(debts).collect())
        })?;
        match worked {
            Worked::Done(report, state) => {
                // Traces without a record are let go of as well, but of nobody's in particular.
                let is_idle = vmid.is_some() || report.n_changes == 0;
                let nothing = (!had_something && is_idle).then(|| self.owns_nothing(vmid));
                self.conclude_release(vmid, &report, &state, nothing, account);
            }
            Worked::Busy => account.fail_by("", &busy(&*self.host.files)),
        }
        Ok(())
    }

    /// Says that there is nothing to release, and why where it is no VM of this node.
    fn owns_nothing(&self, vmid: Option<Vmid>) -> String {
        let Some(vmid) = vmid else {
            return "no vm owns cpus, nothing to release".to_owned();
        };
        match look_up(&*self.host.files, vmid, "") {
            Ok(There::Nothing(why)) => format!("{why}: nothing to release"),
            _ => format!("vm {vmid} owns no cpus, nothing to release"),
        }
    }

    /// Tells what came of letting go; `nothing` says so when there was nothing to let go of.
    fn conclude_release(
        &self,
        vmid: Option<Vmid>,
        report: &Report,
        state: &State,
        nothing: Option<String>,
        account: &mut Account,
    ) {
        account.tell(report);
        if !state.debts.is_empty() {
            self.catch_up_for_command(account);
        }
        let whose = vmid.map_or("everything".to_owned(), |vmid| format!("vm {vmid}"));
        let mut left = state.claims.values();
        let is_meant = |claim: &Claim| vmid.is_none_or(|vmid| vmid == claim.vmid);
        let is_away = left.any(|claim| is_meant(claim) && !claim.away().is_empty());
        if report.is_unfinished || is_away {
            let text = format!("{whose}: not everything was restored in time");
            let help = "pin-hook-reconcile will continue within 15 s; pin-hook status shows what \
                        is left";
            return account.fail(Exit::Incomplete, text, help);
        }
        if !report.problems.is_empty() {
            let text = format!("{whose}: not everything could be restored");
            let help = "pin-hook reconcile tries again; pin-hook status shows what is left";
            return account.fail(Exit::Incomplete, text, help);
        }
        // What reconcile has given back just before is not among them.
        let let_go = match report.n_changes {
            0 => format!("{whose} released"),
            n => format!("{whose} released, {}", count(n, "change")),
        };
        account.info(nothing.unwrap_or(let_go));
        binding::tell_lent(state, account);
    }
}

/// Tells whether a VM, or with `None` anybody, has something that can be let go of.
fn has_something(state: &State, vmid: Option<Vmid>) -> bool {
    let Some(vmid) = vmid else {
        return !state.is_empty();
    };
    let mut debts = state.debts.values();
    state.claims.contains_key(&vmid)
        || debts.any(|debt| debt.vmid == vmid || debt.owners.contains_key(&vmid))
}

/// Says that reconcile does the rest, and what `kept_off` this run: another one that does not go on by itself keeps
/// reconcile off as well.
fn not_applied_yet(vmid: Vmid, kept_off: Option<(Advised, bool)>, account: &mut Account) {
    let text = format!("vm {vmid}: its table is not applied yet");
    let rest =
        format!("pin-hook-reconcile will continue; pin-hook status {vmid} shows how far it is");
    let (text, help) = match kept_off {
        None => (text, rest),
        Some((busy, true)) => (format!("{text}: {}", busy.fact), rest),
        Some((busy, false)) => (format!("{text}: {}", busy.fact), busy.help),
    };
    account.fail(Exit::Incomplete, text, help);
}
