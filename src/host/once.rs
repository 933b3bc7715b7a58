//! The files of a host, each read once: what a command that only shows says is then of one moment, and takes no
//! longer for each VM that it is about. Nothing can be written through it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use super::files::{Files, Held, Owner};

/// The files of a host, each read once.
#[derive(Debug)]
pub struct Once {
    files: Box<dyn Files>,
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
        Once {
            files,
            texts: Kept::default(),
            names: Kept::default(),
            links: Kept::default(),
            owners: Kept::default(),
            times: Kept::default(),
            there: Kept::default(),
        }
    }
}

/// Returns the answer that is kept, or asks for it. An error that is not the kernel's is not kept.
fn once<T: Clone>(
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
    if let Some(keep) = keep {
        kept.borrow_mut().insert(path.to_owned(), keep);
    }
    answer
}

impl Files for Once {
    fn read(&self, path: &str) -> io::Result<String> {
        once(&self.texts, path, || self.files.read(path))
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        let within = format!("{path} {limit}");
        once(&self.texts, &within, || self.files.read_within(path, limit))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        once(&self.names, dir, || self.files.list(dir))
    }

    fn exists(&self, path: &str) -> bool {
        once(&self.there, path, || Ok(self.files.exists(path))).unwrap_or_default()
    }

    fn link(&self, path: &str) -> io::Result<String> {
        once(&self.links, path, || self.files.link(path))
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        once(&self.owners, path, || self.files.owner(path))
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        once(&self.times, path, || self.files.modified(path))
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

    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn Held>>> {
        self.files.lock(path, wait)
    }
}
