//! `status`: what VMs own, wanted and actual.

use std::collections::BTreeSet;
use std::time::Duration;

use super::args::Look;
use super::columns::{paragraph, wrapped};
use super::doctor::of_level;
use super::json;
use super::metrics;
use super::output::Output;
use super::page::Table;
use super::tables;
use super::topology;
use super::watch::watch;
use crate::domain::advice::Advised;
use crate::domain::vm::Vmid;
use crate::domain::words::count;
use crate::host::Host;
use crate::lifecycle::engine::account::{Account, Exit, Level, Line, keep_off, left_to};
use crate::lifecycle::engine::advice::help_without_cpus;
use crate::lifecycle::engine::settings::SettingStatus;
use crate::lifecycle::show::complaint::Complaint;
use crate::lifecycle::show::gone::Gone;
use crate::lifecycle::show::status::{
    ClaimStatus, DebtStatus, Drifted, Forgotten, Moved, Partition, Refused, Status, ThreadStatus,
    status,
};

/// Shows what VMs own, or what one VM owns; fails when something has drifted or failed.
pub fn show(host: &Host, asked: &Look, output: &Output) -> anyhow::Result<Exit> {
    if asked.watch {
        let interval = Duration::from_secs(u64::from(asked.interval));
        watch(interval, output, |output| {
            once(host, asked, output).map(|_| ())
        })?;
        return Ok(Exit::Done);
    }
    once(host, asked, output)
}

fn once(host: &Host, asked: &Look, output: &Output) -> anyhow::Result<Exit> {
    let status = status(host, asked.vmid)?;
    match (asked.json, asked.prometheus) {
        (true, _) => json::print(&status, output)?,
        (_, true) => output.print(&metrics::of_status(&status)),
        _ => {
            if let Some(vmid) = asked.vmid {
                draw(host, vmid, output);
            }
            print(&status, asked.vmid, output);
        }
    }
    Ok(if status.ok { Exit::Done } else { Exit::Refused })
}

/// Draws where the CPUs of a VM are; the rest does not depend on it.
fn draw(host: &Host, vmid: Vmid, output: &Output) {
    match topology::around(host, vmid, output) {
        Ok(picture) => {
            picture
                .into_iter()
                .for_each(|picture| output.print(&(picture + "\n")));
        }
        Err(error) => output.say(Level::Info, &format!("cannot draw the picture: {error:#}")),
    }
}

fn print(status: &Status, vmid: Option<Vmid>, output: &Output) {
    if !status.forgotten.is_empty() && status.claims.is_empty() {
        output.print("the state is lost: nothing says which vm owns which cpus\n");
    } else if status.claims.is_empty() {
        let who = vmid.map_or_else(|| "no vm".to_owned(), |vmid| format!("vm {vmid}"));
        let verb = if vmid.is_some() { "owns no" } else { "owns" };
        output.print(&format!("{who} {verb} cpus\n"));
    }
    for claim in &status.claims {
        output.print(&claim_text(claim));
        output.tell_lines(&complaints(claim));
        output.print("\n");
    }
    if !status.claims.is_empty() {
        output.print(&host_text(status));
    }
    output.tell_lines(&remarks(status));
}

/// Returns what is to be said of what VMs own, besides what each of them has.
pub fn remarks(status: &Status) -> Vec<Line> {
    let mut account = Account::default();
    // What they have cannot be told without the state.
    let is_known = status.forgotten.is_empty();
    for vmid in status.unowned.iter().filter(|_| is_known) {
        let why = status.why_unowned.get(vmid);
        if let Some(Complaint { message, help, .. }) = why {
            let text = format!("vm {vmid} has a table but runs without cpus of its own: {message}");
            account.say(Level::Warning, text);
            help.iter().for_each(|help| account.say(Level::Help, help));
            continue;
        }
        let text = format!(
            "vm {vmid} has a table but runs without cpus of its own: pin-hook plan {vmid} shows \
             what pin-hook apply {vmid} would change"
        );
        account.say(Level::Info, text);
    }
    account.lines.extend(without_config(&status.gone));
    for debt in &status.debts {
        account.say(Level::Info, debt_text(debt));
    }
    for lent in &status.lent {
        account.say(Level::Info, lent.to_string());
    }
    tell_drift(&status.drift, &mut account);
    for stuck in &status.stuck {
        account.say(Level::Warning, stuck.to_string());
    }
    tell_refused(&status.refused, &mut account);
    tell_lost(status, &mut account);
    if let Some(Advised { fact, help }) = &status.watch_fault {
        account.say(Level::Error, fact);
        account.say(Level::Help, help);
    }
    for text in &status.left_out {
        account.say(Level::Info, text);
    }
    account.lines
}

