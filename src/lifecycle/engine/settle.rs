//! Settling: making the host what the claims wish for, and giving back what none wishes for.
//!
//! There is one way through for every phase and command. A change of the claims is settled in two
//! passes: first for the claims that stay as they are, which only gives back, then for all of
//! them, which only takes. Each pass walks the stages; each stage observes, compares, announces
//! what it will write in the journal, writes, and reads back.

mod comparing;
mod outcome;
mod probes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::outcome::{fixed_irq, stuck_in};
use self::outcome::{irq_of, is_out_of_vectors};
pub use self::probes::partition_is_near;
use super::journal::Journal;
use super::observe::{effective_cpus, shared_cpus};
use super::report::{Problem, Report};
use crate::domain::claim::Claims;
use crate::domain::desired::{Desired, Wish, desired};
use crate::domain::diff::{self, Answer, Change, Diff};
use crate::domain::facts::Facts;
use crate::domain::knob::Knob;
use crate::domain::state::Record;
use crate::domain::target::{Stage, Target, Value};
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::target::{self, Outcome};

/// Most rounds of a pass: some targets exist only after others were written (a cgroup's files),
/// and threads are born meanwhile.
const MAX_ROUNDS: usize = 4;

/// How long the kernel may take to apply what it has taken: for one target, and in all. What it never
/// applies, such as a frequency beyond the hardware's, must not use up the time of a phase.
const APPLY_WAIT: Duration = Duration::from_millis(500);
const APPLY_WAIT_IN_ALL: Duration = Duration::from_secs(2);
/// How often one looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// One settling of the host.
#[derive(Debug)]
pub struct Settling<'s, 'h> {
    pub(in crate::lifecycle) host: &'h Host,
    pub(in crate::lifecycle) journal: &'s mut Journal<'h>,
    pub(in crate::lifecycle) report: &'s mut Report,
    /// VMs whose claims have just come into force: the first problem that keeps one of them from
    /// owning its CPUs ends it, because all that was done for them is going to be taken back.
    pub(in crate::lifecycle) new: &'s [Vmid],
    written: BTreeSet<Target>,
    /// Targets that the kernel turned out to let nobody change.
    unchangeable: BTreeSet<Target>,
    /// What is left of the time for waiting until the kernel applies what it has taken.
    patience: Duration,
}

/// Direction of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lifecycle) enum Pass {
    Release,
    Acquire,
}

impl<'s, 'h> Settling<'s, 'h> {
    /// Prepares settling; see [`Settling::settle`].
    pub fn new(
        host: &'h Host,
        journal: &'s mut Journal<'h>,
        report: &'s mut Report,
        new: &'s [Vmid],
    ) -> Self {
        Settling {
            host,
            journal,
            report,
            new,
            written: BTreeSet::new(),
            unchangeable: BTreeSet::new(),
            patience: APPLY_WAIT_IN_ALL,
        }
    }

    /// Settles the host for the claims in the journal; `staying` are those that were in force
    /// before and are unchanged, `begun` those that this very run has brought into force.
    ///
    /// Returns whether it came to its end: not when the deadline came first or an essential
    /// target could not be written; the report tells which.
    pub fn settle(&mut self, staying: &Claims, begun: &[Vmid]) -> anyhow::Result<bool> {
        if !self.await_scrub()? {
            return Ok(false);
        }
        let claims = self.journal.state().claims.clone();
        let Some(facts) = self.observed(&Stage::ACQUIRE)? else {
            return Ok(false);
        };
        let Some(facts) = self.pass(Pass::Release, staying, &Stage::RELEASE, facts)? else {
            return Ok(false);
        };
        let Some(facts) = self.scrub(staying, begun, facts)? else {
            return Ok(false);
        };
        self.try_again(&claims, &facts);
        let end = self.pass(Pass::Acquire, &claims, &Stage::ACQUIRE, facts)?;
        self.look_at_unmoved();
        Ok(end.is_some())
    }

