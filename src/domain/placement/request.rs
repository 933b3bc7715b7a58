//! What a VM asks for, and which CPUs it owns by that.

use super::home::Home;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Cpus, Smt, Table};
use crate::domain::topology::Topology;

/// What the table and the configuration of a VM ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// CPUs that vCPUs run on (`cpus`).
    pub cpus: CpuSet,
    /// CPUs that are owned without a vCPU (`isolate.also`).
    pub also: CpuSet,
    /// CPU of vCPU 0, 1 and so on, where the table lists them (`pin.vcpus`).
    pub vcpus: Option<Vec<CpuId>>,
    /// vCPUs that the VM starts with.
    pub n_vcpus: usize,
    /// vCPUs that can be plugged in at most.
    pub max_vcpus: usize,
    /// SMT siblings per guest core (`-smp threads=`); 1 (or 0) when the guest has no SMT.
    pub guest_smt: usize,
    /// What becomes of SMT siblings, where the table says so.
    pub smt: Option<Smt>,
    /// vCPUs whose memory is bound to nodes of the host.
    pub homes: Vec<Home>,
}

impl Request {
    /// Returns the CPUs that vCPUs may run on: one for each core where its siblings stay idle.
    pub(super) fn for_vcpus(&self, topology: &Topology) -> CpuSet {
        match self.smt {
            Some(Smt::IdleSibling) => topology.first_of_cores(&self.cpus),
            Some(Smt::Pairs) | None => self.cpus.clone(),
        }
    }

    /// Returns every CPU that the VM owns.
    pub(super) fn owned(&self, topology: &Topology) -> CpuSet {
        owned(&self.cpus, &self.also, self.smt, topology)
    }
}

/// Returns every CPU that is owned with CPUs for vCPUs, `also` and what becomes of siblings.
fn owned(cpus: &CpuSet, also: &CpuSet, smt: Option<Smt>, topology: &Topology) -> CpuSet {
    let mut owned = cpus.union(also);
    if smt == Some(Smt::IdleSibling) {
        owned.extend(cpus.iter().flat_map(|cpu| {
            let siblings = topology.siblings(cpu);
            siblings.iter().collect::<Vec<_>>()
        }));
    }
    owned
}

/// Returns every CPU that a VM owns by its table; nothing where the choice is left to the start.
pub fn owned_by_table(table: &Table, topology: &Topology) -> Option<CpuSet> {
    match &table.cpus {
        Cpus::Set(cpus) => Some(owned(cpus, &table.isolate.also, table.smt, topology)),
        Cpus::Auto => None,
    }
}
