//! Settling: making the host what the claims wish for, and giving back what none wishes for.
//!
//! There is one way through for every phase and command. A change of the claims is settled in two
//! passes: first for the claims that stay as they are, which only gives back, then for all of
//! them, which only takes. Each pass walks the stages; each stage observes, compares, announces
//! what it will write in the journal, writes, and reads back.

mod comparing;
mod controller;
mod interrupts;
mod pass;
mod probes;
mod refusals;
mod scrub;
mod settling;
mod writing;

pub use self::interrupts::{fixed_irq, stuck_in};
pub use self::probes::partition_is_near;
use self::settling::Pass;
pub use self::settling::Settling;
use crate::domain::claim::Claims;
use crate::domain::facts::Facts;
use crate::domain::stage::Stage;
use crate::domain::vm::Vmid;

impl Settling<'_, '_> {
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
        let Some(facts) = self.observed(&Stage::ACQUIRE, &Facts::default())? else {
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
        let Some(facts) = self.observed(&stages, &Facts::default())? else {
            return Ok(false);
        };
        Ok(self.pass(Pass::Acquire, &claims, &stages, facts)?.is_some())
    }
}
