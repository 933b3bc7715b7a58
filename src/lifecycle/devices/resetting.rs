//! Resetting the devices of a VM before PVE takes them, where its table asks for that.
//!
//! The claim says which functions are being reset and how, so that a run that dies leaves nothing
//! behind: with the claim goes the wish for the method. The reset itself is done by a child in a
//! unit of its own, under a lock of its own: the host lock is not held meanwhile. A function that was
//! removed is brought back by whoever comes next ([`back`]).
//!
//! What was removed comes back with other numbers of interrupts. What could be set of it is set again as far as
//! [`ATTRIBUTES`](crate::domain::pci::anew::ATTRIBUTES) goes; the rest begins anew.

mod away;
mod back;
mod wanted;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use self::away::{Away, await_udev, away, is_probing_off, missing, return_writes};
pub use self::wanted::{Resets, Way, no_reset, wanted};
use super::waiting::{PAUSE, time_left};
use crate::domain::pci::Function;
use crate::domain::pci::anew::{self, Reset};
use crate::domain::pci::reset::{NoReset, check, flr};
use crate::domain::refusal::Refusal;
use crate::domain::state::Record;
use crate::domain::vm::Vmid;
use crate::host::errand::{Ended, Errand};
use crate::host::pci;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::units;
use crate::lifecycle::engine::work::update_claim;

/// Why a reset came to no good end.
enum Halt {
    /// Nothing is left to do about it.
    Refused(Refusal),
    /// Functions may be away.
    Open(Refusal),
}

