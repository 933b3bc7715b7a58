//! What a VM's configuration takes from the host: PCI and USB devices, whole disks, directories.
//!
//! Checked as PVE checks it (`PVE::QemuServer::PCI`, `USB`, `Virtiofs`): a value that fails is as if
//! its line were not there.

use super::property::{Properties, boolean, trim};
use crate::domain::guest::{Disk, HostPci, Iothread, RawDisk, Shared, Usb, UsbFrom};
use crate::domain::pci::is_address;

const HOSTPCI_KEYS: [&str; 13] = [
    "host",
    "mapping",
    "rombar",
    "romfile",
    "pcie",
    "x-vga",
    "legacy-igd",
    "mdev",
    "vendor-id",
    "device-id",
    "sub-vendor-id",
    "sub-device-id",
    "driver",
];

/// Reads `hostpciN`.
pub(super) fn parse_hostpci(key: &str, value: &str) -> Option<HostPci> {
    let known = |key: &str| HOSTPCI_KEYS.contains(&key);
    let properties = Properties::parse(value, Some("host"), known)?;
    let ids = match (properties.value("host"), properties.value("mapping")) {
        (Some(host), None) => host
            .split(';')
            .map(pci_address)
            .collect::<Option<Vec<_>>>()?,
        (None, Some(name)) if is_config_id(name) => Vec::new(),
        _ => return None,
    };
    let keep_driver = match properties.value("driver") {
        None | Some("vfio") => false,
        Some("keep") => true,
        Some(_) => return None,
    };
    let is_bad = |key: &str, of: &[char]| properties.value(key).is_some_and(|v| v.contains(of));
    let shown = ["vendor-id", "device-id", "sub-vendor-id", "sub-device-id"];
    let mut shown = shown.iter().filter_map(|key| properties.value(key));
    if is_bad("mdev", &['/', '.', ':']) || is_bad("romfile", &[';']) || !shown.all(is_shown_id) {
        return None;
    }
    properties.switch("legacy-igd", false)?;
    Some(HostPci {
        key: key.to_owned(),
        ids,
        mapping: properties.value("mapping").map(str::to_owned),
        mdev: properties.value("mdev").map(str::to_owned),
        pcie: properties.switch("pcie", false)?,
        x_vga: properties.switch("x-vga", false)?,
        rombar: properties.switch("rombar", true)?,
        keep_driver,
    })
}

/// Tells whether a text is an id that the guest is shown, such as `0x10de`.
fn is_shown_id(text: &str) -> bool {
    text.strip_prefix("0x").is_some_and(is_hex4)
}

fn is_hex4(text: &str) -> bool {
    text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Tells whether a text can be the name of something in PVE's configuration (`pve-configid`).
fn is_config_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    starts && text.len() >= 2 && text.bytes().all(allowed)
}

/// Reads `[domain:]bb:dd[.f]` in lower case and adds the domain if it is left out.
pub(super) fn pci_address(text: &str) -> Option<String> {
    let domain = match text.matches(':').count() {
        1 => "0000:",
        _ => "",
    };
    let function = if text.contains('.') { "" } else { ".0" };
    is_address(&format!("{domain}{text}{function}")).then(|| format!("{domain}{text}"))
}

/// Reads `usbN`.
pub(super) fn parse_usb(key: &str, value: &str) -> Option<Usb> {
    const KEYS: [&str; 3] = ["host", "mapping", "usb3"];
    let properties = Properties::parse(value, Some("host"), |key| KEYS.contains(&key))?;
    properties.switch("usb3", false)?;
    let from = match (properties.value("host"), properties.value("mapping")) {
        (Some(host), None) => usb_host(host)?,
        (None, Some(name)) if is_config_id(name) => UsbFrom::Mapping(name.to_owned()),
        _ => return None,
    };
    let key = key.to_owned();
    Some(Usb { key, from })
}

/// Reads an id (`0627:0001`, each half with or without `0x`), a port (`1-2.3`) or `spice`.
pub(super) fn usb_host(text: &str) -> Option<UsbFrom> {
    if text.eq_ignore_ascii_case("spice") {
        return Some(UsbFrom::Spice);
    }
    if let Some((vendor, product)) = text.split_once(':') {
        let half = |text: &str| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            is_hex4(digits).then(|| digits.to_ascii_lowercase())
        };
        let (vendor, product) = (half(vendor)?, half(product)?);
        return Some(UsbFrom::Id(format!("{vendor}:{product}")));
    }
    let (bus, ports) = text.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let valid = is_number(bus) && ports.split('.').all(is_number);
    valid.then(|| UsbFrom::Port(text.to_owned()))
}

/// Drive of a VM.
pub(super) struct Drive {
    disk: Disk,
    /// What is in it, as it is written: a volume, or a path.
    file: String,
    is_medium: bool,
}

impl Drive {
    /// Returns its disk, unless it is for media.
    pub(super) fn disk(self) -> Option<Disk> {
        (!self.is_medium).then_some(self.disk)
    }

    /// Returns the disk of the host that it is, if it is none of a storage.
    pub(super) fn raw(&self) -> Option<RawDisk> {
        self.file.starts_with("/dev/").then(|| RawDisk {
            key: self.disk.key.clone(),
            path: self.file.clone(),
        })
    }

