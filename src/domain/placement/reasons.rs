//! Why a VM gets the CPUs that were chosen for it, in words for the operator.

use std::collections::BTreeSet;

use super::choose::{Choice, Packing, Search};
use super::doubts::isolcpus;
use super::remark::{Remark, Topic};
use super::reserve::{default_reserve, housekeeping};
use super::small_cache::is_small;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Prefer, Reserve};
use crate::domain::topology::{L3Domain, Topology};

/// Device that is passed through to a VM, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Key in the VM's configuration, such as `hostpci0`.
    pub key: String,
    /// Address, such as `0000:41:00.0`.
    pub address: String,
    /// NUMA node; `None` where the host does not tell.
    pub node: Option<u32>,
}

/// Tells why `choice` is the best for `search`; `devices` are those of the VM.
pub fn remarks(search: &Search<'_>, choice: &Choice, devices: &[Device]) -> Vec<Remark> {
    let topology = search.topology;
    let owned = choice.owned();
    let mut remarks = l3_domains(topology, &owned);
    remarks.extend(caches(search, &owned));
    remarks.extend(kinds(search, &owned));
    remarks.extend(preference(search, &owned));
    remarks.extend(nodes(topology, &owned));
    remarks.extend(attached(topology, &owned, devices));
    remarks.extend(packing(topology, choice));
    remarks.extend(host(search, &owned));
    remarks.extend(avoided(search, &owned));
    let isolated = isolcpus(&owned.union(&search.others), topology);
    remarks.extend(isolated.map(Remark::warning));
    remarks
}

/// Returns the indices of the L3 domains with a CPU in `cpus`.
fn indices(topology: &Topology, cpus: &CpuSet) -> BTreeSet<usize> {
    let of_cpu = |cpu| topology.l3_index_of(cpu);
    cpus.iter().filter_map(of_cpu).collect()
}

fn l3_domains(topology: &Topology, owned: &CpuSet) -> Vec<Remark> {
    let used = indices(topology, owned).into_iter();
    let used = used.filter_map(|n| Some((n, topology.l3_domains().get(n)?)));
    let (whole, parts): (Vec<_>, Vec<_>) =
        used.partition(|(_, domain)| domain.cpus.is_subset(owned));
    let mut remarks = Vec::new();
    if topology.l3_domains().is_empty() {
        let text = "free cores from the top, because the host reports no l3 domains";
        remarks.push(Remark::info(text.to_owned()));
    }
    match whole.as_slice() {
        [] => {}
        [(n, L3Domain { cpus, .. })] => remarks.push(Remark::info(format!(
            "the whole l3 domain {n} (cpus {cpus}): nobody else uses its cache"
        ))),
        [(first, _), ..] => remarks.push(Remark::info(format!(
            "{} whole l3 domains (from number {first}): nobody else uses their caches",
            whole.len()
        ))),
    }
    for (n, L3Domain { cpus, .. }) in parts {
        let (part, others) = (cpus.intersection(owned), cpus.difference(owned));
        remarks.push(Remark::info(format!(
            "cpus {part} of l3 domain {n}: its other cpus ({others}) share the cache"
        )));
    }
    remarks
}

fn caches(search: &Search<'_>, owned: &CpuSet) -> Option<Remark> {
    let topology = search.topology;
    let prefers_speed = matches!(search.prefer, Some(Prefer::Frequency | Prefer::Performance));
    let domains = topology.l3_domains();
    let is_small = |n: usize| is_small(topology, n);
    let small = (0..domains.len()).find(|n| is_small(*n))?;
    let large = (0..domains.len()).find(|n| !is_small(*n))?;
    let mib = |n: usize| domains[n].kib.unwrap_or(0) / 1024;
    let (more, less) = (mib(large), mib(small));
    let used = indices(topology, owned);
    Some(match used.iter().any(|n| is_small(*n)) {
        false => Remark::info(format!(
            "the cache there has {more} MiB, in other l3 domains {less} MiB"
        )),
        true if prefers_speed => Remark::info(format!(
            "the cache there has {less} MiB, in other l3 domains {more} MiB"
        )),
        true => Remark::warning(format!(
            "l3 domains with more cache ({more} MiB instead of {less} MiB) have no room for all vcpus"
        )),
    })
}

fn kinds(search: &Search<'_>, owned: &CpuSet) -> Option<Remark> {
    let topology = search.topology;
    let slow = topology.efficient();
    if slow.is_empty() {
        return None;
    }
    Some(match owned.intersection(slow) {
        none if none.is_empty() => Remark::info(format!(
            "performance cores; cpus {slow} are on efficient cores"
        )),
        all if all == *owned && search.prefer == Some(Prefer::Efficiency) => {
            Remark::info("efficient cores, as preferred".to_owned())
        }
        all if all == *owned => {
            Remark::warning("efficient cores: too few performance cores are free".to_owned())
        }
        some => Remark::warning(format!(
            "cpus {some} are on efficient cores, the others are not: the guest cannot know \
             which of its vcpus are slow"
        )),
    })
}

