//! The traces that claims leave on a host, and what each held value was before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;

use crate::domain::cpuset::CpuSet;
use crate::domain::state::Held;
use crate::domain::target::{KTHREADD, Target, Value};
use crate::domain::vm::{TaskId, Vmid};
use crate::host::cgroup::{self, QEMU_SLICE, ROOT};
use crate::host::{Host, container, irq, pve, target, task, workqueue};
use crate::lifecycle::engine::observe::{
    boot_isolated, kernel_threads, read_cpus, shared_cpus, threads_of,
};
use crate::lifecycle::engine::units::is_watching;

const UNITS: &str = "/run/systemd/system";

/// How much of what looks like ours is taken for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// Only what goes with cgroups that nobody else makes: a VM's, with our drop-in for its scope; or everything
    /// while our units look after something.
    Sure,
    /// Everything: something was in force, or somebody has asked for it.
    All,
}

/// What a log tells.
pub struct Told {
    /// CPUs that are kept from the host.
    pub cpus: CpuSet,
    /// VMs of which it tells everything. What else their threads have is the kernel's doing: a partition
    /// takes its CPUs from the threads beside it, so that they look pinned.
    pub vms: BTreeSet<Vmid>,
}

/// Returns what the traces on the host say is held.
///
/// # Errors
/// What the kernel or systemd says.
pub fn traces(host: &Host, known: Told, marks: Marks) -> anyhow::Result<Vec<(Target, Held)>> {
    let vmids = cgroup::scopes(&*host.files);
    let mut found = Traces {
        host,
        known: known.vms,
        held: Vec::new(),
        owned: CpuSet::new(),
        is_delegated: false,
        is_sure: false,
    };
    for vmid in &vmids {
        found.scope(*vmid)?;
    }
    // Its cgroups go with a VM; the units that look after what it had do not.
    found.is_sure |= marks == Marks::Sure && is_watching(host);
    if marks == Marks::Sure && !found.is_sure {
        return Ok(Vec::new());
    }
    found.memory_nodes()?;
    // It stays when the scopes have gone with their VMs.
    let left = read_cpus(host, &cgroup::file(QEMU_SLICE, "cpuset.cpus.exclusive"))?;
    found.owned.extend(left.unwrap_or_default().iter());
    if !found.owned.is_empty() {
        found.exclusive(QEMU_SLICE);
        if !found.is_delegated {
            found.switch(QEMU_SLICE);
        }
    }
    found.owned.extend(known.cpus.iter());
    if !found.owned.is_empty() {
        found.containers()?;
    }
    found.units(&vmids)?;
    if found.owned.is_empty() {
        found.owned = avoided_by_births(host)?;
    }
    if !found.owned.is_empty() {
        found.rest_of_host()?;
    }
    Ok(found.held)
}

/// Returns the CPUs that births avoid, where something is looked after and the log of it is missing.
pub(super) fn left_to_births(host: &Host) -> anyhow::Result<CpuSet> {
    match is_watching(host) {
        true => avoided_by_births(host),
        false => Ok(CpuSet::new()),
    }
}

/// Returns the CPUs that new kernel threads are not to run on, or new interrupts, although the
/// kernel was not booted like that. Where the VM and its cgroups have gone nothing else shows which it had.
fn avoided_by_births(host: &Host) -> anyhow::Result<CpuSet> {
    let present = read_cpus(host, "/sys/devices/system/cpu/present")?.unwrap_or_default();
    let whole = present.difference(&boot_isolated(host)?);
    // An owned CPU may be offline now, which sched_getaffinity(2) would leave out of any affinity.
    let threads = task::allowed_cpus(&*host.files, KTHREADD).ok();
    let avoided = threads.map_or_else(CpuSet::new, |cpus| whole.difference(&cpus));
    let booted_with = host.files.read("/proc/cmdline").unwrap_or_default();
    if !avoided.is_empty() || booted_with.contains("irqaffinity=") {
        return Ok(avoided);
    }
    let interrupts = irq::default_affinity(&*host.files).ok();
    Ok(interrupts.map_or_else(CpuSet::new, |cpus| whole.difference(&cpus)))
}

