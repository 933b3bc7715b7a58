//! Files of PVE in sections (`PVE::SectionConfig`): `storage.cfg`, `replication.cfg`, and those of
//! HA.
//!
//! A section begins with `type: id` at column 0; its properties are indented lines `key value`, a
//! key alone is a switch. What matches nothing is dropped, because another program owns the file.

use crate::domain::storage::{Kind, LOCAL_PATH, Storage};

/// Section of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it describes, such as `dir`.
    pub kind: String,
    /// Which one, such as `local`.
    pub id: String,
    properties: Vec<(String, String)>,
}

impl Section {
    /// Returns the value of a property; that of a switch is empty.
    pub fn value(&self, key: &str) -> Option<&str> {
        let property = self.properties.iter().find(|(name, _)| name == key);
        property.map(|(_, value)| value.as_str())
    }

    /// Tells whether a switch is on.
    pub fn is_on(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value != "0")
    }
}

/// Returns the sections of a text, in order; any text has a meaning.
pub fn parse_sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let property = line.trim();
            let (key, value) = property
                .split_once(char::is_whitespace)
                .unwrap_or((property, ""));
            if let Some(section) = sections.last_mut() {
                let property = (key.to_owned(), value.trim().to_owned());
                section.properties.push(property);
            }
        } else if let Some((kind, id)) = line.split_once(':') {
            sections.push(Section {
                kind: kind.trim().to_owned(),
                id: id.trim().to_owned(),
                properties: Vec::new(),
            });
        }
    }
    sections
}

/// Returns the storages of `storage.cfg` that are directories, and so can hold snippets.
///
/// Like PVE it takes a `local` for granted that is the directory `/var/lib/vz` of every node
/// (`PVE::Storage::Plugin::parse_config`).
pub fn parse_storages(text: &str) -> Vec<Storage> {
    let sections = parse_sections(text);
    let mut storages: Vec<Storage> = sections.iter().filter_map(storage).collect();
    match storages.iter_mut().find(|one| one.id == LOCAL) {
        Some(local) => local.nodes = None,
        None => storages.insert(0, Storage::local()),
    }
    storages
}

/// The storage that every node has.
const LOCAL: &str = "local";

fn storage(section: &Section) -> Option<Storage> {
    let id = section.id.clone();
    let kind = Kind::named(&section.kind)?;
    let place = if id == LOCAL {
        LOCAL_PATH.to_owned()
    } else {
        format!("/mnt/pve/{id}")
    };
    let path = section.value("path").unwrap_or(&place).to_owned();
    // PVE takes its own in the place of any other.
    if id == LOCAL && (kind != Kind::Dir || path != LOCAL_PATH) {
        return None;
    }
    let is_known = |word: &&str| kind.holds().contains(word);
    let content = section.value("content").unwrap_or(kind.usual_content());
    let directories = section.value("content-dirs").unwrap_or_default();
    let snippets = words(directories)
        .find_map(|word| word.strip_prefix("snippets=").map(str::to_owned))
        .unwrap_or_else(|| "snippets".to_owned());
    let mount_point = match section.value("is_mountpoint").map(str::to_lowercase) {
        None => kind.is_shared().then(|| path.clone()),
        Some(word) => match word.as_str() {
            "0" | "no" | "off" | "false" => None,
            "1" | "yes" | "on" | "true" => Some(path.clone()),
            _ => section.value("is_mountpoint").map(str::to_owned),
        },
    };
    Some(Storage {
        id,
        snippets: format!("{path}/{}", snippets.trim_matches('/')),
        path,
        content: words(content).filter(is_known).map(str::to_owned).collect(),
        is_shared: kind.is_shared() || section.is_on("shared"),
        mount_point,
        is_disabled: section.is_on("disable"),
        nodes: section
            .value("nodes")
            .map(|nodes| words(nodes).map(str::to_owned).collect()),
    })
}

/// Splits a list as PVE does: by commas, semicolons and blanks.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split([',', ';', ' ', '\t']);
    parts.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGES: &str = "\
# a comment
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup
\tcontent-dirs iso=isos,snippets=hooks/all

