//! CPUs for a VM, and how its vCPUs are spread over their cores.

use crate::domain::cpuset::CpuSet;
use crate::domain::topology::Core;

/// CPUs for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// CPUs for vCPUs.
    pub cpus: CpuSet,
    /// SMT siblings of them that are owned without a vCPU.
    pub idle: CpuSet,
    /// How the vCPUs are spread.
    pub packing: Packing,
}

impl Choice {
    /// Returns every CPU that is owned.
    pub fn owned(&self) -> CpuSet {
        self.cpus.union(&self.idle)
    }
}

/// How vCPUs are spread over cores; the first is better where both are as near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// One vCPU for each core; its SMT siblings stay idle.
    OnePerCore,
    /// One vCPU for each CPU of a core.
    Siblings,
}

impl Packing {
    /// Returns how many vCPUs a core takes.
    pub(super) fn capacity(self, core: &Core) -> usize {
        match self {
            Packing::OnePerCore => 1,
            Packing::Siblings => core.cpus.len(),
        }
    }
}
