//! Debts: VMs that were shut down to make room for others, and are to be started again.
//!
//! A debt is no target: nothing is held, and what it asks for is done once. It follows the QEMU
//! processes of the VMs that it made room for, exactly as a claim follows one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vm::{TaskId, Vmid};

/// Every debt of this node, by the VM that is to be started again.
pub type Debts = BTreeMap<Vmid, Debt>;

/// How long nothing is started after the last VM that needed the room has ended: its next start,
/// the second half of a reboot for example, takes the debt over.
pub const GRACE: Duration = Duration::from_secs(30);

/// How much later a guest that was asked to shut down may still do so and be started again.
const LATE: Duration = Duration::from_secs(180);

/// A VM that was shut down to make room, and is to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Debt {
    /// Which VM.
    pub vmid: Vmid,
    /// Its QEMU process that was asked to end.
    pub stopped: TaskId,
    /// VMs that it made room for and that have not ended.
    pub owners: BTreeMap<Vmid, Owner>,
    /// Time since boot from which on it is started; `None` while somebody needs the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Duration>,
}

/// State of the VM that the room was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// It is being started.
    Starting {
        /// Process that starts it.
        starter: TaskId,
        /// Time since boot after which that counts as stuck.
        deadline: Duration,
    },
    /// Its QEMU is up.
    Running {
        /// QEMU's process.
        qemu: TaskId,
    },
}

/// What there is to be seen of a VM that is to be started again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether its config is on this node, and that of no template.
    pub is_here: bool,
    /// Its QEMU process.
    pub qemu: Option<TaskId>,
    /// What PVE is in the middle of with it.
    pub lock: Option<String>,
    /// Whether HA looks after it.
    pub is_ha: bool,
    /// Whether it is being shut down or started for us right now.
    pub is_at_work: bool,
}

/// What is to be done about a debt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// The VM is to be started.
    Pay,
    /// Nothing any more.
    Cancel(Cancelled),
}

/// Why a VM is not started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// Somebody else has started it.
    Started,
    /// Its config is not on this node any more.
    Gone,
    /// PVE is in the middle of something with it.
    Locked(String),
    /// HA looks after it now.
    Ha,
    /// It has never shut down.
    NeverStopped,
}

impl Debt {
    /// Returns the debt of a VM that one more VM needs the room of; `before` is what is owed to it
    /// already.
    pub fn owed_by(vmid: Vmid, stopped: TaskId, before: Option<&Debt>, by: (Vmid, Owner)) -> Self {
        let mut owners = before.map_or_else(BTreeMap::new, |debt| debt.owners.clone());
        owners.insert(by.0, by.1);
        Debt {
            vmid,
            stopped,
            owners,
            due: None,
        }
    }

    /// Returns the debt with its owners as `next` says; the last one that goes makes it due at
    /// `due`.
    pub fn updated(&self, next: impl Fn(Vmid, Owner) -> Option<Owner>, due: Duration) -> Self {
        let owners = self.owners.iter();
        let owners: BTreeMap<Vmid, Owner> = owners
            .filter_map(|(vmid, owner)| Some((*vmid, next(*vmid, *owner)?)))
            .collect();
        let due = match owners.is_empty() {
            true => self.due.or(Some(due)),
            false => None,
        };
        Debt {
            owners,
            due,
            ..self.clone()
        }
    }

    /// Tells whether nobody needs the room any more and the grace is over.
    pub fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Says what is to be done.
    pub fn verdict(&self, seen: &Seen, now: Duration) -> Verdict {
        let Some(due) = self.due.filter(|due| *due <= now) else {
            return Verdict::Wait;
        };
        match seen {
            Seen { is_here: false, .. } => Verdict::Cancel(Cancelled::Gone),
            Seen {
                qemu: Some(qemu), ..
            } if *qemu != self.stopped => Verdict::Cancel(Cancelled::Started),
            Seen {
                is_at_work: true, ..
            } => Verdict::Wait,
            Seen { qemu: Some(_), .. } if now < due + LATE => Verdict::Wait,
            Seen { qemu: Some(_), .. } => Verdict::Cancel(Cancelled::NeverStopped),
            Seen {
                lock: Some(lock), ..
            } => Verdict::Cancel(Cancelled::Locked(lock.clone())),
            Seen { is_ha: true, .. } => Verdict::Cancel(Cancelled::Ha),
            _ => Verdict::Pay,
        }
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cancelled::Started => f.write_str("it has already been started"),
            Cancelled::Gone => f.write_str("it is no longer on this node"),
            Cancelled::Locked(lock) => write!(f, "it is locked ({lock})"),
            Cancelled::Ha => f.write_str("it is now managed by ha"),
            Cancelled::NeverStopped => f.write_str("it did not shut down"),
        }
    }
}

/// Why a VM cannot make room now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoYield {
    /// HA would start it again.
    #[error("cannot shut down vm {0} (yield.stop): ha would restart it")]
    Ha(Vmid),
    /// PVE is in the middle of something with it.
    #[error("vm {vmid} has to make room, but is locked ({lock})")]
    Locked {
        /// Which VM.
        vmid: Vmid,
        /// What PVE is in the middle of.
        lock: String,
    },
    /// `qm shutdown` has ended and the VM runs on.
    #[error("vm {0} has to make room, but shutting it down failed")]
    Failed(Vmid),
    /// It takes longer than the table allows.
    #[error("vm {vmid} has to make room, but did not shut down within {timeout}")]
    Late {
        /// Which VM.
        vmid: Vmid,
        /// How long was waited for it.
        timeout: String,
    },
}

