//! What becomes of a claim: promoted, kept or ended, by what is alive.
//!
//! A claim follows the QEMU process. Which phase PVE calls, and whether it calls one at all, only
//! decides when that is looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use super::at_work;
use crate::domain::claim::{Claim, ClaimState};
use crate::domain::cpuset::CpuSet;
use crate::domain::state::{Record, State};
use crate::domain::vm::{TaskId, Vmid};
use crate::host::{Host, pve, target, task};

/// Run state of a QEMU whose guest runs.
pub const GUEST_RUNS: &str = "running";

/// What monitors answered before the host lock was taken.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Run state by VM.
    pub run_states: BTreeMap<Vmid, String>,
    /// Iothread objects by VM: thread id and object id.
    pub iothreads: BTreeMap<Vmid, BTreeMap<i32, String>>,
}

/// Asks the monitors of the VMs whose claims cannot be judged without them.
///
/// Never during a start: a VM whose starter is still at work is left alone, because PVE needs the
/// monitor and it serves one client at a time.
pub fn ask_monitors(host: &Host, state: &State) -> Answers {
    let mut answers = Answers::default();
    for claim in state.claims.values() {
        let is_started = match &claim.state {
            ClaimState::Reserved { .. } => !is_starting(host, claim),
            ClaimState::Waiting { .. } => true,
            _ => false,
        };
        let is_up = || pve::running(&*host.files, claim.vmid).is_ok_and(|qemu| qemu.is_some());
        if is_started && is_up() {
            answers.ask_run_state(host, claim.vmid);
        }
        if claim.is_running() && lacks_iothreads(host, claim) {
            answers.ask_iothreads(host, claim.vmid);
        }
    }
    answers
}

/// Tells whether a claim is in force and was settled to the end.
pub fn is_settled(claim: &Claim) -> bool {
    claim.is_running() && !claim.is_unproven && claim.standby.is_none()
}

/// Asks the monitor of a running VM which iothread is which, if there is one that nobody has named yet.
pub fn ask_names(host: &Host, claim: &Claim) -> Answers {
    let mut answers = Answers::default();
    if lacks_iothreads(host, claim) {
        answers.ask_iothreads(host, claim.vmid);
    }
    answers
}

impl Answers {
    /// Asks for the run state; a monitor that does not answer leaves it unknown.
    pub fn ask_run_state(&mut self, host: &Host, vmid: Vmid) {
        if let Ok(state) = host.qmp.run_state(vmid) {
            self.run_states.insert(vmid, state);
        }
    }

    /// Asks for the iothreads.
    pub fn ask_iothreads(&mut self, host: &Host, vmid: Vmid) {
        if let Ok(iothreads) = host.qmp.iothreads(vmid) {
            let names = iothreads.into_iter().map(|(id, tid)| (tid, id)).collect();
            self.iothreads.insert(vmid, names);
        }
    }
}

/// Returns the records that bring the claims up to date with what is alive.
pub fn updates(host: &Host, state: &State, answers: &Answers) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    let online = target::online(host).ok();
    for claim in state.claims.values() {
        match next_state(host, claim, answers)? {
            // Its devices have to be brought back first.
            None if !claim.away().is_empty() => {}
            None => records.push(Record::End(claim.vmid)),
            Some(next) => {
                let names = answers.iothreads.get(&claim.vmid);
                let iothreads = names.unwrap_or(&claim.iothreads).clone();
                let is_there = |stopper| task::alive(&*host.files, stopper);
                let is_stopped = claim.stopper.is_none_or(is_there);
                let is_awaited = |until: &Duration| is_stopped && host.clock.since_boot() < *until;
                let ending = claim.ending.filter(is_awaited);
                let mut next = Claim {
                    state: next,
                    iothreads,
                    ending,
                    stopper: claim.stopper.filter(|_| ending.is_some()),
                    ..claim.clone()
                };
                next.offline = offline(host, state, &next, online.as_ref());
                if next != *claim {
                    records.push(Record::Claim(Box::new(next)));
                }
            }
        }
    }
    Ok(records)
}

/// Returns the CPUs that a VM lacks because somebody has taken them offline. While a child may still be
/// taking some offline and back for us, nothing is known of that.
fn offline(host: &Host, state: &State, claim: &Claim, online: Option<&CpuSet>) -> CpuSet {
    let known = || claim.offline.clone();
    let Some(online) = online else { return known() };
    match claim.offline_now(online, &state.taken_offline()) {
        cpus if !cpus.is_empty() && at_work::is_scrub(host) => known(),
        cpus => cpus,
    }
}

/// Returns the state that a claim has from now on, or `None` when its run is over.
fn next_state(host: &Host, claim: &Claim, answers: &Answers) -> anyhow::Result<Option<ClaimState>> {
    let run_state = answers.run_states.get(&claim.vmid);
    // One that stands by is given its CPUs by an adoption: others may have them by now.
    let guest_runs = claim.standby.is_none() && run_state.is_some_and(|state| state == GUEST_RUNS);
    let next = match &claim.state {
        ClaimState::Reserved { .. } if is_starting(host, claim) => Some(claim.state.clone()),
        ClaimState::Reserved { .. } => {
            let qemu = pve::running(&*host.files, claim.vmid)?;
            qemu.map(|qemu| state_of(qemu, guest_runs))
        }
        ClaimState::Waiting { qemu } if task::is_process(&*host.files, *qemu) => {
            Some(state_of(*qemu, guest_runs))
        }
        ClaimState::Running { qemu } | ClaimState::Failed { qemu, .. }
            if task::is_process(&*host.files, *qemu) =>
        {
            Some(claim.state.clone())
        }
        _ => None,
    };
    Ok(next)
}

/// Returns the state of a claim whose QEMU is up.
pub fn state_of(qemu: TaskId, guest_runs: bool) -> ClaimState {
    match guest_runs {
        true => ClaimState::Running { qemu },
        false => ClaimState::Waiting { qemu },
    }
}

/// Tells whether a reserved VM is still being started.
fn is_starting(host: &Host, claim: &Claim) -> bool {
    match &claim.state {
        ClaimState::Reserved { starter, deadline } => {
            task::alive(&*host.files, *starter) && host.clock.since_boot() < *deadline
        }
        _ => false,
    }
}

/// Tells whether a VM whose table names iothreads has one that nobody has named yet.
///
/// QEMU calls such threads `IO <object id>`, where that fits into 15 characters. PVE's ids do not:
/// such a thread is called as QEMU itself, and its monitor has to tell which one it is.
fn lacks_iothreads(host: &Host, claim: &Claim) -> bool {
    let Some(qemu) = claim.qemu().filter(|_| !claim.wishes.iothreads.is_empty()) else {
        return false;
    };
    let tasks = task::tasks_of(&*host.files, qemu.tid).unwrap_or_default();
    let main = tasks.iter().find(|task| task.id.tid == qemu.tid);
    let name = main.map_or("", |main| main.comm.as_str());
    let mut iothreads = tasks.iter().filter(|task| {
        task.comm.starts_with("IO ") || task.comm == name && task.id.tid != qemu.tid
    });
    iothreads.any(|task| !claim.iothreads.contains_key(&task.id.tid))
}
