//! The one function that decides: which value every target is to have.
//!
//! It knows nothing of what was written before; a target that no claim wishes for any more is
//! simply absent from its answer, and gets its baseline back.

mod containers;
mod devices;
mod kept_off;
pub mod knobs;
mod memory;
mod slices;
mod vm;

use std::collections::BTreeMap;

pub use self::containers::takes_cpus;
use super::claim::{Claim, Claims, Wishes};
use super::cpuset::CpuSet;
use super::facts::{Facts, VmFacts};
use super::gate::Backend;
use super::state::Held;
use super::target::{Target, Value};

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
    let taken = kept_off(claims, |wishes| wishes.backend == Backend::Slices);
    let view = View { held, facts, taken };
    let mut wishes = Desired::new();
    for claim in claims
        .values()
        .filter(|claim| claim.counts() && has_partition(&claim.wishes))
    {
        // Of a VM that is adopted it goes again, unless it was there before.
        let stays = claim.wishes.stays_delegated;
        let wish = Wish {
            value: Value::Present,
            baseline: stays.then_some(Value::Present),
        };
        wishes.insert(Target::Delegation(claim.vmid), wish);
    }
    view.memory(claims, &mut wishes);
    for (claim, vm) in in_force(claims, facts) {
        if has_partition(&claim.wishes) {
            view.partition(claim, vm, &mut wishes);
        }
        view.threads(&claim.wishes, vm, &mut wishes);
        memory::of_scope(claim, vm, &mut wishes);
    }
    view.slices(claims, &mut wishes);
    view.containers(claims, &mut wishes);
    view.kernel_threads(claims, &mut wishes);
    view.work(claims, &mut wishes);
    view.interrupts(claims, &mut wishes);
    devices::resets(claims, &mut wishes);
    view.drivers(claims, &mut wishes);
    knobs::wish(claims, facts, &mut wishes);
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

/// Tells whether the backend keeps everything else off the CPUs.
pub fn is_exclusive(wishes: &Wishes) -> bool {
    wishes.backend != Backend::Affinity
}

/// Returns the CPUs of the running claims that wish for something to be kept off them.
pub fn kept_off(claims: &Claims, wished: impl Fn(&Wishes) -> bool) -> CpuSet {
    let running = claims
        .values()
        .filter(|claim| claim.is_running() && wished(&claim.wishes));
    running.flat_map(|claim| claim.wishes.cpus.iter()).collect()
}

/// Returns the CPUs that an interrupt can go to when those that it was to go to have no vector
/// left, or `None` when there are no others.
pub fn other_irq_cpus(claims: &Claims, facts: &Facts, asked: &CpuSet) -> Option<CpuSet> {
    let owned = kept_off(claims, |wishes| wishes.interrupts);
    let others = facts.housekeeping(&owned).difference(asked);
    (!others.is_empty()).then_some(others)
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
    /// CPUs of running claims that everything else is kept off by its unit or cgroup.
    taken: CpuSet,
}

#[cfg(test)]
mod tests;
