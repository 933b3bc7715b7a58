//! What the CPUs of this host share, and who owns which.

use std::collections::BTreeMap;

use super::remembered::remembered;
use crate::domain::claim::Claim;
use crate::domain::map::{Device, Map, Owner, OwnerKind};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::table::tables;
use crate::host::topology::read_topology;
use crate::host::{Host, pci};
use crate::lifecycle::case::assess::around_alone;
use crate::lifecycle::case::nothing::{There, look_up};
use crate::lifecycle::case::texts::read_settings;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::look::is_over;
use crate::lifecycle::engine::others::look_at_files;
use crate::lifecycle::engine::recover;

/// Returns what the CPUs of this host share, and who owns which.
///
/// # Errors
/// The CPUs or the state cannot be read.
pub fn topology(host: &Host) -> anyhow::Result<Map> {
    let topology = read_topology(&*host.files)?;
    let mut left_out = Vec::new();
    let state = remembered(host, "what vms own is", &mut left_out)?;
    let with_table = tables(&*host.files).unwrap_or_else(|error| {
        left_out.push(format!(
            "vms that only have a table are left out: {error:#}"
        ));
        Default::default()
    });
    let mut vms: BTreeMap<Vmid, Option<&Claim>> =
        with_table.into_iter().map(|vmid| (vmid, None)).collect();
    vms.extend(
        state
            .claims
            .iter()
            .map(|(vmid, claim)| (*vmid, Some(claim))),
    );
    let (mut owners, mut devices) = (Vec::new(), Vec::new());
    for (vmid, claim) in vms {
        let vm = Vm { host, vmid, claim };
        vm.add(&topology, &mut owners, &mut devices, &mut left_out);
    }
    // Settings that are wrong concern starts, not who owns what.
    let settings = read_settings(host).unwrap_or_default();
    let (around, _) = around_alone(host, look_at_files(host, &settings));
    let partitions = around.partitions.into_iter();
    owners.extend(partitions.filter(|one| one.is_partition).map(|one| Owner {
        cgroup: Some(one.group),
        ..Owner::new(OwnerKind::Partition, one.cpus)
    }));
    // Those of VMs that the state does not name are in partitions of nobody that is known.
    let forgotten = recover::forgotten(host, &state).into_iter().next();
    owners.extend(forgotten.map(|(cgroup, cpus)| Owner {
        cgroup,
        ..Owner::new(OwnerKind::Partition, cpus)
    }));
    let mut map = Map::new(&topology, owners, devices);
    map.left_out = left_out;
    Ok(map)
}

/// A VM with a table or a claim.
struct Vm<'h> {
    host: &'h Host,
    vmid: Vmid,
    claim: Option<&'h Claim>,
}

impl Vm<'_> {
    fn add(
        &self,
        topology: &Topology,
        owners: &mut Vec<Owner>,
        devices: &mut Vec<Device>,
        left_out: &mut Vec<String>,
    ) {
        let Vm { host, vmid, claim } = *self;
        let guest = match look_up(&*host.files, vmid, "") {
            Ok(There::Vm(vm)) => Some(vm.conf.guest_of_next_start()),
            Ok(_) => None,
            Err(error) => {
                left_out.push(format!(
                    "name and devices of vm {vmid} are left out: {error:#}"
                ));
                None
            }
        };
        let owning = claim.filter(|claim| claim.owns());
        owners.extend(owning.map(|claim| Owner {
            vmid: Some(vmid),
            name: guest.as_ref().and_then(|guest| guest.name.clone()),
            state: self.state(claim),
            backend: Some(claim.wishes.backend),
            ..Owner::new(OwnerKind::Vm, claim.wishes.cpus.clone())
        }));
        let addresses: Vec<String> = match (owning, &guest) {
            (Some(claim), _) => claim.devices.keys().cloned().collect(),
            (None, Some(guest)) if !guest.hostpci.is_empty() => {
                let asked = Devices::read(host, vmid, guest, &[]);
                if asked.bus.is_empty() {
                    left_out.push(format!(
                        "devices of vm {vmid} are left out: this host shows no pci devices"
                    ));
                }
                let chosen = asked.chosen().into_iter();
                chosen
                    .flat_map(|(_, functions)| functions.to_vec())
                    .collect()
            }
            _ => Vec::new(),
        };
        devices.extend(addresses.into_iter().map(|address| Device {
            node: pci::node_of(&*host.files, &address, topology),
            address,
            vmid,
        }));
    }

    /// Returns how far the run has come, where that is not all the way.
    fn state(&self, claim: &Claim) -> Option<String> {
        match is_over(self.host, claim) {
            true => Some("over".to_owned()),
            false => Some(claim.name()).filter(|_| !claim.is_running()),
        }
    }
}
