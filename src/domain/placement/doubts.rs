//! What an expert would say of a placement that can be used: the rules by which CPUs are chosen, held
//! against CPUs that somebody wrote.

use std::collections::BTreeSet;

use super::place::Placement;
use super::remark::{Remark, Topic};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::guest::Guest;
use crate::domain::memory::refused::refused;
use crate::domain::memory::{nodes_in_words, pools};
use crate::domain::table::{Cpus, Nodes, Table};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::domain::words::count;

/// What is said of the CPUs that a table names. That a better line is known is for the caller to say,
/// who knows what is free. `memory_mib` is the VM's, 0 where that is not known.
pub fn of_written(
    placement: &Placement,
    n_vcpus: usize,
    memory_mib: u32,
    topology: &Topology,
) -> Vec<Remark> {
    let owned = placement.owned();
    let used: CpuSet = placement.vcpus.iter().take(n_vcpus).copied().collect();
    // Those that are plugged in later need room as well.
    let needs = Needs {
        n_vcpus: placement.vcpus.len(),
        memory_mib,
    };
    let all = [
        (Topic::Cpus, kinds(&used, topology)),
        (Topic::Cpus, low_power(&used, topology)),
        (Topic::Nodes, too_many_nodes(&used, &owned, needs, topology)),
        (Topic::Cpus, boot_cpu(&owned)),
        (Topic::Cpus, isolcpus(&owned, topology)),
    ];
    let all = all.into_iter();
    all.flat_map(|(topic, text)| about(topic, text)).collect()
}

/// What is said of any CPUs, written or chosen, next to the guest.
pub fn of_guest(
    vmid: Vmid,
    guest: &Guest,
    table: &Table,
    placement: &Placement,
    topology: &Topology,
) -> Vec<Remark> {
    let used: CpuSet = placement.vcpus.iter().copied().collect();
    let refused = refused(guest, topology);
    let mut all = Vec::new();
    let of_cores = shared_cores(guest, placement, topology);
    all.extend(about(Topic::Smt, of_cores));
    all.extend(about(Topic::Placement, no_memory(&used, topology)));
    all.extend(about(Topic::Placement, far_memory(&used, table, topology)));
    let memory = refused.as_ref().map(ToString::to_string);
    all.extend(about(Topic::Memory, memory));
    let mut too_much = too_much_memory(guest, topology);
    if too_much.is_empty() {
        too_much.extend(more_than_host(guest, topology));
    }
    all.extend(about(Topic::Placement, too_much));
    let of_config = [cpu_limit(vmid, guest), narrowed(vmid, guest, table)];
    all.extend(about(Topic::Config, of_config.into_iter().flatten()));
    all.extend(about(Topic::Placement, other_smp(guest)));
    all.extend(about(Topic::Placement, pins_of_nothing(guest, table)));
    let hugepages = no_hugepages(vmid, guest, table).filter(|_| refused.is_none());
    all.extend(about(Topic::Placement, hugepages));
    all.extend(about(Topic::Placement, useless_preference(table)));
    all
}

fn about(topic: Topic, texts: impl IntoIterator<Item = String>) -> impl Iterator<Item = Remark> {
    let texts = texts.into_iter();
    texts.map(move |text| Remark::warning(text).about(topic))
}

/// Says that `-smp` in `args` has the last word about the number of vCPUs, where it was left behind.
fn other_smp(guest: &Guest) -> Option<String> {
    let (configured, n) = (guest.configured_vcpus, guest.n_vcpus);
    (n != configured).then(|| {
        let vcpus = count(n as usize, "vcpu");
        format!(
            "args: has -smp, which gives the vm {vcpus}; its cores: and sockets: would give it {configured}"
        )
    })
}

/// Names threads of the table that the VM's config does not make.
fn pins_of_nothing(guest: &Guest, table: &Table) -> Vec<String> {
    let pin = &table.pin;
    let has_thread = |name: &String| guest.iothreads.iter().any(|one| one.key == *name);
    let is_virtio = |name: &String| {
        let mut nets = guest.nets.iter();
        nets.any(|net| net.key == *name && net.model == "virtio")
    };
    let disks = pin.iothreads.keys();
    let disks = disks.filter(|name| *name != "*" && !has_thread(name));
    let disks = disks.map(|name| {
        format!(
            "pin.iothreads.{name} has no effect: the vm has no iothread for it (iothread=1, for scsi \
             with scsihw: virtio-scsi-single)"
        )
    });
    let nets = pin.vhost.keys().filter(|name| !is_virtio(name));
    let nets = nets.map(|name| {
        format!("pin.vhost.{name} has no effect: the vm has no virtio device of that name")
    });
    disks.chain(nets).collect()
}

