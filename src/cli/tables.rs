//! The tables that a command prints and the page of `report` shows as well.

use super::columns::or_dash;
use super::page::Table;
use crate::lifecycle::engine::inventory::rows::DeviceRow;
use crate::lifecycle::show::plan::Layout;
use crate::lifecycle::show::status::ThreadStatus;

/// Returns where the vCPUs of a VM are to run; those that are plugged in later have a mark.
pub fn vcpus(layout: &Layout) -> Table {
    let now = layout.vcpus.iter().map(|place| (place, ""));
    let later = layout.hotplug.iter();
    let later = later.map(|place| (place, "when plugged in"));
    let rows = now.chain(later).map(|(place, when)| {
        [
            place.vcpu.to_string(),
            place.cpu.to_string(),
            place.core.to_string(),
            or_dash(place.l3_domain),
            or_dash(place.node),
            when.to_owned(),
        ]
    });
    Table::plain(["vcpu", "cpu", "core", "l3 domain", "node", ""], rows)
}

/// Returns where everything but the vCPUs of a VM is to run; threads that its table names and the VM
/// does not have have a mark.
pub fn other_threads(layout: &Layout) -> Table {
    let row = |what: &str, cpus: String| [what.to_owned(), cpus, String::new()];
    let idle = (!layout.idle.is_empty()).then(|| layout.idle.to_string());
    let mut rows: Vec<_> = idle
        .map(|cpus| row("none (owned, idle)", cpus))
        .into_iter()
        .collect();
    rows.push(row("emulator", layout.emulator.to_string()));
    rows.extend(layout.others.iter().map(|thread| {
        let name = match thread.name.as_str() {
            "*" => format!("{}, all others", thread.role),
            name => format!("{} {name}", thread.role),
        };
        let remark = if thread.exists {
            ""
        } else {
            "(the vm has none)"
        };
        [name, thread.cpus.to_string(), remark.to_owned()]
    }));
    rows.push(row("everything else", or_dash(Some(&layout.housekeeping))));
    Table::plain(["other threads", "cpus", ""], rows)
}

/// Returns a row for each function that is passed through, if there is one; of a mapping with
/// alternatives, those that PVE would not take have a mark.
pub fn devices(devices: &[DeviceRow]) -> Option<Table> {
    let rows = devices.iter().flat_map(|device| {
        let by = device.mapping.as_ref().map(|name| format!(" ({name})"));
        let key = format!("{}{}", device.key, by.unwrap_or_default());
        let remark = match (device.chosen, &device.mdev) {
            (true, Some(kind)) => format!("parent of {kind}"),
            (true, None) => String::new(),
            (false, _) => "not taken".to_owned(),
        };
        device.functions.iter().map(move |function| {
            [
                key.clone(),
                function.address.clone(),
                function.model.clone(),
                or_dash(function.driver.as_ref()),
                or_dash(function.iommu_group),
                or_dash(function.node),
                remark.clone(),
            ]
        })
    });
    let rows: Vec<_> = rows.collect();
    let heads = ["device", "function", "model", "driver", "group", "node", ""];
    (!rows.is_empty()).then(|| Table::plain(heads, rows))
}

/// Returns the threads of a VM, its vCPUs first, and whether each is where it should be: name, id, wanted
/// and actual CPUs, and cgroup.
pub fn threads(threads: &[ThreadStatus]) -> impl Iterator<Item = (bool, [String; 5])> {
    let mut threads: Vec<&ThreadStatus> = threads.iter().collect();
    threads.sort_by_key(|thread| (thread.vcpu.is_none(), thread.vcpu, thread.tid));
    threads.into_iter().map(|thread| {
        let what = match (thread.vcpu, &thread.iothread) {
            (Some(n), _) => format!("vcpu {n}"),
            (None, Some(id)) => id.clone(),
            (None, None) => format!("{} {}", thread.role, thread.name),
        };
        // The scope is that of the VM; what counts is the cgroup below it.
        let group = thread.cgroup.trim_start_matches("qemu.slice/");
        let cells = [
            what,
            thread.tid.to_string(),
            or_dash(thread.wanted.as_ref()),
            thread.actual.to_string(),
            group.to_owned(),
        ];
        (thread.ok, cells)
    })
}
