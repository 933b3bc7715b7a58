//! The cluster that this node is part of, as the cluster file system shows it: storages, other
//! nodes, where VMs may go, and which nodes have pin-hook.
//!
//! Whether a program is installed on another node cannot be seen from here, so every node says so
//! itself, in a file of its own below `NODES`, when it boots and when pin-hook is installed.

use std::io;

use anyhow::ensure;

use super::dirs::make_dirs;
use super::files::Files;
use super::pve::{TextFile, read_if_there};
use super::trouble::cannot;
use crate::config::sections::{Section, parse_sections, parse_storages};
use crate::domain::advice::Advised;
use crate::domain::enabling::Destination;
use crate::domain::storage::{Snippet, Storage};
use crate::domain::vm::Vmid;

/// Where each node with pin-hook has a file that lists the snippets it has.
const NODES: &str = "/etc/pve/pin-hook/nodes";
const CLUSTER_NODES: &str = "/etc/pve/nodes";

/// Returns the storages that can hold snippets.
///
/// # Errors
/// `storage.cfg` is there but cannot be read.
pub fn storages(files: &dyn Files) -> anyhow::Result<Vec<Storage>> {
    let config = read_if_there(files, "/etc/pve/storage.cfg".to_owned())?;
    Ok(parse_storages(&config.map_or(String::new(), |c| c.text)))
}

/// Returns the nodes of the cluster, this one included.
pub fn nodes(files: &dyn Files) -> Vec<String> {
    files.list(CLUSTER_NODES).unwrap_or_default()
}

/// Returns the configs of all VMs and containers of the cluster.
///
/// # Errors
/// A config is there but cannot be read.
pub fn guest_configs(files: &dyn Files) -> anyhow::Result<Vec<(Vmid, TextFile)>> {
    let mut configs = Vec::new();
    let of_node =
        |node| ["qemu-server", "lxc"].map(|kind| format!("{CLUSTER_NODES}/{node}/{kind}"));
    for directory in nodes(files).into_iter().flat_map(of_node) {
        for name in files.list(&directory).unwrap_or_default() {
            let vmid = name.strip_suffix(".conf").and_then(|id| id.parse().ok());
            let Some(vmid) = vmid else { continue };
            // A guest that has just been destroyed or migrated away is no longer there.
            if let Some(config) = read_if_there(files, format!("{directory}/{name}"))? {
                configs.push((vmid, config));
            }
        }
    }
    Ok(configs)
}

/// Returns where a VM may go without anybody asking, with what takes it there: other nodes when HA
/// looks after it, and the targets of its replication.
///
/// # Errors
/// A file is there but cannot be read.
pub fn destinations(files: &dyn Files, vmid: Vmid, own: &str) -> anyhow::Result<Vec<Destination>> {
    let jobs = jobs(files, vmid)?;
    let is_ha = is_ha(files, vmid)?;
    let targets: Vec<&str> = jobs.iter().filter_map(|job| job.value("target")).collect();
    let reason = |node: &String| match () {
        () if targets.contains(&node.as_str()) => Some("replication"),
        () if is_ha => Some("ha"),
        () => None,
    };
    let others = nodes(files).into_iter().filter(|node| node != own);
    Ok(others
        .filter_map(|node| {
            reason(&node).map(|reason| Destination {
                reason,
                snippets: snippets_of(files, &node),
                node,
            })
        })
        .collect())
}

/// Tells whether the disks of a VM are copied to another node, as far as that can be read.
pub fn is_replicated(files: &dyn Files, vmid: Vmid) -> bool {
    jobs(files, vmid).is_ok_and(|jobs| !jobs.is_empty())
}

/// Returns the replication jobs of a VM.
fn jobs(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Vec<Section>> {
    let id = vmid.to_string();
    let mut jobs = sections(files, "/etc/pve/replication.cfg")?;
    jobs.retain(|job| job.id.split('-').next() == Some(id.as_str()));
    Ok(jobs)
}

/// Tells whether HA looks after a VM; it does not where it was told to ignore it.
///
/// # Errors
/// The file is there but cannot be read.
pub fn is_ha(files: &dyn Files, vmid: Vmid) -> anyhow::Result<bool> {
    let id = vmid.to_string();
    let resources = sections(files, "/etc/pve/ha/resources.cfg")?;
    let mut of_vm = resources
        .iter()
        .filter(|one| one.kind == "vm" && one.id == id);
    Ok(of_vm.any(|one| one.value("state") != Some("ignored")))
}

fn sections(files: &dyn Files, path: &str) -> anyhow::Result<Vec<Section>> {
    let file = read_if_there(files, path.to_owned())?;
    Ok(parse_sections(
        &file.map_or(String::new(), |file| file.text),
    ))
}

/// Returns the volumes of the snippet that a node has, or `None` when it has no pin-hook, as far
/// as it has told.
pub fn snippets_of(files: &dyn Files, node: &str) -> Option<Vec<String>> {
    let text = files.read(&format!("{NODES}/{node}")).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

/// Tells the other nodes that this one has pin-hook, and where its snippet is.
///
/// # Errors
/// The cluster file system cannot be written, such as without a quorum.
pub fn tell_snippets(files: &dyn Files, node: &str, snippets: &[Snippet]) -> anyhow::Result<()> {
    check_mounted(files)?;
    let text: String = snippets.iter().map(|one| format!("{one}\n")).collect();
    let path = format!("{NODES}/{node}");
    // Every write goes to all nodes: one that changes nothing is left out.
    if files.read(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    make_dirs(files, NODES, 0o755)
        .and_then(|()| files.replace(&path, &text, 0o644))
        .map_err(cannot("write", &path))
}

/// Checks that the cluster file system is there: a file in its place would keep it from being
/// mounted.
///
/// # Errors
/// It is not there.
pub fn check_mounted(files: &dyn Files) -> anyhow::Result<()> {
    let is_mounted = files.exists(CLUSTER_NODES);
    ensure!(
        is_mounted,
        Advised::new(
            format!("the cluster file system is missing ({CLUSTER_NODES})"),
            "systemctl status pve-cluster shows why; without it no vm starts either",
        )
    );
    Ok(())
}

/// Tells whether PVE could execute a snippet.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] and the like when it is not there.
pub fn is_executable(files: &dyn Files, path: &str) -> io::Result<bool> {
    Ok(files.owner(path)?.mode & 0o111 != 0)
}
