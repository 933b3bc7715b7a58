//! A guest as PVE would start it: the meaning of a VM's configuration, not its text.

use serde::Serialize;

use super::cpuset::CpuSet;
use super::startup::Startup;

/// What the active section of a VM's configuration says, with PVE's defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guest {
    /// Name of the VM.
    pub name: Option<String>,
    /// Free text that the operator wrote about the VM.
    pub description: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// Packages of the guest's topology, as configured.
    pub sockets: u32,
    /// Cores per package, as configured.
    pub cores: u32,
    /// vCPUs by `vcpus`, or `sockets` and `cores`.
    pub configured_vcpus: u32,
    /// vCPUs that exist once QEMU is up, after `-smp` in `args`.
    pub n_vcpus: u32,
    /// vCPUs that can exist, after `-smp` in `args`.
    pub max_vcpus: u32,
    /// Threads per core that the guest sees; only `-smp` in `args` makes it more than 1.
    pub smt: u32,
    /// Whether vCPUs can be added while the VM runs.
    pub cpu_hotplug: bool,
    /// Whether memory can be added while the VM runs.
    pub memory_hotplug: bool,
    /// CPU model.
    pub cpu_type: Option<String>,
    /// CPU flags that are forced on (`+`) or off (`-`).
    pub cpu_flags: Vec<String>,
    /// Quota in CPUs; `None` is no limit.
    pub cpu_limit: Option<f64>,
    /// Weight of the VM's scope, as PVE clamps it.
    pub cpu_weight: u32,
    /// CPUs that PVE starts QEMU on (`taskset`).
    pub affinity: Option<CpuSet>,
    /// Memory at the start, in MiB.
    pub memory_mib: u32,
    /// Lower end of ballooning in MiB; 0 is no balloon device.
    pub balloon_mib: Option<u32>,
    /// NUMA nodes of the guest; empty if it has no NUMA.
    pub nodes: Vec<GuestNode>,
    /// Size of the hugepages that back the memory.
    pub hugepages: Option<HugepageSize>,
    /// Whether hugepages stay allocated after the stop.
    pub keep_hugepages: bool,
    /// Whether the hardware runs the vCPUs; otherwise QEMU emulates them.
    pub kvm: bool,
    /// Whether it is a template, which only a backup starts.
    pub template: bool,
    /// Whether the guest waits for a `cont` after the start.
    pub freeze: bool,
    /// Whether the VM is started at host boot.
    pub onboot: bool,
    /// When it is started among the guests of the node.
    pub startup: Startup,
    /// What PVE is in the middle of; `suspended` makes the next start a resume.
    pub lock: Option<String>,
    /// Volume with the state to resume from.
    pub vmstate: Option<String>,
    /// Volume of the hookscript.
    pub hookscript: Option<String>,
    /// Arguments appended to QEMU's command line.
    pub args: Option<String>,
    /// Machine type.
    pub machine: Option<String>,
    /// Firmware.
    pub bios: Option<String>,
    /// Operating system, in PVE's words, such as `win11`.
    pub ostype: Option<String>,
    /// SCSI controller.
    pub scsihw: Option<String>,
    /// Iothreads that QEMU will have.
    pub iothreads: Vec<Iothread>,
    /// Network devices.
    pub nets: Vec<GuestNet>,
    /// Devices that are passed through.
    pub hostpci: Vec<HostPci>,
    /// USB devices that are passed through.
    pub usb: Vec<Usb>,
    /// Disks, without drives for media.
    pub disks: Vec<Disk>,
    /// Disk with the variables of the firmware.
    pub efi_disk: Option<Disk>,
    /// Disk with the state of the TPM.
    pub tpm_state: Option<Disk>,
    /// Disks that are whole ones of the host.
    pub raw_disks: Vec<RawDisk>,
    /// Directories of the host that the guest sees.
    pub shares: Vec<Shared>,
}

impl Guest {
    /// Tells whether the VM's hookscript is pin-hook's snippet.
    pub fn is_hooked(&self) -> bool {
        let volume = self.hookscript.as_ref();
        volume.is_some_and(|volume| volume.ends_with("/pin-hook"))
    }

