//! What is kept off owned CPUs by its unit or cgroup, where there is no partition.
//!
//! The VM's own scope stays open: its threads are pinned one by one. Every other unit is cut, and
//! so is the scope of a VM by the CPUs of the others.
//!
//! `AllowedCPUs=` holds until reboot. What cannot be promised: before Linux 6.2 threads lose the affinities that they
//! asked for, up to 6.12 programs keep the CPUs of a list that goes with the controller, and a unit that starts
//! meanwhile runs on owned CPUs until the next reconcile.

use super::claimed::in_force;
use super::view::View;
use super::wish::{Desired, Wish};
use crate::domain::claim::{Claims, Wishes};
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::GroupFacts;
use crate::domain::knob::Knob;
use crate::domain::target::{Place, Target, Value};

impl View<'_> {
    /// A VM that runs without a claim in force owns nothing: its scope is cut like any other.
    pub(super) fn slices(&self, claims: &Claims, desired: &mut Desired) {
        for (path, group) in &self.facts.groups {
            let mut owners = in_force(claims, self.facts).filter(|(_, vm)| vm.scope == *path);
            let taken = match owners.next() {
                Some((claim, _)) => self.taken.difference(&claim.wishes.cpus),
                None => self.taken.clone(),
            };
            self.cut(path, group, &taken, desired);
        }
    }

    fn cut(&self, path: &str, group: &GroupFacts, taken: &CpuSet, desired: &mut Desired) {
        let list = |knob| Target::Knob(knob, Place::Group(path.to_owned()));
        let Some((unit, allowed)) = &group.unit else {
            let list = list(Knob::OutsideCpus);
            let baseline = self.baseline(&list).or(group.listed.as_ref());
            if let Some(cpus) = baseline.and_then(|baseline| self.rest(baseline, taken)) {
                desired.insert(list, Value::Cpus(cpus).into());
            }
            return;
        };
        let property = Target::AllowedCpus(unit.clone());
        let held = self.baseline(&property);
        let Some(cpus) = self.rest(held.unwrap_or(allowed), taken) else {
            return;
        };
        // What systemd leaves in the file when it is told to allow all again is taken back too.
        if let Some(live) = &group.listed {
            let before = Value::Cpus(held.unwrap_or(live).clone());
            let wish = Wish::with(Value::Cpus(cpus.clone()), before);
            desired.insert(list(Knob::ListedCpus), wish);
        }
        desired.insert(Target::DropIn(unit.clone()), Value::Present.into());
        desired.insert(property, Value::Cpus(cpus).into());
    }

    /// Returns what is left of a list of CPUs, of which the empty one stands for all, when some are
    /// taken; `None` when it is the whole list.
    fn rest(&self, list: &CpuSet, taken: &CpuSet) -> Option<CpuSet> {
        let all = match list.is_empty() {
            true => &self.facts.possible,
            false => list,
        };
        let rest = all.difference(taken);
        let is_usable = !rest.is_disjoint(&self.facts.online);
        match is_usable {
            _ if rest == *all => None,
            true => Some(rest),
            false => Some(self.facts.housekeeping(&self.taken)),
        }
    }

    /// Returns where the threads of a VM run that nothing else is said about: without a partition
    /// they would run on the CPUs of its vCPUs.
    pub(super) fn left_to_the_host(&self, wishes: &Wishes) -> Option<CpuSet> {
        let natural = wishes.affinity.as_ref();
        self.rest(natural.unwrap_or(&self.facts.possible), &self.taken)
    }
}
