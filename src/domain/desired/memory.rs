//! Where the memory of VMs comes from.

use super::view::View;
use super::wish::{Desired, Wish};
use crate::domain::claim::{Claim, Claims};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::facts::VmFacts;
use crate::domain::knob::Knob;
use crate::domain::memory::Share;
use crate::domain::pools;
use crate::domain::target::{Place, Target, Value};

/// What systemd has set is remembered as ours: nothing was set before.
pub(super) fn of_scope(claim: &Claim, vm: &VmFacts, desired: &mut Desired) {
    let nodes = &claim.wishes.memory.nodes;
    if nodes.is_empty() || vm.nodes.is_empty() {
        return;
    }
    let target = Target::Knob(Knob::ScopeNodes, Place::Group(vm.scope.clone()));
    let nodes = Value::Cpus(nodes.iter().map(|node| CpuId(*node)).collect());
    desired.insert(target, Wish::with(nodes, Value::Cpus(CpuSet::new())));
}

impl View<'_> {
    /// The nodes are in force before QEMU allocates, and stay as long as the claim. The pools are
    /// those of starts: what QEMU has taken is none of ours any more.
    pub(super) fn memory(&self, claims: &Claims, desired: &mut Desired) {
        for claim in claims.values().filter(|claim| claim.counts()) {
            let memory = &claim.wishes.memory;
            if !memory.nodes.is_empty() {
                let wish = Wish::with(Value::Text(memory.node_list()), Value::Absent);
                desired.insert(Target::MemoryNodes(claim.vmid), wish);
            }
        }
        for claim in pools::starting(claims) {
            for share in &claim.wishes.memory.shares {
                let target = Target::Hugepages(share.pool);
                let before = self.before(&target, share);
                let added = pools::starting(claims)
                    .flat_map(|claim| pools::of_pool(claim, share.pool))
                    .map(|share| share.added);
                let number = |n: u64| Value::Text(n.to_string());
                let all = number(before + added.sum::<u64>());
                desired.insert(target, Wish::with(all, number(before)));
            }
        }
    }

    /// Returns what a pool had before anything was added.
    fn before(&self, target: &Target, share: &Share) -> u64 {
        let held = self.held.get(target).map(|held| held.baseline.to_string());
        let known = held.and_then(|text| text.parse().ok());
        known.unwrap_or(share.before)
    }
}
