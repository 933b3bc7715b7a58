//! What the operator wishes: the table of one VM and the settings of the host.
//!
//! These are values only. `config` reads them from TOML and checks them; a claim stores the
//! resolved table, so every value has one text form that is both written by people and kept in
//! `/run`. What needs the host or the guest (are these CPUs online, are there enough of them) is
//! not decided here.

mod intent;
mod kernel;
mod profile;
mod quantity;
mod sets;
pub(super) mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use intent::{Prefer, Smt};
pub use kernel::{Scheduler, SysctlValue, Workqueues};
pub use quantity::{Frequency, TimeSpan};
pub use sets::{Cpus, Nodes, Reserve};
pub use text::ParseWishError;

use super::backend::BackendWish;
use super::cpuset::{CpuId, CpuSet};
use super::vm::Vmid;

/// Validated wishes for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    /// CPUs that the VM owns while it runs, one vCPU each.
    pub cpus: Cpus,
    /// What counts when the CPUs are chosen.
    #[serde(default)]
    pub prefer: Option<Prefer>,
    /// What becomes of SMT siblings.
    #[serde(default)]
    pub smt: Option<Smt>,
    /// Which thread runs where.
    #[serde(default)]
    pub pin: Pin,
    /// How everything else is kept off the owned CPUs.
    #[serde(default)]
    pub isolate: Isolate,
    /// Documented bundle of settings for sections that are not written.
    #[serde(default)]
    pub profile: Option<Profile>,
    /// Speed and sleep of the owned CPUs.
    #[serde(default)]
    pub power: Power,
    /// Settings of the whole host while the VM runs.
    #[serde(default)]
    pub host: HostKnobs,
    /// Where the guest's memory comes from.
    #[serde(default)]
    pub memory: Memory,
    /// Devices that are passed through.
    #[serde(default)]
    pub pci: Pci,
    /// Behaviour at the start of the VM.
    #[serde(default)]
    pub start: Start,
    /// VMs that make room for this one.
    #[serde(default, rename = "yield")]
    pub yields: Yield,
    /// Nodes that the file has sections for; what those say is in the other keys already.
    #[serde(skip)]
    pub nodes: Vec<String>,
}

impl Table {
    /// Returns the table that says `cpus` and nothing else.
    pub fn of(cpus: Cpus) -> Self {
        Self {
            cpus,
            prefer: None,
            smt: None,
            pin: Pin::default(),
            isolate: Isolate::default(),
            profile: None,
            power: Power::default(),
            host: HostKnobs::default(),
            memory: Memory::default(),
            pci: Pci::default(),
            start: Start::default(),
            yields: Yield::default(),
            nodes: Vec::new(),
        }
    }
}

/// Which thread runs where; what is not written follows from `cpus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pin {
    /// CPU of vCPU n at index n.
    pub vcpus: Option<Vec<CpuId>>,
    /// CPUs of the emulator threads; the housekeeping CPUs if not written.
    pub emulator: Option<CpuSet>,
    /// CPUs of an iothread by the configuration key of its disk; `*` stands for all others.
    pub iothreads: BTreeMap<String, CpuSet>,
    /// CPUs of the vhost workers by the configuration key of their network device.
    pub vhost: BTreeMap<String, CpuSet>,
    /// Scheduling class of the vCPU threads.
    pub scheduler: Scheduler,
}

/// How everything else is kept off the owned CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Isolate {
    /// Means of isolation.
    pub backend: BackendWish,
    /// Whether kernel threads are moved.
    pub kthreads: bool,
    /// Whether unbound kernel work is moved.
    pub workqueues: Workqueues,
    /// Whether interrupts are moved.
    pub irqs: bool,
    /// Whether the soft lockup watchdog is kept away.
    pub watchdog: bool,
    /// Whether the CPUs are taken offline and back once, before they are isolated.
    pub hotplug: bool,
    /// CPUs that are owned as well, without a vCPU on them.
    pub also: CpuSet,
}

impl Default for Isolate {
    fn default() -> Self {
        Self {
            backend: BackendWish::Auto,
            kthreads: true,
            workqueues: Workqueues::Auto,
            irqs: true,
            watchdog: true,
            hotplug: false,
            also: CpuSet::new(),
        }
    }
}

/// Documented bundle of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Full speed, shallow sleep, rare statistics.
    LowLatency,
}

/// Speed and sleep of the owned CPUs; untouched unless written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Power {
    /// Value of `scaling_governor`.
    pub governor: Option<String>,
    /// Value of `energy_performance_preference`.
    pub energy_preference: Option<String>,
    /// Longest time that waking up from an idle state may take.
    pub max_idle_latency: Option<TimeSpan>,
    /// Lowest frequency.
    pub min_frequency: Option<Frequency>,
    /// Highest frequency.
    pub max_frequency: Option<Frequency>,
    /// Whether the CPUs may run faster than their nominal frequency.
    pub boost: Option<bool>,
}

