//! Containers: their lists of CPUs, rewritten in the form that PVE leaves alone.
//!
//! PVE's pvestatd compares each list with the CPUs that the root of the cgroup hierarchy has, every
//! ten seconds: a list that is too long is cut to its first CPUs, wherever these are, one that is
//! too short gets more, and containers with `cores:` are moved to CPUs that fewer containers have.
//! A list of the right length on housekeeping CPUs is therefore as good as any other one.

use std::collections::BTreeMap;

use super::claimed::{has_partition, is_exclusive, kept_off};
use super::view::View;
use super::wish::{Desired, Wish};
use crate::domain::claim::Claims;
use crate::domain::container::Container;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::knob::Knob;
use crate::domain::target::{Place, Target, Value};
use crate::domain::vm::Vmid;

/// CPUs that containers can have.
struct Offer {
    /// Those that PVE counts: all that are in no partition.
    counted: CpuSet,
    /// Those of them that nobody owns.
    free: CpuSet,
}

/// How many containers have each CPU.
#[derive(Default)]
struct Load(BTreeMap<CpuId, usize>);

impl View<'_> {
    /// A container whose list is as good as any other keeps it, so that PVE may go on balancing;
    /// the others keep what they can and get the CPUs that the fewest containers have.
    pub(super) fn containers(&self, claims: &Claims, desired: &mut Desired) {
        let owned = kept_off(claims, is_exclusive);
        if owned.is_empty() {
            return;
        }
        let parted = kept_off(claims, has_partition);
        let shared = &self.facts.shared;
        let offer = Offer {
            counted: shared.difference(&parted),
            free: shared.difference(&owned),
        };
        let listed = self.facts.containers.iter();
        let listed = listed.filter(|container| !container.cpus.is_empty());
        let listed: Vec<(&Container, usize)> = listed
            .map(|container| (container, self.share(container, &offer)))
            .collect();
        let lists = offer.lists(&listed);
        for (container, _) in listed.iter().filter(|(c, _)| !c.is_pinned()) {
            let list = lists.get(&container.ctid).unwrap_or(&container.cpus);
            for (place, live) in container.lists().filter(|(_, live)| !live.is_empty()) {
                let target = Target::Knob(Knob::ContainerCpus, place);
                let born = self.born(container, live, &parted);
                let born = born.filter(|_| !self.held.contains_key(&target));
                let wish = Wish {
                    value: Value::Cpus(list.clone()),
                    baseline: born.map(Value::Cpus),
                };
                desired.insert(target, wish);
            }
        }
    }

    /// Returns how many CPUs a container is to have: as many as PVE gives it, or as it had.
    fn share(&self, container: &Container, offer: &Offer) -> usize {
        let n = offer.counted.len();
        container.share(n).unwrap_or_else(|| {
            let place = Place::Container(container.ctid, container.run);
            let target = Target::Knob(Knob::ContainerCpus, place);
            let held = self.held.get(&target);
            let had = held.and_then(|held| held.baseline.cpus());
            had.unwrap_or(&container.cpus).len().min(n)
        })
    }

    /// Returns what PVE would have made of the list of a container that was born while partitions
    /// stand: it counts the CPUs in them too once they are back.
    fn born(&self, container: &Container, live: &CpuSet, parted: &CpuSet) -> Option<CpuSet> {
        let parted = parted.intersection(&self.facts.online);
        if parted.is_subset(&self.facts.shared) {
            return None;
        }
        let whole = self.facts.shared.union(&parted);
        let n = container.share(whole.len())?;
        let mut list = live.clone();
        let others = whole.difference(live);
        list.extend(others.iter().take(n.saturating_sub(live.len())));
        Some(list)
    }
}

impl Offer {
    /// Returns new lists for the containers whose list is not as good as any other. What PVE does
    /// not count is put where it leaves room, and does not count here either.
    fn lists(&self, containers: &[(&Container, usize)]) -> BTreeMap<Vmid, CpuSet> {
        let mut load = Load::default();
        let mut displaced = Vec::new();
        for (container, n) in containers {
            let stays = container.is_pinned() || self.suits(&container.cpus, *n);
            let kept = match stays {
                true => container.cpus.clone(),
                false => container
                    .cpus
                    .intersection(&self.free)
                    .iter()
                    .take(*n)
                    .collect(),
            };
            load.add(container, &kept);
            if !stays {
                displaced.push((*container, *n, kept));
            }
        }
        for (container, n, list) in &mut displaced {
            let added = self.missing(list, *n, &load);
            load.add(container, &added);
            list.extend(added.iter());
        }
        for (_, _, list) in displaced.iter_mut().filter(|(one, ..)| one.is_counted()) {
            self.level(list, &mut load);
        }
        let lists = displaced.into_iter();
        lists
            .map(|(container, _, list)| (container.ctid, list))
            .collect()
    }

    /// Tells whether a list is one that PVE would not change, on as many free CPUs as can be.
    fn suits(&self, list: &CpuSet, n: usize) -> bool {
        let is_free = list.is_subset(&self.free) || self.free.is_subset(list);
        list.len() == n && list.is_subset(&self.counted) && is_free
    }

    /// Returns what a list is short of so many CPUs: free ones as long as there are any, because
    /// PVE counts the others too where no partition hides them.
    fn missing(&self, list: &CpuSet, n: usize, load: &Load) -> CpuSet {
        let mut free: Vec<CpuId> = self.free.difference(list).iter().collect();
        free.sort_by_key(|cpu| (load.of(*cpu), *cpu));
        let others = self.counted.difference(&self.free);
        let n = n.saturating_sub(list.len());
        free.into_iter().chain(others.iter()).take(n).collect()
    }

    /// Exchanges CPUs of a list as PVE would, as long as another one has two containers less.
    fn level(&self, list: &mut CpuSet, load: &mut Load) {
        loop {
            let spare = self.free.difference(list);
            let idlest = spare.iter().min_by_key(|cpu| (load.of(*cpu), *cpu));
            let busiest = list.iter().max_by_key(|cpu| (load.of(*cpu), *cpu));
            let (Some(idlest), Some(busiest)) = (idlest, busiest) else {
                return;
            };
            if load.of(idlest) + 1 >= load.of(busiest) {
                return;
            }
            *list = list.difference(&CpuSet::of(busiest));
            list.insert(idlest);
            load.exchange(busiest, idlest);
        }
    }
}

impl Load {
    fn of(&self, cpu: CpuId) -> usize {
        self.0.get(&cpu).copied().unwrap_or_default()
    }

    fn add(&mut self, container: &Container, cpus: &CpuSet) {
        if !container.is_counted() {
            return;
        }
        cpus.iter()
            .for_each(|cpu| *self.0.entry(cpu).or_default() += 1);
    }

    fn exchange(&mut self, from: CpuId, to: CpuId) {
        *self.0.entry(from).or_default() -= 1;
        *self.0.entry(to).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
