//! What the program remembers, as the next run would find it.

use crate::domain::state::State;
use crate::host::Host;
use crate::lifecycle::engine::fate::{self, Answers};
use crate::lifecycle::engine::look::{Hidden, known_state};
use crate::lifecycle::engine::recover;

/// What the program remembers, without the claims of what is gone.
#[derive(Debug)]
pub enum Known {
    /// All of it.
    Whole(State),
    /// What is left of it, with what the next run takes from the host because the rest is lost.
    Rebuilt(State),
    /// Only root may read it.
    Hidden(Hidden),
}

/// Looks up what the program remembers; nothing is written.
///
/// # Errors
/// It cannot be read although one may, or what runs cannot be told.
pub fn known(host: &Host) -> anyhow::Result<Known> {
    let mut state = match known_state(host) {
        Ok(state) => state,
        Err(error) => return error.downcast().map(Known::Hidden),
    };
    let is_rebuilt = recover::foresee(host, &mut state)?;
    let updates = fate::updates(host, &state, &Answers::default())?;
    updates.into_iter().for_each(|record| state.apply(record));
    Ok(match is_rebuilt {
        true => Known::Rebuilt(state),
        false => Known::Whole(state),
    })
}

/// Returns what the program remembers, for a run that may read it.
///
/// # Errors
/// As [`known`], or it is hidden.
pub fn state_now(host: &Host) -> anyhow::Result<State> {
    match known(host)? {
        Known::Whole(state) | Known::Rebuilt(state) => Ok(state),
        Known::Hidden(hidden) => Err(hidden.into()),
    }
}

impl Known {
    /// Returns what is remembered, where it may be read.
    pub fn state(self) -> Option<State> {
        match self {
            Known::Whole(state) | Known::Rebuilt(state) => Some(state),
            Known::Hidden(_) => None,
        }
    }

    /// Says that the host is asked what is not remembered, where that is so.
    pub fn warning(&self) -> Option<String> {
        matches!(self, Known::Rebuilt(_)).then(|| {
            "the state is lost or damaged; the next run rebuilds it from what the host shows"
                .to_owned()
        })
    }
}
