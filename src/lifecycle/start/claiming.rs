//! Making a VM's claim: resolve its wishes, check them against the others', put the claim in force.

use std::collections::BTreeMap;

use super::memory;
use super::standby::{is_for_backup, stands_by};
use crate::domain::admission;
use crate::domain::claim::{Claim, ClaimState, Standby, Wishes};
use crate::domain::desired::has_partition;
use crate::domain::scrub::skipped;
use crate::domain::state::{Record, State};
use crate::domain::vm::{TaskId, Vmid};
use crate::lifecycle::case::assess::Prospect;
use crate::lifecycle::case::resolve::{Resolved, state_for};
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::fate::{self, Answers};
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::inventory::holders::of_running;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::settings;
use crate::lifecycle::engine::work::{Worked, work};

impl Run<'_> {
    /// Claims the CPUs of a running VM that has no claim yet.
    pub(in crate::lifecycle) fn adopt(
        &self,
        case: &Case,
        qemu: TaskId,
        account: &mut Account,
    ) -> Result<Worked, Denied> {
        let prospect = match Prospect::of(self.host, case, Some(&state_for(self.host, case)?)) {
            Err(denied) if !is_for_backup(case) => return Err(denied),
            prospect => prospect,
        };
        let none = Wishes::none();
        let wishes = prospect
            .as_ref()
            .map_or(&none, |found| &found.resolved.wishes);
        let answers = self.ask(case.vmid, wishes, account);
        let state = self.state_of(case.vmid, qemu, &answers);
        self.claim_as(case, prospect, state, &answers, account)
    }

    /// Claims what can be granted of the table of a VM; one that is started for a backup does without.
    pub(in crate::lifecycle) fn claim_as(
        &self,
        case: &Case,
        prospect: Result<Prospect, Denied>,
        state: ClaimState,
        answers: &Answers,
        account: &mut Account,
    ) -> Result<Worked, Denied> {
        match prospect {
            Ok(prospect) => self.claim_resolved(case, prospect, state, answers, account),
            Err(Denied::Refused(_)) if stands_by(case, &state) => {
                self.stand_by_without(case, state)
            }
            Err(denied) => Err(denied),
        }
    }

    fn claim_resolved(
        &self,
        case: &Case,
        prospect: Prospect,
        state: ClaimState,
        answers: &Answers,
        account: &mut Account,
    ) -> Result<Worked, Denied> {
        let asks = self.asks_for_reload(case.vmid, &prospect.resolved.wishes, &state);
        let devices = self.devices_of(case, &state);
        let standby = stands_by(case, &state).then(Standby::default);
        work(self.host, answers, |now| {
            let prospect = prospect.among(case, &now.claims);
            let fitting = prospect.map_err(Denied::from);
            let fitting = fitting.and_then(|found| match standby {
                Some(_) => self.with_memory(case.vmid, found.resolved, &state, now),
                None => self.fit(case, found, &state, now, account),
            });
            let wishes = match fitting {
                Err(Denied::Refused(_)) if standby.is_some() => Wishes::none(),
                fitting => fitting?,
            };
            let iothreads = answers.iothreads.get(&case.vmid).cloned();
            let old = now.claims.get(&case.vmid);
            let claim = Claim {
                iothreads: iothreads.unwrap_or_default(),
                devices,
                standby,
                ..Claim::new(case.vmid, state, wishes, old)
            };
            let mut records = records(now, claim, asks);
            records.extend(anew(now, case.vmid));
            Ok(records)
        })
    }

    /// Finds out whether a VM can be given what its table says, and tells what should be known of it.
    fn fit(
        &self,
        case: &Case,
        prospect: Prospect,
        state: &ClaimState,
        now: &State,
        account: &mut Account,
    ) -> Result<Wishes, Denied> {
        let vmid = case.vmid;
        self.tell_settings(vmid, &prospect.resolved.wishes, account);
        tell(vmid, &prospect.resolved, account);
        let assessment = prospect.assess(self.host, case, Some(now));
        let (resolved, warnings) = assessment.granted()?;
        account.warn_all(&warnings);
        if let Some(text) = skipped(&resolved.wishes, &now.claims, vmid) {
            account.info(format!("vm {vmid}: {text}"));
        }
        let asked = resolved.wishes.memory.nodes.clone();
        let wishes = self.with_memory(vmid, resolved, state, now)?;
        if wishes.memory.nodes != asked {
            account.warn(format!(
                "vm {vmid}: memory.nodes takes effect at its next start"
            ));
        }
        Ok(wishes)
    }

    fn with_memory(
        &self,
        vmid: Vmid,
        resolved: Resolved,
        state: &ClaimState,
        now: &State,
    ) -> Result<Wishes, Denied> {
        let memory = memory::for_claim(self.host, vmid, &resolved, state, now)?;
        Ok(Wishes {
            memory,
            ..resolved.wishes
        })
    }

    /// Tells what should be known of a VM's wishes for settings before they are written.
    fn tell_settings(&self, vmid: Vmid, wishes: &Wishes, account: &mut Account) {
        let remarks = settings::remarks(self.host, wishes.tuning()).into_iter();
        remarks.for_each(|text| account.warn(format!("vm {vmid}: {text}")));
        let companions = settings::companions(self.host, wishes.tuning()).into_iter();
        companions.for_each(|text| account.info(format!("vm {vmid}: {text}")));
    }

    /// Returns the functions that the VM has, or would have if it started now.
    fn devices_of(&self, case: &Case, state: &ClaimState) -> BTreeMap<String, String> {
        match state.qemu() {
            _ if case.guest.hostpci.is_empty() => BTreeMap::new(),
            Some(qemu) => of_running(self.host, case.vmid, qemu),
            None => Devices::read(self.host, case.vmid, &case.guest, &[]).models(),
        }
    }

    /// Brings a claim into force, or takes note of how far its run has come. What another run has made of the claim
    /// since it was read counts; one that was let go of meanwhile stays so.
    pub(in crate::lifecycle) fn promote(
        &self,
        claim: &Claim,
        state: ClaimState,
        answers: &Answers,
    ) -> Result<Worked, Denied> {
        let vmid = claim.vmid;
        let asks = !fate::is_settled(claim) && self.asks_for_reload(vmid, &claim.wishes, &state);
        let names = answers.iothreads.get(&vmid);
        let devices = match state.qemu() {
            Some(qemu) if !claim.devices.is_empty() => Some(of_running(self.host, vmid, qemu)),
            _ => None,
        };
        work(self.host, answers, |now| {
            let is_same = |known: &&Claim| known.qemu().is_none_or(|of| state.qemu() == Some(of));
            let Some(known) = now.claims.get(&vmid).filter(is_same) else {
                return Ok(Vec::new());
            };
            let next = match known.state {
                ClaimState::Failed { .. } => known.clone(),
                _ => Claim {
                    state,
                    iothreads: names.unwrap_or(&known.iothreads).clone(),
                    devices: devices.unwrap_or_else(|| known.devices.clone()),
                    // PVE has bound those that have come back.
                    resets: known.still_away(),
                    ..known.clone()
                },
            };
            if next.owns() {
                admission::check_claims(&next.wishes.share(vmid), &now.claims)?;
            }
            Ok(records(now, next, asks))
        })
    }

    /// Asks the monitor what cannot be seen from outside; a monitor that does not answer costs
    /// its deadline, and the guest is taken as running.
    pub(in crate::lifecycle) fn ask(
        &self,
        vmid: Vmid,
        wishes: &Wishes,
        account: &mut Account,
    ) -> Answers {
        let mut answers = Answers::default();
        answers.ask_run_state(self.host, vmid);
        if answers.run_states.is_empty() {
            account.warn(format!(
                "vm {vmid}: its monitor (qmp) does not respond, assuming that it runs"
            ));
            answers.run_states.insert(vmid, fate::GUEST_RUNS.to_owned());
        }
        if !wishes.iothreads.is_empty() {
            answers.ask_iothreads(self.host, vmid);
        }
        answers
    }

    pub(in crate::lifecycle) fn state_of(
        &self,
        vmid: Vmid,
        qemu: TaskId,
        answers: &Answers,
    ) -> ClaimState {
        let run_state = answers.run_states.get(&vmid).map(String::as_str);
        // Preparing states only: a guest that was paused on purpose keeps its CPUs.
        let waits = matches!(run_state, Some("prelaunch" | "inmigrate" | "restore-vm"));
        fate::state_of(qemu, !waits)
    }

    /// Tells whether systemd does not know that the scope of a VM is delegated, although the
    /// drop-in may be there: the live scope is asked, not believed.
    fn asks_for_reload(&self, vmid: Vmid, wishes: &Wishes, state: &ClaimState) -> bool {
        let is_up = matches!(state, ClaimState::Running { .. }) && has_partition(wishes);
        let delegated = || self.host.systemd.delegated(&format!("{vmid}.scope"));
        is_up
            && matches!(delegated(), Ok(Some(names)) if !names.iter().any(|name| name == "cpuset"))
    }
}

