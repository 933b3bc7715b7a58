//! Making room before a start: VMs that the table names are shut down, and remembered.
//!
//! PVE's `qm` does that in a unit of its own: it takes the VM's lock, calls the VM's own hooks, and
//! may outlive this process. While it is waited for, no lock of ours is held.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use crate::domain::advice::Advised;
use crate::domain::debt::{Debt, NoYield, Owner, stopping_unit, stopping_units};
use crate::domain::refusal::Refusal;
use crate::domain::start::Purpose;
use crate::domain::state::{Record, State};
use crate::domain::vm::{TaskId, Vmid};
use crate::host::clock::awaiting;
use crate::host::systemd::Job;
use crate::host::{pve, task};
use crate::lifecycle::case::assess::assess;
use crate::lifecycle::case::known::state_now;
use crate::lifecycle::case::neighbours::{Neighbour, neighbours, without_neighbours};
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::denied::Denied;
use crate::lifecycle::engine::journal::{busy, read_state};
use crate::lifecycle::engine::run::{Run, START_TIME};
use crate::lifecycle::engine::work::work_and_tell;

/// Longest time after which one looks again, although nothing has ended that is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a unit that was asked for may take to be seen at work.
const BEGIN_WAIT: Duration = Duration::from_secs(3);

impl Run<'_> {
    /// Has the VMs shut down that are to make room, and waits until they are gone.
    ///
    /// The time for that is the table's; the phase has as much left afterwards as before.
    pub(in crate::lifecycle) fn make_room(
        &self,
        case: &Case,
        account: &mut Account,
    ) -> Result<(), Denied> {
        if case.table.yields.stop.is_empty() {
            return Ok(());
        }
        let left = self.host.left();
        self.remember(case, &[], account)?;
        if !self.needs_room(case) {
            return Ok(());
        }
        self.foresee(case)?;
        let made = self.shut_down(case, left, account);
        self.host.allow(left);
        made
    }

    /// Tells whether the guest is going to run: not when it is started for a backup or comes from
    /// another node. What was stopped for it before stays so nevertheless.
    fn needs_room(&self, case: &Case) -> bool {
        let from = &self.caller.migrated_from;
        Purpose::of(case.guest.lock.as_deref(), from) == Purpose::Run
    }

    /// Finds what would keep the VM from its CPUs once the others are gone: then they stay.
    fn foresee(&self, case: &Case) -> Result<(), Denied> {
        let neighbours = neighbours(self.host, case)?;
        if neighbours.is_empty() {
            return Ok(());
        }
        if let Some(obstacle) = neighbours.into_iter().find_map(|one| one.obstacle) {
            return Err(Refusal::NoYield(obstacle).into());
        }
        let state = without_neighbours(state_now(self.host)?, case);
        assess(self.host, case, Some(&state))?.granted()?;
        Ok(())
    }

    /// Has them shut down; `left` is the time for each piece of work on the host.
    fn shut_down(&self, case: &Case, left: Duration, account: &mut Account) -> Result<(), Denied> {
        let refused = |why| Err(Refusal::NoYield(why).into());
        let timeout = case.table.yields.timeout;
        let until = self.host.clock.since_boot() + timeout.duration();
        let vmids = case.table.yields.stop.iter();
        let vmids: Vec<String> = vmids.map(|vmid| format!("vm {vmid}")).collect();
        let what = format!("{} to shut down ({timeout} at most)", vmids.join(" and "));
        let _wait = awaiting(&*self.host.clock, &what);
        let mut asked = BTreeMap::new();
        loop {
            self.host.allow(left);
            let failed = self.ended_in_vain(&asked);
            let open = neighbours(self.host, case)?;
            let now = self.host.clock.since_boot();
            let Some(first) = open.first() else {
                return Ok(());
            };
            if now >= until {
                let (vmid, timeout) = (first.vmid, timeout.to_string());
                return refused(NoYield::Late { vmid, timeout });
            }
            let has_failed = |one: &&Neighbour| one.qemu.is_some() && failed.contains(&one.vmid);
            if let Some(one) = open.iter().find(has_failed) {
                return refused(NoYield::Failed(one.vmid));
            }
            let new = open.iter().filter(|one| !asked.contains_key(&one.vmid));
            let new: Vec<&Neighbour> = new.filter(|one| one.qemu.is_some()).collect();
            if let Some(obstacle) = new.iter().find_map(|one| one.obstacle.clone()) {
                return refused(obstacle);
            }
            self.ask_for_room(case, &new, account)?;
            asked.extend(new.iter().map(|one| (one.vmid, now)));
            if !task::alive(&*self.host.files, self.caller.process) {
                let vmid = case.vmid;
                let ended = Advised::new(
                    format!("the task that was starting vm {vmid} has ended"),
                    format!("start vm {vmid} again"),
                );
                return Err(Denied::Failed(ended.into()));
            }
            let qemus = open.iter().filter_map(|one| one.qemu);
            let ends: Vec<TaskId> = qemus.chain([self.caller.process]).collect();
            let wait = LOOK_AGAIN.min(until - now);
            self.host.clock.wait_for_end(&ends, wait);
        }
    }

    /// Returns the VMs that were asked and whose shutdown is over; whether in vain is seen
    /// by looking whether they run.
    fn ended_in_vain(&self, asked: &BTreeMap<Vmid, Duration>) -> Vec<Vmid> {
        let now = self.host.clock.since_boot();
        let is_over = |vmid: &Vmid| {
            let active = self.host.systemd.is_any_active(&stopping_units(*vmid));
            active.is_ok_and(|active| !active)
        };
        let begun = asked.iter().filter(|(_, at)| now >= **at + BEGIN_WAIT);
        begun.map(|(vmid, _)| *vmid).filter(is_over).collect()
    }

    /// Has VMs shut down, after it is on disk that they are to be started again.
    fn ask_for_room(
        &self,
        case: &Case,
        new: &[&Neighbour],
        account: &mut Account,
    ) -> anyhow::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let running = new.iter().filter_map(|one| Some((one.vmid, one.qemu?)));
        self.remember(case, &running.collect::<Vec<_>>(), account)?;
        let now = self.host.clock.since_boot();
        for Neighbour { vmid, .. } in new {
            let units = stopping_units(*vmid);
            // Of an earlier start that did not wait for it long enough.
            let is_asked = self.host.systemd.is_any_active(&units).unwrap_or(false);
            if !is_asked {
                let asked = self.host.systemd.run(&job(*vmid, case, now));
                asked.with_context(|| format!("cannot shut down vm {vmid}"))?;
            }
            let own = case.vmid;
            account.info(format!(
                "vm {own}: vm {vmid} is being shut down, and will be started again when vm {own} \
                 has stopped"
            ));
        }
        Ok(())
    }

    /// Remembers that `running` are going to be shut down for the VM, and that those that were
    /// before are needed off by it too.
    fn remember(
        &self,
        case: &Case,
        running: &[(Vmid, TaskId)],
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let owner = Owner::Starting {
            starter: self.caller.process,
            deadline: self.host.clock.since_boot() + START_TIME,
        };
        let known = read_state(&*self.host.files)?;
        if running.is_empty() && taken_over(&known, case).next().is_none() {
            return Ok(());
        }
        let state = work_and_tell(self.host, account, |now| {
            let before = taken_over(now, case).map(|debt| (debt.vmid, debt.stopped));
            let all = before.chain(running.iter().copied());
            let records = all.map(|(vmid, stopped)| {
                let debt = Debt::owed_by(vmid, stopped, now.debts.get(&vmid), (case.vmid, owner));
                Record::Debt(Box::new(debt))
            });
            Ok(records.collect())
        })?;
        match state {
            Some(_) => Ok(()),
            None => Err(busy(&*self.host.files)),
        }
    }
}

/// Returns what is owed to VMs that the table wants off as well.
fn taken_over<'s>(state: &'s State, case: &'s Case) -> impl Iterator<Item = &'s Debt> {
    let stop = case.table.yields.stop.iter();
    stop.filter_map(|vmid| state.debts.get(vmid))
}

fn job(vmid: Vmid, case: &Case, now: Duration) -> Job {
    let seconds = case.table.yields.timeout.duration().as_secs().max(1);
    let words = [
        "shutdown",
        &vmid.to_string(),
        "--timeout",
        &seconds.to_string(),
    ];
    Job {
        unit: stopping_unit(vmid, now),
        description: format!("shut down vm {vmid} to make room for vm {}", case.vmid),
        path: pve::QM.to_owned(),
        arguments: words.map(str::to_owned).to_vec(),
        limit: None,
        spares: true,
    }
}
