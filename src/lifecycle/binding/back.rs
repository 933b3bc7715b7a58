//! Giving functions back to the driver that they had, once no VM has them any more.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::{DRIVERS, name_of};
use crate::domain::pci::VFIO;
use crate::domain::pci::binding::{Lent, function_of, returning, target};
use crate::domain::refusal::Refusal;
use crate::domain::state::{Held, Record, State};
use crate::domain::vm::Vmid;
use crate::host::{Host, files, pci, slow};
use crate::lifecycle::account::{Account, Exit};
use crate::lifecycle::devices::in_use;
use crate::lifecycle::fate::Answers;
use crate::lifecycle::journal::read_state;
use crate::lifecycle::phase::Run;
use crate::lifecycle::resetting::{LOCK, LOCK_WAIT};
use crate::lifecycle::work::{Worked, work};

/// PVE's lock on its list of reservations. A start waits 5 s for it, a stop 2 s.
const RESERVATION_LOCK: &str = "/run/qemu-server/pci-id-reservations.lock";
/// How long that lock is waited for, and how long it is held while a function leaves vfio-pci.
const RESERVATION_WAIT: Duration = Duration::from_secs(1);
/// How often a driver may refuse a function that goes back to it.
const REFUSAL_LIMIT: u8 = 3;

/// Returns the functions that keep the driver for VMs: some VM has them or is being given them, or a
/// child is still at work on them. The VM `own` is the one that is being started.
pub fn kept(host: &Host, state: &State, own: Option<Vmid>) -> BTreeSet<String> {
    let held = state.held.keys().filter_map(function_of);
    let held: Vec<String> = held.map(str::to_owned).collect();
    if held.is_empty() {
        return BTreeSet::new();
    }
    let used = in_use(host, own);
    // What cannot be told is not touched.
    let is_at_work = |address: &str| slow::is_at_work(host, &name_of(address)).unwrap_or(true);
    let kept = held.into_iter();
    kept.filter(|address| used.contains(address) || is_at_work(address))
        .collect()
}

impl Run<'_> {
    /// Gives functions that nobody has any more back to the driver that they had.
    ///
    /// Only reconcile comes here, because a driver may take its time: with a reboot by PVE the VM
    /// mostly has them again before.
    pub(in crate::lifecycle) fn give_drivers_back(
        &self,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let state = read_state(&*self.host.files)?;
        if !state
            .held
            .keys()
            .any(|target| function_of(target).is_some())
        {
            return Ok(());
        }
        let wait = LOCK_WAIT.min(self.deadline.remaining());
        match self.host.files.lock(LOCK, wait)? {
            Some(_lock) => self.drivers_back(None, account),
            None => Ok(()),
        }
    }

    /// The same with the lock of the devices held, for a start of the VM `own` that comes to nothing.
    pub(in crate::lifecycle) fn drivers_back(
        &self,
        own: Option<Vmid>,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let state = read_state(&*self.host.files)?;
        let going = returning(&state, &kept(self.host, &state, own));
        if going.is_empty() {
            return Ok(());
        }
        let (mut done, mut records) = (Vec::new(), Vec::new());
        for one in &going {
            let held = state.held.get(&target(&one.address));
            match (self.driver_back(one, own), held) {
                (Err(error), Some(held)) => records.push(counted(one, held, &error, account)),
                _ => done.push(one),
            }
        }
        let worked = work(self.host, self.deadline, &Answers::default(), |_| {
            Ok(Ok::<_, Refusal>(records))
        })?;
        if let Worked::Done(report, after) = &worked {
            account.tell(report);
            for one in done {
                tell_if_back(one, after, account);
            }
        }
        Ok(())
    }

    fn driver_back(&self, one: &Lent, own: Option<Vmid>) -> io::Result<()> {
        let Lent { address, driver } = one;
        let had = pci::driver(&*self.host.files, address);
        if had.as_deref() == Some(VFIO) {
            // Nobody can be given it while it leaves: QEMU would be asked to let go of it.
            let _lock = self.lock_reservations()?;
            if in_use(self.host, own).contains(address) {
                return Ok(());
            }
            let wait = RESERVATION_WAIT.min(self.deadline.remaining());
            self.give_driver(address, "", wait)?;
        } else if had.is_some() {
            // Somebody else has given it that one.
            return Ok(());
        }
        match driver.is_empty() {
            true => Ok(()),
            false => self.give_driver(address, driver, self.deadline.remaining()),
        }
    }

    fn lock_reservations(&self) -> io::Result<Box<dyn files::Held>> {
        let wait = RESERVATION_WAIT.min(self.deadline.remaining());
        let lock = self.host.files.lock(RESERVATION_LOCK, wait)?;
        let busy = || io::Error::other(format!("another process has {RESERVATION_LOCK}"));
        lock.ok_or_else(busy)
    }
}

/// Returns what is remembered of a function that could not go back; after some tries it is left.
fn counted(one: &Lent, held: &Held, why: &io::Error, account: &mut Account) -> Record {
    let Lent { address, driver } = one;
    let refused = held.refused + 1;
    let text = format!("{address} does not go back to driver {driver}: {why}");
    let bind =
        format!("echo {address} > {DRIVERS}/{driver}/bind, once modprobe {driver} has loaded it");
    if refused < REFUSAL_LIMIT {
        account.warn(text);
        let next = Held {
            refused,
            ..held.clone()
        };
        return Record::Intend(vec![(target(address), next)]);
    }
    account.fail(
        Exit::Incomplete,
        format!("{text}; it is left as it is"),
        bind,
    );
    Record::Forget(vec![target(address)])
}

fn tell_if_back(one: &Lent, after: &State, account: &mut Account) {
    let Lent { address, driver } = one;
    if !after.held.contains_key(&target(address)) {
        account.info(match driver.is_empty() {
            true => format!("{address} is without a driver again"),
            false => format!("{address} is back with driver {driver}"),
        });
    }
}
