//! The knob table: every target that is a file of the kernel, as a row.
//!
//! A row says all that there is to know of the file: where it is, how its text is read, when it is
//! written, which key of a VM's table is about it, what holds when VMs disagree, what the kernel makes of
//! it. Adding a knob is adding a row, and a line in [`super::desired`] that wishes for it; observing,
//! comparing, merging, writing, reading back, giving back and telling ask the row.

mod row;

use serde::{Deserialize, Serialize};

use super::stage::Stage;
pub use row::{Grammar, LAST_RANK, Limit, Reading, Row, Rule, Sleeps, Words};
use row::{LIST_OF_OTHERS, PLAIN, SETTING};

/// Makes the enumeration of the knobs and their rows of one list.
macro_rules! knobs {
    ($($(#[doc = $doc:literal])* $name:ident = $row:expr,)*) => {
        /// Kernel file with a value; the order of the variants is the order of writing within a stage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Knob {
            $($(#[doc = $doc])* $name,)*
        }

        impl Knob {
            /// Every knob, in their order.
            pub const ALL: &[Knob] = &[$(Knob::$name,)*];

            /// Returns the row of the knob.
            pub fn row(self) -> &'static Row {
                match self {
                    $(Knob::$name => {
                        const ROW: Row = $row;
                        &ROW
                    })*
                }
            }
        }
    };
}

const GOVERNORS: &[&str] = &[
    "performance",
    "schedutil",
    "ondemand",
    "conservative",
    "powersave",
];
const PREFERENCES: &[&str] = &[
    "performance",
    "balance_performance",
    "balance_power",
    "power",
];

/// Value of [`Knob::KsmRun`] that takes merged pages apart.
pub const UNMERGE: &str = "2";

/// Sysctls of which one value serves every VM (`Documentation/admin-guide/sysctl`).
pub const SYSCTLS: &[(&str, Rule)] = &[
    ("kernel/nmi_watchdog", Rule::Lowest),
    ("kernel/numa_balancing", Rule::Lowest),
    ("kernel/soft_watchdog", Rule::Lowest),
    ("kernel/watchdog_thresh", Rule::Highest),
    ("vm/stat_interval", Rule::Highest),
];

/// NUMA nodes that memory can come from.
const NODES_WITH_MEMORY: &str = "/sys/devices/system/node/has_memory";

knobs! {
    /// Whether a cgroup holds threads (`threaded`) or processes.
    GroupType = Row {
        path: "/sys/fs/cgroup/{}/cgroup.type",
        stage: Stage::Partition,
        doc: "lets single threads of the vm live in a cgroup of their own",
        ..PLAIN
    },
    /// Whether the children of a cgroup have the cpuset controller.
    CpusetForChildren = Row {
        path: "/sys/fs/cgroup/{}/cgroup.subtree_control",
        grammar: Grammar::Switch("cpuset"),
        stage: Stage::Partition,
        doc: "gives the cgroups of the vm's threads the cpuset controller",
        is_passed_on: true,
        ..PLAIN
    },
    /// CPUs that a cgroup may grant exclusively below it.
    CpusExclusive = Row {
        path: "/sys/fs/cgroup/{}/cpuset.cpus.exclusive",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "passes the owned cpus down to the vm's partition",
        sleeps: Sleeps::Isolated,
        is_passed_on: true,
        ..PLAIN
    },
    /// CPUs that a cgroup asks for.
    Cpus = Row {
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "the cpus of the vm's partition",
        sleeps: Sleeps::Isolated,
        ..PLAIN
    },
    /// Kind of cpuset partition that a cgroup is the root of.
    Partition = Row {
        path: "/sys/fs/cgroup/{}/cpuset.cpus.partition",
        stage: Stage::Partition,
        doc: "takes the cpus away from every other cgroup",
        // Taking CPUs out of the scheduling domains waits for the probes of drivers.
        sleeps: Sleeps::Isolating("isolated"),
        // Writing its kind again does not make a partition valid that went invalid.
        revived_by: Some("member"),
        ..PLAIN
    },
    /// CPUs that a container asks for.
    ContainerCpus = Row {
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Containers,
        doc: "gives containers as many other cpus as they had",
        // PVE goes on balancing containers, which changes which CPUs and not how many.
        is_balanced: true,
        ..PLAIN
    },
    /// CPUs that interrupts are given when they are set up.
    DefaultIrqAffinity = Row {
        path: "/proc/irq/default_smp_affinity",
        grammar: Grammar::CpuMask,
        stage: Stage::Interrupts,
        doc: "keeps interrupts that are set up later off the owned cpus",
        is_inherited: true,
        tells_owned: true,
        ..PLAIN
    },
    /// CPUs that one interrupt may be delivered to.
    IrqAffinity = Row {
        path: "/proc/irq/{}/smp_affinity_list",
        grammar: Grammar::CpuList,
        stage: Stage::Interrupts,
        doc: "keeps an interrupt off the owned cpus",
        ..PLAIN
    },
    /// Lowest frequency of a cpufreq policy, in kHz.
    MinFrequency = Row {
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_min_freq",
        stage: Stage::Power,
        doc: "keeps the owned cpus from running slower",
        key: Some("power.min-frequency"),
        // After the highest one, which cuts it; the same when they are given back.
        rank: 2,
        rule: Rule::Highest,
        // `cpufreq_notifier_min()` in the same file.
        is_applied_later: true,
        words: Words::Limit(Limit::Lowest),
        ..SETTING
    },
    /// Highest frequency of a cpufreq policy, in kHz.
    MaxFrequency = Row {
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_max_freq",
        stage: Stage::Power,
        doc: "limits the frequency of the owned cpus",
        key: Some("power.max-frequency"),
        // After boost, which allows them.
        rank: 1,
        rule: Rule::Highest,
        // `cpufreq_notifier_max()` in `drivers/cpufreq/cpufreq.c`.
        is_applied_later: true,
        words: Words::Limit(Limit::Highest),
        ..SETTING
    },
    /// Whether the CPUs of a policy may run faster than their nominal frequency.
    PolicyBoost = Row {
        path: "/sys/devices/system/cpu/cpufreq/policy{}/boost",
        stage: Stage::Power,
        doc: "switches boost of the owned cpus on or off",
        key: Some("power.boost"),
        rank: 0,
        rule: Rule::Highest,
        ..SETTING
    },
    /// The same for the whole host, where policies cannot tell.
    Boost = Row {
        path: "/sys/devices/system/cpu/cpufreq/boost",
        stage: Stage::Power,
        doc: "switches boost of all cpus on or off",
        key: Some("power.boost"),
        rank: 0,
        rule: Rule::Highest,
        ..SETTING
    },
    /// The same, negated, with the driver `intel_pstate`.
    NoTurbo = Row {
        path: "/sys/devices/system/cpu/intel_pstate/no_turbo",
        stage: Stage::Power,
        doc: "switches boost of all cpus on or off",
        key: Some("power.boost"),
        rank: 0,
        rule: Rule::Lowest,
        ..SETTING
    },
    /// Preference between performance and energy of a policy, where the hardware governs.
    EnergyPreference = Row {
        path: "/sys/devices/system/cpu/cpufreq/policy{}/energy_performance_preference",
        stage: Stage::Power,
        doc: "sets the energy preference of the owned cpus",
        key: Some("power.energy-preference"),
        // After the governor: `performance` refuses every other preference (EBUSY in
        // `intel_pstate.c` and `amd-pstate.c`).
        rank: 4,
        rule: Rule::Strongest(PREFERENCES),
        words: Words::Beside("energy_performance_available_preferences"),
        ..SETTING
    },
    /// Governor of a cpufreq policy.
    Governor = Row {
        path: "/sys/devices/system/cpu/cpufreq/policy{}/scaling_governor",
        stage: Stage::Power,
        doc: "sets the cpufreq governor of the owned cpus",
        key: Some("power.governor"),
        rank: 3,
        rule: Rule::Strongest(GOVERNORS),
        words: Words::Governors("scaling_available_governors"),
        ..SETTING
    },
    /// Longest time that waking up a CPU from an idle state may take, in microseconds.
    IdleLatency = Row {
        path: "/sys/devices/system/cpu/cpu{}/power/pm_qos_resume_latency_us",
        stage: Stage::Power,
        doc: "keeps the owned cpus from sleeping too deeply",
        key: Some("power.max-idle-latency"),
        ..SETTING
    },
    /// Setting of the kernel below `/proc/sys`.
    Sysctl = Row {
        path: "/proc/sys/{}",
        grammar: Grammar::Fields,
        doc: "sets the table's host settings",
        key: Some("host.sysctl {}"),
        rules: SYSCTLS,
        ..SETTING
    },
    /// Whether the kernel merges equal pages of memory (KSM).
    KsmRun = Row {
        path: "/sys/kernel/mm/ksm/run",
        doc: "stops the merging of memory pages",
        key: Some("host.ksm"),
        // Taking merged pages apart stops the merging as well.
        rule: Rule::Strongest(&[UNMERGE, "0"]),
        // Whatever is written meanwhile waits for that to end (`ksm_thread_mutex` in `mm/ksm.c`).
        sleeps: Sleeps::Around(UNMERGE),
        ..SETTING
    },
    /// When processes get huge pages without asking (THP).
    TransparentHugepages = Row {
        path: "/sys/kernel/mm/transparent_hugepage/enabled",
        grammar: Grammar::Choice,
        doc: "sets who gets transparent hugepages",
        key: Some("host.transparent-hugepages"),
        ..SETTING
    },
    /// How long KVM polls for work before a vCPU sleeps, in nanoseconds.
    HaltPoll = Row {
        path: "/sys/module/kvm/parameters/halt_poll_ns",
        doc: "sets how long kvm polls for work of a vcpu before it sleeps",
        key: Some("host.halt-poll"),
        rule: Rule::Highest,
        ..SETTING
    },
    /// By how much KVM lengthens that time at once, from nothing on; PVE's kernel begins with 0, which
    /// lets it stay nothing (`grow_halt_poll_ns()`).
    HaltPollGrow = Row {
        path: "/sys/module/kvm/parameters/halt_poll_ns_grow",
        doc: "lets kvm reach that polling time, which some kernels prevent",
        key: Some("host.halt-poll"),
        rule: Rule::Highest,
        ..SETTING
    },
    /// CPUs that the cgroup of a unit outside of the VMs asks for.
    ListedCpus = Row {
        stage: Stage::Slices,
        doc: "makes the cgroup of a unit follow its AllowedCPUs=",
        ..LIST_OF_OTHERS
    },
    /// CPUs that a cgroup outside of systemd asks for. It is given back before the units, with
    /// the last of which systemd may take the controller away.
    OutsideCpus = Row {
        stage: Stage::Partition,
        doc: "keeps cgroups outside of systemd off the owned cpus",
        ..LIST_OF_OTHERS
    },
    /// Whether a CPU is online.
    Online = Row {
        path: "/sys/devices/system/cpu/cpu{}/online",
        stage: Stage::Hotplug,
        doc: "brings back a cpu that was taken offline to clear it",
        reading: Reading::Online,
        sleeps: Sleeps::Always,
        ..PLAIN
    },
    /// CPUs that unbound kernel work may run on, as requested.
    UnboundCpus = Row {
        path: "/sys/devices/virtual/workqueue/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps unbound kernel work off the owned cpus",
        // It shows what partitions of type isolated leave of it; what was asked for is beside it (since
        // fe28f631fa94, Linux 6.8).
        reading: Reading::Beside("_requested"),
        tells_owned: true,
        ..PLAIN
    },
    /// CPUs that the work of one unbound workqueue may run on.
    QueueCpus = Row {
        path: "/sys/devices/virtual/workqueue/{}/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps the work of a workqueue off the owned cpus",
        ..PLAIN
    },
    /// CPUs on which the kernel looks for soft lockups.
    WatchdogCpus = Row {
        path: "/proc/sys/kernel/watchdog_cpumask",
        grammar: Grammar::CpuList,
        stage: Stage::Work,
        doc: "keeps the soft lockup watchdog off the owned cpus",
        ..SETTING
    },
    /// NUMA nodes that a VM's scope may allocate from. systemd sets them when it makes the scope, and
    /// does not take them back when the drop-in that says so goes.
    ScopeNodes = Row {
        path: "/sys/fs/cgroup/{}/cpuset.mems",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "makes the cgroup of the vm follow its nodes",
        // There may be no way back from all to none.
        reading: Reading::AllIsNone(NODES_WITH_MEMORY),
        all: Some(NODES_WITH_MEMORY),
        ..PLAIN
    },
    /// Methods by which the kernel may reset a function, in the order in which it tries them.
    ResetMethod = Row {
        path: "/sys/bus/pci/devices/{}/reset_method",
        grammar: Grammar::Fields,
        doc: "chooses how a device is reset before the vm gets it",
        ..PLAIN
    },
    /// Whether drivers take functions that they match without being asked to.
    DriversAutoprobe = Row {
        path: "/sys/bus/pci/drivers_autoprobe",
        doc: "keeps host drivers off a device that is removed and reappears",
        ..PLAIN
    },
    /// The only driver that may take a function.
    DriverOverride = Row {
        path: "/sys/bus/pci/devices/{}/driver_override",
        grammar: Grammar::Name,
        doc: "keeps host drivers off a device until pve has bound it",
        ..PLAIN
    },
}