struct Traces<'h> {
    host: &'h Host,
    known: BTreeSet<Vmid>,
    held: Vec<(Target, Held)>,
    owned: CpuSet,
    /// Whether a scope stays delegated, because its VM is hooked.
    is_delegated: bool,
    /// Whether there is what nobody else makes.
    is_sure: bool,
}

impl Traces<'_> {
    fn hold(&mut self, target: Target, baseline: Value, ours: Value) {
        self.held.push((target, Held::new(baseline, ours)));
    }

    fn hold_cpus(&mut self, target: Target, baseline: CpuSet, ours: CpuSet) {
        self.hold(target, Value::Cpus(baseline), Value::Cpus(ours));
    }

    fn scope(&mut self, vmid: Vmid) -> anyhow::Result<()> {
        let scope = cgroup::scope_of(vmid);
        let groups = ["vcpu", "io"].map(|name| format!("{scope}/{name}"));
        let ours = groups.into_iter().filter(|group| self.is_group(group));
        let ours: Vec<String> = ours.collect();
        let is_ours = self.delegation(vmid)?;
        if ours.is_empty() {
            return Ok(());
        }
        self.is_sure |= is_ours;
        for group in &ours {
            let cpus = read_cpus(self.host, &cgroup::file(group, "cpuset.cpus"))?;
            self.owned.extend(cpus.unwrap_or_default().iter());
            self.hold(Target::Group(group.clone()), Value::Absent, Value::Present);
        }
        self.switch(&scope);
        self.exclusive(&scope);
        self.threads(vmid, &scope, &ours)
    }

    fn is_group(&self, group: &str) -> bool {
        self.host.files.exists(&format!("{ROOT}/{group}"))
    }

    /// A VM that was adopted by hand was not delegated before. Tells whether there is a delegation.
    fn delegation(&mut self, vmid: Vmid) -> anyhow::Result<bool> {
        let target = Target::Delegation(vmid);
        if target::read(self.host, &target)? != Value::Present {
            return Ok(false);
        }
        let guest = pve::guest_of(&*self.host.files, vmid, "")?;
        match guest.is_some_and(|guest| guest.hookscript.is_some()) {
            true => self.is_delegated = true,
            false => self.hold(target, Value::Absent, Value::Present),
        }
        Ok(true)
    }

    /// Nobody else writes these drop-ins, and they stay when their VMs have gone.
    fn memory_nodes(&mut self) -> anyhow::Result<()> {
        for name in self.host.files.list(UNITS).unwrap_or_default() {
            let vmid = name.strip_suffix(".scope.d").map(str::parse::<Vmid>);
            let Some(Ok(vmid)) = vmid else {
                continue;
            };
            let target = Target::MemoryNodes(vmid);
            match target::read(self.host, &target)? {
                Value::Absent => {}
                live => self.hold(target, Value::Absent, live),
            }
        }
        Ok(())
    }

    fn switch(&mut self, group: &str) {
        let target = Target::controller(group);
        self.hold(target, Value::Absent, Value::Present);
    }

    fn exclusive(&mut self, group: &str) {
        let target = Target::exclusive(group);
        let live = read_cpus(self.host, &target.path()).ok().flatten();
        if let Some(live) = live {
            self.hold_list(target, live);
        }
    }

    fn threads(&mut self, vmid: Vmid, scope: &str, ours: &[String]) -> anyhow::Result<()> {
        if self.known.contains(&vmid) {
            return Ok(());
        }
        let Some(qemu) = pve::running(&*self.host.files, vmid)? else {
            return Ok(());
        };
        let guest = pve::guest_of(&*self.host.files, vmid, "")?;
        let natural = match guest.and_then(|guest| guest.affinity) {
            Some(affinity) => affinity,
            None => self.possible()?,
        };
        for thread in threads_of(self.host, qemu) {
            if ours.contains(&thread.group) {
                let (outer, own) = (Value::Text(scope.to_owned()), Value::Text(thread.group));
                self.hold(Target::Membership(thread.id), outer, own);
            }
            self.hold_cpus(
                Target::Affinity(thread.id),
                natural.clone(),
                thread.affinity,
            );
            self.class(thread.id)?;
        }
        Ok(())
    }

    /// Containers that PVE gives all CPUs had the owned ones too; the others have as many as before.
    fn containers(&mut self) -> anyhow::Result<()> {
        let shared = shared_cpus(self.host)?.unwrap_or_default();
        let whole = shared.union(&self.owned);
        let all = Some(whole.len());
        for found in container::containers(&*self.host.files)? {
            let lists = found.lists().filter(|(_, live)| !live.is_empty());
            for (place, live) in lists.filter(|_| found.share(whole.len()) == all) {
                self.hold_cpus(Target::container(place), whole.clone(), live.clone());
            }
        }
        Ok(())
    }

    /// QEMU's threads have the ordinary class unless they are given another one.
    fn class(&mut self, thread: TaskId) -> anyhow::Result<()> {
        let target = Target::Class(thread);
        let class = target::read(self.host, &target)?;
        if matches!(&class, Value::Text(text) if text.contains(':')) {
            self.hold(target, Value::Text("other".to_owned()), class);
        }
        Ok(())
    }

    /// Units that are cut. Nobody else would cut that of systemd itself until the next boot; where it
    /// is not, a list of another unit is the administrator's.
    fn units(&mut self, vmids: &[Vmid]) -> anyhow::Result<()> {
        let Some(cut) = self.cut("init.scope")? else {
            return Ok(());
        };
        let possible = self.possible()?;
        for path in cgroup::outer_groups(&*self.host.files) {
            let listed = read_cpus(self.host, &Target::listed(&path).path())?;
            let Some(unit) = cgroup::unit_of(&path) else {
                if listed.as_ref() == Some(&cut) {
                    self.hold_list(Target::outside(&path), cut.clone());
                }
                continue;
            };
            let Some(cpus) = self.cut(unit)? else {
                continue;
            };
            self.owned.extend(possible.difference(&cpus).iter());
            let file = Target::DropIn(unit.to_owned());
            self.hold(file, Value::Absent, Value::Present);
            self.hold_list(Target::AllowedCpus(unit.to_owned()), cpus);
            if let Some(listed) = listed {
                self.hold_list(Target::listed(&path), listed);
            }
        }
        vmids
            .iter()
            .try_for_each(|vmid| self.threads(*vmid, &cgroup::scope_of(*vmid), &[]))
    }

    /// Holds a list of which nothing is known but that it is cut: it was empty.
    fn hold_list(&mut self, target: Target, live: CpuSet) {
        self.hold_cpus(target, CpuSet::new(), live);
    }

    /// Returns the CPUs that a unit was cut to until the next boot.
    fn cut(&self, unit: &str) -> anyhow::Result<Option<CpuSet>> {
        let file = Target::DropIn(unit.to_owned()).path();
        if !self.host.files.exists(&file) {
            return Ok(None);
        }
        let allowed = target::read(self.host, &Target::AllowedCpus(unit.to_owned()))?;
        Ok(allowed.cpus().filter(|cpus| !cpus.is_empty()).cloned())
    }

    /// Interrupts, work and kernel threads: those that are on every CPU but the owned ones were on all.
    fn rest_of_host(&mut self) -> anyhow::Result<()> {
        self.interrupts()?;
        let possible = self.possible()?;
        for (target, live) in workqueue::masks(self.host) {
            let whole = live.union(&self.owned);
            if live.is_disjoint(&self.owned) && whole == possible {
                self.hold_cpus(target, whole, live);
            }
        }
        self.kernel_threads(possible)
    }

    fn interrupts(&mut self) -> anyhow::Result<()> {
        let default = irq::default_affinity(&*self.host.files)?;
        if !default.is_disjoint(&self.owned) {
            return Ok(());
        }
        let all = default.union(&self.owned);
        // A CPU that is offline may have been online when the mask was made, or gone already.
        let all_there = (self.possible()?, irq::whole_nodes(&*self.host.files));
        let online = (target::online(self.host)?, irq::nodes(&*self.host.files));
        for irq in irq::interrupts(&*self.host.files, &[])? {
            // One that was left where it was born, or one that the kernel or a driver asked for everywhere.
            let is_set_up = !irq.actions.is_empty();
            let born = |(up, nodes): &_| {
                let is_born = irq.affinity == irq.affinity_at_birth(&default, up, nodes);
                (is_set_up && is_born).then(|| irq.affinity_at_birth(&all, up, nodes))
            };
            let whole = match [&all_there, &online].into_iter().find_map(born) {
                Some(whole) => whole,
                None if irq.affinity == default => all.clone(),
                None => continue,
            };
            let target = Target::irq(irq.number, &irq.actions);
            self.hold_cpus(target, whole, irq.affinity);
        }
        self.hold_cpus(Target::default_irqs(), all, default);
        Ok(())
    }

    /// Some kernel threads, such as kswapd, were on all CPUs of their node. What one shows is without
    /// the CPUs that are offline.
    fn kernel_threads(&mut self, possible: CpuSet) -> anyhow::Result<()> {
        let online = read_cpus(self.host, "/sys/devices/system/cpu/online")?;
        let online = online.unwrap_or_else(|| possible.clone());
        let nodes = irq::whole_nodes(&*self.host.files);
        let left = Left {
            owned: self.owned.clone(),
            online,
            possible,
        };
        for thread in kernel_threads(self.host, &CpuSet::new(), &[])? {
            let born = thread.affinity_at_birth(&left.possible, &nodes);
            let held = match born == left.possible {
                true => left.of_any(&thread.affinity, &nodes),
                false => left.of_node(&thread.affinity, &born),
            };
            if let Some(held) = held.filter(|_| !thread.bound) {
                self.held.push((Target::KernelThread(thread.id), held));
            }
        }
        Ok(())
    }

    fn possible(&self) -> anyhow::Result<CpuSet> {
        let path = "/sys/devices/system/cpu/possible";
        read_cpus(self.host, path)?.with_context(|| format!("{path} is missing"))
    }
}

