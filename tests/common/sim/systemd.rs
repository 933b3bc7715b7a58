//! systemd, as far as it concerns control groups: scopes, delegation, drop-ins.
//!
//! It writes `cgroup.subtree_control` of every unit that does not delegate, so a child group of
//! such a scope loses its controllers whenever systemd looks at the unit again (measured: 257).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::host::systemd::Job;

use super::cgroup::{CONTROLLERS, CPUSET};
use super::qm::Guest;
use super::{Sim, State, errno};

/// Directories of unit files, by which a drop-in counts.
const UNIT_DIRS: [&str; 3] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];
/// Controllers that systemd enables for every unit: `memory pids`.
const ALWAYS: [usize; 2] = [3, 5];
/// `cpu`, for the `CPUWeight=` that PVE gives every VM.
const CPU: usize = 1;

/// What `Delegate=yes` means: the controllers that systemd knows.
const DELEGATED: [usize; 5] = [CPUSET, CPU, 2, 3, 5];

/// First lines of the files that `SetUnitProperties` makes (measured: 252).
const SET_PROPERTY: &str = "# This is a drop-in unit file extension, created via \"systemctl \
                            set-property\"\n# or an equivalent operation. Do not edit.\n";

/// The service manager.
#[derive(Debug, Clone, Default)]
pub struct Manager {
    /// Directories of drop-ins, as of the last reload.
    known_dirs: BTreeSet<String>,
    scopes: BTreeMap<String, Scope>,
    /// `AllowedCPUs=` of units by the path of their group.
    allowed_cpus: BTreeMap<String, CpuSet>,
    pub active: BTreeSet<String>,
    /// Units whose process has ended and that are still active when they are asked for once more.
    pub lingering: BTreeSet<String>,
    /// Programs that were started in transient services, in order; nothing executes them.
    pub jobs: Vec<Job>,
    /// When the unit of each job was started last.
    pub begun: BTreeMap<String, Duration>,
    /// How guests behave that are shut down.
    pub guests: BTreeMap<u32, Guest>,
    /// Whether the host goes down.
    pub is_stopping: bool,
    /// Whether bus and monitors answer nobody.
    pub is_silent: bool,
    /// Whether a call of the run was late, so that it makes no other one.
    pub is_hung: bool,
}

/// A scope of `qemu.slice`.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    delegated: BTreeSet<usize>,
}

/// Returns the group of a unit: scopes of VMs are in their slice, other units below the root.
fn group_of(unit: &str) -> String {
    let of_vm = unit
        .strip_suffix(".scope")
        .is_some_and(|name| name.parse::<u32>().is_ok());
    if of_vm {
        format!("/qemu.slice/{unit}")
    } else {
        format!("/{unit}")
    }
}

impl State {
    /// Reads the unit files again; running scopes follow.
    pub fn systemd_reload(&mut self) {
        self.systemd.known_dirs = self.drop_in_dirs().collect();
        let names: Vec<String> = self.systemd.scopes.keys().cloned().collect();
        for name in names {
            let delegated = self.drop_ins_of(&name);
            if let Some(scope) = self.systemd.scopes.get_mut(&name) {
                scope.delegated = delegated;
            }
        }
        // Recorded: a reload reaches the root only. The slice gets a controller that a running
        // scope wishes for the first time when systemd realizes a unit in it.
        self.control("", '+', &self.needed_in(""));
    }

