//! The cluster that this node is part of, as the cluster file system shows it: storages, other
//! nodes, where VMs may go, and which nodes have pin-hook.
//!
//! Whether a program is installed on another node cannot be seen from here, so every node says so
//! itself, in a file of its own below `NODES`, when it boots and when pin-hook is installed.

use std::collections::BTreeSet;
use std::io;

use anyhow::ensure;

use super::dirs::make_dirs;
use super::files::{Files, if_there};
use super::pve::{TextFile, read_if_there};
use super::trouble::cannot;
use crate::config::sections::{Section, parse_sections, parse_storages, words};
use crate::domain::advice::Advised;
use crate::domain::enabling::{Announced, Destination, Reason, VERSION};
use crate::domain::storage::{Snippet, Storage};
use crate::domain::vm::Vmid;

/// Where each node with pin-hook has a file that lists the snippets it has.
const NODES: &str = "/etc/pve/pin-hook/nodes";
const CLUSTER_NODES: &str = "/etc/pve/nodes";
/// What the first line of such a file says, before the version.
const PROGRAM: &str = "# pin-hook ";

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

/// Returns the ids of all VMs of the cluster.
///
/// # Errors
/// The configs of a node cannot be listed.
pub fn vmids(files: &dyn Files) -> anyhow::Result<BTreeSet<Vmid>> {
    let mut vmids = BTreeSet::new();
    let nodes = files.list(CLUSTER_NODES);
    for node in nodes.map_err(cannot("read", CLUSTER_NODES))? {
        let directory = format!("{CLUSTER_NODES}/{node}/qemu-server");
        let names = if_there(files.list(&directory)).map_err(cannot("read", &directory))?;
        let names = names.unwrap_or_default();
        let of_node = names.iter().filter_map(|name| name.strip_suffix(".conf"));
        vmids.extend(of_node.filter_map(|id| id.parse::<Vmid>().ok()));
    }
    Ok(vmids)
}

/// Returns the other nodes that a VM may be started on: by HA, or because its disks are copied there.
///
/// # Errors
/// A file is there but cannot be read.
pub fn destinations(files: &dyn Files, vmid: Vmid, own: &str) -> anyhow::Result<Vec<Destination>> {
    let jobs = jobs(files, vmid)?;
    let of_ha = ha_nodes(files, vmid, own)?;
    let targets: Vec<&str> = jobs.iter().filter_map(|job| job.value("target")).collect();
    let others = nodes(files).into_iter().filter(|node| node != own);
    let destinations = others.filter_map(|node| {
        let reason = match targets.contains(&node.as_str()) {
            true => Reason::Replication,
            false => of_ha.contains(&node).then_some(Reason::Ha)?,
        };
        let announced = announced(files, &node);
        Some(Destination {
            reason,
            announced,
            node,
        })
    });
    Ok(destinations.collect())
}

/// Returns the other nodes that HA may start a VM on; none if HA does not manage it.
///
/// # Errors
/// A file is there but cannot be read.
pub fn ha_nodes(files: &dyn Files, vmid: Vmid, own: &str) -> anyhow::Result<Vec<String>> {
    let Some(resource) = ha_resource(files, "vm", vmid)? else {
        return Ok(Vec::new());
    };
    let allowed = match allowed_by_rule(files, vmid)? {
        None => allowed_by_group(files, &resource)?,
        allowed => allowed,
    };
    let mut nodes = nodes(files);
    let may = |node: &String| allowed.as_ref().is_none_or(|all| all.contains(node));
    nodes.retain(|node| node != own && may(node));
    Ok(nodes)
}

/// Returns the nodes that a rule restricts a VM to, from PVE 9 on. PVE drops the rules of a resource that two of
/// them are about (`PVE::HA::Rules::NodeAffinity`).
fn allowed_by_rule(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Option<Vec<String>>> {
    let id = format!("vm:{vmid}");
    let mut rules = sections(files, "/etc/pve/ha/rules.cfg")?;
    rules.retain(|rule| {
        let resources = rule.value("resources").unwrap_or_default();
        let is_meant = words(resources).any(|resource| resource == id);
        rule.kind == "node-affinity" && !rule.is_on("disable") && is_meant
    });
    Ok(match rules.as_slice() {
        [rule] if rule.is_on("strict") => Some(nodes_of(rule)),
        _ => None,
    })
}

/// Returns the nodes that the group of a resource restricts it to, up to PVE 8 (`PVE::HA::Groups`).
fn allowed_by_group(files: &dyn Files, resource: &Section) -> anyhow::Result<Option<Vec<String>>> {
    let Some(name) = resource.value("group") else {
        return Ok(None);
    };
    let groups = sections(files, "/etc/pve/ha/groups.cfg")?;
    let group = groups.iter().find(|group| group.id == name);
    let group = group.filter(|group| group.is_on("restricted"));
    Ok(group.map(nodes_of))
}

/// Returns the nodes of a list in which each may have a priority, such as `pve1,pve2:1`.
fn nodes_of(section: &Section) -> Vec<String> {
    let nodes = words(section.value("nodes").unwrap_or_default());
    let nodes = nodes.map(|node| node.split(':').next().unwrap_or(node));
    nodes.map(str::to_owned).collect()
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
    Ok(ha_resource(files, "vm", vmid)?.is_some())
}

/// Tells whether HA starts a VM wherever it is, as far as that can be read; an older PVE says `enabled`.
pub fn is_started_by_ha(files: &dyn Files, vmid: Vmid) -> bool {
    let resource = ha_resource(files, "vm", vmid).ok().flatten();
    resource.is_some_and(|one| matches!(one.value("state"), None | Some("started" | "enabled")))
}

/// Tells whether HA looks after a container.
pub fn is_ha_container(files: &dyn Files, ctid: Vmid) -> bool {
    ha_resource(files, "ct", ctid).is_ok_and(|resource| resource.is_some())
}

fn ha_resource(files: &dyn Files, kind: &str, vmid: Vmid) -> anyhow::Result<Option<Section>> {
    let id = vmid.to_string();
    let resources = sections(files, "/etc/pve/ha/resources.cfg")?.into_iter();
    let mut of_guest = resources.filter(|one| one.kind == kind && one.id == id);
    Ok(of_guest.find(|one| one.value("state") != Some("ignored")))
}

fn sections(files: &dyn Files, path: &str) -> anyhow::Result<Vec<Section>> {
    let file = read_if_there(files, path.to_owned())?;
    Ok(parse_sections(
        &file.map_or(String::new(), |file| file.text),
    ))
}

/// Returns what a node has announced, or `None` when it has no pin-hook.
pub fn announced(files: &dyn Files, node: &str) -> Option<Announced> {
    let text = files.read(&format!("{NODES}/{node}")).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix(PROGRAM));
    let snippets = text.lines().filter(|line| !line.starts_with('#'));
    Some(Announced {
        version: version.map(str::to_owned),
        snippets: snippets.map(str::to_owned).collect(),
    })
}

/// Tells the other nodes that this one has pin-hook, and where its snippet is.
///
/// # Errors
/// The cluster file system cannot be written, such as without a quorum.
pub fn announce(files: &dyn Files, node: &str, snippets: &[Snippet]) -> anyhow::Result<()> {
    check_mounted(files)?;
    let snippets: String = snippets.iter().map(|one| format!("{one}\n")).collect();
    // A version that knows no such line takes it for a volume that no VM names.
    let text = format!("{PROGRAM}{VERSION}\n{snippets}");
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
