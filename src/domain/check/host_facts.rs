//! What the doctor knows of a host.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::advice::Advised;
use crate::domain::cpuset::CpuSet;
use crate::domain::gate::Choice;
use crate::domain::guest::Guest;
use crate::domain::memory::Pool;
use crate::domain::overlap::Named;
use crate::domain::startup::Startup;
use crate::domain::topology::Topology;
use crate::domain::unit::Masked;
use crate::domain::vm::Vmid;

/// MTU of each network device of the host.
pub type Mtus = BTreeMap<String, u32>;

/// What the doctor knows of a host; what could not be read is missing.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// What a table that leaves it open would be given, and why.
    pub choice: Option<Choice>,
    /// Controllers of the root cgroup; `None` where the unified hierarchy is not mounted.
    pub controllers: Option<Vec<String>>,
    /// Whether systemd runs; `None` in a capture without `/run`.
    pub has_systemd: Option<bool>,
    /// The kernel's command line.
    pub command_line: String,
    /// Command line of the next boot, where a boot loader's file says it.
    pub next_boot: Option<NextBoot>,
    /// Who made the processor.
    pub vendor: Vendor,
    /// CPUs, and what they share.
    pub topology: Topology,
    /// Services that run, of those that have a check.
    pub services: BTreeSet<&'static str>,
    /// Merging of equal pages.
    pub ksm: Option<KsmFacts>,
    /// Choice of `transparent_hugepage/enabled`.
    pub transparent_hugepages: Option<String>,
    /// Pages of each pool of hugepages.
    pub hugepages: Vec<(Pool, u64)>,
    /// Memory and swap.
    pub memory: Option<MemoryFacts>,
    /// Frequency policies of the CPUs.
    pub policies: Vec<PolicyFacts>,
    /// Whether CPUs may run faster than their nominal frequency; `None` where the kernel does not tell.
    pub may_boost: Option<bool>,
    /// Groups of the IOMMU; `None` where the kernel does not show any place for them.
    pub n_iommu_groups: Option<usize>,
    /// Whether the unit that prepares VMs at boot is installed, and enabled.
    pub boot_unit: Option<bool>,
    /// Units of the program that are masked.
    pub masked: Vec<Masked>,
    /// VMs that own CPUs and run without a config on this node, and what ends that.
    pub gone: Vec<Advised>,
    /// Files among the tables that nobody reads.
    pub strays: Vec<String>,
    /// Why the settings of the host cannot be used, and what can be done about it.
    pub settings_fault: Option<Advised>,
    /// Every VM of this node.
    pub guests: Vec<GuestOfHost>,
    /// Guests that PVE starts at boot, where storages in the network are used; nothing elsewhere.
    pub at_boot: Vec<AtBoot>,
    /// What the kernel has said of its IOMMU since the boot; `None` where its log cannot be read.
    pub iommu_messages: Option<Vec<String>>,
    /// Functions that VMs are to have, as addresses or their beginnings.
    pub passed: Vec<(String, Vmid)>,
    /// The initramfs of this kernel, where files about VFIO may have to be in it.
    pub initramfs: Option<InitramfsFacts>,
    /// Version of PVE's package for VMs, and how it calls post-stop.
    pub qemu_server: Option<QemuServer>,
    /// The deepest idle state that CPUs may enter.
    pub deepest_idle: Option<IdleState>,
    /// Network devices with their MTU; empty where the kernel shows none.
    pub mtus: Mtus,
    /// Whether other nodes have the same storage, by its name.
    pub storages: BTreeMap<String, bool>,
    /// Whether a file that is read at boot mentions SR-IOV; `None` where nobody needs to know.
    pub sets_virtuals: Option<bool>,
}

/// The initramfs of the kernel that runs, with times in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitramfsFacts {
    /// Where it is.
    pub path: String,
    /// When it was made.
    pub made: u64,
    /// When the host was booted.
    pub booted: u64,
    /// Files of modprobe that name vfio, with when each was written.
    pub files: Vec<(String, u64)>,
}

/// PVE's package for VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuServer {
    /// Its version.
    pub version: String,
    /// Whether an update left the old way in force until the next boot.
    pub is_held_back: bool,
}

/// Idle state of a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleState {
    /// Its name, such as `C6`.
    pub name: String,
    /// Microseconds that waking up takes.
    pub latency: u64,
}

/// The command line that the host boots with next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextBoot {
    /// File that says it.
    pub file: String,
    /// Its parameters.
    pub parameters: Vec<String>,
}

/// Who made a processor (`vendor_id` of `/proc/cpuinfo`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`
    Intel,
    /// `AuthenticAMD`
    Amd,
    /// Somebody else, or unknown.
    #[default]
    Other,
}

/// Merging of equal pages (`/sys/kernel/mm/ksm`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KsmFacts {
    /// Whether pages are merged at present.
    pub runs: bool,
    /// Pages that are saved by it.
    pub n_sharing: u64,
}

/// Memory and swap (`/proc/meminfo`), in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Memory of the host.
    pub total: u64,
    /// Swap space.
    pub swap: u64,
    /// Swap space in use.
    pub swap_used: u64,
}

/// Frequency policy of some CPUs (`/sys/devices/system/cpu/cpufreq`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFacts {
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Driver.
    pub driver: String,
    /// Governor.
    pub governor: String,
}

/// VM of the node, as far as the host's checks need it.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestOfHost {
    /// Which VM.
    pub vmid: Vmid,
    /// What PVE would start.
    pub guest: Guest,
    /// Whether it runs.
    pub runs: bool,
    /// Whether HA starts it.
    pub is_started_by_ha: bool,
    /// Whether it has a table.
    pub has_table: bool,
    /// CPUs that its table names.
    pub cpus: CpuSet,
    /// VMs that its table has make room.
    pub stops: Vec<Vmid>,
}

/// Guest that PVE starts when the node boots; HA starts its guests by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtBoot {
    /// Which guest.
    pub vmid: Vmid,
    /// Whether it is a container.
    pub is_container: bool,
    /// What its config says about the order.
    pub startup: Startup,
    /// Storages in the network that it has volumes on.
    pub networked: Vec<String>,
    /// Storage controller of the host that it has.
    pub controller: Option<String>,
}

impl GuestOfHost {
    /// Returns what its table names, in the words of [`Overlap`](crate::domain::overlap::Overlap).
    pub(super) fn named(&self) -> Named<'_> {
        Named {
            vmid: self.vmid,
            cpus: &self.cpus,
            stops: &self.stops,
        }
    }

    /// Tells whether it runs, or will after the next boot.
    pub fn counts(&self) -> bool {
        self.runs || self.guest.onboot || self.is_started_by_ha
    }
}

impl HostFacts {
    /// Returns the value of a kernel parameter, empty for one without a value; the last one counts.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut words = self.command_line.split_whitespace().rev();
        words.find_map(|word| match word.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (word == name).then_some(""),
        })
    }

    /// Tells whether a service runs.
    pub fn runs(&self, service: &str) -> bool {
        self.services.contains(service)
    }

    /// Returns the VMs that devices of the host are passed to.
    pub fn with_devices(&self) -> impl Iterator<Item = &GuestOfHost> {
        let guests = self.guests.iter();
        guests.filter(|one| !one.guest.hostpci.is_empty())
    }
}
