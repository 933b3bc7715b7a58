//! CPU numbers and sets of them: the kernel's cpulist text and the value behind it.
//!
//! The kernel prints and reads sets of CPUs as a *cpulist* such as `0-3,8` (`bitmap_parselist()`
//! in `lib/bitmap-str.c`). Lists are compared as sets here, because the kernel normalises what it
//! is given. There is no upper bound of 1024 CPUs as in glibc's `cpu_set_t`; the bound is
//! [`CpuId::MAX`], the largest `NR_CPUS` that x86-64 kernels are built with.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

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
///
/// A bit for each CPU. The first 64 are in place: on most hosts a set costs no memory of its own, and what
/// compares thousands of them costs an instruction each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct CpuSet {
    low: u64,
    /// Words of the CPUs from 64 on, without zeros at the end, so that equal sets are equal. Copies share them: large
    /// hosts have thousands of equal masks.
    high: Option<Arc<[u64]>>,
}

/// Number of CPUs in a word.
const BITS: u32 = u64::BITS;

/// Text that is no cpulist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCpuListError {
    /// There is nothing before, between or behind the commas.
    #[error("an entry is empty: remove one comma")]
    Comma,
    /// A part is neither a number nor a range.
    #[error("\"{0}\" is not a cpu number or a range of them (such as \"0-3,8\")")]
    Part(String),
    /// A dash of a word processor, say, looks like a hyphen.
    #[error("\"{part}\" has a {letter:?} that looks right but does not belong in a cpu list")]
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
        Self::from_iter([cpu])
    }

    /// Returns the set whose bits are in these words.
    fn from_words(words: &[u64]) -> Self {
        let (low, high) = words.split_first().unwrap_or((&0, &[]));
        let n_high = high.iter().rposition(|word| *word != 0);
        let high = n_high.map(|n| Arc::from(&high[..=n]));
        Self { low: *low, high }
    }

    fn high(&self) -> &[u64] {
        self.high.as_deref().unwrap_or_default()
    }

    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.low).chain(self.high().iter().copied())
    }

    /// Joins the words of two sets, a missing one as 0.
    fn joined(&self, other: &Self, join: impl Fn(u64, u64) -> u64) -> Self {
        let n_high = self.high().len().max(other.high().len());
        if n_high == 0 {
            let low = join(self.low, other.low);
            return Self { low, high: None };
        }
        let zeros = std::iter::repeat(0);
        let (one, two) = (
            self.words().chain(zeros.clone()),
            other.words().chain(zeros),
        );
        let words = one.zip(two).map(|(one, two)| join(one, two));
        let words: Vec<u64> = words.take(n_high + 1).collect();
        Self::from_words(&words)
    }

    /// Tells whether nothing is left of the words that both sets have, joined.
    fn is_nothing(&self, other: &Self, join: impl Fn(u64, u64) -> u64) -> bool {
        let mut pairs = self.words().zip(other.words());
        pairs.all(|(one, two)| join(one, two) == 0)
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
        let word = match (cpu.0 / BITS) as usize {
            0 => self.low,
            n => self.high().get(n - 1).copied().unwrap_or_default(),
        };
        word >> (cpu.0 % BITS) & 1 == 1
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: CpuId) {
        self.extend([cpu]);
    }

    /// Returns where runs of CPUs begin and where there is none any more, one after the other.
    fn edges(&self) -> impl Iterator<Item = u32> + '_ {
        let mut last = 0;
        let changes = self.words().chain([0]).map(move |word| {
            let before = word << 1 | last;
            last = word >> (BITS - 1);
            word ^ before
        });
        bits(changes)
    }

    /// Tells whether there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_none()
    }

    /// Returns the number of CPUs in the set.
    pub fn len(&self) -> usize {
        self.words().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        bits(self.words()).map(CpuId)
    }

    /// Returns the lowest CPU.
    pub fn first(&self) -> Option<CpuId> {
        self.iter().next()
    }

    /// Returns the highest CPU.
    pub fn last(&self) -> Option<CpuId> {
        let words = (0..).zip(self.words());
        let (n, word) = words.filter(|(_, word)| *word != 0).last()?;
        Some(CpuId(n * BITS + word.ilog2()))
    }

    /// Returns the CPUs that are in either set.
    pub fn union(&self, other: &Self) -> Self {
        match other.is_subset(self) {
            true => self.clone(),
            false => self.joined(other, |one, two| one | two),
        }
    }

    /// Returns the CPUs that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        match self.is_subset(other) {
            true => self.clone(),
            false => self.joined(other, |one, two| one & two),
        }
    }

    /// Returns the CPUs of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        match self.is_disjoint(other) {
            true => self.clone(),
            false => self.joined(other, |one, two| one & !two),
        }
    }

    /// Tells whether every CPU of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.high().len() <= other.high().len() && self.is_nothing(other, |one, two| one & !two)
    }

    /// Tells whether the sets share no CPU.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.is_nothing(other, |one, two| one & two)
    }

    /// Returns the set as bytes, CPU 0 in bit 0 of byte 0: the form of `sched_setaffinity(2)` on
    /// little-endian machines and of systemd's `AllowedCPUs`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let n_bytes = self.last().map_or(0, |cpu| cpu.0 as usize / 8 + 1);
        let mut bytes: Vec<u8> = self.words().flat_map(u64::to_le_bytes).collect();
        bytes.truncate(n_bytes);
        bytes
    }

    /// Returns the set whose bit form is `bytes`; the inverse of [`CpuSet::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Self::from_words(&words.collect::<Vec<u64>>())
    }
}

