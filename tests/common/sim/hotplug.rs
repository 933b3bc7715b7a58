//! CPUs: where they sit, and their going offline and online (`/sys/devices/system/cpu`).

use std::io;

use pin_hook::domain::cpuset::{CpuId, CpuSet};

use super::task::{Task, Tasks};
use super::{Kernel, Sim, State, errno};

const DIR: &str = "/sys/devices/system/cpu/";
const POLICY: &str = "/sys/devices/system/cpu/cpufreq/policy";

/// Where a CPU sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub package: u32,
    pub core: u32,
    pub llc: u32,
    pub node: u32,
}

/// The CPUs of the machine.
#[derive(Debug, Clone, Default)]
pub struct Cpus {
    pub possible: CpuSet,
    /// CPUs that are there, online or not.
    pub present: CpuSet,
    pub online: CpuSet,
    /// `isolcpus=` of the kernel's command line.
    pub boot_isolated: CpuSet,
    pub seats: Vec<Seat>,
}

impl Cpus {
    pub fn n_possible(&self) -> u32 {
        self.possible.last().map_or(1, |last| last.0 + 1)
    }

    pub fn nodes_online(&self) -> CpuSet {
        self.seats.iter().map(|seat| CpuId(seat.node)).collect()
    }

    fn seat(&self, cpu: CpuId) -> Seat {
        self.seats[cpu.0 as usize]
    }

    /// Returns the online CPUs whose seat has the same `key`.
    fn online_with<K: PartialEq>(&self, cpu: CpuId, key: impl Fn(Seat) -> K) -> CpuSet {
        let own = key(self.seat(cpu));
        self.online
            .iter()
            .filter(|&other| key(self.seat(other)) == own)
            .collect()
    }

    fn online_of_node(&self, node: u32) -> CpuSet {
        let of_node = |cpu: &CpuId| self.seat(*cpu).node == node;
        self.online.iter().filter(of_node).collect()
    }

    /// Returns the kernel threads that this kernel gives the CPUs of their node, with that.
    fn given_threads(&self, tasks: &Tasks, kernel: Kernel) -> Vec<(i32, u32)> {
        let names: &[&str] = match kernel >= Kernel(7, 0) {
            true => &["kcompactd", "kswapd"],
            false => &["kcompactd"],
        };
        let node = |task: &Task| {
            let mut nodes = names
                .iter()
                .filter_map(|name| task.comm.strip_prefix(name)?.parse().ok());
            nodes.next()
        };
        let given = tasks
            .iter()
            .filter_map(|task| Some((task.tid, node(task)?)));
        given.collect()
    }

    /// Returns the CPU whose `online` file `path` is; CPU 0 has none on x86.
    fn switch_of(&self, path: &str) -> Option<CpuId> {
        let name = path.strip_prefix(DIR)?.strip_suffix("/online")?;
        let cpu = CpuId(name.strip_prefix("cpu")?.parse().ok()?);
        (cpu.0 > 0 && self.present.contains(cpu)).then_some(cpu)
    }
}

impl State {
    /// Reads a file that changes with hotplug, when `path` is one.
    pub fn cpu_read(&self, path: &str) -> Option<String> {
        let cpus = &self.cpus;
        if let Some(cpu) = cpus.switch_of(path) {
            return Some(format!("{}\n", u8::from(cpus.online.contains(cpu))));
        }
        let list = match path.strip_prefix(DIR)? {
            "possible" => cpus.possible.clone(),
            "present" => cpus.present.clone(),
            "online" => cpus.online.clone(),
            "offline" => cpus.possible.difference(&cpus.online),
            "isolated" => cpus.boot_isolated.clone(),
            _ => return None,
        };
        Some(format!("{list}\n"))
    }

    /// Switches a CPU, when `path` is its `online` file.
    pub fn cpu_write(&mut self, path: &str, text: &str) -> Option<io::Result<()>> {
        if let Some(cpu) = self.cpus.switch_of(path) {
            return Some(match text.trim() {
                "0" => self.take_offline(cpu),
                "1" => {
                    if !self.cpus.online.contains(cpu) {
                        self.cpus.online.insert(cpu);
                        self.after_hotplug();
                        self.node_threads_after_online();
                    }
                    Ok(())
                }
                _ => Err(errno(libc::EINVAL)),
            });
        }
        self.cpu_read(path).map(|_| Err(errno(libc::EACCES)))
    }

