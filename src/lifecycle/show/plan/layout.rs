//! Where the threads of a VM are to run, next to what the host's CPUs share.

use serde::Serialize;

use crate::domain::backend::Backend;
use crate::domain::claim::{Claims, Wishes, owned_by_others};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::desired::is_exclusive;
use crate::domain::others::Surroundings;
use crate::domain::placement::housekeeping;
use crate::domain::table::Table;
use crate::domain::topology::Topology;
use crate::lifecycle::case::resolve::Resolved;
use crate::lifecycle::case::texts::Case;

/// Where the threads of a VM are to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Every CPU that the VM is to own.
    pub cpus: CpuSet,
    /// How they are taken.
    pub backend: Backend,
    /// Why that way.
    pub reason: String,
    /// Where each vCPU runs that exists at the start.
    pub vcpus: Vec<VcpuPlace>,
    /// CPUs for vCPUs that are plugged in later.
    pub hotplug: Vec<VcpuPlace>,
    /// Owned CPUs without a vCPU.
    pub idle: CpuSet,
    /// CPUs of the emulator threads.
    pub emulator: CpuSet,
    /// CPUs of the iothreads and vhost workers that the table names.
    pub others: Vec<ThreadCpus>,
    /// CPUs that are left to everything else.
    pub housekeeping: CpuSet,
}

/// Place of a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VcpuPlace {
    /// Its index.
    pub vcpu: usize,
    /// CPU that it runs on.
    pub cpu: CpuId,
    /// CPUs of that CPU's core: itself and its SMT siblings.
    pub core: CpuSet,
    /// Index of its L3 domain, from 0 in the order of their lowest CPU.
    pub l3_domain: Option<usize>,
    /// Its NUMA node.
    pub node: Option<u32>,
}

/// CPUs of threads that the table names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadCpus {
    /// What they are: `iothread` or `vhost`.
    pub role: &'static str,
    /// Name in the table: the key of a disk or network device, or `*` for those not named.
    pub name: String,
    /// CPUs that they run on.
    pub cpus: CpuSet,
    /// Whether the VM's configuration makes such threads.
    pub exists: bool,
}

impl Layout {
    pub(super) fn of(
        case: &Case,
        resolved: &Resolved,
        claims: &Claims,
        around: &Surroundings,
    ) -> Self {
        let (wishes, topology) = (&resolved.wishes, &resolved.topology);
        let foreign = around.partitions.iter();
        let foreign: CpuSet = foreign.flat_map(|foreign| foreign.cpus.iter()).collect();
        let mut claimed = owned_by_others(claims, case.vmid);
        if is_exclusive(wishes) {
            claimed.extend(wishes.cpus.iter());
        }
        let left = housekeeping(topology, &claimed, &foreign);
        let place = |(vcpu, cpu)| place_of(vcpu, cpu, topology);
        let mut vcpus: Vec<VcpuPlace> = wishes.pins().map(place).collect();
        let n_vcpus = vcpus.len().min(case.guest.n_vcpus as usize);
        let used: CpuSet = wishes.vcpus.iter().copied().collect();
        let groups = wishes.groups();
        let of_vcpus = groups.iter().find(|(name, _)| *name == "vcpu");
        Layout {
            cpus: wishes.cpus.clone(),
            backend: wishes.backend,
            reason: wishes.reason.clone(),
            hotplug: vcpus.split_off(n_vcpus),
            vcpus,
            idle: of_vcpus.map_or_else(CpuSet::new, |(_, cpus)| cpus.difference(&used)),
            emulator: wishes
                .emulator
                .clone()
                .unwrap_or_else(|| left_of(wishes, &left)),
            others: others(case, &case.table),
            housekeeping: left,
        }
    }
}

/// Returns where threads run that the table says nothing of: PVE's `affinity` counts as far as it is left.
fn left_of(wishes: &Wishes, left: &CpuSet) -> CpuSet {
    let allowed = wishes.affinity.as_ref().map(|cpus| cpus.intersection(left));
    allowed
        .filter(|cpus| !cpus.is_empty())
        .unwrap_or_else(|| left.clone())
}

fn place_of(vcpu: usize, cpu: CpuId, topology: &Topology) -> VcpuPlace {
    let core = topology.core_of(cpu).map(|core| core.cpus.clone());
    VcpuPlace {
        vcpu,
        cpu,
        core: core.unwrap_or_else(|| CpuSet::of(cpu)),
        l3_domain: topology.l3_index_of(cpu),
        node: topology.node_of(cpu).map(|node| node.id),
    }
}

fn others(case: &Case, table: &Table) -> Vec<ThreadCpus> {
    let iothreads: Vec<&str> = case
        .guest
        .iothreads
        .iter()
        .map(|iothread| iothread.key.as_str())
        .collect();
    let nets = case.guest.nets.iter().filter(|net| net.model == "virtio");
    let nets: Vec<&str> = nets.map(|net| net.key.as_str()).collect();
    let named = [
        ("iothread", &table.pin.iothreads, iothreads),
        ("vhost", &table.pin.vhost, nets),
    ];
    let threads = named.into_iter().flat_map(|(role, pins, made)| {
        pins.iter().map(move |(name, cpus)| ThreadCpus {
            role,
            name: name.clone(),
            cpus: cpus.clone(),
            exists: match name.as_str() {
                "*" => made.iter().any(|key| !pins.contains_key(*key)),
                name => made.contains(&name),
            },
        })
    });
    let mut threads: Vec<ThreadCpus> = threads.collect();
    threads.sort_by_key(|thread| (thread.role, thread.name == "*"));
    threads
}
