//! QEMU's monitor (QMP) of a VM: JSON lines on `/run/qemu-server/<vmid>.qmp`.
//!
//! The socket serves one client at a time and PVE needs it too, so every call connects, asks one
//! thing and disconnects within a short deadline.

use std::fmt::Debug;

use crate::domain::vm::Vmid;

/// What the program asks of a VM's monitor.
pub trait Qmp: Debug {
    /// Returns the run state (`query-status`), such as `running`, `prelaunch` or `inmigrate`.
    fn run_state(&self, vmid: Vmid) -> anyhow::Result<String>;
    /// Returns name and thread id of the iothreads (`query-iothreads`).
    fn iothreads(&self, vmid: Vmid) -> anyhow::Result<Vec<(String, i32)>>;
    /// Returns index and thread id of the vCPUs (`query-cpus-fast`).
    fn vcpus(&self, vmid: Vmid) -> anyhow::Result<Vec<(u32, i32)>>;
}
