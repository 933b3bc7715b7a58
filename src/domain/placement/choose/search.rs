//! What CPUs are searched for: the needs of a VM, and what the host has.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Prefer, Reserve, Smt};
use crate::domain::topology::Topology;

/// What a VM needs, and what is free on the host.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// The host.
    pub topology: &'a Topology,
    /// vCPUs that the VM can ever have.
    pub n_vcpus: usize,
    /// SMT siblings per guest core; 1 (or 0) when the guest has no SMT.
    pub guest_smt: usize,
    /// CPUs that belong to others, or to this VM for something else: neither free nor
    /// housekeeping.
    pub others: CpuSet,
    /// Housekeeping CPUs that must stay what they are, such as those that the VM's own table
    /// gives to other threads.
    pub kept: CpuSet,
    /// CPUs that guests and units are set to run on: taken only when nothing else is left.
    pub avoid: CpuSet,
    /// NUMA nodes of the VM's passed-through devices.
    pub near: BTreeSet<u32>,
    /// What must stay with the host, as `host.toml` says.
    pub reserve: Option<&'a Reserve>,
    /// Memory of the VM in MiB; 0 where that does not matter.
    pub memory_mib: u32,
    /// What counts besides.
    pub prefer: Option<Prefer>,
    /// How fast the cores are.
    pub speeds: &'a Speeds,
    /// What becomes of SMT siblings.
    pub smt: Option<Smt>,
}

/// How fast cores are, by their lowest CPU; empty where the host does not tell of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Speeds {
    /// Highest frequency in kHz.
    pub max_khz: BTreeMap<CpuId, u64>,
    /// Rank that the firmware gives; higher is faster.
    pub performance: BTreeMap<CpuId, u64>,
}
