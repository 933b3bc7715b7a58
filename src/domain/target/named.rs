//! Targets that a mechanism is about by name: the only place outside of the table and the wishes that
//! names rows of it. Everything else asks the row.

use super::{Place, Target};
use crate::domain::cpuset::CpuId;
use crate::domain::knob::Knob;

/// Files of the cgroups of VMs.
impl Target {
    /// Returns whether a cgroup passes the cpuset controller on.
    pub fn controller(group: &str) -> Target {
        of_group(Knob::CpusetForChildren, group)
    }

    /// Returns the cgroup whose passing on of the controller this is.
    pub fn passes_controller(&self) -> Option<&str> {
        self.group_with(Knob::CpusetForChildren)
    }

    /// Returns the CPUs that a cgroup may grant exclusively.
    pub fn exclusive(group: &str) -> Target {
        of_group(Knob::CpusExclusive, group)
    }

    /// Returns the CPUs that a cgroup asks for.
    pub fn cpus(group: &str) -> Target {
        of_group(Knob::Cpus, group)
    }

    /// Returns the kind of partition that a cgroup is the root of.
    pub fn partition(group: &str) -> Target {
        of_group(Knob::Partition, group)
    }

    /// Returns the cgroup whose kind of partition this is.
    pub fn partitioned(&self) -> Option<&str> {
        self.group_with(Knob::Partition)
    }

    /// Returns the NUMA nodes that a scope may allocate from.
    pub fn scope_nodes(scope: &str) -> Target {
        of_group(Knob::ScopeNodes, scope)
    }

    fn group_with(&self, knob: Knob) -> Option<&str> {
        match self {
            Target::Knob(own, Place::Group(group)) if *own == knob => Some(group),
            _ => None,
        }
    }
}

/// Files of others.
impl Target {
    /// Returns the list of a cgroup of a unit outside of the VMs.
    pub fn listed(group: &str) -> Target {
        of_group(Knob::ListedCpus, group)
    }

    /// Returns the list of a cgroup outside of systemd.
    pub fn outside(group: &str) -> Target {
        of_group(Knob::OutsideCpus, group)
    }

    /// Returns a list of a container.
    pub fn container(place: Place) -> Target {
        Target::Knob(Knob::ContainerCpus, place)
    }

    /// Returns the only driver that may take a function.
    pub fn driver_override(address: &str) -> Target {
        let place = Place::Function(address.to_owned());
        Target::Knob(Knob::DriverOverride, place)
    }
}

/// Files of the kernel's own work.
impl Target {
    /// Returns whether a CPU is online.
    pub fn online(cpu: CpuId) -> Target {
        Target::Knob(Knob::Online, Place::Cpu(cpu))
    }

    /// Returns the CPU that this takes offline and back.
    pub fn switched_cpu(&self) -> Option<CpuId> {
        match self {
            Target::Knob(Knob::Online, Place::Cpu(cpu)) => Some(*cpu),
            _ => None,
        }
    }

    /// Returns the CPUs that interrupts are given when they are set up.
    pub fn default_irqs() -> Target {
        Target::Knob(Knob::DefaultIrqAffinity, Place::Host)
    }

    /// Returns the CPUs of an interrupt, by its number and the names of what handles it.
    pub fn irq(number: u32, actions: &str) -> Target {
        Target::Knob(Knob::IrqAffinity, Place::Irq(number, actions.to_owned()))
    }

    /// Returns the interrupt that this is about: its number and the names of what handles it.
    pub fn of_irq(&self) -> Option<(u32, &str)> {
        match self {
            Target::Knob(_, Place::Irq(number, actions)) => Some((*number, actions)),
            _ => None,
        }
    }

    /// Returns the CPUs of all unbound work, and those of the watchdog.
    pub fn work_of_host() -> [Target; 2] {
        [Knob::UnboundCpus, Knob::WatchdogCpus].map(|knob| Target::Knob(knob, Place::Host))
    }

    /// Returns the CPUs of the work of a workqueue.
    pub fn queue(name: String) -> Target {
        Target::Knob(Knob::QueueCpus, Place::Workqueue(name))
    }
}

fn of_group(knob: Knob, group: &str) -> Target {
    Target::Knob(knob, Place::Group(group.to_owned()))
}
