//! Tar archives (POSIX ustar and pax) of captured hosts.
//!
//! Only what a capture can have is taken: files, directories and symbolic links, none of which leads
//! out of it.

use std::collections::BTreeMap;

use super::files::Owner;
use super::tree::{Kind, Node, Nodes};

/// Size of the largest archive, in bytes.
pub const LARGEST: usize = 64 << 20;
/// Most files of an archive.
const MAX_FILES: usize = 200_000;
/// Everything in an archive is a multiple of this.
const BLOCK: usize = 512;
/// Longest name, or target of a link, that a header has room for.
const LONGEST: usize = 100;

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is something else.
    #[error("it is not a tar archive")]
    NotTar,
    /// It ends too early, or was changed.
    #[error("it is damaged or incomplete after {0:?}")]
    Damaged(String),
    /// A name or a link leads out of it.
    #[error("{0:?} leads out of it")]
    Outside(String),
    /// Something that a capture never has.
    #[error("{0:?} is not a file, a directory or a symbolic link")]
    Strange(String),
    /// More than any host has.
    #[error("it has more than {MAX_FILES} files")]
    TooMany,
}

/// Returns an archive of a host.
pub fn pack(nodes: &Nodes) -> String {
    let mut archive = String::new();
    for (path, node) in nodes {
        let name = path.strip_prefix('/').unwrap_or("./");
        add(&mut archive, name, node);
    }
    archive + &"\0".repeat(2 * BLOCK)
}

fn add(archive: &mut String, name: &str, node: &Node) {
    let (kind, text, target) = match &node.kind {
        Kind::File(text) => ('0', text.as_str(), ""),
        Kind::Link(target) => ('2', "", target.as_str()),
        Kind::Directory => ('5', "", ""),
    };
    let long = [("path", name), ("linkpath", target)].into_iter();
    let long = long.filter(|(_, value)| value.len() > LONGEST || !value.is_ascii());
    let long: String = long.map(|(key, value)| record(key, value)).collect();
    if !long.is_empty() {
        let owner = Owner {
            uid: 0,
            mode: 0o644,
        };
        archive.push_str(&header("pax", 'x', "", long.len(), owner, 0));
        add_text(archive, &long);
    }
    let size = text.len();
    archive.push_str(&header(name, kind, target, size, node.owner, node.modified));
    add_text(archive, text);
}

fn add_text(archive: &mut String, text: &str) {
    archive.push_str(text);
    archive.push_str(&"\0".repeat(text.len().next_multiple_of(BLOCK) - text.len()));
}

/// Returns a record of an extended header; its length counts itself.
fn record(key: &str, value: &str) -> String {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + bare.to_string().len();
    length = bare + length.to_string().len();
    format!("{length} {key}={value}\n")
}

fn header(
    name: &str,
    kind: char,
    target: &str,
    size: usize,
    owner: Owner,
    modified: u64,
) -> String {
    let field = |text: &str, width: usize| {
        let ascii = text.chars().map(|c| if c.is_ascii() { c } else { '?' });
        let mut field: String = ascii.take(width).collect();
        field.extend(std::iter::repeat_n('\0', width - field.len()));
        field
    };
    let octal = |n: usize, width: usize| format!("{n:0width$o}\0");
    // Larger ids do not fit, and mean the same: not root.
    let uid = owner.uid.min(0o7_777_777) as usize;
    let start = field(name, LONGEST)
        + &octal(owner.mode as usize, 7)
        + &octal(uid, 7)
        + &octal(0, 7)
        + &octal(size, 11)
        + &octal(
            usize::try_from(modified).unwrap_or(0).min(0o77_777_777_777),
            11,
        );
    let end = format!(
        "{kind}{}ustar\x0000{}",
        field(target, LONGEST),
        "\0".repeat(247)
    );
    let sum = sum(start.as_bytes()) + sum(end.as_bytes()) + 8 * usize::from(b' ');
    format!("{start}{sum:06o}\0 {end}")
}

fn sum(bytes: &[u8]) -> usize {
    bytes.iter().map(|byte| usize::from(*byte)).sum()
}

