//! Other programs: PVE's `qm`, and the hookscript that a VM had before.
//!
//! A child gets `/dev/null` as standard input, pipes that are drained here, and no other
//! descriptor, so that nothing it leaves behind keeps PVE's pipes open. No shell is between.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::deadline::Deadline;
use super::files::Files;

/// How long the last words of a child that has ended may take to arrive. A pipe that something it
/// left behind still holds open is not read any longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Call of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: String,
    /// What it is called with, each as one argument.
    pub arguments: Vec<String>,
    /// How long it may take before it is killed.
    pub wait: Duration,
    /// What happens to what it prints.
    pub output: Printed,
}

/// What happens to what a program prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    /// It appears at once on this program's standard output and standard error.
    Relayed,
    /// It is handed to the caller.
    Kept,
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub how: How,
    /// What it printed, if that was to be kept.
    pub text: String,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By itself, with this exit status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
    /// It was killed because it took too long.
    Late,
}

/// Other programs.
pub trait Programs: Debug {
    /// Runs a program to its end, or until it has taken too long.
    ///
    /// # Errors
    /// It cannot be started.
    fn run(&self, program: &Program) -> anyhow::Result<Ended>;
}

/// What is asked of the thread that starts programs.
type Order = (Program, Sender<io::Result<Ended>>);

/// Programs that run with the privileges that this one was started with.
///
/// They are started by a thread of their own, which is made before the main thread drops what it
/// does not need: PVE's programs and foreign hookscripts are to have what PVE gives them.
#[derive(Debug)]
pub struct Children {
    orders: Sender<Order>,
}

impl Children {
    /// Makes the thread that starts programs.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn new() -> anyhow::Result<Self> {
        let (orders, taken) = mpsc::channel::<Order>();
        let worker = thread::Builder::new().name("pin-hook-child".to_owned());
        worker
            .spawn(move || {
                for (program, answer) in taken {
                    // Nobody listens any more when the program is about to end.
                    let _ = answer.send(run_to_its_end(&program));
                }
            })
            .context("cannot make a thread for other programs")?;
        Ok(Children { orders })
    }
}

impl Programs for Children {
    fn run(&self, program: &Program) -> anyhow::Result<Ended> {
        let (answer, ended) = mpsc::channel();
        let gone = || anyhow!("the thread for other programs has ended");
        self.orders
            .send((program.clone(), answer))
            .map_err(|_| gone())?;
        let ended = ended.recv().map_err(|_| gone())?;
        ended.with_context(|| format!("cannot execute {}", program.path))
    }
}

/// For a run that executes nothing: every program is refused.
#[derive(Debug, Clone, Copy)]
pub struct NoPrograms;

impl Programs for NoPrograms {
    fn run(&self, program: &Program) -> anyhow::Result<Ended> {
        Err(anyhow!("{} is not executed by this command", program.path))
    }
}

/// Closes what was inherited beside standard input, output and error, so that no child inherits
/// it either: a pipe of PVE that a grandchild keeps open would block PVE.
///
/// Called before this program has opened anything itself.
pub fn close_inherited(files: &dyn Files) {
    let names = files.list("/proc/self/fd").unwrap_or_default();
    let numbers = names.iter().filter_map(|name| name.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // The one of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

fn run_to_its_end(program: &Program) -> io::Result<Ended> {
    let mut child = Command::new(&program.path)
        .args(&program.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let printed = drain(&mut child, program.output);
    let is_late = !ends_within(&child, program.wait);
    if is_late {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(Ended {
        how: match is_late {
            true => How::Late,
            false => how(status),
        },
        text: last_words(&printed),
    })
}

fn how(status: std::process::ExitStatus) -> How {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or_else(
        || How::Killed(status.signal().unwrap_or_default()),
        How::Exited,
    )
}

/// Waits for the end of a child without reaping it, so that its number stays its own.
fn ends_within(child: &Child, wait: Duration) -> bool {
    let Ok(pid) = i32::try_from(child.id()) else {
        return false;
    };
    let (sender, ended) = mpsc::channel();
    let waiter = thread::Builder::new().name("pin-hook-wait".to_owned());
    let waits = waiter.spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), flags);
        let _ = sender.send(());
    });
    waits.is_ok() && ended.recv_timeout(wait).is_ok()
}

/// Reads what a child prints as it comes; the receiver gets it, and its end when both pipes are
/// closed.
fn drain(child: &mut Child, output: Printed) -> Receiver<Vec<u8>> {
    let (sender, printed) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        read_all(pipe, std::io::stdout(), output, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        read_all(pipe, std::io::stderr(), output, sender);
    }
    printed
}

fn read_all(
    mut pipe: impl Read + Send + 'static,
    mut relay: impl Write + Send + 'static,
    output: Printed,
    keep: Sender<Vec<u8>>,
) {
    let mut buffer = [0; 4096];
    // Without a thread the pipe is closed, and what the child prints into it is lost.
    let _ = thread::Builder::new().spawn(move || {
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            // Somebody who does not listen is no reason to let the child die of a closed pipe.
            match output {
                Printed::Relayed => {
                    let _ = relay.write_all(&buffer[..n]).and_then(|()| relay.flush());
                }
                Printed::Kept => {
                    let _ = keep.send(buffer[..n].to_vec());
                }
            }
        }
    });
}

fn last_words(printed: &Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    let deadline = Deadline::after(LAST_WORDS);
    while let Ok(more) = printed.recv_timeout(deadline.remaining()) {
        bytes.extend(more);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
