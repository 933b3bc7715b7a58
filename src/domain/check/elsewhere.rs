//! Other nodes, for a VM that may be started on them.

use super::host_facts::HostFacts;
use super::rule::Severity::{Notice, Warning};
use super::rule::{Check, Fault, Judge, Verdict};
use super::vm_facts::VmFacts;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "ha-nodes",
        required: "pin-hook is on every node that the vm may move to",
        why: "HA may start the VM on other nodes, and an admin can start it where it is replicated to. Without \
              the hookscript's file the start fails there. What other nodes have is known as far as they have told the cluster: a table \
              in their own /etc/pin-hook cannot be seen from here.",
        fix: "install pin-hook on that node",
        severity: Warning,
        judge: Judge::Vm(|vm, _| {
            if vm.ha_nodes.is_empty() && !vm.is_replicated {
                return Verdict::skipped("the vm stays on this node");
            }
            if !vm.guest.is_hooked() {
                return Verdict::skipped("pve does not call pin-hook for the vm");
            }
            let faults = vm.lacks_elsewhere.iter();
            let faults = faults.map(|one| Fault::new(&one.fact).fixed_by(&one.help));
            Verdict::of(
                faults.collect(),
                "every node that may run it has what it needs, as far as it has announced",
            )
        }),
    },
    Check {
        id: "ha-hardware",
        required: "what a vm of ha has is there on other nodes",
        why: "HA can start the VM on another node only if its volumes are on storage that both nodes have (or \
              are replicated), the state of its TPM among them, and if its devices are mapped for the cluster.",
        fix: "qm disk move <vmid> DISK STORAGE to storage that all nodes have; in datacenter, resource \
               mappings, map the device, and choose the mapping in the hardware tab of the vm",
        severity: Notice,
        judge: Judge::Vm(hardware),
    },
];

fn hardware(vm: &VmFacts, host: &HostFacts) -> Verdict {
    if vm.ha_nodes.is_empty() {
        return Verdict::skipped("ha does not start the vm on another node");
    }
    let is_local = |storage: &String| host.storages.get(storage) == Some(&false);
    let volumes = vm.guest.volumes();
    let volumes = volumes.filter(|_| !vm.is_replicated);
    let volumes = volumes.filter_map(|volume| {
        let (key, storage) = (&volume.key, volume.storage.as_ref());
        match storage {
            None => Some(format!("{key} is a device of this host")),
            Some(storage) if is_local(storage) => Some(format!(
                "{key} is on {storage}, a storage of this node only"
            )),
            Some(_) => None,
        }
    });
    let devices = vm.guest.hostpci.iter();
    let unmapped = devices.filter(|device| device.mapping.is_none());
    let unmapped = unmapped.map(|device| format!("{} is not mapped for the cluster", device.key));
    let faults = volumes.chain(unmapped).map(Fault::new);
    Verdict::of(faults.collect(), "the other nodes have what the vm needs")
}
