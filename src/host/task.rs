//! `/proc`: tasks, their identity and where they belong.
//!
//! A task may be gone between two reads. A list leaves it out; a question about one task fails
//! with an error that [`is_gone`] knows.

use std::io;
use std::str::FromStr;

use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::target::KTHREADD;
use crate::domain::thread::class_of_policy;
use crate::domain::vm::TaskId;

/// Task flag: a kernel thread (`include/linux/sched.h`).
const PF_KTHREAD: u32 = 0x0020_0000;
/// Task flag: user space may not change the affinity.
const PF_NO_SETAFFINITY: u32 = 0x0400_0000;

/// Fields of a line of `stat` behind the name, by their place in man 5 proc.
const STATE: usize = 3;
const FLAGS: usize = 9;
const START: usize = 22;
const RT_PRIORITY: usize = 40;
const POLICY: usize = 41;

/// A task as `/proc/<pid>/task/<tid>/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// Its name; bytes that are not UTF-8 are replaced.
    pub comm: String,
    /// The kernel's `PF_*` flags.
    pub flags: u32,
    /// Its state, such as `R`, `S` or `Z`.
    pub state: char,
}

impl Task {
    /// Tells whether this is a kernel thread (`PF_KTHREAD`).
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Tells whether the kernel lets nobody move the task (`PF_NO_SETAFFINITY`).
    pub fn is_bound(&self) -> bool {
        self.flags & PF_NO_SETAFFINITY != 0
    }