    /// Settles unit files only: what has to be in force before anything else can be.
    pub fn settle_units(&mut self) -> anyhow::Result<bool> {
        let claims = self.journal.state().claims.clone();
        let stages = [Stage::Unit];
        let Some(facts) = self.observed(&stages)? else {
            return Ok(false);
        };
        Ok(self.pass(Pass::Acquire, &claims, &stages, facts)?.is_some())
    }

    /// Settles the stages until nothing is left to write; returns what was observed last, or
    /// `None` when it ended before.
    pub(in crate::lifecycle) fn pass(
        &mut self,
        pass: Pass,
        claims: &Claims,
        stages: &[Stage],
        mut facts: Facts,
    ) -> anyhow::Result<Option<Facts>> {
        for _ in 0..MAX_ROUNDS {
            let mut wishes = desired(claims, &self.journal.state().held, &facts);
            if pass == Pass::Release {
                self.keep_what_is_wished_again(&mut wishes, &facts);
            }
            if pass == Pass::Acquire && stages.contains(&Stage::Partition) {
                self.remember_what_will_be_hidden(&wishes, &facts)?;
            }
            let mut is_quiet = true;
            for stage in stages {
                match self.stage(pass, *stage, &wishes, &facts)? {
                    Some(n_changes) => is_quiet &= n_changes == 0,
                    None => return Ok(None),
                }
                // What belongs to a CPU that has come back can only be judged with it.
                if *stage == Stage::Hotplug && !is_quiet {
                    break;
                }
            }
            if is_quiet {
                break;
            }
            match self.observed(stages)? {
                Some(now) => facts = now,
                None => return Ok(None),
            }
        }
        Ok(Some(facts))
    }

    /// Keeps what a claim that is new or has changed wishes for as it is: giving it back for a moment
    /// would disturb a VM that runs.
    fn keep_what_is_wished_again(&self, wishes: &mut Desired, facts: &Facts) {
        let state = self.journal.state();
        for (target, wish) in desired(&state.claims, &state.held, facts) {
            let Some(held) = state.held.get(&target) else {
                continue;
            };
            // A thread stays in the VM's cgroup, which would cut what it had before.
            if held.ours == wish.value || target.stage() == Stage::Threads {
                let value = held.ours.clone();
                wishes.insert(target, Wish { value, ..wish });
            }
        }
    }

    /// Announces what a partition or a move hides: some kernel threads forget what they had when
    /// a partition comes, PVE cuts the lists of containers then, and a thread shows another
    /// affinity in another cgroup.
    fn remember_what_will_be_hidden(
        &mut self,
        wishes: &Desired,
        facts: &Facts,
    ) -> anyhow::Result<()> {
        for stage in [Stage::KernelThreads, Stage::Threads, Stage::Containers] {
            let (mut diff, _) = self.compare(Pass::Acquire, stage, wishes, facts);
            let held = &self.journal.state().held;
            diff.intend.retain(|(target, _)| !held.contains_key(target));
            self.announce(stage, &diff)?;
        }
        Ok(())
    }

    /// Settles one stage; returns how much was written, or `None` when the pass ends here.
    fn stage(
        &mut self,
        pass: Pass,
        stage: Stage,
        wishes: &Desired,
        facts: &Facts,
    ) -> anyhow::Result<Option<usize>> {
        let (mut diff, unread) = self.compare(pass, stage, wishes, facts);
        for problem in unread {
            if self.meet(pass, problem, facts)? {
                return Ok(None);
            }
        }
        self.suspect(&diff.drift);
        self.report.names_of(&diff.drift, facts);
        self.report.drift.append(&mut diff.drift);
        if self.waits_for_probe(stage, &diff) {
            return Ok(None);
        }
        self.announce(stage, &diff)?;
        match pass {
            Pass::Release => diff.changes.reverse(),
            Pass::Acquire => diff.changes.sort_by_key(|change| change.target.rank()),
        }
        let n_unchangeable = self.unchangeable.len();
        for change in &diff.changes {
            if self.host.left().is_zero() {
                self.report.is_unfinished = true;
                return Ok(None);
            }
            if let Some(problem) = self.write(pass, change, facts)?
                && self.meet(pass, problem, facts)?
            {
                return Ok(None);
            }
        }
        self.take_from_nobody(&diff.forget);
        self.forget(diff.forget)?;
        // Those have changed nothing that would have to be looked at again.
        let n_unchangeable = self.unchangeable.len() - n_unchangeable;
        Ok(Some(diff.changes.len() - n_unchangeable))
    }

