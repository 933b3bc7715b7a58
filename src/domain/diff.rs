//! What has to be written to get from the observed values to the wished ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cpuset::CpuSet;
use super::desired::{Desired, Wish};
use super::frequency::{self, Frequencies};
use super::held::REFUSAL_LIMIT;
use super::knob::Grammar;
use super::stage::Stage;
use super::state::Held;
use super::target::{Target, Value};
use super::vm::TaskId;

/// Live value of every target that somebody holds or wishes for.
pub type Live = BTreeMap<Target, Value>;

/// One write: a target, the value that it has and the value that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is written.
    pub target: Target,
    /// Value that it has now.
    pub before: Value,
    /// Value that it is to have.
    pub after: Value,
}

/// Value of somebody else on a target that is, or was, ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What was changed.
    pub target: Target,
    /// Value that it has.
    pub live: Value,
    /// Value that it should have had.
    pub ours: Value,
    /// What is done about it.
    pub answer: Answer,
}

/// What is done about somebody else's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Ours is written again.
    Reassert,
    /// Theirs stays while the claim runs: it came back too often.
    GiveUp,
    /// Theirs stays, because the target is no longer needed.
    Leave,
}

/// Difference between wished and observed values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Targets to announce in the log before anything is written, with what is remembered.
    pub intend: Vec<(Target, Held)>,
    /// Writes, in the order of targets.
    pub changes: Vec<Change>,
    /// Targets that are no longer ours once the changes are done.
    pub forget: Vec<Target>,
    /// Values of somebody else.
    pub drift: Vec<Drift>,
}

/// What comparing needs to know besides the values.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// CPUs that are online: an affinity is observed without those that are not.
    pub online: &'a CpuSet,
    /// CPUs outside of partitions: an affinity that was requested outside of them is observed
    /// without the others.
    pub shared: &'a CpuSet,
    /// What the cgroups above them leave to threads, where that was looked at.
    pub effective: &'a BTreeMap<TaskId, CpuSet>,
    /// Whether the lists of other groups change with the claims (backend slices).
    pub are_groups_cut: bool,
    /// CPUs of each NUMA node, where that was looked at: some kernel threads belong to one.
    pub nodes: &'a BTreeMap<u32, CpuSet>,
    /// What interrupts get that are made or set up now, where that was looked at.
    pub births: &'a BTreeMap<Target, [CpuSet; 2]>,
    /// What limits the frequencies of cpufreq policies, where that was looked at.
    pub frequencies: &'a Frequencies,
    /// Targets that were written in this run.
    pub written: &'a BTreeSet<Target>,
    /// Time since boot.
    pub now: Duration,
}

/// Compares wished with observed values for the targets in `live`.
///
/// A target that is held but no longer wished for is to get its baseline and to be forgotten.
pub fn diff(
    desired: &Desired,
    held: &BTreeMap<Target, Held>,
    live: &Live,
    context: Context<'_>,
) -> Diff {
    let mut diff = Diff::default();
    for (target, value) in live {
        match (desired.get(target), held.get(target)) {
            (Some(wish), held) => acquire(&mut diff, context, target, value, wish, held),
            (None, Some(held)) => release(&mut diff, context, target, value, held),
            (None, None) => {}
        }
    }
    diff.keep_those_before_births();
    diff.leave_files_of_others();
    diff
}

fn acquire(
    diff: &mut Diff,
    context: Context<'_>,
    target: &Target,
    live: &Value,
    wish: &Wish,
    held: Option<&Held>,
) {
    // A host without the file cannot be given the setting; what was there may come back.
    if *live == Value::Absent && target.stage().is_setting() {
        return;
    }
    let baseline = || wish.baseline.clone().unwrap_or_else(|| live.clone());
    let mut next = held
        .cloned()
        .unwrap_or_else(|| Held::new(baseline(), wish.value.clone()));
    let was_due = next.due.take().is_some();
    let is_new = held.is_none() || next.ours != wish.value || was_due;
    let is_there = context.same(target, live, &wish.value)
        || held.is_some_and(|held| context.was_granted(target, live, held, &wish.value));
    let may_ask_otherwise = context.may_ask_otherwise(target, live, wish, held);
    next.expect(&wish.value);
    let is_done = is_there && !may_ask_otherwise || target.is_asked_elsewhere();
    if is_done || next.unchangeable || next.refused >= REFUSAL_LIMIT {
        if is_new {
            next.turn_to(&wish.value);
            diff.intend.push((target.clone(), next));
        }
        return;
    }
    let is_foreign = |held: &Held| context.is_foreign(target, live, held);
    // The cpuset of a VM that is given other CPUs changes first, and a thread of whose CPUs none is left
    // gets all of it (`__set_cpus_allowed_ptr()`): nobody has done that, and nobody expects the old one.
    let is_history = matches!(target, Target::Affinity(_)) && is_new;
    let is_made_of_ours = |held: &Held| context.is_made_of(target, live, &held.ours);
    let was_set_back = |held: &Held| held.was_set_back(target, live) && !is_made_of_ours(held);
    let is_drift = |held: &Held| is_foreign(held) || was_set_back(held);
    if !is_history && held.is_some_and(is_drift) {
        let answer = match next.reassert(context.now) {
            true => Answer::Reassert,
            false => Answer::GiveUp,
        };
        let ours = next.ours.clone();
        diff.drift.push(Drift {
            target: target.clone(),
            live: live.clone(),
            ours,
            answer,
        });
        if answer == Answer::GiveUp {
            return;
        }
    }
    diff.change(target, live, &wish.value, next);
}

