//! Identities: which VM, which task, which run of a VM.
//!
//! Numbers are reused, identities are not: a task is its number together with its start time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a guest, `pve-vmid` in PVE's JSON schema: 100 to 999999999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vmid(u32);

/// Text that is no VM id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a vm id (a number from 100 to 999999999)")]
pub struct ParseVmidError(String);

impl FromStr for Vmid {
    type Err = ParseVmidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number @ 100..=999_999_999) if digits && !text.starts_with('0') => Ok(Self(number)),
            _ => Err(ParseVmidError(text.to_owned())),
        }
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a task: its thread id and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// Thread id (for a process: its process id).
    pub tid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tid.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_ids_are_those_of_pve() {
        assert_eq!("100".parse::<Vmid>().unwrap().to_string(), "100");
        assert!("999999999".parse::<Vmid>().is_ok());
        for text in ["", "99", "0100", "1000000000", "+100", "1e3", "abc", " 100"] {
            assert!(text.parse::<Vmid>().is_err(), "{text:?} was accepted");
        }
    }
}
