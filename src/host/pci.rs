//! `/sys/bus/pci/devices`: the functions of this host. Reads only; what is written there may sleep and
//! is written by children ([`super::errand`]).
//!
//! A function may vanish while it is looked at; what cannot be read is left out.

use std::collections::BTreeMap;

use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::pci::anew::Before;
use crate::domain::pci::{Bus, Function, VFIO, is_address};
use crate::domain::topology::Topology;

/// Where the functions are.
pub const DEVICES: &str = "/sys/bus/pci/devices";
const CONSOLES: &str = "/sys/class/vtconsole";

/// Returns every function of this host.
pub fn bus(files: &dyn Files) -> Bus {
    let names = files.list(DEVICES).unwrap_or_default();
    let addresses = names.into_iter().filter(|name| is_address(name));
    addresses
        .filter_map(|address| Some((address.clone(), function(files, &address)?)))
        .collect()
}

/// Returns a function, or `None` when it is not there.
pub fn function(files: &dyn Files, address: &str) -> Option<Function> {
    let dir = format!("{DEVICES}/{address}");
    let read = |name: &str| files.read(&format!("{dir}/{name}")).ok();
    let hex = |name: &str| {
        let text = read(name)?;
        Some(text.trim().trim_start_matches("0x").to_owned())
    };
    let pair = |vendor: &str, device: &str| Some(format!("{}:{}", hex(vendor)?, hex(device)?));
    let names = files.list(&dir).ok()?;
    let linked = |name: &str| last_of_link(files, &format!("{dir}/{name}"));
    Some(Function {
        model: pair("vendor", "device")?,
        subsystem: pair("subsystem_vendor", "subsystem_device").unwrap_or_default(),
        class: u32::from_str_radix(&hex("class")?, 16).unwrap_or_default(),
        driver: driver(files, address),
        group: linked("iommu_group").and_then(|group| group.parse().ok()),
        // Without a node the kernel prints -1.
        node: read("numa_node").and_then(|node| node.trim().parse().ok()),
        is_boot_vga: read("boot_vga").is_some_and(|text| text.trim() == "1"),
        physical: linked("physfn"),
        virtuals: virtuals(&names, linked),
        mdevs: names.iter().filter(|name| is_uuid(name)).cloned().collect(),
        reset_methods: read("reset_method")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    })
}

/// Tells whether only the driver for VMs may take a function.
pub fn is_kept(files: &dyn Files, address: &str) -> bool {
    let text = files.read(&format!("{DEVICES}/{address}/driver_override"));
    text.is_ok_and(|text| text.trim() == VFIO)
}

/// Returns the driver that a function is bound to.
pub fn driver(files: &dyn Files, address: &str) -> Option<String> {
    last_of_link(files, &format!("{DEVICES}/{address}/driver"))
}

/// Returns what a function is like, to be put back when it was removed and found again.
pub fn before(files: &dyn Files, address: &str, function: &Function) -> Before {
    let read = |name: &str| {
        let text = files.read(&format!("{DEVICES}/{address}/{name}")).ok()?;
        Some(text.trim_end().to_owned())
    };
    Before::of(function, read)
}

/// Returns the NUMA node that a device is attached to, or `None` when the host does not tell.
///
/// Firmware that leaves the node out (`-1`) may still tell which CPUs are near.
pub fn node_of(files: &dyn Files, address: &str, topology: &Topology) -> Option<u32> {
    let read = |name: &str| files.read(&format!("{DEVICES}/{address}/{name}")).ok();
    let node = read("numa_node").and_then(|text| text.trim().parse().ok());
    if let Some(node) = node {
        return Some(node);
    }
    let local: CpuSet = read("local_cpulist")?.trim().parse().ok()?;
    let near = |cpus: &CpuSet| !local.is_empty() && local.is_subset(cpus);
    let mut nodes = topology.nodes().iter();
    nodes.find(|node| near(&node.cpus)).map(|node| node.id)
}

fn virtuals(names: &[String], linked: impl Fn(&str) -> Option<String>) -> BTreeMap<u32, String> {
    let numbered = names.iter().filter_map(|name| {
        let n = name.strip_prefix("virtfn")?.parse().ok()?;
        Some((n, linked(name)?))
    });
    numbered.collect()
}

/// Returns the last name in what a symbolic link says.
pub fn last_of_link(files: &dyn Files, path: &str) -> Option<String> {
    let link = files.link(path).ok()?;
    link.rsplit('/').next().map(str::to_owned)
}

/// Returns the address of the function that a path in sysfs is below of: the last in it.
pub fn function_in(path: &str) -> Option<String> {
    let mut names = path.rsplit('/');
    names.find(|name| is_address(name)).map(str::to_owned)
}

fn is_uuid(name: &str) -> bool {
    name.len() == 36 && name.matches('-').count() == 4
}

/// Returns the function that shows the console: the one that the firmware used as the display,
/// unless it is a VM's already or the host has no console on a display.
pub fn console(files: &dyn Files, bus: &Bus) -> Option<String> {
    let consoles = files.list(CONSOLES).unwrap_or_default();
    let read = |console: &str, name: &str| {
        let text = files.read(&format!("{CONSOLES}/{console}/{name}"));
        text.unwrap_or_default()
    };
    let is_bound = |name: &String| read(name, "bind").trim() == "1";
    let is_seen = |name: &String| !read(name, "name").contains("dummy");
    if !consoles.iter().any(|name| is_bound(name) && is_seen(name)) {
        return None;
    }
    let is_hosts = |function: &Function| function.driver.as_deref() != Some(VFIO);
    let mut shown = bus.iter().filter(|(_, f)| f.is_boot_vga && is_hosts(f));
    shown.next().map(|(address, _)| address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::topology::tests::grid;
    use crate::host::dirs::make_dirs;
    use crate::host::files::RootFiles;

    #[test]
    fn a_device_is_on_its_node_or_near_its_cpus() {
        let dir = tempfile::tempdir().unwrap();
        let files = RootFiles::new(dir.path());
        for (address, node, cpus) in [
            ("0000:01:00.0", "1\n", "4-7\n"),
            ("0000:01:00.1", "-1\n", "0-3\n"),
            ("0000:02:00.0", "-1\n", "0-7\n"),
        ] {
            let device = format!("{DEVICES}/{address}");
            make_dirs(&files, &device, 0o755).unwrap();
            let put = |name, text| files.replace(&format!("{device}/{name}"), text, 0o644);
            put("numa_node", node).unwrap();
            put("local_cpulist", cpus).unwrap();
        }
        let host = grid(2, 1, 4, 1);
        let both = ["0000:01:00.0", "0000:01:00.1"];
        let node = |address| node_of(&files, address, &host);
        assert_eq!(both.map(node), [Some(1), Some(0)]);
        assert_eq!(node("0000:02:00.0"), None);
        assert_eq!(node("0000:09:00.0"), None);
    }
}
