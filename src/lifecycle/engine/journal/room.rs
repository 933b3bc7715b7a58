//! Room for the log: whatever is announced can be given back with `/run` full, or is not taken.

use std::io;

use super::state_dir::{STATE_DIR, check_owner};
use crate::domain::advice::Advised;
use crate::domain::cpuset::CpuSet;
use crate::host::errand::ROOM_FOR_UNITS;
use crate::host::files::Files;
use crate::host::trouble::cannot;

/// Where the next shortest form of the log is written to.
pub(super) const SPARE: &str = "/run/pin-hook/journal.spare";

/// Room that a log has at least, in bytes, and more for each CPU: kernel threads and interrupts come
/// by the dozen for each.
const LEAST_ROOM: usize = 64 << 10;
const ROOM_FOR_CPU: usize = 8 << 10;
/// How often a log fits into its room. Giving back announces each target with the value that it has,
/// which is as long as the others, in one record for each stage: no more than the log itself.
const SHARE: usize = 3;
/// Room for what else is announced meanwhile.
const SLACK: usize = 8 << 10;

/// Returns the room that a log of so many bytes needs, so that all of it can be given back.
pub(super) fn to_give_back(bytes: usize) -> usize {
    bytes * SHARE + SLACK
}

/// Returns the room of a new log on this host.
pub(super) fn least_room(files: &dyn Files) -> usize {
    let possible = files.read("/sys/devices/system/cpu/possible");
    let possible: Option<CpuSet> = possible.ok().and_then(|text| text.parse().ok());
    LEAST_ROOM + possible.map_or(0, |cpus| cpus.len()) * ROOM_FOR_CPU
}

const FREE_UP: &str =
    "free up space: df /run shows how full it is, du -axh /run | sort -h what uses it";

/// `/run` is too full for more to be taken than could be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("refusing to change anything that could not be restored")]
pub struct NoRoom;

/// Checks that a first claim would find the room that it needs; nothing is taken.
///
/// # Errors
/// [`NoRoom`] with what to do, or the directory cannot be written, is something else, or belongs to somebody
/// else. That the room cannot be told is none.
pub fn check_room(files: &dyn Files) -> anyhow::Result<()> {
    let room = least_room(files);
    if let Err(error) = files.list(STATE_DIR)
        && error.kind() == io::ErrorKind::NotADirectory
    {
        return Err(cannot("make", STATE_DIR)(error));
    }
    if files.exists(STATE_DIR) {
        check_owner(files)?;
    }
    let is_read_only = |error: &io::Error| error.kind() == io::ErrorKind::ReadOnlyFilesystem;
    let left = match files.room_left(STATE_DIR) {
        Err(error) if !is_read_only(&error) => files.room_left("/run"),
        left => left,
    };
    let left = match left {
        Err(error) if is_read_only(&error) => return Err(cannot("write", STATE_DIR)(error)),
        left => left.unwrap_or(u64::MAX),
    };
    if !files.exists(SPARE) && left < 2 * room as u64 {
        return Err(no_room(room));
    }
    match files.room_left("/run") {
        Ok(left) if left < ROOM_FOR_UNITS => {
            let kib = ROOM_FOR_UNITS >> 10;
            let fact = format!("/run is full: {kib} KiB needed for systemd's units");
            Err(anyhow::Error::new(NoRoom).context(Advised::new(fact, FREE_UP)))
        }
        _ => Ok(()),
    }
}

/// Returns the error of a log that finds no such room.
pub(super) fn no_room(room: usize) -> anyhow::Error {
    let kib = (2 * room).div_ceil(1 << 10);
    anyhow::Error::new(NoRoom).context(Advised::new(
        format!("{STATE_DIR} is full: {kib} KiB needed to record how to restore the host"),
        FREE_UP,
    ))
}