    /// Returns everything that it stores: the disks, the firmware's variables and the TPM's state.
    pub fn volumes(&self) -> impl Iterator<Item = &Disk> {
        let firmware = self.efi_disk.iter().chain(&self.tpm_state);
        self.disks.iter().chain(firmware)
    }

    /// Keeps the vCPUs that the guest runs with, which a config that was edited meanwhile may not have.
    pub fn keep_vcpus(&mut self, at_work: u32) {
        self.n_vcpus = self.n_vcpus.max(at_work);
        self.max_vcpus = self.max_vcpus.max(at_work);
    }
}

/// NUMA node of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestNode {
    /// Its key in the configuration, such as `numa0`; `None` for one that PVE makes of a socket.
    #[serde(skip)]
    pub key: Option<String>,
    /// Indices of its vCPUs.
    pub vcpus: Vec<u32>,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Host nodes that the memory comes from; empty if any may serve.
    pub host_nodes: Vec<u32>,
    /// How strictly: `preferred`, `bind` or `interleave`.
    pub policy: Option<String>,
}

/// Size of hugepages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HugepageSize {
    /// 1 GiB where it divides the memory and the CPU can do it, otherwise 2 MiB.
    Any,
    /// This many MiB: 2 or 1024.
    Mib(u32),
}

/// Iothread of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Iothread {
    /// Key of the disk in the configuration, such as `scsi0`.
    pub key: String,
    /// Id of the object in QEMU, such as `iothread-virtioscsi0`.
    pub object: String,
}

/// Network device of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestNet {
    /// Key in the configuration, such as `net0`.
    pub key: String,
    /// Model; only `virtio` has vhost workers.
    pub model: String,
    /// Pairs of queues, and so of vhost workers.
    pub queues: u32,
    /// Bridge that it is at.
    pub bridge: Option<String>,
    /// MTU that the guest is told; nothing where it is that of the bridge.
    pub mtu: Option<u32>,
}

/// Device that is passed through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPci {
    /// Key in the configuration, such as `hostpci0`.
    pub key: String,
    /// Addresses with their domain; one without a function means all of its functions.
    pub ids: Vec<String>,
    /// Name of a cluster-wide mapping that is resolved at the start, instead of addresses.
    pub mapping: Option<String>,
    /// Type of the mediated device.
    pub mdev: Option<String>,
    /// Whether it is a PCI Express device for the guest.
    pub pcie: bool,
    /// Whether it is the guest's primary display.
    pub x_vga: bool,
    /// Whether the guest sees the option ROM.
    pub rombar: bool,
    /// Whether the host's driver is kept (`driver=keep`).
    pub keep_driver: bool,
}

/// USB device that is passed through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usb {
    /// Key in the configuration, such as `usb0`.
    pub key: String,
    /// How it is found.
    pub from: UsbFrom,
}

/// How a USB device is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UsbFrom {
    /// By vendor and product.
    Id(String),
    /// By bus and ports, as sysfs names them (`1-2.3`).
    Port(String),
    /// Name of a cluster-wide mapping.
    Mapping(String),
    /// It comes over the network from whoever looks at the display.
    Spice,
}

/// Disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Key in the configuration, such as `scsi1`.
    pub key: String,
    /// Format, where the volume or the configuration says it.
    pub format: Option<String>,
    /// Storage that it is on; nothing for a device of the host.
    pub storage: Option<String>,
    /// Whether its volume is a file in a directory; PVE's volumes on LVM, ZFS or Ceph are not.
    pub is_file: bool,
    /// Cache mode, if it is not the default.
    pub cache: Option<String>,
    /// How QEMU reads and writes it, if that is not the default.
    pub aio: Option<String>,
    /// Whether the configuration asks for a thread of its own.
    pub iothread: bool,
    /// Whether the keys of distributions and of Microsoft are enrolled (only in an EFI disk).
    pub has_keys: bool,
}

/// Disk of a guest that is a whole one of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RawDisk {
    /// Key in the configuration, such as `scsi1`.
    pub key: String,
    /// Path of the block device.
    pub path: String,
}

/// Directory of the host that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Key in the configuration, such as `virtiofs0`; `args` for 9p.
    pub key: String,
    /// Name of its mapping, or its path.
    pub what: String,
}
