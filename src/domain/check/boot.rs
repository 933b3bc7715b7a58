//! What is decided when the host boots: the initramfs, and the version of PVE.

use super::host_facts::{HostFacts, QemuServer};
use super::rule::Severity::Notice;
use super::rule::{Check, Fault, Judge, Verdict};

/// Version of qemu-server since which a stop itself calls post-stop.
const CALLS_AT_STOP: [u32; 3] = [9, 1, 13];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "initramfs",
        required: "files of modprobe about vfio are in the initramfs that the host was booted with",
        why: "Drivers are loaded from the initramfs first, by the files that were there when it was made.",
        fix: "update-initramfs -u -k all, then reboot",
        severity: Notice,
        judge: Judge::Host(initramfs),
    },
    Check {
        id: "post-stop",
        required: "pve calls post-stop as a part of each stop",
        why: "Before qemu-server 9.1.13 PVE calls post-stop afterwards, in a program of its own that may miss \
              it. pin-hook's timer restores the host within 15 s then.",
        fix: "apt full-upgrade to the newest pve 9, then reboot",
        severity: Notice,
        judge: Judge::Host(|host| {
            match &host.qemu_server {
            None => Verdict::skipped("dpkg does not know qemu-server"),
            Some(one) if one.is_held_back => Fault::new(format!(
                "qemu-server {} was installed since the boot: post-stop comes as before until the next one",
                one.version
            ))
            .fixed_by("reboot the host")
            .into(),
            Some(one) if one.calls_at_stop() => Verdict::passed(format!("qemu-server {}", one.version)),
            Some(one) => Fault::new(format!("qemu-server {}", one.version)).into(),
        }
        }),
    },
];

impl QemuServer {
    fn calls_at_stop(&self) -> bool {
        let numbers = self.version.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u32> = numbers.map_while(|word| word.parse().ok()).collect();
        numbers.as_slice() >= CALLS_AT_STOP.as_slice()
    }
}

fn initramfs(host: &HostFacts) -> Verdict {
    let Some(facts) = &host.initramfs else {
        return Verdict::skipped("no file of modprobe names vfio, or there is no initramfs");
    };
    let newer_than = |time: u64| {
        let files = facts.files.iter().filter(|(_, written)| *written > time);
        let names: Vec<&str> = files.map(|(path, _)| path.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let path = &facts.path;
    if let Some(names) = newer_than(facts.made) {
        return Fault::new(format!("{names} changed after {path} was made")).into();
    }
    // It was made in time, and not booted since.
    match newer_than(facts.booted) {
        Some(names) => Fault::new(format!("{names} changed since the boot"))
            .fixed_by("reboot the host")
            .into(),
        None => Verdict::passed(format!("they are in {path}")),
    }
}
