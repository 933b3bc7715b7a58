//! What the operator is told at the end of a phase, and what PVE is told: go on, or abort.

use crate::domain::alert::{Alert, Kind};
use crate::domain::backend::Backend;
use crate::domain::claim::{Claim, ClaimState, Wishes};
use crate::domain::start::Purpose;
use crate::domain::state::State;
use crate::domain::table::OnRefusal;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::pve;
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::advice::help_without_cpus;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal;
use crate::lifecycle::engine::report::Report;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::Worked;

/// What backend `slices` cannot do: units that do not exist yet have no property to set.
const GAP: &str = "a vm or container that starts later may run on these cpus until reconcile \
                   notices it, within 15 s";

/// What became of a VM that runs, in the title of a notification.
const NOT_GIVEN: &str = "was not given its cpus";

impl Run<'_> {
    pub(in crate::lifecycle) fn conclude(&self, vmid: Vmid, worked: Worked, account: &mut Account) {
        match worked {
            Worked::Done(report, state) => {
                account.tell(&report);
                self.summarise(vmid, &report, &state, account);
            }
            Worked::Busy => match journal::spool(&*self.host.files, vmid) {
                Ok(()) => {
                    account.is_put_off = true;
                    units::await_reconcile(self.host, account);
                }
                Err(error) => account.fail_by(&format!("vm {vmid}: "), &error),
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
                "vm {vmid}: not everything was done in time, reconcile will finish it"
            )),
            ClaimState::Running { .. } => {
                if wishes.backend == Backend::Slices {
                    account.info(format!("vm {vmid}: {GAP}"));
                }
                account.info(format!(
                    "vm {vmid}: owns {}, {}, {}",
                    wishes.cpus.in_words(),
                    backend(wishes),
                    count(report.n_changes, "change")
                ));
            }
            ClaimState::Waiting { .. } if claim.standby.is_some() => account.info(format!(
                "vm {vmid}: started for a backup, it gets its cpus when its guest runs, if they are free then"
            )),
            ClaimState::Waiting { .. } => {
                let wait = if wishes.cpus.len() == 1 {
                    "waits"
                } else {
                    "wait"
                };
                account.info(format!(
                    "vm {vmid}: its guest is not running yet, {} {wait}",
                    wishes.cpus.in_words()
                ));
            }
            ClaimState::Reserved { .. } => {}
            ClaimState::Failed { reason, .. } => {
                let exit = if report.is_incomplete {
                    Exit::Incomplete
                } else {
                    Exit::Refused
                };
                let help = help_without_cpus(vmid);
                let cpus = wishes.cpus.in_words();
                let text = format!("vm {vmid}: cannot isolate {cpus}: {reason}");
                account.alerts.push(failed(vmid, reason, Kind::Start));
                account.fail(exit, text, help);
            }
        }
    }

    /// Reports why a start is refused, and aborts it or not as the policy says.
    pub(in crate::lifecycle) fn refuse(
        &self,
        vmid: Vmid,
        account: &mut Account,
        policy: OnRefusal,
        text: &str,
        help: impl Into<String>,
    ) {
        let help = help.into();
        let (is_error, what) = match self.aborts(vmid, policy) {
            true => (true, "was not started"),
            false => (false, "was started without cpus of its own"),
        };
        account
            .alerts
            .push(of_start(vmid, is_error, what, text, &help));
        if is_error {
            account.fail(Exit::Refused, text, help);
        } else {
            account.warn(format!("{text}; it starts without cpus of its own"));
            account.say(Level::Help, help);
        }
    }

    /// Reports why a VM that runs does not get its CPUs, which does not end the start.
    pub(super) fn go_without(
        &self,
        vmid: Vmid,
        why: &str,
        help: impl Into<String>,
        account: &mut Account,
    ) {
        let (text, help) = (format!("vm {vmid}: {why}"), help.into());
        let alert = of_start(vmid, false, NOT_GIVEN, &text, &help);
        account.alerts.push(alert);
        account.warn(format!("{text}; it runs without cpus of its own"));
        account.say(Level::Help, help);
    }

    /// Tells whether a policy aborts the start that this caller asks for.
    pub(in crate::lifecycle) fn aborts(&self, vmid: Vmid, policy: OnRefusal) -> bool {
        match policy {
            OnRefusal::Abort => true,
            OnRefusal::Warn => false,
            OnRefusal::Auto => {
                !self.caller.is_unattended() && self.purpose(vmid) != Purpose::Arrive
            }
        }
    }

    /// Returns the policy for a start that cannot have its CPUs: a backup does not need them.
    pub(in crate::lifecycle) fn about_cpus(&self, vmid: Vmid, policy: OnRefusal) -> OnRefusal {
        match self.purpose(vmid) {
            Purpose::Backup => OnRefusal::Warn,
            _ => policy,
        }
    }

    /// Returns what the start of a VM is for; without a config that can be read, to run.
    fn purpose(&self, vmid: Vmid) -> Purpose {
        let from = &self.caller.migrated_from;
        let guest = pve::guest_of(&*self.host.files, vmid, from).ok().flatten();
        let lock = guest.and_then(|guest| guest.lock);
        Purpose::of(lock.as_deref(), from)
    }
}

/// Returns that a start did not come to what its table says; `what` is what became of the VM.
fn of_start(vmid: Vmid, is_error: bool, what: &str, text: &str, help: &str) -> Alert {
    Alert {
        kind: Kind::Start,
        vmid: Some(vmid),
        is_error,
        key: text.to_owned(),
        title: format!("vm {vmid} {what}"),
        text: text.to_owned(),
        help: help.to_owned(),
    }
}

/// Returns that a VM runs for which nothing could be done.
pub(super) fn denied_at_start(vmid: Vmid, why: &Denied) -> Alert {
    let text = format!("vm {vmid}: {why}");
    of_start(vmid, true, NOT_GIVEN, &text, &why.help(vmid))
}

/// Returns that a VM runs whose CPUs could not be isolated.
pub(super) fn failed(vmid: Vmid, reason: &str, kind: Kind) -> Alert {
    let text = format!("vm {vmid}: {reason}");
    let help = help_without_cpus(vmid);
    let alert = of_start(vmid, true, NOT_GIVEN, &text, &help);
    Alert { kind, ..alert }
}

/// Returns the backend and why, in a few words.
pub(in crate::lifecycle) fn backend(wishes: &Wishes) -> String {
    format!("{} ({})", wishes.backend, wishes.reason)
}
