//! Finishing what a run has begun that died or gave up: functions that it has removed come back.
//!
//! As long as a claim says that functions are away it does not end, whatever has become of its VM:
//! drivers would take them. Only reconcile comes here, because a rescan takes its time.

use std::time::Duration;

use super::away::{self, Away, await_udev, check_rivals, is_probing_off, missing, return_writes};
use super::wanted::no_reset;
use crate::domain::claim::Claim;
use crate::domain::pci::bus_of;
use crate::domain::pci::reset::NoReset;
use crate::domain::state::{Record, State};
use crate::domain::vm::Vmid;
use crate::host::errand::{Ended, Errand};
use crate::host::{Host, task};
use crate::lifecycle::devices::waiting::{LOCK, LOCK_WAIT, PAUSE, time_left};
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::work_and_tell;

/// How long what was removed is waited for.
const BACK_WAIT: Duration = Duration::from_secs(10);

impl Run<'_> {
    /// Brings back the functions that claims say are away, unless a run is still at it, and lets the
    /// claims go on, or end with their VM.
    pub(in crate::lifecycle) fn bring_back(
        &self,
        known: &State,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        if known.claims.values().all(|claim| claim.away().is_empty()) {
            return Ok(());
        }
        let wait = LOCK_WAIT.min(self.host.left());
        let Some(_lock) = self.host.files.lock(LOCK, wait)? else {
            return Ok(());
        };
        // Whoever had the lock may have finished it.
        let state = read_state(&*self.host.files)?;
        let mut done = Vec::new();
        for claim in state.claims.values() {
            let away = claim.away();
            if !away.is_empty() && self.bring_back_of(claim, &away, account)? {
                done.push(claim.vmid);
            }
        }
        if done.is_empty() {
            return Ok(());
        }
        await_udev(self.host);
        work_and_tell(self.host, account, |now| {
            let claims = done.iter().filter_map(|vmid| now.claims.get(vmid));
            let records = claims.map(|claim| brought_back(self.host, claim));
            Ok(records.collect())
        })?;
        Ok(())
    }

    /// Brings back what an earlier start of a VM has removed, before it is started again.
    ///
    /// # Errors
    /// The host cannot be worked on, or something stays away.
    pub(in crate::lifecycle) fn bring_back_own(
        &self,
        vmid: Vmid,
        account: &mut Account,
    ) -> Result<(), Denied> {
        let away = || {
            let state = read_state(&*self.host.files)?;
            let claim = state.claims.get(&vmid);
            let away = claim.map(Claim::away).unwrap_or_default();
            Ok::<_, anyhow::Error>((state, away))
        };
        let (state, before) = away()?;
        if before.is_empty() {
            return Ok(());
        }
        self.bring_back(&state, account)?;
        let (_, left) = away()?;
        match left.into_keys().next() {
            Some(address) => {
                let why = NoReset::Failed("an earlier start has not brought it back".to_owned());
                Err(no_reset("hostpci", &address, why).into())
            }
            None => Ok(()),
        }
    }

    /// Brings back the functions of one claim; tells whether nothing more is to be done about them.
    fn bring_back_of(
        &self,
        claim: &Claim,
        away: &Away,
        account: &mut Account,
    ) -> anyhow::Result<bool> {
        let (vmid, host) = (claim.vmid, self.host);
        let late = |errand: &Errand| format!("vm {vmid}: {}", errand.late());
        if let Some(errand) = self.child_at_work(claim, away)? {
            account.warn(late(&errand));
            return Ok(false);
        }
        let lost = missing(host, away);
        if let Some(why) = self.danger(&lost) {
            let help = "fix that, then run pin-hook reconcile to bring it back".to_owned();
            let text = format!("vm {vmid}: {} is away: {why}", list(&lost));
            account.fail(Exit::Incomplete, text, help);
            return Ok(false);
        }
        // Also when all are there: the run may have died before they were what they had been.
        let wait = time_left(self.host);
        let errand = at_work::of_return(vmid, return_writes(away));
        if let Ended::Late = errand.run(host, wait)? {
            account.warn(late(&errand));
            return Ok(false);
        }
        let wait = BACK_WAIT.min(time_left(self.host));
        host.wait_until(wait, PAUSE, || missing(host, away).is_empty());
        tell(claim, &lost, &missing(host, away), account);
        Ok(true)
    }

    /// Lets the children of the run that died come to their end; returns the one that does not.
    fn child_at_work(&self, claim: &Claim, away: &Away) -> anyhow::Result<Option<Errand>> {
        let resetting = away::errand(claim.vmid, claim.resets.iter(), away);
        let returning = at_work::of_return(claim.vmid, return_writes(away));
        for errand in [resetting, returning] {
            let wait = BACK_WAIT.min(time_left(self.host));
            let is_late = errand.join(self.host, wait)?;
            if is_late || errand.is_at_work(self.host)? {
                return Ok(Some(errand));
            }
        }
        Ok(None)
    }

    /// Returns why a rescan would give a driver of the host what comes back.
    fn danger(&self, lost: &Away) -> Option<String> {
        if lost.is_empty() {
            return None;
        }
        if !is_probing_off(self.host) {
            return Some("something else has switched drivers_autoprobe on".to_owned());
        }
        let rivals = lost.values();
        let mut rivals = rivals.filter_map(|before| check_rivals(self.host, before).err());
        rivals.next().map(|why| why.to_string())
    }
}

fn list(away: &Away) -> String {
    let addresses: Vec<&str> = away.keys().map(String::as_str).collect();
    addresses.join(", ")
}

fn tell(claim: &Claim, lost: &Away, missing: &Away, account: &mut Account) {
    let vmid: Vmid = claim.vmid;
    for address in lost.keys() {
        let model = claim.devices.get(address).map_or("?", String::as_str);
        if missing.contains_key(address) {
            let bus = bus_of(address);
            let text = format!("vm {vmid}: {address} ({model}) was removed and has not reappeared");
            let help = format!(
                "try echo 1 > /sys/class/pci_bus/{bus}/rescan; if that fails, power the host off \
                 and on"
            );
            account.fail(Exit::Incomplete, text, help);
        } else {
            account.info(format!("vm {vmid}: {address} ({model}) is back"));
        }
    }
}

/// Returns what becomes of a claim whose functions have come back: that of a run which is over ends.
fn brought_back(host: &Host, claim: &Claim) -> Record {
    let is_there = |qemu| task::is_process(&*host.files, qemu);
    match claim.qemu().is_some_and(is_there) {
        true => Record::changed(claim, |next| next.resets.clear()),
        false => Record::End(claim.vmid),
    }
}
