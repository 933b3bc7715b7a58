//! What the operator wants CPUs for, where placement has a choice.

use serde::{Deserialize, Serialize};

/// What counts when CPUs are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// The most L3 cache for each core.
    Cache,
    /// The highest frequency.
    Frequency,
    /// The fastest cores, as the firmware ranks them.
    Performance,
    /// Cores that are built to be slower.
    Efficiency,
}

impl Prefer {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Cache,
        Self::Frequency,
        Self::Performance,
        Self::Efficiency,
    ];

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Prefer::Cache => "cache",
            Prefer::Frequency => "frequency",
            Prefer::Performance => "performance",
            Prefer::Efficiency => "efficiency",
        }
    }
}

/// What becomes of the SMT siblings of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smt {
    /// Two vCPUs share a core, neighbours in the guest.
    Pairs,
    /// One vCPU has a core; the siblings are owned and idle.
    IdleSibling,
}

impl Smt {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Pairs, Self::IdleSibling];

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Smt::Pairs => "pairs",
            Smt::IdleSibling => "idle-sibling",
        }
    }
}