/// Tells of values that the kernel did not take, or made another one of.
fn tell_refused(refused: &[Refused], account: &mut Account) {
    for Refused {
        target,
        wanted,
        actual,
        attempts,
        is_rounded,
        ..
    } in refused
    {
        let text = match actual {
            Some(actual) if *is_rounded => {
                format!("{target}: the kernel rounded {wanted} to {actual}")
            }
            _ => {
                let times = count(usize::from(*attempts), "time");
                let is = actual.as_ref().map(|actual| format!(" is \"{actual}\""));
                let is = is.unwrap_or_default();
                format!("{target}{is}: the kernel did not accept \"{wanted}\", tried {times}")
            }
        };
        account.say(Level::Warning, text);
    }
    if refused.iter().any(|refused| !refused.is_rounded) {
        account.say(Level::Help, "journalctl -t pin-hook shows its response");
    }
}

/// Tells what the state cannot tell although it may be in force.
fn tell_lost(status: &Status, account: &mut Account) {
    if let Some(damage) = &status.damage {
        account.say(Level::Warning, damage);
        account.say(
            Level::Help,
            "pin-hook reconcile sets the damaged part aside and continues without it",
        );
    }
    for Forgotten { cgroup, cpus } in &status.forgotten {
        let cpus = cpus.in_words();
        let text = match cgroup {
            Some(cgroup) => format!(
                "cgroup {cgroup} withholds {cpus} from the host, but nothing says for which vm"
            ),
            None => format!(
                "kernel threads and interrupts are kept off {cpus}, but nothing says for which vm"
            ),
        };
        account.say(Level::Warning, text);
    }
    if !status.forgotten.is_empty() {
        account.say(
            Level::Help,
            "pin-hook apply VMID takes them in hand for a vm again; pin-hook release --all returns them to the host",
        );
    }
}

/// Tells which values of ours somebody else has changed, and what keeps whoever that is from it.
fn tell_drift(drift: &[Drifted], account: &mut Account) {
    let mut remedies = BTreeSet::new();
    for Drifted {
        target,
        actual,
        wanted,
        given_up,
        writers,
    } in drift
    {
        let actual = actual.as_deref().unwrap_or("absent");
        let mut text = format!("{target} is \"{actual}\", but pin-hook had set \"{wanted}\"");
        if *given_up {
            text += &format!(": {}", left_to(writers));
            remedies.extend(keep_off(writers));
        }
        account.say(Level::Warning, text);
    }
    for remedy in remedies {
        account.say(Level::Help, remedy);
    }
}

fn debt_text(debt: &DebtStatus) -> String {
    let vmid = debt.vmid;
    match debt.due_in {
        Some(seconds) => format!("vm {vmid} made room and will be started again in {seconds} s"),
        None => {
            let owners: Vec<String> = debt.owners.iter().map(ToString::to_string).collect();
            let owners = owners.join(" and vm ");
            format!("vm {vmid} made room for vm {owners} and will be started again afterwards")
        }
    }
}

fn claim_text(claim: &ClaimStatus) -> String {
    let ClaimStatus {
        vmid,
        state,
        cpus,
        backend,
        reason,
        ..
    } = claim;
    let summary = match state.as_str() {
        "standby" if cpus.is_empty() => format!("vm {vmid}: standby, started for a backup"),
        "standby" => format!(
            "vm {vmid}: standby, started for a backup, would have {}",
            cpus.in_words()
        ),
        "over" => format!("vm {vmid}: has stopped but still owns {}", cpus.in_words()),
        _ => format!("vm {vmid}: {state}, {}", cpus.in_words()),
    };
    let mut text = wrapped(&summary, "");
    if !cpus.is_empty() {
        text += &paragraph(&format!("backend {backend} ({reason})"));
    }
    if let Some(level) = &claim.level {
        text += &of_level(level);
    }
    for partition in &claim.partitions {
        text += &paragraph(&format!("partition {}", of_partition(partition)));
    }
    for (address, model) in &claim.devices {
        text += &paragraph(&format!("device {address} ({model})"));
    }
    if !claim.threads.is_empty() {
        text += "\n";
        text += &threads(&claim.threads);
    }
    text
}

/// Returns the cgroup of a partition, and what it is.
pub fn of_partition(partition: &Partition) -> String {
    let Partition {
        cgroup,
        wanted,
        actual,
    } = partition;
    let actual = actual.as_deref().unwrap_or("absent");
    let not = match actual == wanted {
        true => String::new(),
        false => format!(", not \"{wanted}\""),
    };
    format!("{cgroup} is \"{actual}\"{not}")
}