/// Gives a target back. It is forgotten when it is seen to have its baseline and not when that
/// was written: what was born under it in between is still recognised by it.
fn release(diff: &mut Diff, context: Context<'_>, target: &Target, live: &Value, held: &Held) {
    // What lives in a cgroup of ours goes with that cgroup, which is a target of its own.
    let is_gone = *live == Value::Absent || held.baseline == Value::Absent && !target.is_root();
    let is_back = context.same(target, live, &held.baseline)
        || context.was_granted(target, live, held, &held.baseline);
    let is_back = is_back && !context.is_asked_otherwise(target, live, held);
    let is_done = is_gone || held.is_given_up(target) || is_back;
    if is_done && !context.may_be_half_gone(target, live, held) {
        diff.forget.push(target.clone());
    } else if context.is_foreign(target, live, held)
        && !frequency::is_all(context.frequencies, target, live)
    {
        let (live, ours) = (live.clone(), held.ours.clone());
        diff.drift.push(Drift {
            target: target.clone(),
            live,
            ours,
            answer: Answer::Leave,
        });
        diff.forget.push(target.clone());
    } else if !matches!(target, Target::Driver(_)) {
        let mut next = held.clone();
        next.expect(&held.baseline);
        diff.change(target, live, &held.baseline, next);
    }
}

impl Diff {
    /// Keeps targets until the mask that new objects inherit is restored: they would be taken for objects that
    /// were born while it was narrow.
    fn keep_those_before_births(&mut self) {
        let changes = self.changes.iter().map(|change| &change.target);
        let inherited = changes.filter(|target| target.is_inherited());
        let stages: Vec<Stage> = inherited.map(Target::stage).collect();
        self.forget
            .retain(|target| !stages.contains(&target.stage()));
    }

    /// Keeps the drop-in of a unit whose `AllowedCPUs=` another writer has set and keeps.
    fn leave_files_of_others(&mut self) {
        let left = self
            .drift
            .iter()
            .filter(|drift| drift.answer == Answer::Leave);
        let files = left.filter_map(|drift| match &drift.target {
            Target::AllowedCpus(unit) => Some(Target::DropIn(unit.clone())),
            _ => None,
        });
        let files: Vec<Target> = files.collect();
        self.changes
            .retain(|change| !files.contains(&change.target));
        self.intend.retain(|(target, _)| !files.contains(target));
        self.forget.extend(files);
    }

    /// Announces a write with what is remembered from then on, and makes it.
    fn change(&mut self, target: &Target, before: &Value, after: &Value, mut next: Held) {
        next.turn_to(after);
        next.before = Some(before.clone());
        next.asked |= matches!(target, Target::KernelThread(_));
        self.intend.push((target.clone(), next));
        let (target, before, after) = (target.clone(), before.clone(), after.clone());
        self.changes.push(Change {
            target,
            before,
            after,
        });
    }
}

