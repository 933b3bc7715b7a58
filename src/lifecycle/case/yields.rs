//! Whether the VMs that a table has make room can do so: what is wrong with `yield.stop` itself.
//!
//! These are errors of tables, found whenever one is read and not only when the room is needed.

use std::collections::BTreeSet;

use super::nothing::{There, look_up};
use super::texts::{CaseError, read_settings, understand};
use crate::domain::nothing::Nothing;
use crate::domain::table::{HostSettings, Table};
use crate::domain::vm::Vmid;
use crate::domain::yields::YieldFault;
use crate::host::table::read_table;
use crate::host::{Host, cluster};

/// Checks what the table at `path`, that of `vmid` if that is known, says of VMs that make room.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(host: &Host, vmid: Option<Vmid>, path: &str, table: &Table) -> Result<(), CaseError> {
    let fault = |fault| CaseError::Yield {
        path: path.to_owned(),
        fault,
    };
    // Elsewhere than on a node nobody knows which VMs there are.
    let is_node = cluster::check_mounted(&*host.files).is_ok();
    for other in &table.yields.stop {
        if Some(*other) == vmid {
            return Err(fault(YieldFault::Itself(*other)));
        }
        if let Some(wrong) = wrong_guest(host, *other, is_node)? {
            return Err(fault(wrong));
        }
    }
    match vmid {
        Some(vmid) => match mutual(host, vmid, table)? {
            Some(wrong) => Err(fault(wrong)),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

fn wrong_guest(host: &Host, vmid: Vmid, is_node: bool) -> anyhow::Result<Option<YieldFault>> {
    let files = &*host.files;
    Ok(match look_up(files, vmid, "")? {
        There::Template(_) => Some(YieldFault::Template(vmid)),
        There::Nothing(Nothing::Container(_)) => Some(YieldFault::Container(vmid)),
        There::Nothing(Nothing::NoVm(_)) if is_node => Some(YieldFault::Unknown(vmid)),
        There::Nothing(_) | There::Vm(_) => None,
    })
}

/// Follows who makes room for whom until it comes back to `vmid`.
fn mutual(host: &Host, vmid: Vmid, table: &Table) -> Result<Option<YieldFault>, CaseError> {
    if table.yields.stop.is_empty() {
        return Ok(None);
    }
    let settings = read_settings(host)?;
    let mut open = table.yields.stop.clone();
    let mut seen = BTreeSet::new();
    while let Some(other) = open.pop() {
        if !seen.insert(other) {
            continue;
        }
        let Some((path, next)) = stopped_by(host, other, &settings) else {
            continue;
        };
        if next.contains(&vmid) {
            return Ok(Some(YieldFault::Mutual { vmid, other, path }));
        }
        open.extend(next);
    }
    Ok(None)
}

/// Returns the VMs that make room for a VM, and where that is said; what is wrong with that table
/// otherwise is said when it is its turn.
fn stopped_by(host: &Host, vmid: Vmid, settings: &HostSettings) -> Option<(String, Vec<Vmid>)> {
    let file = read_table(&*host.files, vmid).ok()??;
    let table = understand(host, &file, settings).ok()?;
    Some((file.path, table.yields.stop))
}
