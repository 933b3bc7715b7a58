//! What VMs own: wanted and actual values, and what has drifted.

mod claim;
mod drift;
mod in_force;

use std::collections::BTreeMap;

use serde::Serialize;

use self::claim::claim_status;
pub use self::claim::{ClaimStatus, Partition, ThreadStatus};
pub use self::drift::{Drifted, Refused};
use self::drift::{differences, refused};
use crate::domain::advice::Advised;
use crate::domain::backend::Backend;
use crate::domain::claim::Claim;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::debt::Debt;
use crate::domain::desired::kept_off;
use crate::domain::pci::binding::{self, Lent};
use crate::domain::stage::Stage;
use crate::domain::state::State;
use crate::domain::stuck::Stuck;
use crate::domain::target::{Place, Target, Value};
use crate::domain::vm::Vmid;
use crate::host::systemd::BUS_SOCKET;
use crate::host::table::path_of_table;
use crate::host::{Host, pve};
use crate::lifecycle::case::assess::denied;
use crate::lifecycle::case::nothing::check_there;
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::Found;
use crate::lifecycle::engine::journal::{read_log, read_state};
use crate::lifecycle::engine::look::{Look, known_state, look};
use crate::lifecycle::engine::observe::read_cpus;
use crate::lifecycle::engine::recover;
use crate::lifecycle::engine::settings::{self, SettingStatus};
use crate::lifecycle::engine::settle::stuck_in;
use crate::lifecycle::engine::units;
use crate::lifecycle::show::complaint::Complaint;
use crate::lifecycle::show::gone::{Gone, gone};

/// What VMs own, and whether it is as wished.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether nothing has drifted and nothing has failed.
    pub ok: bool,
    /// Every claim that was asked for.
    pub claims: Vec<ClaimStatus>,
    /// VMs with a table that run and own nothing.
    pub unowned: Vec<Vmid>,
    /// Why those could not be given what their tables say, where that is so.
    #[serde(skip)]
    pub why_unowned: BTreeMap<Vmid, Complaint>,
    /// VMs that were shut down to make room, and are to be started again.
    pub debts: Vec<DebtStatus>,
    /// Functions that go back to the driver that they had, once no VM has them.
    pub lent: Vec<Lent>,
    /// CPUs that everything outside of partitions may use, where the kernel tells.
    pub root_effective: Option<CpuSet>,
    /// Interrupts of the host.
    pub interrupts: Moved,
    /// Kernel threads of the host.
    pub kernel_threads: Moved,
    /// Settings of the host that VMs wish for.
    pub settings: Vec<SettingStatus>,
    /// Interrupts that cannot be moved off owned CPUs, by device.
    pub stuck: Vec<Stuck>,
    /// Values that the kernel refuses to take.
    pub refused: Vec<Refused>,
    /// Values of ours that somebody else has changed.
    pub drift: Vec<Drifted>,
    /// Writes that reconcile will make: for what was born or has ended since it ran.
    pub pending: usize,
    /// What nobody remembers, although it is in force.
    pub forgotten: Vec<Forgotten>,
    /// What is damaged of the state.
    pub damage: Option<String>,
    /// Units that should look after what VMs own and do not: without the timer nothing is set again, or
    /// given back when a VM ends by itself; without the path unit the timer does so, within 15 s.
    pub unwatched: Vec<&'static str>,
    /// What comes of that, and what to do about it.
    #[serde(skip)]
    pub watch_fault: Option<Advised>,
    /// VMs that own CPUs and run, without a config on this node.
    pub gone: Vec<Gone>,
    /// What cannot be seen from here and is left out.
    pub left_out: Vec<String>,
}

/// CPUs that are taken from the host for a VM, and nobody remembers that.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// Path of the cgroup below the root of the hierarchy; none where it has gone with its VM, and only kernel
    /// threads and interrupts are still kept off.
    pub cgroup: Option<String>,
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// A VM that was shut down to make room, and is to be started again.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct DebtStatus {
    /// Which VM.
    pub vmid: Vmid,
    /// VMs that it made room for and that have not ended.
    pub owners: Vec<Vmid>,
    /// Seconds until it is started; nothing while somebody needs the room.
    pub due_in: Option<u64>,
}

