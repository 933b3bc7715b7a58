//! Candidates for the CPUs of a VM and what speaks against each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Choice, Packing, Search};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::topology::{Core, Topology};

/// CPU that the host boots on: timers and interrupts that cannot move are served there.
const BOOT_CPU: CpuId = CpuId(0);

/// A cache that is this many times as large as another one is a reason to prefer it (X3D parts
/// have 96 and 32 MiB).
const LARGER_CACHE: u64 = 2;

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
    /// Cores of two kinds: the guest cannot know which vCPU is slow.
    mixed: bool,
    /// Slower cores.
    efficient: bool,
    n_packages: usize,
    n_nodes: usize,
    /// Nodes without memory.
    without_memory: usize,
    /// Nodes away from the VM's devices.
    far: usize,
    /// L3 domains with little cache on a host that has larger ones.
    small_caches: usize,
    n_l3_domains: usize,
    /// The boot CPU, if its L3 domain is none of those with more cache.
    loses_boot_cpu: bool,
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

/// Returns every candidate for what is searched.
pub(super) fn candidates<'t>(search: &Search<'t>, free: &[&'t Core]) -> Vec<Candidate<'t>> {
    let efficient = search.topology.efficient();
    let is_slow = |core: &&Core| !core.cpus.is_disjoint(efficient);
    let (slow, fast): (Vec<&Core>, Vec<&Core>) = free.iter().copied().partition(is_slow);
    let mixed = !slow.is_empty() && !fast.is_empty();
    let kinds = [fast, slow].into_iter();
    let kinds = kinds.chain(mixed.then(|| free.to_vec()));
    let packings: &[Packing] = match search.guest_smt {
        0 | 1 => &[Packing::OnePerCore, Packing::Siblings],
        _ => &[Packing::Siblings],
    };
    let scopes = scopes(search.topology);
    let mut found = Vec::new();
    for cores in kinds {
        for &packing in packings {
            for scope in &scopes {
                let inside = cores.iter().copied();
                let inside: Vec<&Core> = inside.filter(|c| c.cpus.is_subset(scope)).collect();
                found.extend(fill(search, &inside, packing));
            }
        }
    }
    found
}

/// Returns the CPUs of each NUMA node, of each package and of the host.
fn scopes(topology: &Topology) -> Vec<CpuSet> {
    let nodes = topology.nodes().iter().map(|node| node.cpus.clone());
    let mut packages: BTreeMap<i32, CpuSet> = BTreeMap::new();
    for core in topology.cores() {
        packages
            .entry(core.package)
            .or_default()
            .extend(core.cpus.iter());
    }
    let mut scopes: Vec<CpuSet> = Vec::new();
    for cpus in nodes.chain(packages.into_values()) {
        if !cpus.is_empty() && !scopes.contains(&cpus) {
            scopes.push(cpus);
        }
    }
    if !scopes.contains(topology.online()) {
        scopes.push(topology.online().clone());
    }
    scopes
}

/// Free cores of one L3 domain; those without one are a group of their own.
struct Group<'t> {
    cores: Vec<&'t Core>,
    capacity: usize,
    far: bool,
    small: bool,
    boot: bool,
    /// Whether all cores of the domain are here.
    whole: bool,
}

/// Takes cores out of `free` until there are enough: as few L3 domains as possible, all but the
/// last whole, and the last one that with the fewest cores left over.
fn fill<'t>(search: &Search<'t>, free: &[&'t Core], packing: Packing) -> Option<Candidate<'t>> {
    let mut groups = groups(search, free, packing);
    let mut cores = Vec::new();
    let mut missing = search.n_vcpus;
    while missing > 0 {
        let fitting = groups
            .iter()
            .enumerate()
            .filter(|(_, g)| g.capacity >= missing);
        let last = fitting.min_by_key(|(_, group)| {
            let left_over = group.capacity - missing;
            let shared = left_over > 0 || !group.whole;
            let loses_boot = group.boot && left_over == 0 && !boots_on_large_cache(search.topology);
            (
                group.far,
                group.small,
                loses_boot,
                shared,
                group.boot,
                left_over,
            )
        });
        let index = last.map(|(n, _)| n).or_else(|| {
            let all = groups.iter().enumerate();
            let largest =
                |(_, g): &(usize, &Group<'_>)| (g.far, Reverse(g.capacity), g.small, g.boot);
            all.min_by_key(largest).map(|(n, _)| n)
        })?;
        let group = groups.remove(index);
        let taken = take(&group, missing, packing);
        missing = missing.saturating_sub(taken.iter().map(|core| packing.capacity(core)).sum());
        cores.extend(taken);
    }
    Some(Candidate::of(search, cores, packing))
}

/// Takes cores of a group for `missing` vCPUs: the lowest, or where that is the boot CPU's group
/// the highest.
fn take<'t>(group: &Group<'t>, missing: usize, packing: Packing) -> Vec<&'t Core> {
    let mut order = group.cores.clone();
    if group.boot {
        order.reverse();
    }
    let mut n = 0;
    let still_missing = |core: &&Core| {
        let is_missing = n < missing;
        n += packing.capacity(core);
        is_missing
    };
    order.into_iter().take_while(still_missing).collect()
}