fn threads(threads: &[ThreadStatus]) -> String {
    let rows = tables::threads(threads).map(|(ok, [what, tid, wanted, actual, group])| {
        let remark = if ok { "" } else { "differs" };
        [what, tid, wanted, actual, group, remark.to_owned()]
    });
    Table::plain(["thread", "tid", "wanted", "actual", "cgroup", ""], rows).lines()
}

/// Returns what is wrong with what a VM owns.
pub fn complaints(claim: &ClaimStatus) -> Vec<Line> {
    let mut account = Account::default();
    let vmid = claim.vmid;
    if let Some(failure) = &claim.failure {
        account.say(Level::Error, format!("vm {vmid}: {failure}"));
        account.say(Level::Help, help_without_cpus(vmid));
    }
    if let Some(help) = &claim.offline_help {
        let (cpus, are) = (claim.offline.in_words(), claim.offline.is_or_are());
        account.say(Level::Error, format!("vm {vmid}: {cpus} {are} offline"));
        account.say(Level::Help, help);
    }
    if let Some(outdated) = &claim.outdated {
        account.say(Level::Warning, format!("vm {vmid}: {outdated}"));
    }
    if claim.over {
        account.lines.extend(of_over(vmid, Level::Error));
    }
    account.lines
}

/// Says which VMs own CPUs and run without a config on this node, and what ends that.
pub fn without_config(gone: &[Gone]) -> Vec<Line> {
    let lines = gone.iter().flat_map(|gone| {
        let line = |level, text| Line { level, text };
        [
            line(Level::Warning, gone.to_string()),
            line(Level::Help, gone.help.clone()),
        ]
    });
    lines.collect()
}

/// Says that a VM has ended and nobody has seen to it.
pub fn of_over(vmid: Vmid, level: Level) -> [Line; 2] {
    let text = format!("vm {vmid} has stopped, but the host is not restored yet");
    let help = "pin-hook reconcile restores it now".to_owned();
    [(level, text), (Level::Help, help)].map(|(level, text)| Line { level, text })
}

fn host_text(status: &Status) -> String {
    let moved = |what: &str, moved: &Moved| {
        let mut text = format!("  {} moved", count(moved.moved, what));
        if moved.unchangeable > 0 {
            text += &format!(", {} cannot be moved", moved.unchangeable);
        }
        text + "\n"
    };
    let mut text = "host\n".to_owned();
    if let Some(cpus) = &status.root_effective {
        text += &paragraph(&format!("everything else may use {}", cpus.in_words()));
    }
    text += &moved("interrupt", &status.interrupts);
    text += &moved("kernel thread", &status.kernel_threads);
    text += &settings_text(status);
    // A VM that is over has that said in its place, and all that is its own is yet to be given back.
    if status.pending > 0 && !status.claims.iter().any(|claim| claim.over) {
        let pending = count(status.pending, "change");
        text += &format!("  {pending} still to be made by reconcile\n");
    }
    text
}

/// Returns the keys of what is set, and who decides where VMs wish for different values.
fn settings_text(status: &Status) -> String {
    // What somebody else has changed is told as that.
    let has_drifted =
        |one: &&SettingStatus| status.drift.iter().any(|drift| drift.target == one.target);
    let settings = status.settings.iter().filter(|one| !has_drifted(one));
    let settings: Vec<&SettingStatus> = settings.collect();
    let keys: BTreeSet<&str> = settings
        .iter()
        .filter_map(|setting| setting.key.as_deref())
        .collect();
    if keys.is_empty() {
        return String::new();
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let n = count(keys.len(), "setting");
    // One key may stand for a value of each cpu.
    let values = match settings.len() == keys.len() {
        true => String::new(),
        false => format!(" ({})", count(settings.len(), "value")),
    };
    let mut text = paragraph(&format!("{n} as requested{values}: {}", keys.join(", ")));
    for setting in settings {
        let Some(rule) = setting.rule else { continue };
        let wishes = setting.wishes.iter();
        let wishes: Vec<String> = wishes
            .map(|wish| format!("vm {} \"{}\"", wish.vmid, wish.value))
            .collect();
        let (target, wanted) = (&setting.target, &setting.wanted);
        let wishes = wishes.join(", ");
        text += &paragraph(&format!("{target} is \"{wanted}\" ({wishes}: {rule})"));
    }
    text
}
