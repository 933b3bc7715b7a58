//! Writes that are done by a child: answered, refused, killed, and never coming to an end.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::errand::{Ended, Errand, Write, serve, tidy};
use pin_hook::host::files::RootFiles;
use pin_hook::host::limit::Limit;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::KernelSched;
use pin_hook::host::systemd::{Job, Systemd};
use tempfile::TempDir;

/// Long enough for every child that comes to an end.
const PATIENT: Duration = Duration::from_secs(60);
/// For those that do not.
const SHORT: Duration = Duration::from_millis(300);

/// A service manager whose units are threads.
#[derive(Debug, Clone)]
struct Threads {
    root: PathBuf,
    /// Whether children are killed before they do anything.
    kills: bool,
    active: Arc<Mutex<Vec<String>>>,
}

impl Systemd for Threads {
    fn reload(&self) -> anyhow::Result<()> {
        unreachable!()
    }

    fn start(&self, _: &str) -> anyhow::Result<()> {
        unreachable!()
    }

    fn stop(&self, _: &str) -> anyhow::Result<()> {
        unreachable!()
    }

    fn run(&self, job: &Job) -> anyhow::Result<()> {
        assert!(
            Path::new(&job.path).is_absolute() && job.limit.is_some(),
            "{job:?}"
        );
        let [command, name, words @ ..] = job.arguments.as_slice() else {
            panic!("{job:?}");
        };
        assert_eq!(
            (
                command.as_str(),
                Errand::new(name.as_str(), Vec::new()).unit()
            ),
            ("write", job.unit.clone())
        );
        if self.kills {
            return Ok(());
        }
        let (me, unit, name, words) =
            (self.clone(), job.unit.clone(), name.clone(), words.to_vec());
        self.active.lock().unwrap().push(unit.clone());
        thread::spawn(move || {
            // A child that nobody waits for any more has nobody to tell.
            let _ = serve(&RootFiles::new(&me.root), &name, &words);
            me.active.lock().unwrap().retain(|active| *active != unit);
        });
        Ok(())
    }

    fn is_active(&self, unit: &str) -> anyhow::Result<bool> {
        Ok(self
            .active
            .lock()
            .unwrap()
            .iter()
            .any(|active| active == unit))
    }

    fn is_any_active(&self, _: &str) -> anyhow::Result<bool> {
        unreachable!()
    }

    fn is_stopping(&self) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn allowed_cpus(&self, _: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn set_allowed_cpus(&self, unit: &str, _: &[u8]) -> anyhow::Result<bool> {
        anyhow::bail!("{unit} is not changed here")
    }

    fn enable(&self, _: &str) -> anyhow::Result<bool> {
        unreachable!()
    }

    fn delegated(&self, _: &str) -> anyhow::Result<Option<Vec<String>>> {
        unreachable!()
    }
}

/// A host with the switches of CPUs 2 and 3.
fn host(kills: bool) -> (TempDir, Host) {
    let dir = TempDir::new().unwrap();
    for cpu in [2, 3] {
        let path = switch(dir.path(), cpu);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "1").unwrap();
    }
    fs::create_dir_all(dir.path().join("run/pin-hook")).unwrap();
    let threads = Threads {
        root: dir.path().to_owned(),
        kills,
        active: Arc::default(),
    };
    let host = Host {
        files: Box::new(RootFiles::new(dir.path())),
        sched: Box::new(KernelSched),
        systemd: Box::new(threads),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
        limit: Limit::default(),
    };
    (dir, host)
}

fn switch(root: &Path, cpu: u32) -> PathBuf {
    root.join(format!("sys/devices/system/cpu/cpu{cpu}/online"))
}

fn off(cpus: &[u32]) -> Vec<Write> {
    let path = |cpu| format!("/sys/devices/system/cpu/cpu{cpu}/online");
    cpus.iter().map(|cpu| Write::new(path(cpu), "0")).collect()
}

fn scrub(cpus: &[u32]) -> Errand {
    Errand::new("scrub", off(cpus))
}

/// The errand to one switch alone.
fn off_alone(cpu: u32) -> Errand {
    Errand::of_file(&off(&[cpu])[0].path, &["0"])
}

fn answers(dir: &TempDir) -> usize {
    fs::read_dir(dir.path().join("run/pin-hook/jobs"))
        .unwrap()
        .count()
}