    /// Returns its iothread; QEMU's object for a SCSI disk is named after its controller, which only
    /// a controller of its own makes one for.
    pub(super) fn iothread(&self, is_single: bool) -> Option<Iothread> {
        let key = &self.disk.key;
        let object = match key.strip_prefix("scsi") {
            Some(number) if is_single => format!("iothread-virtioscsi{number}"),
            None if key.starts_with("virtio") => format!("iothread-{key}"),
            _ => return None,
        };
        let key = key.clone();
        self.disk.iothread.then_some(Iothread { key, object })
    }
}

/// Reads a drive.
pub(super) fn parse_drive(key: &str, value: &str) -> Option<Drive> {
    let properties = Properties::parse(value, Some("file"), |_| true)?;
    let text = |name| properties.value(name).map(str::to_owned);
    let is_on = |name| properties.switch(name, false).unwrap_or_default();
    let file = text("file").or(text("volume"))?;
    let storage = file.split_once(':').filter(|_| !file.starts_with('/'));
    let by_name = file.rsplit_once('.').map(|(_, end)| end);
    let by_name = by_name.filter(|end| ["raw", "qcow2", "vmdk"].contains(end));
    Some(Drive {
        disk: Disk {
            key: key.to_owned(),
            format: text("format").or(by_name.map(str::to_owned)),
            storage: storage.map(|(storage, _)| storage.to_owned()),
            is_file: storage.is_some_and(|(_, volume)| volume.contains('/')),
            cache: text("cache"),
            aio: text("aio"),
            iothread: is_on("iothread"),
            has_keys: is_on("pre-enrolled-keys"),
        },
        is_medium: properties.value("media") == Some("cdrom") || file == "none",
        file,
    })
}

/// Reads `virtiofsN`.
pub(super) fn parse_virtiofs(key: &str, value: &str) -> Option<Shared> {
    const KEYS: [&str; 5] = ["dirid", "cache", "direct-io", "expose-acl", "expose-xattr"];
    let properties = Properties::parse(value, Some("dirid"), |key| KEYS.contains(&key))?;
    let switches = ["direct-io", "expose-acl", "expose-xattr"].iter();
    let mut switches = switches.filter_map(|key| properties.value(key));
    let what = properties.value("dirid").filter(|id| is_config_id(id))?;
    switches.all(|v| boolean(v).is_some()).then(|| Shared {
        key: key.to_owned(),
        what: what.to_owned(),
    })
}

/// Returns the directories that `args` shares by 9p: each `-virtfs` and `-fsdev`.
pub(super) fn shared_by_args(args: &str) -> Vec<Shared> {
    let mut words = args.split_whitespace();
    let mut shared = Vec::new();
    while let Some(word) = words.next() {
        if !matches!(word.trim_start_matches('-'), "virtfs" | "fsdev") || !word.starts_with('-') {
            continue;
        }
        let options = words.next().unwrap_or_default();
        let mut options = options.split(',');
        let path = options.find_map(|option| trim(option).strip_prefix("path="));
        shared.extend(path.map(|path| Shared {
            key: "args".to_owned(),
            what: path.to_owned(),
        }));
    }
    shared
}

#[cfg(test)]
mod tests {
    use crate::config::vm_conf::parse_vm_conf;

    const CONF: &str = "ostype: win11\nefidisk0: local-zfs:vm-100-disk-1,pre-enrolled-keys=1\n\
        tpmstate0: none\nide2: old:1\nide2: local:iso/x.iso,media=cdrom\nscsi0: old:1\n\
        scsi0: nas:100/a.raw,aio=native,cache=none\nscsi1: /dev/disk/by-id/ata-x:y\n\
        net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,mtu=9000\nnet1: virtio,bridge=vmbr1,mtu=1\n\
        net2: e1000,bridge=vmbr2,mtu=9000\nnet3: virtio\n";

    #[test]
    fn what_a_guest_stores_is_read_once() {
        let guest = parse_vm_conf(CONF).guest();
        let volumes = guest.volumes();
        let volumes: Vec<_> = volumes
            .map(|one| (one.key.as_str(), one.storage.as_deref(), one.has_keys))
            .collect();
        let expected = [
            ("scsi0", Some("nas"), false),
            ("scsi1", None, false),
            ("efidisk0", Some("local-zfs"), true),
        ];
        assert_eq!(volumes, expected);
        assert_eq!(guest.disks[0].aio.as_deref(), Some("native"));
        assert_eq!(guest.raw_disks[0].path, "/dev/disk/by-id/ata-x:y");
        assert_eq!(guest.tpm_state, None);
    }

    #[test]
    fn nets_say_their_bridge_and_their_mtu() {
        let guest = parse_vm_conf(CONF).guest();
        let nets = guest.nets.iter();
        let nets: Vec<_> = nets.map(|one| (one.bridge.as_deref(), one.mtu)).collect();
        let expected = [
            (Some("vmbr0"), Some(9000)),
            (Some("vmbr1"), None),
            (Some("vmbr2"), None),
            (None, None),
        ];
        assert_eq!(nets, expected);
    }
}
