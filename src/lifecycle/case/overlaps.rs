//! Tables of other VMs of this node that name CPUs of a VM's table.

use super::texts::{Case, understand};
use crate::domain::overlap::{Named, Overlap};
use crate::domain::placement::owned_by_table;
use crate::domain::table::{HostSettings, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::table::{read_table, tables};
use crate::host::{Host, pve};

/// Returns what tables of other VMs of this node have in common with that of a case; those that cannot be
/// read or leave the choice to the start have nothing.
pub fn overlaps(host: &Host, case: &Case, topology: &Topology) -> Vec<Overlap> {
    overlaps_of(host, case.vmid, &case.table, &case.settings, topology)
}

/// Does the same for a table of a VM that may not be in its place.
pub fn overlaps_of(
    host: &Host,
    vmid: Vmid,
    table: &Table,
    settings: &HostSettings,
    topology: &Topology,
) -> Vec<Overlap> {
    let files = &*host.files;
    let Some(cpus) = owned_by_table(table, topology) else {
        return Vec::new();
    };
    let own = Named {
        vmid,
        cpus: &cpus,
        stops: &table.yields.stop,
    };
    let with_table = tables(files).unwrap_or_default();
    let vmids = pve::vms_of_node(files).unwrap_or_default().into_iter();
    let others = vmids.filter(|other| *other != vmid && with_table.contains(other));
    let overlap = |vmid: Vmid| {
        let file = read_table(files, vmid).ok()??;
        let table = understand(host, &file, settings).ok()?;
        let cpus = owned_by_table(&table, topology)?;
        let named = Named {
            vmid,
            cpus: &cpus,
            stops: &table.yields.stop,
        };
        Overlap::of(own, named)
    };
    others.filter_map(overlap).collect()
}
