//! What stands for names: of nodes, and of whatever has a serial number or an address as its name.

/// Where whole disks have their serial numbers as names.
const BY_ID: &str = "/dev/disk/by-id";
/// The same in the name of a unit.
const BY_ID_OF_UNIT: &str = "by\\x2did";
/// What stands for the name of the node itself.
const OWN: &str = "node";
/// Words at the beginning of a line that are no names of nodes.
const KEYS: [&str; 10] = [
    "cpus", "node", "pin", "isolate", "power", "host", "memory", "pci", "start", "yield",
];
const NO_MAC: &str = "00:00:00:00:00:00";
/// What the name of a disk begins with that stands for another one.
const DISK: &str = "disk-";
/// What an id of a file system begins with that stands for another one.
const UUID: &str = "00000000-0000-0000-0000-";
/// What a name of a network card begins with that stands for another one.
const CARD: &str = "enx00000000";
/// Lengths of the groups of a UUID.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// What stands for names, the same for the same one.
#[derive(Debug, Default)]
pub struct Aliases {
    nodes: Vec<(String, String)>,
    others: Vec<(String, String)>,
}

impl Aliases {
    /// Returns what stands for the nodes of a cluster, `own` among them.
    pub fn of_nodes(own: &str, all: &[String]) -> Self {
        let mut nodes = vec![(own.to_owned(), OWN.to_owned())];
        let others = all.iter().filter(|name| *name != own).enumerate();
        nodes.extend(others.map(|(n, name)| (name.clone(), format!("node-{}", n + 2))));
        nodes.retain(|(name, _)| !name.is_empty());
        Aliases {
            nodes,
            others: Vec::new(),
        }
    }

    /// Returns what a name in a directory is shown as.
    pub(super) fn name(&mut self, dir: &str, name: &str) -> String {
        if is_of_nodes(dir) {
            return shown(&self.nodes, name).unwrap_or(name).to_owned();
        }
        let alias = match () {
            () if dir == BY_ID => self.disk(name),
            () if name.contains(BY_ID_OF_UNIT) => {
                let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
                let disk = self.disk(stem);
                format!("dev-{disk}.{kind}")
            }
            () => self.without_ids(name),
        };
        if alias != name && shown(&self.others, name).is_none() {
            self.others.push((name.to_owned(), alias.clone()));
        }
        alias
    }

    /// Returns the name that is shown as another one in a directory.
    pub fn real(&self, dir: &str, name: &str) -> String {
        let known = match is_of_nodes(dir) {
            true => &self.nodes,
            false => &self.others,
        };
        let real = known.iter().find(|(_, alias)| alias == name);
        real.map_or(name, |(real, _)| real).to_owned()
    }

    /// Returns a host name as it is shown.
    pub(super) fn host_name(&self, text: &str) -> String {
        match self.nodes.first() {
            Some((_, alias)) if alias == OWN => format!("{alias}\n"),
            _ => text.to_owned(),
        }
    }

