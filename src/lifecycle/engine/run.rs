//! What every run of the program works with: the host, who called, and how long it may take.
//!
//! It knows nothing of what is done with it: phases, commands and reconcile are methods of [`Run`] beside
//! what they do.

use std::time::Duration;

use crate::domain::vm::TaskId;
use crate::host::Host;

/// Time that a phase may take. PVE has no limit of its own and holds the VM's lock meanwhile;
/// other commands give up on that lock after 10 s.
pub const PHASE_TIME: Duration = Duration::from_secs(9);

/// Time that every other command may take: nothing of PVE waits for it.
pub const PATIENT_TIME: Duration = Duration::from_secs(40);

/// Time after which a starter that is still alive counts as stuck: longer than PVE waits for the
/// largest VM to allocate its memory.
pub const START_TIME: Duration = Duration::from_secs(30 * 60);

/// Who calls, as far as it matters.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Process that called; in a phase PVE's worker that starts or stops the VM.
    pub process: TaskId,
    /// Path of the caller's cgroup.
    pub group: String,
    /// Node that the VM comes from when it migrates to this one (`PVE_MIGRATED_FROM`), or empty.
    pub migrated_from: String,
}

impl Caller {
    /// Tells whether nobody is there to read a refusal: at host boot, for HA, for a backup job, at
    /// the second half of a reboot, and when it is started again after it made room.
    pub(in crate::lifecycle) fn is_unattended(&self) -> bool {
        let services = [
            "pve-guests.service",
            "pve-ha-lrm.service",
            "pin-hook-start-",
            "pvescheduler.service",
            "qmeventd.service",
        ];
        services.iter().any(|name| self.group.contains(name))
    }
}

/// What one run of the program works with.
#[derive(Debug)]
pub struct Run<'h> {
    /// The host; its limit is when what is left is left to reconcile.
    pub host: &'h Host,
    /// Who calls.
    pub caller: Caller,
}

impl<'h> Run<'h> {
    /// Begins a run that is to take no longer than `time`.
    pub fn begin(host: &'h Host, caller: Caller, time: Duration) -> Self {
        host.allow(time);
        Run { host, caller }
    }
}
