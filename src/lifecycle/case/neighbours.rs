//! VMs that a table has make room: which of them run, and whether they can be shut down.

use serde::Serialize;

use super::texts::Case;
use crate::domain::debt::{NoYield, starting_units};
use crate::domain::start::Purpose;
use crate::domain::state::State;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::{Host, cgroup, cluster, pve};
use crate::lifecycle::engine::look::is_denied;

/// A VM that is to make room and has not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Which VM.
    pub vmid: Vmid,
    /// Its QEMU process; `None`: it is being started again for us right now, or has yet to end.
    pub qemu: Option<TaskId>,
    /// Why it cannot make room, if it cannot.
    pub obstacle: Option<NoYield>,
}

/// Returns the VMs of the table that run on this node, or are being started again for us.
///
/// # Errors
/// What runs cannot be told, or a config cannot be read.
pub fn neighbours(host: &Host, case: &Case) -> anyhow::Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    for vmid in &case.table.yields.stop {
        let is_starting = || {
            let units = starting_units(*vmid);
            host.systemd.is_any_active(&units).unwrap_or(false)
        };
        // PVE takes a process for ended while it still lets go of its memory and devices.
        let is_there = || cgroup::is_populated(&*host.files, &cgroup::scope_of(*vmid));
        let qemu = pve::running(&*host.files, *vmid)?;
        if qemu.is_some() && is_only_read(host, *vmid)? {
            continue;
        }
        if qemu.is_some() || is_there() || is_starting() {
            found.push(Neighbour {
                vmid: *vmid,
                qemu,
                obstacle: obstacle(host, *vmid)?,
            });
        }
    }
    Ok(found)
}

/// Returns the state as it will be when those that make room have gone.
pub fn without_neighbours(mut state: State, case: &Case) -> State {
    let stop = &case.table.yields.stop;
    state.claims.retain(|vmid, _| !stop.contains(vmid));
    state
}

/// A VM of a table that is to make room, as a plan shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Yielding {
    /// Which VM.
    pub vmid: Vmid,
    /// Whether it would be shut down, and started again afterwards.
    pub stops: bool,
    /// What would happen, in one sentence.
    pub summary: String,
    /// Why it cannot make room, if it cannot.
    #[serde(skip)]
    pub obstacle: Option<NoYield>,
}

/// Returns what a start would do with the VMs that make room; nothing when the VM `runs` already.
///
/// # Errors
/// As [`neighbours`].
pub fn yielding(host: &Host, case: &Case, runs: bool) -> anyhow::Result<Vec<Yielding>> {
    let timeout = case.table.yields.timeout;
    let mut found = Vec::new();
    for vmid in &case.table.yields.stop {
        let is_up = match pve::running(&*host.files, *vmid) {
            Err(error) if is_denied(&error) => None,
            qemu => Some(qemu?.is_some()),
        };
        let is_read = is_up == Some(true) && is_only_read(host, *vmid)?;
        let is_up = is_up.map(|is_up| is_up && !is_read);
        let is_meant = !runs && is_up == Some(true);
        let obstacle = is_meant.then(|| obstacle(host, *vmid)).transpose()?;
        let obstacle = obstacle.flatten();
        let summary = match (runs, is_up) {
            (false, Some(false)) if is_read => {
                format!("vm {vmid} is only being backed up, nothing to shut down")
            }
            (false, None) => {
                format!("vm {vmid} is shut down first if it is running (only root can tell)")
            }
            (true, _) => format!(
                "vm {vmid} stays: yield.stop is for starts, and vm {} is already running",
                case.vmid
            ),
            (false, Some(false)) => format!("vm {vmid} is not running here, nothing to shut down"),
            (false, Some(true)) => format!(
                "vm {vmid} is shut down first (within {timeout}) and started again after the stop"
            ),
        };
        found.push(Yielding {
            vmid: *vmid,
            stops: is_meant && obstacle.is_none(),
            summary,
            obstacle,
        });
    }
    Ok(found)
}

/// Tells whether QEMU is there for a backup and the guest does not run: it has no CPUs that anybody
/// could need.
fn is_only_read(host: &Host, vmid: Vmid) -> anyhow::Result<bool> {
    let is_for_backup = Purpose::of(lock_of(host, vmid)?.as_deref(), "") == Purpose::Backup;
    let waits = || {
        host.qmp
            .run_state(vmid)
            .is_ok_and(|state| state == "prelaunch")
    };
    Ok(is_for_backup && waits())
}

fn lock_of(host: &Host, vmid: Vmid) -> anyhow::Result<Option<String>> {
    Ok(pve::guest_of(&*host.files, vmid, "")?.and_then(|guest| guest.lock))
}

fn obstacle(host: &Host, vmid: Vmid) -> anyhow::Result<Option<NoYield>> {
    Ok(match lock_of(host, vmid)? {
        Some(lock) => Some(NoYield::Locked { vmid, lock }),
        None if cluster::is_ha(&*host.files, vmid)? => Some(NoYield::Ha(vmid)),
        None => None,
    })
}
