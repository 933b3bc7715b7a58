//! From the texts that PVE and the operator wrote to what a VM is to own on this host.

use std::collections::BTreeMap;

use super::nothing::{absent, no_table};
use super::room::{Asked, Room, state_now};
use super::texts::{Case, CaseError, Found, read_settings, understand};
use super::yields;
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::admission::check_scheduler;
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::gate::{self, GateFacts};
use crate::domain::guest::Guest;
use crate::domain::memory::{self, MemoryWishes, Pool};
use crate::domain::nothing::Nothing;
use crate::domain::placement::{Placement, Remark, Request, doubts, homes};
use crate::domain::placement::{place, remarks, threads_fit};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::{Cpus, HostSettings, KernelGate, Smt, Table, Workqueues};
use crate::domain::thread::vcpu_of_comm;
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::pve::{self, GuestKind};
use crate::host::table::read_table;
use crate::host::topology::read_topology;
use crate::host::{cluster, hugepages, surroundings, task};

/// A table that fits this host.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the VM is to own.
    pub wishes: Wishes,
    /// Why these CPUs, where the table leaves the choice.
    pub reasons: Vec<String>,
    /// What the operator should know.
    pub notices: Vec<String>,
    /// The same, where the VM will be disturbed.
    pub warnings: Vec<String>,
    /// How many of them other CPUs could do without.
    pub n_doubts: usize,
    /// The host that it was resolved against.
    pub topology: Topology,
    /// Pools of hugepages that are to be filled before the start, each with the pages it needs.
    pub pools: Vec<(Pool, u64)>,
    ground: Ground,
}

/// What of the host a table is resolved against, apart from claims.
#[derive(Debug, Clone)]
struct Ground {
    topology: Topology,
    gate: GateFacts,
    /// Whether the kernel leaves other tasks some time beside real-time ones.
    is_throttled: bool,
    /// Whether there are hugepages of 1 GiB.
    has_gigantic: bool,
    /// Which sections of the table no node reads.
    strange_nodes: Option<String>,
    /// What is free; looked at only when the table leaves the choice.
    room: Room,
}

/// Reads what there is under a guest id; `migrated_from` as in [`pve::vm_config`].
pub fn read_case(host: &Host, vmid: Vmid, migrated_from: &str) -> Result<Found, CaseError> {
    let files = &*host.files;
    match pve::guest_kind(files, vmid, migrated_from)? {
        GuestKind::Container => return Ok(Found::Nothing(Nothing::Container(vmid))),
        GuestKind::Absent => return Ok(Found::Nothing(absent(files, vmid))),
        GuestKind::Vm => {}
    }
    // What is wrong with the table of a template bothers nobody.
    let Some(table) = read_table(files, vmid).transpose() else {
        return Ok(Found::Nothing(no_table(files, vmid)));
    };
    let Some(config) = pve::vm_config(files, vmid, migrated_from)? else {
        return Ok(Found::Nothing(absent(files, vmid)));
    };
    let mut guest = parse_vm_conf(&config.text).guest();
    if guest.template {
        return Ok(Found::Nothing(Nothing::Template(vmid)));
    }
    let table = table?;
    let settings = read_settings(host)?;
    let table_path = table.path.clone();
    let table = understand(host, &table, &settings)?;
    yields::check(host, Some(vmid), &table_path, &table)?;
    guest.keep_vcpus(vcpus_at_work(host, vmid));
    Ok(Found::Case(Box::new(Case {
        vmid,
        guest,
        table,
        table_path,
        settings,
    })))
}

/// Returns how many vCPUs a guest runs with: those that it was started with stay, whatever its config says by
/// now. None when it does not run, or nobody may look.
fn vcpus_at_work(host: &Host, vmid: Vmid) -> u32 {
    let files = &*host.files;
    let Ok(Some(qemu)) = pve::running(files, vmid) else {
        return 0;
    };
    let tasks = task::tasks_of(files, qemu.tid).unwrap_or_default();
    let indices = tasks.iter().filter_map(|task| vcpu_of_comm(&task.comm));
    indices.max().map_or(0, |last| last + 1)
}

/// Resolves a table against this host; `state` is what the program remembers.
///
/// # Errors
/// The outer error when the host cannot be read, the inner one when it cannot give what the
/// table asks for.
pub fn resolve(
    host: &Host,
    case: &Case,
    state: &State,
) -> anyhow::Result<Result<Resolved, Refusal>> {
    let ground = Ground::read(host, case, state)?;
    Ok(ground.resolve(case, &state.claims))
}

/// Returns the state that a case has to be resolved against: where the table names the CPUs, that
/// of a host without claims will do.
///
/// # Errors
/// The state cannot be read.
pub fn state_for(host: &Host, case: &Case) -> anyhow::Result<State> {
    match case.table.cpus {
        Cpus::Auto => state_now(host),
        Cpus::Set(_) => Ok(State::default()),
    }
}

