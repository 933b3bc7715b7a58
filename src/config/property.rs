//! Values in PVE's configuration: scalars and property strings (`PVE::JSONSchema`).
//!
//! Every function returns `None` for what fails PVE's type check; PVE then reads on as if the
//! line were not there.

use std::collections::BTreeMap;

use crate::domain::cpuset::CpuSet;

/// Trims the blanks that Perl's `\s` means for bytes; `str::trim` would also take Unicode's.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Tells whether `c` is a blank for Perl's `\s`.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Reads a boolean.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// Reads an integer; PVE has no upper bound, here it is the largest `u32`.
pub(super) fn integer(text: &str) -> Option<u32> {
    is_digits(text).then(|| text.parse().unwrap_or(u32::MAX))
}

/// Reads a number with an optional fraction.
pub(super) fn number(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    (is_digits(whole) && is_digits(fraction))
        .then(|| text.parse().ok())
        .flatten()
}

/// Reads text that has no format: one pair of quotes around it is not part of it.
pub(super) fn plain(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text).to_owned()
}

/// Reads a volume id, `<storage>:<volume>`.
pub(super) fn volume_id(text: &str) -> Option<String> {
    let (storage, volume) = text.split_once(':')?;
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = storage.as_bytes();
    let valid = bytes.len() >= 2
        && bytes[0].is_ascii_alphabetic()
        && alphanumeric(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && !volume.is_empty();
    valid.then(|| text.to_owned())
}

/// Reads a `pve-cpuset`: a cpulist without strides; blanks may surround a part, not split it.
pub(super) fn cpu_set(text: &str) -> Option<CpuSet> {
    let split = |part: &str| trim(part).contains(is_blank);
    match text.split(',').any(split) {
        true => None,
        false => text.parse().ok().filter(|cpus: &CpuSet| !cpus.is_empty()),
    }
}

/// Reads a list of `N` and `N-M` separated by `;`, as in `numaN`.
pub(super) fn ranges(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(';') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (integer(first)?, integer(last)?);
        // Nothing has more than 8192 vCPUs or nodes; a wild list must not eat the memory.
        if last < first || last > 8191 || numbers.len() > 8191 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Reads a number at the end of a key, such as 3 in `net3`, up to `max`.
pub(super) fn index(key: &str, prefix: &str, max: u32) -> Option<u32> {
    let digits = key.strip_prefix(prefix)?;
    let canonical = is_digits(digits) && (digits == "0" || !digits.starts_with('0'));
    integer(digits).filter(|n| canonical && *n <= max)
}

/// Tells whether `text` is digits and nothing else.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Properties of a property string by their names.
#[derive(Debug, Default)]
pub(super) struct Properties<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Properties<'a> {
    /// Reads `key=value,...`; the one part without a key belongs to `default_key`.
    ///
    /// A duplicate, an empty value or a key of which `known` says no drops the whole string.
    pub(super) fn parse(
        text: &'a str,
        default_key: Option<&'a str>,
        known: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let mut properties = BTreeMap::new();
        for part in text.split(',').filter(|part| !trim(part).is_empty()) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, value),
                None => (default_key?, part),
            };
            let fresh = properties.insert(key, value).is_none();
            if !fresh || value.is_empty() || !known(key) {
                return None;
            }
        }
        Some(Self(properties))
    }

    /// Returns the value of `key`.
    pub(super) fn value(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    /// Returns the value of a boolean `key`: `Some(default)` if absent, `None` if it is none.
    pub(super) fn switch(&self, key: &str, default: bool) -> Option<bool> {
        self.value(key).map_or(Some(default), boolean)
    }

    /// Returns all names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.0.keys().copied()
    }
}
