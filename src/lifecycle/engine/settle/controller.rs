//! The cpuset controller, which a cgroup passes on to the VMs below it with their CPUs: to nobody it is
//! not.
//!
//! systemd takes the controller from `qemu.slice` and then from the root with the last scope that delegates it.
//! Whoever passes it on again at the slice in between keeps systemd from the root (EBUSY), and systemd, which
//! believes the slice to be without it, leaves it in both for good (257, on 6.12 each time).

use super::settling::Settling;
use crate::domain::desired::has_partition;
use crate::domain::diff::Change;
use crate::domain::facts::{Facts, VmFacts};
use crate::domain::target::{Target, Value};
use crate::domain::vm::Vmid;
use crate::host::{cgroup, target};
use crate::lifecycle::engine::report::Problem;

impl Settling<'_, '_> {
    /// Tells whether a cgroup passes controller and CPUs on to no VM any more: systemd takes the controller
    /// away with the last scope, and would not see that it is back.
    pub(super) fn is_of_nobody(&self, target: &Target, facts: &Facts) -> bool {
        let claims = &self.journal.state().claims;
        let is_passed_to = |(vmid, vm): (&Vmid, &VmFacts)| {
            let claim = claims.get(vmid);
            let file = cgroup::file(&vm.scope, "cgroup.procs");
            claim.is_some_and(|claim| has_partition(&claim.wishes)) && self.host.files.exists(&file)
        };
        let is_passed_on = target.row().is_some_and(|row| row.is_passed_on);
        is_passed_on && !facts.vms.iter().any(is_passed_to)
    }

    /// Takes the controller away that a cgroup passes on although there is none below it any more. systemd
    /// has done that with the last scope, and does not see that a run which took the VM for alive has
    /// passed it on again in the meantime. While another VM is on its way it is left to that one.
    pub(super) fn take_from_nobody(&mut self, forgotten: &[Target]) {
        if !self.journal.state().claims.is_empty() {
            return;
        }
        for target in forgotten {
            let Some(group) = target.passes_controller() else {
                continue;
            };
            let is_passed_on = matches!(target::read(self.host, target), Ok(Value::Present));
            if !is_passed_on || !cgroup::is_empty(&*self.host.files, group) {
                continue;
            }
            let change = Change {
                target: target.clone(),
                before: Value::Present,
                after: Value::Absent,
            };
            match target::write(self.host, target, &change.before, &change.after) {
                Ok(_) => self.report.n_changes += 1,
                Err(error) => self.report.problems.push(Problem::refused(&change, &error)),
            }
        }
    }
}
