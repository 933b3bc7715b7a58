//! Backends: the means by which a VM gets its CPUs, and what a table says about them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::table::text::{ParseWishError, serde_as_text};

/// Means by which a VM gets its CPUs exclusively.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Remote cpuset partition of type isolated: no scheduling domain, no unbound work.
    Isolated,
    /// Remote cpuset partition of type root: exclusive, with load balancing.
    Root,
    /// `AllowedCPUs` on everything else: needs no partition.
    Slices,
    /// Affinity of the vCPU threads only: keeps nobody else away.
    #[default]
    Affinity,
}

impl Backend {
    /// Tells whether it is a cpuset partition.
    pub fn is_partition(self) -> bool {
        matches!(self, Self::Isolated | Self::Root)
    }

    /// Tells whether it keeps everybody else off the CPUs.
    pub fn is_exclusive(self) -> bool {
        self != Self::Affinity
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a table says about the backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BackendWish {
    /// The best that kernel and gate allow.
    #[default]
    Auto,
    /// This backend or none.
    Only(Backend),
}

impl FromStr for BackendWish {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Backend::Isolated,
            Backend::Root,
            Backend::Slices,
            Backend::Affinity,
        ];
        match all.into_iter().find(|backend| backend.to_string() == text) {
            Some(backend) => Ok(Self::Only(backend)),
            None if text == "auto" => Ok(Self::Auto),
            None => Err(ParseWishError(format!(
                "\"{text}\" is not a backend; there are auto, isolated, root, slices and affinity"
            ))),
        }
    }
}

impl fmt::Display for BackendWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(backend) => backend.fmt(f),
        }
    }
}

serde_as_text!(BackendWish);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_round_trip_and_name_the_alternatives() {
        for text in ["auto", "isolated", "root", "slices", "affinity"] {
            assert_eq!(text.parse::<BackendWish>().unwrap().to_string(), text);
        }
        assert_eq!(
            "Root".parse::<BackendWish>().unwrap_err().to_string(),
            "\"Root\" is not a backend; there are auto, isolated, root, slices and affinity"
        );
    }
}
