//! Memory that PVE or QEMU does not start a VM with, by its config alone (`PVE::QemuServer::Memory`,
//! `config` and `hugepages_topology`).
//!
//! Only what is certain: memory that can be plugged is laid out by other rules, and is left out.

use std::fmt;

use super::nodes_in_words;
use crate::domain::guest::{Guest, GuestNode, HugepageSize};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;

/// What is wrong with the memory of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Who refuses it.
    pub by: &'static str,
    /// What is wrong, without who refuses it.
    fact: String,
    /// Which option mends it, and how.
    option: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} does not start with that", self.fact, self.by)
    }
}

impl Refused {
    fn pve(fact: impl Into<String>, option: impl Into<String>) -> Self {
        let (fact, option) = (fact.into(), option.into());
        Refused {
            by: "pve",
            fact,
            option,
        }
    }

    /// Returns what can be done about it.
    pub fn help(&self, vmid: Vmid) -> String {
        format!("qm set {vmid} {}", self.option)
    }
}

/// Returns what PVE or QEMU would not start a VM with, the first thing that they come to.
pub fn refused(guest: &Guest, topology: &Topology) -> Option<Refused> {
    if guest.memory_hotplug {
        return None;
    }
    if guest.nodes.is_empty() {
        return guest.hugepages.map(|_| {
            Refused::pve(
                "the vm's config has hugepages without numa",
                "--numa 1, or --delete hugepages",
            )
        });
    }
    let mut faults = guest.nodes.iter().enumerate();
    let of_node = faults.find_map(|(number, node)| match &node.key {
        Some(key) => of_named(key, node, guest, topology),
        None => of_socket(number, node, guest, topology),
    });
    of_node.or_else(|| of_total(guest))
}

/// Judges a node that the config describes (`numaN`).
fn of_named(key: &str, node: &GuestNode, guest: &Guest, topology: &Topology) -> Option<Refused> {
    let option = format!("--{key} cpus=...,hostnodes=...,memory=...,policy=bind");
    let of = |what: String| {
        Some(Refused::pve(
            format!("{key} of the vm's config {what}"),
            &*option,
        ))
    };
    if node.memory_mib == 0 {
        return of("has no memory".to_owned());
    }
    if let Some(misfit) = misfit(key, node.memory_mib, guest) {
        return Some(misfit);
    }
    let from = &node.host_nodes;
    let absent = from.iter().find(|id| topology.node(**id).is_none());
    if let Some(id) = absent.filter(|_| !topology.nodes().is_empty()) {
        return of(format!("takes memory from node {id}, which is not there"));
    }
    let has_pages = guest.hugepages.is_some();
    match from.len() {
        0 if has_pages => return of("has no hostnodes, which hugepages need".to_owned()),
        0 => return None,
        1 => {}
        _ if has_pages => return of("has several hostnodes, and hugepages".to_owned()),
        _ => {}
    }
    if node.policy.is_none() {
        return of("has hostnodes and no policy".to_owned());
    }
    // The kernel takes those with memory, and refuses an empty set (`mpol_set_nodemask()`).
    let is_bare = |id: &u32| topology.node(*id).is_some_and(|node| !node.has_memory);
    from.iter().all(is_bare).then(|| {
        let nodes = nodes_in_words(&from.iter().copied().collect());
        Refused {
            by: "qemu",
            fact: format!(
                "{key} of the vm's config takes memory from {nodes}, where there is none"
            ),
            option,
        }
    })
}

/// Judges a node that PVE makes of a socket: its hugepages come from the node of that number.
fn of_socket(
    number: usize,
    node: &GuestNode,
    guest: &Guest,
    topology: &Topology,
) -> Option<Refused> {
    guest.hugepages?;
    // What PVE makes of half a MiB is not judged.
    let is_whole = guest.memory_mib.is_multiple_of(guest.sockets.max(1));
    if let Some(misfit) = misfit("each socket", node.memory_mib, guest).filter(|_| is_whole) {
        return Some(misfit);
    }
    let is_there = topology
        .nodes()
        .iter()
        .any(|one| usize::try_from(one.id) == Ok(number));
    (!is_there && !topology.nodes().is_empty()).then(|| {
        let fact = format!(
            "the hugepages of socket {number} would come from node {number}, which is not there"
        );
        Refused::pve(fact, "--sockets 1 --cores ..., or --numaN for each node")
    })
}

/// Judges whether hugepages fit into the memory of a node of the guest.
fn misfit(whose: &str, mib: u32, guest: &Guest) -> Option<Refused> {
    let page = match guest.hugepages? {
        // Whatever is no multiple of 1 GiB comes in pages of 2 MiB.
        HugepageSize::Any => 2,
        HugepageSize::Mib(page) => page.max(1),
    };
    if mib.is_multiple_of(page.max(2)) {
        return None;
    }
    let fact =
        format!("{whose} has {mib} MiB of memory, no multiple of the hugepage size ({page} MiB)");
    let size = format!("--memory ..., so that it is a multiple of {page} MiB");
    Some(Refused::pve(
        fact,
        match mib.is_multiple_of(2) {
            true => format!("--hugepages 2, or {size}"),
            false => size,
        },
    ))
}

/// Says that the nodes of the config do not make up the memory of the VM.
fn of_total(guest: &Guest) -> Option<Refused> {
    let is_named = guest.nodes.iter().all(|node| node.key.is_some());
    let sizes = guest.nodes.iter().map(|node| u64::from(node.memory_mib));
    let (sum, all) = (sizes.sum::<u64>(), guest.memory_mib);
    (is_named && sum != u64::from(all)).then(|| {
        let fact = format!("the numa nodes of the vm's config have {sum} MiB of its {all} MiB");
        Refused::pve(
            fact,
            format!("--memory {sum}, or another memory= of its --numaN"),
        )
    })
}
