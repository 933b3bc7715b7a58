//! One settling of the host: what its passes work with, and what they have met so far.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;

use crate::domain::facts::Facts;
use crate::domain::stage::Stage;
use crate::domain::state::{Held, Record};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::{Host, systemd};
use crate::lifecycle::engine::journal::Journal;
use crate::lifecycle::engine::observe::observe;
use crate::lifecycle::engine::report::Report;

/// How long the kernel may take in all to apply what it has taken. What it never applies, such as a
/// frequency beyond the hardware's, must not use up the time of a phase.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one looks meanwhile.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One settling of the host.
#[derive(Debug)]
pub struct Settling<'s, 'h> {
    /// The host.
    pub(super) host: &'h Host,
    /// What is held, and announced before it is written.
    pub(super) journal: &'s mut Journal<'h>,
    /// What came of it.
    pub(super) report: &'s mut Report,
    /// VMs whose claims have just come into force: the first problem that keeps one of them from
    /// owning its CPUs ends it, because all that was done for them is going to be taken back.
    pub(super) new: &'s [Vmid],
    /// What was written so far.
    pub(super) written: BTreeSet<Target>,
    /// Targets that the kernel turned out to let nobody change.
    pub(super) unchangeable: BTreeSet<Target>,
    /// What is left of the time for waiting until the kernel applies what it has taken.
    pub(super) patience: Duration,
}

/// Direction of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// It only gives back.
    Release,
    /// It only takes.
    Acquire,
}

impl<'s, 'h> Settling<'s, 'h> {
    /// Prepares settling; see `settle` and `settle_units`.
    pub fn new(
        host: &'h Host,
        journal: &'s mut Journal<'h>,
        report: &'s mut Report,
        new: &'s [Vmid],
    ) -> Self {
        Settling {
            host,
            journal,
            report,
            new,
            written: BTreeSet::new(),
            unchangeable: BTreeSet::new(),
            patience: PATIENCE,
        }
    }
}

impl Settling<'_, '_> {
    /// Observes what these stages depend on, knowing what was seen `before`; `None` where systemd does not answer
    /// in time, which is no failure: reconcile finishes what was begun.
    pub(super) fn observed(
        &mut self,
        stages: &[Stage],
        before: &Facts,
    ) -> anyhow::Result<Option<Facts>> {
        match observe(self.host, self.journal.state(), stages, before) {
            Err(error) if systemd::is_late(&error) => {
                self.leave_to_reconcile(format!("{error:#}"));
                Ok(None)
            }
            facts => facts.map(Some),
        }
    }

    /// Tells why this run does not come to its end.
    pub(super) fn leave_to_reconcile(&mut self, why: String) {
        self.report.warnings.push(why);
        self.report.is_unfinished = true;
    }

    /// Returns what is remembered of a target that was announced.
    pub(super) fn held(&self, target: &Target) -> anyhow::Result<Held> {
        let held = self.journal.state().held.get(target).cloned();
        held.context(
            "a target was written without a journal record, which is a bug: please report it",
        )
    }

    /// Remembers something else of a target.
    pub(super) fn remember(&mut self, target: &Target, held: Held) -> anyhow::Result<()> {
        let record = Record::Intend(vec![(target.clone(), held)]);
        self.journal.append(vec![record])
    }
}
