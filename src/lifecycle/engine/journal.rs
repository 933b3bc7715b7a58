//! The log of what is about to be done, on disk before it is done.
//!
//! `/run/pin-hook/journal` holds one [`Record`] per line. It is only appended to while a phase
//! works, and replaced by its shortest form at the end. A line that a death cut short announced
//! writes that never happened, so it is dropped.
//!
//! Whatever is announced can be given back with `/run` full: the log has room for that from its
//! first record on, and so has the spare file that its shortest form is written to. What would
//! need more is refused while there is no more.

mod text;

use std::io;
use std::time::Duration;

use anyhow::bail;

pub use self::text::Damage;
use self::text::{Log, lines};

use crate::domain::advice::Advised;
use crate::domain::cpuset::CpuSet;
use crate::domain::state::{Record, State, VERSION, based};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::files::{Files, Held, Owner};
use crate::host::record::remove;
use crate::host::trouble::cannot;

/// Directory of the program's state; gone after a reboot, as everything is that it describes.
pub const STATE_DIR: &str = "/run/pin-hook";
const JOURNAL: &str = "/run/pin-hook/journal";
/// Where its next shortest form is written to.
const SPARE: &str = "/run/pin-hook/journal.spare";
/// What damaged lines are set aside as, with a number behind it.
const DAMAGED: &str = "/run/pin-hook/damaged";
/// Wishes that came while the lock could not be had: one empty file for each VM.
const SPOOL: &str = "/run/pin-hook/spool";
const LOCK: &str = "/run/pin-hook/lock";

/// How long a run waits for another one that works on the host: longer than any single write is waited
/// for ([`SLOW_WAIT`](crate::host::target::SLOW_WAIT)), so that no start is refused for one.
const LOCK_WAIT: Duration = Duration::from_secs(7);
/// What of the time of a run is left for the work when it has the host.
const RESERVE: Duration = Duration::from_millis(1500);

/// Room that a log has at least, in bytes, and more for each CPU: kernel threads and interrupts come
/// by the dozen for each.
const LEAST_ROOM: usize = 64 << 10;
const ROOM_FOR_CPU: usize = 8 << 10;
/// How often a log fits into its room. Giving back announces each target with the value that it has,
/// which is as long as the others, in one record for each stage: no more than the log itself.
const SHARE: usize = 3;
/// Room for what else is announced meanwhile.
const SLACK: usize = 8 << 10;

/// The state of this host in our hands: while it exists, no other run works on it.
#[derive(Debug)]
pub struct Journal<'h> {
    files: &'h dyn Files,
    state: State,
    is_changed: bool,
    /// Bytes of the log, and that it may have.
    end: usize,
    room: usize,
    lost: Lost,
    _lock: Box<dyn Held>,
}

/// What the log cannot tell, although something may be in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lost {
    /// Nothing is known to be missing.
    #[default]
    Nothing,
    /// There is no log.
    Log,
    /// Some of it was damaged, and what became of that, in words.
    Records(String),
}

impl<'h> Journal<'h> {
    /// Takes the host lock and reads the log; `None` when another run keeps the lock too long.
    /// What is damaged is set aside.
    pub fn open(host: &'h Host) -> anyhow::Result<Option<Self>> {
        let files = &*host.files;
        make_state_dir(files)?;
        let lock = lock(host)?;
        let Some(lock) = lock else { return Ok(None) };
        let text = read_text(files)?;
        let log = text.as_deref().map(understood).transpose()?;
        let Log {
            state,
            end,
            is_torn,
            damage,
        } = log.unwrap_or_default();
        let mut journal = Journal {
            files,
            state,
            is_changed: false,
            end,
            // What an older version wrote has no spare file, and no room.
            room: match files.exists(SPARE) {
                true => text.as_ref().map_or(0, String::len),
                false => 0,
            },
            lost: match text {
                Some(text) if text.bytes().any(|byte| byte != 0) => Lost::Nothing,
                _ => Lost::Log,
            },
            _lock: lock,
        };
        if !damage.is_none() {
            journal.lost = Lost::Records(set_aside(files, &damage));
        }
        if is_torn || !damage.is_none() {
            journal.shorten(false)?;
            journal.is_changed = true;
        }
        Ok(Some(journal))
    }

