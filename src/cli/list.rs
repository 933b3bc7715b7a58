//! `list`: every table of this node.

use super::columns::or_dash;
use super::json;
use super::output::Output;
use super::page::Table;
use super::status::{of_over, without_config};
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::list::{Broken, Entry, Listing, Misfit, ids, list};

/// Shows every table of this node; fails when one of them is broken, or a start would be refused with it.
pub fn show(host: &Host, as_json: bool, output: &Output) -> anyhow::Result<Exit> {
    let listing = list(host)?;
    json::or_text(&listing, as_json, output, print)?;
    let is_refused = listing.misfits.iter().any(|misfit| misfit.vmid.is_some());
    Ok(match listing.broken.is_empty() && !is_refused {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

/// Prints id and name of every VM of this node, with a tab between them.
pub fn show_ids(host: &Host, output: &Output) -> anyhow::Result<Exit> {
    let lines = ids(host)?.into_iter().map(|(vmid, name)| {
        let name = name.map_or_else(String::new, |name| format!("\t{name}"));
        format!("{vmid}{name}\n")
    });
    output.print(&lines.collect::<String>());
    Ok(Exit::Done)
}

fn print(listing: &Listing, output: &Output) {
    if listing.vms.is_empty() {
        output.print(&format!("node {} has no vm with a table\n", listing.node));
    } else {
        output.print(&vms(&listing.vms));
    }
    for entry in &listing.vms {
        let vmid = entry.vmid;
        if let Some(outdated) = &entry.outdated {
            output.say(Level::Warning, &format!("vm {vmid}: {outdated}"));
        }
        if entry.over {
            output.tell_lines(&of_over(vmid, Level::Warning));
        }
    }
    output.tell_lines(&without_config(&listing.gone));
    for overlap in &listing.overlaps {
        let level = match overlap.yields {
            None => Level::Warning,
            Some(_) => Level::Info,
        };
        output.say(level, &overlap.to_string());
    }
    for Misfit { vmid, reason } in &listing.misfits {
        let text = match vmid {
            Some(vmid) => format!("vm {vmid}: a start would be refused: {reason}"),
            None => reason.clone(),
        };
        output.say(Level::Warning, &text);
    }
    for orphan in &listing.orphans {
        output.say(
            Level::Warning,
            &format!("{} {}", orphan.vmid, orphan.reason),
        );
    }
    for stray in &listing.strays {
        output.say(Level::Warning, stray);
    }
    for Broken { message, help, .. } in &listing.broken {
        output.say(Level::Error, message);
        if let Some(help) = help {
            output.say(Level::Help, help);
        }
    }
    for text in &listing.left_out {
        output.say(Level::Info, text);
    }
}

fn vms(vms: &[Entry]) -> String {
    let rows = vms.iter().map(|vm| {
        let hook = match &vm.hookscript {
            Some(_) if vm.hooked => "yes".to_owned(),
            Some(volume) => format!("other: {volume}"),
            None => "no".to_owned(),
        };
        [
            vm.vmid.to_string(),
            or_dash(vm.name.as_ref()),
            cpus(vm),
            if vm.onboot { "yes" } else { "no" }.to_owned(),
            hook,
            state(vm),
        ]
    });
    Table::plain(["vm", "name", "cpus", "onboot", "hook", "state"], rows).lines()
}

fn state(vm: &Entry) -> String {
    match &vm.state {
        Some(state) => state.clone(),
        None if vm.running => "runs, owns no cpus".to_owned(),
        None => "-".to_owned(),
    }
}

/// What a VM owns comes before what its table says now.
fn cpus(vm: &Entry) -> String {
    match (&vm.cpus, &vm.owned) {
        (Some(cpus), Some(owned)) if cpus != owned => return format!("{owned} (table: {cpus})"),
        (None, Some(owned)) => return owned.to_string(),
        _ => {}
    }
    match &vm.cpus {
        Some(cpus) if vm.auto => format!("{cpus} (auto)"),
        None if vm.auto => "auto".to_owned(),
        cpus => or_dash(cpus.as_ref()),
    }
}
