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

/// Frequency with a unit, such as `3400MHz` or `4GHz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frequency(u32);

impl Frequency {
    /// Returns the frequency in the unit of cpufreq.
    pub fn kilohertz(self) -> u32 {
        self.0
    }
}

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
            _ => refuse("is not a cpu frequency"),
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
