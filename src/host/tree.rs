//! The files of a captured host in memory: no link in it leads out, and nothing of it is on the disk.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::files::{Files, Owner};

/// How many links are followed on one way, as by the kernel.
const MAX_LINKS: usize = 40;

/// What there is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file with its text.
    File(String),
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Link(String),
}

/// File, directory or link of a captured host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Who owns it; what nobody was allowed to read has no permissions.
    pub owner: Owner,
    /// When it was written, in seconds since 1970; 0 where nobody asked.
    pub modified: u64,
}

impl Node {
    /// Returns what belongs to root and can be read.
    pub fn of_root(kind: Kind) -> Self {
        let mode = match kind {
            Kind::File(_) => 0o644,
            Kind::Directory => 0o755,
            Kind::Link(_) => 0o777,
        };
        let owner = Owner { uid: 0, mode };
        Node {
            kind,
            owner,
            modified: 0,
        }
    }
}

/// Nodes by absolute path; that of the root is empty.
pub type Nodes = BTreeMap<String, Node>;

/// The files of a captured host in memory.
#[derive(Debug, Clone)]
pub struct TreeFiles(Rc<Nodes>);

impl TreeFiles {
    /// Returns the files with these nodes; directories above them need not be among them.
    pub fn new(mut nodes: Nodes) -> Self {
        let directory = || Node::of_root(Kind::Directory);
        let paths: Vec<String> = nodes.keys().cloned().collect();
        for path in &paths {
            for (at, _) in path.match_indices('/') {
                let above = nodes.entry(path[..at].to_owned()).or_insert_with(directory);
                // A name that is only known of a listing, and asked for more later.
                if matches!(above.kind, Kind::File(_)) {
                    above.kind = Kind::Directory;
                }
            }
        }
        nodes.entry(String::new()).or_insert_with(directory);
        TreeFiles(Rc::new(nodes))
    }

    /// Returns the path of what there is, and it; `follows` tells whether the last name may be a link.
    fn node(&self, path: &str, follows: bool) -> io::Result<(String, &Node)> {
        let link_at = |place: &str| match &self.0.get(place)?.kind {
            Kind::Link(target) => Some(target.clone()),
            _ => None,
        };
        let at = place(path, follows, link_at)?;
        match self.0.get(&at) {
            Some(node) => Ok((at, node)),
            None => Err(self.missing(&at)),
        }
    }

    /// Returns the error of a path at which nothing is: what is above it may be no directory.
    fn missing(&self, path: &str) -> io::Error {
        let above = path.rmatch_indices('/').map(|(at, _)| &path[..at]);
        let mut above = above.filter_map(|path| self.0.get(path));
        match above.next().map(|node| &node.kind) {
            Some(Kind::Directory) => io::ErrorKind::NotFound.into(),
            _ => io::ErrorKind::NotADirectory.into(),
        }
    }
}

/// Returns where a path leads, by the links that `link_at` finds on the way; `follows` tells whether the last name
/// may be one.
///
/// # Errors
/// `ELOOP`, as the kernel's.
pub fn place(
    path: &str,
    follows: bool,
    mut link_at: impl FnMut(&str) -> Option<String>,
) -> io::Result<String> {
    let mut left: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let mut at = String::new();
    let mut n_links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let below = format!("{at}/{name}");
        let may_follow = follows || !left.iter().all(String::is_empty);
        let Some(target) = may_follow.then(|| link_at(&below)).flatten() else {
            at = below;
            continue;
        };
        n_links += 1;
        if n_links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        if target.starts_with('/') {
            at.clear();
        }
        left.extend(target.rsplit('/').map(str::to_owned));
    }
    Ok(at)
}

fn readable(node: &Node) -> io::Result<()> {
    match node.owner.mode & 0o444 {
        0 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }
}

impl Files for TreeFiles {
    fn read(&self, path: &str) -> io::Result<String> {
        self.read_within(path, usize::MAX)
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        let (_, node) = self.node(path, true)?;
        readable(node)?;
        match &node.kind {
            Kind::File(text) if text.len() > limit => {
                let text = format!("it has more than {limit} bytes");
                Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
            }
            Kind::File(text) => Ok(text.clone()),
            _ => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let (path, node) = self.node(dir, true)?;
        readable(node)?;
        if node.kind != Kind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let start = format!("{path}/");
        let below = self.0.range(start.clone()..);
        let below = below.map_while(|(path, _)| path.strip_prefix(&start));
        let names = below.filter(|name| !name.contains('/'));
        Ok(names.map(str::to_owned).collect())
    }

    fn exists(&self, path: &str) -> bool {
        self.node(path, true).is_ok()
    }

    fn link(&self, path: &str) -> io::Result<String> {
        match &self.node(path, false)?.1.kind {
            Kind::Link(target) => Ok(target.clone()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        Ok(self.node(path, true)?.1.owner)
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        Ok(self.node(path, true)?.1.modified)
    }

    fn records(&self, path: &str, limit: usize) -> io::Result<String> {
        self.read_within(path, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> TreeFiles {
        let node = |kind| Node::of_root(kind);
        let file = |text: &str| node(Kind::File(text.to_owned()));
        let link = |target: &str| node(Kind::Link(target.to_owned()));
        let mut hidden = file("");
        hidden.owner.mode = 0;
        TreeFiles::new(BTreeMap::from([
            ("/a/b".to_owned(), file("text")),
            ("/a/c".to_owned(), link("../d/e")),
            ("/d/e/f".to_owned(), file("far")),
            ("/up".to_owned(), link("../../../a")),
            ("/loop".to_owned(), link("loop")),
            ("/hidden".to_owned(), hidden),
        ]))
    }

    #[test]
    fn links_are_followed_and_lead_nowhere_else() {
        let tree = tree();
        assert_eq!(tree.read("/a/c/f").unwrap(), "far");
        assert_eq!(tree.read("/up/b").unwrap(), "text");
        assert_eq!(tree.link("/a/c").unwrap(), "../d/e");
        assert_eq!(tree.list("/a/c").unwrap(), ["f"]);
        assert_eq!(tree.list("/").unwrap(), ["a", "d", "hidden", "loop", "up"]);
        assert!(tree.exists("/up/c/f") && !tree.exists("/loop"));
    }

    #[test]
    fn errors_are_those_of_the_kernel() {
        let tree = tree();
        let kind = |path: &str| tree.read(path).unwrap_err().kind();
        assert_eq!(kind("/a/x"), io::ErrorKind::NotFound);
        assert_eq!(kind("/a/b/x"), io::ErrorKind::NotADirectory);
        assert_eq!(kind("/a"), io::ErrorKind::IsADirectory);
        assert_eq!(kind("/hidden"), io::ErrorKind::PermissionDenied);
        let denied = tree.write("/a/b", "x").unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::Unsupported);
    }
}
