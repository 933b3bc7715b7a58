//! What would come of a start that pin-hook itself lets pass: PVE or QEMU may refuse it, or the VM may
//! take away what the host or another VM works with.

use super::asked::Fault;
use super::objection::{Need, Objection};
use crate::domain::vm::Vmid;

/// A start that nobody should want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Whether the VM would not run; it would run at the expense of others otherwise.
    pub fails: bool,
    /// Why, in one line.
    pub reason: String,
    /// What can be done about it.
    pub help: String,
    /// What a plan warns of besides, word for word, where it is the same.
    pub warning: String,
    /// What would come of it, in one line.
    pub summary: String,
    /// The same without the VM, in a few words.
    pub what: String,
}

impl Outlook {
    /// Returns what comes of a device that the VM cannot have.
    pub fn of_fault(vmid: Vmid, key: &str, fault: &Fault) -> Self {
        let by = fault.refused_by();
        Outlook {
            fails: true,
            reason: format!("{key}: {fault}"),
            help: fault.help(key, Some(vmid)),
            warning: format!("{key}: {fault}; {by} will refuse the start"),
            summary: format!("vm {vmid} would not start: {by} refuses {key}"),
            what: format!("{by} refuses {key}"),
        }
    }

    /// Returns what comes of a device that others need, unless the host can do without.
    pub fn of_objection(vmid: Vmid, objection: &Objection) -> Option<Self> {
        let (fails, what) = objection.what_comes_of_it()?;
        let summary = match fails {
            true => format!("vm {vmid} would not start: {what}"),
            false => format!("vm {vmid} would start and {what}"),
        };
        Some(Outlook {
            fails,
            reason: objection.to_string(),
            help: objection.help(vmid),
            warning: objection.warning(vmid),
            summary,
            what,
        })
    }
}

impl Objection {
    /// Returns whether the VM would not start for it, and what would come of it in words.
    fn what_comes_of_it(&self) -> Option<(bool, String)> {
        let (key, need, by) = match self {
            Objection::Needed { key, need, .. } => (key, need, "pve"),
            // QEMU opens the group, which another QEMU has.
            Objection::Shared { key, need, .. } => (key, need, "qemu"),
            Objection::Used { disk, .. } => {
                let text = format!("write to {}, a disk that the host uses", disk.path);
                return Some((false, text));
            }
            Objection::Taken { disk, by } => {
                let text = format!("write to {}, a disk of vm {}", disk.path, by.vmid);
                return Some((false, text));
            }
        };
        if let Need::Held(holder) = need {
            let text = format!("{by} refuses {key}, which vm {} has", holder.vmid);
            return Some((true, text));
        }
        need.loss().map(|loss| (false, loss))
    }
}

impl Need {
    /// Returns what is lost when a VM takes the function, in words; the console is given away on
    /// purpose where a host has one display.
    fn loss(&self) -> Option<String> {
        Some(match self {
            Need::Disk(disk, _) => format!("take disk {disk} from the host"),
            Need::Net(net, _) | Need::Switch(net, ..) => format!("take {net} from the host"),
            Need::DiskOfVm(of) => format!("take disk {} from vm {}", of.disk, of.vmid),
            Need::Usb(usb) => format!("take {} from vm {}", usb.key, usb.vmid),
            Need::Virtual(function, holder) => format!("take {function} from vm {}", holder.vmid),
            Need::Mediated(uuid, _) => format!("take the parent of mediated device {uuid} away"),
            Need::Console | Need::Held(_) => return None,
        })
    }
}
