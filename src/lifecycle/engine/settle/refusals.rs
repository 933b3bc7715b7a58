//! Refusals of the kernel, which are tried a few times over the runs and told once.

use super::settling::Settling;
use crate::domain::claim::Claims;
use crate::domain::desired::desired;
use crate::domain::facts::Facts;
use crate::domain::state::Held;
use crate::domain::target::Target;
use crate::host::target;

impl Settling<'_, '_> {
    /// Remembers that the kernel refused a target what it was to have, and what it has instead; once that
    /// it could not be read. Returns whether it had done so before.
    pub(super) fn count_refusal(
        &mut self,
        target: &Target,
        is_of_reading: bool,
    ) -> anyhow::Result<bool> {
        let held = self.held(target)?;
        let is_known = held.refused > 0;
        if is_known && is_of_reading {
            return Ok(true);
        }
        let live = target::read(self.host, target).ok();
        let held = Held {
            refused: held.refused.saturating_add(1),
            before: live.or(held.before),
            ..held
        };
        self.remember(target, held)?;
        Ok(is_known)
    }

    /// Remembers that the kernel refuses every change of a target.
    pub(super) fn mark_unchangeable(&mut self, target: &Target) -> anyhow::Result<()> {
        let held = Held {
            unchangeable: true,
            before: None,
            ..self.held(target)?
        };
        self.remember(target, held)
    }

    /// Forgets what could not be given back although the claims wish for something of it: the second
    /// pass writes that, and meets what keeps it from it.
    pub(super) fn try_again(&mut self, claims: &Claims, facts: &Facts) {
        let wishes = desired(claims, &self.journal.state().held, facts);
        let problems = &mut self.report.problems;
        problems.retain(|problem| !wishes.contains_key(&problem.target));
    }
}
