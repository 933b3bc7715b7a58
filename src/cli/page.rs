//! A page: what is on it, whatever it is written as.

pub mod html;
pub mod markdown;

use super::columns::Columns;

/// How something is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Worth knowing.
    Notice,
    /// Not as it could be.
    Warning,
    /// Wrong.
    Bad,
}

/// A word with its tone, in a corner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Badge {
    /// How it is meant.
    pub tone: Tone,
    /// The word, or a few.
    pub text: String,
}

impl Badge {
    /// Returns a word with its tone.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        Badge { tone, text }
    }
}

/// Row of a table; the tone is that of its second cell.
pub type Row = (Tone, Vec<String>);

/// Rows below their heads.
#[derive(Debug)]
pub struct Table {
    /// Heads of the columns.
    pub heads: Vec<&'static str>,
    /// The rows, in groups that have a title or none.
    pub groups: Vec<(&'static str, Vec<Row>)>,
}

impl Table {
    /// Returns a table in one group.
    pub fn of(heads: impl Into<Vec<&'static str>>, rows: Vec<Row>) -> Self {
        Table {
            heads: heads.into(),
            groups: vec![("", rows)],
        }
    }

    /// Returns a table whose rows have no tone.
    pub fn plain<const N: usize>(
        heads: [&'static str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let rows = rows.into_iter();
        let rows = rows.map(|cells| (Tone::Plain, cells.into()));
        Table::of(heads, rows.collect())
    }

    /// Returns the table in plain text.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (title, rows) in &self.groups {
            let rows = rows.iter().map(|(_, cells)| cells.clone()).collect();
            if !title.is_empty() {
                text += &format!("{title}\n");
            }
            text += &Columns::of(&self.heads, rows).lines();
        }
        text
    }
}

/// A page with all that is on it.
#[derive(Debug)]
pub struct Page {
    /// What it is.
    pub title: String,
    /// What is written in few words below the title.
    pub facts: Vec<(String, String)>,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// Section of a page.
#[derive(Debug)]
pub struct Section {
    /// Its title.
    pub title: String,
    /// What is to be seen of it first.
    pub badge: Option<Badge>,
    /// What is in it.
    pub blocks: Vec<Block>,
}

/// Something in a section.
#[derive(Debug)]
pub enum Block {
    /// Title of what follows.
    Heading(&'static str),
    /// A sentence.
    Text(String),
    /// Names with their values.
    Facts(Vec<(&'static str, String)>),
    /// Something that is said, and what can be done about it.
    Remark {
        /// How it is meant.
        badge: Badge,
        /// What is said.
        text: String,
        /// What can be done.
        help: Option<String>,
    },
    /// Rows below their heads.
    Table(Table),
    /// Text as it is.
    Verbatim(String),
    /// A drawing.
    Picture {
        /// For a wide screen, as SVG.
        wide: String,
        /// For a narrow one.
        narrow: String,
        /// As text.
        text: String,
    },
    /// Blocks that are collapsed at first, below their title.
    Fold(String, Vec<Block>),
}
