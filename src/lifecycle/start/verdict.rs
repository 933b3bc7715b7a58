//! What the operator is told at the end of a phase, and what PVE is told: go on, or abort.

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
use crate::lifecycle::engine::journal;
use crate::lifecycle::engine::report::Report;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::Worked;

/// What backend `slices` cannot do: units that do not exist yet have no property to set.
const GAP: &str = "a vm or container that starts later may run on these cpus until reconcile \
                   notices it, within 15 s";

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
        if self.aborts(vmid, policy) {
            account.fail(Exit::Refused, text, help);
        } else {
            account.warn(format!("{text}; it starts without cpus of its own"));
            account.say(Level::Help, help);
        }
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

/// Returns the backend and why, in a few words.
pub(in crate::lifecycle) fn backend(wishes: &Wishes) -> String {
    format!("{} ({})", wishes.backend, wishes.reason)
}
