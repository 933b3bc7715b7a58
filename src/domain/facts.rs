//! What was observed of the host, as far as wishes depend on it.

use std::collections::{BTreeMap, BTreeSet};

use super::container::Container;
use super::cpuset::CpuSet;
use super::frequency::Frequencies;
use super::target::{Place, Target};
use super::thread::{Role, Thread};
use super::vm::{TaskId, Vmid};

/// Observed state of the host.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// CPUs that the kernel may ever have.
    pub possible: CpuSet,
    /// CPUs that are online.
    pub online: CpuSet,
    /// CPUs that are there and offline.
    pub offline: CpuSet,
    /// Online CPUs of every NUMA node, by node number.
    pub nodes: BTreeMap<u32, CpuSet>,
    /// All CPUs of every NUMA node. Looked at only where some are offline.
    pub whole_nodes: BTreeMap<u32, CpuSet>,
    /// CPUs that tasks outside of partitions may use (`cpuset.cpus.effective` of the root).
    pub shared: CpuSet,
    /// CPUs that the host's housekeeping may not use for other reasons than claims: `isolcpus`,
    /// `nohz_full` and partitions that are not ours.
    pub reserved: CpuSet,
    /// Running VMs with a claim.
    pub vms: BTreeMap<Vmid, VmFacts>,
    /// Containers.
    pub containers: Vec<Container>,
    /// Cgroups that may have to be kept off owned CPUs, by their path; those of VMs are among them.
    /// Looked at only where something is kept off that way.
    pub groups: BTreeMap<String, GroupFacts>,
    /// Kernel threads, in the order of their numbers.
    pub kernel_threads: Vec<KernelThread>,
    /// CPUs that interrupts are given when they are set up; none when that cannot be read.
    pub default_irq_affinity: Option<CpuSet>,
    /// Interrupts, in the order of their numbers.
    pub irqs: Vec<Irq>,
    /// CPUs that other work of the kernel may run on: that of unbound workqueues, and the watchdog.
    pub work: BTreeMap<Target, CpuSet>,
    /// CPUs of every cpufreq policy, by its number.
    pub policies: BTreeMap<u32, CpuSet>,
    /// What limits the frequencies of every cpufreq policy.
    pub frequencies: Frequencies,
    /// How frequencies above nominal are switched.
    pub boost: BoostBy,
    /// Functions that VMs have or are being given. Looked at only where the driver of one is in hand.
    pub functions_in_use: BTreeSet<String>,
    /// Functions that a child gives another driver right now: the kernel lets nobody look at some of
    /// their files before that is over.
    pub functions_at_work: BTreeSet<String>,
    /// Whether a child takes CPUs offline and back right now: what is online says little meanwhile.
    pub cpus_at_work: bool,
    /// Whether there is memory enough to take apart what KSM has merged.
    pub ksm_may_unmerge: bool,
}

impl Facts {
    /// Returns what people call a target: numbers of threads say nothing to them.
    pub fn name_of(&self, target: &Target) -> String {
        let name = match target {
            Target::Affinity(id) | Target::Membership(id) | Target::Class(id) => {
                self.name_of_thread(*id)
            }
            Target::KernelThread(id) => {
                let thread = self.kernel_thread(*id);
                thread.map(|thread| format!("kernel thread {} ({})", thread.comm, id.tid))
            }
            _ => None,
        };
        let what = match target {
            Target::Membership(_) => "cgroup",
            Target::Class(_) => "scheduling class",
            _ => "affinity",
        };
        name.map_or_else(|| target.to_string(), |name| format!("{what} of {name}"))
    }

    /// Returns a kernel thread.
    pub fn kernel_thread(&self, id: TaskId) -> Option<&KernelThread> {
        let place = self
            .kernel_threads
            .binary_search_by_key(&id.tid, |thread| thread.id.tid);
        let thread = &self.kernel_threads[place.ok()?];
        (thread.id == id).then_some(thread)
    }

    /// Returns an interrupt, as long as it is that of these devices.
    pub fn irq(&self, number: u32, actions: &str) -> Option<&Irq> {
        Irq::find(&self.irqs, number, actions)
    }

    /// Returns a thread of a VM, with the VM.
    pub fn thread_of_vm(&self, id: TaskId) -> Option<(Vmid, &Thread)> {
        let vms = self.vms.iter();
        let mut threads = vms.flat_map(|(vmid, vm)| vm.threads.iter().map(|one| (*vmid, one)));
        threads.find(|(_, thread)| thread.id == id)
    }

    /// Returns the VM that a target is of, if it is of one alone.
    pub fn vm_of(&self, target: &Target) -> Option<Vmid> {
        match target {
            Target::Membership(id) | Target::Affinity(id) | Target::Class(id) => {
                self.thread_of_vm(*id).map(|(vmid, _)| vmid)
            }
            _ => target.vmid(),
        }
    }

    fn name_of_thread(&self, id: TaskId) -> Option<String> {
        let (vmid, thread) = self.thread_of_vm(id)?;
        Some(match thread.role() {
            role @ (Role::Vcpu(_) | Role::Iothread(_)) => format!("{role} of vm {vmid}"),
            role => format!("{role} thread {} ({}) of vm {vmid}", thread.comm, id.tid),
        })
    }

    /// Tells whether a child changes a target right now: it gives a function another driver, or takes
    /// CPUs offline and back.
    pub fn is_at_work(&self, target: &Target) -> bool {
        match target {
            Target::Driver(address) | Target::Knob(_, Place::Function(address)) => {
                self.functions_at_work.contains(address)
            }
            _ => self.cpus_at_work && target.switched_cpu().is_some(),
        }
    }
}

