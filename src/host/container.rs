//! Containers that run: the cgroups that LXC makes for them, outside of systemd.
//!
//! `lxc/<ctid>` has the limits of a container, its processes are in `ns` below, and the process
//! that made it is in `lxc.monitor/<ctid>` (`LXC.pm` of pve-container).

use std::io;

use super::files::{Files, if_there};
use super::{pve, task};
use crate::config::ct_conf::parse_ct_conf;
use crate::domain::container::Container;
use crate::domain::cpuset::CpuSet;
use crate::domain::vm::Vmid;

const GROUPS: &str = "/sys/fs/cgroup/lxc";
const MONITORS: &str = "/sys/fs/cgroup/lxc.monitor";

/// Returns the containers that run on this node; those that end meanwhile are left out.
///
/// # Errors
/// The cgroups cannot be listed.
pub fn containers(files: &dyn Files) -> io::Result<Vec<Container>> {
    let names = if_there(files.list(GROUPS))?.unwrap_or_default();
    let ctids = names.iter().filter_map(|name| name.parse().ok());
    let mut containers: Vec<Container> = ctids.filter_map(|ctid| read(files, ctid)).collect();
    containers.sort_unstable_by_key(|container| container.ctid);
    Ok(containers)
}

fn read(files: &dyn Files, ctid: Vmid) -> Option<Container> {
    let cpus = |group: String| -> Option<CpuSet> {
        let text = files.read(&format!("{group}/cpuset.cpus")).ok()?;
        text.parse().ok()
    };
    let config = pve::container_config(files, ctid).ok().flatten();
    Some(Container {
        ctid,
        run: run(files, ctid).ok()?,
        cpus: cpus(format!("{GROUPS}/{ctid}"))?,
        inner: cpus(format!("{GROUPS}/{ctid}/ns")),
        config: config.map(|config| parse_ct_conf(&config.text)),
    })
}

/// Returns the start time of the process that made a container; zero when it has ended.
///
/// # Errors
/// Nobody can read which process that is.
pub fn run(files: &dyn Files, ctid: Vmid) -> io::Result<u64> {
    let tasks = if_there(files.read(&format!("{MONITORS}/{ctid}/cgroup.procs")))?;
    let monitor = tasks
        .unwrap_or_default()
        .lines()
        .next()
        .and_then(|tid| tid.parse().ok());
    let monitor = monitor.and_then(|tid| task::read_task(files, tid, tid).ok());
    Ok(monitor.map_or(0, |task| task.id.start))
}
