//! Reading the log without its lock, for showing what it says.

use super::text::{self, Damage, Log};
use crate::domain::advice::Advised;
use crate::domain::state::State;
use crate::host::files::{Files, if_there};
use crate::host::trouble::cannot;

/// Path of the log.
pub(super) const JOURNAL: &str = "/run/pin-hook/journal";
/// How often a log is read that seems to be damaged: without the lock, it may have been replaced twice
/// meanwhile.
const LOOKS: usize = 3;

/// Returns the state without taking the lock: for showing it, not for acting on it. What is damaged
/// is missing; the next run that takes the lock sets it aside.
///
/// # Errors
/// The log cannot be read, or is [`Newer`](text::Newer).
pub fn read_state(files: &dyn Files) -> anyhow::Result<State> {
    read_log(files).map(|(state, _)| state)
}

/// Returns the same with what is damaged.
///
/// # Errors
/// As [`read_state`].
pub fn read_log(files: &dyn Files) -> anyhow::Result<(State, Damage)> {
    let mut looks = 0;
    loop {
        looks += 1;
        let log = read_text(files)?.as_deref().map(understood).transpose()?;
        let log = log.unwrap_or_default();
        if log.damage.is_none() || looks == LOOKS {
            return Ok((log.state, log.damage));
        }
    }
}

/// Tells whether there is no log, which is so before the first claim of a boot, or when somebody has
/// removed it.
pub fn is_missing(files: &dyn Files) -> bool {
    !files.exists(JOURNAL)
}

/// Returns the text of the log, room included; `None` when there is none.
pub(super) fn read_text(files: &dyn Files) -> anyhow::Result<Option<String>> {
    if_there(files.read(JOURNAL)).map_err(cannot("read", JOURNAL))
}

/// Returns what the text of a log amounts to.
///
/// # Errors
/// [`Newer`](text::Newer), with what to do.
pub(super) fn understood(text: &str) -> anyhow::Result<Log> {
    text::read(text).map_err(|newer| {
        anyhow::Error::new(newer).context(Advised::new(
            format!("{JOURNAL} was written by a newer pin-hook"),
            "install that version again, and run pin-hook release --all before going back to \
             this one",
        ))
    })
}
