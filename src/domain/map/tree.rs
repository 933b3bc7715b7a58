//! Cores by what they share: packages, nodes and L3 domains, each within what is larger.

use std::collections::{BTreeMap, BTreeSet};

use super::{Core, Map};
use crate::domain::words::size;

/// What cores share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Package,
    Node,
    L3,
}

/// Cores that share something.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// What they share.
    pub(super) title: String,
    /// What is attached to it, with the index of its owner.
    pub(super) devices: Vec<(String, Option<usize>)>,
    /// What it consists of; none where it is not divided any further.
    pub(super) parts: Vec<Group>,
    /// Indices of the cores of a group that is not divided any further.
    pub(super) cores: Vec<usize>,
}

impl Level {
    /// Returns the number of a core's package, node or L3 domain; what has none comes last.
    fn of(self, core: &Core) -> i64 {
        match self {
            Level::Package => i64::from(core.package),
            Level::Node => core.node.map_or(i64::MAX, i64::from),
            Level::L3 => core
                .l3_domain
                .map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        }
    }

    /// Returns all levels, the largest first. A cache may span the nodes of a package (sub-NUMA
    /// clustering), a node several packages (NPS0).
    pub(super) fn all(map: &Map) -> Vec<Level> {
        let mut levels = vec![Level::Package, Level::Node, Level::L3];
        let number = |level: &Level| {
            let numbers = map.cores.iter().map(|core| level.of(core));
            numbers.collect::<BTreeSet<i64>>().len()
        };
        levels.sort_by_cached_key(number);
        levels
    }

    fn title(self, map: &Map, core: &Core) -> String {
        match self {
            Level::Package if core.package < 0 => String::new(),
            Level::Package => format!("package {}", core.package),
            Level::Node => core.node.map_or_else(String::new, |id| node_title(map, id)),
            Level::L3 => match core.l3_domain {
                Some(n) => l3_title(map, n, n),
                None if map.l3_domains.is_empty() => String::new(),
                None => "no L3".to_owned(),
            },
        }
    }
}

/// Returns the functions at each node: for each VM a text, with its index among the owners.
pub(super) fn functions(map: &Map) -> BTreeMap<Option<u32>, Vec<(String, Option<usize>)>> {
    let mut by_vm = BTreeMap::new();
    for device in &map.devices {
        // Firmware of hosts with one node does not bother to tell.
        let only = map.nodes.first().filter(|_| map.nodes.len() == 1);
        let node = device.node.or(only.map(|node| node.id));
        let all: &mut Vec<&str> = by_vm.entry((node, device.vmid)).or_default();
        let address = &device.address;
        all.push(address.strip_prefix("0000:").unwrap_or(address));
    }
    let mut by_node: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((node, vmid), addresses) in by_vm {
        let text = format!("vm {vmid}: pci {}", addresses.join(", "));
        let texts = by_node.entry(node).or_default();
        texts.push((text, map.vm(vmid)));
    }
    by_node
}

/// Returns what a node is called, with its memory.
pub(super) fn node_title(map: &Map, id: u32) -> String {
    let mut nodes = map.nodes.iter();
    let node = nodes.find(|node| node.id == id);
    let memory = node.and_then(|node| node.memory_kib);
    match (node.is_none_or(|node| node.has_memory), memory) {
        (false, _) => format!("node {id} (no memory)"),
        (true, Some(kib)) => format!("node {id} ({})", size(kib)),
        (true, None) => format!("node {id}"),
    }
}

/// Returns what neighbouring L3 domains are called; they have the same size.
pub(super) fn l3_title(map: &Map, first: usize, last: usize) -> String {
    let number = match (map.l3_domains.len(), last - first) {
        (1, _) => String::new(),
        (_, 0) => format!(" {first}"),
        _ => format!(" {first}-{last}"),
    };
    let each = if last > first { " each" } else { "" };
    let size = map.l3_domains[first].kib.map(size);
    let size = size.map_or_else(String::new, |size| format!(" ({size}{each})"));
    format!("L3{number}{size}")
}

/// Returns the cores by these levels. What has a single part is one group with that.
pub(super) fn groups(map: &Map, levels: &[Level]) -> Vec<Group> {
    let mut devices = functions(map);
    let all = (0..map.cores.len()).collect();
    divided(map, levels, all, &mut devices)
}

fn divided(
    map: &Map,
    levels: &[Level],
    cores: Vec<usize>,
    devices: &mut BTreeMap<Option<u32>, Vec<(String, Option<usize>)>>,
) -> Vec<Group> {
    let Some((level, smaller)) = levels.split_first() else {
        return Vec::new();
    };
    let mut members: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for n in cores {
        let number = level.of(&map.cores[n]);
        members.entry(number).or_default().push(n);
    }
    let group = |members: Vec<usize>| {
        let first = &map.cores[members[0]];
        let mut group = Group {
            title: level.title(map, first),
            ..Group::default()
        };
        if *level == Level::Node {
            group.devices = devices.remove(&first.node).unwrap_or_default();
        }
        match smaller {
            [] => group.cores = members,
            _ => group.parts = divided(map, smaller, members, devices),
        }
        group.merged()
    };
    members.into_values().map(group).collect()
}

impl Group {
    fn merged(mut self) -> Self {
        if self.parts.len() != 1 {
            return self;
        }
        let Some(part) = self.parts.pop() else {
            return self;
        };
        let titles = [self.title, part.title];
        let titles = titles.into_iter().filter(|title| !title.is_empty());
        self.devices.extend(part.devices);
        Group {
            title: titles.collect::<Vec<_>>().join(", "),
            devices: self.devices,
            ..part
        }
    }
}
