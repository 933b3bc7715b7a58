//! A card: measurements side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use super::kind::Kind;
use super::measurement::Measurement;
use super::tally::{BOUNDS_US, in_units, share};
use crate::domain::cpuset::CpuSet;
use crate::domain::vm::Vmid;

/// Measurements that a card has at most.
pub const MOST: usize = 4;
/// How many of those who took time have a row of their own.
const NAMED: usize = 5;
/// Interruptions that are longer are counted apart, in microseconds: as long as a guest notices.
const LONG_US: u64 = 100;

/// Kinds of those who take time, as a card sums them up.
const GROUPS: [(&str, &[Kind]); 5] = [
    ("programs", &[Kind::Program]),
    ("kernel threads and work", &[Kind::KernelThread, Kind::Work]),
    ("interrupts and softirqs", &[Kind::Interrupt, Kind::Softirq]),
    ("other cpus", &[Kind::Call, Kind::Vector]),
    (
        "ticks and timers",
        &[Kind::Tick, Kind::Timer, Kind::Nmi, Kind::Exit],
    ),
];

/// Measurements side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// What is compared, from left to right.
    pub measurements: Vec<Compared>,
    /// What was taken.
    pub taken: Vec<Row>,
    /// By what kind of thing, in each second.
    pub by_kind: Vec<Row>,
    /// By whom, in each second, the one who took most in all of them first.
    pub by_name: Vec<Row>,
}

/// A measurement that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Name that it was kept under.
    pub name: String,
    /// VM that was measured, unless it was CPUs.
    pub vmid: Option<Vmid>,
    /// CPUs that were measured.
    pub cpus: CpuSet,
    /// How many vCPUs, or CPUs.
    pub n_seats: usize,
    /// For how long, in nanoseconds.
    pub duration_ns: u64,
    /// Release of the kernel.
    pub kernel: String,
}

/// A row of values, one for each measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// What the values are.
    pub unit: Unit,
    /// The values.
    pub values: Vec<u64>,
}

/// What values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Times in nanoseconds.
    Ns,
    /// Numbers.
    Times,
    /// Parts of 10^9.
    Billionths,
}

impl Unit {
    /// Returns a value as people read it.
    pub(super) fn shown(self, value: u64) -> String {
        match self {
            Unit::Ns => in_units(value),
            Unit::Times => value.to_string(),
            Unit::Billionths => share(value, 1_000_000_000),
        }
    }
}

impl Card {
    /// Returns measurements side by side, each with the name that it was kept under.
    pub fn new(all: &[(String, Measurement)]) -> Self {
        let row = |name: &str, unit, value: &dyn Fn(&Measurement) -> u64| Row {
            name: name.to_owned(),
            unit,
            values: all.iter().map(|(_, one)| value(one)).collect(),
        };
        let title = match all.iter().all(|(_, one)| one.vmid.is_some()) {
            true => "taken from the vm",
            false => "taken",
        };
        let taken = vec![
            row(title, Unit::Ns, &|one| one.taken.total_ns),
            row("in each second", Unit::Ns, &|one| {
                part(one.taken.total_ns, one.duration_ns)
            }),
            row("of its time", Unit::Billionths, &|one| {
                part(one.taken.total_ns, one.cpu_ns())
            }),
            row("times", Unit::Times, &|one| one.taken.times),
            row("longest", Unit::Ns, &|one| one.taken.longest_ns),
            row("longer than 100 us", Unit::Times, &longer),
            row("ready without a cpu", Unit::Ns, &|one| one.steal_ns),
        ];
        let by_kind = GROUPS.iter().map(|(name, kinds)| {
            row(name, Unit::Ns, &|one| {
                each_second(one, |kind, _| kinds.contains(&kind))
            })
        });
        let by_name = named(all).into_iter().map(|(kind, name)| {
            row(name, Unit::Ns, &|one| {
                each_second(one, |other, called| (other, called) == (kind, name))
            })
        });
        Card {
            measurements: all
                .iter()
                .map(|(name, one)| Compared::new(name, one))
                .collect(),
            taken,
            by_kind: by_kind.collect(),
            by_name: by_name.collect(),
        }
    }
}

impl Compared {
    fn new(name: &str, one: &Measurement) -> Self {
        Compared {
            name: name.to_owned(),
            vmid: one.vmid,
            cpus: one.cpus.clone(),
            n_seats: one.seats.len(),
            duration_ns: one.duration_ns,
            kernel: one.kernel.clone(),
        }
    }
}

/// Returns those who took most, in all measurements together.
fn named(all: &[(String, Measurement)]) -> Vec<(Kind, &str)> {
    let mut sums: BTreeMap<(Kind, &str), u64> = BTreeMap::new();
    for (_, one) in all {
        for culprit in &one.culprits {
            let sum = sums.entry((culprit.kind, &culprit.name)).or_default();
            *sum += part(culprit.tally.total_ns, one.duration_ns);
        }
    }
    let mut named: Vec<_> = sums.into_iter().collect();
    named.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    named.truncate(NAMED);
    named.into_iter().map(|(who, _)| who).collect()
}

/// Returns what some of those who took time took in each second, in nanoseconds.
fn each_second(one: &Measurement, is_meant: impl Fn(Kind, &str) -> bool) -> u64 {
    let culprits = one.culprits.iter();
    let those = culprits.filter(|culprit| is_meant(culprit.kind, &culprit.name));
    let ns = those.map(|culprit| culprit.tally.total_ns).sum();
    part(ns, one.duration_ns)
}

/// Returns how many billionths of a whole a part is.
fn part(part: u64, whole: u64) -> u64 {
    let billionths = u128::from(part) * 1_000_000_000 / u128::from(whole.max(1));
    u64::try_from(billionths).unwrap_or(u64::MAX)
}

fn longer(one: &Measurement) -> u64 {
    let bound = BOUNDS_US.iter().position(|us| *us == LONG_US);
    one.histogram.0[bound.map_or(0, |n| n + 1)..].iter().sum()
}
