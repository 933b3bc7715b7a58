//! Tasks and the CPUs they may run on (`kernel/sched/syscalls.c`).
//!
//! Since 6.2 a task keeps the mask it asked for; what counts is that mask cut to its cpuset, or
//! the whole cpuset when nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use pin_hook::domain::cpuset::CpuSet;

use super::{Kernel, Sim, State, errno};

pub const PF_WQ_WORKER: u64 = 0x0000_0020;
pub const PF_KTHREAD: u64 = 0x0020_0000;
pub const PF_NO_SETAFFINITY: u64 = 0x0400_0000;

/// One task (thread).
#[derive(Debug, Clone)]
pub struct Task {
    pub tid: i32,
    pub tgid: i32,
    pub ppid: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    pub comm: String,
    pub cmdline: Vec<String>,
    pub cgroup: String,
    pub flags: u64,
    /// What the task asked for; `None` when it never did.
    pub requested: Option<CpuSet>,
    /// Where a kernel thread belongs, such as the CPUs of its node, when the kernel knows.
    home: Option<CpuSet>,
    /// What counts (`Cpus_allowed_list`).
    pub mask: CpuSet,
    /// What its cpuset last allowed it.
    allowed: CpuSet,
    pub policy: u32,
    pub rt_priority: u32,
    /// What it makes later has the ordinary class (`SCHED_RESET_ON_FORK`).
    pub resets_class: bool,
    /// It never sleeps.
    pub spins: bool,
}

/// What a new task is like; the rest is inherited.
#[derive(Debug, Clone, Default)]
pub struct TaskSpec {
    pub comm: String,
    pub cmdline: Vec<String>,
    pub cgroup: Option<String>,
    pub flags: u64,
    pub tid: Option<i32>,
    pub ppid: i32,
    pub mask: Option<CpuSet>,
    pub spins: bool,
}

impl TaskSpec {
    pub fn named(comm: &str) -> Self {
        Self {
            comm: comm.to_owned(),
            ppid: 1,
            ..Self::default()
        }
    }

    /// Puts the task into a group such as `/system.slice/ssh.service`.
    pub fn in_cgroup(mut self, cgroup: &str) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    /// Makes it a kernel thread; `bound` ones refuse `sched_setaffinity(2)`.
    pub fn kthread(mut self, bound: bool) -> Self {
        self.flags |= PF_KTHREAD | if bound { PF_NO_SETAFFINITY } else { 0 };
        self.ppid = 2;
        self
    }

    pub fn on_cpus(mut self, mask: CpuSet) -> Self {
        self.mask = Some(mask);
        self
    }

    /// It never sleeps.
    pub fn spinning(mut self) -> Self {
        self.spins = true;
        self
    }

    pub fn with_tid(mut self, tid: i32) -> Self {
        self.tid = Some(tid);
        self
    }
}

/// All tasks, by their number.
#[derive(Debug, Clone)]
pub struct Tasks {
    by_tid: BTreeMap<i32, Task>,
    /// The threads of each process that has several, its first one too.
    threads: BTreeMap<i32, BTreeSet<i32>>,
    next_tid: i32,
    next_start: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            by_tid: BTreeMap::new(),
            threads: BTreeMap::new(),
            next_tid: 2,
            next_start: 0,
        }
    }
}

impl Tasks {
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.by_tid.values()
    }

    pub fn get(&self, tid: i32) -> Option<&Task> {
        self.by_tid.get(&tid)
    }

    pub fn get_mut(&mut self, tid: i32) -> Option<&mut Task> {
        self.by_tid.get_mut(&tid)
    }

    pub fn of_process(&self, tgid: i32) -> impl Iterator<Item = &Task> {
        let alone = self.get(tgid).filter(|_| !self.threads.contains_key(&tgid));
        let several = self.threads.get(&tgid).into_iter().flatten();
        alone
            .into_iter()
            .chain(several.map(|tid| &self.by_tid[tid]))
    }

    fn insert(&mut self, task: Task) {
        if task.tid != task.tgid {
            let threads = self.threads.entry(task.tgid).or_default();
            threads.extend([task.tgid, task.tid]);
        }
        self.by_tid.insert(task.tid, task);
    }

    /// Removes a process with its threads, or one thread.
    fn remove(&mut self, tid: i32) {
        let Some(task) = self.by_tid.remove(&tid) else {
            return;
        };
        if task.tgid != tid {
            self.threads.entry(task.tgid).or_default().remove(&tid);
        } else if let Some(threads) = self.threads.remove(&tid) {
            threads.iter().for_each(|tid| {
                self.by_tid.remove(tid);
            });
        }
    }

    /// Sets where the numbers of the next tasks begin.
    pub fn count_from(&mut self, tid: i32) {
        self.next_tid = self.next_tid.max(tid);
    }

    fn number(&mut self, wanted: Option<i32>) -> (i32, u64) {
        let tid = wanted.unwrap_or(self.next_tid);
        self.next_tid = self.next_tid.max(tid + 1);
        self.next_start += 3;
        (tid, self.next_start)
    }
}

