//! Wishes: which value a target is to have, and what it is given back to.

use std::collections::BTreeMap;

use crate::domain::target::{Target, Value};

/// Wished value of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Value that it is to have.
    pub value: Value,
    /// What it is given back to, where the live value at the first touch is not that: objects
    /// born under a claim, and affinities that a partition has already cut.
    pub baseline: Option<Value>,
}

impl Wish {
    /// Returns the wish for what a target had without us.
    pub(super) fn back(baseline: Value) -> Self {
        Wish::with(baseline.clone(), baseline)
    }

    /// Returns the wish for a value, where it is known what the target is given back to.
    pub(super) fn with(value: Value, baseline: Value) -> Self {
        let baseline = Some(baseline);
        Wish { value, baseline }
    }

    /// Tells whether the wish is the baseline itself: for an object that was born with our value and is not
    /// held.
    pub fn gives_back(&self) -> bool {
        self.baseline.as_ref() == Some(&self.value)
    }
}

impl From<Value> for Wish {
    fn from(value: Value) -> Self {
        Wish {
            value,
            baseline: None,
        }
    }
}

/// Wishes for every target that a claim constrains.
pub type Desired = BTreeMap<Target, Wish>;
