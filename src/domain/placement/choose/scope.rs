//! Sets of NUMA nodes that a VM could have its CPUs on.

use std::collections::BTreeSet;

use super::search::Search;
use crate::domain::cpuset::CpuSet;
use crate::domain::topology::{Core, Topology};

/// With so many nodes at most every set of them is looked at; with more, those that grow around each
/// node and those with the most free cores.
const MOST_NODES: usize = 8;

/// Returns the sets of nodes by their CPUs, those with the fewest nodes first; the whole host where it
/// has none.
pub(super) fn scopes(search: &Search<'_>, free: &[&Core]) -> Vec<Vec<CpuSet>> {
    let topology = search.topology;
    let nodes = topology.nodes().iter();
    let nodes: Vec<CpuSet> = nodes.map(|node| node.cpus.clone()).collect();
    let with_cpus: Vec<usize> = (0..nodes.len()).filter(|n| !nodes[*n].is_empty()).collect();
    let mut sets: Vec<BTreeSet<usize>> = match with_cpus.len() {
        0 => return vec![vec![topology.online().clone()]],
        n if n <= MOST_NODES => subsets(&with_cpus),
        _ => grown(topology, &with_cpus, free),
    };
    sets.sort_by_key(|set| (set.len(), set.iter().copied().collect::<Vec<_>>()));
    sets.dedup();
    let cpus = |set: BTreeSet<usize>| set.into_iter().map(|n| nodes[n].clone()).collect();
    sets.into_iter().map(cpus).collect()
}

fn subsets(nodes: &[usize]) -> Vec<BTreeSet<usize>> {
    let chosen = |bits: u32| {
        let taken = nodes.iter().enumerate();
        let taken = taken.filter(move |(bit, _)| bits >> bit & 1 == 1);
        taken.map(|(_, node)| *node).collect()
    };
    (1..1_u32 << nodes.len()).map(chosen).collect()
}

/// Returns for every number of nodes: those with the most free cores, of the host and of the package
/// of each node, and the nearest ones around each node.
fn grown(topology: &Topology, nodes: &[usize], free: &[&Core]) -> Vec<BTreeSet<usize>> {
    let all = topology.nodes();
    let n_free = |n: &usize| {
        let inside = free
            .iter()
            .filter(|core| core.cpus.is_subset(&all[*n].cpus));
        inside.count()
    };
    let free: Vec<usize> = nodes.iter().map(n_free).collect();
    let package = |n: usize| all[n].cpus.first().and_then(|cpu| topology.package_of(cpu));
    let mut sets = Vec::new();
    for &start in nodes {
        let distance = |n: usize| all[start].distances.get(&all[n].id).copied();
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|i| {
            let n = nodes[*i];
            let elsewhere = package(n) != package(start);
            // Among equals the next ones by number, so that not all sets meet at the first.
            let after = (n + all.len() - start) % all.len();
            (
                n != start,
                elsewhere,
                distance(n),
                usize::MAX - free[*i],
                after,
            )
        });
        sets.extend(prefixes(&order, nodes));
        order.sort_by_key(|i| (package(nodes[*i]) != package(start), usize::MAX - free[*i]));
        sets.extend(prefixes(&order, nodes));
    }
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|i| usize::MAX - free[*i]);
    sets.extend(prefixes(&order, nodes));
    sets
}

fn prefixes(order: &[usize], nodes: &[usize]) -> Vec<BTreeSet<usize>> {
    let first = |n: usize| order[..n].iter().map(|i| nodes[*i]).collect();
    (1..=order.len()).map(first).collect()
}
