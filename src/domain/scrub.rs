//! The hotplug scrub: CPUs go offline and back once, before they are isolated.
//!
//! The kernel moves timers, work and callbacks away from a CPU that goes offline, and nothing of
//! it comes back by itself. The scrub is an action, not a state. What has to be put right after it
//! (a *repair*) is held before it begins, with no wish for it: so the next run brings the CPUs back
//! if it is interrupted.

use std::collections::BTreeMap;

use super::claim::{Claims, Wishes, owned_by_others};
use super::cpuset::{CpuId, CpuSet};
use super::facts::{Facts, KernelThread};
use super::state::Held;
use super::target::{Target, Value};
use super::vm::{TaskId, Vmid};

/// The CPU that the kernel starts on; on x86 it does not go offline (before Linux 6.5 it did with `cpu0_hotplug`;
/// who boots with that keeps it here).
const BOOT_CPU: CpuId = CpuId(0);

/// Returns the CPUs to scrub for claims that have just come into force: those that nobody else
/// owns and that are in no partition, because one whose last CPU goes does not come back. None where that would
/// make a VM wait that must respond at once.
pub fn scrubbed(claims: &Claims, new: &[Vmid], facts: &Facts) -> CpuSet {
    let wished = claims.values().filter(|claim| {
        let is_new = claim.is_running() && new.contains(&claim.vmid);
        is_new && claim.wishes.hotplug && spared(claims, claim.vmid).is_none()
    });
    let cpus = wished.flat_map(|claim| {
        let others = owned_by_others(claims, claim.vmid);
        let own = claim.wishes.cpus.difference(&others);
        own.intersection(&facts.shared).iter().collect::<Vec<_>>()
    });
    let cpus: CpuSet = cpus.filter(|cpu| *cpu != BOOT_CPU).collect();
    cpus.intersection(&facts.online)
}

/// Returns a VM that runs and must respond at once, for whose sake no CPU goes offline for another one: each that
/// does stops all CPUs of the host until it is gone (`stop_machine_cpuslocked()`).
fn spared(claims: &Claims, vmid: Vmid) -> Option<Vmid> {
    let mut others = claims.values().filter(|claim| claim.vmid != vmid);
    let spared = others.find(|claim| claim.is_running() && is_urgent(&claim.wishes));
    spared.map(|claim| claim.vmid)
}

/// Tells whether a VM must respond at once: by its scheduling class, or how long a CPU may take to wake up.
fn is_urgent(wishes: &Wishes) -> bool {
    !wishes.scheduler.is_other() || wishes.power.max_idle_latency.is_some()
}

/// Says for whose sake CPUs are not scrubbed, although that is wished for.
pub fn skipped(wishes: &Wishes, claims: &Claims, vmid: Vmid) -> Option<String> {
    let other = spared(claims, vmid).filter(|_| wishes.hotplug)?;
    Some(format!(
        "isolate.hotplug is skipped: a cpu that goes offline stops all others, and vm {other} must respond at once"
    ))
}

/// Returns what has to be put right when CPUs have gone offline one by one, wherever that is
/// interrupted: the CPUs themselves, and what was on one of them alone; `pinned` are the threads of
/// programs that are.
pub fn repairs(
    cpus: &CpuSet,
    held: &BTreeMap<Target, Held>,
    facts: &Facts,
    pinned: &[(TaskId, CpuSet)],
) -> Vec<(Target, Held)> {
    let switch = |is_online: bool| Value::Text(u8::from(is_online).to_string());
    let repair = |target: Target, live: Value, meanwhile: Value| {
        let new = || Held::new(live.clone(), live.clone());
        let mut next = held.get(&target).cloned().unwrap_or_else(new);
        next.turn_to(&meanwhile);
        next.before = Some(live);
        (target, next)
    };
    let switches = cpus.iter().map(|cpu| {
        let target = Target::online(cpu);
        repair(target, switch(true), switch(false))
    });
    // The kernel gives an interrupt without an online CPU all of them (`migrate_one_irq()`), and
    // a thread that runs all that there may be (`select_fallback_rq()`).
    let irqs = facts.irqs.iter().filter_map(|irq| {
        let cpu = only(&irq.affinity.intersection(&facts.online), cpus)?;
        let target = Target::irq(irq.number, &irq.actions);
        let others = facts.online.difference(&CpuSet::of(cpu));
        let live = Value::Cpus(irq.affinity.clone());
        Some(repair(target, live, Value::Cpus(others)))
    });
    // That of an interrupt follows it (`irq_thread_check_affinity()`).
    let threads = facts
        .kernel_threads
        .iter()
        .filter(|thread| !thread.bound && !thread.follows_irq());
    let (alone, others): (Vec<_>, Vec<_>) =
        threads.partition(|thread| only(&thread.affinity, cpus).is_some());
    let of_nodes = others.into_iter().filter_map(|thread| {
        let left = after_online(thread, facts)?;
        let (target, live) = (Target::KernelThread(thread.id), thread.affinity.clone());
        Some(repair(target, Value::Cpus(live), Value::Cpus(left)))
    });
    let of_nodes: Vec<_> = of_nodes.collect();
    let threads = alone
        .into_iter()
        .map(|thread| (Target::KernelThread(thread.id), &thread.affinity));
    let pinned = pinned
        .iter()
        .map(|(id, affinity)| (Target::Affinity(*id), affinity));
    let threads = threads.chain(pinned).map(|(target, affinity)| {
        let all = Value::Cpus(facts.possible.clone());
        repair(target, Value::Cpus(affinity.clone()), all)
    });
    let is_movable = |target: &Target| held.get(target).is_none_or(|held| !held.unchangeable);
    let all = switches.chain(irqs).chain(threads).chain(of_nodes);
    all.filter(|(target, _)| is_movable(target)).collect()
}

/// Returns what the kernel leaves of an administrator's mask to a thread of a NUMA node when a CPU comes
/// online (`kthreads_online_cpu()` from 6.14 on, before `kcompactd_cpu_online()`): of what was asked for,
/// the CPUs of the node. `None` where that is all of it.
fn after_online(thread: &KernelThread, facts: &Facts) -> Option<CpuSet> {
    let mut names = ["kswapd", "kcompactd"].into_iter();
    let node = names.find_map(|name| thread.comm.strip_prefix(name)?.parse().ok())?;
    let near: &CpuSet = facts.nodes.get(&node)?;
    let asked = thread.affinity.intersection(near);
    let left = match asked.is_empty() {
        true => near.clone(),
        false => asked,
    };
    (left != thread.affinity).then_some(left)
}

/// Tells whether a thread that is held cannot be given back yet, because all CPUs that it had are offline:
/// it still has ours when they come back, whoever took them away.
pub fn waits_for_cpus(held: &BTreeMap<Target, Held>, target: &Target, online: &CpuSet) -> bool {
    let is_away = |held: &Held| {
        let baseline = held.baseline.cpus();
        baseline.is_some_and(|cpus| cpus.is_disjoint(online)) && held.ours != held.baseline
    };
    matches!(target, Target::KernelThread(_) | Target::Affinity(_))
        && held.get(target).is_some_and(is_away)
}

/// Returns the only CPU of a set, if it is one of `cpus`.
fn only(set: &CpuSet, cpus: &CpuSet) -> Option<CpuId> {
    let first = set.first().filter(|first| set.last() == Some(*first))?;
    cpus.contains(first).then_some(first)
}
