//! Files that do not say what they hold.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::Sim;

/// What becomes of a text.
pub type Damage = Rc<dyn Fn(&str) -> String>;

/// The files that are damaged.
#[derive(Clone, Default)]
pub struct Garble {
    /// Number of reads so far.
    n_reads: usize,
    /// Which read finds a file damaged that was well before.
    due: BTreeMap<usize, Damage>,
    /// Those that are damaged, for as long as they are not mended.
    files: BTreeMap<String, Damage>,
}

impl fmt::Debug for Garble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged: {:?}", self.files.keys())
    }
}

impl Sim {
    /// Damages the file that is read at the `n`-th read from now on, for each of `due`, until all are mended. The
    /// program's own files stay as they are.
    pub fn garble(&self, due: impl IntoIterator<Item = (usize, Damage)>) {
        self.state().fate.garble = Garble {
            due: due.into_iter().collect(),
            ..Garble::default()
        };
    }

    /// Mends all files; returns how many were damaged.
    pub fn mend(&self) -> usize {
        std::mem::take(&mut self.state().fate.garble).files.len()
    }

    /// Returns what the program sees of a text that it reads.
    pub(super) fn garbled(&self, path: &str, text: String) -> String {
        if path.starts_with("/run/pin-hook/") {
            return text;
        }
        let garble = &mut self.state().fate.garble;
        garble.n_reads += 1;
        if let Some(damage) = garble.due.remove(&garble.n_reads) {
            garble.files.insert(path.to_owned(), damage);
        }
        match garble.files.get(path) {
            Some(damage) => damage(&text),
            None => text,
        }
    }
}
