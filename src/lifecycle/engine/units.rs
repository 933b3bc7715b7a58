//! The units that look after claims while no phase runs.

use super::journal::read_state;
use super::report::Report;
use crate::domain::state::State;
use crate::host::Host;

/// Units that run reconcile: every 15 s, and when a VM comes or goes.
const WATCHERS: [&str; 2] = [TIMER, PATH];
const TIMER: &str = "pin-hook-reconcile.timer";
const PATH: &str = "pin-hook-reconcile.path";
/// The unit that is reconcile.
const RECONCILE: &str = "pin-hook-reconcile.service";

/// Starts the watching units while there is something to look after, and stops them otherwise;
/// does nothing when the same run has done so before.
///
/// Done before anything that may be late, because a service manager that was late once is not
/// asked again in the same run.
pub fn keep_watch(host: &Host, state: &State, report: &mut Report) {
    let mut is_needed = !state.is_empty();
    if report.is_watched.replace(is_needed) == Some(is_needed) {
        return;
    }
    // A run that claimed something meanwhile may have started them before they were stopped here.
    let is_needed_again = || read_state(&*host.files).is_ok_and(|state| !state.is_empty());
    let mut told = tell(host, is_needed);
    if told.is_empty() && !is_needed && is_needed_again() {
        is_needed = true;
        told = tell(host, is_needed);
    }
    let text = match (is_needed, told.as_slice()) {
        (_, []) => return,
        (true, [(one, error), (two, _)]) => {
            format!("cannot start {one} and {two}, so a crash would not be cleaned up: {error:#}")
        }
        (true, [(TIMER, error), ..]) => {
            format!("cannot start {TIMER}, so there are no regular checks: {error:#}")
        }
        (true, [(unit, error), ..]) => format!(
            "cannot start {unit}, so changes are only noticed by the timer, within 15 s: {error:#}"
        ),
        (false, [(unit, error), ..]) => {
            format!("cannot stop {unit}, although nothing is claimed: {error:#}")
        }
    };
    report.warnings.push(text);
}

/// Returns the units that should look after the claims and do not.
///
/// # Errors
/// systemd does not answer.
pub fn idle(host: &Host) -> anyhow::Result<Vec<&'static str>> {
    let mut idle = Vec::new();
    for unit in WATCHERS {
        if !host.systemd.is_active(unit)? {
            idle.push(unit);
        }
    }
    Ok(idle)
}

/// Starts or stops the units; returns those that it could not.
///
/// One that is masked keeps the other from nothing. The timer is the last to be stopped, and only after the
/// path unit: when systemd is late with that, the timer comes back and has it stopped then.
fn tell(host: &Host, is_needed: bool) -> Vec<(&'static str, anyhow::Error)> {
    let failed = |unit, done: anyhow::Result<()>| done.err().map(|error| (unit, error));
    let start = |unit| failed(unit, host.systemd.start(unit));
    let stop = |unit| failed(unit, host.systemd.stop(unit));
    match is_needed {
        true => WATCHERS.into_iter().filter_map(start).collect(),
        false => stop(PATH).or_else(|| stop(TIMER)).into_iter().collect(),
    }
}

/// Has reconcile run at once; where that cannot be had, its timer comes within 15 s.
pub fn wake_reconcile(host: &Host) {
    let _ = host.systemd.start(RECONCILE);
}
