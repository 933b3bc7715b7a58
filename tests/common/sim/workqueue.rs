//! The masks of what the kernel does everywhere: of unbound work (`/sys/devices/virtual/workqueue`,
//! `kernel/workqueue.c`), all of it and single queues, and of the watchdog (`kernel/watchdog.c`).

use std::collections::BTreeMap;
use std::io;

use pin_hook::domain::cpuset::CpuSet;

use super::task::{PF_KTHREAD, PF_NO_SETAFFINITY, PF_WQ_WORKER, TaskSpec};
use super::{Kernel, State, errno, hex_mask, parse_hex_mask};

pub const DIR: &str = "/sys/devices/virtual/workqueue/";
const WATCHDOG: &str = "/proc/sys/kernel/watchdog_cpumask";

/// Where unbound work may run, and where the watchdog looks.
#[derive(Debug, Clone, Default)]
pub struct Workqueue {
    requested: CpuSet,
    effective: CpuSet,
    /// CPUs of isolated partitions.
    isolated: CpuSet,
    /// Masks of the unbound workqueues that can be set, as they were asked for.
    pub queues: BTreeMap<String, CpuSet>,
    pub watchdog: CpuSet,
    /// Tasks that do the work of a queue when no other can be had.
    rescuers: BTreeMap<String, i32>,
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
    /// Makes an unbound workqueue whose mask can be set, with its rescuer.
    pub fn put_queue(&mut self, name: &str) {
        let all = self.cpus.possible.clone();
        self.workqueue.queues.insert(name.to_owned(), all.clone());
        let comm = match self.kernel >= Kernel(6, 9) {
            true => format!("kworker/R-{name}"),
            false => name.to_owned(),
        };
        let flags = PF_KTHREAD | PF_NO_SETAFFINITY | PF_WQ_WORKER;
        let rescuer = TaskSpec::named(&comm).kthread(true).on_cpus(all);
        let tid = self.spawn(TaskSpec { flags, ..rescuer });
        self.workqueue.rescuers.insert(name.to_owned(), tid);
    }

    /// Returns the rescuer of a workqueue.
    pub fn rescuer_of(&self, queue: &str) -> i32 {
        self.workqueue.rescuers[queue]
    }

    /// Moves the rescuers to where the work of their queues may run. Recorded: 6.1 leaves them
    /// alone, 7.3 looks at the mask of all work only.
    pub fn rescuers_follow(&mut self) {
        if self.kernel < Kernel(6, 9) {
            return;
        }
        let Workqueue {
            effective,
            queues,
            rescuers,
            ..
        } = &self.workqueue;
        for (queue, asked) in queues {
            let cut = asked.intersection(effective);
            let follows_all = cut.is_empty() || self.kernel >= Kernel(7, 0);
            let mask = if follows_all { effective } else { &cut };
            let tid = rescuers.get(queue).copied().unwrap_or_default();
            if let Some(rescuer) = self.tasks.get_mut(tid) {
                rescuer.mask.clone_from(mask);
            }
        }
    }

    /// Returns the names in the directory of the masks; two of them came with 6.7.
    pub fn workqueue_files(&self) -> &'static [&'static str] {
        match self.kernel >= Kernel(6, 7) {
            true => &["cpumask", "cpumask_isolated", "cpumask_requested"],
            false => &["cpumask"],
        }
    }

    /// Reads a file of the masks, when `path` is one.
    pub fn workqueue_read(&self, path: &str) -> Option<String> {
        if path == WATCHDOG {
            return Some(format!("{}\n", self.workqueue.watchdog));
        }
        let file = path.strip_prefix(DIR)?;
        if let Some(queue) = file.strip_suffix("/cpumask") {
            let mask = self.workqueue.queues.get(queue)?;
            return Some(hex_mask(mask, self.cpus.n_possible()) + "\n");
        }
        if !self.workqueue_files().contains(&file) {
            return None;
        }
        let mask = match file {
            "cpumask" => self.workqueue.effective.clone(),
            "cpumask_requested" => self.workqueue.requested.clone(),
            _ => self.workqueue.isolated.clone(),
        };
        Some(hex_mask(&mask, self.cpus.n_possible()) + "\n")
    }

    /// Writes the wished mask, when `path` is one of the files.
    pub fn workqueue_write(&mut self, path: &str, text: &str) -> Option<io::Result<()>> {
        if path == WATCHDOG {
            return Some(self.write_watchdog(text));
        }
        let file = path.strip_prefix(DIR)?;
        if let Some(queue) = file.strip_suffix("/cpumask") {
            // An empty line is an empty mask, and that is taken.
            let text = if text == "\n" { "0" } else { text };
            let parsed = parse_hex_mask(text, self.cpus.n_possible());
            let mask = self.workqueue.queues.get_mut(queue)?;
            let done = parsed.map(|cpus| *mask = cpus);
            self.rescuers_follow();
            return Some(done);
        }
        match file {
            "cpumask" => Some(self.request_workqueue(text)),
            file if self.workqueue_files().contains(&file) => Some(Err(errno(libc::EACCES))),
            _ => None,
        }
    }

    /// The list as `proc_do_large_bitmap()` takes it: no blanks, no empty parts, and CPUs that
    /// cannot be are left out.
    fn write_watchdog(&mut self, text: &str) -> io::Result<()> {
        let list = text.trim_end_matches('\n');
        let parsed = match list {
            "" if text.is_empty() => return Ok(()),
            "" => Ok(CpuSet::new()),
            list if list
                .split(',')
                .any(|part| part.trim() != part || part.is_empty()) =>
            {
                return Err(errno(libc::EINVAL));
            }
            list => list.parse::<CpuSet>(),
        };
        let cpus = parsed.map_err(|_| errno(libc::EINVAL))?;
        self.workqueue.watchdog = cpus.intersection(&self.cpus.possible);
        Ok(())
    }

    fn request_workqueue(&mut self, text: &str) -> io::Result<()> {
        let cpus = parse_hex_mask(text, self.cpus.n_possible())?;
        if cpus.is_empty() {
            return Err(errno(libc::EINVAL));
        }
        self.workqueue.request(cpus);
        self.rescuers_follow();
        Ok(())
    }
}
