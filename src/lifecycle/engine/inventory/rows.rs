//! Devices as they are shown.

use serde::Serialize;

use super::Devices;
use crate::domain::pci::asked::Asked;
use crate::domain::pci::objection::Objection;
use crate::domain::pci::verdict::objections;

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
}
