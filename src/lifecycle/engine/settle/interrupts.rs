//! Interrupts, which do not simply go where they are sent: some move when they occur next, some
//! elsewhere, and some never.
//!
//! Without remapping x86 moves an interrupt when it occurs next. It needs a free vector on the new CPU (ENOSPC). A
//! managed one refuses (EIO, later EPERM; since Linux 6.11 its file is read-only: EACCES).

use std::collections::BTreeSet;
use std::time::Duration;

use super::settling::{LOOK_AGAIN, Settling};
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::{kept_off, other_irq_cpus};
use crate::domain::diff::Change;
use crate::domain::facts::Facts;
use crate::domain::stuck::{Fixed, Stuck};
use crate::domain::target::{Target, Value};
use crate::host::files::Files;
use crate::host::{Host, irq, target};

/// How long the moves of all interrupts are waited for together. Without interrupt remapping an
/// interrupt moves when it occurs next, which may be never.
const MOVE_WAIT: Duration = Duration::from_millis(50);

impl Settling<'_, '_> {
    /// Sends an interrupt for which its CPUs have no vector left to the other CPUs of the host.
    /// Returns whether it went.
    pub(super) fn send_elsewhere(
        &mut self,
        change: &Change,
        facts: &Facts,
    ) -> anyhow::Result<bool> {
        let (target, before, after) = (&change.target, &change.before, &change.after);
        let claims = &self.journal.state().claims;
        let asked = after.cpus().cloned().unwrap_or_default();
        let others = other_irq_cpus(claims, facts, &asked);
        let Some(others) = others.filter(|_| target.of_irq().is_some()) else {
            return Ok(false);
        };
        let mut held = self.held(target)?;
        let ours = Value::Cpus(others);
        held.turn_to(&ours);
        held.refused = held.refused.saturating_add(1);
        self.remember(target, held)?;
        let written = target::write(self.host, target, before, &ours);
        Ok(matches!(written, Ok(target::Outcome::Taken)))
    }

    /// Reports what has yet to move and what never will.
    pub(super) fn look_at_unmoved(&mut self) {
        let clock = &self.host.clock;
        let until = clock.since_boot() + MOVE_WAIT.min(self.host.left());
        let mut moving: Vec<&Target> = self.written.iter().collect();
        moving.retain(|target| self.is_moving(target));
        while !moving.is_empty() && clock.since_boot() < until {
            clock.wait_for_end(&[], LOOK_AGAIN);
            moving.retain(|target| self.is_moving(target));
        }
        self.report.n_moving = moving.len();
        let unchangeable = self.unchangeable.iter();
        let others = unchangeable.filter(|target| target.of_irq().is_none());
        self.report.n_unchangeable = others.count();
        self.report.stuck = self.stuck();
    }

    /// Returns the interrupts that stay on owned CPUs, of devices of which this run has found one: all of
    /// them count, those that an earlier run has found as well.
    fn stuck(&self) -> Vec<Stuck> {
        let state = self.journal.state();
        let owned = kept_off(&state.claims, |wishes| wishes.interrupts);
        let new = stuck_in(self.host, self.unchangeable.iter(), &owned);
        let held = state.held.iter().filter(|(_, held)| held.unchangeable);
        let all = held.map(|(target, _)| target).chain(&self.unchangeable);
        let all: BTreeSet<&Target> = all.collect();
        let mut stuck = stuck_in(self.host, all.into_iter(), &owned);
        stuck.retain(|one| new.iter().any(|new| new.device == one.device));
        stuck
    }

    /// Tells whether an interrupt that was moved in this run is still delivered elsewhere.
    fn is_moving(&self, target: &Target) -> bool {
        let asked = self.journal.state().held.get(target);
        let asked = asked.and_then(|held| held.ours.cpus());
        let effective = || {
            let (number, actions) = target.of_irq()?;
            let has_handler = !actions.is_empty();
            has_handler.then(|| irq::delivered_to(&*self.host.files, number))?
        };
        asked.is_some_and(|asked| {
            let effective = effective();
            effective.is_some_and(|effective| !effective.is_subset(asked))
        })
    }
}

/// Returns the interrupts among targets that are delivered to owned CPUs, by device.
pub fn stuck_in<'t>(
    host: &Host,
    targets: impl Iterator<Item = &'t Target>,
    owned: &CpuSet,
) -> Vec<Stuck> {
    let irqs = targets.filter_map(Target::of_irq);
    Stuck::by_device(irqs.map(|irq| fixed_irq(&*host.files, irq, owned)))
}

/// Returns what is to be known of an interrupt that nobody can move, given by its number and the
/// names of what handles it.
pub fn fixed_irq<'i>(
    files: &dyn Files,
    (number, actions): (u32, &'i str),
    owned: &CpuSet,
) -> Fixed<'i> {
    let cpus = irq::delivered_to(files, number).unwrap_or_default();
    Fixed {
        actions,
        cpus: cpus.intersection(owned),
        managed: irq::is_managed(files, number),
    }
}
