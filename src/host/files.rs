//! The door to the host's files: `/proc`, `/sys`, `/etc` and `/run`.
//!
//! This is the only place that names `std::fs` (a test greps for it), so that the same program
//! runs on the real host, on a captured tree (`--root DIR`) and on the simulated kernel of the
//! tests. Paths are absolute texts as the kernel's documentation writes them.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::deadline::Deadline;

/// Room for what most files of the kernel hold, in bytes.
const USUAL_SIZE: usize = 4096;

/// Who may have written a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id of the owner.
    pub uid: u32,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
}

/// A lock that is held until it is dropped.
pub trait Held: Debug {}

/// Files of a host.
///
/// Every method fails with the [`io::Error`] that the kernel gave; callers add the path.
pub trait Files: Debug {
    /// Reads a whole file as text; bytes that are no UTF-8 are replaced.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Writes `text` by one `write(2)` to a file that exists; never creates or truncates one,
    /// because a kernel file takes each write as a command.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;
    /// Returns the names in a directory, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Tells whether there is something at `path`, following symbolic links.
    fn exists(&self, path: &str) -> bool;
    /// Returns what a symbolic link says.
    fn link(&self, path: &str) -> io::Result<String>;
    /// Returns owner and permissions of a file.
    fn owner(&self, path: &str) -> io::Result<Owner>;
    /// Returns device and inode of a file as `/proc/locks` has them, such as `00:19:1234`; the device
    /// of some file systems (btrfs) is another one there.
    fn node(&self, path: &str) -> io::Result<String>;
    /// Makes a directory; its parents must exist.
    fn make_dir(&self, path: &str, mode: u32) -> io::Result<()>;
    /// Removes an empty directory (or a cgroup).
    fn remove_dir(&self, path: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Appends `text` by one `write(2)`, creating the file with mode 0600.
    fn append(&self, path: &str, text: &str) -> io::Result<()>;
    /// Replaces the whole content atomically: a new file is renamed over the old one.
    fn replace(&self, path: &str, text: &str, mode: u32) -> io::Result<()>;
    /// Takes an exclusive lock on a file, creating it; `None` when that takes longer than `wait`.
    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn Held>>>;
    /// Waits until somebody has written a text into a plain file that `is_awaited` accepts, and
    /// returns it; `None` when that takes longer than `wait`.
    fn await_text(
        &self,
        path: &str,
        wait: Duration,
        is_awaited: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<String>>;
}

/// The files below a directory: `/` on a real host, elsewhere a captured or synthetic one.
#[derive(Debug, Clone)]
pub struct RootFiles {
    root: PathBuf,
}

impl RootFiles {
    /// Returns the files of the host whose root directory is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Files for RootFiles {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::with_capacity(USUAL_SIZE);
        // Files of the kernel have no size: a bare file would be asked for it, each time.
        let file = File::open(self.at(path))?;
        file.take(u64::MAX).read_to_end(&mut bytes)?;
        if path.starts_with("/sys/") {
            cut_at_nul(&mut bytes);
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.at(path))?;
        match file.write(text.as_bytes())? {
            n if n == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(self.at(dir))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    fn link(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_link(self.at(path))?.to_string_lossy().into_owned())
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        let meta = fs::metadata(self.at(path))?;
        Ok(Owner {
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        })
    }

    fn node(&self, path: &str) -> io::Result<String> {
        let meta = fs::metadata(self.at(path))?;
        let (major, minor) = (
            nix::sys::stat::major(meta.dev()),
            nix::sys::stat::minor(meta.dev()),
        );
        Ok(format!("{major:02x}:{minor:02x}:{}", meta.ino()))
    }

    fn make_dir(&self, path: &str, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(self.at(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn append(&self, path: &str, text: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options.open(self.at(path))?.write_all(text.as_bytes())
    }

    fn replace(&self, path: &str, text: &str, mode: u32) -> io::Result<()> {
        let target = self.at(path);
        let new = self.at(&format!("{path}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&new)?;
        // The mode of a new file is cut by the caller's umask. The cluster file system has modes
        // of its own and refuses to change them.
        if file.metadata()?.mode() & 0o7777 & mode != mode {
            let _ = file.set_permissions(Permissions::from_mode(mode));
        }
        file.write_all(text.as_bytes())?;
        fs::rename(new, target)
    }

    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn Held>>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.at(path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(Box::new(held))),
            Err((file, nix::Error::EWOULDBLOCK)) => lock_within(file, wait),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn await_text(
        &self,
        path: &str,
        wait: Duration,
        is_awaited: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<String>> {
        let deadline = Deadline::after(wait);
        // Watched before it is read, so that no write is missed.
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        watch.add_watch(&self.at(path), AddWatchFlags::IN_MODIFY)?;
        loop {
            let text = self.read(path)?;
            if is_awaited(&text) {
                return Ok(Some(text));
            }
            if deadline.passed() {
                return Ok(None);
            }
            let left = PollTimeout::try_from(deadline.remaining()).unwrap_or(PollTimeout::MAX);
            // A signal wakes up as well; then it is looked at once more.
            let _ = poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], left);
            let _ = watch.read_events();
        }
    }
}

impl Held for Flock<File> {}

/// Cuts a text of sysfs where it ends: some files of Linux 5.15 count the NUL behind the newline in
/// (lists of CPUs on ARM). Elsewhere, as in `/proc/<pid>/cmdline`, it has a meaning.
fn cut_at_nul(bytes: &mut Vec<u8>) {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
}

/// Waits for a lock in a thread of its own, because `flock(2)` knows no deadline.
///
/// A thread that comes too late finds nobody to hand the lock to and thereby lets go of it.
fn lock_within(file: File, wait: Duration) -> io::Result<Option<Box<dyn Held>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(Flock::lock(file, FlockArg::LockExclusive));
    });
    match receiver.recv_timeout(wait) {
        Ok(Ok(held)) => Ok(Some(Box::new(held))),
        Ok(Err((_, error))) => Err(error.into()),
        Err(_) => Ok(None),
    }
}
