//! Whether a VM may have what it asks for: nothing of it is another VM's or somebody else's, and
//! enough is left for the host.
//!
//! Found before anything is written: the kernel answers a list of exclusive CPUs that contains the
//! whole list of a neighbour with EINVAL and names nobody (`cpus_excl_conflict()` in
//! `kernel/cgroup/cpuset.c`), and where it takes it, a group whose CPUs are all gone silently runs on
//! those of the group above.

use super::backend::Backend;
use super::claim::{Claims, owned_by_others};
use super::cpuset::CpuSet;
use super::others::{Above, Bystander, Exclusive, Share, Surroundings};
use super::placement::{check_reserve, housekeeping};
use super::refusal::Refusal;
use super::table::Scheduler;
use super::topology::Topology;
use super::vm::Vmid;

/// Checks that a VM can be given what it asks for; returns what the operator should know
/// nevertheless.
///
/// # Errors
/// The first reason why not.
pub fn check(
    share: &Share,
    claims: &Claims,
    topology: &Topology,
    around: &Surroundings,
) -> Result<Vec<String>, Refusal> {
    // What no other VM could change comes first: nobody is to be stopped for it in vain.
    check_left(share, &Claims::new(), topology, around)?;
    check_claims(share, claims)?;
    let taken = Taken::of(share, claims, topology, around);
    check_partitions(share, around)?;
    check_left(share, claims, topology, around)?;
    check_bystanders(share, claims, topology, around, &taken)
}

