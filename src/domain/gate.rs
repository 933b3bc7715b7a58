//! The kernel gate: which backend may be used on which kernel, and why.
//!
//! A remote partition works on every kernel that has `cpuset.cpus.exclusive` (6.7), but on some it does
//! damage. The ranges below say on which; they speak of mainline and stable versions. Kernels of
//! distributions carry backports that a version number does not show, so the operator can
//! override the gate ([`OVERRIDE`]), and the reason of a choice is always told.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::backend::BackendWish;
use super::table::Workqueues;

use super::backend::Backend;

/// Key of `host.toml` with which the operator vouches for the running kernel.
pub const OVERRIDE: &str = "kernel-gate = \"ignore\"";

/// Kernels whose cpusets move kernel workers that must not move (from, up to but without).
///
/// Mainline commit 39b5ef791d10 ("cgroup/cpuset: Extend `kthread_is_per_cpu()` check to all
/// `PF_NO_SETAFFINITY` tasks") came with 6.15-rc7. The announcements of 6.14.8, 6.12.30 and 6.6.92
/// (22 May 2025) list its backport; 6.6 has no remote partitions, so that one does not matter
/// here. The lines 6.7 to 6.11 and 6.13 ended before it was written. Whether a distribution
/// (such as the 6.8 of Ubuntu and PVE 8) added it is unknown and counts as "no". Concerns every
/// type of partition.
const MOVES_BOUND_WORKERS: &[Range<KernelRelease>] = &[
    release(0, 0, 0)..release(6, 12, 30),
    release(6, 13, 0)..release(6, 14, 8),
];

/// Kernels on which a change of the unbound workqueue mask can stall ordered workqueues for ever
/// (from, up to but without).
///
/// Came with 4c065dbce1e8 ("workqueue: Enable unbound cpumask update on ordered workqueues", 6.9); mended by
/// 703ccb63ae9f ("workqueue: Add pool_workqueue to pending_pwqs list when unplugging multiple inactive
/// works", 7.0-rc7, 6.12.82, 6.18.23, 6.19.13). Reported by Firedancer (pull request 10401), seen with mlx5. An
/// isolated partition changes that mask, one of type root leaves it alone.
const STALLS_ORDERED_WORKQUEUES: &[Range<KernelRelease>] = &[
    release(6, 9, 0)..release(6, 12, 82),
    release(6, 13, 0)..release(6, 18, 23),
    release(6, 19, 0)..release(6, 19, 13),
];

/// Kernels that do not give the rescuers of workqueues their CPUs back when the mask of unbound work
/// widens again, and let nobody else do it (from, up to but without). Measured on 6.1; 6.12 does, since
/// d64f2fa064f8 ("kernel/workqueue: Let rescuers follow unbound wq cpumask changes", 6.9).
const KEEPS_RESCUERS_NARROW: &[Range<KernelRelease>] = &[release(0, 0, 0)..release(6, 9, 0)];

/// What the operator must know who insists on it there.
const RESCUERS_STAY: &str = "this kernel leaves workqueue rescuers on fewer cpus until reboot; \
                             workqueues = \"auto\" avoids it";

/// First kernel on which a partition of type isolated that comes or goes waits for every probe of a PCI
/// driver that is under way, and systemd with it: "PCI: Flush PCI probe workqueue on cpuset isolated
/// partition change". It flushes more (`housekeeping_update()`: RCU, the work of vmstat and memory cgroups); that is
/// short, because nothing there waits for a device. One of type root does not (measured on 7.3: 60 and 100 ms during a probe of 41 s). What
/// no phase can help is systemd's own wait when a VM ends by itself (34 s of such a probe).
const WAITS_FOR_PROBES: KernelRelease = release(7, 0, 0);

/// Tells whether partitions of type isolated wait for probes of PCI drivers.
pub fn waits_for_probes(release: KernelRelease) -> bool {
    release >= WAITS_FOR_PROBES
}

/// Version of a kernel: the three numbers at the beginning of `/proc/sys/kernel/osrelease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRelease {
    /// `VERSION` of the kernel's Makefile.
    pub major: u32,
    /// `PATCHLEVEL`.
    pub minor: u32,
    /// `SUBLEVEL`: the stable release.
    pub patch: u32,
}

/// Text that does not begin like a kernel release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" does not start with a kernel version such as 6.14.11")]
pub struct ParseReleaseError(String);

const fn release(major: u32, minor: u32, patch: u32) -> KernelRelease {
    KernelRelease {
        major,
        minor,
        patch,
    }
}

impl FromStr for KernelRelease {
    type Err = ParseReleaseError;

