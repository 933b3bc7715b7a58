//! Observing: from the host's files to the facts that wishes depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use anyhow::Context as _;

use super::at_work;
use super::settings;
use crate::domain::backend::Backend;
use crate::domain::claim::{Claim, Wishes};
use crate::domain::container::Container;
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::{has_partition, is_exclusive};
use crate::domain::diff::{Context, Live};
use crate::domain::facts::{Facts, GroupFacts, KernelThread, VmFacts};
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::target::{Place, Target, Value};
use crate::domain::thread::Thread;
use crate::domain::vm::TaskId;
use crate::host::task::Task;
use crate::host::topology::read_list_if_there;
use crate::host::{Host, cgroup, container, irq, surroundings, target, task, workqueue};

/// CPUs that tasks outside of partitions may use.
const SHARED_CPUS: &str = "/sys/fs/cgroup/cpuset.cpus.effective";
const CPU_DIR: &str = "/sys/devices/system/cpu";

/// Task flag: a worker of a workqueue, placed by the workqueue's own mask.
const PF_WQ_WORKER: u32 = 0x0000_0020;

const UNLISTED: &str = "failed to list kernel threads";

/// Observes what the wishes of the claims and the targets in hand of these stages depend on, and
/// no more.
///
/// What this run has seen `before` and what cannot change meanwhile is taken from there.
pub fn observe(
    host: &Host,
    state: &State,
    stages: &[Stage],
    before: &Facts,
) -> anyhow::Result<Facts> {
    let mut facts = cpus_of_host(host, state)?;
    let needs_vms = stages.contains(&Stage::Threads);
    let running = state.claims.values().filter(|claim| claim.is_running());
    for claim in running.filter(|_| needs_vms) {
        if let Some(vm) = observe_vm(host, claim) {
            facts.vms.insert(claim.vmid, vm);
        }
    }
    let concerns = |stage, wished: fn(&Wishes) -> bool| {
        stages.contains(&stage) && concerns(state, stage, wished)
    };
    if concerns(Stage::Containers, is_exclusive) {
        let containers = container::containers(&*host.files);
        facts.containers = containers.context("failed to list containers")?;
    }
    let is_cut = |wishes: &Wishes| wishes.backend == Backend::Slices;
    if concerns(Stage::Slices, is_cut) {
        facts.groups = outer_groups(host)?;
    }
    let is_moved = |wishes: &Wishes| wishes.kernel_threads || has_partition(wishes);
    if concerns(Stage::KernelThreads, is_moved) {
        look_at_nodes(host, &mut facts);
        facts.kernel_threads = kernel_threads(host, &facts.offline, &before.kernel_threads)?;
        hand_over_threads_of_vms(host, &mut facts);
    }
    let is_work = |wishes: &Wishes| wishes.workqueues || wishes.watchdog;
    if concerns(Stage::Work, is_work) {
        facts.work = workqueue::masks(host);
    }
    let is_sent = |wishes: &Wishes| wishes.interrupts || wishes.device_interrupts.is_some();
    if concerns(Stage::Interrupts, is_sent) {
        look_at_nodes(host, &mut facts);
        facts.default_irq_affinity = irq::default_affinity(&*host.files).ok();
        facts.irqs = irq::interrupts(&*host.files, &before.irqs)?;
    }
    facts.cpus_at_work = concerns(Stage::Hotplug, |_| false) && at_work::is_scrub(host);
    if stages.contains(&Stage::Host) {
        facts.functions_at_work = at_work::functions(host, state);
        facts.functions_in_use = at_work::kept(host, state, None);
    }
    if concerns(Stage::Power, |wishes| !wishes.power.is_untouched())
        || concerns(Stage::Host, |wishes| !wishes.host.is_untouched())
    {
        settings::observe(host, &mut facts, before);
    }
    Ok(facts)
}

/// Observes who may use which CPUs. Those that no group may use are in partitions.
fn cpus_of_host(host: &Host, state: &State) -> anyhow::Result<Facts> {
    let online = read_cpus(host, &format!("{CPU_DIR}/online"))?.unwrap_or_default();
    let shared = shared_cpus(host)?.unwrap_or_else(|| online.clone());
    let foreign = online
        .difference(&shared)
        .difference(&own_partitions(host, state));
    Ok(Facts {
        possible: read_cpus(host, &format!("{CPU_DIR}/possible"))?.unwrap_or_default(),
        reserved: boot_isolated(host)?.union(&foreign),
        offline: read_cpus(host, &format!("{CPU_DIR}/present"))?
            .unwrap_or_default()
            .difference(&online),
        shared,
        online,
        ..Facts::default()
    })
}

