//! Enabling a VM: why it is refused, and what is to be known where the VM may go.

use super::nothing::Nothing;
use super::storage::Snippet;
use super::vm::Vmid;

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
            Self::NotSet { vmid, .. } => {
                format!("someone else may have changed it: check qm config {vmid}, then try again")
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

/// Node that a VM may go to by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Which node.
    pub node: String,
    /// What takes the VM there: `ha` or `replication`.
    pub reason: &'static str,
    /// Volumes of the snippet there, or `None` when it has no pin-hook.
    pub snippets: Option<Vec<String>>,
}

impl Destination {
    /// Says what a VM would lack there, and what is to be done; nothing when it lacks nothing.
    pub fn lack(&self, hook: &Snippet, is_shared: bool, table: &str) -> Option<(String, String)> {
        let node = &self.node;
        let has_snippet = |volumes: &Vec<String>| {
            is_shared || volumes.iter().any(|volume| *volume == hook.to_string())
        };
        match &self.snippets {
            None if is_shared => Some((
                "it has no cpus of its own: pin-hook is not installed".to_owned(),
                format!("install pin-hook on {node}"),
            )),
            None => Some((
                "it cannot start: pin-hook is not installed".to_owned(),
                format!("install pin-hook on {node}"),
            )),
            Some(volumes) if !has_snippet(volumes) => Some((
                format!("it cannot start: {hook} is missing"),
                format!("run on {node}: systemctl restart pin-hook-boot.service"),
            )),
            Some(_) if !table.starts_with("/etc/pve/") => Some((
                format!("it may have no cpus of its own: {table} is on this node only"),
                "put the table into /etc/pve/pin-hook/, for all nodes".to_owned(),
            )),
            Some(_) => None,
        }
    }
}
