//! The host that a command is about: this one, or a captured one; and files of the caller.

use std::io::{self, IsTerminal};
use std::path::Path;

use super::args::Command;
use super::waits::TellingClock;
use crate::domain::advice::Advised;
use crate::host::Host;
use crate::host::files::{Files, RootFiles};
use crate::host::limit::Limit;
use crate::host::once::Once;
use crate::host::qmp::QmpSockets;
use crate::host::sched::{CapturedSched, KernelSched, Sched};
use crate::host::seen::Seen;
use crate::host::systemd::Bus;
use crate::host::tar;
use crate::host::tree::TreeFiles;
use crate::host::trouble::cannot;

/// Where the files of a host are.
#[derive(Debug)]
pub enum Root {
    /// Here.
    Live,
    /// In a directory.
    Directory(RootFiles),
    /// In memory.
    Archive(TreeFiles),
}

impl Root {
    /// Opens what `--root` names.
    ///
    /// # Errors
    /// There is nothing, or nothing that is a captured host.
    pub fn open(path: Option<&Path>, command: &Command) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Root::Live);
        };
        let root = Root::read(path)?;
        let files: &dyn Files = match &root {
            Root::Live => return Ok(root),
            Root::Directory(files) => files,
            Root::Archive(files) => files,
        };
        let missing = needed_by(command).iter().filter(|paths| {
            let mut paths = paths.iter();
            !paths.any(|path| files.exists(path))
        });
        let missing: Vec<&str> = missing.filter_map(|paths| paths.first().copied()).collect();
        if missing.is_empty() {
            return Ok(root);
        }
        let name = path.display();
        let missing = missing.join(" and no ");
        Err(Advised::new(
            format!("--root {name} is no copy of a host: it has no {missing}"),
            "give what pin-hook capture has written, or the root directory of a host",
        )
        .into())
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Ok(Root::Directory(RootFiles::new(path)));
        }
        let name = path.display();
        if !path.exists() {
            let text = format!("--root {name}: no such file or directory");
            return Err(Advised::new(text, "give what pin-hook capture has written").into());
        }
        let archive = of_caller(path).read_within(&path.to_string_lossy(), tar::LARGEST);
        let archive = archive.map_err(cannot("read", &path.to_string_lossy()))?;
        let nodes = tar::unpack(archive.as_bytes()).map_err(|fault| {
            let text = format!("--root {name} is not a captured host: {fault}");
            Advised::new(text, "give what pin-hook capture has written, as it is")
        })?;
        Ok(Root::Archive(TreeFiles::new(nodes)))
    }

    /// Returns the host for a command, and its files where others are to see them.
    pub fn host(self, command: &Command) -> (Host, Option<Seen>) {
        let (files, sched): (Box<dyn Files>, Box<dyn Sched>) = match self {
            Root::Live => (Box::new(RootFiles::new("/")), Box::new(KernelSched)),
            Root::Directory(files) => (Box::new(files.clone()), Box::new(CapturedSched(files))),
            Root::Archive(files) => (Box::new(files.clone()), Box::new(CapturedSched(files))),
        };
        let files: Box<dyn Files> = match command {
            Command::Status(asked) if asked.watch => Box::new(Once::calm(files)),
            _ if command.only_shows() => Box::new(Once::new(files)),
            _ => files,
        };
        let Some(keeps_names) = command.keeps_names() else {
            return (with(files, sched, command), None);
        };
        let seen = Seen::new(files, keeps_names);
        // Affinities are read from files too, so that they are part of a capture.
        let sched = Box::new(CapturedSched(seen.clone()));
        (with(Box::new(seen.clone()), sched, command), Some(seen))
    }
}

/// Files that a host has, the first of each what people know it by.
const NODE: &[&str] = &["/etc/hostname", "/proc/sys/kernel/hostname"];
const CPUS: &[&str] = &["/sys/devices/system/cpu/possible"];

/// Returns what there has to be of a host for a command to be about it: one file of each row.
fn needed_by(command: &Command) -> &'static [&'static [&'static str]] {
    match command {
        // A machine that checks tables is no node, and a measurement that was kept is a file.
        Command::Check(asked) if asked.table.is_some() || asked.explain.is_some() => &[],
        Command::Measure(_) => &[],
        // A shell that completes a word is told no errors.
        Command::List { ids: true, .. } => &[],
        // Those are refused with any root.
        _ if command.changes_the_host() => &[],
        Command::Enable { .. } | Command::Disable { .. } => &[NODE],
        _ => &[NODE, CPUS],
    }
}

fn with(files: Box<dyn Files>, sched: Box<dyn Sched>, command: &Command) -> Host {
    let limit = Limit::default();
    let bus = match command.is_phase() {
        true => Bus::default(),
        false => Bus::patient(),
    };
    Host {
        files,
        sched,
        systemd: Box::new(bus.within(limit.clone())),
        qmp: Box::new(QmpSockets::default().within(limit.clone())),
        clock: Box::new(TellingClock::new(io::stdout().is_terminal())),
        limit,
    }
}

/// Returns the files that the caller names, also when the host is a captured one.
pub fn of_caller(file: &Path) -> RootFiles {
    RootFiles::new(if file.is_absolute() { "/" } else { "." })
}

/// Writes a file of the caller.
///
/// # Errors
/// The kernel's, with the path.
pub fn write_of_caller(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = file.to_string_lossy();
    of_caller(file)
        .replace(&path, text, mode)
        .map_err(cannot("write", &path))
}
