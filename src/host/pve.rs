//! Proxmox VE's view of this node: its guests and which of them run.
//!
//! Reads files only: `/etc/pve` (the cluster file system), `/run/qemu-server` and `/proc`.
//! No lock of PVE is taken and `qm` is never asked, because a hook runs with the VM's lock held.

use std::io;

use anyhow::{Context, ensure};

use super::cgroup;
use super::files::{self, Files};
use super::task;
use super::trouble::cannot;
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::advice::Advised;
use crate::domain::guest::Guest;
use crate::domain::vm::{TaskId, Vmid};

/// Where the pidfiles are.
const RUN: &str = "/run/qemu-server";
/// The same directory as PVE writes it on QEMU's command line.
const RUN_ON_COMMAND_LINE: &str = "/var/run/qemu-server";
/// PVE's program for VMs.
pub const QM: &str = "/usr/sbin/qm";

/// A text file that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Where it is.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Returns PVE's name of this node: the host name without its domain.
///
/// # Errors
/// No host name can be read, or it can be no directory's name.
pub fn node_name(files: &dyn Files) -> anyhow::Result<String> {
    let kernels = files.read("/proc/sys/kernel/hostname");
    let name = kernels.or_else(|_| files.read("/etc/hostname"));
    let name = name.map_err(|error| {
        let fact = "cannot read the host name from /etc/hostname";
        let help = "write the name of the node into it, as ls /etc/pve/nodes shows it";
        anyhow::Error::new(error).context(Advised::new(fact, help))
    })?;
    let node = name.trim().split('.').next().unwrap_or_default();
    ensure!(
        is_node_name(node),
        Advised::new(
            format!("host name {node:?} is not the name of a node"),
            "name the host as ls /etc/pve/nodes shows it (hostnamectl hostname)",
        )
    );
    Ok(node.to_owned())
}

/// Returns the config of a VM, or `None` when this node has no such VM.
///
/// `migrated_from` is what `PVE_MIGRATED_FROM` says, empty without it: while a VM migrates to
/// this node its config is still among those of the node it comes from.
///
/// # Errors
/// The config is there but cannot be read, or `migrated_from` is not the name of a node.
pub fn vm_config(
    files: &dyn Files,
    vmid: Vmid,
    migrated_from: &str,
) -> anyhow::Result<Option<TextFile>> {
    if !migrated_from.is_empty() {
        let valid = is_node_name(migrated_from);
        ensure!(
            valid,
            "PVE_MIGRATED_FROM={migrated_from:?} is not the name of a node"
        );
        let path = format!("/etc/pve/nodes/{migrated_from}/qemu-server/{vmid}.conf");
        if let Some(config) = read_if_there(files, path)? {
            return Ok(Some(config));
        }
    }
    own_config(files, "qemu-server", vmid)
}

/// Returns the guest that the config of a VM describes now; otherwise as [`vm_config`].
///
/// # Errors
/// As [`vm_config`].
pub fn guest_of(
    files: &dyn Files,
    vmid: Vmid,
    migrated_from: &str,
) -> anyhow::Result<Option<Guest>> {
    let config = vm_config(files, vmid, migrated_from)?;
    Ok(config.map(|config| parse_vm_conf(&config.text).guest()))
}

/// Tells whether an id is that of a container of this node.
pub fn is_container(files: &dyn Files, ctid: Vmid) -> bool {
    let directories = config_directories(files, "lxc");
    let mut directories = directories.iter();
    directories.any(|directory| files.exists(&format!("{directory}/{ctid}.conf")))
}

/// Returns the config of a container of this node, or `None` when there is none.
///
/// # Errors
/// The config is there but cannot be read.
pub fn container_config(files: &dyn Files, ctid: Vmid) -> anyhow::Result<Option<TextFile>> {
    own_config(files, "lxc", ctid)
}

fn own_config(files: &dyn Files, kind: &str, vmid: Vmid) -> anyhow::Result<Option<TextFile>> {
    let directories = config_directories(files, kind).into_iter();
    let paths = directories.map(|directory| format!("{directory}/{vmid}.conf"));
    let mut configs = paths.filter_map(|path| read_if_there(files, path).transpose());
    configs.next().transpose()
}

/// Returns the VMs whose config is on this node, running or not.
///
/// # Errors
/// The directory is there but cannot be read.
pub fn vms_of_node(files: &dyn Files) -> anyhow::Result<Vec<Vmid>> {
    guests_of_node(files, "qemu-server")
}

