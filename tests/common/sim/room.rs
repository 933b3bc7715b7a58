//! Plain files of the program: how they are replaced, and how much of them fits into `/run`.

use std::io;

use super::doors::half;
use super::{Sim, State, errno};

impl State {
    /// Replaces a file; a death in between leaves half of the new one beside the old one.
    pub fn replace(&mut self, path: &str, text: &str, mode: u32, torn: bool) -> io::Result<()> {
        let path = self.tree.resolve(path);
        let new = format!("{path}.new");
        let text = if torn { half(text) } else { text };
        self.vet_room(&new, text.len())?;
        self.tree.create(&new, text, mode)?;
        if !torn {
            self.tree.remove(&new)?;
            self.tree.create(&path, text, mode)?;
        }
        Ok(())
    }

    /// Gives a file and its spare one room, as `fallocate()` does: all of it or nothing.
    pub fn reserve(&mut self, path: &str, room: usize) -> io::Result<()> {
        let path = self.tree.resolve(path);
        for path in [format!("{path}.spare"), path] {
            let mut text = self.tree.read(&path).unwrap_or_default();
            if text.len() < room {
                self.vet_room(&path, room)?;
                text.extend(std::iter::repeat_n('\0', room - text.len()));
            }
            self.tree.create(&path, &text, 0o600)?;
        }
        Ok(())
    }

    /// Overwrites a part of a file; half of it when the program dies meanwhile.
    pub fn append(&mut self, path: &str, at: usize, text: &str) -> io::Result<()> {
        let path = self.tree.resolve(path);
        let old = self.tree.len(&path)?;
        if at > old {
            return Err(errno(libc::EINVAL));
        }
        self.vet_room(&path, old.max(at + text.len()))?;
        self.tree.overwrite(&path, at, text)
    }

    /// Writes the spare file and lets it change places with the file.
    pub fn renew(&mut self, path: &str, text: &str, torn: bool) -> io::Result<()> {
        let path = self.tree.resolve(path);
        let spare = format!("{path}.spare");
        if self.tree.len(&spare)? < text.len() {
            return Err(errno(libc::ENOSPC));
        }
        if torn {
            return self.append(&spare, 0, half(text));
        }
        self.tree.refill(&spare, text)?;
        self.tree.exchange(&path, &spare)
    }

    /// Refuses a change of `/run` while it is mounted read-only.
    pub fn vet_mount(&self, path: &str) -> io::Result<()> {
        match self.run_is_sealed && format!("{path}/").starts_with("/run/") {
            true => Err(errno(libc::EROFS)),
            false => Ok(()),
        }
    }

    /// Returns what is left of `/run`.
    pub fn room_left(&self) -> u64 {
        let in_run = self.tree.iter();
        let in_run = in_run.filter(|(path, _)| path.starts_with("/run/"));
        let used: usize = in_run.map(|(_, node)| node.size().div_ceil(PAGE)).sum();
        let room = self.run_room.map(|room| room.saturating_sub(used) * PAGE);
        room.map_or(u64::MAX, |left| left as u64)
    }

    /// Refuses a file of `size` bytes for which there is no room in `/run`.
    fn vet_room(&self, path: &str, size: usize) -> io::Result<()> {
        self.vet_mount(path)?;
        let pages = |size: usize| size.div_ceil(PAGE);
        let Some(room) = self.run_room.filter(|_| path.starts_with("/run/")) else {
            return Ok(());
        };
        let others = self.tree.iter().filter(|(other, _)| *other != path);
        let in_run = others.filter(|(other, _)| other.starts_with("/run/"));
        let used: usize = in_run.map(|(_, node)| pages(node.size())).sum();
        // What a file has is never taken from it.
        let has = self.tree.get(path).map_or(0, |node| pages(node.size()));
        match pages(size) > has && used + pages(size) > room {
            true => Err(errno(libc::ENOSPC)),
            false => Ok(()),
        }
    }
}

/// Bytes of a page: what a file in memory takes at least.
const PAGE: usize = 4096;

impl Sim {
    /// Fills `/run` up to so many free bytes; what is removed there makes room.
    pub fn fill_run(&self, free: usize) {
        let mut state = self.state();
        let in_run = state.tree.iter();
        let in_run = in_run.filter(|(path, _)| path.starts_with("/run/"));
        let used: usize = in_run.map(|(_, node)| node.size().div_ceil(PAGE)).sum();
        state.run_room = Some(used + free / PAGE);
    }

    /// Mounts `/run` read-only, or for writing again.
    pub fn seal_run(&self, is_sealed: bool) {
        self.state().run_is_sealed = is_sealed;
    }

    /// Makes `/run` as large as nobody needs.
    pub fn empty_run(&self) {
        self.state().run_room = None;
    }
}
