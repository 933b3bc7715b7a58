//! QEMU's monitor (QMP) of a VM: JSON lines on `/run/qemu-server/<vmid>.qmp`.
//!
//! The socket serves one client at a time and PVE needs it too, so every call connects, asks one
//! thing and disconnects within a short deadline. The protocol is QEMU's `docs/interop/qmp-spec`.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::clock::KernelClock;
use super::deadline::{Deadline, within};
use super::limit::Limit;
use crate::domain::vm::Vmid;
use crate::domain::words::in_words;

/// How long a monitor may take for a whole conversation. PVE itself gives up after 3 to 5 s when
/// somebody else holds the socket.
pub const WAIT: Duration = Duration::from_secs(1);

/// Where QEMU's sockets are on a Proxmox VE host.
const SOCKETS: &str = "/run/qemu-server";
/// Length of the longest line that is read, in bytes.
const LONGEST_LINE: usize = 4 << 20;

/// What the program asks of a VM's monitor.
pub trait Qmp: Debug {
    /// Returns the run state (`query-status`), such as `running`, `prelaunch` or `inmigrate`.
    fn run_state(&self, vmid: Vmid) -> anyhow::Result<String>;
    /// Returns name and thread id of the iothreads (`query-iothreads`).
    fn iothreads(&self, vmid: Vmid) -> anyhow::Result<Vec<(String, i32)>>;
    /// Returns index and thread id of the vCPUs (`query-cpus-fast`).
    fn vcpus(&self, vmid: Vmid) -> anyhow::Result<Vec<(u32, i32)>>;
}

/// The monitors of this host's VMs, one socket each in a directory.
#[derive(Debug, Clone)]
pub struct QmpSockets {
    directory: PathBuf,
    wait: Duration,
    limit: Limit,
}

impl Default for QmpSockets {
    fn default() -> Self {
        Self::at(SOCKETS, WAIT)
    }
}

impl QmpSockets {
    /// Returns the monitors whose sockets are in `directory`, each with `wait` for a conversation.
    pub fn at(directory: impl Into<PathBuf>, wait: Duration) -> Self {
        Self {
            directory: directory.into(),
            wait,
            limit: Limit::default(),
        }
    }

    /// Returns the monitors for a run with a limit, which every conversation is cut to.
    pub fn within(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// Asks the monitor of a VM one thing.
    fn ask<T: DeserializeOwned>(&self, vmid: Vmid, command: &'static str) -> anyhow::Result<T> {
        let socket = self.directory.join(format!("{vmid}.qmp"));
        let wait = self.wait.min(self.limit.left(&KernelClock));
        let deadline = Deadline::after(wait);
        // The worker covers `connect`, which blocks while another client waits to be accepted; the
        // deadline inside ends the worker, so that it does not hold the socket any longer.
        let answer = match within(wait, move || converse(&socket, command, deadline)) {
            Some(Err(error)) if !deadline.passed() => Err(error),
            Some(Ok(value)) => serde_json::from_value(value).context("unexpected reply"),
            _ => Err(anyhow!("no answer within {}", in_words(wait))),
        };
        answer.with_context(|| format!("vm {vmid}: qmp {command}"))
    }
}

impl Qmp for QmpSockets {
    fn run_state(&self, vmid: Vmid) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct State {
            status: String,
        }
        Ok(self.ask::<State>(vmid, "query-status")?.status)
    }

    fn iothreads(&self, vmid: Vmid) -> anyhow::Result<Vec<(String, i32)>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct IoThread {
            id: String,
            thread_id: i32,
        }
        let threads: Vec<IoThread> = self.ask(vmid, "query-iothreads")?;
        Ok(threads.into_iter().map(|t| (t.id, t.thread_id)).collect())
    }

    fn vcpus(&self, vmid: Vmid) -> anyhow::Result<Vec<(u32, i32)>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Vcpu {
            cpu_index: u32,
            thread_id: i32,
        }
        let vcpus: Vec<Vcpu> = self.ask(vmid, "query-cpus-fast")?;
        Ok(vcpus
            .into_iter()
            .map(|vcpu| (vcpu.cpu_index, vcpu.thread_id))
            .collect())
    }
}

/// A line of the monitor: its greeting, a reply or an event. Unknown members are ignored, because
/// every QEMU adds some.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<IgnoredAny>,
    id: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

/// Holds a whole conversation: greeting, capabilities, one command.
fn converse(socket: &Path, command: &str, deadline: Deadline) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    let mut talk = Talk {
        stream,
        deadline,
        unread: Vec::new(),
    };
    while talk.line()?.greeting.is_none() {}
    talk.execute("qmp_capabilities", 0)?;
    talk.execute(command, 1)
}

/// A connection to a monitor.
struct Talk {
    stream: UnixStream,
    deadline: Deadline,
    unread: Vec<u8>,
}

impl Talk {
    /// Sends a command and returns what its reply holds.
    fn execute(&mut self, command: &str, id: u8) -> anyhow::Result<Value> {
        let request = format!("{}\n", json!({ "execute": command, "id": id }));
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(request.as_bytes())?;
        loop {
            let line = self.line()?;
            if line.id != Some(json!(id)) {
                continue;
            }
            return match (line.value, line.error) {
                (_, Some(Refusal { class, desc })) => bail!("{class}: {desc}"),
                (Some(value), None) => Ok(value),
                (None, None) => bail!("reply without a value"),
            };
        }
    }

    /// Reads the next line.
    fn line(&mut self) -> anyhow::Result<Line> {
        let mut searched = 0;
        loop {
            let found = self.unread[searched..].iter().position(|&b| b == b'\n');
            if let Some(end) = found.map(|at| searched + at) {
                let line = self.unread.drain(..=end).collect::<Vec<_>>();
                return serde_json::from_slice(&line).context("reply is not qmp");
            }
            searched = self.unread.len();
            if searched > LONGEST_LINE {
                bail!("line of more than {LONGEST_LINE} bytes");
            }
            self.fill()?;
        }
    }

    /// Reads what has arrived, waiting for at least one byte.
    fn fill(&mut self) -> io::Result<()> {
        let mut arrived = [0; 16 << 10];
        self.stream.set_read_timeout(Some(self.left()?))?;
        match self.stream.read(&mut arrived) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.unread.extend_from_slice(&arrived[..n]);
                Ok(())
            }
            // Nothing in time: whether any time is left is for the next call to see.
            Err(error) if is_nothing_yet(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the time that is left, which is never zero: a socket takes that for no timeout.
    fn left(&self) -> io::Result<Duration> {
        match self.deadline.remaining() {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

fn is_nothing_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}