/// Returns the containers whose config is on this node, running or not.
///
/// # Errors
/// As [`vms_of_node`].
pub fn containers_of_node(files: &dyn Files) -> anyhow::Result<Vec<Vmid>> {
    guests_of_node(files, "lxc")
}

fn guests_of_node(files: &dyn Files, kind: &str) -> anyhow::Result<Vec<Vmid>> {
    for directory in config_directories(files, kind) {
        let names = files::if_there(files.list(&directory)).map_err(cannot("list", &directory))?;
        if let Some(names) = names {
            return Ok(vmids(&names, ".conf"));
        }
    }
    Ok(Vec::new())
}

/// Returns the node of the cluster that a VM is on, this one included.
pub fn node_of_vm(files: &dyn Files, vmid: Vmid) -> Option<String> {
    let nodes = files.list("/etc/pve/nodes").unwrap_or_default();
    let config = |node: &str| format!("/etc/pve/nodes/{node}/qemu-server/{vmid}.conf");
    nodes.into_iter().find(|node| files.exists(&config(node)))
}

/// Returns the identity of a VM's QEMU process, or `None` when the VM does not run.
///
/// PVE's own test comes first: the process of the pidfile is a QEMU, was started with exactly that
/// pidfile and is no zombie. A pidfile outlives its process, and a number is used again. Where that file was
/// removed or changed, PVE takes the VM for stopped, but its QEMU is in the scope of the VM and runs its
/// guest: what counts is the process.
///
/// # Errors
/// The kernel's, except those that say that file or process are not there.
pub fn running(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Option<TaskId>> {
    let found = unless_gone(qemu_of(files, vmid)).and_then(|qemu| match qemu {
        Some(qemu) => Ok(Some(qemu)),
        None => qemu_in_scope(files, vmid),
    });
    found
        .map_err(cannot("read", &format!("{RUN}/{vmid}.pid")))
        .with_context(|| format!("cannot tell whether vm {vmid} runs"))
}

/// Returns the VMs that run on this node, each with the identity of its QEMU process.
///
/// # Errors
/// As [`running`].
pub fn running_vms(files: &dyn Files) -> anyhow::Result<Vec<(Vmid, TaskId)>> {
    let names = files::if_there(files.list(RUN)).map_err(cannot("list", RUN))?;
    let mut all = vmids(&names.unwrap_or_default(), ".pid");
    all.extend(cgroup::scopes(files));
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .filter_map(|vmid| Some((vmid, running(files, vmid).transpose()?)))
        .map(|(vmid, qemu)| Ok((vmid, qemu?)))
        .collect()
}

/// Tells whether PVE is shutting all guests of this node down, as it does for `stopall` and when
/// the host goes down.
///
/// A worker calls itself after its task (`PVE::RESTEnvironment`, `fork_worker`):
/// `task UPID:<node>:<pid>:<pstart>:<starttime>:<type>:<id>:<user>:`.
pub fn stops_all(files: &dyn Files) -> bool {
    let names = files.list("/proc").unwrap_or_default();
    let mut pids = names.iter().filter(|name| name.parse::<u32>().is_ok());
    pids.any(|pid| {
        let command = files.read(&format!("/proc/{pid}/cmdline"));
        command.is_ok_and(|command| {
            command.starts_with("task UPID:") && command.split(':').nth(5) == Some("stopall")
        })
    })
}

/// Returns the directories in which this node's configs of a kind are, the real one first:
/// `/etc/pve/qemu-server` is a link that a captured tree may lack, or have instead.
fn config_directories(files: &dyn Files, kind: &str) -> Vec<String> {
    let own = node_name(files).map(|node| format!("/etc/pve/nodes/{node}/{kind}"));
    own.into_iter()
        .chain([format!("/etc/pve/{kind}")])
        .collect()
}

/// Tells whether a text can be a node's name, and so be part of a path.
fn is_node_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !text.is_empty() && text.bytes().all(allowed)
}

/// Returns the guests whose id, followed by `ending`, is among the names.
fn vmids(names: &[String], ending: &str) -> Vec<Vmid> {
    let ids = names.iter().filter_map(|name| name.strip_suffix(ending));
    let mut vmids: Vec<Vmid> = ids.filter_map(|id| id.parse().ok()).collect();
    vmids.sort_unstable();
    vmids
}