    /// Parses a release such as `6.14.11-4-pve` or `7.3.4+deb14-amd64`; what follows the numbers
    /// belongs to the distribution and is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseReleaseError(text.trim().to_owned());
        let numbers = text.trim().split(|c: char| !c.is_ascii_digit() && c != '.');
        let mut parts = numbers.take(1).flat_map(|text| text.split('.'));
        let mut next = || parts.next().and_then(|part| part.parse().ok());
        let (major, minor) = next().zip(next()).ok_or_else(error)?;
        Ok(release(major, minor, next().unwrap_or(0)))
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What was found to work on the host, by trying and not by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Cgroups have `cpuset.cpus.exclusive` (Linux 6.7), and the root has `cpuset.cpus.isolated`, by which that is
    /// seen before any has the controller (11e5f407b64a, Linux 6.8).
    pub remote_partitions: bool,
    /// The service manager answers on the system bus.
    pub systemd_bus: bool,
}

/// Everything that the choice of a backend depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateFacts {
    /// Running kernel.
    pub release: KernelRelease,
    /// What works on it.
    pub features: Features,
    /// The module `mlx5_core` is loaded: with it stalled workqueues were really seen.
    pub mlx5_loaded: bool,
    /// A CPU of the VM is in `isolcpus=`, where a partition of type root is invalid
    /// (`prstate_housekeeping_conflict()` in `kernel/cgroup/cpuset.c`).
    pub isolcpus_overlap: bool,
    /// The table forbids to move unbound kernel work, which a partition of type isolated does.
    pub work_stays: bool,
    /// The operator vouches for the kernel ([`OVERRIDE`]).
    pub gate_override: bool,
}

/// Chosen backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to use.
    pub backend: Backend,
    /// Why, in a few words without a dot.
    pub reason: String,
    /// What the operator must know about it.
    pub warning: Option<String>,
}

/// Why what a table asks for is not done on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wish} is refused: {fact}")]
pub struct GateRefusal {
    wish: String,
    fact: String,
    auto: &'static str,
    overridable: bool,
}

impl GateRefusal {
    /// Returns what the operator can do about it.
    pub fn help(&self) -> String {
        let auto = self.auto;
        match self.overridable {
            true => format!(
                "{auto}, or {OVERRIDE} in /etc/pin-hook/host.toml if this kernel \
                 carries the fix"
            ),
            false => auto.to_owned(),
        }
    }
}

/// What the operator must know who overrides the gate on a host with mlx5.
const STALLS_SEEN: &str = "the kernel gate is overridden while mlx5 is loaded, with which ordered \
                           workqueues have been seen to stall";

fn is_in(ranges: &[Range<KernelRelease>], release: KernelRelease) -> bool {
    ranges.iter().any(|range| range.contains(&release))
}

/// Reason why a partition must not be used, by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hazard {
    BoundWorkers,
    Workqueues,
}

impl Hazard {
    /// Returns what `backend` does to the kernel `release`, the worst first.
    fn of(backend: Backend, release: KernelRelease) -> Vec<Self> {
        let mut hazards = Vec::new();
        if backend.is_partition() && is_in(MOVES_BOUND_WORKERS, release) {
            hazards.push(Self::BoundWorkers);
        }
        if backend == Backend::Isolated && is_in(STALLS_ORDERED_WORKQUEUES, release) {
            hazards.push(Self::Workqueues);
        }
        hazards
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BoundWorkers => "a partition moves kernel workers that must not move",
            Self::Workqueues => "changing the workqueue mask can stall ordered workqueues",
        })
    }
}

/// Chooses the backend for one VM.
///
/// # Errors
///
/// Refuses a wished backend that does not work here or is gated. `auto` is never refused: its
/// last resort is [`Backend::Affinity`], with a warning.
pub fn choose(wish: BackendWish, facts: &GateFacts) -> Result<Choice, GateRefusal> {
    match wish {
        BackendWish::Auto => Ok(choose_best(facts)),
        BackendWish::Only(backend) => choose_only(backend, facts),
    }
}

fn choose_only(backend: Backend, facts: &GateFacts) -> Result<Choice, GateRefusal> {
    let refuse = |fact: String, overridable| GateRefusal {
        wish: format!("backend \"{backend}\""),
        fact,
        auto: "write backend = \"auto\" for the best that works here",
        overridable,
    };
    if let Some(fact) = missing(backend, facts) {
        return Err(refuse(fact, false));
    }
    match Hazard::of(backend, facts.release).as_slice() {
        [] => Ok(chosen(backend, "as configured".to_owned())),
        hazards if facts.gate_override => Ok(overridden(backend, hazards, facts)),
        hazards => {
            let fact = format!("kernel {}: {}", facts.release, join(hazards));
            Err(refuse(fact, true))
        }
    }
}

