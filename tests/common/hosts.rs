//! Hosts to test on: real or named ones from `tests/hosts/*.host`, synthetic ones from a [`Shape`].
//!
//! A `.host` file is what `grep -H ''` prints: one `path:line` for each line of each file, and
//! comments that begin with `#`. The first colon ends the path, but for one behind a backslash; a path
//! that ends in a slash is an empty directory, `\0` a NUL. `tests/host-from-capture` writes such files.
//! Nothing in these hosts is written by a test; each test unpacks a directory of its own.
#![allow(
    dead_code,
    reason = "each test program that includes this file uses a part"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a host that cannot be made is a failed test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pin_hook::domain::cpuset::{CpuId, CpuSet};
use pin_hook::domain::knob::Grammar;
use pin_hook::domain::target::Value;
use pin_hook::host::files::RootFiles;
use tempfile::TempDir;

/// Every host by name.
pub const ALL: &[&str] = &[
    "lab",
    "synthetic-1280",
    "synthetic-2s-4n",
    "synthetic-5900x",
    "synthetic-7950x3d",
    "synthetic-arm",
    "synthetic-epyc-7451",
    "synthetic-hybrid",
    "synthetic-no-smt-4",
    "synthetic-offline",
    "synthetic-snc",
];

/// Files of a host: path and content.
pub type Entries = BTreeMap<String, String>;

/// Parameters of a synthetic host; counts are per unit above (nodes per package and so on).
struct Shape {
    packages: u32,
    nodes: u32,
    l3s: u32,
    cores: u32,
    smt: u32,
    /// Siblings are numbered n, n+1 instead of n, n + number of cores.
    adjacent: bool,
    /// Further cores without SMT, which share the last L3 domain and node.
    e_cores: u32,
    /// No cache is described, as in most VMs.
    no_cache: bool,
    /// One L3 domain is shared by all nodes of a package (sub-NUMA clustering).
    l3_of_package: bool,
    /// Size of the first L3 domain; the others have 32 MiB.
    first_l3: &'static str,
    /// As in `/proc/cpuinfo`; other architectures have none.
    vendor: &'static str,
    /// Names and texts of a kernel before 5.2.
    old_names: bool,
    offline: &'static str,
    /// Value of both `isolcpus=` and `nohz_full=`.
    isolated: &'static str,
    kernel: &'static str,
}

const BASE: Shape = Shape {
    packages: 1,
    nodes: 1,
    l3s: 1,
    cores: 4,
    smt: 2,
    adjacent: false,
    e_cores: 0,
    no_cache: false,
    l3_of_package: false,
    first_l3: "32768K",
    vendor: "GenuineIntel",
    old_names: false,
    offline: "",
    isolated: "",
    kernel: "6.17.2-1-pve",
};

fn shape(name: &str) -> Option<Shape> {
    Some(match name {
        "synthetic-5900x" => Shape {
            l3s: 2,
            cores: 6,
            vendor: "AuthenticAMD",
            kernel: "7.0.2-1-pve",
            ..BASE
        },
        // The CCD with the boot CPU has more cache.
        "synthetic-7950x3d" => Shape {
            l3s: 2,
            cores: 8,
            first_l3: "98304K",
            vendor: "AuthenticAMD",
            kernel: "7.0.2-1-pve",
            ..BASE
        },
        "synthetic-arm" => Shape {
            cores: 16,
            smt: 1,
            no_cache: true,
            vendor: "",
            kernel: "7.0.2-1-pve",
            ..BASE
        },
        "synthetic-snc" => Shape {
            packages: 2,
            nodes: 2,
            cores: 8,
            l3_of_package: true,
            kernel: "7.0.2-1-pve",
            ..BASE
        },
        "synthetic-2s-4n" => Shape {
            packages: 2,
            nodes: 2,
            cores: 8,
            ..BASE
        },
        // The layout of an EPYC 7451: L3 domains of 3 cores, 8 nodes.
        "synthetic-epyc-7451" => Shape {
            packages: 2,
            nodes: 4,
            l3s: 2,
            cores: 3,
            old_names: true,
            vendor: "AuthenticAMD",
            kernel: "6.8.12-15-pve",
            ..BASE
        },
        "synthetic-no-smt-4" => Shape {
            smt: 1,
            no_cache: true,
            ..BASE
        },
        _ => return odd_shape(name),
    })
}

