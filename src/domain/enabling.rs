//! Enabling a VM: why it is refused, and what is to be known where the VM may go.

use std::fmt;

use super::nothing::Nothing;
use super::storage::Snippet;
use super::vm::Vmid;
use super::words::few;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reason not to enable or disable a VM; nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnableRefusal {
    /// There is nothing to do for the guest.
    #[error(transparent)]
    Nothing(#[from] Nothing),
    /// The storage of the VM's own snippet is unknown.
    #[error("storage {storage}, which has the hookscript of vm {vmid}, does not exist")]
    LostStorage {
        /// Which VM.
        vmid: Vmid,
        /// Which storage.
        storage: String,
    },
    /// There is no place for the snippet.
    #[error("no storage of this node has snippets enabled")]
    NoSnippets {
        /// What enables them, if there is a storage that could hold them.
        remedy: Option<String>,
    },
    /// The directory of a storage is missing.
    #[error("{path} of storage {storage} does not exist")]
    NoFolder {
        /// Which storage.
        storage: String,
        /// Where it should be.
        path: String,
    },
    /// Nodes would see the snippet without having the program.
    #[error("storage {storage} is shared with {}, where pin-hook is not installed", nodes.join(", "))]
    Shared {
        /// Which storage.
        storage: String,
        /// The nodes.
        nodes: Vec<String>,
        /// What gives this node a storage of its own for snippets.
        remedy: Option<String>,
    },
    /// A file of that name is somebody else's.
    #[error("{0} exists and is not pin-hook's")]
    Foreign(String),
    /// The hookscript that the VM has does not work.
    #[error("the hookscript {volume} of vm {vmid} cannot be run: {fault}")]
    BrokenHook {
        /// Which VM.
        vmid: Vmid,
        /// What its option says.
        volume: String,
        /// What is wrong with it.
        fault: HookFault,
    },
    /// PVE changes no config while a task holds the VM's lock.
    #[error("vm {vmid} is locked ({lock})")]
    Locked {
        /// Which VM.
        vmid: Vmid,
        /// What PVE is in the middle of.
        lock: String,
    },
    /// PVE did as it was told, and the VM's config says something else.
    #[error("{command} succeeded, but the hookscript is {}", set.as_deref().unwrap_or("not set"))]
    NotSet {
        /// Which VM.
        vmid: Vmid,
        /// What was run.
        command: String,
        /// What the config says.
        set: Option<String>,
    },
    /// PVE refused the change of the VM's config, or did not answer.
    #[error("{command} {fault}")]
    Pve {
        /// What was run.
        command: String,
        /// What came of it.
        fault: String,
    },
}

impl EnableRefusal {
    /// Returns what can be done about it.
    pub fn help(&self) -> String {
        match self {
            Self::Nothing(Nothing::Template(_)) => {
                "enable the vms that are cloned from it".to_owned()
            }
            Self::Nothing(why) => why.help(),
            Self::LostStorage { vmid, storage } => format!(
                "add storage {storage} again, or pin-hook disable {vmid}, then pin-hook enable \
                 {vmid}"
            ),
            Self::NoSnippets { remedy: Some(text) } => text.clone(),
            Self::NoSnippets { remedy: None } => {
                "add a storage of type dir with content snippets (pvesm add dir ...)".to_owned()
            }
            Self::NoFolder { storage, .. } => {
                format!("pvesm status shows what is wrong with storage {storage}")
            }
            Self::Shared { remedy, .. } => {
                let own = remedy.as_ref().map(|text| format!(", or run: {text}"));
                format!("install pin-hook there{}", own.unwrap_or_default())
            }
            Self::Foreign(path) => foreign(path),
            Self::BrokenHook { vmid, fault, .. } => {
                let mend = fault.help();
                format!("{mend}, or remove it: qm set {vmid} --delete hookscript")
            }
            Self::Locked { vmid, .. } => {
                format!("wait for the task that is running; if there is none: qm unlock {vmid}")
            }
            Self::NotSet { vmid, .. } => {
                format!("someone else may have changed it: check qm config {vmid}, then try again")
            }
            Self::Pve { command, fault } if fault.contains("space left on device") => {
                format!("free up space (df shows what is full), then {command}")
            }
            Self::Pve { command, .. } => format!("try again; {command} by hand may tell more"),
        }
    }
}

/// Returns what to do about somebody else's file in the place of pin-hook's.
fn foreign(path: &str) -> String {
    format!(
        "rename {path}, and the hookscript of vms that mean that file; then pin-hook enable puts its own there"
    )
}

/// What is wrong with a hookscript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookFault {
    /// It is not named as PVE names snippets.
    #[error("it is not a snippet")]
    NoSnippet,
    /// Its storage is unknown.
    #[error("there is no storage {0}")]
    NoStorage(String),
    /// Its file is not there.
    #[error("{0} does not exist")]
    Missing(String),
    /// Its file cannot be executed.
    #[error("{0} is not executable")]
    NotExecutable(String),
    /// In the place of pin-hook's own is something else, which PVE calls instead.
    #[error("{0} is not pin-hook's")]
    Foreign(String),
}