    /// Takes note of a problem; returns whether it ends the pass.
    fn meet(&mut self, pass: Pass, mut problem: Problem, facts: &Facts) -> anyhow::Result<bool> {
        let target = problem.target.clone();
        problem.whose = whose(&target, facts);
        problem.name = facts.name_of(&target);
        problem.is_essential = pass == Pass::Acquire && self.is_essential(&problem);
        // A late partition has locks that everything else of cgroups would wait for.
        let blocks = problem.is_essential || target.stage() == Stage::Partition;
        if blocks && problem.is_late {
            self.leave_to_reconcile(problem.to_string());
            return Ok(true);
        }
        // A CPU that does not come back is told as long as it is away.
        let is_held = self.journal.state().held.contains_key(&target);
        if is_held && !target.stage().is_essential() && target.stage() != Stage::Hotplug {
            problem.is_known = self.count_refusal(&target, problem.is_of_reading)?;
        }
        let ends = problem.is_essential && !self.new.is_empty();
        self.report.problems.push(problem);
        Ok(ends)
    }

    /// Tells whether a VM does not own its CPUs without a target: one of those that have just come
    /// into force, if there are any. The troubles of another VM are not theirs.
    fn is_essential(&self, problem: &Problem) -> bool {
        let of_another = |vmid| !self.new.is_empty() && !self.new.contains(&vmid);
        problem.target.stage().is_essential() && !problem.whose.is_some_and(of_another)
    }

    fn announce(&mut self, stage: Stage, diff: &Diff) -> anyhow::Result<()> {
        let mut records = Vec::new();
        let is_file =
            |change: &Change| stage == Stage::Unit || matches!(change.target, Target::DropIn(_));
        if diff.changes.iter().any(is_file) {
            records.push(Record::Reload(true));
        }
        if !diff.intend.is_empty() {
            records.push(Record::Intend(diff.intend.clone()));
        }
        self.journal.append(records)
    }

    fn forget(&mut self, targets: Vec<Target>) -> anyhow::Result<()> {
        let done = targets
            .into_iter()
            .filter(|target| !self.report.has_problem(target));
        let done: Vec<Target> = done.collect();
        match done.is_empty() {
            true => Ok(()),
            false => self.journal.append(vec![Record::Forget(done)]),
        }
    }

    /// Tells whether a change gives a target what it had: a pass that gives back also writes what
    /// the claims that stay wish for then.
    fn gives_back(&self, pass: Pass, change: &Change) -> bool {
        let held = self.journal.state().held.get(&change.target);
        pass == Pass::Release && held.is_some_and(|held| held.baseline == change.after)
    }

    /// Tells whether a change is of an interrupt that has been moved: its mask is not what it had.
    fn was_moved(&self, change: &Change) -> bool {
        let held = self.journal.state().held.get(&change.target);
        irq_of(&change.target).is_some() && held.is_some_and(|held| held.baseline != change.before)
    }

    fn write(
        &mut self,
        pass: Pass,
        change: &Change,
        facts: &Facts,
    ) -> anyhow::Result<Option<Problem>> {
        let Change {
            target,
            before,
            after,
        } = change;
        if pass == Pass::Acquire && self.is_of_nobody(target, facts) {
            return Ok(None);
        }
        match target::write(self.host, target, before, after) {
            Ok(Outcome::Taken) => {
                self.report.n_changes += 1;
                self.written.insert(target.clone());
                let problem = self.verify(change, facts);
                if problem.is_none() && self.is_to_be_settled(target) {
                    self.journal.settle(target);
                }
                Ok(problem)
            }
            Ok(Outcome::Gone) if pass == Pass::Acquire => Ok(self.missing(change)),
            Ok(Outcome::Gone) => Ok(None),
            Ok(Outcome::Unchangeable(error))
                if self.gives_back(pass, change) || self.was_moved(change) =>
            {
                // An interrupt that was moved before can be moved back.
                if irq_of(target).is_none() {
                    self.mark_unchangeable(target)?;
                }
                Ok(Some(Problem::refused(change, &error)))
            }
            Ok(Outcome::Unchangeable(_)) => {
                self.unchangeable.insert(target.clone());
                self.mark_unchangeable(target).map(|()| None)
            }
            Err(error)
                if pass == Pass::Acquire
                    && is_out_of_vectors(&error)
                    && self.send_elsewhere(change, facts)? =>
            {
                self.report.n_changes += 1;
                Ok(None)
            }
            Err(error) => Ok(Some(Problem::refused(change, &error))),
        }
    }

