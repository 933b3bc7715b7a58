//! Which CPUs a host has and what they share: cores, L3 domains, NUMA nodes, packages.
//!
//! A value only; [`crate::host::topology`] reads it. The kernel describes the files behind it in
//! `Documentation/ABI/stable/sysfs-devices-system-cpu` and `.../stable/sysfs-devices-node`.
//! Offline CPUs have no topology in sysfs: they are in the sets of [`CpuSets`] and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::cpuset::{CpuId, CpuSet};

/// The kernel's own sets of CPUs, as below `/sys/devices/system/cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSets {
    /// CPUs that could ever be plugged in until the next boot.
    pub possible: CpuSet,
    /// CPUs that are plugged in.
    pub present: CpuSet,
    /// CPUs that run.
    pub online: CpuSet,
    /// CPUs that the boot parameter `isolcpus=` keeps out of the scheduling domains.
    pub isolcpus: CpuSet,
    /// CPUs that the boot parameter `nohz_full=` keeps free of the tick.
    pub nohz_full: CpuSet,
    /// Whether SMT siblings may run.
    pub smt: SmtControl,
}

/// Whether SMT siblings may run (`smt/control`). While they may not, the kernel refuses to bring one
/// online with EPERM (`cpu_bootable()` in `kernel/cpu.c`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SmtControl {
    /// They may, or the processor has none: nothing but an administrator keeps a CPU offline.
    #[default]
    Allowed,
    /// Switched off (`nosmt`, or `off` was written).
    Off,
    /// Switched off until the next boot (`nosmt=force`, or `forceoff` was written).
    ForcedOff,
}

impl SmtControl {
    /// Returns what `smt/control` says. `notsupported` and `notimplemented` keep no CPU offline;
    /// where some threads of a core may run it shows their number.
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "off" => SmtControl::Off,
            "forceoff" => SmtControl::ForcedOff,
            _ => SmtControl::Allowed,
        }
    }

    /// Says that CPUs are offline which would be there otherwise, and how they come back.
    pub fn why_offline(self, offline: &CpuSet) -> String {
        let way = match self {
            SmtControl::Off => "smt is off: echo on > /sys/devices/system/cpu/smt/control",
            SmtControl::ForcedOff => "smt is off until the next boot",
            SmtControl::Allowed => "echo 1 > /sys/devices/system/cpu/cpuN/online",
        };
        let (cpus, are) = (offline.in_words(), offline.is_or_are());
        format!("{cpus} {are} offline and cannot be chosen ({way})")
    }

    /// Returns what can be done about CPUs that are offline. Which of them are siblings the kernel
    /// does not show while they are.
    pub fn help(self, offline: &CpuSet) -> String {
        let cpus = offline.in_words();
        match (self, offline.first()) {
            (SmtControl::Off, _) => format!(
                "smt is off: switch it on (echo on > /sys/devices/system/cpu/smt/control), or choose others than \
                 {cpus}"
            ),
            (SmtControl::ForcedOff, _) => {
                format!(
                    "smt is off until the next boot (/sys/devices/system/cpu/smt/control says forceoff): choose others \
                     than {cpus}"
                )
            }
            (SmtControl::Allowed, Some(cpu)) if offline.len() == 1 => {
                format!(
                    "write 1 to /sys/devices/system/cpu/cpu{cpu}/online, or choose another one \
                     instead"
                )
            }
            _ => "write 1 to their /sys/devices/system/cpu/cpuN/online, or choose others instead"
                .to_owned(),
        }
    }
}

impl CpuSets {
    /// Returns the CPUs that are plugged in and do not run.
    ///
    /// The kernel's `offline` file also lists CPUs that are possible and not present.
    pub fn offline(&self) -> CpuSet {
        self.present.difference(&self.online)
    }
}

/// Physical core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// `physical_package_id`; -1 where the firmware does not tell.
    pub package: i32,
    /// `die_id` within the package; 0 on kernels before 5.2, which do not know dies.
    pub die: i32,
    /// Online CPUs of the core: SMT siblings of each other.
    pub cpus: CpuSet,
}

