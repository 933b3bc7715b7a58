//! The control groups that tasks of the host and of guests live in.
//!
//! systemd's top level units, what others have made beside them (LXC), and the scopes of VMs; what
//! is below them is cut with them. Mounts and swaps are left out: nothing runs there.

use super::files::Files;
use crate::domain::cpuset::CpuSet;
use crate::domain::vm::Vmid;

/// Path of the root of the hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Slice that PVE starts VMs in; it stays open, its scopes are looked at one by one.
pub const QEMU_SLICE: &str = "qemu.slice";
/// Ends of the names of units that have processes.
pub(super) const UNITS: [&str; 3] = [".slice", ".scope", ".service"];
/// Ends of the names of units that have none for longer than a moment.
const HELPERS: [&str; 4] = [".mount", ".swap", ".socket", ".automount"];

/// Returns the paths of these groups below the root of the hierarchy.
pub fn outer_groups(files: &dyn Files) -> Vec<String> {
    let mut groups = below(files, "");
    groups.retain(|group| group != QEMU_SLICE);
    groups.extend(below(files, QEMU_SLICE));
    groups
}

/// Returns the VMs that have a scope, in the order of their directories.
pub fn scopes(files: &dyn Files) -> Vec<Vmid> {
    let names = files.list(&join(ROOT, QEMU_SLICE)).unwrap_or_default();
    let vmids = names
        .iter()
        .filter_map(|name| name.strip_suffix(".scope")?.parse().ok());
    vmids.collect()
}

/// Tells whether a group can be seen to have no group in it.
pub fn is_empty(files: &dyn Files, path: &str) -> bool {
    files.list(&join(ROOT, path)).is_ok() && below(files, path).is_empty()
}

/// Tells whether a process is in a group or below it, also one that has yet to let go of its memory and
/// devices before it has ended.
pub fn is_populated(files: &dyn Files, path: &str) -> bool {
    let events = files.read(&file(path, "cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Returns the CPUs that a group leaves its tasks: where it has no controller of its own, those of the
/// nearest group above that has. `None` where the kernel does not tell.
pub fn effective(files: &dyn Files, path: &str) -> Option<CpuSet> {
    let read = |path: &str| files.read(&file(path, "cpuset.cpus.effective"));
    let mut path = path;
    loop {
        match (read(path), path.rsplit_once('/')) {
            (Ok(text), _) => return text.parse().ok(),
            (Err(_), Some((above, _))) => path = above,
            (Err(_), None) if path.is_empty() => return None,
            (Err(_), None) => path = "",
        }
    }
}

/// Returns those of a group and the groups below it that are partitions of type isolated.
pub fn isolated_within(files: &dyn Files, group: &str) -> Vec<String> {
    let below = below(files, group);
    let mut isolated: Vec<String> = below
        .iter()
        .flat_map(|group| isolated_within(files, group))
        .collect();
    let kind = files.read(&file(group, "cpuset.cpus.partition"));
    if kind.is_ok_and(|kind| kind.trim_end() == "isolated") {
        isolated.push(group.to_owned());
    }
    isolated
}

fn below(files: &dyn Files, group: &str) -> Vec<String> {
    let names = files.list(&join(ROOT, group)).unwrap_or_default();
    let names = names.into_iter().map(|name| match group {
        "" => name,
        _ => format!("{group}/{name}"),
    });
    names.filter(|path| is_group(files, path)).collect()
}

/// Returns the path of the scope that PVE starts a VM in.
pub fn scope_of(vmid: Vmid) -> String {
    format!("{QEMU_SLICE}/{vmid}.scope")
}

/// Returns the unit that a group belongs to, by its name.
pub fn unit_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    UNITS.iter().any(|end| name.ends_with(end)).then_some(name)
}

/// Returns the path of a file of a group.
pub fn file(path: &str, name: &str) -> String {
    join(&join(ROOT, path), name)
}

fn is_group(files: &dyn Files, path: &str) -> bool {
    let is_helper = HELPERS.iter().any(|end| path.ends_with(end));
    !is_helper && files.exists(&file(path, "cgroup.procs"))
}

pub(super) fn join(dir: &str, name: &str) -> String {
    match name {
        "" => dir.to_owned(),
        _ => format!("{dir}/{name}"),
    }
}
