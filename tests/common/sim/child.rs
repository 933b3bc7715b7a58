//! Children of the program in units of their own: `pin-hook write`, which does what the kernel may
//! take its time for.

use std::io;

use pin_hook::host::systemd::Job;

use super::{Kernel, Sim, State};

/// What befalls children.
#[derive(Debug, Clone, Default)]
pub struct Children {
    /// Files whose writes never come to an end.
    hung: Option<String>,
    /// Writes that have not come to an end.
    pending: Vec<(String, String)>,
    /// Writes after which a child is killed.
    lives: Option<usize>,
    /// Directories of functions that a driver is letting go of.
    leaving: Vec<String>,
}

impl State {
    /// Does what a job asks for. A child that hangs keeps its unit; one that is killed does not
    /// answer any more.
    pub fn run_child(&mut self, job: &Job) {
        let mut words = job.arguments.iter();
        if words.next().is_none_or(|command| command != "write") {
            self.systemd.active.insert(job.unit.clone());
            return;
        }
        let name = words.next().expect("the name of the answer");
        let words: Vec<&String> = words.collect();
        let mut answer = String::new();
        for pair in words.chunks(2) {
            let (path, text) = (pair[0], pair[1]);
            if self
                .children
                .hung
                .as_ref()
                .is_some_and(|part| path.contains(part))
            {
                self.systemd.active.insert(job.unit.clone());
                self.begin_to_unbind(path);
                self.children.pending.push((path.clone(), text.clone()));
                return;
            }
            if let Some(left) = &mut self.children.lives {
                if *left == 0 {
                    self.children.lives = None;
                    return;
                }
                *left -= 1;
            }
            let planned = self.fate.failure(&format!("write {path} {text}"));
            let done = planned.map_or_else(|| self.write(path, text), Err);
            let number = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
            answer.push_str(&format!("{} ", done.err().map_or(0, number)));
            let path = format!("/run/pin-hook/jobs/{name}");
            if self.tree.write(&path, &answer).is_err() {
                return;
            }
        }
    }
}

impl State {
    /// A driver that does not let go of a function is none of its any more: the link is the first to go
    /// (`__device_release_driver()` in `drivers/base/dd.c`).
    fn begin_to_unbind(&mut self, path: &str) {
        if let Some(link) = path.strip_suffix("/unbind") {
            let (dir, name) = link.rsplit_once('/').expect("a link in a directory");
            let dir = self.tree.resolve(dir);
            self.tree.remove_all(&format!("{dir}/{name}"));
            self.children.leaving.push(dir);
        }
    }

    /// Whoever asks for it while a driver lets go sleeps until that is over (before Linux 7.1,
    /// `driver_override_show()` takes the lock of the device).
    pub fn assert_not_asleep(&self, path: &str) {
        let dir = path.strip_suffix("/driver_override");
        let is_leaving = dir.is_some_and(|dir| self.children.leaving.iter().any(|one| one == dir));
        assert!(!is_leaving, "{path} never answers");
    }
}

impl State {
    /// Does what the program does itself. From Linux 7.0 on whoever changes which CPUs are isolated waits for
    /// every probe of a PCI driver (`housekeeping_update()`), so that is a child's (`pin-hook write`).
    pub fn without_waiting_for_probes<T>(
        &mut self,
        op: &str,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let before = self.isolated_cpus();
        let done = act(self);
        let waits = self.kernel >= Kernel(7, 0) && self.isolated_cpus() != before;
        assert!(
            !waits || op.starts_with("run "),
            "\"{op}\" waits for every probe of a pci driver"
        );
        done
    }
}

impl Sim {
    /// Lets every write of a child to a file with this in its path never come to an end.
    pub fn hang(&self, part: &str) {
        self.state().children.hung = Some(part.to_owned());
    }

    /// Lets go of the children that hang: their CPUs go offline, and then they end, because systemd has
    /// killed them meanwhile.
    pub fn unhang(&self) {
        let mut state = self.state();
        state.children.hung = None;
        for (path, text) in std::mem::take(&mut state.children.pending) {
            if path.ends_with("/online") {
                let _ = state.write(&path, &text);
            }
        }
        state.children.leaving.clear();
        let is_child = |unit: &String| unit.starts_with("pin-hook-write-");
        state.systemd.active.retain(|unit| !is_child(unit));
    }

    /// Kills the next child after it has done so many writes.
    pub fn kill_child_after(&self, n_writes: usize) {
        self.state().children.lives = Some(n_writes);
    }
}
