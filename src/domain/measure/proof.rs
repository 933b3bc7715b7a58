//! What a measurement of a VM has shown of its isolation.

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::measurement::Measurement;
use crate::domain::claim::Wishes;

/// Shortest measurement that shows something, in nanoseconds.
const LONG_ENOUGH_NS: u64 = 10_000_000_000;

/// What a measurement of a VM has shown, as long as the VM asks for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What the VM asked for.
    pub wishes: Wishes,
    /// Programs and interrupts of devices that were there all the same.
    pub intruders: Vec<String>,
}

impl Proof {
    /// Returns what a measurement has shown; nothing where it was too short to show anything.
    pub fn of(measurement: &Measurement, wishes: &Wishes) -> Option<Self> {
        let intruders = measurement.culprits.iter();
        let intruders = intruders.filter(|one| matches!(one.kind, Kind::Program | Kind::Interrupt));
        (measurement.duration_ns >= LONG_ENOUGH_NS).then(|| Proof {
            wishes: wishes.clone(),
            intruders: intruders.map(|one| one.name.clone()).collect(),
        })
    }
}
