//! The files of a host, each read once: what a command that only shows says is then of one moment, and takes no
//! longer for each VM that it is about. Nothing can be written through it.
//!
//! A command that looks again and again reads only that once which would interrupt a CPU.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use super::files::{Files, LockGuard, Owner};

/// What a file is called whose read interrupts the CPU that it is about: `intel_pstate` asks the CPU itself
/// (`rdmsr_on_cpu()`).
const INTERRUPTS: &str = "/energy_performance_preference";

/// The files of a host, each read once.
#[derive(Debug)]
pub struct Once {
    files: Box<dyn Files>,
    /// How the paths of those end that are read once; all end with nothing.
    end: &'static str,
    texts: Kept<String>,
    names: Kept<Vec<String>>,
    links: Kept<String>,
    owners: Kept<Owner>,
    times: Kept<u64>,
    there: Kept<bool>,
}

/// Answers by path: what there is, or the kernel's error.
type Kept<T> = RefCell<HashMap<String, Result<T, i32>>>;

impl Once {
    /// Returns the files of a host, each read once.
    pub fn new(files: Box<dyn Files>) -> Self {
        Self::ending(files, "")
    }

    /// Returns the files of a host for a command that looks again and again.
    pub fn calm(files: Box<dyn Files>) -> Self {
        Self::ending(files, INTERRUPTS)
    }

    fn ending(files: Box<dyn Files>, end: &'static str) -> Self {
        Once {
            files,
            end,
            texts: Kept::default(),
            names: Kept::default(),
            links: Kept::default(),
            owners: Kept::default(),
            times: Kept::default(),
            there: Kept::default(),
        }
    }

    /// Returns the answer that is kept, or asks for it. An error that is not the kernel's is not kept.
    fn once<T: Clone>(
        &self,
        kept: &Kept<T>,
        path: &str,
        ask: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some(answer) = kept.borrow().get(path) {
            return answer.clone().map_err(io::Error::from_raw_os_error);
        }
        let answer = ask();
        let keep = match &answer {
            Ok(value) => Some(Ok(value.clone())),
            Err(error) => error.raw_os_error().map(Err),
        };
        if let Some(keep) = keep.filter(|_| path.ends_with(self.end)) {
            kept.borrow_mut().insert(path.to_owned(), keep);
        }
        answer
    }
}

impl Files for Once {
    fn read(&self, path: &str) -> io::Result<String> {
        self.once(&self.texts, path, || self.files.read(path))
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        let within = format!("{path} {limit}");
        self.once(&self.texts, &within, || self.files.read_within(path, limit))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.once(&self.names, dir, || self.files.list(dir))
    }

    fn exists(&self, path: &str) -> bool {
        self.once(&self.there, path, || Ok(self.files.exists(path)))
            .unwrap_or_default()
    }

    fn link(&self, path: &str) -> io::Result<String> {
        self.once(&self.links, path, || self.files.link(path))
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        self.once(&self.owners, path, || self.files.owner(path))
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        self.once(&self.times, path, || self.files.modified(path))
    }

    fn records(&self, path: &str, limit: usize) -> io::Result<String> {
        self.files.records(path, limit)
    }

    fn node(&self, path: &str) -> io::Result<String> {
        self.files.node(path)
    }

    fn room_left(&self, path: &str) -> io::Result<u64> {
        self.files.room_left(path)
    }

    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.files.lock(path, wait)
    }
}
