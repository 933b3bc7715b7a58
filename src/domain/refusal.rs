//! Why a VM is not given the CPUs of its table.
//!
//! Everything here is found before anything is written: the kernel itself answers an overlapping
//! claim with EINVAL and names nobody.

use super::claim::{Claims, Wishes, owned_by_others};
use super::cpuset::CpuSet;
use super::debt::NoYield;
use super::desired::is_exclusive;
use super::gate::{Backend, GateRefusal};
use super::memory::MemoryFault;
use super::pci::asked::Fault;
use super::pci::binding::NoBinding;
use super::pci::objection::Objection;
use super::pci::reset::NoReset;
use super::placement::{NoRoom, PlacementError, TooLittleLeft, check_reserve, housekeeping};
use super::table::{Reserve, Scheduler};
use super::topology::Topology;
use super::vm::Vmid;

/// Reason to leave a VM without CPUs of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another VM owns some of them.
    #[error("{} {} claimed by vm {owner}", cpus.in_words(), cpus.is_or_are())]
    Claimed {
        /// The CPUs in question.
        cpus: CpuSet,
        /// Who owns them.
        owner: Vmid,
    },
    /// Somebody else's cgroup owns some of them.
    #[error("{} {} in {} of cgroup {}", .0.cpus.in_words(), .0.cpus.is_or_are(), .0.what(), .0.group)]
    Foreign(Exclusive),
    /// The host would be left with too little.
    #[error("{0}")]
    TooLittleLeft(TooLittleLeft),
    /// The CPUs do not fit to host and guest.
    #[error("{0}")]
    Placement(PlacementError),
    /// No CPUs can be chosen.
    #[error("{source}")]
    NoRoom {
        /// Why.
        source: NoRoom,
        /// Who has CPUs, such as `vm 107`, and which.
        taken: Vec<(String, CpuSet)>,
    },
    /// The kernel is not trusted with the wished backend.
    #[error("{0}")]
    Gate(GateRefusal),
    /// A real-time class would keep other tasks from running.
    #[error("scheduler {scheduler} can stop the host: {fact}")]
    RealTime {
        /// The class that was asked for.
        scheduler: Scheduler,
        /// Why.
        fact: &'static str,
        /// What can be done about it.
        remedy: &'static str,
    },
    /// Somebody could not start or run any more.
    #[error("{who} may run on {} only, which would leave it no cpu", cpus.in_words())]
    Starved {
        /// Who it is, such as `vm 107` or `unit irqbalance.service`.
        who: String,
        /// Where it is set, for the remedy.
        remedy: String,
        /// CPUs that it may run on.
        cpus: CpuSet,
    },
    /// The VM has no such device on this host.
    #[error("{key}: {fault}")]
    NoDevice {
        /// Key in the VM's configuration.
        key: String,
        /// Why not.
        fault: Fault,
    },
    /// Others need what the VM asks for.
    #[error("{0}")]
    Device(Box<Objection>),
    /// A device cannot be reset as the table wishes, or must not be.
    #[error("{key} ({address}) is not reset: {why}")]
    NoReset {
        /// Key in the VM's configuration.
        key: String,
        /// Which function.
        address: String,
        /// Why not.
        why: NoReset,
    },
    /// A device cannot be bound as the table wishes, or must not be.
    #[error("{key}{} is not bound to vfio-pci: {why}", in_brackets(address))]
    NoBinding {
        /// Key in the VM's configuration.
        key: String,
        /// Which function, if it is about one.
        address: String,
        /// Why not.
        why: NoBinding,
    },
    /// A VM that is to make room does not.
    #[error("{0}")]
    NoYield(NoYield),
    /// The guest's memory cannot come from where it should.
    #[error("{0}")]
    Memory(#[from] MemoryFault),
}

/// CPUs that a cgroup of somebody else keeps to itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusive {
    /// Path of the cgroup below the root of the hierarchy.
    pub group: String,
    /// The CPUs.
    pub cpus: CpuSet,
    /// Whether it is a partition, and not only a list of what may become one.
    pub is_partition: bool,
}