/// Checks that no other VM owns CPUs that a VM asks for.
///
/// # Errors
/// Names the first VM that does.
pub fn check_claims(share: &Share, claims: &Claims) -> Result<(), Refusal> {
    let others = claims
        .values()
        .filter(|claim| Some(claim.vmid) != share.vmid && claim.owns());
    for claim in others {
        let cpus = claim.wishes.cpus.intersection(&share.cpus);
        if !cpus.is_empty() {
            let owner = claim.vmid;
            return Err(match claim.state.is_reserved() {
                true => Refusal::Reserved { cpus, owner },
                false => Refusal::Claimed { cpus, owner },
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

/// Checks that enough is left for the host once a VM owns its CPUs beside those of `claims`, whose VMs are
/// named if not.
fn check_left(
    share: &Share,
    claims: &Claims,
    topology: &Topology,
    around: &Surroundings,
) -> Result<(), Refusal> {
    if !share.is_exclusive() {
        return Ok(());
    }
    let left = Taken::of(share, claims, topology, around).left;
    check_reserve(topology, around.reserve.as_ref(), &left).map_err(|source| {
        let owners = claims.values().filter(|claim| claim.owns());
        let owners = owners.filter(|claim| Some(claim.vmid) != share.vmid);
        let owners = owners.map(|claim| (claim.vmid, claim.wishes.cpus.clone()));
        let owners = owners.collect();
        Refusal::TooLittleLeft { source, owners }
    })
}

/// What becomes of the CPUs once the VM owns its own.
struct Taken {
    /// Kept off everybody.
    claimed: CpuSet,
    /// Left to the host.
    left: CpuSet,
}

impl Taken {
    fn of(share: &Share, claims: &Claims, topology: &Topology, around: &Surroundings) -> Self {
        let others = share.vmid.map(|vmid| owned_by_others(claims, vmid));
        let others = others.unwrap_or_default();
        let claimed = match share.is_exclusive() {
            true => others.union(&share.cpus),
            false => others,
        };
        let partitions = around.partitions.iter();
        let foreign: CpuSet = partitions.flat_map(|foreign| foreign.cpus.iter()).collect();
        let left = housekeeping(topology, &claimed, &foreign);
        Taken { claimed, left }
    }
}

/// A list of what may become a partition keeps nobody from being pinned there.
fn check_partitions(share: &Share, around: &Surroundings) -> Result<(), Refusal> {
    let partitions = around.partitions.iter();
    for foreign in partitions.filter(|foreign| foreign.is_partition || share.is_exclusive()) {
        let cpus = foreign.cpus.intersection(&share.cpus);
        if !cpus.is_empty() {
            let foreign = foreign.clone();
            return Err(Refusal::Foreign(Exclusive { cpus, ..foreign }));
        }
    }
    Ok(())
}

fn check_bystanders(
    share: &Share,
    claims: &Claims,
    topology: &Topology,
    around: &Surroundings,
    taken: &Taken,
) -> Result<Vec<String>, Refusal> {
    let claimed = &taken.claimed;
    let mut warnings = Vec::new();
    if share.is_exclusive() {
        let others = claims.values().filter(|claim| claim.owns());
        let others = others.map(|claim| claim.wishes.share(claim.vmid));
        let others = others.filter(|other| other.vmid != share.vmid);
        let pinned = others.flat_map(|other| other.pinned_threads().collect::<Vec<_>>());
        let pinned: Vec<Bystander> = share.pinned_threads().chain(pinned).collect();
        let is_concerned = |one: &&Bystander| {
            let is_all = one.has_list() && topology.online().is_subset(&one.cpus);
            !share.is_own(one) && !is_all && !one.cpus.is_disjoint(claimed)
        };
        for one in around.bystanders.iter().chain(&pinned).filter(is_concerned) {
            warnings.push(check_bystander(share, claims, one, taken)?);
        }
    }
    for one in &around.bystanders {
        if one.has_list() && share.is_below(one) {
            warnings.extend(check_above(share, one, claimed)?);
        }
    }
    Ok(warnings)
}

/// A task that asks for CPUs of a partition gets EINVAL when no other one is among them, and is
/// silently cut otherwise. Backend slices gives a list of which nothing is left those of the host, and
/// gives it back; but what all VMs are in it leaves alone.
fn check_bystander(
    share: &Share,
    claims: &Claims,
    bystander: &Bystander,
    taken: &Taken,
) -> Result<String, Refusal> {
    let Taken { claimed, left } = taken;
    let Bystander { who, cpus, .. } = bystander;
    if !cpus.is_subset(claimed) {
        let left = cpus.difference(claimed);
        let text = format!(
            "{who} is configured for {} and will have only {} of them",
            cpus.in_words(),
            left.in_words()
        );
        return Ok(text);
    }
    let is_moved = share.backend == Backend::Slices && bystander.has_list();
    if is_moved && !bystander.is_of_vms() {
        let text = format!(
            "{who} is configured for {} and will have {} instead",
            cpus.in_words(),
            left.in_words()
        );
        return Ok(text);
    }
    Err(Refusal::Starved {
        who: who.clone(),
        remedy: bystander.remedy(left),
        owners: owners_of(cpus, share, claims),
        is_by_others: cpus.is_disjoint(&share.cpus),
        cpus: cpus.clone(),
    })
}

/// Returns the other VMs that own some of `cpus`, with those.
fn owners_of(cpus: &CpuSet, share: &Share, claims: &Claims) -> Vec<(Vmid, CpuSet)> {
    let others = claims.values().filter(|claim| claim.owns());
    let others = others.filter(|claim| Some(claim.vmid) != share.vmid);
    let owned = others.map(|claim| (claim.vmid, claim.wishes.cpus.intersection(cpus)));
    owned.filter(|(_, cpus)| !cpus.is_empty()).collect()
}

/// What is above the threads of a VM cuts what they ask for, but for those in a partition below it.
/// A list of which a partition leaves nothing is none: what is above it counts then.
fn check_above(share: &Share, above: &Bystander, claimed: &CpuSet) -> Result<Vec<String>, Refusal> {
    let refused = |what: String, cpus: CpuSet| {
        Refusal::Above(Box::new(Above {
            who: above.who.clone(),
            remedy: above.remedy(&above.cpus.union(&cpus)),
            allowed: above.cpus.clone(),
            what,
            cpus,
        }))
    };
    let cut = share.cpus.difference(&above.cpus);
    if !share.backend.is_partition() && !cut.is_empty() {
        return Err(refused(share.named("the vcpus"), cut));
    }
    let granted = above.cpus.difference(claimed);
    if granted.is_empty() {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    for (what, cpus) in share.pins_outside() {
        let left = cpus.intersection(&granted);
        if left.is_empty() {
            return Err(refused(what, cpus.difference(claimed)));
        }
        if !cpus.is_subset(&above.cpus) {
            let who = &above.who;
            let text = format!(
                "{what} is configured for {}, of which {who} leaves it {}",
                cpus.in_words(),
                left.in_words()
            );
            warnings.push(text);
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests;
