//! What is free on this node for a VM whose CPUs nobody has named, and what they should be near.

use std::collections::{BTreeMap, BTreeSet};

use super::texts::{CaseError, understand};
use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::guest::Guest;
use crate::domain::others::Surroundings;
use crate::domain::placement::{Choice, Device, NoRoom, Search, Speeds, choose, owned_by_table};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::{HostSettings, Prefer, Smt, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::table::{read_table, tables};
use crate::host::topology::read_speeds;
use crate::host::{Host, pci, pve};
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::others::{look_at_files, look_at_groups};

/// Who has CPUs on this node, running or not.
#[derive(Debug, Clone, Default)]
pub struct Room {
    vmid: Option<Vmid>,
    /// CPUs that the tables of other VMs of this node name.
    pub tables: BTreeMap<Vmid, CpuSet>,
    /// Other VMs whose table cannot be read, so that nobody knows what it names.
    pub unreadable: Vec<Vmid>,
    /// What others have, and what must stay with the host.
    pub around: Surroundings,
    /// Devices that are passed through to the VM.
    pub devices: Vec<Device>,
    speeds: Speeds,
}

/// What a VM asks for and already has.
#[derive(Debug, Clone, Default)]
pub struct RoomRequest {
    /// vCPUs that it can ever have.
    pub n_vcpus: usize,
    /// SMT siblings per guest core.
    pub guest_smt: usize,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What counts besides.
    pub prefer: Option<Prefer>,
    /// What becomes of SMT siblings.
    pub smt: Option<Smt>,
    /// CPUs that its table owns without a vCPU.
    pub also: CpuSet,
    /// CPUs that its table gives to threads other than vCPUs.
    pub threads: CpuSet,
}

impl RoomRequest {
    /// Returns what a guest asks for.
    pub fn of(guest: &Guest) -> Self {
        RoomRequest {
            n_vcpus: guest.max_vcpus.max(guest.n_vcpus) as usize,
            guest_smt: guest.smt as usize,
            memory_mib: guest.memory_mib,
            ..RoomRequest::default()
        }
    }

    /// Returns what a guest with a table asks for.
    pub fn with_table(guest: &Guest, table: &Table) -> Self {
        let pin = &table.pin;
        let threads = pin.iothreads.values().chain(pin.vhost.values());
        let threads = threads.chain(&pin.emulator).flat_map(CpuSet::iter);
        RoomRequest {
            also: table.isolate.also.clone(),
            prefer: table.prefer,
            smt: table.smt,
            threads: threads.collect(),
            ..RoomRequest::of(guest)
        }
    }
}

impl Room {
    /// Looks who has CPUs on this node, apart from `vmid`; `state` is what the program remembers, `None`
    /// where that is hidden.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn read(
        host: &Host,
        vmid: Vmid,
        guest: &Guest,
        settings: &HostSettings,
        topology: &Topology,
        state: Option<&State>,
    ) -> anyhow::Result<Self> {
        let mut room = Room {
            vmid: Some(vmid),
            around: look_at_files(host, settings),
            devices: devices(host, vmid, guest, topology),
            speeds: read_speeds(&*host.files, topology),
            ..Room::default()
        };
        look_at_groups(host, state, &mut room.around);
        let own = format!("vm {vmid}");
        room.around.bystanders.retain(|one| one.who != own);
        let of_node: BTreeSet<Vmid> = pve::vms_of_node(&*host.files)?.into_iter().collect();
        for other in tables(&*host.files)?.intersection(&of_node) {
            if *other == vmid {
                continue;
            }
            match named_by(host, *other, settings, topology) {
                Ok(cpus) if cpus.is_empty() => {}
                Ok(cpus) => drop(room.tables.insert(*other, cpus)),
                Err(_) => room.unreadable.push(*other),
            }
        }
        Ok(room)
    }

    /// Returns who has CPUs, running or not, in words.
    pub fn owners(&self, claims: &Claims) -> Vec<(String, CpuSet)> {
        let mut by_vm = self.tables.clone();
        let others = claims.values().filter(|claim| claim.owns());
        for claim in others.filter(|claim| Some(claim.vmid) != self.vmid) {
            let cpus = by_vm.entry(claim.vmid).or_default();
            cpus.extend(claim.wishes.cpus.iter());
        }
        let vms = by_vm.into_iter();
        let vms = vms.map(|(vmid, cpus)| (format!("vm {vmid}"), cpus));
        let groups = self.around.partitions.iter();
        let groups =
            groups.map(|foreign| (format!("cgroup {}", foreign.group), foreign.cpus.clone()));
        vms.chain(groups).collect()
    }

    /// Returns the search for CPUs for what a VM asks for.
    pub fn search<'a>(
        &'a self,
        asked: &RoomRequest,
        claims: &Claims,
        topology: &'a Topology,
    ) -> Search<'a> {
        let owners = self.owners(claims).into_iter();
        let others: CpuSet = owners
            .flat_map(|(_, cpus)| cpus.iter().collect::<Vec<_>>())
            .collect();
        Search {
            topology,
            n_vcpus: asked.n_vcpus,
            guest_smt: asked.guest_smt,
            others: others.union(&asked.also),
            kept: asked.threads.clone(),
            avoid: self.around.kept_from_vms(topology.online()),
            near: self
                .devices
                .iter()
                .filter_map(|device| device.node)
                .collect(),
            reserve: self.around.reserve.as_ref(),
            memory_mib: asked.memory_mib,
            prefer: asked.prefer,
            speeds: &self.speeds,
            smt: asked.smt,
        }
    }

    /// Chooses CPUs.
    ///
    /// # Errors
    /// There is no room; the refusal says who has the CPUs.
    pub fn choose(&self, search: &Search<'_>, claims: &Claims) -> Result<Choice, Refusal> {
        choose(search).map_err(|source: NoRoom| {
            let alone = Search {
                others: CpuSet::new(),
                ..search.clone()
            };
            // Where it would not fit even alone, others who let go are no remedy by themselves.
            match choose(&alone) {
                Err(even) if source.fitting() == 0 && even.fitting() > 0 => Refusal::NoRoom {
                    alone: Some(even.fitting()),
                    source: even.with_fitting(0),
                    taken: self.owners(claims),
                },
                Err(even) => Refusal::NoRoom {
                    source: even.with_fitting(source.fitting()),
                    taken: Vec::new(),
                    alone: None,
                },
                Ok(_) => Refusal::NoRoom {
                    source,
                    taken: self.owners(claims),
                    alone: None,
                },
            }
        })
    }
}

