//! The cpuset controller of cgroup v2: CPUs of groups, partitions (`kernel/cgroup/cpuset.c`).
//!
//! A *local* partition sits below a valid partition root (or the root), a *remote* one (since
//! 6.7) anywhere, when every group above it lists its CPUs in `cpuset.cpus.exclusive`.

use std::io;

use pin_hook::domain::cpuset::{CpuId, CpuSet};

use super::cgroup::parent;
use super::{Kernel, State, errno, parse_cpulist};

/// What `cpuset.cpus.partition` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partition {
    #[default]
    Member,
    Root,
    Isolated,
}

/// Reasons why a partition is invalid, as the kernel words them.
const INVALID_CPUS: &str = "Invalid cpu list in cpuset.cpus.exclusive";
const NO_CPU_HOTPLUG: &str = "No cpu available due to hotplug";
const NO_CPUS: &str = "Parent unable to distribute cpu downstream";
const EMPTY: &str = "cpuset.cpus and cpuset.cpus.exclusive are empty";
const HOUSEKEEPING: &str = "partition config conflicts with housekeeping setup";
const REMOTE_BELOW: &str = "Have remote partition underneath";
const PARENT_NO_PARTITION: &str = "Parent is not a partition root";
const INVALID_PARENT: &str = "Parent is an invalid partition root";

/// State of the cpuset controller in one group.
#[derive(Debug, Clone, Default)]
pub struct Cpuset {
    cpus: CpuSet,
    exclusive: CpuSet,
    exclusive_effective: CpuSet,
    pub effective: CpuSet,
    partition: Partition,
    invalid: Option<&'static str>,
    remote: bool,
    mems: String,
}

impl Cpuset {
    /// Returns the names of the files; exclusive lists and remote partitions came with 6.7.
    pub fn files(root: bool, kernel: Kernel) -> Vec<&'static str> {
        let mut names = vec!["cpuset.cpus.effective"];
        if !root {
            names.extend(["cpuset.cpus", "cpuset.cpus.partition", "cpuset.mems"]);
        }
        if kernel >= Kernel(6, 7) {
            names.extend(match root {
                true => ["cpuset.cpus.isolated"].as_slice(),
                false => &["cpuset.cpus.exclusive", "cpuset.cpus.exclusive.effective"],
            });
        }
        names
    }

    fn is_valid(&self) -> bool {
        self.partition != Partition::Member && self.invalid.is_none()
    }

    /// Returns the CPUs that a partition would be made of.
    fn wanted(&self) -> &CpuSet {
        match self.exclusive.is_empty() {
            true => &self.cpus,
            false => &self.exclusive,
        }
    }

    fn verdict(&self) -> String {
        let name = match self.partition {
            Partition::Member => "member",
            Partition::Root => "root",
            Partition::Isolated => "isolated",
        };
        match self.invalid {
            Some(reason) if self.partition != Partition::Member => {
                format!("{name} invalid ({reason})")
            }
            _ => name.to_owned(),
        }
    }
}

/// What valid partitions took from the root.
#[derive(Debug, Clone)]
pub struct Taken {
    all: CpuSet,
    isolated: CpuSet,
}

impl State {
    fn cpuset(&self, group: &str) -> &Cpuset {
        self.cgroups[group]
            .cpuset
            .as_ref()
            .expect("the group's cpuset")
    }

    fn cpuset_mut(&mut self, group: &str) -> &mut Cpuset {
        self.taken.take();
        let group = self.cgroups.get_mut(group).expect("the group");
        group.cpuset.as_mut().expect("the group's cpuset")
    }

