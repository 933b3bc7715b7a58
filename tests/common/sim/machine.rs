//! Builds a host: CPUs, groups as systemd makes them, services and kernel threads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pin_hook::domain::cpuset::{CpuId, CpuSet};

use super::cgroup::Cgroup;
use super::hotplug::{Cpus, Seat};
use super::irq::Kind;
use super::task::{PF_KTHREAD, PF_NO_SETAFFINITY, PF_WQ_WORKER, TaskSpec};
use super::{Kernel, Sim, State, cpus};

/// What a host is like; the default is the lab's.
#[derive(Debug, Clone)]
pub struct Machine {
    pub kernel: Kernel,
    pub packages: u32,
    /// Cores of a package.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Last-level caches of a package, one NUMA node each or shared by [`Machine::nodes`].
    pub llcs: u32,
    pub nodes: u32,
    /// Siblings are n and n + number of cores (as on real machines), not n and n + 1.
    pub siblings_apart: bool,
    pub isolcpus: String,
    /// CPUs that the firmware lists and no socket has: possible, and never there.
    pub absent: u32,
    /// CPUs that change their frequency together; each other CPU has a policy of its own.
    pub shared_policy: String,
    pub containers: Vec<u32>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kernel: Kernel::V6_12,
            packages: 2,
            cores: 2,
            threads: 2,
            llcs: 1,
            nodes: 2,
            siblings_apart: false,
            isolcpus: String::new(),
            absent: 0,
            shared_policy: "4-5".to_owned(),
            containers: Vec::new(),
        }
    }
}

impl Machine {
    /// Builds the host.
    pub fn build(&self) -> Sim {
        let seats = self.seats();
        let all: CpuSet = (0u32..).zip(&seats).map(|(cpu, _)| CpuId(cpu)).collect();
        let n_present = all.last().map_or(0, |last| last.0 + 1);
        let possible: CpuSet = (0..n_present + self.absent).map(CpuId).collect();
        let boot_isolated = cpus(&self.isolcpus);
        let mut state = State {
            kernel: self.kernel,
            tree: Default::default(),
            cpus: Cpus {
                possible: possible.clone(),
                present: all.clone(),
                online: all.clone(),
                boot_isolated,
                seats,
            },
            cpufreq: Default::default(),
            taken: Default::default(),
            cgroups: BTreeMap::from([(String::new(), Cgroup::default())]),
            tasks: Default::default(),
            irqs: Default::default(),
            workqueue: Default::default(),
            rooms: Default::default(),
            systemd: Default::default(),
            vms: BTreeMap::new(),
            locks: BTreeMap::new(),
            fate: Default::default(),
            children: Default::default(),
            pci: Default::default(),
            since_boot: Duration::from_secs(100),
            run_room: None,
            run_is_sealed: false,
            limit: Default::default(),
        };
        state.workqueue.request(possible.clone());
        state.workqueue.watchdog = possible.clone();
        state.irqs.default_affinity = possible;
        state.cpuset_online("");
        state.cpusets_changed();
        self.put_files(&mut state);
        state.put_topology();
        put_kernel_threads(&mut state);
        put_groups_and_services(&mut state);
        for ctid in &self.containers {
            state.start_container(*ctid);
        }
        put_irqs(&mut state);
        state.tasks.count_from(2000);
        Sim::new(state)
    }

    fn seats(&self) -> Vec<Seat> {
        let n_cores = self.packages * self.cores;
        let n_cpus = n_cores * self.threads;
        let seat = |cpu: u32| {
            let core = if self.siblings_apart {
                cpu % n_cores
            } else {
                cpu / self.threads
            };
            let package = core / self.cores;
            let llc = core % self.cores * self.llcs / self.cores;
            let node = core * self.nodes / n_cores;
            Seat {
                package,
                core: core % self.cores,
                llc,
                node,
            }
        };
        (0..n_cpus).map(seat).collect()
    }

