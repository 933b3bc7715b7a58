//! `/etc/pve/qemu-server/<vmid>.conf`, line by line as `PVE::QemuServer::parse_vm_config` does.
//!
//! Only the part before the first section header is what the VM runs with; pending changes and
//! snapshots have the same keys and must never leak into it. Lines that match nothing are
//! dropped without a word: PVE has already warned about them.

use std::collections::BTreeMap;

use super::guest;
use super::property::{is_blank, trim};
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

/// Lines of one section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Keys and values in the order of the file; a later line wins if its value is valid.
    pub lines: Vec<(String, String)>,
    description: Option<String>,
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

impl Section {
    fn add(&mut self, line: &str, pending: bool) {
        if let Some(text) = line.strip_prefix('#') {
            self.describe(&format!("{}\n", decode(text)));
            return;
        }
        let Some((key, value)) = split_line(line) else {
            return;
        };
        match key {
            "description" => self.describe(&decode(value)),
            "delete" if !pending => {}
            _ => self.lines.push((key.to_owned(), value.to_owned())),
        }
    }

    /// Returns the section with pending changes applied: what they delete, then what they set.
    fn changed_by(&self, pending: &Section) -> Section {
        let deleted = pending.value("delete").unwrap_or_default();
        let deleted = deleted.split([',', ';', ' ', '\0']);
        // With an exclamation mark the key goes although the VM needs it.
        let deleted: Vec<&str> = deleted.map(|key| key.trim_start_matches('!')).collect();
        let kept = self.lines.iter();
        let kept = kept.filter(|(key, _)| !deleted.contains(&key.as_str()));
        let set = pending.lines.iter().filter(|(key, _)| key != "delete");
        Section {
            lines: kept.chain(set).cloned().collect(),
            description: pending.description.clone().or(self.description.clone()),
        }
    }

    /// Appends to the description; blanks at its end are not part of it.
    fn describe(&mut self, text: &str) {
        self.description.get_or_insert_default().push_str(text);
    }

    /// Returns the description without the blanks at its end.
    pub fn description(&self) -> Option<&str> {
        let text = self.description.as_deref()?.trim_end_matches(is_blank);
        (!text.is_empty()).then_some(text)
    }

    /// Returns the last value of `key`, whether or not it is a valid one.
    pub fn value(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().rev().find(|(name, _)| name == key);
        line.map(|(_, value)| value.as_str())
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

/// Splits `key: value`; the key is lower case at column 0, with digits only at its end.
fn split_line(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = |b: u8| b.is_ascii_lowercase() || b == b'_' || b == b'-';
    let valid = stem.bytes().all(word) && stem.starts_with(|c: char| c.is_ascii_lowercase());
    let value = trim(value);
    (valid && !value.is_empty()).then_some((key, value))
}

/// Decodes `%XX`, as PVE encodes everything in a description that is no plain ASCII.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'%').then(|| tail.get(..2)).flatten();
        match code.and_then(hex) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
