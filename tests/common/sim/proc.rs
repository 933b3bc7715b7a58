//! `/proc/<pid>`: tasks as the kernel prints them.

use std::io;

use super::task::{PF_KTHREAD, Task};
use super::{State, errno, hex_mask};

const PROCESS_FILES: [&str; 6] = ["cgroup", "cmdline", "comm", "stat", "status", "task"];
const THREAD_FILES: [&str; 6] = ["cgroup", "children", "cmdline", "comm", "stat", "status"];

/// Where a path below `/proc/<pid>` leads.
enum Spot<'a> {
    Process(&'a Task),
    Threads(&'a Task),
    Thread(&'a Task),
    File(&'a Task, &'a str),
}

/// Splits `/proc/<number>[/rest]`.
fn split(path: &str) -> Option<(i32, &str)> {
    let rest = path.strip_prefix("/proc/")?;
    let (pid, rest) = rest.split_once('/').unwrap_or((rest, ""));
    Some((pid.parse().ok()?, rest))
}

pub fn is_task_path(path: &str) -> bool {
    split(path).is_some()
}

impl State {
    fn spot<'a>(&'a self, path: &'a str) -> io::Result<Spot<'a>> {
        let none = || errno(libc::ENOENT);
        let (pid, rest) = split(path).ok_or_else(none)?;
        let process = self.tasks.get(pid).ok_or_else(none)?;
        let parts: Vec<_> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let thread = |tid: &str| {
            let task = tid.parse().ok().and_then(|tid| self.tasks.get(tid));
            task.filter(|task| task.tgid == process.tgid)
                .ok_or_else(none)
        };
        match parts[..] {
            [] => Ok(Spot::Process(process)),
            ["task"] => Ok(Spot::Threads(process)),
            [file] if PROCESS_FILES.contains(&file) => Ok(Spot::File(process, file)),
            ["task", tid] => Ok(Spot::Thread(thread(tid)?)),
            ["task", tid, file] if THREAD_FILES.contains(&file) => {
                Ok(Spot::File(thread(tid)?, file))
            }
            _ => Err(none()),
        }
    }

    pub fn proc_list(&self, path: &str) -> io::Result<Vec<String>> {
        let texts = |names: [&str; 6]| names.iter().map(|&name| name.to_owned()).collect();
        let mut names: Vec<String> = match self.spot(path)? {
            Spot::Process(_) => texts(PROCESS_FILES),
            Spot::Thread(_) => texts(THREAD_FILES),
            Spot::Threads(process) => {
                let threads = self.tasks.of_process(process.tgid);
                threads.map(|task| task.tid.to_string()).collect()
            }
            Spot::File(..) => return Err(errno(libc::ENOTDIR)),
        };
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the numbers of the processes: threads can be opened but are not listed.
    pub fn pids(&self) -> impl Iterator<Item = String> + '_ {
        let leaders = self.tasks.iter().filter(|task| task.tid == task.tgid);
        leaders.map(|task| task.tid.to_string())
    }

    pub fn proc_read(&self, path: &str) -> io::Result<String> {
        let Spot::File(task, file) = self.spot(path)? else {
            return Err(errno(libc::EISDIR));
        };
        match file {
            "comm" => Ok(format!("{}\n", task.comm)),
            "cmdline" => Ok(task.cmdline.iter().map(|arg| format!("{arg}\0")).collect()),
            "cgroup" if task.cgroup.is_empty() => Ok("0::/\n".to_owned()),
            "cgroup" => Ok(format!("0::{}\n", task.cgroup)),
            "children" => Ok(self.children_of(task)),
            "stat" => Ok(self.stat_of(task)),
            "status" => Ok(self.status_of(task)),
            _ => Err(errno(libc::EISDIR)),
        }
    }

    /// Returns the processes that a task started; our tasks are all started by a main thread.
    fn children_of(&self, task: &Task) -> String {
        let children = self
            .tasks
            .iter()
            .filter(|child| child.tid == child.tgid && child.ppid == task.tid);
        children.map(|child| format!("{} ", child.tid)).collect()
    }

    fn stat_of(&self, task: &Task) -> String {
        let Task {
            tid,
            comm,
            ppid,
            flags,
            start,
            policy,
            rt_priority,
            ..
        } = task;
        let n_threads = self.tasks.of_process(task.tgid).count();
        let cpu = task.mask.first().map_or(0, |cpu| cpu.0);
        let is_real_time = [1, 2].contains(policy);
        let priority = if is_real_time {
            -1 - i64::from(*rt_priority)
        } else {
            20
        };
        let group = if flags & PF_KTHREAD == 0 {
            task.tgid
        } else {
            0
        };
        format!(
            "{tid} ({comm}) S {ppid} {group} {group} 0 -1 {flags} 0 0 0 0 0 0 0 0 {priority} 0 {n_threads} 0 {start} \
             0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 {cpu} {rt_priority} {policy} 0 0 0 0 0 0 0 0 0 0 0\n"
        )
    }

    fn status_of(&self, task: &Task) -> String {
        let Task {
            tid,
            tgid,
            comm,
            ppid,
            mask,
            ..
        } = task;
        let n_threads = self.tasks.of_process(*tgid).count();
        let kthread = u8::from(task.is_kthread());
        let hex = hex_mask(mask, self.cpus.n_possible());
        let nodes = self.cpus.nodes_online();
        format!(
            "Name:\t{comm}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{tgid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{ppid}\n\
             TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t \nNStgid:\t{tgid}\n\
             NSpid:\t{tid}\nNSpgid:\t{tgid}\nNSsid:\t{tgid}\nKthread:\t{kthread}\nThreads:\t{n_threads}\n\
             SigQ:\t0/15620\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n\
             SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\nCapInh:\t0000000000000000\n\
             CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n\
             CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n\
             Cpus_allowed:\t{hex}\nCpus_allowed_list:\t{mask}\nMems_allowed:\t1\nMems_allowed_list:\t{nodes}\n\
             voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t0\n"
        )
    }
}
