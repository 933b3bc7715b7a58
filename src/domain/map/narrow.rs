//! The part of a map that matters to one VM.

use std::collections::BTreeSet;

use super::{Core, Map, Owner};
use crate::domain::cpuset::CpuSet;
use crate::domain::vm::Vmid;

impl Map {
    /// Returns what is around a VM: the L3 domains that it has CPUs of, who else has some there, and its own
    /// functions. Nothing of a VM that has no CPUs that run.
    pub fn around(&self, vmid: Vmid) -> Option<Map> {
        let own = &self.owners[self.vm(vmid)?].cpus;
        let place = |core: &Core| (core.package, core.node, core.l3_domain);
        let of_vm = self.cores.iter().filter(|core| !core.cpus.is_disjoint(own));
        let places: BTreeSet<_> = of_vm.map(place).collect();
        let cores: Vec<Core> = self
            .cores
            .iter()
            .filter(|core| places.contains(&place(core)))
            .cloned()
            .collect();
        let shown: CpuSet = cores.iter().flat_map(|core| core.cpus.iter()).collect();
        let is_shown = |owner: &Owner| !owner.cpus.is_disjoint(&shown);
        let owners: Vec<Owner> = self
            .owners
            .iter()
            .filter(|one| is_shown(one))
            .cloned()
            .collect();
        let mut owner_of = self.owner_of.clone();
        for cpu in shown.iter() {
            let owner = &self.owners[self.owner_of(cpu)];
            owner_of[cpu.0 as usize] = owners.iter().position(|one| one == owner)?;
        }
        let devices = self.devices.iter().filter(|device| device.vmid == vmid);
        (!cores.is_empty()).then(|| Map {
            nodes: self.nodes.clone(),
            l3_domains: self.l3_domains.clone(),
            devices: devices.cloned().collect(),
            left_out: Vec::new(),
            cores,
            owners,
            owner_of,
        })
    }
}
