//! What is mounted, from `/proc/self/mountinfo` alone: to ask a mounted file system itself may
//! take for ever when its server is away.

use std::collections::BTreeMap;

use super::files::Files;

/// The mounts of this host, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    device: String,
    source: String,
}

/// Returns what is mounted; nothing where that cannot be read.
pub fn mounts(files: &dyn Files) -> Mounts {
    let text = files.read("/proc/self/mountinfo").unwrap_or_default();
    Mounts(text.lines().filter_map(mount).collect())
}

impl Mounts {
    /// Returns the mount point of every device number (`8:2`) and source (`/dev/sda2`); where there
    /// are several, the first.
    pub fn by_device(&self) -> BTreeMap<String, String> {
        let mut points = BTreeMap::new();
        for mount in &self.0 {
            for name in [&mount.device, &mount.source] {
                let point = || mount.point.clone();
                points.entry(name.clone()).or_insert_with(point);
            }
        }
        points
    }

    /// Tells whether something is mounted at a path itself.
    pub fn is_mounted(&self, path: &str) -> bool {
        let path = trimmed(path);
        self.0.iter().any(|mount| mount.point == path)
    }

    /// Tells whether a path is in a file system whose server may be away, or that is mounted only
    /// when somebody looks.
    pub fn is_remote(&self, path: &str) -> bool {
        let path = trimmed(path);
        let above = self.0.iter().filter(|mount| is_below(path, &mount.point));
        // Of mounts at the same point the last one is seen.
        let seen = above.max_by_key(|mount| mount.point.len());
        seen.is_some_and(|mount| is_remote_kind(&mount.kind))
    }
}

/// Programs that mount by FUSE may do anything, so they count as remote.
fn is_remote_kind(kind: &str) -> bool {
    const KINDS: [&str; 9] = [
        "9p", "afs", "autofs", "ceph", "cifs", "fuse", "nfs", "nfs4", "smb3",
    ];
    KINDS.contains(&kind) || kind.starts_with("fuse.")
}

fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn is_below(path: &str, point: &str) -> bool {
    let rest = path.strip_prefix(trimmed(point));
    rest.is_some_and(|rest| point == "/" || rest.is_empty() || rest.starts_with('/'))
}

/// A line is `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELDS ...] - TYPE SOURCE OPTIONS`.
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let device = left.split(' ').nth(2)?.to_owned();
    let point = left.split(' ').nth(4)?;
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let escaped = escapes.iter();
    Some(Mount {
        point: escaped.fold(point.to_owned(), |text, (code, c)| text.replace(code, c)),
        kind: right.split(' ').next()?.to_owned(),
        source: right.split(' ').nth(1).unwrap_or_default().to_owned(),
        device,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 24 0:50 / /mnt/pve/nas rw,relatime shared:9 - nfs4 10.0.0.1:/srv rw,vers=4.2
31 24 8:17 / /mnt/usb\\040disk rw - xfs /dev/sdb1 rw
32 24 0:51 / /mnt/auto rw - autofs systemd-1 rw
33 32 8:18 / /mnt/auto rw - ext4 /dev/sdb2 rw
";

    fn known() -> Mounts {
        Mounts(TEXT.lines().filter_map(mount).collect())
    }

    #[test]
    fn mount_points_are_those_of_the_kernel() {
        for (path, is_mounted) in [
            ("/", true),
            ("/mnt/pve/nas", true),
            ("/mnt/pve/nas/", true),
            ("/mnt/usb disk", true),
            ("/mnt/pve", false),
            ("/mnt/pve/nas/snippets", false),
        ] {
            assert_eq!(known().is_mounted(path), is_mounted, "{path}");
        }
    }

    #[test]
    fn the_nearest_mount_says_whether_a_path_is_remote() {
        for (path, is_remote) in [
            ("/var/lib/vz", false),
            ("/mnt/pve/nas/dump", true),
            ("/mnt/pve/nas2", false),
            ("/mnt/auto/vz", false),
        ] {
            assert_eq!(known().is_remote(path), is_remote, "{path}");
        }
    }
}
