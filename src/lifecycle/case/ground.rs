//! What of the host a table is held against, apart from who else has its CPUs; and whether it fits.

use std::collections::BTreeSet;

use super::texts::Case;
use crate::domain::admission::check_scheduler;
use crate::domain::cpuset::CpuSet;
use crate::domain::gate::{self, GateFacts};
use crate::domain::guest::Guest;
use crate::domain::memory;
use crate::domain::placement::{Placement, Remark, Request, doubts, homes, place, threads_fit};
use crate::domain::refusal::Refusal;
use crate::domain::table::{Cpus, HostSettings, KernelGate, Smt, Table, Workqueues};
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::topology::read_topology;
use crate::host::{Host, surroundings};

/// A table, and what is known of the VM that it is for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Which VM, where that is known.
    pub vmid: Option<Vmid>,
    /// What PVE would start, where that is known.
    pub guest: Option<&'a Guest>,
    /// What the operator wishes.
    pub table: &'a Table,
}

/// What of the host a table is held against, apart from who else has its CPUs.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Its CPUs.
    pub topology: Topology,
    /// What the choice of a backend depends on, apart from the table.
    gate: GateFacts,
    /// Whether the kernel leaves other tasks some time beside real-time ones.
    is_throttled: bool,
}

/// How a table that fits the host takes its CPUs.
#[derive(Debug, Clone)]
pub struct Fit {
    /// Where the vCPUs run.
    pub placement: Placement,
    /// The backend.
    pub choice: gate::Choice,
    /// Whether unbound kernel work is moved.
    pub moves_work: bool,
    /// What the operator must know about that.
    pub stall: Option<String>,
    /// Nodes of the VM's memory.
    pub nodes: BTreeSet<u32>,
}

impl Case {
    /// Returns what the case asks for.
    pub fn asking(&self) -> Asking<'_> {
        Asking {
            vmid: Some(self.vmid),
            guest: Some(&self.guest),
            table: &self.table,
        }
    }
}

impl Asking<'_> {
    /// Returns what is asked of placement; `idle` are CPUs without a vCPU that the table does not
    /// name. Without a guest, as many vCPUs as fit.
    pub fn request(&self, cpus: CpuSet, idle: &CpuSet, topology: &Topology) -> Request {
        let (table, guest) = (self.table, self.guest);
        let n_cpus = match (&table.pin.vcpus, table.smt) {
            (Some(list), _) => list.len(),
            (None, Some(Smt::IdleSibling)) => topology.first_of_cores(&cpus).len(),
            (None, _) => cpus.len(),
        };
        Request {
            cpus,
            also: table.isolate.also.union(idle),
            vcpus: table.pin.vcpus.clone(),
            n_vcpus: guest.map_or(n_cpus, |guest| guest.n_vcpus as usize),
            max_vcpus: guest.map_or(n_cpus, |guest| guest.max_vcpus as usize),
            guest_smt: guest.map_or(1, |guest| guest.smt as usize),
            smt: table.smt,
            homes: guest.map(homes).unwrap_or_default(),
        }
    }

    /// Returns what the rules of placement say of CPUs that the table names.
    pub fn doubts_of_written(&self, placement: &Placement, topology: &Topology) -> Vec<Remark> {
        let of = |guest: &Guest| (guest.n_vcpus as usize, guest.memory_mib);
        let (n_vcpus, memory_mib) = self.guest.map_or((usize::MAX, 0), of);
        match self.table.cpus {
            Cpus::Set(_) => doubts::of_written(placement, n_vcpus, memory_mib, topology),
            Cpus::Auto => Vec::new(),
        }
    }

    /// Returns what is to be said of any CPUs next to the guest, where it is known.
    pub fn doubts_of_guest(&self, placement: &Placement, topology: &Topology) -> Vec<Remark> {
        let of = |(vmid, guest)| doubts::of_guest(vmid, guest, self.table, placement, topology);
        self.vmid.zip(self.guest).map(of).unwrap_or_default()
    }
}

impl Ground {
    /// Looks at the host.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(host: &Host, settings: &HostSettings) -> anyhow::Result<Self> {
        let files = &*host.files;
        Ok(Ground {
            topology: read_topology(files)?,
            gate: GateFacts {
                release: surroundings::kernel_release(files)?,
                features: surroundings::features(files),
                mlx5_loaded: surroundings::is_loaded(files, "mlx5_core"),
                isolcpus_overlap: false,
                work_stays: false,
                gate_override: settings.kernel_gate == KernelGate::Ignore,
            },
            is_throttled: surroundings::throttles_real_time(files),
        })
    }

    /// Finds out whether the host has what a table asks for with these CPUs.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn fit(&self, asking: &Asking<'_>, request: &Request) -> Result<Fit, Refusal> {
        let (table, topology) = (asking.table, &self.topology);
        threads_fit(&table.pin, topology).map_err(Refusal::Placement)?;
        let placement = place(request, topology).map_err(Refusal::Placement)?;
        let (choice, (moves_work, stall)) = self.choose(table, !placement.isolcpus.is_empty())?;
        let nodes = memory::nodes(&table.memory, asking.guest, &placement.owned(), topology)?;
        Ok(Fit {
            placement,
            choice,
            moves_work,
            stall,
            nodes,
        })
    }

    /// Finds out whether the host has what a table asks for that leaves the choice of CPUs to the
    /// start, whichever they will be.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn fit_any(&self, table: &Table) -> Result<(), Refusal> {
        threads_fit(&table.pin, &self.topology).map_err(Refusal::Placement)?;
        self.choose(table, false).map(drop)
    }

    /// Returns the best backend that this host allows, for a table that leaves it open.
    pub fn best(&self) -> gate::Choice {
        gate::choose_best(&self.gate)
    }

    /// Chooses the backend, and whether unbound kernel work is moved.
    fn choose(
        &self,
        table: &Table,
        isolcpus_overlap: bool,
    ) -> Result<(gate::Choice, (bool, Option<String>)), Refusal> {
        let work = table.isolate.workqueues;
        let facts = GateFacts {
            isolcpus_overlap,
            work_stays: work == Workqueues::Off,
            ..self.gate
        };
        let choice = gate::choose(table.isolate.backend, &facts).map_err(Refusal::Gate)?;
        let moved = gate::moves_work(work, choice.backend, &facts).map_err(Refusal::Gate)?;
        check_scheduler(table.pin.scheduler, choice.backend, self.is_throttled)?;
        Ok((choice, moved))
    }
}
