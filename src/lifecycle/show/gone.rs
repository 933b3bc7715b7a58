//! VMs that own CPUs and run, while this node has no config of them: nothing but the end of the process ends
//! that.

use std::fmt;

use serde::Serialize;

use crate::domain::cpuset::CpuSet;
use crate::domain::nothing::Nothing;
use crate::domain::state::State;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::lifecycle::case::nothing::{There, look_up};
use crate::lifecycle::engine::look::is_over;

/// A VM that owns CPUs and runs without a config on this node; prints as one line without a dot.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// Which VM.
    pub vmid: Vmid,
    /// What it owns.
    pub cpus: CpuSet,
    /// Its QEMU.
    pub process: i32,
    /// Why there is no config.
    pub reason: String,
    /// What ends that.
    #[serde(skip)]
    pub help: String,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vmid, cpus, process) = (self.vmid, self.cpus.in_words(), self.process);
        let runs = format!("vm {vmid} owns {cpus} and runs as process {process}");
        write!(f, "{runs}, but {}", self.reason)
    }
}

/// Returns the VMs that own CPUs and run without a config on this node.
pub(super) fn gone(host: &Host, state: &State) -> Vec<Gone> {
    let claims = state.claims.values().filter(|claim| claim.owns());
    let claims = claims.filter(|claim| !is_over(host, claim));
    let gone = claims.filter_map(|claim| {
        let (vmid, process) = (claim.vmid, claim.qemu()?.tid);
        let Ok(There::Nothing(why)) = look_up(&*host.files, vmid, "") else {
            return None;
        };
        let kill = format!("kill {process}, then pin-hook reconcile");
        let help = match why {
            Nothing::Elsewhere { .. } => {
                format!("the end of a migration ends it; if none is under way: {kill}")
            }
            _ => format!("put /etc/pve/qemu-server/{vmid}.conf back, or end it: {kill}"),
        };
        Some(Gone {
            vmid,
            cpus: claim.wishes.cpus.clone(),
            process,
            reason: match why {
                Nothing::NoVm(_) => "its config is gone".to_owned(),
                why => why.to_string(),
            },
            help,
        })
    });
    gone.collect()
}
