//! Containers as LXC makes them, and what PVE's pvestatd does with their CPUs.

use std::collections::BTreeSet;

use pin_hook::domain::cpuset::{CpuId, CpuSet};

use super::cgroup::CONTROLLERS;
use super::{Sim, State, TaskSpec, cpus};

const GROUPS: &str = "/sys/fs/cgroup/lxc";

impl State {
    /// LXC keeps its groups outside of systemd, with every controller enabled from the root down.
    pub fn start_container(&mut self, ctid: u32) {
        let all = BTreeSet::from_iter(0..CONTROLLERS.len());
        for group in ["", "/lxc", "/lxc.monitor"] {
            if !self.cgroups.contains_key(group) {
                self.cgroup_make(group).expect("a new group");
            }
            if group != "/lxc.monitor" {
                self.set_subtree_control(group, all.clone());
            }
        }
        let (group, monitor) = (format!("/lxc/{ctid}"), format!("/lxc.monitor/{ctid}"));
        for group in [&group, &monitor] {
            self.cgroup_make(group).expect("a new group");
        }
        self.set_subtree_control(&group, all);
        let inner = format!("{group}/ns");
        self.cgroup_make(&inner).expect("a new group");
        let parent = self.spawn(TaskSpec::named("lxc-start").in_cgroup(&monitor));
        self.spawn(TaskSpec {
            ppid: parent,
            ..TaskSpec::named("init").in_cgroup(&inner)
        });
    }
}

impl Sim {
    /// PVE starts a container with such a config on CPUs that it has chosen; none without `cores:`.
    pub fn start_container(&self, ctid: u32, conf: &str, list: &str) {
        self.put(&format!("/etc/pve/nodes/pve1/lxc/{ctid}.conf"), conf);
        self.state().start_container(ctid);
        if !list.is_empty() {
            self.set_container_cpus(&format!("{ctid}"), &cpus(list));
        }
    }

    /// A container ends; its config stays.
    pub fn stop_container(&self, ctid: u32) {
        let groups = [
            format!("/lxc/{ctid}/ns"),
            format!("/lxc/{ctid}"),
            format!("/lxc.monitor/{ctid}"),
        ];
        for group in groups {
            let mut state = self.state();
            let tasks: Vec<i32> = {
                let inside = state.tasks.iter().filter(|task| task.cgroup == group);
                inside.map(|task| task.tid).collect()
            };
            tasks.into_iter().for_each(|tid| state.end_task(tid));
            state.cgroup_remove(&group).expect("an empty group");
        }
    }

    /// Returns the CPUs that a container and the group in it ask for.
    pub fn container_cpus(&self, ctid: u32) -> [String; 2] {
        ["", "/ns"].map(|inner| {
            let text = self.get(&format!("{GROUPS}/{ctid}{inner}/cpuset.cpus"));
            text.trim().to_owned()
        })
    }

    fn set_container_cpus(&self, group: &str, list: &CpuSet) {
        let path = format!("{GROUPS}/{group}/cpuset.cpus");
        self.poke(&path, &list.to_string())
            .expect("a list that the kernel takes");
    }

    /// One round of pvestatd; returns the containers that it changed.
    ///
    /// It gives each container as many CPUs as `cores:` says, all that the root has without, and
    /// moves those with `cores:` to CPUs that at least two containers less have.
    pub fn pvestatd(&self) -> Vec<u32> {
        let all = cpus(self.get("/sys/fs/cgroup/cpuset.cpus.effective").trim());
        let mut round = Round {
            all: all.clone(),
            containers: Vec::new(),
        };
        let names = self
            .state()
            .list("/etc/pve/nodes/pve1/lxc")
            .unwrap_or_default();
        for ctid in names
            .iter()
            .filter_map(|name| name.strip_suffix(".conf")?.parse().ok())
        {
            round.containers.extend(self.read_container(ctid, &all));
        }
        round.size();
        round.balance();
        let changed = round
            .containers
            .iter()
            .filter(|container| container.list != container.before);
        let changed: Vec<&Counted> = changed.collect();
        for Counted { ctid, list, .. } in &changed {
            self.set_container_cpus(&format!("{ctid}/ns"), list);
            self.set_container_cpus(&format!("{ctid}"), list);
        }
        changed.iter().map(|container| container.ctid).collect()
    }

    fn read_container(&self, ctid: u32, all: &CpuSet) -> Option<Counted> {
        self.state()
            .exists(&format!("{GROUPS}/{ctid}/ns"))
            .then_some(())?;
        let conf = self.get(&format!("/etc/pve/nodes/pve1/lxc/{ctid}.conf"));
        let cores = conf
            .lines()
            .find_map(|line| line.strip_prefix("cores: ")?.parse().ok());
        let list = cpus(&self.container_cpus(ctid)[0]);
        Some(Counted {
            ctid,
            before: list.clone(),
            list,
            n: cores.map_or(all.len(), |n: usize| n.min(all.len())),
            is_pinned: conf.contains("cpuset.cpus"),
        })
    }
}

struct Counted {
    ctid: u32,
    before: CpuSet,
    list: CpuSet,
    n: usize,
    is_pinned: bool,
}

struct Round {
    all: CpuSet,
    containers: Vec<Counted>,
}

impl Round {
    fn size(&mut self) {
        for container in self
            .containers
            .iter_mut()
            .filter(|container| !container.is_pinned)
        {
            let more = self.all.difference(&container.list);
            let list = container.list.iter().chain(more.iter());
            container.list = list.take(container.n).collect();
        }
    }

    fn balance(&mut self) {
        let mut count = [0; 1024];
        let lists = self
            .containers
            .iter()
            .flat_map(|container| container.list.iter());
        lists.for_each(|CpuId(cpu)| count[cpu as usize] += 1);
        let n_all = self.all.len();
        let limited = self.containers.iter_mut();
        for container in limited.filter(|container| !container.is_pinned && container.n < n_all) {
            let rest = self.all.difference(&container.list);
            let members: Vec<CpuId> = container.list.iter().collect();
            let moved = members.into_iter().map(|cpu| {
                let mut best = cpu;
                for other in rest.iter() {
                    if count[other.0 as usize] + 1 < count[best.0 as usize] {
                        best = other;
                    }
                }
                count[cpu.0 as usize] -= 1;
                count[best.0 as usize] += 1;
                best
            });
            container.list = moved.collect();
        }
    }
}
