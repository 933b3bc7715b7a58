//! The tables that users write: `/etc/pin-hook/<vmid>.toml`, `/etc/pve/pin-hook/<vmid>.toml` and
//! `/etc/pin-hook/host.toml`.
//!
//! Hands out text and judges only who may have written it; what it says is for `config` to judge.

use std::collections::BTreeSet;
use std::io;

use anyhow::bail;

use super::files::{self, Files, Owner};
use super::pve::{TextFile, if_there};
use super::trouble::cannot;
use crate::domain::advice::Advised;
use crate::domain::vm::Vmid;

/// Tables of this node; each replaces the cluster's table of the same VM whole.
const LOCAL_TABLES: &str = "/etc/pin-hook";
/// Settings of this node.
pub const HOST_TABLE: &str = "/etc/pin-hook/host.toml";
/// Tables of the cluster.
pub(super) const CLUSTER_TABLES: &str = "/etc/pve/pin-hook";
/// Size of the largest table, in bytes.
const LARGEST_TABLE: usize = 64 << 10;

/// Permission bits that let somebody else than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Such bits that count in the cluster file system: none, because it decides itself who writes,
/// whatever permissions it shows, and a `chmod` there fails.
const CLUSTER_IGNORES: u32 = 0;

/// Returns the table of a VM, or `None` when it has none.
///
/// # Errors
/// The table cannot be read, is too large, is no UTF-8, or somebody else than root may have
/// written it ([`Untrusted`]).
pub fn read_table(files: &dyn Files, vmid: Vmid) -> anyhow::Result<Option<TextFile>> {
    let name = format!("{vmid}.toml");
    match read_trusted(files, LOCAL_TABLES, &name, WRITABLE_BY_OTHERS)? {
        Some(table) => Ok(Some(table)),
        None => read_trusted(files, CLUSTER_TABLES, &name, CLUSTER_IGNORES),
    }
}

/// Returns the guests that have a table on this node or in the cluster, in order.
///
/// # Errors
/// A directory is there but cannot be read.
pub fn tables(files: &dyn Files) -> anyhow::Result<BTreeSet<Vmid>> {
    let mut vmids = BTreeSet::new();
    for directory in [LOCAL_TABLES, CLUSTER_TABLES] {
        let names = files::if_there(files.list(directory)).map_err(cannot("list", directory))?;
        let names = names.unwrap_or_default();
        let ids = names.iter().filter_map(|name| name.strip_suffix(".toml"));
        vmids.extend(ids.filter_map(|id| id.parse::<Vmid>().ok()));
    }
    Ok(vmids)
}

/// A file next to the tables that is none by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Where it is.
    pub path: String,
    /// VM that it was probably meant for.
    pub meant: Vmid,
}

impl Stray {
    /// Returns where it would be read.
    pub fn expected(&self) -> String {
        let (directory, _) = self.path.rsplit_once('/').unwrap_or_default();
        format!("{directory}/{}.toml", self.meant)
    }

    /// Returns what makes it a table.
    pub fn help(&self) -> String {
        let Stray { path, meant } = self;
        let expected = self.expected();
        format!("{path} is not read; the table of vm {meant} is {expected}")
    }
}

/// Returns the files of `/etc/pin-hook` and of its cluster's counterpart whose names have the id of a
/// guest in them and are not what a table is called: `vm100.toml`, `100.conf`, `0100.toml`. What an editor
/// or a package leaves behind (`100.toml~`, `100.toml.dpkg-old`) is none of them.
pub fn stray_tables(files: &dyn Files) -> Vec<Stray> {
    let mut strays = Vec::new();
    for directory in [LOCAL_TABLES, CLUSTER_TABLES] {
        for name in files.list(directory).unwrap_or_default() {
            let path = format!("{directory}/{name}");
            strays.extend(meant_by(&name).map(|meant| Stray { path, meant }));
        }
    }
    strays
}

fn meant_by(name: &str) -> Option<Vmid> {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let suffix = suffix.to_ascii_lowercase();
    if !matches!(suffix.as_str(), "" | "toml" | "tml" | "conf") {
        return None;
    }
    let digits = stem.trim_start_matches(|c: char| !c.is_ascii_digit());
    let meant: Vmid = digits.trim_start_matches('0').parse().ok()?;
    let prefix = &stem[..stem.len() - digits.len()];
    let is_word = prefix
        .bytes()
        .all(|b| b.is_ascii_alphabetic() || b"-_".contains(&b));
    (is_word && name != format!("{meant}.toml")).then_some(meant)
}

