//! Guests that are not on this node.

use crate::domain::nothing::Nothing;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::pve;

/// Says where a VM is that this node does not have.
pub fn absent(files: &dyn Files, vmid: Vmid) -> Nothing {
    match pve::node_of_vm(files, vmid) {
        Some(node) => Nothing::Elsewhere { vmid, node },
        None => Nothing::NoVm(vmid),
    }
}
