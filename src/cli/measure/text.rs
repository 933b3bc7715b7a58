//! A measurement as people read it.

use crate::cli::columns::wrapped;
use crate::cli::page::Table;
use crate::domain::measure::culprit::Culprit;
use crate::domain::measure::gaps::{NOTABLE_NS, Spin};
use crate::domain::measure::measurement::Measurement;
use crate::domain::measure::remedy::Remedy;
use crate::domain::measure::tally::{BOUNDS_US, Histogram, in_units, share};

/// Culprits that are shown without `-v`: those who took next to nothing are left out.
const SHOWN: usize = 12;
/// How many of those who asked for something are named.
const MOST_SENDERS: usize = 4;

/// Returns what a measurement has shown, for people.
pub(super) fn report(measurement: &Measurement, is_verbose: bool) -> String {
    let mut text = head(measurement);
    text += &stopped(measurement);
    text += &taken(measurement);
    text += &seats(measurement);
    text += &by_length(&measurement.histogram);
    text += &culprits(measurement, is_verbose);
    text += &remedies(measurement);
    text += &gaps(measurement);
    text += &beside(measurement);
    text
}

fn head(measurement: &Measurement) -> String {
    let (cpus, kernel) = (measurement.cpus.in_words(), &measurement.kernel);
    let who = match (measurement.vmid, &measurement.name) {
        (Some(vmid), Some(name)) => format!("vm {vmid} ({name}), {cpus}"),
        (Some(vmid), None) => format!("vm {vmid}, {cpus}"),
        (None, _) => cpus,
    };
    let time = in_units(measurement.duration_ns);
    format!("{who}: {time} on linux {kernel}\n")
}

/// Shows the one interruption that ended the measurement: who took how much of it, one after the other, and what
/// helps against each.
fn stopped(measurement: &Measurement) -> String {
    let Some(stopped) = &measurement.stopped else {
        return String::new();
    };
    let (took, limit) = (in_units(stopped.ns), in_units(stopped.limit_ns));
    let whose = stopped.vcpu.map(|vcpu| format!(" (vcpu {vcpu})"));
    let mut text = format!(
        "\nstopped after {} by {took} at once on cpu {}{}, longer than {limit}\n",
        in_units(stopped.after_ns),
        stopped.cpu,
        whose.unwrap_or_default(),
    );
    for (name, ns) in &measurement.longest {
        let mut culprits = measurement.culprits.iter();
        let culprit = culprits.find(|one| one.name == *name);
        let kind = culprit.map_or("", |one| one.kind.name());
        text += &wrapped(&format!("{} {kind} {name}", in_units(*ns)), "  ");
        text += &match culprit.map(|one| &one.remedy) {
            Some(Remedy::Do(what)) => wrapped(what, "    "),
            Some(Remedy::Nothing(why)) => wrapped(&format!("nothing helps: {why}"), "    "),
            _ => String::new(),
        };
    }
    text
}

fn taken(measurement: &Measurement) -> String {
    let Measurement { taken, vmid, .. } = measurement;
    let what = match (vmid, &measurement.spin) {
        (Some(_), _) => "taken from the guest",
        (None, Some(_)) if measurement.seats.len() == 1 => "taken from the spinning thread",
        (None, Some(_)) => "taken from the spinning threads",
        (None, None) => "taken by others than idle",
    };
    let parts = share(taken.total_ns, measurement.cpu_ns());
    let mut text = match taken.times {
        0 => format!("\n{what}: nothing\n"),
        n => format!(
            "\n{what}: {} ({parts}), {n} times, at most {}\n",
            in_units(taken.total_ns),
            in_units(taken.longest_ns)
        ),
    };
    if !measurement.longest.is_empty() {
        let parts = measurement.longest.iter();
        let parts: Vec<String> = parts
            .map(|(name, ns)| format!("{name} {}", in_units(*ns)))
            .collect();
        text += &wrapped(&format!("the longest: {}", parts.join(", ")), "  ");
    }
    text
}

