//! What the operator should know about a placement that is nevertheless used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::home::Home;
use super::request::Request;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::topology::Topology;
use crate::domain::words::count;

/// Remark on a placement; prints as one line without a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// There are fewer vCPUs than CPUs.
    Idle {
        /// vCPUs that the VM can have.
        n_vcpus: usize,
        /// CPUs that none of them uses.
        cpus: CpuSet,
    },
    /// vCPUs beyond the CPUs could be plugged in.
    NoCpuForHotplug {
        /// vCPUs that can be plugged in at most.
        max_vcpus: usize,
        /// CPUs for vCPUs.
        n_cpus: usize,
    },
    /// The VM does not own both siblings of a core.
    SiblingsLeft {
        /// CPUs that the VM owns.
        owned: CpuSet,
        /// Their SMT siblings that it does not own.
        siblings: CpuSet,
    },
    /// Guest cores whose siblings run on different cores.
    GuestCoresSplit {
        /// Numbers of the guest cores.
        guest_cores: Vec<usize>,
        /// CPUs that their vCPUs run on.
        cpus: CpuSet,
    },
    /// vCPUs away from the node that their memory is bound to.
    AwayFromMemory {
        /// N of `numaN`.
        number: usize,
        /// Indices of the vCPUs.
        vcpus: CpuSet,
        /// CPUs that they run on.
        cpus: CpuSet,
        /// Nodes of the host.
        host_nodes: CpuSet,
    },
    /// The vCPUs run on several NUMA nodes: number and used CPUs.
    NodesSplit(Vec<(u32, CpuSet)>),
    /// The vCPUs run in several L3 domains of one NUMA node.
    L3Split(Vec<CpuSet>),
}

impl Notice {
    /// Tells whether the VM will be disturbed, so that the line is a warning.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::SiblingsLeft { .. } | Self::AwayFromMemory { .. }
        )
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { n_vcpus, cpus } => {
                let (n, cpus, are) = (count(*n_vcpus, "vcpu"), cpus.in_words(), cpus.is_or_are());
                write!(f, "{cpus} of the vm {are} idle: it has {n}")
            }
            Self::NoCpuForHotplug { max_vcpus, n_cpus } => write!(
                f,
                "vcpus {n_cpus}-{} have no cpu: plugged in later, they run on housekeeping cpus",
                max_vcpus - 1
            ),
            Self::SiblingsLeft { owned, siblings } => write!(
                f,
                "{} {} not the vm's, and on the same {} as its {} (smt): anything running there \
                 slows down its vcpus",
                siblings.in_words(),
                siblings.is_or_are(),
                if owned.len() == 1 { "core" } else { "cores" },
                owned.in_words(),
            ),
            Self::GuestCoresSplit { guest_cores, cpus } => {
                let cores: Vec<_> = guest_cores.iter().map(ToString::to_string).collect();
                let cores = cores.join(",");
                write!(
                    f,
                    "smt siblings of guest cores {cores} run on different cores (cpus {cpus})"
                )
            }
            Self::AwayFromMemory {
                number,
                vcpus,
                cpus,
                host_nodes,
            } => write!(
                f,
                "vcpus {vcpus} run on cpus {cpus}, and numa{number} of the vm's config takes their \
                 memory from node {host_nodes}: the table has too few cpus there"
            ),
            Self::NodesSplit(nodes) => {
                let nodes: Vec<_> = nodes
                    .iter()
                    .map(|(id, cpus)| format!("node {id} ({})", cpus.in_words()))
                    .collect();
                write!(
                    f,
                    "the vcpus are on several numa nodes: {}",
                    nodes.join(", ")
                )
            }
            Self::L3Split(domains) => {
                let domains: Vec<_> = domains.iter().map(CpuSet::in_words).collect();
                write!(
                    f,
                    "the vcpus are in several l3 domains: {}",
                    domains.join(" and ")
                )
            }
        }
    }
}

