//! What is left for the host, and whether that is enough.

use crate::domain::cpuset::CpuSet;
use crate::domain::table::Reserve;
use crate::domain::topology::Topology;

/// Too little is left for the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLittleLeft {
    /// The host has no core to spare.
    #[error("this host has one core: no vm can have cpus of its own")]
    OneCore,
    /// No CPU at all; no partition can be made then.
    #[error("no cpu would be left for the host")]
    Nothing,
    /// More whole cores are reserved than the host has, or all of them.
    #[error("{} must stay with the host, which has {all}", whole(wanted))]
    AllCores {
        /// Reserved cores.
        wanted: usize,
        /// Cores of the host.
        all: usize,
    },
    /// Reserved CPUs that the host does not have, which hold nothing back for it.
    #[error("reserve names {}, the host has {present}", absent.in_words())]
    NoSuchCpus {
        /// Those that it does not have.
        absent: CpuSet,
        /// What the host has.
        present: CpuSet,
    },
    /// Fewer whole cores than reserved.
    #[error(
        "{} must stay with the host, {left} would be left (housekeeping cpus {housekeeping})",
        whole(wanted)
    )]
    Cores {
        /// Reserved cores.
        wanted: usize,
        /// Whole cores among the housekeeping CPUs.
        left: usize,
        /// What would be left.
        housekeeping: CpuSet,
    },
    /// Reserved CPUs are taken.
    #[error("{} must stay with the host (reserve = \"{reserve}\")", missing.in_words())]
    Cpus {
        /// Reserved CPUs that would not be left.
        missing: CpuSet,
        /// All reserved CPUs.
        reserve: CpuSet,
    },
}

/// Names so many cores as a whole.
fn whole(n: &usize) -> String {
    match n {
        1 => "one core with all its smt siblings".to_owned(),
        n => format!("{n} cores with all their smt siblings"),
    }
}

impl TooLittleLeft {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        let fewer = "take fewer cpus in the vm's table (cpus = \"...\")";
        match self {
            Self::OneCore => {
                "leave the vm without a table, or limit it with pve's own means (qm set ... \
                 --cpulimit)"
                    .to_owned()
            }
            // Less than one core cannot be reserved.
            Self::Nothing | Self::Cores { wanted: 1, .. } => fewer.to_owned(),
            Self::Cores { .. } => {
                format!("{fewer}, or lower reserve in /etc/pin-hook/host.toml")
            }
            Self::Cpus { .. } => {
                format!("{fewer}, or change reserve in /etc/pin-hook/host.toml")
            }
            Self::AllCores { all, .. } => {
                format!("lower reserve in /etc/pin-hook/host.toml to less than {all}")
            }
            Self::NoSuchCpus { .. } => {
                "name cpus of this host in reserve in /etc/pin-hook/host.toml".to_owned()
            }
        }
    }
}

/// Returns the CPUs that are left for everything but the VMs that own CPUs.
///
/// `claimed` are the CPUs of all claims, `foreign` those that cgroups of others hold exclusively
/// or in a partition. CPUs of `isolcpus=` and `nohz_full=` are left out: whoever booted with
/// these parameters did not want the host there.
pub fn housekeeping(topology: &Topology, claimed: &CpuSet, foreign: &CpuSet) -> CpuSet {
    let sets = topology.sets();
    [claimed, foreign, &sets.isolcpus, &sets.nohz_full]
        .into_iter()
        .fold(sets.online.clone(), |left, taken| left.difference(taken))
}

/// Returns how many cores stay with the host when `host.toml` does not say: two, and one on
/// hosts with fewer than eight cores.
pub fn default_reserve(topology: &Topology) -> usize {
    match topology.cores().len() {
        0..8 => 1,
        _ => 2,
    }
}

/// Checks that `housekeeping` holds what is reserved for the host.
///
/// # Errors
///
/// Fails with the numbers when it does not; [`TooLittleLeft::help`] says what to do.
pub fn check_reserve(
    topology: &Topology,
    reserve: Option<&Reserve>,
    housekeeping: &CpuSet,
) -> Result<(), TooLittleLeft> {
    let has_one_core = topology.cores().len() == 1;
    if housekeeping.is_empty() && has_one_core {
        return Err(TooLittleLeft::OneCore);
    }
    if housekeeping.is_empty() {
        return Err(TooLittleLeft::Nothing);
    }
    match reserve {
        None => check_cores(topology, default_reserve(topology), housekeeping),
        Some(&Reserve::Cores(wanted)) => check_cores(topology, wanted as usize, housekeeping),
        Some(Reserve::Cpus(reserve)) => {
            check_present(topology, reserve)?;
            let missing = reserve
                .intersection(topology.online())
                .difference(housekeeping);
            match missing.is_empty() {
                true => Ok(()),
                false => Err(TooLittleLeft::Cpus {
                    missing,
                    reserve: reserve.clone(),
                }),
            }
        }
    }
}

fn check_present(topology: &Topology, reserve: &CpuSet) -> Result<(), TooLittleLeft> {
    let present = &topology.sets().present;
    let absent = reserve.difference(present);
    match absent.is_empty() {
        true => Ok(()),
        false => Err(TooLittleLeft::NoSuchCpus {
            absent,
            present: present.clone(),
        }),
    }
}

fn check_cores(
    topology: &Topology,
    wanted: usize,
    housekeeping: &CpuSet,
) -> Result<(), TooLittleLeft> {
    let all = topology.cores().len();
    if wanted >= all && wanted > 1 {
        return Err(TooLittleLeft::AllCores { wanted, all });
    }
    let cores = topology.cores().iter();
    let whole = cores.filter(|core| core.cpus.is_subset(housekeeping));
    // No more are counted than it takes: there are thousands on large hosts.
    match whole.take(wanted).count() {
        0 if wanted == 1 && all == 1 => Err(TooLittleLeft::OneCore),
        left if left < wanted => Err(TooLittleLeft::Cores {
            wanted,
            left,
            housekeeping: housekeeping.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::topology::Parts;
    use crate::domain::topology::tests::grid;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    /// A host that reserves all of its cores would get a VM all the same, or one that names a CPU which is
    /// switched off none at all.
    #[test]
    fn a_reserve_has_to_leave_something_and_counts_what_is_online() {
        let all = check_reserve(&grid(1, 1, 4, 1), Some(&Reserve::Cores(4)), &set("0-3"));
        assert_eq!(
            all.unwrap_err().to_string(),
            "4 cores with all their smt siblings must stay with the host, which has 4"
        );
        let mut parts = Parts::default();
        parts.sets.present = set("0-7");
        parts.sets.online = set("0-6");
        let host = Topology::new(parts);
        let reserve = Reserve::Cpus(set("0-1,7"));
        assert_eq!(check_reserve(&host, Some(&reserve), &set("0-2")), Ok(()));
        let missing = check_reserve(&host, Some(&reserve), &set("0")).unwrap_err();
        assert!(missing.to_string().starts_with("cpu 1 must stay"));
    }

    /// The program would send others there whom the boot parameters keep off.
    #[test]
    fn cpus_of_boot_parameters_are_not_left_to_the_host() {
        let mut parts = Parts::default();
        parts.sets.online = set("0-7");
        parts.sets.isolcpus = set("5-6");
        parts.sets.nohz_full = set("6-7");
        let left = housekeeping(&Topology::new(parts), &set("2"), &set("3"));
        assert_eq!(left, set("0-1,4"));
    }
}
