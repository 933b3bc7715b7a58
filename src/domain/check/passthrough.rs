//! What passing devices through needs of the host.

use super::host_facts::{HostFacts, Vendor};
use super::rule::Severity::{Failure, Warning};
use super::rule::{Check, Fault, Judge, Verdict};

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
            None => Verdict::passed("they are"),
        }),
    },
];

/// An IOMMU that is on has groups. Intel's is off by default where the kernel was built like that; AMD's is
/// on wherever the firmware shows it.
fn iommu(host: &HostFacts) -> Verdict {
    let Some(first) = host.with_devices().next() else {
        return Verdict::skipped("no vm has devices of the host");
    };
    match host.n_iommu_groups {
        Some(0) => {}
        Some(n) => return Verdict::passed(format!("on, with {n} groups")),
        None => return Verdict::skipped("there is no /sys/kernel/iommu_groups to tell"),
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