impl NoYield {
    /// Returns what the operator can do about it; `vmid` is the VM that needs the room.
    pub fn help(&self, vmid: Vmid) -> String {
        match self {
            NoYield::Ha(other) => {
                format!(
                    "ha-manager set vm:{other} --state stopped, then start vm {vmid}; afterwards \
                     set --state started, because pin-hook does not start it again"
                )
            }
            NoYield::Locked { vmid: other, .. } => {
                format!("start vm {vmid} when the lock is gone; qm config {other} shows it")
            }
            NoYield::Failed(other) => {
                let units = stopping_units(*other);
                format!("journalctl -u '{units}' shows why; or shut down vm {other} by hand")
            }
            NoYield::Late { vmid: other, .. } => format!(
                "shut down vm {other} from its guest or with qm stop {other}, then start vm \
                 {vmid}; or raise yield.timeout"
            ),
        }
    }
}

/// Returns the unit in which a VM is shut down, `now` being the time since boot: what a hook of the
/// VM has left in the background keeps the unit of an earlier time loaded.
pub fn stopping_unit(vmid: Vmid, now: Duration) -> String {
    format!("pin-hook-yield-{vmid}-{}.service", now.as_millis())
}

/// Returns the pattern of all such units.
pub fn stopping_units(vmid: Vmid) -> String {
    format!("pin-hook-yield-{vmid}-*.service")
}

/// Returns the unit in which a VM is started again; `now` as in [`stopping_unit`].
pub fn starting_unit(vmid: Vmid, now: Duration) -> String {
    format!("pin-hook-start-{vmid}-{}.service", now.as_millis())
}

/// Returns the pattern of all such units.
pub fn starting_units(vmid: Vmid) -> String {
    format!("pin-hook-start-{vmid}-*.service")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: TaskId = TaskId { tid: 5, start: 50 };
    const OTHER: TaskId = TaskId { tid: 6, start: 60 };
    const DUE: Duration = Duration::from_secs(100);

    fn id(number: u32) -> Vmid {
        number.to_string().parse().unwrap()
    }

    fn debt(due: Option<Duration>) -> Debt {
        Debt {
            vmid: id(107),
            stopped: QEMU,
            owners: BTreeMap::new(),
            due,
        }
    }

    fn stopped() -> Seen {
        Seen {
            is_here: true,
            ..Seen::default()
        }
    }

    fn running(qemu: TaskId) -> Seen {
        Seen {
            qemu: Some(qemu),
            ..stopped()
        }
    }

    #[test]
    fn a_debt_is_paid_once_it_is_due_and_nobody_has_done_anything() {
        let locked = Seen {
            lock: Some("backup".to_owned()),
            ..stopped()
        };
        let ha = Seen {
            is_ha: true,
            ..stopped()
        };
        let busy = Seen {
            is_at_work: true,
            ..stopped()
        };
        let cancel = Verdict::Cancel;
        let lock = Cancelled::Locked("backup".to_owned());
        for (seen, after, verdict) in [
            (stopped(), 0, Verdict::Pay),
            (Seen::default(), 0, cancel(Cancelled::Gone)),
            (running(OTHER), 0, cancel(Cancelled::Started)),
            (running(QEMU), 0, Verdict::Wait),
            (running(QEMU), 179, Verdict::Wait),
            (running(QEMU), 180, cancel(Cancelled::NeverStopped)),
            (locked, 0, cancel(lock)),
            (ha, 0, cancel(Cancelled::Ha)),
            (busy, 1000, Verdict::Wait),
        ] {
            let now = DUE + Duration::from_secs(after);
            assert_eq!(debt(Some(DUE)).verdict(&seen, now), verdict, "{seen:?}");
        }
        let early = DUE - Duration::from_secs(1);
        assert_eq!(debt(Some(DUE)).verdict(&stopped(), early), Verdict::Wait);
        assert_eq!(debt(None).verdict(&stopped(), DUE), Verdict::Wait);
    }

    #[test]
    fn the_last_owner_that_goes_makes_it_due_and_the_next_one_takes_it_over() {
        let owner = Owner::Running { qemu: OTHER };
        let one = Debt::owed_by(id(107), QEMU, None, (id(100), owner));
        let two = Debt::owed_by(id(107), QEMU, Some(&one), (id(101), owner));
        let without = |debt: &Debt, gone: u32| {
            debt.updated(|vmid, owner| (vmid != id(gone)).then_some(owner), DUE)
        };
        assert_eq!(without(&two, 101), one);
        let due = without(&one, 100);
        assert_eq!(due, debt(Some(DUE)));
        let later = due.updated(|_, owner| Some(owner), DUE * 2);
        assert_eq!(later.due, Some(DUE), "the time is kept");
        let again = Debt::owed_by(id(107), QEMU, Some(&due), (id(100), owner));
        assert_eq!(again, one);
    }
}
