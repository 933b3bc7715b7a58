//! What the program remembers as it is written, runs that are over included, as far as it can be read. What
//! the next run would make of that is [`crate::lifecycle::case::known`].

use crate::domain::state::State;
use crate::host::Host;
use crate::lifecycle::engine::journal::read_log;
use crate::lifecycle::engine::look::{Hidden, known_state};
use crate::lifecycle::engine::recover;

/// Returns what the program remembers, and adds to `left_out` what of that cannot be read; `what`, with
/// its verb, is what is missing then.
///
/// # Errors
/// It is not only privileges that are missing.
pub(super) fn remembered(
    host: &Host,
    what: &str,
    left_out: &mut Vec<String>,
) -> anyhow::Result<State> {
    match known_state(host) {
        Ok(state) => {
            let (_, damage) = read_log(&*host.files)?;
            if !damage.is_none() {
                left_out.push(damage.to_string());
            }
            if is_lost(host, &state) {
                left_out.push(format!(
                    "{what} not known of every vm: the state is lost (pin-hook status says what is in force)"
                ));
            }
            Ok(state)
        }
        Err(hidden) if hidden.is::<Hidden>() => {
            left_out.push(format!("{what} left out: {hidden}"));
            Ok(State::default())
        }
        Err(error) => Err(error),
    }
}

/// Tells whether CPUs are kept for VMs that the state does not name: what such a VM owns cannot be told then.
pub(super) fn is_lost(host: &Host, state: &State) -> bool {
    !recover::forgotten(host, state).is_empty()
}
