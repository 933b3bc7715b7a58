//! What stays on the owned CPUs of a VM, and how they are cleared of the rest.

use std::collections::BTreeSet;

use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::Facts;
use crate::domain::scrub::{scrubbed, skipped};
use crate::domain::stuck::Stuck;
use crate::domain::vm::Vmid;
use crate::host::irq;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::settle::fixed_irq;

/// Returns what the kernel calls all threads of a kind: those of one CPU have its number behind a slash.
fn kind(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

impl Run<'_> {
    /// Returns what is to be told of the owned CPUs of a VM: what the kernel leaves on them, and how
    /// they are cleared of the rest.
    pub(super) fn what_stays(&self, claims: &Claims, vmid: Vmid, facts: &Facts) -> Vec<String> {
        let owned = claims.get(&vmid).map(|claim| claim.wishes.cpus.clone());
        let owned = owned.unwrap_or_default();
        let bound = facts.kernel_threads.iter();
        let bound = bound.filter(|thread| thread.bound && !thread.affinity.is_disjoint(&owned));
        let mut notices = Vec::new();
        // Not their number: kworkers of a CPU come and go with its work.
        let names: BTreeSet<_> = bound.map(|thread| kind(&thread.comm)).collect();
        if !names.is_empty() {
            let text = "kernel threads that are bound to owned cpus stay there";
            let names: Vec<_> = names.into_iter().collect();
            notices.push(format!("{text}: {}", names.join(", ")));
        }
        let wishes = claims.get(&vmid).map(|claim| &claim.wishes);
        notices.extend(wishes.and_then(|wishes| skipped(wishes, claims, vmid)));
        let cleared = scrubbed(claims, &[vmid], facts);
        if !cleared.is_empty() {
            let cpus = cleared.in_words();
            let text = format!("{cpus} are taken offline and back before they are isolated");
            notices.push(text);
        }
        notices.extend(self.stuck(facts, &owned));
        notices
    }

    /// Returns what is to be told of interrupts on `owned` that the kernel lets nobody move, where
    /// it shows that (Linux 6.11 and later take the permission to write from their files).
    fn stuck(&self, facts: &Facts, owned: &CpuSet) -> Vec<String> {
        let files = &*self.host.files;
        let fixed = facts
            .irqs
            .iter()
            .filter(|irq| !irq.affinity.is_disjoint(owned) && irq::is_fixed(files, irq.number));
        let irqs = fixed.map(|irq| fixed_irq(files, (irq.number, &irq.actions), owned));
        let stuck = Stuck::by_device(irqs);
        stuck.iter().map(Stuck::to_string).collect()
    }
}
