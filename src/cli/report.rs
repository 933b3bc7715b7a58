//! `report`: everything on one page.

mod host;
pub mod parts;
mod vm;

use self::parts::{in_short, remark, section};
use super::args;
use super::opening::write_of_caller;
use super::output::Output;
use super::page::html::html;
use super::page::markdown::markdown;
use super::page::{Block, Page, Section, Tone};
use crate::host::seen::Seen;
use crate::lifecycle::engine::account::Exit;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::show::report::Report;

/// Shows everything on one page, or writes it to a file.
///
/// # Errors
/// The file cannot be written; what cannot be shown is said in its place.
pub fn show(
    run: &Run<'_>,
    seen: Option<&Seen>,
    asked: &args::Page,
    output: &Output,
) -> anyhow::Result<Exit> {
    let report = run.report();
    let hidden = seen.map(Seen::hidden).unwrap_or_default();
    let page = page(&report, &hidden);
    match &asked.html {
        Some(file) => write_of_caller(file, &html(&page), 0o644)?,
        None => output.print(&markdown(&page)),
    }
    Ok(Exit::Done)
}

fn page(report: &Report, hidden: &[String]) -> Page {
    let facts = report.versions.iter();
    let facts = facts.map(|(name, version)| ((*name).to_owned(), version.clone()));
    let mut sections = vec![host::at_a_glance(report), host::map(&report.map)];
    sections.extend(report.vms.iter().map(|vm| vm::section(vm, report)));
    sections.push(host::check(&report.diagnosis));
    sections.push(host::changed(&report.changed));
    sections.extend(host::settings(&report.settings));
    sections.extend(not_seen(report, hidden));
    Page {
        title: "pin-hook report".to_owned(),
        facts: facts.collect(),
        sections,
    }
}

/// Returns what is missing on the page, and why.
fn not_seen(report: &Report, hidden: &[String]) -> Option<Section> {
    let mut left_out: Vec<String> = Vec::new();
    left_out.extend(report.map.iter().flat_map(|map| map.left_out.clone()));
    left_out.extend(report.status.iter().flat_map(|one| one.left_out.clone()));
    let plans = report.vms.iter().filter_map(|vm| vm.plan.as_ref().ok());
    left_out.extend(plans.flat_map(|plan| plan.left_out.clone()));
    let unreadable = report.kept.unreadable.iter();
    left_out.extend(
        unreadable
            .map(|name| format!("measurement {name}, which this version of pin-hook cannot read")),
    );
    if !hidden.is_empty() {
        left_out.push(format!("only root can read {}", in_short(hidden)));
    }
    let mut told = std::collections::BTreeSet::new();
    left_out.retain(|text| told.insert(text.clone()));
    let blocks = left_out.into_iter();
    let blocks: Vec<Block> = blocks
        .map(|text| remark(Tone::Notice, "not seen", text, None))
        .collect();
    (!blocks.is_empty()).then(|| section("not seen from here", None, blocks))
}
