//! `/sys/bus/pci/devices`: where on the host passed-through devices are attached.
//!
//! Reads only.

use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::topology::Topology;

const DEVICES: &str = "/sys/bus/pci/devices";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::topology::tests::grid;
    use crate::host::files::RootFiles;

    #[test]
    fn a_device_is_on_its_node_or_near_its_cpus() {
        let dir = tempfile::tempdir().unwrap();
        let files = RootFiles::new(dir.path());
        for path in ["/sys", "/sys/bus", "/sys/bus/pci", DEVICES] {
            files.make_dir(path, 0o755).unwrap();
        }
        for (address, node, cpus) in [
            ("0000:01:00.0", "1\n", "4-7\n"),
            ("0000:01:00.1", "-1\n", "0-3\n"),
            ("0000:02:00.0", "-1\n", "0-7\n"),
        ] {
            let device = format!("{DEVICES}/{address}");
            files.make_dir(&device, 0o755).unwrap();
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
