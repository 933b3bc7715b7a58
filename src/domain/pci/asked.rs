//! Which functions of this host a VM asks for.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Bus, Function};
use crate::domain::guest::HostPci;
use crate::domain::vm::Vmid;

/// One alternative of a mapping on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Addresses, which are passed together; one without a function means all of its functions.
    pub ids: Vec<String>,
    /// Vendor and device that were there when the mapping was made.
    pub model: Option<String>,
    /// The same of the subsystem.
    pub subsystem: Option<String>,
    /// IOMMU group at that time.
    pub group: Option<u32>,
}

/// What an entry `hostpciN` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Key in the configuration.
    pub key: String,
    /// Name of the mapping that it goes by.
    pub mapping: Option<String>,
    /// Functions of each alternative, in the order in which PVE tries them; one without mapping.
    pub alternatives: Vec<Vec<String>>,
    /// Type of the mediated device; the functions are its parents then.
    pub mdev: Option<String>,
    /// Whether the host's driver stays (`driver=keep`).
    pub keeps_driver: bool,
    /// Why PVE will refuse the start, where that can be told.
    pub fault: Option<Fault>,
}

/// Why an entry has no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No function of this host has such an address.
    #[error("there is no pci device {id}")]
    Missing {
        /// Address in the configuration.
        id: String,
    },
    /// There is no mapping of that name.
    #[error("there is no pci mapping {name}")]
    NoMapping {
        /// Its name.
        name: String,
    },
    /// The mapping has nothing on this node.
    #[error("pci mapping {name} has no device on this node")]
    NotHere {
        /// Its name.
        name: String,
    },
    /// The kernel groups no devices: it uses no IOMMU.
    #[error("pci mapping {name}: {address} has no iommu group, expected {expected}")]
    NoGroups {
        /// Name of the mapping.
        name: String,
        /// Which function.
        address: String,
        /// What the mapping says of it.
        expected: String,
    },
    /// The kernel has no group for the function, so nobody can have it.
    #[error("{address} has no iommu group")]
    NoIommu {
        /// Which function.
        address: String,
    },
    /// A bridge of the group has a driver that does not leave it to a VM, and PVE binds no bridges.
    #[error(
        "{address} shares iommu group {group} with {other}, which {driver} uses: the group is not \
         viable"
    )]
    NotViable {
        /// Which function.
        address: String,
        /// Group of both.
        group: u32,
        /// The bridge.
        other: String,
        /// Its driver.
        driver: String,
    },
    /// It carries a bus, so no driver for VMs takes it (`vfio_pci_probe()`).
    #[error("{address} is a pci bridge, which cannot be passed through")]
    Bridge {
        /// Which function.
        address: String,
    },
    /// Another device is at the address now: devices are numbered anew when one comes or goes.
    #[error("pci mapping {name}: {address} is {actual}, expected {expected}")]
    Changed {
        /// Name of the mapping.
        name: String,
        /// Which function.
        address: String,
        /// Its model, subsystem or IOMMU group now.
        actual: String,
        /// What the mapping says of it.
        expected: String,
    },
}

impl Fault {
    /// Returns what the operator can do about it; `key` is the entry in the configuration of the VM.
    pub fn help(&self, key: &str, vmid: Option<Vmid>) -> String {
        let vmid = || vmid.map_or("<vmid>".to_owned(), |vmid| vmid.to_string());
        match self {
            Fault::Bridge { .. } => format!(
                "remove {key} (qm set {} --delete {key}); to pass through what is behind the bridge, name that: \
                 lspci -Dt shows it",
                vmid()
            ),
            Fault::Missing { .. } => {
                "lspci -Dnn shows where the device is now: correct the entry; if it is missing, \
                 try echo 1 > /sys/bus/pci/rescan, or power the host off and on"
                    .to_owned()
            }
            Fault::NoMapping { name } => format!(
                "create mapping {name} (datacenter, resource mappings), or correct the entry"
            ),
            Fault::NotHere { name } => {
                format!("add this node's device to mapping {name} (datacenter, resource mappings)")
            }
            Fault::Changed { name, address, .. } => format!(
                "lspci -Dnnvs {address} shows it: if it is the right device, save mapping {name} \
                 again (datacenter, resource mappings), else lspci -Dnn shows where that is now"
            ),
            Fault::NotViable { other, driver, .. } => format!(
                "echo {other} > /sys/bus/pci/drivers/{driver}/unbind before the start, or put the \
                 device into another slot, so that it gets a group of its own"
            ),
            Fault::NoGroups { .. } | Fault::NoIommu { .. } => {
                "enable the iommu in the firmware (vt-d or amd-vi), for intel also intel_iommu=on \
                 on the kernel's command line"
                    .to_owned()
            }
        }
    }

