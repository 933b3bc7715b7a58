//! Guests that there is nothing to do for.

use crate::domain::vm::Vmid;

/// Why there is nothing to do for a guest: good news when PVE calls, a mistake by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// Only VMs own CPUs.
    #[error("{0} is a container")]
    Container(Vmid),
    /// Another node has it, or none.
    #[error("this node has no vm {0}")]
    Absent(Vmid),
    /// Nothing says which CPUs.
    #[error("vm {0} has no table in /etc/pin-hook or /etc/pve/pin-hook")]
    NoTable(Vmid),
    /// It only runs to be backed up.
    #[error("vm {0} is a template")]
    Template(Vmid),
}

impl Nothing {
    /// Returns what the operator can do who wanted something to be done.
    pub fn help(self) -> String {
        match self {
            Nothing::Container(_) => {
                "containers are kept off owned cpus without a table".to_owned()
            }
            Nothing::Absent(_) => "qm list shows the vms of this node".to_owned(),
            Nothing::NoTable(vmid) => format!("pin-hook init {vmid} --write writes one"),
            Nothing::Template(_) => "make a table for each vm that is cloned from it".to_owned(),
        }
    }
}
