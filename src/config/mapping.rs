//! `/etc/pve/mapping/pci.cfg` and `usb.cfg`: which devices of a node stand behind a cluster-wide
//! name.
//!
//! A section begins with its name in the first column and ends with an empty line; each of its `map`
//! lines is a property string (`PVE::Mapping::PCI` and `USB` of pve-guest-common). What is not
//! understood is passed over.

use super::passthrough::{pci_address, usb_host};
use crate::domain::guest::UsbFrom;
use crate::domain::pci::asked::Mapped;

/// Returns the alternatives behind a PCI mapping on a node, in the order in which PVE tries them:
/// it takes the first that is free. `None` when there is no such mapping.
pub fn pci_mapping(text: &str, name: &str, node: &str) -> Option<Vec<Mapped>> {
    let maps = maps(text, name)?;
    let of_node = maps.iter().filter(|map| map.value("node") == Some(node));
    let alternatives = of_node.filter_map(|map| {
        let ids = map.value("path")?.split(';').map(pci_address);
        Some(Mapped {
            ids: ids.collect::<Option<Vec<_>>>()?,
            model: map.value("id").map(str::to_lowercase),
            subsystem: map.value("subsystem-id").map(str::to_lowercase),
            group: map.value("iommugroup").and_then(|n| n.parse().ok()),
        })
    });
    Some(alternatives.collect())
}

/// Returns how the devices behind a USB mapping on a node are found.
pub fn usb_mapping(text: &str, name: &str, node: &str) -> Option<Vec<UsbFrom>> {
    let maps = maps(text, name)?;
    let of_node = maps.iter().filter(|map| map.value("node") == Some(node));
    let found = of_node.filter_map(|map| usb_host(map.value("path").or(map.value("id"))?));
    Some(found.collect())
}

/// Line `map` of a section.
struct Map<'t>(&'t str);

impl<'t> Map<'t> {
    fn value(&self, key: &str) -> Option<&'t str> {
        let mut pairs = self.0.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| name.trim() == key).map(|(_, v)| v)
    }
}

fn maps<'t>(text: &'t str, name: &str) -> Option<Vec<Map<'t>>> {
    let mut found: Option<Vec<Map<'t>>> = None;
    let mut is_inside = false;
    let lines = text.lines();
    for line in lines.filter(|line| !line.trim_start().starts_with('#')) {
        if !line.starts_with([' ', '\t']) {
            is_inside = line.trim_end() == name;
            if is_inside {
                found.get_or_insert_default();
            }
            continue;
        }
        if let Some(map) = line.trim().strip_prefix("map ").filter(|_| is_inside) {
            found.get_or_insert_default().push(Map(map.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PCI: &str = "gpu\n\tdescription two cards\n\
                    \tmap id=10DE:2204,iommugroup=14,node=pve1,path=0000:01:00\n\
                    \tmap id=10de:2204,iommugroup=15,node=pve1,path=0000:02:00\n\
                    \tmap id=10de:2204,node=pve2,path=0000:41:00.0;0000:41:00.1\n\n\
                    nic\n\tmap id=8086:1520,node=pve1,path=0000:07:10.0\n";

    fn ids(name: &str, node: &str) -> Option<Vec<Vec<String>>> {
        let alternatives = pci_mapping(PCI, name, node)?;
        Some(alternatives.into_iter().map(|one| one.ids).collect())
    }

    #[test]
    fn alternatives_come_in_the_order_of_the_file() {
        let gpu = ids("gpu", "pve1").unwrap();
        assert_eq!(gpu, [["0000:01:00"], ["0000:02:00"]]);
        let first = pci_mapping(PCI, "gpu", "pve1").unwrap().remove(0);
        assert_eq!(first.model.as_deref(), Some("10de:2204"));
        assert_eq!(first.group, Some(14));
    }

    #[test]
    fn the_devices_of_one_alternative_belong_together() {
        let gpu = ids("gpu", "pve2").unwrap();
        assert_eq!(gpu, [["0000:41:00.0", "0000:41:00.1"]]);
    }

    #[test]
    fn a_mapping_may_have_nothing_on_a_node_or_not_exist() {
        assert_eq!(ids("nic", "pve2"), Some(Vec::new()));
        assert_eq!(ids("disk", "pve1"), None);
    }

    #[test]
    fn usb_mappings_prefer_the_port() {
        let text =
            "dongle\n\tmap id=0529:0001,node=pve1,path=1-2.3\n\tmap id=0529:0001,node=pve2\n";
        let of = |node| usb_mapping(text, "dongle", node).unwrap();
        assert_eq!(of("pve1"), [UsbFrom::Port("1-2.3".to_owned())]);
        assert_eq!(of("pve2"), [UsbFrom::Id("0529:0001".to_owned())]);
        assert!(of("pve3").is_empty());
    }
}