/// Hosts that are large, or not as others are.
fn odd_shape(name: &str) -> Option<Shape> {
    Some(match name {
        "synthetic-hybrid" => Shape {
            cores: 8,
            adjacent: true,
            e_cores: 8,
            kernel: "6.14.11-4-pve",
            ..BASE
        },
        "synthetic-1280" => Shape {
            packages: 2,
            nodes: 2,
            l3s: 20,
            cores: 8,
            ..BASE
        },
        "synthetic-offline" => Shape {
            cores: 6,
            offline: "3,7",
            isolated: "10-11",
            ..BASE
        },
        _ => return None,
    })
}

/// Returns the files of the host `name`.
pub fn entries(name: &str) -> Entries {
    match shape(name) {
        Some(shape) => shape.entries(name),
        None => {
            let path = format!("{}/tests/hosts/{name}.host", env!("CARGO_MANIFEST_DIR"));
            parse(&fs::read_to_string(&path).expect(&path))
        }
    }
}

/// Parses the text of a `.host` file.
pub fn parse(text: &str) -> Entries {
    let mut entries = Entries::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut colons = line.match_indices(':').map(|(at, _)| at);
        let end = colons.find(|at| !line[..*at].ends_with('\\')).expect(line);
        let path = line[..end].replace("\\:", ":");
        let file = entries.entry(path).or_default();
        *file += &line[end + 1..].replace("\\0", "\0");
        file.push('\n');
    }
    entries
}