    fn drop_in_dirs(&self) -> impl Iterator<Item = String> + '_ {
        let names = |dir: &&str| self.tree.list(dir).unwrap_or_default();
        let paths = UNIT_DIRS.iter().flat_map(move |dir| {
            names(dir)
                .into_iter()
                .map(move |name| format!("{dir}/{name}"))
        });
        paths.filter(|path| path.ends_with(".scope.d"))
    }

    /// Reads what the drop-ins of a scope delegate. A directory that is newer than the last
    /// reload is not looked at, a file in an older one is.
    fn drop_ins_of(&self, scope: &str) -> BTreeSet<usize> {
        let mut delegated = BTreeSet::new();
        let ours = |dir: &&String| dir.ends_with(&format!("/{scope}.d"));
        for dir in self.systemd.known_dirs.iter().filter(ours) {
            self.merge_drop_ins(dir, &mut delegated);
        }
        delegated
    }

    /// Reads `AllowedMemoryNodes=` of a scope's drop-ins, which counts when the scope is made.
    fn memory_nodes_of(&self, scope: &str) -> Option<String> {
        let ours = |dir: &&String| dir.ends_with(&format!("/{scope}.d"));
        let dirs = self.systemd.known_dirs.iter().filter(ours);
        let files = dirs.flat_map(|dir| {
            let names = self.tree.list(dir).unwrap_or_default();
            names.into_iter().map(move |name| format!("{dir}/{name}"))
        });
        let texts = files.filter_map(|file| self.tree.read(&file).ok());
        let mut lists = texts.filter_map(|text| {
            let list = |line: &str| Some(line.strip_prefix("AllowedMemoryNodes=")?.to_owned());
            text.lines().find_map(list)
        });
        lists.next()
    }

    fn merge_drop_ins(&self, dir: &str, delegated: &mut BTreeSet<usize>) {
        for name in self.tree.list(dir).unwrap_or_default() {
            let text = self.tree.read(&format!("{dir}/{name}")).unwrap_or_default();
            let values = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Delegate="));
            for value in values.filter(|_| name.ends_with(".conf")) {
                delegated.extend(DELEGATED.into_iter().filter(|&n| match value {
                    "yes" | "true" | "1" | "on" => true,
                    list => list.split_whitespace().any(|word| word == CONTROLLERS[n]),
                }));
            }
        }
    }

    /// Starts a scope with one process in it.
    pub fn start_scope(&mut self, name: &str, pid: i32) {
        let delegated = self.drop_ins_of(name);
        let scope = Scope { delegated };
        self.systemd.scopes.insert(name.to_owned(), scope);
        let group = group_of(name);
        if !self.cgroups.contains_key("/qemu.slice") {
            self.cgroup_make("/qemu.slice").expect("the slice is new");
        }
        self.cgroup_make(&group).expect("the scope is new");
        self.realize();
        if let Some(nodes) = self.memory_nodes_of(name) {
            let _ = self.cgroup_write(&format!("{group}/cpuset.mems"), &nodes);
        }
        let procs = format!("{group}/cgroup.procs");
        self.cgroup_write(&procs, &pid.to_string())
            .expect("systemd moves the process");
    }

    /// Removes the scopes that have no process any more, with the groups below them.
    pub fn collect_scopes(&mut self) {
        let empty = |name: &&String| !self.is_populated(&group_of(name));
        let gone: Vec<String> = self.systemd.scopes.keys().filter(empty).cloned().collect();
        for name in &gone {
            self.systemd.scopes.remove(name);
            self.systemd.allowed_cpus.remove(&group_of(name));
            let drop_ins = format!("/run/systemd/transient/{name}.d");
            let _ = self.tree.remove(&format!("{drop_ins}/50-AllowedCPUs.conf"));
            let _ = self.tree.remove_dir(&drop_ins);
            for group in self.subtree(&group_of(name)).iter().rev() {
                self.cgroup_remove(group).expect("an empty group");
            }
        }
        if !gone.is_empty() {
            self.realize();
        }
    }

    /// Writes `cgroup.subtree_control` of the root, of the slice and of scopes that do not
    /// delegate: what the units below need.
    fn realize(&mut self) {
        // Parents first when a controller comes, children first when one goes.
        for group in ["", "/qemu.slice"] {
            self.control(group, '+', &self.needed_in(group));
        }
        for group in ["/qemu.slice", ""] {
            let needed = self.needed_in(group);
            let unneeded = (0..CONTROLLERS.len())
                .filter(|n| !needed.contains(n))
                .collect();
            self.control(group, '-', &unneeded);
        }
    }

    /// Returns the controllers that units below a group need.
    fn needed_in(&self, group: &str) -> BTreeSet<usize> {
        let mut needed = BTreeSet::from(ALWAYS);
        for scope in self.systemd.scopes.values() {
            needed.insert(CPU);
            needed.extend(scope.delegated.iter());
        }
        let inside = |unit: &&String| unit.starts_with(&format!("{group}/"));
        needed.extend(
            self.systemd
                .allowed_cpus
                .keys()
                .find(inside)
                .map(|_| CPUSET),
        );
        needed
    }

    /// Switches controllers one by one. Switching off fails while somebody else's group below
    /// (LXC's) has the controller on.
    fn control(&mut self, group: &str, sign: char, controllers: &BTreeSet<usize>) {
        for &n in controllers
            .iter()
            .filter(|_| self.cgroups.contains_key(group))
            .collect::<Vec<_>>()
        {
            let path = format!("{group}/cgroup.subtree_control");
            let _ = self.cgroup_write(&path, &format!("{sign}{}", CONTROLLERS[n]));
        }
    }

    /// Applies changed properties of a unit: a scope that does not delegate loses the
    /// controllers of its children. A mere reload does not look at it.
    fn apply_unit(&mut self, unit: &str) {
        let plain = |scope: &&Scope| scope.delegated.is_empty();
        if self.systemd.scopes.get(unit).filter(plain).is_some() {
            self.set_subtree_control(&group_of(unit), BTreeSet::new());
        }
        self.realize();
    }

    /// Returns `AllowedCPUs=` of a unit that is loaded.
    pub fn allowed_cpus(&self, unit: &str) -> Option<CpuSet> {
        let group = group_of(unit);
        let cpus = self.systemd.allowed_cpus.get(&group);
        let is_loaded = self.cgroups.contains_key(&group);
        is_loaded.then(|| cpus.cloned().unwrap_or_default())
    }

    /// Sets or clears `AllowedCPUs=` and writes that down; a list that was written stays where
    /// tasks are.
    pub fn allow_cpus(&mut self, unit: &str, cpus: CpuSet) {
        let group = group_of(unit);
        let (dir, section) = match unit.ends_with(".scope") {
            true => ("transient", "Scope"),
            false => ("system.control", "Slice"),
        };
        let file = format!("/run/systemd/{dir}/{unit}.d/50-AllowedCPUs.conf");
        let list = cpus.to_string().replace(',', " ");
        let text = format!("{SET_PROPERTY}[{section}]\nAllowedCPUs=\nAllowedCPUs={list}\n");
        self.tree.put(&file, &text, 0o644);
        match cpus.is_empty() {
            true => self.systemd.allowed_cpus.remove(&group),
            false => self
                .systemd
                .allowed_cpus
                .insert(group.clone(), cpus.clone()),
        };
        self.apply_unit(unit);
        let _ = self.cgroup_write(&format!("{group}/cpuset.cpus"), &format!("{cpus}\n"));
    }

    pub fn delegated(&self, scope: &str) -> Option<Vec<String>> {
        let scope = self.systemd.scopes.get(scope)?;
        Some(
            scope
                .delegated
                .iter()
                .map(|&n| CONTROLLERS[n].to_owned())
                .collect(),
        )
    }

    /// Enables systemd's own controllers for a slice's children.
    pub fn put_slice(&mut self, group: &str) {
        self.cgroup_make(group).expect("the slice is new");
        self.set_subtree_control(group, BTreeSet::from(ALWAYS));
    }

    pub fn put_root_controllers(&mut self) {
        self.set_subtree_control("", BTreeSet::from(ALWAYS));
    }
}

