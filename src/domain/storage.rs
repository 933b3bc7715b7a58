//! Storages of PVE that are directories, and the snippets in them.

use std::fmt;
use std::str::FromStr;

/// Name of pin-hook's own snippet.
const SNIPPET: &str = "pin-hook";

/// Where PVE has the storage `local` on every node.
pub const LOCAL_PATH: &str = "/var/lib/vz";

/// Kind of a storage that is a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `dir` and `btrfs`.
    Dir,
    /// `nfs`, `cifs` and `glusterfs`.
    Network,
    /// `cephfs`
    CephFs,
}

impl Kind {
    /// Returns the kind of a type of `storage.cfg`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "dir" | "btrfs" => Some(Kind::Dir),
            "nfs" | "cifs" | "glusterfs" => Some(Kind::Network),
            "cephfs" => Some(Kind::CephFs),
            _ => None,
        }
    }

    /// Tells whether all nodes see the same files.
    pub fn is_shared(self) -> bool {
        self != Kind::Dir
    }

    /// Returns what it may hold, in PVE's words (`plugindata` of `PVE::Storage::*Plugin`). PVE drops
    /// other words, and refuses them in a command.
    pub fn holds(self) -> &'static [&'static str] {
        let all = &[
            "snippets", "import", "backup", "iso", "vztmpl", "images", "rootdir",
        ];
        match self {
            Kind::CephFs => &all[..5],
            Kind::Dir | Kind::Network => all,
        }
    }

    /// Returns what it holds where `storage.cfg` says nothing.
    pub fn usual_content(self) -> &'static str {
        match self {
            Kind::Dir => "images,rootdir",
            Kind::Network => "images",
            Kind::CephFs => "backup",
        }
    }
}

/// Storage that is a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub path: String,
    /// Where its snippets are.
    pub snippets: String,
    /// What it may hold, in PVE's words.
    pub content: Vec<String>,
    /// Whether all nodes see the same files.
    pub is_shared: bool,
    /// Where something has to be mounted, or the storage counts as absent.
    pub mount_point: Option<String>,
    /// Whether PVE leaves it alone.
    pub is_disabled: bool,
    /// Nodes that have it; all of them without a list.
    pub nodes: Option<Vec<String>>,
}

impl Storage {
    /// Returns the storage that every node has, as PVE assumes it without an entry.
    pub fn local() -> Self {
        // PVE's own words for it (`PVE::Storage::Plugin::parse_config`).
        let content = ["backup", "images", "iso", "rootdir", "snippets", "vztmpl"];
        Storage {
            id: "local".to_owned(),
            path: LOCAL_PATH.to_owned(),
            snippets: format!("{LOCAL_PATH}/snippets"),
            content: content.map(str::to_owned).to_vec(),
            is_shared: false,
            mount_point: None,
            is_disabled: false,
            nodes: None,
        }
    }

    /// Tells whether it may hold snippets.
    pub fn has_snippets(&self) -> bool {
        self.content.iter().any(|content| content == "snippets")
    }

    /// Tells whether a node uses it.
    pub fn is_on(&self, node: &str) -> bool {
        let listed = |nodes: &Vec<String>| nodes.iter().any(|name| name == node);
        !self.is_disabled && self.nodes.as_ref().is_none_or(listed)
    }

    /// Returns pin-hook's snippet in it.
    pub fn snippet(&self) -> Snippet {
        Snippet {
            storage: self.id.clone(),
            name: SNIPPET.to_owned(),
        }
    }

    /// Returns the path of pin-hook's snippet in it.
    pub fn own_file(&self) -> String {
        format!("{}/{SNIPPET}", self.snippets)
    }

    /// Returns the command that lets it hold snippets besides what it may hold already.
    pub fn remedy(&self) -> String {
        let kept = self.content.iter().map(String::as_str);
        let content: Vec<&str> = kept.chain(["snippets"]).collect();
        format!("pvesm set {} --content {}", self.id, content.join(","))
    }

    /// Returns the command that lets `node` use it, which does not now.
    fn remedy_on(&self, node: &str) -> String {
        let id = &self.id;
        if self.is_disabled {
            return format!("storage {id} is disabled: pvesm set {id} --disable 0");
        }
        let nodes = self.nodes.iter().flatten().map(String::as_str);
        let nodes = nodes.chain([node]).collect::<Vec<_>>().join(",");
        format!("storage {id} is not for node {node}: pvesm set {id} --nodes {nodes}")
    }
}

/// Snippet, named as the option `hookscript` names it: `<storage>:snippets/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// Storage that it is in.
    pub storage: String,
    /// Name of its file.
    pub name: String,
}

impl Snippet {
    /// Tells whether it has the name of pin-hook's own.
    pub fn is_ours(&self) -> bool {
        self.name == SNIPPET
    }

