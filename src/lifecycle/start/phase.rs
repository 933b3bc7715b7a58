//! The phases of a VM's life, as PVE calls them.
//!
//! Phases are hints about when to look. Only pre-start may keep a VM from starting; the others
//! bring the claims up to date with what is alive and settle, exactly as reconcile does.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::notify::PHASE_WAIT;
use super::verdict::{backend, denied_at_start};
use crate::domain::backend::Backend;
use crate::domain::claim::{Claim, ClaimState};
use crate::domain::state::Record;
use crate::domain::table::OnRefusal;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::starter::starter;
use crate::host::{probe, pve, task};
use crate::lifecycle::case::assess::Prospect;
use crate::lifecycle::case::resolve::{read_case, state_for};
use crate::lifecycle::case::texts::{Case, CaseError, Found, read_settings};
use crate::lifecycle::devices::binding;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::debts;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::fate::{self, Answers};
use crate::lifecycle::engine::journal::{kept_off, read_state};
use crate::lifecycle::engine::run::{Run, START_TIME};
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::{Worked, update_claim, work};

/// Time after which a VM that was to be stopped counts as running on: longer than PVE waits for a guest to
/// shut down, if nobody asks for more.
const STOP_TIME: Duration = Duration::from_secs(5 * 60);

/// Phase of a VM's life, the second argument of a hookscript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before anything of the VM exists; may refuse.
    PreStart,
    /// QEMU and its vCPU threads exist.
    PostStart,
    /// The VM is about to be stopped, perhaps in vain.
    PreStop,
    /// QEMU has ended, of this run or of an earlier one.
    PostStop,
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use Phase::{PostStart, PostStop, PreStart, PreStop};
        let mut all = [PreStart, PostStart, PreStop, PostStop].into_iter();
        let named = all.find(|phase| phase.to_string() == text);
        named.ok_or_else(|| format!("\"{text}\" is not a phase"))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::PreStart => "pre-start",
            Phase::PostStart => "post-start",
            Phase::PreStop => "pre-stop",
            Phase::PostStop => "post-stop",
        })
    }
}