impl Run<'_> {
    /// Resets the functions of a VM that is being started; the lock of the devices is held. When that
    /// fails the claim is ended, unless functions are away.
    pub(in crate::lifecycle) fn reset(
        &self,
        vmid: Vmid,
        resets: &Resets,
        account: &mut Account,
    ) -> Result<(), Denied> {
        if resets.is_empty() {
            return Ok(());
        }
        let begun = resets.iter();
        let begun = begun.map(|(address, way)| (address.clone(), way.reset.clone()));
        self.announce(vmid, begun.collect(), account)?;
        match self.reset_each(vmid, resets) {
            Ok(()) => {
                self.announce(vmid, returned(resets), account)?;
                for (address, way @ Way { key, .. }) in resets {
                    let way = way.in_words();
                    account.info(format!("vm {vmid}: {key} ({address}) reset ({way})"));
                }
                Ok(())
            }
            Err(Halt::Refused(refusal)) => {
                update_claim(self.host, vmid, account, |_| Record::End(vmid))?;
                Err(refusal.into())
            }
            Err(Halt::Open(refusal)) => {
                units::wake_reconcile(self.host);
                Err(refusal.into())
            }
        }
    }

    /// Has the claim say what is being reset.
    fn announce(
        &self,
        vmid: Vmid,
        resets: BTreeMap<String, Reset>,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        update_claim(self.host, vmid, account, |claim| {
            Record::changed(claim, |next| next.resets = resets)
        })
    }

    fn reset_each(&self, vmid: Vmid, resets: &Resets) -> Result<(), Halt> {
        self.look_again(vmid, resets).map_err(Halt::Refused)?;
        let away = away_of(resets);
        let halt = |refusal| match away.is_empty() {
            true => Halt::Refused(refusal),
            false => Halt::Open(refusal),
        };
        let ways = resets.iter().map(|(address, way)| (address, &way.reset));
        let answers = self.answers(&away::errand(vmid, ways, &away));
        let answers = answers.map_err(|why| halt(refused(resets, NoReset::Failed(why))))?;
        let is_whole = answers.iter().all(io::Result::is_ok);
        answers_of(resets, answers).map_err(halt)?;
        if away.is_empty() {
            return Ok(());
        }
        self.await_back(vmid, resets, &away)?;
        if !is_whole {
            // The child was killed, or too early. What comes of it shows in sysfs.
            let _ = self.answers(&at_work::of_return(vmid, return_writes(&away)));
        }
        await_udev(self.host);
        self.look_at_returned(vmid, resets, &away)
    }

    /// Returns what the kernel answered to a child, or why there is no answer.
    fn answers(&self, errand: &Errand) -> Result<Vec<io::Result<()>>, String> {
        // What came of it has to be told, and given back.
        let ended = errand.run(self.host, time_left(self.host));
        match ended.map_err(|error| error.to_string())? {
            Ended::Done(answers) => Ok(answers),
            Ended::Late => Err(errand.late().to_string()),
        }
    }

    /// Waits until every function is back; some need a moment and one more rescan.
    fn await_back(&self, vmid: Vmid, resets: &Resets, away: &Away) -> Result<(), Halt> {
        let clock = &self.host.clock;
        let until = clock.since_boot() + time_left(self.host);
        let mut took = Duration::ZERO;
        loop {
            let missing = missing(self.host, away);
            let Some(address) = missing.keys().next() else {
                return Ok(());
            };
            // One that is cut short would be taken for a kernel that does not answer.
            if clock.since_boot() + PAUSE + 2 * took >= until {
                let model = self
                    .model_of(vmid, address)
                    .ok()
                    .flatten()
                    .unwrap_or_default();
                let key = &resets[address].key;
                return Err(Halt::Open(no_reset(key, address, NoReset::NotBack(model))));
            }
            clock.wait_for_end(&[], PAUSE);
            let errand = at_work::of_return(vmid, return_writes(&missing));
            let begun = clock.since_boot();
            let answers = self.answers(&errand);
            took = clock.since_boot().saturating_sub(begun);
            // What has come of it shows in sysfs.
            answers.map_err(|why| Halt::Open(refused(resets, NoReset::Failed(why))))?;
        }
    }

    /// Looks at each function once more, right before it is reset: it must be the one that was
    /// judged, still without a driver of the host, and be reset as was chosen and not otherwise.
    fn look_again(&self, vmid: Vmid, resets: &Resets) -> Result<(), Refusal> {
        for (address, way) in resets {
            let refuse = |why| Err(no_reset(&way.key, address, why));
            let function = match self.same_function(vmid, address) {
                Ok(function) => function,
                Err(why) => return refuse(why),
            };
            let unready = match &way.reset {
                Reset::By(method) => match flr(&function) {
                    Err(why) => return refuse(why),
                    Ok(_) if function.reset_methods == [method.as_str()] => continue,
                    Ok(_) => format!("the kernel does not take method {method} alone"),
                },
                _ => match away(self.host, address, &function) {
                    Err(why) => return refuse(why),
                    Ok(_)
                        if is_probing_off(self.host)
                            && pci::is_kept(&*self.host.files, address) =>
                    {
                        continue;
                    }
                    Ok(_) => "host drivers cannot be kept off".to_owned(),
                },
            };
            return refuse(NoReset::Unready(unready));
        }
        Ok(())
    }

    /// Looks at what has come back: it must be what was removed, and nobody's.
    fn look_at_returned(&self, vmid: Vmid, resets: &Resets, away: &Away) -> Result<(), Halt> {
        for address in away.keys() {
            let key = &resets[address].key;
            let found = self.same_function(vmid, address);
            let found = found.and_then(|function| check(&function));
            found.map_err(|why| Halt::Refused(no_reset(key, address, why)))?;
            if !pci::is_kept(&*self.host.files, address) {
                let why = "host drivers cannot be kept off".to_owned();
                return Err(Halt::Open(no_reset(key, address, NoReset::Unready(why))));
            }
        }
        Ok(())
    }

    /// Returns the function at an address, if it is the one that was judged.
    fn same_function(&self, vmid: Vmid, address: &str) -> Result<Function, NoReset> {
        let function = pci::function(&*self.host.files, address).ok_or(NoReset::Gone)?;
        match self.model_of(vmid, address)? {
            Some(model) if model != function.model => Err(NoReset::Changed(model, function.model)),
            _ => Ok(function),
        }
    }

    /// Returns the model of a function as the claim of a VM says it.
    fn model_of(&self, vmid: Vmid, address: &str) -> Result<Option<String>, NoReset> {
        let state = read_state(&*self.host.files);
        let state = state.map_err(|error| NoReset::Failed(format!("{error:#}")))?;
        let claim = state.claims.get(&vmid);
        Ok(claim.and_then(|claim| claim.devices.get(address).cloned()))
    }
}

fn away_of(resets: &Resets) -> Away {
    anew::away(resets.iter().map(|(address, way)| (address, &way.reset)))
}

/// Returns what the claim says when all are reset: those that have come back wait for PVE.
fn returned(resets: &Resets) -> BTreeMap<String, Reset> {
    let away = away_of(resets).into_keys();
    away.map(|address| (address, Reset::Back)).collect()
}

fn refused(resets: &Resets, why: NoReset) -> Refusal {
    let first = resets.iter().next();
    let (address, key) = first.map_or(("", ""), |(address, way)| (address, &way.key));
    no_reset(key, address, why)
}

fn answers_of(resets: &Resets, answers: Vec<io::Result<()>>) -> Result<(), Refusal> {
    for ((address, Way { key, .. }), answer) in resets.iter().zip(answers) {
        answer.map_err(|error| no_reset(key, address, NoReset::Failed(error.to_string())))?;
    }
    Ok(())
}