/// Reads a whole file, or returns `None` when there is none.
pub(super) fn read_if_there(files: &dyn Files, path: String) -> anyhow::Result<Option<TextFile>> {
    if_there(files.read(&path), path)
}

/// Returns a file that was read, or `None` when there is none.
pub(super) fn if_there(read: io::Result<String>, path: String) -> anyhow::Result<Option<TextFile>> {
    let text = files::if_there(read).map_err(cannot("read", &path))?;
    Ok(text.map(|text| TextFile { path, text }))
}

fn unless_gone<T>(found: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match found {
        Err(error) if task::is_gone(&error) => Ok(None),
        found => found,
    }
}

fn qemu_of(files: &dyn Files, vmid: Vmid) -> io::Result<Option<TaskId>> {
    let pidfile = files.read(&format!("{RUN}/{vmid}.pid"))?;
    match pidfile.trim_end_matches('\n').parse::<i32>() {
        Ok(pid) => qemu_with(files, vmid, pid),
        Err(_) => Ok(None),
    }
}

/// Returns the QEMU of a VM among the processes of its scope.
fn qemu_in_scope(files: &dyn Files, vmid: Vmid) -> io::Result<Option<TaskId>> {
    let processes = cgroup::file(&cgroup::scope_of(vmid), "cgroup.procs");
    let pids = files.read(&processes).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        if let Some(qemu) = unless_gone(qemu_with(files, vmid, pid))? {
            return Ok(Some(qemu));
        }
    }
    Ok(None)
}

/// Returns the identity of a process if it is the QEMU of a VM.
fn qemu_with(files: &dyn Files, vmid: Vmid, pid: i32) -> io::Result<Option<TaskId>> {
    let task = task::read_task(files, pid, pid)?;
    let command = files.read(&format!("/proc/{pid}/cmdline"))?;
    let is_qemu = is_qemu_of(&command, &format!("{RUN_ON_COMMAND_LINE}/{vmid}.pid"));
    Ok((is_qemu && !task.is_dead()).then_some(task.id))
}

/// Tells whether a command line is that of a QEMU with this pidfile.
fn is_qemu_of(command: &str, pidfile: &str) -> bool {
    let mut arguments = command.split('\0').filter(|argument| !argument.is_empty());
    if !arguments.next().is_some_and(is_qemu) {
        return false;
    }
    // PVE reads the last one, and one or two dashes.
    let mut option = "";
    let mut value = None;
    for argument in arguments {
        if let Some(name) = argument.strip_prefix('-') {
            option = name.strip_prefix('-').unwrap_or(name);
        } else if std::mem::take(&mut option) == "pidfile" {
            value = Some(argument);
        }
    }
    value == Some(pidfile)
}

