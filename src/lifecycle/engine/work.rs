//! One piece of work on the host under the host lock, the same for every phase and command:
//! update the claims, then settle.

use super::account::Account;
use super::debts;
use super::denied::Denied;
use super::fate::{self, Answers};
use super::journal::{Journal, NoRoom};
use super::recover;
use super::report::Report;
use super::settle::Settling;
use super::units;
use crate::domain::claim::{Claim, ClaimState, Claims, gone_offline};
use crate::domain::stage::Stage;
use crate::domain::state::{Held, Record, State};
use crate::domain::taken;
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::{Host, errand};

/// How often systemd is asked to read its unit files for one run, because other runs have written some meanwhile.
const MAX_RELOADS: usize = 3;

/// What became of a piece of work.
#[derive(Debug)]
pub enum Worked {
    /// It was done as far as the report says.
    Done(Box<Report>, State),
    /// Another run kept the host lock too long.
    Busy,
}

/// Works on the host: brings the claims up to date with what is alive, applies `update`, settles.
///
/// The host lock is not held while systemd reads its unit files again.
///
/// # Errors
/// The host cannot be worked on, or the update of the claims was denied; nothing was changed for it.
pub fn work(
    host: &Host,
    answers: &Answers,
    update: impl FnOnce(&State) -> Result<Vec<Record>, Denied>,
) -> Result<Worked, Denied> {
    let mut report = Report::default();
    let Some(mut journal) = open(host, &mut report)? else {
        return Ok(Worked::Busy);
    };
    let before = journal.state().claims.clone();
    update_claims(host, &mut journal, answers, update)?;
    let new = unproven(&journal.state().claims);
    let offline = gone_offline(&before, &journal.state().claims);
    report.warnings.extend(offline);
    report.warnings.extend(recover::ownerless(host, &journal));
    let is_first = before.is_empty() && !new.is_empty();
    if is_first || removes(&before, &journal.state().claims) {
        // Whoever kills this run in the middle, somebody has to come after it.
        units::keep_watch(host, journal.state(), &mut report);
    }
    let mut settling = Settling::new(host, &mut journal, &mut report, &new);
    let mut no_room = None;
    if kept_back(settling.settle_units(), &mut no_room)? {
        match reload(host, journal, &mut report)? {
            Some(unlocked_meanwhile) => journal = unlocked_meanwhile,
            None => return Ok(Worked::Busy),
        }
    }
    if !journal.state().needs_reload {
        let claims = journal.state().claims.clone();
        let staying = unchanged(&before, &claims);
        let mut settling = Settling::new(host, &mut journal, &mut report, &new);
        let begun = begun(&before, &claims, &new);
        if kept_back(settling.settle(&staying, &begun), &mut no_room)? {
            journal.prove(&new);
        }
    }
    if let Some((whose, reason)) = fault(&report, no_room.as_ref()) {
        let mut failed = new.clone();
        failed.retain(|vmid| whose.is_none_or(|whose| whose == *vmid));
        take_back(host, &mut journal, &mut report, &failed, &reason)?;
    }
    report.warnings.extend(no_room.filter(|_| new.is_empty()));
    journal.checkpoint(report.is_settled())?;
    let is_looked_after = !before.is_empty() && new.is_empty();
    let state = close(host, journal, &mut report, is_looked_after)?;
    Ok(Worked::Done(Box::new(report), state))
}

/// Works on the host and tells what was met besides what the work is for; returns the state afterwards, or
/// `None` when another run kept the host lock too long.
///
/// # Errors
/// As [`work`].
pub fn work_and_tell(
    host: &Host,
    account: &mut Account,
    update: impl FnOnce(&State) -> Result<Vec<Record>, Denied>,
) -> Result<Option<State>, Denied> {
    match work(host, &Answers::default(), update)? {
        Worked::Done(report, state) => {
            account.tell(&report);
            Ok(Some(state))
        }
        Worked::Busy => Ok(None),
    }
}