impl Task {
    pub fn refuses_affinity(&self) -> bool {
        self.flags & PF_NO_SETAFFINITY != 0
    }

    pub fn is_kthread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

impl State {
    /// Starts a process (or a kernel thread) and returns its number.
    pub fn spawn(&mut self, spec: TaskSpec) -> i32 {
        let (tid, start) = self.tasks.number(spec.tid);
        let cgroup = spec.cgroup.unwrap_or_default();
        let allowed = self.allowed_in(&cgroup);
        // Older kernels forget where a kernel thread belongs (recorded: 6.12, not 7.3).
        let kernel_remembers = self.kernel >= Kernel(7, 0);
        let task = Task {
            tid,
            tgid: tid,
            ppid: spec.ppid,
            start,
            comm: cut_comm(&spec.comm),
            cmdline: spec.cmdline,
            mask: spec.mask.clone().unwrap_or_else(|| allowed.clone()),
            home: spec.mask.filter(|_| kernel_remembers),
            allowed,
            cgroup,
            flags: spec.flags,
            requested: None,
            policy: 0,
            rt_priority: 0,
            resets_class: false,
            spins: spec.spins,
        };
        self.tasks.insert(task);
        tid
    }

    /// Starts a thread: it inherits group and mask of its creator, and the class unless that is
    /// to be reset.
    pub fn spawn_thread(&mut self, creator: i32, comm: &str) -> i32 {
        let (tid, start) = self.tasks.number(None);
        let mut creator = self.tasks.by_tid[&creator].clone();
        if std::mem::take(&mut creator.resets_class) {
            (creator.policy, creator.rt_priority) = (0, 0);
        }
        let comm = cut_comm(comm);
        let task = Task {
            tid,
            start,
            comm,
            ..creator
        };
        self.tasks.insert(task);
        tid
    }

    /// Returns the CPUs that the cpuset of `group` lets its tasks run on.
    ///
    /// Tasks of the root may use every possible CPU but those of partitions, also offline ones.
    fn allowed_in(&self, group: &str) -> CpuSet {
        match self.cpuset_group(group) {
            "" => self.cpus.possible.difference(&self.partition_cpus()),
            group => self.effective_cpus(group),
        }
    }

    /// Gives every task the mask that follows from its cpuset, where that changed.
    pub fn refresh_masks(&mut self) {
        let at_root = self.allowed_in("");
        let allowed_in = |group: &String| match self.cpuset_group(group) {
            "" => at_root.clone(),
            group => self.effective_cpus(group),
        };
        let groups = self.cgroups.keys();
        let allowed: BTreeMap<String, CpuSet> = groups
            .map(|group| (group.clone(), allowed_in(group)))
            .collect();
        // Recorded: in 7.3 kernel threads follow isolated partitions only, not those of type root.
        let of_kthreads = match self.kernel >= Kernel(7, 0) {
            true => self.cpus.possible.difference(&self.isolated_cpus()),
            false => allowed[""].clone(),
        };
        let forgets = self.forgets_affinity();
        let online = self.cpus.online.clone();
        for task in self.tasks.by_tid.values_mut() {
            let allowed = match task.is_kthread() {
                true => &of_kthreads,
                false => &allowed[&task.cgroup],
            };
            if task.allowed != *allowed {
                task.allowed.clone_from(allowed);
                if forgets {
                    task.requested = None;
                }
                if !task.refuses_affinity() {
                    task.mask = task.cut(allowed, &online);
                }
            }
        }
    }

    /// Before 6.2 a task whose cpuset changes forgets what it asked for (recorded: 6.1).
    pub fn forgets_affinity(&self) -> bool {
        self.kernel < Kernel(6, 2)
    }

    /// Lets the tasks in and below a group have what their new cpuset allows.
    pub fn forget_affinity_below(&mut self, above: &str) {
        let groups = self.subtree(above);
        let inside = |task: &&Task| groups.contains(&task.cgroup) && !task.is_kthread();
        let tids: Vec<i32> = self
            .tasks
            .iter()
            .filter(inside)
            .map(|task| task.tid)
            .collect();
        self.forget_affinity_of(&tids);
    }

    /// Lets tasks have what their new cpuset allows.
    pub fn forget_affinity_of(&mut self, tids: &[i32]) {
        for &tid in tids {
            let task = self.tasks.get(tid).expect("the task");
            let allowed = self.allowed_in(&task.cgroup);
            let task = self.tasks.get_mut(tid).expect("the task");
            task.requested = None;
            task.mask.clone_from(&allowed);
            task.allowed = allowed;
        }
    }

