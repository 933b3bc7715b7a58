//! What can be wrong with the VMs that a table has make room.

use super::vm::Vmid;

/// What is wrong with `yield.stop`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YieldFault {
    /// The VM itself is in it.
    #[error("vm {0} cannot make room for itself")]
    Itself(Vmid),
    /// A VM in it, or one that those have make room, has this VM make room.
    #[error("vm {other} would shut down vm {vmid} in turn ({path})")]
    Mutual {
        /// Whose table it is.
        vmid: Vmid,
        /// Whose table names it in turn.
        other: Vmid,
        /// Where that is.
        path: String,
    },
    /// There is no such guest.
    #[error("there is no vm {0}")]
    Unknown(Vmid),
    /// It is no VM.
    #[error("{0} is a container, and only vms can make room")]
    Container(Vmid),
    /// It never runs.
    #[error("vm {0} is a template, which runs for backups only")]
    Template(Vmid),
}

impl YieldFault {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        match self {
            YieldFault::Mutual { vmid, path, .. } => {
                format!("take vm {vmid} out of yield.stop in {path}, or change yield.stop here")
            }
            YieldFault::Unknown(vmid) => {
                format!("take {vmid} out of yield.stop; pin-hook list and qm list show the vms")
            }
            YieldFault::Itself(vmid) | YieldFault::Container(vmid) | YieldFault::Template(vmid) => {
                format!("take {vmid} out of yield.stop")
            }
        }
    }
}
