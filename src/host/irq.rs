//! `/proc/irq`: which interrupts there are and which CPUs may serve them.
//!
//! Reads only; `smp_affinity_list` is written as a knob. The *requested* affinity is read, not
//! the effective one, because that is what is given back.

use std::collections::BTreeMap;
use std::io;

use anyhow::Context;

use super::files::Files;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::facts::Irq;
use crate::domain::target::{Target, Value};

const IRQ_DIR: &str = "/proc/irq";
const NODE_DIR: &str = "/sys/devices/system/node";

/// Files in an interrupt's directory; every other entry is named after a handler.
const FILES: [&str; 7] = [
    "affinity_hint",
    "effective_affinity",
    "effective_affinity_list",
    "node",
    "smp_affinity",
    "smp_affinity_list",
    "spurious",
];

/// Returns the CPUs that interrupts are given when they are set up.
pub fn default_affinity(files: &dyn Files) -> anyhow::Result<CpuSet> {
    let value = read_mask(files, &Target::default_irqs());
    value.with_context(|| format!("failed to read {IRQ_DIR}/default_smp_affinity"))
}

/// Returns every interrupt; those that vanish meanwhile are left out. One that was there `before`, for the same
/// devices, is near the same node.
pub fn interrupts(files: &dyn Files, before: &[Irq]) -> anyhow::Result<Vec<Irq>> {
    let names = files
        .list(IRQ_DIR)
        .with_context(|| format!("failed to list {IRQ_DIR}"))?;
    let numbers = names.iter().filter_map(|name| name.parse().ok());
    let mut irqs: Vec<Irq> = numbers
        .filter_map(|n| read_irq(files, n, before).ok())
        .collect();
    irqs.sort_unstable_by_key(|irq| irq.number);
    Ok(irqs)
}

/// Returns the CPUs that an interrupt is really delivered to, where the kernel tells.
pub fn delivered_to(files: &dyn Files, number: u32) -> Option<CpuSet> {
    let path = format!("{IRQ_DIR}/{number}/effective_affinity_list");
    files.read(&path).ok()?.parse().ok()
}

/// Tells whether the kernel lets nobody move an interrupt, as far as its file shows that: since
/// Linux 6.11 it cannot be written then.
pub fn is_fixed(files: &dyn Files, number: u32) -> bool {
    let owner = files.owner(&format!("{IRQ_DIR}/{number}/smp_affinity_list"));
    owner.is_ok_and(|owner| owner.mode & 0o222 == 0)
}

/// Returns the online CPUs of every NUMA node, by its number.
pub fn nodes(files: &dyn Files) -> BTreeMap<u32, CpuSet> {
    let cpus = |n: u32| {
        let cpus = files.read(&format!("{NODE_DIR}/node{n}/cpulist")).ok()?;
        Some((n, cpus.parse().ok()?))
    };
    numbered(files, NODE_DIR, "node").filter_map(cpus).collect()
}

/// Returns all CPUs of every NUMA node: the links to those that are offline stay.
pub fn whole_nodes(files: &dyn Files) -> BTreeMap<u32, CpuSet> {
    let cpus = |n: u32| {
        let cpus = numbered(files, &format!("{NODE_DIR}/node{n}"), "cpu");
        (n, cpus.map(CpuId).collect())
    };
    numbered(files, NODE_DIR, "node").map(cpus).collect()
}

/// Returns the numbers of those in a directory that are called `start` and a number.
fn numbered(files: &dyn Files, dir: &str, start: &str) -> std::vec::IntoIter<u32> {
    let names = files.list(dir).unwrap_or_default();
    let numbers = names
        .iter()
        .filter_map(|name| name.strip_prefix(start)?.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    numbers.into_iter()
}

/// Tells of an interrupt that nobody can move whether it is a managed one, for which the kernel has
/// chosen the CPUs. No file outside of debugfs says so (`IRQD_AFFINITY_MANAGED`). On x86 those that refuse are
/// managed or not to be balanced (`IRQF_NOBALANCING`: timer, IOMMU), and what a PCI device raises by message is the
/// first.
pub fn is_managed(files: &dyn Files, number: u32) -> bool {
    let chip = files.read(&format!("/sys/kernel/irq/{number}/chip_name"));
    // "PCI-MSI", "PCI-MSIX-0000:01:00.0", with interrupt remapping "IR-" before it.
    chip.is_ok_and(|name| name.contains("PCI-MSI"))
}

/// Tells whether an interrupt is still that of the same device: its number is given to another one as soon as
/// it is free.
///
/// # Errors
/// Its directory cannot be listed, also when there is no such interrupt any more.
pub fn is_of(files: &dyn Files, number: u32, actions: &str) -> io::Result<bool> {
    Ok(actions_of(files, number)? == actions)
}

fn actions_of(files: &dyn Files, number: u32) -> io::Result<String> {
    let mut actions = files.list(&format!("{IRQ_DIR}/{number}"))?;
    actions.retain(|name| !FILES.contains(&name.as_str()));
    Ok(actions.join(" "))
}

fn read_irq(files: &dyn Files, number: u32, before: &[Irq]) -> io::Result<Irq> {
    let actions = actions_of(files, number)?;
    let affinity = read_mask(files, &Target::irq(number, ""))?;
    let node = match Irq::find(before, number, &actions) {
        Some(irq) => irq.node,
        None => {
            // The kernel prints -1 where it knows no node.
            let node = files.read(&format!("{IRQ_DIR}/{number}/node")).ok();
            node.and_then(|node| node.trim().parse().ok())
        }
    };
    Ok(Irq {
        number,
        actions,
        affinity,
        node,
    })
}

fn read_mask(files: &dyn Files, target: &Target) -> io::Result<CpuSet> {
    let text = files.read(&target.path())?;
    let value = target.row().map(|row| Value::parse(row.grammar, &text));
    match value {
        Some(Value::Cpus(cpus)) => Ok(cpus),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