    /// Returns who refuses the start for it.
    pub fn refused_by(&self) -> &'static str {
        match self {
            Fault::NotViable { .. } | Fault::Bridge { .. } => "qemu",
            _ => "pve",
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Asked {
    /// Returns every function that may be meant.
    pub fn functions(&self) -> impl Iterator<Item = &String> {
        self.alternatives.iter().flatten()
    }
}

/// Returns what an entry asks for on this host; `mapped` are the alternatives of its mapping.
pub fn asked(entry: &HostPci, mapped: Option<&[Mapped]>, bus: &Bus) -> Asked {
    let mut asked = Asked {
        key: entry.key.clone(),
        mapping: entry.mapping.clone(),
        alternatives: Vec::new(),
        mdev: entry.mdev.clone(),
        keeps_driver: entry.keep_driver,
        fault: None,
    };
    let Some(name) = &entry.mapping else {
        match functions_of(&entry.ids, bus) {
            Ok(functions) => asked.alternatives.push(functions),
            Err(fault) => asked.fault = Some(fault),
        }
        asked.fault = asked.fault.take().or_else(|| ungrouped(&asked, bus));
        return asked;
    };
    let name = name.clone();
    let mut faults = Vec::new();
    for mapped in mapped.unwrap_or_default() {
        match functions_of(&mapped.ids, bus).and_then(|found| mapped.check(&name, found, bus)) {
            Ok(functions) => asked.alternatives.push(functions),
            Err(fault) => faults.push(fault),
        }
    }
    let none = match mapped {
        None => Fault::NoMapping { name },
        Some(_) => Fault::NotHere { name },
    };
    // PVE checks each alternative before it chooses: one that is wrong ends the start.
    let is_lost = asked.alternatives.is_empty();
    let fault = faults.into_iter().next().or(is_lost.then_some(none));
    asked.fault = fault.or_else(|| ungrouped(&asked, bus));
    asked
}

/// Returns why no alternative can be handed to a VM: it is a bridge, or by its IOMMU group. A mediated device has a group
/// of its own, but PVE wants an IOMMU for it as well (`prepare_pci_device`).
fn ungrouped(asked: &Asked, bus: &Bus) -> Option<Fault> {
    let is_without = |address: &&String| match asked.mdev {
        Some(_) => bus.values().all(|function| function.group.is_none()),
        None => bus.get(*address).is_some_and(|one| one.group.is_none()),
    };
    let of = |functions: &Vec<String>| {
        let is_bridge = |address: &&String| bus.get(*address).is_some_and(Function::has_a_bus);
        let mut passed = functions.iter().filter(|_| asked.mdev.is_none());
        if let Some(address) = passed.find(is_bridge) {
            let address = address.clone();
            return Some(Fault::Bridge { address });
        }
        if let Some(address) = functions.iter().find(is_without) {
            let address = address.clone();
            return Some(Fault::NoIommu { address });
        }
        let mut passed = functions.iter().filter(|_| asked.mdev.is_none());
        passed.find_map(|address| not_viable(address, bus))
    };
    let mut faults = asked.alternatives.iter().map(of);
    let first = faults.next().flatten();
    first.filter(|_| faults.all(|fault| fault.is_some()))
}

fn not_viable(address: &str, bus: &Bus) -> Option<Fault> {
    let group = bus.get(address)?.group?;
    let mut bridges = bus.iter().filter(|(_, other)| {
        other.group == Some(group) && other.has_a_bus() && !other.shares_its_group()
    });
    let (other, bridge) = bridges.next()?;
    Some(Fault::NotViable {
        address: address.to_owned(),
        group,
        other: other.clone(),
        driver: bridge.driver.clone().unwrap_or_default(),
    })
}

/// Returns the functions that addresses stand for, as PVE finds them: every function whose address
/// begins like that (`SysFSTools::lspci`).
fn functions_of(ids: &[String], bus: &Bus) -> Result<Vec<String>, Fault> {
    let mut functions = Vec::new();
    for id in ids {
        let found = bus.keys().filter(|address| address.starts_with(id));
        let n = functions.len();
        functions.extend(found.cloned());
        if functions.len() == n {
            return Err(Fault::Missing { id: id.clone() });
        }
    }
    let mut seen = BTreeSet::new();
    functions.retain(|address| seen.insert(address.clone()));
    Ok(functions)
}

impl Mapped {
    /// Checks that the first function is the one that the mapping was made for
    /// (`PVE::Mapping::PCI::assert_valid`).
    fn check(&self, name: &str, functions: Vec<String>, bus: &Bus) -> Result<Vec<String>, Fault> {
        let Some((address, function)) = functions
            .first()
            .and_then(|address| Some((address, bus.get(address)?)))
        else {
            return Ok(functions);
        };
        let group = |group: u32| format!("iommu group {group}");
        let actual_group = function.group.map(group);
        let pairs = [
            (self.model.clone(), Some(function.model.clone())),
            (
                self.subsystem.as_ref().map(|id| format!("subsystem {id}")),
                Some(format!("subsystem {}", function.subsystem)),
            ),
            (self.group.map(group), actual_group),
        ];
        for (expected, actual) in pairs {
            let Some(expected) = expected else { continue };
            let (name, address) = (name.to_owned(), address.clone());
            match actual {
                Some(actual) if actual == expected => {}
                Some(actual) => {
                    return Err(Fault::Changed {
                        name,
                        address,
                        actual,
                        expected,
                    });
                }
                None => {
                    return Err(Fault::NoGroups {
                        name,
                        address,
                        expected,
                    });
                }
            }
        }
        Ok(functions)
    }
}
