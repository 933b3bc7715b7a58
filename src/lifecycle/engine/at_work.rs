//! What children are at work on, as far as the units that they run in tell.

use std::collections::BTreeSet;

use super::inventory::holders::in_use;
use crate::domain::pci::binding::function_of;
use crate::domain::state::State;
use crate::domain::target::{Place, Target};
use crate::domain::vm::Vmid;
use crate::host::{Host, pci, slow};

/// Name of the unit that takes CPUs offline and back; there is one at a time, under the host lock.
pub const SCRUB: &str = "scrub";

/// Returns the name of the unit that gives a function another driver.
pub fn of_function(address: &str) -> String {
    format!("driver-{}", address.replace(':', "-"))
}

/// Tells whether a child may still be taking CPUs offline and back: also a late one whose unit was told
/// to end does when the kernel lets go of it.
pub fn is_scrub(host: &Host) -> bool {
    slow::is_at_work(host, SCRUB).unwrap_or(true)
}

/// Returns the functions in hand that a child is at work on; where that cannot be told, all of them.
pub fn functions(host: &Host, state: &State) -> BTreeSet<String> {
    let held = state.held.keys().filter_map(|target| match target {
        Target::Driver(address) | Target::Knob(_, Place::Function(address)) => {
            Some(address.clone())
        }
        _ => None,
    });
    let held: BTreeSet<String> = held.collect();
    let held = held.into_iter();
    held.filter(|address| is_function(host, address)).collect()
}

/// Tells whether a child is at work on a function.
pub fn is_function(host: &Host, address: &str) -> bool {
    slow::is_at_work(host, &of_function(address)).unwrap_or(true)
}

/// Returns the functions that keep the driver for VMs: some VM has them or is being given them, a
/// child is still at work on them, or they have virtual functions, which would go. The VM `own` is the
/// one that is being started. Where it cannot be told who has them, all of them.
pub fn kept(host: &Host, state: &State, own: Option<Vmid>) -> BTreeSet<String> {
    let held = state.held.keys().filter_map(function_of);
    let held: BTreeSet<String> = held.map(str::to_owned).collect();
    if held.is_empty() {
        return held;
    }
    let Ok(used) = in_use(host, own) else {
        return held;
    };
    let has_virtuals = |address: &str| {
        let function = pci::function(&*host.files, address);
        function.is_some_and(|function| !function.virtuals.is_empty())
    };
    let kept = held.into_iter().filter(|address| {
        used.contains(address) || is_function(host, address) || has_virtuals(address)
    });
    kept.collect()
}