/// Returns the CPUs of some cores.
pub fn cpus_of(cores: &[&Core]) -> CpuSet {
    cores.iter().flat_map(|core| core.cpus.iter()).collect()
}

/// Level 3 cache and who shares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L3Domain {
    /// Online CPUs that share the cache.
    pub cpus: CpuSet,
    /// Size in KiB; `None` where the kernel does not tell.
    pub kib: Option<u64>,
}

/// Farthest distance from which memory is as good as a node's own. L3 domains that the firmware shows
/// as nodes are 11 or 12 from each other; dies with a memory controller each are 16, packages 20 and
/// more (ACPI SLIT; a node is 10 from itself).
const NEAR: u32 = 12;

/// NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Number, as in `/sys/devices/system/node/nodeN`.
    pub id: u32,
    /// Online CPUs of the node; none on nodes that only have memory.
    pub cpus: CpuSet,
    /// Whether the node has memory.
    pub has_memory: bool,
    /// How much (`MemTotal`), in KiB; `None` where the kernel does not tell.
    pub memory_kib: Option<u64>,
    /// Distance of other nodes by their number; empty where the kernel does not tell.
    pub distances: BTreeMap<u32, u32>,
}

/// What a [`Topology`] is made of; no CPU is in two cores, two L3 domains or two nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The kernel's sets.
    pub sets: CpuSets,
    /// Cores of the online CPUs.
    pub cores: Vec<Core>,
    /// Unified level 3 caches; none in most VMs.
    pub l3_domains: Vec<L3Domain>,
    /// CPUs of cores that are built to be slower than others of this host (E-cores); none where
    /// all are of one kind.
    pub efficient: CpuSet,
    /// NUMA nodes; empty on kernels without NUMA.
    pub nodes: Vec<Node>,
}

/// CPUs of a host and what they share; copies are cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology(Arc<Grid>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Grid {
    parts: Parts,
    core_index: BTreeMap<CpuId, usize>,
    l3_index: BTreeMap<CpuId, usize>,
    node_index: BTreeMap<CpuId, usize>,
    low_power: CpuSet,
}

impl Topology {
    /// Returns the topology that consists of `parts`, in ascending order of their lowest CPU.
    pub fn new(mut parts: Parts) -> Self {
        parts.cores.sort_by_key(|core| core.cpus.first());
        parts.l3_domains.sort_by_key(|domain| domain.cpus.first());
        parts.nodes.sort_by_key(|node| node.id);
        let l3_index = index(parts.l3_domains.iter().map(|domain| &domain.cpus));
        let has_none = |cpu: &CpuId| !l3_index.is_empty() && !l3_index.contains_key(cpu);
        Self(Arc::new(Grid {
            core_index: index(parts.cores.iter().map(|core| &core.cpus)),
            low_power: parts.efficient.iter().filter(has_none).collect(),
            l3_index,
            node_index: index(parts.nodes.iter().map(|node| &node.cpus)),
            parts,
        }))
    }

    /// Returns the kernel's sets of CPUs.
    pub fn sets(&self) -> &CpuSets {
        &self.0.parts.sets
    }

    /// Returns the online CPUs.
    pub fn online(&self) -> &CpuSet {
        &self.0.parts.sets.online
    }

    /// Returns the cores in ascending order of their lowest CPU.
    pub fn cores(&self) -> &[Core] {
        &self.0.parts.cores
    }

    /// Returns the L3 domains in ascending order of their lowest CPU.
    pub fn l3_domains(&self) -> &[L3Domain] {
        &self.0.parts.l3_domains
    }

    /// Returns the CPUs of slower cores, on hosts that have two kinds.
    pub fn efficient(&self) -> &CpuSet {
        &self.0.parts.efficient
    }

