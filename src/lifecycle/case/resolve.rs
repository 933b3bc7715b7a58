//! From the texts that PVE and the operator wrote to what a VM is to own on this host.

use std::collections::BTreeMap;

use super::ground::{Fit, Ground};
use super::known::state_now;
use super::nothing::{There, look_up, no_table};
use super::room::{Room, RoomRequest};
use super::texts::{Case, CaseError, Found, read_settings, understand};
use super::yields;
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::gate;
use crate::domain::guest::Guest;
use crate::domain::memory::{self, MemoryWishes, Pool};
use crate::domain::placement::{Notice, Placement, Remark, Request, remarks};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::table::{Cpus, Smt, Table};
use crate::domain::thread::vcpu_of_comm;
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::table::read_table;
use crate::host::{cluster, hugepages, pve, task};
use crate::lifecycle::engine::denied::Denied;

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
    basis: Basis,
}

/// What of the host a table is resolved against, apart from claims.
#[derive(Debug, Clone)]
struct Basis {
    ground: Ground,
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
    let there = match look_up(files, vmid, migrated_from)? {
        There::Nothing(why) => return Ok(Found::Nothing(why)),
        there => there,
    };
    // What is wrong with the table of a template bothers nobody.
    let Some(table) = read_table(files, vmid).transpose() else {
        return Ok(Found::Nothing(no_table(files, vmid)));
    };
    let mut guest = match there.vm() {
        Ok(vm) => vm.conf.guest(),
        Err(why) => return Ok(Found::Nothing(why)),
    };
    let table = table?;
    let settings = read_settings(host)?;
    let table_path = table.path.clone();
    let table = understand(host, &table, &settings)?;
    yields::check(host, Some(vmid), &table_path, &table)?;
    let at_work = vcpus_at_work(host, vmid);
    let surplus_vcpus = (at_work > guest.n_vcpus).then_some(at_work);
    guest.keep_vcpus(at_work);
    Ok(Found::Case(Box::new(Case {
        vmid,
        guest,
        surplus_vcpus,
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

/// Resolves a table against this host; `state` is what the program remembers, `None` where that is hidden.
///
/// # Errors
/// The host cannot be read, or cannot give what the table asks for.
pub fn resolve(host: &Host, case: &Case, state: Option<&State>) -> Result<Resolved, Denied> {
    resolve_on(Ground::read(host, &case.settings)?, host, case, state)
}

/// Does the same on ground that was read before.
///
/// # Errors
/// As [`resolve`] has them.
pub fn resolve_on(
    ground: Ground,
    host: &Host,
    case: &Case,
    state: Option<&State>,
) -> Result<Resolved, Denied> {
    let basis = Basis::read(ground, host, case, state)?;
    let nobody = Claims::new();
    let claims = state.map_or(&nobody, |state| &state.claims);
    Ok(basis.resolve(case, claims)?)
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
            Cpus::Auto => self.basis.resolve(case, claims),
            Cpus::Set(_) => Ok(self),
        }
    }
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

impl Basis {
    fn read(
        ground: Ground,
        host: &Host,
        case: &Case,
        state: Option<&State>,
    ) -> anyhow::Result<Self> {
        let room = match case.table.cpus {
            Cpus::Auto => {
                let (guest, settings) = (&case.guest, &case.settings);
                Room::read(host, case.vmid, guest, settings, &ground.topology, state)?
            }
            Cpus::Set(_) => Room::default(),
        };
        Ok(Basis {
            ground,
            has_gigantic: hugepages::has_gigantic(&*host.files),
            strange_nodes: strange_nodes(host, &case.table),
            room,
        })
    }

    fn resolve(&self, case: &Case, claims: &Claims) -> Result<Resolved, Refusal> {
        let (asking, topology) = (case.asking(), &self.ground.topology);
        let (request, remarks) = match &case.table.cpus {
            Cpus::Set(cpus) => {
                let request = asking.request(cpus.clone(), &CpuSet::new(), topology);
                (request, Vec::new())
            }
            Cpus::Auto => self.chosen(case, claims)?,
        };
        let Fit {
            placement,
            choice,
            moves_work,
            stall,
            nodes,
        } = self.ground.fit(&asking, &request)?;
        let pools = case.table.memory.hugepages.is_some();
        let pools = pools.then(|| memory::pools(&case.guest, self.has_gigantic));
        memory::check_pools(pools.as_deref().unwrap_or_default(), topology)?;
        let written = asking.doubts_of_written(&placement, topology);
        let mut told = written.iter().chain(&remarks);
        let warns_of_nodes = told.any(Remark::warns_of_nodes);
        let notices = placement.notices.iter();
        let notices =
            notices.filter(|one| !(warns_of_nodes && matches!(one, Notice::NodesSplit(_))));
        let (warnings, notices): (Vec<_>, Vec<_>) = notices.partition(|n| n.is_warning());
        let (alarming, reasons): (Vec<_>, Vec<_>) = remarks.into_iter().partition(|r| r.is_warning);
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        warnings.extend(alarming.into_iter().map(|remark| remark.text));
        let n_doubts = written.len();
        let doubts = written.into_iter();
        let doubts = doubts.chain(asking.doubts_of_guest(&placement, topology));
        warnings.extend(doubts.map(|remark| remark.text));
        warnings.extend(self.strange_nodes.clone());
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
            topology: topology.clone(),
            pools: pools.unwrap_or_default(),
            basis: self.clone(),
        })
    }

    /// Chooses the CPUs; those that the VM owns already stay, so that a running VM is not moved
    /// because another one came or went.
    fn chosen(&self, case: &Case, claims: &Claims) -> Result<(Request, Vec<Remark>), Refusal> {
        let topology = &self.ground.topology;
        let asked = RoomRequest::with_table(&case.guest, &case.table);
        let search = self.room.search(&asked, claims, topology);
        let own = claims.get(&case.vmid).filter(|claim| claim.owns());
        if let Some(wishes) = own.map(|claim| &claim.wishes) {
            let cpus: CpuSet = wishes.vcpus.iter().copied().collect();
            let idle = wishes.cpus.difference(&cpus).difference(&asked.also);
            let taken = search.others.union(&search.kept);
            let online = wishes.cpus.is_subset(topology.online());
            let shares = topology.first_of_cores(&cpus) != cpus;
            let fits = asked.smt != Some(Smt::IdleSibling) || !shares;
            if online
                && fits
                && cpus.len() == asked.n_vcpus
                && cpus.union(&idle).is_disjoint(&taken)
            {
                let text = "kept: the running vm owns these cpus already".to_owned();
                let kept = Remark::info(text);
                return Ok((case.asking().request(cpus, &idle, topology), vec![kept]));
            }
        }
        let choice = self.room.choose(&search, claims)?;
        let remarks = remarks(&search, &choice, &self.room.devices);
        let request = case.asking().request(choice.cpus, &choice.idle, topology);
        Ok((request, remarks))
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
        kernel_threads: case.table.isolate.kthreads && choice.backend.is_exclusive(),
        interrupts: case.table.isolate.irqs && choice.backend.is_exclusive(),
        power: case.table.power.clone(),
        host: case.table.host.clone(),
        workqueues: false,
        watchdog: case.table.isolate.watchdog && choice.backend.is_exclusive(),
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
