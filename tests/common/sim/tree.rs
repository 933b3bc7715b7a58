//! Plain files, directories and symbolic links in memory.

use std::collections::{BTreeMap, HashSet};
use std::io;

use pin_hook::host::files::Owner;

use super::errno;

/// One thing in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Dir { mode: u32 },
    File { text: String, uid: u32, mode: u32 },
    Link(String),
}

impl Node {
    /// Returns how many bytes it holds.
    pub fn size(&self) -> usize {
        match self {
            Node::File { text, .. } => text.len(),
            _ => 0,
        }
    }
}

/// Files by their absolute path.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    /// Where symbolic links are, or were: most paths have none on their way.
    links: HashSet<String>,
    /// Files that take some words only; a list such as `always [madvise] never` marks the chosen.
    choices: BTreeMap<String, Vec<String>>,
    /// Files that take a `1` as a command and hold nothing, such as `reset` of a PCI function.
    commands: std::collections::BTreeSet<String>,
    /// Files that take whole numbers and these words.
    numbers: BTreeMap<String, Vec<String>>,
}

impl Tree {
    /// Follows the symbolic links in `path`, also the last component.
    pub fn resolve(&self, path: &str) -> String {
        if self.is_resolved(path) {
            return path.to_owned();
        }
        self.resolve_within(path, 40)
    }

