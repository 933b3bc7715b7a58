//! What a VM takes from the host besides PCI devices: USB devices, whole disks and directories.

use crate::config::mapping::usb_mapping;
use crate::domain::guest::{Guest, UsbFrom};
use crate::host::files::Files;
use crate::host::{Host, blocks, pve, usb};

const USB_MAPPINGS: &str = "/etc/pve/mapping/usb.cfg";

/// Returns the USB devices that an entry is about: a mapping names its own.
pub(super) fn usb_sources(files: &dyn Files, from: &UsbFrom, node: &str) -> Vec<UsbFrom> {
    match from {
        UsbFrom::Mapping(name) => {
            let text = files.read(USB_MAPPINGS).unwrap_or_default();
            usb_mapping(&text, name, node).unwrap_or_default()
        }
        from => vec![from.clone()],
    }
}

/// Returns what else a VM takes from the host, in words.
pub fn other_things(host: &Host, guest: &Guest) -> Vec<String> {
    let files = &*host.files;
    let node = pve::node_name(files).unwrap_or_default();
    let usb = guest.usb.iter().map(|entry| {
        let froms = usb_sources(files, &entry.from, &node);
        let plugged = froms
            .iter()
            .find_map(|from| usb::plugged(files, from).pop());
        let what = match &entry.from {
            UsbFrom::Id(text) | UsbFrom::Port(text) => format!("usb device {text}"),
            UsbFrom::Mapping(name) => format!("usb mapping {name}"),
            UsbFrom::Spice => "usb by spice".to_owned(),
        };
        match plugged {
            Some(usb::Plugged { port, controller }) => {
                format!(
                    "{}: {what}, port {port} of controller {controller}",
                    entry.key
                )
            }
            None if entry.from == UsbFrom::Spice => format!("{}: {what}", entry.key),
            None => format!("{}: {what}, not plugged in", entry.key),
        }
    });
    let disks = guest.raw_disks.iter().map(|disk| {
        let name = blocks::disk_at(files, &disk.path);
        let name = name.unwrap_or_else(|| "not there".to_owned());
        format!("{}: the whole disk {} ({name})", disk.key, disk.path)
    });
    let shares = guest.shares.iter();
    let shares = shares.map(|one| format!("{}: directory {} of the host", one.key, one.what));
    usb.chain(disks).chain(shares).collect()
}