/// Returns the groups that may have to be kept off owned CPUs; one that ends meanwhile is left out.
fn outer_groups(host: &Host) -> anyhow::Result<BTreeMap<String, GroupFacts>> {
    let mut groups = BTreeMap::new();
    for path in cgroup::outer_groups(&*host.files) {
        let unit = match cgroup::unit_of(&path) {
            None => None,
            Some(name) => match target::read(host, &Target::AllowedCpus(name.to_owned()))? {
                Value::Cpus(allowed) => Some((name.to_owned(), allowed)),
                _ => continue,
            },
        };
        let cpus = |name| read_cpus(host, &cgroup::file(&path, name));
        let group = GroupFacts {
            unit,
            listed: cpus("cpuset.cpus")?,
        };
        groups.insert(path, group);
    }
    Ok(groups)
}

/// Returns what the cgroups above them leave to the threads of VMs among `targets`, but for those in
/// groups of ours below the scope: there a thread shows what nobody but us has given it.
pub fn effective_cpus<'t>(
    host: &Host,
    targets: impl IntoIterator<Item = &'t Target>,
) -> BTreeMap<TaskId, CpuSet> {
    let mut of_groups = BTreeMap::new();
    let threads = targets.into_iter().filter_map(|target| match target {
        Target::Affinity(id) => Some(*id),
        _ => None,
    });
    let effective = threads.filter_map(|id| {
        let group = task::cgroup_of(&*host.files, id.tid, id.tid).ok()?;
        if scope_in(&group) != group {
            return None;
        }
        let cpus = of_groups
            .entry(group)
            .or_insert_with_key(|group| cgroup::effective(&*host.files, group));
        Some((id, cpus.clone()?))
    });
    effective.collect()
}

/// Returns what comparing needs to know of what was observed, and of what this run has `written`.
pub fn context<'a>(
    facts: &'a Facts,
    effective: &'a BTreeMap<TaskId, CpuSet>,
    births: &'a BTreeMap<Target, [CpuSet; 2]>,
    written: &'a BTreeSet<Target>,
    now: Duration,
) -> Context<'a> {
    Context {
        online: &facts.online,
        shared: &facts.shared,
        effective,
        are_groups_cut: !facts.groups.is_empty(),
        nodes: &facts.nodes,
        births,
        frequencies: &facts.frequencies,
        written,
        now,
    }
}

fn look_at_nodes(host: &Host, facts: &mut Facts) {
    facts.nodes = irq::nodes(&*host.files);
    if !facts.offline.is_empty() {
        facts.whole_nodes = irq::whole_nodes(&*host.files);
    }
}

/// Returns the CPUs of our own partitions; what else is in one is somebody else's.
fn own_partitions(host: &Host, state: &State) -> CpuSet {
    let groups = state.held.keys().filter_map(Target::partitioned);

    let cpus = groups.filter_map(|group| surroundings::cpus_of_partition(&*host.files, group));
    cpus.fold(CpuSet::new(), |all, cpus| all.union(&cpus))
}

/// Returns the CPUs that tasks outside of partitions may use, where the kernel tells.
pub fn shared_cpus(host: &Host) -> anyhow::Result<Option<CpuSet>> {
    read_cpus(host, SHARED_CPUS)
}

/// Returns the CPUs that the kernel's command line took from the host (`isolcpus`, `nohz_full`).
///
/// `isolated` shows `isolcpus=` alone. From Linux 7.0 on partitions change what is isolated (`HK_TYPE_DOMAIN`), so
/// that file reads what was at boot (`HK_TYPE_DOMAIN_BOOT`, a7933d8a2524); else our own CPUs would come back here
/// as those of the command line.
pub fn boot_isolated(host: &Host) -> anyhow::Result<CpuSet> {
    let isolated = read_cpus(host, &format!("{CPU_DIR}/isolated"))?.unwrap_or_default();
    let nohz_full = read_cpus(host, &format!("{CPU_DIR}/nohz_full"))?.unwrap_or_default();
    Ok(isolated.union(&nohz_full))
}

