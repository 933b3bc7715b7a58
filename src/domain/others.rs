//! What others on the host have of its CPUs, and what of that a VM asks for.

use super::backend::Backend;
use super::claim::Wishes;
use super::cpuset::CpuSet;
use super::table::{Reserve, Table};
use super::vm::Vmid;

/// Slice that PVE starts VMs in.
const QEMU_SLICE: &str = "qemu.slice";

/// CPUs that a cgroup of somebody else keeps to itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusive {
    /// Path of the cgroup below the root of the hierarchy.
    pub group: String,
    /// The CPUs.
    pub cpus: CpuSet,
    /// Whether it is a partition, and not only a list of what may become one.
    pub is_partition: bool,
}

impl Exclusive {
    /// Returns what it is.
    pub fn what(&self) -> &'static str {
        match self.is_partition {
            true => "the cpuset partition",
            false => "cpuset.cpus.exclusive",
        }
    }

    /// Returns what can be done about it, or instead of it.
    pub fn help(&self, other_cpus: &str) -> String {
        let group = &self.group;
        // Where pin-hook makes them too, a write by hand might take a running vm's cpus from it.
        if group.starts_with(QEMU_SLICE) {
            return format!(
                "if it is left over from a lost state, pin-hook release --all ends it (every vm \
                 loses its cpus until pin-hook apply), or {other_cpus}"
            );
        }
        let end = match self.is_partition {
            true => format!(
                "remove it if it is empty (rmdir /sys/fs/cgroup/{group}), or end it (echo member > \
                 /sys/fs/cgroup/{group}/cpuset.cpus.partition) and give it other cpus \
                 (/sys/fs/cgroup/{group}/cpuset.cpus)"
            ),
            false => format!("empty it (echo > /sys/fs/cgroup/{group}/cpuset.cpus.exclusive)"),
        };
        format!("{end}, or {other_cpus}")
    }
}

/// A unit above a VM's threads that keeps them off CPUs that they are to run on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{who} is limited to {}, which keeps {what} off {}", allowed.in_words(), cpus.in_words())]
pub struct Above {
    /// Which unit.
    pub who: String,
    /// What can be done about it there.
    pub remedy: String,
    /// CPUs that it leaves.
    pub allowed: CpuSet,
    /// Whom it keeps off, such as `pin.emulator of vm 100`.
    pub what: String,
    /// Which CPUs.
    pub cpus: CpuSet,
}

/// Somebody of this node who was given CPUs, which a VM may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bystander {
    /// Who it is, such as `vm 107` or `unit rt.slice`.
    pub who: String,
    /// How it was given them.
    pub by: Way,
    /// CPUs that it may run on.
    pub cpus: CpuSet,
}

/// How somebody was given CPUs, which is also how that is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// As an affinity that its tasks ask for.
    Affinity {
        /// How it is changed.
        remedy: String,
    },
    /// As `AllowedCPUs=` of this unit.
    Unit(String),
    /// As the list of this cgroup, which is no unit's.
    Group(String),
}

/// What others have of the CPUs of this host.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Partitions and exclusive sets of others.
    pub partitions: Vec<Exclusive>,
    /// Guests, units and cgroups that were given CPUs.
    pub bystanders: Vec<Bystander>,
    /// What must stay with the host, as `host.toml` says.
    pub reserve: Option<Reserve>,
}

impl Surroundings {
    /// Returns the CPUs that a VM should rather not own: those that others were given, and those that
    /// were not given to VMs.
    pub fn kept_from_vms(&self, online: &CpuSet) -> CpuSet {
        let others = self.bystanders.iter().map(|one| match one.is_of_vms() {
            true => online.difference(&one.cpus),
            false if one.has_list() && online.is_subset(&one.cpus) => CpuSet::new(),
            false => one.cpus.clone(),
        });
        others.fold(CpuSet::new(), |all, cpus| all.union(&cpus))
    }
}

/// What a VM asks for, as far as others may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which VM, where that is known.
    pub vmid: Option<Vmid>,
    /// CPUs that it is to own.
    pub cpus: CpuSet,
    /// How they are taken.
    pub backend: Backend,
    /// CPUs of threads other than vCPUs, by the key that names them.
    pub pins: Vec<(&'static str, CpuSet)>,
}

impl Wishes {
    /// Returns what the VM asks for, as far as others may have it.
    pub fn share(&self, vmid: Vmid) -> Share {
        let vhost: Vec<&CpuSet> = self.vhost.iter().flatten().collect();
        Share {
            vmid: Some(vmid),
            cpus: self.cpus.clone(),
            backend: self.backend,
            pins: pins(self.emulator.as_ref(), self.iothreads.values(), vhost),
        }
    }
}

impl Table {
    /// Returns what a table asks for that names its `cpus`, as far as others may have it.
    pub fn share(&self, vmid: Option<Vmid>, cpus: CpuSet, backend: Backend) -> Share {
        let pin = &self.pin;
        Share {
            vmid,
            cpus,
            backend,
            pins: pins(
                pin.emulator.as_ref(),
                pin.iothreads.values(),
                pin.vhost.values(),
            ),
        }
    }
}

fn pins<'c>(
    emulator: Option<&'c CpuSet>,
    iothreads: impl IntoIterator<Item = &'c CpuSet>,
    vhost: impl IntoIterator<Item = &'c CpuSet>,
) -> Vec<(&'static str, CpuSet)> {
    let emulator = emulator.into_iter().map(|cpus| ("emulator", cpus));
    let iothreads = iothreads.into_iter().map(|cpus| ("iothreads", cpus));
    let vhost = vhost.into_iter().map(|cpus| ("vhost", cpus));
    let pins = emulator.chain(iothreads).chain(vhost);
    pins.map(|(key, cpus)| (key, cpus.clone())).collect()
}

