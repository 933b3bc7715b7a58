//! The sections about the host.

use anyhow::Result;

use super::parts::{failed, in_short, remark, remarks, section};
use super::vm::glance;
use crate::cli::page::{Badge, Block, Row, Section, Table, Tone};
use crate::cli::{doctor, status};
use crate::domain::drawing::svg::svg;
use crate::domain::map::Map;
use crate::domain::map::draw::{LEAST_WIDTH, Paper, draw};
use crate::domain::words::count;
use crate::host::pve::TextFile;
use crate::lifecycle::show::doctor::{Diagnosis, Outcome, Patient};
use crate::lifecycle::show::report::{Changed, Report};
use crate::lifecycle::show::status::{Moved, Status};

/// Columns of the drawings: on a wide screen, and as text.
const WIDE: usize = 100;
const TEXT: usize = 80;

/// Returns the VMs in one table, and what is wrong with all of it.
pub(super) fn at_a_glance(report: &Report) -> Section {
    let mut blocks = Vec::new();
    let rows: Vec<Row> = report.vms.iter().map(|vm| glance(vm, report)).collect();
    match rows.is_empty() {
        true => blocks.push(Block::Text("no vm has a table".to_owned())),
        false => {
            let heads = ["vm", "state", "cpus", "isolation", "backend"];
            blocks.push(Block::Table(Table::of(heads, rows)));
        }
    }
    let badge = match &report.status {
        Ok(status) => {
            blocks.extend(of_status(status));
            match status.ok {
                true => Badge::new(Tone::Good, "as it should be"),
                false => Badge::new(Tone::Bad, "not as it should be"),
            }
        }
        Err(error) => {
            blocks.push(failed(error));
            Badge::new(Tone::Bad, "unknown")
        }
    };
    section("at a glance", Some(badge), blocks)
}

/// Returns what of the host is kept off, and what is to be said of it.
fn of_status(status: &Status) -> Vec<Block> {
    let moved = |moved: &Moved| match moved.unchangeable {
        0 => format!("{} moved", moved.moved),
        n => format!("{} moved, {n} cannot be moved", moved.moved),
    };
    let mut facts = Vec::new();
    if !status.claims.is_empty() {
        if let Some(cpus) = &status.root_effective {
            facts.push(("everything else", cpus.in_words()));
        }
        facts.push(("interrupts", moved(&status.interrupts)));
        facts.push(("kernel threads", moved(&status.kernel_threads)));
        let settings = status.settings.iter();
        let settings: Vec<String> = settings
            .map(|one| format!("{} = {}", one.target, one.wanted))
            .collect();
        if !settings.is_empty() {
            facts.push(("settings", in_short(&settings)));
        }
    }
    if status.pending > 0 {
        facts.push(("still to be made", count(status.pending, "change")));
    }
    let mut blocks = Vec::new();
    if !facts.is_empty() {
        blocks.push(Block::Facts(facts));
    }
    blocks.extend(remarks(status::remarks(status)));
    blocks
}

/// Returns the drawing of the host.
pub(super) fn map(map: &Result<Map>) -> Section {
    let block = match map {
        Ok(map) => {
            let lines = |width| {
                let is_ascii = false;
                draw(map, Paper { width, is_ascii })
            };
            let picture = |width| svg(&lines(width), |owner| map.ground(owner));
            Block::Picture {
                wide: picture(WIDE),
                narrow: picture(usize::from(LEAST_WIDTH)),
                text: lines(TEXT).iter().map(|line| line.text() + "\n").collect(),
            }
        }
        Err(error) => failed(error),
    };
    section("cpus", None, vec![block])
}

/// Returns what was found, with what fixes it.
pub(super) fn check(diagnosis: &Result<Diagnosis>) -> Section {
    let diagnosis = match diagnosis {
        Ok(diagnosis) => diagnosis,
        Err(error) => return section("check", None, vec![failed(error)]),
    };
    let mut blocks: Vec<Block> = diagnosis.patients.iter().flat_map(findings).collect();
    blocks.push(Block::Text(doctor::total(&diagnosis.totals)));
    let totals = diagnosis.totals;
    let badge = match (totals.failures, totals.warnings) {
        (0, 0) => Badge::new(Tone::Good, "nothing to fix"),
        (0, n) => Badge::new(Tone::Warning, count(n, "warning")),
        (n, _) => Badge::new(Tone::Bad, count(n, "failure")),
    };
    section("check", Some(badge), blocks)
}

fn findings(patient: &Patient) -> impl Iterator<Item = Block> {
    let who = doctor::who(patient);
    let rows = patient.results.iter();
    rows.filter(|row| row.outcome.is_finding()).map(move |row| {
        let (id, found) = (row.id, &row.found);
        let tone = match row.outcome {
            Outcome::Failure => Tone::Bad,
            Outcome::Warning => Tone::Warning,
            _ => Tone::Notice,
        };
        let fix = row.fix.as_ref().map(|fix| format!("fix: {fix}"));
        remark(
            tone,
            row.outcome.name(),
            format!("{who}, {id}: {found}"),
            fix,
        )
    })
}

/// Returns what has another value than it had.
pub(super) fn changed(changed: &Result<Vec<Changed>>) -> Section {
    const TITLE: &str = "changed on this host";
    let changed = match changed {
        Ok(changed) => changed,
        Err(error) => return section(TITLE, None, vec![failed(error)]),
    };
    let badge = Badge::new(Tone::Plain, count(changed.len(), "value"));
    if changed.is_empty() {
        let text = "nothing has another value than before".to_owned();
        return section(TITLE, Some(badge), vec![Block::Text(text)]);
    }
    let mut groups = Vec::new();
    let mut left: Vec<&Changed> = changed.iter().collect();
    while let Some(purpose) = left.first().map(|one| one.purpose) {
        let (same, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|one| one.purpose == purpose);
        left = others;
        groups.push((purpose, same.into_iter().map(row).collect()));
    }
    let heads = vec!["what", "now", "before"];
    section(
        TITLE,
        Some(badge),
        vec![Block::Table(Table { heads, groups })],
    )
}

fn row(one: &Changed) -> Row {
    let is_ours = one.actual == one.ours;
    let target = match &one.object {
        Some(object) => format!("{} ({object})", one.target),
        None => one.target.clone(),
    };
    let actual = shown(&one.actual);
    let (tone, now) = match (is_ours, one.is_fixed) {
        (true, _) => (Tone::Plain, actual),
        (false, true) => (Tone::Plain, format!("{actual}, cannot be changed")),
        (false, false) => {
            let ours = shown(&one.ours);
            (Tone::Warning, format!("{actual}, was set to {ours}"))
        }
    };
    (tone, vec![target, now, shown(&one.baseline)])
}

/// Returns a value as it is shown in a table.
fn shown(value: &Option<String>) -> String {
    match value.as_deref() {
        None => "absent".to_owned(),
        Some("") => "empty".to_owned(),
        Some(value) => value.to_owned(),
    }
}

/// Returns the settings of the host as they are written, if there are any.
pub(super) fn settings(settings: &Result<Option<TextFile>>) -> Option<Section> {
    let block = match settings {
        Ok(None) => return None,
        Ok(Some(file)) => Block::Verbatim(file.text.clone()),
        Err(error) => failed(error),
    };
    Some(section("settings of the host", None, vec![block]))
}
