//! Looking at the host without a lock and without writing, for the commands that show.
//!
//! It is what settling does up to its first write. What cannot be seen (in a captured tree, or
//! without privileges) is left out, and said to be.

use std::collections::BTreeSet;

use super::journal::{self, read_state};
use super::observe::{context, effective_cpus, live_values, observe};
use crate::domain::backend::Backend;
use crate::domain::claim::Claim;
use crate::domain::desired::{Desired, desired};
use crate::domain::diff::{Diff, Live, diff};
use crate::domain::facts::{Facts, VmFacts};
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::systemd::BUS_SOCKET;
use crate::host::{Host, task};

/// What was seen, and what is wished for.
#[derive(Debug)]
pub struct Look {
    /// Observed facts.
    pub facts: Facts,
    /// Wished values.
    pub wishes: Desired,
    /// Live values of everything that is wished for or held.
    pub live: Live,
    /// What differs.
    pub diff: Diff,
    /// What cannot be seen and was left out, and why.
    pub left_out: Vec<String>,
}

/// Looks at the host with the eyes of `state`; `assumed` are VMs that do not run yet.
pub fn look(
    host: &Host,
    mut state: State,
    assumed: impl IntoIterator<Item = (Vmid, VmFacts)>,
) -> anyhow::Result<Look> {
    let left_out = leave_out_hidden(host, &mut state);
    let is_seen = |stage: &Stage| *stage != Stage::Slices || host.files.exists(BUS_SOCKET);
    let stages: Vec<Stage> = Stage::ACQUIRE.into_iter().filter(is_seen).collect();
    let mut facts = observe(host, &state, &stages, &Facts::default())?;
    for (vmid, vm) in assumed {
        facts.vms.entry(vmid).or_insert(vm);
    }
    let wishes = desired(&state.claims, &state.held, &facts);
    let targets: BTreeSet<&Target> = wishes.keys().chain(state.held.keys()).collect();
    let effective = effective_cpus(host, targets.iter().copied());
    let live = live_values(host, &facts, targets).live;
    let (births, written) = (facts.births(), BTreeSet::new());
    let now = host.clock.since_boot();
    let context = context(&facts, &effective, &births, &written, now);
    let diff = diff(&wishes, &state.held, &live, context);
    Ok(Look {
        facts,
        wishes,
        live,
        diff,
        left_out,
    })
}

/// Tells whether the run of a claim is over, and the host not given back yet.
pub fn is_over(host: &Host, claim: &Claim) -> bool {
    let qemu = claim.qemu();
    qemu.is_some_and(|qemu| !task::is_process(&*host.files, qemu))
}

/// Reads what the program remembers.
///
/// # Errors
/// [`Hidden`] when only privileges are missing, so that a caller may go on without.
pub fn known_state(host: &Host) -> anyhow::Result<State> {
    read_state(&*host.files).map_err(|error| match is_denied(&error) {
        true => Hidden.into(),
        false => error,
    })
}

/// The state of the program can only be read by root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only root can read {dir}", dir = journal::STATE_DIR)]
pub struct Hidden;

impl Hidden {
    /// Returns what the operator can do about it.
    pub fn help(self) -> &'static str {
        "run it as root"
    }
}

/// Tells whether an error says that only privileges are missing.
pub(in crate::lifecycle) fn is_denied(error: &anyhow::Error) -> bool {
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Takes out of the state what it cannot be compared with here.
fn leave_out_hidden(host: &Host, state: &mut State) -> Vec<String> {
    let mut left_out = Vec::new();
    let mut hide = |stage: Stage, path: &str, what: &str| {
        if host.files.exists(path) {
            return;
        }
        let mut concerned = state.held.keys().any(|target| target.stage() == stage);
        state.held.retain(|target, _| target.stage() != stage);
        for claim in state.claims.values_mut() {
            let wished = match stage {
                Stage::Slices => {
                    concerned |= claim.wishes.backend == Backend::Slices;
                    continue;
                }
                Stage::KernelThreads => &mut claim.wishes.kernel_threads,
                _ => &mut claim.wishes.interrupts,
            };
            concerned |= std::mem::take(wished);
        }
        if concerned {
            left_out.push(format!("{what} are left out: {path} cannot be seen here"));
        }
    };
    hide(Stage::Slices, BUS_SOCKET, "units");
    hide(Stage::KernelThreads, "/proc/2/task", "kernel threads");
    hide(
        Stage::Interrupts,
        "/proc/irq/default_smp_affinity",
        "interrupts",
    );
    left_out
}