lvmthin: local-lvm
\tthinpool data
\tcontent rootdir,images

nfs: nas
\tserver 10.0.0.1
\texport /srv/nas
\tcontent snippets
\tnodes pve1,pve2

dir: old
\tdisable
\tpath /old
\tshared 1
";

    #[test]
    fn storages_that_are_directories_are_found() {
        let storages = parse_storages(STORAGES);
        let ids: Vec<&str> = storages.iter().map(|storage| storage.id.as_str()).collect();
        assert_eq!(ids, ["local", "nas", "old"]);
        let [local, nas, old] = storages.as_slice() else {
            panic!("{storages:?}")
        };
        assert_eq!(local.snippets, "/var/lib/vz/hooks/all");
        assert!(!local.has_snippets() && !local.is_shared && local.is_on("pve9"));
        assert_eq!(nas.snippets, "/mnt/pve/nas/snippets");
        assert!(nas.has_snippets() && nas.is_shared);
        assert!(nas.is_on("pve2") && !nas.is_on("pve3"));
        assert!(old.is_shared && !old.is_on("pve1"));
        assert_eq!(old.content, ["images", "rootdir"]);
    }

    #[test]
    fn mount_points_are_taken_as_pve_takes_them() {
        let text = "dir: a\n\tpath /a\n\tis_mountpoint yes\n\n\
                    dir: b\n\tpath /mnt/B/vz\n\tis_mountpoint /mnt/B\n\n\
                    dir: c\n\tpath /c\n\tis_mountpoint 0\n\nnfs: nas\n\tserver x\n";
        let points = parse_storages(text).into_iter().skip(1);
        let points: Vec<Option<String>> = points.map(|storage| storage.mount_point).collect();
        let expected = [Some("/a"), Some("/mnt/B"), None, Some("/mnt/pve/nas")];
        assert_eq!(points, expected.map(|point| point.map(str::to_owned)));
    }

    #[test]
    fn a_node_without_storages_has_that_of_pve() {
        let storages = parse_storages("");
        assert_eq!(storages, [Storage::local()]);
        assert!(storages[0].has_snippets());
    }

    #[test]
    fn local_is_the_same_on_all_nodes_whatever_is_written() {
        let of_every_node = "dir: local\n\tpath /var/lib/vz\n\tnodes pve1\n\tcontent iso\n";
        let local = parse_storages(of_every_node).remove(0);
        assert!(local.is_on("pve2") && local.content == ["iso"]);
        let without_path = parse_storages("dir: local\n\tcontent iso,snippets\n").remove(0);
        assert_eq!(without_path.snippets, "/var/lib/vz/snippets");
        for replaced in [
            "dir: local\n\tpath /mnt/big\n\tcontent iso\n",
            "nfs: local\n\tserver x\n",
            "zfspool: local\n\tpool rpool\n",
        ] {
            assert_eq!(parse_storages(replaced), [Storage::local()], "{replaced}");
        }
    }

    #[test]
    fn content_is_that_of_the_kind() {
        let content = |text: &str| parse_storages(text).remove(1).content;
        assert_eq!(content("btrfs: a\n\tpath /a\n"), ["images", "rootdir"]);
        assert_eq!(content("cifs: a\n\tserver x\n"), ["images"]);
        assert_eq!(content("cephfs: a\n"), ["backup"]);
        assert_eq!(content("cephfs: a\n\tcontent images,iso\n"), ["iso"]);
        assert_eq!(
            content("dir: a\n\tpath /a\n\tcontent iso,snipets\n"),
            ["iso"]
        );
    }

    #[test]
    fn sections_are_read_as_pve_writes_them() {
        let text = "local: 100-0\n\ttarget pve2\n\tschedule */15\n\tdisable\n\nlocal: 101-0\n";
        let sections = parse_sections(text);
        assert_eq!(sections.len(), 2);
        assert_eq!(sections[0].id, "100-0");
        assert_eq!(sections[0].value("target"), Some("pve2"));
        assert_eq!(sections[0].value("disable"), Some(""));
        assert_eq!(sections[1].value("target"), None);
        assert!(parse_sections("\tstray line\nno header\n").is_empty());
    }
}
