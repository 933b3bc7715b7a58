//! Measurements side by side.

use crate::cli::columns::MAX_COLUMNS;
use crate::domain::measure::kind::Kind;
use crate::domain::measure::measurement::Measurement;
use crate::domain::measure::tally::{BOUNDS_US, in_units};
use crate::domain::words::count;

use super::text::share;

/// Kinds of those who take time, as a comparison sums them up.
const GROUPS: [(&str, &[Kind]); 5] = [
    ("programs", &[Kind::Program]),
    ("kernel threads and work", &[Kind::KernelThread, Kind::Work]),
    ("interrupts of devices", &[Kind::Interrupt, Kind::Softirq]),
    ("other cpus", &[Kind::Call, Kind::Vector]),
    (
        "ticks and timers",
        &[Kind::Tick, Kind::Timer, Kind::Nmi, Kind::Exit],
    ),
];

/// Returns measurements side by side, each under its name.
pub(super) fn compared(all: &[(String, Measurement)]) -> String {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    let of =
        |value: &dyn Fn(&Measurement) -> String| all.iter().map(|(_, one)| value(one)).collect();
    rows.push(("", all.iter().map(|(name, _)| name.clone()).collect()));
    rows.push(("taken from the vm", of(&|one| in_units(one.taken.total_ns))));
    rows.push((
        "of its time",
        of(&|one| share(one.taken.total_ns, one.cpu_ns())),
    ));
    rows.push(("times", of(&|one| one.taken.times.to_string())));
    rows.push(("longest", of(&|one| in_units(one.taken.longest_ns))));
    rows.push(("longer than 100 us", of(&|one| longer(one).to_string())));
    rows.push(("ready without a cpu", of(&|one| in_units(one.steal_ns))));
    for (name, kinds) in GROUPS {
        rows.push((name, of(&|one| in_units(time_of(one, kinds)))));
    }
    let mut text = head(all);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 4;
    let column = (MAX_COLUMNS - width) / all.len().max(1);
    for (n, (name, values)) in rows.iter().enumerate() {
        if n == 7 {
            text += "\nby\n";
        }
        let cells = values.iter().map(|value| format!("{value:>column$}"));
        let cells: String = cells.collect();
        text += &format!("{:<width$}{cells}\n", format!("  {name}"));
    }
    text
}

/// Says what is not alike about them.
fn head(all: &[(String, Measurement)]) -> String {
    let mut text = String::new();
    for (name, one) in all {
        let who = match one.vmid {
            Some(vmid) => format!("vm {vmid} on {}", one.cpus.in_words()),
            None => one.cpus.in_words(),
        };
        let what = if one.vmid.is_some() { "vcpu" } else { "cpu" };
        let (seats, time) = (count(one.seats.len(), what), in_units(one.duration_ns));
        text += &format!("{name}: {who}, {seats}, {time}, linux {}\n", one.kernel);
    }
    text + "\n"
}

fn longer(one: &Measurement) -> u64 {
    let bound = BOUNDS_US.iter().position(|us| *us == 100);
    one.histogram.0[bound.map_or(0, |n| n + 1)..].iter().sum()
}

fn time_of(one: &Measurement, kinds: &[Kind]) -> u64 {
    let culprits = one.culprits.iter();
    let those = culprits.filter(|culprit| kinds.contains(&culprit.kind));
    those.map(|culprit| culprit.tally.total_ns).sum()
}
