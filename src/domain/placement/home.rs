//! Which vCPUs of a guest have their memory on which node of the host.

use std::collections::BTreeSet;

use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::guest::Guest;
use crate::domain::topology::Topology;

/// Node of a guest whose memory the VM's configuration takes from nodes of the host
/// (`numaN: cpus=...,hostnodes=...`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    /// N of `numaN`.
    pub number: usize,
    /// Indices of its vCPUs.
    pub vcpus: BTreeSet<u32>,
    /// Nodes of the host.
    pub host_nodes: BTreeSet<u32>,
}

/// Returns the nodes of a guest that are bound to nodes of the host.
pub fn homes(guest: &Guest) -> Vec<Home> {
    let nodes = guest.nodes.iter().enumerate();
    let bound = nodes.filter(|(_, node)| !node.host_nodes.is_empty());
    let home = |(number, node): (usize, &crate::domain::guest::GuestNode)| Home {
        number,
        vcpus: node.vcpus.iter().copied().collect(),
        host_nodes: node.host_nodes.iter().copied().collect(),
    };
    bound.map(home).collect()
}

impl Home {
    /// Returns the vCPUs with an index below `n_vcpus`.
    pub(super) fn vcpus_below(&self, n_vcpus: usize) -> impl Iterator<Item = usize> + '_ {
        let indices = self.vcpus.iter().map(|vcpu| *vcpu as usize);
        indices.take_while(move |vcpu| *vcpu < n_vcpus)
    }

    /// Returns those of `cpus` that the memory is near to.
    pub(super) fn cpus(&self, cpus: &CpuSet, topology: &Topology) -> CpuSet {
        let near = cpus.iter().filter(|cpu| self.is_near(*cpu, topology));
        near.collect()
    }

    /// Tells whether the memory is near to a CPU.
    pub(super) fn is_near(&self, cpu: CpuId, topology: &Topology) -> bool {
        let Some(node) = topology.node_of(cpu) else {
            return false;
        };
        let memory = topology.memory_of(node).map(|node| node.id);
        self.host_nodes.contains(&node.id) || memory.is_some_and(|id| self.host_nodes.contains(&id))
    }
}
