//! The files of a host as they are shown to others: cleaned, and remembered, so that a capture is what was
//! looked at and nothing else.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::cgroup::{ROOT, UNITS};
use super::files::{Files, Owner};
use super::pve;
use super::systemd::BUS_SOCKET;
use super::tree::{Kind, Node, Nodes, place};
use crate::domain::clean::{Aliases, Cleaner};

/// The files of a host as they are shown to others.
#[derive(Debug, Clone)]
pub struct Seen(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Box<dyn Files>,
    cleaner: RefCell<Cleaner>,
    notes: RefCell<BTreeMap<String, Note>>,
}

/// What is known of a path.
#[derive(Debug, Default)]
struct Note {
    found: Found,
    owner: Option<Owner>,
    modified: Option<u64>,
    /// Whether it was looked at whether it is a link, and it is none.
    is_no_link: bool,
}

#[derive(Debug, Default)]
enum Found {
    /// Nothing is known.
    #[default]
    Unknown,
    /// There is nothing.
    Nothing,
    /// A directory has this name.
    Listed,
    /// There is something.
    Something,
    /// This process may not look at it.
    Hidden,
    Known(Kind),
}

impl Seen {
    /// Returns the files of a host without secrets, and without names unless `keeps_names`.
    pub fn new(files: Box<dyn Files>, keeps_names: bool) -> Self {
        let own = pve::node_name(&*files).unwrap_or_default();
        let all = files.list("/etc/pve/nodes").unwrap_or_default();
        let cleaner = Cleaner {
            aliases: Aliases::of_nodes(&own, &all),
            keeps_names,
        };
        Seen(Rc::new(Inner {
            files,
            cleaner: RefCell::new(cleaner),
            notes: RefCell::default(),
        }))
    }

    /// Returns what this process was not allowed to look at.
    pub fn hidden(&self) -> Vec<String> {
        let notes = self.0.notes.borrow();
        let hidden = notes
            .iter()
            .filter(|(_, note)| matches!(note.found, Found::Hidden));
        hidden.map(|(path, _)| path.clone()).collect()
    }

    /// Returns everything that was looked at.
    pub fn nodes(&self) -> Nodes {
        let notes = self.0.notes.borrow();
        let paths = notes.keys();
        let above: BTreeSet<&str> = paths
            .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at]))
            .collect();
        let mut nodes = Nodes::new();
        for (path, note) in notes.iter() {
            let kind = match &note.found {
                Found::Known(kind) => Some(kind.clone()),
                Found::Hidden => Some(Kind::File(String::new())),
                Found::Something | Found::Listed if above.contains(path.as_str()) => {
                    Some(Kind::Directory)
                }
                Found::Listed if !is_needed(path) => None,
                Found::Something | Found::Listed if path != BUS_SOCKET => Some(self.kind_of(path)),
                _ => note.owner.map(|_| Kind::Directory),
            };
            let Some(kind) = kind else { continue };
            let mut node = Node::of_root(kind);
            node.owner = note.owner.unwrap_or(node.owner);
            node.modified = note.modified.unwrap_or_default();
            if matches!(note.found, Found::Hidden) {
                node.owner.mode = 0;
            }
            nodes.insert(path.clone(), node);
        }
        nodes
    }

    /// Returns what there is where only the name is known.
    fn kind_of(&self, path: &str) -> Kind {
        let real = self.real(path);
        if let Ok(target) = self.0.files.link(&real) {
            return Kind::Link(self.shown_link(path, &target));
        }
        match self.0.files.list(&real) {
            Ok(_) => Kind::Directory,
            Err(_) => Kind::File(String::new()),
        }
    }

    fn shown_link(&self, path: &str, target: &str) -> String {
        let (dir, _) = path.rsplit_once('/').unwrap_or_default();
        self.0.cleaner.borrow_mut().link(dir, target)
    }

    /// Returns the path that is shown as this one.
    fn real(&self, path: &str) -> String {
        let cleaner = self.0.cleaner.borrow();
        let mut real = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let name = cleaner.aliases.real(&real, name);
            real = format!("{real}/{name}");
        }
        real
    }

    fn note<T>(&self, path: &str, change: impl FnOnce(&mut Note) -> T) -> T {
        let mut notes = self.0.notes.borrow_mut();
        change(notes.entry(path.to_owned()).or_default())
    }

    /// Returns the target of a link, if there is one.
    fn link_at(&self, path: &str) -> Option<String> {
        let known = self.note(path, |note| match &note.found {
            Found::Known(Kind::Link(target)) => Some(Some(target.clone())),
            _ => note.is_no_link.then_some(None),
        });
        known.unwrap_or_else(|| {
            let target = self.0.files.link(&self.real(path)).ok();
            let target = target.map(|target| self.shown_link(path, &target));
            self.note(path, |note| match &target {
                Some(target) => note.found = Found::Known(Kind::Link(target.clone())),
                None => note.is_no_link = true,
            });
            target
        })
    }

    /// Returns where a path leads, with the links on the way remembered; `follows` tells whether the last
    /// name may be one. Of links that lead in a circle the kernel says it.
    fn place(&self, path: &str, follows: bool) -> String {
        let place = place(path, follows, |below| self.link_at(below));
        place.unwrap_or_else(|_| path.to_owned())
    }

    /// Remembers what came of a look.
    fn remember<T>(&self, place: &str, result: &io::Result<T>, kind: impl FnOnce(&T) -> Found) {
        let found = match result {
            Ok(seen) => kind(seen),
            Err(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => Found::Hidden,
                io::ErrorKind::NotFound => Found::Nothing,
                _ => return,
            },
        };
        self.note(place, |note| match (&note.found, &found) {
            (Found::Known(_), Found::Something | Found::Nothing)
            | (Found::Known(_) | Found::Something | Found::Hidden, Found::Listed) => {}
            _ => note.found = found,
        });
    }
}