/// Tells what came of what the operator prefers, where it is not told elsewhere.
fn preference(search: &Search<'_>, owned: &CpuSet) -> Option<Remark> {
    let prefer = search.prefer?;
    let name = prefer.name();
    let numbers: BTreeSet<u64> = match prefer {
        Prefer::Frequency => search.speeds.max_khz.values().copied().collect(),
        Prefer::Performance => search.speeds.performance.values().copied().collect(),
        Prefer::Efficiency if search.topology.efficient().is_empty() => BTreeSet::new(),
        Prefer::Cache | Prefer::Efficiency => return None,
    };
    match (numbers.len(), numbers.last()) {
        (0, _) | (_, None) => Some(Remark::warning(format!(
            "prefer = \"{name}\" has no effect: the host does not distinguish kinds of cores"
        ))),
        (1, _) => Some(Remark::info(format!(
            "prefer = \"{name}\" makes no difference: all cores are alike"
        ))),
        (_, Some(best)) => {
            let speeds = match prefer {
                Prefer::Frequency => &search.speeds.max_khz,
                _ => &search.speeds.performance,
            };
            let own = speeds.iter().filter(|(cpu, _)| owned.contains(**cpu));
            let least = own.map(|(_, speed)| *speed).min().unwrap_or(0);
            let (least, best) = match prefer {
                Prefer::Frequency => (
                    format!("{} MHz", least / 1000),
                    format!("{} MHz", best / 1000),
                ),
                _ => (format!("rank {least}"), format!("rank {best}")),
            };
            Some(Remark::info(format!(
                "{name}: the slowest of these cores has {least}, the fastest of the host {best}"
            )))
        }
    }
}

fn nodes(topology: &Topology, owned: &CpuSet) -> Option<Remark> {
    let nodes: BTreeSet<u32> = owned
        .iter()
        .filter_map(|cpu| topology.node_of(cpu))
        .map(|node| node.id)
        .collect();
    if topology.nodes().len() < 2 {
        return None;
    }
    let list: CpuSet = nodes.iter().copied().map(CpuId).collect();
    Some(match nodes.len() {
        0 | 1 => Remark::info(format!("all on numa node {list}")),
        _ => Remark::warning(format!(
            "on numa nodes {list}: no single one has room for all vcpus and their memory"
        ))
        .about(Topic::Nodes),
    })
}

/// Tells which devices are near; on hosts with one NUMA node all are.
fn attached(topology: &Topology, owned: &CpuSet, devices: &[Device]) -> Vec<Remark> {
    if topology.nodes().len() < 2 {
        return Vec::new();
    }
    let is_near = |id: u32| {
        let mut nodes = topology.nodes().iter().filter(|node| node.id == id);
        nodes.any(|node| !node.cpus.is_disjoint(owned))
    };
    let remark = |Device { key, address, node }: &Device| match *node {
        Some(id) if is_near(id) => {
            Remark::info(format!("{key} ({address}) is attached to numa node {id}"))
        }
        Some(id) => Remark::warning(format!(
            "{key} ({address}) is attached to numa node {id}, which has no room"
        )),
        None => Remark::info(format!(
            "{key} ({address}): the host does not report its numa node"
        )),
    };
    devices.iter().map(remark).collect()
}

fn packing(topology: &Topology, choice: &Choice) -> Option<Remark> {
    let smt = |cpus: &CpuSet| cpus.iter().any(|cpu| !topology.siblings(cpu).is_empty());
    match choice.packing {
        Packing::OnePerCore if !choice.idle.is_empty() => Some(Remark::info(format!(
            "one vcpu for each core; the smt siblings ({}) stay idle",
            choice.idle
        ))),
        Packing::Siblings if smt(&choice.cpus) => Some(Remark::info(
            "whole cores: each pair of vcpus runs on smt siblings".to_owned(),
        )),
        _ => None,
    }
}

fn host(search: &Search<'_>, owned: &CpuSet) -> Vec<Remark> {
    let left = housekeeping(search.topology, &search.others, owned);
    let cores = search.topology.cores().iter();
    let n_cores = cores.filter(|core| core.cpus.is_subset(&left)).count();
    let reserved = match search.reserve {
        None => format!("{} reserved", default_reserve(search.topology)),
        Some(Reserve::Cores(n)) => format!("{n} reserved"),
        Some(Reserve::Cpus(cpus)) => format!("cpus {cpus} reserved"),
    };
    let cores = if n_cores == 1 { "core" } else { "cores" };
    let when = match search.others.is_empty() {
        true => "",
        false => " when all vms have theirs",
    };
    let keeps = format!("the host keeps cpus {left}{when}: {n_cores} whole {cores}, {reserved}");
    let mut remarks = vec![Remark::info(keeps)];
    if owned.contains(CpuId(0)) {
        let text = "cpu 0 is among them: timers and interrupts that cannot be moved stay there";
        remarks.push(Remark::warning(text.to_owned()));
    }
    remarks
}

fn avoided(search: &Search<'_>, owned: &CpuSet) -> Option<Remark> {
    let cpus = search.avoid.intersection(owned);
    (!cpus.is_empty()).then(|| {
        Remark::warning(format!(
            "guests or units of this node are configured for cpus {cpus} and will be moved off"
        ))
    })
}