/// Live values of targets, and those that the kernel lets nobody read.
#[derive(Debug, Default)]
pub struct Seen {
    /// What could be read.
    pub live: Live,
    /// What could not, and why: the files of a cpufreq policy without an online CPU answer EBUSY, for
    /// example (`drivers/cpufreq/cpufreq.c`).
    pub unread: Vec<(Target, io::Error)>,
}

/// Returns the live values of `targets`.
///
/// Interrupts and containers are taken from the facts: their numbers are reused, so their file
/// alone does not tell whose value it holds.
pub fn live_values(host: &Host, facts: &Facts, targets: BTreeSet<&Target>) -> Seen {
    let mut seen = Seen::default();
    for target in targets {
        match live_value(host, facts, target) {
            Ok(value) => {
                seen.live.insert(target.clone(), value);
            }
            Err(error) => seen.unread.push((target.clone(), error)),
        }
    }
    seen
}

fn live_value(host: &Host, facts: &Facts, target: &Target) -> io::Result<Value> {
    let files = &*host.files;
    // A list may leave out what could not be read.
    let left_out = |is_same: io::Result<bool>| match is_same {
        Ok(true) => target::read(host, target),
        Err(error) if !target::is_gone(&error) => Err(error),
        _ => Ok(Value::Absent),
    };
    let value = match target {
        Target::Knob(_, Place::Irq(number, actions)) => match facts.irq(*number, actions) {
            Some(irq) => Some(irq.affinity.clone()),
            None => return left_out(irq::is_of(files, *number, actions)),
        },
        Target::Knob(
            _,
            place @ (Place::Container(ctid, run) | Place::ContainerInside(ctid, run)),
        ) => {
            let mut lists = facts.containers.iter().flat_map(Container::lists);
            match lists.find(|(of, _)| of == place) {
                Some((_, cpus)) => Some(cpus.clone()),
                None => return left_out(container::run(files, *ctid).map(|now| now == *run)),
            }
        }
        Target::KernelThread(id) => {
            match facts.kernel_thread(*id) {
                Some(thread) => Some(thread.affinity.clone()),
                None if facts.thread_of_vm(*id).is_some() => None,
                // The list may miss one while others end.
                None => return target::read(host, target),
            }
        }
        _ => return target::read(host, target),
    };
    Ok(value.map_or(Value::Absent, Value::Cpus))
}

/// Tells whether a stage has wishes or targets, so that what it is about has to be observed.
fn concerns(state: &State, stage: Stage, wished: fn(&Wishes) -> bool) -> bool {
    let mut running = state.claims.values().filter(|claim| claim.is_running());
    running.any(|claim| wished(&claim.wishes))
        || state.held.keys().any(|target| target.stage() == stage)
}

/// Kernel threads that KVM and vhost start for a VM live in its cgroups: they are the VM's.
///
/// `vhost-<pid>` is one up to Linux 6.3, a thread of QEMU from 6.4 on (`vhost_task`), and one again where that is
/// asked for (6.17). `kvm-nx-lpage-recovery` is a thread of QEMU from 6.13 on, `kvm-pit/` stays one of the kernel.
fn hand_over_threads_of_vms(host: &Host, facts: &mut Facts) {
    let Facts {
        kernel_threads,
        vms,
        ..
    } = facts;
    kernel_threads.retain(|thread| {
        let is_candidate = ["kvm-", "vhost-"]
            .iter()
            .any(|start| thread.comm.starts_with(start));
        let group = is_candidate
            .then(|| task::cgroup_of(&*host.files, thread.id.tid, thread.id.tid).ok())
            .flatten();
        let group = group.unwrap_or_default();
        let vm = vms.values_mut().find(|vm| scope_in(&group) == vm.scope);
        let Some(vm) = vm else { return true };
        vm.threads.push(Thread {
            id: thread.id,
            comm: thread.comm.clone(),
            group,
            affinity: thread.affinity.clone(),
            bound: thread.bound,
            iothread: None,
        });
        false
    });
}

