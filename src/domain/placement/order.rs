//! Order in which vCPUs take the CPUs of a VM when the table does not list them.

use std::collections::BTreeMap;

use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::topology::Topology;

/// Chooses `n_vcpus` of `cpus` (all of them if there are fewer), the CPU of vCPU 0 first.
///
/// Cores are taken by NUMA node, then by L3 domain, then by their lowest CPU, so that vCPUs that
/// are neighbours in the guest are neighbours on the host, also where CPU numbers alternate
/// between nodes.
///
/// * The guest has SMT: the siblings of a guest core are siblings of one core (6,18,7,19, ...).
///   Cores of which the VM owns fewer CPUs than that come last, as they cannot hold a guest core.
/// * The guest has no SMT and takes every vCPU for a core of its own: each core gets one vCPU
///   before any core gets a second one, because two vCPUs on one core slow each other and the
///   guest's scheduler cannot know it. With as many vCPUs as cores every sibling stays idle; with
///   as many as CPUs the order is the same as for a guest with SMT.
pub(super) fn default_order(
    cpus: &CpuSet,
    n_vcpus: usize,
    guest_smt: usize,
    topology: &Topology,
) -> Vec<CpuId> {
    let cores = cores_by_distance(cpus, topology);
    match guest_smt {
        0 | 1 => one_per_core_first(&cores, n_vcpus),
        _ => whole_guest_cores_first(&cores, n_vcpus, guest_smt),
    }
}

/// Groups `cpus` by core, neighbours next to each other.
fn cores_by_distance(cpus: &CpuSet, topology: &Topology) -> Vec<Vec<CpuId>> {
    let mut cores: BTreeMap<_, Vec<CpuId>> = BTreeMap::new();
    for cpu in cpus.iter() {
        let node = topology.node_of(cpu).map(|node| node.id);
        let l3 = topology.l3_of(cpu).and_then(CpuSet::first);
        let core = topology.core_of(cpu).and_then(|core| core.cpus.first());
        let key = (node, topology.package_of(cpu), l3, core.unwrap_or(cpu));
        cores.entry(key).or_default().push(cpu);
    }
    cores.into_values().collect()
}

fn one_per_core_first(cores: &[Vec<CpuId>], n_vcpus: usize) -> Vec<CpuId> {
    let widest = cores.iter().map(Vec::len).max().unwrap_or(0);
    let by_thread = (0..widest).flat_map(|n| cores.iter().filter_map(move |core| core.get(n)));
    let taken: CpuSet = by_thread.take(n_vcpus).copied().collect();
    let all = cores.iter().flatten().copied();
    all.filter(|&cpu| taken.contains(cpu)).collect()
}

fn whole_guest_cores_first(cores: &[Vec<CpuId>], n_vcpus: usize, guest_smt: usize) -> Vec<CpuId> {
    let whole = |core: &[CpuId]| core.len() / guest_smt * guest_smt;
    let fitting = cores.iter().flat_map(|core| &core[..whole(core)]);
    let rest = cores.iter().flat_map(|core| &core[whole(core)..]);
    fitting.chain(rest).take(n_vcpus).copied().collect()
}