    /// Returns a text in which nodes have other names.
    pub(super) fn without_nodes(&self, text: &str) -> String {
        let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let mut left = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_word) {
            let (before, word) = rest.split_at(start);
            let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
            let (word, after) = word.split_at(end);
            left += before;
            let is_key = KEYS.contains(&word) && (left.is_empty() || left.ends_with(['\n', '[']));
            let alias = shown(&self.nodes, word).filter(|_| !is_key);
            left += alias.unwrap_or(word);
            rest = after;
        }
        left + rest
    }

    /// Returns a text without ids of disks and file systems, and without MAC addresses.
    pub(super) fn without_ids(&mut self, text: &str) -> String {
        let mut left = String::with_capacity(text.len());
        let mut rest = text;
        let mut is_inside = false;
        while let Some(c) = rest.chars().next() {
            let found = match is_inside {
                true => None,
                false => self.id_at(rest),
            };
            let length = match found {
                Some((length, alias)) => {
                    left += &alias;
                    length
                }
                None => {
                    left.push(c);
                    c.len_utf8()
                }
            };
            is_inside = rest[..length].ends_with(|c: char| c.is_ascii_alphanumeric());
            rest = &rest[length..];
        }
        left
    }

    /// Returns the length of an id that a text begins with, and what stands for it.
    fn id_at(&mut self, text: &str) -> Option<(usize, String)> {
        if let Some(rest) = text
            .strip_prefix(BY_ID)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            let end = rest.find([',', ' ', '\t', '\n', '\0', '"', '\'']);
            let name = &rest[..end.unwrap_or(rest.len())];
            let disk = self.disk(name);
            return Some((BY_ID.len() + 1 + name.len(), format!("{BY_ID}/{disk}")));
        }
        if is_mac(text) {
            return Some((NO_MAC.len(), NO_MAC.to_owned()));
        }
        if let Some(length) = card(text) {
            let name = &text[..length];
            let alias = self.alias(name, CARD, |n| format!("{CARD}{n:04x}"));
            return Some((length, alias));
        }
        let (length, dash) = uuid(text)?;
        let plain = text[..length].replace(dash, "-").to_ascii_lowercase();
        let alias = self.alias(&plain, UUID, |n| format!("{UUID}{n:012x}"));
        Some((length, alias.replace('-', dash)))
    }

    fn disk(&mut self, name: &str) -> String {
        let number = name.strip_prefix(DISK).unwrap_or_default();
        match number.starts_with(|c: char| c.is_ascii_digit()) {
            true => name.to_owned(),
            false => self.alias(name, DISK, |n| format!("{DISK}{n}")),
        }
    }

    fn alias(&mut self, name: &str, is_one: &str, make: impl Fn(usize) -> String) -> String {
        if name.starts_with(is_one) && is_one != DISK {
            return name.to_owned();
        }
        if let Some(alias) = shown(&self.others, name) {
            return alias.to_owned();
        }
        let before = self
            .others
            .iter()
            .filter(|(_, one)| one.starts_with(is_one));
        let alias = make(before.count() + 1);
        self.others.push((name.to_owned(), alias.clone()));
        alias
    }
}

fn shown<'a>(known: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = known.iter().find(|(real, _)| real == name);
    found.map(|(_, alias)| alias.as_str())
}

fn is_of_nodes(dir: &str) -> bool {
    dir == "/etc/pve/nodes" || dir == "/etc/pve/pin-hook/nodes"
}

/// Tells whether a text begins with an address such as `bc:24:11:2e:6a:01`.
fn is_mac(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_part = |(n, byte): (usize, &u8)| match n % 3 {
        2 => *byte == b':',
        _ => byte.is_ascii_hexdigit(),
    };
    let Some(mac) = bytes.get(..NO_MAC.len()) else {
        return false;
    };
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b':';
    mac.iter().enumerate().all(is_part) && !bytes.get(NO_MAC.len()).is_some_and(goes_on)
}

/// Returns the length of the name of a network card that is its address.
fn card(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("enx")?.as_bytes();
    let is_card = digits.len() >= 12 && digits[..12].iter().all(u8::is_ascii_hexdigit);
    is_card.then_some(15)
}

/// Returns the length of a UUID that a text begins with, and how its dashes are written.
fn uuid(text: &str) -> Option<(usize, &'static str)> {
    let mut chars = text.bytes();
    let is_hex = chars.by_ref().take(8).all(|byte| byte.is_ascii_hexdigit());
    let dash = ["-", "\\x2d"].into_iter().find(|dash| {
        let rest = text.get(8..);
        rest.is_some_and(|rest| rest.starts_with(dash))
    })?;
    let mut rest = text;
    for (n, length) in GROUPS.into_iter().enumerate() {
        if n > 0 {
            rest = rest.strip_prefix(dash)?;
        }
        let group = rest.get(..length)?;
        if !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        rest = &rest[length..];
    }
    let goes_on = rest.starts_with(|c: char| c.is_ascii_hexdigit());
    (is_hex && !goes_on).then_some((text.len() - rest.len(), dash))
}
