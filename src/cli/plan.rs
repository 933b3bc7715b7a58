//! `plan`: what would change when a VM starts, and why.

pub mod changes;

use super::columns::paragraph;
use super::json;
use super::output::Output;
use super::tables;
use crate::domain::vm::Vmid;
use crate::lifecycle::engine::account::{Exit, Level, Line};
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::show::plan::{Layout, Outcome, Plan};

/// Shows what would change when a VM starts; fails when the start would be refused.
pub fn show(run: &Run<'_>, vmid: Vmid, as_json: bool, output: &Output) -> anyhow::Result<Exit> {
    let plan = run.plan(vmid)?;
    json::or_text(&plan, as_json, output, print)?;
    Ok(match plan.outcome {
        Outcome::Ready | Outcome::Nothing => Exit::Done,
        Outcome::Absent | Outcome::Refused | Outcome::Fails | Outcome::Harms => Exit::Refused,
        Outcome::Invalid => Exit::Usage,
    })
}

fn print(plan: &Plan, output: &Output) {
    if let Some(complaint) = &plan.error {
        output.complain(complaint);
    }
    if let Some(layout) = &plan.layout {
        output.print(&head(plan, layout));
        let (vcpus, others) = (tables::vcpus(layout), tables::other_threads(layout));
        output.print(&format!("{}\n{}", vcpus.lines(), others.lines()));
    }
    if let Some(devices) = tables::devices(&plan.devices) {
        output.print(&format!("\n{}", devices.lines()));
    }
    let mut remarks = remarks(plan);
    remarks.extend(lines(Level::Info, &plan.left_out));
    if !remarks.is_empty() {
        output.print("\n");
    }
    output.tell_lines(&remarks);
    if plan.outcome == Outcome::Ready {
        output.print(&changes::text(plan, output.is_verbose()));
    }
    let gap = if plan.layout.is_some() { "\n" } else { "" };
    output.print(&format!("{gap}{}\n", plan.summary));
    if let Some(advice) = &plan.advice {
        output.say(Level::Help, advice);
    }
}

/// Returns what is to be said of a plan beside its error, warnings first.
pub fn remarks(plan: &Plan) -> Vec<Line> {
    let yields = plan.yields.iter().map(|one| &one.summary);
    let texts = plan.notices.iter().chain(yields);
    let warnings = lines(Level::Warning, &plan.warnings);
    warnings.chain(lines(Level::Info, texts)).collect()
}

fn lines<'t>(
    level: Level,
    texts: impl IntoIterator<Item = &'t String>,
) -> impl Iterator<Item = Line> {
    let texts = texts.into_iter().cloned();
    texts.map(move |text| Line { level, text })
}

fn head(plan: &Plan, layout: &Layout) -> String {
    let name = plan.name.as_ref().map(|name| format!(" ({name})"));
    let runs = if plan.running {
        "running"
    } else {
        "not running"
    };
    let Layout {
        backend, reason, ..
    } = layout;
    let cpus = layout.cpus.in_words();
    let vmid = plan.vmid;
    let name = name.unwrap_or_default();
    let table = plan.table.as_deref().unwrap_or_default();
    let how = paragraph(&format!("backend {backend} ({reason})"));
    format!("vm {vmid}{name}: {cpus}, {runs}\n{how}  table {table}\n\n")
}
