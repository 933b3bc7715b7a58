//! What others on this host have done with its CPUs: partitions and affinities.
//!
//! Reads cgroups and unit files only; guests' own affinities are read where their configs are.

use std::collections::BTreeSet;

use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::gate::{Features, KernelRelease};
use crate::domain::refusal::{Bystander, Exclusive};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Unit directories in systemd's order of precedence; the first one wins.
const UNIT_DIRS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// Most cgroups that are walked; a host with more has them in one subtree of no interest.
const MAX_GROUPS: usize = 20_000;

/// Returns the cpuset partitions and exclusive sets in cgroups other than `ours`.
pub fn partitions(files: &dyn Files, ours: &BTreeSet<String>) -> Vec<Exclusive> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    let mut n_seen = 0;
    while let Some(group) = open.pop().filter(|_| n_seen < MAX_GROUPS) {
        n_seen += 1;
        let dir = join(CGROUP_ROOT, &group);
        let names = files.list(&dir).unwrap_or_default();
        let has_cpuset = names.iter().any(|name| name == "cpuset.cpus.partition");
        if has_cpuset && !ours.contains(&group) {
            found.extend(exclusive(files, &group, &dir));
        }
        let below = names.iter().filter(|name| !is_control_file(name));
        open.extend(below.map(|name| join(&group, name).trim_start_matches('/').to_owned()));
    }
    found.sort_unstable();
    found
}

/// Names of control files begin with a controller or `cgroup`; those of cgroups may do so too, but
/// then systemd made them and they end in the type of their unit.
fn is_control_file(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "cgroup.", "cpu.", "cpuset.", "cpu.stat", "dmem.", "hugetlb.", "io.", "irq.", "memory.",
        "misc.", "pids.", "rdma.",
    ];
    const UNITS: [&str; 3] = [".slice", ".scope", ".service"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !UNITS.iter().any(|unit| name.ends_with(unit))
}

fn exclusive(files: &dyn Files, group: &str, dir: &str) -> Option<Exclusive> {
    let read =
        |file: &str| -> Option<CpuSet> { files.read(&format!("{dir}/{file}")).ok()?.parse().ok() };
    let kind = files.read(&format!("{dir}/cpuset.cpus.partition")).ok()?;
    let is_partition = matches!(kind.trim(), "root" | "isolated");
    let exclusive = read("cpuset.cpus.exclusive").unwrap_or_default();
    let cpus = match is_partition {
        true => read("cpuset.cpus.effective")?.union(&exclusive),
        false => exclusive,
    };
    (!cpus.is_empty()).then(|| Exclusive {
        group: group.to_owned(),
        cpus,
        is_partition,
    })
}

/// Returns the services that have an affinity of their own (`CPUAffinity=`).
pub fn pinned_units(files: &dyn Files) -> Vec<Bystander> {
    let mut seen = BTreeSet::new();
    let mut pinned = Vec::new();
    for dir in UNIT_DIRS {
        for name in files.list(dir).unwrap_or_default() {
            let unit = name.strip_suffix(".d").unwrap_or(&name).to_owned();
            if !unit.ends_with(".service") || !seen.insert(name.clone()) {
                continue;
            }
            let texts = unit_texts(files, &format!("{dir}/{name}"), name.ends_with(".d"));
            for cpus in texts.iter().filter_map(|text| cpu_affinity(text)) {
                let remedy = format!("change CPUAffinity= of {unit}");
                pinned.push(Bystander {
                    who: format!("unit {unit}"),
                    remedy,
                    cpus,
                });
            }
        }
    }
    pinned
}

fn unit_texts(files: &dyn Files, path: &str, is_dir: bool) -> Vec<String> {
    if !is_dir {
        return files.read(path).into_iter().collect();
    }
    let names = files.list(path).unwrap_or_default();
    let drop_ins = names.iter().filter(|name| name.ends_with(".conf"));
    drop_ins
        .filter_map(|name| files.read(&format!("{path}/{name}")).ok())
        .collect()
}

/// Returns the CPUs of the last `CPUAffinity=` assignments of a unit file; an empty one resets.
///
/// `numa` (the CPUs of `NUMAMask=`) names no CPUs by itself and is passed over.
fn cpu_affinity(text: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    let values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("CPUAffinity="));
    for value in values {
        if value.trim().is_empty() {
            cpus = CpuSet::new();
        }
        let parts = value
            .split([' ', '\t', ','])
            .filter(|part| !part.is_empty());
        cpus.extend(
            parts
                .filter_map(|part| part.parse::<CpuSet>().ok())
                .flat_map(|part| part.iter().collect::<Vec<_>>()),
        );
    }
    (!cpus.is_empty()).then_some(cpus)
}

/// Returns the running kernel's release.
pub fn kernel_release(files: &dyn Files) -> anyhow::Result<KernelRelease> {
    use anyhow::Context;
    let path = "/proc/sys/kernel/osrelease";
    let text = files
        .read(path)
        .with_context(|| format!("failed to read {path}"))?;
    Ok(text.trim().parse::<KernelRelease>()?)
}

/// Returns what this host offers, found by looking and not by version.
///
/// A cgroup has `cpuset.cpus.exclusive` only where its parent enables the controller; the root's
/// `cpuset.cpus.isolated` came one release later and is always there.
pub fn features(files: &dyn Files) -> Features {
    Features {
        remote_partitions: files.exists(&format!("{CGROUP_ROOT}/cpuset.cpus.isolated")),
        systemd_bus: files.exists("/run/systemd/system"),
    }
}

/// Tells whether the kernel limits the time of real-time tasks (`-1` is no limit).
pub fn throttles_real_time(files: &dyn Files) -> bool {
    let limit = files.read("/proc/sys/kernel/sched_rt_runtime_us");
    limit.is_ok_and(|limit| limit.trim() != "-1")
}

/// Tells whether a service runs: systemd gives each its cgroup.
pub fn is_service_running(files: &dyn Files, name: &str) -> bool {
    files.exists(&format!("{CGROUP_ROOT}/system.slice/{name}.service"))
}

/// Tells whether a kernel module is loaded.
pub fn is_loaded(files: &dyn Files, module: &str) -> bool {
    files.exists(&format!("/sys/module/{module}"))
}

fn join(dir: &str, name: &str) -> String {
    if name.is_empty() {
        dir.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_affinity_of_a_unit_counts() {
        let of = |text: &str| cpu_affinity(text).map(|cpus| cpus.to_string());
        assert_eq!(
            of("[Service]\nCPUAffinity=2-3 5\n"),
            Some("2-3,5".to_owned())
        );
        assert_eq!(
            of("CPUAffinity=1\nCPUAffinity=\nCPUAffinity=4,6\n"),
            Some("4,6".to_owned())
        );
        assert_eq!(of("#CPUAffinity=1\n"), None);
        assert_eq!(of("CPUAffinity=numa\n"), None);
    }
}