/// Says that there are no hugepages to be made ready.
fn no_hugepages(vmid: Vmid, guest: &Guest, table: &Table) -> Option<String> {
    let is_wished = table.memory.hugepages.is_some();
    (is_wished && pools(guest, true).is_empty()).then(|| {
        format!(
            "memory.hugepages has no effect for vm {vmid}: it needs hugepages and numa: 1 in its \
             config, and no memory in hotplug"
        )
    })
}

fn useless_preference(table: &Table) -> Option<String> {
    let name = table.prefer?.name();
    let is_useless = matches!(table.cpus, Cpus::Set(_));
    is_useless.then(|| format!("prefer = \"{name}\" has no effect: cpus names the cpus"))
}

/// Says that PVE keeps the VM's other threads on some CPUs.
fn narrowed(vmid: Vmid, guest: &Guest, table: &Table) -> Option<String> {
    let affinity = guest.affinity.as_ref()?;
    table.pin.emulator.is_none().then(|| {
        format!(
            "affinity: {affinity} of the vm's config keeps its emulator threads on those of {} that \
             it does not own: qm set {vmid} --delete affinity gives them all that are left",
            affinity.in_words()
        )
    })
}

/// Says that the VM is stopped whenever it has used up its quota, if it has one.
pub fn cpu_limit(vmid: Vmid, guest: &Guest) -> Option<String> {
    // A quota above that lets every vCPU run all the time.
    let limit = guest
        .cpu_limit
        .filter(|limit| *limit <= f64::from(guest.n_vcpus))?;
    Some(format!(
        "cpulimit {limit} throttles the vm to {limit} cpus, even on cpus of its own: qm set \
         {vmid} --delete cpulimit"
    ))
}

fn kinds(used: &CpuSet, topology: &Topology) -> Option<String> {
    let slow = used.intersection(topology.efficient());
    (!slow.is_empty() && slow != *used).then(|| {
        format!(
            "cpus {slow} are on efficient cores, the others are not: the guest cannot know \
             which of its vcpus are slow"
        )
    })
}

fn low_power(used: &CpuSet, topology: &Topology) -> Option<String> {
    let low = used.intersection(topology.low_power());
    (!low.is_empty()).then(|| {
        format!(
            "{} {} low power cores without an l3 cache, the slowest of this host",
            low.in_words(),
            if low.len() == 1 {
                "is one of the"
            } else {
                "are those of"
            }
        )
    })
}

/// What the nodes of a VM need room for.
#[derive(Clone, Copy)]
struct Needs {
    n_vcpus: usize,
    memory_mib: u32,
}

fn too_many_nodes(
    used: &CpuSet,
    owned: &CpuSet,
    needs: Needs,
    topology: &Topology,
) -> Option<String> {
    let nodes: BTreeSet<u32> = nodes_of(used, topology);
    let idle = owned.difference(used);
    let is_alone = |cpu: CpuId| {
        let siblings = topology.siblings(cpu);
        !siblings.is_empty() && siblings.is_subset(&idle)
    };
    // Where siblings stay idle a node has as many places as cores.
    let has_cores = used.iter().all(is_alone);
    let places = |cpus: &CpuSet| match has_cores {
        true => topology.first_of_cores(cpus).len(),
        false => cpus.len(),
    };
    let sizes = topology.nodes().iter().map(|n| places(&n.cpus) as u64);
    let needed = fewest(sizes.collect(), needs.n_vcpus as u64);
    let needed = needed.max(nodes_for_memory(needs.memory_mib, topology));
    (needed < nodes.len() && needed > 0).then(|| {
        let list: CpuSet = nodes.iter().copied().map(CpuId).collect();
        let would = if needed == 1 { "one" } else { "fewer" };
        format!("the vcpus are on numa nodes {list}, but {would} would do")
    })
}

/// Returns how many nodes it takes at least for the memory; where the host does not tell, none.
fn nodes_for_memory(memory_mib: u32, topology: &Topology) -> usize {
    let sizes = topology.nodes().iter().map(|node| node.memory_kib);
    let sizes: Option<Vec<u64>> = sizes.collect();
    let kib = u64::from(memory_mib) * 1024;
    sizes.map_or(0, |sizes| fewest(sizes, kib))
}

/// Returns how many of the sizes it takes at least to hold something.
fn fewest(mut sizes: Vec<u64>, all: u64) -> usize {
    sizes.sort_unstable_by(|one, two| two.cmp(one));
    let mut room = 0;
    let needed = sizes.iter().take_while(|size| {
        let is_missing = room < all;
        room += **size;
        is_missing
    });
    needed.count()
}

