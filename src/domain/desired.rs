//! The one function that decides: which value every target is to have.
//!
//! It knows nothing of what was written before; a target that no claim wishes for any more is
//! simply absent from its answer, and gets its baseline back.

use std::collections::BTreeMap;

use super::claim::{Claim, Claims, Wishes};
use super::cpuset::{CpuId, CpuSet};
use super::facts::{Facts, KernelThread, VmFacts};
use super::gate::Backend;
use super::knob::Knob;
use super::state::Held;
use super::target::{Place, Target, Value};
use super::thread::{Role, Thread};

/// Wished value of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Value that it is to have.
    pub value: Value,
    /// What it is given back to, where the live value at the first touch is not that: objects
    /// born under a claim, and affinities that a partition has already cut.
    pub baseline: Option<Value>,
}

impl Wish {
    /// Returns the wish for what a target had without us.
    fn back(baseline: Value) -> Self {
        Wish {
            value: baseline.clone(),
            baseline: Some(baseline),
        }
    }

    /// Tells whether the wish is for what the target had without us: an object that was born
    /// with our value and nobody holds.
    pub fn gives_back(&self) -> bool {
        self.baseline.as_ref() == Some(&self.value)
    }
}

impl From<Value> for Wish {
    fn from(value: Value) -> Self {
        Wish {
            value,
            baseline: None,
        }
    }
}

/// Wishes for every target that a claim constrains.
pub type Desired = BTreeMap<Target, Wish>;

/// Returns the wished value of every target that the claims constrain on this host.
///
/// `held` tells the baselines of the targets that are already in our hands.
pub fn desired(claims: &Claims, held: &BTreeMap<Target, Held>, facts: &Facts) -> Desired {
    let view = View { held, facts };
    let mut wishes = Desired::new();
    for claim in claims
        .values()
        .filter(|claim| claim.owns() && has_partition(&claim.wishes))
    {
        // Of a VM that is adopted it goes again, unless it was there before.
        let stays = claim.wishes.stays_delegated;
        let wish = Wish {
            value: Value::Present,
            baseline: stays.then_some(Value::Present),
        };
        wishes.insert(Target::Delegation(claim.vmid), wish);
    }
    for (claim, vm) in in_force(claims, facts) {
        if has_partition(&claim.wishes) {
            view.partition(claim, vm, &mut wishes);
        }
        view.threads(&claim.wishes, vm, &mut wishes);
    }
    view.kernel_threads(claims, &mut wishes);
    view.interrupts(claims, &mut wishes);
    wishes
}

/// Returns the claims in force with the VMs that they are about.
fn in_force<'a>(
    claims: &'a Claims,
    facts: &'a Facts,
) -> impl Iterator<Item = (&'a Claim, &'a VmFacts)> {
    let running = claims.values().filter(|claim| claim.is_running());
    running.filter_map(|claim| {
        let vm = facts.vms.get(&claim.vmid)?;
        (claim.qemu() == Some(vm.qemu)).then_some((claim, vm))
    })
}

/// Tells whether the backend takes the CPUs by a cpuset partition.
pub fn has_partition(wishes: &Wishes) -> bool {
    matches!(wishes.backend, Backend::Isolated | Backend::Root)
}

/// Returns the CPUs of the running claims that wish for something to be kept off them.
fn kept_off(claims: &Claims, wished: impl Fn(&Wishes) -> bool) -> CpuSet {
    let running = claims
        .values()
        .filter(|claim| claim.is_running() && wished(&claim.wishes));
    running.flat_map(|claim| claim.wishes.cpus.iter()).collect()
}

/// What objects inherit that are born while a target is narrowed.
#[derive(Debug, Clone, Copy)]
struct Inherited<'a> {
    narrowed: [Option<&'a CpuSet>; 2],
    baseline: &'a CpuSet,
}

impl<'a> Inherited<'a> {
    /// Returns what is inherited of a target in hand: its value, and the one that it had before
    /// that was written, because something may have been born right before.
    fn of(held: &'a Held) -> Option<Self> {
        let values = [Some(&held.ours), held.before.as_ref()];
        let narrowed = |value: &&Value| **value != held.baseline;
        Some(Inherited {
            narrowed: values.map(|value| value.filter(narrowed).and_then(Value::cpus)),
            baseline: held.baseline.cpus()?,
        })
    }

    /// Returns what an object with the CPUs `live` would have had without us, if it was born with
    /// what the kernel gives it `at_birth` of a narrowed value.
    fn natural(&self, live: &CpuSet, at_birth: impl Fn(&CpuSet) -> CpuSet) -> Option<CpuSet> {
        let mut narrowed = self.narrowed.iter().flatten();
        let is_born = narrowed.any(|cpus| at_birth(cpus) == *live);
        is_born.then(|| at_birth(self.baseline))
    }
}

struct View<'a> {
    held: &'a BTreeMap<Target, Held>,
    facts: &'a Facts,
}

