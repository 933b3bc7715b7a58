//! Parts that sections are made of.

use crate::cli::page::{Badge, Block, Section, Tone};
use crate::lifecycle::engine::account::{Level, Line};
use crate::lifecycle::engine::advice::help_for;

/// How many of what is listed in one sentence.
const FEW: usize = 8;

/// Returns the first of many, and how many more there are.
pub fn in_short(all: &[String]) -> String {
    let few = all[..all.len().min(FEW)].join(", ");
    match all.len().saturating_sub(FEW) {
        0 => few,
        more => format!("{few} and {more} more"),
    }
}

/// Returns a section.
pub fn section(title: impl Into<String>, badge: Option<Badge>, blocks: Vec<Block>) -> Section {
    Section {
        title: title.into(),
        badge,
        blocks,
    }
}

/// Returns something that is said, behind a word.
pub fn remark(tone: Tone, word: &str, text: String, help: Option<String>) -> Block {
    let badge = Badge::new(tone, word);
    Block::Remark { badge, text, help }
}

/// Returns what is said in the place of a part that failed.
pub fn failed(error: &anyhow::Error) -> Block {
    let help = Some(help_for(error));
    remark(Tone::Bad, "error", format!("{error:#}"), help)
}

/// Returns lines as remarks: a help belongs to the line before.
pub fn remarks(lines: Vec<Line>) -> Vec<Block> {
    let mut blocks = Vec::new();
    for Line { level, text } in lines {
        let (tone, word) = match level {
            Level::Info => (Tone::Notice, "notice"),
            Level::Warning => (Tone::Warning, "warning"),
            Level::Error => (Tone::Bad, "error"),
            Level::Help => match blocks.last_mut() {
                Some(Block::Remark { help, .. }) if help.is_none() => {
                    *help = Some(text);
                    continue;
                }
                _ => (Tone::Notice, "help"),
            },
        };
        blocks.push(remark(tone, word, text, None));
    }
    blocks
}
