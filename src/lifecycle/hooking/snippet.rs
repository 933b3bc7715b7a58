//! pin-hook's own snippet in the storages of PVE, and the snippets of others that VMs name.

use std::fmt;
use std::io;

use anyhow::bail;

use crate::config::section::Section;
use crate::config::vm_conf::parse_vm_conf;
use crate::domain::enabling::{EnableRefusal, HookFault};
use crate::domain::guest::Guest;
use crate::domain::storage::{Snippet, Storage};
use crate::domain::vm::Vmid;
use crate::host::dirs::make_dirs;
use crate::host::files::Files;
use crate::host::mounts::{Mounts, mounts};
use crate::host::pve::{self, TextFile};
use crate::host::trouble::cannot;
use crate::host::{Host, cluster, record};
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::advice::help_for;

/// The snippet: the same on every node, wherever the program is, because nodes may share it.
const TEXT: &str = include_str!("../../../hooks/pin-hook");
/// Unit that announces the node to the cluster until that succeeds; started, never enabled.
const ANNOUNCE_UNIT: &str = "pin-hook-announce.service";
/// What makes a file recognisable as a snippet of this program, of any version.
const MARK: &str = "calls pin-hook(8)";

/// What there is in the place of the snippet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The snippet as it is to be, or a link to the program.
    Current,
    /// The snippet of another version, or one that cannot be executed.
    Old,
    /// Something of somebody else.
    Foreign,
}

/// Tells what there is at a path.
///
/// # Errors
/// Something is there but cannot be read.
pub fn look(files: &dyn Files, path: &str) -> anyhow::Result<Found> {
    if files.link(path).is_ok_and(|to| to.ends_with("/pin-hook")) && files.exists(path) {
        return Ok(Found::Current);
    }
    match files.read(path) {
        Ok(found) if found == TEXT && cluster::is_executable(files, path).unwrap_or(false) => {
            Ok(Found::Current)
        }
        Ok(found) if found.contains(MARK) => Ok(Found::Old),
        Ok(_) => Ok(Found::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(cannot("read", path)(error)),
    }
}

/// Writes the snippet, and the directory for it if that is missing.
///
/// # Errors
/// The kernel's, with the path.
pub fn put(files: &dyn Files, path: &str) -> anyhow::Result<()> {
    let (directory, _) = path.rsplit_once('/').unwrap_or_default();
    make_dirs(files, directory, 0o755)
        .and_then(|()| files.replace(path, TEXT, 0o755))
        .map_err(cannot("write", path))
}

/// Guest whose config names a snippet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Which guest.
    pub vmid: Vmid,
    /// Whether it is a container.
    pub is_container: bool,
    /// Whether it names it now, or when it is started next.
    pub is_now: bool,
    /// Whether a snapshot of it does.
    pub in_snapshot: bool,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_container { "container" } else { "vm" };
        let snapshot = if self.is_now { "" } else { "a snapshot of " };
        write!(f, "{snapshot}{kind} {}", self.vmid)
    }
}

/// The configs of all guests of the cluster.
type Configs = Vec<(Vmid, TextFile)>;

/// Returns the guests of the cluster whose config names a snippet, now or in a snapshot: a
/// container that does needs it to start as well.
fn users(configs: &Configs, snippet: &Snippet) -> Vec<User> {
    let volume = snippet.to_string();
    let users = configs.iter().map(|(vmid, config)| {
        let conf = parse_vm_conf(&config.text);
        let names_it = |section: &Section| section.value("hookscript") == Some(volume.as_str());
        User {
            vmid: *vmid,
            is_container: config.path.contains("/lxc/"),
            is_now: names_it(&conf.active) || conf.pending.as_ref().is_some_and(names_it),
            in_snapshot: conf.snapshots.values().any(names_it),
        }
    });
    users
        .filter(|user| user.is_now || user.in_snapshot)
        .collect()
}

/// Returns the file of the hookscript that a VM names, if PVE could call it.
///
/// # Errors
/// What PVE would say against it.
pub fn callable(
    files: &dyn Files,
    storages: &[Storage],
    volume: &str,
) -> Result<(Snippet, String), HookFault> {
    let snippet: Snippet = volume.parse().map_err(|()| HookFault::NoSnippet)?;
    let Some(path) = snippet.file(storages) else {
        return Err(HookFault::NoStorage(snippet.storage));
    };
    match cluster::is_executable(files, &path) {
        Ok(true) => Ok((snippet, path)),
        Ok(false) => Err(HookFault::NotExecutable(path)),
        Err(_) => Err(HookFault::Missing(path)),
    }
}