    /// Tells whether a write that was done has to be remembered as done at once.
    fn is_to_be_settled(&self, target: &Target) -> bool {
        let held = self.journal.state().held.get(target);
        target.stage() == Stage::Threads || held.is_some_and(|held| held.refused > 0)
    }

    /// Returns the problem of a file that is missing although its cgroup is there: the controller
    /// is not available in it.
    fn missing(&self, change: &Change) -> Option<Problem> {
        let group = change.target.group()?;
        let is_there = target::read(self.host, &Target::Group(group.to_owned())).ok()?;
        (is_there == Value::Present).then(|| Problem::differs(change, &Value::Absent))
    }

    /// Reads a target back: the kernel may have taken the write and done something else.
    fn verify(&mut self, change: &Change, facts: &Facts) -> Option<Problem> {
        let target = &change.target;
        let mut live = target::read(self.host, target).ok()?;
        let mut is_well = self.is_well(change, &live, facts);
        if !is_well && is_applied_later(target) {
            let wait = self.patience.min(APPLY_WAIT).min(self.host.left());
            let clock = &self.host.clock;
            let begin = clock.since_boot();
            while !is_well && clock.since_boot() < begin + wait {
                clock.wait_for_end(&[], LOOK_AGAIN);
                live = target::read(self.host, target).ok()?;
                is_well = self.is_well(change, &live, facts);
            }
            self.patience = self.patience.saturating_sub(clock.since_boot() - begin);
        }
        (!is_well).then(|| Problem::differs(change, &live))
    }

    /// Tells whether a target has what was written, or what its cpuset leaves of that.
    fn is_well(&self, change: &Change, live: &Value, facts: &Facts) -> bool {
        let Change { target, after, .. } = change;
        let nothing = BTreeMap::new();
        let context = diff::Context {
            online: &facts.online,
            shared: &facts.shared,
            effective: &nothing,
            are_groups_cut: !facts.groups.is_empty(),
            nodes: &facts.nodes,
            births: &BTreeMap::new(),
            written: &self.written,
            now: self.host.clock.since_boot(),
        };
        if *live == Value::Absent || context.same(target, live, after) {
            return true;
        }
        // Partitions may have come and gone since the round began.
        let Ok(shared) = shared_cpus(self.host) else {
            return true;
        };
        let context = diff::Context {
            shared: shared.as_ref().unwrap_or(&facts.shared),
            effective: &effective_cpus(self.host, [target]),
            ..context
        };
        context.granted(target, live, after)
    }
}

/// Tells whether the kernel takes a value and applies it later, in work of its own: limits of
/// frequencies (`cpufreq_notifier_max()` in `drivers/cpufreq/cpufreq.c`).
fn is_applied_later(target: &Target) -> bool {
    matches!(
        target,
        Target::Knob(Knob::MaxFrequency | Knob::MinFrequency, _)
    )
}

/// Returns the VM that a target is of, if it is of one alone.
fn whose(target: &Target, facts: &Facts) -> Option<Vmid> {
    let (Target::Membership(id) | Target::Affinity(id)) = target else {
        return target.vmid();
    };
    let mut vms = facts.vms.iter();
    let owner = vms.find(|(_, vm)| vm.threads.iter().any(|thread| thread.id == *id));
    owner.map(|(vmid, _)| *vmid)
}

impl Answer {
    /// Returns what is done about somebody else's value, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Answer::Reassert => "set again",
            Answer::GiveUp => "set again three times, now left to somebody else",
            Answer::Leave => "left as it is",
        }
    }
}
