//! Binding the devices of a VM to vfio-pci before PVE does it, and giving them back to the driver
//! that they had, where the table asks for that.
//!
//! The claim says what is bound, and for each function the journal remembers the driver that it had.
//! Drivers come and go by children in units of their own, under the lock of the devices; the host
//! lock is not held meanwhile. Settling writes none of it: it forgets what has gone back.
//!
//! A probe may take minutes. The driver is back afterwards; what an admin or other programs had set on the device is
//! not (addresses and queues of a network card, arrays on its disks, the state of its firmware).

mod back;
mod driver;
mod wanted;

use std::io;

pub use self::back::tell_lent;
pub use self::wanted::{Bindings, no_binding, wanted};
use super::waiting::time_left;
use crate::domain::pci::VFIO;
use crate::domain::pci::binding::{NoBinding, target};
use crate::domain::refusal::Refusal;
use crate::domain::vm::Vmid;
use crate::host::pci;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;

fn failure(error: &io::Error) -> NoBinding {
    match error.kind() {
        io::ErrorKind::TimedOut => NoBinding::Late(error.to_string()),
        _ => NoBinding::Failed(error.to_string()),
    }
}

impl Run<'_> {
    /// Binds the functions of a VM that is being started; the lock of the devices is held, and the
    /// claim says what is bound.
    pub(in crate::lifecycle) fn bind(
        &self,
        vmid: Vmid,
        bindings: &Bindings,
        account: &mut Account,
    ) -> Result<(), Denied> {
        let state = read_state(&*self.host.files)?;
        for (address, binding) in bindings {
            let refused = |why| no_binding(&binding.key, address, why);
            // Without that nobody would know what it had.
            if !state.held.contains_key(&target(address)) {
                return Err(refused(NoBinding::Busy).into());
            }
            if let Some(text) = binding.in_vain(address) {
                account.warn(format!("vm {vmid}: {text}"));
            }
            if pci::driver(&*self.host.files, address).as_deref() == Some(VFIO) {
                continue;
            }
            self.load_vfio().map_err(refused)?;
            if !pci::is_kept(&*self.host.files, address) {
                return Err(refused(NoBinding::Unready).into());
            }
            let wait = time_left(self.host);
            self.give_driver(address, VFIO, wait)
                .map_err(|error| refused(failure(&error)))?;
            let (key, words) = (&binding.key, binding.in_words());
            account.info(format!(
                "vm {vmid}: {key} ({address}) bound to {VFIO}{words}"
            ));
        }
        Ok(())
    }

    /// Returns the refusal of a start whose functions a child of an earlier run is at work on.
    pub(in crate::lifecycle) fn unready(&self, bindings: &Bindings) -> Option<Refusal> {
        let mut bindings = bindings.iter();
        let (address, binding) = bindings.find(|(one, _)| at_work::is_function(self.host, one))?;
        let late = at_work::of_function(address, Vec::new()).late().to_string();
        Some(no_binding(&binding.key, address, NoBinding::Late(late)))
    }
}
