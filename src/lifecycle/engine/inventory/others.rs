//! What other VMs have, and what a VM takes besides PCI devices.

use std::collections::{BTreeMap, BTreeSet};

use super::RESERVATIONS;
use crate::config::mapping::usb_mapping;
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::guest::{Guest, UsbFrom};
use crate::domain::pci::chosen::{Until, of_command_line, reservations};
use crate::domain::pci::needs::{DiskOfVm, Holder, Needs, UsbOfVm};
use crate::domain::vm::{TaskId, Vmid};
use crate::host::files::Files;
use crate::host::{Host, blocks, pci, pve, usb};

const USB_MAPPINGS: &str = "/etc/pve/mapping/usb.cfg";

/// Returns the functions that VMs of this node have, or are being given, with all that share an IOMMU
/// group with one; the VM `own`, which is being started, has none before it runs.
///
/// As long as a VM has one of a group, the kernel gives no driver of the host another one of it.
///
/// # Errors
/// It cannot be told which VMs run.
pub fn in_use(host: &Host, own: Option<Vmid>) -> anyhow::Result<BTreeSet<String>> {
    let files = &*host.files;
    let running = pve::running_vms(files)?;
    let mut used = holders(host, &running);
    used.retain(|_, holder| holder.runs || own != Some(holder.vmid));
    let bus = pci::bus(files);
    let group = |address: &String| bus.get(address)?.group;
    let groups: BTreeSet<u32> = used.keys().filter_map(group).collect();
    let is_of_group = |address: &String| group(address).is_some_and(|one| groups.contains(&one));
    let shared = bus.keys().filter(|address| is_of_group(address));
    Ok(shared.chain(used.keys()).cloned().collect())
}

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
        if let Ok(Some(config)) = pve::vm_config(files, *vmid, "") {
            of_guest(
                files,
                *vmid,
                &parse_vm_conf(&config.text).guest(),
                node,
                needs,
            );
        }
    }
}

/// Returns the functions that VMs run with or that PVE has reserved for them.
fn holders(host: &Host, running: &[(Vmid, TaskId)]) -> BTreeMap<String, Holder> {
    let files = &*host.files;
    let mut holders = BTreeMap::new();
    let is_running = |vmid: Vmid| running.iter().any(|(other, _)| *other == vmid);
    let now = host.clock.since_epoch();
    let reserved = reservations(&files.read(RESERVATIONS).unwrap_or_default());
    for (address, one) in reserved {
        let runs = is_running(one.vmid);
        let is_valid = match one.until {
            Until::Process(_) => runs,
            Until::Time(end) => runs || now < end,
        };
        if is_valid {
            let vmid = one.vmid;
            holders.insert(address, Holder { vmid, runs });
        }
    }
    for (vmid, qemu) in running {
        let (vmid, runs) = (*vmid, true);
        let command = files.read(&format!("/proc/{qemu}/cmdline"));
        for address in of_command_line(&command.unwrap_or_default()) {
            holders.insert(address, Holder { vmid, runs });
        }
    }
    holders
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

fn usb_sources(files: &dyn Files, from: &UsbFrom, node: &str) -> Vec<UsbFrom> {
    match from {
        UsbFrom::Mapping(name) => {
            let text = files.read(USB_MAPPINGS).unwrap_or_default();
            usb_mapping(&text, name, node).unwrap_or_default()
        }
        from => vec![from.clone()],
    }
}

/// Returns what else a VM takes from the host, in words.
pub fn other_things(host: &Host, guest: &Guest) -> Vec<String> {
    let files = &*host.files;
    let node = pve::node_name(files).unwrap_or_default();
    let usb = guest.usb.iter().map(|entry| {
        let froms = usb_sources(files, &entry.from, &node);
        let plugged = froms
            .iter()
            .find_map(|from| usb::plugged(files, from).pop());
        let what = match &entry.from {
            UsbFrom::Id(text) | UsbFrom::Port(text) => format!("usb device {text}"),
            UsbFrom::Mapping(name) => format!("usb mapping {name}"),
            UsbFrom::Spice => "usb by spice".to_owned(),
        };
        match plugged {
            Some(usb::Plugged { port, controller }) => {
                format!(
                    "{}: {what}, port {port} of controller {controller}",
                    entry.key
                )
            }
            None if entry.from == UsbFrom::Spice => format!("{}: {what}", entry.key),
            None => format!("{}: {what}, not plugged in", entry.key),
        }
    });
    let disks = guest.raw_disks.iter().map(|disk| {
        let name = blocks::disk_at(files, &disk.path);
        let name = name.unwrap_or_else(|| "not there".to_owned());
        format!("{}: the whole disk {} ({name})", disk.key, disk.path)
    });
    let shares = guest.shares.iter();
    let shares = shares.map(|one| format!("{}: directory {} of the host", one.key, one.what));
    usb.chain(disks).chain(shares).collect()
}
