//! Disks of a VM.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::VmFacts;
use crate::domain::guest::Disk;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "disk-format",
        required: "disks are not qcow2 files",
        why: "qcow2 looks up where each block is, and on ZFS or btrfs it copies on write twice. On LVM (PVE 9, \
              snapshot-as-volume-chain) it is passed: there are no snapshots without it.",
        fix: "qm disk move <vmid> DISK STORAGE --format raw (a raw file has no snapshots)",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            each(vm, |disk| match disk.format.as_deref() {
                Some("qcow2") if disk.is_file => Some(format!("{} is qcow2", disk.key)),
                _ => None,
            })
        }),
    },
    Check {
        id: "disk-cache",
        required: "disks are not cached twice",
        why: "With writeback the host caches what the guest caches too, and with unsafe a crash of the host loses \
              what the guest believes to be on the disk.",
        fix: "set cache to none (the default) in the hardware tab of the vm",
        severity: Notice,
        judge: Judge::Vm(cache),
    },
    Check {
        id: "iothread",
        required: "disks of a vm with cpus of its own have threads of their own",
        why: "Without iothread=1 all disks are served by QEMU's main thread, next to everything else that it \
              does.",
        fix: "qm set <vmid> --scsihw virtio-scsi-single, and tick iothread for each disk in the hardware tab of \
               the vm",
        severity: Notice,
        judge: Judge::Vm(iothreads),
    },
    Check {
        id: "scsi-controller",
        required: "iothread=1 has an effect",
        why: "A SCSI disk has a thread of its own only with a controller of its own.",
        fix: "qm set <vmid> --scsihw virtio-scsi-single",
        severity: Warning,
        judge: Judge::Vm(|vm, _| {
            let is_single = vm.guest.scsihw.as_deref() == Some("virtio-scsi-single");
            each(vm, |disk| {
                let is_vain = disk.iothread && disk.key.starts_with("scsi") && !is_single;
                is_vain.then(|| format!("{} has iothread=1 without virtio-scsi-single", disk.key))
            })
        }),
    },
    Check {
        id: "disk-aio",
        required: "aio=native goes with a cache mode that goes around the host's cache",
        why: "QEMU refuses aio=native with any other cache mode, and the VM does not start.",
        fix: "set cache to none, or async io to its default, in the hardware tab of the vm",
        severity: Failure,
        judge: Judge::Vm(|vm, _| {
            let disks = vm.guest.disks.iter();
            let native = disks.filter(|disk| disk.aio.as_deref() == Some("native"));
            let faults = native.filter_map(|disk| match disk.cache.as_deref() {
                Some(mode @ ("writeback" | "writethrough" | "unsafe")) => Some(Fault::new(
                    format!("{} has aio=native with cache={mode}", disk.key),
                )),
                _ => None,
            });
            Verdict::of(
                faults.collect(),
                "every iothread has a controller of its own",
            )
        }),
    },
    Check {
        id: "snapshots",
        required: "a vm with a storage controller of the host has no snapshots",
        why: "A snapshot has the VM's volumes and nothing of the disks behind the controller: after a rollback \
              they are of different times.",
        fix: "qm delsnapshot <vmid> NAME; take snapshots of those disks in the guest",
        severity: Notice,
        judge: Judge::Vm(|vm, _| match (&vm.controllers[..], &vm.snapshots[..]) {
            ([], _) => Verdict::passed("the vm has no such controller"),
            (_, []) => Verdict::passed("the vm has no snapshots"),
            ([first, ..], names) => Fault::new(format!(
                "snapshots {}, and controller {first}",
                names.join(", ")
            ))
            .into(),
        }),
    },
];

fn each(vm: &VmFacts, found: impl Fn(&Disk) -> Option<String>) -> Verdict {
    each_of(vm, |disk| found(disk).map(Fault::new))
}

fn each_of(vm: &VmFacts, fault: impl Fn(&Disk) -> Option<Fault>) -> Verdict {
    if vm.guest.disks.is_empty() {
        return Verdict::skipped("the vm has no disks");
    }
    let faults = vm.guest.disks.iter().filter_map(fault);
    Verdict::of(faults.collect(), "as required")
}

fn cache(vm: &VmFacts, _: &HostFacts) -> Verdict {
    each_of(vm, |disk| {
        let mode = disk.cache.as_deref()?;
        let fault = Fault::new(format!("{} has cache={mode}", disk.key));
        match mode {
            "writeback" => Some(fault),
            "unsafe" => Some(fault.with(Warning)),
            _ => None,
        }
    })
}

fn iothreads(vm: &VmFacts, _: &HostFacts) -> Verdict {
    if !vm.is_pinned() {
        return Verdict::skipped("the vm has no table");
    }
    each(vm, |disk| {
        let may_have = disk.key.starts_with("scsi") || disk.key.starts_with("virtio");
        (may_have && !disk.iothread).then(|| format!("{} has no iothread=1", disk.key))
    })
}