/// How many of something were kept off owned CPUs.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Those that have another affinity than they had.
    pub moved: usize,
    /// Those that the kernel refuses to move.
    pub unchangeable: usize,
}

/// Returns what VMs own, or what `only` owns; no monitor is asked.
pub fn status(host: &Host, only: Option<Vmid>) -> anyhow::Result<Status> {
    let state = known_state(host)?;
    let is_known = |vmid: &Vmid| state.claims.contains_key(vmid) || state.debts.contains_key(vmid);
    if let Some(vmid) = only.filter(|vmid| !is_known(vmid)) {
        check_there(host, vmid)?;
    }
    let (_, damage) = read_log(&*host.files)?;
    let forgotten = forgotten(host)?;
    let mut seen = look(host, state.clone(), [])?;
    let unwatched = unwatched(host, &state, &mut seen.left_out);
    let is_shown = |vmid: &Vmid| only.is_none_or(|only| only == *vmid);
    let is_shown = &is_shown;
    let shown = state.claims.values().filter(|claim| is_shown(&claim.vmid));
    let claims: Vec<ClaimStatus> = shown
        .map(|claim| claim_status(host, claim, &state, &seen))
        .collect();
    let is_of_shown =
        |target: &Target| owner_of(target, &state, &seen).is_none_or(|vm| is_shown(&vm));
    let (drift, pending) = differences(host, &state, &seen, is_of_shown);
    let refused = refused(&state, &seen, is_of_shown);
    let unowned = unowned(host, &state, is_shown);
    Ok(Status {
        ok: drift.is_empty()
            && refused.iter().all(|one| !one.is_wish)
            && claims.iter().all(ClaimStatus::is_ok)
            && forgotten.is_empty()
            && unwatched.is_empty()
            && damage.is_none(),
        claims,
        why_unowned: unowned
            .iter()
            .filter_map(|vmid| Some((*vmid, why_unowned(host, &state, *vmid)?)))
            .collect(),
        unowned,
        debts: debts(host, &state, is_shown),
        lent: binding::lent(&state),
        root_effective: left_to_host(host, &state)?,
        interrupts: moved(&state, &seen, Stage::Interrupts),
        kernel_threads: moved(&state, &seen, Stage::KernelThreads),
        settings: settings::in_hand(&state, &seen.facts, only),
        stuck: stuck(host, &state, is_shown),
        refused,
        drift,
        pending,
        forgotten,
        watch_fault: units::complaint(host, &unwatched),
        unwatched,
        damage: (!damage.is_none()).then(|| damage.to_string()),
        gone: gone(host, &state)
            .into_iter()
            .filter(|gone| is_shown(&gone.vmid))
            .collect(),
        left_out: seen.left_out,
    })
}

/// Returns the units that should look after what VMs own and do not.
fn unwatched(host: &Host, state: &State, left_out: &mut Vec<String>) -> Vec<&'static str> {
    let is_needed = state.claims.values().any(Claim::owns) && host.files.exists(BUS_SOCKET);
    let idle = match is_needed {
        true => units::idle(host),
        false => Ok(Vec::new()),
    };
    idle.unwrap_or_else(|error| {
        left_out.push(format!(
            "cannot tell whether the reconcile units are active: {error:#}"
        ));
        Vec::new()
    })
}

/// Returns what nobody remembers. A run may be at work meanwhile: what was made or given back since it
/// was looked at is looked at again.
fn forgotten(host: &Host) -> anyhow::Result<Vec<Forgotten>> {
    let look = || Ok::<_, anyhow::Error>(recover::forgotten(host, &read_state(&*host.files)?));
    let first = look()?;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let mut still = look()?;
    still.retain(|found| first.contains(found));
    let forgotten = still
        .into_iter()
        .map(|(cgroup, cpus)| Forgotten { cgroup, cpus });
    Ok(forgotten.collect())
}

/// Returns the CPUs that everything else may use: backend slices cuts what is below the root.
fn left_to_host(host: &Host, state: &State) -> anyhow::Result<Option<CpuSet>> {
    let root = read_cpus(host, "/sys/fs/cgroup/cpuset.cpus.effective")?;
    let is_cut = |claim: &&Claim| claim.owns() && claim.wishes.backend == Backend::Slices;
    let cut = state.claims.values().filter(is_cut);
    let cut: CpuSet = cut.flat_map(|claim| claim.wishes.cpus.iter()).collect();
    Ok(root.map(|root| root.difference(&cut)))
}

