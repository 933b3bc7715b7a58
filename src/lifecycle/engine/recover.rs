//! Recovering: what is held when the log cannot tell it, from the traces on the host.
//!
//! The cgroups of a VM's threads and their CPUs tell what was taken, without a partition the lists
//! of units, and where all of them have gone the affinity that new kernel threads and interrupts
//! inherit. What the log alone knew is inferred: a thread had the CPUs that PVE gave it, an
//! interrupt or a kernel thread that is on all CPUs but the taken ones was on all of them, and so
//! was a container without `cores:`.

mod traces;

use std::collections::{BTreeMap, BTreeSet};

use traces::{Marks, Told, traces};

use super::journal::{self, Journal, Lost, busy};
use super::observe::read_cpus;
use crate::domain::claim::Claim;
use crate::domain::cpuset::CpuSet;
use crate::domain::state::{Held, Record, State};
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::Host;
use crate::host::cgroup::{self, QEMU_SLICE, ROOT};
use crate::host::pve;

/// Takes the host lock and reads the log, as [`Journal::open`]; where that cannot tell what is
/// held, holds what the host shows. Returns what is to be told about it, too.
///
/// # Errors
/// Those of the log.
pub fn open(host: &Host) -> anyhow::Result<Option<(Journal<'_>, Vec<String>)>> {
    let Some(mut journal) = Journal::open(host)? else {
        return Ok(None);
    };
    let mut told = Vec::new();
    let marks = match journal.lost() {
        Lost::Nothing => return Ok(Some((journal, told))),
        Lost::Log => Marks::Sure,
        Lost::Records(what) => {
            told.push(what.clone());
            Marks::All
        }
    };
    told.extend(hold_traces(host, &mut journal, marks)?);
    Ok(Some((journal, told)))
}

/// Names the VMs that run and are about to lose their CPUs because the log has lost their claims.
pub fn ownerless(host: &Host, journal: &Journal<'_>) -> Vec<String> {
    if *journal.lost() == Lost::Nothing {
        return Vec::new();
    }
    let state = journal.state();
    let owns = |vmid: &Vmid| state.claims.get(vmid).is_some_and(Claim::owns);
    let runs = |vmid: &Vmid| pve::running(&*host.files, *vmid).is_ok_and(|qemu| qemu.is_some());
    // A drop-in of its scope alone is no sign of CPUs: a VM may be delegated and own none.
    let is_group = |target: &&Target| matches!(target, Target::Group(_));
    let groups = state.held.keys().filter(is_group);
    let vmids: BTreeSet<Vmid> = groups.filter_map(Target::vmid).collect();
    let lost = vmids.into_iter().filter(|vmid| !owns(vmid) && runs(vmid));
    lost.map(|vmid| format!("vm {vmid} loses its cpus until pin-hook apply {vmid}"))
        .collect()
}

/// Makes sure that the log knows everything that is held, also what only the host shows. Returns
/// what is to be told about it.
///
/// # Errors
/// Those of the log.
pub fn recover(host: &Host) -> anyhow::Result<Vec<String>> {
    let (mut journal, mut told) = open(host)?.ok_or_else(|| busy(&*host.files))?;
    told.extend(hold_traces(host, &mut journal, Marks::All)?);
    Ok(told)
}

fn hold_traces(
    host: &Host,
    journal: &mut Journal<'_>,
    marks: Marks,
) -> anyhow::Result<Option<String>> {
    let traces = untold(host, journal.state(), journal.lost(), marks)?;
    if traces.is_empty() {
        return Ok(None);
    }
    let values = count(traces.len(), "value");
    // What was born meanwhile is narrowed as well, and nothing was forgotten then.
    let is_birth =
        |target: &Target| matches!(target, Target::KernelThread(_)) || target.of_irq().is_some();
    let is_known = *journal.lost() == Lost::Nothing;
    let are_births = is_known && traces.iter().all(|(target, _)| is_birth(target));
    journal.append(vec![Record::Intend(traces)])?;
    if are_births {
        return Ok(None);
    }
    Ok(Some(format!(
        "the state does not record {values}, inferred from the host; a mask whose earlier value is not \
         known is restored to all cpus"
    )))
}

