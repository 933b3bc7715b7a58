//! Whether a VM would start with CPUs of its own, as far as its table and the host go.

use super::host_facts::{HostFacts, IdleState};
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::VmFacts;
use crate::domain::words::few;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "table",
        required: "the vm has a table that can be used",
        why: "Without a table pin-hook leaves a VM alone. A table with a mistake refuses its start.",
        fix: "pin-hook init <vmid> --write",
        severity: Failure,
        judge: Judge::Vm(table),
    },
    Check {
        id: "hookscript",
        required: "pve calls pin-hook for the vm",
        why: "A table has no effect unless the VM's hookscript is pin-hook's, and a VM whose hookscript cannot \
              be executed does not start at all.",
        fix: "pin-hook enable <vmid>",
        severity: Warning,
        judge: Judge::Vm(hookscript),
    },
    Check {
        id: "start",
        required: "a start of the vm would be granted",
        why: "A start that is refused leaves the VM off, or without CPUs of its own (on-refusal).",
        fix: "pin-hook plan <vmid> shows what is in the way",
        severity: Failure,
        judge: Judge::Vm(
            |vm, _| match (&vm.refusal, vm.is_pinned() && vm.table_fault.is_none()) {
                (Some(refusal), _) => Fault::new(&refusal.fact).fixed_by(&refusal.help).into(),
                (None, true) if vm.is_hindered() => {
                    Verdict::skipped("another check says what is in the way")
                }
                (None, true) => Verdict::passed("it would"),
                (None, false) => Verdict::skipped("there is no table to go by"),
            },
        ),
    },
    Check {
        id: "placement",
        required: "the cpus of the table are a good choice",
        why: "Which CPUs share a core, a cache and memory decides how fast a VM is on them.",
        fix: "pin-hook init <vmid> proposes cpus, and qm set lines that tell the guest of them; pin-hook plan <vmid> \
              shows what they share",
        severity: Warning,
        judge: Judge::Vm(|vm, _| match vm.is_pinned() {
            true => Verdict::of(vm.warnings.iter().map(Fault::new).collect(), "they are"),
            false => Verdict::skipped("there is no table to go by"),
        }),
    },
    Check {
        id: "idle-latency",
        required: "a table that asks for low latency limits idle states too",
        why: "A CPU that is deep asleep takes as long to wake up as everything else that was tuned away, and the \
              governor of idle states does not know that somebody waits.",
        fix: "max-idle-latency = \"10us\" below [power] in the table of the vm",
        severity: Notice,
        judge: Judge::Vm(idle),
    },
    Check {
        id: "affinity",
        required: "pve's own affinity: is not set beside a table",
        why: "PVE starts QEMU on these CPUs, and pin-hook moves its threads to those of the table: one of the \
              two is not what you mean.",
        fix: "qm set <vmid> --delete affinity",
        severity: Notice,
        judge: Judge::Vm(|vm, _| match (&vm.guest.affinity, vm.is_pinned()) {
            (Some(cpus), true) => Fault::new(format!("affinity: {cpus}")).into(),
            (Some(_), false) => Verdict::skipped("the vm has no table"),
            (None, _) => Verdict::passed("it is not"),
        }),
    },
    Check {
        id: "ha",
        required: "ha can run the vm as well on every other node",
        why: "HA may start the VM on another node, where it has the CPUs of that node's table, or none.",
        fix: "put the table into /etc/pve/pin-hook, with a section [node.NAME] for each node whose cpus differ",
        severity: Notice,
        judge: Judge::Vm(ha),
    },
];

/// Microseconds that waking up may take before anybody notices.
const UNNOTICED: u64 = 20;

fn idle(vm: &VmFacts, host: &HostFacts) -> Verdict {
    let Some(deepest) = &host.deepest_idle else {
        return Verdict::skipped("the kernel does not choose idle states here");
    };
    let IdleState { name, latency } = deepest;
    match vm.asks_without_idle {
        Some(key) if *latency > UNNOTICED => Fault::new(format!(
            "{key} is set, and cpus may enter {name} ({latency} us to wake up)"
        ))
        .into(),
        _ => Verdict::passed("it does, or does not ask for it"),
    }
}

fn table(vm: &VmFacts, _: &HostFacts) -> Verdict {
    match (&vm.table_fault, &vm.table) {
        (Some(fault), _) => Fault::new(&fault.fact).fixed_by(&fault.help).into(),
        (None, Some(path)) => Verdict::passed(path),
        (None, None) => Fault::new("it has no table").with(Notice).into(),
    }
}

fn hookscript(vm: &VmFacts, _: &HostFacts) -> Verdict {
    match (&vm.hook_fault, vm.guest.is_hooked(), vm.is_pinned()) {
        (Some(fault), true, _) => Fault::new(&fault.fact)
            .fixed_by(&fault.help)
            .with(Failure)
            .into(),
        (None, true, _) => Verdict::passed(vm.guest.hookscript.clone().unwrap_or_default()),
        (_, false, true) => {
            let found = vm.guest.hookscript.as_ref();
            let found = found.map_or("none".to_owned(), |volume| volume.clone());
            Fault::new(format!("its hookscript is {found}")).into()
        }
        (_, false, false) => Verdict::skipped("the vm has no table"),
    }
}

fn ha(vm: &VmFacts, _: &HostFacts) -> Verdict {
    let Some(path) = vm.table.as_ref().filter(|_| vm.is_ha) else {
        return Verdict::skipped("ha does not look after the vm, or it has no table");
    };
    match path.starts_with("/etc/pve/") || vm.ha_nodes.is_empty() {
        true => Verdict::passed(path),
        false => {
            let nodes = few(&vm.ha_nodes);
            Fault::new(format!(
                "its table is on this node only, ha may use {nodes}"
            ))
            .into()
        }
    }
}
