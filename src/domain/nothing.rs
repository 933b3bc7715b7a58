//! Reasons why an id has no VM to work on: a container, a template, another node, no table.

use super::vm::Vmid;

/// Why there is nothing to do for a guest: good news when PVE calls, a mistake by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// Only VMs own CPUs.
    #[error("{0} is a container, and only a vm can own its cpus")]
    Container(Vmid),
    /// Another node has the VM.
    #[error("vm {vmid} is on node {node}")]
    Elsewhere {
        /// Which VM.
        vmid: Vmid,
        /// Where it is.
        node: String,
    },
    /// No node of the cluster has such a VM.
    #[error("there is no vm {0}")]
    NoVm(Vmid),
    /// Nothing says which CPUs.
    #[error("vm {0} has no table in /etc/pin-hook or /etc/pve/pin-hook")]
    NoTable(Vmid),
    /// A file was meant to say it.
    #[error("vm {vmid} has no table: {found} is not read")]
    Misnamed {
        /// Which VM.
        vmid: Vmid,
        /// Where the file is.
        found: String,
        /// Where it should be.
        expected: String,
    },
    /// It is never started but for a backup.
    #[error("vm {0} is a template, which runs for backups only")]
    Template(Vmid),
}

impl Nothing {
    /// Returns what the operator can do who wanted something to be done.
    pub fn help(&self) -> String {
        match self {
            Nothing::Container(_) => {
                "containers are kept off owned cpus without a table".to_owned()
            }
            Nothing::Elsewhere { node, .. } => format!("run it on {node}"),
            Nothing::NoVm(_) => "qm list shows the vms of this node".to_owned(),
            Nothing::NoTable(vmid) => format!("pin-hook init {vmid} --write writes one"),
            Nothing::Misnamed {
                found, expected, ..
            } => {
                format!("mv {found} {expected}")
            }
            Nothing::Template(_) => "make a table for each vm that is cloned from it".to_owned(),
        }
    }
}
