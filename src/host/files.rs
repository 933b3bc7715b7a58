//! The door to the host's files: `/proc`, `/sys`, `/etc` and `/run`.
//!
//! This is the only place that names `std::fs` (a test greps for it), so that the same program
//! runs on the real host, on a captured tree (`--root DIR`) and on the simulated kernel of the
//! tests. Paths are absolute texts as the kernel's documentation writes them.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fs::{CWD, RenameFlags, StatVfsMountFlags, renameat_with, statvfs};

use super::deadline::Deadline;

/// Room for what most files of the kernel hold, in bytes.
const USUAL_SIZE: usize = 4096;

/// Size of the largest file that is read, in bytes. Those of the kernel are smaller on the largest
/// machines, and the cluster file system takes none of more than 1 MiB.
const LARGEST: usize = 16 << 20;

/// Bytes of the largest page that the tracer's buffers have (`buffer_subbuf_size_kb`, Linux 6.8 and later).
const LARGEST_PAGE: usize = 64 << 10;
/// Size of the largest record of the kernel's log, in bytes (`PRINTKRB_RECORD_MAX` and what is added).
const LARGEST_RECORD: usize = 16 << 10;

/// What a file is called that the next replacement of another one is written to.
const SPARE: &str = ".spare";

/// Who may have written a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id of the owner.
    pub uid: u32,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
}

/// A lock that is held until it is dropped.
pub trait LockGuard: Debug {}

