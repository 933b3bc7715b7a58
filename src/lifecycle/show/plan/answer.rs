//! What a plan says: what would come of a start, why, and all of it in one sentence.

use serde::Serialize;

use super::layout::Layout;
use super::outlook::Now;
use super::planned::Planned;
use crate::domain::pci::outlook::Outlook;
use crate::domain::table::OnRefusal;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::privilege::is_root;
use crate::lifecycle::case::neighbours::Yielding;
use crate::lifecycle::case::texts::CaseError;
use crate::lifecycle::engine::inventory::rows::DeviceRow;
use crate::lifecycle::engine::look::is_denied;
use crate::lifecycle::show::complaint::Complaint;

/// What a start of a VM would change, and why.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Which VM.
    pub vmid: Vmid,
    /// Its name.
    pub name: Option<String>,
    /// What would come of a start.
    pub outcome: Outcome,
    /// The plan in one sentence.
    pub summary: String,
    /// Why it would be refused, or what is wrong with the table.
    pub error: Option<Complaint>,
    /// What to do where there is nothing to plan.
    pub advice: Option<String>,
    /// Where the table is.
    pub table: Option<String>,
    /// Whether the VM runs, so that the plan is about now.
    pub running: bool,
    /// Where the VM's threads are to run, if the table fits the host.
    pub layout: Option<Layout>,
    /// What the operator should know.
    pub notices: Vec<String>,
    /// The same, where something will not be as wished.
    pub warnings: Vec<String>,
    /// Devices that are passed through.
    pub devices: Vec<DeviceRow>,
    /// VMs that would make room, running or not.
    pub yields: Vec<Yielding>,
    /// What cannot be seen from here and is left out.
    pub left_out: Vec<String>,
    /// What would be written, in this order.
    pub changes: Vec<Planned>,
}

/// What would come of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The VM would get its CPUs.
    Ready,
    /// There is nothing to do for this guest.
    Nothing,
    /// This node has no such VM.
    Absent,
    /// The host cannot give what the table asks for.
    Refused,
    /// PVE or QEMU would refuse the start: the VM cannot have one of its devices.
    Fails,
    /// The VM would start, and take from the host or another VM what they work with.
    Harms,
    /// The table is wrong.
    Invalid,
}

impl Plan {
    /// Returns a plan that says nothing yet.
    pub(super) fn new(vmid: Vmid) -> Self {
        Plan {
            vmid,
            name: None,
            outcome: Outcome::Nothing,
            summary: String::new(),
            error: None,
            advice: None,
            table: None,
            running: false,
            layout: None,
            notices: Vec::new(),
            warnings: Vec::new(),
            devices: Vec::new(),
            yields: Vec::new(),
            left_out: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Puts a plan that can be carried out into one sentence.
    pub(super) fn summarise(&mut self, is_hooked: bool) {
        let (vmid, n) = (self.vmid, self.changes.len());
        let Some(layout) = &self.layout else { return };
        let gives = format!("gives vm {vmid} {}", layout.cpus.in_words());
        let changes = count(n, "change");
        let a_start = match is_hooked {
            true => "a start".to_owned(),
            false => format!("after pin-hook enable {vmid}, a start"),
        };
        self.summary = match (self.running, n) {
            (true, 0) => format!("vm {vmid} runs as planned, nothing would change"),
            (true, _) => format!("pin-hook apply {vmid} {gives} with {changes}"),
            (false, 0) => format!("{a_start} pins the vcpus of vm {vmid} and changes nothing else"),
            (false, _) => {
                let rest = "plus thread pinning, undone when it stops";
                format!("{a_start} {gives} with {changes} {rest}")
            }
        };
    }

    /// Says that the host cannot give what the table asks for.
    pub(super) fn refuse(&mut self, why: &str, help: String, policy: OnRefusal, now: Now) {
        let vmid = self.vmid;
        self.outcome = Outcome::Refused;
        self.error = Some(Complaint::new(format!("vm {vmid}: {why}"), help));
        self.summary = now.refused(vmid, policy);
    }

    /// Says what would come of a start although its CPUs are there.
    pub(super) fn foresee(&mut self, outlook: Outlook) {
        self.outcome = match outlook.fails {
            true => Outcome::Fails,
            false => Outcome::Harms,
        };
        // The reason is told once, as the error.
        self.warnings.retain(|text| *text != outlook.warning);
        let message = format!("vm {}: {}", self.vmid, outlook.reason);
        self.error = Some(Complaint::new(message, outlook.help));
        self.summary = outlook.summary;
    }

    /// Says what is wrong with the table, or the settings of the host.
    pub(super) fn complain(&mut self, error: &CaseError, now: Now) {
        self.outcome = match error {
            CaseError::Other(_) => Outcome::Refused,
            _ => Outcome::Invalid,
        };
        self.error = Some(Complaint::of(error));
        // A start reads as root.
        let is_hidden = matches!(error, CaseError::Other(error) if is_denied(error)) && !is_root();
        self.summary = match is_hidden {
            true => now.hidden(self.vmid),
            false => now.refused(self.vmid, OnRefusal::Auto),
        };
    }
}
