//! Whether what a VM owns is what its table says now: an edited table takes effect at the next start, or
//! by `apply`.

use super::assess::denied;
use super::nothing::next_guest;
use super::resolve::{read_case, resolve};
use super::texts::{Case, CaseError, Found};
use crate::domain::claim::{Claim, Wishes};
use crate::domain::nothing::Nothing;
use crate::domain::placement::PlacementError;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::Host;
use crate::lifecycle::engine::denied::Denied;

/// How a table or a config differs from what is in force.
#[derive(Debug, thiserror::Error)]
pub enum Outdated {
    /// The table is gone.
    #[error(
        "its table is gone; it keeps what it owns until it stops, or until pin-hook release {0}"
    )]
    Gone(Vmid),
    /// It cannot be used.
    #[error("its table or config has changed since and cannot be used: {0}")]
    Unusable(CaseError),
    /// It says something else, which can be had.
    #[error(
        "its table or config has changed since; this takes effect with pin-hook apply {0} or at the next start"
    )]
    Pending(Vmid),
    /// It fits the guest of the next start, and this one has so many vCPUs.
    #[error(
        "its table or config has changed since; this takes effect at the next start: it runs with {} until then",
        count(*.0 as usize, "vcpu")
    )]
    ForNextStart(u32),
    /// It says something else, which cannot be had at the moment.
    #[error("its table or config has changed since and would be refused now: {0}")]
    RefusedNow(Refusal),
    /// It says something that this host cannot give.
    #[error("its table or config has changed since and would be refused: {0}")]
    Refused(Refusal),
}

/// Returns what a person who looks at a claim should know of the table behind it; nothing when it is in
/// force as it is.
pub fn outdated(host: &Host, state: &State, claim: &Claim) -> Option<Outdated> {
    if !claim.owns() {
        return None;
    }
    let vmid = claim.vmid;
    let case = match read_case(host, vmid, "") {
        Ok(Found::Case(case)) => case,
        Ok(Found::Nothing(Nothing::NoTable(_) | Nothing::Misnamed { .. })) => {
            return Some(Outdated::Gone(vmid));
        }
        Ok(Found::Nothing(_)) => return None,
        Err(error) => return Some(Outdated::Unusable(error)),
    };
    match resolve(host, &case, Some(state)) {
        Ok(resolved) if is_same(&resolved.wishes, &claim.wishes) => None,
        Ok(_) => Some(match denied(host, &case, state) {
            Some(Denied::Refused(refusal)) => Outdated::RefusedNow(refusal),
            Some(Denied::Failed(_)) | None => Outdated::Pending(vmid),
        }),
        // That is no change of the table, and told by itself.
        Err(Denied::Refused(Refusal::Placement(PlacementError::Offline { cpus, .. })))
            if cpus.is_subset(&claim.wishes.cpus) =>
        {
            None
        }
        Err(Denied::Refused(refusal)) => Some(match is_for_next_start(host, &case, state) {
            true => Outdated::ForNextStart(case.guest.n_vcpus),
            false => Outdated::Refused(refusal),
        }),
        // What cannot be read says nothing about the table.
        Err(Denied::Failed(_)) => None,
    }
}

/// Tells whether a table fits the guest of the next start, if not the one that runs.
fn is_for_next_start(host: &Host, case: &Case, state: &State) -> bool {
    let next = next_guest(&*host.files, case.vmid, "");
    let Some(guest) = next.filter(|_| case.surplus_vcpus.is_some()) else {
        return false;
    };
    let case = Case {
        guest,
        ..case.clone()
    };
    resolve(host, &case, Some(state)).is_ok()
}

/// Compares what a table wishes for; memory is settled before a start, and the rest is no wish.
fn is_same(now: &Wishes, then: &Wishes) -> bool {
    let now = Wishes {
        reason: then.reason.clone(),
        memory: then.memory.clone(),
        stays_delegated: then.stays_delegated,
        ..now.clone()
    };
    now == *then
}