/// Takes the first partition type that works and is not gated.
pub fn choose_best(facts: &GateFacts) -> Choice {
    let kernel = format!("kernel {}", facts.release);
    let mut obstacles: Vec<String> = Vec::new();
    for backend in [Backend::Isolated, Backend::Root] {
        let hazards = Hazard::of(backend, facts.release);
        let new = match missing(backend, facts) {
            Some(fact) => vec![fact],
            None if hazards.is_empty() => {
                return chosen(backend, best_reason(facts.release, backend, &obstacles));
            }
            None if facts.gate_override => return overridden(backend, &hazards, facts),
            None => hazards.iter().map(Hazard::to_string).collect(),
        };
        obstacles.retain(|old| !new.contains(old));
        obstacles.extend(new);
    }
    choose_without_partition(&format!("{kernel}: {}", obstacles.join("; ")), facts)
}

fn best_reason(release: KernelRelease, backend: Backend, obstacles: &[String]) -> String {
    let kernel = format!("kernel {release}");
    match obstacles {
        [] if backend == Backend::Isolated && waits_for_probes(release) => {
            format!("{kernel}: no known problem, except that it waits for pci probes")
        }
        [] => format!("{kernel}: no known problem"),
        _ => format!(
            "{kernel}: {}, so partition type {backend}",
            obstacles.join("; ")
        ),
    }
}

fn choose_without_partition(why: &str, facts: &GateFacts) -> Choice {
    match missing(Backend::Slices, facts) {
        None => chosen(Backend::Slices, format!("{why}, so no partition")),
        Some(fact) => chosen(Backend::Affinity, format!("{why}, and {fact}")),
    }
}

/// Tells what a backend needs and does not find, whatever the version of the kernel.
fn missing(backend: Backend, facts: &GateFacts) -> Option<String> {
    let fact = match backend {
        Backend::Isolated | Backend::Root if !facts.features.remote_partitions => {
            "no remote partitions (cpuset.cpus.isolated is missing)"
        }
        Backend::Isolated if facts.work_stays => {
            "it moves unbound kernel work, which workqueues = false forbids"
        }
        Backend::Root if facts.isolcpus_overlap => {
            "a partition of type root is invalid on cpus in isolcpus="
        }
        Backend::Slices if !facts.features.systemd_bus => "systemd does not respond on the bus",
        _ => return None,
    };
    Some(fact.to_owned())
}

fn chosen(backend: Backend, reason: String) -> Choice {
    let alone = "only the vcpu threads are pinned, nothing else is kept off these cpus";
    Choice {
        backend,
        reason,
        warning: (backend == Backend::Affinity).then(|| alone.to_owned()),
    }
}

fn overridden(backend: Backend, hazards: &[Hazard], facts: &GateFacts) -> Choice {
    let stalls = facts.mlx5_loaded && hazards.contains(&Hazard::Workqueues);
    Choice {
        backend,
        reason: format!("kernel {}: {}, overridden", facts.release, join(hazards)),
        warning: stalls.then(|| STALLS_SEEN.to_owned()),
    }
}

/// Decides whether the masks of unbound kernel work are narrowed for a VM with `backend`; returns
/// also what the operator must know about it.
///
/// # Errors
///
/// Refuses what the table insists on where it can stall the kernel. `auto` is never refused.
pub fn moves_work(
    wish: Workqueues,
    backend: Backend,
    facts: &GateFacts,
) -> Result<(bool, Option<String>), GateRefusal> {
    // Nobody else is kept off either.
    if wish == Workqueues::Off || backend == Backend::Affinity {
        return Ok((false, None));
    }
    if is_in(KEEPS_RESCUERS_NARROW, facts.release) {
        let is_insisted = wish == Workqueues::On;
        return Ok((is_insisted, is_insisted.then(|| RESCUERS_STAY.to_owned())));
    }
    if !is_in(STALLS_ORDERED_WORKQUEUES, facts.release) {
        return Ok((true, None));
    }
    match wish {
        _ if facts.gate_override => {
            let warning = facts.mlx5_loaded.then(|| STALLS_SEEN.to_owned());
            Ok((true, warning))
        }
        Workqueues::On => Err(GateRefusal {
            wish: "workqueues = true".to_owned(),
            fact: format!("kernel {}: {}", facts.release, Hazard::Workqueues),
            auto: "write workqueues = \"auto\" to leave them alone here",
            overridable: true,
        }),
        _ => Ok((false, None)),
    }
}

fn join(hazards: &[Hazard]) -> String {
    let texts: Vec<String> = hazards.iter().map(Hazard::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests;