/// Returns what keeps a file among the tables from being read by anybody: `vrbox.toml`, as well as what
/// [`stray_tables`] finds.
pub fn unread_files(files: &dyn Files) -> Vec<String> {
    let mut unread = Vec::new();
    for directory in [LOCAL_TABLES, CLUSTER_TABLES] {
        for name in files.list(directory).unwrap_or_default() {
            unread.extend(why_unread(directory, &name));
        }
    }
    unread
}

fn why_unread(directory: &str, name: &str) -> Option<String> {
    let path = format!("{directory}/{name}");
    if let Some(meant) = meant_by(name) {
        return Some(Stray { path, meant }.help());
    }
    let stem = name.strip_suffix(".toml")?;
    if stem == "host" && directory == CLUSTER_TABLES {
        return Some(format!(
            "{path} is not read; settings of a node are in {LOCAL_TABLES}/host.toml there"
        ));
    }
    let is_read = stem.parse::<Vmid>().is_ok() || stem == "host";
    (!is_read).then(|| {
        format!(
            "{path} is not read; a table is named after its vm, such as 100.toml, and the settings of the node \
             are in {LOCAL_TABLES}/host.toml"
        )
    })
}

/// Reads a table that is not in place yet; whoever may have written it.
///
/// # Errors
/// The file cannot be read, is too large or is no UTF-8.
pub fn read_candidate(files: &dyn Files, path: &str) -> anyhow::Result<TextFile> {
    let text = files.read_within(path, LARGEST_TABLE);
    let text = text.map_err(cannot("read", path))?;
    let path = path.to_owned();
    let table = TextFile { path, text };
    check_text(&table)?;
    Ok(table)
}

/// Checks a table that is in its place already as a start would; of one that is elsewhere nobody knows yet
/// who may write it. Returns what keeps a file there from being a table.
///
/// # Errors
/// [`Untrusted`], which knows the remedy, or the kernel's.
pub fn check_place(files: &dyn Files, path: &str) -> anyhow::Result<Option<String>> {
    let Some((directory, name)) = path.rsplit_once('/') else {
        return Ok(None);
    };
    match directory {
        _ if !files.exists(path) => return Ok(None),
        LOCAL_TABLES => {
            check(files, directory, WRITABLE_BY_OTHERS)?;
            check(files, path, WRITABLE_BY_OTHERS)?;
        }
        CLUSTER_TABLES => check_cluster(files, path)?,
        _ => return Ok(None),
    }
    Ok(why_unread(directory, name))
}

/// Returns where the table of a VM is, whatever is in it, or `None` when it has none.
pub fn path_of_table(files: &dyn Files, vmid: Vmid) -> Option<String> {
    paths_of_table(files, vmid).next()
}

/// Returns where a second table of a VM is, that of the cluster, which is not read beside its own of this node.
pub fn hidden_table(files: &dyn Files, vmid: Vmid) -> Option<String> {
    let mut paths = paths_of_table(files, vmid);
    let read = paths.next()?;
    // Where one directory is a link to the other there is only one.
    let is_same = |other: &String| {
        files
            .node(&read)
            .is_ok_and(|node| files.node(other).is_ok_and(|one| one == node))
    };
    paths.next().filter(|other| !is_same(other))
}

fn paths_of_table(files: &dyn Files, vmid: Vmid) -> impl Iterator<Item = String> {
    let paths = [LOCAL_TABLES, CLUSTER_TABLES].map(|dir| format!("{dir}/{vmid}.toml"));
    let paths = paths.into_iter();
    paths.filter(|path| files.exists(path) || files.link(path).is_ok())
}

/// Returns where the table of a VM of this node alone is.
pub fn local_path(vmid: Vmid) -> String {
    format!("{LOCAL_TABLES}/{vmid}.toml")
}

