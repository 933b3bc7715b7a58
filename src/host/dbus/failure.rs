//! Why the bus, or whoever is called on it, does not answer.

use std::io;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The deadline passed.
    #[error("no answer in time")]
    Late,
    /// The bus cannot be reached, or has gone.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// Whoever was called says no.
    #[error("{text}")]
    Refused {
        /// The name of the error.
        name: String,
        /// What is said about it.
        text: String,
    },
}

impl Failure {
    /// Returns the error of a message that is not what the specification says.
    pub(super) fn malformed() -> Self {
        Failure::Broken(io::Error::new(
            io::ErrorKind::InvalidData,
            "malformed message",
        ))
    }

    pub(super) fn of_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Late,
            _ => Failure::Broken(error),
        }
    }
}
