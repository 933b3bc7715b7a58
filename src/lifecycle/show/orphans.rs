//! Tables that no VM of this node uses.

use crate::domain::nothing::Nothing;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::pve;
use crate::host::table::{path_of_table, tables};
use crate::lifecycle::case::nothing::{There, look_up};
use crate::lifecycle::show::gone::Gone;

/// Returns why nobody uses the table of a guest id, by what there is under that; nothing where somebody does.
/// One in the cluster file system may be that of a VM on another node.
pub(super) fn unused(files: &dyn Files, vmid: Vmid, there: &There) -> Option<String> {
    let path = path_of_table(files, vmid)?;
    let why = match there {
        There::Vm(_) => return None,
        There::Template(_) => "it is a template".to_owned(),
        There::Nothing(Nothing::Container(_)) => "it is a container".to_owned(),
        There::Nothing(Nothing::Elsewhere { .. }) if path.starts_with("/etc/pve/") => return None,
        There::Nothing(Nothing::Elsewhere { node, .. }) => format!("the vm is on node {node}"),
        There::Nothing(_) => "there is no such vm".to_owned(),
    };
    Some(format!("has a table ({path}), but {why}"))
}

/// Returns every table that no VM of this node uses, in words; without the configs of VMs, none. VMs in `gone`
/// run without a config.
pub(super) fn all_unused(files: &dyn Files, gone: &[Gone]) -> Vec<String> {
    if pve::vms_of_node(files).is_err() {
        return Vec::new();
    }
    let vmids = tables(files).unwrap_or_default().into_iter();
    let runs = |vmid: Vmid| gone.iter().any(|one| one.vmid == vmid);
    let unused = vmids.filter(|vmid| !runs(*vmid)).filter_map(|vmid| {
        let there = look_up(files, vmid, "").ok()?;
        let why = unused(files, vmid, &there)?;
        Some(format!("{vmid} {why}"))
    });
    unused.collect()
}
