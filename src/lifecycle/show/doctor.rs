//! `check`: what is wrong with this host and with its VMs, whatever a start would say of it.

mod facts;
mod start;

use anyhow::Context;
use serde::Serialize;

use self::facts::{host_facts, of_interest, table_of, vm_facts};
use crate::domain::advice::Advised;
use crate::domain::check::{
    Check, Fault, HostFacts, Judge, Owning, Severity, Todo, Verdict, VmFacts, checks, todo,
};
use crate::domain::level::{Kept, Lacking, Level};
use crate::domain::vm::Vmid;
use crate::host::table::HOST_TABLE;
use crate::host::{Host, pve};
use crate::lifecycle::case::known::{Known, known};
use crate::lifecycle::case::nothing::check_there;
use crate::lifecycle::engine::look::known_state;
use crate::lifecycle::show::lint::Bench;
use crate::lifecycle::show::remembered::is_lost;
use crate::lifecycle::show::status::{ClaimStatus, status};

/// What the doctor says.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Name of the node.
    pub node: String,
    /// The host, then each VM.
    pub patients: Vec<Patient>,
    /// How many checks came to what.
    pub totals: Totals,
}

/// The host or a VM, with what was found.
#[derive(Debug, Serialize)]
pub struct Patient {
    /// Which VM; nothing for the host.
    pub vmid: Option<Vmid>,
    /// Name of the VM.
    pub name: Option<String>,
    /// How much of the CPUs of the VM is its own: of those that it has, or would have if it started now.
    pub level: Option<Level>,
    /// Every check, in the order of the manual; one that finds several things comes once for each.
    pub results: Vec<Row>,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Name of the check.
    pub id: &'static str,
    /// What is required.
    pub required: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found, or why the check does not apply.
    pub found: String,
    /// What fixes it.
    pub fix: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As required.
    Passed,
    /// It does not apply.
    Skipped,
    /// Worth knowing.
    Notice,
    /// Slower or less isolated than it could be.
    Warning,
    /// It does not work.
    Failure,
}

/// How many checks came to what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// As required.
    pub passed: usize,
    /// Not applicable.
    pub skipped: usize,
    /// Notices.
    pub notices: usize,
    /// Warnings.
    pub warnings: usize,
    /// Failures.
    pub failures: usize,
}

/// Examines the host, and every VM that has a table or pin-hook's hookscript, or `only` one.
///
/// # Errors
/// There is no such VM, or the host cannot be read at all.
pub fn examine(host: &Host, only: Option<Vmid>) -> anyhow::Result<Diagnosis> {
    let files = &*host.files;
    if let Some(vmid) = only {
        check_there(host, vmid)?;
    }
    let bench = Bench::of(host);
    let is_lost = known_state(host).is_ok_and(|state| is_lost(host, &state));
    let known = known(host).ok();
    let is_hidden = matches!(known, Some(Known::Hidden(_)));
    let state = known.and_then(Known::state);
    let claims = state.as_ref().map(|state| &state.claims);
    let owns = claims.is_some_and(|claims| !claims.is_empty());
    let seen = owns.then(|| status(host, None).ok()).flatten();
    let (owned, unwatched, gone) = seen.map_or_else(Default::default, |seen| {
        (seen.claims, seen.watch_fault, seen.gone)
    });
    let facts = host_facts(&bench, host, &gone)?;
    let vmids: Vec<Vmid> = match only {
        Some(vmid) => vec![vmid],
        None => of_interest(&facts),
    };
    let mut patients = vec![of_host(&facts)];
    let vms = vmids.into_iter();
    let vms = vms.filter_map(|vmid| vm_facts(&bench, host, vmid, state.as_ref()));
    patients.extend(vms.map(|mut vm| {
        let is_owner = owned.iter().any(|claim| claim.vmid == vm.vmid);
        let is_known =
            is_owner || !is_hidden && (state.is_some() && !is_lost || is_off(&vm, &facts));
        vm.owning = match is_owner {
            true => owning(vm.vmid, &owned, unwatched.as_ref()),
            false => unowned(&vm, &facts, is_hidden, is_lost),
        };
        let level = level(&bench, host, &vm, &facts, &owned);
        of_vm(&vm, &facts, Some(level).filter(|_| is_known))
    }));
    let node = pve::node_name(files).unwrap_or_default();
    let totals = Totals::of(patients.iter().flat_map(|one| &one.results));
    Ok(Diagnosis {
        node,
        patients,
        totals,
    })
}

