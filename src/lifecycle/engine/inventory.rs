//! What a VM takes from the host: devices, whole disks and directories, and who else needs them.

pub mod besides;
pub mod holders;
mod others;
pub mod rows;

use std::collections::BTreeMap;

use others::of_other_vms;

use crate::config::mapping::pci_mapping;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::guest::{Guest, RawDisk};
use crate::domain::pci::Bus;
use crate::domain::pci::asked::{Asked, asked};
use crate::domain::pci::needs::Needs;
use crate::domain::pci::objection::Objection;
use crate::domain::pci::outlook::Outlook;
use crate::domain::pci::verdict::{choice, disk_objections, objections};
use crate::domain::refusal::Refusal;
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::files::Files;
use crate::host::{Host, blocks, nets, pci, pve};

const PCI_MAPPINGS: &str = "/etc/pve/mapping/pci.cfg";

/// Something that is to be said of a device.
#[derive(Debug)]
pub struct Judged {
    /// As a warning.
    pub warning: String,
    /// What would come of a start, if nobody should want that.
    pub outlook: Option<Outlook>,
}

/// What a VM takes from the host.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// Functions of this host.
    pub bus: Bus,
    /// What each `hostpciN` asks for.
    pub asked: Vec<Asked>,
    disks: Vec<(RawDisk, Option<String>)>,
    needs: Needs,
}

impl Devices {
    /// Looks at what a VM takes from the host; VMs of `leaving` do not run by then.
    pub fn read(host: &Host, vmid: Vmid, guest: &Guest, leaving: &[Vmid]) -> Self {
        if guest.hostpci.is_empty() && guest.raw_disks.is_empty() {
            return Devices::default();
        }
        let files = &*host.files;
        let bus = pci::bus(files);
        let mappings = files.read(PCI_MAPPINGS).unwrap_or_default();
        let node = pve::node_name(files).unwrap_or_default();
        let entries = guest.hostpci.iter().map(|entry| {
            let name = entry.mapping.as_ref();
            let mapped = name.and_then(|name| pci_mapping(&mappings, name, &node));
            asked(entry, mapped.as_deref(), &bus)
        });
        let disks = guest.raw_disks.iter();
        let disks = disks.map(|disk| (disk.clone(), blocks::disk_at(files, &disk.path)));
        let mut needs = Needs {
            own: Some(vmid),
            disks: blocks::disks(files),
            nets: nets::nets(files),
            console: pci::console(files, &bus),
            ..Needs::default()
        };
        let is_other = |other: &Vmid| *other != vmid && !leaving.contains(other);
        of_other_vms(host, is_other, &node, &mut needs);
        Devices {
            asked: entries.collect(),
            disks: disks.collect(),
            bus,
            needs,
        }
    }

    /// Tells whether the host shows what the VM may have of it.
    pub fn can_be_judged(&self, guest: &Guest) -> bool {
        !self.bus.is_empty() || guest.hostpci.is_empty()
    }

    /// Returns the same without what other VMs have, who may have ended by the start.
    pub fn apart_from_vms(&self) -> Self {
        let mut devices = self.clone();
        devices.needs.holders.clear();
        devices.needs.raw_disks.clear();
        devices.needs.usb.clear();
        devices
    }

    /// Returns what would be taken, the alternatives that PVE would choose.
    pub fn chosen(&self) -> Vec<(&Asked, &[String])> {
        let mut own: Vec<String> = Vec::new();
        let chosen = self.asked.iter().filter_map(|asked| {
            let functions = choice(asked, &self.needs, &own)?;
            own.extend(functions.iter().cloned());
            Some((asked, functions))
        });
        chosen.collect()
    }

    /// Returns the functions that would be taken with their models.
    pub fn models(&self) -> BTreeMap<String, String> {
        let chosen = self.chosen().into_iter();
        let functions = chosen.filter(|(asked, _)| asked.mdev.is_none());
        let functions = functions.flat_map(|(_, functions)| functions);
        let model = |address: &String| {
            let function = self.bus.get(address)?;
            Some((address.clone(), function.model.clone()))
        };
        functions.filter_map(model).collect()
    }

    /// Returns what speaks against giving the VM what it would take.
    pub fn objections(&self) -> Vec<Objection> {
        let chosen = self.chosen().into_iter();
        let mut found: Vec<Objection> = chosen
            .flat_map(|(asked, functions)| objections(asked, functions, &self.bus, &self.needs))
            .collect();
        found.extend(self.disk_objections());
        for asked in &self.asked {
            let is_taken = asked.fault.is_none() && !asked.alternatives.is_empty();
            let is_chosen = self.chosen().iter().any(|(one, _)| one.key == asked.key);
            if is_taken && !is_chosen {
                let all = asked.alternatives.iter();
                found.extend(all.flat_map(|one| objections(asked, one, &self.bus, &self.needs)));
            }
        }
        found
    }

