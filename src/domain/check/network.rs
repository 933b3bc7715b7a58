//! Bridges and virtual functions of network devices.

use super::host_facts::HostFacts;
use super::rule::Severity::{Failure, Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::{Representor, Virtual, VmFacts};

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
                return Verdict::passed("the vm has no virtual functions");
            };
            let (address, physical) = (&first.address, &first.physical);
            match host.sets_virtuals {
                Some(false) => {
                    Fault::new(format!("{address} is a virtual function of {physical}")).into()
                }
                Some(true) => Verdict::passed("a file mentions sr-iov"),
                None => Verdict::skipped("/etc cannot be read"),
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
                    "{address} is a virtual function of {physical}, which is in {bond}"
                )))
            });
            Verdict::of(faults.collect(), "no port is in a bond")
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
                return Verdict::passed("the vm has no virtual functions");
            }
            let narrow = |one: &Virtual| {
                let (port, bridge) = (one.port.as_ref()?, one.bridge.as_ref()?);
                let (mtu, most) = (host.mtus.get(port)?, host.mtus.get(bridge)?);
                let found = format!(
                    "{} is a function of {port} (mtu {mtu}), {bridge} has mtu {most}",
                    one.address
                );
                let fault = Fault::new(found).fixed_by(format!("ip link set {port} mtu {most}"));
                (mtu < most).then_some(fault)
            };
            Verdict::of(
                vm.virtuals.iter().filter_map(narrow).collect(),
                "the port takes packets as large as its bridge",
            )
        }),
    },
    Check {
        id: "vf-representor",
        required: "what stands for a virtual function in the host is up, and a port of a bridge",
        why: "In switchdev mode the network card sends packets of a virtual function to a network device of the \
              host, its representor. What the host does with that is the guest's network: a representor that is \
              down or in no bridge is a cable that is not plugged in.",
        fix: "ip link set NAME master BRIDGE; ip link set NAME up (permanently: in /etc/network/interfaces)",
        severity: Warning,
        judge: Judge::Vm(representors),
    },
];

/// A VM that is off may have a hookscript that plugs the representor in at the start.
fn representors(vm: &VmFacts, host: &HostFacts) -> Verdict {
    let with = vm.virtuals.iter();
    let with = with.filter_map(|one| Some((one, one.representor.as_ref()?)));
    let all: Vec<(&Virtual, &Representor)> = with.collect();
    if all.is_empty() {
        return Verdict::passed("the vm has no function in switchdev mode");
    }
    let mut guests = host.guests.iter();
    let runs = guests.any(|one| one.vmid == vm.vmid && one.runs);
    let severity = if runs { Warning } else { Notice };
    let faults = all.iter().flat_map(|(one, representor)| {
        let unplugged = unplugged(one, representor).map(|fault| fault.with(severity));
        let narrow = narrow(one, representor, host).map(|fault| fault.with(Notice));
        unplugged.into_iter().chain(narrow)
    });
    Verdict::of(
        faults.collect(),
        "the representor is up, and a port of a bridge",
    )
}

/// Returns what keeps packets of a virtual function from going anywhere.
fn unplugged(function: &Virtual, representor: &Representor) -> Option<Fault> {
    let name = &representor.name;
    let mut lacks = Vec::new();
    let mut commands = Vec::new();
    if !representor.is_used {
        lacks.push("in no bridge");
        commands.push(match &function.bridge {
            Some(bridge) => format!("ip link set {name} master {bridge}"),
            None if function.is_switched => format!("ovs-vsctl add-port BRIDGE {name}"),
            None => format!("ip link set {name} master BRIDGE"),
        });
    }
    if representor.is_down {
        lacks.push("down");
        commands.push(format!("ip link set {name} up"));
    }
    let found = format!(
        "{} is represented by {name}, which is {}",
        function.address,
        lacks.join(" and ")
    );
    (!lacks.is_empty()).then(|| Fault::new(found).fixed_by(commands.join(" && ")))
}

fn narrow(function: &Virtual, representor: &Representor, host: &HostFacts) -> Option<Fault> {
    let (name, bridge) = (&representor.name, representor.bridge.as_ref()?);
    let (mtu, most) = (host.mtus.get(name)?, host.mtus.get(bridge)?);
    let address = &function.address;
    let found = format!("{address} is represented by {name} with mtu {mtu}, {bridge} has {most}");
    let fault = Fault::new(found).fixed_by(format!("ip link set {name} mtu {most}"));
    (mtu < most).then_some(fault)
}

fn bridges(vm: &VmFacts, host: &HostFacts) -> Verdict {
    if host.mtus.is_empty() {
        return Verdict::skipped("/sys/class/net cannot be read");
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
        let fault = Fault::new(format!("{key} has mtu={mtu}, but {bridge} only {most}"));
        Some(fault.fixed_by(format!("ip link set {bridge} mtu {mtu}")))
    });
    Verdict::of(faults.collect(), "every bridge is there")
}