    /// Tells whether the task runs no more and only waits for its parent to notice.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Tells whether a signal or a debugger has stopped the task, such as Ctrl-Z in a terminal.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Tells whether an error of this module says that there is no such task (any more).
pub fn is_gone(error: &io::Error) -> bool {
    // ESRCH: the task died after its file was opened.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Reads thread `tid` of process `pid`.
///
/// # Errors
/// The kernel's, see [`is_gone`]; `InvalidData` when the file is not what the kernel writes.
pub fn read_task(files: &dyn Files, pid: i32, tid: i32) -> io::Result<Task> {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    let text = files.read(&path)?;
    task_from_stat(&text).ok_or_else(|| invalid(&path, "no line of a task"))
}

/// Returns the threads of process `pid` by thread id; none when there is no such process.
///
/// # Errors
/// The kernel's, except those of a task that is gone.
pub fn tasks_of(files: &dyn Files, pid: i32) -> io::Result<Vec<Task>> {
    let names = match files.list(&format!("/proc/{pid}/task")) {
        Err(error) if is_gone(&error) => Vec::new(),
        names => names?,
    };
    living(numbers(&names).map(|tid| read_task(files, pid, tid)))
}

/// Returns the numbers of those that may be kernel threads, `kthreadd` itself included.
///
/// One file names them all where the kernel has it (`CONFIG_PROC_CHILDREN`); elsewhere every
/// process may be one. That file may miss a thread while others end, as `get_children_pid()` in
/// `fs/proc/array.c` says itself: look again later.
///
/// # Errors
/// The kernel's.
pub fn likely_kernel_threads(files: &dyn Files) -> io::Result<Vec<i32>> {
    let pids = match files.read(&format!("/proc/{KTHREADD}/task/{KTHREADD}/children")) {
        Ok(children) => {
            let children = children.split_whitespace().map(str::to_owned);
            std::iter::once(KTHREADD.to_string())
                .chain(children)
                .collect()
        }
        Err(error) if is_gone(&error) => files.list("/proc")?,
        Err(error) => return Err(error),
    };
    Ok(numbers(&pids).collect())
}

/// Returns a kernel thread by its number, or `None` when it is none or gone.
///
/// # Errors
/// The kernel's, except those of a task that is gone.
pub fn kernel_thread(files: &dyn Files, tid: i32) -> io::Result<Option<Task>> {
    let task = living(std::iter::once(read_task(files, tid, tid)))?.pop();
    Ok(task.filter(Task::is_kernel_thread))
}

/// Returns the numbers of all threads of processes, but for those of the processes that `is_left_out` names.
///
/// # Errors
/// The kernel's, except those of a process that is gone.
pub fn threads(files: &dyn Files, is_left_out: impl Fn(i32) -> bool) -> io::Result<Vec<i32>> {
    let mut tids = Vec::new();
    for pid in numbers(&files.list("/proc")?).filter(|pid| !is_left_out(*pid)) {
        match files.list(&format!("/proc/{pid}/task")) {
            Err(error) if is_gone(&error) => {}
            names => tids.extend(numbers(&names?)),
        }
    }
    Ok(tids)
}

/// Tells whether the task of this identity still runs; a number that was given to another task
/// and a task that is dead do not count.
pub fn alive(files: &dyn Files, id: TaskId) -> bool {
    // `/proc/<tid>` is there for every thread, although a listing shows processes only.
    read_task(files, id.tid, id.tid).is_ok_and(|task| task.id == id && !task.is_dead())
}

/// Tells whether the kernel lets nobody move a thread, as of now: one of its own may be bound only after its birth
/// (`kthread_bind()`).
pub fn is_bound(files: &dyn Files, id: TaskId) -> bool {
    let task = read_task(files, id.tid, id.tid);
    task.is_ok_and(|task| task.id == id && task.is_bound())
}

/// Tells whether the process with this first thread has not ended yet. The first thread of a process that is
/// killed is dead at once, while another one may have to let go of its memory and devices first: that of
/// a VM takes its time, and the process is there until then (`kernel/exit.c`).
pub fn is_process(files: &dyn Files, id: TaskId) -> bool {
    let first = read_task(files, id.tid, id.tid);
    first.is_ok_and(|task| task.id == id)
        && tasks_of(files, id.tid).is_ok_and(|tasks| tasks.iter().any(|task| !task.is_dead()))
}

/// Returns the cgroup of a thread as a path below the cgroup file system's root, which is empty.
///
/// # Errors
/// The kernel's, see [`is_gone`]; `InvalidData` when the task is in no cgroup of version 2.
pub fn cgroup_of(files: &dyn Files, pid: i32, tid: i32) -> io::Result<String> {
    let path = format!("/proc/{pid}/task/{tid}/cgroup");
    let text = files.read(&path)?;
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    unified
        .map(|group| group.trim_start_matches('/').to_owned())
        .ok_or_else(|| invalid(&path, "no cgroup of version 2"))
}

/// Returns the CPUs that a thread may run on, those that are offline among them.
///
/// # Errors
/// The kernel's, see [`is_gone`]; `InvalidData` when the file is not what the kernel writes.
pub fn allowed_cpus(files: &dyn Files, tid: i32) -> io::Result<CpuSet> {
    let path = format!("/proc/{tid}/status");
    let status = files.read(&path)?;
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cpus = list.and_then(|list| list.trim().parse().ok());
    cpus.ok_or_else(|| invalid(&path, "no list of cpus"))
}

/// Returns the scheduling class of a thread, in words.
///
/// # Errors
/// The kernel's, see [`is_gone`]; `InvalidData` when the file is not what the kernel writes.
pub fn class_of(files: &dyn Files, tid: i32) -> io::Result<String> {
    let path = format!("/proc/{tid}/task/{tid}/stat");
    let text = files.read(&path)?;
    let class = stat_from_text(&text)
        .and_then(|stat| Some((stat.field(POLICY)?, stat.field(RT_PRIORITY)?)));
    class
        .map(|(policy, priority)| class_of_policy(policy, priority))
        .ok_or_else(|| invalid(&path, "no line of a task"))
}

/// Returns the identity of the process that started this one.
///
/// # Errors
/// [`is_gone`] when it ended meanwhile, so that this process has another parent now.
pub fn parent(files: &dyn Files) -> io::Result<TaskId> {
    let pid = nix::unistd::getppid();
    let task = read_task(files, pid.as_raw(), pid.as_raw())?;
    if nix::unistd::getppid() == pid {
        Ok(task.id)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Collects the tasks that are still there.
fn living(tasks: impl Iterator<Item = io::Result<Task>>) -> io::Result<Vec<Task>> {
    tasks
        .filter(|task| !task.as_ref().is_err_and(is_gone))
        .collect()
}

/// Returns the names that are task numbers, in order.
fn numbers(names: &[String]) -> impl Iterator<Item = i32> {
    let mut numbers: Vec<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.into_iter()
}

/// A line of `stat`, whose name may have blanks and brackets in it.
struct Stat<'t> {
    tid: i32,
    comm: &'t str,
    /// All behind the name.
    fields: Vec<&'t str>,
}

impl Stat<'_> {
    fn field<T: FromStr>(&self, place: usize) -> Option<T> {
        self.fields.get(place - STATE)?.parse().ok()
    }
}

/// Returns what a line of `stat` says; one that was cut short is none.
fn stat_from_text(text: &str) -> Option<Stat<'_>> {
    let (before, after) = text.rsplit_once(") ")?;
    let (tid, comm) = before.split_once(" (")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    (fields.len() > POLICY - STATE).then_some(Stat {
        tid: tid.parse().ok()?,
        comm,
        fields,
    })
}

fn task_from_stat(text: &str) -> Option<Task> {
    let stat = stat_from_text(text)?;
    Some(Task {
        id: TaskId {
            tid: stat.tid,
            start: stat.field(START)?,
        },
        comm: stat.comm.to_owned(),
        flags: stat.field(FLAGS)?,
        state: stat.field(STATE)?,
    })
}

fn invalid(path: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::RootFiles;

    fn stat(tid: i32, comm: &str, state: char, flags: u32, start: u64) -> String {
        format!(
            "{tid} ({comm}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n"
        )
    }

    /// A `/proc` of files; every file appears with its directories.
    struct Proc {
        files: RootFiles,
        _dir: tempfile::TempDir,
    }

    impl Proc {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let files = RootFiles::new(dir.path());
            Self { files, _dir: dir }
        }

        fn put(&self, path: &str, text: &str) {
            for (at, _) in path.match_indices('/').skip(1) {
                let _ = self.files.make_dir(&path[..at], 0o755);
            }
            self.files.replace(path, text, 0o600).unwrap();
        }

        fn put_task(&self, pid: i32, tid: i32, text: &str) {
            self.put(&format!("/proc/{pid}/task/{tid}/stat"), text);
        }
    }