impl Exclusive {
    fn what(&self) -> &'static str {
        match self.is_partition {
            true => "the cpuset partition",
            false => "cpuset.cpus.exclusive",
        }
    }

    /// Returns what can be done about it, or instead of it.
    fn help(&self, other_cpus: &str) -> String {
        let group = &self.group;
        let end = match self.is_partition {
            true => format!("end it (echo member > /sys/fs/cgroup/{group}/cpuset.cpus.partition)"),
            false => format!("empty it (echo > /sys/fs/cgroup/{group}/cpuset.cpus.exclusive)"),
        };
        // Of other cgroups nobody knows whether pin-hook has made them.
        let is_of_vms = group.starts_with("qemu.slice");
        let lost = match is_of_vms {
            true => {
                "; if it is left over from a lost state, pin-hook release --all ends it (every vm \
                 loses its cpus until pin-hook apply)"
            }
            false => "",
        };
        format!("{end}, or {other_cpus}{lost}")
    }
}

/// Affinity that somebody of this node was given and that a partition would cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bystander {
    /// Who it is, such as `vm 107`.
    pub who: String,
    /// How its affinity is changed.
    pub remedy: String,
    /// CPUs that it may run on.
    pub cpus: CpuSet,
}

/// What of the host bears on a refusal.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Partitions and exclusive sets of others.
    pub partitions: Vec<Exclusive>,
    /// Guests and units with an affinity of their own.
    pub bystanders: Vec<Bystander>,
    /// What must stay with the host, as `host.toml` says.
    pub reserve: Option<Reserve>,
}

/// Checks that `vmid` can be given what it wishes for; returns what the operator should know
/// nevertheless.
///
/// # Errors
/// The first reason why not.
pub fn check(
    vmid: Vmid,
    wishes: &Wishes,
    claims: &Claims,
    topology: &Topology,
    around: &Surroundings,
) -> Result<Vec<String>, Refusal> {
    check_claims(vmid, wishes, claims)?;
    if !is_exclusive(wishes) {
        return Ok(Vec::new());
    }
    for foreign in &around.partitions {
        let cpus = foreign.cpus.intersection(&wishes.cpus);
        if !cpus.is_empty() {
            let foreign = foreign.clone();
            return Err(Refusal::Foreign(Exclusive { cpus, ..foreign }));
        }
    }
    let foreign: CpuSet = around
        .partitions
        .iter()
        .flat_map(|foreign| foreign.cpus.iter())
        .collect();
    let claimed = owned_by_others(claims, vmid).union(&wishes.cpus);
    let left = housekeeping(topology, &claimed, &foreign);
    check_reserve(topology, around.reserve.as_ref(), &left).map_err(Refusal::TooLittleLeft)?;
    let mut bystanders = around.bystanders.clone();
    bystanders.extend(pinned_threads(vmid, wishes));
    for claim in claims
        .values()
        .filter(|claim| claim.vmid != vmid && claim.owns())
    {
        bystanders.extend(pinned_threads(claim.vmid, &claim.wishes));
    }
    check_bystanders(vmid, &claimed, &bystanders)
}

/// Returns the threads of a VM that its table sends to CPUs of the host.
fn pinned_threads(vmid: Vmid, wishes: &Wishes) -> Vec<Bystander> {
    let emulator = wishes.emulator.iter().map(|cpus| ("emulator", cpus));
    let iothreads = wishes.iothreads.values().map(|cpus| ("iothreads", cpus));
    let vhost = wishes.vhost.iter().flatten().map(|cpus| ("vhost", cpus));
    let pinned = emulator.chain(iothreads).chain(vhost);
    let outside = pinned.filter(|(_, cpus)| !cpus.is_subset(&wishes.cpus));
    let bystander = |(key, cpus): (&str, &CpuSet)| Bystander {
        who: format!("pin.{key} of vm {vmid}"),
        remedy: format!("give pin.{key} other cpus in the table of vm {vmid}"),
        cpus: cpus.clone(),
    };
    outside.map(bystander).collect()
}

/// Checks that no other VM owns CPUs that a VM wishes to own.
///
/// # Errors
/// Names the first VM that does.
pub fn check_claims(vmid: Vmid, wishes: &Wishes, claims: &Claims) -> Result<(), Refusal> {
    let others = claims
        .values()
        .filter(|claim| claim.vmid != vmid && claim.owns());
    for claim in others {
        let cpus = claim.wishes.cpus.intersection(&wishes.cpus);
        if !cpus.is_empty() {
            return Err(Refusal::Claimed {
                cpus,
                owner: claim.vmid,
            });
        }
    }
    Ok(())
}

