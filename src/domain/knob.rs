//! The knob table: every target that is a file of the kernel, as a row.
//!
//! A row says where the file is, how its text is to be read and when it is written. Adding a knob
//! is adding a row (and a line in [`super::desired`] that wishes for it); observing, comparing,
//! writing, reading back and giving back need no code of their own.

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// Kernel file with a value; the order of the variants is the order of writing within a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knob {
    /// Whether a cgroup holds threads (`threaded`) or processes.
    GroupType,
    /// Whether the children of a cgroup have the cpuset controller.
    CpusetForChildren,
    /// CPUs that a cgroup may grant exclusively below it.
    CpusExclusive,
    /// CPUs that a cgroup asks for.
    Cpus,
    /// Kind of cpuset partition that a cgroup is the root of.
    Partition,
    /// CPUs that a container asks for.
    ContainerCpus,
    /// CPUs that interrupts are given when they are set up.
    DefaultIrqAffinity,
    /// CPUs that one interrupt may be delivered to.
    IrqAffinity,
    /// Highest frequency of a cpufreq policy, in kHz.
    MaxFrequency,
    /// Lowest frequency of a cpufreq policy, in kHz.
    MinFrequency,
    /// Whether the CPUs of a policy may run faster than their nominal frequency.
    PolicyBoost,
    /// The same for the whole host, where policies cannot tell.
    Boost,
    /// The same, negated, with the driver `intel_pstate`.
    NoTurbo,
    /// Preference between performance and energy of a policy, where the hardware governs.
    EnergyPreference,
    /// Governor of a cpufreq policy.
    Governor,
    /// Longest time that waking up a CPU from an idle state may take, in microseconds.
    IdleLatency,
    /// Setting of the kernel below `/proc/sys`.
    Sysctl,
    /// Whether the kernel merges equal pages of memory (KSM).
    KsmRun,
    /// When processes get huge pages without asking (THP).
    TransparentHugepages,
    /// How long KVM polls for work before a vCPU sleeps, in nanoseconds.
    HaltPoll,
    /// By how much KVM lengthens that time at once, from nothing on; PVE's kernel begins with 0, which
    /// lets it stay nothing (`grow_halt_poll_ns()`).
    HaltPollGrow,
    /// CPUs that the cgroup of a unit outside of the VMs asks for.
    ListedCpus,
    /// CPUs that a cgroup outside of systemd asks for. It is given back before the units, with
    /// the last of which systemd may take the controller away.
    OutsideCpus,
    /// Whether a CPU is online.
    Online,
    /// CPUs that unbound kernel work may run on, as requested.
    UnboundCpus,
    /// CPUs that the work of one unbound workqueue may run on.
    QueueCpus,
    /// CPUs on which the kernel looks for soft lockups.
    WatchdogCpus,
    /// NUMA nodes that a VM's scope may allocate from. systemd sets them when it makes the scope, and
    /// does not take them back when the drop-in that says so goes.
    ScopeNodes,
    /// Methods by which the kernel may reset a function, in the order in which it tries them.
    ResetMethod,
    /// Whether drivers take functions that they match without being asked to.
    DriversAutoprobe,
    /// The only driver that may take a function.
    DriverOverride,
}

/// How the text of a knob is read, compared and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// A cpulist; compared as a set. The empty set is written as an empty line.
    CpuList,
    /// A hexadecimal cpumask in words of 32 bits; compared as a set.
    CpuMask,
    /// One line of text, compared as it is.
    Word,
    /// Words or numbers between blanks; compared word by word.
    Fields,
    /// All choices on one line with the one in force in brackets; written without.
    Choice,
    /// A name, or `(null)` where there is none, which is written as an empty line.
    Name,
    /// A list of words of which one is there or not; written as `+word` or `-word`.
    Switch(&'static str),
}

/// Row of the knob table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which knob it is.
    pub knob: Knob,
    /// Path of the file; `{}` stands for the place (a cgroup, an interrupt number).
    pub path: &'static str,
    /// How the file is read and written.
    pub grammar: Grammar,
    /// When it is written.
    pub stage: Stage,
    /// What it is for, in one line.
    pub doc: &'static str,
}

