//! Writing one target, and reading it back: the kernel may have taken a write and done something else.

use std::collections::BTreeMap;
use std::time::Duration;

use super::settling::{LOOK_AGAIN, Pass, Settling};
use crate::domain::diff::{Change, Context};
use crate::domain::facts::Facts;
use crate::domain::frequency::{self, Frequencies};
use crate::domain::stage::Stage;
use crate::domain::target::{Target, Value};
use crate::host::cpufreq;
use crate::host::target::{self, Outcome};
use crate::lifecycle::engine::observe::{context, effective_cpus, shared_cpus};
use crate::lifecycle::engine::report::Problem;

/// How long the kernel may take to apply what it has taken, for one target.
const APPLY_WAIT: Duration = Duration::from_millis(500);

impl Settling<'_, '_> {
    /// Writes a change; returns what is wrong with what came of it, if something is.
    pub(super) fn write(
        &mut self,
        pass: Pass,
        change: &Change,
        facts: &Facts,
    ) -> anyhow::Result<Option<Problem>> {
        let (target, before, after) = (&change.target, &change.before, &change.after);
        if pass == Pass::Acquire && self.is_of_nobody(target, facts) {
            return Ok(None);
        }
        match target::write(self.host, target, before, after) {
            Ok(Outcome::Taken) => {
                self.report.n_changes += 1;
                self.written.insert(target.clone());
                let problem = self.verify(change, facts);
                if problem.is_none() && self.is_to_be_marked(target) {
                    self.journal.mark_written(target);
                }
                Ok(problem)
            }
            Ok(Outcome::Gone) if pass == Pass::Acquire => Ok(self.missing(change)),
            Ok(Outcome::Gone) => Ok(None),
            Ok(Outcome::Unchangeable(error))
                if self.gives_back(pass, change) || self.was_moved(change) =>
            {
                // An interrupt that was moved before can be moved back.
                if target.of_irq().is_none() {
                    self.mark_unchangeable(target)?;
                }
                Ok(Some(Problem::refused(change, &error)))
            }
            Ok(Outcome::Unchangeable(_)) => {
                self.unchangeable.insert(target.clone());
                self.mark_unchangeable(target).map(|()| None)
            }
            Err(error)
                if pass == Pass::Acquire
                    // The CPUs that an interrupt was to go to have no vector left for it.
                    && error.raw_os_error() == Some(libc::ENOSPC)
                    && self.send_elsewhere(change, facts)? =>
            {
                self.report.n_changes += 1;
                Ok(None)
            }
            Err(error) => Ok(Some(Problem::refused(change, &error))),
        }
    }

    /// Tells whether a change gives a target what it had: a pass that gives back also writes what
    /// the claims that stay wish for then.
    fn gives_back(&self, pass: Pass, change: &Change) -> bool {
        let held = self.journal.state().held.get(&change.target);
        pass == Pass::Release && held.is_some_and(|held| held.baseline == change.after)
    }

    /// Tells whether a change is of an interrupt that has been moved: its mask is not what it had.
    fn was_moved(&self, change: &Change) -> bool {
        let held = self.journal.state().held.get(&change.target);
        change.target.of_irq().is_some() && held.is_some_and(|held| held.baseline != change.before)
    }

    /// Tells whether a write that was done has to be remembered as done at once.
    fn is_to_be_marked(&self, target: &Target) -> bool {
        let held = self.journal.state().held.get(target);
        target.stage() == Stage::Threads || held.is_some_and(|held| held.refused > 0)
    }

    /// Returns the problem of a file that is missing although its cgroup is there: the controller
    /// is not available in it.
    fn missing(&self, change: &Change) -> Option<Problem> {
        let group = change.target.group()?;
        let is_there = target::read(self.host, &Target::Group(group.to_owned())).ok()?;
        (is_there == Value::Present).then(|| Problem::differs(change, &Value::Absent))
    }

    /// Reads a target back: the kernel may have taken the write and done something else.
    fn verify(&mut self, change: &Change, facts: &Facts) -> Option<Problem> {
        let target = &change.target;
        let mut live = target::read_back(self.host, target).ok()?;
        let mut is_well = self.is_well(change, &live, facts);
        let is_rounded = |live: &Value| self.is_rounded(change, live);
        let is_applied_later = target.row().is_some_and(|row| row.is_applied_later);
        if !is_well && !is_rounded(&live) && is_applied_later {
            let wait = self.patience.min(APPLY_WAIT).min(self.host.left());
            let clock = &self.host.clock;
            let begin = clock.since_boot();
            while !is_well && !is_rounded(&live) && clock.since_boot() < begin + wait {
                clock.wait_for_end(&[], LOOK_AGAIN);
                live = target::read(self.host, target).ok()?;
                is_well = self.is_well(change, &live, facts);
            }
            self.patience = self.patience.saturating_sub(clock.since_boot() - begin);
        }
        match is_well {
            true => None,
            false if self.is_rounded(change, &live) => Some(Problem::rounded(change, &live)),
            false => Some(Problem::differs(change, &live)),
        }
    }

    /// Tells whether a frequency is what the kernel makes of the one that was written.
    fn is_rounded(&self, change: &Change, live: &Value) -> bool {
        let policy = frequency::limit_of(&change.target).map(|(_, policy)| policy);
        let range = policy.and_then(|policy| {
            let range = cpufreq::range(&*self.host.files, policy, None)?;
            Some((policy, range))
        });
        let ranges: Frequencies = range.into_iter().collect();
        frequency::may_show(&ranges, &change.target, live, &change.after)
    }

    /// Tells whether a target has what was written, or what its cpuset leaves of that.
    fn is_well(&self, change: &Change, live: &Value, facts: &Facts) -> bool {
        let Change { target, after, .. } = change;
        let (effective, births) = (BTreeMap::new(), BTreeMap::new());
        let now = self.host.clock.since_boot();
        let context = context(facts, &effective, &births, &self.written, now);
        if *live == Value::Absent || context.same(target, live, after) {
            return true;
        }
        // Partitions may have come and gone since the round began.
        let Ok(shared) = shared_cpus(self.host) else {
            return true;
        };
        let context = Context {
            shared: shared.as_ref().unwrap_or(&facts.shared),
            effective: &effective_cpus(self.host, [target]),
            ..context
        };
        context.granted(target, live, after)
    }
}