/// Makes the switch of a CPU a file whose writer sleeps until somebody reads.
fn block(dir: &TempDir, cpu: u32) -> PathBuf {
    let path = switch(dir.path(), cpu);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

#[test]
fn each_write_is_answered_with_what_the_kernel_said() {
    let (dir, host) = host(false);
    let Ended::Done(results) = scrub(&[2, 9, 3]).run(&host, PATIENT).unwrap() else {
        panic!("it is late");
    };
    let errors: Vec<Option<i32>> = results
        .into_iter()
        .map(|result| result.err().and_then(|error| error.raw_os_error()))
        .collect();
    assert_eq!(errors, [None, Some(libc::ENOENT), None]);
    for cpu in [2, 3] {
        assert_eq!(fs::read_to_string(switch(dir.path(), cpu)).unwrap(), "0");
    }
    assert_eq!(answers(&dir), 0);
}

#[test]
fn a_child_that_is_killed_costs_no_deadline() {
    let (dir, host) = host(true);
    let begin = Instant::now();
    let error = off_alone(3).complete(&host, PATIENT).unwrap_err();
    assert_eq!(error.to_string(), "the unit ended before it was done");
    assert!(begin.elapsed() < PATIENT / 2);
    assert_eq!(answers(&dir), 0);
}

#[test]
fn a_write_that_never_ends_costs_the_deadline_and_is_not_waited_for_twice() {
    let (dir, host) = host(false);
    let pipe = block(&dir, 2);
    let late = scrub(&[2, 3]).run(&host, SHORT).unwrap();
    assert!(matches!(late, Ended::Late), "{late:?}");
    let begin = Instant::now();
    let late = scrub(&[2, 3]).run(&host, PATIENT).unwrap();
    assert!(matches!(late, Ended::Late), "{late:?}");
    assert!(begin.elapsed() < PATIENT / 2);
    // When the kernel lets go of it nobody listens, and it does nothing more.
    assert_eq!(fs::read_to_string(pipe).unwrap(), "0");
    while host.systemd.is_active(&scrub(&[2, 3]).unit()).unwrap() {
        thread::yield_now();
    }
    assert_eq!(fs::read_to_string(switch(dir.path(), 3)).unwrap(), "1");
    assert_eq!(answers(&dir), 0);
}

#[test]
fn the_error_of_a_late_write_names_the_unit() {
    let (dir, host) = host(false);
    let pipe = block(&dir, 3);
    let error = off_alone(3).complete(&host, SHORT).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let unit = "pin-hook-write-cpu-cpu3-online.service";
    let expected = format!("the kernel does not respond, {unit} waits for it");
    assert_eq!(error.to_string(), expected);
    fs::read_to_string(pipe).unwrap();
}

#[test]
fn the_child_of_a_run_that_died_is_waited_for() {
    let (dir, host) = host(false);
    assert!(!scrub(&[2, 3]).join(&host, PATIENT).unwrap());
    let jobs = dir.path().join("run/pin-hook/jobs");
    fs::create_dir(&jobs).unwrap();
    fs::write(jobs.join("scrub"), "").unwrap();
    let pipe = block(&dir, 3);
    let words = off(&[2, 3])
        .into_iter()
        .flat_map(|write| [write.path, write.text]);
    let arguments = ["write", "scrub"]
        .map(str::to_owned)
        .into_iter()
        .chain(words);
    let job = Job {
        unit: scrub(&[2, 3]).unit(),
        description: String::new(),
        path: "/usr/sbin/pin-hook".to_owned(),
        arguments: arguments.collect(),
        limit: Some(PATIENT),
        spares: false,
    };
    host.systemd.run(&job).unwrap();
    let reader = thread::spawn(move || fs::read_to_string(pipe).unwrap());
    assert!(!scrub(&[2, 3]).join(&host, PATIENT).unwrap());
    assert_eq!(reader.join().unwrap(), "0");
    assert_eq!(answers(&dir), 0);
}

#[test]
fn answers_that_nobody_reads_are_removed() {
    let (dir, host) = host(false);
    tidy(&*host.files);
    let jobs = dir.path().join("run/pin-hook/jobs");
    fs::create_dir(&jobs).unwrap();
    fs::write(jobs.join("scrub"), "0 0 ").unwrap();
    tidy(&*host.files);
    assert_eq!(answers(&dir), 0);
}

#[test]
fn the_child_refuses_what_no_parent_asks_for() {
    let (dir, host) = host(false);
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let online = "/sys/devices/system/cpu/cpu3/online";
    for (name, words, why) in [
        (
            "scrub",
            words(&["/etc/shadow", "0"]),
            "is not written to /etc/shadow",
        ),
        (
            "scrub",
            words(&[online, "0", "/proc/sys/kernel/core_pattern", "x"]),
            "is not written",
        ),
        ("scrub", words(&[online]), "each path needs a text"),
        (
            "../lock",
            words(&[online, "0"]),
            "is not the name of an answer",
        ),
    ] {
        let error = serve(&*host.files, name, &words).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(fs::read_to_string(switch(dir.path(), 3)).unwrap(), "1");
}

/// A child that systemd starts when its parent has given up does nothing.
#[test]
fn a_child_that_nobody_waits_for_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let file = "sys/kernel/mm/ksm/run";
    fs::create_dir_all(root.path().join("sys/kernel/mm/ksm")).unwrap();
    fs::create_dir_all(root.path().join("run/pin-hook/jobs")).unwrap();
    fs::write(root.path().join(file), "0").unwrap();
    let words = [format!("/{file}"), "1".to_owned()];
    let error = serve(&RootFiles::new(root.path()), "late", &words).unwrap_err();
    assert!(error.to_string().contains("nothing waits"), "{error:#}");
    assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "0");
}
