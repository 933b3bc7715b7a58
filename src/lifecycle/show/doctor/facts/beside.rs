//! What the doctor judges beside the VM itself: its devices as the host has them, and other nodes.

use crate::config::mapping::pci_mapping;
use crate::domain::advice::Advised;
use crate::domain::check::{GuestOfHost, Virtual};
use crate::domain::enabling::lacks;
use crate::domain::guest::Guest;
use crate::domain::pci::Function;
use crate::domain::pci::needs::Net;
use crate::domain::storage::Snippet;
use crate::domain::table::Table;
use crate::domain::vm::Vmid;
use crate::domain::words::few;
use crate::host::files::Files;
use crate::host::pci::DEVICES;
use crate::host::{cluster, nets, pve};
use crate::lifecycle::engine::inventory::Devices;

/// Returns the addresses that VMs are to have, or their beginnings, with those of mappings.
pub(super) fn passed(files: &dyn Files, guests: &[GuestOfHost], node: &str) -> Vec<(String, Vmid)> {
    let mappings = files.read("/etc/pve/mapping/pci.cfg").unwrap_or_default();
    let mut passed = Vec::new();
    for one in guests {
        let ids = one.guest.hostpci.iter().flat_map(|entry| {
            let name = entry.mapping.as_ref();
            let mapped = name.and_then(|name| pci_mapping(&mappings, name, node));
            let mapped = mapped.unwrap_or_default().into_iter();
            mapped
                .flat_map(|one| one.ids)
                .chain(entry.ids.iter().cloned())
        });
        passed.extend(ids.map(|id| (id, one.vmid)));
    }
    passed
}

/// Tells whether any function of the host is a virtual one.
pub(super) fn has_virtuals(files: &dyn Files) -> bool {
    let names = files.list(DEVICES).unwrap_or_default();
    let mut names = names.iter();
    names.any(|name| files.link(&format!("{DEVICES}/{name}/physfn")).is_ok())
}

/// Returns the storage controllers that a VM is to have.
pub(super) fn controllers(devices: &Devices) -> Vec<String> {
    let all = functions(devices).into_iter();
    let storage = all.filter(|(_, function)| function.is_storage());
    storage.map(|(address, _)| address.clone()).collect()
}

/// Returns the virtual functions that a VM is to have.
pub(super) fn virtuals(files: &dyn Files, devices: &Devices) -> Vec<Virtual> {
    let all = functions(devices).into_iter();
    let virtuals =
        all.filter_map(|(address, function)| Some((address, function.physical.as_ref()?)));
    let virtuals: Vec<(&String, &String)> = virtuals.collect();
    if virtuals.is_empty() {
        return Vec::new();
    }
    let nets = nets::nets(files);
    let port = |physical: &String| {
        let is_its = |net: &&Net| net.function.as_ref() == Some(physical);
        nets.iter()
            .filter(is_its)
            .find(|net| net.represents.is_none())
    };
    let representor = |address: &String, physical: &String| {
        let mut all = devices.bus.get(physical)?.virtuals.iter();
        let (index, _) = all.find(|(_, one)| *one == address)?;
        nets::representor(files, &nets, physical, *index)
    };
    let is_switched =
        |physical: &String| port(physical).is_some_and(|net| nets::is_switched(files, &net.name));
    let virtuals = virtuals.into_iter();
    virtuals
        .map(|(address, physical)| Virtual {
            representor: representor(address, physical),
            is_switched: is_switched(physical),
            address: address.clone(),
            bond: port(physical).and_then(|net| net.bond.clone()),
            port: port(physical).map(|net| net.name.clone()),
            bridge: port(physical).and_then(|net| net.bridge.clone()),
            physical: physical.clone(),
        })
        .collect()
}

fn functions(devices: &Devices) -> Vec<(&String, &Function)> {
    let chosen = devices.chosen().into_iter();
    let addresses = chosen.flat_map(|(_, addresses)| addresses);
    addresses
        .filter_map(|address| Some((address, devices.bus.get(address)?)))
        .collect()
}

/// Returns what a VM would lack on nodes that it may move to. Where its table is, is another check.
pub(super) fn lacks_elsewhere(files: &dyn Files, vmid: Vmid, guest: &Guest) -> Vec<Advised> {
    let hook = guest.hookscript.as_ref();
    let hook: Option<Snippet> = hook.and_then(|volume| volume.parse().ok());
    let Some((hook, own)) = hook.zip(pve::node_name(files).ok()) else {
        return Vec::new();
    };
    let storages = cluster::storages(files).unwrap_or_default();
    let is_shared = storages
        .iter()
        .any(|one| one.id == hook.storage && one.is_shared);
    let places = cluster::destinations(files, vmid, &own).unwrap_or_default();
    let lacks = lacks(places, &hook, is_shared, "/etc/pve/").into_iter();
    let advice = lacks.map(|one| Advised {
        fact: format!("{} ({}): {}", few(&one.nodes), one.reason, one.lack),
        help: one.help(),
    });
    advice.collect()
}

/// Returns a key by which a table asks for low latency, if it leaves idle states alone.
pub(super) fn asks_without_idle(table: &Table) -> Option<&'static str> {
    if table.power.max_idle_latency.is_some() {
        return None;
    }
    let is_fast = table.power.governor.as_deref() == Some("performance");
    let asked = [
        (!table.pin.scheduler.is_other(), "pin.scheduler"),
        (table.host.halt_poll.is_some(), "host.halt-poll"),
        (is_fast, "power.governor"),
        (table.power.min_frequency.is_some(), "power.min-frequency"),
    ];
    let mut asked = asked.into_iter();
    asked.find_map(|(is_asked, key)| is_asked.then_some(key))
}
