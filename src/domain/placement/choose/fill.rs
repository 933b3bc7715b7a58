//! Which of the free cores of a place are taken.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::boot_cpu::{BOOT_CPU, boots_on_large_cache};
use super::choice::Packing;
use super::rank::Rank;
use super::search::Search;
use crate::domain::cpuset::CpuSet;
use crate::domain::topology::{Core, Topology, cpus_of};

/// Free cores of one L3 domain and one node; those without a cache are a group that is never whole.
struct Group<'t> {
    cores: Vec<&'t Core>,
    capacity: usize,
    far: bool,
    small: bool,
    boot: bool,
    /// Whether all cores of the domain are here.
    whole: bool,
}

/// Takes cores out of `free` for `n_vcpus` until there are enough: as few L3 domains as possible, all
/// but the last whole, and the last one that with the fewest cores left over.
pub(super) fn fill<'t>(
    search: &Search<'t>,
    free: &[&'t Core],
    packing: Packing,
    n_vcpus: usize,
) -> Option<Vec<&'t Core>> {
    let rank = Rank(search);
    let mut groups = groups(search, free, packing);
    let mut cores = Vec::new();
    let mut missing = n_vcpus;
    while missing > 0 {
        let fitting = groups
            .iter()
            .enumerate()
            .filter(|(_, g)| g.capacity >= missing);
        let last = fitting.min_by_key(|(_, group)| {
            let left_over = group.capacity - missing;
            let shared = left_over > 0 || !group.whole;
            let loses_boot = group.boot && left_over == 0 && !boots_on_large_cache(search.topology);
            let taken = take(rank, group, missing, packing);
            (
                group.far,
                group.small,
                Reverse(rank.slowest(&taken)),
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
        let taken = take(rank, &group, missing, packing);
        missing = missing.saturating_sub(taken.iter().map(|core| packing.capacity(core)).sum());
        cores.extend(taken);
    }
    Some(cores)
}

/// The same with as many vCPUs on each of several nodes, up to a core: a guest's memory is divided
/// among its nodes like its vCPUs.
pub(super) fn fill_evenly<'t>(
    search: &Search<'t>,
    nodes: &[CpuSet],
    free: &[&'t Core],
    packing: Packing,
) -> Option<Vec<&'t Core>> {
    let widest = free.iter().map(|core| packing.capacity(core)).max()?;
    let n_cores = search.n_vcpus.div_ceil(widest);
    let mut cores = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let more = usize::from(n < n_cores % nodes.len());
        let share = (n_cores / nodes.len() + more) * widest;
        let inside = free.iter().copied();
        let inside: Vec<&Core> = inside.filter(|core| core.cpus.is_subset(node)).collect();
        cores.extend(fill(search, &inside, packing, share)?);
    }
    Some(cores)
}

/// Takes cores of a group for `missing` vCPUs: the fastest where they are asked for, then the lowest,
/// or where that is the boot CPU's group the highest.
fn take<'t>(
    rank: Rank<'_, '_>,
    group: &Group<'t>,
    missing: usize,
    packing: Packing,
) -> Vec<&'t Core> {
    let mut order = group.cores.clone();
    if group.boot {
        order.reverse();
    }
    order.sort_by_key(|core| Reverse(rank.speed(core)));
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
    let rank = Rank(search);
    let mut by_place: BTreeMap<_, Vec<&Core>> = BTreeMap::new();
    for core in free {
        let cpu = core.cpus.first();
        let l3 = cpu.and_then(|cpu| topology.l3_index_of(cpu));
        let node = cpu.and_then(|cpu| topology.node_of(cpu));
        let place = (node.map(|node| node.id), l3);
        by_place.entry(place).or_default().push(core);
    }
    let group = |((node, l3), cores): ((Option<u32>, Option<usize>), Vec<&'t Core>)| Group {
        capacity: cores.iter().map(|core| packing.capacity(core)).sum(),
        far: !search.near.is_empty() && node.is_some_and(|node| !search.near.contains(&node)),
        small: rank.is_small(l3),
        boot: cores.iter().any(|core| core.cpus.contains(BOOT_CPU)),
        whole: l3.is_some_and(|n| is_whole(topology, n, &cpus_of(&cores))),
        cores,
    };
    let mut groups: Vec<Group<'t>> = by_place.into_iter().map(group).collect();
    // Ties between groups go to the first, so to the lowest CPU.
    groups.sort_by_key(|group| group.cores.first().and_then(|core| core.cpus.first()));
    groups
}

fn is_whole(topology: &Topology, l3: usize, cpus: &CpuSet) -> bool {
    let domain = topology.l3_domains().get(l3);
    domain.is_some_and(|domain| domain.cpus.is_subset(cpus))
}
