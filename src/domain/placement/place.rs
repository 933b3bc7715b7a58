//! Placing the vCPUs of a VM on the CPUs that its table names, and why that cannot be done.

use serde::{Deserialize, Serialize};

use super::notice::{Notice, notices};
use super::order::default_order;
use super::request::Request;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::table::{Pin, Smt};
use crate::domain::topology::{SmtControl, Topology};
use crate::domain::words::count;

/// Where the vCPUs of a VM run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// CPU of vCPU 0, 1 and so on, no CPU twice.
    ///
    /// As long as the number of vCPUs that the VM can ever have, as far as there are CPUs: a
    /// vCPU that is plugged in later finds its CPU here, and the others keep theirs.
    pub vcpus: Vec<CpuId>,
    /// CPUs that the VM owns and no vCPU of the list runs on.
    pub idle: CpuSet,
    /// Owned CPUs that the boot parameter `isolcpus=` names; none may be in a partition of type
    /// root ([`crate::domain::gate::GateFacts::isolcpus_overlap`]).
    pub isolcpus: CpuSet,
    /// What the operator should know.
    #[serde(skip)]
    pub notices: Vec<Notice>,
}

impl Placement {
    /// Returns every CPU that the VM owns.
    pub fn owned(&self) -> CpuSet {
        let mut cpus = self.idle.clone();
        cpus.extend(self.vcpus.iter().copied());
        cpus
    }
}

/// Why a request cannot be placed on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// `cpus` is empty.
    #[error("cpus names no cpu")]
    NoCpus,
    /// CPUs that the host does not have.
    #[error("the host has no {}, it has {present}", cpus.in_words())]
    Absent {
        /// The CPUs.
        cpus: CpuSet,
        /// What the host has.
        present: CpuSet,
    },
    /// CPUs that are switched off.
    #[error("{} {} offline", cpus.in_words(), cpus.is_or_are())]
    Offline {
        /// The CPUs.
        cpus: CpuSet,
        /// Whether SMT siblings may run.
        smt: SmtControl,
    },
    /// CPUs that are to have a vCPU and none at once.
    #[error("isolate.also has {}, which {} already in cpus", .0.in_words(), .0.is_or_are())]
    AlsoOverlaps(CpuSet),
    /// CPUs of an explicit list that the VM does not own.
    #[error("pin.vcpus names {}, which {} not in cpus = \"{owned}\"", cpus.in_words(), cpus.is_or_are())]
    Outside {
        /// The CPUs.
        cpus: CpuSet,
        /// What the table says.
        owned: CpuSet,
    },
    /// A CPU that an explicit list names twice.
    #[error("pin.vcpus names cpu {0} twice")]
    Twice(CpuId),
    /// More vCPUs than CPUs.
    #[error("{list} has {} for {}", count(*n_cpus, "cpu"), count(*n_vcpus, "vcpu"))]
    TooFew {
        /// vCPUs that the VM starts with.
        n_vcpus: usize,
        /// What names the CPUs of vCPUs: the table, or its key for that.
        list: &'static str,
        /// CPUs in `vcpus`, else in `cpus`.
        n_cpus: usize,
    },
    /// Two CPUs of one core in an explicit list, where each vCPU is to have a core.
    #[error("pin.vcpus names cpus {0} of one core, which is for one vcpu (smt = \"idle-sibling\")")]
    SharedCore(CpuSet),
    /// More vCPUs than cores, where each is to have one.
    #[error("the table has {} for {}", count(*n_cores, "core"), count(*n_vcpus, "vcpu"))]
    TooFewCores {
        /// vCPUs that the VM starts with.
        n_vcpus: usize,
        /// Cores with a CPU in `cpus`.
        n_cores: usize,
    },
}

impl PlacementError {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        match self {
            Self::NoCpus => "list the cpus of the vm, such as cpus = \"2-3\"".to_owned(),
            Self::Absent { cpus, .. } => format!(
                "choose other cpus than {cpus} in the vm's table (cpus, isolate.also or a key of \
                 pin)"
            ),
            Self::Offline { cpus, smt } => smt.help(cpus),
            Self::AlsoOverlaps(_) => {
                "isolate.also is for cpus without a vcpu; keep them in only one of the \
                 two"
                .to_owned()
            }
            Self::Outside { .. } => "add them to cpus, or take them out of pin.vcpus".to_owned(),
            Self::Twice(_) => "give each vcpu a cpu of its own".to_owned(),
            Self::TooFew { n_vcpus, list, .. } => {
                format!("name {n_vcpus} cpus in {list}, or give the vm fewer vcpus")
            }
            Self::SharedCore(_) => "name one cpu of each core, or leave smt out".to_owned(),
            Self::TooFewCores { n_vcpus, .. } => format!(
                "name cpus of {n_vcpus} cores in the table, or leave smt = \"idle-sibling\" out"
            ),
        }
    }
}

