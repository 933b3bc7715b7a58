//! Guests that are not on this node, or have no table there.

use crate::domain::nothing::Nothing;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::pve;
use crate::host::table::stray_tables;

/// Says where a VM is that this node does not have.
pub fn absent(files: &dyn Files, vmid: Vmid) -> Nothing {
    match pve::node_of_vm(files, vmid) {
        Some(node) => Nothing::Elsewhere { vmid, node },
        None => Nothing::NoVm(vmid),
    }
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
