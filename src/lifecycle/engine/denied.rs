//! Why something is not done: the host has a reason, or an error came in between.

use std::fmt;

use super::advice::help_for;
use crate::domain::refusal::Refusal;
use crate::domain::vm::Vmid;

/// Why something was not done for a VM.
///
/// It is no [`std::error::Error`], so that an error which it carries goes on as itself where nothing can
/// be refused.
#[derive(Debug)]
pub enum Denied {
    /// The host cannot give what is asked for, or must not.
    Refused(Refusal),
    /// Something went wrong.
    Failed(anyhow::Error),
}

impl Denied {
    /// Returns the refusal, if it is one.
    ///
    /// # Errors
    /// What went wrong otherwise.
    pub fn refusal(self) -> anyhow::Result<Refusal> {
        match self {
            Denied::Refused(refusal) => Ok(refusal),
            Denied::Failed(error) => Err(error),
        }
    }

    /// Returns what the operator can do about it.
    pub fn help(&self, vmid: Vmid) -> String {
        match self {
            Denied::Refused(refusal) => refusal.help(vmid),
            Denied::Failed(error) => help_for(error),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Refused(refusal) => refusal.fmt(f),
            Denied::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

impl From<anyhow::Error> for Denied {
    fn from(error: anyhow::Error) -> Self {
        Denied::Failed(error)
    }
}

impl From<Denied> for anyhow::Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refusal) => refusal.into(),
            Denied::Failed(error) => error,
        }
    }
}
