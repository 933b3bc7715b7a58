//! Quantities with a unit: times and frequencies.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::{ParseWishError, serde_as_text};

/// Time with a unit, such as `2us` or `30s`; at most half an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(pub(super) Duration);

impl TimeSpan {
    /// Longest time that is accepted; in microseconds it fits the kernel's 32-bit latencies.
    pub const MAX: Duration = Duration::from_secs(30 * 60);

    /// Returns the time.
    pub fn duration(self) -> Duration {
        self.0
    }
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
        let Some(micros) = counted(text, &UNITS) else {
            return refuse("is not a number with a unit (us, ms, s or min)");
        };
        match micros.map(Duration::from_micros) {
            Some(time) if time <= Self::MAX => Ok(Self(time)),
            _ => refuse("is longer than 30min"),
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No time of a table is longer than 30 minutes.
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        in_largest_unit(micros, &UNITS, f)
    }
}

serde_as_text!(TimeSpan);

/// Frequency with a unit, such as `3400MHz` or `4GHz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frequency(u32);

impl Frequency {
    /// Returns a frequency that cpufreq tells.
    pub fn of_kilohertz(kilohertz: u32) -> Self {
        Self(kilohertz)
    }

    /// Returns the frequency in the unit of cpufreq.
    pub fn kilohertz(self) -> u32 {
        self.0
    }
}

/// Units of frequency and how many kHz they have, largest first.
const FREQUENCIES: [(&str, u64); 3] = [("GHz", 1_000_000), ("MHz", 1_000), ("kHz", 1)];

impl FromStr for Frequency {
    type Err = ParseWishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| Err(ParseWishError(format!("\"{text}\" {why}")));
        let Some(kilohertz) = counted(text, &FREQUENCIES) else {
            return refuse("is not a whole number with a unit (kHz, MHz or GHz)");
        };
        match kilohertz.map(u32::try_from) {
            Some(Ok(kilohertz @ 1..)) => Ok(Self(kilohertz)),
            _ => refuse("is not a cpu frequency"),
        }
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        in_largest_unit(self.0.into(), &FREQUENCIES, f)
    }
}

serde_as_text!(Frequency);

/// Returns what a number with one of `units` comes to in the smallest of them; the inner `None` stands for
/// more than can be counted, the outer one for text that is none.
fn counted(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(n_digits);
    let unit = units.iter().find(|(name, _)| *name == unit.trim());
    let (_, factor) = unit.filter(|_| n_digits > 0)?;
    let number = number.parse().ok();
    Some(number.and_then(|n: u64| n.checked_mul(*factor)))
}

/// Prints a number in the largest unit that it is a whole number of.
fn in_largest_unit(number: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let smallest = units.last();
    let mut fitting = units.iter().filter(|_| number > 0);
    let fitting = fitting.find(|(_, factor)| number.is_multiple_of(*factor));
    match fitting.or(smallest) {
        Some((unit, factor)) => write!(f, "{}{unit}", number / factor),
        None => write!(f, "{number}"),
    }
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
}
