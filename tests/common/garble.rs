//! What may befall a text: damage as files have it that were cut, edited by hand, or written by a kernel of tomorrow.
#![allow(
    dead_code,
    reason = "each test program that includes this file uses a part"
)]

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What a word, a number or an entry of a list may be replaced by.
const PIECES: &[&str] = &[
    "",
    "-",
    "-1",
    "0",
    "1",
    "7",
    "63",
    "64",
    "8191",
    "8192",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "0-8191",
    "0-4294967295",
    "3-3",
    "2-1",
    "0-7:1/2",
    ",",
    ",,",
    "=",
    ":",
    ";",
    "/",
    "..",
    "../..",
    "(",
    ")",
    "[",
    "]",
    "{}",
    "\"",
    "'",
    "\\",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\0",
    "\u{1b}[2J",
    "\u{2013}",
    "\u{fffd}",
    "\u{1f600}",
    "max",
    "none",
    "N/A",
    "nan",
    "0x",
    "0xffffffffffffffff",
    "1e309",
    "true",
    "null",
];

/// Returns how many cases there are of a property whose cases take so many times as long as usual: the same ones each
/// time, so that no change fails by what it has not touched, and new ones where their number is asked for, as `make
/// torture` does.
pub fn config(longer: u32) -> ProptestConfig {
    let all = ProptestConfig::default();
    ProptestConfig {
        cases: (all.cases / longer).max(1),
        rng_seed: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => all.rng_seed,
            None => RngSeed::Fixed(1),
        },
        ..all
    }
}

/// How a text is damaged.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// Nothing is left.
    Empty,
    /// It ends there.
    Cut,
    /// A line is there twice.
    Twice,
    /// A line is missing.
    Without,
    /// A word, or what is there between two of them, is something else.
    Piece(&'static str),
    /// A word is longer than any buffer.
    Long,
}

/// Damage to a text.
#[derive(Debug, Clone, Copy)]
pub struct Damage {
    /// Where, in 1/65536 of its length.
    at: u16,
    how: How,
}

/// Returns any damage.
pub fn damage() -> impl Strategy<Value = Damage> {
    let how = prop_oneof![
        1 => Just(How::Empty),
        2 => Just(How::Cut),
        2 => Just(How::Twice),
        2 => Just(How::Without),
        12 => proptest::sample::select(PIECES).prop_map(How::Piece),
        1 => Just(How::Long),
    ];
    (any::<u16>(), how).prop_map(|(at, how)| Damage { at, how })
}

impl Damage {
    /// Returns the text as it is afterwards.
    pub fn done_to(self, text: &str) -> String {
        let at = (text.len() * usize::from(self.at)) >> 16;
        let at = (0..=at).rev().find(|at| text.is_char_boundary(*at));
        let at = at.unwrap_or_default();
        match self.how {
            How::Empty => String::new(),
            How::Cut => text[..at].to_owned(),
            How::Twice => with(text, line_at(text, at), &text[line_at(text, at)].repeat(2)),
            How::Without => with(text, line_at(text, at), ""),
            How::Piece(piece) => with(text, word_at(text, at), piece),
            How::Long => with(text, word_at(text, at), &"9".repeat(70_000)),
        }
    }
}

fn with(text: &str, range: std::ops::Range<usize>, piece: &str) -> String {
    format!("{}{piece}{}", &text[..range.start], &text[range.end..])
}

fn line_at(text: &str, at: usize) -> std::ops::Range<usize> {
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    begin..end
}

fn word_at(text: &str, at: usize) -> std::ops::Range<usize> {
    let is_end = |letter: char| !letter.is_alphanumeric();
    let begin = text[..at]
        .char_indices()
        .rfind(|(_, letter)| is_end(*letter));
    let begin = begin.map_or(0, |(n, letter)| n + letter.len_utf8());
    let end = text[at..].find(is_end).map_or(text.len(), |end| at + end);
    begin..end
}
