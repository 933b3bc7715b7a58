//! The phases of a VM's life, as PVE calls them.
//!
//! Phases are hints about when to look. Only pre-start may keep a VM from starting; the others
//! bring the claims up to date with what is alive and settle, exactly as reconcile does.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::account::{Account, Exit};
use super::fate::{self, Answers};
use super::journal::{self, read_state};
use super::report::Report;
use super::resolve::{
    Case, CaseError, Found, Resolved, foreign_partitions, look_around, read_case, resolve,
};
use super::units;
use super::work::{Worked, work};
use crate::domain::claim::{Claim, ClaimState, Wishes};
use crate::domain::desired::has_partition;
use crate::domain::refusal::{self, Refusal};
use crate::domain::state::{Record, State};
use crate::domain::table::OnRefusal;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::deadline::Deadline;
use crate::host::{Host, pve};

/// Time that a phase may take. PVE has no limit of its own and holds the VM's lock meanwhile;
/// other commands give up on that lock after 10 s.
pub const PHASE_TIME: Duration = Duration::from_secs(9);

/// Time that reconcile may take: nobody waits for it.
pub const RECONCILE_TIME: Duration = Duration::from_secs(40);

/// Time after which a starter that is still alive counts as stuck: longer than PVE waits for the
/// largest VM to allocate its memory.
const START_TIME: Duration = Duration::from_secs(30 * 60);

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
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pre-start" => Ok(Phase::PreStart),
            "post-start" => Ok(Phase::PostStart),
            "pre-stop" => Ok(Phase::PreStop),
            "post-stop" => Ok(Phase::PostStop),
            _ => Err(()),
        }
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

/// Who calls, as far as it matters.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Process that called; PVE's worker that starts the VM.
    pub process: TaskId,
    /// Path of the caller's cgroup.
    pub group: String,
    /// Node that the VM comes from when it migrates to this one (`PVE_MIGRATED_FROM`), or empty.
    pub migrated_from: String,
}

impl Caller {
    /// Tells whether nobody is there to read a refusal: at host boot, for HA, and while a VM
    /// migrates to this node.
    fn is_unattended(&self) -> bool {
        let services = ["pve-guests.service", "pve-ha-lrm.service"];
        !self.migrated_from.is_empty() || services.iter().any(|name| self.group.contains(name))
    }
}

/// What one run of the program works with.
#[derive(Debug)]
pub struct Run<'h> {
    /// The host.
    pub host: &'h Host,
    /// Who calls.
    pub caller: Caller,
    /// When what is left is left to reconcile.
    pub deadline: Deadline,
}