/// Hookscript that a start would fail with.
#[derive(Debug)]
pub struct Broken {
    /// Its volume.
    pub volume: String,
    /// What is wrong with it.
    pub fault: HookFault,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { volume, fault } = self;
        write!(f, "the hookscript {volume} does not work: {fault}")
    }
}

impl Broken {
    /// Returns what makes it work again; without a table a VM cannot be enabled.
    pub fn help(&self, vmid: Vmid, has_table: bool) -> String {
        let is_ours = self
            .volume
            .parse()
            .is_ok_and(|hook: Snippet| hook.is_ours());
        match self.fault {
            HookFault::Missing(_) | HookFault::NotExecutable(_) if is_ours => match has_table {
                true => format!("pin-hook enable {vmid} fixes it"),
                false => format!(
                    "systemctl restart pin-hook-boot.service fixes it, pin-hook disable {vmid} \
                     stops it from being called"
                ),
            },
            _ => self.fault.help(),
        }
    }
}

fn foreign(files: &dyn Files, storages: &[Storage], volume: &str) -> Option<HookFault> {
    let hook: Snippet = volume.parse().ok().filter(Snippet::is_ours)?;
    let path = hook.file(storages)?;
    let is_foreign = look(files, &path).is_ok_and(|found| found == Found::Foreign);
    is_foreign.then_some(HookFault::Foreign(path))
}

/// Returns the hookscript of a VM that PVE could not call, or that pin-hook could not, which the VM had
/// before. Nothing where no storage can be seen, such as in a capture.
pub fn broken(files: &dyn Files, vmid: Vmid, guest: &Guest) -> Option<Broken> {
    let own = guest.hookscript.clone()?;
    let former = guest.is_hooked().then(|| record::former(files, vmid).ok()?);
    let former = former.flatten().map(|hook| hook.to_string());
    let storages = cluster::storages(files).ok()?;
    let is_seen = storages.iter().any(|storage| files.exists(&storage.path));
    let mut volumes = std::iter::once(own).chain(former).filter(|_| is_seen);
    volumes.find_map(|volume| {
        let fault = foreign(files, &storages, &volume);
        let fault = fault.or_else(|| callable(files, &storages, &volume).err())?;
        Some(Broken { volume, fault })
    })
}

/// Brings the snippet up to date where hooked guests of the cluster expect it on this node, and announces to
/// the other nodes where it is. If that fails, a unit tries again until it succeeds.
///
/// # Errors
/// The node has no name.
pub fn prepare_node(host: &Host, account: &mut Account) -> anyhow::Result<()> {
    let Err(error) = refresh_and_announce(&*host.files, account)? else {
        return Ok(());
    };
    account.warn(unannounced(&error));
    let help = match host.systemd.start(ANNOUNCE_UNIT) {
        Ok(()) => format!("{ANNOUNCE_UNIT} tries again every 30 s"),
        Err(_) => "systemctl restart pin-hook-boot.service tries again".to_owned(),
    };
    account.say(Level::Help, help);
    Ok(())
}

/// Does the same for that unit, which goes by the exit status.
pub fn announce(host: &Host) -> Account {
    let mut account = Account::default();
    match refresh_and_announce(&*host.files, &mut account) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => account.fail(Exit::Refused, unannounced(&error), help_for(&error)),
        Err(error) => account.fail_by("", &error),
    }
    account
}

fn unannounced(error: &anyhow::Error) -> String {
    format!("the other nodes do not know which snippets this node has: {error:#}")
}

/// Returns what came of the announcement; of the snippets it tells itself.
fn refresh_and_announce(
    files: &dyn Files,
    account: &mut Account,
) -> anyhow::Result<anyhow::Result<()>> {
    if cluster::nodes(files).is_empty() {
        // No node of PVE, or one whose cluster file system is not mounted.
        return Ok(Ok(()));
    }
    let node = pve::node_name(files)?;
    let there = refresh_all(files, &node, account).unwrap_or_else(|error| {
        out_of_date(account, &error);
        let known = cluster::announced(files, &node).unwrap_or_default();
        let known = known.snippets.iter();
        known.filter_map(|volume| volume.parse().ok()).collect()
    });
    Ok(forget_the_destroyed(files, account).and(cluster::announce(files, &node, &there)))
}

/// The cluster file system keeps the record of a VM that was destroyed.
fn forget_the_destroyed(files: &dyn Files, account: &mut Account) -> anyhow::Result<()> {
    for path in record::remove_orphans(files)? {
        account.info(format!("removed {path}: no node has that vm any more"));
    }
    Ok(())
}