impl Sim {
    /// Somebody changes a property of a unit, as PVE does for `cpuunits`.
    pub fn set_property(&self, unit: &str) {
        self.state().apply_unit(unit);
    }

    /// Somebody sets `AllowedCPUs=` of a unit, or clears it by the empty set.
    pub fn allow_cpus(&self, unit: &str, cpus: &CpuSet) {
        self.state().allow_cpus(unit, cpus.clone());
    }

    /// Somebody else makes systemd read its unit files again.
    pub fn daemon_reload(&self) {
        self.state().systemd_reload();
    }

    /// Tells whether a unit was started and not stopped.
    pub fn is_active(&self, unit: &str) -> bool {
        self.state().systemd.active.contains(unit)
    }

    /// Tells that of any unit whose name begins so.
    pub fn is_any_active(&self, start: &str) -> bool {
        let state = self.state();
        let mut active = state.systemd.active.iter();
        active.any(|unit| unit.starts_with(start))
    }
}

impl Sim {
    /// Lets the bus, or the monitors, answer nobody from now on: the first call to the bus costs its
    /// deadline, and so does each to a monitor.
    pub fn silence(&self) {
        self.state().systemd.is_silent = true;
        self.state().systemd.is_hung = false;
    }

    /// Lets them answer again.
    pub fn speak(&self) {
        self.state().systemd.is_silent = false;
    }

    /// Waits for an answer that does not come, as long as the run may take.
    pub(super) fn wait_in_vain(&self, wait: Duration) -> io::Error {
        let limit = self.state().limit.clone();
        let left = limit.left(self);
        self.state().since_boot += wait.min(left);
        errno(libc::ETIMEDOUT)
    }

    /// Lets a call to the bus be late, if it is silent.
    pub(super) fn bus(&self, wait: Duration) -> io::Result<()> {
        if !self.state().systemd.is_silent {
            return Ok(());
        }
        let was_hung = std::mem::replace(&mut self.state().systemd.is_hung, true);
        Err(self.wait_in_vain(if was_hung { Duration::ZERO } else { wait }))
    }
}
