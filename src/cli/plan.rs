//! `plan`: what would change when a VM starts, and why.

pub mod changes;

use super::columns::{Columns, or_dash, paragraph};
use super::json;
use super::output::Output;
use crate::domain::vm::Vmid;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::engine::inventory::rows::DeviceRow;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::show::plan::{Layout, Outcome, Plan, VcpuPlace};

/// Shows what would change when a VM starts; fails when the start would be refused.
pub fn show(run: &Run<'_>, vmid: Vmid, as_json: bool, output: &Output) -> anyhow::Result<Exit> {
    let plan = run.plan(vmid)?;
    if as_json {
        json::print(&plan, output)?;
    } else {
        print(&plan, output);
    }
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
        output.print(&places(layout));
    }
    output.print(&devices(&plan.devices));
    let yields = plan.yields.iter().map(|one| &one.summary);
    let texts: Vec<&String> = plan
        .notices
        .iter()
        .chain(yields)
        .chain(&plan.left_out)
        .collect();
    if !(plan.warnings.is_empty() && texts.is_empty()) {
        output.print("\n");
    }
    for text in &plan.warnings {
        output.say(Level::Warning, text);
    }
    for text in texts {
        output.say(Level::Info, text);
    }
    if plan.outcome == Outcome::Ready {
        output.print(&changes::text(plan, output.is_verbose()));
    }
    let gap = if plan.layout.is_some() { "\n" } else { "" };
    output.print(&format!("{gap}{}\n", plan.summary));
    if let Some(advice) = &plan.advice {
        output.say(Level::Help, advice);
    }
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

fn places(layout: &Layout) -> String {
    let mut vcpus = Columns::new(["vcpu", "cpu", "core", "l3 domain", "node", ""]);
    let later = layout
        .hotplug
        .iter()
        .map(|place| (place, "when plugged in"));
    for (place, when) in layout.vcpus.iter().map(|place| (place, "")).chain(later) {
        let VcpuPlace {
            vcpu,
            cpu,
            core,
            l3_domain,
            node,
        } = place;
        let core = core.to_string();
        let (l3_domain, node) = (or_dash(*l3_domain), or_dash(*node));
        vcpus.add([
            vcpu.to_string(),
            cpu.to_string(),
            core,
            l3_domain,
            node,
            when.to_owned(),
        ]);
    }
    format!("{}\n{}", vcpus.lines(), others(layout))
}

/// Returns a line for each function; of a mapping with alternatives, those that PVE would take have
/// a mark.
fn devices(rows: &[DeviceRow]) -> String {
    if rows.iter().all(|row| row.functions.is_empty()) {
        return String::new();
    }
    let mut lines = Columns::new(["device", "function", "model", "driver", "group", "node", ""]);
    for row in rows {
        let by = row.mapping.as_ref().map(|name| format!(" ({name})"));
        let key = format!("{}{}", row.key, by.unwrap_or_default());
        let remark = match (row.chosen, &row.mdev) {
            (true, Some(kind)) => format!("parent of {kind}"),
            (true, None) => String::new(),
            (false, _) => "not taken".to_owned(),
        };
        for function in &row.functions {
            lines.add([
                key.clone(),
                function.address.clone(),
                function.model.clone(),
                or_dash(function.driver.as_ref()),
                or_dash(function.iommu_group),
                or_dash(function.node),
                remark.clone(),
            ]);
        }
    }
    format!("\n{}", lines.lines())
}

fn others(layout: &Layout) -> String {
    let mut threads = Columns::new(["other threads", "cpus", ""]);
    let mut add = |what: String, cpus: String, remark: &str| {
        threads.add([what, cpus, remark.to_owned()]);
    };
    if !layout.idle.is_empty() {
        add("none (owned, idle)".to_owned(), layout.idle.to_string(), "");
    }
    add("emulator".to_owned(), layout.emulator.to_string(), "");
    for thread in &layout.others {
        let name = match thread.name.as_str() {
            "*" => format!("{}, all others", thread.role),
            name => format!("{} {name}", thread.role),
        };
        let remark = match thread.exists {
            true => "",
            false => "(the vm has none)",
        };
        add(name, thread.cpus.to_string(), remark);
    }
    let left = or_dash(Some(&layout.housekeeping));
    add("everything else".to_owned(), left, "");
    threads.lines()
}
