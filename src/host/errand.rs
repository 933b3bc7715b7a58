//! Writes that may sleep in the kernel without bound, done by a child in a unit of its own.
//!
//! Taking a CPU offline waits for whatever runs there, making hugepages for memory that has to be
//! moved, removing a device for whoever has it open, and a task in such a write cannot be killed
//! before the kernel lets go of it. PVE waits for this process, so it never does such a write
//! itself: it has systemd start `pin-hook write` in a transient service and waits for the answer no
//! longer than it decided.
//!
//! The answer is a file in `/run/pin-hook/jobs` that the parent makes before and removes when it
//! has read it or given up. At the same time systemd ends the unit, so that a child that was late
//! writes nothing more when the kernel lets go of it. Only one that writes a partition is let alone.

mod allowed;

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};

use self::allowed::is_allowed;
use super::Host;
use super::clock::awaiting;
use super::dirs::make_dir;
use super::files::Files;
use super::systemd::{self, Job};

/// Where children answer, one file for each unit.
const ANSWERS: &str = "/run/pin-hook/jobs";
/// The program, where the running one has been replaced by an upgrade.
const INSTALLED: &str = "/usr/sbin/pin-hook";
/// What systemd needs of `/run` for a unit, at least: it says "not found" of one that it could not write.
pub const ROOM_FOR_UNITS: u64 = 64 << 10;
/// How often it is asked whether a child that does not answer is still there.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How long the unit of a child that has answered may take to end, and how often it is asked.
const END_WAIT: Duration = Duration::from_millis(500);
const END_PERIOD: Duration = Duration::from_millis(10);

/// One write: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The kernel's file.
    pub path: String,
    /// The text for it.
    pub text: String,
}

impl Write {
    /// Returns the write of `text` to the kernel's file at `path`.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        Self { path, text }
    }
}

/// What became of an errand.
#[derive(Debug)]
pub enum Ended {
    /// What the kernel answered to each write.
    Done(Vec<io::Result<()>>),
    /// The unit is still at work.
    Late,
}

/// Writes that one child does, one after the other, in a unit that is named after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    name: String,
    writes: Vec<Write>,
    /// Whether the child may take longer than it is waited for.
    is_unlimited: bool,
}

impl Errand {
    /// Returns the errand called `name`: there is one of a name at a time.
    pub fn new(name: impl Into<String>, writes: Vec<Write>) -> Self {
        let name = name.into();
        Self {
            name,
            writes,
            is_unlimited: false,
        }
    }

    /// Returns the same whose child is never ended. From Linux 7.0 on a writer of a partition has workers of the
    /// kernel made, and that fails where the writer is about to be killed (`kthread_create_on_node()` waits killably,
    /// `create_worker()` has no worker then): the mask of unbound work stays as it was, with a warning that taints
    /// the kernel (`housekeeping_update()`). A `SIGTERM` without a handler is such a kill.
    pub fn unlimited(self) -> Self {
        Self {
            is_unlimited: true,
            ..self
        }
    }

    /// Returns the errand that is named after the one file that it writes to.
    pub fn of_file(path: &str, texts: &[&str]) -> Self {
        let write = |text: &&str| Write::new(path, *text);
        Self::new(name_of(path), texts.iter().map(write).collect())
    }

    /// Returns the unit of the child.
    pub fn unit(&self) -> String {
        format!("pin-hook-write-{}.service", self.name)
    }