/// Places the vCPUs of a VM.
///
/// Without an explicit list the vCPUs take cores that are near each other, with guest siblings on
/// the siblings of a core; a guest without SMT gets one vCPU per core before any core gets two
/// (`placement/order.rs`).
///
/// # Errors
///
/// Fails when the request names CPUs that cannot be used, or too few for the vCPUs that the VM
/// starts with; [`PlacementError::help`] says what to do.
pub fn place(request: &Request, topology: &Topology) -> Result<Placement, PlacementError> {
    check_cpus(request, topology)?;
    let cpus = request.for_vcpus(topology);
    let n_cpus = check_counts(request, &cpus)?;
    check_cores(request, topology)?;
    let n_placed = request.max_vcpus.max(request.n_vcpus).min(n_cpus);
    let vcpus = match &request.vcpus {
        Some(list) => list[..n_placed].to_vec(),
        None => default_order(request, &cpus, n_placed, topology),
    };
    let owned = request.owned(topology);
    Ok(Placement {
        idle: owned.difference(&vcpus.iter().copied().collect()),
        isolcpus: owned.intersection(&topology.sets().isolcpus),
        notices: notices(request, &vcpus, n_cpus, topology),
        vcpus,
    })
}

fn check_cpus(request: &Request, topology: &Topology) -> Result<(), PlacementError> {
    if request.cpus.is_empty() {
        return Err(PlacementError::NoCpus);
    }
    let mut named = request.cpus.union(&request.also);
    named.extend(request.vcpus.iter().flatten().copied());
    let sets = topology.sets();
    let absent = named.difference(&sets.present);
    if !absent.is_empty() {
        return Err(PlacementError::Absent {
            cpus: absent,
            present: sets.present.clone(),
        });
    }
    let offline = named.difference(&sets.online);
    if !offline.is_empty() {
        let smt = sets.smt;
        return Err(PlacementError::Offline { cpus: offline, smt });
    }
    match request.cpus.intersection(&request.also) {
        both if both.is_empty() => Ok(()),
        both => Err(PlacementError::AlsoOverlaps(both)),
    }
}

/// Checks the explicit list, if there is one, and returns for how many vCPUs there are CPUs.
fn check_counts(request: &Request, cpus: &CpuSet) -> Result<usize, PlacementError> {
    let mut n_cpus = cpus.len();
    if let Some(list) = &request.vcpus {
        let mut seen = CpuSet::new();
        for &cpu in list {
            if seen.contains(cpu) {
                return Err(PlacementError::Twice(cpu));
            }
            seen.insert(cpu);
        }
        let outside = seen.difference(&request.cpus);
        if !outside.is_empty() {
            return Err(PlacementError::Outside {
                cpus: outside,
                owned: request.cpus.clone(),
            });
        }
        n_cpus = list.len();
    }
    match request.n_vcpus {
        n_vcpus if n_vcpus > n_cpus && n_cpus < request.cpus.len() && request.vcpus.is_none() => {
            let n_cores = n_cpus;
            Err(PlacementError::TooFewCores { n_vcpus, n_cores })
        }
        n_vcpus if n_vcpus > n_cpus => {
            let list = what_names_vcpus(request.vcpus.is_some());
            Err(PlacementError::TooFew {
                n_vcpus,
                list,
                n_cpus,
            })
        }
        _ => Ok(n_cpus),
    }
}

/// Returns the name of what says which CPUs are for vCPUs.
fn what_names_vcpus(is_listed: bool) -> &'static str {
    match is_listed {
        true => "pin.vcpus",
        false => "the table",
    }
}

/// Checks that an explicit list has one CPU of each core, where siblings are to be idle.
fn check_cores(request: &Request, topology: &Topology) -> Result<(), PlacementError> {
    let listed: CpuSet = request.vcpus.iter().flatten().copied().collect();
    let second = listed.difference(&topology.first_of_cores(&listed));
    match second.first() {
        Some(cpu) if request.smt == Some(Smt::IdleSibling) => {
            let mut both = topology.siblings(cpu).intersection(&listed);
            both.insert(cpu);
            Err(PlacementError::SharedCore(both))
        }
        _ => Ok(()),
    }
}

/// Checks the CPUs of threads that are no vCPUs.
///
/// # Errors
/// Some are not there, or offline.
pub fn threads_fit(pin: &Pin, topology: &Topology) -> Result<(), PlacementError> {
    let named = pin.iothreads.values().chain(pin.vhost.values());
    let cpus: CpuSet = named.chain(&pin.emulator).flat_map(CpuSet::iter).collect();
    let sets = topology.sets();
    let (absent, offline) = (
        cpus.difference(&sets.present),
        cpus.intersection(&sets.offline()),
    );
    match (absent.is_empty(), offline.is_empty()) {
        (false, _) => Err(PlacementError::Absent {
            cpus: absent,
            present: sets.present.clone(),
        }),
        (true, false) => Err(PlacementError::Offline {
            cpus: offline,
            smt: sets.smt,
        }),
        (true, true) => Ok(()),
    }
}