impl View<'_> {
    /// A threaded cgroup below the VM's scope is a remote partition; every cgroup above it
    /// passes its CPUs down, and those above several VMs the union of theirs. The controller is
    /// passed down as well: systemd does not do that in the slice of a scope that is already
    /// there when it learns of its delegation (recorded).
    fn partition(&self, claim: &Claim, vm: &VmFacts, wishes: &mut Desired) {
        let file = |knob, group: &str| Target::Knob(knob, Place::Group(group.to_owned()));
        let kind = if claim.wishes.backend == Backend::Root {
            "root"
        } else {
            "isolated"
        };
        for ancestor in self_and_ancestors(&vm.scope) {
            let switch = file(Knob::CpusetForChildren, ancestor);
            wishes.insert(switch, Value::Present.into());
            let entry = wishes.entry(file(Knob::CpusExclusive, ancestor));
            let wish = entry.or_insert_with(|| Value::Cpus(CpuSet::new()).into());
            let others = wish.value.cpus().cloned().unwrap_or_default();
            wish.value = Value::Cpus(others.union(&claim.wishes.cpus));
        }
        for (name, cpus) in claim.wishes.groups() {
            let group = format!("{}/{name}", vm.scope);
            let values = [
                (Knob::GroupType, Value::Text("threaded".to_owned())),
                (Knob::CpusExclusive, Value::Cpus(cpus.clone())),
                (Knob::Cpus, Value::Cpus(cpus)),
                (Knob::Partition, Value::Text(kind.to_owned())),
            ];
            for (knob, value) in values {
                let baseline = Some(Value::Absent);
                wishes.insert(file(knob, &group), Wish { value, baseline });
            }
            wishes.insert(Target::Group(group), Value::Present.into());
        }
    }

    fn threads(&self, wishes: &Wishes, vm: &VmFacts, desired: &mut Desired) {
        let mut n_vhost = 0;
        for thread in vm.threads.iter().filter(|thread| !thread.bound) {
            let role = thread.role();
            let cpus = match &role {
                Role::Vcpu(n) => wishes.vcpus.get(*n).map(|cpu| CpuSet::of(*cpu)),
                Role::Iothread(id) => wishes
                    .iothreads
                    .get(id)
                    .or(wishes.iothreads.get("*"))
                    .cloned(),
                Role::Vhost => {
                    n_vhost += 1;
                    wishes.vhost.get(n_vhost - 1).cloned().flatten()
                }
                Role::Emulator => None,
            };
            let cpus = match role {
                Role::Vcpu(_) => cpus,
                _ => cpus.or_else(|| wishes.emulator.clone()),
            };
            self.thread(wishes, vm, thread, cpus, desired);
        }
    }

    /// A thread without CPUs of its own is left alone, unless it was born in a cgroup of ours:
    /// then it is moved to where QEMU's other threads are.
    fn thread(
        &self,
        wishes: &Wishes,
        vm: &VmFacts,
        thread: &Thread,
        cpus: Option<CpuSet>,
        desired: &mut Desired,
    ) {
        let group = cpus
            .as_ref()
            .and_then(|cpus| self.group_of(wishes, vm, cpus));
        let group = group.unwrap_or_else(|| vm.scope.clone());
        let strayed = thread.group != vm.scope && thread.group != group;
        let membership = Target::Membership(thread.id);
        if group != thread.group || self.held.contains_key(&membership) {
            let baseline = Some(Value::Text(vm.scope.clone()));
            desired.insert(
                membership,
                Wish {
                    value: Value::Text(group.clone()),
                    baseline,
                },
            );
        }
        let affinity = Target::Affinity(thread.id);
        let is_held = self.held.contains_key(&affinity);
        let cpus = match cpus {
            Some(cpus) if group == vm.scope => self.granted(&cpus),
            None if strayed || is_held => Some(self.facts.shared.difference(&wishes.cpus)),
            cpus => cpus,
        };
        if let Some(cpus) = cpus {
            let natural = wishes.affinity.as_ref().unwrap_or(&self.facts.possible);
            let was_cut = thread.affinity == natural.intersection(&self.facts.shared);
            // In a cgroup of ours it shows what that left of its affinity.
            let is_cut = was_cut || thread.group != vm.scope;
            let baseline = if is_cut { natural } else { &thread.affinity };
            let baseline = Some(Value::Cpus(baseline.clone()));
            let value = Value::Cpus(cpus);
            desired.insert(affinity, Wish { value, baseline });
        }
    }

    fn group_of(&self, wishes: &Wishes, vm: &VmFacts, cpus: &CpuSet) -> Option<String> {
        let mut groups = wishes
            .groups()
            .into_iter()
            .filter(|_| has_partition(wishes));
        let (name, _) = groups.find(|(_, owned)| cpus.is_subset(owned))?;
        Some(format!("{}/{name}", vm.scope))
    }

    /// Returns what the kernel grants of `cpus` outside of partitions: other VMs may own some, and
    /// if they own all, asking for them would fail.
    fn granted(&self, cpus: &CpuSet) -> Option<CpuSet> {
        let granted = cpus.intersection(&self.facts.shared);
        (!granted.is_empty()).then_some(granted)
    }

    /// A kernel thread inherits the affinity that was requested for kthreadd; what was born so is
    /// given back what kthreadd had.
    fn kernel_threads(&self, claims: &Claims, desired: &mut Desired) {
        let owned = kept_off(claims, |wishes| wishes.kernel_threads);
        let parent = self.held.iter().find_map(|(target, held)| match target {
            Target::KernelThread(_) if target.is_inherited() => Inherited::of(held),
            _ => None,
        });
        let is_parted = claims
            .values()
            .any(|claim| claim.is_running() && has_partition(&claim.wishes));
        let housekeeping = self.facts.housekeeping(&owned);
        let threads = self.facts.kernel_threads.iter();
        for thread in threads.filter(|thread| !thread.bound && !thread.follows_irq()) {
            let target = Target::KernelThread(thread.id);
            let held = self.baseline(&target);
            let parent = parent.filter(|_| held.is_none());
            let born = parent.and_then(|parent| parent.natural(&thread.affinity, CpuSet::clone));
            if owned.is_empty() {
                let back = born.map(|born| Wish::back(Value::Cpus(born)));
                let left = || self.left_alone(thread, held).filter(|_| is_parted);
                desired.extend(back.or_else(left).map(|wish| (target, wish)));
                continue;
            }
            let was_cut = thread.affinity == self.facts.shared;
            let live = if was_cut {
                &self.facts.possible
            } else {
                &thread.affinity
            };
            let baseline = held.or(born.as_ref()).unwrap_or(live);
            let kept = baseline.intersection(&self.facts.online).difference(&owned);
            let value = if kept.is_empty() {
                housekeeping.clone()
            } else {
                kept
            };
            let baseline = Some(Value::Cpus(baseline.clone()));
            desired.insert(
                target,
                Wish {
                    value: Value::Cpus(value),
                    baseline,
                },
            );
        }
    }

    /// A kernel thread with CPUs of its own that nobody wishes to move has what the kernel gives it
    /// while there are partitions; what it had before is remembered, because the kernel forgets.
    fn left_alone(&self, thread: &KernelThread, held: Option<&CpuSet>) -> Option<Wish> {
        let Facts {
            possible, shared, ..
        } = self.facts;
        let baseline = held.unwrap_or(&thread.affinity);
        let is_own = baseline != possible && baseline != shared;
        let granted = baseline.intersection(shared);
        let is_usual = [baseline, shared, &granted, possible].contains(&&thread.affinity);
        (is_own && is_usual).then(|| Wish {
            value: Value::Cpus(thread.affinity.clone()),
            baseline: Some(Value::Cpus(baseline.clone())),
        })
    }

    /// An interrupt that is set up while the default is narrowed has the narrowed affinity for
    /// ever; without us it would have the default's baseline.
    fn interrupts(&self, claims: &Claims, desired: &mut Desired) {
        let owned = kept_off(claims, |wishes| wishes.interrupts);
        let default = Target::Knob(Knob::DefaultIrqAffinity, Place::Host);
        let parent = self.held.get(&default).and_then(Inherited::of);
        if !owned.is_empty() {
            let live = parent.map_or(&self.facts.default_irq_affinity, |parent| parent.baseline);
            let value = self.irq_cpus(live, &owned, None, 0);
            desired.insert(default, Value::Cpus(value).into());
        }
        for irq in &self.facts.irqs {
            let place = Place::Irq(irq.number, irq.actions.clone());
            let target = Target::Knob(Knob::IrqAffinity, place);
            let held = self.baseline(&target);
            let parent = parent.filter(|_| held.is_none());
            let at_birth = |default: &CpuSet| irq.affinity_at_birth(default, &self.facts.nodes);
            let born = parent.and_then(|parent| parent.natural(&irq.affinity, at_birth));
            if owned.is_empty() {
                let back = born.map(|born| Wish::back(Value::Cpus(born)));
                desired.extend(back.map(|wish| (target, wish)));
                continue;
            }
            let baseline = held.or(born.as_ref()).unwrap_or(&irq.affinity);
            let value = Value::Cpus(self.irq_cpus(baseline, &owned, irq.node, irq.number));
            let baseline = Some(Value::Cpus(baseline.clone()));
            desired.insert(target, Wish { value, baseline });
        }
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

    fn baseline(&self, target: &Target) -> Option<&CpuSet> {
        self.held.get(target).and_then(|held| held.baseline.cpus())
    }
}

/// Returns a cgroup path and those above it, the root of the hierarchy left out.
fn self_and_ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path
        .match_indices('/')
        .map(|(end, _)| end)
        .chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests;
