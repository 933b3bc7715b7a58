//! Which PCI functions VMs have or are being given: by the command line of their QEMU, and by PVE's
//! list of reservations.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::pci::chosen::{Until, of_command_line, reservations};
use crate::domain::pci::needs::Holder;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::{Host, pci, pve};

const RESERVATIONS: &str = "/run/qemu-server/pci-id-reservations";

/// Returns the functions that a running VM has, with their models: by its QEMU's command line, else
/// by PVE's list of reservations.
pub fn of_running(host: &Host, vmid: Vmid, qemu: TaskId) -> BTreeMap<String, String> {
    let files = &*host.files;
    let command = files.read(&format!("/proc/{qemu}/cmdline"));
    let mut functions = of_command_line(&command.unwrap_or_default());
    if functions.is_empty() {
        let reserved = reservations(&files.read(RESERVATIONS).unwrap_or_default());
        let own = reserved.into_iter().filter(|(_, one)| one.vmid == vmid);
        functions.extend(own.map(|(address, _)| address));
    }
    let model = |address: String| Some((pci::function(files, &address)?.model, address));
    let models = functions.into_iter().filter_map(model);
    models.map(|(model, address)| (address, model)).collect()
}

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

/// Returns the functions that VMs run with or that PVE has reserved for them.
pub(super) fn holders(host: &Host, running: &[(Vmid, TaskId)]) -> BTreeMap<String, Holder> {
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
