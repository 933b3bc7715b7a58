//! What became of writes that the kernel did not simply do: refused ones, which are tried a few
//! times over the runs and told once, and interrupts that move later or never.

use std::io;
use std::time::Duration;

use anyhow::Context;

use super::{LOOK_AGAIN, Problem, Settling};
use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::{desired, has_partition, kept_off, other_irq_cpus};
use crate::domain::diff::{Answer, Change, Drift};
use crate::domain::facts::{Facts, VmFacts};
use crate::domain::knob::Knob;
use crate::domain::state::{Held, Record};
use crate::domain::stuck::{Fixed, Stuck};
use crate::domain::target::{Place, Stage, Target, Value};
use crate::domain::vm::Vmid;
use crate::host::files::Files;
use crate::host::surroundings::is_service_running;
use crate::host::{Host, cgroup, irq, systemd, target};
use crate::lifecycle::engine::observe::observe;

/// How long the moves of all interrupts are waited for together. Without interrupt remapping an
/// interrupt moves when it occurs next, which may be never.
const MOVE_WAIT: Duration = Duration::from_millis(50);

impl Settling<'_, '_> {
    /// Observes what these stages depend on; `None` where systemd does not answer in time, which is no
    /// failure: reconcile finishes what was begun.
    pub(in crate::lifecycle) fn observed(
        &mut self,
        stages: &[Stage],
    ) -> anyhow::Result<Option<Facts>> {
        match observe(self.host, self.journal.state(), stages) {
            Err(error) if systemd::is_late(&error) => {
                self.leave_to_reconcile(format!("{error:#}"));
                Ok(None)
            }
            facts => facts.map(Some),
        }
    }

    /// Tells why this run does not come to its end.
    pub(in crate::lifecycle) fn leave_to_reconcile(&mut self, why: String) {
        self.report.warnings.push(why);
        self.report.is_unfinished = true;
    }

    /// Remembers that the kernel refused a target what it was to have, and what it has instead; once that
    /// it could not be read. Returns whether it had done so before.
    pub(super) fn count_refusal(
        &mut self,
        target: &Target,
        is_of_reading: bool,
    ) -> anyhow::Result<bool> {
        let held = self.held(target)?;
        let is_known = held.refused > 0;
        if is_known && is_of_reading {
            return Ok(true);
        }
        let live = target::read(self.host, target).ok();
        self.remember(
            target,
            Held {
                refused: held.refused.saturating_add(1),
                before: live.or(held.before),
                ..held
            },
        )?;
        Ok(is_known)
    }

    /// Remembers that the kernel refuses every change of a target.
    pub(super) fn mark_unchangeable(&mut self, target: &Target) -> anyhow::Result<()> {
        let held = Held {
            unchangeable: true,
            before: None,
            ..self.held(target)?
        };
        self.remember(target, held)
    }

