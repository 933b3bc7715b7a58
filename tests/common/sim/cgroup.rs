//! The cgroup v2 hierarchy: directories, controllers, threads (`kernel/cgroup/cgroup.c`).
//!
//! A group is named by its path below the mount point: `""` is the root, `/qemu.slice/100.scope`
//! a scope, as in `/proc/<pid>/cgroup`.

use std::collections::BTreeSet;
use std::io;

use super::cpuset::Cpuset;
use super::{Kernel, State, errno};

pub const MOUNT: &str = "/sys/fs/cgroup";

/// Controllers in the kernel's order.
pub const CONTROLLERS: [&str; 8] = [
    "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc",
];
pub const CPUSET: usize = 0;
/// `cpuset`, `cpu` and `pids` can be told apart per thread.
const THREADED: [usize; 3] = [CPUSET, 1, 5];

/// One group.
#[derive(Debug, Clone, Default)]
pub struct Cgroup {
    pub threaded: bool,
    /// `cgroup.subtree_control`, as indices of [`CONTROLLERS`].
    pub subtree: BTreeSet<usize>,
    /// There when the parent's `subtree_control` has `cpuset`.
    pub cpuset: Option<Cpuset>,
}

/// Returns the path of `path` below the mount point, when it is there.
pub fn below_mount(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(MOUNT)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Returns the parent of a group; `None` for the root.
pub fn parent(group: &str) -> Option<&str> {
    group.rfind('/').map(|end| &group[..end])
}

fn ancestors(group: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(group), |group| parent(group))
}

