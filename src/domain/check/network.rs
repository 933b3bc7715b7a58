//! Bridges and virtual functions of network devices.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::{Virtual, VmFacts};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "net-bridge",
        required: "bridges of network devices are there, with an mtu that is no smaller",
        why: "PVE refuses to start a VM whose bridge is missing, or whose device is to have a larger MTU than \
              its bridge.",
        fix: "ip link set BRIDGE mtu MTU (permanently: in /etc/network/interfaces, or in the zone of an sdn vnet), or mtu=1 in the hardware tab of \
               the vm: that of the bridge",
        severity: Failure,
        judge: Judge::Vm(bridges),
    },
    Check {
        id: "vf-at-boot",
        required: "virtual functions of a vm are made at boot",
        why: "The kernel forgets how many virtual functions there are to be. Nothing that is read at boot \
              mentions SR-IOV: after the next boot the VM's device is missing.",
        fix: "write a unit that runs before pve-guests.service and writes the number into \
               /sys/bus/pci/devices/ADDRESS/sriov_numvfs",
        severity: Notice,
        judge: Judge::Vm(|vm, host| {
            let Some(first) = vm.virtuals.first() else {
                return Verdict::passed("the vm has none");
            };
            let (address, physical) = (&first.address, &first.physical);
            match host.sets_virtuals {
                Some(false) => Fault::new(format!("{address} is one of {physical}")).into(),
                Some(true) => Verdict::passed("a file mentions sr-iov"),
                None => Verdict::skipped("there are no files to tell"),
            }
        }),
    },
    Check {
        id: "vf-bond",
        required: "no virtual function is of a port in a bond",
        why: "A bond moves the host's traffic to its other port when a link is lost. A virtual function stays at \
              its port, and with LACP the switch may send its packets to the other one.",
        fix: "take the port out of the bond, or give the vm a function of each port and bond them in the guest",
        severity: Notice,
        judge: Judge::Vm(|vm, _| {
            let faults = vm.virtuals.iter().filter_map(|one| {
                let (address, physical) = (&one.address, &one.physical);
                let bond = one.bond.as_ref()?;
                Some(Fault::new(format!(
                    "{address} is of {physical}, a member of {bond}"
                )))
            });
            Verdict::of(faults.collect(), "none is")
        }),
    },
    Check {
        id: "vf-mtu",
        required: "the port of a virtual function takes packets as large as its bridge does",
        why: "A virtual function cannot have a larger MTU than its port. Larger packets from VMs at the bridge \
              never reach the guest, and it cannot send any.",
        fix: "ip link set PORT mtu MTU (permanently: in /etc/network/interfaces)",
        severity: Notice,
        judge: Judge::Vm(|vm, host| {
            if vm.virtuals.is_empty() {
                return Verdict::passed("the vm has none");
            }
            let narrow = |one: &Virtual| {
                let (port, bridge) = (one.port.as_ref()?, one.bridge.as_ref()?);
                let (mtu, most) = (host.mtus.get(port)?, host.mtus.get(bridge)?);
                let found = format!(
                    "{} is of {port} with mtu {mtu}, {bridge} has {most}",
                    one.address
                );
                let fault = Fault::new(found).fixed_by(format!("ip link set {port} mtu {most}"));
                (mtu < most).then_some(fault)
            };
            Verdict::of(vm.virtuals.iter().filter_map(narrow).collect(), "it does")
        }),
    },
];

fn bridges(vm: &VmFacts, host: &HostFacts) -> Verdict {
    if host.mtus.is_empty() {
        return Verdict::skipped("there is no /sys/class/net to tell");
    }
    let faults = vm.guest.nets.iter().filter_map(|net| {
        let (key, bridge) = (&net.key, net.bridge.as_ref()?);
        let Some(most) = host.mtus.get(bridge) else {
            let fix = "ifreload -a, or choose another bridge in the hardware tab of the vm";
            return Some(
                Fault::new(format!("{key} is at {bridge}, which is missing")).fixed_by(fix),
            );
        };
        let mtu = net.mtu.filter(|mtu| mtu > most)?;
        let fault = Fault::new(format!("{key} has mtu={mtu}, {bridge} {most}"));
        Some(fault.fixed_by(format!("ip link set {bridge} mtu {mtu}")))
    });
    Verdict::of(faults.collect(), "they are")
}
