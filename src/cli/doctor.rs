//! `check`: what is wrong with this host and its VMs, and what fixes it.

use anstyle::{AnsiColor, Style};

use super::args::Examination;
use super::columns::wrapped;
use super::json;
use super::lint;
use super::output::Output;
use crate::config::nearest::nearest;
use crate::domain::check::{Check, Todo, checks};
use crate::domain::level::{self, HIGHEST};
use crate::domain::words::count;
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::doctor::{
    Diagnosis, GuestList, Outcome, Patient, Row, Totals, examine, guest_list,
};

/// Answers `check`.
///
/// # Errors
/// There is no such VM, or the host cannot be read.
pub fn answer(host: &Host, asked: &Examination, output: &Output) -> anyhow::Result<Exit> {
    match (&asked.table, &asked.explain) {
        (Some(table), _) => lint::table(host, table, asked.json, output),
        (_, Some(id)) => Ok(explain(id, output)),
        _ => match asked.vmid.filter(|_| asked.guest) {
            Some(vmid) => {
                let list = guest_list(host, vmid)?;
                json::or_text(&list, asked.json, output, |list, output| {
                    output.print(&ticked(list));
                })?;
                Ok(Exit::Done)
            }
            None => show(host, asked, output),
        },
    }
}

fn ticked(list: &GuestList) -> String {
    let name = list.name.as_ref();
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let who = format!("guest of vm {}{name}", list.vmid);
    let ostype = list.ostype.as_deref().unwrap_or("other");
    if list.todo.is_empty() {
        let text = format!("{who}: there is no list for ostype: {ostype}");
        return wrapped(&text, "");
    }
    let mut text = format!("{who}, ostype: {ostype}: what the host cannot see\n");
    for Todo { what, how } in &list.todo {
        let first = wrapped(&format!("[ ] {what}"), "      ");
        text += &format!("  {}", first.trim_start());
        text += &wrapped(how, "      ");
    }
    text
}

/// Shows what is wrong with the host and its VMs, or with one VM; the exit status says how bad it is.
fn show(host: &Host, asked: &Examination, output: &Output) -> anyhow::Result<Exit> {
    let diagnosis = examine(host, asked.vmid)?;
    match (asked.json, asked.short, asked.quiet) {
        (true, ..) => json::print(&diagnosis, output)?,
        (_, true, _) => output.print(&short(&diagnosis)),
        (.., true) => {}
        _ => output.print(&report(&diagnosis, output.is_verbose())),
    }
    let totals = diagnosis.totals;
    Ok(match (totals.failures, totals.warnings) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Warned,
        _ => Exit::Refused,
    })
}

/// Says what a check requires and why.
fn explain(id: &str, output: &Output) -> Exit {
    let Some(check) = checks().find(|check| check.id == id) else {
        let ids: Vec<&str> = checks().map(|check| check.id).collect();
        let help = match nearest(id, ids.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("the checks are {}", ids.join(", ")),
        };
        output.say(Level::Error, &format!("there is no check \"{id}\""));
        output.say(Level::Help, &help);
        return Exit::Usage;
    };
    output.print(&explained(check));
    Exit::Done
}

fn explained(check: &Check) -> String {
    let mut text = format!("{} ({})\n", check.id, check.severity.name());
    for (name, words) in [
        ("required", check.required),
        ("why", check.why),
        ("fix", check.fix),
    ] {
        text += &wrapped(&format!("{name}: {words}"), "  ");
    }
    text
}

fn short(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for patient in &diagnosis.patients {
        let who = who(patient);
        for row in patient
            .results
            .iter()
            .filter(|row| row.outcome.is_finding())
        {
            let Row {
                id, outcome, found, ..
            } = row;
            text += &format!("{} {who} {id}: {found}\n", outcome.name());
        }
    }
    text + &total(&diagnosis.totals) + "\n"
}

/// Returns whether a finding is about the host or a VM, in a few words.
pub fn who(patient: &Patient) -> String {
    patient
        .vmid
        .map_or("host".to_owned(), |vmid| format!("vm {vmid}"))
}

fn report(diagnosis: &Diagnosis, is_verbose: bool) -> String {
    let mut text = String::new();
    for patient in &diagnosis.patients {
        text += &of_patient(patient, &diagnosis.node, is_verbose);
    }
    text += &format!("\n{}\n", total(&diagnosis.totals));
    let totals = diagnosis.totals;
    if totals.notices + totals.warnings + totals.failures > 0 {
        text += "pin-hook check --explain NAME says why a check matters\n";
    }
    text
}

