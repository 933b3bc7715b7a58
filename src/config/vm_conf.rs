//! `/etc/pve/qemu-server/<vmid>.conf`, line by line as `PVE::QemuServer::parse_vm_config` does.
//!
//! Only the part before the first section header is what the VM runs with; pending changes and
//! snapshots have the same keys and must never leak into it. Lines that match nothing are
//! dropped without a word: PVE has already warned about them.

use std::collections::BTreeMap;

use super::guest;
use super::property::is_blank;
use super::section::Section;
use crate::domain::guest::Guest;

/// A VM's configuration, cut into its sections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmConf {
    /// What the VM runs with.
    pub active: Section,
    /// Changes that are waiting for the next stop.
    pub pending: Option<Section>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Section>,
}

/// Where the lines of the file go.
enum Place {
    Active,
    Pending,
    Snapshot(String),
    Nowhere,
}

/// Parses the text of a VM's configuration; any text has a meaning.
pub fn parse_vm_conf(text: &str) -> VmConf {
    let mut conf = VmConf::default();
    let mut place = Place::Active;
    for line in text.split('\n') {
        match section_of(line) {
            Some(next) => {
                conf.open(&next);
                place = next;
            }
            None => conf.add(&place, line),
        }
    }
    conf
}

impl VmConf {
    /// Returns the guest that the active section describes.
    pub fn guest(&self) -> Guest {
        guest::of(&self.active)
    }

    /// Returns the guest that the next start makes: PVE applies pending changes before it calls pre-start, but
    /// for a VM that it resumes from its saved state (`PVE::QemuServer::vm_start_nolock`).
    pub fn guest_of_next_start(&self) -> Guest {
        let is_resumed = self.active.value("lock") == Some("suspended");
        match &self.pending {
            Some(pending) if !is_resumed => guest::of(&self.active.changed_by(pending)),
            _ => self.guest(),
        }
    }

    /// Starts a section; one that comes twice starts anew.
    fn open(&mut self, place: &Place) {
        match place {
            Place::Pending => self.pending = Some(Section::default()),
            Place::Snapshot(name) => {
                self.snapshots.insert(name.clone(), Section::default());
            }
            Place::Active | Place::Nowhere => {}
        }
    }

    fn add(&mut self, place: &Place, line: &str) {
        let section = match place {
            Place::Active => Some(&mut self.active),
            Place::Pending => self.pending.as_mut(),
            Place::Snapshot(name) => self.snapshots.get_mut(name),
            Place::Nowhere => None,
        };
        if let Some(section) = section {
            section.add(line, matches!(place, Place::Pending));
        }
    }
}

/// Tells which section a line starts, if it starts one.
fn section_of(line: &str) -> Option<Place> {
    let name = line.trim_end_matches(is_blank).strip_prefix('[')?;
    let name = name.strip_suffix(']')?;
    let mut bytes = name.bytes();
    let letter = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    let snapshot = letter
        && name.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    Some(match snapshot {
        true if name.eq_ignore_ascii_case("pending") => Place::Pending,
        true => Place::Snapshot(name.to_owned()),
        // The special sections of PVE hold nothing that a guest is made of.
        false => Place::Nowhere,
    })
}
