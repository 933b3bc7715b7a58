//! What other VMs of this node have, so that nobody else is given it.

use super::besides::usb_sources;
use super::holders::holders;
use crate::domain::guest::Guest;
use crate::domain::pci::needs::{DiskOfVm, Needs, UsbOfVm};
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::{Host, blocks, pve, usb};

/// Adds what other VMs of this node have: functions, and USB devices and whole disks of those that
/// run.
pub(super) fn of_other_vms(
    host: &Host,
    is_other: impl Fn(&Vmid) -> bool,
    node: &str,
    needs: &mut Needs,
) {
    let files = &*host.files;
    let running = pve::running_vms(files).unwrap_or_default();
    let held = holders(host, &running).into_iter();
    needs
        .holders
        .extend(held.filter(|(_, holder)| is_other(&holder.vmid)));
    for (vmid, _) in running.iter().filter(|(vmid, _)| is_other(vmid)) {
        if let Ok(Some(guest)) = pve::guest_of(files, *vmid, "") {
            of_guest(files, *vmid, &guest, node, needs);
        }
    }
}

fn of_guest(files: &dyn Files, vmid: Vmid, guest: &Guest, node: &str, needs: &mut Needs) {
    for entry in &guest.usb {
        let key = &entry.key;
        let froms = usb_sources(files, &entry.from, node);
        let plugged = froms.iter().flat_map(|from| usb::plugged(files, from));
        needs.usb.extend(plugged.map(|plugged| UsbOfVm {
            controller: plugged.controller,
            port: plugged.port,
            key: key.clone(),
            vmid,
        }));
    }
    let disks = guest.raw_disks.iter();
    needs.raw_disks.extend(disks.filter_map(|disk| {
        let key = disk.key.clone();
        let disk = blocks::disk_at(files, &disk.path)?;
        Some(DiskOfVm { disk, key, vmid })
    }));
}
