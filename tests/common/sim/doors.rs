//! The doors of the program under test: what it asks, counted, logged and failed as wished.

use std::io;
use std::time::Duration;

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::host::Clock;
use pin_hook::host::files::{Files, LockGuard, Owner};
use pin_hook::host::sched::Sched;

use super::cgroup::below_mount;
use super::irq::is_irq_path;
use super::proc::is_task_path;
use super::vm::{Vm, monitor};
use super::{Locked, Sim, State, errno, workqueue};

impl State {
    /// Reads a file as the kernel shows it now.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let path = self.tree.resolve(path);
        if let Some(rest) = below_mount(&path) {
            return self.cgroup_read(rest);
        }
        if is_task_path(&path) {
            return self.proc_read(&path);
        }
        if is_irq_path(&path) {
            return self.irq_read(&path);
        }
        self.assert_not_asleep(&path);
        self.vet_policy(&path)?;
        let computed = self.cpu_read(&path).or_else(|| self.workqueue_read(&path));
        let computed = computed.or_else(|| self.frequency_read(&path));
        computed.map_or_else(|| self.tree.read(&path), Ok)
    }

    /// Does one `write(2)` to a file that exists.
    pub fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        let path = self.tree.resolve(path);
        self.assert_not_asleep(&path);
        if let Some(rest) = below_mount(&path) {
            return self.cgroup_write(rest, text);
        }
        if is_irq_path(&path) {
            return self.irq_write(&path, text);
        }
        self.vet_policy(&path)?;
        self.vet_preference(&path, text)?;
        if text.is_empty() {
            // A write of no byte changes nothing.
            return self.read(&path).map(drop);
        }
        if let Some(result) = self.cpu_write(&path, text) {
            return result;
        }
        let written = self
            .workqueue_write(&path, text)
            .or_else(|| self.hugepages_write(&path, text));
        if let Some(result) = written {
            return result;
        }
        if let Some(result) = self.pci_write(&path, text) {
            return result;
        }
        self.delay_frequency(&path);
        self.tree.write(&path, text)?;
        self.load_governor(&path, text);
        Ok(())
    }

    pub fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let dir = self.tree.resolve(dir);
        if let Some(group) = below_mount(&dir) {
            return self.cgroup_list(group).ok_or_else(|| errno(libc::ENOENT));
        }
        if is_task_path(&dir) {
            return self.proc_list(&dir);
        }
        if is_irq_path(&dir) {
            return self.irq_list(&dir);
        }
        let mut names = self.tree.list(&dir)?;
        names.extend(self.computed_names(&dir));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Returns the names in a directory of which this simulation computes the content.
    pub fn computed_names(&self, dir: &str) -> Vec<String> {
        let fixed: &[&str] = match dir {
            "/sys/fs" => &["cgroup"],
            "/sys/devices/system/cpu" => &["isolated", "offline", "online", "possible", "present"],
            "/sys/devices/virtual/workqueue" => self.workqueue_files(),
            "/proc/sys/kernel" => &["watchdog_cpumask"],
            "/proc" => &["interrupts", "irq"],
            _ => &[],
        };
        let mut names: Vec<_> = fixed.iter().map(|&name| name.to_owned()).collect();
        if let Some(below) = dir.strip_prefix(workqueue::DIR.trim_end_matches('/')) {
            let queues = self.workqueue.queues.keys();
            match below.strip_prefix('/') {
                Some(queue) if self.workqueue.queues.contains_key(queue) => {
                    names.push("cpumask".to_owned());
                }
                Some(_) => {}
                None => names.extend(queues.cloned()),
            }
        }
        if dir == "/proc" {
            names.extend(self.pids());
        }
        if self.cpu_read(&format!("{dir}/online")).is_some() {
            names.push("online".to_owned());
        }
        names
    }

    pub fn exists(&self, path: &str) -> bool {
        match self.read(path) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() != Some(libc::ENOENT) || self.list(path).is_ok(),
        }
    }

    pub fn owner(&self, path: &str) -> io::Result<Owner> {
        let path = self.tree.resolve(path);
        match is_irq_path(&path) {
            true => self.irq_mode(&path).map(|mode| Owner { uid: 0, mode }),
            false => self.tree.owner(&path),
        }
    }

    pub fn make_dir(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let path = self.tree.resolve(path);
        match below_mount(&path) {
            Some(group) => self.cgroup_make(group),
            None if self.tree.get(&path).is_none() => {
                self.vet_mount(&path)?;
                self.tree.make_dir(&path, mode)?;
                if self.is_instance(&path) {
                    self.fill_instance(&path);
                }
                Ok(())
            }
            None => self.tree.make_dir(&path, mode),
        }
    }

    pub fn remove_dir(&mut self, path: &str) -> io::Result<()> {
        let path = self.tree.resolve(path);
        match below_mount(&path) {
            Some(group) => self.cgroup_remove(group),
            None if self.is_instance(&path) && self.tree.get(&path).is_some() => {
                self.tree.remove_all(&path);
                Ok(())
            }
            None => self.tree.remove_dir(&path),
        }
    }
}

pub fn half(text: &str) -> &str {
    let middle = (0..=text.len() / 2)
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..middle.unwrap_or(0)]
}

impl Sim {
    /// Asks something that changes nothing; fails when a test planted an error for it.
    pub(super) fn ask<T>(
        &self,
        op: &str,
        answer: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.let_happen();
        let mut state = self.state();
        state.fate.count(op);
        match state.fate.failure(op) {
            Some(error) => Err(error),
            None => answer(&mut state),
        }
    }
}

