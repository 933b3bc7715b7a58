//! Why a VM is not given the CPUs of its table, in words with a remedy.

use super::cpuset::CpuSet;
use super::debt::NoYield;
use super::gate::GateRefusal;
use super::memory::MemoryFault;
use super::others::{self, Above, Exclusive};
use super::pci::asked::Fault;
use super::pci::binding::NoBinding;
use super::pci::objection::Objection;
use super::pci::reset::NoReset;
use super::placement::{NoRoom, PlacementError, TooLittleLeft};
use super::table::Scheduler;
use super::vm::Vmid;
use super::words::count;

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
    /// A start of another VM that has not come to its end has reserved some of them.
    #[error("{} {} reserved for a start of vm {owner}", cpus.in_words(), cpus.is_or_are())]
    Reserved {
        /// The CPUs in question.
        cpus: CpuSet,
        /// Who is being started.
        owner: Vmid,
    },
    /// Somebody else's cgroup owns some of them.
    #[error("{} {} in {} of cgroup {}", .0.cpus.in_words(), .0.cpus.is_or_are(), .0.what(), .0.group)]
    Foreign(Exclusive),
    /// The host would be left with too little.
    #[error("{source}{}", beside(owners))]
    TooLittleLeft {
        /// What is lacking.
        source: TooLittleLeft,
        /// VMs that own CPUs already, and which.
        owners: Vec<(Vmid, CpuSet)>,
    },
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
        /// How many vCPUs would find room if others let go, where even that is too little.
        alone: Option<usize>,
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
    #[error("{who} is limited to {}, and would have no cpu left{}", cpus.in_words(), beside(owners))]
    Starved {
        /// Who it is, such as `vm 107` or `unit irqbalance.service`.
        who: String,
        /// What can be done about it there.
        remedy: String,
        /// CPUs that it may run on.
        cpus: CpuSet,
        /// VMs that own some of them already, with those.
        owners: Vec<(Vmid, CpuSet)>,
        /// Whether the VM is to own none of them, so that other ones for it are no remedy.
        is_by_others: bool,
    },
    /// A unit above the VM's threads keeps them off the CPUs that they are to run on.
    #[error("{0}")]
    Above(Box<Above>),
    /// Something has moved QEMU out of the scope that PVE made for it, and only below that is it isolated.
    #[error("its qemu (process {process}) was moved from {scope} to cgroup {group}")]
    Elsewhere {
        /// Which process.
        process: i32,
        /// Where PVE has put it.
        scope: String,
        /// Where it is.
        group: String,
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
    #[error("cannot reset {key} ({address}): {why}")]
    NoReset {
        /// Key in the VM's configuration.
        key: String,
        /// Which function.
        address: String,
        /// Why not.
        why: NoReset,
    },
    /// A device cannot be bound as the table wishes, or must not be.
    #[error("cannot bind {key}{} to vfio-pci: {why}", in_brackets(address))]
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

impl Refusal {
    /// Tells whether PVE would not start the VM either.
    pub fn fails_by_itself(&self) -> bool {
        matches!(self, Refusal::Memory(MemoryFault::Beyond { .. }))
    }

    /// Tells whether it is about devices, which a start needs even if its guest is not to run.
    pub fn is_about_devices(&self) -> bool {
        matches!(
            self,
            Refusal::NoDevice { .. }
                | Refusal::Device(_)
                | Refusal::NoReset { .. }
                | Refusal::NoBinding { .. }
        )
    }

    /// Returns the VM that has the CPUs, where that is why.
    pub fn owner(&self) -> Option<Vmid> {
        match self {
            Refusal::Claimed { owner, .. } | Refusal::Reserved { owner, .. } => Some(*owner),
            _ => None,
        }
    }

    /// Returns what the operator can do about it.
    pub fn help(&self, vmid: Vmid) -> String {
        let other_cpus = others::other_cpus(Some(vmid));
        match self {
            Refusal::Claimed { owner, .. } => format!("stop vm {owner}, or {other_cpus}"),
            Refusal::Reserved { owner, .. } => format!(
                "wait for vm {owner} to start and stop it then (if nothing starts it: pin-hook \
                 release {owner}), or {other_cpus}"
            ),
            Refusal::NoRoom {
                source: NoRoom::OneCore(error),
                ..
            } => error.help(),
            Refusal::NoRoom {
                source,
                taken,
                alone,
            } => help_for_room(vmid, source.fitting(), *alone, taken),
            Refusal::NoYield(error) => error.help(vmid),
            Refusal::Memory(error) => error.help(Some(vmid)),
            Refusal::Elsewhere { .. } => {
                format!(
                    "stop what moves it, such as an old hookscript, then stop and start vm {vmid}"
                )
            }
            Refusal::Device(objection) => objection.help(vmid),
            Refusal::NoDevice { key, fault } => fault.help(key, Some(vmid)),
            _ => self.help_with(&other_cpus),
        }
    }

    /// Returns what can be done about it where it may not be known whose the table is; `other_cpus` is
    /// how the VM is given others.
    pub fn help_with(&self, other_cpus: &str) -> String {
        match self {
            Refusal::Foreign(foreign) => foreign.help(other_cpus),
            Refusal::TooLittleLeft { source, owners } => {
                let stop = owners
                    .first()
                    .map(|(vmid, _)| format!("stop vm {vmid}, or "));
                format!("{}{}", stop.unwrap_or_default(), source.help())
            }
            Refusal::Starved {
                remedy,
                owners,
                is_by_others,
                ..
            } => {
                let stop = owners.first().map(|(vmid, _)| format!("stop vm {vmid}"));
                let other_cpus = (!is_by_others).then(|| other_cpus.to_owned());
                let ways = stop.into_iter().chain([remedy.clone()]).chain(other_cpus);
                ways.collect::<Vec<_>>().join(", or ")
            }
            Refusal::RealTime { remedy, .. } => (*remedy).to_owned(),
            Refusal::Above(above) => format!("{}, or {other_cpus}", above.remedy),
            Refusal::Placement(error) => error.help(),
            Refusal::Gate(error) => error.help(),
            Refusal::Memory(error) => error.help(None),
            Refusal::NoDevice { key, fault } => fault.help(key, None),
            Refusal::NoReset { address, why, .. } => why.help(address),
            Refusal::NoBinding { key, address, why } => why.help(key, address),
            _ => other_cpus.to_owned(),
        }
    }
}

/// Names who owns CPUs besides.
fn beside(owners: &[(Vmid, CpuSet)]) -> String {
    let owners = owners.iter();
    let owners = owners.map(|(vmid, cpus)| format!(", vm {vmid} owns {}", cpus.in_words()));
    owners.collect()
}

fn in_brackets(address: &str) -> String {
    match address {
        "" => String::new(),
        address => format!(" ({address})"),
    }
}

fn help_for_room(
    vmid: Vmid,
    fitting: usize,
    alone: Option<usize>,
    taken: &[(String, CpuSet)],
) -> String {
    let fewer = match fitting {
        0 => None,
        n => Some(format!("give vm {vmid} {} at most", count(n, "vcpu"))),
    };
    let taken = taken.iter().map(|(who, cpus)| format!("{who} has {cpus}"));
    let taken: Vec<String> = taken.collect();
    let others = match taken.is_empty() {
        true => None,
        false => Some(format!(
            "{} ({}); pin-hook list shows their tables, which count even \
             while a vm is off",
            match alone {
                None => "let others own fewer cpus".to_owned(),
                Some(n) => {
                    format!(
                        "give vm {vmid} {} at most and let others own fewer cpus",
                        count(n, "vcpu")
                    )
                }
            },
            taken.join("; ")
        )),
    };
    let remedies: Vec<String> = fewer.into_iter().chain(others).collect();
    match remedies.is_empty() {
        true => "lower reserve in /etc/pin-hook/host.toml".to_owned(),
        false => remedies.join(", or "),
    }
}