impl HookFault {
    /// Returns what makes it work again.
    pub fn help(&self) -> String {
        match self {
            Self::NoSnippet => "name a snippet (<storage>:snippets/<file>)".to_owned(),
            Self::NoStorage(storage) => format!("add storage {storage} again"),
            Self::Missing(path) => format!("put {path} back"),
            Self::NotExecutable(path) => format!("chmod +x {path}"),
            Self::Foreign(path) => foreign(path),
        }
    }
}

/// What may have a VM start on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// HA starts it there.
    Ha,
    /// Its disks are copied there.
    Replication,
}

/// Node that a VM may be started on by another hand than an admin's, or with its disks at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Which node.
    pub node: String,
    /// Why it counts.
    pub reason: Reason,
    /// What the node has announced; `None` when it has no pin-hook.
    pub announced: Option<Announced>,
}

/// What a node has announced of its pin-hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announced {
    /// Version of the program; `None` from one that did not say it.
    pub version: Option<String>,
    /// Volumes of the snippet there.
    pub snippets: Vec<String>,
}

/// What a VM would lack on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// The program, and the snippet with it.
    Program,
    /// The program; the snippet is on a storage that the node shares.
    ProgramAlone,
    /// The snippet.
    Snippet(Snippet),
    /// The table, which is on this node only.
    Table(String),
    /// The same version of the program.
    Version(String),
}

/// Nodes that lack the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Why they count.
    pub reason: Reason,
    /// Their names.
    pub nodes: Vec<String>,
    /// What they lack.
    pub lack: Lack,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Ha => "ha",
            Reason::Replication => "replication",
        })
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Program => write!(f, "it cannot start: pin-hook is not installed"),
            Lack::ProgramAlone => {
                write!(f, "it has no cpus of its own: pin-hook is not installed")
            }
            Lack::Snippet(hook) => write!(f, "it cannot start: {hook} is missing"),
            Lack::Table(table) => write!(
                f,
                "it may have no cpus of its own: {table} is on this node only"
            ),
            Lack::Version(there) => write!(
                f,
                "pin-hook has version {there}, not {VERSION} as on this node"
            ),
        }
    }
}

impl Elsewhere {
    /// Returns what can be done about it.
    pub fn help(&self) -> String {
        let nodes = few(&self.nodes);
        match &self.lack {
            Lack::Program | Lack::ProgramAlone => format!("install pin-hook on {nodes}"),
            Lack::Snippet(_) => {
                format!("run on {nodes}: systemctl restart pin-hook-boot.service")
            }
            Lack::Table(_) => "put the table into /etc/pve/pin-hook/, for all nodes".to_owned(),
            Lack::Version(_) => "install the same version on all nodes".to_owned(),
        }
    }
}

impl Destination {
    fn lack(&self, hook: &Snippet, is_shared: bool, table: &str) -> Option<Lack> {
        let Some(Announced { version, snippets }) = &self.announced else {
            return Some(match is_shared {
                true => Lack::ProgramAlone,
                false => Lack::Program,
            });
        };
        let volume = hook.to_string();
        match version {
            _ if !is_shared && !snippets.contains(&volume) => Some(Lack::Snippet(hook.clone())),
            _ if !table.starts_with("/etc/pve/") => Some(Lack::Table(table.to_owned())),
            Some(version) if version != VERSION => Some(Lack::Version(version.clone())),
            _ => None,
        }
    }
}

/// Returns what a VM with this hookscript and this table would lack on other nodes: those that lack the same
/// together.
pub fn lacks(
    places: Vec<Destination>,
    hook: &Snippet,
    is_shared: bool,
    table: &str,
) -> Vec<Elsewhere> {
    let mut all: Vec<Elsewhere> = Vec::new();
    for place in places {
        let Some(lack) = place.lack(hook, is_shared, table) else {
            continue;
        };
        let mut known = all.iter_mut();
        match known.find(|one| one.reason == place.reason && one.lack == lack) {
            Some(one) => one.nodes.push(place.node),
            None => all.push(Elsewhere {
                reason: place.reason,
                nodes: vec![place.node],
                lack,
            }),
        }
    }
    all
}
