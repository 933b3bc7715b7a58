//! One section of a VM's configuration: its lines and its description.

use super::property::{is_blank, trim};

/// Lines of one section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Keys and values in the order of the file; a later line wins if its value is valid.
    pub lines: Vec<(String, String)>,
    description: Option<String>,
}

impl Section {
    /// Adds a line of the file, that of a section with pending changes or not.
    pub(super) fn add(&mut self, line: &str, pending: bool) {
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
    pub(super) fn changed_by(&self, pending: &Section) -> Section {
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