    /// Returns what the log could not tell when it was opened.
    pub fn lost(&self) -> &Lost {
        &self.lost
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
    ///
    /// # Errors
    /// [`NoRoom`] when they are about more than could be given back with `/run` full; nothing is
    /// announced then.
    pub fn append(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let added = lines(&records)?;
        let is_new = self.end == 0;
        let is_grown = is_new || self.state.is_grown_by(&records);
        self.make_room(added.len(), is_grown)?;
        let written = match is_new {
            true => {
                let whole = lines(&based(records.clone()))?;
                let written = self.files.renew(JOURNAL, &whole);
                written.map(|()| whole.len())
            }
            false => {
                let written = self.files.append(JOURNAL, self.end, &added);
                written.map(|()| self.end + added.len())
            }
        };
        self.end = written.map_err(cannot("append to", JOURNAL))?;
        self.is_changed = true;
        for record in records {
            self.state.apply(record);
        }
        Ok(())
    }

    /// Makes sure that `added` bytes have room. With `is_grown` there is more to give back from then
    /// on: what that may announce has room too.
    fn make_room(&mut self, added: usize, is_grown: bool) -> anyhow::Result<()> {
        let needed = |end: usize| match is_grown {
            true => (end + added) * SHARE + SLACK,
            false => end + added,
        };
        // What was announced one after the other is shorter in one.
        if self.room < needed(self.end) && self.end > 0 && self.room > 0 {
            self.shorten(false)?;
        }
        let needed = needed(self.end);
        if self.room < needed || self.end == 0 {
            self.reserve(needed.max(least_room(self.files)))?;
        }
        Ok(())
    }

    fn reserve(&mut self, room: usize) -> anyhow::Result<()> {
        match self.files.reserve(JOURNAL, room) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(no_room(room)),
            Err(error) => Err(cannot("reserve room for", JOURNAL)(error)),
            Ok(()) => {
                self.room = room;
                Ok(())
            }
        }
    }

    /// Replaces the log by its shortest form; with nothing to remember there is none. See
    /// [`State::checkpoint`] for `is_settled`.
    pub fn checkpoint(&mut self, is_settled: bool) -> anyhow::Result<()> {
        if !std::mem::take(&mut self.is_changed) {
            return Ok(());
        }
        if !self.state.is_empty() {
            return self.shorten(is_settled);
        }
        self.end = 0;
        self.files
            .remove(JOURNAL)
            .and_then(|()| remove(self.files, SPARE))
            .map_err(cannot("remove", JOURNAL))
    }

    fn shorten(&mut self, is_settled: bool) -> anyhow::Result<()> {
        let text = lines(&self.state.checkpoint(is_settled))?;
        let mut done = self.files.renew(JOURNAL, &text);
        if done.is_err() {
            // One that an older version wrote, or that somebody has cut, has no room or no spare file.
            self.reserve((text.len() * SHARE + SLACK).max(self.room))?;
            done = self.files.renew(JOURNAL, &text);
        }
        done.map_err(cannot("replace", JOURNAL))?;
        self.end = text.len();
        Ok(())
    }
}

/// Takes the host lock; `None` when another run keeps it for too long.
fn lock(host: &Host) -> anyhow::Result<Option<Box<dyn Held>>> {
    let wait = LOCK_WAIT.min(host.left().saturating_sub(RESERVE));
    let lock = host.files.lock(LOCK, wait);
    lock.map_err(cannot("lock", LOCK))
}

/// Returns the room of a new log on this host.
fn least_room(files: &dyn Files) -> usize {
    let possible = files.read("/sys/devices/system/cpu/possible");
    let possible: Option<CpuSet> = possible.ok().and_then(|text| text.parse().ok());
    LEAST_ROOM + possible.map_or(0, |cpus| cpus.len()) * ROOM_FOR_CPU
}

/// `/run` is too full for more to be taken than could be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is taken that could not be given back")]
pub struct NoRoom;

