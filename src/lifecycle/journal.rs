//! The log of what is about to be done, on disk before it is done.
//!
//! `/run/pin-hook/journal` holds one [`Record`] per line. It is only appended to while a phase
//! works, and replaced by its shortest form at the end. A line that a death cut short announced
//! writes that never happened, so it is dropped.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::domain::advice::Advised;
use crate::domain::state::{Record, State, VERSION};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::files::{Files, Held, Owner};
use crate::host::trouble::cannot;

/// Directory of the program's state; gone after a reboot, as everything is that it describes.
pub const STATE_DIR: &str = "/run/pin-hook";
const JOURNAL: &str = "/run/pin-hook/journal";
/// Wishes that came while the lock could not be had: one empty file for each VM.
const SPOOL: &str = "/run/pin-hook/spool";
const LOCK: &str = "/run/pin-hook/lock";

/// How long a run waits for another one that works on the host.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The state of this host in our hands: while it exists, no other run works on it.
#[derive(Debug)]
pub struct Journal<'h> {
    files: &'h dyn Files,
    state: State,
    is_changed: bool,
    _lock: Box<dyn Held>,
}

impl<'h> Journal<'h> {
    /// Takes the host lock and reads the log; `None` when another run keeps the lock too long.
    pub fn open(files: &'h dyn Files) -> anyhow::Result<Option<Self>> {
        make_state_dir(files)?;
        let lock = files.lock(LOCK, LOCK_WAIT).map_err(cannot("lock", LOCK))?;
        let Some(lock) = lock else { return Ok(None) };
        let state = read_state(files)?;
        cut_torn_line(files)?;
        Ok(Some(Journal {
            files,
            state,
            is_changed: false,
            _lock: lock,
        }))
    }

    /// Throws a damaged log away, under the lock.
    pub fn discard(files: &dyn Files) -> anyhow::Result<()> {
        make_state_dir(files)?;
        let lock = files.lock(LOCK, LOCK_WAIT).map_err(cannot("lock", LOCK))?;
        let _lock = lock.ok_or_else(busy)?;
        files.remove(JOURNAL).map_err(cannot("remove", JOURNAL))
    }

    /// Returns what the log amounts to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Remembers that an announced write was done; written with the next checkpoint.
    pub fn settle(&mut self, target: &Target) {
        if let Some(held) = self.state.held.get_mut(target) {
            held.before = None;
            held.refused = 0;
        }
    }

    /// Remembers that claims were settled to the end; written with the next checkpoint.
    pub fn prove(&mut self, vmids: &[Vmid]) {
        for vmid in vmids {
            if let Some(claim) = self.state.claims.get_mut(vmid) {
                claim.is_unproven = false;
                self.is_changed = true;
            }
        }
    }

    /// Appends `records`; after that, and not earlier, what they announce may be done.
    pub fn append(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let is_new = !self.files.exists(JOURNAL);
        let text = lines(
            is_new
                .then_some(&Record::Version(VERSION))
                .into_iter()
                .chain(&records),
        )?;
        let written = self.files.append(JOURNAL, &text);
        written.map_err(cannot("append to", JOURNAL))?;
        self.is_changed = true;
        for record in records {
            self.state.apply(record);
        }
        Ok(())
    }

    /// Replaces the log by its shortest form; with nothing to remember there is none. See
    /// [`State::checkpoint`] for `is_settled`.
    pub fn checkpoint(&mut self, is_settled: bool) -> anyhow::Result<()> {
        if !std::mem::take(&mut self.is_changed) {
            return Ok(());
        }
        let done = if self.state.is_empty() {
            self.files.remove(JOURNAL)
        } else {
            self.files.replace(
                JOURNAL,
                &lines(self.state.checkpoint(is_settled).iter())?,
                0o600,
            )
        };
        done.map_err(cannot("replace", JOURNAL))
    }
}

/// Cuts off a line that a death left unfinished, so that the next one begins on its own.
fn cut_torn_line(files: &dyn Files) -> anyhow::Result<()> {
    let Ok(text) = files.read(JOURNAL) else {
        return Ok(());
    };
    let end = text.rfind('\n').map_or(0, |newline| newline + 1);
    if end == text.len() {
        return Ok(());
    }
    let cut = files.replace(JOURNAL, &text[..end], 0o600);
    cut.map_err(cannot("replace", JOURNAL))
}

/// Leaves a wish for a VM to the next reconcile, because the host lock could not be had.
pub fn spool(files: &dyn Files, vmid: Vmid) -> anyhow::Result<()> {
    make_state_dir(files)?;
    match files.make_dir(SPOOL, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(cannot("make", SPOOL)(error));
        }
        _ => {}
    }
    let path = format!("{SPOOL}/{vmid}");
    files
        .replace(&path, "", 0o600)
        .map_err(cannot("write", &path))
}