/// Checks that a scheduling class harms nobody: a real-time thread never gives its CPU up by
/// itself.
///
/// # Errors
/// Other tasks may be on the CPUs too, or the kernel reserves them no time at all.
pub fn check_scheduler(
    scheduler: Scheduler,
    backend: Backend,
    is_throttled: bool,
) -> Result<(), Refusal> {
    let (fact, remedy) = match backend {
        _ if scheduler == Scheduler::Other => return Ok(()),
        Backend::Affinity => (
            "with backend affinity other tasks run on the same cpus",
            "leave pin.scheduler out, or choose a backend that isolates",
        ),
        _ if !is_throttled => (
            "kernel.sched_rt_runtime_us is -1, so real-time tasks may take all of a cpu's time",
            "set it back (sysctl kernel.sched_rt_runtime_us=950000), or leave pin.scheduler out",
        ),
        _ => return Ok(()),
    };
    Err(Refusal::RealTime {
        scheduler,
        fact,
        remedy,
    })
}

/// A task that asks for CPUs of a partition gets EINVAL when no other one is among them, and is
/// silently cut otherwise.
fn check_bystanders(
    vmid: Vmid,
    claimed: &CpuSet,
    bystanders: &[Bystander],
) -> Result<Vec<String>, Refusal> {
    let mut warnings = Vec::new();
    for Bystander { who, remedy, cpus } in bystanders {
        if *who == format!("vm {vmid}") || cpus.is_empty() || cpus.is_disjoint(claimed) {
            continue;
        }
        if cpus.is_subset(claimed) {
            let (who, remedy, cpus) = (who.clone(), remedy.clone(), cpus.clone());
            return Err(Refusal::Starved { who, remedy, cpus });
        }
        let left = cpus.difference(claimed);
        warnings.push(format!(
            "{who} is set to cpus {cpus} and will have only {left} of them"
        ));
    }
    Ok(warnings)
}

impl Refusal {
    /// Returns what the operator can do about it.
    pub fn help(&self, vmid: Vmid) -> String {
        let other_cpus = format!("give vm {vmid} other cpus in its table (cpus = \"...\")");
        match self {
            Refusal::Claimed { owner, .. } => format!("stop vm {owner}, or {other_cpus}"),
            Refusal::Foreign(foreign) => foreign.help(&other_cpus),
            Refusal::TooLittleLeft(error) => error.help(),
            Refusal::Placement(error) => error.help(),
            Refusal::NoRoom {
                source: NoRoom::OneCore(error),
                ..
            } => error.help(),
            Refusal::NoRoom { source, taken } => help_for_room(vmid, source.fitting(), taken),
            Refusal::Gate(error) => error.help(),
            Refusal::RealTime { remedy, .. } => (*remedy).to_owned(),
            Refusal::Starved { remedy, .. } => format!("{remedy}, or {other_cpus}"),
            Refusal::NoYield(error) => error.help(vmid),
            Refusal::Memory(error) => error.help(Some(vmid)),
            Refusal::NoDevice { fault, .. } => fault.help(),
            Refusal::NoReset { address, why, .. } => why.help(address),
            Refusal::NoBinding { key, address, why } => why.help(key, address),
            Refusal::Device(objection) => objection.help(vmid),
        }
    }
}

fn in_brackets(address: &str) -> String {
    match address {
        "" => String::new(),
        address => format!(" ({address})"),
    }
}

fn help_for_room(vmid: Vmid, fitting: usize, taken: &[(String, CpuSet)]) -> String {
    let fewer = match fitting {
        0 => None,
        n => Some(format!("give vm {vmid} {n} vcpus at most")),
    };
    let taken = taken.iter().map(|(who, cpus)| format!("{who} has {cpus}"));
    let taken: Vec<String> = taken.collect();
    let others = match taken.is_empty() {
        true => None,
        false => Some(format!(
            "let others own fewer cpus ({}); pin-hook list shows their tables, which count while \
             a vm is off too",
            taken.join("; ")
        )),
    };
    let remedies: Vec<String> = fewer.into_iter().chain(others).collect();
    match remedies.is_empty() {
        true => "lower reserve in /etc/pin-hook/host.toml".to_owned(),
        false => remedies.join(", or "),
    }
}