impl Context<'_> {
    /// Tells whether an observed value is the requested one; none is to be had of CPUs that are
    /// all offline.
    pub fn same(&self, target: &Target, live: &Value, requested: &Value) -> bool {
        match (target, live, requested) {
            (
                Target::Affinity(_) | Target::KernelThread(_),
                Value::Cpus(live),
                Value::Cpus(cpus),
            ) => {
                let usable = cpus.intersection(self.online);
                usable.is_empty() || *live == usable
            }
            // What systemd keeps there while we hold the property is as wished.
            (Target::DropIn(_), _, Value::Present) => true,
            // The kernel may have refused an empty list (`Row::all`).
            (Target::Knob(knob, _), Value::Cpus(live), Value::Cpus(cpus))
                if knob.row().is_list_of_others && cpus.is_empty() =>
            {
                live.is_empty() || self.online.is_subset(live)
            }
            _ => live == requested,
        }
    }

    /// Tells whether an observed value is what the kernel makes of the requested one outside of
    /// partitions.
    pub fn granted(&self, target: &Target, live: &Value, requested: &Value) -> bool {
        let is_affinity = matches!(target, Target::Affinity(_) | Target::KernelThread(_));
        let granted = requested.cpus();
        let granted = granted.map(|cpus| cpus.intersection(self.effective_of(target)));
        let granted = granted.filter(|cpus| is_affinity && !cpus.is_empty());
        let granted = granted.map(Value::Cpus);
        granted.is_some_and(|granted| self.same(target, live, &granted))
    }

    /// Returns the CPUs that its cpuset leaves to a thread.
    fn effective_of(&self, target: &Target) -> &CpuSet {
        let effective = match target {
            Target::Affinity(id) => self.effective.get(id),
            _ => None,
        };
        effective.unwrap_or(self.shared)
    }

    /// Tells whether the requested affinity of a thread may differ from the one that it shows, and would show again
    /// in another cgroup: none was requested yet, or a run died before it was.
    fn may_ask_otherwise(
        &self,
        target: &Target,
        live: &Value,
        wish: &Wish,
        held: Option<&Held>,
    ) -> bool {
        let differs = |asked: &Value| !self.same(target, live, asked);
        match (target, held) {
            (Target::Affinity(_), None) => wish.baseline.as_ref().is_some_and(differs),
            (Target::Affinity(_), Some(held)) => {
                let is_cut = self.effective_of(target) != self.shared;
                self.was_begun(target, held) || held.ours != wish.value && is_cut
            }
            // A partition makes it look as it should, and it shows the former request again without that one.
            (Target::KernelThread(_), Some(held)) if held.asked => {
                self.was_begun(target, held) || !self.same(target, &held.ours, &wish.value)
            }
            _ => false,
        }
    }

    /// Tells whether a run may have died when it had taken away or made only a part of a target:
    /// what else is in the directory of a drop-in is not seen.
    fn may_be_half_gone(&self, target: &Target, live: &Value, held: &Held) -> bool {
        let is_file = match target {
            Target::Delegation(_) | Target::MemoryNodes(_) => *live == Value::Absent,
            Target::DropIn(_) => true,
            _ => false,
        };
        is_file && self.was_begun(target, held) && *live == held.baseline
    }

    /// Tells whether a run died after it had announced a write, maybe before it was done. A write of this run is
    /// announced as well until the next checkpoint.
    fn was_begun(&self, target: &Target, held: &Held) -> bool {
        held.before.is_some() && !self.written.contains(target)
    }

    /// Tells whether `value` was already written to a held target, and `live` is what the kernel
    /// made of it. Where the same was there before, only this run knows that.
    fn was_granted(&self, target: &Target, live: &Value, held: &Held, value: &Value) -> bool {
        let is_ours = held.ours == *value;
        let was_written = held.before.as_ref() != Some(live) || self.written.contains(target);
        is_ours && was_written && self.granted(target, live, value)
    }

    /// Tells whether a kernel thread has what the kernel gives those of a NUMA node, whatever they had: when one
    /// of its CPUs comes online, or when a partition comes or goes (up to 6.13 `kcompactd_cpu_online()` in
    /// `mm/compaction.c`, from 6.14 on `kthreads_online_cpu()` in `kernel/kthread.c`).
    fn is_of_node(&self, live: &CpuSet, ours: &CpuSet) -> bool {
        let limits = [self.online, self.shared, ours];
        let mut given = self
            .nodes
            .values()
            .flat_map(|node| limits.map(|cpus| node.intersection(cpus)));
        given.any(|given| given == *live)
    }

    /// Tells whether an observed value is what the kernel makes of a frequency that was asked for.
    fn is_made_of(&self, target: &Target, live: &Value, asked: &Value) -> bool {
        frequency::may_show(self.frequencies, target, live, asked)
    }

    /// Tells whether the kernel keeps a request of ours, whatever the target shows: for a kernel thread, which
    /// comes back to it with the next CPU or partition, and for a frequency, which does when the hardware can
    /// do more. There is nothing to ask for while the own CPUs of a thread are all offline.
    fn is_asked_otherwise(&self, target: &Target, live: &Value, held: &Held) -> bool {
        let is_written = held.before.is_none() || self.written.contains(target);
        if held.ours == held.baseline && is_written {
            return false;
        }
        let baseline = held.baseline.cpus();
        let can_ask = baseline.is_some_and(|cpus| !cpus.is_disjoint(self.online));
        match target {
            Target::KernelThread(_) => held.asked && can_ask,
            _ => self.is_made_of(target, live, &held.ours),
        }
    }

    /// Tells whether an observed value is neither ours nor the baseline.
    ///
    /// A partition that the kernel found invalid is its verdict on ours, not a foreign value, and
    /// an affinity changes by itself when all of its CPUs go offline. Some kernel threads get all
    /// CPUs outside of partitions when one comes or goes.
    fn is_foreign(&self, target: &Target, live: &Value, held: &Held) -> bool {
        let mut known = held.known();
        let is_known = |value: &Value| {
            let is_made = self.granted(target, live, value) || self.is_made_of(target, live, value);
            is_made || self.same(target, live, value)
        };
        if known.any(is_known) {
            return false;
        }
        match (target, live, &held.ours) {
            (_, Value::Absent, _) => false,
            (Target::DropIn(_), ..) => false,
            // It was to be something else as well when it was written.
            (Target::Knob(knob, _), ..) if knob.row().is_applied_later && held.refused > 0 => false,
            // On the way back to none that is named, which means the same.
            (Target::AllowedCpus(_), Value::Cpus(live), _) if self.online.is_subset(live) => false,
            // Announced and not yet asked for: a move in between changes what it shows.
            (Target::Affinity(_), ..) if held.before.is_some() => false,
            // One that wakes up without an online CPU gets every one (`select_fallback_rq()`).
            (Target::KernelThread(_), Value::Cpus(live), _)
                if live == self.shared || live == self.online =>
            {
                false
            }
            (Target::KernelThread(_), Value::Cpus(live), Value::Cpus(ours))
                if self.is_of_node(live, ours) =>
            {
                false
            }
            // Its driver gave it back and has set it up again.
            (Target::Knob(..), Value::Cpus(live), _)
                if (self.births.get(target)).is_some_and(|births| births.contains(live)) =>
            {
                false
            }
            // Kernels before 6.2 forget an affinity when the cpuset changes.
            (Target::Affinity(id), Value::Cpus(live), _)
                if self.are_groups_cut && self.effective.get(id) == Some(live) =>
            {
                false
            }
            (_, Value::Text(text), _) if text.contains(" invalid") => false,
            // The kernel may have found some of the pages only.
            (Target::Hugepages(_), live, ours) => !is_between(live, &held.baseline, ours),
            // Without a driver it is on its way.
            (Target::Driver(_), Value::Text(driver), _) => !driver.is_empty(),
            (Target::Knob(knob, _), Value::Cpus(live), Value::Cpus(ours))
                if knob.row().is_balanced =>
            {
                live.len() != ours.len()
            }
            (Target::Affinity(_) | Target::KernelThread(_), _, Value::Cpus(ours)) => {
                ours.is_subset(self.online)
            }
            _ => true,
        }
    }
}

/// Tells whether a number is neither lower than one nor higher than the other.
fn is_between(value: &Value, low: &Value, high: &Value) -> bool {
    let number = |value: &Value| value.to_string().parse::<u64>().ok();
    let limits = number(low).zip(number(high));
    let value = number(value);
    value
        .zip(limits)
        .is_some_and(|(value, (low, high))| (low..=high).contains(&value))
}

impl Target {
    /// Returns the services that are known to write such targets by themselves.
    pub fn writers(&self) -> &'static [&'static str] {
        match self.stage() {
            Stage::Interrupts => &["irqbalance", "tuned"],
            stage if stage.is_essential() => &[],
            _ => &["tuned", "ksmtuned"],
        }
    }

    /// Tells whether the target has to be taken away by itself when it did not exist before;
    /// other targets without a baseline go with the cgroup that they live in.
    fn is_root(&self) -> bool {
        match self {
            Target::Delegation(_)
            | Target::MemoryNodes(_)
            | Target::Group(_)
            | Target::DropIn(_) => true,
            Target::Knob(knob, _) => {
                matches!(knob.row().grammar, Grammar::Switch(_))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
