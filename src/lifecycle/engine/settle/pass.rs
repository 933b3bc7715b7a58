//! One pass over the stages, which gives back or takes: each stage is compared, announced in the
//! journal, written and read back, until nothing is left to write.

use super::settling::{Pass, Settling};
use crate::domain::claim::Claims;
use crate::domain::desired::{Desired, Wish, desired};
use crate::domain::diff::{Answer, Change, Diff, Drift};
use crate::domain::facts::Facts;
use crate::domain::stage::Stage;
use crate::domain::state::Record;
use crate::domain::target::Target;
use crate::host::surroundings::is_service_running;
use crate::lifecycle::engine::report::Problem;

/// Most rounds of a pass: some targets exist only after others were written (a cgroup's files),
/// and threads are born meanwhile.
const MAX_ROUNDS: usize = 4;

impl Settling<'_, '_> {
    /// Settles the stages until nothing is left to write; returns what was observed last, or
    /// `None` when it ended before.
    pub(super) fn pass(
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
            match self.observed(stages, &facts)? {
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
        let mut claims = state.claims.values();
        let are_threads_moved = claims.any(|claim| claim.wishes.kernel_threads);
        for (target, wish) in desired(&state.claims, &state.held, facts) {
            let Some(held) = state.held.get(&target) else {
                continue;
            };
            let is_cut = match target.stage() {
                // It stays in the VM's cgroup, which would cut what it had before.
                Stage::Threads => true,
                // Partitions cut and widen it when they come and go, which would be taken for its own.
                Stage::KernelThreads => are_threads_moved,
                _ => false,
            };
            if held.ours == wish.value || is_cut {
                let value = held.ours.clone();
                wishes.insert(target, Wish { value, ..wish });
            }
        }
    }

    /// Announces what a partition or a move hides: some kernel threads forget what they had when
    /// a partition comes (`View::left_alone`), PVE cuts the lists of containers then, and a thread shows another
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
        problem.whose = facts.vm_of(&target);
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
        let mut done = targets;
        done.retain(|target| !self.report.has_problem(target));
        match done.is_empty() {
            true => Ok(()),
            false => self.journal.append(vec![Record::Forget(done)]),
        }
    }

    /// Names those who are known to write what was left to somebody.
    fn suspect(&mut self, drift: &[Drift]) {
        let given_up = drift.iter().filter(|drift| drift.answer == Answer::GiveUp);
        for service in given_up.flat_map(|drift| drift.target.writers()) {
            if is_service_running(&*self.host.files, service) {
                self.report.suspects.insert(service);
            }
        }
    }
}