    /// Refuses files of a cpufreq policy whose CPUs are offline (`show()` in `cpufreq.c`).
    pub fn vet_policy(&self, path: &str) -> io::Result<()> {
        let below = path
            .strip_prefix(POLICY)
            .and_then(|rest| rest.split_once('/'));
        let number = below.map_or("", |(number, _)| number);
        let Ok(cpus) = self.tree.read(&format!("{POLICY}{number}/affected_cpus")) else {
            return Ok(());
        };
        let mut cpus = cpus.split_whitespace().filter_map(|cpu| cpu.parse().ok());
        match cpus.any(|cpu| self.cpus.online.contains(CpuId(cpu))) {
            true => Ok(()),
            false => Err(errno(libc::EBUSY)),
        }
    }

    /// Refuses preferences other than its own under the governor `performance`
    /// (`store_energy_performance_preference()` in `intel_pstate.c`).
    pub fn vet_preference(&self, path: &str, text: &str) -> io::Result<()> {
        let Some((dir, "energy_performance_preference")) = path.rsplit_once('/') else {
            return Ok(());
        };
        let governor = self
            .tree
            .read(&format!("{dir}/scaling_governor"))
            .unwrap_or_default();
        match governor.trim() == "performance" && text.trim() != "performance" {
            true => Err(errno(libc::EBUSY)),
            false => Ok(()),
        }
    }

    /// The kernel loads the module of a governor when it is written; from then on it is listed.
    pub fn load_governor(&mut self, path: &str, text: &str) {
        let Some((dir, "scaling_governor")) = path.rsplit_once('/') else {
            return;
        };
        let listed = |dir: &str| format!("{dir}/scaling_available_governors");
        let names = self.tree.read(&listed(dir)).unwrap_or_default();
        let word = text.trim();
        if names.split_whitespace().any(|name| name == word) {
            return;
        }
        for cpu in self.cpus.present.clone().iter() {
            let path = listed(&format!("{POLICY}{cpu}"));
            if self.tree.get(&path).is_some() {
                self.tree.put(&path, &format!("{word} {names}"), 0o444);
            }
        }
    }

    fn take_offline(&mut self, cpu: CpuId) -> io::Result<()> {
        // Recorded: in 6.12 the last CPU of a partition does not go.
        if self.kernel < Kernel(7, 0) && self.is_last_of_partition(cpu) {
            return Err(errno(libc::EBUSY));
        }
        self.cpus.online = self.cpus.online.difference(&CpuSet::of(cpu));
        self.after_hotplug();
        let is_lost = |task: &&Task| task.spins && task.mask.is_disjoint(&self.cpus.online);
        let lost: Vec<i32> = self
            .tasks
            .iter()
            .filter(is_lost)
            .map(|task| task.tid)
            .collect();
        self.forget_affinity_of(&lost);
        // Recorded: it wakes up twice a second.
        let woken = |task: &&Task| task.comm.starts_with("kcompactd");
        let woken: Vec<i32> = self
            .tasks
            .iter()
            .filter(woken)
            .map(|task| task.tid)
            .collect();
        woken.into_iter().for_each(|tid| self.wake_kthread(tid));
        Ok(())
    }

    /// A kernel thread that wakes up without an online CPU is given every one, those of partitions
    /// too, and what it asked for is forgotten (recorded: 6.12 and 7.3).
    pub fn wake_kthread(&mut self, tid: i32) {
        let Cpus {
            possible, online, ..
        } = self.cpus.clone();
        let task = self.tasks.get_mut(tid).expect("the thread");
        if task.mask.is_disjoint(&online) {
            task.requested = None;
            task.mask = possible;
        }
    }

    /// When a CPU comes online the kernel gives threads of a node the online CPUs of that, as far as
    /// they asked for any of them (recorded: `kcompactd`, whatever partitions there are, in 6.12; all in
    /// 7.3, without those of isolated partitions).
    fn node_threads_after_online(&mut self) {
        let isolated = match self.kernel >= Kernel(7, 0) {
            true => self.isolated_cpus(),
            false => CpuSet::new(),
        };
        let all = self.cpus.possible.difference(&isolated);
        for task in self.cpus.given_threads(&self.tasks, self.kernel) {
            let (tid, node) = task;
            let near = self.cpus.online_of_node(node).difference(&isolated);
            let near = if near.is_empty() { all.clone() } else { near };
            let task = self.tasks.get_mut(tid).expect("the thread");
            let asked = task
                .requested
                .as_ref()
                .map(|asked| asked.intersection(&near));
            let asked = asked.filter(|asked| !asked.is_empty());
            task.mask = asked.unwrap_or(near);
        }
    }

    /// Tasks keep their masks: only one that runs or wakes up without an online CPU is given others
    /// (6.12: pinned to CPU 4, it may run on 0-7 afterwards).
    fn after_hotplug(&mut self) {
        self.cpusets_after_hotplug();
        self.irqs_after_hotplug();
        self.put_topology();
        self.policies_after_hotplug();
    }

