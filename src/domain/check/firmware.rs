//! The guest's firmware: its variables, and the keys of Secure Boot.

use super::rule::Severity::Notice;
use super::rule::{Check, Fault, Judge, Verdict};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "efi-disk",
        required: "a vm with ovmf keeps the variables of its firmware",
        why: "Without an EFI disk the order of boot and the keys of Secure Boot are lost at each stop.",
        fix: "qm set <vmid> --efidisk0 STORAGE:1,efitype=4m,pre-enrolled-keys=1",
        severity: Notice,
        judge: Judge::Vm(|vm, _| match vm.guest.bios.as_deref() {
            Some("ovmf") => match vm.guest.efi_disk {
                Some(_) => Verdict::passed("on efidisk0"),
                None => Fault::new("it has bios: ovmf and no efidisk0").into(),
            },
            _ => Verdict::skipped("the firmware is not ovmf"),
        }),
    },
    Check {
        id: "secure-boot",
        required: "windows 11 has a tpm, and an efi disk with keys",
        why: "Windows 11 asks for both when it is installed and at larger updates. An EFI disk that was made \
              without pre-enrolled keys has Secure Boot off.",
        fix: "qm set <vmid> --tpmstate0 STORAGE:1,version=v2.0; for keys, enroll them in the firmware's menu, or \
               make the efi disk anew with pre-enrolled-keys=1",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            if vm.guest.ostype.as_deref() != Some("win11") {
                return Verdict::skipped("ostype: is not win11");
            }
            let mut faults = Vec::new();
            if vm.guest.tpm_state.is_none() {
                faults.push(Fault::new("it has no tpmstate0"));
            }
            let efi = vm.guest.efi_disk.as_ref();
            if efi.is_some_and(|disk| !disk.has_keys) {
                faults.push(Fault::new("efidisk0 has no pre-enrolled-keys=1"));
            }
            Verdict::of(faults, "the vm has a tpm, and an efi disk with keys")
        }),
    },
];
