//! The log of what is about to be done, on disk before it is done.
//!
//! `/run/pin-hook/journal` holds one [`Record`] per line. It is only appended to while a phase
//! works, and replaced by its shortest form at the end. A line that a death cut short announced
//! writes that never happened, so it is dropped.
//!
//! Whatever is announced can be given back with `/run` full: the log has room for that from its
//! first record on, and so has the spare file that its shortest form is written to. What would
//! need more is refused while there is no more.

mod reading;
mod rest;
mod room;
mod spool;
pub mod state_dir;
mod text;

use std::io;
use std::time::Duration;

use self::reading::{JOURNAL, read_text, understood};
pub use self::reading::{is_missing, read_log, read_state};
pub use self::rest::{disturb, is_at_rest, rest};
pub use self::room::{NoRoom, check_room};
use self::room::{SPARE, least_room, no_room, to_give_back};
pub use self::spool::{has_spooled, spool, spooled, unspool};
pub use self::state_dir::STATE_DIR;
use self::state_dir::make_state_dir;
pub use self::text::{Damage, Newer, lines, read};
use crate::domain::advice::Advised;
use crate::domain::state::{Record, State, based};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::files::{Files, LockGuard};
use crate::host::record::remove;
use crate::host::starter::holder_of;
use crate::host::task::Task;
use crate::host::trouble::cannot;

/// What damaged lines are set aside as, with a number behind it.
const DAMAGED: &str = "/run/pin-hook/damaged";
const LOCK: &str = "/run/pin-hook/lock";

/// How long a run waits for another one that works on the host: longer than any single write is waited
/// for (`SLOW_WAIT` of `host::target`), so that no start is refused for one.
const LOCK_WAIT: Duration = Duration::from_secs(7);
/// What of the time of a run is left for the work when it has the host.
const RESERVE: Duration = Duration::from_millis(1500);

/// The state of this host in our hands: while it exists, no other run works on it.
#[derive(Debug)]
pub struct Journal<'h> {
    files: &'h dyn Files,
    state: State,
    is_changed: bool,
    /// Whether it was made known that something is held.
    is_disturbed: bool,
    /// Bytes of the log, and that it may have.
    end: usize,
    room: usize,
    lost: Lost,
    _lock: Box<dyn LockGuard>,
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
        let wait = LOCK_WAIT.min(host.left().saturating_sub(RESERVE));
        let lock = files.lock(LOCK, wait).map_err(cannot("lock", LOCK))?;
        let Some(lock) = lock else { return Ok(None) };
        let text = read_text(files)?;
        let log = text.as_deref().map(understood).transpose()?;
        let log = log.unwrap_or_default();
        let mut journal = Journal {
            files,
            state: log.state,
            is_changed: false,
            is_disturbed: false,
            end: log.end,
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
        let is_damaged = !log.damage.is_none();
        if is_damaged {
            journal.lost = Lost::Records(set_aside(files, &log.damage));
        }
        if log.is_torn || is_damaged {
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
    pub fn mark_written(&mut self, target: &Target) {
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
        // A run that ends at this moment looks at the log when it has made that file.
        if !std::mem::replace(&mut self.is_disturbed, true) {
            disturb(self.files);
        }
        for record in records {
            self.state.apply(record);
        }
        Ok(())
    }

    /// Makes sure that `added` bytes have room. With `is_grown` there is more to give back from then
    /// on: what that may announce has room too.
    fn make_room(&mut self, added: usize, is_grown: bool) -> anyhow::Result<()> {
        let needed = |end: usize| match is_grown {
            true => to_give_back(end + added),
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
            self.reserve(to_give_back(text.len()).max(self.room))?;
            done = self.files.renew(JOURNAL, &text);
        }
        done.map_err(cannot("replace", JOURNAL))?;
        self.end = text.len();
        Ok(())
    }
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
    let lines = damage.lines.iter().map(|(_, line)| format!("{line}\n"));
    match files.replace(&path, &lines.collect::<String>(), 0o600) {
        Ok(()) => format!("{fact}; kept as {path}"),
        Err(error) => format!("{fact}; not kept as {path}: {error}"),
    }
}

/// Most files of damaged lines that are kept; whoever damages more is not going to read them.
const MAX_DAMAGED: u32 = 20;

/// Returns the error of a run that another one kept from the host, with the process that does so, where that can
/// be told.
pub fn busy(files: &dyn Files) -> anyhow::Error {
    anyhow::Error::new(kept_off(files).0)
}

/// Returns what keeps a run from the host, and whether that goes on by itself.
pub fn kept_off(files: &dyn Files) -> (Advised, bool) {
    let holder = holder_of(files, LOCK);
    let who = match &holder {
        Some(task) => format!("process {} ({})", task.id.tid, task.comm),
        None => "another pin-hook process".to_owned(),
    };
    match holder.filter(Task::is_stopped) {
        Some(task) => {
            let fact = format!("{who} is stopped and holds {LOCK}");
            let help = format!("kill -CONT {} lets it go on", task.id.tid);
            (Advised::new(fact, help), false)
        }
        None => {
            let fact = format!("{who} has held {LOCK} for too long");
            (
                Advised::new(fact, "try again; lslocks shows which process"),
                true,
            )
        }
    }
}