    /// Tells whether nothing in `path` is a link, `..` or there for nothing.
    fn is_resolved(&self, path: &str) -> bool {
        let plain = |name: &str| !name.is_empty() && name != "." && name != "..";
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1);
        let mut heads = ends.chain([path.len()]).map(|end| &path[..end]);
        path.len() > 1
            && path.starts_with('/')
            && path[1..].split('/').all(plain)
            && !heads.any(|head| self.links.contains(head))
    }

    fn resolve_within(&self, path: &str, depth: u32) -> String {
        let mut done = String::new();
        let mut parts = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        while let Some(part) = parts.next() {
            if part == ".." {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            let here = format!("{done}/{part}");
            if let (Some(Node::Link(target)), true) = (self.nodes.get(&here), depth > 0) {
                let base = if target.starts_with('/') { "" } else { &done };
                let rest = parts.collect::<Vec<_>>().join("/");
                return self.resolve_within(&format!("{base}/{target}/{rest}"), depth - 1);
            }
            done = here;
        }
        if done.is_empty() {
            "/".to_owned()
        } else {
            done
        }
    }

    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Puts a file and the directories above it.
    pub fn put(&mut self, path: &str, text: &str, mode: u32) {
        let path = self.resolve(path);
        self.make_parents(&path);
        let text = text.to_owned();
        self.nodes.insert(path, Node::File { text, uid: 0, mode });
    }

    /// Makes a directory and those above it.
    pub fn put_dir(&mut self, path: &str) {
        let path = self.resolve(path);
        self.make_parents(&path);
        self.nodes.entry(path).or_insert(Node::Dir { mode: 0o755 });
    }

    pub fn put_link(&mut self, path: &str, target: &str) {
        self.make_parents(path);
        self.links.insert(path.to_owned());
        self.nodes
            .insert(path.to_owned(), Node::Link(target.to_owned()));
    }

    /// Puts a file that takes only these words (`EINVAL` otherwise).
    pub fn put_choice(&mut self, path: &str, chosen: &str, words: &[&str]) {
        self.put(path, &format!("{chosen}\n"), 0o644);
        let words = words.iter().map(|&word| word.to_owned()).collect();
        self.choices.insert(path.to_owned(), words);
    }

    /// Puts a file that takes a `1` as a command (`EINVAL` otherwise).
    pub fn put_command(&mut self, path: &str) {
        self.put(path, "", 0o200);
        self.commands.insert(path.to_owned());
    }

    /// Makes a file take whole numbers, and these words, only.
    pub fn take_numbers(&mut self, path: &str, words: &[&str]) {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        self.numbers.insert(path.to_owned(), words);
    }

    /// Tells whether a file has a grammar that `text` does not follow.
    fn refuses(&self, path: &str, text: &str) -> bool {
        let text = text.trim();
        let is = |word: &String| word.trim_matches('*') == text;
        let choice = self
            .choices
            .get(path)
            .is_some_and(|words| !words.iter().any(is));
        let number = self.numbers.get(path);
        choice || number.is_some_and(|words| text.parse::<i64>().is_err() && !words.iter().any(is))
    }

    fn make_parents(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1);
        for end in ends {
            let dir = path[..end].to_owned();
            self.nodes.entry(dir).or_insert(Node::Dir { mode: 0o755 });
        }
    }

    pub fn chown(&mut self, path: &str, owner: u32, bits: u32) {
        let path = self.resolve(path);
        match self.nodes.get_mut(&path) {
            Some(Node::File { uid, mode, .. }) => (*uid, *mode) = (owner, bits),
            Some(Node::Dir { mode }) => *mode = bits,
            _ => panic!("no file {path} to give away"),
        }
    }

    pub fn owner(&self, path: &str) -> io::Result<Owner> {
        match self.nodes.get(path) {
            Some(&Node::File { uid, mode, .. }) => Ok(Owner { uid, mode }),
            Some(&Node::Dir { mode }) => Ok(Owner { uid: 0, mode }),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    pub fn read(&self, path: &str) -> io::Result<String> {
        match self.nodes.get(path) {
            Some(Node::File { text, .. }) => Ok(self
                .choices
                .get(path)
                .map_or_else(|| text.clone(), |words| bracketed(text, words))),
            Some(_) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Returns how long a file is.
    pub fn len(&self, path: &str) -> io::Result<usize> {
        match self.nodes.get(path) {
            Some(Node::File { text, .. }) => Ok(text.len()),
            Some(_) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Writes text into a plain file from an offset on, over what is there.
    pub fn overwrite(&mut self, path: &str, at: usize, new: &str) -> io::Result<()> {
        let Some(Node::File { text, .. }) = self.nodes.get_mut(path) else {
            return Err(errno(libc::ENOENT));
        };
        let end = text.len().min(at + new.len());
        text.replace_range(at..end, new);
        Ok(())
    }

    /// Writes text into a plain file, and zeros over the rest of what is there.
    pub fn refill(&mut self, path: &str, new: &str) -> io::Result<()> {
        let Some(Node::File { text, .. }) = self.nodes.get_mut(path) else {
            return Err(errno(libc::ENOENT));
        };
        let mut bytes = std::mem::take(text).into_bytes();
        bytes.fill(0);
        bytes[..new.len()].copy_from_slice(new.as_bytes());
        *text = String::from_utf8(bytes).map_err(|_| errno(libc::EILSEQ))?;
        Ok(())
    }

    /// Lets two files change places, as `renameat2()` does with `RENAME_EXCHANGE`.
    pub fn exchange(&mut self, one: &str, other: &str) -> io::Result<()> {
        let node = |tree: &mut Self, path| tree.nodes.remove(path).ok_or(errno(libc::ENOENT));
        let (first, second) = (node(self, one)?, node(self, other)?);
        self.nodes.insert(one.to_owned(), second);
        self.nodes.insert(other.to_owned(), first);
        Ok(())
    }

    /// Does one `write(2)` at offset 0: a kernel file takes it as a command, a plain one keeps
    /// what was behind it.
    pub fn write(&mut self, path: &str, new: &str) -> io::Result<()> {
        if self.commands.contains(path) {
            return match new.trim() {
                "1" => Ok(()),
                _ => Err(errno(libc::EINVAL)),
            };
        }
        let kernel_file = path.starts_with("/proc/") || path.starts_with("/sys/");
        if self.refuses(path, new) {
            return Err(errno(libc::EINVAL));
        }
        match self.nodes.get_mut(path) {
            Some(Node::File { mode, .. }) if *mode & 0o222 == 0 && kernel_file => {
                Err(errno(libc::EACCES))
            }
            Some(Node::File { text, .. }) if kernel_file => {
                *text = format!("{}\n", new.trim_end_matches('\n'));
                Ok(())
            }
            Some(Node::File { text, .. }) => {
                let rest = text.get(new.len()..).unwrap_or("");
                *text = format!("{new}{rest}");
                Ok(())
            }
            Some(_) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Creates a file in a directory that exists.
    pub fn create(&mut self, path: &str, text: &str, mode: u32) -> io::Result<()> {
        self.need_parent(path)?;
        let text = text.to_owned();
        self.nodes
            .insert(path.to_owned(), Node::File { text, uid: 0, mode });
        Ok(())
    }

    pub fn make_dir(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.need_parent(path)?;
        if self.nodes.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        self.nodes.insert(path.to_owned(), Node::Dir { mode });
        Ok(())
    }

    fn need_parent(&self, path: &str) -> io::Result<()> {
        let parent = &path[..path.rfind('/').unwrap_or(0)];
        match self.nodes.get(parent) {
            Some(Node::Dir { .. }) => Ok(()),
            Some(_) => Err(errno(libc::ENOTDIR)),
            None if parent.is_empty() => Ok(()),
            None => Err(errno(libc::ENOENT)),
        }
    }

    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        match self.nodes.get(path) {
            None => Err(errno(libc::ENOENT)),
            Some(Node::Dir { .. }) => Err(errno(libc::EISDIR)),
            Some(_) => {
                self.nodes.remove(path);
                Ok(())
            }
        }
    }

    pub fn remove_dir(&mut self, path: &str) -> io::Result<()> {
        match self.nodes.get(path) {
            None => Err(errno(libc::ENOENT)),
            Some(Node::Dir { .. }) if self.list(path)?.is_empty() => {
                self.nodes.remove(path);
                Ok(())
            }
            Some(Node::Dir { .. }) => Err(errno(libc::ENOTEMPTY)),
            Some(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    /// Removes everything at and below `path`.
    pub fn remove_all(&mut self, path: &str) {
        drop(self.take_all(path));
    }

    /// Takes everything at and below `path` away.
    pub fn take_all(&mut self, path: &str) -> Vec<(String, Node)> {
        let below = format!("{path}/");
        let keys = self.nodes.range(below.clone()..);
        let keys = keys.map_while(|(key, _)| key.starts_with(&below).then(|| key.clone()));
        let keys: Vec<String> = std::iter::once(path.to_owned()).chain(keys).collect();
        let taken = keys.iter().filter_map(|key| self.nodes.remove_entry(key));
        taken.collect()
    }

    /// Puts back what [`Tree::take_all`] has taken.
    pub fn put_all(&mut self, nodes: Vec<(String, Node)>) {
        self.nodes.extend(nodes);
    }

    pub fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let below = match self.nodes.get(dir) {
            Some(Node::Dir { .. }) => format!("{dir}/"),
            None if dir == "/" => "/".to_owned(),
            Some(_) => return Err(errno(libc::ENOTDIR)),
            None => return Err(errno(libc::ENOENT)),
        };
        let names = self
            .nodes
            .range(below.clone()..)
            .map_while(|(path, _)| path.strip_prefix(&below));
        Ok(names
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }
}

/// Formats a choice; a file whose words are marked with `*` shows them all and the chosen one
/// in brackets, as `/sys/kernel/mm/transparent_hugepage/enabled` does.
fn bracketed(text: &str, words: &[String]) -> String {
    if !words.iter().any(|word| word.starts_with('*')) {
        return text.to_owned();
    }
    let words = words.iter().map(|word| match word.trim_matches('*') {
        word if word == text.trim() => format!("[{word}]"),
        word => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ") + "\n"
}

impl Tree {
    /// Returns what a symbolic link says; only the directories above it are followed.
    pub fn link(&self, path: &str) -> io::Result<String> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.resolve(dir);
        match self
            .nodes
            .get(&format!("{}/{name}", dir.trim_end_matches('/')))
        {
            Some(Node::Link(target)) => Ok(target.clone()),
            Some(_) => Err(errno(libc::EINVAL)),
            None => Err(errno(libc::ENOENT)),
        }
    }
}
