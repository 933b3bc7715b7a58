//! Which CPUs a VM gets when nobody says: for `cpus = "auto"` and for `init`.
//!
//! Candidates are made for every kind of core, for one or several vCPUs per core, and for sets of
//! NUMA nodes; the one with the lowest [`candidate::Cost`] is taken. Nothing depends on time or
//! chance, so the same host with the same VMs always gives the same CPUs.

mod boot_cpu;
mod candidate;
mod choice;
mod fill;
mod rank;
mod scope;
mod search;
#[cfg(test)]
mod tests;

use candidate::candidates;
pub use choice::{Choice, Packing};
pub use search::{Search, Speeds};

use super::reserve::{TooLittleLeft, check_reserve, housekeeping};
use crate::domain::cpuset::CpuSet;
use crate::domain::table::{Reserve, Smt};
use crate::domain::topology::Core;

/// Why no CPUs can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// There is no second core.
    #[error(transparent)]
    OneCore(TooLittleLeft),
    /// There are too few.
    #[error("{n_vcpus} vcpus need a {each} each, {}", free_of(free))]
    TooFew {
        /// What each of them needs: a CPU or a core.
        each: &'static str,
        /// vCPUs of the VM.
        n_vcpus: usize,
        /// How many of them would find room.
        fitting: usize,
        /// CPUs of whole cores that are free.
        free: CpuSet,
    },
    /// The host would be left with too little.
    #[error("{n_vcpus} vcpus leave too little: {source}")]
    Reserve {
        /// vCPUs of the VM.
        n_vcpus: usize,
        /// How many of them would find room.
        fitting: usize,
        /// What would be wrong.
        source: TooLittleLeft,
    },
}

fn free_of(free: &CpuSet) -> String {
    match free.len() {
        0 => "no core of the host is free".to_owned(),
        n => format!("{n} cpus of whole cores are free (cpus {free})"),
    }
}

impl NoRoom {
    /// Returns how many vCPUs would find room.
    pub fn fitting(&self) -> usize {
        match self {
            NoRoom::OneCore(_) => 0,
            NoRoom::TooFew { fitting, .. } | NoRoom::Reserve { fitting, .. } => *fitting,
        }
    }

    /// Returns the same reason where fewer vCPUs would find room.
    pub fn with_fitting(mut self, n: usize) -> Self {
        match &mut self {
            NoRoom::OneCore(_) => {}
            NoRoom::TooFew { fitting, .. } | NoRoom::Reserve { fitting, .. } => *fitting = n,
        }
        self
    }
}

/// Chooses CPUs for a VM.
///
/// # Errors
/// There are too few; the error says how many would do.
pub fn choose(search: &Search<'_>) -> Result<Choice, NoRoom> {
    if search.topology.cores().len() == 1 {
        return Err(NoRoom::OneCore(TooLittleLeft::OneCore));
    }
    let all = free_cores(search, &CpuSet::new());
    let preferred = free_cores(search, &search.avoid);
    let mut too_little = None;
    for free in [&preferred, &all] {
        let mut candidates = candidates(search, free);
        candidates.sort_by(|one, two| one.cost.cmp(&two.cost));
        for candidate in candidates {
            let choice = candidate.choice(search.n_vcpus);
            match check(search, &choice) {
                Ok(()) => return Ok(choice),
                Err(error) => too_little = too_little.or(Some(error)),
            }
        }
    }
    let (n_vcpus, fitting) = (search.n_vcpus, fitting(search));
    let each = match search.smt {
        Some(Smt::IdleSibling) => "core",
        _ => "cpu",
    };
    Err(match too_little {
        Some(source) => NoRoom::Reserve {
            n_vcpus,
            fitting,
            source,
        },
        None => NoRoom::TooFew {
            each,
            n_vcpus,
            fitting,
            free: all.iter().flat_map(|core| core.cpus.iter()).collect(),
        },
    })
}

/// Returns the cores with all of their online CPUs free and outside of `avoid`.
fn free_cores<'t>(search: &Search<'t>, avoid: &CpuSet) -> Vec<&'t Core> {
    let none = CpuSet::new();
    let reserve = match search.reserve {
        Some(Reserve::Cpus(cpus)) => cpus,
        Some(Reserve::Cores(_)) | None => &none,
    };
    let cores = search.topology.cores().iter();
    let taken = [&search.others, &search.kept, avoid, reserve];
    cores
        .filter(|core| taken.iter().all(|taken| core.cpus.is_disjoint(taken)))
        .collect()
}

fn check(search: &Search<'_>, choice: &Choice) -> Result<(), TooLittleLeft> {
    let left = housekeeping(search.topology, &search.others, &choice.owned());
    check_reserve(search.topology, search.reserve, &left)
}

/// Returns for how many vCPUs there is room, fewer than were searched for.
fn fitting(search: &Search<'_>) -> usize {
    let free = free_cores(search, &CpuSet::new());
    let n_cpus: usize = free.iter().map(|core| core.cpus.len()).sum();
    let fits = |n_vcpus| {
        let fewer = Search {
            n_vcpus,
            ..search.clone()
        };
        let candidates = candidates(&fewer, &free);
        let mut choices = candidates.iter().map(|c| c.choice(n_vcpus));
        choices.any(|choice| check(&fewer, &choice).is_ok())
    };
    most(n_cpus.min(search.n_vcpus.saturating_sub(1)), fits)
}

/// Returns the largest number up to `bound` that fits, where whatever is below one that fits does
/// too; asks once for each bit of the bound.
fn most(bound: usize, mut fits: impl FnMut(usize) -> bool) -> usize {
    let (mut fitting, mut too_many) = (0, bound + 1);
    while too_many - fitting > 1 {
        let middle = fitting + (too_many - fitting) / 2;
        match fits(middle) {
            true => fitting = middle,
            false => too_many = middle,
        }
    }
    fitting
}
