//! The one function that decides: which value every target is to have.
//!
//! It knows nothing of what was written before; a target that no claim wishes for any more is
//! simply absent from its answer, and gets its baseline back.

mod claimed;
mod containers;
mod devices;
mod inherited;
mod kept_off;
pub mod knobs;
mod memory;
mod slices;
mod view;
mod vm;
mod wish;

use std::collections::BTreeMap;

use claimed::in_force;
pub use claimed::{has_partition, is_exclusive, kept_off, other_irq_cpus};
use view::View;
pub use wish::{Desired, Wish};

use super::backend::Backend;
use super::claim::Claims;
use super::facts::Facts;
use super::state::Held;
use super::target::{Target, Value};

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

#[cfg(test)]
mod tests;
