//! What a VM takes from the host: devices, whole disks and directories, and who else needs them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::mapping::{pci_mapping, usb_mapping};
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::guest::{Guest, RawDisk, UsbFrom};
use crate::domain::pci::Bus;
use crate::domain::pci::asked::{Asked, asked};
use crate::domain::pci::chosen::{Until, of_command_line, reservations};
use crate::domain::pci::verdict::{
    DiskOfVm, Holder, Needs, Objection, UsbOfVm, choice, disk_objections, objections,
};
use crate::domain::refusal::Refusal;
use crate::domain::topology::Topology;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::files::Files;
use crate::host::{Host, blocks, device, nets, pci, pve, usb};

const PCI_MAPPINGS: &str = "/etc/pve/mapping/pci.cfg";
const USB_MAPPINGS: &str = "/etc/pve/mapping/usb.cfg";
const RESERVATIONS: &str = "/run/qemu-server/pci-id-reservations";

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

/// A device of a VM, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRow {
    /// Key in the VM's configuration.
    pub key: String,
    /// Name of the mapping that it goes by.
    pub mapping: Option<String>,
    /// Type of the mediated device.
    pub mdev: Option<String>,
    /// Whether PVE takes this alternative, as things stand.
    pub chosen: bool,
    /// Functions that are passed through together.
    pub functions: Vec<FunctionRow>,
    /// Why nothing can be passed through.
    pub fault: Option<String>,
    /// What speaks against it.
    pub objections: Vec<Objection>,
}

/// A function, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionRow {
    /// Its address.
    pub address: String,
    /// Vendor and device.
    pub model: String,
    /// Driver that it is bound to.
    pub driver: Option<String>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// NUMA node, where the host tells.
    pub node: Option<u32>,
    /// Ways to reset it, in the order in which the kernel tries them.
    pub reset_methods: Vec<String>,
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

    /// Returns the same as advice: PVE would start the VM nevertheless.
    pub fn warnings(&self) -> Vec<String> {
        let faults = self.asked.iter().filter_map(|asked| {
            let fault = asked.fault.as_ref()?;
            Some(format!("{}: {fault}", asked.key))
        });
        let objections = self.objections().into_iter();
        faults.chain(objections.map(|o| o.to_string())).collect()
    }

    /// Returns the devices as rows, alternatives one after the other.
    pub fn rows(&self) -> Vec<DeviceRow> {
        let chosen = self.chosen();
        let row = |asked: &Asked, functions: &[String]| DeviceRow {
            key: asked.key.clone(),
            mapping: asked.mapping.clone(),
            mdev: asked.mdev.clone(),
            chosen: chosen.contains(&(asked, functions)),
            functions: functions
                .iter()
                .filter_map(|a| self.function_row(a))
                .collect(),
            fault: asked.fault.as_ref().map(ToString::to_string),
            objections: objections(asked, functions, &self.bus, &self.needs),
        };
        let rows = self.asked.iter().flat_map(|asked| {
            let alternatives = asked.alternatives.iter();
            let mut rows: Vec<DeviceRow> = alternatives.map(|one| row(asked, one)).collect();
            if rows.is_empty() {
                rows.push(row(asked, &[]));
            }
            rows
        });
        rows.collect()
    }

    fn function_row(&self, address: &str) -> Option<FunctionRow> {
        let function = self.bus.get(address)?;
        Some(FunctionRow {
            address: address.to_owned(),
            model: function.model.clone(),
            driver: function.driver.clone(),
            iommu_group: function.group,
            node: function.node,
            reset_methods: function.reset_methods.clone(),
        })
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
            let node = |address: &str| device::node_of(files, address, topology);
            let mut places = functions.iter().map(|address| (address, node(address)));
            let Some((address, Some(node))) = places.find(|(_, node)| node.is_some()) else {
                continue;
            };
            let places = [("vcpus", &cpu_nodes), ("memory", &memory_nodes)];
            let elsewhere = places
                .into_iter()
                .filter(|(_, nodes)| !nodes.is_empty() && !nodes.contains(CpuId(node)));
            far.extend(elsewhere.map(|(what, nodes)| {
                format!(
                    "{key} ({address}) is attached to numa node {node}, {what} of the vm to {nodes}"
                )
            }));
        }
        far
    }
}

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

/// Adds what other VMs of this node have: functions that they run with or that PVE has reserved for
/// them, and USB devices and whole disks of those that run.
fn of_other_vms(host: &Host, is_other: impl Fn(&Vmid) -> bool, node: &str, needs: &mut Needs) {
    let files = &*host.files;
    let running = pve::running_vms(files).unwrap_or_default();
    let is_running = |vmid: Vmid| running.iter().any(|(other, _)| *other == vmid);
    let now = host.clock.since_epoch();
    let reserved = reservations(&files.read(RESERVATIONS).unwrap_or_default());
    for (address, one) in reserved {
        let runs = is_running(one.vmid);
        let is_valid = match one.until {
            Until::Process(_) => runs,
            Until::Time(end) => runs || now < end,
        };
        if is_valid && is_other(&one.vmid) {
            let vmid = one.vmid;
            needs.holders.insert(address, Holder { vmid, runs });
        }
    }
    for (vmid, qemu) in running.iter().filter(|(vmid, _)| is_other(vmid)) {
        let (vmid, runs) = (*vmid, true);
        let command = files.read(&format!("/proc/{qemu}/cmdline"));
        for address in of_command_line(&command.unwrap_or_default()) {
            needs.holders.insert(address, Holder { vmid, runs });
        }
        if let Ok(Some(config)) = pve::vm_config(files, vmid, "") {
            of_guest(
                files,
                vmid,
                &parse_vm_conf(&config.text).guest(),
                node,
                needs,
            );
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
