//! What is remembered about an enabled VM beyond a reboot: its config as it was, and the
//! hookscript that it had.
//!
//! The former hookscript is in the cluster file system, because a VM takes its `hookscript` option
//! along to another node, and the hook behind it has to be known there too. The config is a way
//! back for a person and stays on the node.

use std::io;

use anyhow::bail;

use super::cluster::{self, check_mounted};
use super::dirs::make_dirs;
use super::files::{Files, if_there};
use super::pve::read_if_there;
use super::table::{CLUSTER_TABLES, check_cluster};
use super::trouble::cannot;
use crate::domain::advice::Advised;
use crate::domain::storage::Snippet;
use crate::domain::vm::Vmid;

/// Where configs are saved; they may hold secrets.
const SAVED: &str = "/var/lib/pin-hook/saved";
/// Its parent, which is of no use without it.
const STATE: &str = "/var/lib/pin-hook";

/// Returns where the config of a VM is saved.
pub fn saved_path(vmid: Vmid) -> String {
    format!("{SAVED}/{vmid}.conf")
}

/// Returns where the hookscript is recorded that a VM had before.
pub fn former_path(vmid: Vmid) -> String {
    format!("{CLUSTER_TABLES}/{vmid}.chain")
}

/// Saves the config of a VM.
///
/// # Errors
/// The kernel's, with the path.
pub fn save_config(files: &dyn Files, vmid: Vmid, text: &str) -> anyhow::Result<()> {
    let path = saved_path(vmid);
    make_dirs(files, SAVED, 0o700)
        .and_then(|()| files.replace(&path, text, 0o600))
        .map_err(cannot("write", &path))
}

/// Records the hookscript that a VM had before.
///
/// # Errors
/// The kernel's, with the path.
pub fn record_former(files: &dyn Files, vmid: Vmid, hook: &Snippet) -> anyhow::Result<()> {
    check_mounted(files)?;
    let path = former_path(vmid);
    make_dirs(files, CLUSTER_TABLES, 0o755)
        .and_then(|()| files.replace(&path, &format!("{hook}\n"), 0o644))
        .map_err(cannot("write", &path))
}

/// Returns the hookscript that a VM had before, if it had one.
///
/// # Errors
/// The record cannot be read, says no snippet, or somebody else than root may have written it.
pub fn former(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Option<Snippet>> {
    let Some(record) = read_if_there(files, former_path(vmid))? else {
        return Ok(None);
    };
    check_cluster(files, &record.path)?;
    match record.text.trim().parse::<Snippet>() {
        Ok(hook) if !hook.is_ours() => Ok(Some(hook)),
        _ => bail!(Advised::new(
            format!("{} does not name a snippet of another hook", record.path),
            "write into it the volume of the hookscript that the vm had before",
        )),
    }
}

/// Removes the records of VMs that no node has any more: one of the same id would inherit the hookscript. Returns
/// what was removed.
///
/// # Errors
/// The configs of the cluster cannot be listed, or a record cannot be removed.
pub fn remove_orphans(files: &dyn Files) -> anyhow::Result<Vec<String>> {
    let names = files.list(CLUSTER_TABLES).unwrap_or_default().into_iter();
    let vmids = names.filter_map(|name| name.strip_suffix(".chain")?.parse::<Vmid>().ok());
    let vmids: Vec<Vmid> = vmids.collect();
    if vmids.is_empty() {
        return Ok(Vec::new());
    }
    let known = cluster::vmids(files)?;
    let orphans = vmids.into_iter().filter(|vmid| !known.contains(vmid));
    let paths: Vec<String> = orphans.map(former_path).collect();
    for path in &paths {
        remove(files, path).map_err(cannot("remove", path))?;
    }
    Ok(paths)
}

/// Removes what is remembered about a VM, and directories that are empty then.
///
/// # Errors
/// The kernel's, with the path.
pub fn forget(files: &dyn Files, vmid: Vmid) -> anyhow::Result<()> {
    for path in [former_path(vmid), saved_path(vmid)] {
        remove(files, &path).map_err(cannot("remove", &path))?;
    }
    for directory in [SAVED, STATE] {
        // One that is in use still, or has never been there.
        let _ = files.remove_dir(directory);
    }
    Ok(())
}

/// Removes a file; one that is not there is removed, on a file system that is read-only as well
/// (`unlink(2)` says `EROFS` of it there).
///
/// # Errors
/// The kernel's.
pub fn remove(files: &dyn Files, path: &str) -> io::Result<()> {
    match if_there(files.remove(path)) {
        Err(_) if !files.exists(path) && files.link(path).is_err() => Ok(()),
        removed => removed.map(drop),
    }
}