    fn put_files(&self, state: &mut State) {
        let Kernel(major, minor) = self.kernel;
        let patch = if self.kernel == Kernel::V6_12 { 117 } else { 4 };
        // How an empty set was printed until it was mended.
        let no_cpus = if self.kernel < Kernel(7, 0) {
            "  (null)"
        } else {
            ""
        };
        let isolcpus = match self.isolcpus.as_str() {
            "" => String::new(),
            list => format!(" isolcpus={list}"),
        };
        let all = state.cpus.present.clone();
        let node_list = state.cpus.nodes_online();
        for (path, text) in [
            ("/proc/sys/kernel/osrelease", format!("{major}.{minor}.{patch}-1-pve")),
            ("/proc/sys/kernel/hostname", "pve1".to_owned()),
            ("/etc/hostname", "pve1".to_owned()),
            ("/proc/cmdline", format!("BOOT_IMAGE=/boot/vmlinuz root=/dev/vda rw{isolcpus} quiet")),
            ("/proc/uptime", "100.00 700.00".to_owned()),
            ("/proc/meminfo", "MemTotal:        4012345 kB\nMemFree:         3000000 kB\nMemAvailable:    3500000 kB".to_owned()),
            ("/sys/devices/system/cpu/nohz_full", no_cpus.to_owned()),
            ("/sys/devices/system/cpu/smt/active", u8::from(self.threads > 1).to_string()),
            ("/sys/devices/system/node/online", node_list.to_string()),
            ("/sys/devices/system/node/possible", node_list.to_string()),
            ("/sys/devices/system/node/has_memory", node_list.to_string()),
            ("/proc/sys/kernel/random/boot_id", "3e1a9d0c-6f5e-4d8b-9a51-0c6f5b1e7d11".to_owned()),
        ] {
            state.tree.put(path, &format!("{text}\n"), 0o444);
        }
        put_knobs(state, &all);
        put_policies(state, &all, &cpus(&self.shared_policy));
        put_directories(state);
    }
}

/// Files that take a value and keep it.
fn put_knobs(state: &mut State, all: &CpuSet) {
    let real_time = match state.kernel >= Kernel(7, 0) {
        true => "1000000",
        false => "950000",
    };
    for (path, text) in [
        ("/proc/sys/vm/stat_interval", "1"),
        ("/proc/sys/kernel/sched_rt_runtime_us", real_time),
        ("/proc/sys/kernel/nmi_watchdog", "0"),
        ("/sys/kernel/mm/ksm/run", "0"),
    ] {
        put_number(state, path, text);
    }
    state.tree.put("/run/dbus/system_bus_socket", "\n", 0o644);
    let thp = "/sys/kernel/mm/transparent_hugepage/enabled";
    state
        .tree
        .put_choice(thp, "madvise", &["*always", "*madvise", "*never"]);
    for cpu in all.iter() {
        put_cpu_knobs(state, cpu);
    }
    for node in state.cpus.nodes_online().iter() {
        state.put_pool(node.0);
    }
    state.tree.put("/proc/sys/vm/drop_caches", "", 0o200);
}

/// Puts a file that takes a number.
fn put_number(state: &mut State, path: &str, text: &str) {
    state.tree.put(path, &format!("{text}\n"), 0o644);
    state.tree.take_numbers(path, &[]);
}

fn put_cpu_knobs(state: &mut State, cpu: CpuId) {
    let tree = &mut state.tree;
    let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
    let latency = format!("{dir}/power/pm_qos_resume_latency_us");
    tree.put(&latency, "0\n", 0o644);
    tree.take_numbers(&latency, &["n/a"]);
}

fn put_policies(state: &mut State, all: &CpuSet, shared: &CpuSet) {
    for cpu in all.iter() {
        let own = match shared.contains(cpu) {
            true => shared.intersection(all),
            false => CpuSet::of(cpu),
        };
        let number = own.first().expect("the CPU itself");
        if number == cpu {
            put_policy(state, &own);
        }
        state.tree.put_link(
            &format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq"),
            &format!("../cpufreq/policy{number}"),
        );
    }
}

fn put_policy(state: &mut State, own: &CpuSet) {
    let number = own.first().expect("a policy has CPUs");
    let policy = format!("/sys/devices/system/cpu/cpufreq/policy{number}");
    let governor = format!("{policy}/scaling_governor");
    let governors = ["performance", "powersave", "schedutil"];
    state.tree.put_choice(&governor, "schedutil", &governors);
    let names: Vec<String> = own.iter().map(|cpu| cpu.to_string()).collect();
    let names = format!("{}\n", names.join(" "));
    for (file, text) in [
        ("scaling_available_governors", "performance schedutil \n"),
        ("affected_cpus", &names),
        ("related_cpus", &names),
    ] {
        state.tree.put(&format!("{policy}/{file}"), text, 0o444);
    }
}

fn put_directories(state: &mut State) {
    for dir in [
        "/etc/systemd/system",
        "/usr/lib/systemd/system",
        "/run/systemd/system",
        "/run/systemd/system.control",
        "/run/systemd/transient",
        "/run/qemu-server",
        "/etc/pve/nodes/pve1/qemu-server",
        "/etc/pve/nodes/pve1/lxc",
        "/etc/pin-hook",
        "/tmp",
    ] {
        state.tree.put_dir(dir);
    }
    state.tree.put_link("/var/run", "/run");
    state
        .tree
        .put_link("/etc/pve/qemu-server", "nodes/pve1/qemu-server");
    state.tree.put_link("/etc/pve/lxc", "nodes/pve1/lxc");
    state.tree.put_link("/etc/pve/local", "nodes/pve1");
}

