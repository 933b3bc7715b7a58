//! A complaint: what is wrong and what can be done about it, as every command shows it.

use serde::Serialize;

use crate::lifecycle::case::texts::CaseError;

/// What is wrong and what can be done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// What is wrong, in one line.
    pub message: String,
    /// What can be done about it.
    pub help: Option<String>,
    /// File, where one is wrong.
    pub file: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<usize>,
    /// Column in that line, from 1.
    pub column: Option<usize>,
    /// The place in the text, for a terminal.
    #[serde(skip)]
    pub snippet: Option<String>,
}

impl Complaint {
    /// Returns what is wrong, with what can be done about it.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Complaint {
            message: message.into(),
            help: Some(help.into()),
            ..Complaint::default()
        }
    }

    /// Returns what is wrong with a table or the settings of the host.
    pub fn of(error: &CaseError) -> Self {
        let mut complaint = Complaint::new(error.to_string(), error.help());
        match error {
            CaseError::Config(error) => {
                complaint.file = Some(error.file.clone());
                complaint.line = Some(error.line);
                complaint.column = Some(error.column);
                complaint.snippet = Some(error.snippet.clone());
            }
            CaseError::Yield { path, .. } => {
                complaint.file = Some(path.clone());
            }
            CaseError::Other(_) => {}
        }
        complaint
    }
}