/// Files of a host.
///
/// Every method fails with the [`io::Error`] that the kernel gave; callers add the path. Where files can
/// only be looked at, the others are not supported.
pub trait Files: Debug {
    /// Reads a whole file as text; bytes that are not UTF-8 are replaced. What is no regular file, or
    /// is larger than any that is needed, is an error, and nothing is waited for.
    fn read(&self, path: &str) -> io::Result<String>;
    /// The same for a file with at most `limit` bytes (`FileTooLarge`), no more of which is read.
    fn read_within(&self, path: &str, limit: usize) -> io::Result<String>;
    /// Writes `text` by one `write(2)` to a file that exists; never creates or truncates one,
    /// because a kernel file takes each write as a command.
    fn write(&self, _path: &str, _text: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives `page` what a pipe of the kernel's tracer holds, piece by piece as the kernel does, `most` pieces at
    /// most, and waits for nothing.
    fn drain(&self, _path: &str, _most: usize, _page: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Returns the names in a directory, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Tells whether there is something at `path`, following symbolic links.
    fn exists(&self, path: &str) -> bool;
    /// Returns what a symbolic link says.
    fn link(&self, path: &str) -> io::Result<String>;
    /// Returns owner and permissions of a file.
    fn owner(&self, path: &str) -> io::Result<Owner>;
    /// Returns when a file was written, in seconds since 1970.
    fn modified(&self, _path: &str) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Returns the records that a device such as `/dev/kmsg` has from its start on, at most `limit` bytes of
    /// them; none is waited for.
    fn records(&self, _path: &str, _limit: usize) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Returns device and inode of a file as `/proc/locks` has them, such as `00:19:1234`; the device
    /// of some file systems (btrfs) is another one there.
    fn node(&self, _path: &str) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes a directory with this mode, whatever the umask is; its parents must exist.
    fn make_dir(&self, _path: &str, _mode: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes an empty directory (or a cgroup).
    fn remove_dir(&self, _path: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes a file.
    fn remove(&self, _path: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes sure that a file and a spare one beside it have `room` bytes that no full file system
    /// takes from them; what is new is zeros. Both can be read by root only.
    fn reserve(&self, _path: &str, _room: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Returns how many bytes more fit into the file system of `path`, as this process may use it; of one that is
    /// mounted read-only that is the error.
    fn room_left(&self, _path: &str) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Writes `text` at byte `at` by one `write(2)`, within the room of the file.
    fn append(&self, _path: &str, _at: usize, _text: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Replaces the whole content atomically: the spare file gets it, followed by zeros, and changes
    /// places with this one. Needs no space.
    fn renew(&self, _path: &str, _text: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Replaces the whole content atomically: a new file is renamed over the old one.
    fn replace(&self, _path: &str, _text: &str, _mode: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Takes an exclusive lock on a file, creating it; `None` when that takes longer than `wait`.
    fn lock(&self, _path: &str, _wait: Duration) -> io::Result<Option<Box<dyn LockGuard>>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Waits until somebody has written a text into a plain file that `is_awaited` accepts, and
    /// returns it; `None` when that takes longer than `wait`.
    fn await_text(
        &self,
        _path: &str,
        _wait: Duration,
        _is_awaited: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<String>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Returns what came of a call, or `None` when what it was about is not there.
///
/// # Errors
/// Every other one.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
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

    /// Tells whether a path is that of a file in which the running kernel shows one value: there are hundreds that a
    /// phase reads, and each is what its name says.
    fn is_value(&self, path: &str) -> bool {
        let tops = [
            "/sys/fs/cgroup/",
            "/sys/devices/",
            "/proc/irq/",
            "/proc/sys/",
        ];
        let is_of_task = || path.starts_with("/proc/") && path.ends_with("/stat");
        self.root == Path::new("/")
            && (tops.iter().any(|top| path.starts_with(top)) || is_of_task())
    }
}

impl Files for RootFiles {
    fn read(&self, path: &str) -> io::Result<String> {
        self.read_within(path, LARGEST)
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        let mut bytes = match self.is_value(path) {
            true => read_value(&self.at(path))?,
            false => read_regular(&self.at(path), limit)?,
        };
        if bytes.len() > limit {
            let text = format!("it has more than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
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

    fn drain(&self, path: &str, most: usize, page: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut file = open_regular(&self.at(path))?;
        let mut bytes = vec![0; LARGEST_PAGE];
        for _ in 0..most {
            match file.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => page(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

    fn modified(&self, path: &str) -> io::Result<u64> {
        let seconds = fs::metadata(self.at(path))?.mtime();
        u64::try_from(seconds).map_err(io::Error::other)
    }

    fn records(&self, path: &str, limit: usize) -> io::Result<String> {
        let mut options = OpenOptions::new();
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = options.read(true).custom_flags(flags).open(self.at(path))?;
        let (mut bytes, mut record) = (Vec::new(), vec![0; LARGEST_RECORD]);
        while bytes.len() < limit {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&record[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It was overwritten before it was read; the next read has the oldest that there is.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
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
        let path = self.at(path);
        fs::DirBuilder::new().mode(mode).create(&path)?;
        set_mode(fs::metadata(&path)?.mode(), mode, |wanted| {
            fs::set_permissions(&path, wanted)
        });
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn reserve(&self, path: &str, room: usize) -> io::Result<()> {
        for path in [format!("{path}{SPARE}"), path.to_owned()] {
            let file = open_own(&self.at(&path), 0o600)?;
            let (size, wanted) = (file.metadata()?.len(), room as u64);
            if size < wanted {
                let len = i64::try_from(wanted).map_err(io::Error::other)?;
                let allocated = fallocate(&file, FallocateFlags::empty(), 0, len);
                // Half of a reservation would be taken for one.
                allocated.inspect_err(|_| drop(file.set_len(size)))?;
            }
        }
        Ok(())
    }

    fn room_left(&self, path: &str) -> io::Result<u64> {
        let left = statvfs(self.at(path))?;
        if left.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(rustix::io::Errno::ROFS.into());
        }
        Ok(left.f_bavail.saturating_mul(left.f_frsize))
    }

    fn append(&self, path: &str, at: usize, text: &str) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.at(path))?;
        file.write_all_at(text.as_bytes(), at as u64)
    }

    fn renew(&self, path: &str, text: &str) -> io::Result<()> {
        let (current, spare) = (self.at(path), self.at(&format!("{path}{SPARE}")));
        let file = OpenOptions::new().write(true).open(&spare)?;
        let room = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if room < text.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut whole = text.as_bytes().to_vec();
        whole.resize(room, 0);
        file.write_all_at(&whole, 0)?;
        Ok(renameat_with(
            CWD,
            spare,
            CWD,
            current,
            RenameFlags::EXCHANGE,
        )?)
    }

    fn replace(&self, path: &str, text: &str, mode: u32) -> io::Result<()> {
        let target = self.at(path);
        let new = self.at(&format!("{path}.new"));
        let mut file = open_own(&new, mode)?;
        let written = file.set_len(0);
        let written = written.and_then(|()| file.write_all(text.as_bytes()));
        let replaced = written.and_then(|()| fs::rename(&new, target));
        if replaced.is_err() {
            // Half a file is of no use to anybody.
            let _ = fs::remove_file(&new);
        }
        replaced
    }

    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = open_own(&self.at(path), 0o600)?;
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

/// Reads a whole file that is one, as far as one byte behind `limit`.
fn read_regular(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let mut bytes = Vec::with_capacity(USUAL_SIZE);
    // Files of the kernel have no size: a bare file would be asked for it, each time.
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file in which the kernel shows one value. What it is need not be asked, and the kernel gives such a value
/// in one piece: where there was room for more there is no more. A list of many lines (`cgroup.threads`) comes in
/// pieces that are nearly as long as the room.
fn read_value(path: &Path) -> io::Result<Vec<u8>> {
    let mut room = [0; USUAL_SIZE];
    let mut file = File::open(path)?;
    let n = file.read(&mut room)?;
    let mut bytes = room[..n].to_vec();
    if n > USUAL_SIZE / 2 {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Opens a file for reading that is one: a fifo would be waited for, a device may never end or do
/// something.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !kind.is_file() {
        let text = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

/// Opens a file of this program for writing, makes it if there is none, and gives it its mode.
fn open_own(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(mode);
    let file = options.open(path)?;
    set_mode(file.metadata()?.mode(), mode, |wanted| {
        file.set_permissions(wanted)
    });
    Ok(file)
}

/// Gives what was made the mode that it is to have. The mode of what is new is cut by the caller's umask,
/// whatever that is. The cluster file system has modes of its own and refuses to change them.
fn set_mode(given: u32, mode: u32, set: impl FnOnce(Permissions) -> io::Result<()>) {
    if given & 0o7777 != mode {
        let _ = set(Permissions::from_mode(mode));
    }
}

impl LockGuard for Flock<File> {}

/// Cuts a text of sysfs where it ends: some files of Linux 5.15 count the NUL behind the newline in
/// (lists of CPUs on ARM). Elsewhere, as in `/proc/<pid>/cmdline`, it has a meaning.
fn cut_at_nul(bytes: &mut Vec<u8>) {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
}

/// Waits for a lock in a thread of its own, because `flock(2)` knows no deadline.
///
/// A thread that comes too late finds nobody to hand the lock to and thereby lets go of it.
fn lock_within(file: File, wait: Duration) -> io::Result<Option<Box<dyn LockGuard>>> {
    let (sender, receiver) = mpsc::channel();
    // Where a limit of the caller leaves no room for a thread, that is an error and no panic.
    std::thread::Builder::new().spawn(move || {
        let _ = sender.send(Flock::lock(file, FlockArg::LockExclusive));
    })?;
    match receiver.recv_timeout(wait) {
        Ok(Ok(held)) => Ok(Some(Box::new(held))),
        Ok(Err((_, error))) => Err(error.into()),
        Err(_) => Ok(None),
    }
}