/// Tells whether a program is QEMU: `kvm$` or `(^|/)qemu-[^/]+$` in PVE's words.
fn is_qemu(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    let emulator = name.strip_prefix("qemu-");
    program.ends_with("kvm") || emulator.is_some_and(|machine| !machine.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::RootFiles;

    /// A node made of files; every file appears with its directories.
    struct Node {
        files: RootFiles,
        _dir: tempfile::TempDir,
    }

    impl Node {
        fn new(host_name: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let files = RootFiles::new(dir.path());
            let node = Self { files, _dir: dir };
            node.put("/proc/sys/kernel/hostname", host_name);
            node
        }

        fn put(&self, path: &str, text: &str) {
            for (at, _) in path.match_indices('/').skip(1) {
                let _ = self.files.make_dir(&path[..at], 0o755);
            }
            self.files.replace(path, text, 0o644).unwrap();
        }

        fn put_qemu(&self, pid: i32, state: char, command: &str) {
            let stat = format!(
                "{pid} (kvm) {state} 1 1 1 0 -1 0 {} 77 {}",
                ["0"; 12].join(" "),
                ["0"; 30].join(" ")
            );
            self.put(&format!("/proc/{pid}/task/{pid}/stat"), &stat);
            self.put(&format!("/proc/{pid}/cmdline"), &command.replace(' ', "\0"));
        }
    }

    fn id(number: u32) -> Vmid {
        number.to_string().parse().unwrap()
    }

    #[test]
    fn the_node_is_the_host_name_without_domain() {
        let name = |text| node_name(&Node::new(text).files);
        assert_eq!(name("pve1\n").unwrap(), "pve1");
        assert_eq!(name("pve1.example.org\n").unwrap(), "pve1");
        for text in ["", ".org", "../x", "(none)"] {
            assert!(name(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_config_of_a_migrating_vm_is_that_of_its_source() {
        let node = Node::new("pve1");
        node.put("/etc/pve/nodes/pve1/qemu-server/100.conf", "cores: 1");
        node.put("/etc/pve/nodes/pve2/qemu-server/101.conf", "cores: 2");
        let text = |vmid, from| {
            let config = vm_config(&node.files, id(vmid), from).unwrap();
            config.map(|config| config.text)
        };
        assert_eq!(text(100, "").as_deref(), Some("cores: 1"));
        assert_eq!(text(101, ""), None);
        assert_eq!(text(101, "pve2").as_deref(), Some("cores: 2"));
        assert_eq!(text(100, "pve2").as_deref(), Some("cores: 1"));
        assert!(vm_config(&node.files, id(100), "../pve2").is_err());
    }

    #[test]
    fn guests_are_told_apart_also_where_only_the_link_is_there() {
        let node = Node::new("pve1");
        node.put("/etc/pve/qemu-server/100.conf", "");
        node.put("/etc/pve/qemu-server/1000.conf.new", "");
        node.put("/etc/pve/nodes/pve1/lxc/101.conf", "");
        node.put("/etc/pve/nodes/pve2/qemu-server/102.conf", "");
        let is_vm = |vmid, from| vm_config(&node.files, id(vmid), from).unwrap().is_some();
        let is_container = |vmid| is_container(&node.files, id(vmid));
        assert!(is_vm(100, "") && !is_container(100));
        assert!(!is_vm(101, "") && is_container(101));
        assert!(!is_vm(102, "") && !is_container(102));
        assert!(is_vm(102, "pve2"));
        assert_eq!(vms_of_node(&node.files).unwrap(), [id(100)]);
        let empty = Node::new("pve3");
        assert!(vms_of_node(&empty.files).unwrap().is_empty());
    }

    #[test]
    fn a_vm_runs_when_its_own_qemu_does() {
        let node = Node::new("pve1");
        let qemu = "/usr/bin/kvm -id 100 -pidfile /var/run/qemu-server/100.pid -daemonize";
        node.put("/run/qemu-server/100.pid", "500\n");
        assert_eq!(running(&node.files, id(100)).unwrap(), None);
        node.put_qemu(500, 'S', qemu);
        let qemu_task = TaskId {
            tid: 500,
            start: 77,
        };
        assert_eq!(running(&node.files, id(100)).unwrap(), Some(qemu_task));
        // The number of a VM that is gone, used again by another VM; a zombie; no number.
        node.put("/run/qemu-server/101.pid", "500\n");
        node.put("/run/qemu-server/102.pid", "502\n");
        node.put_qemu(502, 'Z', &qemu.replace("100.pid", "102.pid"));
        node.put("/run/qemu-server/103.pid", "\n");
        node.put("/run/qemu-server/-1.pid", "500\n");
        node.put("/run/qemu-server/qsd-100.pid", "500\n");
        let all = running_vms(&node.files).unwrap();
        assert_eq!(all, [(id(100), qemu_task)]);
    }

    #[test]
    fn a_qemu_is_known_by_its_name_and_pidfile() {
        let program = ["kvm", "/usr/bin/kvm", "qemu-system-x86_64", "/opt/qemu-x"];
        assert!(program.into_iter().all(is_qemu));
        let other = [
            "",
            "/usr/bin/kvm-stub",
            "/opt/qemu-x/sh",
            "qemu-",
            "xqemu-a",
        ];
        assert!(!other.into_iter().any(is_qemu));
        let of_p = |command: &str| is_qemu_of(&command.replace(' ', "\0"), "/p");
        assert!(of_p("kvm -pidfile /p"));
        assert!(of_p("kvm -daemonize --pidfile /p -S "));
        assert!(of_p("kvm -pidfile /old -pidfile /p"));
        assert!(!of_p("kvm -pidfile /p2"));
        assert!(!of_p("kvm -pidfile -S /p"));
        assert!(!of_p("kvm -name pidfile /p"));
        assert!(!of_p("sh -pidfile /p"));
        assert!(!of_p(""));
    }
}
