//! Sets of CPUs and NUMA nodes that a table or `host.toml` names, or leaves to the program.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::{ParseWishError, Scalar, serde_as_text};
use crate::domain::cpuset::{CpuId, CpuSet, ParseCpuListError};

/// CPUs that a VM owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cpus {
    /// As many as the guest has vCPUs, chosen by placement.
    Auto,
    /// Exactly these.
    Set(CpuSet),
}

/// NUMA nodes for the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Nodes {
    /// The nodes of the owned CPUs.
    Auto,
    /// Exactly these.
    Set(BTreeSet<u32>),
}

/// CPUs that stay with the host. A number in `host.toml` counts cores, a text lists CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum Reserve {
    /// This many physical cores with their SMT siblings.
    Cores(u32),
    /// Exactly these CPUs.
    Cpus(CpuSet),
}

impl FromStr for Cpus {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Blanks around a list count for nothing either.
        match text.trim() {
            "auto" => Ok(Self::Auto),
            list => parse_list(list).map(Self::Set),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Set(cpus) => cpus.fmt(f),
        }
    }
}

serde_as_text!(Cpus);

impl FromStr for Nodes {
    type Err = ParseWishError;

    /// Parses `auto` or a list in the grammar of a cpulist.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<CpuSet>() {
            Ok(nodes) if !nodes.is_empty() => Ok(Self::Set(nodes.iter().map(|n| n.0).collect())),
            _ => Err(ParseWishError(format!(
                "\"{text}\" is not a list of numa nodes"
            ))),
        }
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Set(nodes) => nodes.iter().copied().map(CpuId).collect::<CpuSet>().fmt(f),
        }
    }
}

serde_as_text!(Nodes);

impl TryFrom<Scalar> for Reserve {
    type Error = ParseWishError;

    fn try_from(value: Scalar) -> Result<Self, Self::Error> {
        match value {
            Scalar::Number(n) => match u32::try_from(n) {
                Ok(cores @ 1..) => Ok(Self::Cores(cores)),
                _ => Err(ParseWishError(format!("{n} is not a number of cores"))),
            },
            Scalar::Text(text) => match parse_list(&text)? {
                cpus if cpus.is_empty() => Err(ParseWishError("no cpu in it".to_owned())),
                cpus => Ok(Self::Cpus(cpus)),
            },
            Scalar::Switch(_) => Err(ParseWishError("neither a number nor a cpulist".to_owned())),
        }
    }
}

impl From<Reserve> for Scalar {
    fn from(value: Reserve) -> Self {
        match value {
            Reserve::Cores(cores) => Self::Number(cores.into()),
            Reserve::Cpus(cpus) => Self::Text(cpus.to_string()),
        }
    }
}

fn parse_list(text: &str) -> Result<CpuSet, ParseWishError> {
    text.parse()
        .map_err(|error: ParseCpuListError| ParseWishError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_lists_print_as_they_are_read() {
        for text in ["auto", "0", "0-1,3"] {
            assert_eq!(text.parse::<Nodes>().unwrap().to_string(), text);
        }
        assert!("".parse::<Nodes>().is_err());
    }
}
