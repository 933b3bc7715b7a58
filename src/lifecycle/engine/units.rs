//! The units that look after claims while no phase runs.

use super::account::Account;
use super::journal::{disturb, has_spooled, is_at_rest, read_state, rest};
use super::report::Report;
use crate::domain::advice::Advised;
use crate::domain::state::State;
use crate::domain::unit::Masked;
use crate::host::Host;
use crate::host::systemd::BUS_SOCKET;
use crate::host::units::masked;

/// Units that run reconcile: every 15 s, and when a VM comes or goes.
const WATCHERS: [&str; 2] = [TIMER, PATH];
const TIMER: &str = "pin-hook-reconcile.timer";
const PATH: &str = "pin-hook-reconcile.path";
/// The unit that is reconcile.
const RECONCILE: &str = "pin-hook-reconcile.service";
/// What comes of it that reconcile does not run.
const UNWATCHED: &str = "a crash may not be cleaned up";

/// Starts the watching units while there is something to look after, and stops them otherwise;
/// does nothing when the same run has done so before.
///
/// Done before anything that may be late, because a service manager that was late once is not
/// asked again in the same run.
pub fn keep_watch(host: &Host, state: &State, report: &mut Report) {
    let files = &*host.files;
    let mut is_needed = !state.is_empty() || has_spooled(files);
    if report.is_watched.replace(is_needed) == Some(is_needed) || !is_needed && is_at_rest(files) {
        return;
    }
    if is_needed {
        disturb(files);
    }
    // A run that claimed something meanwhile may have started them before they were stopped here.
    let is_needed_again =
        || has_spooled(files) || read_state(files).is_ok_and(|state| !state.is_empty());
    let mut told = tell(host, is_needed);
    if told.is_empty() && !is_needed && is_needed_again() {
        is_needed = true;
        told = tell(host, is_needed);
    }
    if told.is_empty() && !is_needed {
        rest(files);
        if is_needed_again() {
            disturb(files);
        }
    }
    let is_masked = || is_needed && masked(files, RECONCILE).is_some();
    let text = match (is_needed, told.as_slice()) {
        (_, []) if is_masked() => format!("{RECONCILE} is masked: {UNWATCHED}"),
        (_, []) => return,
        (true, [(one, error), (two, _)]) => {
            format!("cannot start {one} and {two}, so {UNWATCHED}: {error:#}")
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
    let undo: Vec<String> = masks(host).into_iter().map(|one| one.undo()).collect();
    report.warnings.push(match is_needed && !undo.is_empty() {
        true => format!("{text} ({})", undo.join("; ")),
        false => text,
    });
}

/// Returns the units that should look after the claims and cannot, or do not.
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
    if masked(&*host.files, RECONCILE).is_some() {
        idle.insert(0, RECONCILE);
    }
    Ok(idle)
}

/// Tells whether there is something to look after, as far as systemd tells: nobody but this program starts the
/// timer, and it stops it when nothing is held.
pub fn is_watching(host: &Host) -> bool {
    !is_at_rest(&*host.files)
        && host.files.exists(BUS_SOCKET)
        && host.systemd.is_active(TIMER).unwrap_or(false)
}

/// Describes the effect of units that are [`idle`], and what fixes it; nothing without any.
pub fn complaint(host: &Host, idle: &[&str]) -> Option<Advised> {
    let fact = match idle {
        [] => return None,
        [RECONCILE, ..] => format!("{RECONCILE} is masked: {UNWATCHED}"),
        [PATH] => {
            format!("{PATH} is not active: changes are only noticed by the timer, within 15 s")
        }
        [one] => format!("{one} is not active: there are no regular checks"),
        _ => format!("{} are not active: {UNWATCHED}", idle.join(" and ")),
    };
    let unmask = masks(host).into_iter().map(|masked| masked.undo());
    let watchers = idle.iter().copied().filter(|unit| *unit != RECONCILE);
    let watchers: Vec<&str> = watchers.collect();
    let start = match watchers.as_slice() {
        [] => format!("systemctl start {RECONCILE}"),
        watchers => format!("systemctl start {}", watchers.join(" ")),
    };
    let commands: Vec<String> = unmask.chain([start]).collect();
    Some(Advised::new(fact, commands.join("; ")))
}

/// Returns those of the units that are masked.
pub fn masks(host: &Host) -> Vec<Masked> {
    let units = [RECONCILE].into_iter().chain(WATCHERS);
    units
        .filter_map(|unit| masked(&*host.files, unit))
        .collect()
}

/// Starts or stops the units; returns those that it could not.
///
/// One that is masked keeps the other from nothing. The timer is the last to be stopped, and only after the
/// path unit: when systemd is late with that, the timer comes back and has it stopped then.
fn tell(host: &Host, is_needed: bool) -> Vec<(&'static str, anyhow::Error)> {
    let failed = |unit, done: anyhow::Result<()>| done.err().map(|error| (unit, error));
    let stop = |unit| failed(unit, host.systemd.stop(unit));
    match is_needed {
        true => {
            let done = WATCHERS.into_iter().zip(host.systemd.start_both(WATCHERS));
            done.filter_map(|(unit, done)| failed(unit, done)).collect()
        }
        false => stop(PATH).or_else(|| stop(TIMER)).into_iter().collect(),
    }
}

/// Stops the units once more where nothing is held: one of them may have called, because somebody has started it. If
/// there is something for them to do, they are started afterwards.
pub fn stop_again(host: &Host) {
    let files = &*host.files;
    // A run that died, or one of an older version, may have left the file behind.
    let holds_nothing = || read_state(files).is_ok_and(|state| state.is_empty());
    if is_at_rest(files) && holds_nothing() {
        tell(host, false);
    }
}

/// Has reconcile run at once and again until nothing waits for it, also where nothing is claimed.
pub fn await_reconcile(host: &Host, account: &mut Account) {
    let mut report = Report::default();
    keep_watch(host, &State::default(), &mut report);
    account.warn_all(&report.warnings);
    wake_reconcile(host);
}

/// Has reconcile run at once; where that cannot be had, its timer comes within 15 s.
pub fn wake_reconcile(host: &Host) {
    let _ = host.systemd.start(RECONCILE);
}
