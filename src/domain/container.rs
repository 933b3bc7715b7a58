//! Containers: the CPUs that their cgroups ask for, and how many PVE gives them.

use super::cpuset::CpuSet;
use super::target::Place;
use super::vm::Vmid;

/// Observed container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub ctid: Vmid,
    /// Start time of the process that made it, to tell this run from another one of the same id.
    pub run: u64,
    /// CPUs that its cgroup asks for; empty while it has those of the cgroup above.
    pub cpus: CpuSet,
    /// The same of the cgroup `ns` inside, which holds its processes.
    pub inner: Option<CpuSet>,
    /// Its config; `None` when this node has none for it.
    pub config: Option<ContainerConfig>,
}

/// What the config of a container says about CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Number of its CPUs (`cores:`); `None` is all.
    pub cores: Option<usize>,
    /// CPUs that the administrator chose himself (`lxc.cgroup2.cpuset.cpus`).
    pub cpus: Option<CpuSet>,
}

impl Container {
    /// Tells whether the administrator chose its CPUs, which PVE then leaves alone.
    pub fn is_pinned(&self) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.cpus.is_some())
    }

    /// Tells whether PVE counts its CPUs when it balances containers.
    pub fn is_counted(&self) -> bool {
        self.config.is_some() && self.inner.is_some()
    }

    /// Tells whether PVE chooses its CPUs, over and over (`rebalance_lxc_containers()` of
    /// pvestatd).
    pub fn is_balanced(&self) -> bool {
        self.is_counted() && !self.is_pinned()
    }

    /// Returns its cgroups that may ask for CPUs, each with those.
    pub fn lists(&self) -> impl Iterator<Item = (Place, &CpuSet)> {
        let outer = (Place::Container(self.ctid, self.run), &self.cpus);
        let inner = self.inner.as_ref();
        let inner = inner.map(|cpus| (Place::ContainerInside(self.ctid, self.run), cpus));
        [outer].into_iter().chain(inner)
    }

    /// Returns how many CPUs PVE gives it of so many; `None` where PVE does not care.
    pub fn share(&self, of: usize) -> Option<usize> {
        let config = self.config.as_ref().filter(|_| self.is_balanced())?;
        Some(config.cores.map_or(of, |cores| cores.min(of)))
    }
}
