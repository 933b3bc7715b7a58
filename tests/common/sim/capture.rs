//! The whole state of a simulated host as text, for "before equals after".

use std::collections::BTreeMap;
use std::fmt::Write;

use super::cgroup::MOUNT;
use super::tree::Node;
use super::{Sim, State};

/// Every file, task, interrupt and unit of a host by name.
pub type Capture = BTreeMap<String, String>;

impl Sim {
    /// Captures everything but what is at or below the paths `without`, such as `/run/pin-hook`.
    ///
    /// It does not know what the program touches. Tasks are one entry each instead of their files
    /// under `/proc`, because the mask that a task asked for cannot be read there.
    pub fn capture(&self, without: &[&str]) -> Capture {
        let state = self.state();
        let mut capture = Capture::new();
        let left_out = |path: &String| {
            let below = |top: &&str| {
                path.strip_prefix(*top)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            // A governor that was loaded stays, whoever wished for it.
            without.iter().any(below) || path.ends_with("/scaling_available_governors")
        };
        for (path, node) in state.tree.iter().filter(|(path, _)| !left_out(path)) {
            capture.insert(path.clone(), state.show(path, node));
        }
        let computed = state.computed_files().into_iter();
        for path in computed.filter(|path| !left_out(path)) {
            let text = state.read(&path).unwrap_or_else(|error| error.to_string());
            capture.insert(path, text);
        }
        state.capture_tasks(&mut capture);
        for unit in &state.systemd.active {
            capture.insert(format!("unit {unit}"), "active".to_owned());
        }
        capture
    }
}

impl State {
    fn show(&self, path: &str, node: &Node) -> String {
        match node {
            Node::Dir { .. } => "directory".to_owned(),
            Node::Link(target) => format!("-> {target}"),
            Node::File { uid, mode, .. } => {
                let text = self
                    .tree
                    .read(path)
                    .unwrap_or_else(|error| error.to_string());
                format!("{text} ({uid} {mode:o})")
            }
        }
    }

    /// Returns the files that are no plain ones, but for those of tasks.
    fn computed_files(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let queues = self.workqueue.queues.keys();
        let queues = queues.map(|name| format!("/sys/devices/virtual/workqueue/{name}"));
        let dirs = [
            "/sys/devices/system/cpu",
            "/sys/devices/virtual/workqueue",
            "/proc/sys/kernel",
            "/proc",
        ];
        for dir in dirs.map(str::to_owned).into_iter().chain(queues) {
            let names = self.computed_names(&dir).into_iter();
            let is_file = |name: &String| {
                let is_queue = self.workqueue.queues.contains_key(name);
                name != "irq" && !is_queue && name.parse::<u32>().is_err()
            };
            let files = names.filter(is_file);
            paths.extend(files.map(|name| format!("{dir}/{name}")));
        }
        for cpu in self.cpus.present.iter().skip(1) {
            paths.push(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
        }
        for dir in std::iter::once("/proc/irq".to_owned()).chain(self.irq_dirs()) {
            let names = self.irq_list(&dir).unwrap_or_default();
            paths.extend(names.iter().map(|name| format!("{dir}/{name}")));
        }
        for group in self.cgroups.keys() {
            let names = self.cgroup_list(group).unwrap_or_default();
            paths.extend(names.iter().map(|name| format!("{MOUNT}{group}/{name}")));
        }
        paths
    }

    fn capture_tasks(&self, capture: &mut Capture) {
        for task in self.tasks.iter() {
            let requested = task
                .requested
                .as_ref()
                .map_or("nothing".to_owned(), ToString::to_string);
            let text = format!(
                "mask {}, requested {requested}, group {}, class {}:{}",
                task.mask, task.cgroup, task.policy, task.rt_priority
            );
            capture.insert(
                format!("task {} ({}, started {})", task.tid, task.comm, task.start),
                text,
            );
        }
    }
}

/// Returns the differences of two captures, one line each; empty when there is none.
pub fn diff(before: &Capture, after: &Capture) -> String {
    let mut text = String::new();
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (old, new) if old == new => {}
            (old, new) => {
                let show = |value: Option<&String>| {
                    value.map_or("absent".to_owned(), |value| format!("{value:?}"))
                };
                let _ = writeln!(text, "{name}: {} -> {}", show(old), show(new));
            }
        }
    }
    text
}
