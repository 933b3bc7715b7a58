//! Where a guest's memory comes from: NUMA nodes, and pools of hugepages.

pub mod refused;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::cpuset::{CpuId, CpuSet};
use super::guest::{Guest, HugepageSize};
use super::table::{Memory, Nodes};
use super::topology::Topology;
use super::vm::Vmid;

/// KiB in a MiB.
const MIB: u32 = 1024;

/// The hugepages of one size on one NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// The node.
    pub node: u32,
    /// Size of a page in KiB.
    pub kib: u32,
}

/// What a VM that is being started needs of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Share {
    /// Which pool.
    pub pool: Pool,
    /// Pages that the guest's memory takes.
    pub needed: u64,
    /// Pages that the pool had before any VM added to it.
    pub before: u64,
    /// Pages that are added for this VM.
    pub added: u64,
}

/// Where the memory of one VM comes from, resolved against this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MemoryWishes {
    /// NUMA nodes that QEMU may allocate from; none named: all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub nodes: BTreeSet<u32>,
    /// Pools that are filled until QEMU has taken its pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
}

impl MemoryWishes {
    /// Tells whether nothing is wished for.
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the nodes as the kernel and systemd list them.
    pub fn node_list(&self) -> String {
        list(&self.nodes)
    }
}

/// Why a guest's memory cannot come from where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// A node is named that has none.
    #[error("node {node} of memory.nodes has no memory")]
    NoMemory {
        /// The node.
        node: u32,
        /// Those that have.
        others: BTreeSet<u32>,
    },
    /// No node of the owned CPUs has any.
    #[error("the numa nodes of {} have no memory", cpus.in_words())]
    NoneNear {
        /// The CPUs.
        cpus: CpuSet,
    },
    /// The config of the VM binds a guest node elsewhere.
    #[error(
        "numa{number} of the vm's config takes memory from {}, which memory.nodes does not include",
        nodes_in_words(from)
    )]
    LeftOut {
        /// Number of the guest node.
        number: usize,
        /// Nodes of the host that it is bound to.
        from: BTreeSet<u32>,
    },
    /// PVE takes the hugepages of a guest node elsewhere.
    #[error(
        "pve takes the hugepages of guest node {number} from node {node}, which memory.nodes \
         does not include"
    )]
    PoolLeftOut {
        /// Number of the guest node.
        number: usize,
        /// Node of the host.
        node: u32,
    },
    /// All memory of a node is less than the guest's.
    #[error(
        "the vm needs {needed} hugepages of {} ({} MiB) from node {}, which has {has_mib} MiB of memory in all",
        pool.size(), pool.mib(*needed), pool.node
    )]
    Beyond {
        /// Which pool.
        pool: Pool,
        /// Pages that are needed.
        needed: u64,
        /// Memory of the node in MiB.
        has_mib: u64,
    },
    /// The kernel finds no more pages.
    #[error("node {} has only {free} of the {needed} hugepages of {} that the vm needs", pool.node, pool.size())]
    Short {
        /// Which pool.
        pool: Pool,
        /// Pages that are free.
        free: u64,
        /// Pages that are needed.
        needed: u64,
        /// Whether the table lets memory be compacted.
        compacts: bool,
    },
}

impl MemoryFault {
    /// Returns what the operator can do about it.
    ///
    /// Faults of the VM's config need to know which VM it is.
    pub fn help(&self, vmid: Option<Vmid>) -> String {
        let vmid = vmid.map_or("<vmid>".to_owned(), |vmid| vmid.to_string());
        match self {
            MemoryFault::NoMemory { others, .. } => {
                format!("nodes with memory are {}", list(others))
            }
            MemoryFault::NoneNear { .. } => {
                "name the nodes in memory.nodes, or leave it out".to_owned()
            }
            MemoryFault::LeftOut { number, from } => format!(
                "add {} to memory.nodes, or change numa{number} (qm set {vmid} --numa{number} ...)",
                list(from)
            ),
            MemoryFault::PoolLeftOut { number, node } => format!(
                "add {node} to memory.nodes, or bind the guest's node \
                 (qm set {vmid} --numa{number} cpus=...,hostnodes=...,memory=...,policy=bind)"
            ),
            MemoryFault::Beyond { .. } => format!(
                "give the vm less memory (qm set {vmid} --memory ...), or take some of it from other nodes (qm set \
                 {vmid} --numaN ...,hostnodes=...)"
            ),
            MemoryFault::Short {
                pool,
                needed,
                compacts,
                ..
            } => {
                let rest = match compacts {
                    true => {
                        "give the vm less memory, stop other guests, raise \
                             memory.hugepages.timeout"
                    }
                    false => {
                        "have the kernel make room (hugepages = { compact = true } below \
                              [memory] in its table)"
                    }
                };
                let parameters = pool.boot_parameters(*needed);
                format!(
                    "{rest}, or reserve hugepages at boot ({parameters} on the kernel's command \
                     line, with the pages of other guests added)"
                )
            }
        }
    }
}

impl Pool {
    /// Returns the size of a page, such as `2 MiB`.
    pub fn size(&self) -> String {
        match self.kib {
            kib if kib % (MIB * 1024) == 0 => format!("{} GiB", kib / MIB / 1024),
            kib if kib % MIB == 0 => format!("{} MiB", kib / MIB),
            kib => format!("{kib} KiB"),
        }
    }

