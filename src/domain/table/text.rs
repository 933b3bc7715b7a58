//! The text forms of the values in a table: what people write is what a claim stores.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cpus, Frequency, Nodes, Reserve, Scheduler, SysctlValue, TimeSpan, Workqueues};
use crate::domain::cpuset::{CpuId, CpuSet, ParseCpuListError};

/// Text that is no value of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseWishError(String);

/// Makes a type read and written as its text form.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = ParseWishError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

/// Units of time and how many microseconds they have, largest first.
const UNITS: [(&str, u64); 4] = [
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl FromStr for TimeSpan {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| Err(ParseWishError(format!("\"{text}\" {why}")));
        let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(n_digits);
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let Some((_, factor)) = unit.filter(|_| n_digits > 0) else {
            return refuse("is not a number with a unit (us, ms, s or min)");
        };
        let micros = number
            .parse()
            .ok()
            .and_then(|n: u64| n.checked_mul(*factor));
        match micros.map(Duration::from_micros) {
            Some(time) if time <= Self::MAX => Ok(Self(time)),
            _ => refuse("is longer than 30min"),
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let fits = |(_, factor): &&(&str, u64)| micros.is_multiple_of(u128::from(*factor));
        match UNITS.iter().find(fits) {
            Some((unit, factor)) if micros > 0 => {
                write!(f, "{}{unit}", micros / u128::from(*factor))
            }
            _ => write!(f, "{micros}us"),
        }
    }
}

serde_as_text!(TimeSpan);

/// Units of frequency and how many kHz they have, largest first.
const FREQUENCIES: [(&str, u32); 3] = [("GHz", 1_000_000), ("MHz", 1_000), ("kHz", 1)];

impl FromStr for Frequency {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| Err(ParseWishError(format!("\"{text}\" {why}")));
        let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(n_digits);
        let unit = FREQUENCIES.iter().find(|(name, _)| *name == unit.trim());
        let Some((_, factor)) = unit.filter(|_| n_digits > 0) else {
            return refuse("is not a whole number with a unit (kHz, MHz or GHz)");
        };
        match number
            .parse()
            .ok()
            .and_then(|n: u32| n.checked_mul(*factor))
        {
            Some(kilohertz @ 1..) => Ok(Self(kilohertz)),
            _ => refuse("is no frequency of a cpu"),
        }
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u32)| self.0.is_multiple_of(*factor);
        let (unit, factor) = FREQUENCIES.iter().find(fits).unwrap_or(&("kHz", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

serde_as_text!(Frequency);

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

/// Value of a key that takes more than one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// Text in quotes.
    Text(String),
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

impl TryFrom<Scalar> for SysctlValue {
    type Error = ParseWishError;

    fn try_from(value: Scalar) -> Result<Self, Self::Error> {
        match value {
            Scalar::Number(number) => Ok(Self(number.to_string())),
            Scalar::Text(text) if !text.is_empty() && !text.contains(char::is_control) => {
                Ok(Self(text))
            }
            _ => Err(ParseWishError(
                "neither a number nor one line of text".to_owned(),
            )),
        }
    }
}

impl From<SysctlValue> for String {
    fn from(value: SysctlValue) -> Self {
        value.0
    }
}

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
    fn time_spans_print_in_the_largest_unit_that_fits() {
        for (text, printed) in [
            ("2us", "2us"),
            ("1000 us", "1ms"),
            ("90s", "90s"),
            ("60s", "1min"),
            ("0s", "0us"),
            ("30min", "30min"),
        ] {
            assert_eq!(text.parse::<TimeSpan>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn refuses_what_is_no_time_span() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1h",
            "31min",
            "99999999999999999999s",
            "2 u s",
        ] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn frequencies_are_whole_numbers_with_a_unit() {
        for (text, kilohertz, printed) in [
            ("3400MHz", 3_400_000, "3400MHz"),
            ("4 GHz", 4_000_000, "4GHz"),
            ("1234567kHz", 1_234_567, "1234567kHz"),
        ] {
            let frequency: Frequency = text.parse().unwrap();
            assert_eq!(
                (frequency.kilohertz(), frequency.to_string()),
                (kilohertz, printed.to_owned())
            );
        }
        for text in ["", "3.4GHz", "3400", "GHz", "0MHz", "5000GHz", "-1MHz"] {
            assert!(text.parse::<Frequency>().is_err(), "{text:?} was accepted");
        }
    }

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

    #[test]
    fn node_lists_print_as_they_are_read() {
        for text in ["auto", "0", "0-1,3"] {
            assert_eq!(text.parse::<Nodes>().unwrap().to_string(), text);
        }
        assert!("".parse::<Nodes>().is_err());
    }
}