    fn cpuset_groups(&self) -> Vec<String> {
        let with = self
            .cgroups
            .iter()
            .filter(|(_, group)| group.cpuset.is_some());
        with.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the group whose cpuset counts for `group`: its own or the nearest above.
    pub fn cpuset_group<'a>(&self, group: &'a str) -> &'a str {
        let mut group = group;
        while self.cgroups[group].cpuset.is_none() {
            group = parent(group).expect("the root has a cpuset");
        }
        group
    }

    pub fn effective_cpus(&self, group: &str) -> CpuSet {
        self.cpuset(self.cpuset_group(group)).effective.clone()
    }

    /// Returns the CPUs that valid partitions took from the root (`cpuset.cpus.subpartitions`).
    pub fn partition_cpus(&self) -> CpuSet {
        self.taken().all
    }

    pub fn isolated_cpus(&self) -> CpuSet {
        self.taken().isolated.union(&self.cpus.boot_isolated)
    }

    /// Asked for each task: so it is remembered until a cpuset changes.
    fn taken(&self) -> Taken {
        let known = self.taken.get_or_init(|| Taken {
            all: self.taken_from_root(|_| true),
            isolated: self.taken_from_root(|cpuset| cpuset.partition == Partition::Isolated),
        });
        known.clone()
    }

    fn taken_from_root(&self, keep: impl Fn(&Cpuset) -> bool) -> CpuSet {
        let below_root = self.cgroups.iter().filter(|(name, _)| !name.is_empty());
        let cpusets = below_root.filter_map(|(_, group)| group.cpuset.as_ref());
        let mut taken = CpuSet::new();
        for cpuset in cpusets.filter(|cpuset| cpuset.is_valid() && keep(cpuset)) {
            taken = taken.union(&cpuset.exclusive_effective);
        }
        taken
    }

    pub fn cpuset_read(&self, group: &str, file: &str) -> io::Result<String> {
        let this = self.cpuset(group);
        let text = match file {
            "cpuset.cpus" => this.cpus.to_string(),
            "cpuset.cpus.effective" => this.effective.to_string(),
            "cpuset.cpus.exclusive" => this.exclusive.to_string(),
            "cpuset.cpus.exclusive.effective" => this.exclusive_effective.to_string(),
            "cpuset.cpus.isolated" => self.isolated_cpus().to_string(),
            "cpuset.cpus.partition" => this.verdict(),
            "cpuset.mems" => this.mems.clone(),
            _ => return Err(errno(libc::ENOENT)),
        };
        Ok(text + "\n")
    }

    pub fn cpuset_write(&mut self, group: &str, file: &str, text: &str) -> io::Result<()> {
        match file {
            "cpuset.cpus" => self.write_cpus(group, text)?,
            "cpuset.cpus.exclusive" => self.write_exclusive(group, text)?,
            "cpuset.cpus.partition" => self.write_partition(group, text)?,
            "cpuset.mems" => self.write_mems(group, text)?,
            _ => return Err(errno(libc::EINVAL)),
        }
        self.cpusets_changed();
        Ok(())
    }

    fn write_mems(&mut self, group: &str, text: &str) -> io::Result<()> {
        let is_emptied = text.trim().is_empty() && !self.cpuset(group).mems.is_empty();
        // As of the list of CPUs.
        if self.kernel < Kernel(7, 0) && is_emptied && self.is_populated(group) {
            return Err(errno(libc::ENOSPC));
        }
        text.trim().clone_into(&mut self.cpuset_mut(group).mems);
        Ok(())
    }

    fn write_cpus(&mut self, group: &str, text: &str) -> io::Result<()> {
        let cpus = parse_cpulist(text, self.cpus.n_possible())?;
        // Recorded: in 6.12 a list once written can only be emptied in a group without tasks.
        if self.kernel < Kernel(7, 0)
            && cpus.is_empty()
            && !self.cpuset(group).cpus.is_empty()
            && self.is_populated(group)
        {
            return Err(errno(libc::ENOSPC));
        }
        self.cpuset_mut(group).cpus = cpus;
        if self.cpuset(group).is_valid() && !self.cpuset(group).remote {
            self.enable_partition(group);
        }
        Ok(())
    }

    fn write_exclusive(&mut self, group: &str, text: &str) -> io::Result<()> {
        let cpus = parse_cpulist(text, self.cpus.n_possible())?;
        if self.cpuset(group).exclusive == cpus {
            return Ok(());
        }
        if self.conflicts_with_sibling(group, &cpus) {
            return Err(errno(libc::EINVAL));
        }
        self.cpuset_mut(group).exclusive = cpus;
        self.blame_parents_below(group);
        let nothing_granted = self.granted(group).is_empty();
        let this = self.cpuset_mut(group);
        if this.invalid.is_some() && nothing_granted {
            this.invalid = Some(INVALID_CPUS);
        }
        if self.cpuset(group).is_valid() {
            self.enable_partition(group);
        }
        Ok(())
    }

    /// Exclusive lists of siblings do not overlap each other or a sibling that is a partition,
    /// and do not cover a sibling's `cpuset.cpus`.
    fn conflicts_with_sibling(&self, group: &str, cpus: &CpuSet) -> bool {
        let siblings = self.children(parent(group).unwrap_or(""));
        let mut others = siblings
            .iter()
            .filter(|sibling| *sibling != group && !cpus.is_empty());
        others.any(|sibling| match self.cpuset(sibling) {
            this if !this.exclusive.is_empty() => !this.exclusive.is_disjoint(cpus),
            this if this.is_valid() => !this.exclusive_effective.is_disjoint(cpus),
            this => !this.cpus.is_empty() && this.cpus.is_subset(cpus),
        })
    }

    /// Gives the invalid partitions below a group whose CPUs changed their new reason.
    fn blame_parents_below(&mut self, above: &str) {
        for group in self
            .subtree(above)
            .into_iter()
            .filter(|group| group != above)
        {
            if self.cgroups[&group].cpuset.is_none() {
                continue;
            }
            let above = self.cpuset(parent(&group).unwrap_or(""));
            let (member, valid) = (above.partition == Partition::Member, above.is_valid());
            let this = self.cpuset_mut(&group);
            if this.invalid.is_some() && !valid {
                this.invalid = Some(if member {
                    PARENT_NO_PARTITION
                } else {
                    INVALID_PARENT
                });
            }
        }
    }

    fn write_partition(&mut self, group: &str, text: &str) -> io::Result<()> {
        let partition = match text.trim() {
            "member" => Partition::Member,
            "root" => Partition::Root,
            "isolated" => Partition::Isolated,
            _ => return Err(errno(libc::EINVAL)),
        };
        let this = self.cpuset_mut(group);
        if this.partition == partition && this.invalid.is_none() {
            return Ok(());
        }
        let was_valid = this.is_valid();
        this.partition = partition;
        match partition {
            Partition::Member => this.invalid = None,
            // Between the two valid types only the load balancing changes.
            _ if was_valid => {}
            _ => self.enable_partition(group),
        }
        Ok(())
    }

    /// Makes the partition that the group asks for valid, or says why not.
    fn enable_partition(&mut self, group: &str) {
        let above = parent(group).unwrap_or("");
        let local = above.is_empty() || self.cpuset(above).is_valid();
        self.cpuset_mut(group).invalid = Some(INVALID_CPUS);
        let granted = self.granted(group);
        let invalid = self.objection(group, &granted, local);
        let this = self.cpuset_mut(group);
        this.invalid = invalid;
        this.remote = !local && invalid.is_none();
        if invalid.is_none() {
            this.exclusive_effective = granted;
        }
    }

    /// Returns the exclusive CPUs that the groups above let the group have.
    fn granted(&self, group: &str) -> CpuSet {
        let above = parent(group).unwrap_or("");
        let wanted = self.cpuset(group).wanted();
        match above.is_empty() {
            true => wanted.clone(),
            false => wanted.intersection(&self.cpuset(above).exclusive_effective),
        }
    }

    fn objection(&self, group: &str, granted: &CpuSet, local: bool) -> Option<&'static str> {
        let this = self.cpuset(group);
        let taken = self.partition_cpus();
        let root = &self.cpuset("").effective;
        let at_root = parent(group) == Some("");
        if this.wanted().is_empty() {
            return Some(EMPTY);
        }
        if at_root && !this.exclusive.is_disjoint(&taken) {
            return Some(REMOTE_BELOW);
        }
        if this.partition == Partition::Root && !granted.is_disjoint(&self.cpus.boot_isolated) {
            return Some(HOUSEKEEPING);
        }
        let usable = !granted.is_disjoint(&self.cpus.online);
        let free = !local || at_root;
        match () {
            () if !usable || free && !granted.is_disjoint(&taken) => Some(INVALID_CPUS),
            () if free && root.is_subset(granted) => {
                Some(if local { NO_CPUS } else { INVALID_CPUS })
            }
            () => None,
        }
    }

    /// Starts the controller in a group: nothing is set.
    pub fn cpuset_online(&mut self, group: &str) {
        let fresh = Cpuset::default();
        self.taken.take();
        self.cgroups.get_mut(group).expect("the group").cpuset = Some(fresh);
    }

    /// Ends the controller in a group; a partition of it gives its CPUs back.
    pub fn cpuset_offline(&mut self, group: &str) {
        self.taken.take();
        self.cgroups.get_mut(group).expect("the group").cpuset = None;
    }

    /// Tells whether a partition has no other online CPU than this one.
    pub fn is_last_of_partition(&self, cpu: CpuId) -> bool {
        let last = CpuSet::of(cpu);
        let groups = self.cpuset_groups();
        let mut partitions = groups
            .iter()
            .filter(|group| !group.is_empty() && self.cpuset(group).is_valid());
        partitions.any(|group| self.cpuset(group).effective == last)
    }

    /// Follows CPUs that went offline or came online: a partition with tasks and without a CPU
    /// becomes invalid, and stays so when its CPUs return.
    pub fn cpusets_after_hotplug(&mut self) {
        let groups = self.cpuset_groups();
        let empty = |group: &&String| {
            let this = self.cpuset(group);
            let none_left = this.exclusive_effective.is_disjoint(&self.cpus.online);
            this.is_valid() && none_left && self.is_populated(group)
        };
        let invalid: Vec<String> = groups.iter().filter(empty).cloned().collect();
        for group in &invalid {
            self.cpuset_mut(group).invalid = Some(NO_CPU_HOTPLUG);
        }
        self.recompute_effective();
        // Recorded: the tasks of it are forgotten until the next change.
        for group in &invalid {
            self.keep_masks_below(group);
        }
        self.refresh_masks();
    }

    /// Recomputes what is effective in every group, then the masks of the tasks in them.
    pub fn cpusets_changed(&mut self) {
        self.recompute_effective();
        self.refresh_masks();
    }

    pub fn recompute_effective(&mut self) {
        for group in self.cpuset_groups() {
            self.refresh_exclusive(&group);
        }
        for group in self.cpuset_groups() {
            let effective = self.compute_effective(&group);
            self.cpuset_mut(&group).effective = effective;
        }
        let isolated = self.isolated_cpus();
        self.workqueue.isolate(isolated);
        self.rescuers_follow();
    }

    fn refresh_exclusive(&mut self, group: &str) {
        if group.is_empty() {
            let possible = self.cpus.possible.clone();
            self.cpuset_mut(group).exclusive_effective = possible;
            return;
        }
        let above = parent(group).unwrap_or("");
        let parent_valid = above.is_empty() || self.cpuset(above).is_valid();
        let lists_only = self.kernel < Kernel(7, 0);
        let granted = self.granted(group);
        let this = self.cpuset_mut(group);
        if this.is_valid() && !this.remote && !parent_valid {
            this.invalid = Some(INVALID_PARENT);
        }
        // In 6.12 a remote partition lives by its own exclusive list, later also by its CPUs.
        let nothing = granted.is_empty() || this.exclusive.is_empty() && lists_only;
        if this.is_valid() && this.remote && nothing {
            this.invalid = Some(PARENT_NO_PARTITION);
        }
        let counts = this.is_valid() || !this.exclusive.is_empty();
        this.exclusive_effective = if counts { granted } else { CpuSet::new() };
    }

    fn compute_effective(&self, group: &str) -> CpuSet {
        let online = &self.cpus.online;
        let this = self.cpuset(group);
        if group.is_empty() {
            return online.difference(&self.partition_cpus());
        }
        if this.is_valid() {
            let own = this.exclusive_effective.intersection(online);
            return own.difference(&self.taken_by_children(group));
        }
        let above = &self.cpuset(parent(group).unwrap_or("")).effective;
        let cut = this.cpus.intersection(above);
        if cut.is_empty() { above.clone() } else { cut }
    }

    fn taken_by_children(&self, group: &str) -> CpuSet {
        let mut taken = CpuSet::new();
        for child in self.children(group) {
            if let Some(cpuset) = self.cgroups[&child]
                .cpuset
                .as_ref()
                .filter(|cpuset| cpuset.is_valid())
            {
                taken.extend(cpuset.exclusive_effective.iter());
            }
        }
        taken
    }
}