fn groups<'t>(search: &Search<'t>, free: &[&'t Core], packing: Packing) -> Vec<Group<'t>> {
    let topology = search.topology;
    let mut by_l3: BTreeMap<Option<usize>, Vec<&Core>> = BTreeMap::new();
    for core in free {
        let l3 = core.cpus.first().and_then(|cpu| topology.l3_index_of(cpu));
        by_l3.entry(l3).or_default().push(core);
    }
    let group = |(l3, cores): (Option<usize>, Vec<&'t Core>)| Group {
        capacity: cores.iter().map(|core| packing.capacity(core)).sum(),
        far: cores.iter().any(|core| is_far(search, core)),
        small: l3.is_some_and(|n| is_small(topology, n)),
        boot: cores.iter().any(|core| core.cpus.contains(BOOT_CPU)),
        whole: l3.is_none_or(|n| is_whole(topology, n, &cpus_of(&cores))),
        cores,
    };
    let mut groups: Vec<Group<'t>> = by_l3.into_iter().map(group).collect();
    // Ties between groups go to the first, so to the lowest CPU.
    groups.sort_by_key(|group| group.cores.first().and_then(|core| core.cpus.first()));
    groups
}

fn cpus_of(cores: &[&Core]) -> CpuSet {
    cores.iter().flat_map(|core| core.cpus.iter()).collect()
}

fn is_far(search: &Search<'_>, core: &Core) -> bool {
    let node = core
        .cpus
        .first()
        .and_then(|cpu| search.topology.node_of(cpu));
    !search.near.is_empty() && node.is_some_and(|node| !search.near.contains(&node.id))
}

/// Tells whether another L3 domain of the host has much more cache.
pub(in crate::domain::placement) fn is_small(topology: &Topology, l3: usize) -> bool {
    let domains = topology.l3_domains();
    let largest = domains.iter().filter_map(|domain| domain.kib).max();
    let kib = domains.get(l3).and_then(|domain| domain.kib);
    matches!((kib, largest), (Some(kib), Some(largest)) if largest >= kib.saturating_mul(LARGER_CACHE))
}

/// Tells whether the boot CPU is where the cache is: then a VM may be worth more there than the
/// host, as on X3D parts.
fn boots_on_large_cache(topology: &Topology) -> bool {
    let boot = topology.l3_index_of(BOOT_CPU);
    let mut all = 0..topology.l3_domains().len();
    boot.is_some_and(|n| !is_small(topology, n)) && all.any(|n| is_small(topology, n))
}

fn is_whole(topology: &Topology, l3: usize, cpus: &CpuSet) -> bool {
    let domain = topology.l3_domains().get(l3);
    domain.is_some_and(|domain| domain.cpus.is_subset(cpus))
}

impl<'t> Candidate<'t> {
    fn of(search: &Search<'t>, cores: Vec<&'t Core>, packing: Packing) -> Self {
        let topology = search.topology;
        let cpus = cpus_of(&cores);
        let slow = cpus.intersection(topology.efficient());
        let packages: BTreeSet<i32> = cores.iter().map(|core| core.package).collect();
        let nodes: BTreeMap<u32, bool> = cpus
            .iter()
            .filter_map(|cpu| topology.node_of(cpu))
            .map(|node| (node.id, node.has_memory))
            .collect();
        let l3_domains: BTreeSet<usize> = cpus
            .iter()
            .filter_map(|cpu| topology.l3_index_of(cpu))
            .collect();
        let far = |id: &&u32| !search.near.is_empty() && !search.near.contains(id);
        let count = |is: &dyn Fn(usize) -> bool| l3_domains.iter().filter(|n| is(**n)).count();
        let cost = Cost {
            mixed: !slow.is_empty() && slow != cpus,
            efficient: !slow.is_empty(),
            n_packages: packages.len(),
            n_nodes: nodes.len(),
            without_memory: nodes.values().filter(|has_memory| !**has_memory).count(),
            far: nodes.keys().filter(far).count(),
            small_caches: count(&|n| is_small(topology, n)),
            n_l3_domains: l3_domains.len(),
            loses_boot_cpu: cpus.contains(BOOT_CPU) && !boots_on_large_cache(topology),
            shared: count(&|n| !is_whole(topology, n, &cpus)),
            beside_boot_cpu: match (topology.l3_index_of(BOOT_CPU), topology.node_of(BOOT_CPU)) {
                (Some(l3), _) => l3_domains.contains(&l3),
                (None, Some(node)) => nodes.contains_key(&node.id),
                (None, None) => false,
            },
            boot_cpu: cpus.contains(BOOT_CPU),
            packing,
            cpus: cpus.iter().collect(),
        };
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
