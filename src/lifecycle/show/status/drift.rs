//! Values that are not what pin-hook has set, or wanted to.

use serde::Serialize;

use crate::domain::diff;
use crate::domain::frequency;
use crate::domain::pci::binding;
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::target::{Target, Value};
use crate::host::Host;
use crate::host::surroundings::is_service_running;
use crate::lifecycle::engine::look::Look;

/// A value that the kernel refuses to take; the VM owns its CPUs without it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What was written.
    pub target: String,
    /// Value that it should have.
    pub wanted: String,
    /// Value that it has; nothing when that cannot be told.
    pub actual: Option<String>,
    /// How often it was tried.
    pub attempts: u8,
    /// Whether a table wishes for it, so that the wish is not fulfilled.
    #[serde(skip)]
    pub is_wish: bool,
    /// Whether it has what the kernel makes of the frequency that was written.
    #[serde(skip)]
    pub is_rounded: bool,
}

/// A value of ours that somebody else has changed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// What was changed.
    pub target: String,
    /// Value that it has; nothing when it does not exist.
    pub actual: Option<String>,
    /// Value that it should have.
    pub wanted: String,
    /// Whether it was set again too often, and is left to whoever changes it.
    pub given_up: bool,
    /// Services that run and are known to write it.
    pub writers: Vec<&'static str>,
}

/// Returns what is not ours any more, and how many writes are merely yet to be made.
///
/// A run that is at work has announced its writes: what it is about to write has not drifted.
pub(super) fn differences(
    host: &Host,
    state: &State,
    seen: &Look,
    is_shown: impl Fn(&Target) -> bool,
) -> (Vec<Drifted>, usize) {
    let is_settled = |change: &&diff::Change| {
        let held = state.held.get(&change.target);
        let is_ours = held.is_some_and(|held| held.ours == change.after && held.before.is_none());
        is_ours && !is_rounded(seen, &change.target, &change.before, &change.after)
    };
    let changes = seen.diff.changes.iter();
    let (lost, open): (Vec<_>, Vec<_>) = changes.partition(is_settled);
    let given_up = seen.diff.drift.iter();
    let given_up = given_up.filter(|drift| !lost.iter().any(|lost| lost.target == drift.target));
    let lost = lost
        .iter()
        .map(|change| (&change.target, &change.before, &change.after, false));
    let given_up = given_up.map(|drift| {
        let is_given_up = drift.answer == diff::Answer::GiveUp;
        (&drift.target, &drift.live, &drift.ours, is_given_up)
    });
    let values = lost.chain(given_up);
    let drift = values.filter(|(target, ..)| is_shown(target));
    let drift = drift.map(|(target, live, ours, given_up)| Drifted {
        target: seen.facts.name_of(target),
        actual: live.shown(),
        wanted: ours.to_string(),
        given_up,
        writers: writers(host, target),
    });
    // What the kernel has refused is told as that, and not promised.
    let is_refused = |target| state.held.get(target).is_some_and(|held| held.refused > 0);
    let pending = open.iter().filter(|change| !is_refused(&change.target));
    (drift.collect(), pending.count())
}

/// Tells whether a frequency is what the kernel makes of ours.
pub(super) fn is_rounded(seen: &Look, target: &Target, live: &Value, ours: &Value) -> bool {
    frequency::may_show(&seen.facts.frequencies, target, live, ours)
}

/// Returns the services that run and are known to write a target by themselves.
fn writers(host: &Host, target: &Target) -> Vec<&'static str> {
    let known = target.writers().iter().copied();
    known
        .filter(|service| is_service_running(&*host.files, service))
        .collect()
}

/// Returns the values that the kernel did not accept.
pub(super) fn refused(
    state: &State,
    seen: &Look,
    is_shown: impl Fn(&Target) -> bool,
) -> Vec<Refused> {
    // A driver refuses what is given back to it.
    let held = state
        .held
        .iter()
        .filter(|(target, held)| held.refused > 0 && binding::function_of(target).is_none())
        .filter(|(target, _)| is_shown(target));
    let refused = held.map(|(target, held)| Refused {
        target: seen.facts.name_of(target),
        wanted: held.ours.to_string(),
        actual: seen.live.get(target).and_then(Value::shown),
        attempts: held.refused,
        is_wish: matches!(target.stage(), Stage::Power | Stage::Host),
        is_rounded: {
            let live = seen.live.get(target);
            live.is_some_and(|live| is_rounded(seen, target, live, &held.ours))
        },
    });
    refused.collect()
}