/// Returns what the host shows to be held and `state` does not know.
fn untold(
    host: &Host,
    state: &State,
    lost: &Lost,
    marks: Marks,
) -> anyhow::Result<Vec<(Target, Held)>> {
    let known = Told {
        cpus: known(state),
        vms: match lost {
            Lost::Nothing => state.claims.keys().copied().collect(),
            Lost::Log | Lost::Records(_) => BTreeSet::new(),
        },
    };
    let mut traces = traces(host, known, marks)?;
    traces.retain(|(target, held)| {
        let is_thread = matches!(target, Target::KernelThread(_));
        !state.held.contains_key(target) && (is_thread || held.ours != held.baseline)
    });
    Ok(traces)
}

/// Adds to `state` what the next run would take from the host because the log is missing or damaged, and
/// writes nothing; tells whether there was something.
///
/// # Errors
/// What the kernel or systemd says.
pub fn foresee(host: &Host, state: &mut State) -> anyhow::Result<bool> {
    let files = &*host.files;
    let (_, damage) = journal::read_log(files)?;
    let is_missing = journal::is_missing(files) && !forgotten(host, state).is_empty();
    let traces = match (is_missing, damage.is_none()) {
        (true, _) => untold(host, state, &Lost::Log, Marks::Sure)?,
        (false, false) => untold(host, state, &Lost::Records(damage.to_string()), Marks::All)?,
        (false, true) => return Ok(false),
    };
    let is_something = !traces.is_empty();
    state.apply(Record::Intend(traces));
    Ok(is_something)
}

/// Returns the cgroups of VMs' threads and the exclusive CPUs of their slice that `state` does not
/// know: somebody has removed the state. What belongs to a VM whose claim is known is not among them, even
/// where the record of it is lost. Where the cgroups have gone with their VM, it is what new kernel threads
/// and interrupts keep off, without a cgroup.
pub fn forgotten(host: &Host, state: &State) -> Vec<(Option<String>, CpuSet)> {
    let cpus = |group: &str, file: &str| {
        let path = cgroup::file(group, file);
        read_cpus(host, &path).ok().flatten().unwrap_or_default()
    };
    let owners = state.claims.values().filter(|claim| claim.owns());
    let owners: BTreeMap<_, _> = owners
        .map(|claim| (claim.vmid, &claim.wishes.cpus))
        .collect();
    let mut scopes = cgroup::scopes(&*host.files);
    scopes.retain(|vmid| !owners.contains_key(vmid));
    let scopes = scopes.into_iter().map(cgroup::scope_of);
    let groups = scopes.flat_map(|scope| ["vcpu", "io"].map(|name| format!("{scope}/{name}")));
    let groups = groups.filter(|group| {
        let is_there = host.files.exists(&format!("{ROOT}/{group}"));
        is_there && !state.held.contains_key(&Target::Group(group.clone()))
    });
    let mut found: Vec<_> = groups
        .map(|group| {
            let cpus = cpus(&group, "cpuset.cpus");
            (Some(group), cpus)
        })
        .collect();
    let target = Target::exclusive(QEMU_SLICE);
    let left = cpus(QEMU_SLICE, "cpuset.cpus.exclusive");
    let left = owners
        .values()
        .fold(left, |left, cpus| left.difference(cpus));
    if !left.is_empty() && !state.held.contains_key(&target) {
        found.push((Some(QEMU_SLICE.to_owned()), left));
    }
    if found.is_empty() && journal::is_missing(&*host.files) {
        let avoided = traces::left_to_births(host).unwrap_or_default();
        found.extend(Some((None, avoided)).filter(|(_, cpus)| !cpus.is_empty()));
    }
    found
}

/// Returns the CPUs that are known to be kept from the host: those of claims, and those that a held mask
/// lacks.
fn known(state: &State) -> CpuSet {
    let claims = state.claims.values().filter(|claim| claim.owns());
    let owned = claims.flat_map(|claim| claim.wishes.cpus.iter());
    let masks = state.held.iter().filter_map(|(target, held)| {
        let is_mask = match target {
            Target::KernelThread(_) => true,
            Target::Knob(knob, _) => knob.row().tells_owned,
            _ => false,
        };
        let (baseline, ours) = (held.baseline.cpus()?, held.ours.cpus()?);
        is_mask.then(|| baseline.difference(ours))
    });
    let lacking: Vec<CpuSet> = masks.collect();
    owned.chain(lacking.iter().flat_map(CpuSet::iter)).collect()
}
