//! `status --prometheus`: numbers for the text file collector of the node exporter
//! (`--collector.textfile.directory`), in Prometheus' text format.
//!
//! Names and labels are an interface: docs/metrics.md has them.

use std::fmt::Write;

use crate::domain::cpuset::CpuSet;
use crate::lifecycle::show::status::{ClaimStatus, Status};

/// Returns the numbers of a status.
pub fn of_status(status: &Status) -> String {
    let mut text = String::new();
    for (name, help, value) in of_host(status) {
        metric(&mut text, name, help, &[(String::new(), value)]);
    }
    of_claims(&mut text, &status.claims);
    text
}

#[rustfmt::skip]
fn of_host(status: &Status) -> Vec<(&'static str, &'static str, usize)> {
    let (interrupts, left) = (&status.interrupts, status.root_effective.iter());
    let numbers = [
        ("ok", "1 while everything is as it should be", usize::from(status.ok)),
        ("drifted", "values that somebody else has changed", status.drift.len()),
        ("refused", "values that the kernel did not accept", status.refused.len()),
        ("pending", "writes that the next reconcile will make", status.pending),
        ("unwatched_units", "reconcile units that should be active and are not", status.unwatched.len()),
        ("forgotten_cgroups", "cgroups that take cpus and belong to no known vm", status.forgotten.len()),
        ("unowned_vms", "vms with a table that run without cpus of their own", status.unowned.len()),
        ("due_vms", "vms that made room and are to be started again", status.debts.len()),
        ("interrupts_moved", "interrupts that were moved off cpus of vms", interrupts.moved),
        ("interrupts_stuck", "interrupts that cannot be moved off them", interrupts.unchangeable),
    ];
    let left = left.map(|cpus| ("host_cpus", "cpus that are left to the host", cpus.len()));
    numbers.into_iter().chain(left).collect()
}

fn of_claims(text: &mut String, claims: &[ClaimStatus]) {
    let mut each = |name, help, value: &dyn Fn(&ClaimStatus) -> usize| {
        let labelled = |claim: &ClaimStatus| {
            let (vmid, state) = (claim.vmid, &claim.state);
            let backend = claim.backend;
            let labels = format!("{{vmid=\"{vmid}\",state=\"{state}\",backend=\"{backend}\"}}");
            (labels, value(claim))
        };
        let values: Vec<(String, usize)> = claims.iter().map(labelled).collect();
        metric(text, name, help, &values);
    };
    each(
        "vm_ok",
        "1 while the vm has what it should have",
        &|claim| usize::from(claim.is_ok()),
    );
    each("vm_cpus", "cpus that the vm owns", &|claim| {
        claim.cpus.len()
    });
    each(
        "vm_offline_cpus",
        "cpus of the vm that somebody has taken offline",
        &|claim| CpuSet::len(&claim.offline),
    );
    each(
        "vm_isolation",
        "how much of them is its own, from 0 to 5",
        &|claim| claim.level.as_ref().map_or(0, |level| level.number.into()),
    );
    each(
        "vm_threads_misplaced",
        "threads of the vm that are not where they should be",
        &|claim| claim.threads.iter().filter(|thread| !thread.ok).count(),
    );
}

/// Adds a gauge with its values by their labels; nothing for one without values.
fn metric(text: &mut String, name: &str, help: &str, values: &[(String, usize)]) {
    if values.is_empty() {
        return;
    }
    let name = format!("pin_hook_{name}");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