impl Power {
    /// Tells whether nothing is wished for.
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }
}

/// Settings of the whole host; untouched unless written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostKnobs {
    /// Value by sysctl name.
    pub sysctl: BTreeMap<String, SysctlValue>,
    /// What becomes of the merging of memory pages.
    pub ksm: Option<Ksm>,
    /// Who gets huge pages without asking.
    pub transparent_hugepages: Option<TransparentHugepages>,
    /// How long KVM waits for work of a vCPU without sleeping.
    pub halt_poll: Option<TimeSpan>,
}

impl HostKnobs {
    /// Tells whether nothing is wished for.
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of the merging of memory pages (KSM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ksm {
    /// No more pages are merged; those that are stay so.
    Stop,
    /// Merged pages are taken apart as well, if there is memory for that.
    Unmerge,
}

/// Who gets huge pages without asking (`transparent_hugepage/enabled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransparentHugepages {
    /// Every process.
    Always,
    /// Those that ask.
    Madvise,
    /// Nobody.
    Never,
}

impl std::fmt::Display for TransparentHugepages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// Where the guest's memory comes from; untouched unless written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Memory {
    /// NUMA nodes that QEMU may allocate from.
    pub nodes: Option<Nodes>,
    /// Making room for hugepages before the start.
    pub hugepages: Option<Hugepages>,
}

/// Making room for hugepages before the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hugepages {
    /// Whether memory is compacted when hugepages are short.
    pub compact: bool,
    /// How long the start may wait for that.
    pub timeout: TimeSpan,
}

impl Default for Hugepages {
    fn default() -> Self {
        Self {
            compact: false,
            timeout: TimeSpan(Duration::from_secs(30)),
        }
    }
}

/// Devices that are passed through; untouched unless written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pci {
    /// How devices are brought back to life before the start.
    pub reset: PciReset,
    /// Where the interrupts of the devices go.
    pub irqs: Option<PciIrqs>,
    /// Devices that are bound to vfio-pci before PVE does it, by their configuration key; `*` stands
    /// for all others.
    pub bind: BTreeMap<String, AfterStop>,
}

impl Pci {
    /// Tells whether devices are touched before the start.
    pub fn touches_devices(&self) -> bool {
        self.reset != PciReset::None || !self.bind.is_empty()
    }
}

/// What becomes of a device that was bound to vfio-pci for a VM, after its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterStop {
    /// It stays there, as PVE leaves it.
    Stay,
    /// It goes back to the driver that it had.
    Return,
}

/// How passed-through devices are brought back to life before the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PciReset {
    /// Not at all: PVE resets by itself.
    #[default]
    None,
    /// By a function level reset.
    Flr,
    /// By removing the device and scanning the bus again.
    RemoveRescan,
    /// By what the device supports.
    Auto,
}

/// Where the interrupts of passed-through devices go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PciIrqs {
    /// Vector n to the CPU of vCPU n.
    Vcpus,
    /// To the housekeeping CPUs.
    Housekeeping,
}

/// Behaviour at the start of the VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Start {
    /// What happens when the wishes cannot be granted.
    pub on_refusal: OnRefusal,
}

/// What happens to a start when the wishes cannot be granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefusal {
    /// Abort when somebody starts the VM, warn when the host, HA or a migration does.
    #[default]
    Auto,
    /// The VM does not start.
    Abort,
    /// The VM starts without its CPUs.
    Warn,
}

/// VMs that make room for this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Yield {
    /// VMs that are shut down before the start and started again after the stop.
    pub stop: Vec<Vmid>,
    /// How long the start may wait for their shutdown.
    pub timeout: TimeSpan,
}

impl Default for Yield {
    fn default() -> Self {
        Self {
            stop: Vec::new(),
            timeout: TimeSpan(Duration::from_secs(60)),
        }
    }
}

/// Settings of this host, from `host.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostSettings {
    /// CPUs that stay with the host; a built-in number of cores if not written.
    pub reserve: Option<Reserve>,
    /// What the known hazards of a kernel version mean for the choice of the backend.
    pub kernel_gate: KernelGate,
    /// Whether admins are notified through PVE of what nobody may have seen.
    pub notify: bool,
    /// Values for tables that do not write them.
    pub defaults: Defaults,
}

/// What the known hazards of a kernel version mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelGate {
    /// A backend that is dangerous on this kernel version is not used.
    #[default]
    Enforce,
    /// The version is not looked at: the operator knows of a backported fix.
    Ignore,
}

/// Values for tables that do not write them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Defaults {
    /// For `isolate.backend`.
    pub backend: BackendWish,
    /// For `start.on-refusal`.
    pub on_refusal: OnRefusal,
}
