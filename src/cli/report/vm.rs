//! The section about a VM.

use super::parts::{self, failed, remark, remarks};
use crate::cli::columns::or_dash;
use crate::cli::doctor::what_it_means;
use crate::cli::page::{Badge, Block, Row, Section, Table, Tone};
use crate::cli::plan::{self, changes};
use crate::cli::status::{complaints, of_partition};
use crate::cli::tables;
use crate::domain::level::{HIGHEST, Level};
use crate::domain::measure::card::Card;
use crate::domain::measure::measurement::Measurement;
use crate::domain::words::count;
use crate::lifecycle::show::plan::{Outcome, Plan};
use crate::lifecycle::show::report::{Report, VmReport};
use crate::lifecycle::show::status::{ClaimStatus, ThreadStatus};

/// Returns a VM in one row.
pub(super) fn glance(vm: &VmReport, report: &Report) -> Row {
    let claim = claim_of(vm, report);
    let plan = vm.plan.as_ref().ok();
    let layout = plan.and_then(|plan| plan.layout.as_ref());
    let cpus = claim.map(|claim| claim.cpus.to_string());
    let backend = claim.map(|claim| claim.backend);
    let badge = badge(vm, claim);
    let cells = vec![
        name(vm),
        badge.text,
        or_dash(cpus.or(layout.map(|layout| layout.cpus.to_string()))),
        or_dash(level(vm, report).map(|level| format!("{} of {HIGHEST}", level.number))),
        or_dash(backend.or(layout.map(|layout| layout.backend))),
    ];
    (badge.tone, cells)
}

fn claim_of<'r>(vm: &VmReport, report: &'r Report) -> Option<&'r ClaimStatus> {
    let claims = &report.status.as_ref().ok()?.claims;
    claims.iter().find(|claim| claim.vmid == vm.vmid)
}

fn level<'r>(vm: &VmReport, report: &'r Report) -> Option<&'r Level> {
    let patients = &report.diagnosis.as_ref().ok()?.patients;
    let patient = patients.iter().find(|one| one.vmid == Some(vm.vmid))?;
    patient.level.as_ref()
}

fn name(vm: &VmReport) -> String {
    let name = vm.plan.as_ref().ok().and_then(|plan| plan.name.as_ref());
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    format!("vm {}{name}", vm.vmid)
}

/// Returns how it is with a VM: what it owns, else what would come of a start.
fn badge(vm: &VmReport, claim: Option<&ClaimStatus>) -> Badge {
    if let Some(claim) = claim {
        let tone = if claim.is_ok() { Tone::Good } else { Tone::Bad };
        return Badge::new(tone, claim.state.clone());
    }
    let Ok(plan) = &vm.plan else {
        return Badge::new(Tone::Bad, "unknown");
    };
    match (plan.outcome, plan.running) {
        (Outcome::Ready, false) => Badge::new(Tone::Plain, "not running"),
        (Outcome::Ready | Outcome::Nothing, true) => Badge::new(Tone::Warning, "runs without"),
        (Outcome::Nothing, false) => Badge::new(Tone::Plain, "no table"),
        (Outcome::Absent, _) => Badge::new(Tone::Plain, "no such vm"),
        (Outcome::Invalid, _) => Badge::new(Tone::Bad, "table wrong"),
        (Outcome::Harms, _) => Badge::new(Tone::Bad, "would do harm"),
        (Outcome::Refused | Outcome::Fails, _) => Badge::new(Tone::Bad, "would be refused"),
    }
}