/// Returns what there is to know of the VM of a claim, or `None` when its QEMU is gone.
fn observe_vm(host: &Host, claim: &Claim) -> Option<VmFacts> {
    let qemu = claim.qemu()?;
    if !task::is_process(&*host.files, qemu) {
        return None;
    }
    let scope = task::cgroup_of(&*host.files, qemu.tid, qemu.tid).ok()?;
    let mut threads = threads_of(host, qemu);
    for thread in &mut threads {
        thread.iothread = claim.iothreads.get(&thread.id.tid).cloned();
    }
    let scope = scope_in(&scope).to_owned();
    let nodes = Target::scope_nodes(&scope);
    let nodes = target::read(host, &nodes).ok();
    Some(VmFacts {
        qemu,
        effective: cgroup::effective(&*host.files, &scope),
        scope,
        nodes: nodes
            .and_then(|nodes| nodes.cpus().cloned())
            .unwrap_or_default(),
        threads,
    })
}

/// Returns the path of the scope that a cgroup is or lies in: the main thread of QEMU may have been
/// moved into a cgroup of ours.
pub fn scope_in(group: &str) -> &str {
    let end = group.find(".scope/");
    end.map_or(group, |dot| &group[..dot + ".scope".len()])
}

/// Returns the threads of a QEMU process; those that end meanwhile are left out.
pub fn threads_of(host: &Host, qemu: TaskId) -> Vec<Thread> {
    let tasks = task::tasks_of(&*host.files, qemu.tid).unwrap_or_default();
    let threads = tasks.into_iter().filter_map(|task| {
        Some(Thread {
            affinity: host.sched.affinity(task.id.tid).ok()?,
            bound: task.is_bound(),
            group: task::cgroup_of(&*host.files, qemu.tid, task.id.tid).ok()?,
            id: task.id,
            comm: task.comm,
            iothread: None,
        })
    });
    threads.collect()
}

/// Returns the kernel threads in the order of their numbers, where these CPUs are offline; those that end meanwhile are left out. Of those that this
/// run has looked at `before` only the affinity is read again, and nothing of those that nobody can move.
pub fn kernel_threads(
    host: &Host,
    offline: &CpuSet,
    before: &[KernelThread],
) -> anyhow::Result<Vec<KernelThread>> {
    let files = &*host.files;
    let before = before.iter().map(|thread| (thread.id.tid, thread));
    let before: BTreeMap<i32, &KernelThread> = before.collect();
    let likely = task::likely_kernel_threads(files).context(UNLISTED)?;
    let mut threads = Vec::new();
    for tid in likely {
        let thread = match before.get(&tid) {
            Some(known) if known.bound => Some((*known).clone()),
            Some(known) => with_affinity(host, offline, (*known).clone()),
            None => {
                let task = task::kernel_thread(files, tid).context(UNLISTED)?;
                task.and_then(|task| with_affinity(host, offline, new_thread(task)))
            }
        };
        threads.extend(thread);
    }
    threads.sort_unstable_by_key(|thread| thread.id.tid);
    Ok(threads)
}

fn new_thread(task: Task) -> KernelThread {
    KernelThread {
        affinity: CpuSet::new(),
        kept: CpuSet::new(),
        // A worker that was just born has neither flag yet, but its name.
        bound: task.is_bound()
            || task.flags & PF_WQ_WORKER != 0
            || task.comm.starts_with("kworker/"),
        id: task.id,
        comm: task.comm,
    }
}

/// Returns a kernel thread with the affinity that it has now; `None` when it has ended.
fn with_affinity(host: &Host, offline: &CpuSet, thread: KernelThread) -> Option<KernelThread> {
    let tid = thread.id.tid;
    let affinity = host.sched.affinity(tid).ok()?;
    // sched_getaffinity(2) leaves out what is offline.
    let kept = match offline.is_empty() {
        true => affinity.clone(),
        false => task::allowed_cpus(&*host.files, tid).ok()?,
    };
    Some(KernelThread {
        affinity,
        kept,
        ..thread
    })
}

/// Returns the cpulist in a file, or `None` where this kernel has no such file.
pub fn read_cpus(host: &Host, path: &str) -> anyhow::Result<Option<CpuSet>> {
    read_list_if_there(&*host.files, path)
}
