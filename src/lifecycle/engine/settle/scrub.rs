//! The hotplug scrub: the CPUs of a VM go offline and back once, before they are isolated.
//!
//! Going offline moves timers, work and threads away, coming back leaves them there. It costs a start up to 6 s, and
//! each CPU that goes stops all others for a moment (`stop_machine_cpuslocked()`). A pinned thread that *runs*
//! meanwhile is given all CPUs, and its own back afterwards; a CPU whose interrupts have no vector elsewhere refuses
//! (ENOSPC). What is not undone: timers and work stay where they went.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use anyhow::Context;

use super::settling::{Pass, Settling};
use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;
use crate::domain::facts::Facts;
use crate::domain::scrub::{repairs, scrubbed};
use crate::domain::stage::Stage;
use crate::domain::state::Record;
use crate::domain::target::Target;
use crate::domain::vm::{TaskId, Vmid};
use crate::host::errand::Ended;
use crate::host::{Host, irq, task};
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::observe::kernel_threads;

/// How long it may take: a start of another VM waits a little longer for the host lock.
const SCRUB_WAIT: Duration = Duration::from_secs(6);

impl Settling<'_, '_> {
    /// Scrubs the CPUs of claims that this run has brought into force, if they wish for it; a run
    /// that finishes another's does not begin again. What it leaves undone is put right for the claims
    /// in force before. Returns what was observed afterwards, or `None` when the kernel does not come
    /// to an end with it.
    pub(super) fn scrub(
        &mut self,
        staying: &Claims,
        begun: &[Vmid],
        facts: Facts,
    ) -> anyhow::Result<Option<Facts>> {
        let claims = self.journal.state().claims.clone();
        let cpus: CpuSet = scrubbed(&claims, begun, &facts)
            .iter()
            .filter(|cpu| self.host.files.exists(&Target::online(*cpu).path()))
            .collect();
        if cpus.is_empty() {
            return Ok(Some(facts));
        }
        let facts = Facts {
            irqs: irq::interrupts(&*self.host.files, &facts.irqs)?,
            kernel_threads: kernel_threads(self.host, &facts.offline, &facts.kernel_threads)?,
            ..facts
        };
        let pinned = pinned(self.host, &cpus, &facts)?;
        let repairs = repairs(&cpus, &self.journal.state().held, &facts, &pinned);
        self.journal.append(vec![Record::Intend(repairs)])?;
        let wait = self.host.left().min(SCRUB_WAIT);
        match at_work::scrub(&cpus).run(self.host, wait) {
            Ok(Ended::Done(answers)) => self.report.warnings.extend(refused(&cpus, answers)),
            Ok(Ended::Late) => {
                self.end_late(&cpus);
                return Ok(None);
            }
            Err(error) => self
                .report
                .warnings
                .push(uncleared(&cpus, &error.to_string())),
        }
        match self.observed(&Stage::ACQUIRE, &facts)? {
            Some(facts) => self.pass(Pass::Release, staying, &Stage::RELEASE, facts),
            None => Ok(None),
        }
    }

    /// Lets the child of a run that died come to its end, because it would take CPUs offline that
    /// are in a partition by then; tells whether it has.
    pub(super) fn await_scrub(&mut self) -> anyhow::Result<bool> {
        let held = self.journal.state().held.keys();
        let cpus: CpuSet = held.filter_map(Target::switched_cpu).collect();
        let wait = self.host.left().min(SCRUB_WAIT);
        if cpus.is_empty() || !at_work::scrub(&cpus).join(self.host, wait)? {
            return Ok(true);
        }
        self.end_late(&cpus);
        Ok(false)
    }

    fn end_late(&mut self, cpus: &CpuSet) {
        let why = at_work::scrub(cpus).late();
        self.leave_to_reconcile(format!(
            "cpus {cpus} are still being taken offline and back: {why}"
        ));
    }
}

/// Returns the threads of programs that may run on one of these CPUs alone, with what they may run on when those
/// that are offline are back: one that runs while its CPU goes is given all CPUs for good (`select_fallback_rq()`).
fn pinned(host: &Host, cpus: &CpuSet, facts: &Facts) -> anyhow::Result<Vec<(TaskId, CpuSet)>> {
    let of_kernel = facts.kernel_threads.iter().map(|thread| thread.id.tid);
    let of_kernel: BTreeSet<i32> = of_kernel.collect();
    let tids = task::threads(&*host.files, |pid| of_kernel.contains(&pid));
    let tids = tids.context("failed to list threads")?;
    let pinned = tids.into_iter().filter_map(|tid| {
        let affinity = host.sched.affinity(tid).ok()?;
        let is_one = affinity.len() == 1 && affinity.is_subset(cpus);
        let task = is_one.then(|| task::read_task(&*host.files, tid, tid).ok())??;
        let kept = match facts.offline.is_empty() {
            true => affinity,
            // sched_getaffinity(2) leaves out what is offline.
            false => task::allowed_cpus(&*host.files, tid).ok()?,
        };
        (!task.is_kernel_thread()).then_some((task.id, kept))
    });
    Ok(pinned.collect())
}

/// Tells which CPUs did not go offline, and why; that one did not come back is told when it is
/// tried again.
fn refused(cpus: &CpuSet, answers: Vec<io::Result<()>>) -> Vec<String> {
    let mut reasons: BTreeMap<String, CpuSet> = BTreeMap::new();
    for (cpu, answer) in cpus.iter().zip(answers.into_iter().step_by(2)) {
        if let Err(error) = answer {
            reasons.entry(explained(&error)).or_default().insert(cpu);
        }
    }
    let told = reasons.iter().map(|(why, cpus)| uncleared(cpus, why));
    told.collect()
}

fn uncleared(cpus: &CpuSet, why: &str) -> String {
    format!("cpus {cpus} were not taken offline and back: {why}")
}

/// Says what an error of the kernel means here (`kernel/cpu.c`, `arch/x86/kernel/irq.c`).
fn explained(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            format!("the other cpus have no vectors left for their interrupts ({error})")
        }
        Some(libc::EBUSY) => {
            format!("a deadline task needs them, or hotplug is disabled at the moment ({error})")
        }
        _ => error.to_string(),
    }
}