    #[test]
    fn names_with_blanks_and_parentheses_are_kept() {
        for comm in ["CPU 0/KVM", "a) R 1 (b", "(sd-pam)", ") ", "", "\u{fffd}x"] {
            let task = task_from_stat(&stat(41, comm, 'S', 0x40_0140, 777)).unwrap();
            assert_eq!(task.comm, comm);
            assert_eq!(
                task.id,
                TaskId {
                    tid: 41,
                    start: 777
                }
            );
            assert_eq!((task.flags, task.state), (0x40_0140, 'S'));
        }
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        let whole = stat(41, "kvm", 'S', 0, 777);
        for n in 0..60 {
            assert_eq!(task_from_stat(&whole[..n]), None, "{:?}", &whole[..n]);
        }
        assert_eq!(task_from_stat("(x) S"), None);
        assert_eq!(task_from_stat("1 (x)\u{e9}"), None);
    }

    #[test]
    fn threads_that_vanish_are_left_out() {
        let proc = Proc::new();
        proc.put_task(10, 10, &stat(10, "kvm", 'S', 0, 5));
        proc.put_task(10, 12, &stat(12, "CPU 0/KVM", 'R', 0, 6));
        proc.files.make_dir("/proc/10/task/11", 0o755).unwrap();
        let tids = |pid| -> Vec<i32> {
            let tasks = tasks_of(&proc.files, pid).unwrap();
            tasks.iter().map(|task| task.id.tid).collect()
        };
        assert_eq!(tids(10), [10, 12]);
        assert!(tids(99).is_empty());
    }

