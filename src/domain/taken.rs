//! What a running QEMU has consumed (hugepages, bound devices): it is dropped from the state.

use super::claim::Claim;
use super::memory::Share;
use super::pci::binding::target;
use super::pools;
use super::state::{Record, State};
use super::table::AfterStop;
use super::target::Target;
use super::vm::Vmid;

/// Returns what the changes of claims in `records` mean for pools: a VM whose QEMU is up has taken its
/// pages, and PVE has set every pool of that size back.
pub fn pages(state: &State, records: &mut Vec<Record>) {
    let mut sizes = Vec::new();
    for record in records.iter_mut() {
        if let Record::Claim(claim) = record
            && !claim.state.is_reserved()
        {
            let shares = claim.wishes.memory.shares.drain(..);
            sizes.extend(shares.map(|share| share.pool.kib));
        }
    }
    if sizes.is_empty() {
        return;
    }
    let is_taken = |share: &Share| sizes.contains(&share.pool.kib);
    for claim in pools::starting(&state.claims) {
        let is_changed = records.iter().any(|record| is_of(record, claim.vmid));
        if !is_changed && claim.wishes.memory.shares.iter().any(is_taken) {
            records.push(Record::Claim(Box::new(without(claim, is_taken))));
        }
    }
    let held = state
        .held
        .keys()
        .filter(|target| matches!(target, Target::Hugepages(pool) if sizes.contains(&pool.kib)));
    let held: Vec<Target> = held.cloned().collect();
    if !held.is_empty() {
        records.push(Record::Forget(held));
    }
}

fn is_of(record: &Record, vmid: Vmid) -> bool {
    match record {
        Record::Claim(claim) => claim.vmid == vmid,
        Record::End(ended) => *ended == vmid,
        _ => false,
    }
}

fn without(claim: &Claim, is_taken: impl Fn(&Share) -> bool) -> Claim {
    let mut claim = claim.clone();
    claim.wishes.memory.shares.retain(|share| !is_taken(share));
    claim
}

/// Adds to `records` that nothing is remembered any more of functions that stay with vfio-pci, once
/// QEMU has them.
pub fn functions(state: &State, records: &mut Vec<Record>) {
    let mut stay = Vec::new();
    for record in records.iter() {
        if let Record::Claim(claim) = record
            && claim.qemu().is_some()
        {
            let addresses = claim.bindings.iter();
            let staying = addresses.filter(|(_, after)| **after == AfterStop::Stay);
            stay.extend(staying.map(|(address, _)| target(address)));
        }
    }
    stay.retain(|target| state.held.contains_key(target));
    if !stay.is_empty() {
        records.push(Record::Forget(stay));
    }
}