impl Run<'_> {
    /// Does what a phase is for.
    pub fn phase(&self, phase: Phase, vmid: Vmid) -> Account {
        let mut account = Account::default();
        let done = match phase {
            Phase::PreStart => self.pre_start(vmid, &mut account),
            Phase::PostStart => self.post_start(vmid, &mut account),
            Phase::PreStop => Ok(()),
            Phase::PostStop => self.post_stop(vmid, &mut account),
        };
        if let Err(error) = done {
            let text = format!("vm {vmid}: {error:#}");
            match phase {
                Phase::PreStart => self.refuse(&mut account, OnRefusal::Auto, &text, None),
                _ => account.fail(Exit::Refused, text, None),
            }
        }
        account
    }

    /// Reserves the CPUs, or refuses the start.
    fn pre_start(&self, vmid: Vmid, account: &mut Account) -> anyhow::Result<()> {
        let case = match self.case(vmid, account) {
            Ok(Some(case)) => case,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.refuse(account, OnRefusal::Auto, &error.to_string(), error.help());
                return Ok(());
            }
        };
        let policy = case.table.start.on_refusal;
        let starter = self.caller.process;
        let deadline = self.host.clock.since_boot() + START_TIME;
        let state = ClaimState::Reserved { starter, deadline };
        match self.claim(&case, state, &Answers::default(), account)? {
            Worked::Done(report, state) => {
                let claim = state.claims.get(&vmid);
                account.tell(&report);
                if let Some(Claim { wishes, .. }) = claim {
                    account.info(format!(
                        "vm {vmid}: cpus {} reserved, {}",
                        wishes.cpus,
                        backend(wishes)
                    ));
                }
            }
            Worked::Refused(refusal) => {
                let text = format!("vm {vmid}: {refusal}");
                self.refuse(account, policy, &text, Some(refusal.help(vmid)));
            }
            Worked::Busy => {
                let text = format!("vm {vmid}: another run of pin-hook keeps the host busy");
                let help = "start the vm again; pin-hook status shows what is going on";
                self.refuse(account, policy, &text, Some(help.to_owned()));
            }
        }
        Ok(())
    }

    /// Brings the claim into force: QEMU and its threads are there.
    fn post_start(&self, vmid: Vmid, account: &mut Account) -> anyhow::Result<()> {
        let Some(qemu) = pve::running(&*self.host.files, vmid)? else {
            account.fail(
                Exit::Refused,
                format!("vm {vmid} does not run on this node"),
                None,
            );
            return Ok(());
        };
        let known = read_state(&*self.host.files)?.claims.remove(&vmid);
        let known = known.filter(|claim| claim.qemu().is_none_or(|of| of == qemu));
        let worked = match known {
            Some(claim) => {
                let answers = self.ask(vmid, &claim.wishes, account);
                let state = self.state_of(vmid, qemu, &answers);
                self.promote(&claim, state, &answers)?
            }
            None => {
                let Some(case) = self.case(vmid, account)? else {
                    return Ok(());
                };
                self.adopt(&case, qemu, account)?
            }
        };
        self.conclude(vmid, worked, account);
        Ok(())
    }

    /// Claims the CPUs of a running VM that has no claim yet.
    pub(super) fn adopt(
        &self,
        case: &Case,
        qemu: TaskId,
        account: &mut Account,
    ) -> anyhow::Result<Worked<Refusal>> {
        let resolved = match resolve(self.host, case)? {
            Ok(resolved) => resolved,
            Err(refusal) => return Ok(Worked::Refused(refusal)),
        };
        let answers = self.ask(case.vmid, &resolved.wishes, account);
        let state = self.state_of(case.vmid, qemu, &answers);
        self.claim_resolved(case, resolved, state, &answers, account)
    }

    /// Gives the host back what the VM has owned, if it has ended.
    fn post_stop(&self, vmid: Vmid, account: &mut Account) -> anyhow::Result<()> {
        let worked = work(self.host, self.deadline, &Answers::default(), |_| {
            Ok(Ok::<_, Refusal>(Vec::new()))
        })?;
        match &worked {
            Worked::Done(report, state) if state.claims.contains_key(&vmid) => {
                account.tell(report);
                account.info(format!(
                    "vm {vmid}: runs or is being started, nothing given back"
                ));
            }
            Worked::Done(report, _) => {
                account.tell(report);
                account.info(format!(
                    "vm {vmid}: host given back, {} changes",
                    report.n_changes
                ));
            }
            Worked::Refused(_) => {}
            Worked::Busy => units::wake_reconcile(self.host),
        }
        Ok(())
    }

    fn case(&self, vmid: Vmid, account: &mut Account) -> Result<Option<Box<Case>>, CaseError> {
        match read_case(self.host, vmid, &self.caller.migrated_from)? {
            Found::Case(case) => Ok(Some(case)),
            Found::Nothing(why) => {
                account.info(why);
                Ok(None)
            }
        }
    }

    fn claim(
        &self,
        case: &Case,
        state: ClaimState,
        answers: &Answers,
        account: &mut Account,
    ) -> anyhow::Result<Worked<Refusal>> {
        match resolve(self.host, case)? {
            Ok(resolved) => self.claim_resolved(case, resolved, state, answers, account),
            Err(refusal) => Ok(Worked::Refused(refusal)),
        }
    }

    fn claim_resolved(
        &self,
        case: &Case,
        resolved: Resolved,
        state: ClaimState,
        answers: &Answers,
        account: &mut Account,
    ) -> anyhow::Result<Worked<Refusal>> {
        resolved
            .notices
            .iter()
            .for_each(|notice| account.info(format!("vm {}: {notice}", case.vmid)));
        resolved
            .warnings
            .iter()
            .for_each(|text| account.warn(format!("vm {}: {text}", case.vmid)));
        let asks = self.asks_for_reload(case.vmid, &resolved.wishes, &state);
        let mut around = look_around(self.host, &case.settings);
        work(self.host, self.deadline, answers, |now| {
            around.partitions = foreign_partitions(self.host, now);
            let checked = refusal::check(
                case.vmid,
                &resolved.wishes,
                &now.claims,
                &resolved.topology,
                &around,
            );
            let warnings = match checked {
                Ok(warnings) => warnings,
                Err(refusal) => return Ok(Err(refusal)),
            };
            warnings.iter().for_each(|text| account.warn(text.clone()));
            let iothreads = answers
                .iothreads
                .get(&case.vmid)
                .cloned()
                .unwrap_or_default();
            let claim = Claim {
                vmid: case.vmid,
                state,
                wishes: resolved.wishes,
                iothreads,
            };
            Ok(Ok(records(now, claim, asks)))
        })
    }

    fn promote(
        &self,
        claim: &Claim,
        state: ClaimState,
        answers: &Answers,
    ) -> anyhow::Result<Worked<Refusal>> {
        let vmid = claim.vmid;
        let asks = self.asks_for_reload(vmid, &claim.wishes, &state);
        let names = answers.iothreads.get(&vmid).cloned();
        let iothreads = names.unwrap_or_else(|| claim.iothreads.clone());
        let failed = matches!(claim.state, ClaimState::Failed { .. });
        let next = Claim {
            state,
            iothreads,
            ..claim.clone()
        };
        let next = if failed { claim.clone() } else { next };
        work(self.host, self.deadline, answers, |now| {
            Ok(Ok(records(now, next, asks)))
        })
    }

    /// Asks the monitor what cannot be seen from outside; a monitor that does not answer costs
    /// its deadline, and the guest is taken as running.
    fn ask(&self, vmid: Vmid, wishes: &Wishes, account: &mut Account) -> Answers {
        let mut answers = Answers::default();
        answers.ask_run_state(self.host, vmid);
        if answers.run_states.is_empty() {
            account.warn(format!(
                "vm {vmid}: its monitor does not answer, taken as running"
            ));
            answers.run_states.insert(vmid, fate::GUEST_RUNS.to_owned());
        }
        if !wishes.iothreads.is_empty() {
            answers.ask_iothreads(self.host, vmid);
        }
        answers
    }

    fn state_of(&self, vmid: Vmid, qemu: TaskId, answers: &Answers) -> ClaimState {
        let run_state = answers.run_states.get(&vmid).map(String::as_str);
        // Preparing states only: a guest that was paused on purpose keeps its CPUs.
        let waits = matches!(run_state, Some("prelaunch" | "inmigrate" | "restore-vm"));
        fate::state_of(qemu, !waits)
    }

    /// Tells whether systemd does not know that the scope of a VM is delegated, although the
    /// drop-in may be there: the live scope is asked, not believed.
    fn asks_for_reload(&self, vmid: Vmid, wishes: &Wishes, state: &ClaimState) -> bool {
        let is_up = matches!(state, ClaimState::Running { .. }) && has_partition(wishes);
        let delegated = || self.host.systemd.delegated(&format!("{vmid}.scope"));
        is_up
            && matches!(delegated(), Ok(Some(names)) if !names.iter().any(|name| name == "cpuset"))
    }

    pub(super) fn conclude(&self, vmid: Vmid, worked: Worked<Refusal>, account: &mut Account) {
        match worked {
            Worked::Done(report, state) => {
                account.tell(&report);
                self.summarise(vmid, &report, &state, account);
            }
            Worked::Refused(refusal) => {
                let text = format!("vm {vmid}: {refusal}");
                account.fail(Exit::Refused, text, Some(refusal.help(vmid)));
            }
            Worked::Busy => match journal::spool(&*self.host.files, vmid) {
                Ok(()) => units::wake_reconcile(self.host),
                Err(error) => account.fail(Exit::Refused, format!("vm {vmid}: {error:#}"), None),
            },
        }
    }

    fn summarise(&self, vmid: Vmid, report: &Report, state: &State, account: &mut Account) {
        let Some(claim) = state.claims.get(&vmid) else {
            return;
        };
        let Claim { wishes, .. } = claim;
        account.backend = Some(wishes.backend.to_string());
        match &claim.state {
            ClaimState::Running { .. } if report.is_unfinished => account.warn(format!(
                "vm {vmid}: not everything was done in time, reconcile finishes it"
            )),
            ClaimState::Running { .. } => account.info(format!(
                "vm {vmid}: owns cpus {}, {}, {} changes",
                wishes.cpus,
                backend(wishes),
                report.n_changes
            )),
            ClaimState::Waiting { .. } => account.info(format!(
                "vm {vmid}: its guest does not run yet, cpus {} wait",
                wishes.cpus
            )),
            ClaimState::Reserved { .. } => {}
            ClaimState::Failed { reason, .. } => {
                let exit = if report.is_incomplete {
                    Exit::Incomplete
                } else {
                    Exit::Refused
                };
                let help = "the vm runs without cpus of its own; pin-hook apply tries again";
                let text = format!("vm {vmid}: cannot isolate cpus {}: {reason}", wishes.cpus);
                account.fail(exit, text, Some(help.to_owned()));
            }
        }
    }

    /// Reports why a start is refused, and aborts it or not as the policy says.
    fn refuse(&self, account: &mut Account, policy: OnRefusal, text: &str, help: Option<String>) {
        let aborts = match policy {
            OnRefusal::Abort => true,
            OnRefusal::Warn => false,
            OnRefusal::Auto => !self.caller.is_unattended(),
        };
        if aborts {
            account.fail(Exit::Refused, text, help);
        } else {
            account.warn(format!("{text}; it starts without cpus of its own"));
        }
    }
}

/// Returns the records that make `claim` the VM's claim; none when it is that already.
fn records(state: &State, claim: Claim, asks_for_reload: bool) -> Vec<Record> {
    let mut records = Vec::new();
    if asks_for_reload {
        records.push(Record::Reload(true));
    }
    if state.claims.get(&claim.vmid) != Some(&claim) {
        records.push(Record::Claim(Box::new(claim)));
    }
    records
}

/// Returns the backend and why, in a few words.
fn backend(wishes: &Wishes) -> String {
    format!("{} ({})", wishes.backend, wishes.reason)
}
