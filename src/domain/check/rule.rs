//! What a check is, and what its rule says.

use serde::Serialize;

use super::host_facts::HostFacts;
use super::vm_facts::VmFacts;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; may be meant like this.
    Notice,
    /// A VM is slower or less isolated than it could be.
    Warning,
    /// A VM does not start, or does not get what its table says.
    Failure,
}

impl Severity {
    /// Returns the word that reports print.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Failure => "failure",
        }
    }
}

/// Something that is required.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Name, as reports and `--explain` have it.
    pub id: &'static str,
    /// What is required, as a fact.
    pub required: &'static str,
    /// Why that matters, in a sentence or two.
    pub why: &'static str,
    /// What fixes it: a command as it is typed, with `<vmid>` for the VM, or what to do elsewhere.
    pub fix: &'static str,
    /// How much it matters where a finding does not say otherwise.
    pub severity: Severity,
    /// The rule.
    pub judge: Judge,
}

/// The rule of a check: of the host, or of a VM on it.
#[derive(Debug, Clone, Copy)]
pub enum Judge {
    /// Judges the host.
    Host(fn(&HostFacts) -> Verdict),
    /// Judges a VM.
    Vm(fn(&VmFacts, &HostFacts) -> Verdict),
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as required; what was found.
    Passed(String),
    /// It is not.
    Found(Vec<Fault>),
    /// The check does not apply, and why.
    Skipped(String),
}

/// One thing that is not as required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was found instead.
    pub found: String,
    /// What fixes this one, where the check's own words do not.
    pub fix: Option<String>,
    /// How much this one matters, where that differs.
    pub severity: Option<Severity>,
}

impl Verdict {
    /// Returns that it is as required.
    pub(super) fn passed(found: impl Into<String>) -> Self {
        Verdict::Passed(found.into())
    }

    /// Returns that the check does not apply.
    pub(super) fn skipped(why: impl Into<String>) -> Self {
        Verdict::Skipped(why.into())
    }

    /// Returns the verdict of `faults`, which is `passed` without any.
    pub(super) fn of(faults: Vec<Fault>, passed: impl Into<String>) -> Self {
        match faults.is_empty() {
            true => Verdict::Passed(passed.into()),
            false => Verdict::Found(faults),
        }
    }
}

impl Fault {
    /// Returns a fault that the check's own words fix.
    pub(super) fn new(found: impl Into<String>) -> Self {
        Fault {
            found: found.into(),
            fix: None,
            severity: None,
        }
    }

    /// Has something else fix it.
    pub(super) fn fixed_by(self, fix: impl Into<String>) -> Self {
        let fix = Some(fix.into());
        Fault { fix, ..self }
    }

    /// Has it matter more or less than the check says.
    pub(super) fn with(self, severity: Severity) -> Self {
        let severity = Some(severity);
        Fault { severity, ..self }
    }
}

impl From<Fault> for Verdict {
    fn from(fault: Fault) -> Self {
        Verdict::Found(vec![fault])
    }
}
