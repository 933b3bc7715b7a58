//! The kernel's tracer: an instance is a directory that comes with its files, and goes with them.

use std::collections::BTreeMap;

use pin_hook::domain::trace::event::{ELSEWHERE, HERE};

use super::{Sim, State};

/// Where instances are made.
pub const INSTANCES: &str = "/sys/kernel/tracing/instances";

/// What Linux 6.12 says of its events.
const FORMATS: &str = include_str!("../../trace/6.12/formats");

impl Sim {
    /// Puts a tracer that nobody uses.
    pub fn put_tracer(&self) {
        self.put("/sys/kernel/tracing/tracing_on", "1\n");
        self.state().tree.put_dir(INSTANCES);
    }
}

impl State {
    /// Tells whether a directory is an instance of the tracer.
    pub fn is_instance(&self, path: &str) -> bool {
        let below = path.strip_prefix(INSTANCES);
        below.is_some_and(|rest| rest.rfind('/') == Some(0))
    }

    /// Gives a new instance its files: it records, but no event is on.
    pub fn fill_instance(&mut self, dir: &str) {
        let formats: BTreeMap<&str, &str> = FORMATS
            .split("name: ")
            .skip(1)
            .filter_map(|one| Some((one.lines().next()?, one)))
            .collect();
        for point in HERE.iter().chain(ELSEWHERE) {
            let (_, name) = point.name.split_once('/').expect("a group");
            let event = format!("{dir}/events/{}", point.name);
            let format = formats.get(name).expect("an event of 6.12");
            self.tree.put(&format!("{event}/format"), format, 0o440);
            self.tree.put(&format!("{event}/enable"), "0\n", 0o640);
            self.tree.put(&format!("{event}/filter"), "none\n", 0o640);
        }
        let clock = "[local] global counter uptime perf mono mono_raw boot x86-tsc\n";
        for (file, text) in [
            ("tracing_on", "1\n"),
            ("trace_clock", clock),
            ("tracing_cpumask", "ff\n"),
        ] {
            self.tree.put(&format!("{dir}/{file}"), text, 0o640);
        }
    }
}