/// Writes the table of a VM on this node, whole or not at all, and returns where it is.
///
/// # Errors
/// The directory or the file cannot be written.
pub fn write_table(files: &dyn Files, vmid: Vmid, text: &str) -> anyhow::Result<String> {
    if !files.exists(LOCAL_TABLES) {
        let made = files.make_dir(LOCAL_TABLES, 0o755);
        made.map_err(cannot("create the directory", LOCAL_TABLES))?;
    }
    let path = local_path(vmid);
    let written = files.replace(&path, text, 0o644);
    written.map_err(cannot("write", &path))?;
    Ok(path)
}

/// Returns the settings of the whole host, or `None` when there are none.
///
/// # Errors
/// As [`read_table`].
pub fn read_host_table(files: &dyn Files) -> anyhow::Result<Option<TextFile>> {
    read_trusted(files, LOCAL_TABLES, "host.toml", WRITABLE_BY_OTHERS)
}

/// Checks that nobody but root may have written a file of the cluster file system.
///
/// # Errors
/// [`Untrusted`], which knows the remedy, or the kernel's.
pub(super) fn check_cluster(files: &dyn Files, path: &str) -> anyhow::Result<()> {
    check(files, path, CLUSTER_IGNORES)
}

fn check(files: &dyn Files, path: &str, refused: u32) -> anyhow::Result<()> {
    // A captured tree belongs to whoever made it: it needs no protection from that user.
    if files.owner("/").is_ok_and(|root| root.uid != 0) {
        return Ok(());
    }
    let owner = files.owner(path);
    let owner = owner.map_err(cannot("read", path))?;
    Ok(check_owner(path, owner, refused)?)
}

/// A file that somebody else than root may have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} {}", self.fault())]
pub struct Untrusted {
    path: String,
    owner: Owner,
}

impl Untrusted {
    fn fault(&self) -> String {
        match self.owner {
            Owner { uid: 0, mode } => {
                format!("is writable by others than root (mode {mode:04o})")
            }
            Owner { uid, .. } => format!("belongs to user {uid} instead of root"),
        }
    }

    /// Returns the command that mends it.
    pub fn remedy(&self) -> String {
        let Self { path, owner } = self;
        match (owner.uid, owner.mode & WRITABLE_BY_OTHERS) {
            (0, _) => format!("chmod go-w {path}"),
            (_, 0) => format!("chown root:root {path}"),
            _ => format!("chown root:root {path} && chmod go-w {path}"),
        }
    }
}

fn check_owner(path: &str, owner: Owner, refused: u32) -> Result<(), Untrusted> {
    if owner.uid == 0 && owner.mode & refused == 0 {
        return Ok(());
    }
    let path = path.to_owned();
    Err(Untrusted { path, owner })
}

fn read_trusted(
    files: &dyn Files,
    directory: &str,
    name: &str,
    refused: u32,
) -> anyhow::Result<Option<TextFile>> {
    let path = format!("{directory}/{name}");
    let text = files.read_within(&path, LARGEST_TABLE);
    // Whose it is may be why: root is not everybody without the capability to be.
    if matches!(&text, Err(error) if error.kind() == io::ErrorKind::PermissionDenied) {
        check(files, &path, refused)?;
    }
    let Some(table) = if_there(text, path.clone())? else {
        return match files.link(&path) {
            Ok(to) => Err(to_nothing(&path, &to)),
            Err(_) => Ok(None),
        };
    };
    check(files, directory, refused)?;
    check(files, &table.path, refused)?;
    check_text(&table)?;
    Ok(Some(table))
}

/// Returns the error of a link whose file is gone: whoever made it wants a table to be there.
fn to_nothing(path: &str, to: &str) -> anyhow::Error {
    let text = format!("{path} is a link to {to}, which does not exist");
    Advised::new(text, format!("put the file there, or rm {path}")).into()
}

