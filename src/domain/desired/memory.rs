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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::claim::ClaimState;
    use crate::domain::desired::desired;
    use crate::domain::desired::tests::{SCOPE, claim, claims, facts, id, task};
    use crate::domain::memory::Pool;
    use crate::domain::state::Held;

    /// A VM whose claim has failed would be limited to nodes at its next start; a scope that systemd has not
    /// limited would be given back as if it had.
    #[test]
    fn nodes_are_limited_as_long_as_the_claim_counts() {
        let (qemu, reason) = (task(50), String::new());
        let scope = Target::Knob(Knob::ScopeNodes, Place::Group(SCOPE.to_owned()));
        for (state, limited, has_nodes, has_scope) in [
            (ClaimState::Waiting { qemu }, "0", true, false),
            (ClaimState::Running { qemu }, "0", true, true),
            (ClaimState::Running { qemu }, "", true, false),
            (ClaimState::Failed { qemu, reason }, "0", false, false),
        ] {
            let what = format!("{state} {limited}");
            let mut claim = Claim { state, ..claim() };
            claim.wishes.memory.nodes = [0].into();
            let mut facts = facts();
            facts.vms.get_mut(&id(100)).unwrap().nodes = limited.parse().unwrap();
            let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts);
            let has = |target: &Target| wishes.contains_key(target);
            assert_eq!(has(&Target::MemoryNodes(id(100))), has_nodes, "{what}");
            assert_eq!(has(&scope), has_scope, "{what}");
        }
    }

    /// Hugepages that were added for a VM would stay taken from the host for ever.
    #[test]
    fn a_pool_is_given_back_as_it_was_before_the_first_vm() {
        let pool = Pool { node: 0, kib: 2048 };
        let target = Target::Hugepages(pool);
        let number = |n: u64| Value::Text(n.to_string());
        let held = Held::new(number(4), number(9));
        let held = BTreeMap::from([(target.clone(), held)]);
        for (held, all, before) in [(BTreeMap::new(), 11, 9), (held, 6, 4)] {
            let (starter, deadline) = (task(40), std::time::Duration::ZERO);
            let state = ClaimState::Reserved { starter, deadline };
            let mut claim = Claim { state, ..claim() };
            claim.wishes.memory.shares = vec![Share {
                pool,
                needed: 2,
                before: 9,
                added: 2,
            }];
            let wishes = desired(&claims([claim]), &held, &facts());
            let expected = Wish::with(number(all), number(before));
            assert_eq!(wishes[&target], expected);
        }
    }
}
