//! What a VM's config says that only the doctor judges.

use super::property::{Properties, index, integer};
use super::section::Section;
use super::vm_conf::VmConf;
use crate::domain::check::{Bridged, Hardware, Volume};

/// Keys of volumes with the highest number of each; without a digit PVE knows one alone.
const VOLUMES: [(&str, u32); 6] = [
    ("ide", 3),
    ("sata", 5),
    ("scsi", 30),
    ("virtio", 15),
    ("efidisk", 0),
    ("tpmstate", 0),
];

/// Returns what a config says beside the guest; pending changes are not looked at.
pub fn parse_hardware(conf: &VmConf) -> Hardware {
    let section = &conf.active;
    Hardware {
        ostype: section.value("ostype").map(str::to_owned),
        volumes: last_of_each(section, is_volume, volume),
        bridged: last_of_each(section, |key| index(key, "net", 31).is_some(), bridged),
        snapshots: conf.snapshots.keys().cloned().collect(),
    }
}

/// Returns what `parse` makes of the last line of each key that `is_meant`, in the order of the file.
fn last_of_each<T>(
    section: &Section,
    is_meant: impl Fn(&str) -> bool,
    parse: impl Fn(&str, &str) -> Option<T>,
) -> Vec<T> {
    let lines = section.lines.iter().enumerate();
    let meant = lines.filter(|(n, (key, _))| {
        let mut later = section.lines[n + 1..].iter();
        is_meant(key) && !later.any(|(other, _)| other == key)
    });
    meant
        .filter_map(|(_, (key, value))| parse(key, value))
        .collect()
}

fn is_volume(key: &str) -> bool {
    let mut kinds = VOLUMES.iter();
    kinds.any(|(kind, max)| index(key, kind, *max).is_some())
}

fn volume(key: &str, value: &str) -> Option<Volume> {
    let properties = Properties::parse(value, Some("file"), |_| true)?;
    let file = properties.value("file").or(properties.value("volume"))?;
    let is_medium = properties.value("media") == Some("cdrom") || file == "none";
    let text = |name| properties.value(name).map(str::to_owned);
    (!is_medium).then(|| Volume {
        key: key.to_owned(),
        storage: file
            .split_once(':')
            .filter(|_| !file.starts_with('/'))
            .map(|(storage, _)| storage.to_owned()),
        cache: text("cache"),
        aio: text("aio"),
        has_keys: properties.switch("pre-enrolled-keys", false) == Some(true),
    })
}

fn bridged(key: &str, value: &str) -> Option<Bridged> {
    let properties = Properties::parse(value, Some("model"), |_| true)?;
    let is_virtio = properties.value("model") == Some("virtio")
        || properties.keys().any(|name| name == "virtio");
    // PVE takes 1 for that of the bridge, and ignores one of any other model.
    let mtu = properties.value("mtu").and_then(integer);
    Some(Bridged {
        key: key.to_owned(),
        bridge: properties.value("bridge")?.to_owned(),
        mtu: mtu.filter(|mtu| is_virtio && *mtu != 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::vm_conf::parse_vm_conf;

    #[test]
    fn what_only_the_doctor_judges_is_read() {
        let conf = "ostype: win11\nefidisk0: local-zfs:vm-100-disk-1,pre-enrolled-keys=1\n\
                    ide2: local:iso/x.iso,media=cdrom\nscsi0: old:1\nscsi0: nas:100/a.raw,aio=native,cache=none\n\
                    scsi1: /dev/disk/by-id/ata-x:y\n\
                    net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,mtu=9000\nnet1: virtio,bridge=vmbr1,mtu=1\n\
                    net2: e1000,bridge=vmbr2,mtu=9000\nnet3: virtio\n[before]\ncores: 2\n";
        let hardware = parse_hardware(&parse_vm_conf(conf));
        assert_eq!(hardware.ostype.as_deref(), Some("win11"));
        let volumes = hardware.volumes.iter();
        let volumes: Vec<_> = volumes
            .map(|one| (one.key.as_str(), one.storage.as_deref(), one.has_keys))
            .collect();
        let expected = [
            ("efidisk0", Some("local-zfs"), true),
            ("scsi0", Some("nas"), false),
            ("scsi1", None, false),
        ];
        assert_eq!(volumes, expected);
        assert_eq!(hardware.volumes[1].aio.as_deref(), Some("native"));
        let bridged = hardware.bridged.iter();
        let bridged: Vec<_> = bridged.map(|one| (one.bridge.as_str(), one.mtu)).collect();
        let expected = [("vmbr0", Some(9000)), ("vmbr1", None), ("vmbr2", None)];
        assert_eq!(bridged, expected);
        assert_eq!(hardware.snapshots, ["before"]);
    }
}