fn seats(measurement: &Measurement) -> String {
    let is_vm = measurement.vmid.is_some();
    let heads = match is_vm {
        true => ["vcpu", "cpus", "taken", "times", "longest", "waited"],
        false => ["cpu", "", "taken", "times", "longest", ""],
    };
    let rows = measurement.seats.iter().map(|seat| {
        let taken = &seat.taken;
        let cpus = seat.cpus.to_string();
        let (first, second, waited) = match seat.vcpu {
            Some(vcpu) => (vcpu.to_string(), cpus, in_units(seat.steal_ns)),
            None => (cpus, String::new(), String::new()),
        };
        [
            first,
            second,
            in_units(taken.total_ns),
            taken.times.to_string(),
            in_units(taken.longest_ns),
            waited,
        ]
    });
    format!("\n{}", Table::plain(heads, rows).lines())
}

fn by_length(histogram: &Histogram) -> String {
    let counts = histogram.0;
    let last = BOUNDS_US.len();
    let bound = |n: usize| in_units(BOUNDS_US[n] * 1000);
    let counts = counts.iter().enumerate().filter(|(_, times)| **times > 0);
    let named = counts.map(|(n, times)| match n {
        n if n == last => format!("{times} longer than {}", bound(last - 1)),
        n => format!("{times} up to {}", bound(n)),
    });
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => String::new(),
        false => wrapped(&format!("by length: {}", named.join(", ")), "  "),
    }
}

fn culprits(measurement: &Measurement, is_verbose: bool) -> String {
    let all = &measurement.culprits;
    if all.is_empty() {
        return String::new();
    }
    let most = if is_verbose { all.len() } else { SHOWN };
    let n = most.min(all.len());
    let rows = all[..n].iter().map(|one| {
        [
            one.kind.name().to_owned(),
            one.name.clone(),
            one.tally.times.to_string(),
            in_units(one.tally.total_ns),
            in_units(one.tally.longest_ns),
        ]
    });
    let table = Table::plain(["by", "", "times", "time", "longest"], rows);
    let mut text = format!("\n{}", table.lines());
    if n < all.len() {
        text += &format!("  and {} who took less (-v shows them)\n", all.len() - n);
    }
    text
}

/// Says what can be done, once for all whom it is good against, with what it would give back.
fn remedies(measurement: &Measurement) -> String {
    let mut done: Vec<(&str, u64, Vec<&str>)> = Vec::new();
    for culprit in &measurement.culprits {
        let Remedy::Do(what) = &culprit.remedy else {
            continue;
        };
        let ns = culprit.tally.total_ns;
        match done.iter_mut().find(|(known, ..)| known == what) {
            Some((_, sum, names)) => {
                *sum += ns;
                names.push(&culprit.name);
            }
            None => done.push((what, ns, vec![&culprit.name])),
        }
    }
    if done.is_empty() {
        return String::new();
    }
    let mut text = "\nwhat would help\n".to_owned();
    for (what, ns, names) in done {
        let more = names.len().saturating_sub(3);
        let mut names = names[..names.len().min(3)].join(", ");
        if more > 0 {
            names += &format!(" and {more} more");
        }
        text += &wrapped(&format!("{}: {what}", in_units(ns)), "  ");
        text += &wrapped(&format!("against {names}"), "    ");
    }
    text
}

/// Returns what threads have seen that never sleep, and what of it the kernel has not.
fn gaps(measurement: &Measurement) -> String {
    let Some(spin) = &measurement.spin else {
        return String::new();
    };
    let mut text = seen(spin);
    text += &by_length(&spin.histogram);
    text += &unexplained(spin);
    if spin.idle_ns > 0 {
        let idle = in_units(spin.idle_ns);
        let why = "kernel.sched_rt_runtime_us limits real-time threads";
        let line = format!("the cpus were idle meanwhile for {idle}: {why}");
        text += &wrapped(&line, "  ");
    }
    text
}