/// Has the claim of a VM say something else, if there is one and `changed` returns a record of it.
///
/// # Errors
/// The host cannot be worked on.
pub fn update_claim<R: Into<Option<Record>>>(
    host: &Host,
    vmid: Vmid,
    account: &mut Account,
    changed: impl FnOnce(&Claim) -> R,
) -> anyhow::Result<()> {
    work_and_tell(host, account, |now| {
        let claim = now.claims.get(&vmid);
        let record = claim.and_then(|claim| changed(claim).into());
        Ok(record.into_iter().collect())
    })?;
    Ok(())
}

/// Takes the host lock and reads the log; tells what that cannot tell.
fn open<'h>(host: &'h Host, report: &mut Report) -> anyhow::Result<Option<Journal<'h>>> {
    let opened = recover::open(host)?;
    Ok(opened.map(|(journal, told)| {
        report.warnings.extend(told);
        journal
    }))
}

/// Takes note of that settling has taken no more, because there was no room to announce it in; it
/// has not come to its end then.
fn kept_back(settled: anyhow::Result<bool>, why: &mut Option<String>) -> anyhow::Result<bool> {
    match settled {
        Err(error) if error.is::<NoRoom>() => {
            *why = Some(format!("{error:#}"));
            Ok(false)
        }
        settled => settled,
    }
}

/// Returns why claims that have just come into force cannot be fulfilled, and whose, if only one's.
fn fault(report: &Report, no_room: Option<&String>) -> Option<(Option<Vmid>, String)> {
    let problem = report.essential();
    let problem = problem.map(|problem| (problem.whose, problem.to_string()));
    problem.or_else(|| no_room.map(|why| (None, why.clone())))
}

/// Lets go of the host lock, with what is better done without it: has systemd read unit files
/// that were taken away, and tells the watching units whether they are needed.
fn close<'h>(
    host: &'h Host,
    journal: Journal<'h>,
    report: &mut Report,
    is_looked_after: bool,
) -> anyhow::Result<State> {
    let mut state = journal.state().clone();
    if let Some(mut journal) = reload(host, journal, report)? {
        journal.checkpoint(report.is_settled())?;
        state = journal.state().clone();
        if state.is_empty() {
            errand::tidy(&*host.files);
        }
    }
    if !is_looked_after || state.is_empty() {
        units::keep_watch(host, &state, report);
    }
    if report.is_unfinished {
        units::wake_reconcile(host);
    }
    Ok(state)
}

/// Brings the claims up to date with what is alive, and applies what was asked for.
fn update_claims(
    host: &Host,
    journal: &mut Journal<'_>,
    answers: &Answers,
    update: impl FnOnce(&State) -> Result<Vec<Record>, Denied>,
) -> Result<(), Denied> {
    let mut updates = fate::updates(host, journal.state(), answers)?;
    updates.extend(debts::updates(host, journal.state())?);
    let mut expected = journal.state().clone();
    for record in &updates {
        expected.apply(record.clone());
    }
    let asked = update(&expected)?;
    let claims = &journal.state().claims;
    let records = updates.into_iter().chain(asked).map(|record| match record {
        Record::Claim(claim) => {
            let old = claims.get(&claim.vmid);
            Record::Claim(Box::new(claim.in_place_of(old)))
        }
        record => record,
    });
    let mut records = records.collect();
    taken::pages(journal.state(), &mut records);
    taken::functions(journal.state(), &mut records);
    journal.append(records)?;
    Ok(())
}

