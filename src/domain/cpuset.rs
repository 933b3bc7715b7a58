//! CPU numbers and sets of them: the kernel's cpulist text and the value behind it.
//!
//! The kernel prints and reads sets of CPUs as a *cpulist* such as `0-3,8` (`bitmap_parselist()`
//! in `lib/bitmap-str.c`). Lists are compared as sets here, because the kernel normalises what it
//! is given. There is no upper bound of 1024 CPUs as in glibc's `cpu_set_t`; the bound is
//! [`CpuId::MAX`], the largest `NR_CPUS` that x86-64 kernels are built with.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a logical CPU, as in `/sys/devices/system/cpu/cpuN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuId(pub u32);

impl CpuId {
    /// Largest CPU number that is accepted.
    pub const MAX: CpuId = CpuId(8191);
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Set of logical CPUs; prints as a cpulist.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<CpuId>);

/// Text that is no cpulist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCpuListError {
    /// There is nothing before, between or behind the commas.
    #[error("there is a comma too many")]
    Comma,
    /// A part is neither a number nor a range.
    #[error("\"{0}\" is not a cpu number or a range of them (such as \"0-3,8\")")]
    Part(String),
    /// A dash of a word processor, say, looks like a hyphen.
    #[error("\"{part}\" has a {letter:?} that looks right and is no part of a cpu list")]
    Letter {
        /// What there is between two commas.
        part: String,
        /// The letter.
        letter: char,
    },
    /// A range ends before it begins.
    #[error("the range \"{0}\" ends before it begins")]
    Backwards(String),
    /// A number above [`CpuId::MAX`].
    #[error("cpu {0} is above the largest supported cpu number {max}", max = CpuId::MAX)]
    TooLarge(String),
}

impl CpuSet {
    /// Returns the set with no CPU in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the set that holds `cpu` only.
    pub fn of(cpu: CpuId) -> Self {
        Self(BTreeSet::from([cpu]))
    }

    /// Returns the set as a sentence names it: "cpu 3", "cpus 3-5".
    pub fn in_words(&self) -> String {
        let noun = if self.len() == 1 { "cpu" } else { "cpus" };
        format!("{noun} {self}")
    }

    /// Returns the verb for [`CpuSet::in_words`].
    pub fn is_or_are(&self) -> &'static str {
        if self.len() == 1 { "is" } else { "are" }
    }

    /// Tells whether `cpu` is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.contains(&cpu)
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0.insert(cpu);
    }

    /// Tells whether there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of CPUs in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0.iter().copied()
    }

    /// Returns the lowest CPU.
    pub fn first(&self) -> Option<CpuId> {
        self.0.first().copied()
    }

    /// Returns the highest CPU.
    pub fn last(&self) -> Option<CpuId> {
        self.0.last().copied()
    }

    /// Returns the CPUs that are in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// Returns the CPUs that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Returns the CPUs of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Tells whether every CPU of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Tells whether the sets share no CPU.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Returns the set as bytes, CPU 0 in bit 0 of byte 0: the form of `sched_setaffinity(2)` on
    /// little-endian machines and of systemd's `AllowedCPUs`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let n_bytes = self.last().map_or(0, |cpu| cpu.0 as usize / 8 + 1);
        let mut bytes = vec![0u8; n_bytes];
        for cpu in self.iter() {
            bytes[cpu.0 as usize / 8] |= 1 << (cpu.0 % 8);
        }
        bytes
    }

    /// Returns the set whose bit form is `bytes`; the inverse of [`CpuSet::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let bits = (0u32..).zip(bytes).flat_map(|(n, &byte)| {
            (0..8).filter_map(move |bit| (byte >> bit & 1 == 1).then_some(CpuId(n * 8 + bit)))
        });
        Self(bits.collect())
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl Extend<CpuId> for CpuSet {
    fn extend<I: IntoIterator<Item = CpuId>>(&mut self, cpus: I) {
        self.0.extend(cpus);
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| next.0 == last.0 + 1) {
                last = next;
            }
            match last.0 - first.0 {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = ParseCpuListError;

    /// Parses a cpulist; blanks around parts and empty text (the empty set) are accepted.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut cpus = Self::new();
        if text.trim().is_empty() {
            return Ok(cpus);
        }
        for part in text.split(',') {
            let part = part.trim();
            if part.is_empty() {
                return Err(ParseCpuListError::Comma);
            }
            if let Some(letter) = part.chars().find(|c| !c.is_ascii()) {
                let part = part.to_owned();
                return Err(ParseCpuListError::Letter { part, letter });
            }
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (parse_cpu(first, part)?, parse_cpu(last, part)?),
                None => (parse_cpu(part, part)?, parse_cpu(part, part)?),
            };
            if last < first {
                return Err(ParseCpuListError::Backwards(part.to_owned()));
            }
            cpus.extend((first.0..=last.0).map(CpuId));
        }
        Ok(cpus)
    }
}

fn parse_cpu(text: &str, part: &str) -> Result<CpuId, ParseCpuListError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseCpuListError::Part(part.to_owned()));
    }
    match text.parse().map(CpuId) {
        Ok(cpu) if cpu <= CpuId::MAX => Ok(cpu),
        _ => Err(ParseCpuListError::TooLarge(text.to_owned())),
    }
}

impl TryFrom<String> for CpuSet {
    type Error = ParseCpuListError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints_cpulists() {
        for (text, printed) in [
            ("", ""),
            ("\n", ""),
            ("3", "3"),
            ("0-3,8\n", "0-3,8"),
            (" 8 , 0-1,2", "0-2,8"),
            ("5,5-6,6", "5-6"),
            ("8191", "8191"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn refuses_what_is_no_cpulist() {
        for text in [
            "a",
            "1-",
            "-1",
            "3-1",
            "1,,2",
            "+1",
            "8192",
            "99999999999",
            "0-4:2",
            "1 2",
        ] {
            assert!(text.parse::<CpuSet>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(cpus in proptest::collection::btree_set(0u32..=8191, 0..40)) {
            let set: CpuSet = cpus.into_iter().map(CpuId).collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::from_bytes(&set.to_bytes()), &set);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = text.parse::<CpuSet>();
        }
    }
}