/// Tells whether a name that was only listed says something: there are very many control files, and what
/// is next to the processes in `/proc` is only read where it is needed.
fn is_needed(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or_default();
    let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
    match dir {
        "/proc" => is_process,
        _ if dir.starts_with(ROOT) => {
            name == "cpuset.cpus.partition"
                || UNITS.iter().any(|end| name.ends_with(end))
                || !name.contains('.')
        }
        _ => true,
    }
}

impl Files for Seen {
    fn read(&self, path: &str) -> io::Result<String> {
        self.cleaned(path, |real| self.0.files.read(real))
    }

    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        self.cleaned(path, |real| self.0.files.read_within(real, limit))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let place = self.place(dir, true);
        let names = self.0.files.list(&self.real(&place)).map(|names| {
            let mut cleaner = self.0.cleaner.borrow_mut();
            let names = names.iter().map(|name| cleaner.name(&place, name));
            let mut names: Vec<String> = names.collect();
            names.sort_unstable();
            names
        });
        self.remember(&place, &names, |_| Found::Known(Kind::Directory));
        for name in names.iter().flatten() {
            self.remember(&format!("{place}/{name}"), &Ok(()), |()| Found::Listed);
        }
        names
    }

    fn exists(&self, path: &str) -> bool {
        let place = self.place(path, true);
        let exists = self.0.files.exists(&self.real(&place));
        self.remember(&place, &Ok(exists), |exists| match exists {
            true => Found::Something,
            false => Found::Nothing,
        });
        exists
    }

    fn link(&self, path: &str) -> io::Result<String> {
        let place = self.place(path, false);
        match self.link_at(&place) {
            Some(target) => Ok(target),
            // The error is that of the kernel.
            None => self.0.files.link(&self.real(&place)),
        }
    }

    fn owner(&self, path: &str) -> io::Result<Owner> {
        let place = self.place(path, true);
        let owner = self.0.files.owner(&self.real(&place));
        self.note(&place, |note| note.owner = owner.as_ref().ok().copied());
        self.remember(&place, &owner, |_| Found::Something);
        owner
    }

    fn modified(&self, path: &str) -> io::Result<u64> {
        let place = self.place(path, true);
        let modified = self.0.files.modified(&self.real(&place));
        self.note(&place, |note| {
            note.modified = modified.as_ref().ok().copied();
        });
        self.remember(&place, &modified, |_| Found::Something);
        modified
    }

    fn records(&self, path: &str, limit: usize) -> io::Result<String> {
        self.cleaned(path, |real| self.0.files.records(real, limit))
    }

    fn room_left(&self, path: &str) -> io::Result<u64> {
        self.0.files.room_left(&self.real(path))
    }
}

impl Seen {
    fn cleaned(
        &self,
        path: &str,
        read: impl FnOnce(&str) -> io::Result<String>,
    ) -> io::Result<String> {
        let place = self.place(path, true);
        let text = read(&self.real(&place));
        let text = text.map(|text| self.0.cleaner.borrow_mut().text(&place, &text));
        self.remember(&place, &text, |text| Found::Known(Kind::File(text.clone())));
        text
    }
}
