//! The writes of a plan, with names for what their targets belong to.

use serde::Serialize;

use crate::domain::diff::Change;
use crate::domain::facts::Facts;
use crate::domain::target::{Place, Target};

/// One write that would be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What it is good for.
    pub purpose: &'static str,
    /// What would be written.
    pub target: String,
    /// Name of the thread or of what an interrupt is for.
    pub object: Option<String>,
    /// Value that it has; nothing when it does not exist.
    pub before: Option<String>,
    /// Value that it would have; nothing when it would be taken away.
    pub after: Option<String>,
    /// The write itself.
    #[serde(skip)]
    pub change: Change,
}

impl Planned {
    pub(super) fn of(change: Change, facts: &Facts) -> Self {
        Planned {
            purpose: change.target.purpose(),
            target: change.target.to_string(),
            object: object_of(&change.target, facts),
            before: change.before.shown(),
            after: change.after.shown(),
            change,
        }
    }
}

/// Returns the name of what a target belongs to, where its number alone says nothing.
pub(in crate::lifecycle::show) fn object_of(target: &Target, facts: &Facts) -> Option<String> {
    match target {
        Target::Knob(_, Place::Irq(_, actions)) => Some(actions.clone()),
        Target::KernelThread(id) => {
            let thread = facts.kernel_thread(*id);
            thread.map(|thread| thread.comm.clone())
        }
        Target::Membership(id) | Target::Affinity(id) | Target::Class(id) => {
            let thread = facts.thread_of_vm(*id);
            thread.map(|(_, thread)| thread.comm.clone())
        }
        _ => None,
    }
}