/// What owned CPUs leave of those of kernel threads.
struct Left {
    owned: CpuSet,
    online: CpuSet,
    possible: CpuSet,
}

impl Left {
    fn rest(&self, whole: &CpuSet) -> CpuSet {
        whole.difference(&self.owned).intersection(&self.online)
    }

    fn is_rest_of(&self, whole: &CpuSet, live: &CpuSet) -> bool {
        !whole.is_disjoint(&self.owned) && self.rest(whole) == *live
    }

    /// Returns what is held of a thread that was on all CPUs, or on those of a node.
    fn of_any(&self, live: &CpuSet, nodes: &BTreeMap<u32, CpuSet>) -> Option<Held> {
        let mut whole = std::iter::once(&self.possible).chain(nodes.values());
        let whole = whole.find(|whole| self.is_rest_of(whole, live))?;
        let (whole, ours) = (Value::Cpus(whole.clone()), Value::Cpus(live.clone()));
        Some(Held::new(whole, ours))
    }

    /// Returns what is held of a thread of a node: moved where its node was taken, to the CPUs of the host that
    /// were online then, or given more than it had by a partition that ended.
    ///
    /// When a CPU of its node came online, the kernel has given kcompactd all of them (up to 6.13). That hides
    /// what we have asked for, to which it comes back when a partition ends (`__set_cpus_allowed_ptr()`, 6.2 and
    /// later): so one that looks as it was is held too. It is also what a partition that ends would widen.
    fn of_node(&self, live: &CpuSet, born: &CpuSet) -> Option<Held> {
        let near = self.rest(born);
        let asked = match near.is_empty() {
            true => self.rest(&self.possible),
            false => near,
        };
        let whole = || Value::Cpus(born.clone());
        if live == born {
            let is_asked = asked != *born;
            let mut held = Held::new(whole(), Value::Cpus(asked));
            held.asked = is_asked;
            return Some(held);
        }
        let is_elsewhere = !live.is_subset(born) && live.is_disjoint(&self.owned);
        let is_rest = self.is_rest_of(born, live) || self.is_rest_of(&self.possible, live);
        let is_moved = *live == self.online || is_elsewhere || is_rest;
        is_moved.then(|| Held::new(whole(), Value::Cpus(live.clone())))
    }
}
