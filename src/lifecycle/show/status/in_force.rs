//! How much of what a VM owns is in force, by what the host shows.

use super::drift::is_rounded;
use crate::domain::backend::Backend;
use crate::domain::claim::Claim;
use crate::domain::desired::has_partition;
use crate::domain::level::{Kept, Level};
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::target::{Target, Value};
use crate::lifecycle::engine::look::Look;

/// What the host shows of a VM itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    /// Whether its partitions are there and valid.
    pub partitions: bool,
    /// Whether its vCPUs are where they should be.
    pub vcpus: bool,
}

/// Returns the level of a VM that runs with its claim.
pub(super) fn level(claim: &Claim, state: &State, seen: &Look, own: Own) -> Level {
    let wished = Kept::of_wishes(&claim.wishes);
    let is_taken = match has_partition(&claim.wishes) {
        true => own.partitions,
        false => !differs(seen, Stage::Slices),
    };
    let kept = Kept {
        backend: match is_taken {
            true => wished.backend,
            false => wished.backend.map(|_| Backend::Affinity),
        },
        kernel_threads: wished.kernel_threads && !is_on(claim, state, seen, Stage::KernelThreads),
        interrupts: wished.interrupts && !is_on(claim, state, seen, Stage::Interrupts),
        power: wished.power && !differs(seen, Stage::Power),
        timers: wished.timers && !differs(seen, Stage::Host),
        ..wished
    };
    Level::in_force(claim, &wished, own.vcpus.then_some(&kept))
}

/// Tells whether something of a stage that is to be kept off the CPUs of a VM may be on them. What the kernel
/// moves for nobody does not count.
fn is_on(claim: &Claim, state: &State, seen: &Look, stage: Stage) -> bool {
    let cpus = &claim.wishes.cpus;
    let may_be = |value: Option<&Value>| {
        let on = value.and_then(Value::cpus);
        on.is_some_and(|on| !on.is_disjoint(cpus))
    };
    let is_fixed = |target| state.held.get(target).is_some_and(|held| held.unchangeable);
    seen.wishes.iter().any(|(target, wish)| {
        target.stage() == stage
            && !may_be(Some(&wish.value))
            && may_be(seen.live.get(target))
            && !is_fixed(target)
    })
}

/// Tells whether something of a stage is not as it should be.
fn differs(seen: &Look, stage: Stage) -> bool {
    let changes = seen.diff.changes.iter();
    let changes =
        changes.filter(|change| !is_rounded(seen, &change.target, &change.before, &change.after));
    let drift = seen.diff.drift.iter().map(|drift| &drift.target);
    let mut targets = changes.map(|change| &change.target).chain(drift);
    targets.any(|target: &Target| target.stage() == stage)
}
