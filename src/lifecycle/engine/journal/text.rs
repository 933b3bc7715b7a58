//! The text of the log: one record per line, each with a check, so that damage is told from what
//! was written, and costs no more than the lines that it is in.
//!
//! What was written without checks (version 1) is read as well. The file may be longer than the log:
//! zeros follow, the room for what is still to be announced.

use std::fmt;

use crate::domain::state::{Record, State, VERSION};
use crate::domain::words::count;

/// What a log was found to be.
#[derive(Debug, Default)]
pub struct Log {
    /// What it amounts to, without what was damaged.
    pub state: State,
    /// Number of bytes up to the end of its last whole line.
    pub end: usize,
    /// Whether a line follows that a death cut short, or other rubbish.
    pub is_torn: bool,
    /// What was damaged.
    pub damage: Damage,
}

/// What cannot be understood of a log that was written whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Such lines, with their numbers.
    pub lines: Vec<(usize, String)>,
    /// How many lines there were more.
    pub missing: usize,
}

impl Damage {
    /// Tells whether there is none.
    pub fn is_none(&self) -> bool {
        self.lines.is_empty() && self.missing == 0
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the state in /run/pin-hook/journal is damaged: ")?;
        let numbers: Vec<String> = self.lines.iter().map(|(n, _)| n.to_string()).collect();
        match numbers.as_slice() {
            [] => {}
            [one] => write!(f, "line {one}")?,
            many => write!(f, "lines {}", many.join(", "))?,
        }
        if !numbers.is_empty() && self.missing > 0 {
            f.write_str(", and ")?;
        }
        match self.missing {
            0 => Ok(()),
            n => write!(f, "{} missing at its end", count(n, "line")),
        }
    }
}

/// A log that a newer version wrote. Nothing of it is understood, so nothing is done about it:
/// what it holds can only be given back by the version that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its version {version} is newer than {VERSION}, the newest that this program knows")]
pub struct Newer {
    version: u32,
}

/// Number of zeros that are told at once.
const ZEROS: usize = 64;

/// Returns what is before the zeros of the reserve. There are tens of KiB of them, and each phase reads
/// them: as characters, one by one, they take longer than all records.
fn without_reserve(text: &str) -> &str {
    let chunks = text.as_bytes().rchunks_exact(ZEROS);
    let n_zeros = ZEROS * chunks.take_while(|chunk| **chunk == [0; ZEROS]).count();
    text[..text.len() - n_zeros].trim_end_matches('\0')
}

/// Reads a log.
///
/// # Errors
/// A newer version has written it.
pub fn read(text: &str) -> Result<Log, Newer> {
    let written = without_reserve(text);
    let mut log = Log {
        end: written.rfind('\n').map_or(0, |newline| newline + 1),
        ..Log::default()
    };
    log.is_torn = log.end < written.len();
    let whole = &written[..log.end];
    let records: Vec<Option<Record>> = whole.lines().map(record).collect();
    let base = records.iter().find_map(base);
    let version = match records.first() {
        Some(Some(Record::Version(version))) => Some(*version),
        _ => None,
    };
    if let (None, Some(version)) = (base, version.filter(|version| *version > VERSION)) {
        return Err(Newer { version });
    }
    log.damage.missing = match base {
        Some(expected) => (expected + 2).saturating_sub(records.len()),
        // It begins with that, and nobody empties it: where there is nothing to remember, there is
        // no log, and in one that was just made there are zeros.
        None if records.is_empty() => usize::from(!written.is_empty() || text.is_empty()),
        None => usize::from(records.len() == 1 && version > Some(1)),
    };
    for (n, (line, record)) in (1..).zip(whole.lines().zip(records)) {
        match record {
            Some(Record::Version(version)) if version > VERSION => {
                log.damage.lines.push((n, line.to_owned()));
            }
            // A log with a base has a sum in each line but the first: a line without one has lost it.
            Some(record) if n == 1 || base.is_none() || line.contains(MARK) => {
                log.state.apply(record);
            }
            _ => log.damage.lines.push((n, line.to_owned())),
        }
    }
    Ok(log)
}

/// Returns the lines of records.
///
/// # Errors
/// One cannot be put into words.
pub fn lines<'r>(records: impl IntoIterator<Item = &'r Record>) -> anyhow::Result<String> {
    let mut text = String::new();
    for record in records {
        let line = serde_json::to_string(record)?;
        // The first line of all is understood by versions that know no checks.
        match record {
            Record::Version(_) => text.push_str(&line),
            _ => text.push_str(&format!("{line}{MARK}{}", check(&line))),
        }
        text.push('\n');
    }
    Ok(text)
}

/// What stands between a record and its check.
const MARK: &str = " #";

fn record(line: &str) -> Option<Record> {
    let json = match line.rsplit_once(MARK) {
        Some((json, sum)) => (sum == check(json)).then_some(json)?,
        None => line,
    };
    serde_json::from_str(json).ok()
}

/// Returns how many records were written in one piece, if a record says so.
fn base(record: &Option<Record>) -> Option<usize> {
    match record {
        Some(Record::Base { version, records }) if *version <= VERSION => Some(*records),
        _ => None,
    }
}

/// FNV-1a: every step can be undone, so texts that differ in one byte never have the same.
fn check(text: &str) -> String {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{sum:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::{Held, based};
    use crate::domain::target::{Target, Value};

    fn parse(text: &str) -> Result<(State, Damage), Newer> {
        read(text).map(|log| (log.state, log.damage))
    }

    fn intend(ours: Value) -> Record {
        let held = Held::new(Value::Absent, ours);
        Record::Intend(vec![(
            Target::Group("qemu.slice/100.scope/vcpu".to_owned()),
            held,
        )])
    }

    #[test]
    fn a_line_cut_short_is_as_if_it_was_never_written() {
        let whole = lines(&based(vec![intend(Value::Present)])).unwrap();
        let torn = format!("{whole}{{\"forget\":[{{\"gro");
        assert_eq!(parse(&torn).unwrap(), parse(&whole).unwrap());
        assert_eq!(parse(&whole).unwrap().0.held.len(), 1);
        let zeros = "\0".repeat(100);
        assert_eq!(parse(&format!("{torn}{zeros}")), parse(&whole));
    }

    #[test]
    fn a_damaged_line_costs_that_line_and_is_no_empty_state() {
        let rest = lines(&[intend(Value::Present)]).unwrap();
        let (state, damage) = parse(&format!("{{\"version\":1}}\ngarbage\n{rest}")).unwrap();
        assert_eq!(state.held.len(), 1);
        assert_eq!(damage.lines, [(2, "garbage".to_owned())]);
        assert_eq!(
            parse(""),
            Ok((
                State::default(),
                Damage {
                    missing: 1,
                    ..Damage::default()
                }
            ))
        );
    }

    #[test]
    fn a_newer_version_is_told_from_damage_to_the_line_that_says_so() {
        let newer = Newer { version: 99 };
        assert_eq!(parse("{\"version\":99}\n{\"who\":1}\n"), Err(newer));
        let log = lines(&based(vec![intend(Value::Present)])).unwrap();
        let (state, damage) = parse(&log.replacen('2', "3", 1)).unwrap();
        assert_eq!((state.held.len(), damage.lines.len()), (1, 1));
    }

    #[test]
    fn a_checkpoint_says_the_same_in_fewer_lines() {
        let mut state = State::default();
        state.apply(intend(Value::Present));
        state.apply(Record::Reload(true));
        let text = lines(&state.checkpoint(true)).unwrap();
        assert_eq!(parse(&text).unwrap(), (state, Damage::default()));
    }
}