    fn disk_objections(&self) -> impl Iterator<Item = Objection> + '_ {
        let named = self.disks.iter();
        let named = named.filter_map(|(disk, name)| Some((disk, name.as_ref()?)));
        named.flat_map(|(disk, name)| disk_objections(disk, name, &self.needs))
    }

    /// Returns why the VM cannot have its devices, or should not.
    ///
    /// # Errors
    /// The first reason.
    pub fn check(&self) -> Result<(), Refusal> {
        for asked in &self.asked {
            if let Some(fault) = &asked.fault {
                return Err(Refusal::NoDevice {
                    key: asked.key.clone(),
                    fault: fault.clone(),
                });
            }
        }
        match self.objections().into_iter().next() {
            Some(objection) => Err(Refusal::Device(Box::new(objection))),
            None => Ok(()),
        }
    }

    /// Returns what would come of a start that nobody should want, the first reason: what the VM does
    /// not get at all counts before what others lose.
    pub fn outlook(&self, vmid: Vmid) -> Option<Outlook> {
        let outlooks = self.judged(vmid).into_iter();
        let outlooks = outlooks.filter_map(|judged| judged.outlook);
        outlooks.min_by_key(|outlook| !outlook.fails)
    }

    /// Returns the same as advice: PVE would start the VM nevertheless.
    pub fn warnings(&self, vmid: Vmid) -> Vec<String> {
        let judged = self.judged(vmid).into_iter();
        judged.map(|judged| judged.warning).collect()
    }

    /// Returns everything that there is to be said of the devices, in order.
    pub fn judged(&self, vmid: Vmid) -> Vec<Judged> {
        let faults = self.asked.iter().filter_map(|asked| {
            let outlook = Outlook::of_fault(vmid, &asked.key, asked.fault.as_ref()?);
            Some(Judged {
                warning: outlook.warning.clone(),
                outlook: Some(outlook),
            })
        });
        let objections = self.objections().into_iter();
        let objections = objections.map(|objection| Judged {
            warning: objection.warning(vmid),
            outlook: Outlook::of_objection(vmid, &objection),
        });
        let lost = self.lost_functions(vmid).into_iter();
        let lost = lost.map(|warning| Judged {
            warning,
            outlook: None,
        });
        faults.chain(objections).chain(lost).collect()
    }

    /// Says which virtual functions vanish with the driver that made them, because the VM takes the
    /// physical one.
    fn lost_functions(&self, vmid: Vmid) -> Vec<String> {
        let mut lost = Vec::new();
        for (asked, functions) in self.chosen() {
            if asked.mdev.is_some() || asked.keeps_driver {
                continue;
            }
            for address in functions {
                let function = self.bus.get(address).filter(|function| !function.is_idle());
                let virtuals = function.map(|function| &function.virtuals);
                if let Some((n, first)) = virtuals.and_then(|v| Some((v.len(), v.values().next()?)))
                {
                    let (key, functions) = (&asked.key, count(n, "virtual function"));
                    let go = if n == 1 { "goes" } else { "go" };
                    lost.push(format!(
                        "{key}: {address} has {functions}, which {go} with its driver: name one \
                         function (qm set {vmid} --{key} {first})"
                    ));
                }
            }
        }
        lost
    }

    /// Returns which devices are far from the CPUs or the memory of the VM.
    pub fn far(
        &self,
        files: &dyn Files,
        cpus: &CpuSet,
        guest: &Guest,
        topology: &Topology,
    ) -> Vec<String> {
        if topology.nodes().len() < 2 {
            return Vec::new();
        }
        let nodes = cpus.iter().filter_map(|cpu| topology.node_of(cpu));
        let cpu_nodes: CpuSet = nodes.map(|node| CpuId(node.id)).collect();
        let memory = guest.nodes.iter().flat_map(|node| &node.host_nodes);
        let memory_nodes: CpuSet = memory.copied().map(CpuId).collect();
        let mut far = Vec::new();
        for (Asked { key, .. }, functions) in self.chosen() {
            let node = |address: &str| pci::node_of(files, address, topology);
            let mut places = functions.iter().map(|address| (address, node(address)));
            let Some((address, Some(node))) = places.find(|(_, node)| node.is_some()) else {
                continue;
            };
            let places = [("vcpus are", &cpu_nodes), ("memory is", &memory_nodes)];
            let elsewhere = places
                .into_iter()
                .filter(|(_, nodes)| !nodes.is_empty() && !nodes.contains(CpuId(node)));
            far.extend(elsewhere.map(|(what, nodes)| {
                format!(
                    "{key} ({address}) is attached to numa node {node}, the vm's {what} on {nodes}"
                )
            }));
        }
        far
    }
}
