//! What a VM wishes for itself: its partition and its threads.

use super::claimed::has_partition;
use super::view::View;
use super::wish::{Desired, Wish};
use crate::domain::backend::Backend;
use crate::domain::claim::{Claim, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::VmFacts;
use crate::domain::knob::Knob;
use crate::domain::table::Scheduler;
use crate::domain::target::{Place, Target, Value};
use crate::domain::thread::{Role, Thread};

impl View<'_> {
    /// A threaded cgroup below the VM's scope is a remote partition; every cgroup above it
    /// passes its CPUs down, and those above several VMs the union of theirs. The controller is
    /// passed down as well: systemd does not do that in the slice of a scope that is already
    /// there when it learns of its delegation (recorded).
    pub(super) fn partition(&self, claim: &Claim, vm: &VmFacts, wishes: &mut Desired) {
        let file = |knob, group: &str| Target::Knob(knob, Place::Group(group.to_owned()));
        let kind = match claim.wishes.backend {
            Backend::Isolated if claim.ending.is_none() => "isolated",
            _ => "root",
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
                wishes.insert(file(knob, &group), Wish::with(value, Value::Absent));
            }
            wishes.insert(Target::Group(group), Value::Present.into());
        }
    }

    pub(super) fn threads(&self, wishes: &Wishes, vm: &VmFacts, desired: &mut Desired) {
        let mut n_vhost = 0;
        let mut threads: Vec<&Thread> = vm.threads.iter().filter(|thread| !thread.bound).collect();
        // QEMU makes the vhost workers queue by queue; their numbers begin again at `pid_max`.
        threads.sort_unstable_by_key(|thread| (thread.id.start, thread.id.tid));
        for thread in threads {
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
            let cpus = match wishes.backend {
                Backend::Slices => cpus.or_else(|| self.left_to_the_host(wishes)),
                _ => cpus,
            };
            if matches!(role, Role::Vcpu(_))
                && wishes.scheduler != Scheduler::Other
                && cpus.is_some()
            {
                let class = Value::Text(wishes.scheduler.to_string());
                desired.insert(Target::Class(thread.id), class.into());
            }
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
        let is_below = thread.group != vm.scope;
        let membership = Target::Membership(thread.id);
        if group != thread.group || self.held.contains_key(&membership) {
            let scope = Value::Text(vm.scope.clone());
            desired.insert(membership, Wish::with(Value::Text(group.clone()), scope));
        }
        let affinity = Target::Affinity(thread.id);
        let is_held = self.held.contains_key(&affinity);
        let cpus = match cpus {
            Some(cpus) if group == vm.scope => self.granted(&cpus, wishes, vm),
            None if is_below || is_held => Some(self.effective(vm).difference(&wishes.cpus)),
            cpus => cpus,
        };
        if let Some(cpus) = cpus {
            let natural = wishes.affinity.as_ref().unwrap_or(&self.facts.possible);
            let was_cut = thread.affinity == natural.intersection(self.effective(vm));
            // In a cgroup of ours it shows what that left of its affinity.
            let is_cut = was_cut || is_below;
            let baseline = if is_cut { natural } else { &thread.affinity };
            let wish = Wish::with(Value::Cpus(cpus), Value::Cpus(baseline.clone()));
            desired.insert(affinity, wish);
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

    /// Returns what the kernel grants of `cpus` outside of partitions: other VMs may own some, units
    /// above the VM may leave out some, and if none is left, asking for them would fail.
    fn granted(&self, cpus: &CpuSet, wishes: &Wishes, vm: &VmFacts) -> Option<CpuSet> {
        let taken = self.taken.difference(&wishes.cpus);
        let granted = cpus.intersection(self.effective(vm)).difference(&taken);
        (!granted.is_empty()).then_some(granted)
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
