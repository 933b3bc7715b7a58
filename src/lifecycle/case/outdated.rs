//! Whether what a VM owns is what its table says now: an edited table takes effect at the next start, or
//! by `apply`.

use super::assess::denied;
use super::nothing::next_guest;
use super::resolve::{read_case, resolve};
use super::texts::{Case, Found};
use crate::domain::claim::{Claim, Wishes};
use crate::domain::nothing::Nothing;
use crate::domain::placement::PlacementError;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::words::count;
use crate::host::Host;
use crate::lifecycle::engine::denied::Denied;

/// Returns what a person who looks at a claim should know of the table behind it; nothing when it is in
/// force as it is.
pub fn outdated(host: &Host, state: &State, claim: &Claim) -> Option<String> {
    if !claim.owns() {
        return None;
    }
    let vmid = claim.vmid;
    let case = match read_case(host, vmid, "") {
        Ok(Found::Case(case)) => case,
        Ok(Found::Nothing(Nothing::NoTable(_) | Nothing::Misnamed { .. })) => {
            let text = "its table is gone; it keeps what it owns until it stops, or until \
                        pin-hook release";
            return Some(format!("{text} {vmid}"));
        }
        Ok(Found::Nothing(_)) => return None,
        Err(error) => {
            let text = "its table or config has changed since and cannot be used";
            return Some(format!("{text}: {error}"));
        }
    };
    match resolve(host, &case, Some(state)) {
        Ok(resolved) if is_same(&resolved.wishes, &claim.wishes) => None,
        Ok(_) => Some(match denied(host, &case, state) {
            Some(Denied::Refused(refusal)) => {
                let text = "its table or config has changed since and would be refused now";
                format!("{text}: {refusal}")
            }
            Some(Denied::Failed(_)) | None => {
                let text =
                    "its table or config has changed since; this takes effect with pin-hook apply";
                format!("{text} {vmid} or at the next start")
            }
        }),
        // That is no change of the table, and told by itself.
        Err(Denied::Refused(Refusal::Placement(PlacementError::Offline { cpus, .. })))
            if cpus.is_subset(&claim.wishes.cpus) =>
        {
            None
        }
        Err(Denied::Refused(refusal)) => {
            let changed = "its table or config has changed since";
            Some(match is_for_next_start(host, &case, state) {
                true => format!(
                    "{changed}; this takes effect at the next start: it runs with {} until then",
                    count(case.guest.n_vcpus as usize, "vcpu")
                ),
                false => format!("{changed} and would be refused: {refusal}"),
            })
        }
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
