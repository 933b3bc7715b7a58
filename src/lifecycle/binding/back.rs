//! Giving functions back to the driver that they had, once no VM has them any more.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::{Bindings, DRIVERS, name_of};
use crate::domain::pci::VFIO;
use crate::domain::pci::binding::{GRACE, Lent, function_of, lent, target, unneeded};
use crate::domain::refusal::Refusal;
use crate::domain::state::{Held, Record, State};
use crate::domain::vm::Vmid;
use crate::host::pci::DEVICES;
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
    /// Gives functions that nobody needs any more back to the driver that they had, some time after
    /// that was first seen.
    ///
    /// Only reconcile comes here, because a driver may take its time.
    pub(in crate::lifecycle) fn give_drivers_back(
        &self,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let state = read_state(&*self.host.files)?;
        if lent(&state).is_empty() {
            return Ok(());
        }
        let wait = LOCK_WAIT.min(self.deadline.remaining());
        let Some(_lock) = self.host.files.lock(LOCK, wait)? else {
            return Ok(());
        };
        let state = read_state(&*self.host.files)?;
        let now = self.host.clock.since_boot();
        let (mut going, mut records) = (Vec::new(), Vec::new());
        for one in unneeded(&state, &kept(self.host, &state, None)) {
            match state.held.get(&target(&one.address)) {
                Some(held) if held.due.is_some_and(|due| due <= now) => going.push(one),
                Some(held) if held.due.is_none() => records.push(due(&one, held, now + GRACE)),
                _ => {}
            }
        }
        self.drivers_back(&state, &going, records, None, account)
    }

    /// Gives the functions of a start that comes to nothing back; the lock of the devices is held.
    pub(in crate::lifecycle) fn give_bound_back(
        &self,
        vmid: Vmid,
        bindings: &Bindings,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let state = read_state(&*self.host.files)?;
        let mut going = unneeded(&state, &kept(self.host, &state, Some(vmid)));
        going.retain(|one| bindings.contains_key(&one.address));
        self.drivers_back(&state, &going, Vec::new(), Some(vmid), account)
    }

    fn drivers_back(
        &self,
        state: &State,
        going: &[Lent],
        mut records: Vec<Record>,
        own: Option<Vmid>,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let mut done = Vec::new();
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
        "" => format!("{address} does not leave {VFIO}: {why}"),
        _ => format!("{address} does not go back to driver {driver}: {why}"),
    };
    let refused = held.refused + u8::from(why.raw_os_error().is_some());
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
            true => format!("{address} is without a driver again"),
            false => format!("{address} is back with driver {driver}"),
        });
    }
}
