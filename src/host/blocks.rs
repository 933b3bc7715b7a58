//! `/sys/class/block`: which disks hang on which controller, and what the host does with them.
//!
//! Reads only, and only what the kernel holds in memory: no disk is asked anything. An active LVM
//! volume, an assembled array and a mapping of device-mapper show as holders of what they are made
//! of; ZFS does not, so udev's notes tell which pool a partition belongs to, and the kernel which
//! pools are imported. A pool or an array that is only on the disk is the guest's own business.

use std::collections::BTreeMap;

use super::files::Files;
use super::mounts::mounts;
use super::pci::function_in;
use crate::domain::pci::needs::Disk;

const BLOCKS: &str = "/sys/class/block";
/// How deep block devices are stacked at most.
const MAX_DEPTH: usize = 8;

/// Returns the disks that hang on a PCI function, with their uses.
pub fn disks(files: &dyn Files) -> Vec<Disk> {
    let uses = Uses::read(files);
    let mut disks: BTreeMap<String, Disk> = BTreeMap::new();
    for name in files.list(BLOCKS).unwrap_or_default() {
        let Ok(link) = files.link(&format!("{BLOCKS}/{name}")) else {
            continue;
        };
        let functions = functions(files, &link);
        if functions.is_empty() {
            continue;
        }
        let whole = disk_of(files, &name, &link);
        let disk = disks.entry(whole.clone()).or_insert_with(|| Disk {
            name: whole,
            functions,
            uses: Vec::new(),
        });
        disk.uses.extend(uses.of(&name, MAX_DEPTH));
    }
    disks.into_values().collect()
}

/// Returns the name of the disk that a path such as `/dev/disk/by-id/...` leads to.
pub fn disk_at(files: &dyn Files, path: &str) -> Option<String> {
    let target = files.link(path).unwrap_or_else(|_| path.to_owned());
    let name = target.rsplit('/').next()?.to_owned();
    let link = files.link(&format!("{BLOCKS}/{name}")).ok()?;
    Some(disk_of(files, &name, &link))
}

/// Returns the disk that a block device is, or is a partition of: the directory above.
fn disk_of(files: &dyn Files, name: &str, link: &str) -> String {
    let above = link.rsplit('/').nth(1).unwrap_or(name);
    match files.exists(&format!("{BLOCKS}/{name}/partition")) {
        true => above.to_owned(),
        false => name.to_owned(),
    }
}

/// Returns the controllers of a block device; an NVMe namespace with several paths is below none of
/// them, but its subsystem names them (`drivers/nvme/host/multipath.c`).
fn functions(files: &dyn Files, link: &str) -> Vec<String> {
    if let Some(function) = function_in(link) {
        return vec![function];
    }
    let mut names = link.split('/');
    let Some(subsystem) = names.find(|name| name.starts_with("nvme-subsys")) else {
        return Vec::new();
    };
    let dir = format!("/sys/class/nvme-subsystem/{subsystem}");
    let names = files.list(&dir).unwrap_or_default();
    let links = names
        .iter()
        .filter_map(|name| files.link(&format!("{dir}/{name}")).ok());
    links.filter_map(|link| function_in(&link)).collect()
}

/// What the host does with block devices.
struct Uses<'f> {
    files: &'f dyn Files,
    /// Mount points by device number (`8:2`) and by source (`/dev/sda2`).
    mounted: BTreeMap<String, String>,
    /// What is swapped to, without `/dev/`.
    swaps: Vec<String>,
    /// Members of mounted file systems that have several, without `/dev/`.
    btrfs: Vec<String>,
}

impl<'f> Uses<'f> {
    fn read(files: &'f dyn Files) -> Self {
        let swaps = files.read("/proc/swaps").unwrap_or_default();
        let swaps = swaps.lines().filter_map(|line| {
            let path = line.split_whitespace().next()?;
            path.strip_prefix("/dev/").map(str::to_owned)
        });
        let systems = files.list("/sys/fs/btrfs").unwrap_or_default();
        let members = systems.iter().flat_map(|uuid| {
            let dir = format!("/sys/fs/btrfs/{uuid}/devices");
            files.list(&dir).unwrap_or_default()
        });
        Uses {
            files,
            mounted: mounts(files).by_device(),
            swaps: swaps.collect(),
            btrfs: members.collect(),
        }
    }

    /// Returns what the host does with a block device or what is made of it.
    fn of(&self, name: &str, depth: usize) -> Vec<String> {
        if let Some(used) = self.own(name) {
            return vec![format!("{name} {used}")];
        }
        let holders = self.files.list(&format!("{BLOCKS}/{name}/holders"));
        let holders = holders.unwrap_or_default();
        let uses = holders.iter().map(|holder| {
            let title = self.title(holder);
            let further = match depth {
                0 => None,
                _ => self.of(holder, depth - 1).into_iter().next(),
            };
            let further = further.and_then(|used| used.split_once(' ').map(|(_, w)| w.to_owned()));
            match further {
                Some(used) => format!("{name} is part of {title}, which {used}"),
                None => format!("{name} is part of {title}"),
            }
        });
        uses.collect()
    }

    /// Returns what a block device itself is used for.
    fn own(&self, name: &str) -> Option<String> {
        let read = |file: &str| self.files.read(&format!("{BLOCKS}/{name}/{file}")).ok();
        let number = read("dev").unwrap_or_default().trim().to_owned();
        let mapped = read("dm/name").map(|mapped| format!("/dev/mapper/{}", mapped.trim()));
        let sources = [Some(number.clone()), Some(format!("/dev/{name}")), mapped];
        let mut points = sources.iter().flatten();
        if let Some(point) = points.find_map(|source| self.mounted.get(source)) {
            return Some(format!("is mounted at {point}"));
        }
        if self.swaps.iter().any(|swap| swap == name) {
            return Some("is swap".to_owned());
        }
        if self.btrfs.iter().any(|member| member == name) {
            return Some("is part of a mounted btrfs".to_owned());
        }
        let pool = self.pool(&number)?;
        Some(format!("is part of zfs pool {pool}"))
    }

    /// Returns the imported ZFS pool that a block device is part of.
    fn pool(&self, number: &str) -> Option<String> {
        let notes = self.files.read(&format!("/run/udev/data/b{number}")).ok()?;
        let value = |key: &str| notes.lines().find_map(|line| line.strip_prefix(key));
        if value("E:ID_FS_TYPE=") != Some("zfs_member") {
            return None;
        }
        let pool = value("E:ID_FS_LABEL=")?.to_owned();
        let is_imported = self.files.exists(&format!("/proc/spl/kstat/zfs/{pool}"));
        is_imported.then_some(pool)
    }

    /// Returns the name by which people know a block device that is made of others.
    fn title(&self, name: &str) -> String {
        let mapped = self.files.read(&format!("{BLOCKS}/{name}/dm/name"));
        mapped.map_or_else(|_| name.to_owned(), |mapped| mapped.trim().to_owned())
    }
}