impl Run<'_> {
    /// Does what a phase is for, and has PVE notify an admin of what nobody may see.
    pub fn phase(&self, phase: Phase, vmid: Vmid) -> Account {
        let mut account = self.perform(phase, vmid, || self.by_starter(vmid));
        self.notify(&mut account, PHASE_WAIT);
        account
    }

    /// Does what a phase is for; `called` is this run as it counts where it matters who called.
    pub(super) fn perform<'r>(
        &self,
        phase: Phase,
        vmid: Vmid,
        called: impl FnOnce() -> Run<'r>,
    ) -> Account {
        let mut account = Account::default();
        let done = match phase {
            Phase::PreStart => {
                called().pre_start(vmid, &mut account);
                Ok(())
            }
            Phase::PostStart => self.post_start(vmid, called, &mut account),
            Phase::PreStop => called().pre_stop(vmid, &mut account),
            Phase::PostStop => self.post_stop(vmid, &mut account),
        };
        if let Err(denied) = done {
            account.deny(vmid, &denied);
            if phase == Phase::PostStart {
                account.alerts.push(denied_at_start(vmid, &denied));
            }
        }
        account
    }

    /// Returns this run as one of the holder of PVE's lock of the VM, even if another hookscript has called this
    /// program. Reading `/proc/locks` has the kernel wait for all of its CPUs (`percpu_down_write()`), some 20 ms in
    /// the lab, so only those ask for it to whom it matters who called.
    fn by_starter(&self, vmid: Vmid) -> Run<'_> {
        let files = &*self.host.files;
        let mut caller = self.caller.clone();
        if let Some(starter) = starter(files, vmid) {
            let group = task::cgroup_of(files, starter.tid, starter.tid);
            caller.group = group.unwrap_or(caller.group);
            caller.process = starter;
        }
        Run {
            host: self.host,
            caller,
        }
    }

    /// Reserves the CPUs, or refuses the start.
    fn pre_start(&self, vmid: Vmid, account: &mut Account) {
        let case = match self.case(vmid, account) {
            Ok(Some(case)) => case,
            Ok(None) => return,
            Err(error) => {
                let policy = self.about_cpus(vmid, self.usual_policy());
                return self.refuse(vmid, account, policy, &error.to_string(), error.help());
            }
        };
        match self.runs_already(vmid) {
            Ok(true) => {
                let text = format!("vm {vmid}: already running, its claim stays as it is");
                return account.info(text);
            }
            Ok(false) => {}
            Err(error) => {
                let text = format!("vm {vmid}: {error:#}");
                return self.refuse(
                    vmid,
                    account,
                    case.table.start.on_refusal,
                    &text,
                    help_for(&error),
                );
            }
        }
        let room = self.make_room(&case, account);
        if let Err(denied) = room.and_then(|()| self.reserve(&case, account)) {
            let policy = match &denied {
                // A backup does without cpus, not without what its devices need.
                Denied::Refused(refusal) if refusal.is_about_devices() => {
                    case.table.start.on_refusal
                }
                _ => self.about_cpus(vmid, case.table.start.on_refusal),
            };
            let text = format!("vm {vmid}: {denied}");
            self.refuse(vmid, account, policy, &text, denied.help(vmid));
        }
    }

    /// Returns what is done about a refusal where no table says it.
    fn usual_policy(&self) -> OnRefusal {
        let settings = read_settings(self.host);
        settings.map_or(OnRefusal::Auto, |settings| settings.defaults.on_refusal)
    }

    /// Tells whether the VM runs, as PVE sees it, with what its claim is about: then PVE does not start it.
    /// Somebody who calls the phase by hand would take its CPUs from it.
    fn runs_already(&self, vmid: Vmid) -> anyhow::Result<bool> {
        let files = &*self.host.files;
        let running = pve::running(files, vmid).ok().flatten();
        let state = read_state(files)?;
        Ok(running.is_some() && running == state.claims.get(&vmid).and_then(Claim::qemu))
    }

    /// Reserves the CPUs when the VMs have gone that are to make room.
    fn reserve(&self, case: &Case, account: &mut Account) -> Result<(), Denied> {
        let vmid = case.vmid;
        let starter = self.caller.process;
        let deadline = self.host.clock.since_boot() + START_TIME;
        let state = ClaimState::Reserved { starter, deadline };
        self.bring_back_own(vmid, account)?;
        let preparation = self.preparation(case)?;
        let prospect = Prospect::of(self.host, case, Some(&state_for(self.host, case)?));
        let worked = self.claim_as(case, prospect, state, &Answers::default(), account)?;
        let Worked::Done(report, state) = worked else {
            let (mut late, goes_on) = kept_off(&*self.host.files);
            if goes_on {
                late.help = format!("start vm {vmid} again; lslocks shows which process it is");
            }
            return Err(Denied::Failed(late.into()));
        };
        account.tell(&report);
        self.prepare(vmid, &preparation, account)?;
        match state.claims.get(&vmid) {
            None => {}
            Some(claim) if claim.standby.is_some() => {
                account.info(format!("vm {vmid}: started for a backup, no cpus reserved"));
            }
            Some(Claim { wishes, .. }) => account.info(format!(
                "vm {vmid}: {} reserved, {}",
                wishes.cpus.in_words(),
                backend(wishes)
            )),
        }
        self.fill_pools(case, account)?;
        self.undo_preparation(vmid, &preparation, account)?;
        Ok(())
    }

    /// Brings the claim into force: QEMU and its threads are there.
    fn post_start<'r>(
        &self,
        vmid: Vmid,
        called: impl FnOnce() -> Run<'r>,
        account: &mut Account,
    ) -> Result<(), Denied> {
        let Some(qemu) = pve::running(&*self.host.files, vmid)? else {
            // For a container or a template PVE calls in every phase too.
            if self.case(vmid, account)?.is_some() {
                account.does_not_run(vmid);
            }
            return Ok(());
        };
        let known = read_state(&*self.host.files)?.claims.remove(&vmid);
        let known = known.filter(|claim| claim.qemu().is_none_or(|of| of == qemu));
        let worked = match known {
            Some(claim) => {
                // What was settled to the end is as it was asked for: a repeated phase asks nobody.
                let (state, answers) = match fate::is_settled(&claim) {
                    true => (claim.state.clone(), fate::ask_names(self.host, &claim)),
                    false => {
                        let answers = self.ask(vmid, &claim.wishes, account);
                        (self.state_of(vmid, qemu, &answers), answers)
                    }
                };
                if claim.standby.is_some() && matches!(state, ClaimState::Running { .. }) {
                    return Ok(self.adopt_standby(&claim, qemu, account)?);
                }
                self.promote(&claim, state, &answers)?
            }
            None => {
                let run = called();
                let case = match run.case(vmid, account) {
                    Ok(Some(case)) => case,
                    Ok(None) => return Ok(()),
                    Err(error) if !run.aborts(vmid, run.usual_policy()) => {
                        run.go_without(vmid, &error.to_string(), error.help(), account);
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                };
                let on_refusal = case.table.start.on_refusal;
                match run.adopt(&case, qemu, account) {
                    Err(Denied::Refused(refusal)) if !run.aborts(vmid, on_refusal) => {
                        run.go_without(vmid, &refusal.to_string(), refusal.help(vmid), account);
                        return Ok(());
                    }
                    worked => worked?,
                }
            }
        };
        self.conclude(vmid, worked, account);
        Ok(())
    }

    /// Has the partition go without waiting when QEMU ends: systemd removes it then, before any phase is
    /// called, and on some kernels would wait for whatever driver is probing a device. The stop may be in
    /// vain, so the CPUs stay the VM's.
    fn pre_stop(&self, vmid: Vmid, account: &mut Account) -> Result<(), Denied> {
        let is_isolated =
            |claim: &Claim| claim.is_running() && claim.wishes.backend == Backend::Isolated;
        let known = read_state(&*self.host.files)?.claims.remove(&vmid);
        if !known.is_some_and(|claim| is_isolated(&claim))
            || !probe::partitions_wait(&*self.host.files)
        {
            return Ok(());
        }
        let ending = Some(self.host.clock.since_boot() + STOP_TIME);
        update_claim(self.host, vmid, account, |claim| {
            let next = Record::changed(claim, |next| {
                next.ending = ending;
                next.stopper = Some(self.caller.process);
            });
            is_isolated(claim).then_some(next)
        })?;
        Ok(())
    }

    /// Gives the host back what the VM has owned, if it has ended.
    fn post_stop(&self, vmid: Vmid, account: &mut Account) -> Result<(), Denied> {
        let worked = work(self.host, &Answers::default(), |_| Ok(Vec::new()))?;
        match &worked {
            Worked::Done(report, state) if state.claims.contains_key(&vmid) => {
                account.tell(report);
                let is_reserved = |claim: &Claim| claim.state.is_reserved();
                let why = match state.claims.get(&vmid).is_some_and(is_reserved) {
                    true => {
                        "its cpus are reserved for a start until pin-hook release, or until the \
                             process that began it ends"
                    }
                    false => "it is running",
                };
                account.info(format!("vm {vmid}: nothing restored: {why}"));
            }
            Worked::Done(report, state) => {
                account.tell(report);
                let done = match (report.is_unfinished, report.n_changes) {
                    (true, _) => "host not restored in time, reconcile will finish it",
                    (false, 0) => "nothing left to restore",
                    (false, _) => "host restored",
                };
                let changes = count(report.n_changes, "change");
                account.info(format!("vm {vmid}: {done}, {changes}"));
                debts::announce(self.host, state, account);
                binding::tell_lent(state, account);
            }
            Worked::Busy => units::wake_reconcile(self.host),
        }
        Ok(())
    }

    fn case(&self, vmid: Vmid, account: &mut Account) -> Result<Option<Box<Case>>, CaseError> {
        match read_case(self.host, vmid, &self.caller.migrated_from)? {
            Found::Case(case) => Ok(Some(case)),
            Found::Nothing(why) => {
                account.info(format!("{why}: nothing to do"));
                Ok(None)
            }
        }
    }
}