fn out_of_date(account: &mut Account, error: &anyhow::Error) {
    account.warn(format!("the snippet is not up to date: {error:#}"));
    account.say(Level::Help, help_for(error));
}

/// Writes the snippets of a node that are old or missing, and returns those that are there then.
fn refresh_all(
    files: &dyn Files,
    node: &str,
    account: &mut Account,
) -> anyhow::Result<Vec<Snippet>> {
    let storages = cluster::storages(files)?;
    let configs = cluster::guest_configs(files)?;
    let mounts = mounts(files);
    let mut there = Vec::new();
    for storage in storages.iter().filter(|one| one.is_on(node)) {
        let is_named = !users(&configs, &storage.snippet()).is_empty();
        match refresh(files, storage, is_named, &mounts) {
            Ok(true) => there.push(storage.snippet()),
            Ok(false) => {}
            Err(error) => out_of_date(account, &error),
        }
    }
    Ok(there)
}

/// Writes a snippet that is old, or missing although guests name it; tells whether it is there then.
///
/// At boot PVE has mounted nothing yet, and a server that is away would make this wait for it. So
/// a storage that is shared or remote is not touched, and what VMs name counts as being there; one
/// that is not mounted is not touched either, because what is written would be below the mount.
fn refresh(
    files: &dyn Files,
    storage: &Storage,
    is_named: bool,
    mounts: &Mounts,
) -> anyhow::Result<bool> {
    let is_mounted = |point: &String| mounts.is_mounted(point);
    if storage.is_shared || mounts.is_remote(&storage.path) {
        return Ok(is_named);
    }
    if !storage.mount_point.as_ref().is_none_or(is_mounted) || !files.exists(&storage.path) {
        return Ok(false);
    }
    let path = storage.own_file();
    match look(files, &path)? {
        Found::Current => Ok(true),
        Found::Nothing if !is_named => Ok(false),
        Found::Foreign => Ok(false),
        Found::Old | Found::Nothing => put(files, &path).map(|()| true),
    }
}

/// What becomes of the snippet of a storage when a VM needs it no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// There is none.
    Absent,
    /// These still name it.
    Used(Vec<User>),
    /// What is in its place, at this path, is somebody else's.
    Foreign(String),
    /// It goes, from this path.
    Removed(String),
}

/// Returns what becomes of the snippet of a storage when `leaving` is disabled.
///
/// # Errors
/// A config, or what is in its place, cannot be read.
pub fn fate(
    files: &dyn Files,
    storages: &[Storage],
    snippet: &Snippet,
    leaving: Vmid,
) -> anyhow::Result<Fate> {
    // It may have gone with its storage.
    let Some(path) = snippet.file(storages) else {
        return Ok(Fate::Absent);
    };
    let mut users = users(&cluster::guest_configs(files)?, snippet);
    users.retain_mut(|user| {
        user.is_now &= user.vmid != leaving;
        user.is_now || user.in_snapshot
    });
    Ok(match look(files, &path)? {
        Found::Nothing => Fate::Absent,
        Found::Foreign => Fate::Foreign(path),
        Found::Current | Found::Old if users.is_empty() => Fate::Removed(path),
        Found::Current | Found::Old => Fate::Used(users),
    })
}

/// Removes the snippet of a storage where [`fate`] says so, and returns what has become of it.
///
/// # Errors
/// As [`fate`], or it cannot be removed.
pub fn remove_unused(
    files: &dyn Files,
    storages: &[Storage],
    snippet: &Snippet,
    leaving: Vmid,
) -> anyhow::Result<Fate> {
    let fate = fate(files, storages, snippet, leaving)?;
    if let Fate::Removed(path) = &fate {
        record::remove(files, path).map_err(cannot("remove", path))?;
    }
    Ok(fate)
}

/// Returns where the snippet of a storage is to be written, unless something else is there.
///
/// # Errors
/// It cannot be read, or must not be written ([`EnableRefusal`]).
pub fn place(files: &dyn Files, storage: &Storage) -> anyhow::Result<(String, Found)> {
    if !files.exists(&storage.path) {
        bail!(EnableRefusal::NoFolder {
            storage: storage.id.clone(),
            path: storage.path.clone(),
        });
    }
    let path = storage.own_file();
    match look(files, &path)? {
        Found::Foreign => bail!(EnableRefusal::Foreign(path)),
        found => Ok((path, found)),
    }
}
