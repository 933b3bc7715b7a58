//! What is wrong with a file, where, and what would be right.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Something wrong in a file of the operator; prints as one line for PVE's task log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// What would be right, in one line.
    pub help: String,
    /// The whole report for a terminal: message, place, source text with a caret, help.
    pub snippet: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            ..
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

impl std::error::Error for ConfigError {}

/// Something wrong at some bytes of a text.
#[derive(Debug)]
pub(super) struct Problem {
    /// Bytes that are wrong.
    pub(super) span: Range<usize>,
    /// What is wrong with them.
    pub(super) message: String,
    /// What would be right.
    pub(super) help: String,
}

impl Problem {
    /// Makes the error for `text`, the content of `file`.
    pub(super) fn in_file(self, file: &str, text: &str) -> ConfigError {
        let span = self.place(text);
        let before = &text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (message, help) = (one_line(&self.message), one_line(&self.help));
        let source = Snippet::source(text)
            .path(file)
            .annotation(AnnotationKind::Primary.span(span.clone()));
        let report = Level::ERROR
            .primary_title(message.as_str())
            .element(source)
            .element(Level::HELP.message(help.as_str()));
        ConfigError {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            snippet: Renderer::plain().render(&[report]),
            message,
            help,
        }
    }

    /// Returns the span, cut to characters of the text and to the line it begins in.
    fn place(&self, text: &str) -> Range<usize> {
        let boundary = |at: usize| {
            (0..=at.min(text.len()))
                .rev()
                .find(|n| text.is_char_boundary(*n))
        };
        let start = boundary(self.span.start).unwrap_or(0);
        let end = boundary(self.span.end).unwrap_or(0).max(start);
        let line_end = text[start..end]
            .find(['\n', '\r'])
            .map_or(end, |n| start + n);
        start..line_end
    }
}

/// Escapes control characters, which the text of a file may bring along.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}
