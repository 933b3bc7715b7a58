//! What a start does to the devices of its VM before PVE takes them: they are bound, then reset.

use std::io;

use crate::domain::pci::VFIO;
use crate::domain::pci::binding::{Lent, NoBinding, lent};
use crate::domain::pci::reset::NoReset;
use crate::domain::refusal::Refusal;
use crate::domain::state::Record;
use crate::domain::table::Table;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::devices::binding::{self, Bindings, no_binding};
use crate::lifecycle::devices::resetting::{self, Resets, no_reset};
use crate::lifecycle::devices::waiting;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::update_claim;

/// What is done to the devices of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Functions that are bound to vfio-pci.
    pub bindings: Bindings,
    /// Functions that are reset after that.
    pub resets: Resets,
}

/// Returns what the table of a VM wants done to its devices; `lent` are those that go back some time.
///
/// # Errors
/// That must not be done, or cannot be.
pub fn wanted(
    host: &Host,
    table: &Table,
    devices: &Devices,
    lent: &[Lent],
) -> Result<Preparation, Refusal> {
    if table.pci.touches_devices() {
        devices.check()?;
    }
    let bindings = binding::wanted(table, devices, lent)?;
    let mut bound = devices.clone();
    for (address, function) in &mut bound.bus {
        if bindings.contains_key(address) {
            function.driver = Some(VFIO.to_owned());
        }
    }
    let resets = resetting::wanted(host, table, &bound)?;
    Ok(Preparation { bindings, resets })
}

impl Preparation {
    /// Returns the refusal of a start that cannot have the lock of the devices.
    fn refused(&self, error: Option<io::Error>) -> Option<Refusal> {
        let why = error.map(|error| format!("{}: {error}", waiting::LOCK));
        if let Some((address, way)) = self.resets.iter().next() {
            let why = why.map_or(NoReset::Busy, NoReset::Failed);
            return Some(no_reset(&way.key, address, why));
        }
        let (address, binding) = self.bindings.iter().next()?;
        let why = why.map_or(NoBinding::Busy, NoBinding::Failed);
        Some(no_binding(&binding.key, address, why))
    }
}

impl Run<'_> {
    /// Returns what the start of a VM does to its devices; see [`wanted`].
    pub(in crate::lifecycle) fn preparation(&self, case: &Case) -> Result<Preparation, Denied> {
        if !case.table.pci.touches_devices() {
            return Ok(Preparation::default());
        }
        let devices = Devices::read(self.host, case.vmid, &case.guest, &[]);
        let state = read_state(&*self.host.files)?;
        Ok(wanted(self.host, &case.table, &devices, &lent(&state))?)
    }

    /// Prepares the devices of a VM that has just reserved its CPUs; when that fails the claim is
    /// ended, because a refused start changes nothing. Where functions are away then, reconcile
    /// brings them back before.
    pub(in crate::lifecycle) fn prepare(
        &self,
        vmid: Vmid,
        preparation: &Preparation,
        account: &mut Account,
    ) -> Result<(), Denied> {
        let Preparation { bindings, resets } = preparation;
        if bindings.is_empty() && resets.is_empty() {
            return Ok(());
        }
        let _lock = match self.lock_devices() {
            Ok(Some(lock)) => lock,
            busy => {
                update_claim(self.host, vmid, account, |_| Record::End(vmid))?;
                let refused = preparation.refused(busy.err());
                return refused.map_or(Ok(()), |why| Err(why.into()));
            }
        };
        let done = match self.announce_and_bind(vmid, bindings, account) {
            Ok(()) => self.reset(vmid, resets, account),
            Err(Denied::Refused(refusal)) => {
                update_claim(self.host, vmid, account, |_| Record::End(vmid))?;
                Err(refusal.into())
            }
            failed => failed,
        };
        if let Err(Denied::Refused(_)) = done {
            self.give_bound_back(vmid, bindings, account)?;
        }
        done
    }

    /// Gives back what was bound for a start that was refused after that.
    pub(in crate::lifecycle) fn undo_preparation(
        &self,
        vmid: Vmid,
        preparation: &Preparation,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let bindings = &preparation.bindings;
        let is_over = !read_state(&*self.host.files)?.claims.contains_key(&vmid);
        if !is_over || bindings.is_empty() {
            return Ok(());
        }
        match self.lock_devices()? {
            Some(_lock) => self.give_bound_back(vmid, bindings, account),
            None => Ok(()),
        }
    }

    fn announce_and_bind(
        &self,
        vmid: Vmid,
        bindings: &Bindings,
        account: &mut Account,
    ) -> Result<(), Denied> {
        if bindings.is_empty() {
            return Ok(());
        }
        if let Some(refusal) = self.unready(bindings) {
            return Err(refusal.into());
        }
        let all = bindings.iter();
        let all = all.map(|(address, binding)| (address.clone(), binding.after));
        update_claim(self.host, vmid, account, |claim| {
            Record::changed(claim, |next| next.bindings = all.collect())
        })?;
        self.bind(vmid, bindings, account)
    }
}
