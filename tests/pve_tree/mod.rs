//! A node made of files, with a stand-in for PVE's `qm` that changes them as PVE does.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::RootFiles;
use pin_hook::host::limit::Limit;
use pin_hook::host::programs::{Ended, How, Program, Programs};
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::KernelSched;
use pin_hook::host::systemd::{Job, Systemd};
use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::engine::run::Caller;
use pin_hook::lifecycle::hooking::boot::boot;
use pin_hook::lifecycle::hooking::enable::Hooking;
use pin_hook::lifecycle::hooking::snippet::announce;
use tempfile::TempDir;

/// A node of a cluster of two: pve1 is this one.
#[derive(Debug)]
pub struct Node {
    dir: TempDir,
    host: Host,
    started: Rc<RefCell<Vec<String>>>,
    qm: Qm,
}

impl Node {
    pub fn new() -> Self {
        Node::with(false)
    }

    /// Returns a node whose service manager does not answer.
    pub fn without_systemd() -> Self {
        Node::with(true)
    }

    fn with(is_silent: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let started = Rc::default();
        let host = Host {
            files: Box::new(RootFiles::new(dir.path())),
            sched: Box::new(KernelSched),
            systemd: Box::new(Agreeing {
                is_silent,
                started: Rc::clone(&started),
            }),
            qmp: Box::new(QmpSockets::default()),
            clock: Box::new(KernelClock),
            limit: Limit::default(),
        };
        let qm = Qm {
            root: dir.path().to_owned(),
            calls: RefCell::default(),
            fails: RefCell::default(),
            is_late: RefCell::default(),
            does_nothing: RefCell::default(),
        };
        let node = Node {
            dir,
            host,
            started,
            qm,
        };
        node.put("/proc/sys/kernel/hostname", "pve1\n");
        for directory in [
            "/etc/pve/nodes/pve1/qemu-server",
            "/etc/pve/nodes/pve2/qemu-server",
            "/var/lib/vz/snippets",
            "/var/lib/vz/template",
            "/run/systemd/system",
            "/run/pin-hook/spool",
        ] {
            fs::create_dir_all(node.at(directory)).unwrap();
        }
        node.put("/run/pin-hook/lock", "");
        node
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// Returns where a file of the tree really is.
    pub fn real_path(&self, path: &str) -> String {
        self.at(path).to_str().unwrap().to_owned()
    }

    pub fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    pub fn get(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    pub fn remove_dir(&self, path: &str) {
        fs::remove_dir(self.at(path)).unwrap();
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().permissions().mode() & 0o777
    }

    pub fn vm(&self, node: &str, vmid: u32, config: &str) {
        self.put(
            &format!("/etc/pve/nodes/{node}/qemu-server/{vmid}.conf"),
            config,
        );
    }

    pub fn config(&self, vmid: u32) -> String {
        self.get(&format!("/etc/pve/nodes/pve1/qemu-server/{vmid}.conf"))
    }

    /// Gives a VM a hookscript of somebody else, a shell script.
    pub fn former_hook(&self, vmid: u32, name: &str, script: &str) {
        let path = format!("/var/lib/vz/snippets/{name}");
        self.put(&path, &format!("#!/bin/sh\n{script}\n"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.at(&path), mode).unwrap();
        let config = format!("{}hookscript: local:snippets/{name}\n", self.config(vmid));
        self.vm("pve1", vmid, &config);
    }

    /// Lets a VM run.
    pub fn qemu(&self, vmid: u32) {
        let zeros = ["0"; 30].join(" ");
        let stat = format!(
            "500 (kvm) S 1 1 1 0 -1 0 {} 77 {zeros}",
            ["0"; 12].join(" ")
        );
        self.put(&format!("/run/qemu-server/{vmid}.pid"), "500\n");
        self.put("/proc/500/task/500/stat", &stat);
        let command = format!("/usr/bin/kvm\0-pidfile\0/var/run/qemu-server/{vmid}.pid\0");
        self.put("/proc/500/cmdline", &command);
    }

    /// Returns every file and directory with its content, but what running leaves in /run.
    pub fn files_below(&self, path: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        collect(&self.at(path), self.dir.path(), &mut found);
        found.retain(|path, _| !path.starts_with("run/pin-hook") && path != "etc/pve/pin-hook");
        found.remove("etc/pve/pin-hook/nodes");
        found
    }

    pub fn enable(&self, vmid: u32) -> Account {
        self.hooking(vmid, false).enable()
    }

    pub fn dry_enable(&self, vmid: u32) -> Account {
        self.hooking(vmid, true).enable()
    }

    pub fn disable(&self, vmid: u32) -> Account {
        self.hooking(vmid, false).disable(nobody())
    }

    pub fn dry_disable(&self, vmid: u32) -> Account {
        self.hooking(vmid, true).disable(nobody())
    }

    pub fn boot(&self) -> Account {
        boot(&self.host)
    }

    /// What the unit does that boot starts when it cannot announce the node.
    pub fn announce(&self) -> Account {
        announce(&self.host)
    }

    /// Returns the snippets that pve1 has announced.
    pub fn announced(&self) -> String {
        let text = self.get("/etc/pve/pin-hook/nodes/pve1");
        let (version, snippets) = text.split_once('\n').unwrap();
        let expected = concat!("# pin-hook ", env!("CARGO_PKG_VERSION"));
        assert_eq!(version, expected);
        snippets.to_owned()
    }

    /// Returns the units that were started.
    pub fn started(&self) -> Vec<String> {
        self.started.borrow().clone()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Lets the next `qm` say this and fail.
    pub fn qm_fails(&self, said: &str) {
        *self.qm.fails.borrow_mut() = Some(said.to_owned());
    }

    /// Lets the next `qm` do what it is asked for, and then not end in time.
    pub fn qm_is_late(&self) {
        *self.qm.is_late.borrow_mut() = true;
    }

    /// Lets the next `qm` end well without doing anything.
    pub fn qm_does_nothing(&self) {
        *self.qm.does_nothing.borrow_mut() = true;
    }

    pub fn n_calls(&self) -> usize {
        self.qm.calls.borrow().len()
    }

    fn hooking(&self, vmid: u32, is_dry: bool) -> Hooking<'_> {
        Hooking {
            host: &self.host,
            programs: &self.qm,
            vmid: id(vmid),
            is_dry,
        }
    }
}

pub fn id(vmid: u32) -> Vmid {
    vmid.to_string().parse().unwrap()
}

fn nobody() -> Caller {
    Caller {
        process: TaskId { tid: 0, start: 0 },
        group: String::new(),
        migrated_from: String::new(),
    }
}

fn collect(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if path.is_dir() {
            found.insert(name, "(directory)".to_owned());
            collect(&path, root, found);
        } else {
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// `qm set ID --hookscript VOLUME` and `qm set ID --delete hookscript`.
#[derive(Debug)]
struct Qm {
    root: PathBuf,
    calls: RefCell<Vec<Vec<String>>>,
    fails: RefCell<Option<String>>,
    is_late: RefCell<bool>,
    does_nothing: RefCell<bool>,
}

impl Programs for Qm {
    fn run(&self, program: &Program) -> anyhow::Result<Ended> {
        assert_eq!(program.path, "/usr/sbin/qm");
        self.calls.borrow_mut().push(program.arguments.clone());
        if let Some(text) = self.fails.borrow_mut().take() {
            let how = How::Exited(255);
            return Ok(Ended { how, text });
        }
        if self.does_nothing.take() {
            let (how, text) = (How::Exited(0), String::new());
            return Ok(Ended { how, text });
        }
        let words: Vec<&str> = program.arguments.iter().map(String::as_str).collect();
        let (vmid, line) = match words.as_slice() {
            ["set", vmid, "--hookscript", volume] => (vmid, format!("hookscript: {volume}\n")),
            ["set", vmid, "--delete", "hookscript"] => (vmid, String::new()),
            other => panic!("qm {other:?}"),
        };
        let path = format!("etc/pve/nodes/pve1/qemu-server/{vmid}.conf");
        let path = self.root.join(path);
        let text = fs::read_to_string(&path)?;
        let (main, sections) = text.split_at(text.find("\n[").unwrap_or(text.len()));
        let kept = main.lines().filter(|line| !line.starts_with("hookscript:"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        fs::write(path, format!("{kept}{line}{sections}"))?;
        let text = "update VM\n".to_owned();
        let how = match self.is_late.take() {
            true => How::Late,
            false => How::Exited(0),
        };
        Ok(Ended { how, text })
    }
}

/// A service manager that does as it is told, or does not answer.
#[derive(Debug)]
struct Agreeing {
    is_silent: bool,
    started: Rc<RefCell<Vec<String>>>,
}

impl Systemd for Agreeing {
    fn reload(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_silent, "systemd did not answer");
        Ok(())
    }

    fn start(&self, unit: &str) -> anyhow::Result<()> {
        self.started.borrow_mut().push(unit.to_owned());
        Ok(())
    }

    fn stop(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn run(&self, job: &Job) -> anyhow::Result<()> {
        anyhow::bail!("{} is not run here", job.unit)
    }

    fn is_active(&self, _: &str) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn is_any_active(&self, _: &str) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn is_stopping(&self) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn enable(&self, _: &str) -> anyhow::Result<bool> {
        anyhow::ensure!(!self.is_silent, "systemd did not answer");
        Ok(true)
    }

    fn delegated(&self, _: &str) -> anyhow::Result<Option<Vec<String>>> {
        Ok(None)
    }

    fn allowed_cpus(&self, _: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn set_allowed_cpus(&self, _: &str, _: &[u8]) -> anyhow::Result<bool> {
        Ok(false)
    }
}