/// Returns the VMs of this node that run without what their table says: after a release, or because the
/// start came first.
fn unowned(host: &Host, state: &State, is_shown: impl Fn(&Vmid) -> bool) -> Vec<Vmid> {
    let files = &*host.files;
    let mut vmids = pve::vms_of_node(files).unwrap_or_default();
    vmids.retain(|vmid| {
        is_shown(vmid)
            && !state.claims.contains_key(vmid)
            && path_of_table(files, *vmid).is_some()
            && pve::running(files, *vmid).is_ok_and(|qemu| qemu.is_some())
    });
    vmids
}

/// Returns why a VM that runs without what its table says would not get it now.
fn why_unowned(host: &Host, state: &State, vmid: Vmid) -> Option<Complaint> {
    let case = match read_case(host, vmid, "") {
        Ok(Found::Case(case)) => case,
        Ok(Found::Nothing(_)) => return None,
        Err(error) => return Some(Complaint::of(&error)),
    };
    let denied = denied(host, &case, state)?;
    let help = format!("{}; then pin-hook apply {vmid}", denied.help(vmid));
    Some(Complaint::new(denied.to_string(), help))
}

fn debts(host: &Host, state: &State, is_shown: impl Fn(&Vmid) -> bool) -> Vec<DebtStatus> {
    let now = host.clock.since_boot();
    let is_meant = |debt: &&Debt| is_shown(&debt.vmid) || debt.owners.keys().any(&is_shown);
    let debts = state
        .debts
        .values()
        .filter(is_meant)
        .map(|debt| DebtStatus {
            vmid: debt.vmid,
            owners: debt.owners.keys().copied().collect(),
            due_in: debt.due.map(|due| due.saturating_sub(now).as_secs()),
        });
    debts.collect()
}

/// Returns the VM that a target belongs to, or `None` when it is the host's.
fn owner_of(target: &Target, state: &State, seen: &Look) -> Option<Vmid> {
    let owner_of_cpu = |cpu: CpuId| {
        let mut claims = state.claims.values();
        let claim = claims.find(|claim| claim.wishes.cpus.contains(cpu));
        claim.map(|claim| claim.vmid)
    };
    match target {
        Target::Knob(_, Place::Cpu(cpu)) => owner_of_cpu(*cpu),
        Target::Knob(_, Place::Policy(policy)) => {
            let cpus = seen.facts.policies.get(policy);
            cpus.and_then(|cpus| cpus.iter().find_map(owner_of_cpu))
        }
        _ => seen.facts.vm_of(target),
    }
}

/// Counts those of a stage; an interrupt that cannot be moved counts where it may be delivered to an owned CPU.
fn moved(state: &State, seen: &Look, stage: Stage) -> Moved {
    let mut counts = Moved::default();
    let owned = kept_off(&state.claims, |wishes| wishes.interrupts);
    let is_beside = |target: &Target| {
        let live = seen.live.get(target).and_then(Value::cpus);
        target.of_irq().is_some() && live.is_some_and(|cpus| cpus.is_disjoint(&owned))
    };
    for (target, held) in &state.held {
        let is_one = matches!(target, Target::KernelThread(_)) || target.of_irq().is_some();
        if target.stage() != stage || !is_one {
            continue;
        }
        if held.unchangeable {
            counts.unchangeable += usize::from(!is_beside(target));
        } else if held.ours != held.baseline {
            counts.moved += 1;
        }
    }
    counts
}

/// Returns the interrupts that are known to stay on owned CPUs of the VMs that are asked for.
fn stuck(host: &Host, state: &State, is_shown: impl Fn(&Vmid) -> bool) -> Vec<Stuck> {
    let claims = state.claims.iter().filter(|(vmid, _)| is_shown(vmid));
    let claims = claims.map(|(vmid, claim)| (*vmid, claim.clone())).collect();
    let owned = kept_off(&claims, |wishes| wishes.interrupts);
    let held = state.held.iter().filter(|(_, held)| held.unchangeable);
    stuck_in(host, held.map(|(target, _)| target), &owned)
}
