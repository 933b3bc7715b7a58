//! Why a VM should not have something of the host, in words with a remedy.

use std::fmt;

use serde::Serialize;

use super::needs::{DiskOfVm, Holder, UsbOfVm};
use crate::domain::guest::RawDisk;
use crate::domain::vm::Vmid;

/// Why a function is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The host uses a disk that hangs on it.
    Disk(String, String),
    /// A running VM has a disk that hangs on it.
    DiskOfVm(DiskOfVm),
    /// The host uses its network device.
    Net(String, String),
    /// A network device of it that stands for one of its virtual functions is in use (switchdev).
    Switch(String, u32, String),
    /// It shows the console.
    Console,
    /// Another VM has it.
    Held(Holder),
    /// Another VM has a virtual function of it.
    Virtual(String, Holder),
    /// A running VM has a USB device that is plugged in there.
    Usb(UsbOfVm),
    /// Another VM has a mediated device that it carries.
    Mediated(String, Option<Vmid>),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Disk(disk, used) => write!(f, "the controller of disk {disk} ({used})"),
            Need::DiskOfVm(DiskOfVm { disk, key, vmid }) => {
                write!(f, "the controller of disk {disk} ({key} of vm {vmid})")
            }
            Need::Net(net, used) => write!(f, "network card {net} ({used})"),
            Need::Switch(net, n, used) => write!(
                f,
                "the switch of virtual function {n}, whose representor {net} is in use ({used})"
            ),
            Need::Console => f.write_str("the display of the host's console"),
            Need::Held(holder) => holder.fmt(f),
            Need::Virtual(function, holder) => {
                write!(f, "the physical function of {function}, which is {holder}")
            }
            Need::Usb(usb) => {
                let UsbOfVm {
                    port, key, vmid, ..
                } = usb;
                write!(f, "the usb controller of {port} ({key} of vm {vmid})")
            }
            Need::Mediated(uuid, Some(vmid)) => {
                write!(f, "the parent of mediated device {uuid} (vm {vmid})")
            }
            Need::Mediated(uuid, None) => write!(f, "the parent of mediated device {uuid}"),
        }
    }
}

/// Reason why a VM should not have something of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// A function that others need.
    Needed {
        /// Key in the VM's configuration.
        key: String,
        /// Which function.
        address: String,
        /// Who needs it.
        need: Need,
    },
    /// A function that is pulled out together with one that others need.
    Shared {
        /// Key in the VM's configuration.
        key: String,
        /// Which function.
        address: String,
        /// IOMMU group of both.
        group: u32,
        /// The other one.
        other: String,
        /// Who needs the other one.
        need: Need,
    },
    /// A whole disk that the host uses.
    Used {
        /// The disk.
        disk: RawDisk,
        /// What for.
        used: String,
    },
    /// A whole disk that another VM has.
    Taken {
        /// The disk.
        disk: RawDisk,
        /// Who has it.
        by: DiskOfVm,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Needed { key, address, need } => write!(f, "{key} ({address}) is {need}"),
            Objection::Shared {
                key,
                address,
                group,
                other,
                need,
            } => write!(
                f,
                "{key} ({address}) shares iommu group {group} with {other}, {need}"
            ),
            Objection::Used { disk, used } => write!(f, "{} ({}): {used}", disk.key, disk.path),
            Objection::Taken { disk, by } => {
                let DiskOfVm { key, vmid, .. } = by;
                write!(f, "{} ({}) is {key} of vm {vmid}", disk.key, disk.path)
            }
        }
    }
}

impl Objection {
    /// Returns what the operator can do about it.
    pub fn help(&self, vmid: Vmid) -> String {
        let (key, need) = match self {
            Objection::Needed { key, need, .. } => (key, need),
            Objection::Shared {
                key, other, need, ..
            } => {
                return format!(
                    "{}, put one of them into another slot, so that {other} gets a group of its \
                     own, or remove {key} from vm {vmid} (qm set {vmid} --delete {key})",
                    need.mend()
                );
            }
            Objection::Used { disk, .. } => {
                let key = &disk.key;
                return format!(
                    "stop whatever uses it, or remove {key} from vm {vmid} (qm set {vmid} \
                     --delete {key})"
                );
            }
            Objection::Taken { disk, by } => {
                let (key, other) = (&disk.key, by.vmid);
                return format!(
                    "stop vm {other}, or remove {key} from vm {vmid} (qm set {vmid} --delete {key})"
                );
            }
        };
        let mend = need.mend();
        format!("{mend}, or remove {key} from vm {vmid} (qm set {vmid} --delete {key})")
    }

    /// Says what will come of it where nobody keeps the VM from starting.
    pub fn warning(&self, vmid: Vmid) -> String {
        match self {
            Objection::Needed {
                need: Need::Disk(..) | Need::Net(..) | Need::Console,
                ..
            } => format!("{self}: the host loses it when vm {vmid} starts"),
            _ => self.to_string(),
        }
    }
}

impl Need {
    /// Returns what ends the need.
    fn mend(&self) -> String {
        match self {
            Need::Disk(disk, _) => format!("move what the host has on {disk} to another disk"),
            Need::Net(net, _) => format!("use another network card than {net} for the host"),
            Need::Switch(net, ..) => {
                format!("give the vm a virtual function instead, or remove {net} from its bridge")
            }
            Need::Console => {
                "give the host another display, or have vfio-pci bind it at boot (options vfio-pci \
                 ids=... in /etc/modprobe.d, then update-initramfs -u)"
                    .to_owned()
            }
            Need::Mediated(_, Some(vmid)) => format!("stop vm {vmid}"),
            Need::Mediated(uuid, None) => {
                format!("remove it (echo 1 > /sys/bus/mdev/devices/{uuid}/remove)")
            }
            Need::Held(holder) | Need::Virtual(_, holder) => format!("stop vm {}", holder.vmid),
            Need::DiskOfVm(DiskOfVm { vmid, .. }) | Need::Usb(UsbOfVm { vmid, .. }) => {
                format!("stop vm {vmid}")
            }
        }
    }
}

impl Serialize for Objection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