/// Collects the remarks on a placement, warnings first.
pub(super) fn notices(
    request: &Request,
    vcpus: &[CpuId],
    n_cpus: usize,
    topology: &Topology,
) -> Vec<Notice> {
    let used: CpuSet = vcpus.iter().copied().collect();
    let owned = request.owned(topology);
    // Siblings that the table leaves idle on purpose are no surprise.
    let idle_cpus = request.for_vcpus(topology);
    let all = [
        siblings_left(&owned, topology),
        no_cpu_for_hotplug(request.max_vcpus, n_cpus),
        guest_cores_split(vcpus, request.guest_smt, topology),
        nodes_split(&used, topology).or_else(|| l3_split(&used, topology)),
        idle(&idle_cpus, &used),
    ];
    let away = request.homes.iter();
    let away = away.filter_map(|home| away_from_memory(home, vcpus, topology));
    let mut notices: Vec<Notice> = away.collect();
    notices.extend(all.into_iter().flatten());
    notices
}

fn away_from_memory(home: &Home, vcpus: &[CpuId], topology: &Topology) -> Option<Notice> {
    let placed = home.vcpus_below(vcpus.len()).map(|n| (n, vcpus[n]));
    let away = placed.filter(|(_, cpu)| !home.is_near(*cpu, topology));
    let away: Vec<(usize, CpuId)> = away.collect();
    let number = |n: usize| CpuId(u32::try_from(n).unwrap_or(u32::MAX));
    (!away.is_empty()).then(|| Notice::AwayFromMemory {
        number: home.number,
        vcpus: away.iter().map(|(n, _)| number(*n)).collect(),
        cpus: away.iter().map(|(_, cpu)| *cpu).collect(),
        host_nodes: home.host_nodes.iter().copied().map(CpuId).collect(),
    })
}

fn idle(cpus: &CpuSet, used: &CpuSet) -> Option<Notice> {
    let cpus = cpus.difference(used);
    (!cpus.is_empty()).then(|| Notice::Idle {
        n_vcpus: used.len(),
        cpus,
    })
}

fn no_cpu_for_hotplug(max_vcpus: usize, n_cpus: usize) -> Option<Notice> {
    (max_vcpus > n_cpus).then_some(Notice::NoCpuForHotplug { max_vcpus, n_cpus })
}

fn siblings_left(owned: &CpuSet, topology: &Topology) -> Option<Notice> {
    let mut siblings = CpuSet::new();
    let mut halves = CpuSet::new();
    for cpu in owned.iter() {
        let others = topology.siblings(cpu).difference(owned);
        if !others.is_empty() {
            halves.insert(cpu);
            siblings.extend(others.iter());
        }
    }
    (!halves.is_empty()).then_some(Notice::SiblingsLeft {
        owned: halves,
        siblings,
    })
}

fn guest_cores_split(vcpus: &[CpuId], guest_smt: usize, topology: &Topology) -> Option<Notice> {
    let mut guest_cores = Vec::new();
    let mut cpus = CpuSet::new();
    for (n, siblings) in vcpus.chunks(guest_smt.max(1)).enumerate() {
        let lowest = |&cpu| topology.core_of(cpu).and_then(|core| core.cpus.first());
        if siblings.iter().map(lowest).collect::<BTreeSet<_>>().len() > 1 {
            guest_cores.push(n);
            cpus.extend(siblings.iter().copied());
        }
    }
    (!guest_cores.is_empty()).then_some(Notice::GuestCoresSplit { guest_cores, cpus })
}

fn nodes_split(used: &CpuSet, topology: &Topology) -> Option<Notice> {
    let nodes = group(used, |cpu| topology.node_of(cpu).map(|node| node.id));
    (nodes.len() > 1).then(|| Notice::NodesSplit(nodes.into_iter().collect()))
}

fn l3_split(used: &CpuSet, topology: &Topology) -> Option<Notice> {
    let domains = group(used, |cpu| topology.l3_of(cpu).and_then(CpuSet::first));
    (domains.len() > 1).then(|| Notice::L3Split(domains.into_values().collect()))
}

fn group<K: Ord>(cpus: &CpuSet, key: impl Fn(CpuId) -> Option<K>) -> BTreeMap<K, CpuSet> {
    let mut groups: BTreeMap<K, CpuSet> = BTreeMap::new();
    for cpu in cpus.iter() {
        if let Some(key) = key(cpu) {
            groups.entry(key).or_default().insert(cpu);
        }
    }
    groups
}
