//! What the program remembers, as far as it can be read.

use crate::domain::state::State;
use crate::host::Host;
use crate::lifecycle::engine::journal::read_log;
use crate::lifecycle::engine::look::{Hidden, known_state};

/// Returns what the program remembers, and adds to `left_out` what of that cannot be read; `what`, with
/// its verb, is what is missing then.
///
/// # Errors
/// It is not only privileges that are missing.
pub(super) fn known(host: &Host, what: &str, left_out: &mut Vec<String>) -> anyhow::Result<State> {
    match known_state(host) {
        Ok(state) => {
            let (_, damage) = read_log(&*host.files)?;
            if !damage.is_none() {
                left_out.push(damage.to_string());
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
