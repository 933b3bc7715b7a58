//! Order in which vCPUs take the CPUs of a VM when the table does not list them.

use std::collections::BTreeMap;

use super::request::Request;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::Smt;
use crate::domain::topology::Topology;

/// Chooses `n_vcpus` of `cpus`, which are at least as many, the CPU of vCPU 0 first.
///
/// vCPUs whose memory the VM's configuration takes from a node of the host get CPUs of that node, as
/// far as there are any; the others what is left, in the order of [`in_order`].
pub(super) fn default_order(
    request: &Request,
    cpus: &CpuSet,
    n_vcpus: usize,
    topology: &Topology,
) -> Vec<CpuId> {
    let mut free = cpus.clone();
    let mut placed: BTreeMap<usize, CpuId> = BTreeMap::new();
    for home in &request.homes {
        let vcpus = home.vcpus_below(n_vcpus);
        let vcpus: Vec<usize> = vcpus.filter(|vcpu| !placed.contains_key(vcpu)).collect();
        let local = home.cpus(&free, topology);
        placed.extend(taken(request, &vcpus, &local, &mut free, topology));
    }
    let others: Vec<usize> = (0..n_vcpus).filter(|n| !placed.contains_key(n)).collect();
    let rest = free.clone();
    placed.extend(taken(request, &others, &rest, &mut free, topology));
    placed.into_values().collect()
}

/// Takes a CPU out of `free` for each of `vcpus`, as far as `from` has any.
fn taken(
    request: &Request,
    vcpus: &[usize],
    from: &CpuSet,
    free: &mut CpuSet,
    topology: &Topology,
) -> Vec<(usize, CpuId)> {
    let at_start = vcpus.iter().filter(|vcpu| **vcpu < request.n_vcpus).count();
    let order = in_order(request, from, at_start, vcpus.len(), topology);
    *free = free.difference(&order.iter().copied().collect());
    vcpus.iter().copied().zip(order).collect()
}

/// Chooses `n_vcpus` of `cpus`, of which `at_start` exist from the start.
///
/// Cores are taken by NUMA node, then by L3 domain, then by their lowest CPU, so that vCPUs that
/// are neighbours in the guest are neighbours on the host, also where CPU numbers alternate
/// between nodes.
///
/// * The guest has SMT, or the table asks for pairs: the siblings of a guest core are siblings of one
///   core (6,18,7,19, ...). Cores of which the VM owns fewer CPUs than that come last, as they cannot
///   hold a guest core.
/// * The guest has no SMT and takes every vCPU for a core of its own: each core gets one vCPU
///   before any core gets a second one, because two vCPUs on one core slow each other and the
///   guest's scheduler cannot know it. With as many vCPUs as cores every sibling stays idle; with
///   as many as CPUs the order is the same as for a guest with SMT. Where vCPUs can be plugged in
///   those that exist get the cores, and those to come the siblings.
fn in_order(
    request: &Request,
    cpus: &CpuSet,
    at_start: usize,
    n_vcpus: usize,
    topology: &Topology,
) -> Vec<CpuId> {
    let cores = cores_by_distance(cpus, topology);
    let widest = cores.iter().map(Vec::len).max().unwrap_or(1).max(1);
    match (request.smt, request.guest_smt) {
        (Some(Smt::Pairs), 0 | 1) => whole_guest_cores_first(&cores, n_vcpus, widest),
        (_, 0 | 1) => one_per_core_first(&cores, n_vcpus, at_start),
        (_, guest_smt) => whole_guest_cores_first(&cores, n_vcpus, guest_smt),
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

fn one_per_core_first(cores: &[Vec<CpuId>], n_vcpus: usize, at_start: usize) -> Vec<CpuId> {
    let widest = cores.iter().map(Vec::len).max().unwrap_or(0);
    let by_thread = (0..widest).flat_map(|n| cores.iter().filter_map(move |core| core.get(n)));
    let by_thread = by_thread.copied().take(n_vcpus);
    if at_start < n_vcpus {
        return by_thread.collect();
    }
    let taken: CpuSet = by_thread.collect();
    let all = cores.iter().flatten().copied();
    all.filter(|&cpu| taken.contains(cpu)).collect()
}

fn whole_guest_cores_first(cores: &[Vec<CpuId>], n_vcpus: usize, guest_smt: usize) -> Vec<CpuId> {
    let whole = |core: &[CpuId]| core.len() / guest_smt * guest_smt;
    let fitting = cores.iter().flat_map(|core| &core[..whole(core)]);
    let rest = cores.iter().flat_map(|core| &core[whole(core)..]);
    fitting.chain(rest).take(n_vcpus).copied().collect()
}