/// Returns the CPUs that the table of a VM names on this node; also if it is refused otherwise.
fn named_by(
    host: &Host,
    vmid: Vmid,
    settings: &HostSettings,
    topology: &Topology,
) -> Result<CpuSet, CaseError> {
    let files = &*host.files;
    let Some(file) = read_table(files, vmid)? else {
        return Ok(CpuSet::new());
    };
    if pve::guest_of(files, vmid, "")?.is_some_and(|guest| guest.template) {
        return Ok(CpuSet::new());
    }
    let table = understand(host, &file, settings)?;
    Ok(owned_by_table(&table, topology).unwrap_or(table.isolate.also))
}

/// Returns where the devices of a guest are attached, of a mapping the one that PVE will take.
fn devices(host: &Host, vmid: Vmid, guest: &Guest, topology: &Topology) -> Vec<Device> {
    let taken = Devices::read(host, vmid, guest, &[]);
    let chosen = taken.chosen().into_iter();
    let functions = chosen.flat_map(|(asked, functions)| functions.iter().map(|f| (&asked.key, f)));
    let device = |(key, address): (&String, &String)| Device {
        key: key.clone(),
        address: address.clone(),
        node: pci::node_of(&*host.files, address, topology),
    };
    let mut devices: Vec<Device> = functions.map(device).collect();
    // The functions of a device are in one place.
    devices.dedup_by(|one, two| one.key == two.key && one.node == two.node);
    devices
}
