//! The simulated kernel: files in memory, with the behaviour behind them.
//!
//! [`Sim`] is a handle to one simulated host; clones share it. It stands behind every door of
//! [`Host`], so that the program under test cannot tell it from a machine. What it claims beyond
//! plain files is recorded from real kernels in `tests/records` and replayed by `tests/sim.rs`,
//! which also names what no record can show.

mod bus;
pub mod capture;
mod cgroup;
mod child;
pub mod container;
mod cpufreq;
mod cpuset;
mod doors;
pub mod fate;
pub mod garble;
mod hotplug;
pub mod hugepages;
pub mod irq;
pub mod machine;
pub mod pci;
mod proc;
pub mod qm;
pub mod replay;
mod room;
pub mod systemd;
pub mod task;
mod tracer;
mod tree;
pub mod vm;
mod workqueue;

use std::cell::{OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use pin_hook::domain::cpuset::{CpuId, CpuSet};
use pin_hook::host::Host;
use pin_hook::host::limit::Limit;

pub use capture::diff;
pub use machine::Machine;
pub use task::TaskSpec;
pub use vm::VmSpec;

/// A simulated host.
#[derive(Clone)]
pub struct Sim(Rc<RefCell<State>>);

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sim")
    }
}

/// Everything that a simulated host is made of.
#[derive(Clone)]
pub struct State {
    pub kernel: Kernel,
    pub tree: tree::Tree,
    pub cpus: hotplug::Cpus,
    pub cpufreq: cpufreq::Cpufreq,
    pub cgroups: BTreeMap<String, cgroup::Cgroup>,
    /// What follows from all cpusets, until one changes.
    pub taken: OnceCell<cpuset::Taken>,
    pub tasks: task::Tasks,
    pub irqs: irq::Irqs,
    pub workqueue: workqueue::Workqueue,
    pub rooms: hugepages::Rooms,
    pub systemd: systemd::Manager,
    pub vms: BTreeMap<String, vm::Vm>,
    pub locks: BTreeMap<String, Locked>,
    pub fate: fate::Fate,
    pub children: child::Children,
    pub pci: pci::Pci,
    pub since_boot: Duration,
    /// Pages of all files in `/run`, where it is full.
    pub run_room: Option<usize>,
    /// Whether `/run` is mounted read-only.
    pub run_is_sealed: bool,
    pub limit: Limit,
}

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// The program under test, by a guard with this number.
    Ours(u64),
    /// Another process.
    Other,
    /// Another process, until that time since boot.
    OtherUntil(Duration),
}

/// The simulated kernel's version: some behaviours differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// Debian 12's kernel, too old for remote partitions.
    pub const V6_1: Kernel = Kernel(6, 1);
    /// Debian 13's kernel.
    pub const V6_12: Kernel = Kernel(6, 12);
    /// The newest kernel that was recorded.
    pub const V7_3: Kernel = Kernel(7, 3);
}

impl Sim {
    /// Returns the lab's machine: 8 CPUs, 2 packages, SMT, 2 nodes, kernel 6.12.
    pub fn lab() -> Self {
        Machine::default().build()
    }

    pub(crate) fn new(state: State) -> Self {
        Self(Rc::new(RefCell::new(state)))
    }

    /// Returns a second host that is as this one is now and goes its own way from here.
    pub fn fork(&self) -> Self {
        Self::new(self.state().clone())
    }

    /// Returns the doors to this host.
    pub fn host(&self) -> Host {
        Host {
            files: Box::new(self.clone()),
            sched: Box::new(self.clone()),
            systemd: Box::new(self.clone()),
            qmp: Box::new(self.clone()),
            clock: Box::new(self.clone()),
            limit: self.state().limit.clone(),
        }
    }

    /// Gives access to the state itself, for what no method of the handle offers.
    pub fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Reads a file as the tests see it: no injected failure, panics where there is none.
    pub fn get(&self, path: &str) -> String {
        let text = self.state().read(path);
        text.unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    /// Puts a plain file, making its directories: what an administrator or PVE would do.
    pub fn put(&self, path: &str, text: &str) {
        self.state().tree.put(path, text, 0o644);
    }

    /// Writes to a file as somebody else on the host would: not counted, logged or failed.
    pub fn poke(&self, path: &str, text: &str) -> io::Result<()> {
        self.state().write(path, text)
    }

    /// Sets owner and permissions of a plain file.
    pub fn chown(&self, path: &str, uid: u32, mode: u32) {
        self.state().tree.chown(path, uid, mode);
    }

    /// Lets time pass; units of children that have ended are gone then.
    pub fn advance(&self, time: Duration) {
        let mut state = self.state();
        state.since_boot += time;
        state.systemd.lingering.clear();
    }

    /// Makes another process hold the lock on `path` until [`Sim::unlock_by_other`].
    pub fn lock_by_other(&self, path: &str) {
        self.state().locks.insert(path.to_owned(), Locked::Other);
    }

    /// Makes another process hold the lock on `path` for so long.
    pub fn lock_by_other_for(&self, path: &str, time: Duration) {
        let until = self.state().since_boot + time;
        let locked = Locked::OtherUntil(until);
        self.state().locks.insert(path.to_owned(), locked);
    }

    /// Makes that other process let go.
    pub fn unlock_by_other(&self, path: &str) {
        self.state().locks.remove(path);
    }
}

/// Returns the error that a system call gives for `number`.
pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Returns the set that a cpulist in a test names.
pub fn cpus(list: &str) -> CpuSet {
    list.parse().expect("a cpulist")
}

/// Parses a cpulist as `bitmap_parselist()` does for a machine with `n_cpus` possible CPUs.
pub fn parse_cpulist(text: &str, n_cpus: u32) -> io::Result<CpuSet> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace());
    let mut set = CpuSet::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let part: CpuSet = part.parse().map_err(|_| errno(libc::EINVAL))?;
        if part.last().is_some_and(|last| last.0 >= n_cpus) {
            return Err(errno(libc::ERANGE));
        }
        set = set.union(&part);
    }
    Ok(set)
}

/// Parses a mask of hexadecimal words separated by commas, as `bitmap_parse()` does.
pub fn parse_hex_mask(text: &str, n_cpus: u32) -> io::Result<CpuSet> {
    let digits: String = text.trim().chars().filter(|&c| c != ',').collect();
    if digits.is_empty() {
        return Err(errno(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    for (n, digit) in (0u32..).zip(digits.chars().rev()) {
        let digit = digit.to_digit(16).ok_or_else(|| errno(libc::EINVAL))?;
        let bits = (0..4).filter(|bit| digit >> bit & 1 == 1);
        set.extend(bits.map(|bit| CpuId(n * 4 + bit)));
    }
    match set.last() {
        Some(last) if last.0 >= n_cpus => Err(errno(libc::EOVERFLOW)),
        _ => Ok(set),
    }
}

/// Formats a set as the kernel's `%*pb` does on a machine with `n_cpus` possible CPUs.
pub fn hex_mask(set: &CpuSet, n_cpus: u32) -> String {
    let n_words = n_cpus.div_ceil(32).max(1);
    let word = |n: u32| {
        (0..32)
            .filter(|bit| set.contains(CpuId(n * 32 + bit)))
            .map(|bit| 1u32 << bit)
            .sum::<u32>()
    };
    let first_digits = match n_cpus % 32 {
        0 => 8,
        rest => rest.div_ceil(4),
    };
    let mut text = format!(
        "{:0width$x}",
        word(n_words - 1),
        width = first_digits as usize
    );
    for n in (0..n_words - 1).rev() {
        text.push_str(&format!(",{:08x}", word(n)));
    }
    text
}