pub fn is_below(group: &str, above: &str) -> bool {
    group
        .strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn names(controllers: &BTreeSet<usize>) -> String {
    let names: Vec<_> = controllers.iter().map(|&n| CONTROLLERS[n]).collect();
    // No controller: no line at all.
    if names.is_empty() {
        String::new()
    } else {
        names.join(" ") + "\n"
    }
}

impl State {
    fn group(&self, group: &str) -> &Cgroup {
        &self.cgroups[group]
    }

    pub fn children(&self, group: &str) -> Vec<String> {
        let is_child = |key: &&String| parent(key) == Some(group);
        self.cgroups.keys().filter(is_child).cloned().collect()
    }

    /// Returns a group and those below it, parents first.
    pub fn subtree(&self, group: &str) -> Vec<String> {
        let inside = |key: &&String| *key == group || is_below(key, group);
        self.cgroups.keys().filter(inside).cloned().collect()
    }

    fn has_tasks(&self, group: &str) -> bool {
        self.tasks.iter().any(|task| task.cgroup == group)
    }

    pub fn is_populated(&self, group: &str) -> bool {
        self.tasks
            .iter()
            .any(|task| task.cgroup == group || is_below(&task.cgroup, group))
    }

    fn is_thread_root(&self, group: &str) -> bool {
        let this = self.group(group);
        let threaded_child = || {
            self.children(group)
                .iter()
                .any(|child| self.group(child).threaded)
        };
        let threaded_control = || THREADED.iter().any(|n| this.subtree.contains(n));
        !this.threaded && (threaded_child() || self.has_tasks(group) && threaded_control())
    }

    fn can_be_thread_root(&self, group: &str) -> bool {
        let domain_populated =
            |child: &String| !self.group(child).threaded && self.is_populated(child);
        let domain_control = self
            .group(group)
            .subtree
            .iter()
            .any(|n| !THREADED.contains(n));
        group.is_empty() || !domain_control && !self.children(group).iter().any(domain_populated)
    }

    fn is_valid_domain(&self, group: &str) -> bool {
        let ok = |above: &str| {
            !self.group(above).threaded && (above.is_empty() || !self.is_thread_root(above))
        };
        !self.group(group).threaded && ancestors(group).all(ok)
    }

    /// Returns the group that is the resource domain of `group`.
    fn domain_of<'a>(&self, group: &'a str) -> &'a str {
        match self.group(group).threaded {
            true => ancestors(group)
                .find(|above| !self.group(above).threaded)
                .unwrap_or(""),
            false => group,
        }
    }

    fn cgroup_type(&self, group: &str) -> &'static str {
        match self.group(group).threaded {
            true => "threaded",
            false if !self.is_valid_domain(group) => "domain invalid",
            false if self.is_thread_root(group) => "domain threaded",
            false => "domain",
        }
    }

    pub fn cgroup_list(&self, group: &str) -> Option<Vec<String>> {
        let this = self.cgroups.get(group)?;
        let mut names = vec![
            "cgroup.controllers",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ];
        if !group.is_empty() {
            names.extend(["cgroup.events", "cgroup.type"]);
        }
        if this.cpuset.is_some() {
            names.extend(Cpuset::files(group.is_empty(), self.kernel));
        }
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.extend(
            self.children(group)
                .iter()
                .map(|child| child[group.len() + 1..].to_owned()),
        );
        names.sort_unstable();
        Some(names)
    }

    /// Splits the path of a group's file, when there is such a file.
    fn group_file<'a>(&self, path: &'a str) -> io::Result<(&'a str, &'a str)> {
        if self.cgroups.contains_key(path) {
            return Err(errno(libc::EISDIR));
        }
        let (group, file) = path.rsplit_once('/').ok_or_else(|| errno(libc::ENOENT))?;
        match self.cgroup_list(group) {
            Some(names) if names.iter().any(|name| name == file) => Ok((group, file)),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    pub fn cgroup_read(&self, path: &str) -> io::Result<String> {
        let (group, file) = self.group_file(path)?;
        match file {
            "cgroup.controllers" if group.is_empty() => Ok(CONTROLLERS.join(" ") + "\n"),
            "cgroup.controllers" => Ok(names(&self.group(parent(group).unwrap_or("")).subtree)),
            "cgroup.subtree_control" => Ok(names(&self.group(group).subtree)),
            "cgroup.type" => Ok(self.cgroup_type(group).to_owned() + "\n"),
            "cgroup.events" => Ok(format!(
                "populated {}\nfrozen 0\n",
                u8::from(self.is_populated(group))
            )),
            "cgroup.threads" => Ok(self.lines_of_tasks(|task| task.cgroup == group)),
            "cgroup.procs" if !self.is_valid_domain(group) => Err(errno(libc::EOPNOTSUPP)),
            "cgroup.procs" => Ok(self.lines_of_tasks(|task| {
                task.tid == task.tgid && self.domain_of(&task.cgroup) == group
            })),
            _ => self.cpuset_read(group, file),
        }
    }

    fn lines_of_tasks(&self, keep: impl Fn(&super::task::Task) -> bool) -> String {
        let tasks = self.tasks.iter().filter(|task| keep(task));
        tasks.map(|task| format!("{}\n", task.tid)).collect()
    }

    pub fn cgroup_write(&mut self, path: &str, text: &str) -> io::Result<()> {
        let (group, file) = self.group_file(path)?;
        if text.is_empty() {
            // A write of no byte never reaches the file: an empty list is written as a newline.
            return Ok(());
        }
        match file {
            "cgroup.type" => self.write_type(group, text),
            "cgroup.subtree_control" => self.write_subtree_control(group, text),
            "cgroup.threads" => self.move_thread(group, text),
            "cgroup.procs" => self.move_process(group, text),
            "cgroup.controllers" | "cgroup.events" => Err(errno(libc::EINVAL)),
            _ => self.cpuset_write(group, file, text),
        }
    }

    fn write_type(&mut self, group: &str, text: &str) -> io::Result<()> {
        if text.trim() != "threaded" {
            return Err(errno(libc::EINVAL));
        }
        if self.group(group).threaded {
            return Ok(());
        }
        let domain = self.domain_of(parent(group).unwrap_or("")).to_owned();
        let own_domain_control = self
            .group(group)
            .subtree
            .iter()
            .any(|n| !THREADED.contains(n));
        if self.is_populated(group)
            || own_domain_control
            || !self.is_valid_domain(&domain)
            || !self.can_be_thread_root(&domain)
        {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.cgroups.get_mut(group).expect("the group").threaded = true;
        Ok(())
    }

    fn write_subtree_control(&mut self, group: &str, text: &str) -> io::Result<()> {
        let mut subtree = self.group(group).subtree.clone();
        for word in text.split_whitespace() {
            let (enable, name) = match word.split_at_checked(1) {
                Some(("+", name)) => (true, name),
                Some(("-", name)) => (false, name),
                _ => return Err(errno(libc::EINVAL)),
            };
            let n = CONTROLLERS.iter().position(|&known| known == name);
            let n = n.ok_or_else(|| errno(libc::EINVAL))?;
            match enable {
                true => subtree.insert(n),
                false => subtree.remove(&n),
            };
        }
        self.vet_subtree_control(group, &subtree)?;
        self.set_subtree_control(group, subtree);
        Ok(())
    }

    fn vet_subtree_control(&self, group: &str, wanted: &BTreeSet<usize>) -> io::Result<()> {
        let now = &self.group(group).subtree;
        let children = self.children(group);
        let used_below = |n: &usize| {
            children
                .iter()
                .any(|child| self.group(child).subtree.contains(n))
        };
        let offered = |n: &usize| match parent(group) {
            Some(above) => self.group(above).subtree.contains(n),
            None => true,
        };
        let enabled: Vec<_> = wanted.difference(now).collect();
        if !enabled.iter().all(|n| offered(n)) {
            return Err(errno(libc::ENOENT));
        }
        if now.difference(wanted).any(used_below) {
            return Err(errno(libc::EBUSY));
        }
        if enabled.is_empty() || group.is_empty() {
            return Ok(());
        }
        let threaded = self.group(group).threaded;
        match enabled.iter().all(|n| THREADED.contains(n)) {
            _ if !self.is_valid_domain(self.domain_of(group)) => Err(errno(libc::EOPNOTSUPP)),
            false if threaded || self.is_thread_root(group) => Err(errno(libc::EOPNOTSUPP)),
            true if threaded || self.can_be_thread_root(group) => Ok(()),
            _ if self.has_tasks(group) => Err(errno(libc::EBUSY)),
            _ => Ok(()),
        }
    }

    /// Sets the controllers of a group's children without asking; their cpusets come and go.
    pub fn set_subtree_control(&mut self, group: &str, subtree: BTreeSet<usize>) {
        let cpuset = subtree.contains(&CPUSET);
        self.cgroups.get_mut(group).expect("the group").subtree = subtree;
        let children = self.children(group);
        let gone = |child: &&String| !cpuset && self.group(child).cpuset.is_some();
        let gone: Vec<String> = children.iter().filter(gone).cloned().collect();
        // 6.12 compares the cpuset of one of the tasks only: when that changes nothing, all keep
        // their masks (`cpuset_attach()`), also those that were restricted. 7.3 does not.
        let same = |child: &String| self.effective_cpus(child) == self.effective_cpus(group);
        let keeps = self.kernel < Kernel(7, 0) && !self.forgets_affinity();
        let unchanged = keeps && gone.iter().any(same);
        let came = |child: &&String| cpuset && self.group(child).cpuset.is_none();
        let came: Vec<String> = children.iter().filter(came).cloned().collect();
        for child in &children {
            match (cpuset, self.group(child).cpuset.is_some()) {
                (true, false) => self.cpuset_online(child),
                (false, true) => self.cpuset_offline(child),
                _ => {}
            }
        }
        self.recompute_effective();
        for child in gone.iter().filter(|_| unchanged) {
            self.keep_masks_below(child);
        }
        let moved = gone.iter().chain(&came);
        for child in moved
            .filter(|_| self.forgets_affinity())
            .collect::<Vec<_>>()
        {
            self.forget_affinity_below(child);
        }
        self.refresh_masks();
    }

    fn move_thread(&mut self, group: &str, text: &str) -> io::Result<()> {
        let task = self.task_to_move(text)?;
        let (tid, from) = (task.tid, task.cgroup.clone());
        // Threads stay within their resource domain.
        if self.domain_of(&from) != self.domain_of(group) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.vet_move(group)?;
        self.move_tasks(group, &[tid]);
        Ok(())
    }

    fn move_process(&mut self, group: &str, text: &str) -> io::Result<()> {
        let tgid = self.task_to_move(text)?.tgid;
        self.vet_move(group)?;
        let tids: Vec<_> = self.tasks.of_process(tgid).map(|task| task.tid).collect();
        self.move_tasks(group, &tids);
        Ok(())
    }

    fn task_to_move(&self, text: &str) -> io::Result<&super::task::Task> {
        let tid: i32 = text.trim().parse().map_err(|_| errno(libc::EINVAL))?;
        let task = self.tasks.get(tid).ok_or_else(|| errno(libc::ESRCH))?;
        match task.refuses_affinity() || task.comm == "kthreadd" {
            true => Err(errno(libc::EINVAL)),
            false => Ok(task),
        }
    }

    fn vet_move(&self, group: &str) -> io::Result<()> {
        if !self.is_valid_domain(self.domain_of(group)) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let inner = !self.group(group).subtree.is_empty();
        let threads_only = self.group(group).threaded || self.can_be_thread_root(group);
        if !group.is_empty() && inner && !threads_only {
            return Err(errno(libc::EBUSY));
        }
        match self.effective_cpus(group).is_empty() {
            true => Err(errno(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    fn move_tasks(&mut self, group: &str, tids: &[i32]) {
        let mut new_cpuset = Vec::new();
        for &tid in tids {
            let task = self.tasks.get(tid).expect("the task");
            if self.cpuset_group(&task.cgroup) != self.cpuset_group(group) {
                new_cpuset.push(tid);
            }
            let task = self.tasks.get_mut(tid).expect("the task");
            group.clone_into(&mut task.cgroup);
        }
        self.cpusets_changed();
        if self.forgets_affinity() {
            self.forget_affinity_of(&new_cpuset);
        }
    }

    pub fn cgroup_make(&mut self, group: &str) -> io::Result<()> {
        let above = parent(group).ok_or_else(|| errno(libc::EEXIST))?;
        if self.cgroups.contains_key(group) {
            return Err(errno(libc::EEXIST));
        }
        let offers_cpuset = match self.cgroups.get(above) {
            Some(above) => above.subtree.contains(&CPUSET),
            None => return Err(errno(libc::ENOENT)),
        };
        self.cgroups.insert(group.to_owned(), Cgroup::default());
        if offers_cpuset {
            self.cpuset_online(group);
            self.cpusets_changed();
        }
        Ok(())
    }

    pub fn cgroup_remove(&mut self, group: &str) -> io::Result<()> {
        if !self.cgroups.contains_key(group) {
            return Err(errno(libc::ENOENT));
        }
        if group.is_empty() || self.is_populated(group) || !self.children(group).is_empty() {
            return Err(errno(libc::EBUSY));
        }
        self.cpuset_offline(group);
        self.taken.take();
        self.cgroups.remove(group);
        self.cpusets_changed();
        Ok(())
    }
}
