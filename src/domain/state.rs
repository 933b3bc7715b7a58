//! What the program remembers: claims, and for every target it holds the way back.
//!
//! The state is the fold of a log of [`Record`]s. A record is in the log before the first write
//! that it announces, so a death at any point leaves enough to finish or to undo.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::claim::{Claim, Claims};
use super::cpuset::CpuSet;
use super::debt::{Debt, Debts};
use super::target::{Target, Value};
use super::vm::Vmid;

/// Version of the log's format.
pub const VERSION: u32 = 2;

/// Everything that the program remembers between two runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Every claim.
    pub claims: Claims,
    /// Every target that was touched and not yet given back.
    pub held: BTreeMap<Target, Held>,
    /// Whether systemd has yet to read unit files that were written or removed.
    pub needs_reload: bool,
    /// VMs that are to be started again.
    pub debts: Debts,
}

impl State {
    /// Returns the CPUs that were taken offline by us and are to come back.
    pub fn taken_offline(&self) -> CpuSet {
        self.held.keys().filter_map(Target::switched_cpu).collect()
    }
}

/// A target in our hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Held {
    /// Requested value that it had before we first touched or perturbed it.
    pub baseline: Value,
    /// Value that we wrote last, or were about to write.
    pub ours: Value,
    /// Value that it had when that write was announced; after a death the live value may still
    /// be this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Times since boot at which somebody else's value was replaced by ours again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasserted: Vec<Duration>,
    /// Whether the kernel refuses every change (a managed interrupt, a bound thread).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchangeable: bool,
    /// How often in a row the kernel refused it the value `ours`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u8,
    /// Values that were ours before, the last one first, because of other claims. The kernel comes back
    /// to such a one by itself: it keeps the last affinity that a thread asked for, and shows another
    /// one as long as a partition has those CPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Value>,
    /// Whether a kernel thread was asked to have anything else than it had, so that the kernel
    /// keeps a request of ours for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// Time since boot from which on a function goes back to its driver; `None` while it is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Duration>,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// Entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// First entry: the format of those that follow.
    Version(u32),
    /// Second entry: how many of those that follow were written with it in one piece.
    Base {
        /// The format again, so that damage to the entry before is not taken for a newer one.
        version: u32,
        /// Number of records.
        records: usize,
    },
    /// A claim came or changed.
    Claim(Box<Claim>),
    /// A claim ended.
    End(Vmid),
    /// Targets are about to be written.
    Intend(Vec<(Target, Held)>),
    /// Targets are no longer ours.
    Forget(Vec<Target>),
    /// Unit files are about to change (`true`), or systemd has read them (`false`).
    Reload(bool),
    /// A VM is about to be shut down and to be started again, or what is owed has changed.
    Debt(Box<Debt>),
    /// It was started again, or is not to be any more.
    Paid(Vmid),
}

impl Record {
    /// Returns the record of a claim that says something else from now on.
    pub fn changed(claim: &Claim, change: impl FnOnce(&mut Claim)) -> Self {
        let mut next = claim.clone();
        change(&mut next);
        Record::Claim(Box::new(next))
    }
}

impl State {
    /// Brings the state to what it is after `record`.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Version(_) | Record::Base { .. } => {}
            Record::Reload(needed) => self.needs_reload = needed,
            Record::Claim(claim) => drop(self.claims.insert(claim.vmid, *claim)),
            Record::End(vmid) => drop(self.claims.remove(&vmid)),
            Record::Debt(debt) => drop(self.debts.insert(debt.vmid, *debt)),
            Record::Paid(vmid) => drop(self.debts.remove(&vmid)),
            Record::Intend(targets) => self.held.extend(targets),
            Record::Forget(targets) => {
                for target in &targets {
                    self.held.remove(target);
                }
            }
        }
    }

    /// Returns the shortest log whose fold is this state.
    ///
    /// With `is_settled` every announced write is taken as done; otherwise it stays known which
    /// value a target may still have, as it does for those that the kernel refused.
    pub fn checkpoint(&self, is_settled: bool) -> Vec<Record> {
        let held = self.held.iter().map(|(target, held)| {
            let is_open = !is_settled || held.refused > 0;
            let before = held.before.clone().filter(|_| is_open);
            let held = Held {
                before,
                ..held.clone()
            };
            Record::Intend(vec![(target.clone(), held)])
        });
        let claims = self.claims.values().cloned();
        let claims = claims.map(|claim| Record::Claim(Box::new(claim)));
        let debts = self.debts.values().cloned();
        let debts = debts.map(|debt| Record::Debt(Box::new(debt)));
        let reload = self.needs_reload.then_some(Record::Reload(true));
        based(claims.chain(debts).chain(held).chain(reload).collect())
    }

    /// Tells whether records remember more than this state does, so that giving back needs more room.
    pub fn is_grown_by(&self, records: &[Record]) -> bool {
        records.iter().any(|record| match record {
            Record::Claim(claim) => !self.claims.contains_key(&claim.vmid),
            Record::Debt(debt) => !self.debts.contains_key(&debt.vmid),
            Record::Intend(targets) => targets
                .iter()
                .any(|(target, _)| !self.held.contains_key(target)),
            _ => false,
        })
    }

    /// Tells whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
            && self.held.is_empty()
            && self.debts.is_empty()
            && !self.needs_reload
    }
}

/// Returns a log that begins with these records.
pub fn based(records: Vec<Record>) -> Vec<Record> {
    let base = Record::Base {
        version: VERSION,
        records: records.len(),
    };
    let mut log = vec![Record::Version(VERSION), base];
    log.extend(records);
    log
}
