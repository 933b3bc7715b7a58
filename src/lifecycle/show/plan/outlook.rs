//! What comes of a start apart from the table: whether PVE lets it happen, and calls the program.

use crate::domain::enabling::HookFault;
use crate::domain::guest::Guest;
use crate::domain::pci::outlook::Outlook;
use crate::domain::table::OnRefusal;
use crate::domain::vm::Vmid;
use crate::host::pve;
use crate::lifecycle::case::nothing::next_guest;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::hooking::snippet;

impl Run<'_> {
    /// Returns why PVE would not start the VM, or not with the program.
    pub(super) fn outlook(&self, case: &Case) -> Option<Outlook> {
        locked(case).or_else(|| self.broken_hook(case))
    }

    fn broken_hook(&self, case: &Case) -> Option<Outlook> {
        let vmid = case.vmid;
        let broken = snippet::broken(&*self.host.files, vmid, &case.guest)?;
        let summary = match broken.fault {
            HookFault::Foreign(_) => format!("a start of vm {vmid} would not call pin-hook"),
            _ => format!("vm {vmid} would not start, nothing would change"),
        };
        Some(Outlook {
            reason: broken.to_string(),
            help: broken.help(vmid, true),
            summary,
            fails: true,
        })
    }

    /// Returns the guest that a start of a VM would make.
    fn next_guest(&self, vmid: Vmid) -> Option<Guest> {
        next_guest(&*self.host.files, vmid, &self.caller.migrated_from)
    }

    fn runs(&self, vmid: Vmid) -> bool {
        matches!(pve::running(&*self.host.files, vmid), Ok(Some(_)))
    }

    /// Returns a case with the guest that a start would make of it; of a VM that runs as it is.
    pub(super) fn as_it_starts(&self, case: Case) -> Case {
        match self.next_guest(case.vmid) {
            Some(guest) if !self.runs(case.vmid) => Case { guest, ..case },
            _ => case,
        }
    }

    /// Returns what of a VM does not depend on its table.
    pub(super) fn what_runs(&self, vmid: Vmid) -> Now {
        let guest = self.next_guest(vmid);
        match self.runs(vmid) {
            true => Now::Runs,
            false if guest.is_some_and(|guest| !guest.is_hooked()) => Now::NotHooked,
            false => Now::Hooked,
        }
    }
}

/// PVE starts no VM that it is in the middle of something with; a suspended one it resumes
/// (`PVE::AbstractConfig::check_lock`).
fn locked(case: &Case) -> Option<Outlook> {
    let lock = case
        .guest
        .lock
        .as_deref()
        .filter(|lock| *lock != "suspended")?;
    let vmid = case.vmid;
    Some(Outlook {
        reason: format!("the vm is locked ({lock})"),
        help: format!("wait for the task that is running; if there is none: qm unlock {vmid}"),
        summary: format!("vm {vmid} would not start: pve refuses it while it is locked"),
        fails: true,
    })
}

/// Says so when PVE will not call the program for a VM.
pub(super) fn not_hooked(case: &Case) -> Option<String> {
    let vmid = case.vmid;
    match &case.guest.hookscript {
        _ if case.guest.is_hooked() => None,
        None => Some(format!(
            "the vm has no hookscript, so a start does none of this: pin-hook enable {vmid}"
        )),
        Some(volume) => Some(format!(
            "the hookscript of the vm is {volume}, so a start does none of this: pin-hook enable \
             {vmid} gets both called"
        )),
    }
}

/// Where a VM stands when its table cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    Runs,
    /// It does not run, and PVE would not call the program.
    NotHooked,
    Hooked,
}

impl Now {
    /// Says what becomes of a start or an apply that is refused.
    pub(super) fn refused(self, vmid: Vmid, policy: OnRefusal) -> String {
        match self {
            Now::Runs => format!("vm {vmid} keeps running as it is, nothing would change"),
            Now::NotHooked => format!(
                "vm {vmid} has no hookscript of pin-hook: it would start, and nothing would change"
            ),
            Now::Hooked => of_a_start(vmid, policy),
        }
    }
}

fn of_a_start(vmid: Vmid, policy: OnRefusal) -> String {
    match policy {
        OnRefusal::Abort => format!("vm {vmid} would not start, nothing would change"),
        OnRefusal::Warn => format!("vm {vmid} would start without cpus of its own"),
        OnRefusal::Auto => format!(
            "vm {vmid} would not start (at host boot, by ha or as a migration: would start \
             without cpus of its own)"
        ),
    }
}
