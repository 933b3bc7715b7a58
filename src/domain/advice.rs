//! Errors that come with a remedy.

/// Fact that the operator can do something about; put onto an error as its context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fact}")]
pub struct Advised {
    /// What is wrong, with the object.
    pub fact: String,
    /// What can be done about it.
    pub help: String,
}

impl Advised {
    /// Returns a fact with what can be done about it.
    pub fn new(fact: impl Into<String>, help: impl Into<String>) -> Self {
        Advised {
            fact: fact.into(),
            help: help.into(),
        }
    }
}
