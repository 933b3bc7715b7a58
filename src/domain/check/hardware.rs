//! What a VM's config says that no start depends on: only the doctor judges it.

use std::collections::BTreeMap;

/// What a VM's config says that only the doctor judges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Operating system, in PVE's words, such as `win11`.
    pub ostype: Option<String>,
    /// Disks, the firmware's variables (`efidisk0`) and the TPM's state (`tpmstate0`).
    pub volumes: Vec<Volume>,
    /// Network devices at a bridge.
    pub bridged: Vec<Bridged>,
    /// Names of the snapshots.
    pub snapshots: Vec<String>,
}

/// Volume of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Key in the configuration, such as `scsi0`.
    pub key: String,
    /// Storage that it is on; nothing for a device of the host.
    pub storage: Option<String>,
    /// Cache mode, if it is not the default.
    pub cache: Option<String>,
    /// How QEMU reads and writes it, if that is not the default.
    pub aio: Option<String>,
    /// Whether the keys of distributions and of Microsoft are enrolled (of `efidisk0`).
    pub has_keys: bool,
}

/// Network device at a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridged {
    /// Key in the configuration, such as `net0`.
    pub key: String,
    /// The bridge.
    pub bridge: String,
    /// MTU that the guest is told; nothing where it is that of the bridge.
    pub mtu: Option<u32>,
}

/// MTU of each network device of the host.
pub type Mtus = BTreeMap<String, u32>;

impl Hardware {
    /// Returns a volume by its key.
    pub(super) fn volume(&self, key: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.key == key)
    }
}