impl Resolved {
    /// Resolves the table again next to `claims`: under the host lock there may be others than
    /// before. A table that names its CPUs stays as it is.
    ///
    /// # Errors
    /// There is no room any more.
    pub fn among(self, case: &Case, claims: &Claims) -> Result<Self, Refusal> {
        match case.table.cpus {
            Cpus::Auto => self.ground.resolve(case, claims),
            Cpus::Set(_) => Ok(self),
        }
    }
}

/// Returns what the choice of a backend depends on, apart from the CPUs.
pub(in crate::lifecycle) fn gate_facts(
    host: &Host,
    table: &Table,
    settings: &HostSettings,
) -> anyhow::Result<GateFacts> {
    Ok(GateFacts {
        release: surroundings::kernel_release(&*host.files)?,
        features: surroundings::features(&*host.files),
        mlx5_loaded: surroundings::is_loaded(&*host.files, "mlx5_core"),
        isolcpus_overlap: false,
        work_stays: table.isolate.workqueues == Workqueues::Off,
        gate_override: settings.kernel_gate == KernelGate::Ignore,
    })
}

/// Names the sections of a table for nodes that the cluster does not have; a typo there would keep the
/// node that was meant from reading its own.
pub(in crate::lifecycle) fn strange_nodes(host: &Host, table: &Table) -> Option<String> {
    let nodes = cluster::nodes(&*host.files);
    let is_strange = |name: &&String| !nodes.contains(name);
    let strange: Vec<&String> = table.nodes.iter().filter(is_strange).collect();
    if nodes.is_empty() || strange.is_empty() {
        return None;
    }
    let sections: Vec<String> = strange
        .iter()
        .map(|name| format!("[node.{name}]"))
        .collect();
    let are = if sections.len() == 1 { "is" } else { "are" };
    let (sections, nodes) = (sections.join(", "), nodes.join(", "));
    Some(format!(
        "{sections} of the table {are} not for any node of the cluster, which has {nodes}"
    ))
}

impl Ground {
    fn read(host: &Host, case: &Case, state: &State) -> anyhow::Result<Self> {
        let topology = read_topology(&*host.files)?;
        let room = match case.table.cpus {
            Cpus::Auto => {
                let (guest, settings) = (&case.guest, &case.settings);
                Room::read(host, case.vmid, guest, settings, &topology, state)?
            }
            Cpus::Set(_) => Room::default(),
        };
        Ok(Ground {
            topology,
            gate: gate_facts(host, &case.table, &case.settings)?,
            is_throttled: surroundings::throttles_real_time(&*host.files),
            has_gigantic: hugepages::has_gigantic(&*host.files),
            strange_nodes: strange_nodes(host, &case.table),
            room,
        })
    }

    fn resolve(&self, case: &Case, claims: &Claims) -> Result<Resolved, Refusal> {
        let (request, remarks) = match &case.table.cpus {
            Cpus::Set(cpus) => (request(case, cpus.clone(), CpuSet::new()), Vec::new()),
            Cpus::Auto => self.chosen(case, claims)?,
        };
        threads_fit(&case.table.pin, &self.topology).map_err(Refusal::Placement)?;
        let placement = place(&request, &self.topology).map_err(Refusal::Placement)?;
        let facts = GateFacts {
            isolcpus_overlap: !placement.isolcpus.is_empty(),
            ..self.gate
        };
        let choice = gate::choose(case.table.isolate.backend, &facts).map_err(Refusal::Gate)?;
        let (moves_work, stall) =
            gate::moves_work(case.table.isolate.workqueues, choice.backend, &facts)
                .map_err(Refusal::Gate)?;
        check_scheduler(case.table.pin.scheduler, choice.backend, self.is_throttled)?;
        let (guest, memory) = (&case.guest, &case.table.memory);
        let nodes = memory::nodes(memory, Some(guest), &placement.owned(), &self.topology)?;
        let pools = memory.hugepages.is_some();
        let pools = pools.then(|| memory::pools(guest, self.has_gigantic));
        let notices = placement.notices.iter();
        let (warnings, notices): (Vec<_>, Vec<_>) = notices.partition(|n| n.is_warning());
        let (alarming, reasons): (Vec<_>, Vec<_>) = remarks.into_iter().partition(|r| r.is_warning);
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        warnings.extend(alarming.into_iter().map(|remark| remark.text));
        let written = self.of_written(case, &placement);
        let n_doubts = written.len();
        let doubts = written.into_iter().chain(self.of_guest(case, &placement));
        warnings.extend(doubts.map(|remark| remark.text));
        warnings.extend(choice.warning.clone().or(stall));
        Ok(Resolved {
            wishes: Wishes {
                workqueues: moves_work,
                memory: MemoryWishes {
                    nodes,
                    shares: Vec::new(),
                },
                ..wishes(case, &placement, choice)
            },
            reasons: reasons.into_iter().map(|remark| remark.text).collect(),
            notices: notices.iter().map(ToString::to_string).collect(),
            warnings,
            n_doubts,
            topology: self.topology.clone(),
            pools: pools.unwrap_or_default(),
            ground: self.clone(),
        })
    }

