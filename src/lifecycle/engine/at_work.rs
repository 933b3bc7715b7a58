//! Errands by name: what children do in units of their own, and which of them are at work.

use std::collections::BTreeSet;

use super::inventory::holders::in_use;
use crate::domain::cpuset::CpuSet;
use crate::domain::pci::binding::function_of;
use crate::domain::state::State;
use crate::domain::target::{Place, Target};
use crate::domain::vm::Vmid;
use crate::host::errand::{Errand, Write};
use crate::host::{Host, pci};

/// Returns the errand that takes CPUs offline and back, one CPU after the other; there is one at a time,
/// under the host lock.
pub fn scrub(cpus: &CpuSet) -> Errand {
    let both = cpus.iter().flat_map(|cpu| {
        let path = Target::online(cpu).path();
        ["0", "1"].map(|text| Write::new(path.as_str(), text))
    });
    Errand::new("scrub", both.collect())
}

/// Returns the errand that gives a function another driver.
pub fn of_function(address: &str, writes: Vec<Write>) -> Errand {
    Errand::new(format!("driver-{}", address.replace(':', "-")), writes)
}

/// Returns the errand that resets the functions of a VM.
pub fn of_reset(vmid: Vmid, writes: Vec<Write>) -> Errand {
    Errand::new(format!("pci-{vmid}"), writes)
}

/// Returns the errand that finds the functions of a VM again that were removed.
pub fn of_return(vmid: Vmid, writes: Vec<Write>) -> Errand {
    Errand::new(format!("pci-back-{vmid}"), writes)
}

/// Tells whether a child may still be taking CPUs offline and back: also a late one whose unit was told
/// to end does when the kernel lets go of it.
pub fn is_scrub(host: &Host) -> bool {
    scrub(&CpuSet::new()).is_at_work(host).unwrap_or(true)
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
    let errand = of_function(address, Vec::new());
    errand.is_at_work(host).unwrap_or(true)
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