fn check_text(table: &TextFile) -> anyhow::Result<()> {
    let TextFile { path, text } = table;
    // The door to the files has put this in the place of bytes that are not UTF-8.
    let broken = text.lines().position(|line| line.contains('\u{fffd}'));
    match broken {
        Some(line) => bail!(Advised::new(
            format!("{path}:{}: bytes that are not UTF-8", line + 1),
            "save it as UTF-8, or without letters outside of ASCII",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::RootFiles;

    /// The directories of tables on a host.
    fn host() -> (tempfile::TempDir, RootFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = RootFiles::new(dir.path());
        for path in ["/etc", "/etc/pve", LOCAL_TABLES, CLUSTER_TABLES] {
            files.make_dir(path, 0o755).unwrap();
        }
        (dir, files)
    }

    fn id(text: &str) -> Vmid {
        text.parse().unwrap()
    }

    #[test]
    fn the_tables_of_this_node_replace_those_of_the_cluster() {
        let (_dir, files) = host();
        let put = |path, text| files.replace(path, text, 0o644).unwrap();
        put("/etc/pve/pin-hook/100.toml", "cluster");
        put("/etc/pve/pin-hook/101.toml", "cluster");
        put("/etc/pin-hook/100.toml", "local");
        put("/etc/pin-hook/host.toml", "reserve = 2");
        let table = |vmid| read_table(&files, id(vmid)).unwrap();
        assert_eq!(table("100").unwrap().path, "/etc/pin-hook/100.toml");
        assert_eq!(table("101").unwrap().text, "cluster");
        assert_eq!(table("102"), None);
        let host = read_host_table(&files).unwrap().unwrap();
        assert_eq!(host.text, "reserve = 2");
    }

    #[test]
    fn a_directory_of_tables_that_is_a_link_to_the_other_hides_none() {
        let (dir, files) = host();
        let hidden = || hidden_table(&files, id("100"));
        let put = |path| files.replace(path, "cpus = \"2\"\n", 0o644).unwrap();
        put("/etc/pve/pin-hook/100.toml");
        assert_eq!(hidden(), None);
        put("/etc/pin-hook/100.toml");
        assert_eq!(hidden().as_deref(), Some("/etc/pve/pin-hook/100.toml"));
        let local = dir.path().join("etc/pin-hook");
        files.remove("/etc/pin-hook/100.toml").unwrap();
        files.remove_dir(LOCAL_TABLES).unwrap();
        std::os::unix::fs::symlink("pve/pin-hook", &local).unwrap();
        assert_eq!(hidden(), None);
    }

    #[test]
    fn a_link_to_nothing_is_no_missing_table() {
        let (dir, files) = host();
        let link = dir.path().join("etc/pin-hook/100.toml");
        std::os::unix::fs::symlink("/root/100.toml", link).unwrap();
        let error = read_table(&files, id("100")).unwrap_err().to_string();
        let expected = "/etc/pin-hook/100.toml is a link to /root/100.toml, which does not exist";
        assert_eq!(error, expected);
    }

    #[test]
    fn what_others_may_have_written_is_refused_with_the_remedy() {
        let check = |uid, mode| check_owner("F", Owner { uid, mode }, WRITABLE_BY_OTHERS);
        for mode in [0o600, 0o644, 0o700, 0o755] {
            assert_eq!(check(0, mode), Ok(()));
        }
        let told = |uid, mode| {
            let refusal = check(uid, mode).unwrap_err();
            format!("{refusal}; {}", refusal.remedy())
        };
        assert_eq!(
            told(0, 0o664),
            "F is writable by others than root (mode 0664); chmod go-w F"
        );
        assert_eq!(
            told(1000, 0o644),
            "F belongs to user 1000 instead of root; chown root:root F"
        );
        assert_eq!(
            told(33, 0o666),
            "F belongs to user 33 instead of root; chown root:root F && chmod go-w F"
        );
    }

    #[test]
    fn the_cluster_file_system_has_permissions_of_its_own() {
        let check = |uid, mode| check_owner("F", Owner { uid, mode }, CLUSTER_IGNORES);
        assert_eq!(check(0, 0o660), Ok(()));
        assert!(check(33, 0o640).is_err());
    }

    #[test]
    fn a_table_is_a_short_text() {
        let (_dir, files) = host();
        let error = |text: &str| {
            files
                .replace("/etc/pin-hook/100.toml", text, 0o644)
                .unwrap();
            let error = read_table(&files, id("100")).unwrap_err();
            format!("{error:#}")
        };
        let long = error(&"#".repeat(LARGEST_TABLE + 1));
        assert!(long.contains("it has more than 65536 bytes"), "{long}");
        let broken = error("a = 1\nb = \"\u{fffd}\"\n");
        assert_eq!(broken, "/etc/pin-hook/100.toml:2: bytes that are not UTF-8");
    }
}
