//! Names for the numbers in records: functions, and threads as long as they live.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::measure::account::Accounts;
use crate::domain::measure::culprit::{KnownThread, Names};
use crate::domain::measure::who::Who;
use crate::domain::vm::Vmid;
use crate::host::cgroup::{scope_of, unit_of};
use crate::host::files::Files;
use crate::host::{symbols, task};

/// Where the cgroups of containers are.
const CONTAINERS: &str = "lxc/";

/// Finds the names of those who have taken time or asked for something, but for threads that are known already.
/// `vmid` is the VM that is measured.
pub(super) fn name(
    files: &dyn Files,
    accounts: &Accounts,
    known: BTreeMap<i32, KnownThread>,
    vmid: Option<Vmid>,
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
        of_vm: vmid.map(|vmid| group_of(&scope_of(vmid)).to_owned()),
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
                group: group_of(&group).to_owned(),
                name: task.comm,
            };
            known.insert(tid, one);
        }
    }
}

/// Returns the group that people know: the unit that a cgroup belongs to, or is below of; of a container the
/// directory with its number.
fn group_of(path: &str) -> &str {
    if let Some(inner) = path.strip_prefix(CONTAINERS) {
        let number = inner.split('/').next().unwrap_or(inner);
        return &path[..CONTAINERS.len() + number.len()];
    }
    let mut path = path;
    loop {
        match (unit_of(path), path.rsplit_once('/')) {
            (Some(unit), _) => return unit,
            (None, Some((above, _))) => path = above,
            (None, None) => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_below_a_unit_has_its_name() {
        for (path, expected) in [
            ("", ""),
            ("system.slice/cron.service", "cron.service"),
            ("qemu.slice/100.scope", "100.scope"),
            ("qemu.slice/100.scope/vcpu", "100.scope"),
            ("user.slice/user-0.slice/session-1.scope", "session-1.scope"),
            ("lxc/101/ns/system.slice/ssh.service", "lxc/101"),
            ("lxc/101", "lxc/101"),
            ("made/by-hand", "made"),
        ] {
            assert_eq!(group_of(path), expected, "{path}");
        }
    }
}
