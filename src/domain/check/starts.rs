//! Whether a VM would start with CPUs of its own, as far as its table and the host go.

use super::host_facts::{HostFacts, IdleState};
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::{Owning, VmFacts};
use crate::domain::advice::Advised;
use crate::domain::overlap::Overlap;
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
                (None, true) => Verdict::passed("a start would be granted"),
                (None, false) => Verdict::skipped("there is no table to go by"),
            },
        ),
    },
    Check {
        id: "in-force",
        required: "what a vm is to own is in force, and looked after",
        why: "A value that somebody else has changed is set again within 15 s, and a VM that has crashed is cleaned up \
              after, but not while the units are stopped.",
        fix: "pin-hook status <vmid> shows what differs",
        severity: Failure,
        judge: Judge::Vm(|vm, _| match &vm.owning {
            Owning::Nothing => Verdict::skipped("the vm owns no cpus now"),
            Owning::Hidden => Fault::new("only root can see what it owns")
                .with(Warning)
                .fixed_by("run it as root")
                .into(),
            Owning::InForce => Verdict::passed("everything is in force"),
            Owning::Amiss(Advised { fact, help }) => Fault::new(fact).fixed_by(help).into(),
        }),
    },
    Check {
        id: "placement",
        required: "the cpus of the table are a good choice",
        why: "Which CPUs share a core, a cache and memory decides how fast a VM is on them.",
        fix: "pin-hook plan <vmid> shows what they share, and whether better ones are free; pin-hook init <vmid> \
              proposes cpus",
        severity: Warning,
        judge: Judge::Vm(placement),
    },
    Check {
        id: "guest-smt",
        required: "the guest knows which of its vcpus share a core",
        why: "A guest that takes each thread for a core puts two busy tasks on one core while another is idle. \
              It is told by -smp in args; on AMD's processors it also needs the flag topoext, which QEMU leaves \
              out of every cpu type but AMD's own.",
        fix: "tell it by args, as pin-hook init <vmid> proposes",
        severity: Warning,
        judge: Judge::Vm(|vm, _| match &vm.guest_smt {
            _ if !vm.is_pinned() => Verdict::skipped("there is no table to go by"),
            Some(advice) => Fault::new(&advice.fact).fixed_by(&advice.help).into(),
            None => Verdict::passed("the guest knows, or no vcpus share a core"),
        }),
    },
    Check {
        id: "overlap",
        required: "no other table names the cpus of the table",
        why: "CPUs belong to one VM: while one of the two runs, a start of the other is refused.",
        fix: "pin-hook init <vmid> proposes other cpus",
        severity: Warning,
        judge: Judge::Vm(overlap),
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
            (None, _) => Verdict::passed("affinity: is not set"),
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

fn placement(vm: &VmFacts, _: &HostFacts) -> Verdict {
    if !vm.is_pinned() {
        return Verdict::skipped("there is no table to go by");
    }
    let doubt = |text| match &vm.better {
        Some(better) => Fault::new(text).fixed_by(better),
        None => Fault::new(text)
            .with(Notice)
            .fixed_by("no better cpus are free: other tables, the reserve or memory leave none"),
    };
    let doubts = vm.doubts.iter().map(doubt);
    // What these are about is in the table, and other CPUs may change nothing about it.
    let mend = |path| {
        format!(
            "change that in {path}; pin-hook plan {} shows what comes of it",
            vm.vmid
        )
    };
    let warnings = vm.warnings.iter().map(|text| match &vm.table {
        Some(path) => Fault::new(text).fixed_by(mend(path)),
        None => Fault::new(text),
    });
    Verdict::of(doubts.chain(warnings).collect(), "no better cpus are known")
}

/// CPUs of a VM that makes room are no matter, and one that is in the way now is told by another check.
fn overlap(vm: &VmFacts, host: &HostFacts) -> Verdict {
    let own = host.guests.iter().find(|one| one.vmid == vm.vmid);
    let Some(own) = own.filter(|own| !own.cpus.is_empty()) else {
        return Verdict::skipped("there is no table that names cpus");
    };
    let others = host.guests.iter().filter(|one| one.vmid != vm.vmid);
    let overlaps = others.filter_map(|other| Overlap::of(own.named(), other.named()));
    let is_told = |other| vm.refused_for == Some(other);
    let overlaps = overlaps.filter(|one| one.yields.is_none() && !is_told(one.other(vm.vmid)));
    let faults = overlaps.map(|one| {
        let (vmid, other) = (vm.vmid, one.other(vm.vmid));
        Fault::new(one.to_string()).fixed_by(format!(
            "pin-hook init {vmid} proposes other cpus, if enough are left; or yield.stop = [{other}] in \
             the table has a start shut vm {other} down first"
        ))
    });
    Verdict::of(faults.collect(), "no other table names them")
}

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
        _ => Verdict::passed("idle states are limited, or low latency is not asked for"),
    }
}

fn table(vm: &VmFacts, _: &HostFacts) -> Verdict {
    match (&vm.table_fault, &vm.table) {
        (Some(fault), _) => Fault::new(&fault.fact).fixed_by(&fault.help).into(),
        (None, Some(path)) => match &vm.hidden_table {
            Some(hidden) => Fault::new(format!("{path} is read, {hidden} is not"))
                .with(Notice)
                .fixed_by(format!(
                    "nothing, if this node is to differ; else: rm {path}"
                ))
                .into(),
            None => Verdict::passed(path),
        },
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
