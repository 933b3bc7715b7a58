//! The units that look after claims while no phase runs.

use super::account::Account;
use crate::domain::state::State;
use crate::host::Host;

/// Units that run reconcile: every 15 s, and when a VM comes or goes.
const WATCHERS: [&str; 2] = ["pin-hook-reconcile.timer", "pin-hook-reconcile.path"];
/// The unit that is reconcile.
const RECONCILE: &str = "pin-hook-reconcile.service";

/// Starts the watching units while there is something to look after, and stops them otherwise.
///
/// That they run already costs one question each; starting a running unit does nothing.
pub fn keep_watch(host: &Host, state: &State, account: &mut Account) {
    for unit in WATCHERS {
        let done = match state.is_empty() {
            true => host.systemd.stop(unit),
            false => host.systemd.start(unit),
        };
        if let Err(error) = done {
            account.warn(format!("nothing looks after the claims: {error:#}"));
            return;
        }
    }
}

/// Has reconcile run at once.
pub fn wake_reconcile(host: &Host, account: &mut Account) {
    if let Err(error) = host.systemd.start(RECONCILE) {
        account.warn(format!(
            "what was left has to wait for the next phase: {error:#}"
        ));
    }
}
