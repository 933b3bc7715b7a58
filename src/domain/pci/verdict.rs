//! Whether a VM may have a device: nothing that the host or another VM needs is pulled out.
//!
//! Pure: what others need is observed elsewhere. PVE binds every function of an IOMMU group to
//! vfio-pci, so what shares a group with a device is pulled out with it.

use std::collections::BTreeMap;

use super::Bus;
use super::asked::Asked;
use super::needs::{Disk, Needs};
use super::objection::{Need, Objection};
use crate::domain::guest::RawDisk;
use crate::domain::vm::Vmid;

/// Returns who needs a function.
fn needs_of(address: &str, bus: &Bus, needs: &Needs) -> Vec<Need> {
    let mut found = Vec::new();
    let is_below = |disk: &&Disk| disk.functions.iter().any(|of| of == address);
    for disk in needs.disks.iter().filter(is_below) {
        let name = || disk.name.clone();
        let used = disk.uses.iter();
        found.extend(used.map(|used| Need::Disk(name(), used.clone())));
        let of_vms = needs
            .raw_disks
            .iter()
            .filter(|of_vm| of_vm.disk == disk.name);
        found.extend(of_vms.cloned().map(Need::DiskOfVm));
    }
    let function = bus.get(address);
    for net in needs.nets.iter().filter(|net| !net.uses.is_empty()) {
        let used = net.uses.join(", ");
        // That a virtual function's representor is in a bridge is how its guest gets a network
        // (switchdev): it says nothing against the function, and goes with the physical one.
        if net.function.as_deref() == Some(address) {
            found.push(match net.represents {
                Some(n) => Need::Switch(net.name.clone(), n, used),
                None => Need::Net(net.name.clone(), used),
            });
        }
    }
    if needs.console.as_deref() == Some(address) {
        found.push(Need::Console);
    }
    found.extend(needs.holders.get(address).copied().map(Need::Held));
    let virtuals = function.into_iter().flat_map(|f| f.virtuals.values());
    found.extend(virtuals.filter_map(|virt| {
        let holder = needs.holders.get(virt)?;
        Some(Need::Virtual(virt.clone(), *holder))
    }));
    let usb = needs.usb.iter().filter(|usb| usb.controller == address);
    found.extend(usb.cloned().map(Need::Usb));
    let mdevs = function.into_iter().flat_map(|function| &function.mdevs);
    let mdevs = mdevs.map(|uuid| (uuid, vm_of_mdev(uuid)));
    let others = mdevs.filter(|(_, vmid)| vmid.is_none() || *vmid != needs.own);
    found.extend(others.map(|(uuid, vmid)| Need::Mediated(uuid.clone(), vmid)));
    found
}

/// Returns the VM that PVE made a mediated device for: the last part of its name is the number
/// (`PVE::SysFSTools::generate_mdev_uuid`).
fn vm_of_mdev(uuid: &str) -> Option<Vmid> {
    let (_, number) = uuid.rsplit_once('-')?;
    number.trim_start_matches('0').parse().ok()
}

/// Returns what speaks against giving a VM the functions of an entry, by alternative.
pub fn objections(
    asked: &Asked,
    alternative: &[String],
    bus: &Bus,
    needs: &Needs,
) -> Vec<Objection> {
    let mut found = Vec::new();
    // A mediated device leaves its parent with the host.
    if asked.mdev.is_some() {
        return found;
    }
    for address in alternative {
        let needed = needs_of(address, bus, needs).into_iter();
        found.extend(needed.map(|need| Objection::Needed {
            key: asked.key.clone(),
            address: address.clone(),
            need,
        }));
    }
    let mut groups = BTreeMap::new();
    for address in alternative {
        if let Some(group) = bus.get(address).and_then(|function| function.group) {
            groups.entry(group).or_insert(address);
        }
    }
    for (group, address) in groups {
        let others = bus.iter().filter(|(other, function)| {
            function.group == Some(group) && !function.is_bridge() && !alternative.contains(other)
        });
        for (other, _) in others {
            let needed = needs_of(other, bus, needs).into_iter();
            found.extend(needed.map(|need| Objection::Shared {
                key: asked.key.clone(),
                address: address.clone(),
                group,
                other: other.clone(),
                need,
            }));
        }
    }
    found
}

/// Returns what speaks against giving a VM a whole disk; `name` is that of its block device.
pub fn disk_objections(disk: &RawDisk, name: &str, needs: &Needs) -> Vec<Objection> {
    let used = needs.disks.iter().filter(|one| one.name == name);
    let used = used.flat_map(|one| &one.uses).map(|used| Objection::Used {
        disk: disk.clone(),
        used: used.clone(),
    });
    let taken = needs.raw_disks.iter().filter(|of_vm| of_vm.disk == name);
    let taken = taken.map(|of_vm| Objection::Taken {
        disk: disk.clone(),
        by: of_vm.clone(),
    });
    used.chain(taken).collect()
}

/// Returns the alternative that PVE takes: the first of which no function is another VM's, or is
/// taken by an entry of the same VM before (`PVE::QemuServer::PCI::choose_hostpci_devices`).
pub fn choice<'a>(asked: &'a Asked, needs: &Needs, own: &[String]) -> Option<&'a [String]> {
    let is_free = |address: &String| !needs.holders.contains_key(address) && !own.contains(address);
    let mut alternatives = asked.alternatives.iter();
    let free = alternatives.find(|functions| functions.iter().all(is_free));
    // Without a mapping there is nothing to choose.
    let only = asked.mapping.is_none().then(|| asked.alternatives.first());
    free.or(only.flatten()).map(Vec::as_slice)
}
