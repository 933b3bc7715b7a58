//! One line for the operator about CPUs of a VM.

/// What the operator should know about a choice or a placement; one line without a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The line.
    pub text: String,
    /// Whether the VM or the host will not have what it could have.
    pub is_warning: bool,
}

impl Remark {
    /// Tells whether it warns of the NUMA nodes that the vCPUs are on: then no notice has to name them again.
    pub fn warns_of_nodes(&self) -> bool {
        self.is_warning && self.text.contains("numa nodes ")
    }

    /// Returns a remark on something that is as it should be, or as good as it can be.
    pub(super) fn info(text: String) -> Self {
        let is_warning = false;
        Remark { text, is_warning }
    }

    /// Returns a remark on something that will not be as wished.
    pub fn warning(text: String) -> Self {
        let is_warning = true;
        Remark { text, is_warning }
    }
}
