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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::placement::{Request, place};
    use crate::domain::topology::tests::grid;
    use crate::domain::topology::{Node, Parts};

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    /// Returns the CPUs of so many vCPUs on `cpus`.
    fn placed(cpus: &str, n_vcpus: usize, homes: Vec<Home>, host: &Topology) -> Vec<u32> {
        let request = Request {
            cpus: set(cpus),
            n_vcpus,
            max_vcpus: n_vcpus,
            guest_smt: 1,
            homes,
            ..Request::default()
        };
        let placement = place(&request, host).unwrap();
        placement.vcpus.iter().map(|cpu| cpu.0).collect()
    }

    fn home(vcpus: &[u32], node: u32) -> Home {
        Home {
            number: 0,
            vcpus: vcpus.iter().copied().collect(),
            host_nodes: [node].into(),
        }
    }

    /// An L3 domain that the firmware shows as a node has its memory in the node beside it: a vCPU elsewhere
    /// would fetch all of it from afar.
    #[test]
    fn memory_of_the_nearest_node_is_where_a_vcpu_runs() {
        let mut parts = Parts::default();
        parts.sets.present = set("0-2");
        parts.sets.online = set("0-2");
        let distances = [(0, 32), (2, 11)].into();
        parts.nodes = [(0, true), (1, false), (2, true)]
            .map(|(id, has_memory)| Node {
                id,
                cpus: CpuSet::of(CpuId(id)),
                has_memory,
                ..Default::default()
            })
            .into();
        parts.nodes[1].distances = distances;
        let found = placed("0-1", 2, vec![home(&[0], 2)], &Topology::new(parts));
        assert_eq!(found, [1, 0]);
    }

    /// Otherwise CPUs near the memory of other vCPUs would be taken for vCPUs that do not exist or have one.
    #[test]
    fn nodes_of_a_guest_that_name_a_vcpu_twice_or_one_too_many_take_no_more_cpus() {
        let host = grid(2, 1, 4, 1);
        let homes = vec![home(&[0, 1], 0), home(&[1, 2, 3, 4], 1)];
        assert_eq!(placed("1-7", 3, homes, &host), [1, 2, 4]);
    }
}
