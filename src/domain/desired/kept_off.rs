//! What is kept off owned CPUs without a cgroup's help: kernel threads, work and interrupts.
//!
//! It costs a `sched_setaffinity(2)` for each kernel thread and a write for each interrupt. What cannot be
//! promised: the rescuers of workqueues before Linux 6.9, the thread of an interrupt until that occurs, managed
//! interrupts, and what was born narrowed and looks as if an admin had chosen that.

use super::claimed::{has_partition, kept_off};
use super::inherited::Inherited;
use super::view::View;
use super::wish::{Desired, Wish};
use crate::domain::backend::Backend;
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::facts::{Facts, KernelThread};
use crate::domain::knob::Knob;
use crate::domain::table::PciIrqs;
use crate::domain::target::{Place, Target, Value};

impl View<'_> {
    /// A kernel thread inherits the affinity that was requested for kthreadd; what was born so is
    /// given back what kthreadd had.
    pub(super) fn kernel_threads(&self, claims: &Claims, desired: &mut Desired) {
        let owned = kept_off(claims, |wishes| wishes.kernel_threads);
        let parent = self.held.iter().find_map(|(target, held)| match target {
            Target::KernelThread(_) if target.is_inherited() => Inherited::of(held),
            _ => None,
        });
        let is_parted = claims
            .values()
            .any(|claim| claim.is_running() && has_partition(&claim.wishes));
        // Nobody may ask for the CPUs of a partition, whatever its VM wishes for.
        let taken = owned.union(&kept_off(claims, has_partition));
        let housekeeping = self.facts.housekeeping(&taken);
        let threads = self.facts.kernel_threads.iter();
        // That of an interrupt follows it (`irq_thread_check_affinity()`).
        for thread in threads.filter(|thread| !thread.bound && !thread.follows_irq()) {
            let target = Target::KernelThread(thread.id);
            let held = self.baseline(&target);
            let parent = parent.filter(|_| held.is_none());
            let at_birth = |cpus: &CpuSet| thread.affinity_at_birth(cpus, &self.facts.nodes);
            let born = parent.and_then(|parent| parent.natural(&thread.affinity, &[&at_birth]));
            if owned.is_empty() {
                let back = born.map(|born| Wish::back(Value::Cpus(born)));
                let left = || self.left_alone(&target, thread).filter(|_| is_parted);
                desired.extend(back.or_else(left).map(|wish| (target, wish)));
                continue;
            }
            let was_cut = thread.affinity == self.facts.shared;
            let live = match was_cut {
                true => self.facts.possible.clone(),
                false => self.own_cpus(thread),
            };
            let baseline = held.or(born.as_ref()).unwrap_or(&live);
            let kept = baseline.intersection(&self.facts.online).difference(&taken);
            let value = if kept.is_empty() {
                housekeeping.clone()
            } else {
                kept
            };
            let wish = Wish::with(Value::Cpus(value), Value::Cpus(baseline.clone()));
            desired.insert(target, wish);
        }
    }

    /// A kernel thread with CPUs of its own that nobody wishes to move has what the kernel gives it
    /// while there are partitions; what it had before is remembered, because the kernel forgets: when one
    /// comes or goes, each thread of the root that may be moved is given all CPUs outside of partitions
    /// (`cpuset_update_tasks_cpumask()`), within that what it asked for (`user_cpus_ptr`, Linux 6.2). One
    /// that was asked to move before is asked for what it had, as soon as the partitions leave any of that.
    fn left_alone(&self, target: &Target, thread: &KernelThread) -> Option<Wish> {
        let Facts {
            possible, shared, ..
        } = self.facts;
        let held = self.held.get(target);
        let own = self.own_cpus(thread);
        let baseline = held.and_then(|held| held.baseline.cpus()).unwrap_or(&own);
        // One that is not in hand and has what everybody has is one of those.
        if baseline == possible || held.is_none() && thread.affinity == *shared {
            return None;
        }
        let value = match held {
            Some(held) if held.asked && !baseline.is_disjoint(shared) => baseline,
            Some(held) if held.asked => shared,
            _ if self.is_usual(&thread.affinity, baseline) => &thread.affinity,
            _ => return None,
        };
        let (value, baseline) = (value.clone(), baseline.clone());
        Some(Wish::with(Value::Cpus(value), Value::Cpus(baseline)))
    }

    /// Returns the CPUs of a kernel thread that is not in hand. One that has exactly the online CPUs of
    /// a node was given them when a CPU came online, and gets the others with those.
    fn own_cpus(&self, thread: &KernelThread) -> CpuSet {
        let Facts {
            nodes, whole_nodes, ..
        } = self.facts;
        let near = nodes.iter().find(|(_, cpus)| **cpus == thread.kept);
        let whole = near.and_then(|(node, _)| whole_nodes.get(node));
        whole.unwrap_or(&thread.kept).clone()
    }

    /// Tells whether a kernel thread has what the kernel makes of its CPUs by itself: when partitions
    /// come and go, and when a CPU of its node comes online.
    fn is_usual(&self, live: &CpuSet, baseline: &CpuSet) -> bool {
        let Facts {
            possible,
            online,
            shared,
            nodes,
            ..
        } = self.facts;
        let whole = [baseline, possible].into_iter().chain(nodes.values());
        let mut given =
            whole.flat_map(|cpus| [online, shared].map(|limit| cpus.intersection(limit)));
        given.any(|given| given == live.intersection(online))
    }

    /// What has nowhere else to run is sent to the CPUs of the host.
    pub(super) fn work(&self, claims: &Claims, desired: &mut Desired) {
        for (target, live) in &self.facts.work {
            let owned = self.kept_off_work(target, claims);
            if owned.is_empty() {
                continue;
            }
            let kept = self.baseline(target).unwrap_or(live).difference(&owned);
            let value = match kept.is_disjoint(&self.facts.online) {
                true => self.facts.housekeeping(&owned),
                false => kept,
            };
            desired.insert(target.clone(), Value::Cpus(value).into());
        }
    }

    /// A partition of type isolated narrows the mask of all unbound work by itself, so it is left
    /// to the kernel as long as no other claim needs it. A write of it counts for isolated CPUs as
    /// well (`workqueue_set_unbound_cpumask()`), so once it is in hand they are kept out of it.
    fn kept_off_work(&self, target: &Target, claims: &Claims) -> CpuSet {
        let is_isolated = |wishes: &Wishes| wishes.backend == Backend::Isolated;
        match target {
            Target::Knob(Knob::WatchdogCpus, _) => kept_off(claims, |wishes| wishes.watchdog),
            Target::Knob(Knob::UnboundCpus, _) => {
                let needs = kept_off(claims, |wishes| wishes.workqueues && !is_isolated(wishes));
                match needs.is_empty() && !self.held.contains_key(target) {
                    true => needs,
                    false => needs.union(&kept_off(claims, is_isolated)),
                }
            }
            _ => kept_off(claims, |wishes| wishes.workqueues),
        }
    }

    /// An interrupt that is made or set up while the default is narrowed has the narrowed affinity for
    /// ever; without us it would have what the kernel makes of the default's baseline.
    pub(super) fn interrupts(&self, claims: &Claims, desired: &mut Desired) {
        let owned = kept_off(claims, |wishes| wishes.interrupts);
        let default = Target::Knob(Knob::DefaultIrqAffinity, Place::Host);
        let parent = self.held.get(&default).and_then(Inherited::of);
        if !owned.is_empty() {
            let live = parent.map(|parent| parent.baseline);
            let live = live.or(self.facts.default_irq_affinity.as_ref());
            let live = live.unwrap_or(&self.facts.online);
            let value = self.irq_cpus(live, &owned, None, 0);
            desired.insert(default, Value::Cpus(value).into());
        }
        for irq in &self.facts.irqs {
            let place = Place::Irq(irq.number, irq.actions.clone());
            let target = Target::Knob(Knob::IrqAffinity, place);
            let held = self.baseline(&target);
            let sent = self.sent_to(&irq.actions, claims, &owned);
            let parent = parent.filter(|_| held.is_none());
            let Facts { online, nodes, .. } = self.facts;
            let now = |default: &CpuSet| irq.affinity_at_birth(default, online, nodes);
            // It was there before a CPU went offline.
            let Facts {
                possible,
                whole_nodes,
                ..
            } = self.facts;
            let before = |default: &CpuSet| irq.affinity_at_birth(default, possible, whole_nodes);
            let born = parent.and_then(|parent| parent.natural(&irq.affinity, &[&now, &before]));
            if owned.is_empty() && sent.is_none() {
                let back = born.map(|born| Wish::back(Value::Cpus(born)));
                desired.extend(back.map(|wish| (target, wish)));
                continue;
            }
            let baseline = held.or(born.as_ref()).unwrap_or(&irq.affinity);
            let elsewhere = self.sent_elsewhere(&target, &owned);
            let value = elsewhere.unwrap_or_else(|| {
                let kept = || self.irq_cpus(baseline, &owned, irq.node, irq.number);
                Value::Cpus(sent.unwrap_or_else(kept))
            });
            let baseline = Value::Cpus(baseline.clone());
            desired.insert(target, Wish::with(value, baseline));
        }
    }

    /// Returns the CPUs that the table of a VM sends the interrupt of its device to: vector n to the CPU
    /// of vCPU n, in turn, or to those of the host. `None` for every other interrupt.
    fn sent_to(&self, actions: &str, claims: &Claims, owned: &CpuSet) -> Option<CpuSet> {
        let (address, vector) = vector_of(actions)?;
        let mut running = claims.values().filter(|claim| claim.is_running());
        let claim = running.find(|claim| claim.devices.contains_key(address))?;
        let wishes = &claim.wishes;
        let cpus = match wishes.device_interrupts? {
            PciIrqs::Vcpus => {
                let n = vector.checked_rem(wishes.vcpus.len())?;
                CpuSet::of(*wishes.vcpus.get(n)?)
            }
            PciIrqs::Housekeeping => self.facts.housekeeping(&owned.union(&wishes.cpus)),
        };
        (!cpus.is_disjoint(&self.facts.online)).then_some(cpus)
    }

    /// Returns the baseline's CPUs that are not owned; where none is left, one CPU of the host
    /// near the device, so that the vectors of a device are spread.
    fn irq_cpus(&self, baseline: &CpuSet, owned: &CpuSet, node: Option<u32>, nth: u32) -> CpuSet {
        let kept = baseline.difference(owned);
        if !kept.is_disjoint(&self.facts.online) {
            return kept;
        }
        let housekeeping = self.facts.housekeeping(owned);
        let near = node.and_then(|node| self.facts.nodes.get(&node));
        let near = near
            .map(|cpus| cpus.intersection(&housekeeping))
            .filter(|cpus| !cpus.is_empty());
        let candidates = near.unwrap_or(housekeeping);
        let spread: Vec<CpuId> = candidates.iter().collect();
        spread
            .get(nth as usize % spread.len().max(1))
            .map_or(kept, |cpu| CpuSet::of(*cpu))
    }

    /// Returns where an interrupt was sent that found no vector on its own CPUs: it stays there as
    /// long as these are the host's.
    fn sent_elsewhere(&self, target: &Target, owned: &CpuSet) -> Option<Value> {
        let held = self.held.get(target).filter(|held| held.refused > 0)?;
        let housekeeping = self.facts.housekeeping(owned);
        let is_fit = held.ours.cpus()?.is_subset(&housekeeping);
        is_fit.then(|| held.ours.clone())
    }
}

/// Returns the function and the number of the vector that vfio-pci handles for a VM: its handlers
/// are named `vfio-msix[3](0000:01:00.0)`, `vfio-msi[0](...)` or `vfio-intx(...)`
/// (`drivers/vfio/pci/vfio_pci_intrs.c`).
fn vector_of(actions: &str) -> Option<(&str, usize)> {
    let (kind, rest) = actions.strip_prefix("vfio-")?.split_once('(')?;
    let address = rest.strip_suffix(')')?;
    let number = kind.split_once('[').map_or("0", |(_, number)| number);
    Some((address, number.trim_end_matches(']').parse().ok()?))
}

#[cfg(test)]
mod tests;