fn seen(spin: &Spin) -> String {
    let class = if spin.is_realtime {
        "real-time "
    } else {
        "spinning "
    };
    let (n, total) = (spin.gaps.times, in_units(spin.gaps.total_ns));
    let longest = in_units(spin.gaps.longest_ns);
    let seen = match n {
        0 => format!("seen by the {class}threads themselves: no gap"),
        n => format!("seen by the {class}threads themselves: {n} gaps, {total}, at most {longest}"),
    };
    format!("\n{}", wrapped(&seen, ""))
}

fn unexplained(spin: &Spin) -> String {
    let mut text = String::new();
    let (n, longest) = (
        spin.unexplained.times,
        in_units(spin.unexplained.longest_ns),
    );
    let notable = in_units(NOTABLE_NS);
    if n > 0 {
        let who = "firmware (system management interrupts) or a hypervisor below";
        let line = format!("not seen by the kernel: {who}: {n} times, at most {longest}");
        text += &wrapped(&line, "  ");
    } else if spin.gaps.longest_ns > NOTABLE_NS && spin.n_unknown == 0 {
        let line = format!("each of more than {notable} has a record of the kernel");
        text += &wrapped(&line, "  ");
    }
    if spin.n_unknown > 0 {
        let line = format!(
            "{} of more than {notable} could not be looked up",
            spin.n_unknown
        );
        text += &wrapped(&line, "  ");
    }
    text
}

/// Returns what else is to be known: lines that begin at the margin.
fn beside(measurement: &Measurement) -> String {
    let mut lines = Vec::new();
    if measurement.sees_guest {
        let (times, total) = (measurement.own.times, in_units(measurement.own.total_ns));
        let longest = in_units(measurement.own.longest_ns);
        lines.push(format!(
            "the guest itself left {times} times, for {total}, at most {longest}"
        ));
    }
    if measurement.vmid.is_some() {
        let woken = measurement.steal_ns.saturating_sub(measurement.waited_ns);
        let (steal, woken) = (in_units(measurement.steal_ns), in_units(woken));
        lines.push(format!(
            "ready without a cpu (the guest sees it as steal): {steal}, of that {woken} after a wake-up"
        ));
    }
    lines.extend(asked(measurement));
    lines.extend(busy_siblings(measurement));
    let unseen = measurement.unseen.iter();
    lines.extend(unseen.map(|what| format!("not seen: {what}")));
    let (total, one) = (measurement.overhead_ns(), measurement.record_ns);
    lines.push(format!(
        "the measurement itself took at most {} ({} records of at most {})",
        in_units(total),
        measurement.n_records,
        in_units(one)
    ));
    let lines = lines.iter().map(|line| wrapped(line, ""));
    format!("\n{}", lines.collect::<String>())
}

/// Says who asked for calls from other CPUs.
fn asked(measurement: &Measurement) -> Vec<String> {
    let asked = measurement.culprits.iter();
    let asked = asked.filter(|one| !one.asked_by.is_empty());
    let lines = asked.map(|Culprit { name, asked_by, .. }| {
        let senders = asked_by.iter().take(MOST_SENDERS);
        let senders: Vec<String> = senders.map(|(who, n)| format!("{who} ({n})")).collect();
        format!("{name} was asked for by {}", senders.join(", "))
    });
    lines.collect()
}

fn busy_siblings(measurement: &Measurement) -> Option<String> {
    let siblings = measurement.siblings.iter();
    let busy = siblings.filter(|(_, busy)| *busy >= 10);
    let busy: Vec<String> = busy
        .map(|(cpu, busy)| format!("cpu {cpu} {} %", busy / 10))
        .collect();
    let names = busy.join(", ");
    (!busy.is_empty()).then(|| format!("smt siblings that others kept busy: {names}"))
}