/// Returns everything about a VM.
pub(super) fn section(vm: &VmReport, report: &Report) -> Section {
    let claim = claim_of(vm, report);
    let mut blocks = vec![Block::Facts(facts(vm, claim, report))];
    if let Some(claim) = claim {
        blocks.extend(remarks(complaints(claim)));
        if !claim.threads.is_empty() {
            blocks.push(Block::Heading("threads, wanted and actual"));
            blocks.push(threads(&claim.threads));
        }
    }
    blocks.extend(measured(&report.kept.of_vm(vm.vmid)));
    blocks.push(Block::Heading("table"));
    blocks.push(match &vm.table {
        Ok(Some(table)) => Block::Verbatim(table.text.clone()),
        Ok(None) => Block::Text("it has none".to_owned()),
        Err(error) => failed(error),
    });
    blocks.push(Block::Heading("plan"));
    match &vm.plan {
        Ok(plan) => blocks.extend(of_plan(plan, claim.is_some())),
        Err(error) => blocks.push(failed(error)),
    }
    parts::section(name(vm), Some(badge(vm, claim)), blocks)
}

/// Returns the card of measurements that were kept.
fn measured(kept: &[(String, Measurement)]) -> Vec<Block> {
    if kept.is_empty() {
        return Vec::new();
    }
    let card = Card::new(kept);
    let picture = Block::Picture {
        wide: card.svg(),
        narrow: card.narrow_svg(),
        text: card.text(),
    };
    vec![Block::Heading("measured"), picture]
}

fn facts(
    vm: &VmReport,
    claim: Option<&ClaimStatus>,
    report: &Report,
) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let layout = vm.plan.as_ref().ok().and_then(|plan| plan.layout.as_ref());
    if let Some(claim) = claim {
        facts.push(("owns", claim.cpus.in_words()));
        facts.push(("backend", format!("{} ({})", claim.backend, claim.reason)));
        let partitions = claim.partitions.iter();
        facts.extend(partitions.map(|one| ("partition", of_partition(one))));
        let devices = claim.devices.iter();
        facts.extend(devices.map(|(address, model)| ("device", format!("{address} ({model})"))));
    } else if let Some(layout) = layout {
        facts.push(("would own", layout.cpus.in_words()));
        facts.push(("backend", format!("{} ({})", layout.backend, layout.reason)));
    }
    if let Some(level) = level(vm, report) {
        facts.push(("isolation", what_it_means(level)));
        facts.extend(level.next.clone().map(|next| ("next step", next)));
    }
    if let Ok(Some(table)) = &vm.table {
        facts.push(("table", table.path.clone()));
    }
    facts
}

fn threads(threads: &[ThreadStatus]) -> Block {
    let rows = tables::threads(threads).map(|(ok, [what, tid, wanted, actual, group])| {
        let (tone, word) = match ok {
            true => (Tone::Good, "ok"),
            false => (Tone::Bad, "differs"),
        };
        let cells = [what, word.to_owned(), tid, wanted, actual, group];
        (tone, cells.into())
    });
    let heads = ["thread", "", "tid", "wanted", "actual", "cgroup"];
    Block::Table(Table::of(heads, rows.collect()))
}

/// Returns what a start would change; what a VM owns already is a matter of its status.
fn of_plan(plan: &Plan, owns: bool) -> Vec<Block> {
    let error = plan.error.clone();
    let error = error.map(|error| remark(Tone::Bad, "error", error.message, error.help));
    let mut blocks: Vec<Block> = error.into_iter().collect();
    blocks.extend(remarks(plan::remarks(plan)));
    blocks.push(Block::Text(plan.summary.clone()));
    blocks.extend(plan.advice.clone().map(Block::Text));
    if let Some(layout) = &plan.layout {
        let places = [tables::vcpus(layout), tables::other_threads(layout)];
        let places = places.map(Block::Table).into();
        match owns {
            true => blocks.push(Block::Fold(
                "where its threads are to run".to_owned(),
                places,
            )),
            false => blocks.extend::<Vec<_>>(places),
        }
    }
    blocks.extend(tables::devices(&plan.devices).map(Block::Table));
    if plan.outcome == Outcome::Ready && !plan.changes.is_empty() {
        let title = count(plan.changes.len(), "change");
        let text = changes::text(plan, true);
        blocks.push(Block::Fold(
            title,
            vec![Block::Verbatim(text.trim().to_owned())],
        ));
    }
    blocks
}
