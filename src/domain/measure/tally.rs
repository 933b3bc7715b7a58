//! Numbers and times that are added up.

use serde::{Deserialize, Serialize};

/// How often, how long in all, and how long at most; times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How often.
    pub times: u64,
    /// How long in all.
    pub total_ns: u64,
    /// How long at most.
    pub longest_ns: u64,
}

impl Tally {
    /// Adds one that took `ns`.
    pub fn add(&mut self, ns: u64) {
        self.times += 1;
        self.lengthen(ns);
        self.longest_ns = self.longest_ns.max(ns);
    }

    /// Adds time to those that are counted already.
    pub fn lengthen(&mut self, ns: u64) {
        self.total_ns += ns;
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Tally) {
        self.times += other.times;
        self.total_ns += other.total_ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }
}

/// Upper bounds of the buckets of a histogram, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 7] = [2, 5, 10, 20, 50, 100, 1000];

/// How many took how long, by [`BOUNDS_US`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(pub [u64; BOUNDS_US.len() + 1]);

impl Histogram {
    /// Adds one that took `ns`.
    pub fn add(&mut self, ns: u64) {
        let shorter = BOUNDS_US.iter().take_while(|us| ns > **us * 1000);
        self.0[shorter.count()] += 1;
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (n, more) in self.0.iter_mut().zip(other.0) {
            *n += more;
        }
    }
}

/// Returns a time in the unit that people read: `850 ns`, `12 us`, `3.4 ms`, `1.2 s`.
pub fn in_units(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    match ns / unit {
        0..10 => format!("{}.{} {name}", ns / unit, ns % unit * 10 / unit),
        whole => format!("{whole} {name}"),
    }
}

/// Returns how much of the whole a part is, in percent.
pub fn share(part: u64, whole: u64) -> String {
    let thousandths = u128::from(part) * 100_000 / u128::from(whole.max(1));
    match thousandths {
        0 if part > 0 => "< 0.001 %".to_owned(),
        _ => format!("{}.{:03} %", thousandths / 1000, thousandths % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_units() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.0 us"),
            (9_990, "9.9 us"),
            (48_300, "48 us"),
            (3_450_000, "3.4 ms"),
            (12_000_000_000, "12 s"),
        ] {
            assert_eq!(in_units(ns), text);
        }
    }

    #[test]
    fn a_share_that_is_too_small_for_digits_is_not_nothing() {
        for (part, text) in [
            (0, "0.000 %"),
            (9_999, "< 0.001 %"),
            (10_000, "0.001 %"),
            (173_930_000, "17.393 %"),
            (1_000_000_000, "100.000 %"),
        ] {
            assert_eq!(share(part, 1_000_000_000), text);
        }
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut histogram = Histogram::default();
        for us in [0, 2, 3, 1000, 1001, 99_999] {
            histogram.add(us * 1000);
        }
        assert_eq!(histogram.0, [2, 1, 0, 0, 0, 0, 1, 2]);
    }
}
