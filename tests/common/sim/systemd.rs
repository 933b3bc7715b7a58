//! systemd, as far as it concerns control groups: scopes, delegation, drop-ins.
//!
//! It writes `cgroup.subtree_control` of every unit that does not delegate, so a child group of
//! such a scope loses its controllers whenever systemd looks at the unit again (measured: 257).

use std::collections::{BTreeMap, BTreeSet};

use super::cgroup::{CONTROLLERS, CPUSET};
use super::{Sim, State};

/// Directories of unit files, by which a drop-in counts.
const UNIT_DIRS: [&str; 3] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];
/// Controllers that systemd enables for every unit: `cpu memory pids`.
const ALWAYS: [usize; 3] = [1, 3, 5];

/// The service manager.
#[derive(Debug, Default)]
pub struct Manager {
    /// What the drop-ins of scopes say, as of the last reload.
    loaded: BTreeMap<String, BTreeSet<usize>>,
    scopes: BTreeMap<String, Scope>,
    pub active: BTreeSet<String>,
}

/// A scope of `qemu.slice`.
#[derive(Debug, Default)]
pub struct Scope {
    delegated: BTreeSet<usize>,
    /// `AllowedCPUs=` is set on it.
    wants_cpuset: bool,
}

fn group_of(scope: &str) -> String {
    format!("/qemu.slice/{scope}")
}

impl State {
    /// Reads the drop-ins again; running scopes follow.
    pub fn systemd_reload(&mut self) {
        self.systemd.loaded = self.drop_ins();
        for (name, scope) in &mut self.systemd.scopes {
            scope.delegated = self.systemd.loaded.get(name).cloned().unwrap_or_default();
        }
        self.realize();
    }

    fn drop_ins(&self) -> BTreeMap<String, BTreeSet<usize>> {
        let mut all = BTreeMap::new();
        for dir in UNIT_DIRS {
            for name in self.tree.list(dir).unwrap_or_default() {
                if let Some(unit) = name
                    .strip_suffix(".d")
                    .filter(|unit| unit.ends_with(".scope"))
                {
                    self.merge_drop_ins(
                        &format!("{dir}/{name}"),
                        all.entry(unit.to_owned()).or_default(),
                    );
                }
            }
        }
        all
    }

    fn merge_drop_ins(&self, dir: &str, delegated: &mut BTreeSet<usize>) {
        for name in self.tree.list(dir).unwrap_or_default() {
            let text = self.tree.read(&format!("{dir}/{name}")).unwrap_or_default();
            let values = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Delegate="));
            for value in values.filter(|_| name.ends_with(".conf")) {
                delegated.extend((0..CONTROLLERS.len()).filter(|&n| match value {
                    "yes" | "true" | "1" | "on" => true,
                    list => list.split_whitespace().any(|word| word == CONTROLLERS[n]),
                }));
            }
        }
    }

    /// Starts a scope with one process in it.
    pub fn start_scope(&mut self, name: &str, pid: i32) {
        let delegated = self.systemd.loaded.get(name).cloned().unwrap_or_default();
        let scope = Scope {
            delegated,
            wants_cpuset: false,
        };
        self.systemd.scopes.insert(name.to_owned(), scope);
        let group = group_of(name);
        if !self.cgroups.contains_key("/qemu.slice") {
            self.cgroup_make("/qemu.slice").expect("the slice is new");
        }
        self.cgroup_make(&group).expect("the scope is new");
        self.realize();
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
            for group in self.subtree(&group_of(name)).iter().rev() {
                self.cgroup_remove(group).expect("an empty group");
            }
        }
        if !gone.is_empty() {
            self.realize();
        }
    }

    /// Writes `cgroup.subtree_control` of the root, of the slices and of scopes that do not
    /// delegate: what the units below need.
    fn realize(&mut self) {
        self.rewrite_scopes();
        let needs = |scope: &Scope| scope.wants_cpuset || scope.delegated.contains(&CPUSET);
        let cpuset = self.systemd.scopes.values().any(needs);
        // Children first when a controller goes, parents first when it comes.
        let groups: [&str; 2] = if cpuset {
            ["", "/qemu.slice"]
        } else {
            ["/qemu.slice", ""]
        };
        for group in groups
            .into_iter()
            .filter(|group| self.cgroups.contains_key(*group))
            .collect::<Vec<_>>()
        {
            let text = match cpuset {
                true => "+cpuset +cpu +memory +pids",
                false => "+cpu +memory +pids -cpuset",
            };
            // It fails while somebody else's group below (LXC's) has the controller enabled.
            let path = format!("{group}/cgroup.subtree_control");
            if self.cgroup_write(&path, text).is_err() {
                let _ = self.cgroup_write(&path, "+cpu +memory +pids");
            }
        }
    }

    fn rewrite_scopes(&mut self) {
        let plain = self
            .systemd
            .scopes
            .iter()
            .filter(|(_, scope)| scope.delegated.is_empty());
        let groups: Vec<String> = plain.map(|(name, _)| group_of(name)).collect();
        for group in groups {
            if self.cgroups.contains_key(&group) {
                self.set_subtree_control(&group, BTreeSet::new());
            }
        }
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
    /// Somebody changes a property of a unit, as PVE does for `cpuunits`: systemd writes the
    /// `cgroup.subtree_control` of scopes that do not delegate anew.
    pub fn set_property(&self) {
        self.state().realize();
    }

    /// Somebody else makes systemd read its unit files again.
    pub fn daemon_reload(&self) {
        self.state().systemd_reload();
    }

    /// Tells whether a unit was started and not stopped.
    pub fn is_active(&self, unit: &str) -> bool {
        self.state().systemd.active.contains(unit)
    }
}