    /// Lets the tasks in and below a group keep their masks although their cpuset changed.
    pub fn keep_masks_below(&mut self, above: &str) {
        for group in self.subtree(above) {
            let allowed = self.allowed_in(&group);
            for task in self
                .tasks
                .by_tid
                .values_mut()
                .filter(|task| task.cgroup == group)
            {
                task.allowed.clone_from(&allowed);
            }
        }
    }

    pub fn affinity(&self, tid: i32) -> io::Result<CpuSet> {
        let task = self.tasks.get(tid).ok_or_else(|| errno(libc::ESRCH))?;
        Ok(task.mask.intersection(&self.cpus.online))
    }

    pub fn set_affinity(&mut self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        let online = self.cpus.online.clone();
        let task = self.tasks.get(tid).ok_or_else(|| errno(libc::ESRCH))?;
        let mut allowed = self.allowed_in(&task.cgroup);
        // Recorded on 6.1: nothing is kept of CPUs that are offline.
        if self.forgets_affinity() {
            allowed = allowed.intersection(&online);
        }
        let cut = cpus.intersection(&allowed);
        // The mask that the task has already is accepted, even when its CPUs are offline.
        let useless = cut.is_disjoint(&online) && cut != task.mask;
        if task.refuses_affinity() || cut.is_empty() || useless {
            return Err(errno(libc::EINVAL));
        }
        let task = self.tasks.get_mut(tid).expect("the task");
        task.requested = Some(cpus.clone());
        task.mask = cut;
        Ok(())
    }

    /// Gives a task a class, as the program does: reset on fork unless it is an ordinary one.
    pub fn set_class(&mut self, tid: i32, policy: u32, priority: u32) -> io::Result<()> {
        let is_valid = match policy {
            1 | 2 => (1..100).contains(&priority),
            0 | 3 | 5 => priority == 0,
            _ => false,
        };
        let task = self.tasks.get_mut(tid).ok_or_else(|| errno(libc::ESRCH))?;
        if !is_valid {
            return Err(errno(libc::EINVAL));
        }
        (task.policy, task.rt_priority) = (policy, priority);
        task.resets_class = priority > 0;
        Ok(())
    }

    /// Ends a process with its threads, or one thread.
    pub fn end_task(&mut self, tid: i32) {
        self.tasks.remove(tid);
    }
}

impl Task {
    /// Returns what counts of the task's mask where its cpuset allows `allowed`. What a kernel thread
    /// asks for counts within the CPUs where it belongs, as far as there are any (recorded: 7.3).
    fn cut(&self, allowed: &CpuSet, online: &CpuSet) -> CpuSet {
        let within = |limit: &CpuSet, cpus: &CpuSet| {
            let kept = cpus.intersection(limit);
            if kept.is_empty() { limit.clone() } else { kept }
        };
        let home = self.home.as_ref().map(|home| home.intersection(online));
        let limit = match home.filter(|home| !home.is_empty()) {
            Some(home) => within(allowed, &home),
            None => allowed.clone(),
        };
        match &self.requested {
            Some(asked) => within(&limit, asked),
            None => limit,
        }
    }
}

/// The kernel keeps 15 characters of a thread's name. Of a worker `/proc` shows also what it is doing, up to 63 characters (`wq_worker_comm()`).
fn cut_comm(comm: &str) -> String {
    let length = if comm.starts_with("kworker/") { 63 } else { 15 };
    comm.chars().take(length).collect()
}

impl Sim {
    /// Starts a process or kernel thread.
    pub fn spawn(&self, spec: TaskSpec) -> i32 {
        self.state().spawn(spec)
    }

    /// Starts a thread of the creator's process, with its group and mask.
    pub fn spawn_thread(&self, creator: i32, comm: &str) -> i32 {
        self.state().spawn_thread(creator, comm)
    }

    /// A kernel thread has something to do.
    pub fn wake(&self, tid: i32) {
        self.state().wake_kthread(tid);
    }

    /// Ends a process with its threads, or one thread. Scopes that get empty go.
    pub fn kill(&self, tid: i32) {
        let mut state = self.state();
        state.end_task(tid);
        state.collect_scopes();
    }

    /// Returns a copy of a task.
    pub fn task(&self, tid: i32) -> Task {
        self.state()
            .tasks
            .get(tid)
            .unwrap_or_else(|| panic!("no task {tid}"))
            .clone()
    }

    /// Finds a task by its name.
    pub fn find_task(&self, comm: &str) -> Task {
        let state = self.state();
        let found = state.tasks.iter().find(|task| task.comm == comm);
        found.unwrap_or_else(|| panic!("no task {comm}")).clone()
    }

    /// Returns the CPUs that a task may run on, as a cpulist.
    pub fn mask(&self, tid: i32) -> String {
        self.task(tid).mask.to_string()
    }
}
