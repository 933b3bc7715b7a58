//! `/sys/bus/usb/devices`: where USB devices are plugged in. Reads only.

use super::files::Files;
use super::pci::function_in;
use crate::domain::guest::UsbFrom;

const DEVICES: &str = "/sys/bus/usb/devices";

/// USB device of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// Bus and ports, such as `1-2.3`.
    pub port: String,
    /// Controller that it is below of.
    pub controller: String,
}

/// Returns the devices that are found like that.
pub fn plugged(files: &dyn Files, from: &UsbFrom) -> Vec<Plugged> {
    let names = files.list(DEVICES).unwrap_or_default();
    let is_meant = |name: &String| match from {
        UsbFrom::Port(port) => name == port,
        UsbFrom::Id(id) => id_of(files, name).as_ref() == Some(id),
        UsbFrom::Mapping(_) | UsbFrom::Spice => false,
    };
    let found = names.into_iter().filter(is_meant).filter_map(|port| {
        let link = files.link(&format!("{DEVICES}/{port}")).ok()?;
        let controller = function_in(&link)?;
        Some(Plugged { port, controller })
    });
    found.collect()
}

fn id_of(files: &dyn Files, name: &str) -> Option<String> {
    let read = |file: &str| {
        let text = files.read(&format!("{DEVICES}/{name}/{file}")).ok()?;
        Some(text.trim().to_lowercase())
    };
    Some(format!("{}:{}", read("idVendor")?, read("idProduct")?))
}
