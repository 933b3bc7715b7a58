//! What came of a run, for the task log, the journal and the exit status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use crate::domain::diff::{Change, Drift};
use crate::domain::facts::Facts;
use crate::domain::stuck::Stuck;
use crate::domain::target::{Target, Value};
use crate::domain::vm::Vmid;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Writes that the kernel took.
    pub n_changes: usize,
    /// Kernel threads that the kernel refuses to move.
    pub n_unchangeable: usize,
    /// Interrupts that it refuses to move, as far as they are on owned CPUs.
    pub stuck: Vec<Stuck>,
    /// Interrupts that were moved and are delivered elsewhere until they occur next.
    pub n_moving: usize,
    /// Whether the deadline came before the end; reconcile does the rest.
    pub is_unfinished: bool,
    /// Writes that failed.
    pub problems: Vec<Problem>,
    /// Values of somebody else that were met.
    pub drift: Vec<Drift>,
    /// What people call their targets, where that differs.
    pub names: BTreeMap<Target, String>,
    /// Running services that are known to write what was left to somebody.
    pub suspects: BTreeSet<&'static str>,
    /// What else should be known.
    pub warnings: Vec<String>,
    /// Whether the watching units were started or stopped, if they were told anything.
    pub is_watched: Option<bool>,
    /// Writes that took back what an essential problem had left half done.
    pub n_taken_back: usize,
    /// Whether taking back was incomplete.
    pub is_incomplete: bool,
}

/// A target that could not be read or written, or a write that did not do what it said.
#[derive(Debug)]
pub struct Problem {
    /// What was written.
    pub target: Target,
    /// What people call it.
    pub name: String,
    /// The VM that it is of, if it is of one alone.
    pub whose: Option<Vmid>,
    /// Whether a VM does not own its CPUs because of it.
    pub is_essential: bool,
    /// Whether it was told of in an earlier run.
    pub is_known: bool,
    /// Whether it could not be read, so that nothing was written.
    pub is_of_reading: bool,
    /// Whether nobody answered in time, which is no refusal: of essential targets systemd alone.
    pub is_late: bool,
    message: String,
}

impl Problem {
    /// Returns the problem of a write that the kernel refused.
    pub fn refused(change: &Change, error: &io::Error) -> Self {
        let Change { target, after, .. } = change;
        Problem {
            is_late: is_late(error),
            ..Self::of(target, format!("writing \"{after}\" failed: {error}"))
        }
    }

    /// Returns the problem of a write that was taken but reads back as something else.
    pub fn differs(change: &Change, live: &Value) -> Self {
        let Change { target, after, .. } = change;
        Self::of(
            target,
            format!("wrote \"{after}\", the kernel reports \"{live}\""),
        )
    }

    /// Returns the problem of a frequency of which the kernel has made another one.
    pub fn rounded(change: &Change, live: &Value) -> Self {
        let Change { target, after, .. } = change;
        Self::of(target, format!("the kernel rounded {after} to {live}"))
    }

    /// Returns the problem of a target that the kernel lets nobody read.
    pub fn unread(target: &Target, error: &io::Error) -> Self {
        Problem {
            is_of_reading: true,
            is_late: is_late(error),
            ..Self::of(target, format!("reading it failed: {error}"))
        }
    }

    fn of(target: &Target, what: String) -> Self {
        Problem {
            target: target.clone(),
            name: target.to_string(),
            whose: None,
            is_essential: false,
            is_known: false,
            is_of_reading: false,
            is_late: false,
            message: what,
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { name, message, .. } = self;
        write!(f, "{name}: {message}")
    }
}

impl Report {
    /// Takes note of what people call the targets of somebody else's values.
    pub fn names_of(&mut self, drift: &[Drift], facts: &Facts) {
        let targets = drift.iter().map(|drift| drift.target.clone());
        self.names.extend(targets.map(|target| {
            let name = facts.name_of(&target);
            (target, name)
        }));
    }

    /// Tells whether writing a target has failed.
    pub fn has_problem(&self, target: &Target) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.target == *target)
    }

    /// Tells whether everything that was announced was also written.
    pub fn is_settled(&self) -> bool {
        !self.is_unfinished && self.problems.is_empty()
    }

    /// Returns the first problem that keeps a VM from owning its CPUs.
    pub fn essential(&self) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.is_essential)
    }
}