    /// Returns the error of a child that does not come to its end.
    pub fn late(&self) -> io::Error {
        let text = format!("the kernel does not respond, {} waits for it", self.unit());
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    /// Has a child do the writes, and waits for its answers no longer than `wait`.
    ///
    /// # Errors
    /// No child can be started.
    pub fn run(&self, host: &Host, wait: Duration) -> io::Result<Ended> {
        if self.is_at_work(host)? {
            return Ok(Ended::Late);
        }
        let (files, answer) = (&*host.files, answer_path(&self.name));
        make_dir(files, ANSWERS, 0o700)?;
        files.replace(&answer, "", 0o600)?;
        let started = host.systemd.run(&self.job(files, wait));
        let started = started.map_err(|error| match files.room_left("/run") {
            Ok(left) if left < ROOM_FOR_UNITS => {
                let text = format!("/run is full: systemd cannot start {}", self.unit());
                io::Error::new(io::ErrorKind::StorageFull, text)
            }
            // A systemd that does not answer in time is late, as the kernel may be.
            _ => systemd::as_io(&error),
        });
        let ended = started.and_then(|()| self.answers(host, wait));
        // Whoever is late answers nobody.
        let _ = files.remove(&answer);
        if let Ok(Ended::Done(_)) = ended {
            // The next one may be called the same.
            let wait = END_WAIT.min(host.left());
            host.wait_until(wait, END_PERIOD, || {
                !self.is_at_work(host).unwrap_or_default()
            });
        }
        ended
    }

    /// The same, where the first failure is that of all.
    ///
    /// # Errors
    /// What the kernel answered; that the child is late, with its unit.
    pub fn complete(&self, host: &Host, wait: Duration) -> io::Result<()> {
        match self.run(host, wait)? {
            Ended::Done(answers) => answers.into_iter().collect(),
            Ended::Late => Err(self.late()),
        }
    }

    /// Waits for the child of a run that died before it was answered; tells whether it is late.
    ///
    /// # Errors
    /// Whether there is one cannot be found out.
    pub fn join(&self, host: &Host, wait: Duration) -> io::Result<bool> {
        let answer = answer_path(&self.name);
        if !host.files.exists(&answer) {
            return Ok(false);
        }
        let ended = self.answers(host, wait);
        let _ = host.files.remove(&answer);
        Ok(matches!(ended?, Ended::Late))
    }

    /// Tells whether the child is at work.
    ///
    /// # Errors
    /// systemd does not tell.
    pub fn is_at_work(&self, host: &Host) -> io::Result<bool> {
        let active = host.systemd.is_active(&self.unit());
        active.map_err(|error| systemd::as_io(&error))
    }

    fn job(&self, files: &dyn Files, limit: Duration) -> Job {
        let program = files.link("/proc/self/exe").ok();
        let is_there = |path: &String| path.starts_with('/') && files.exists(path);
        let mut arguments = vec!["write".to_owned(), self.name.clone()];
        for Write { path, text } in &self.writes {
            arguments.extend([path.clone(), text.clone()]);
        }
        Job {
            unit: self.unit(),
            description: "pin-hook: a write that the kernel may take its time for".to_owned(),
            path: program
                .filter(is_there)
                .unwrap_or_else(|| INSTALLED.to_owned()),
            arguments,
            limit: (!self.is_unlimited).then_some(limit),
            spares: false,
        }
    }

    /// Waits for the answers of the child; one that has ended without them has failed.
    fn answers(&self, host: &Host, wait: Duration) -> io::Result<Ended> {
        let (path, n_writes) = (answer_path(&self.name), self.writes.len());
        let _wait = awaiting(&*host.clock, &format!("the kernel ({})", self.name));
        let is_complete = |text: &str| text.split_whitespace().count() >= n_writes;
        let until = host.clock.since_boot().saturating_add(wait);
        loop {
            let left = until.saturating_sub(host.clock.since_boot());
            let period = left.min(LOOK_PERIOD);
            let answer = host.files.await_text(&path, period, &is_complete)?;
            let is_gone = answer.is_none() && !self.is_at_work(host)?;
            // It may have answered right before it ended.
            let answer = match is_gone {
                true => Some(host.files.read(&path)?),
                false => answer,
            };
            match answer {
                Some(text) => return Ok(Ended::Done(results(&text, n_writes))),
                None if left.is_zero() => return Ok(Ended::Late),
                None => {}
            }
        }
    }
}

/// Removes answers that nobody has read because their run died.
pub fn tidy(files: &dyn Files) {
    for name in files.list(ANSWERS).unwrap_or_default() {
        let _ = files.remove(&format!("{ANSWERS}/{name}"));
    }
}

/// Does what a parent asked for: pairs of paths and texts, in `words`.
///
/// # Errors
/// It is nothing that a parent asks for, or nobody waits for it any more.
pub fn serve(files: &dyn Files, name: &str, words: &[String]) -> anyhow::Result<()> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.starts_with('.') || !name.bytes().all(is_name) {
        bail!("\"{name}\" is not the name of an answer");
    }
    let (pairs, []) = words.as_chunks::<2>() else {
        bail!("each path needs a text");
    };
    if let Some([path, text]) = pairs.iter().find(|[path, text]| !is_allowed(path, text)) {
        bail!("\"{text}\" is not written to {path} by this command");
    }
    if !files.exists(&answer_path(name)) {
        bail!("nothing waits for the answer any more");
    }
    let mut answer = String::new();
    for [path, text] in pairs {
        let number = match files.write(path, text) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        answer.push_str(&format!("{number} "));
        let told = files.write(&answer_path(name), &answer);
        told.context("nothing waits for the answer any more")?;
    }
    Ok(())
}

/// Returns the name of the errand to one file: its path below what all such files have in common.
fn name_of(path: &str) -> String {
    let tops = [
        "/sys/devices/system/",
        "/sys/fs/cgroup/",
        "/sys/kernel/",
        "/proc/sys/",
    ];
    let below = tops.iter().find_map(|top| path.strip_prefix(top));
    below.unwrap_or(path).replace('/', "-")
}

fn answer_path(name: &str) -> String {
    format!("{ANSWERS}/{name}")
}

fn results(text: &str, n_writes: usize) -> Vec<io::Result<()>> {
    let mut numbers = text.split_whitespace().map(|word| word.parse::<i32>().ok());
    let result = |number| match number {
        Some(Some(0)) => Ok(()),
        Some(Some(number)) => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::Error::other("the unit ended before it was done")),
    };
    (0..n_writes).map(|_| result(numbers.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_after_what_it_writes() {
        let errand = Errand::of_file("/sys/devices/system/cpu/cpu3/online", &["0"]);
        assert_eq!(errand.unit(), "pin-hook-write-cpu-cpu3-online.service");
    }

    #[test]
    fn what_was_not_answered_has_failed() {
        let results = results("0 28", 3);
        assert!(results[0].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(results[2].is_err());
    }
}
