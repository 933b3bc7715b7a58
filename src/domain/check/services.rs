//! Services that change by themselves what pin-hook sets.

use super::host_facts::HostFacts;
use super::rule::Severity::{Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "irqbalance",
        required: "irqbalance does not run",
        why: "It moves interrupts over all CPUs every ten seconds, onto those of VMs as well. pin-hook sets \
              them back a few times and then leaves them.",
        fix: "systemctl disable --now irqbalance",
        severity: Warning,
        judge: Judge::Host(|host| stopped(host, "irqbalance")),
    },
    Check {
        id: "numad",
        required: "numad does not run",
        why: "It moves the threads and the memory of VMs between NUMA nodes.",
        fix: "systemctl disable --now numad",
        severity: Warning,
        judge: Judge::Host(|host| stopped(host, "numad")),
    },
    Check {
        id: "tuned",
        required: "tuned does not run beside pin-hook",
        why: "Its profiles set governors, sysctls and affinities that tables may set too. Whoever writes last \
              wins.",
        fix: "systemctl disable --now tuned",
        severity: Notice,
        judge: Judge::Host(|host| stopped(host, "tuned")),
    },
];

fn stopped(host: &HostFacts, service: &str) -> Verdict {
    match host.runs(service) {
        true => Fault::new(format!("{service} runs")).into(),
        false => Verdict::passed(format!("{service} does not run")),
    }
}