/// Takes the wishes that were left.
pub fn take_spooled(files: &dyn Files) -> Vec<Vmid> {
    let names = files.list(SPOOL).unwrap_or_default();
    let vmids = names.iter().filter_map(|name| name.parse().ok());
    let taken = vmids.filter(|vmid: &Vmid| files.remove(&format!("{SPOOL}/{vmid}")).is_ok());
    taken.collect()
}

/// Returns the state without taking the lock: for showing it, not for acting on it.
pub fn read_state(files: &dyn Files) -> anyhow::Result<State> {
    match files.read(JOURNAL) {
        Ok(text) => parse(&text).map_err(unusable),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(cannot("read", JOURNAL)(error)),
    }
}

/// A log that a newer version wrote. Nothing of it is understood, so nothing is done about it:
/// what it holds can only be given back by the version that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its version {version} is newer than {VERSION}, the newest that this program knows")]
pub struct Newer {
    version: u32,
}

fn unusable(error: anyhow::Error) -> anyhow::Error {
    let advised = match error.is::<Newer>() {
        true => Advised::new(
            format!("{JOURNAL} is of a newer pin-hook"),
            "install that version again, and before going back to this one: pin-hook release --all",
        ),
        false => Advised::new(
            format!("{JOURNAL} is damaged"),
            "pin-hook release --all gives the host back without it",
        ),
    };
    error.context(advised)
}

/// Returns the error of a run that another one kept from the host.
pub fn busy() -> anyhow::Error {
    anyhow::Error::new(Advised::new(
        format!("another run of pin-hook has held {LOCK} for {LOCK_WAIT:?}"),
        "try again; lslocks shows which",
    ))
}

/// Parses a log.
///
/// # Errors
/// When a line that was written whole cannot be understood, or comes from a newer version.
pub fn parse(text: &str) -> anyhow::Result<State> {
    let mut state = State::default();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else {
            break;
        };
        let record = serde_json::from_str(line).with_context(|| format!("line {}", n + 1))?;
        if let Record::Version(version) = record
            && version > VERSION
        {
            bail!(Newer { version });
        }
        state.apply(record);
    }
    Ok(state)
}

fn lines<'r>(records: impl Iterator<Item = &'r Record>) -> anyhow::Result<String> {
    let mut text = String::new();
    for record in records {
        text.push_str(&serde_json::to_string(record)?);
        text.push('\n');
    }
    Ok(text)
}

fn make_state_dir(files: &dyn Files) -> anyhow::Result<()> {
    match files.make_dir(STATE_DIR, 0o700) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_owner(files),
        made => made.map_err(cannot("make", STATE_DIR)),
    }
}

fn check_owner(files: &dyn Files) -> anyhow::Result<()> {
    let owner = files.owner(STATE_DIR).map_err(cannot("read", STATE_DIR))?;
    if owner.uid != 0 || owner.mode & 0o022 != 0 {
        let Owner { uid, mode } = owner;
        bail!(Advised::new(
            format!(
                "{STATE_DIR} belongs to uid {uid} with mode {mode:o}, so others than root may have written it"
            ),
            format!("rm -r {STATE_DIR}, then pin-hook release --all"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::Held;
    use crate::domain::target::Value;

    fn intend(ours: Value) -> Record {
        let held = Held::new(Value::Absent, ours);
        Record::Intend(vec![(
            Target::Group("qemu.slice/100.scope/vcpu".to_owned()),
            held,
        )])
    }

    #[test]
    fn a_line_cut_short_is_as_if_it_was_never_written() {
        let whole = lines([Record::Version(1), intend(Value::Present)].iter()).unwrap();
        let torn = format!("{whole}{{\"forget\":[{{\"gro");
        assert_eq!(parse(&torn).unwrap(), parse(&whole).unwrap());
        assert_eq!(parse(&whole).unwrap().held.len(), 1);
    }

    #[test]
    fn a_damaged_line_is_an_error_and_not_an_empty_state() {
        assert!(parse("{\"version\":1}\ngarbage\n").is_err());
        assert!(parse("{\"version\":99}\n").is_err());
    }

    #[test]
    fn a_checkpoint_says_the_same_in_fewer_lines() {
        let mut state = State::default();
        state.apply(intend(Value::Present));
        state.apply(Record::Reload(true));
        let text = lines(state.checkpoint(true).iter()).unwrap();
        assert_eq!(parse(&text).unwrap(), state);
    }
}
