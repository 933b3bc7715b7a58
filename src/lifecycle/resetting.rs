//! Resetting the devices of a VM before PVE takes them, where its table asks for that.
//!
//! The claim says which functions are being reset and how, so that a run that dies leaves nothing
//! behind: with the claim goes the wish for the method. The reset itself is done by a child in a
//! unit of its own, under a lock of its own: the host lock is not held meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::account::Account;
use super::devices::Devices;
use super::fate::Answers;
use super::phase::Run;
use super::resolve::Case;
use super::work::{Worked, work};
use crate::domain::claim::Claim;
use crate::domain::pci::reset::{NoReset, flr};
use crate::domain::refusal::Refusal;
use crate::domain::state::Record;
use crate::domain::table::PciReset;
use crate::domain::vm::Vmid;
use crate::host::pci::{self, DEVICES};
use crate::host::slow::{self, Ended, Write};

/// Held by whoever resets devices: the kernel does not survive two at once everywhere.
const LOCK: &str = "/run/pin-hook/pci.lock";
/// How long another run's reset is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Functions that are to be reset, by address: key in the VM's configuration and method.
pub type Resets = BTreeMap<String, (String, &'static str)>;

/// Returns the functions of a VM that its table wants reset, with the method for each.
///
/// # Errors
/// One of them is needed by others, or must not or cannot be reset.
pub fn wanted(case: &Case, devices: &Devices) -> Result<Resets, Refusal> {
    if case.table.pci.reset != PciReset::Flr {
        return Ok(Resets::new());
    }
    devices.check()?;
    let mut resets = Resets::new();
    for (asked, functions) in devices.chosen() {
        // The parent of a mediated device stays with the host, and so does what keeps its driver.
        if asked.mdev.is_some() || asked.keeps_driver {
            continue;
        }
        for address in functions {
            let function = devices.bus.get(address);
            let method = function.map_or(Err(NoReset::Gone), flr);
            let method = method.map_err(|why| no_reset(&asked.key, address, why))?;
            resets.insert(address.clone(), (asked.key.clone(), method));
        }
    }
    Ok(resets)
}

fn no_reset(key: &str, address: &str, why: NoReset) -> Refusal {
    Refusal::NoReset {
        key: key.to_owned(),
        address: address.to_owned(),
        why,
    }
}

impl Run<'_> {
    /// Returns the functions that the start of a VM resets; see [`wanted`].
    pub(super) fn resets(&self, case: &Case) -> Result<Resets, Refusal> {
        match case.table.pci.reset {
            PciReset::None => Ok(Resets::new()),
            _ => wanted(case, &Devices::read(self.host, case.vmid, &case.guest, &[])),
        }
    }

    /// Resets the functions of a VM that has just reserved its CPUs; when that fails the claim is
    /// ended, because a refused start changes nothing.
    pub(super) fn reset(
        &self,
        vmid: Vmid,
        resets: &Resets,
        account: &mut Account,
    ) -> anyhow::Result<Result<(), Refusal>> {
        if resets.is_empty() {
            return Ok(Ok(()));
        }
        let methods = resets.iter();
        let methods = methods.map(|(address, (_, method))| (address.clone(), (*method).to_owned()));
        self.announce(vmid, Some(methods.collect()), account)?;
        let done = self.reset_each(vmid, resets);
        self.announce(vmid, done.is_ok().then(BTreeMap::new), account)?;
        if done.is_ok() {
            for (address, (key, method)) in resets {
                account.info(format!("vm {vmid}: {key} ({address}) reset ({method})"));
            }
        }
        Ok(done)
    }

    /// Has the claim say what is being reset; `None` ends it.
    fn announce(
        &self,
        vmid: Vmid,
        resets: Option<BTreeMap<String, String>>,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let changed = |claim: &Claim| match resets {
            None => Record::End(vmid),
            Some(resets) => Record::Claim(Box::new(Claim {
                resets,
                ..claim.clone()
            })),
        };
        let worked = work(self.host, self.deadline, &Answers::default(), |now| {
            let claim = now.claims.get(&vmid);
            Ok(Ok::<_, Refusal>(claim.map(changed).into_iter().collect()))
        })?;
        if let Worked::Done(report, _) = &worked {
            account.tell(report);
        }
        Ok(())
    }

    fn reset_each(&self, vmid: Vmid, resets: &Resets) -> Result<(), Refusal> {
        let Some((first, (key, _))) = resets.iter().next() else {
            return Ok(());
        };
        let failed = |why: String| no_reset(key, first, NoReset::Failed(why));
        let wait = LOCK_WAIT.min(self.deadline.remaining());
        let lock = self.host.files.lock(LOCK, wait);
        let lock = lock.map_err(|error| failed(format!("{LOCK}: {error}")))?;
        let _lock =
            lock.ok_or_else(|| failed("another vm's devices are being reset".to_owned()))?;
        self.look_again(vmid, resets)?;
        let writes: Vec<Write> = resets
            .keys()
            .map(|address| Write {
                path: format!("{DEVICES}/{address}/reset"),
                text: "1".to_owned(),
            })
            .collect();
        let name = format!("pci-{vmid}");
        let ended = slow::run(self.host, &name, &writes, self.deadline.remaining());
        let answers = match ended {
            Ok(Ended::Done(answers)) => answers,
            Ok(Ended::Late) => return Err(failed(slow::late(&name).to_string())),
            Err(error) => return Err(failed(error.to_string())),
        };
        answers_of(resets, answers)
    }

    /// Looks at each function once more, right before it is reset: it must be the one that was
    /// judged, still without a driver of the host, and allow the method alone.
    fn look_again(&self, vmid: Vmid, resets: &Resets) -> Result<(), Refusal> {
        let state = super::journal::read_state(&*self.host.files);
        let claim = state.ok().and_then(|mut state| state.claims.remove(&vmid));
        let known = claim.map(|claim| claim.devices).unwrap_or_default();
        for (address, (key, method)) in resets {
            let refuse = |why| Err(no_reset(key, address, why));
            let Some(function) = pci::function(&*self.host.files, address) else {
                return refuse(NoReset::Gone);
            };
            let model = known.get(address).unwrap_or(&function.model);
            if *model != function.model {
                return refuse(NoReset::Changed(model.clone(), function.model));
            }
            if let Err(why) = flr(&function) {
                return refuse(why);
            }
            if function.reset_methods != [*method] {
                let text = format!("method {method} cannot be chosen");
                return refuse(NoReset::Failed(text));
            }
        }
        Ok(())
    }
}

fn answers_of(resets: &Resets, answers: Vec<io::Result<()>>) -> Result<(), Refusal> {
    for ((address, (key, _)), answer) in resets.iter().zip(answers) {
        answer.map_err(|error| no_reset(key, address, NoReset::Failed(error.to_string())))?;
    }
    Ok(())
}
