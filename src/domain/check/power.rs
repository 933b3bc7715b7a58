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
        fix: "governor = \"performance\" below [power] in the table of the vm, or for all cpus: echo \
               schedutil | tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
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

fn governors(host: &HostFacts) -> Verdict {
    if host.policies.is_empty() {
        return Verdict::skipped("the kernel does not set frequencies here");
    }
    let is_slow = |one: &&PolicyFacts| {
        one.governor == "powersave" && !CHOOSE_THEMSELVES.contains(&one.driver.as_str())
    };
    let slow = host.policies.iter().filter(is_slow);
    let slow: CpuSet = slow.flat_map(|one| one.cpus.iter()).collect();
    if !slow.is_empty() {
        let (cpus, have) = (
            slow.in_words(),
            if slow.len() == 1 { "has" } else { "have" },
        );
        return Fault::new(format!("{cpus} {have} governor powersave")).into();
    }
    let kinds = host.policies.iter();
    let kinds = kinds.map(|one| format!("{} by {}", one.governor, one.driver));
    let kinds: BTreeSet<String> = kinds.collect();
    Verdict::passed(kinds.into_iter().collect::<Vec<_>>().join(", "))
}
