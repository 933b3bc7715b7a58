//! PCI devices of the host: what they are, which of them a VM asks for, and who else needs them.

pub mod anew;
pub mod asked;
pub mod binding;
pub mod chosen;
pub mod modules;
pub mod needs;
pub mod objection;
pub mod outlook;
pub mod reset;
pub mod rival;
pub mod verdict;

use std::collections::BTreeMap;

/// Functions of this host by their address, such as `0000:01:00.0`.
pub type Bus = BTreeMap<String, Function>;

/// What sysfs tells of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Function {
    /// Vendor and device, such as `10de:2204`.
    pub model: String,
    /// The same of its subsystem.
    pub subsystem: String,
    /// Class, subclass and interface, such as `0x030000`.
    pub class: u32,
    /// Driver that it is bound to.
    pub driver: Option<String>,
    /// IOMMU group.
    pub group: Option<u32>,
    /// NUMA node, where the host tells.
    pub node: Option<u32>,
    /// Whether the firmware used it as the display.
    pub is_boot_vga: bool,
    /// Physical function, of a virtual one.
    pub physical: Option<String>,
    /// Virtual functions by their index.
    pub virtuals: BTreeMap<u32, String>,
    /// Mediated devices that it carries.
    pub mdevs: Vec<String>,
    /// Ways to reset it, in the order in which the kernel tries them.
    pub reset_methods: Vec<String>,
}

impl Function {
    /// Tells whether it is a bridge: PVE binds every other function of a group to vfio-pci.
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }

    /// Tells whether PVE leaves it with its driver when it binds the group: what has a bus behind it
    /// (`SysFSTools::pci_dev_group_bind_to_vfio`).
    pub fn has_a_bus(&self) -> bool {
        matches!(self.class >> 8, 0x06_04 | 0x06_07 | 0x06_09)
    }

    /// Tells whether its driver lets its IOMMU group belong to a VM: those that leave DMA to whoever
    /// owns the group (`driver_managed_dma`).
    pub fn shares_its_group(&self) -> bool {
        let drivers = [VFIO, "pci-stub", "pcieport"];
        self.driver
            .as_deref()
            .is_none_or(|name| drivers.contains(&name))
    }

    /// Tells whether it is a controller of disks, Fibre Channel among them.
    pub fn is_storage(&self) -> bool {
        self.class >> 16 == 0x01 || self.class >> 8 == 0x0c_04
    }

    /// Tells whether it is an NVMe disk.
    pub fn is_nvme(&self) -> bool {
        self.class >> 8 == 0x01_08
    }

    /// Tells whether the host does nothing with it: no driver, or the one for VMs.
    pub fn is_idle(&self) -> bool {
        self.driver.as_deref().is_none_or(|name| name == VFIO)
    }
}

/// Driver that hands a function to a VM.
pub const VFIO: &str = "vfio-pci";

/// Tells whether a text is the address of a function: `dddd:bb:dd.f`, the domain has more digits on
/// some hosts.
pub fn is_address(text: &str) -> bool {
    let is_hex = |part: &str, n: std::ops::RangeInclusive<usize>| {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        n.contains(&part.len()) && part.bytes().all(digit)
    };
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else {
        return false;
    };
    let valid = is_hex(domain, 4..=8) && is_hex(bus, 2..=2) && is_hex(device, 2..=2);
    let order = text.matches(':').count() == 2 && text.ends_with(&format!(".{function}"));
    valid && order && is_hex(function, 1..=1)
}

/// Returns the bus that a function is on, as `/sys/class/pci_bus` names it. A rescan of that one
/// finds the function and little else; the file of that name of a bridge rescans the bus above.
pub fn bus_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(bus, _)| bus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_sysfs() {
        for (text, expected) in [
            ("0000:01:00.0", true),
            ("10000:e1:00.0", true),
            ("0000:01:00", false),
            ("01:00.0", false),
            ("0000:01:0A.0", false),
            ("0000.01:00:0", false),
            ("../01:00:0.0", false),
            ("", false),
        ] {
            assert_eq!(is_address(text), expected, "{text}");
        }
    }

    #[test]
    fn a_bus_is_named_as_its_functions() {
        assert_eq!(bus_of("10000:e1:00.0"), "10000:e1");
    }
}
