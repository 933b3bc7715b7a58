//! The legend: owners by their letters, and CPUs that are in no frame.

use super::tree::{functions, node_title};
use super::{Kind, Map, Owner, OwnerKind};
use crate::domain::cpuset::CpuSet;
use crate::domain::drawing::frame::{Line, hanging};

/// Returns a line for each owner, and what has no place in the picture.
pub(super) fn legend(map: &Map, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for node in map.nodes.iter().filter(|node| node.cpus.is_empty()) {
        let title = node_title(map, node.id);
        lines.push((format!("  {title}, without cpus"), None));
    }
    let is_homeless = |node: &Option<u32>| {
        let mut cores = map.cores.iter();
        !cores.any(|core| core.node == *node)
    };
    for (node, texts) in functions(map) {
        if is_homeless(&node) {
            let at = node.map_or("node unknown".to_owned(), |id| format!("node {id}"));
            let texts = texts.into_iter();
            lines.extend(texts.map(|(text, owner)| (format!("  {text} ({at})"), owner)));
        }
    }
    let offline = map.owners.iter();
    let offline = offline.filter(|owner| owner.kind == OwnerKind::Offline);
    let offline: CpuSet = offline.flat_map(|owner| owner.cpus.iter()).collect();
    for (n, owner) in map.owners.iter().enumerate() {
        let text = format!("{} {}", map.mark(n), owner.told(&offline));
        lines.push((text, Some(n)));
    }
    let lines = lines.into_iter();
    lines
        .flat_map(|(text, owner)| hanging(&text, owner, width))
        .collect()
}

/// Says what the cells are, for people who see them for the first time.
pub(super) fn cells_explained(map: &Map, width: usize) -> Vec<Line> {
    let mut text = "  a cell is a core with its cpus".to_owned();
    let mut kinds: Vec<Kind> = map.cores.iter().filter_map(|core| core.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (n, kind) in kinds.into_iter().enumerate() {
        let separator = if n == 0 { ";" } else { "," };
        text += &format!("{separator} {}: {}", kind.letters(), kind.words());
    }
    hanging(&text, None, width)
}

impl Owner {
    /// Returns how an owner is called in short.
    pub(super) fn called(&self) -> String {
        match (self.kind, self.vmid) {
            (OwnerKind::Vm, Some(vmid)) => format!("vm {vmid}"),
            (OwnerKind::Vm, None) => "vm".to_owned(),
            (OwnerKind::Partition, _) => "partition".to_owned(),
            (OwnerKind::Isolcpus, _) => "isolcpus".to_owned(),
            (OwnerKind::Offline, _) => "offline".to_owned(),
            (OwnerKind::Host, _) => "host".to_owned(),
        }
    }

    fn told(&self, offline: &CpuSet) -> String {
        let mut text = self.called();
        if let Some(name) = &self.name {
            text += &format!(" ({name})");
        }
        if let Some(state) = &self.state {
            text += &format!(", {state}");
        }
        if let Some(cgroup) = &self.cgroup {
            text += &format!(" {cgroup}");
        }
        text += &format!(": {}", self.cpus.in_words());
        if let Some(backend) = &self.backend {
            text += &format!(", backend {backend}");
        }
        let lost = self.cpus.intersection(offline);
        match self.kind {
            OwnerKind::Offline => text += " (place unknown until online)",
            OwnerKind::Isolcpus => text += " (kept from the scheduler at boot)",
            _ if lost.is_empty() => {}
            _ => text += &format!(", {} offline", lost.in_words()),
        }
        text
    }
}
