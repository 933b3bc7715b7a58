//! Names for the numbers in records: functions, and threads as long as they live.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::measure::account::Accounts;
use crate::domain::measure::culprit::{KnownThread, Names};
use crate::domain::measure::who::Who;
use crate::host::cgroup::unit_of;
use crate::host::files::Files;
use crate::host::{symbols, task};

/// Finds the names of those who have taken time or asked for something, but for threads that are known already.
pub(super) fn name(
    files: &dyn Files,
    accounts: &Accounts,
    known: BTreeMap<i32, KnownThread>,
) -> Names {
    let mut addresses = BTreeSet::new();
    for who in accounts.all() {
        if let Who::Work(at) | Who::Function(_, at) | Who::Nmi(at) = who {
            addresses.insert(*at);
        }
    }
    addresses.extend(accounts.asked.keys().map(|(_, function)| *function));
    let mut threads = known;
    meet(files, accounts, &mut threads);
    Names {
        functions: symbols::functions(files, &addresses),
        threads,
    }
}

/// Gets to know the threads that have turned up since the last time, before they end.
pub(super) fn meet(files: &dyn Files, accounts: &Accounts, known: &mut BTreeMap<i32, KnownThread>) {
    let tasks = accounts.all().filter_map(|who| match who {
        Who::Task(tid, _) => Some(*tid),
        _ => None,
    });
    let senders = accounts.asked.keys().map(|(tid, _)| *tid);
    let new: BTreeSet<i32> = tasks
        .chain(senders)
        .filter(|tid| !known.contains_key(tid))
        .collect();
    for tid in new {
        if let Ok(task) = task::read_task(files, tid, tid) {
            let group = task::cgroup_of(files, tid, tid).unwrap_or_default();
            let one = KnownThread {
                is_kernel: task.is_kernel_thread(),
                group: unit_of(&group).unwrap_or_default().to_owned(),
                name: task.comm,
            };
            known.insert(tid, one);
        }
    }
}
