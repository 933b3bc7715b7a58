//! The VM's own config: what PVE's defaults, made for guests that move between hosts, cost one that does
//! not.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::VmFacts;
use crate::domain::guest::HostPci;

/// Flags that `cpu: host` has anyway, where the processor has them.
const CPU_HAS: [&str; 4] = ["aes", "avx", "avx2", "x2apic"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kvm",
        required: "the hardware runs the guest",
        why: "With kvm: 0 QEMU emulates every instruction.",
        fix: "qm set <vmid> --kvm 1",
        severity: Warning,
        judge: Judge::Vm(|vm, _| match vm.guest.kvm {
            true => Verdict::passed("kvm is on"),
            false => Fault::new("kvm: 0").into(),
        }),
    },
    Check {
        id: "cpu-type",
        required: "a vm with cpus of its own sees the processor as it is (cpu: host)",
        why: "Other types hide instructions that the guest could use. They are for VMs that migrate between \
              different processors while they run, which one with passed-through devices cannot do.",
        fix: "qm set <vmid> --cpu host",
        severity: Notice,
        judge: Judge::Vm(|vm, _| match vm.guest.cpu_type.as_deref() {
            _ if !vm.is_pinned() => Verdict::skipped("the vm has no table"),
            Some("host") => Verdict::passed("cpu: host"),
            other => Fault::new(format!("cpu: {}", other.unwrap_or("pve's default"))).into(),
        }),
    },
    Check {
        id: "cpu-flags",
        required: "no cpu flags are forced that cpu: host has by itself",
        why: "They add nothing, and a start fails on a processor without them.",
        fix: "qm set <vmid> --cpu host",
        severity: Notice,
        judge: Judge::Vm(cpu_flags),
    },
    Check {
        id: "cpu-limit",
        required: "a vm with cpus of its own has no cpulimit",
        why: "The kernel stops its threads for the rest of each period once the limit is used up, on CPUs that \
              nobody else may use.",
        fix: "qm set <vmid> --delete cpulimit",
        severity: Warning,
        judge: Judge::Vm(|vm, _| match vm.guest.cpu_limit {
            _ if !vm.is_pinned() => Verdict::skipped("the vm has no table"),
            Some(limit) if limit < f64::from(vm.guest.n_vcpus) => Fault::new(format!(
                "cpulimit: {limit}, with {} vcpus",
                vm.guest.n_vcpus
            ))
            .into(),
            _ => Verdict::passed("no cpulimit below the number of vcpus"),
        }),
    },
    Check {
        id: "balloon",
        required: "memory of a vm with passed-through devices does not balloon",
        why: "A device may write to any page of the guest, so all of them are there from the start: the \
              balloon frees nothing, and some devices fault on pages that it took.",
        fix: "qm set <vmid> --balloon 0",
        severity: Warning,
        judge: Judge::Vm(|vm, _| match vm.guest.balloon_mib {
            _ if vm.guest.hostpci.is_empty() => {
                Verdict::skipped("the vm has no devices of the host")
            }
            Some(mib) if mib > 0 && mib < vm.guest.memory_mib => {
                let memory = vm.guest.memory_mib;
                Fault::new(format!("balloon: {mib}, with memory: {memory}")).into()
            }
            _ => Verdict::passed("memory does not balloon"),
        }),
    },
    Check {
        id: "machine",
        required: "a vm with pci express devices is a q35 machine",
        why: "PVE refuses to start another one with pcie=1.",
        fix: "qm set <vmid> --machine q35",
        severity: Failure,
        judge: Judge::Vm(|vm, _| {
            let is_q35 = vm
                .guest
                .machine
                .as_ref()
                .is_some_and(|name| name.contains("q35"));
            let mut express = vm.guest.hostpci.iter().filter(|device| device.pcie);
            match express.next() {
                None => Verdict::skipped("the vm has no such devices"),
                Some(_) if is_q35 => Verdict::passed("q35"),
                Some(device) => {
                    let machine = vm
                        .guest
                        .machine
                        .as_deref()
                        .unwrap_or("i440fx, pve's default");
                    Fault::new(format!(
                        "{} has pcie=1, the machine is {machine}",
                        device.key
                    ))
                    .into()
                }
            }
        }),
    },
    Check {
        id: "firmware",
        required: "a vm whose only display is a passed-through gpu boots with ovmf",
        why: "Most GPUs of today have firmware for UEFI alone: with SeaBIOS the screen stays dark until the \
              guest's driver is loaded.",
        fix: "qm set <vmid> --bios ovmf --efidisk0 STORAGE:1,efitype=4m (a guest that was installed with seabios does not \
               boot with it)",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            let display: Option<&HostPci> = vm.guest.hostpci.iter().find(|device| device.x_vga);
            match (display, vm.guest.bios.as_deref()) {
                (None, _) => Verdict::skipped("the vm has no display of its own (x-vga)"),
                (Some(_), Some("ovmf")) => Verdict::passed("bios: ovmf"),
                (Some(device), _) => Fault::new(format!(
                    "{} has x-vga=1, the firmware is seabios",
                    device.key
                ))
                .into(),
            }
        }),
    },
    Check {
        id: "device",
        required: "pve can pass every device of the vm through, and nothing of the host goes with it",
        why: "A device that is missing, shares its IOMMU group with one of the host, or is used by the host \
              keeps the VM from starting, or takes something away from the host.",
        fix: "pin-hook plan <vmid> shows what is in the way",
        severity: Warning,
        judge: Judge::Vm(devices),
    },
    Check {
        id: "net-model",
        required: "network devices are virtio",
        why: "QEMU emulates other cards register by register, in the thread of a vcpu. virtio has threads of its \
              own, which a table can place.",
        fix: "change the model to virtio in the hardware tab of the vm (the guest needs the driver)",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            let others = vm.guest.nets.iter().filter(|net| net.model != "virtio");
            let faults = others.map(|net| Fault::new(format!("{} is {}", net.key, net.model)));
            Verdict::of(faults.collect(), "no network device of another model")
        }),
    },
    Check {
        id: "net-queues",
        required: "network devices have no more queues than the vm has vcpus",
        why: "More queues than vCPUs are never used, and each has a thread on the host.",
        fix: "set queues to the number of vcpus, in the hardware tab of the vm",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            let n_vcpus = vm.guest.n_vcpus;
            let many = vm.guest.nets.iter().filter(|net| net.queues > n_vcpus);
            let text =
                |queues, key: &str| format!("{key} has {queues} queues, the vm {n_vcpus} vcpus");
            let faults = many.map(|net| Fault::new(text(net.queues, &net.key)));
            Verdict::of(
                faults.collect(),
                "no network device has more queues than vcpus",
            )
        }),
    },
];

fn cpu_flags(vm: &VmFacts, _: &HostFacts) -> Verdict {
    if vm.guest.cpu_type.as_deref() != Some("host") {
        return Verdict::skipped("cpu: is not host");
    }
    let forced = vm.guest.cpu_flags.iter();
    let forced = forced.filter(|flag| {
        flag.strip_prefix('+')
            .is_some_and(|flag| CPU_HAS.contains(&flag))
    });
    let forced: Vec<&str> = forced.map(String::as_str).collect();
    match forced.is_empty() {
        true => Verdict::passed("no flags beside cpu: host"),
        false => Fault::new(format!("flags={}", forced.join(";"))).into(),
    }
}

fn devices(vm: &VmFacts, _: &HostFacts) -> Verdict {
    if vm.guest.hostpci.is_empty() {
        return Verdict::skipped("the vm has no devices of the host");
    }
    let faults = vm.device_faults.iter();
    let faults = faults.map(|one| Fault::new(&one.fact).fixed_by(&one.help).with(Failure));
    let warnings = vm.devices.iter().map(Fault::new);
    Verdict::of(
        faults.chain(warnings).collect(),
        "pve can pass every device",
    )
}