/// Which file switches frequencies above nominal on and off; drivers differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BoostBy {
    /// None: the hardware or the driver cannot.
    #[default]
    Nothing,
    /// One for each policy (Linux 6.11 and later).
    Policy,
    /// One for all CPUs.
    Host,
    /// One for all CPUs that says the opposite (`intel_pstate`).
    NoTurbo,
}

/// Observed state of a running VM.
#[derive(Debug, Clone)]
pub struct VmFacts {
    /// QEMU's process.
    pub qemu: TaskId,
    /// Path of its scope below the root of the cgroup hierarchy.
    pub scope: String,
    /// CPUs that its scope leaves its threads, where the kernel tells.
    pub effective: Option<CpuSet>,
    /// NUMA nodes that the scope may allocate from; none where all may serve.
    pub nodes: CpuSet,
    /// Its threads.
    pub threads: Vec<Thread>,
}

/// Observed cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its unit and the CPUs that this leaves its tasks (`AllowedCPUs=`, empty: all); `None` where
    /// systemd knows nothing of it.
    pub unit: Option<(String, CpuSet)>,
    /// CPUs that it asks for (`cpuset.cpus`), where it has the controller.
    pub listed: Option<CpuSet>,
}

/// Observed kernel thread.
#[derive(Debug, Clone)]
pub struct KernelThread {
    /// Which one it is.
    pub id: TaskId,
    /// Its name.
    pub comm: String,
    /// CPUs that it may run on now.
    pub affinity: CpuSet,
    /// The same with those that are offline: it has them again when they are back.
    pub kept: CpuSet,
    /// Whether the kernel refuses to move it (`PF_NO_SETAFFINITY`).
    pub bound: bool,
}

impl KernelThread {
    /// Tells whether it handles an interrupt: the kernel then moves it to the CPU that the
    /// interrupt is delivered to, at the next one (`irq_thread_check_affinity()`).
    pub fn follows_irq(&self) -> bool {
        self.comm.starts_with("irq/")
    }

    /// Returns the affinity that the kernel gives it when it makes it: that of kthreadd, and the CPUs of a node
    /// where it is one of the two that each node has (`kswapd_run()` and `kcompactd_run()` in `mm/`).
    pub fn affinity_at_birth(&self, kthreadd: &CpuSet, nodes: &BTreeMap<u32, CpuSet>) -> CpuSet {
        let mut names = ["kswapd", "kcompactd"].into_iter();
        let node = names.find_map(|name| self.comm.strip_prefix(name)?.parse().ok());
        let own = node.and_then(|node: u32| nodes.get(&node));
        own.unwrap_or(kthreadd).clone()
    }
}

/// Observed interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// Names of what handles it, in the order of the kernel.
    pub actions: String,
    /// CPUs that it may be delivered to, as requested.
    pub affinity: CpuSet,
    /// Node of its device; `None` when the kernel knows none.
    pub node: Option<u32>,
}

impl Irq {
    /// Returns the one of a list in the order of their numbers, as long as it is that of these devices.
    pub fn find<'a>(irqs: &'a [Irq], number: u32, actions: &str) -> Option<&'a Irq> {
        let place = irqs.binary_search_by_key(&number, |irq| irq.number);
        Some(&irqs[place.ok()?]).filter(|irq| irq.actions == actions)
    }

    /// Returns the affinity that the kernel gives the interrupt when a driver sets it up: what is online of
    /// the default, or all that is online; of that what is near the device, if any (`irq_setup_affinity()`
    /// in `kernel/irq/manage.c`). Until then it has the whole default (`desc_smp_init()`).
    pub fn affinity_at_birth(
        &self,
        default: &CpuSet,
        online: &CpuSet,
        nodes: &BTreeMap<u32, CpuSet>,
    ) -> CpuSet {
        let or_else = |cpus: CpuSet, other: &CpuSet| match cpus.is_empty() {
            true => other.clone(),
            false => cpus,
        };
        let up = or_else(default.intersection(online), online);
        let near = self.node.and_then(|node| nodes.get(&node));
        near.map_or_else(|| up.clone(), |near| or_else(up.intersection(near), &up))
    }
}

impl Facts {
    /// Returns what each interrupt would get that is made now, and what once a driver sets it up.
    pub fn births(&self) -> BTreeMap<Target, [CpuSet; 2]> {
        let births = self.irqs.iter().filter_map(|irq| {
            let default = self.default_irq_affinity.as_ref()?;
            let cpus = irq.affinity_at_birth(default, &self.online, &self.nodes);
            let target = Target::irq(irq.number, &irq.actions);
            Some((target, [default.clone(), cpus]))
        });
        births.collect()
    }

    /// Returns the CPUs left to the host when `owned` are taken.
    pub fn housekeeping(&self, owned: &CpuSet) -> CpuSet {
        self.online.difference(owned).difference(&self.reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads and interrupts would be sent where boot parameters and partitions of others keep them off.
    #[test]
    fn housekeeping_leaves_out_what_is_owned_or_reserved() {
        let facts = Facts {
            online: "0-7".parse().unwrap(),
            reserved: "6-8".parse().unwrap(),
            ..Facts::default()
        };
        let left = facts.housekeeping(&"2-3".parse().unwrap());
        assert_eq!(left.to_string(), "0-1,4-5");
    }
}
