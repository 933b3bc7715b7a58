//! The whole state of a simulated host as text, for "before equals after".

use std::collections::BTreeMap;
use std::fmt::Write;

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
        state.capture_dir("/", without, &mut capture);
        state.capture_tasks(&mut capture);
        for unit in &state.systemd.active {
            capture.insert(format!("unit {unit}"), "active".to_owned());
        }
        capture
    }
}

impl State {
    fn capture_dir(&self, dir: &str, without: &[&str], capture: &mut Capture) {
        for name in self.list(dir).unwrap_or_default() {
            let path = format!("{}/{name}", dir.trim_end_matches('/'));
            let is_task = dir == "/proc" && name.parse::<i32>().is_ok();
            if is_task || without.contains(&path.as_str()) {
                continue;
            }
            if let Ok(target) = self.tree.link(&path) {
                capture.insert(path, format!("-> {target}"));
            } else if self.list(&path).is_ok() {
                capture.insert(format!("{path}/"), String::new());
                self.capture_dir(&path, without, capture);
            } else {
                let text = self.read(&path).unwrap_or_else(|error| error.to_string());
                capture.insert(path, text);
            }
        }
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