/// Writes files below a new directory, which is removed when the value is dropped.
///
/// In memory where that is possible: the large hosts are thousands of tiny files.
pub fn unpack(entries: &Entries) -> TempDir {
    let dir = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    for (path, content) in entries {
        let is_dir = path.ends_with('/');
        let path = dir.path().join(path.trim_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        match content.strip_prefix("-> ") {
            _ if is_dir => fs::create_dir_all(path).unwrap(),
            Some(target) => std::os::unix::fs::symlink(target.trim_end(), path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
    dir
}

/// Unpacks the host `name`; the files live as long as the directory.
pub fn host(name: &str) -> (TempDir, RootFiles) {
    let dir = unpack(&entries(name));
    let files = RootFiles::new(dir.path());
    (dir, files)
}

/// Unpacks a host with `n` times 64 CPUs, 128 interrupts and 8 VMs, each of which owns one CPU.
pub fn scaled(n: u32) -> (TempDir, RootFiles) {
    let shape = Shape {
        packages: 2,
        l3s: n,
        cores: 16,
        ..BASE
    };
    let mut entries = shape.entries("scaled");
    for number in 1000..1000 + 128 * n {
        let dir = format!("/proc/irq/{number}");
        entries.insert(format!("{dir}/smp_affinity_list"), "0-1\n".to_owned());
        entries.insert(format!("{dir}/node"), "0\n".to_owned());
        entries.insert(format!("{dir}/queue-{number}/"), String::new());
    }
    for vmid in 100..100 + 8 * n {
        let config =
            format!("name: vm{vmid}\ncores: 1\nmemory: 16\nhookscript: local:snippets/pin-hook\n");
        entries.insert(format!("/etc/pve/qemu-server/{vmid}.conf"), config);
        let table = format!("cpus = \"{}\"\n", vmid - 96);
        entries.insert(format!("/etc/pin-hook/{vmid}.toml"), table);
    }
    let dir = unpack(&entries);
    let files = RootFiles::new(dir.path());
    (dir, files)
}

/// Returns the line of a task in `/proc/<pid>/task/<tid>/stat`; it starts when its number says.
pub fn stat(tid: i32, comm: &str, flags: u32) -> String {
    let (zeros, more) = (["0"; 12].join(" "), ["0"; 30].join(" "));
    format!("{tid} ({comm}) S 1 1 1 0 -1 {flags} {zeros} {tid} {more}")
}

impl Shape {
    fn entries(&self, name: &str) -> Entries {
        let mut entries = Entries::new();
        let mut put = |path: String, text: &str| entries.insert(path, format!("{text}\n"));
        self.put_sets(&mut put);
        for core in 0..self.n_cores() {
            self.put_core(core, &mut put);
        }
        self.put_nodes(&mut put);
        self.put_interrupts(&mut put);
        self.put_kernel_threads(&mut put);
        self.put_kinds(&mut put);
        let boot = match self.isolated {
            "" => String::new(),
            cpus => format!(" isolcpus={cpus} nohz_full={cpus}"),
        };
        let controllers = "cpuset cpu io memory hugetlb pids rdma misc";
        for (path, text) in [
            ("/etc/hostname", name),
            ("/proc/sys/kernel/osrelease", self.kernel),
            ("/proc/cmdline", &format!("root=/dev/sda2 ro quiet{boot}")),
            ("/sys/fs/cgroup/cgroup.controllers", controllers),
            (
                "/sys/fs/cgroup/cgroup.subtree_control",
                "cpu io memory pids",
            ),
            ("/sys/fs/cgroup/cpuset.cpus.isolated", ""),
        ] {
            put(path.to_owned(), text);
        }
        entries
    }

    fn n_cores(&self) -> u32 {
        self.packages * self.nodes * self.l3s * self.cores + self.e_cores
    }

    /// Returns the CPUs of `n` cores that begin with core `first`, online or not.
    fn cpus_of_cores(&self, first: u32, n: u32) -> CpuSet {
        let p_cores = self.n_cores() - self.e_cores;
        let cpus = |core: u32| {
            let smt = if core < p_cores { self.smt } else { 1 };
            (0..smt).map(move |thread| match (core < p_cores, self.adjacent) {
                (false, _) => core - p_cores + p_cores * self.smt,
                (true, true) => core * self.smt + thread,
                (true, false) => core + thread * p_cores,
            })
        };
        (first..first + n).flat_map(cpus).map(CpuId).collect()
    }

    fn online(&self, cpus: &CpuSet) -> CpuSet {
        cpus.difference(&self.offline.parse().unwrap())
    }

    /// Returns the first core and the number of cores of a group that `core` is in, where groups
    /// have `size` cores and the last one also the cores without SMT.
    fn group(&self, core: u32, size: u32) -> (u32, u32) {
        let p_cores = self.n_cores() - self.e_cores;
        let first = core.min(p_cores - 1) / size * size;
        let last = first + size == p_cores;
        (first, size + if last { self.e_cores } else { 0 })
    }

    fn put_sets(&self, put: &mut impl FnMut(String, &str) -> Option<String>) {
        let all = self.cpus_of_cores(0, self.n_cores());
        let nohz_full = match self.isolated {
            "" if self.old_names => "              (null)",
            cpus => cpus,
        };
        for (name, text) in [
            ("possible", all.to_string().as_str()),
            ("present", &all.to_string()),
            ("online", &self.online(&all).to_string()),
            ("offline", self.offline),
            ("isolated", self.isolated),
            ("nohz_full", nohz_full),
        ] {
            put(format!("/sys/devices/system/cpu/{name}"), text);
        }
    }

    fn put_core(&self, core: u32, put: &mut impl FnMut(String, &str) -> Option<String>) {
        let siblings = self.online(&self.cpus_of_cores(core, 1));
        let per_l3 = match self.l3_of_package {
            true => self.nodes * self.l3s * self.cores,
            false => self.cores,
        };
        let (first, n) = self.group(core, per_l3);
        let l3 = self.online(&self.cpus_of_cores(first, n));
        let (package, _) = self.group(core, self.nodes * self.l3s * self.cores);
        let package = package / (self.nodes * self.l3s * self.cores);
        for cpu in siblings.iter() {
            let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
            let mut topology = |name, text: &str| put(format!("{dir}/topology/{name}"), text);
            topology("physical_package_id", &package.to_string());
            if self.old_names {
                topology("thread_siblings_list", &siblings.to_string());
            } else {
                topology("core_cpus_list", &siblings.to_string());
                topology("die_id", "0");
            }
            if !self.no_cache {
                let index = format!("{dir}/cache/index3");
                let size = if first == 0 { self.first_l3 } else { "32768K" };
                put(format!("{index}/size"), size);
                put(format!("{index}/level"), "3");
                put(format!("{index}/type"), "Unified");
                put(format!("{index}/shared_cpu_list"), &l3.to_string());
            }
        }
    }

    /// Who made the CPUs, and which of them belong to slower cores.
    fn put_kinds(&self, put: &mut impl FnMut(String, &str) -> Option<String>) {
        let vendor = match self.vendor {
            "" => String::new(),
            vendor => format!("\nvendor_id\t: {vendor}"),
        };
        put(
            "/proc/cpuinfo".to_owned(),
            &format!("processor\t: 0{vendor}"),
        );
        if self.e_cores > 0 {
            let p_cores = self.n_cores() - self.e_cores;
            for (pmu, first, n) in [("core", 0, p_cores), ("atom", p_cores, self.e_cores)] {
                let cpus = self.cpus_of_cores(first, n).to_string();
                put(format!("/sys/devices/cpu_{pmu}/cpus"), &cpus);
            }
        }
    }

    /// Interrupts of a small machine: all on every CPU, but one queue of the disk for each CPU.
    fn put_interrupts(&self, put: &mut impl FnMut(String, &str) -> Option<String>) {
        let all = self.cpus_of_cores(0, self.n_cores());
        let mask = Value::Cpus(all.clone()).render(Grammar::CpuMask);
        put("/proc/irq/default_smp_affinity".to_owned(), &mask);
        let all = all.to_string();
        let mut irq = |number: u32, action: &str, node: &str, cpus: &str| {
            let dir = format!("/proc/irq/{number}");
            put(format!("{dir}/smp_affinity_list"), cpus);
            put(format!("{dir}/node"), node);
            put(format!("{dir}/{action}"), "");
        };
        for (number, action) in [(0, "timer"), (1, "i8042"), (8, "rtc0"), (9, "acpi")] {
            irq(number, action, "-1", &all);
        }
        for (number, action) in [(24, "xhci_hcd"), (25, "enp4s0-rx-0"), (26, "enp4s0-tx-0")] {
            irq(number, action, "0", &all);
        }
        for queue in 0..8.min(self.n_cores()) {
            let action = format!("nvme0q{}", queue + 1);
            irq(32 + queue, &action, "0", &queue.to_string());
        }
    }

    /// Some kernel threads: two on every CPU, two bound to theirs.
    fn put_kernel_threads(&self, put: &mut impl FnMut(String, &str) -> Option<String>) {
        const PF_KTHREAD: u32 = 0x0020_0000;
        const PF_NO_SETAFFINITY: u32 = 0x0400_0000;
        let all = self.cpus_of_cores(0, self.n_cores());
        let last = all.last().unwrap().to_string();
        let all = all.to_string();
        let bound = PF_KTHREAD | PF_NO_SETAFFINITY;
        let children = "16 17 18 19";
        put("/proc/2/task/2/children".to_owned(), children);
        for (tid, comm, flags, cpus) in [
            (2, "kthreadd", PF_KTHREAD, all.as_str()),
            (16, "rcu_preempt", PF_KTHREAD, &all),
            (17, "migration/0", bound, "0"),
            (18, &format!("migration/{last}"), bound, &last),
            (19, "kswapd0", PF_KTHREAD, &all),
        ] {
            put(
                format!("/proc/{tid}/task/{tid}/stat"),
                &stat(tid, comm, flags),
            );
            let status = format!("Name:\t{comm}\nCpus_allowed_list:\t{cpus}");
            put(format!("/proc/{tid}/status"), &status);
        }
    }

    fn put_nodes(&self, put: &mut impl FnMut(String, &str) -> Option<String>) {
        let n_nodes = self.packages * self.nodes;
        let dir = "/sys/devices/system/node";
        let numbers: CpuSet = (0..n_nodes).map(CpuId).collect();
        put(format!("{dir}/online"), &numbers.to_string());
        put(format!("{dir}/has_memory"), &numbers.to_string());
        let per_node = self.l3s * self.cores;
        for node in 0..n_nodes {
            let (first, n) = self.group(node * per_node, per_node);
            let cpus = self.online(&self.cpus_of_cores(first, n)).to_string();
            put(format!("{dir}/node{node}/cpulist"), &cpus);
        }
    }
}

/// Asks the program about a captured host; returns its answer and exit status. It has nothing to say besides.
pub fn asked(root: &Path, words: &[&str]) -> (String, i32) {
    let mut command = assert_cmd::Command::cargo_bin("pin-hook").unwrap();
    let output = command
        .arg("--root")
        .arg(root)
        .args(words)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.code().unwrap())
}