/// Checks that enabling a VM answers by itself.
const TOLD_BY_ENABLE: [&str; 5] = ["table", "hookscript", "start", "ha-nodes", "in-force"];

/// Returns what matters to somebody who has just enabled a VM: failures of the host and the VM, and warnings of
/// the VM, apart from what enabling tells anyway.
pub fn pressing(host: &Host, vmid: Vmid) -> Vec<Row> {
    let diagnosis = examine(host, Some(vmid));
    let patients = diagnosis.map_or_else(|_| Vec::new(), |diagnosis| diagnosis.patients);
    let rows = patients.into_iter().flat_map(|patient| {
        let of_vm = patient.vmid.is_some();
        let rows = patient.results.into_iter();
        rows.filter(move |row| match row.outcome {
            Outcome::Failure => true,
            Outcome::Warning => of_vm,
            _ => false,
        })
    });
    rows.filter(|row| !TOLD_BY_ENABLE.contains(&row.id))
        .collect()
}

/// What is to be looked at in a guest.
#[derive(Debug, Serialize)]
pub struct GuestList {
    /// Which VM.
    pub vmid: Vmid,
    /// Name of the VM.
    pub name: Option<String>,
    /// Operating system, in PVE's words.
    pub ostype: Option<String>,
    /// The list; empty for an operating system that it does not know.
    pub todo: Vec<Todo>,
}

/// Returns what is to be looked at in the guest of a VM, because the host cannot see it.
///
/// # Errors
/// There is no such VM.
pub fn guest_list(host: &Host, vmid: Vmid) -> anyhow::Result<GuestList> {
    check_there(host, vmid)?;
    let vm = vm_facts(&Bench::of(host), host, vmid, None);
    let vm = vm.with_context(|| format!("vm {vmid} is a template"))?;
    Ok(GuestList {
        vmid,
        todo: todo(&vm),
        name: vm.guest.name,
        ostype: vm.guest.ostype,
    })
}

/// Returns how much of its CPUs is a VM's own: by the host where it runs with them, else by what its next start
/// would make of it.
fn level(
    bench: &Bench,
    host: &Host,
    vm: &VmFacts,
    facts: &HostFacts,
    owned: &[ClaimStatus],
) -> Level {
    let claim = owned.iter().find(|claim| claim.vmid == vm.vmid);
    if let Some(level) = claim.and_then(|claim| claim.level.clone()) {
        return level;
    }
    let runs = runs(vm, facts);
    let lacking = match &vm.table {
        None => Some(Lacking::Table),
        Some(_) if facts.settings_fault.is_some() => Some(Lacking::Usable(HOST_TABLE.to_owned())),
        Some(path) if vm.table_fault.is_some() => Some(Lacking::Usable(path.clone())),
        Some(_) if !vm.guest.is_hooked() => Some(Lacking::Hook { runs }),
        Some(_) if runs => Some(Lacking::Claim),
        Some(_) => vm.is_hindered().then_some(Lacking::Start),
    };
    match lacking {
        Some(lacking) => Level::without(vm.vmid, &lacking),
        None => Level::of(vm.vmid, &kept_by_table(bench, host, vm.vmid)),
    }
}

/// Returns what has become of the CPUs of a VM; `unwatched` is why nobody looks after them.
fn owning(vmid: Vmid, owned: &[ClaimStatus], unwatched: Option<&Advised>) -> Owning {
    let Some(claim) = owned.iter().find(|claim| claim.vmid == vmid) else {
        return Owning::Nothing;
    };
    match claim.amiss().or(unwatched.cloned()) {
        Some(fault) => Owning::Amiss(fault),
        None => Owning::InForce,
    }
}

