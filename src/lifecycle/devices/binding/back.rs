//! Giving functions back to the driver that they had, once no VM has them any more.

use std::io;
use std::time::Duration;

use super::driver::DRIVERS;
use super::wanted::Bindings;
use crate::domain::pci::VFIO;
use crate::domain::pci::binding::{GRACE, Lent, lent, target, unneeded};
use crate::domain::state::{Held, Record, State};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::pci::DEVICES;
use crate::host::{files, pci};
use crate::lifecycle::devices::waiting::{LOCK, LOCK_WAIT};
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::at_work::kept;
use crate::lifecycle::engine::inventory::holders::in_use;
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::settle::partition_is_near;
use crate::lifecycle::engine::work::work_and_tell;

/// PVE's lock on its list of reservations. A start waits 5 s for it, a stop 2 s.
const RESERVATION_LOCK: &str = "/run/qemu-server/pci-id-reservations.lock";
/// How long that lock is waited for, and how long it is held while a function leaves vfio-pci.
const RESERVATION_WAIT: Duration = Duration::from_secs(1);
/// How often a driver may refuse a function that goes back to it.
const REFUSAL_LIMIT: u8 = 3;

impl Run<'_> {
    /// Gives functions that nobody needs any more back to the driver that they had, some time after
    /// that was first seen.
    ///
    /// Only reconcile comes here, because a driver may take its time.
    pub(in crate::lifecycle) fn give_drivers_back(
        &self,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let state = read_state(&*self.host.files)?;
        // The driver that a function goes back to probes it, which partitions wait for.
        if lent(&state).is_empty() || partition_is_near(self.host, &state) {
            return Ok(());
        }
        let now = self.host.clock.since_boot();
        let (mut going, mut records) = (Vec::new(), Vec::new());
        for one in unneeded(&state, &kept(self.host, &state, None)) {
            match state.held.get(&target(&one.address)) {
                Some(held) if held.due.is_some_and(|due| due <= now) => going.push(one),
                Some(held) if held.due.is_none() => records.push(due(&one, held, now + GRACE)),
                _ => {}
            }
        }
        self.write_down(&state, records, account)?;
        for one in going {
            // Whoever waits for the lock comes in between two functions.
            let wait = LOCK_WAIT.min(self.host.left());
            match self.host.files.lock(LOCK, wait)? {
                Some(_lock) => self.drivers_back(&state, &[one], None, account)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Gives the functions of a start that comes to nothing back; the lock of the devices is held.
    pub(in crate::lifecycle) fn give_bound_back(
        &self,
        vmid: Vmid,
        bindings: &Bindings,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        if bindings.is_empty() {
            return Ok(());
        }
        let state = read_state(&*self.host.files)?;
        let mut going = unneeded(&state, &kept(self.host, &state, Some(vmid)));
        going.retain(|one| bindings.contains_key(&one.address));
        self.drivers_back(&state, &going, Some(vmid), account)
    }

    fn drivers_back(
        &self,
        state: &State,
        going: &[Lent],
        own: Option<Vmid>,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let (mut done, mut records) = (Vec::new(), Vec::new());
        for one in going {
            let held = state.held.get(&target(&one.address));
            match (self.driver_back(one, own), held) {
                (Err(error), Some(held)) => records.extend(refused(one, held, &error, account)),
                _ => done.push(one),
            }
        }
        if done.is_empty() && records.is_empty() {
            return Ok(());
        }
        if let Some(after) = self.write_down(state, records, account)? {
            for one in done {
                tell_if_back(one, &after, account);
            }
        }
        Ok(())
    }

    /// Writes records of functions down, unless somebody else has worked on these since `known` was
    /// read, and settles: what has gone back is forgotten by that.
    fn write_down(
        &self,
        known: &State,
        mut records: Vec<Record>,
        account: &mut Account,
    ) -> anyhow::Result<Option<State>> {
        Ok(work_and_tell(self.host, account, |now| {
            let is_as_known = |target: &Target| known.held.get(target) == now.held.get(target);
            records.retain(|record| match record {
                Record::Intend(targets) => targets.iter().all(|(target, _)| is_as_known(target)),
                Record::Forget(targets) => targets.iter().all(is_as_known),
                _ => true,
            });
            Ok(records)
        })?)
    }

    fn driver_back(&self, one: &Lent, own: Option<Vmid>) -> io::Result<()> {
        let Lent { address, driver } = one;
        {
            // Nobody can be given it while it leaves: QEMU would be asked to let go of it.
            let _lock = self.lock_reservations()?;
            let used = in_use(self.host, own).map_err(io::Error::other)?;
            let had = pci::driver(&*self.host.files, address);
            if used.contains(address) || had.as_deref().is_some_and(|had| had != VFIO) {
                return Ok(());
            }
            if had.is_some() {
                let wait = RESERVATION_WAIT.min(self.host.left());
                self.give_driver(address, "", wait)?;
            }
        }
        match driver.is_empty() {
            true => Ok(()),
            false => self.give_driver(address, driver, self.host.left()),
        }
    }

    fn lock_reservations(&self) -> io::Result<Box<dyn files::LockGuard>> {
        let wait = RESERVATION_WAIT.min(self.host.left());
        let lock = self.host.files.lock(RESERVATION_LOCK, wait)?;
        let busy = || {
            let text = format!("another process holds {RESERVATION_LOCK}");
            io::Error::new(io::ErrorKind::WouldBlock, text)
        };
        lock.ok_or_else(busy)
    }
}

/// Returns that a function goes back at a time.
fn due(one: &Lent, held: &Held, due: Duration) -> Record {
    let next = Held {
        due: Some(due),
        ..held.clone()
    };
    Record::Intend(vec![(target(&one.address), next)])
}

/// Tells that a function could not go back, and returns what is remembered of that: one that the
/// kernel refuses again and again is left as it is.
fn refused(one: &Lent, held: &Held, why: &io::Error, account: &mut Account) -> Option<Record> {
    let Lent { address, driver } = one;
    let text = match driver.as_str() {
        "" => format!("cannot take {address} from {VFIO}: {why}"),
        _ => format!("cannot return {address} to driver {driver}: {why}"),
    };
    let is_other = why.kind() == io::ErrorKind::WouldBlock;
    let refused = held.refused + u8::from(!is_other);
    if refused < REFUSAL_LIMIT {
        account.warn(text);
        let next = Held {
            refused,
            ..held.clone()
        };
        return (next != *held).then(|| Record::Intend(vec![(target(address), next)]));
    }
    let text = format!("{text}; it is left as it is");
    account.fail(Exit::Incomplete, text, by_hand(one));
    Some(Record::Forget(vec![target(address)]))
}

/// Returns how a function is given back by hand.
fn by_hand(Lent { address, driver }: &Lent) -> String {
    let unbind = format!("echo {address} > {DEVICES}/{address}/driver/unbind, if it has one");
    match driver.as_str() {
        "" => unbind,
        _ => format!(
            "{unbind}; then modprobe $(cat {DEVICES}/{address}/modalias) and echo {address} > \
             {DRIVERS}/{driver}/bind"
        ),
    }
}

/// Tells which functions are still to go back.
pub fn tell_lent(state: &State, account: &mut Account) {
    for one in lent(state) {
        account.info(one.to_string());
    }
}

fn tell_if_back(one: &Lent, after: &State, account: &mut Account) {
    let Lent { address, driver } = one;
    if !after.held.contains_key(&target(address)) {
        account.info(match driver.is_empty() {
            true => format!("{address} has no driver again"),
            false => format!("{address} is back with driver {driver}"),
        });
    }
}