/// Returns the numbers of the bits that are set.
fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0..).zip(words).flat_map(|(n, word)| {
        // Without its lowest bit again and again.
        let rests = std::iter::successors(Some(word), |rest| Some(rest & (rest - 1)));
        let rests = rests.take(word.count_ones() as usize);
        rests.map(move |rest| n * BITS + rest.trailing_zeros())
    })
}

/// Appends a number to a text, without what formatting can do besides.
fn push_number(text: &mut String, number: u32) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

/// Sets are ordered as their CPUs are, one after the other: `0-7` comes before `2`.
impl Ord for CpuSet {
    fn cmp(&self, other: &Self) -> Ordering {
        let pairs = self.joined(other, |one, two| one ^ two);
        let Some(first) = pairs.first() else {
            return Ordering::Equal;
        };
        // One set has this CPU; in its place the other has a higher one, or has come to its end.
        let is_here = self.contains(first);
        let without = if is_here { other } else { self };
        let goes_on = without.last() > Some(first);
        if is_here == goes_on {
            Ordering::Less
        } else {
            Ordering::Greater
        }
    }
}

impl PartialOrd for CpuSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::new();
        set.extend(cpus);
        set
    }
}

impl Extend<CpuId> for CpuSet {
    fn extend<I: IntoIterator<Item = CpuId>>(&mut self, cpus: I) {
        let mut words: Vec<u64> = self.words().collect();
        cpus.into_iter()
            .for_each(|cpu| set_bits(&mut words, cpu, cpu));
        *self = Self::from_words(&words);
    }
}

/// Sets the bits from `first` to `last`.
fn set_bits(words: &mut Vec<u64>, first: CpuId, last: CpuId) {
    let n_words = (last.0 / BITS) as usize + 1;
    words.resize(words.len().max(n_words), 0);
    for (n, word) in (0..)
        .zip(words)
        .take(n_words)
        .skip((first.0 / BITS) as usize)
    {
        let from = first.0.saturating_sub(n * BITS);
        let to = (last.0 - n * BITS).min(BITS - 1);
        *word |= u64::MAX << from & u64::MAX >> (BITS - 1 - to);
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Thousands of masks are written into the log, and told to the kernel.
        let mut text = String::new();
        let mut edges = self.edges();
        while let (Some(first), Some(behind)) = (edges.next(), edges.next()) {
            if !text.is_empty() {
                text.push(',');
            }
            push_number(&mut text, first);
            if behind - first > 1 {
                text.push('-');
                push_number(&mut text, behind - 1);
            }
        }
        f.write_str(&text)
    }
}

impl FromStr for CpuSet {
    type Err = ParseCpuListError;

    /// Parses a cpulist; blanks around parts and empty text (the empty set) are accepted.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self::new());
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
            set_bits(&mut words, first, last);
        }
        Ok(Self::from_words(&words))
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

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Some numbers around the ends of words, and any others.
    fn numbers() -> impl Strategy<Value = BTreeSet<u32>> {
        let number = prop_oneof![0u32..8, 60u32..68, 124u32..132, 0u32..=8191];
        proptest::collection::btree_set(number, 0..12)
    }

    #[test]
    fn parses_and_prints_cpulists() {
        for (text, printed) in [
            ("", ""),
            ("\n", ""),
            ("3", "3"),
            ("3-3", "3"),
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

    #[test]
    fn bytes_end_with_that_of_the_highest_cpu() {
        for (list, bytes) in [
            ("", &[][..]),
            ("0", &[0b1]),
            ("7", &[0b1000_0000]),
            ("8", &[0, 0b1]),
            ("0-3,9", &[0b1111, 0b10]),
            ("64", &[0, 0, 0, 0, 0, 0, 0, 0, 0b1]),
        ] {
            assert_eq!(list.parse::<CpuSet>().unwrap().to_bytes(), bytes, "{list}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(cpus in proptest::collection::btree_set(0u32..=8191, 0..40)) {
            let set: CpuSet = cpus.into_iter().map(CpuId).collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::from_bytes(&set.to_bytes()), &set);
        }

        /// Whatever is asked of two sets is what sets of numbers say.
        #[test]
        fn bits_are_as_sets_of_numbers(one in numbers(), two in numbers()) {
            let of = |numbers: &BTreeSet<u32>| -> CpuSet {
                numbers.iter().copied().map(CpuId).collect()
            };
            let (a, b) = (of(&one), of(&two));
            prop_assert_eq!(a.union(&b), of(&(&one | &two)));
            prop_assert_eq!(a.intersection(&b), of(&(&one & &two)));
            prop_assert_eq!(a.difference(&b), of(&(&one - &two)));
            prop_assert_eq!(a.is_subset(&b), one.is_subset(&two));
            prop_assert!(a.intersection(&b).is_subset(&b));
            prop_assert_eq!(a.is_disjoint(&b), one.is_disjoint(&two));
            prop_assert_eq!(a.cmp(&b), one.cmp(&two));
            prop_assert_eq!(a == b, one == two);
            prop_assert_eq!(a.len(), one.len());
            prop_assert_eq!(a.is_empty(), one.is_empty());
            prop_assert_eq!(a.first().map(|cpu| cpu.0), one.first().copied());
            prop_assert_eq!(a.last().map(|cpu| cpu.0), one.last().copied());
            prop_assert!(a.iter().map(|cpu| cpu.0).eq(one.iter().copied()));
            for n in one.iter().chain(&two) {
                prop_assert_eq!(a.contains(CpuId(*n)), one.contains(n));
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = text.parse::<CpuSet>();
        }
    }
}
