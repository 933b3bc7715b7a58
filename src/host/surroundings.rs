//! What others on this host have done with its CPUs in cgroups, and what the host itself offers.

use std::io;

use super::cgroup::{ROOT, UNITS, join};
use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::gate::{Features, KernelRelease};
use crate::domain::others::Exclusive;

/// Most cgroups that are walked; a host with more has them in one subtree of no interest.
const MAX_GROUPS: usize = 20_000;

/// What a cgroup says about CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its path below the root of the hierarchy.
    pub path: String,
    /// CPUs that it keeps to itself, if any.
    pub exclusive: Option<Exclusive>,
    /// CPUs that it asks for (`cpuset.cpus`); none: those of the group above.
    pub listed: CpuSet,
}

/// Returns what the cgroups of every level say about CPUs, those that say nothing left out.
pub fn groups(files: &dyn Files) -> Vec<Group> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    let mut n_seen = 0;
    while let Some(group) = open.pop().filter(|_| n_seen < MAX_GROUPS) {
        n_seen += 1;
        let dir = join(ROOT, &group);
        let names = files.list(&dir).unwrap_or_default();
        if names.iter().any(|name| name == "cpuset.cpus.partition") {
            found.push(Group {
                exclusive: exclusive(files, &group, &dir),
                listed: cpus_in(files, &dir, "cpuset.cpus").unwrap_or_default(),
                path: group.clone(),
            });
        }
        let below = names.iter().filter(|name| !is_control_file(name));
        open.extend(below.map(|name| join(&group, name).trim_start_matches('/').to_owned()));
    }
    found.retain(|group| group.exclusive.is_some() || !group.listed.is_empty());
    found.sort_unstable_by(|one, two| one.path.cmp(&two.path));
    found
}

fn cpus_in(files: &dyn Files, dir: &str, file: &str) -> Option<CpuSet> {
    files.read(&format!("{dir}/{file}")).ok()?.parse().ok()
}

/// Returns the CPUs of a group that is a partition at this moment.
pub fn cpus_of_partition(files: &dyn Files, group: &str) -> Option<CpuSet> {
    let exclusive = exclusive(files, group, &join(ROOT, group))?;
    exclusive.is_partition.then_some(exclusive.cpus)
}

/// Names of control files begin with a controller or `cgroup`; those of cgroups may do so too, but
/// then systemd made them and they end in the type of their unit.
fn is_control_file(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "cgroup.", "cpu.", "cpuset.", "cpu.stat", "dmem.", "hugetlb.", "io.", "irq.", "memory.",
        "misc.", "pids.", "rdma.",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !UNITS.iter().any(|unit| name.ends_with(unit))
}

fn exclusive(files: &dyn Files, group: &str, dir: &str) -> Option<Exclusive> {
    let read = |file| cpus_in(files, dir, file);
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

const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Returns the running kernel's release as it says it, such as `6.8.12-4-pve`.
///
/// # Errors
/// The kernel's.
pub fn release(files: &dyn Files) -> io::Result<String> {
    Ok(files.read(RELEASE)?.trim().to_owned())
}

/// Returns the running kernel's release.
pub fn kernel_release(files: &dyn Files) -> anyhow::Result<KernelRelease> {
    use anyhow::Context;
    let text = release(files).with_context(|| format!("failed to read {RELEASE}"))?;
    Ok(text.parse::<KernelRelease>()?)
}

/// Returns what this host offers, found by looking and not by version.
///
/// A cgroup has `cpuset.cpus.exclusive` only where its parent enables the controller; the root's
/// `cpuset.cpus.isolated` came one release later and is always there.
pub fn features(files: &dyn Files) -> Features {
    Features {
        remote_partitions: files.exists(&format!("{ROOT}/cpuset.cpus.isolated")),
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
    files.exists(&format!("{ROOT}/system.slice/{name}.service"))
}

/// Tells whether a kernel module is loaded.
pub fn is_loaded(files: &dyn Files, module: &str) -> bool {
    files.exists(&format!("/sys/module/{module}"))
}
