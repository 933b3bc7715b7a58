//! Candidates for the CPUs of a VM and what speaks against each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::boot_cpu::{BOOT_CPU, boots_on_large_cache};
use super::choice::{Choice, Packing};
use super::fill::{fill, fill_evenly};
use super::rank::Rank;
use super::scope::scopes;
use super::search::Search;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Prefer, Smt};
use crate::domain::topology::{Core, Topology, cpus_of};

/// Cores that a VM could have.
#[derive(Debug)]
pub(super) struct Candidate<'t> {
    cores: Vec<&'t Core>,
    packing: Packing,
    pub(super) cost: Cost,
}

/// What speaks against a candidate, the weightiest first; the last field decides ties.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Nodes without memory near them.
    without_memory: usize,
    /// The VM's memory is more than its nodes have, each for its share of the vCPUs.
    lacks_memory: bool,
    /// Low power cores, the slowest of all.
    low_power: bool,
    /// Cores of two kinds: the guest cannot know which vCPU is slow.
    mixed: bool,
    /// Slower cores, or faster ones where slower ones are preferred.
    wrong_kind: bool,
    n_packages: usize,
    n_nodes: usize,
    /// Nodes away from the VM's devices.
    far: usize,
    /// L3 domains with little cache on a host that has larger ones.
    caches: u64,
    n_l3_domains: usize,
    /// Speed of the slowest core, where speed is preferred.
    speed: Reverse<u64>,
    /// The boot CPU, if its L3 domain is none of those with more cache.
    loses_boot_cpu: bool,
    /// Nodes with fewer vCPUs than others.
    uneven: bool,
    /// L3 domains that are shared with somebody else.
    shared: usize,
    /// In the L3 domain of the boot CPU, or in its node if there is none: the host works there
    /// most.
    beside_boot_cpu: bool,
    boot_cpu: bool,
    packing: Packing,
    /// CPUs in order.
    cpus: Vec<CpuId>,
}

/// Returns every candidate for what is searched; none without a look at the cores where there are
/// fewer CPUs than vCPUs, whatever a configuration says.
pub(super) fn candidates<'t>(search: &Search<'t>, free: &[&'t Core]) -> Vec<Candidate<'t>> {
    let n_cpus: usize = free.iter().map(|core| core.cpus.len()).sum();
    if search.n_vcpus > n_cpus {
        return Vec::new();
    }
    let scopes = scopes(search, free);
    let mut found = Vec::new();
    for cores in kinds(search.topology, free) {
        for &packing in packings(search) {
            for nodes in &scopes {
                let is_inside = |core: &&Core| {
                    let cpu = core.cpus.first();
                    cpu.is_some_and(|cpu| nodes.iter().any(|node| node.contains(cpu)))
                };
                let inside: Vec<&Core> = cores.iter().copied().filter(is_inside).collect();
                let capacity: usize = inside.iter().map(|core| packing.capacity(core)).sum();
                if capacity < search.n_vcpus {
                    continue;
                }
                let packed = fill(search, &inside, packing, search.n_vcpus);
                let even = match nodes.len() {
                    0 | 1 => None,
                    _ => fill_evenly(search, nodes, &inside, packing),
                };
                let all = packed.into_iter().chain(even);
                found.extend(all.map(|cores| Candidate::of(search, cores, packing)));
            }
        }
    }
    found
}

/// Returns the free cores by kind, and those of several kinds together.
fn kinds<'t>(topology: &Topology, free: &[&'t Core]) -> Vec<Vec<&'t Core>> {
    let is_low = |core: &&Core| !core.cpus.is_disjoint(topology.low_power());
    let is_slow = |core: &&Core| !core.cpus.is_disjoint(topology.efficient());
    let (low, others): (Vec<&Core>, Vec<&Core>) = free.iter().copied().partition(is_low);
    let (slow, fast): (Vec<&Core>, Vec<&Core>) = others.iter().copied().partition(is_slow);
    let mut kinds = vec![fast, slow, others, low, free.to_vec()];
    kinds.retain(|cores| !cores.is_empty());
    kinds.dedup();
    kinds
}

