//! The units that look after claims while no phase runs.

use super::journal::read_state;
use super::report::Report;
use crate::domain::state::State;
use crate::host::Host;

/// Units that run reconcile: every 15 s, and when a VM comes or goes.
const WATCHERS: [&str; 2] = ["pin-hook-reconcile.timer", "pin-hook-reconcile.path"];
/// The unit that is reconcile.
const RECONCILE: &str = "pin-hook-reconcile.service";

/// Starts the watching units while there is something to look after, and stops them otherwise;
/// does nothing when the same run has done so before.
///
/// Done before anything that may be late, because a service manager that was late once is not
/// asked again in the same run.
pub fn keep_watch(host: &Host, state: &State, report: &mut Report) {
    let is_needed = !state.is_empty();
    if report.is_watched.replace(is_needed) == Some(is_needed) {
        return;
    }
    // A run that claimed something meanwhile may have started them before they were stopped here.
    let is_needed_again = || read_state(&*host.files).is_ok_and(|state| !state.is_empty());
    let mut told = tell(host, is_needed);
    if told.is_ok() && !is_needed && is_needed_again() {
        told = tell(host, true);
    }
    if let Err(error) = told {
        report.warnings.push(match is_needed {
            true => format!(
                "cannot start the reconcile units, a crash would not be cleaned up: \
                 {error:#}"
            ),
            false => format!(
                "cannot stop the reconcile units, although nothing is claimed: \
                 {error:#}"
            ),
        });
    }
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

/// The timer is the last to be stopped: when systemd is late with the one before it, the timer
/// comes back and has it stopped then.
fn tell(host: &Host, is_needed: bool) -> anyhow::Result<()> {
    let mut watchers = WATCHERS.iter();
    match is_needed {
        true => watchers.try_for_each(|unit| host.systemd.start(unit)),
        false => watchers.rev().try_for_each(|unit| host.systemd.stop(unit)),
    }
}

/// Has reconcile run at once; where that cannot be had, its timer comes within 15 s.
pub fn wake_reconcile(host: &Host) {
    let _ = host.systemd.start(RECONCILE);
}