/// The knob table, in the order of [`Knob`].
pub const ROWS: &[Row] = &[
    Row {
        knob: Knob::GroupType,
        path: "/sys/fs/cgroup/{}/cgroup.type",
        grammar: Grammar::Word,
        stage: Stage::Partition,
        doc: "lets single threads of the vm live in a cgroup of their own",
    },
    Row {
        knob: Knob::CpusetForChildren,
        path: "/sys/fs/cgroup/{}/cgroup.subtree_control",
        grammar: Grammar::Switch("cpuset"),
        stage: Stage::Partition,
        doc: "gives the cgroups of the vm's threads the cpuset controller",
    },
    Row {
        knob: Knob::CpusExclusive,
        path: "/sys/fs/cgroup/{}/cpuset.cpus.exclusive",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "passes the owned cpus down to the vm's partition",
    },
    Row {
        knob: Knob::Cpus,
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "the cpus of the vm's partition",
    },
    Row {
        knob: Knob::Partition,
        path: "/sys/fs/cgroup/{}/cpuset.cpus.partition",
        grammar: Grammar::Word,
        stage: Stage::Partition,
        doc: "takes the cpus away from every other cgroup",
    },
    Row {
        knob: Knob::ContainerCpus,
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Containers,
        doc: "gives containers as many cpus beside the owned ones as they had",
    },
    Row {
        knob: Knob::DefaultIrqAffinity,
        path: "/proc/irq/default_smp_affinity",
        grammar: Grammar::CpuMask,
        stage: Stage::Interrupts,
        doc: "keeps interrupts that are set up later off the owned cpus",
    },
    Row {
        knob: Knob::IrqAffinity,
        path: "/proc/irq/{}/smp_affinity_list",
        grammar: Grammar::CpuList,
        stage: Stage::Interrupts,
        doc: "keeps an interrupt off the owned cpus",
    },
    Row {
        knob: Knob::MaxFrequency,
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_max_freq",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "limits the frequency of the owned cpus",
    },
    Row {
        knob: Knob::MinFrequency,
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_min_freq",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "keeps the owned cpus from running slower",
    },
    Row {
        knob: Knob::PolicyBoost,
        path: "/sys/devices/system/cpu/cpufreq/policy{}/boost",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "lets the owned cpus run faster than nominal, or not",
    },
    Row {
        knob: Knob::Boost,
        path: "/sys/devices/system/cpu/cpufreq/boost",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "lets all cpus run faster than nominal, or not",
    },
    Row {
        knob: Knob::NoTurbo,
        path: "/sys/devices/system/cpu/intel_pstate/no_turbo",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "lets all cpus run faster than nominal, or not",
    },
    Row {
        knob: Knob::EnergyPreference,
        path: "/sys/devices/system/cpu/cpufreq/policy{}/energy_performance_preference",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "has the hardware choose frequencies of the owned cpus as wished",
    },
    Row {
        knob: Knob::Governor,
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_governor",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "chooses the frequency of the owned cpus as wished",
    },
    Row {
        knob: Knob::IdleLatency,
        path: "/sys/devices/system/cpu/cpu{}/power/pm_qos_resume_latency_us",
        grammar: Grammar::Word,
        stage: Stage::Power,
        doc: "keeps the owned cpus from sleeping too deeply",
    },
    Row {
        knob: Knob::Sysctl,
        path: "/proc/sys/{}",
        grammar: Grammar::Fields,
        stage: Stage::Host,
        doc: "sets what the table wishes for the whole host",
    },
    Row {
        knob: Knob::KsmRun,
        path: "/sys/kernel/mm/ksm/run",
        grammar: Grammar::Word,
        stage: Stage::Host,
        doc: "stops the merging of memory pages",
    },
    Row {
        knob: Knob::TransparentHugepages,
        path: "/sys/kernel/mm/transparent_hugepage/enabled",
        grammar: Grammar::Choice,
        stage: Stage::Host,
        doc: "decides who gets huge pages without asking",
    },
    Row {
        knob: Knob::HaltPoll,
        path: "/sys/module/kvm/parameters/halt_poll_ns",
        grammar: Grammar::Word,
        stage: Stage::Host,
        doc: "has kvm wait for work of a vcpu without sleeping",
    },
    Row {
        knob: Knob::HaltPollGrow,
        path: "/sys/module/kvm/parameters/halt_poll_ns_grow",
        grammar: Grammar::Word,
        stage: Stage::Host,
        doc: "lets kvm come to that time, from which some kernels keep it",
    },
    Row {
        knob: Knob::ListedCpus,
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Slices,
        doc: "has the cgroup of a unit follow its AllowedCPUs=",
    },
    Row {
        knob: Knob::OutsideCpus,
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "keeps cgroups outside of systemd off the owned cpus",
    },
    Row {
        knob: Knob::Online,
        path: "/sys/devices/system/cpu/cpu{}/online",
        grammar: Grammar::Word,
        stage: Stage::Hotplug,
        doc: "brings a cpu back that was taken offline to clear it",
    },
    Row {
        knob: Knob::UnboundCpus,
        path: "/sys/devices/virtual/workqueue/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps unbound kernel work off the owned cpus",
    },
    Row {
        knob: Knob::QueueCpus,
        path: "/sys/devices/virtual/workqueue/{}/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps the work of a workqueue off the owned cpus",
    },
    Row {
        knob: Knob::WatchdogCpus,
        path: "/proc/sys/kernel/watchdog_cpumask",
        grammar: Grammar::CpuList,
        stage: Stage::Work,
        doc: "keeps the soft lockup watchdog off the owned cpus",
    },
    Row {
        knob: Knob::ScopeNodes,
        path: "/sys/fs/cgroup/{}/cpuset.mems",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "has the cgroup of the vm follow its nodes",
    },
    Row {
        knob: Knob::ResetMethod,
        path: "/sys/bus/pci/devices/{}/reset_method",
        grammar: Grammar::Fields,
        stage: Stage::Host,
        doc: "chooses how a device is reset before the vm gets it",
    },
    Row {
        knob: Knob::DriversAutoprobe,
        path: "/sys/bus/pci/drivers_autoprobe",
        grammar: Grammar::Word,
        stage: Stage::Host,
        doc: "keeps drivers of the host off a device that is removed and comes back",
    },
    Row {
        knob: Knob::DriverOverride,
        path: "/sys/bus/pci/devices/{}/driver_override",
        grammar: Grammar::Name,
        stage: Stage::Host,
        doc: "keeps drivers of the host off a device until pve has bound it",
    },
];

/// The place of what does not depend on the others of its stage.
pub const LAST_RANK: u8 = 4;

impl Knob {
    /// Tells whether it is the list of a cgroup that was there before and has tasks of others.
    pub fn is_list_of_others(self) -> bool {
        matches!(self, Knob::ListedCpus | Knob::OutsideCpus)
    }

    /// Returns its place among those of its stage when they are taken; what is given back goes backwards
    /// in the order of [`Knob`]. Either way boost is switched before the frequencies that it allows, and
    /// the governor before the preference: `performance` refuses every other one (EBUSY in
    /// `intel_pstate.c` and `amd-pstate.c`).
    pub fn rank(self) -> u8 {
        match self {
            Knob::PolicyBoost | Knob::Boost | Knob::NoTurbo => 0,
            Knob::MaxFrequency | Knob::MinFrequency => 1,
            Knob::Governor => 2,
            Knob::EnergyPreference => 3,
            _ => LAST_RANK,
        }
    }

    /// Returns the row of the knob.
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_knobs() {
        for (n, row) in ROWS.iter().enumerate() {
            assert_eq!(row.knob as usize, n, "{:?}", row.knob);
        }
    }
}