    #[test]
    fn kernel_threads_are_found_with_and_without_the_list_of_children() {
        let proc = Proc::new();
        let kthread = PF_KTHREAD;
        proc.put_task(1, 1, &stat(1, "systemd", 'S', 0, 1));
        proc.put_task(2, 2, &stat(2, "kthreadd", 'S', kthread, 1));
        proc.put_task(3, 3, &stat(3, "rcu_gp", 'I', kthread, 2));
        proc.put_task(30, 30, &stat(30, "kswapd0", 'S', kthread, 3));
        proc.put_task(31, 31, &stat(31, "modprobe", 'S', 0, 3));
        let names = || -> Vec<String> {
            let likely = likely_kernel_threads(&proc.files).unwrap().into_iter();
            let tasks = likely.filter_map(|tid| kernel_thread(&proc.files, tid).unwrap());
            tasks.map(|task| task.comm).collect()
        };
        assert_eq!(names(), ["kthreadd", "rcu_gp", "kswapd0"]);
        proc.put("/proc/2/task/2/children", "30 3 31 4000 ");
        assert_eq!(names(), ["kthreadd", "rcu_gp", "kswapd0"]);
    }

    #[test]
    fn another_task_of_the_same_number_is_not_the_same() {
        let proc = Proc::new();
        proc.put_task(10, 10, &stat(10, "kvm", 'S', 0, 5));
        proc.put_task(11, 11, &stat(11, "kvm", 'Z', 0, 5));
        let alive = |tid, start| alive(&proc.files, TaskId { tid, start });
        assert!(alive(10, 5));
        assert!(!alive(10, 6));
        assert!(!alive(11, 5));
        assert!(!alive(12, 5));
    }

    #[test]
    fn a_process_has_ended_with_the_last_of_its_threads() {
        let proc = Proc::new();
        let first = TaskId { tid: 10, start: 5 };
        proc.put_task(10, 10, &stat(10, "kvm", 'Z', 0, 5));
        proc.put_task(10, 12, &stat(12, "CPU 0/KVM", 'D', 0, 6));
        assert!(is_process(&proc.files, first) && !alive(&proc.files, first));
        assert!(!is_process(&proc.files, TaskId { start: 4, ..first }));
        proc.put_task(10, 12, &stat(12, "CPU 0/KVM", 'Z', 0, 6));
        assert!(!is_process(&proc.files, first));
        proc.put_task(10, 10, &stat(10, "kvm", 'S', 0, 5));
        assert!(is_process(&proc.files, first));
    }

    #[test]
    fn the_cgroup_is_the_one_of_version_2() {
        let proc = Proc::new();
        proc.put(
            "/proc/7/task/7/cgroup",
            "1:cpu:/old\n0::/qemu.slice/100.scope:x\n",
        );
        proc.put("/proc/8/task/8/cgroup", "1:cpu:/old\n");
        let path = cgroup_of(&proc.files, 7, 7).unwrap();
        assert_eq!(path, "qemu.slice/100.scope:x");
        let error = cgroup_of(&proc.files, 8, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(is_gone(&cgroup_of(&proc.files, 9, 9).unwrap_err()));
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let files = RootFiles::new("/");
        let parent = parent(&files).unwrap();
        assert!(alive(&files, parent));
        let me = i32::try_from(std::process::id()).unwrap();
        let threads = tasks_of(&files, me).unwrap();
        assert!(threads.iter().any(|task| task.id.tid == me));
        // A thread other than its process's first is found by its own number, too.
        assert!(
            threads
                .iter()
                .all(|task| alive(&files, task.id) || task.is_dead())
        );
        assert!(cgroup_of(&files, me, me).is_ok());
    }
}