/// Checks that a first claim would find the room that it needs; nothing is taken.
///
/// # Errors
/// [`NoRoom`] with what to do. That the room cannot be told is none.
pub fn check_room(files: &dyn Files) -> anyhow::Result<()> {
    let room = least_room(files);
    let left = files.room_left("/run").unwrap_or(u64::MAX);
    match files.exists(SPARE) || left >= 2 * room as u64 {
        true => Ok(()),
        false => Err(no_room(room)),
    }
}

fn no_room(room: usize) -> anyhow::Error {
    let kib = (2 * room).div_ceil(1 << 10);
    anyhow::Error::new(NoRoom).context(Advised::new(
        format!(
            "{STATE_DIR} needs {kib} KiB for what giving the host back may announce, and is full"
        ),
        "make room: df /run shows how full it is, du -xh /run | sort -h what fills it",
    ))
}

/// Writes the damaged lines of a log into a file of their own; returns what became of them.
fn set_aside(files: &dyn Files, damage: &Damage) -> String {
    let fact = damage.to_string();
    if damage.lines.is_empty() {
        return fact;
    }
    let mut paths = (1..=MAX_DAMAGED).map(|n| format!("{DAMAGED}-{n}"));
    let Some(path) = paths.find(|path| !files.exists(path)) else {
        return fact;
    };
    let lines: String = damage
        .lines
        .iter()
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    match files.replace(&path, &lines, 0o600) {
        Ok(()) => format!("{fact}; kept as {path}"),
        Err(error) => format!("{fact}; not kept as {path}: {error}"),
    }
}

/// Most files of damaged lines that are kept; whoever damages more is not going to read them.
const MAX_DAMAGED: u32 = 20;

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

/// Returns the state without taking the lock: for showing it, not for acting on it. What is damaged
/// is missing; the next run that takes the lock sets it aside.
///
/// # Errors
/// The log cannot be read, or is [`Newer`].
pub fn read_state(files: &dyn Files) -> anyhow::Result<State> {
    read_log(files).map(|(state, _)| state)
}

/// Returns the same with what is damaged.
///
/// # Errors
/// As [`read_state`].
pub fn read_log(files: &dyn Files) -> anyhow::Result<(State, Damage)> {
    let mut looks = 0;
    loop {
        looks += 1;
        let log = read_text(files)?.as_deref().map(understood).transpose()?;
        let log = log.unwrap_or_default();
        if log.damage.is_none() || looks == LOOKS {
            return Ok((log.state, log.damage));
        }
    }
}

/// How often a log is read that seems to be damaged: without the lock, it may have been replaced twice
/// meanwhile.
const LOOKS: usize = 3;

/// Tells whether there is no log, which is so before the first claim of a boot, or when somebody has
/// removed it.
pub fn is_missing(files: &dyn Files) -> bool {
    !files.exists(JOURNAL)
}

fn read_text(files: &dyn Files) -> anyhow::Result<Option<String>> {
    match files.read(JOURNAL) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
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

fn understood(text: &str) -> anyhow::Result<Log> {
    text::read(text).map_err(|newer| {
        anyhow::Error::new(newer).context(Advised::new(
            format!("{JOURNAL} is of a newer pin-hook"),
            "install that version again, and before going back to this one: pin-hook release --all",
        ))
    })
}

/// Returns the error of a run that another one kept from the host.
pub fn busy() -> anyhow::Error {
    anyhow::Error::new(Advised::new(
        format!("another run of pin-hook has kept {LOCK} too long"),
        "try again; lslocks shows which",
    ))
}

/// Parses a log; returns what it amounts to and what is damaged.
///
/// # Errors
/// [`Newer`].
pub fn parse(text: &str) -> Result<(State, Damage), Newer> {
    text::read(text).map(|log| (log.state, log.damage))
}

/// Returns the text of a log.
///
/// # Errors
/// A record cannot be put into words.
pub fn text_of(records: &[Record]) -> anyhow::Result<String> {
    lines(records)
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
    use crate::domain::target::{Target, Value};

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
