//! The topology of every host in `tests/hosts` and of the synthetic ones.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

#[path = "common/hosts.rs"]
mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use pin_hook::domain::cpuset::{CpuId, CpuSet};
use pin_hook::domain::gate::KernelRelease;
use pin_hook::domain::placement::{Request, check_reserve, housekeeping, place};
use pin_hook::domain::topology::Topology;
use pin_hook::host::files::{Files, RootFiles};
use pin_hook::host::topology::read_topology;

/// Every host, unpacked and read once.
static HOSTS: LazyLock<BTreeMap<&str, Topology>> = LazyLock::new(|| {
    let read = |&name| {
        let (_dir, files) = hosts::host(name);
        (name, read_topology(&files).unwrap())
    };
    hosts::ALL.iter().map(read).collect()
});

fn topology(name: &str) -> &'static Topology {
    &HOSTS[name]
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

/// Reads `lab` after a change and returns the topology or the error as one line.
fn changed_lab(change: impl FnOnce(&mut hosts::Entries)) -> Result<Topology, String> {
    let mut entries = hosts::entries("lab");
    change(&mut entries);
    let dir = hosts::unpack(&entries);
    read_topology(&RootFiles::new(dir.path())).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_online_cpu_has_its_place() {
    for name in hosts::ALL {
        let host = topology(name);
        let cores: usize = host.cores().iter().map(|core| core.cpus.len()).sum();
        assert_eq!(cores, host.online().len(), "{name}");
        let nodes: usize = host.nodes().iter().map(|node| node.cpus.len()).sum();
        assert_eq!(nodes, host.online().len(), "{name}");
        for cpu in host.online().iter() {
            let core = host.core_of(cpu).unwrap();
            assert!(core.cpus.contains(cpu), "{name}: {cpu}");
            assert_eq!(host.siblings(cpu).len() + 1, core.cpus.len());
            assert!(core.cpus.is_subset(&host.node_of(cpu).unwrap().cpus));
            assert!(host.l3_of(cpu).is_none_or(|l3| core.cpus.is_subset(l3)));
        }
        assert_eq!(host.first_of_cores(host.online()).len(), host.cores().len());
    }
}

#[test]
fn hosts_have_the_shape_of_their_name() {
    for (name, cpus, cores, l3s, packages, nodes) in [
        ("lab", 8, 4, 2, 2, 2),
        ("synthetic-1280", 1280, 640, 80, 2, 4),
        ("synthetic-2s-4n", 64, 32, 4, 2, 4),
        ("synthetic-5900x", 24, 12, 2, 1, 1),
        ("synthetic-7950x3d", 32, 16, 2, 1, 1),
        ("synthetic-arm", 16, 16, 0, 1, 1),
        ("synthetic-epyc-7451", 96, 48, 16, 2, 8),
        ("synthetic-hybrid", 24, 16, 1, 1, 1),
        ("synthetic-no-smt-4", 4, 4, 0, 1, 1),
        ("synthetic-offline", 10, 6, 1, 1, 1),
        ("synthetic-snc", 64, 32, 2, 2, 4),
    ] {
        let host = topology(name);
        let found: BTreeSet<_> = host.cores().iter().map(|core| core.package).collect();
        assert_eq!(
            (
                host.online().len(),
                host.cores().len(),
                host.l3_domains().len(),
                found.len(),
                host.nodes().len()
            ),
            (cpus, cores, l3s, packages, nodes),
            "{name}"
        );
    }
}

#[test]
fn siblings_and_l3_domains_are_those_of_the_machine() {
    for (name, cpu, siblings, l3, node) in [
        ("lab", 6, "7", "4-7", 1),
        ("synthetic-1280", 1279, "639", "632-639,1272-1279", 3),
        ("synthetic-2s-4n", 8, "40", "8-15,40-47", 1),
        ("synthetic-5900x", 6, "18", "6-11,18-23", 0),
        ("synthetic-epyc-7451", 50, "2", "0-2,48-50", 0),
        ("synthetic-hybrid", 1, "0", "0-23", 0),
        ("synthetic-hybrid", 16, "", "0-23", 0),
        ("synthetic-offline", 9, "", "0-2,4-6,8-11", 0),
    ] {
        let host = topology(name);
        assert_eq!(host.siblings(CpuId(cpu)), set(siblings), "{name}: {cpu}");
        assert_eq!(host.l3_of(CpuId(cpu)), Some(&set(l3)), "{name}: {cpu}");
        assert_eq!(host.node_of(CpuId(cpu)).unwrap().id, node, "{name}: {cpu}");
    }
}

#[test]
fn caches_have_their_size() {
    let sizes = |name| topology(name).l3_domains().iter().map(|domain| domain.kib);
    let mib = |n: u64| Some(n << 10);
    assert!(sizes("synthetic-7950x3d").eq([mib(96), mib(32)]));
    assert!(sizes("lab").eq([None, None]));
}

/// Intel tells by its PMUs, ARM by a capacity, others only by frequencies; a few percent are no
/// other kind of core.
#[test]
fn slower_cores_are_known_by_what_the_host_tells() {
    assert_eq!(topology("synthetic-hybrid").efficient(), &set("16-23"));
    let slow = |name: &str, fast: &str, other: &str| {
        let host = changed_lab(|files| {
            for cpu in 0..8 {
                let speed = if cpu < 4 { fast } else { other };
                let path = format!("/sys/devices/system/cpu/cpu{cpu}/{name}");
                files.insert(path, format!("{speed}\n"));
            }
        });
        host.unwrap().efficient().to_string()
    };
    assert_eq!(slow("cpu_capacity", "414", "1024"), "0-3");
    assert_eq!(
        slow("cpufreq/cpuinfo_max_freq", "5700000", "4300000"),
        "4-7"
    );
    assert_eq!(slow("cpufreq/cpuinfo_max_freq", "5250000", "5750000"), "");
}

#[test]
fn offline_and_isolated_cpus_are_known_and_not_housekeeping() {
    let host = topology("synthetic-offline");
    assert_eq!(host.sets().offline(), set("3,7"));
    assert_eq!(host.sets().isolcpus, set("10-11"));
    assert_eq!(host.sets().nohz_full, set("10-11"));
    assert_eq!(host.core_of(CpuId(3)), None);
    let left = housekeeping(host, &set("4-5"), &set("2"));
    assert_eq!(left, set("0-1,6,8-9"));
}

#[test]
fn a_mask_that_the_kernel_never_allocated_is_empty() {
    assert!(topology("synthetic-epyc-7451").sets().nohz_full.is_empty());
}

#[test]
fn half_of_every_host_can_be_given_away() {
    for name in hosts::ALL {
        let host = topology(name);
        let usable = host.online().difference(&host.sets().isolcpus);
        let n_cores = host.cores().len();
        let upper = host.cores()[n_cores / 2..].iter();
        let cpus: CpuSet = upper.flat_map(|core| core.cpus.iter()).collect();
        let cpus = cpus.intersection(&usable);
        for guest_smt in [1, 2] {
            let wish = Request {
                n_vcpus: cpus.len(),
                max_vcpus: cpus.len(),
                cpus: cpus.clone(),
                guest_smt,
                ..Request::default()
            };
            let placement = place(&wish, host).unwrap();
            assert_eq!(placement.owned(), cpus, "{name}");
            assert!(placement.idle.is_empty(), "{name}");
        }
        let left = housekeeping(host, &cpus, &CpuSet::new());
        check_reserve(host, None, &left).unwrap();
    }
}

#[test]
fn the_line_of_the_manual_pins_siblings_in_pairs() {
    let wish = Request {
        cpus: set("6-11,18-23"),
        n_vcpus: 12,
        max_vcpus: 12,
        guest_smt: 2,
        ..Request::default()
    };
    let placement = place(&wish, topology("synthetic-5900x")).unwrap();
    let order = [6, 18, 7, 19, 8, 20, 9, 21, 10, 22, 11, 23].map(CpuId);
    assert_eq!(placement.vcpus, order);
    assert_eq!(placement.notices, []);
}

#[test]
fn nodes_without_cpus_or_memory_are_nodes() {
    let host = changed_lab(|files| {
        let dir = "/sys/devices/system/node";
        files.insert(format!("{dir}/online"), "0-2\n".to_owned());
        files.insert(format!("{dir}/has_memory"), "0,2\n".to_owned());
        files.insert(format!("{dir}/node2/cpulist"), "\n".to_owned());
    })
    .unwrap();
    let memory: Vec<_> = host.nodes().iter().map(|node| node.has_memory).collect();
    assert_eq!(memory, [true, false, true]);
    assert!(host.nodes()[2].cpus.is_empty());
}

#[test]
fn a_kernel_without_numa_has_no_nodes() {
    let host = changed_lab(|files| files.retain(|path, _| !path.contains("/node/"))).unwrap();
    assert!(host.nodes().is_empty());
    assert_eq!(host.node_of(CpuId(0)), None);
    assert_eq!(host.cores().len(), 4);
}

#[test]
fn errors_name_the_file() {
    let cpu = "/sys/devices/system/cpu";
    for (path, text, error) in [
        (
            "online",
            Some("0-x"),
            "/sys/devices/system/cpu/online is not a cpulist: \"0-x\" is not a cpu number",
        ),
        (
            "cpu2/topology/physical_package_id",
            Some("one"),
            "cpu2/topology/physical_package_id is \"one\", not a number: invalid digit",
        ),
        (
            "cpu4/topology/core_cpus_list",
            None,
            "failed to read /sys/devices/system/cpu/cpu4/topology/thread_siblings_list: No such",
        ),
        (
            "present",
            None,
            "failed to read /sys/devices/system/cpu/present: No such file",
        ),
    ] {
        let found = changed_lab(|files| {
            match text {
                Some(text) => files.insert(format!("{cpu}/{path}"), format!("{text}\n")),
                None => files.remove(&format!("{cpu}/{path}")),
            };
        })
        .unwrap_err();
        assert!(found.contains(error), "{found}");
    }
}

#[test]
fn hosts_have_what_a_plan_reads() {
    for name in hosts::ALL {
        let files = hosts::entries(name);
        let release = &files["/proc/sys/kernel/osrelease"];
        release.parse::<KernelRelease>().unwrap();
        assert_eq!(files["/etc/hostname"].trim(), *name);
        let controllers = &files["/sys/fs/cgroup/cgroup.controllers"];
        assert!(controllers.contains("cpuset"), "{name}");
        for path in ["/proc/cmdline", "/sys/fs/cgroup/cpuset.cpus.isolated"] {
            assert!(files.contains_key(path), "{name}: {path}");
        }
    }
}

/// sysfs-nul: a dump of Linux 5.15 on ARM has a NUL behind the newline of `core_cpus_list`.
#[test]
fn text_of_sysfs_ends_at_a_nul() {
    let mut entries = hosts::entries("synthetic-arm");
    let path = "/sys/devices/system/cpu/cpu0/topology/core_cpus_list";
    entries.insert(path.to_owned(), "0\n\0".to_owned());
    entries.insert("/proc/7/cmdline".to_owned(), "a\0b".to_owned());
    let dir = hosts::unpack(&entries);
    let files = RootFiles::new(dir.path());
    let topology = read_topology(&files).unwrap();
    assert_eq!(topology.cores()[0].cpus.to_string(), "0");
    assert_eq!(files.read("/proc/7/cmdline").unwrap(), "a\0b");
}