impl Share {
    /// Tells whether everybody else is kept off the CPUs.
    pub(super) fn is_exclusive(&self) -> bool {
        self.backend.is_exclusive()
    }

    /// Returns the name of a VM's key, such as `pin.emulator of vm 100`.
    pub(super) fn named(&self, key: &str) -> String {
        match self.vmid {
            Some(vmid) => format!("{key} of vm {vmid}"),
            None => key.to_owned(),
        }
    }

    /// Returns the pins that are for CPUs of the host.
    pub(super) fn pins_outside(&self) -> impl Iterator<Item = (String, &CpuSet)> {
        let outside = self
            .pins
            .iter()
            .filter(|(_, cpus)| !cpus.is_subset(&self.cpus));
        outside.map(|(key, cpus)| (self.named(&format!("pin.{key}")), cpus))
    }

    /// Returns the threads that the table sends to CPUs of the host.
    pub(super) fn pinned_threads(&self) -> impl Iterator<Item = Bystander> {
        self.pins_outside().map(|(who, cpus)| {
            let (key, vm) = who.split_once(" of ").unwrap_or((&who, "this vm"));
            let remedy = format!("give {key} other cpus in the table of {vm}");
            Bystander {
                by: Way::Affinity { remedy },
                cpus: cpus.clone(),
                who,
            }
        })
    }

    /// Tells whether somebody is above the threads of the VM: its slice or its scope.
    pub(super) fn is_below(&self, bystander: &Bystander) -> bool {
        bystander.is_of_vms() || self.is_own(bystander)
    }

    /// Tells whether somebody is the VM itself, or its scope.
    pub(super) fn is_own(&self, bystander: &Bystander) -> bool {
        let Some(vmid) = self.vmid else { return false };
        match &bystander.by {
            Way::Affinity { .. } => bystander.who == format!("vm {vmid}"),
            Way::Unit(unit) => *unit == format!("{vmid}.scope"),
            Way::Group(_) => false,
        }
    }
}

impl Bystander {
    /// Returns a unit that was given CPUs by its properties.
    pub fn unit(name: &str, cpus: CpuSet) -> Self {
        Bystander {
            who: format!("unit {name}"),
            by: Way::Unit(name.to_owned()),
            cpus,
        }
    }

    /// Returns who asks for CPUs by an affinity, with what changes that.
    pub fn pinned(who: String, remedy: String, cpus: CpuSet) -> Self {
        let by = Way::Affinity { remedy };
        Bystander { who, by, cpus }
    }

    /// Returns a cgroup that was given CPUs and is no unit's.
    pub fn group(path: &str, cpus: CpuSet) -> Self {
        Bystander {
            who: format!("cgroup {path}"),
            by: Way::Group(path.to_owned()),
            cpus,
        }
    }

    /// Tells whether it is what all VMs are in.
    pub fn is_of_vms(&self) -> bool {
        matches!(&self.by, Way::Unit(unit) if unit == QEMU_SLICE)
    }

    /// Tells whether it was given CPUs by a list of its cgroup.
    pub(super) fn has_list(&self) -> bool {
        !matches!(self.by, Way::Affinity { .. })
    }

    /// Returns how it is given `cpus`.
    pub(super) fn remedy(&self, cpus: &CpuSet) -> String {
        match &self.by {
            Way::Affinity { remedy } => remedy.clone(),
            Way::Unit(unit) => {
                format!("allow it other cpus (systemctl set-property {unit} AllowedCPUs={cpus})")
            }
            Way::Group(path) => {
                format!("allow it other cpus (echo {cpus} > /sys/fs/cgroup/{path}/cpuset.cpus)")
            }
        }
    }
}

/// Returns how a VM is given other CPUs.
pub fn other_cpus(vmid: Option<Vmid>) -> String {
    match vmid {
        Some(vmid) => format!("give vm {vmid} other cpus in its table (cpus = \"...\")"),
        None => "choose other cpus in the table (cpus = \"...\")".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A VM whose CPUs the program chooses would get those of a container, or none where a unit has a list of
    /// all.
    #[test]
    fn a_vm_should_not_own_what_others_were_given() {
        let set = |list: &str| list.parse::<CpuSet>().unwrap();
        let pinned = |cpus| Bystander::pinned("vm 107".to_owned(), String::new(), set(cpus));
        for (one, kept) in [
            (Bystander::unit("rt.slice", set("2-3")), "2-3"),
            (Bystander::group("lxc", set("2-3")), "2-3"),
            (pinned("2-3"), "2-3"),
            // Whoever may run everywhere was given nothing.
            (Bystander::unit("system.slice", set("0-9")), ""),
            // VMs may own what all VMs are in, and nothing else.
            (Bystander::unit(QEMU_SLICE, set("2-5")), "0-1,6-7"),
            (Bystander::unit(QEMU_SLICE, set("0-7")), ""),
        ] {
            let what = format!("{one:?}");
            let around = Surroundings {
                bystanders: vec![one],
                ..Surroundings::default()
            };
            let found = around.kept_from_vms(&set("0-7"));
            assert_eq!(found.to_string(), kept, "{what}");
        }
    }
}