impl Files for Sim {
    fn read(&self, path: &str) -> io::Result<String> {
        let text = self.ask(&format!("read {path}"), |state| state.read(path));
        text.map(|text| self.garbled(path, text))
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        let text = self.read(path)?;
        match text.len() > limit {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(text),
        }
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let op = format!("write {path} {}", text.trim_end());
        self.change(&op, |state, torn| {
            if torn {
                Ok(())
            } else {
                state.write(path, text)
            }
        })
    }

    /// Nothing is ever recorded.
    fn drain(&self, path: &str, _: usize, _: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.ask(&format!("drain {path}"), |_| Ok(()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.ask(&format!("list {dir}"), |state| state.list(dir))
    }

    fn exists(&self, path: &str) -> bool {
        self.let_happen();
        self.state().fate.count("exists");
        self.state().exists(path)
    }

    fn link(&self, path: &str) -> io::Result<String> {
        self.ask(&format!("link {path}"), |state| state.tree.link(path))
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        self.ask(&format!("owner {path}"), |state| state.owner(path))
    }

    fn node(&self, path: &str) -> io::Result<String> {
        // Nobody holds a flock here but the program itself.
        self.ask(&format!("node {path}"), |_| Err(errno(libc::ENOENT)))
    }

    fn make_dir(&self, path: &str, mode: u32) -> io::Result<()> {
        self.change(&format!("make_dir {path}"), |state, torn| {
            if torn {
                Ok(())
            } else {
                state.make_dir(path, mode)
            }
        })
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.change(&format!("remove_dir {path}"), |state, torn| {
            if torn { Ok(()) } else { state.remove_dir(path) }
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.change(&format!("remove {path}"), |state, torn| {
            if torn {
                Ok(())
            } else {
                state.tree.remove(path)
            }
        })
    }

    fn reserve(&self, path: &str, room: usize) -> io::Result<()> {
        self.change(&format!("reserve {path}"), |state, torn| {
            if torn {
                Ok(())
            } else {
                state.reserve(path, room)
            }
        })
    }

    fn room_left(&self, path: &str) -> io::Result<u64> {
        self.ask(&format!("room_left {path}"), |state| {
            state.vet_mount(path)?;
            Ok(state.room_left())
        })
    }

    fn append(&self, path: &str, at: usize, text: &str) -> io::Result<()> {
        let op = format!("append {path} {}", text.trim_end());
        self.change(&op, |state, torn| {
            state.append(path, at, if torn { half(text) } else { text })
        })
    }

    fn renew(&self, path: &str, text: &str) -> io::Result<()> {
        let op = format!("replace {path} {}", text.trim_end());
        self.change(&op, |state, torn| state.renew(path, text, torn))
    }

    fn replace(&self, path: &str, text: &str, mode: u32) -> io::Result<()> {
        let op = format!("replace {path} {}", text.trim_end());
        self.change(&op, |state, torn| state.replace(path, text, mode, torn))
    }

    fn lock(&self, path: &str, wait: Duration) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.ask(&format!("lock {path}"), |state| {
            // A lock is a file that is opened for writing.
            state.vet_mount(path)?;
            if !state.exists(path) {
                let path = state.tree.resolve(path);
                state.tree.create(&path, "", 0o600)?;
            }
            let free_at = match state.locks.get(path) {
                Some(Locked::OtherUntil(until)) => *until,
                Some(_) => Duration::MAX,
                None => state.since_boot,
            };
            if free_at.saturating_sub(state.since_boot) > wait {
                state.since_boot += wait;
                return Ok(None);
            }
            state.since_boot = state.since_boot.max(free_at);
            state.fate.next_guard += 1;
            let number = state.fate.next_guard;
            state.locks.insert(path.to_owned(), Locked::Ours(number));
            Ok(Some(Box::new(Guard {
                sim: self.clone(),
                path: path.to_owned(),
                number,
            }) as Box<dyn LockGuard>))
        })
    }

    fn await_text(
        &self,
        path: &str,
        wait: Duration,
        is_awaited: &dyn Fn(&str) -> bool,
    ) -> io::Result<Option<String>> {
        self.ask(&format!("await_text {path}"), |state| {
            let text = state.read(path)?;
            if is_awaited(&text) {
                return Ok(Some(text));
            }
            state.since_boot += wait;
            Ok(None)
        })
    }
}

/// A lock that the program holds.
#[derive(Debug)]
struct Guard {
    sim: Sim,
    path: String,
    number: u64,
}

impl LockGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if state.locks.get(&self.path) == Some(&Locked::Ours(self.number)) {
            state.locks.remove(&self.path);
        }
    }
}

impl Sched for Sim {
    fn affinity(&self, tid: i32) -> io::Result<CpuSet> {
        self.ask(&format!("affinity {tid}"), |state| state.affinity(tid))
    }

    fn set_affinity(&self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        self.change(&format!("set_affinity {tid} {cpus}"), |state, torn| {
            if torn {
                Ok(())
            } else {
                state.set_affinity(tid, cpus)
            }
        })
    }

    fn set_class(&self, tid: i32, policy: u32, priority: u32) -> io::Result<()> {
        let op = format!("set_class {tid} {policy}:{priority}");
        self.change(&op, |state, torn| {
            if torn {
                Ok(())
            } else {
                state.set_class(tid, policy, priority)
            }
        })
    }
}

impl Clock for Sim {
    fn since_boot(&self) -> Duration {
        self.state().since_boot
    }

    fn wait_for_end(&self, processes: &[TaskId], wait: Duration) {
        self.state().pass_time(processes, wait);
    }
}
