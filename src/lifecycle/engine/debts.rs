//! Starting VMs again that made room: when it is due, by whom it is cancelled, and the start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::account::Account;
use crate::domain::debt::{
    Debt, GRACE, Owner, Seen, Verdict, starting_unit, starting_units, stopping_units,
};
use crate::domain::state::{Record, State};
use crate::domain::vm::Vmid;
use crate::host::systemd::Job;
use crate::host::{Host, cluster, pve, task};

/// What is asked before the host lock is taken, because systemd may take its time.
#[derive(Debug, Default)]
pub struct Due {
    /// Whether the host goes down.
    is_stopping: bool,
    /// VMs that can be judged, and whether they are being shut down or started for us.
    at_work: BTreeMap<Vmid, bool>,
}

/// Returns the records that bring the debts up to date with what is alive.
pub fn updates(host: &Host, state: &State) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for debt in state.debts.values() {
        let qemu = pve::running(&*host.files, debt.vmid)?;
        if qemu.is_some_and(|qemu| qemu != debt.stopped) {
            records.push(Record::Paid(debt.vmid));
            continue;
        }
        let next = debt.updated(
            |vmid, owner| next_owner(host, vmid, owner),
            host.clock.since_boot() + GRACE,
        );
        // Who shuts everything down does not want anything started.
        if next.due.is_some() && pve::stops_all(&*host.files) {
            records.push(Record::Paid(debt.vmid));
        } else if next != *debt {
            records.push(Record::Debt(Box::new(next)));
        }
    }
    Ok(records)
}

/// Returns how far a VM is that needs the room, or `None` when it has ended.
fn next_owner(host: &Host, vmid: Vmid, owner: Owner) -> Option<Owner> {
    match owner {
        Owner::Running { qemu } => task::is_process(&*host.files, qemu).then_some(owner),
        Owner::Starting { starter, deadline } => {
            if let Ok(Some(qemu)) = pve::running(&*host.files, vmid) {
                return Some(Owner::Running { qemu });
            }
            let is_starting =
                task::alive(&*host.files, starter) && host.clock.since_boot() < deadline;
            is_starting.then_some(owner)
        }
    }
}

/// Returns the records by which VMs let go of the room that was made for them: `vmid`, or with
/// `None` all of them. What nobody needs any more is due at once.
pub fn let_go(state: &State, vmid: Option<Vmid>, now: Duration) -> Vec<Record> {
    let debts = state.debts.values().filter_map(|debt| {
        let is_theirs = |owner: &Vmid| vmid.is_none_or(|vmid| vmid == *owner);
        let last = debt.owners.keys().all(is_theirs);
        let was_owed = vmid.is_none_or(|vmid| debt.owners.contains_key(&vmid));
        let next = debt.updated(|owner, how| (!is_theirs(&owner)).then_some(how), now);
        let due = if last { Some(now) } else { next.due };
        (was_owed).then(|| Record::Debt(Box::new(Debt { due, ..next })))
    });
    debts.collect()
}

/// Asks systemd what has to be known for the debts that are due.
pub fn ask(host: &Host, state: &State) -> Due {
    let now = host.clock.since_boot();
    let due: Vec<&Debt> = state.debts.values().filter(|d| d.is_due(now)).collect();
    if due.is_empty() {
        return Due::default();
    }
    // One that does not answer is not asked to start anything either.
    let Ok(is_stopping) = host.systemd.is_stopping() else {
        return Due::default();
    };
    let is_active = |units: String| host.systemd.is_any_active(&units).unwrap_or(true);
    let at_work = |vmid| is_active(stopping_units(vmid)) || is_active(starting_units(vmid));
    Due {
        is_stopping,
        at_work: due
            .into_iter()
            .map(|debt| (debt.vmid, at_work(debt.vmid)))
            .collect(),
    }
}

/// Starts the VMs that are due, and returns the records that say so.
///
/// Done under the host lock: no start of a VM that needs the room can come in between. A death
/// before the records are written leaves a VM that runs, which cancels its debt.
pub fn pay(
    host: &Host,
    state: &State,
    asked: &Due,
    account: &mut Account,
) -> anyhow::Result<Vec<Record>> {
    let now = host.clock.since_boot();
    let mut records = Vec::new();
    for (vmid, is_at_work) in &asked.at_work {
        let Some(debt) = state.debts.get(vmid) else {
            continue;
        };
        if asked.is_stopping {
            records.push(Record::Paid(*vmid));
            continue;
        }
        match debt.verdict(&see(host, *vmid, *is_at_work)?, now) {
            Verdict::Wait => continue,
            Verdict::Cancel(why) => {
                account.info(format!("vm {vmid} is not started again: {why}"));
            }
            Verdict::Pay => match host.systemd.run(&job(*vmid, now)) {
                Ok(()) => account.info(format!("vm {vmid} is being started again")),
                Err(error) => {
                    account.warn(format!("vm {vmid} cannot be started again: {error:#}"));
                    continue;
                }
            },
        }
        records.push(Record::Paid(*vmid));
    }
    Ok(records)
}

fn see(host: &Host, vmid: Vmid, is_at_work: bool) -> anyhow::Result<Seen> {
    let files = &*host.files;
    let guest = pve::guest_of(files, vmid, "")?.filter(|guest| !guest.template);
    Ok(Seen {
        is_here: guest.is_some(),
        qemu: pve::running(files, vmid)?,
        lock: guest.and_then(|guest| guest.lock),
        is_ha: cluster::is_ha(files, vmid)?,
        is_at_work,
    })
}

fn job(vmid: Vmid, now: Duration) -> Job {
    Job {
        unit: starting_unit(vmid, now),
        description: format!("start vm {vmid} again, after it made room for another one"),
        path: pve::QM.to_owned(),
        arguments: vec!["start".to_owned(), vmid.to_string()],
        limit: None,
        spares: true,
    }
}

/// Tells what is going to be started because a VM has ended.
pub fn announce(host: &Host, state: &State, account: &mut Account) {
    let now = host.clock.since_boot();
    for debt in state.debts.values() {
        if let Some(due) = debt.due {
            let seconds = due.saturating_sub(now).as_secs();
            let vmid = debt.vmid;
            account.info(format!(
                "vm {vmid} made room and will be started again in {seconds} s"
            ));
        }
    }
}
