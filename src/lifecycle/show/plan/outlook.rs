//! What comes of a start apart from the table: whether PVE lets it happen, and calls the program.

use crate::domain::enabling::HookFault;
use crate::domain::guest::Guest;
use crate::domain::pci::outlook::Outlook;
use crate::domain::table::OnRefusal;
use crate::domain::vm::Vmid;
use crate::host::pve;
use crate::lifecycle::case::config::obstacle;
use crate::lifecycle::case::nothing::next_guest;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::hooking::snippet;

impl Run<'_> {
    /// Returns why PVE would not start the VM, or not with the program.
    pub(super) fn outlook(&self, case: &Case) -> Option<Outlook> {
        obstacle(self.host, case.vmid, &case.guest).or_else(|| self.broken_hook(case))
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
            warning: String::new(),
            what: broken.to_string(),
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

    /// Returns what of a VM does not depend on its table; VMs of `leaving` do not run by then.
    pub(super) fn what_runs(&self, vmid: Vmid, leaving: &[Vmid]) -> Now {
        if self.runs(vmid) {
            return Now::Runs;
        }
        let Some(guest) = self.next_guest(vmid) else {
            return Now::Hooked(None);
        };
        let outlook = obstacle(self.host, vmid, &guest).or_else(|| {
            let devices = Devices::read(self.host, vmid, &guest, leaving);
            devices
                .can_be_judged(&guest)
                .then(|| devices.outlook(vmid))?
        });
        match guest.is_hooked() {
            true => Now::Hooked(outlook),
            false => Now::NotHooked(outlook),
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Now {
    Runs,
    /// It does not run, and PVE would not call the program; what would come of a start.
    NotHooked(Option<Outlook>),
    /// PVE would call it.
    Hooked(Option<Outlook>),
}

impl Now {
    /// Says what becomes of a start or an apply that is refused.
    pub(super) fn refused(self, vmid: Vmid, policy: OnRefusal) -> String {
        let (is_hooked, outlook) = match self {
            Now::Runs => {
                return format!("vm {vmid} keeps running as it is, nothing would change");
            }
            Now::NotHooked(outlook) => (false, outlook),
            Now::Hooked(outlook) => (true, outlook),
        };
        let loss = match outlook {
            Some(outlook) if outlook.fails => return outlook.summary,
            outlook => outlook.map(|outlook| outlook.what),
        };
        match is_hooked {
            true => of_a_start(vmid, policy, loss),
            false => {
                let loss = loss.unwrap_or("nothing would change".to_owned());
                format!("vm {vmid} has no hookscript of pin-hook: it would start, and {loss}")
            }
        }
    }

    /// Says so of a table that this user may not read.
    pub(super) fn hidden(self, vmid: Vmid) -> String {
        match self {
            Now::Hooked(None) => {
                format!("what a start of vm {vmid} would change is not known without its table")
            }
            now => now.refused(vmid, OnRefusal::Abort),
        }
    }
}

/// Says what becomes of a start that is refused; `loss` is what it would cost others.
fn of_a_start(vmid: Vmid, policy: OnRefusal, loss: Option<String>) -> String {
    let loss = loss.map_or(String::new(), |loss| format!(", and {loss}"));
    match policy {
        OnRefusal::Abort => format!("vm {vmid} would not start, nothing would change"),
        OnRefusal::Warn => format!("vm {vmid} would start without cpus of its own{loss}"),
        OnRefusal::Auto => format!(
            "vm {vmid} would not start (at host boot, by ha or as a migration: would start \
             without cpus of its own{loss})"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_start_is_told_with_what_it_would_do_nevertheless() {
        let vmid: Vmid = "100".parse().unwrap();
        let outlook = |fails| Outlook {
            fails,
            reason: String::new(),
            help: String::new(),
            warning: String::new(),
            summary: "vm 100 would not start: pve refuses hostpci0".to_owned(),
            what: "take disk vda from the host".to_owned(),
        };
        for (now, policy, expected) in [
            (
                Now::Hooked(Some(outlook(true))),
                OnRefusal::Warn,
                "vm 100 would not start: pve refuses hostpci0",
            ),
            (
                Now::Hooked(Some(outlook(false))),
                OnRefusal::Auto,
                "vm 100 would not start (at host boot, by ha or as a migration: would start without cpus \
                 of its own, and take disk vda from the host)",
            ),
            (
                Now::NotHooked(Some(outlook(false))),
                OnRefusal::Abort,
                "vm 100 has no hookscript of pin-hook: it would start, and take disk vda from the host",
            ),
            (
                Now::Hooked(None),
                OnRefusal::Warn,
                "vm 100 would start without cpus of its own",
            ),
        ] {
            assert_eq!(now.refused(vmid, policy), expected);
        }
        let hidden = Now::Hooked(None).hidden(vmid);
        assert!(
            hidden.ends_with("is not known without its table"),
            "{hidden}"
        );
        let hidden = Now::NotHooked(None).hidden(vmid);
        assert!(
            hidden.ends_with("it would start, and nothing would change"),
            "{hidden}"
        );
    }
}