/// Returns the nodes of an archive.
///
/// # Errors
/// It is none, is damaged, or has what no capture has.
pub fn unpack(archive: &[u8]) -> Result<Nodes, Fault> {
    let mut reader = Reader {
        left: archive,
        last: String::new(),
    };
    let mut nodes = BTreeMap::new();
    let mut long = Long::default();
    while let Some((header, data)) = reader.next()? {
        match header.kind {
            b'g' => continue,
            b'x' => long.read_pax(data),
            b'L' => long.name = Some(text(data)),
            b'K' => long.target = Some(text(data)),
            kind => {
                let Long { name, target } = std::mem::take(&mut long);
                let name = name.unwrap_or(header.name);
                let path = inner_path(&name)?;
                let kind = match kind {
                    b'0' | 0 => Kind::File(String::from_utf8_lossy(data).into_owned()),
                    b'5' => Kind::Directory,
                    b'2' => Kind::Link(inner_link(&path, target.unwrap_or(header.target))?),
                    _ => return Err(Fault::Strange(name)),
                };
                let node = Node {
                    kind,
                    owner: header.owner,
                    modified: header.modified,
                };
                nodes.insert(path, node);
            }
        }
        if nodes.len() > MAX_FILES {
            return Err(Fault::TooMany);
        }
    }
    Ok(nodes)
}

/// Names that are too long for the header that follows.
#[derive(Default)]
struct Long {
    name: Option<String>,
    target: Option<String>,
}

impl Long {
    fn read_pax(&mut self, data: &[u8]) {
        let mut rest = data;
        while let Some(blank) = rest.iter().position(|byte| *byte == b' ') {
            let length: usize = text(&rest[..blank]).parse().unwrap_or(0);
            let Some(record) = rest.get(blank + 1..length) else {
                return;
            };
            let record = text(record);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("linkpath", value)) => self.target = Some(value.to_owned()),
                _ => {}
            }
            rest = &rest[length..];
        }
    }
}

struct Header {
    name: String,
    kind: u8,
    target: String,
    owner: Owner,
    modified: u64,
}

struct Reader<'a> {
    left: &'a [u8],
    last: String,
}

impl<'a> Reader<'a> {
    /// Returns the next header and what belongs to it; nothing at the end.
    fn next(&mut self) -> Result<Option<(Header, &'a [u8])>, Fault> {
        let fault = match self.last.as_str() {
            "" => Fault::NotTar,
            last => Fault::Damaged(last.to_owned()),
        };
        let Some((block, rest)) = self.left.split_at_checked(BLOCK) else {
            return Err(fault);
        };
        if block.iter().all(|byte| *byte == 0) && !self.last.is_empty() {
            return Ok(None);
        }
        let number = |from: usize, to: usize| octal(&block[from..to]);
        let small = |from, to| u32::try_from(number(from, to).unwrap_or(0)).unwrap_or(0);
        let unsummed = sum(&block[..148]) + sum(&block[156..]) + 8 * usize::from(b' ');
        if &block[257..262] != b"ustar" || number(148, 156) != Some(unsummed) {
            return Err(fault);
        }
        let header = Header {
            name: full_name(block),
            kind: block[156],
            target: text(&block[157..257]),
            owner: Owner {
                uid: small(108, 116),
                mode: small(100, 108) & 0o7777,
            },
            modified: number(136, 148).map_or(0, |n| n as u64),
        };
        self.last.clone_from(&header.name);
        let damaged = || Fault::Damaged(header.name.clone());
        // What is no file has no data, whatever its header says of a size.
        let size = match header.kind {
            b'2' | b'5' => 0,
            _ => number(124, 136)
                .filter(|n| *n <= LARGEST)
                .ok_or_else(damaged)?,
        };
        let data = rest.get(..size).ok_or_else(damaged)?;
        self.left = rest
            .get(size.next_multiple_of(BLOCK)..)
            .ok_or_else(damaged)?;
        Ok(Some((header, data)))
    }
}