    /// Returns what the rules of placement say of CPUs that the table names.
    fn of_written(&self, case: &Case, placement: &Placement) -> Vec<Remark> {
        let n_vcpus = case.guest.n_vcpus as usize;
        match case.table.cpus {
            Cpus::Set(_) => doubts::of_written(placement, n_vcpus, &self.topology),
            Cpus::Auto => Vec::new(),
        }
    }

    /// Returns what is to be said of any CPUs next to the guest.
    fn of_guest(&self, case: &Case, placement: &Placement) -> Vec<Remark> {
        let (guest, table) = (&case.guest, &case.table);
        let mut doubts = doubts::of_guest(case.vmid, guest, table, placement, &self.topology);
        doubts.extend(self.strange_nodes.clone().map(Remark::warning));
        doubts
    }

    /// Chooses the CPUs; those that the VM owns already stay, so that a running VM is not moved
    /// because another one came or went.
    fn chosen(&self, case: &Case, claims: &Claims) -> Result<(Request, Vec<Remark>), Refusal> {
        let asked = Asked::with_table(&case.guest, &case.table);
        let search = self.room.search(&asked, claims, &self.topology);
        let own = claims.get(&case.vmid).filter(|claim| claim.owns());
        if let Some(wishes) = own.map(|claim| &claim.wishes) {
            let cpus: CpuSet = wishes.vcpus.iter().copied().collect();
            let idle = wishes.cpus.difference(&cpus).difference(&asked.also);
            let taken = search.others.union(&search.kept);
            let online = wishes.cpus.is_subset(self.topology.online());
            let shares = self.topology.first_of_cores(&cpus) != cpus;
            let fits = asked.smt != Some(Smt::IdleSibling) || !shares;
            if online
                && fits
                && cpus.len() == asked.n_vcpus
                && cpus.union(&idle).is_disjoint(&taken)
            {
                let text = "the vm owns them already".to_owned();
                let is_warning = false;
                let kept = Remark { text, is_warning };
                return Ok((request(case, cpus, idle), vec![kept]));
            }
        }
        let choice = self.room.choose(&search, claims)?;
        let remarks = remarks(&search, &choice, &self.room.devices);
        Ok((request(case, choice.cpus, choice.idle), remarks))
    }
}

/// Returns what is asked of placement; `idle` are CPUs without a vCPU that the table does not
/// name.
fn request(case: &Case, cpus: CpuSet, idle: CpuSet) -> Request {
    Request {
        cpus,
        also: case.table.isolate.also.union(&idle),
        vcpus: case.table.pin.vcpus.clone(),
        n_vcpus: case.guest.n_vcpus as usize,
        max_vcpus: case.guest.max_vcpus as usize,
        guest_smt: case.guest.smt as usize,
        smt: case.table.smt,
        homes: homes(&case.guest),
    }
}

fn wishes(case: &Case, placement: &Placement, choice: gate::Choice) -> Wishes {
    let pin = &case.table.pin;
    let object = |name: &String| match case.guest.iothreads.iter().find(|i| i.key == *name) {
        Some(iothread) => iothread.object.clone(),
        None => name.clone(),
    };
    Wishes {
        cpus: placement.owned(),
        vcpus: placement.vcpus.clone(),
        emulator: pin.emulator.clone(),
        iothreads: pin
            .iothreads
            .iter()
            .map(|(name, cpus)| (object(name), cpus.clone()))
            .collect(),
        vhost: vhost_workers(&case.guest, &pin.vhost),
        backend: choice.backend,
        reason: choice.reason,
        kernel_threads: case.table.isolate.kthreads && choice.backend != gate::Backend::Affinity,
        interrupts: case.table.isolate.irqs && choice.backend != gate::Backend::Affinity,
        power: case.table.power.clone(),
        host: case.table.host.clone(),
        workqueues: false,
        watchdog: case.table.isolate.watchdog && choice.backend != gate::Backend::Affinity,
        scheduler: pin.scheduler,
        device_interrupts: case.table.pci.irqs,
        affinity: case.guest.affinity.clone(),
        stays_delegated: case.guest.hookscript.is_some(),
        hotplug: case.table.isolate.hotplug,
        memory: MemoryWishes::default(),
    }
}

/// Returns the CPUs of the vhost workers in the order in which QEMU makes them: one for every
/// queue of every virtio network device, the devices by their number.
fn vhost_workers(guest: &Guest, wished: &BTreeMap<String, CpuSet>) -> Vec<Option<CpuSet>> {
    let virtio = guest.nets.iter().filter(|net| net.model == "virtio");
    let workers = virtio.flat_map(|net| {
        let cpus = wished.get(&net.key).or(wished.get("*")).cloned();
        std::iter::repeat_n(cpus, net.queues.max(1) as usize)
    });
    workers.collect()
}
