//! What of a stage is not as it is wished, or as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::settling::{Pass, Settling};
use crate::domain::desired::{Desired, Wish};
use crate::domain::diff::{Diff, diff};
use crate::domain::facts::Facts;
use crate::domain::scrub::waits_for_cpus;
use crate::domain::stage::Stage;
use crate::domain::target::{Target, Value};
use crate::lifecycle::engine::observe::{context, effective_cpus, live_values};
use crate::lifecycle::engine::report::Problem;

impl Settling<'_, '_> {
    /// Compares the targets of a stage; those that already made a problem are left alone.
    pub(super) fn compare(
        &self,
        pass: Pass,
        stage: Stage,
        wishes: &Desired,
        facts: &Facts,
    ) -> (Diff, Vec<Problem>) {
        let state = self.journal.state();
        // Of all that is held and wished for a stage has a part: what is dear is asked of that alone.
        let held = state.held.iter().filter(|(target, held)| {
            let is_of_stage = pass == Pass::Release && target.stage() == stage;
            is_of_stage
                && wishes
                    .get(target)
                    .is_none_or(|wish| wish.value != held.ours)
        });
        // Interrupts and kernel threads that were born narrowed are held by nobody.
        let is_born =
            |target: &Target, wish: &Wish| wish.gives_back() && !target.stage().is_essential();
        let wished = wishes
            .iter()
            .filter(|(target, wish)| pass == Pass::Acquire || is_born(target, wish));
        let targets: BTreeSet<&Target> = held
            .map(|(target, _)| target)
            .chain(wished.map(|(target, _)| target))
            .filter(|target| target.stage() == stage && !self.report.has_problem(target))
            .filter(|target| !facts.is_at_work(target))
            .collect();
        let effective = effective_cpus(self.host, targets.iter().copied());
        let seen = live_values(self.host, facts, targets);
        let births = match stage {
            Stage::Interrupts => facts.births(),
            _ => BTreeMap::new(),
        };
        let now = self.host.clock.since_boot();
        let context = context(facts, &effective, &births, &self.written, now);
        let mut diff = diff(wishes, &state.held, &seen.live, context);
        let is_there = |target: &Target| seen.live.get(target) != Some(&Value::Absent);
        let waits = |target: &Target| waits_for_cpus(&state.held, target, &facts.online);
        diff.forget
            .retain(|target| !(is_there(target) && waits(target)));
        (diff, self.unread(&seen.unread))
    }

    /// Tells of targets that cannot be read: what was never touched is left alone, and told when a VM
    /// gets its CPUs; of settings the start told.
    fn unread(&self, unread: &[(Target, io::Error)]) -> Vec<Problem> {
        let is_told = |target: &Target| match self.journal.state().held.contains_key(target) {
            true => true,
            false if target.stage().is_setting() => false,
            false => target.stage().is_essential() || !self.new.is_empty(),
        };
        let unread = unread.iter().filter(|(target, _)| is_told(target));
        let unread = unread.map(|(target, error)| Problem::unread(target, error));
        unread.collect()
    }
}