fn packings(search: &Search<'_>) -> &'static [Packing] {
    match (search.smt, search.guest_smt) {
        (Some(Smt::IdleSibling), _) => &[Packing::OnePerCore],
        (None, 0 | 1) => &[Packing::OnePerCore, Packing::Siblings],
        (None, _) | (Some(Smt::Pairs), _) => &[Packing::Siblings],
    }
}

/// Returns how many vCPUs each node has.
fn vcpus_by_node(search: &Search<'_>, cores: &[&Core], packing: Packing) -> BTreeMap<u32, usize> {
    let mut vcpus = BTreeMap::new();
    for core in cores {
        let node = core
            .cpus
            .first()
            .and_then(|cpu| search.topology.node_of(cpu));
        if let Some(node) = node {
            *vcpus.entry(node.id).or_default() += packing.capacity(core);
        }
    }
    vcpus
}

/// Tells whether the memory that goes with the vCPUs is more than the nodes have.
fn lacks_memory(search: &Search<'_>, vcpus: &BTreeMap<u32, usize>) -> bool {
    let all: usize = vcpus.values().sum();
    let mut parts: BTreeMap<u32, usize> = BTreeMap::new();
    for (id, n) in vcpus {
        let node = search.topology.node(*id);
        let from = node.and_then(|node| search.topology.memory_of(node));
        *parts.entry(from.map_or(*id, |node| node.id)).or_default() += n;
    }
    let has_less = |(id, part): (&u32, &usize)| {
        let kib = search.topology.node(*id).and_then(|node| node.memory_kib);
        let needed = u64::from(search.memory_mib) * 1024 * to_u64(*part) / to_u64(all.max(1));
        kib.is_some_and(|kib| kib < needed)
    };
    parts.iter().any(has_less)
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl<'t> Candidate<'t> {
    fn of(search: &Search<'t>, cores: Vec<&'t Core>, packing: Packing) -> Self {
        let cost = Cost::of(search, &cores, packing);
        Candidate {
            cores,
            packing,
            cost,
        }
    }

    /// Returns the CPUs of the cores: as many as there are vCPUs, the others idle.
    pub(super) fn choice(&self, n_vcpus: usize) -> Choice {
        let all = cpus_of(&self.cores);
        let cpus: CpuSet = match self.packing {
            Packing::OnePerCore => self.cores.iter().filter_map(|c| c.cpus.first()).collect(),
            Packing::Siblings => all.clone(),
        };
        debug_assert!(cpus.len() >= n_vcpus);
        Choice {
            idle: all.difference(&cpus),
            cpus,
            packing: self.packing,
        }
    }
}

impl Cost {
    fn of(search: &Search<'_>, cores: &[&Core], packing: Packing) -> Self {
        let topology = search.topology;
        let rank = Rank(search);
        let cpus = cpus_of(cores);
        let slow = cpus.intersection(topology.efficient());
        let packages: BTreeSet<i32> = cores.iter().map(|core| core.package).collect();
        let vcpus = vcpus_by_node(search, cores, packing);
        let has_memory = |id: &&u32| {
            let node = topology.node(**id);
            node.is_some_and(|node| topology.memory_of(node).is_some())
        };
        let far = |id: &&u32| !search.near.is_empty() && !search.near.contains(id);
        // Cores without a cache share it with nobody, but have none: they count as one domain.
        let l3_domains = cpus.iter().map(|cpu| topology.l3_index_of(cpu));
        let l3_domains: BTreeSet<Option<usize>> = l3_domains.collect();
        let is_shared = |l3: &&Option<usize>| {
            let domain = l3.and_then(|n| topology.l3_domains().get(n));
            domain.is_none_or(|domain| !domain.cpus.is_subset(&cpus))
        };
        let prefers_slow = search.prefer == Some(Prefer::Efficiency);
        Cost {
            without_memory: vcpus.keys().filter(|id| !has_memory(id)).count(),
            lacks_memory: lacks_memory(search, &vcpus),
            low_power: !cpus.is_disjoint(topology.low_power()),
            mixed: !slow.is_empty() && slow != cpus,
            wrong_kind: slow.is_empty() == prefers_slow,
            n_packages: packages.len(),
            n_nodes: vcpus.len(),
            far: vcpus.keys().filter(far).count(),
            caches: rank.against_caches(&l3_domains),
            n_l3_domains: l3_domains.len(),
            speed: Reverse(rank.slowest(cores)),
            loses_boot_cpu: cpus.contains(BOOT_CPU) && !boots_on_large_cache(topology),
            uneven: vcpus.values().min() != vcpus.values().max(),
            shared: l3_domains.iter().filter(is_shared).count(),
            beside_boot_cpu: match (topology.l3_index_of(BOOT_CPU), topology.node_of(BOOT_CPU)) {
                (Some(l3), _) => l3_domains.contains(&Some(l3)),
                (None, Some(node)) => vcpus.contains_key(&node.id),
                (None, None) => false,
            },
            boot_cpu: cpus.contains(BOOT_CPU),
            packing,
            cpus: cpus.iter().collect(),
        }
    }
}