fn boot_cpu(owned: &CpuSet) -> Option<String> {
    owned.contains(CpuId(0)).then(|| {
        "cpu 0 is among them: timers and interrupts that cannot be moved stay there".to_owned()
    })
}

/// Says which CPUs nobody has, because the kernel was booted so.
pub(super) fn isolcpus(owned: &CpuSet, topology: &Topology) -> Option<String> {
    let kept = topology.sets().isolcpus.difference(owned);
    (!kept.is_empty()).then(|| {
        format!(
            "isolcpus= on the kernel's command line keeps {} from everybody, and the vm does not \
             have {}: pin-hook needs no such parameter",
            kept.in_words(),
            if kept.len() == 1 { "it" } else { "them" }
        )
    })
}

fn nodes_of(cpus: &CpuSet, topology: &Topology) -> BTreeSet<u32> {
    let nodes = cpus.iter().filter_map(|cpu| topology.node_of(cpu));
    nodes.map(|node| node.id).collect()
}

/// Says that vCPUs share cores where the guest does not know, and what can be done.
fn shared_cores(guest: &Guest, placement: &Placement, topology: &Topology) -> Option<String> {
    let fact = of_smt(guest, placement, topology)?;
    Some(format!(
        "{fact}: tell it (args, as under smt in man pin-hook.toml), or keep siblings idle (smt = \
         \"idle-sibling\")"
    ))
}

/// Says that vCPUs share cores where the guest does not know; those that are plugged in later do not
/// count.
pub fn of_smt(guest: &Guest, placement: &Placement, topology: &Topology) -> Option<&'static str> {
    let used = placement.vcpus.iter().take(guest.n_vcpus as usize);
    let used: CpuSet = used.copied().collect();
    let shares = used
        .iter()
        .any(|cpu| !topology.siblings(cpu).is_disjoint(&used));
    (guest.smt < 2 && shares).then_some("vcpus share cores and the guest does not know which")
}

fn no_memory(used: &CpuSet, topology: &Topology) -> Vec<String> {
    let nodes = topology.nodes().iter();
    let bare = nodes.filter(|node| topology.memory_of(node).is_none());
    let here = bare.map(|node| (node.id, node.cpus.intersection(used)));
    let here = here.filter(|(_, cpus)| !cpus.is_empty());
    let text = |(id, cpus): (u32, CpuSet)| {
        let cpus = cpus.in_words();
        format!("node {id} has no memory: vcpus on {cpus} have no local memory")
    };
    here.map(text).collect()
}

/// Tells that memory.nodes names no node of the vCPUs.
fn far_memory(used: &CpuSet, table: &Table, topology: &Topology) -> Option<String> {
    let Some(Nodes::Set(from)) = &table.memory.nodes else {
        return None;
    };
    let near = nodes_of(used, topology);
    (near.is_disjoint(from) && !near.is_empty()).then(|| {
        let [from, near] = [from, &near].map(nodes_in_words);
        format!("memory.nodes is {from}, but the vcpus are on {near}: all memory is remote")
    })
}

/// Says that the VM's memory is more than that of the host, where all of that is known.
pub fn more_than_host(guest: &Guest, topology: &Topology) -> Option<String> {
    let nodes = topology.nodes().iter().filter(|node| node.has_memory);
    let kib: u64 = nodes.map(|node| node.memory_kib).sum::<Option<u64>>()?;
    let (mib, has) = (u64::from(guest.memory_mib), kib / 1024);
    (has > 0 && mib > has)
        .then(|| format!("memory of the vm's config is {mib} MiB, the host has {has} MiB in all"))
}

fn too_much_memory(guest: &Guest, topology: &Topology) -> Vec<String> {
    let mut texts = Vec::new();
    for node in &guest.nodes {
        let known = node
            .host_nodes
            .iter()
            .map(|id| topology.node(*id)?.memory_kib);
        let Some(kib) = known
            .sum::<Option<u64>>()
            .filter(|_| !node.host_nodes.is_empty())
        else {
            continue;
        };
        if kib / 1024 < u64::from(node.memory_mib) {
            let key = node.key.as_deref().unwrap_or_default();
            let (mib, has) = (node.memory_mib, kib / 1024);
            let list: CpuSet = node.host_nodes.iter().copied().map(CpuId).collect();
            texts.push(format!(
                "{key} of the vm's config takes {mib} MiB from node {list}, which has {has} MiB"
            ));
        }
    }
    texts
}