/// Returns the name of a header; its first part is in a field of its own.
fn full_name(block: &[u8]) -> String {
    let name = text(&block[..LONGEST]);
    // GNU's archives have something else there.
    let prefix = match &block[257..263] {
        b"ustar\0" => text(&block[345..500]),
        _ => String::new(),
    };
    match prefix.as_str() {
        "" => name,
        prefix => format!("{prefix}/{name}"),
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn octal(field: &[u8]) -> Option<usize> {
    let digits = text(field);
    match digits.trim() {
        "" => Some(0),
        digits => usize::from_str_radix(digits, 8).ok(),
    }
}

/// Returns the absolute path of a name that stays inside.
fn inner_path(name: &str) -> Result<String, Fault> {
    let outside = || Fault::Outside(name.to_owned());
    if name.starts_with('/') {
        return Err(outside());
    }
    let mut path = String::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(outside()),
            part => path = format!("{path}/{part}"),
        }
    }
    Ok(path)
}

/// Checks that a link does not climb above the root; an absolute one begins there.
fn inner_link(path: &str, target: String) -> Result<String, Fault> {
    let depth = match target.starts_with('/') {
        true => 0,
        false => path.matches('/').count().saturating_sub(1),
    };
    let mut depth = Some(depth);
    for part in target.split('/') {
        depth = match part {
            "" | "." => depth,
            ".." => depth.and_then(|depth| depth.checked_sub(1)),
            _ => depth.map(|depth| depth + 1),
        };
    }
    match depth {
        Some(_) => Ok(target),
        None => Err(Fault::Outside(format!("{path} -> {target}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let link = format!("../{}", "long/".repeat(40));
        let nodes: Nodes = [
            (String::new(), Kind::Directory),
            ("/a/b".to_owned(), Kind::File("text\n".to_owned())),
            ("/a/c".to_owned(), Kind::Link("../a/b".to_owned())),
            ("/a/empty".to_owned(), Kind::Directory),
            (format!("/{}", "d".repeat(150)), Kind::File(" ".repeat(512))),
            ("/long/l".to_owned(), Kind::Link(link)),
            ("/müller".to_owned(), Kind::File("ü".to_owned())),
        ]
        .map(|(path, kind)| (path, Node::of_root(kind)))
        .into();
        let archive = pack(&nodes);
        assert_eq!(archive.len() % BLOCK, 0);
        assert_eq!(unpack(archive.as_bytes()).unwrap(), nodes);
    }

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(record("path", &"x".repeat(3)), "12 path=xxx\n");
        for n in 80..130 {
            let text = record("path", &"x".repeat(n));
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse(), Ok(text.len()));
        }
    }

    #[test]
    fn nothing_leads_out() {
        for name in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(inner_path(name).is_err(), "{name}");
        }
        let link = |target: &str| inner_link("/a/b/l", target.to_owned()).is_ok();
        assert!(link("../../c") && link("/dev/null") && link("../c/../../d"));
        assert!(!link("../../../c") && !link("/../x") && !link("x/../../../../y"));
    }

    proptest::proptest! {
        /// Whatever was done to an archive, it is taken or refused.
        #[test]
        fn any_archive_is_answered(changes in proptest::collection::vec((0..4096_usize, 0..=255_u8), 0..8), end in 0..4096_usize) {
            let file = Kind::File("text".repeat(300));
            let link = Kind::Link("x".repeat(200));
            let nodes = [("/a", file), ("/b", link)];
            let nodes = nodes.map(|(path, kind)| (path.to_owned(), Node::of_root(kind)));
            let mut archive = pack(&nodes.into()).into_bytes();
            for (at, byte) in changes {
                let at = at % archive.len();
                archive[at] = byte;
            }
            // The sums are right, so that more than them is looked at.
            for header in archive.chunks_exact_mut(BLOCK) {
                if &header[257..262] == b"ustar" {
                    let total = sum(&header[..148]) + sum(&header[156..]) + 8 * 32;
                    header[148..156].copy_from_slice(format!("{total:06o}\0 ").as_bytes());
                }
            }
            archive.truncate(archive.len() - end % BLOCK);
            let _ = unpack(&archive);
        }
    }
}