    /// Returns the CPUs of those slower cores that have no L3 cache on a host where others have one:
    /// low power cores on the SoC tile of a Core Ultra (LP-E), slower still than E-cores.
    pub fn low_power(&self) -> &CpuSet {
        &self.0.low_power
    }

    /// Returns the NUMA nodes in ascending order of their number.
    pub fn nodes(&self) -> &[Node] {
        &self.0.parts.nodes
    }

    /// Returns the core of an online CPU.
    pub fn core_of(&self, cpu: CpuId) -> Option<&Core> {
        self.0.core_index.get(&cpu).map(|&n| &self.0.parts.cores[n])
    }

    /// Returns the other online CPUs on the core of `cpu`.
    pub fn siblings(&self, cpu: CpuId) -> CpuSet {
        self.core_of(cpu)
            .map_or_else(CpuSet::new, |core| core.cpus.difference(&CpuSet::of(cpu)))
    }

    /// Returns the CPUs that share a level 3 cache with `cpu`, itself included.
    pub fn l3_of(&self, cpu: CpuId) -> Option<&CpuSet> {
        let index = self.l3_index_of(cpu)?;
        Some(&self.0.parts.l3_domains[index].cpus)
    }

    /// Returns the index of the L3 domain of an online CPU in [`Self::l3_domains`].
    pub fn l3_index_of(&self, cpu: CpuId) -> Option<usize> {
        self.0.l3_index.get(&cpu).copied()
    }

    /// Returns the NUMA node of an online CPU.
    pub fn node_of(&self, cpu: CpuId) -> Option<&Node> {
        self.0.node_index.get(&cpu).map(|&n| &self.0.parts.nodes[n])
    }

    /// Returns the NUMA node of this number.
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.0.parts.nodes.iter().find(|node| node.id == id)
    }

    /// Returns the node whose memory is the node's own: itself, or where it has none, the nearest
    /// one that is as near as another L3 domain of the same memory controller.
    pub fn memory_of<'t>(&'t self, node: &'t Node) -> Option<&'t Node> {
        if node.has_memory {
            return Some(node);
        }
        let with_memory = self.0.parts.nodes.iter().filter(|other| other.has_memory);
        let near = with_memory.filter_map(|other| Some((node.distances.get(&other.id)?, other)));
        let near = near.filter(|(distance, _)| **distance <= NEAR);
        near.min_by_key(|(distance, _)| **distance)
            .map(|(_, other)| other)
    }

    /// Returns the `physical_package_id` of an online CPU.
    pub fn package_of(&self, cpu: CpuId) -> Option<i32> {
        self.core_of(cpu).map(|core| core.package)
    }

    /// Returns the lowest CPU of each core that has a CPU in `cpus`, taken from `cpus`.
    pub fn first_of_cores(&self, cpus: &CpuSet) -> CpuSet {
        let mut first = BTreeMap::new();
        for cpu in cpus.iter() {
            if let Some(core) = self.0.core_index.get(&cpu) {
                first.entry(core).or_insert(cpu);
            }
        }
        first.into_values().collect()
    }
}

