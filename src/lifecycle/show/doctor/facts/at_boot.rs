//! The guests that PVE starts at boot, with the storages in the network that they need.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ct_conf::parse_ct_start;
use crate::domain::check::{AtBoot, GuestOfHost};
use crate::domain::pci::Function;
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::{cluster, pci, pve, upbringing};

/// Returns the guests that PVE starts at boot; none where no VM of them has a storage controller of the host, or no
/// storage is in the network. `passed` are the functions of VMs, or beginnings of their addresses.
pub(super) fn at_boot(
    files: &dyn Files,
    guests: &[GuestOfHost],
    passed: &[(String, Vmid)],
) -> Vec<AtBoot> {
    let served = upbringing::served(files);
    if served.is_empty() || passed.is_empty() {
        return Vec::new();
    }
    let controllers = controllers(files, passed);
    // PVE leaves what HA looks after to HA.
    let own = guests.iter().filter(|one| one.guest.onboot);
    let own = own.filter(|one| !cluster::is_ha(files, one.vmid).unwrap_or_default());
    let vms: Vec<AtBoot> = own
        .map(|one| AtBoot {
            vmid: one.vmid,
            is_container: false,
            startup: one.guest.startup,
            networked: of_network(
                one.guest.volumes().filter_map(|one| one.storage.clone()),
                &served,
            ),
            controller: controllers.get(&one.vmid).cloned(),
        })
        .collect();
    match vms.iter().any(|one| one.controller.is_some()) {
        true => vms.into_iter().chain(containers(files, &served)).collect(),
        false => Vec::new(),
    }
}

fn containers(files: &dyn Files, served: &BTreeSet<String>) -> Vec<AtBoot> {
    let ctids = pve::containers_of_node(files).unwrap_or_default();
    let containers = ctids.into_iter().filter_map(|ctid| {
        let config = pve::container_config(files, ctid).ok()??;
        let start = parse_ct_start(&config.text);
        (start.onboot && !cluster::is_ha_container(files, ctid)).then(|| AtBoot {
            vmid: ctid,
            is_container: true,
            startup: start.startup,
            networked: of_network(start.storages.into_iter(), served),
            controller: None,
        })
    });
    containers.collect()
}

/// Returns those of the storages that are in the network, each once.
fn of_network(storages: impl Iterator<Item = String>, served: &BTreeSet<String>) -> Vec<String> {
    let used: BTreeSet<String> = storages.filter(|one| served.contains(one)).collect();
    used.into_iter().collect()
}

/// Returns a storage controller of each VM that is to have one. A single NVMe disk is the VM's own; who serves
/// storage has several, or a controller for disks.
fn controllers(files: &dyn Files, passed: &[(String, Vmid)]) -> BTreeMap<Vmid, String> {
    let bus = pci::bus(files);
    let storage = bus.iter().filter(|(_, function)| function.is_storage());
    let mut all: BTreeMap<Vmid, Vec<(&String, &Function)>> = BTreeMap::new();
    for (address, function) in storage {
        for (_, vmid) in passed.iter().filter(|(id, _)| address.starts_with(id)) {
            all.entry(*vmid).or_default().push((address, function));
        }
    }
    let first = |own: Vec<(&String, &Function)>| match own[..] {
        [(_, only)] if only.is_nvme() => None,
        _ => own.first().map(|(address, _)| (*address).clone()),
    };
    let controllers = all.into_iter();
    controllers
        .filter_map(|(vmid, own)| Some((vmid, first(own)?)))
        .collect()
}