fn of_patient(patient: &Patient, node: &str, is_verbose: bool) -> String {
    let mut text = match (patient.vmid, &patient.name) {
        (None, _) => format!("host {node}"),
        (Some(vmid), None) => format!("vm {vmid}"),
        (Some(vmid), Some(name)) => format!("vm {vmid} ({name})"),
    };
    let findings = patient
        .results
        .iter()
        .filter(|row| row.outcome.is_finding());
    if findings.count() == 0 {
        text += ": nothing to fix";
    }
    text.push('\n');
    match &patient.level {
        Some(level) => text += &of_level(level),
        None if patient.vmid.is_some() => {
            text += "  isolation unknown: pin-hook status says why\n";
        }
        None => {}
    }
    let shown = patient.results.iter();
    let shown = shown.filter(|row| is_verbose || row.outcome.is_finding());
    let shown: Vec<&Row> = shown.collect();
    for (n, row) in shown.iter().enumerate() {
        text += &of_row(row);
        let next = shown.get(n + 1).map(|next| (next.id, &next.fix));
        if row.outcome.is_finding() && next != Some((row.id, &row.fix)) {
            text += &what_to_do(row, is_verbose);
        }
    }
    text
}

/// Returns how much of the CPUs of a VM is its own, in lines.
pub fn of_level(level: &level::Level) -> String {
    let mut text = wrapped(&format!("isolation {}", what_it_means(level)), "  ");
    if let Some(next) = &level.next {
        text += &wrapped(&format!("for {}: {next}", level.number + 1), "    ");
    }
    text
}

/// Returns the number of a level, and what it means.
pub fn what_it_means(level: &level::Level) -> String {
    let level::Level { number, means, .. } = level;
    let when = if level.in_force {
        ""
    } else {
        " at its next start"
    };
    format!("{number} of {HIGHEST}{when}: {means}")
}

/// Columns that the word before a finding takes.
const INDENT: &str = "           ";

fn of_row(row: &Row) -> String {
    let style = style(row.outcome);
    let word = format!("{:<7}", row.outcome.name());
    let said = match row.outcome {
        Outcome::Passed => row.required,
        _ => &row.found,
    };
    let first = wrapped(&format!("{}: {said}", row.id), INDENT);
    // The word takes the place of the indent, and as wide: colours have no width.
    let rest = first.trim_start();
    format!("  {style}{word}{style:#}  {rest}")
}

fn what_to_do(row: &Row, is_verbose: bool) -> String {
    let required = is_verbose.then(|| format!("required: {}", row.required));
    let fix = row.fix.iter().map(|fix| format!("fix: {fix}"));
    let lines = required.into_iter().chain(fix);
    // A command with quotes is copied whole.
    let is_quoted = |line: &str| line.starts_with("fix: qm set") && line.contains(" '");
    let shown = lines.map(|line| match is_quoted(&line) {
        true => format!("{INDENT}{line}\n"),
        false => wrapped(&line, INDENT),
    });
    shown.collect()
}

fn style(outcome: Outcome) -> Style {
    let color = match outcome {
        Outcome::Passed => AnsiColor::Green,
        Outcome::Skipped => return Style::new(),
        Outcome::Notice => AnsiColor::Cyan,
        Outcome::Warning => AnsiColor::Yellow,
        Outcome::Failure => AnsiColor::Red,
    };
    color.on_default().bold()
}

/// Returns how many checks came to what, in one line.
pub fn total(totals: &Totals) -> String {
    let Totals {
        passed,
        skipped,
        notices,
        warnings,
        failures,
    } = *totals;
    let all = passed + skipped + notices + warnings + failures;
    let found = [
        (failures, "failure"),
        (warnings, "warning"),
        (notices, "notice"),
    ];
    let found = found.into_iter().filter(|(n, _)| *n > 0);
    let mut parts: Vec<String> = found.map(|(n, word)| count(n, word)).collect();
    parts.push(format!("{passed} passed"));
    if skipped > 0 {
        let apply = if skipped == 1 { "does" } else { "do" };
        parts.push(format!("{skipped} {apply} not apply"));
    }
    format!("{}: {}", count(all, "check"), parts.join(", "))
}
