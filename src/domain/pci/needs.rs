//! What others than the VM in question need of the host: the host itself, and other VMs.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::vm::Vmid;

/// What others than the VM in question need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The VM in question.
    pub own: Option<Vmid>,
    /// Disks of this host.
    pub disks: Vec<Disk>,
    /// Network devices of this host.
    pub nets: Vec<Net>,
    /// Function that shows the console.
    pub console: Option<String>,
    /// Functions of other VMs.
    pub holders: BTreeMap<String, Holder>,
    /// USB devices of other VMs.
    pub usb: Vec<UsbOfVm>,
    /// Whole disks of other VMs.
    pub raw_disks: Vec<DiskOfVm>,
}

/// Disk, and what the host does with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Name of its block device, such as `sda`.
    pub name: String,
    /// Controllers that it hangs on.
    pub functions: Vec<String>,
    /// What it or a part of it is used for, such as `sda2 is mounted at /`.
    pub uses: Vec<String>,
}

/// Network device, and what the host does with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Net {
    /// Its name.
    pub name: String,
    /// Function that it belongs to.
    pub function: Option<String>,
    /// Virtual function of that one that it stands for in the host (switchdev).
    pub represents: Option<u32>,
    /// What it is used for, such as `port of bridge vmbr0`.
    pub uses: Vec<String>,
    /// Bond that it is in.
    pub bond: Option<String>,
    /// Bridge that it is a port of, or its bond is.
    pub bridge: Option<String>,
}

/// VM that has a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub vmid: Vmid,
    /// Whether it runs; it is being started otherwise.
    pub runs: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runs {
            true => write!(f, "in use by vm {}", self.vmid),
            false => write!(f, "reserved for vm {}, which is being started", self.vmid),
        }
    }
}

/// USB device of a running VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbOfVm {
    /// Controller that it is plugged in at.
    pub controller: String,
    /// Bus and ports, as sysfs names them.
    pub port: String,
    /// Key in the VM's configuration.
    pub key: String,
    /// Which VM.
    pub vmid: Vmid,
}

/// Whole disk of a running VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOfVm {
    /// Name of its block device.
    pub disk: String,
    /// Key in the VM's configuration.
    pub key: String,
    /// Which VM.
    pub vmid: Vmid,
}