    /// Returns the path of its file.
    pub fn file(&self, storages: &[Storage]) -> Option<String> {
        let storage = storages.iter().find(|storage| storage.id == self.storage)?;
        Some(format!("{}/{}", storage.snippets, self.name))
    }
}

impl FromStr for Snippet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (storage, volume) = text.split_once(':').ok_or(())?;
        let name = volume.strip_prefix("snippets/").ok_or(())?;
        // A name is one component of a path, and never one that leads out of the directory.
        match storage.is_empty() || matches!(name, "" | "." | "..") || name.contains('/') {
            true => Err(()),
            false => Ok(Snippet {
                storage: storage.to_owned(),
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:snippets/{}", self.storage, self.name)
    }
}

/// Returns the storage for the snippet on a node: one of the node itself, `local` first; where no
/// such storage may hold snippets, one that all nodes share.
pub fn choose<'s>(storages: &'s [Storage], node: &str) -> Option<&'s Storage> {
    let usable = storages
        .iter()
        .filter(|storage| storage.is_on(node) && storage.has_snippets());
    usable.min_by_key(|storage| (storage.is_shared, storage.id != "local"))
}

/// Returns the storage that would best be allowed to hold snippets on a node.
pub fn suggest<'s>(storages: &'s [Storage], node: &str) -> Option<&'s Storage> {
    let usable = storages
        .iter()
        .filter(|storage| storage.is_on(node) && !storage.has_snippets());
    usable.min_by_key(|storage| (storage.is_shared, storage.id != "local"))
}

/// Returns the command that gives a node a storage for snippets, if there is one that could be.
pub fn remedy(storages: &[Storage], node: &str) -> Option<String> {
    let away = storages.iter().find(|one| one.has_snippets());
    let suggested = suggest(storages, node).map(Storage::remedy);
    suggested.or_else(|| away.map(|storage| storage.remedy_on(node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(id: &str, content: &str, is_shared: bool) -> Storage {
        Storage {
            id: id.to_owned(),
            content: content.split(',').map(str::to_owned).collect(),
            is_shared,
            ..Storage::local()
        }
    }

    #[test]
    fn a_storage_of_the_node_comes_before_a_shared_one() {
        let chosen = |storages: &[Storage]| choose(storages, "pve1").map(|s| s.id.clone());
        let local = storage("local", "iso", false);
        let other = storage("fast", "iso,snippets", false);
        let nas = storage("nas", "snippets", true);
        let all = [nas.clone(), local.clone(), other.clone()];
        assert_eq!(chosen(&all).as_deref(), Some("fast"));
        assert_eq!(chosen(&[local.clone(), nas]).as_deref(), Some("nas"));
        assert_eq!(chosen(std::slice::from_ref(&local)), None);
        let away = Storage {
            nodes: Some(vec!["pve2".to_owned()]),
            ..other
        };
        assert_eq!(chosen(&[away, local]), None);
    }

    #[test]
    fn the_remedy_keeps_what_the_storage_may_hold() {
        let storages = [storage("local", "iso,vztmpl,backup", false)];
        let suggested = suggest(&storages, "pve1").map(Storage::remedy);
        assert_eq!(
            suggested.as_deref(),
            Some("pvesm set local --content iso,vztmpl,backup,snippets")
        );
    }

    #[test]
    fn a_storage_that_has_snippets_and_is_not_used_is_named() {
        let is_disabled = true;
        let off = Storage {
            is_disabled,
            ..storage("fast", "snippets", false)
        };
        let expected = "storage fast is disabled: pvesm set fast --disable 0";
        assert_eq!(remedy(&[off], "pve1").as_deref(), Some(expected));
        let away = Storage {
            nodes: Some(vec!["pve2".to_owned()]),
            ..storage("fast", "snippets", false)
        };
        let expected = "storage fast is not for node pve1: pvesm set fast --nodes pve2,pve1";
        assert_eq!(remedy(&[away], "pve1").as_deref(), Some(expected));
    }

    #[test]
    fn snippets_are_named_as_pve_names_them() {
        let snippet: Snippet = "local:snippets/gpu.sh".parse().unwrap();
        assert_eq!(snippet.to_string(), "local:snippets/gpu.sh");
        let file = snippet.file(&[Storage::local()]);
        assert_eq!(file.as_deref(), Some("/var/lib/vz/snippets/gpu.sh"));
        assert_eq!(snippet.file(&[]), None);
        for text in [
            "local:snippets/",
            "local:snippets/..",
            "local:snippets/a/b",
            "local:iso/a",
            ":snippets/a",
            "/etc/passwd",
        ] {
            assert!(text.parse::<Snippet>().is_err(), "{text}");
        }
    }
}
