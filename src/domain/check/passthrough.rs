//! What passing devices through needs of the host.

use std::collections::BTreeMap;

use super::host_facts::{HostFacts, Vendor};
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::pci::is_address;
use crate::domain::words::count;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "iommu",
        required: "the iommu is on, if a vm has devices of the host",
        why: "Without it QEMU cannot give a device to a VM, and the VM does not start.",
        fix: "switch on vt-d or amd-vi in the firmware",
        severity: Failure,
        judge: Judge::Host(iommu),
    },
    Check {
        id: "acs-override",
        required: "groups of the iommu are those of the hardware",
        why: "pcie_acs_override= splits groups that the hardware does not keep apart: devices of two VMs, or of \
              a VM and the host, can then write to each other without anybody noticing.",
        fix: "put the device into another slot instead, and remove pcie_acs_override= from the kernel's \
               command line",
        severity: Warning,
        judge: Judge::Host(|host| match host.parameter("pcie_acs_override") {
            Some(value) => Fault::new(format!("pcie_acs_override={value} splits them")).into(),
            None => Verdict::passed("pcie_acs_override= is not set"),
        }),
    },
    Check {
        id: "iommu-faults",
        required: "no device does what the iommu forbids",
        why: "A device that reads or writes memory that is not its VM's is stopped by the IOMMU: data is lost, \
              and the device or its driver may hang. Some firmware causes a few of them at boot.",
        fix: "journalctl -k --grep 'DMAR|AMD-Vi' shows them; update the firmware of the board and of the device, \
               and its driver in the guest",
        severity: Notice,
        judge: Judge::Host(iommu_faults),
    },
];

/// Counts by device: the kernel leaves out messages that come too fast.
fn iommu_faults(host: &HostFacts) -> Verdict {
    let Some(messages) = &host.iommu_messages else {
        return Verdict::skipped("the log of the kernel cannot be read");
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for device in messages.iter().filter_map(|text| faulting(text)) {
        *counts.entry(device).or_default() += 1;
    }
    let faults = counts.into_iter().map(|(device, n)| {
        let found = format!("{device}: at least {}", count(n, "time"));
        let mut passed = host.passed.iter();
        match passed.find(|(id, _)| device.starts_with(id.as_str())) {
            Some((_, vmid)) => Fault::new(format!("{found}, a device of vm {vmid}")).with(Warning),
            None => Fault::new(found),
        }
    });
    Verdict::of(faults.collect(), "no iommu fault since the boot")
}

/// Returns the device that a message of the kernel's IOMMU driver accuses (`dmar_fault_do_one()`,
/// `amd_iommu_report_page_fault()`).
fn faulting(message: &str) -> Option<String> {
    let intels = || message.split_once("Request device [")?.1.split(']').next();
    let amds = || {
        let (before, event) = message.split_once("AMD-Vi: Event logged [")?;
        let named = event.split_once("device=");
        let named = named.and_then(|(_, rest)| rest.split([' ', ',', ']']).next());
        named.or_else(|| before.trim_end_matches([' ', ':']).rsplit(' ').next())
    };
    let device = match message.contains("DMAR") {
        true => intels()?,
        false => amds()?,
    };
    let address = match device.matches(':').count() {
        1 => format!("0000:{device}"),
        _ => device.to_owned(),
    };
    is_address(&address).then_some(address)
}

/// An IOMMU that is on has groups. Intel's is off by default where the kernel was built like that; AMD's is
/// on wherever the firmware shows it.
fn iommu(host: &HostFacts) -> Verdict {
    let Some(first) = host.with_devices().next() else {
        return Verdict::skipped("no vm has devices of the host");
    };
    match host.n_iommu_groups {
        Some(0) => {}
        Some(n) => return Verdict::passed(format!("on, with {n} groups")),
        None => return Verdict::skipped("/sys/kernel/iommu_groups cannot be read"),
    }
    let fault = Fault::new(format!(
        "off, and vm {} has devices of the host",
        first.vmid
    ));
    let is_asked_for = host.parameter("intel_iommu") == Some("on");
    let is_off = |name| host.parameter(name) == Some("off");
    match host.vendor {
        _ if is_off("intel_iommu") || is_off("amd_iommu") || is_off("iommu") => fault
            .fixed_by("remove iommu=off from the kernel's command line, then reboot")
            .into(),
        Vendor::Intel if !is_asked_for => fault
            .fixed_by(
                "add intel_iommu=on to the kernel's command line and reboot; if that does not help, \
                 switch on vt-d in the firmware",
            )
            .into(),
        Vendor::Amd => fault.fixed_by("switch on iommu (amd-vi) in the firmware").into(),
        Vendor::Intel => fault.fixed_by("switch on vt-d in the firmware").into(),
        Vendor::Other => fault.into(),
    }
}