fn index<'a>(sets: impl Iterator<Item = &'a CpuSet>) -> BTreeMap<CpuId, usize> {
    sets.enumerate()
        .flat_map(|(n, cpus)| cpus.iter().map(move |cpu| (cpu, n)))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Builds a host whose SMT siblings are numbered n, n + cores, n + 2 * cores and so on.
    pub(crate) fn grid(n_nodes: u32, l3s: u32, cores: u32, smt: u32) -> Topology {
        let n_cores = n_nodes * l3s * cores;
        let siblings = |n: u32| (0..smt).map(move |thread| CpuId(n + thread * n_cores));
        let block = |first: u32, len: u32| (first..first + len).flat_map(siblings).collect();
        let all: CpuSet = block(0, n_cores);
        Topology::new(Parts {
            sets: CpuSets {
                possible: all.clone(),
                present: all.clone(),
                online: all,
                ..CpuSets::default()
            },
            cores: (0..n_cores)
                .map(|n| Core {
                    package: i32::try_from(n / (l3s * cores)).unwrap(),
                    die: 0,
                    cpus: block(n, 1),
                })
                .collect(),
            l3_domains: (0..n_nodes * l3s)
                .map(|n| L3Domain {
                    cpus: block(n * cores, cores),
                    kib: Some(32 << 10),
                })
                .collect(),
            efficient: CpuSet::new(),
            nodes: (0..n_nodes)
                .map(|id| Node {
                    id,
                    cpus: block(id * l3s * cores, l3s * cores),
                    has_memory: true,
                    ..Node::default()
                })
                .collect(),
        })
    }

    /// Case nosmt-help: on a real kernel a write of 1 to `online` answers EPERM while SMT is off.
    #[test]
    fn an_offline_cpu_is_brought_online_where_the_kernel_lets_it() {
        let help = |control: &str| SmtControl::parse(control).help(&"12-15".parse().unwrap());
        assert_eq!(
            help("off\n"),
            "smt is off: switch it on (echo on > /sys/devices/system/cpu/smt/control), or choose others than cpus 12-15"
        );
        assert_eq!(
            help("forceoff\n"),
            "smt is off until the next boot (/sys/devices/system/cpu/smt/control says forceoff): choose others than cpus 12-15"
        );
        for control in ["on", "notsupported", "notimplemented", "2", ""] {
            assert!(help(control).starts_with("write 1 to their "), "{control}");
        }
    }

    #[test]
    fn tells_what_cpus_share() {
        let host = grid(1, 2, 6, 2);
        assert_eq!(host.siblings(CpuId(6)), CpuSet::of(CpuId(18)));
        assert_eq!(host.l3_of(CpuId(20)).unwrap().to_string(), "6-11,18-23");
        assert_eq!(host.node_of(CpuId(23)).unwrap().id, 0);
        assert_eq!(host.package_of(CpuId(23)), Some(0));
        assert_eq!(host.cores().len(), 12);
        let cpus = "5-7,18-20".parse().unwrap();
        assert_eq!(host.first_of_cores(&cpus).to_string(), "5-7,20");
    }

    #[test]
    fn knows_nothing_of_cpus_that_are_not_there() {
        let host = grid(2, 1, 2, 1);
        assert_eq!(host.core_of(CpuId(99)), None);
        assert!(host.siblings(CpuId(99)).is_empty());
        assert_eq!(host.node_of(CpuId(99)), None);
        assert!(host.first_of_cores(&CpuSet::of(CpuId(99))).is_empty());
    }

    /// A VM on the CPUs of a node without memory would have its memory in another package.
    #[test]
    fn memory_as_near_as_an_l3_domain_is_a_nodes_own() {
        for (distance, expected) in [(11, Some(0)), (12, Some(0)), (16, None), (21, None)] {
            let nodes = [
                Node {
                    has_memory: true,
                    ..Node::default()
                },
                Node {
                    id: 1,
                    distances: [(0, distance), (1, 10)].into(),
                    ..Node::default()
                },
            ];
            let host = Topology::new(Parts {
                nodes: nodes.into(),
                ..Parts::default()
            });
            let memory = host.memory_of(host.node(1).unwrap());
            assert_eq!(memory.map(|node| node.id), expected, "{distance}");
        }
    }

    /// On a host that shows no caches every E-core would be avoided as one of the slowest.
    #[test]
    fn low_power_cores_are_those_without_the_cache_that_others_have() {
        for (l3, low_power) in [(Some("0-5"), "6-7"), (Some("0-7"), ""), (None, "")] {
            let domain = l3.map(|cpus| L3Domain {
                cpus: cpus.parse().unwrap(),
                kib: None,
            });
            let host = Topology::new(Parts {
                l3_domains: domain.into_iter().collect(),
                efficient: "4-7".parse().unwrap(),
                ..Parts::default()
            });
            assert_eq!(host.low_power().to_string(), low_power, "{l3:?}");
        }
    }
}
