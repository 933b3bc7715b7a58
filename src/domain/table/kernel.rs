//! What a table has the kernel do: scheduling classes, unbound work and sysctls.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::{ParseWishError, Scalar, serde_as_text};

/// Scheduling class of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scheduler {
    /// The fair class of all ordinary tasks.
    #[default]
    Other,
    /// First in, first out, at a priority from 1 to 99.
    Fifo(u8),
    /// Round robin, at a priority from 1 to 99.
    Rr(u8),
}

impl Scheduler {
    /// Tells whether it is the class that threads have anyway.
    pub fn is_other(&self) -> bool {
        *self == Self::Other
    }
}

impl FromStr for Scheduler {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (class, priority) = text.split_once(':').unwrap_or((text, ""));
        let digits = priority.bytes().all(|b| b.is_ascii_digit());
        let priority = match priority.parse() {
            Ok(priority @ 1..=99) if digits => Some(priority),
            _ => None,
        };
        match (class, priority) {
            ("other", None) if text == "other" => Ok(Self::Other),
            ("fifo", Some(priority)) => Ok(Self::Fifo(priority)),
            ("rr", Some(priority)) => Ok(Self::Rr(priority)),
            _ => Err(ParseWishError(format!(
                "\"{text}\" is none of \"other\", \"fifo:N\" and \"rr:N\" with N from 1 to 99"
            ))),
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str("other"),
            Self::Fifo(priority) => write!(f, "fifo:{priority}"),
            Self::Rr(priority) => write!(f, "rr:{priority}"),
        }
    }
}

serde_as_text!(Scheduler);

/// Whether unbound kernel work is moved off the owned CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub enum Workqueues {
    /// Where the kernel is known to survive it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl TryFrom<Scalar> for Workqueues {
    type Error = ParseWishError;

    fn try_from(value: Scalar) -> Result<Self, Self::Error> {
        match value {
            Scalar::Switch(true) => Ok(Self::On),
            Scalar::Switch(false) => Ok(Self::Off),
            Scalar::Text(text) if text == "auto" => Ok(Self::Auto),
            _ => Err(ParseWishError(
                "neither true, false nor \"auto\"".to_owned(),
            )),
        }
    }
}

impl From<Workqueues> for Scalar {
    fn from(value: Workqueues) -> Self {
        match value {
            Workqueues::Auto => Self::Text("auto".to_owned()),
            Workqueues::On => Self::Switch(true),
            Workqueues::Off => Self::Switch(false),
        }
    }
}

/// Value of a sysctl as it is written to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "String")]
pub struct SysctlValue(pub(super) String);

impl SysctlValue {
    /// Returns the text for the kernel.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Scalar> for SysctlValue {
    type Error = ParseWishError;

    fn try_from(value: Scalar) -> Result<Self, Self::Error> {
        match value {
            Scalar::Number(number) => Ok(Self(number.to_string())),
            Scalar::Text(text) if !text.is_empty() && !text.contains(char::is_control) => {
                Ok(Self(text))
            }
            _ => Err(ParseWishError(
                "neither a number nor a single line of text".to_owned(),
            )),
        }
    }
}

impl From<SysctlValue> for String {
    fn from(value: SysctlValue) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_a_class_with_its_priority() {
        for text in ["other", "fifo:1", "rr:99"] {
            assert_eq!(text.parse::<Scheduler>().unwrap().to_string(), text);
        }
        for text in [
            "", "fifo", "fifo:0", "rr:100", "other:", "other:1", "fifo:+1", "batch",
        ] {
            assert!(text.parse::<Scheduler>().is_err(), "{text:?} was accepted");
        }
    }
}
