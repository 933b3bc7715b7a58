//! Guests that are not on this node, or have no table there.

use crate::domain::nothing::Nothing;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::pve::{self, GuestKind};
use crate::host::table::stray_tables;

/// Says where a VM is that this node does not have.
pub fn absent(files: &dyn Files, vmid: Vmid) -> Nothing {
    match pve::node_of_vm(files, vmid) {
        Some(node) => Nothing::Elsewhere { vmid, node },
        None => Nothing::NoVm(vmid),
    }
}

/// Says why a number is no VM of this node, if it is none.
///
/// # Errors
/// The directories of guests cannot be read.
pub fn no_vm(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Option<Nothing>> {
    Ok(match pve::guest_kind(files, vmid, "")? {
        GuestKind::Vm => None,
        GuestKind::Container => Some(Nothing::Container(vmid)),
        GuestKind::Absent => Some(absent(files, vmid)),
    })
}

/// Says that a VM has no table, or which file was meant to be it.
pub fn no_table(files: &dyn Files, vmid: Vmid) -> Nothing {
    let strays = stray_tables(files);
    match strays.into_iter().find(|stray| stray.meant == vmid) {
        Some(stray) => Nothing::Misnamed {
            vmid,
            expected: stray.expected(),
            found: stray.path,
        },
        None => Nothing::NoTable(vmid),
    }
}
