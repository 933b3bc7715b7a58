//! The masks of unbound work (`/sys/devices/virtual/workqueue`, `kernel/workqueue.c`): that of all
//! of it, and those of single queues.

use std::collections::BTreeMap;
use std::io;

use pin_hook::domain::cpuset::CpuSet;

use super::{State, errno, hex_mask, parse_hex_mask};

pub const DIR: &str = "/sys/devices/virtual/workqueue/";

/// Where unbound work may run.
#[derive(Debug, Clone, Default)]
pub struct Workqueue {
    requested: CpuSet,
    effective: CpuSet,
    /// CPUs of isolated partitions.
    isolated: CpuSet,
    /// Masks of the unbound workqueues that can be set, as they were asked for.
    pub queues: BTreeMap<String, CpuSet>,
}

impl Workqueue {
    /// Somebody writes the mask: it counts as it is, isolated CPUs or not.
    pub fn request(&mut self, cpus: CpuSet) {
        (self.requested, self.effective) = (cpus.clone(), cpus);
    }

    /// The cpusets isolate other CPUs than before: these are taken out of the wished mask.
    pub fn isolate(&mut self, cpus: CpuSet) {
        if self.isolated != cpus {
            let rest = self.requested.difference(&cpus);
            self.effective = if rest.is_empty() {
                self.requested.clone()
            } else {
                rest
            };
            self.isolated = cpus;
        }
    }
}

impl State {
    /// Reads a file of the workqueue masks, when `path` is one.
    pub fn workqueue_read(&self, path: &str) -> Option<String> {
        let file = path.strip_prefix(DIR)?;
        if let Some(queue) = file.strip_suffix("/cpumask") {
            let mask = self.workqueue.queues.get(queue)?;
            return Some(hex_mask(mask, self.cpus.n_possible()) + "\n");
        }
        let mask = match file {
            "cpumask" => self.workqueue.effective.clone(),
            "cpumask_requested" => self.workqueue.requested.clone(),
            "cpumask_isolated" => self.workqueue.isolated.clone(),
            _ => return None,
        };
        Some(hex_mask(&mask, self.cpus.n_possible()) + "\n")
    }

    /// Writes the wished mask, when `path` is one of the files.
    pub fn workqueue_write(&mut self, path: &str, text: &str) -> Option<io::Result<()>> {
        let file = path.strip_prefix(DIR)?;
        if let Some(queue) = file.strip_suffix("/cpumask") {
            let mask = parse_hex_mask(text, self.cpus.n_possible());
            let queue = self.workqueue.queues.get_mut(queue)?;
            return Some(mask.map(|mask| *queue = mask));
        }
        match file {
            "cpumask" => Some(self.request_workqueue(text)),
            "cpumask_requested" | "cpumask_isolated" => Some(Err(errno(libc::EACCES))),
            _ => None,
        }
    }

    fn request_workqueue(&mut self, text: &str) -> io::Result<()> {
        let cpus = parse_hex_mask(text, self.cpus.n_possible())?;
        if cpus.is_empty() {
            return Err(errno(libc::EINVAL));
        }
        self.workqueue.request(cpus);
        Ok(())
    }
}