    /// A policy is that of its online CPUs; one that has none left keeps its last, unreadable.
    fn policies_after_hotplug(&mut self) {
        for cpu in self.cpus.present.clone().iter() {
            let policy = format!("{POLICY}{cpu}");
            let Ok(related) = self.tree.read(&format!("{policy}/related_cpus")) else {
                continue;
            };
            let online = related.split_whitespace().filter(|cpu| {
                let cpu = cpu.parse().expect("a cpu");
                self.cpus.online.contains(CpuId(cpu))
            });
            let online: Vec<&str> = online.collect();
            if !online.is_empty() {
                let text = format!("{}\n", online.join(" "));
                self.tree
                    .put(&format!("{policy}/affected_cpus"), &text, 0o444);
            }
        }
    }

    /// Puts the topology files of the online CPUs and takes away those of the others.
    pub fn put_topology(&mut self) {
        for cpu in self.cpus.present.clone().iter() {
            let dir = format!("{DIR}cpu{cpu}");
            self.tree.put_dir(&dir);
            self.tree.remove_all(&format!("{dir}/topology"));
            self.tree.remove_all(&format!("{dir}/cache"));
            if self.cpus.online.contains(cpu) {
                self.put_seat(cpu, &dir);
                self.put_caches(cpu, &dir);
            }
        }
        for node in self.cpus.nodes_online().iter() {
            let all = self.cpus.online.iter();
            let cpus: CpuSet = all
                .filter(|&cpu| self.cpus.seat(cpu).node == node.0)
                .collect();
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            self.tree.put(&path, &format!("{cpus}\n"), 0o444);
        }
        // Of a CPU that is offline the link stays.
        for cpu in self.cpus.present.iter() {
            let node = self.cpus.seat(cpu).node;
            let link = format!("/sys/devices/system/node/node{node}/cpu{cpu}");
            self.tree.put_link(&link, &format!("../../cpu/cpu{cpu}"));
        }
        self.put_cpuinfo();
    }

    fn put_seat(&mut self, cpu: CpuId, dir: &str) {
        let Seat {
            package, core, llc, ..
        } = self.cpus.seat(cpu);
        let siblings = self.cpus.online_with(cpu, |seat| (seat.package, seat.core));
        let die = self.cpus.online_with(cpu, |seat| (seat.package, seat.llc));
        let whole = self.cpus.online_with(cpu, |seat| seat.package);
        for (file, text) in [
            ("physical_package_id", package.to_string()),
            ("core_id", core.to_string()),
            ("die_id", llc.to_string()),
            ("core_cpus_list", siblings.to_string()),
            ("thread_siblings_list", siblings.to_string()),
            ("die_cpus_list", die.to_string()),
            ("package_cpus_list", whole.to_string()),
            ("core_siblings_list", whole.to_string()),
        ] {
            self.tree.put(
                &format!("{dir}/topology/{file}"),
                &format!("{text}\n"),
                0o444,
            );
        }
    }

    fn put_caches(&mut self, cpu: CpuId, dir: &str) {
        let siblings = self
            .cpus
            .online_with(cpu, |seat| (seat.package, seat.core))
            .to_string();
        let shared = self
            .cpus
            .online_with(cpu, |seat| (seat.package, seat.llc))
            .to_string();
        for (index, level, kind, size, cpus) in [
            (0, "1", "Data", "32K", &siblings),
            (1, "1", "Instruction", "32K", &siblings),
            (2, "2", "Unified", "512K", &siblings),
            (3, "3", "Unified", "16384K", &shared),
        ] {
            for (file, text) in [
                ("level", level),
                ("type", kind),
                ("size", size),
                ("shared_cpu_list", cpus),
            ] {
                let path = format!("{dir}/cache/index{index}/{file}");
                self.tree.put(&path, &format!("{text}\n"), 0o444);
            }
        }
    }

    fn put_cpuinfo(&mut self) {
        let block = |cpu: CpuId| {
            let Seat { package, core, .. } = self.cpus.seat(cpu);
            format!(
                "processor\t: {cpu}\nvendor_id\t: AuthenticAMD\nphysical id\t: {package}\ncore id\t\t: {core}\n\n"
            )
        };
        let text: String = self.cpus.online.iter().map(block).collect();
        self.tree.put("/proc/cpuinfo", &text, 0o444);
    }
}

impl Sim {
    /// Removes a cpufreq policy.
    pub fn remove_policy(&self, number: u32) {
        self.state().tree.remove_all(&format!("{POLICY}{number}"));
    }

    /// Takes a CPU offline or online as an administrator would.
    pub fn set_online(&self, cpu: u32, online: bool) -> io::Result<()> {
        let text = if online { "1" } else { "0" };
        self.poke(&format!("{DIR}cpu{cpu}/online"), text)
    }
}
