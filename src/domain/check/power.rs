//! Speed of the CPUs.

use std::collections::BTreeSet;

use super::host_facts::{HostFacts, PolicyFacts};
use super::rule::Severity::{Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::cpuset::CpuSet;

/// Drivers whose governor `powersave` lets the hardware choose, up to the highest frequency
/// (`Documentation/admin-guide/pm/intel_pstate.rst`, `amd-pstate.rst`).
const CHOOSE_THEMSELVES: [&str; 2] = ["intel_pstate", "amd-pstate-epp"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "governor",
        required: "no cpu is kept at its lowest frequency",
        why: "The governor powersave of most drivers means the lowest frequency, whatever there is to do.",
        fix: "for cpus of a table: governor = \"performance\" below [power] in it; for others: echo schedutil > \
               /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor",
        severity: Warning,
        judge: Judge::Host(governors),
    },
    Check {
        id: "boost",
        required: "cpus may run faster than their nominal frequency",
        why: "With boost off the fastest cores of the processor are no faster than the others.",
        fix: "boost = true below [power] in the table of the vm, or switch it on in the firmware",
        severity: Notice,
        judge: Judge::Host(|host| match host.may_boost {
            None => Verdict::skipped("the kernel has no switch for boost"),
            Some(true) => Verdict::passed("boost is on"),
            Some(false) => Fault::new("boost is off").into(),
        }),
    },
];

fn slow_policies(policies: &[&PolicyFacts]) -> Option<Fault> {
    let cpus: CpuSet = policies.iter().flat_map(|one| one.cpus.iter()).collect();
    let have = if cpus.len() == 1 { "has" } else { "have" };
    let text = || format!("{} {have} governor powersave", cpus.in_words());
    (!cpus.is_empty()).then(|| Fault::new(text()))
}

/// Returns the command that gives policies another governor, and no other one: a policy has the files of each of its
/// CPUs.
fn set_governor(policies: &[&PolicyFacts]) -> String {
    let firsts = policies.iter().filter_map(|one| one.cpus.first());
    let firsts: Vec<String> = firsts.map(|cpu| cpu.to_string()).collect();
    let cpus = match firsts.as_slice() {
        [one] => one.clone(),
        all => format!("{{{}}}", all.join(",")),
    };
    format!("echo schedutil | tee /sys/devices/system/cpu/cpu{cpus}/cpufreq/scaling_governor")
}

fn governors(host: &HostFacts) -> Verdict {
    if host.policies.is_empty() {
        return Verdict::skipped("the kernel does not set frequencies here");
    }
    let is_slow = |one: &&PolicyFacts| {
        one.governor == "powersave" && !CHOOSE_THEMSELVES.contains(&one.driver.as_str())
    };
    let of_tables = host.guests.iter().flat_map(|one| one.cpus.iter());
    let of_tables: CpuSet = of_tables.collect();
    let slow = host.policies.iter().filter(is_slow);
    let (owned, others): (Vec<_>, Vec<_>) = slow.partition(|one| !one.cpus.is_disjoint(&of_tables));
    if !owned.is_empty() || !others.is_empty() {
        let with_table = "governor = \"performance\" below [power] in the table that names them";
        let faults = [
            slow_policies(&owned).map(|fault| fault.fixed_by(with_table)),
            slow_policies(&others).map(|fault| fault.fixed_by(set_governor(&others))),
        ];
        return Verdict::of(faults.into_iter().flatten().collect(), "");
    }
    let kinds = host.policies.iter();
    let kinds = kinds.map(|one| format!("{} by {}", one.governor, one.driver));
    let kinds: BTreeSet<String> = kinds.collect();
    Verdict::passed(kinds.into_iter().collect::<Vec<_>>().join(", "))
}