fn put_kernel_threads(state: &mut State) {
    let kthread = |name: &str| TaskSpec::named(name).kthread(false);
    state.spawn(TaskSpec {
        ppid: 0,
        tid: Some(1),
        ..TaskSpec::named("systemd")
    });
    state.spawn(TaskSpec {
        ppid: 0,
        tid: Some(2),
        flags: PF_KTHREAD,
        ..TaskSpec::named("kthreadd")
    });
    for name in [
        "rcu_preempt",
        "rcu_tasks_kthre",
        "khungtaskd",
        "oom_reaper",
        "kauditd",
        "khugepaged",
    ] {
        state.spawn(kthread(name));
    }
    for cpu in state.cpus.present.clone().iter() {
        put_cpu_threads(state, cpu);
    }
    for queue in ["nvme-wq", "writeback"] {
        let dir = format!("/sys/devices/virtual/workqueue/{queue}");
        state.tree.put_dir(&dir);
        state.put_queue(queue);
    }
    for node in state.cpus.nodes_online().iter() {
        let of_node = |cpu: &CpuId| state.cpus.seats[cpu.0 as usize].node == node.0;
        let mask: CpuSet = state.cpus.present.iter().filter(of_node).collect();
        for name in ["kswapd", "kcompactd"].map(|name| format!("{name}{node}")) {
            state.spawn(kthread(&name).on_cpus(mask.clone()));
        }
    }
}

/// Starts the kernel threads of a CPU: they refuse other masks.
fn put_cpu_threads(state: &mut State, cpu: CpuId) {
    let bound = |name: &str| TaskSpec::named(name).kthread(true).on_cpus(CpuSet::of(cpu));
    for name in ["cpuhp", "migration", "ksoftirqd"] {
        state.spawn(bound(&format!("{name}/{cpu}")));
    }
    let flags = PF_KTHREAD | PF_NO_SETAFFINITY | PF_WQ_WORKER;
    let kworker = bound(&format!("kworker/{cpu}:0"));
    state.spawn(TaskSpec { flags, ..kworker });
}

/// Makes the groups of a PVE host before its first VM.
fn put_groups_and_services(state: &mut State) {
    state.put_root_controllers();
    for slice in [
        "/system.slice",
        "/user.slice",
        "/qemu.slice",
        "/user.slice/user-0.slice",
    ] {
        state.put_slice(slice);
    }
    state.cgroup_make("/init.scope").expect("a new group");
    for (service, comm) in [
        ("systemd-journald", "systemd-journal"),
        ("dbus", "dbus-daemon"),
        ("irqbalance", "irqbalance"),
        ("pvedaemon", "pvedaemon"),
        ("pvestatd", "pvestatd"),
    ] {
        let group = format!("/system.slice/{service}.service");
        state.cgroup_make(&group).expect("a new group");
        state.spawn(TaskSpec::named(comm).in_cgroup(&group));
    }
    let session = "/user.slice/user-0.slice/session-1.scope";
    state.cgroup_make(session).expect("a new group");
    state.spawn(TaskSpec::named("bash").in_cgroup(session));
    state
        .cgroup_write("/init.scope/cgroup.procs", "1")
        .expect("systemd moves itself");
}

/// Interrupts as in the lab: legacy ones, those of a network card and of an NVMe disk.
fn put_irqs(state: &mut State) {
    let all = state.cpus.possible.clone();
    state.insert_irq(0, "timer", all.clone(), Kind::Fixed, -1);
    for (number, action, node) in [
        (1, "i8042", 0),
        (9, "acpi", 0),
        (24, "ahci[0000:00:1f.2]", 0),
        (30, "eth0-TxRx-0", -1),
        (31, "eth0-TxRx-1", -1),
        (48, "nvme0q0", 0),
    ] {
        state.add_irq(number, action, node);
    }
    for (n, cpu) in (0..).zip(queue_cpus(state)) {
        let (action, cpu) = (format!("nvme0q{}", n + 1), CpuSet::of(cpu));
        state.insert_irq(49 + n, &action, cpu, Kind::Managed, 0);
    }
}

/// Returns the CPUs of the disk's queues: the kernel begins in the second half, 7.3 with the last
/// core (recorded).
fn queue_cpus(state: &State) -> Vec<CpuId> {
    let all: Vec<CpuId> = state.cpus.present.iter().collect();
    if state.kernel < Kernel(7, 0) {
        let (first, second) = all.split_at(all.len() / 2);
        return [second, first].concat();
    }
    let core = |cpu: &CpuId| {
        let seat = state.cpus.seats[cpu.0 as usize];
        (seat.package, seat.core)
    };
    let cores: BTreeSet<_> = all.iter().map(core).collect();
    let of_core = |wanted| all.iter().copied().filter(move |cpu| core(cpu) == wanted);
    cores.into_iter().rev().flat_map(of_core).collect()
}