    /// Returns how much memory so many pages are, in MiB.
    fn mib(&self, pages: u64) -> u64 {
        pages.saturating_mul(self.kib.into()) / u64::from(MIB)
    }

    /// Returns what reserves pages in the pool when it is on the kernel's command line.
    ///
    /// The size has to be named: `hugepages=` alone is about the default one.
    fn boot_parameters(&self, pages: u64) -> String {
        let size = self.size().replace(' ', "");
        let size = size.trim_end_matches("iB");
        format!("hugepagesz={size} hugepages={}:{pages}", self.node)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/hugepages/hugepages-{}kB", self.node, self.kib)
    }
}

/// Returns the nodes that a table wishes for; none when it does not say.
///
/// # Errors
/// They have no memory, or the VM's config, where it is known, asks for others.
pub fn nodes(
    memory: &Memory,
    guest: Option<&Guest>,
    cpus: &CpuSet,
    topology: &Topology,
) -> Result<BTreeSet<u32>, MemoryFault> {
    let all = topology.nodes().iter().filter(|node| node.has_memory);
    let others: BTreeSet<u32> = all.map(|node| node.id).collect();
    let near = |cpu: CpuId| {
        let node = topology.node_of(cpu).filter(|node| node.has_memory);
        node.map(|node| node.id)
    };
    let nodes: BTreeSet<u32> = match &memory.nodes {
        None => return Ok(BTreeSet::new()),
        Some(Nodes::Auto) => cpus.iter().filter_map(near).collect(),
        Some(Nodes::Set(nodes)) => nodes.clone(),
    };
    if let Some(node) = nodes.difference(&others).next() {
        return Err(MemoryFault::NoMemory {
            node: *node,
            others,
        });
    }
    if nodes.is_empty() {
        return Err(MemoryFault::NoneNear { cpus: cpus.clone() });
    }
    if let Some(guest) = guest {
        check_guest(guest, &nodes)?;
    }
    Ok(nodes)
}

/// Checks that the guest's memory can come from these nodes: QEMU could not bind it to others, and
/// would not find the hugepages that PVE has taken elsewhere.
fn check_guest(guest: &Guest, nodes: &BTreeSet<u32>) -> Result<(), MemoryFault> {
    for (number, node) in guest.nodes.iter().enumerate() {
        let from: BTreeSet<u32> = node.host_nodes.iter().copied().collect();
        if !from.is_empty() && from.is_disjoint(nodes) {
            return Err(MemoryFault::LeftOut { number, from });
        }
        let node = host_node(number, &node.host_nodes);
        if guest.hugepages.is_some() && !nodes.contains(&node) {
            return Err(MemoryFault::PoolLeftOut { number, node });
        }
    }
    Ok(())
}

/// Returns the pools that PVE takes a guest's memory from, each with the number of pages
/// (`hugepages_topology()`); `has_gigantic` tells whether the host has pages of 1 GiB.
///
/// None without hugepages, and none where memory can be plugged: PVE then takes the rest later, module
/// by module.
pub fn pools(guest: &Guest, has_gigantic: bool) -> Vec<(Pool, u64)> {
    let mut pools: Vec<(Pool, u64)> = Vec::new();
    let Some(size) = guest.hugepages.filter(|_| !guest.memory_hotplug) else {
        return pools;
    };
    for (number, node) in guest.nodes.iter().enumerate() {
        let mib = match size {
            HugepageSize::Mib(mib) => mib,
            HugepageSize::Any if has_gigantic && node.memory_mib % 1024 == 0 => 1024,
            HugepageSize::Any => 2,
        };
        let pool = Pool {
            node: host_node(number, &node.host_nodes),
            kib: mib * MIB,
        };
        let pages = u64::from(node.memory_mib / mib.max(1));
        if pages == 0 {
            continue;
        }
        match pools.iter_mut().find(|(other, _)| *other == pool) {
            Some((_, needed)) => *needed += pages,
            None => pools.push((pool, pages)),
        }
    }
    pools
}

/// Checks that the nodes have memory enough for a guest's pages at all, whatever else is in it.
///
/// # Errors
/// The first that has not.
pub fn check_pools(pools: &[(Pool, u64)], topology: &Topology) -> Result<(), MemoryFault> {
    for (pool, needed) in pools {
        let node = topology.nodes().iter().find(|node| node.id == pool.node);
        let has_kib = node.and_then(|node| node.memory_kib);
        let needed_kib = needed.saturating_mul(pool.kib.into());
        if let Some(has_kib) = has_kib.filter(|has| needed_kib > *has) {
            return Err(MemoryFault::Beyond {
                pool: *pool,
                needed: *needed,
                has_mib: has_kib / u64::from(MIB),
            });
        }
    }
    Ok(())
}

/// Returns the node of the host that PVE takes the hugepages of a guest node from.
fn host_node(number: usize, bound: &[u32]) -> u32 {
    let natural = || u32::try_from(number).unwrap_or(u32::MAX);
    bound.first().copied().unwrap_or_else(natural)
}

fn list(nodes: &BTreeSet<u32>) -> String {
    let ids: CpuSet = nodes.iter().map(|node| CpuId(*node)).collect();
    ids.to_string()
}

/// Returns NUMA nodes as a text has them, such as `node 1`.
pub fn nodes_in_words(nodes: &BTreeSet<u32>) -> String {
    match nodes.len() {
        1 => format!("node {}", list(nodes)),
        _ => format!("nodes {}", list(nodes)),
    }
}
