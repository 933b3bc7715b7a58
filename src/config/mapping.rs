//! `/etc/pve/mapping/pci.cfg`: which devices of a node stand behind a cluster-wide name.

/// Returns the addresses that stand behind a mapping on a node; where there are alternatives,
/// those of all of them, because PVE takes the first that is free at the start.
///
/// A section begins with its name in the first column and ends with an empty line
/// (`PVE::Mapping::PCI` of pve-guest-common). What is not understood is passed over.
pub fn pci_ids(text: &str, mapping: &str, node: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut is_inside = false;
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        if !line.starts_with([' ', '\t']) {
            is_inside = line.trim_end() == mapping;
            continue;
        }
        if let Some(map) = line.trim().strip_prefix("map ").filter(|_| is_inside) {
            ids.extend(paths(map, node));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn paths(map: &str, node: &str) -> Vec<String> {
    let value = |key: &str| {
        let mut pairs = map
            .trim()
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    match (value("node"), value("path")) {
        (Some(of), Some(path)) if of == node => path.split(';').map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_has_its_devices_on_each_node() {
        let text = "gpu\n\tdescription two cards\n\
                    \tmap id=10de:2204,iommugroup=14,node=pve1,path=0000:01:00\n\
                    \tmap id=10de:2204,iommugroup=15,node=pve1,path=0000:02:00\n\
                    \tmap id=10de:2204,node=pve2,path=0000:41:00.0;0000:41:00.1\n\n\
                    nic\n\tmap id=8086:1520,node=pve1,path=0000:07:10.0\n";
        assert_eq!(pci_ids(text, "gpu", "pve1"), ["0000:01:00", "0000:02:00"]);
        assert_eq!(
            pci_ids(text, "gpu", "pve2"),
            ["0000:41:00.0", "0000:41:00.1"]
        );
        assert_eq!(pci_ids(text, "nic", "pve1"), ["0000:07:10.0"]);
        assert!(pci_ids(text, "nic", "pve2").is_empty());
        assert!(pci_ids(text, "disk", "pve1").is_empty());
    }
}