    /// Sends an interrupt for which its CPUs have no vector left to the other CPUs of the host.
    /// Returns whether it went.
    pub(super) fn send_elsewhere(
        &mut self,
        change: &Change,
        facts: &Facts,
    ) -> anyhow::Result<bool> {
        let Change {
            target,
            before,
            after,
        } = change;
        let claims = &self.journal.state().claims;
        let asked = after.cpus().cloned().unwrap_or_default();
        let others = other_irq_cpus(claims, facts, &asked);
        let Some(others) = others.filter(|_| matches!(target, Target::Knob(Knob::IrqAffinity, _)))
        else {
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

    fn held(&self, target: &Target) -> anyhow::Result<Held> {
        let held = self.journal.state().held.get(target).cloned();
        held.context("a target was written without being announced")
    }

    fn remember(&mut self, target: &Target, held: Held) -> anyhow::Result<()> {
        let record = Record::Intend(vec![(target.clone(), held)]);
        self.journal.append(vec![record])
    }

    /// Forgets what could not be given back although the claims wish for something of it: the second
    /// pass writes that, and meets what keeps it from it.
    pub(super) fn try_again(&mut self, claims: &Claims, facts: &Facts) {
        let wishes = desired(claims, &self.journal.state().held, facts);
        let problems = &mut self.report.problems;
        problems.retain(|problem| !wishes.contains_key(&problem.target));
    }

    /// Tells whether a cgroup passes controller and CPUs on to no VM any more: systemd takes the controller
    /// away with the last scope, and would not see that it is back.
    pub(super) fn is_of_nobody(&self, target: &Target, facts: &Facts) -> bool {
        let claims = &self.journal.state().claims;
        let is_passed_to = |(vmid, vm): (&Vmid, &VmFacts)| {
            let claim = claims.get(vmid);
            let file = cgroup::file(&vm.scope, "cgroup.procs");
            claim.is_some_and(|claim| has_partition(&claim.wishes)) && self.host.files.exists(&file)
        };
        let is_passed_on = matches!(
            target,
            Target::Knob(Knob::CpusetForChildren | Knob::CpusExclusive, _)
        );
        is_passed_on && !facts.vms.iter().any(is_passed_to)
    }

    /// Takes the controller away that a cgroup passes on although there is none below it any more. systemd
    /// has done that with the last scope, and does not see that a run which took the VM for alive has
    /// passed it on again in the meantime. While another VM is on its way it is left to that one.
    pub(super) fn take_from_nobody(&mut self, forgotten: &[Target]) {
        if !self.journal.state().claims.is_empty() {
            return;
        }
        for target in forgotten {
            let Target::Knob(Knob::CpusetForChildren, Place::Group(group)) = target else {
                continue;
            };
            let is_passed_on = matches!(target::read(self.host, target), Ok(Value::Present));
            if !is_passed_on || !cgroup::is_empty(&*self.host.files, group) {
                continue;
            }
            let change = Change {
                target: target.clone(),
                before: Value::Present,
                after: Value::Absent,
            };
            match target::write(self.host, target, &change.before, &change.after) {
                Ok(_) => self.report.n_changes += 1,
                Err(error) => self.report.problems.push(Problem::refused(&change, &error)),
            }
        }
    }

    /// Reports what has yet to move and what never will.
    pub(super) fn look_at_unmoved(&mut self) {
        let clock = &self.host.clock;
        let until = clock.since_boot() + MOVE_WAIT.min(self.host.left());
        self.report.n_moving = self.moving();
        while self.report.n_moving > 0 && clock.since_boot() < until {
            clock.wait_for_end(&[], LOOK_AGAIN);
            self.report.n_moving = self.moving();
        }
        let others = self
            .unchangeable
            .iter()
            .filter(|target| irq_of(target).is_none());
        self.report.n_unchangeable = others.count();
        let owned = kept_off(&self.journal.state().claims, |wishes| wishes.interrupts);
        self.report.stuck = stuck_in(self.host, self.unchangeable.iter(), &owned);
    }

    /// Returns how many interrupts that were moved in this run are still delivered elsewhere.
    fn moving(&self) -> usize {
        let is_moving = |target: &&Target| {
            let asked = self.journal.state().held.get(target);
            let asked = asked.and_then(|held| held.ours.cpus());
            let effective = irq_of(target)
                .filter(|(_, actions)| !actions.is_empty())
                .and_then(|(number, _)| irq::delivered_to(&*self.host.files, number));
            asked
                .zip(effective.as_ref())
                .is_some_and(|(asked, effective)| !effective.is_subset(asked))
        };
        self.written.iter().filter(is_moving).count()
    }

    /// Names those who are known to write what was left to somebody.
    pub(super) fn suspect(&mut self, drift: &[Drift]) {
        let given_up = drift.iter().filter(|drift| drift.answer == Answer::GiveUp);
        for service in given_up.flat_map(|drift| drift.target.writers()) {
            if is_service_running(&*self.host.files, service) {
                self.report.suspects.insert(service);
            }
        }
    }
}

/// Returns the interrupt that a target is about: its number and the names of what handles it.
pub(super) fn irq_of(target: &Target) -> Option<(u32, &str)> {
    match target {
        Target::Knob(Knob::IrqAffinity, Place::Irq(number, actions)) => Some((*number, actions)),
        _ => None,
    }
}

/// Tells whether the CPUs that an interrupt was to go to have no vector left for it.
pub(super) fn is_out_of_vectors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// Returns the interrupts among targets that are delivered to owned CPUs, by device.
pub fn stuck_in<'t>(
    host: &Host,
    targets: impl Iterator<Item = &'t Target>,
    owned: &CpuSet,
) -> Vec<Stuck> {
    let irqs = targets.filter_map(irq_of);
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
