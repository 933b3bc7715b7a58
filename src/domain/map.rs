//! A map of the host: which CPUs share what, and who owns which.
//!
//! A value only; [`draw`](draw::draw) makes a picture of it, `--json` prints it as it is.

pub mod draw;
mod folded;
mod legend;
mod narrow;
mod tree;

use serde::Serialize;

use super::backend::Backend;
use super::cpuset::{CpuId, CpuSet};
use super::drawing::svg::Ground;
use super::topology::{L3Domain, Node, Topology};
use super::vm::Vmid;

/// Which CPUs share what, and who owns which.
#[derive(Debug, Clone, Serialize)]
pub struct Map {
    /// NUMA nodes.
    pub nodes: Vec<Node>,
    /// L3 domains.
    pub l3_domains: Vec<L3Domain>,
    /// Cores, in ascending order of their lowest CPU.
    pub cores: Vec<Core>,
    /// Who has CPUs; no CPU has two owners.
    pub owners: Vec<Owner>,
    /// Functions that VMs take.
    pub devices: Vec<Device>,
    /// What cannot be seen from here.
    pub left_out: Vec<String>,
    /// Index of each online CPU's owner, by its number.
    #[serde(skip)]
    owner_of: Vec<usize>,
}

/// Core, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    /// Its package; -1 where the firmware does not tell.
    pub package: i32,
    /// Its NUMA node.
    pub node: Option<u32>,
    /// Index of its L3 domain.
    pub l3_domain: Option<usize>,
    /// What it is built for; nothing where all cores are of one kind.
    pub kind: Option<Kind>,
    /// Its online CPUs.
    pub cpus: CpuSet,
}

/// What a core is built for, on hosts that have several kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// P-core.
    Performance,
    /// E-core.
    Efficient,
    /// E-core without an L3 cache.
    LowPower,
}

impl Kind {
    /// Returns the letters that vendors put before "core".
    fn letters(self) -> &'static str {
        match self {
            Kind::Performance => "P",
            Kind::Efficient => "E",
            Kind::LowPower => "LP",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Performance => "performance",
            Kind::Efficient => "efficient",
            Kind::LowPower => "low power",
        }
    }
}

/// Somebody who has CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Who it is.
    pub kind: OwnerKind,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Which VM.
    pub vmid: Option<Vmid>,
    /// Name of the VM.
    pub name: Option<String>,
    /// How far the claim of the VM's run has come.
    pub state: Option<String>,
    /// How the VM has its CPUs.
    pub backend: Option<Backend>,
    /// Cgroup of the partition.
    pub cgroup: Option<String>,
}

/// Who has CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// A VM.
    Vm,
    /// A partition of somebody else.
    Partition,
    /// Nobody: the boot parameter `isolcpus=` keeps tasks off them.
    Isolcpus,
    /// Nobody: they do not run.
    Offline,
    /// Everybody else.
    Host,
}

impl Owner {
    /// Returns an owner of which no more is known.
    pub fn new(kind: OwnerKind, cpus: CpuSet) -> Self {
        Owner {
            kind,
            cpus,
            vmid: None,
            name: None,
            state: None,
            backend: None,
            cgroup: None,
        }
    }
}

/// Function that a VM has, or is to have by its config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Address of the function.
    pub address: String,
    /// NUMA node that it is attached to.
    pub node: Option<u32>,
    /// Which VM.
    pub vmid: Vmid,
}

impl Map {
    /// Returns the map of a host; of two owners of a CPU the first one has it. Who is left over is added:
    /// `isolcpus=`, offline CPUs, the host itself.
    pub fn new(topology: &Topology, mut owners: Vec<Owner>, devices: Vec<Device>) -> Self {
        let sets = topology.sets();
        owners.push(Owner::new(OwnerKind::Isolcpus, sets.isolcpus.clone()));
        owners.push(Owner::new(OwnerKind::Host, sets.online.clone()));
        let last = sets.online.last().map_or(0, |cpu| cpu.0 as usize);
        let mut owner_of = vec![0; last + 1];
        let mut left = sets.online.clone();
        for owner in &mut owners {
            // A VM keeps what somebody took offline: it is still its own.
            if owner.kind != OwnerKind::Vm {
                owner.cpus = owner.cpus.intersection(&left);
            }
            left = left.difference(&owner.cpus);
        }
        owners.retain(|owner| !owner.cpus.is_empty());
        for (n, owner) in owners.iter().enumerate() {
            for cpu in owner.cpus.intersection(&sets.online).iter() {
                owner_of[cpu.0 as usize] = n;
            }
        }
        let offline = sets.offline();
        if !offline.is_empty() {
            owners.push(Owner::new(OwnerKind::Offline, offline));
        }
        Map {
            nodes: topology.nodes().to_vec(),
            l3_domains: topology.l3_domains().to_vec(),
            cores: cores(topology),
            owners,
            devices,
            left_out: Vec::new(),
            owner_of,
        }
    }

    /// Returns the index of the owner of an online CPU in [`Self::owners`].
    fn owner_of(&self, cpu: CpuId) -> usize {
        self.owner_of[cpu.0 as usize]
    }

    /// Tells whether anybody but the host has CPUs that run.
    fn is_shared(&self) -> bool {
        let kinds = self.owners.iter().map(|owner| owner.kind);
        kinds
            .filter(|kind| *kind != OwnerKind::Offline)
            .any(|kind| kind != OwnerKind::Host)
    }

    /// Returns the mark of an owner's CPUs: a letter for each VM, a sign for the others, a blank for the
    /// host.
    fn mark(&self, owner: usize) -> char {
        let letters = ('A'..='Z').chain('a'..='z');
        match self.owners[owner].kind {
            // Those after the last letter are told apart by the legend alone.
            OwnerKind::Vm => letters.clone().nth(owner).unwrap_or('*'),
            OwnerKind::Partition => '#',
            OwnerKind::Isolcpus => '~',
            OwnerKind::Offline => '!',
            OwnerKind::Host => ' ',
        }
    }

    /// Returns what the CPUs of an owner are drawn on.
    pub fn ground(&self, owner: usize) -> Option<Ground> {
        match self.owners[owner].kind {
            OwnerKind::Vm => Some(Ground::Color(owner)),
            OwnerKind::Partition | OwnerKind::Isolcpus => Some(Ground::Gray),
            OwnerKind::Offline | OwnerKind::Host => None,
        }
    }

    /// Returns the index of a VM among the owners.
    fn vm(&self, vmid: Vmid) -> Option<usize> {
        let mut owners = self.owners.iter();
        owners.position(|owner| owner.vmid == Some(vmid))
    }
}

fn cores(topology: &Topology) -> Vec<Core> {
    let kind = |cpu| match () {
        () if topology.efficient().is_empty() => None,
        () if topology.low_power().contains(cpu) => Some(Kind::LowPower),
        () if topology.efficient().contains(cpu) => Some(Kind::Efficient),
        () => Some(Kind::Performance),
    };
    let cores = topology.cores().iter().filter_map(|core| {
        let first = core.cpus.first()?;
        Some(Core {
            package: core.package,
            node: topology.node_of(first).map(|node| node.id),
            l3_domain: topology.l3_index_of(first),
            kind: kind(first),
            cpus: core.cpus.clone(),
        })
    });
    cores.collect()
}

#[cfg(test)]
mod tests;