/// Has systemd read its unit files again if that is due, without the host lock meanwhile.
///
/// Returns the journal with the lock held again, or `None` when another run has it too long. What
/// systemd did not do in time stays due, and so does what other runs keep writing meanwhile.
fn reload<'h>(
    host: &'h Host,
    mut journal: Journal<'h>,
    report: &mut Report,
) -> anyhow::Result<Option<Journal<'h>>> {
    for _ in 0..MAX_RELOADS {
        if !journal.state().needs_reload || report.is_unfinished {
            return Ok(Some(journal));
        }
        let state = journal.state().clone();
        drop(journal);
        units::keep_watch(host, &state, report);
        let reloaded = host.systemd.reload();
        let Some(unlocked_meanwhile) = open(host, report)? else {
            return Ok(None);
        };
        journal = unlocked_meanwhile;
        match reloaded {
            // What another run has written after systemd had looked is not read yet, and that run may be dead.
            Ok(()) if unit_files(journal.state()).eq(unit_files(&state)) => {
                journal.append(vec![Record::Reload(false)])?;
            }
            Ok(()) => {}
            Err(error) => {
                let text = format!("systemd daemon-reload failed: {error:#}");
                report.warnings.push(text);
                report.is_unfinished = true;
                // Another run may have taken its own reload for this one.
                journal.append(vec![Record::Reload(true)])?;
            }
        }
    }
    report.is_unfinished |= journal.state().needs_reload;
    Ok(Some(journal))
}

/// Returns what is remembered of unit files in hand.
fn unit_files(state: &State) -> impl Iterator<Item = (&Target, &Held)> {
    let is_file =
        |target: &Target| target.stage() == Stage::Unit || matches!(target, Target::DropIn(_));
    state.held.iter().filter(move |(target, _)| is_file(target))
}

/// Takes back what was changed for claims that have just come into force and cannot be fulfilled;
/// they stay as failed ones, so that everybody who looks is told.
fn take_back<'h>(
    host: &'h Host,
    journal: &mut Journal<'h>,
    report: &mut Report,
    failed: &[Vmid],
    reason: &str,
) -> anyhow::Result<()> {
    let mut records = Vec::new();
    for vmid in failed {
        // It may have ended while the lock was let go for systemd.
        let Some(claim) = journal.state().claims.get(vmid) else {
            continue;
        };
        if let ClaimState::Running { qemu } = claim.state {
            let state = ClaimState::Failed {
                qemu,
                reason: reason.to_owned(),
            };
            records.push(Record::changed(claim, |next| {
                next.state = state;
                next.is_unproven = false;
            }));
        }
    }
    journal.append(records)?;
    let others = journal.state().claims.clone();
    let mut undo = Report::default();
    let mut settling = Settling::new(host, journal, &mut undo, &[]);
    settling.settle(&others, &[])?;
    report.n_taken_back = undo.n_changes;
    // What time was too short for is reconcile's, as always.
    report.is_unfinished |= undo.is_unfinished;
    report.is_incomplete = !undo.problems.is_empty();
    report.problems.extend(undo.problems);
    Ok(())
}

/// Returns the claims that have come into force, or wish for something else, and were not settled
/// since.
fn unproven(claims: &Claims) -> Vec<Vmid> {
    let unproven = claims.values().filter(|claim| claim.is_unproven);
    unproven.map(|claim| claim.vmid).collect()
}

/// Returns those of the `new` claims that were not in force like this before.
fn begun(before: &Claims, after: &Claims, new: &[Vmid]) -> Vec<Vmid> {
    let continues = |vmid: &Vmid| {
        let (old, now) = (before.get(vmid), after.get(vmid));
        old.zip(now).is_some_and(|(old, now)| now.continues(old))
    };
    let begun = new.iter().filter(|vmid| !continues(vmid));
    begun.copied().collect()
}

/// Tells whether devices are going to be removed: only the units bring them back after a death.
fn removes(before: &Claims, after: &Claims) -> bool {
    let is_away = |claim: &Claim| !claim.away().is_empty();
    let mut away = after.iter().filter(|(_, claim)| is_away(claim));
    away.any(|(vmid, _)| !before.get(vmid).is_some_and(is_away))
}

/// Returns the claims that are as they were before; one that is about to end gives nothing back yet, and one
/// whose CPUs went offline nothing at all.
fn unchanged(before: &Claims, after: &Claims) -> Claims {
    let same = after.iter().filter(|(vmid, claim)| {
        let old = before.get(vmid).map(|old| Claim {
            ending: claim.ending,
            stopper: claim.stopper,
            offline: claim.offline.clone(),
            ..old.clone()
        });
        old.as_ref() == Some(claim)
    });
    same.map(|(vmid, claim)| (*vmid, claim.clone())).collect()
}