/// Returns what has become of the CPUs of a VM that is not known to own any: PVE may have started it to own some.
fn unowned(vm: &VmFacts, facts: &HostFacts, is_hidden: bool, is_lost: bool) -> Owning {
    let is_to_own = vm.guest.is_hooked() && vm.table.is_some() && vm.table_fault.is_none();
    let fact = match is_to_own && runs(vm, facts) {
        _ if is_hidden && is_to_own => return Owning::Hidden,
        true if is_lost => "the state is lost, and with it what the vm owns",
        true => "it runs without cpus of its own",
        false => return Owning::Nothing,
    };
    Owning::Amiss(Advised::new(fact, format!("pin-hook apply {}", vm.vmid)))
}

fn runs(vm: &VmFacts, facts: &HostFacts) -> bool {
    let mut guests = facts.guests.iter();
    guests.any(|one| one.vmid == vm.vmid && one.runs)
}

/// Tells whether a VM is off, and its table can be read: what its next start would make of it is known then.
fn is_off(vm: &VmFacts, facts: &HostFacts) -> bool {
    !runs(vm, facts) && vm.table_fault.is_none()
}

fn kept_by_table(bench: &Bench, host: &Host, vmid: Vmid) -> Kept {
    let best = bench.ground.as_ref().map(|ground| ground.best().backend);
    let table = table_of(bench, host, vmid);
    table.map_or_else(Kept::default, |table| Kept::of_table(&table, best.ok()))
}

fn of_host(facts: &HostFacts) -> Patient {
    let judged = checks().filter_map(|check| match check.judge {
        Judge::Host(rule) => Some(rows(check, rule(facts), None)),
        Judge::Vm(_) => None,
    });
    Patient {
        vmid: None,
        name: None,
        level: None,
        results: judged.flatten().collect(),
    }
}

fn of_vm(vm: &VmFacts, facts: &HostFacts, level: Option<Level>) -> Patient {
    let judged = checks().filter_map(|check| match check.judge {
        Judge::Vm(rule) => Some(rows(check, rule(vm, facts), Some(vm.vmid))),
        Judge::Host(_) => None,
    });
    Patient {
        vmid: Some(vm.vmid),
        name: vm.guest.name.clone(),
        level,
        results: judged.flatten().collect(),
    }
}

fn rows(check: &Check, verdict: Verdict, vmid: Option<Vmid>) -> Vec<Row> {
    let row = |outcome, found, fix| Row {
        id: check.id,
        required: check.required,
        outcome,
        found,
        fix,
    };
    match verdict {
        Verdict::Passed(found) => vec![row(Outcome::Passed, found, None)],
        Verdict::Skipped(why) => vec![row(Outcome::Skipped, why, None)],
        Verdict::Found(faults) => {
            let faults = faults.into_iter().map(|fault| {
                let outcome = fault.severity.unwrap_or(check.severity).into();
                let fix = fix(check, &fault, vmid);
                row(outcome, fault.found, Some(fix))
            });
            faults.collect()
        }
    }
}

/// Returns what fixes a fault, with the VM's id where the check's own words leave a place for it.
fn fix(check: &Check, fault: &Fault, vmid: Option<Vmid>) -> String {
    let own = || match vmid {
        Some(vmid) => check.fix.replace("<vmid>", &vmid.to_string()),
        None => check.fix.to_owned(),
    };
    fault.fix.clone().unwrap_or_else(own)
}

impl From<Severity> for Outcome {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Notice => Outcome::Notice,
            Severity::Warning => Outcome::Warning,
            Severity::Failure => Outcome::Failure,
        }
    }
}

impl Outcome {
    /// Returns the word that reports print.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Skipped => "skipped",
            Outcome::Notice => Severity::Notice.name(),
            Outcome::Warning => Severity::Warning.name(),
            Outcome::Failure => Severity::Failure.name(),
        }
    }

    /// Tells whether something is not as required.
    pub fn is_finding(self) -> bool {
        !matches!(self, Outcome::Passed | Outcome::Skipped)
    }
}

impl Totals {
    fn of<'r>(rows: impl Iterator<Item = &'r Row>) -> Self {
        let mut totals = Totals::default();
        for row in rows {
            let count = match row.outcome {
                Outcome::Passed => &mut totals.passed,
                Outcome::Skipped => &mut totals.skipped,
                Outcome::Notice => &mut totals.notices,
                Outcome::Warning => &mut totals.warnings,
                Outcome::Failure => &mut totals.failures,
            };
            *count += 1;
        }
        totals
    }
}