/// Tells what the operator should know about a table that fits the host.
fn tell(vmid: Vmid, resolved: &Resolved, account: &mut Account) {
    let notices = resolved.notices.iter();
    notices.for_each(|notice| account.info(format!("vm {vmid}: {notice}")));
    let warnings = resolved.warnings.iter();
    warnings.for_each(|text| account.warn(format!("vm {vmid}: {text}")));
}

/// Returns the records that make `claim` the VM's claim; none when it is that already.
fn records(state: &State, claim: Claim, asks_for_reload: bool) -> Vec<Record> {
    let mut records = Vec::new();
    if asks_for_reload {
        records.push(Record::Reload(true));
    }
    if state.claims.get(&claim.vmid) != Some(&claim) {
        records.push(Record::Claim(Box::new(claim)));
    }
    records
}

/// Returns what begins anew when a VM that is in force already is claimed again: somebody asks for that,
/// and has the last word about what was left to somebody else or was refused too often.
fn anew(state: &State, vmid: Vmid) -> Option<Record> {
    state.claims.get(&vmid).filter(|claim| claim.is_running())?;
    let held = state.held.iter().filter_map(|(target, held)| {
        let mut next = held.clone();
        next.begin_anew().then(|| (target.clone(), next))
    });
    let held: Vec<_> = held.collect();
    (!held.is_empty()).then_some(Record::Intend(held))
}
