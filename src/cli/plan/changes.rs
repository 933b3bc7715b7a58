//! The changes of a plan: why, what, from what to what.

use crate::domain::stage::Stage;
use crate::domain::target::{Place, Target, Value};
use crate::domain::words::count;
use crate::lifecycle::show::plan::{Plan, Planned};

/// Returns the changes of a plan, those for the same purpose together; `is_verbose` names each
/// interrupt and thread.
pub fn text(plan: &Plan, is_verbose: bool) -> String {
    if plan.changes.is_empty() {
        return String::new();
    }
    let mut text = match plan.running {
        true => "\nchanges, in this order:\n".to_owned(),
        false => "\nchanges when it starts, in this order:\n".to_owned(),
    };
    for stage in Stage::ACQUIRE {
        let of_stage = plan.changes.iter();
        let of_stage: Vec<&Planned> = of_stage
            .filter(|planned| planned.change.target.stage() == stage)
            .collect();
        let mut purposes: Vec<&str> = of_stage.iter().map(|planned| planned.purpose).collect();
        purposes.dedup();
        for purpose in purposes {
            let same = of_stage.iter().copied();
            let same: Vec<&Planned> = same.filter(|planned| planned.purpose == purpose).collect();
            text += &format!("  {purpose}\n");
            text += &match is_verbose {
                true => lines(&same),
                false => summary(&same, plan),
            };
        }
        if stage == Stage::Threads && !plan.running {
            text += "  keeps threads of the vm on their cpus\n";
            text += "    as in the tables above, once the vm runs\n";
        }
    }
    text
}

fn lines(planned: &[&Planned]) -> String {
    let lines = planned.iter().map(|planned| {
        let object = planned.object.as_ref().filter(|object| !object.is_empty());
        let object = object.map(|object| format!(" ({object})"));
        let change = &planned.change;
        let (before, after) = (quoted(&change.before), quoted(&change.after));
        let target = &change.target;
        format!(
            "    {target}{} {before} -> {after}\n",
            object.unwrap_or_default()
        )
    });
    lines.collect()
}

/// Returns one line for each target of which there are few, and a count of the others.
fn summary(planned: &[&Planned], plan: &Plan) -> String {
    let owned = plan.layout.as_ref().map(|layout| layout.cpus.in_words());
    let owned = owned.unwrap_or_default();
    let n = planned.len();
    match planned.first().map(|planned| &planned.change.target) {
        Some(Target::Knob(_, Place::Irq(..))) => {
            format!("    {}: off {owned}\n", count(n, "interrupt"))
        }
        Some(Target::KernelThread(_)) => {
            format!("    {}: off {owned}\n", count(n, "kernel thread"))
        }
        Some(Target::Membership(_)) => format!("    {}\n", count(n, "thread")),
        Some(Target::Affinity(_)) => {
            format!("    {}: as in the tables above\n", count(n, "thread"))
        }
        _ => planned.iter().map(|planned| line(planned)).collect(),
    }
}

/// Returns one line, with paths of cgroups as short as they are known by.
fn line(planned: &Planned) -> String {
    let change = &planned.change;
    let path = change.target.to_string();
    let path = match &change.target {
        Target::Group(group) => group,
        Target::Knob(_, Place::Group(_)) => path.trim_start_matches("/sys/fs/cgroup/"),
        _ => &path,
    };
    let (before, after) = (quoted(&change.before), quoted(&change.after));
    format!("    {path}: {before} -> {after}\n")
}

fn quoted(value: &Value) -> String {
    match value {
        Value::Absent | Value::Present => value.to_string(),
        Value::Cpus(_) | Value::Text(_) => format!("\"{value}\""),
    }
}
