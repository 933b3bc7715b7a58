//! Stages: which targets are settled together, and in which order.

/// Kinds of targets that are settled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// CPUs that were taken offline: nothing can be done on one before it is back.
    Hotplug,
    /// Unit files, because a scope that is not delegated loses its partition at once.
    Unit,
    /// The VM's partition: from here on no other task runs on the owned CPUs.
    Partition,
    /// Cgroups of the VM's threads, which can only be pinned to owned CPUs inside of the
    /// partition.
    Members,
    /// CPUs of everything outside of the VMs, where there is no partition. Before the threads,
    /// because kernels before 6.2 forget the affinity of a thread whose cpuset changes.
    Slices,
    /// Affinity of the VM's threads.
    Threads,
    /// Containers: a partition takes the CPUs from them, but PVE counts those that are left.
    Containers,
    /// Kernel threads, which live in no cgroup that a partition could shrink.
    KernelThreads,
    /// What else the kernel runs on every CPU, and the class of the vCPU threads.
    Work,
    /// Interrupts, which a partition does not move either.
    Interrupts,
    /// Speed and sleep of the owned CPUs.
    Power,
    /// Settings of the whole host, which concern others as well: they come last and go first.
    Host,
}

impl Stage {
    /// Order of acquiring: what a VM cannot do without comes before all tuning.
    pub const ACQUIRE: [Stage; 12] = [
        Stage::Hotplug,
        Stage::Unit,
        Stage::Partition,
        Stage::Members,
        Stage::Slices,
        Stage::Threads,
        Stage::Containers,
        Stage::KernelThreads,
        Stage::Work,
        Stage::Interrupts,
        Stage::Power,
        Stage::Host,
    ];

    /// Order of giving back: backwards, but for CPUs, which all else needs, and affinities. Those of
    /// the VM's threads are cut to the partition as long as there is one, and the kernel sets those
    /// of unbound kernel threads itself when one comes or goes (`View::left_alone`), so both are given
    /// back when it has gone; so is the mask of unbound work, which a partition of type isolated
    /// narrows as well: before the kernel threads, as rescuers follow the mask of their work. So are
    /// the lists of containers: PVE would cut them again as long as it counts fewer CPUs.
    pub const RELEASE: [Stage; 12] = [
        Stage::Hotplug,
        Stage::Host,
        Stage::Power,
        Stage::Interrupts,
        Stage::Members,
        Stage::Partition,
        Stage::Slices,
        Stage::Threads,
        Stage::Containers,
        Stage::Work,
        Stage::KernelThreads,
        Stage::Unit,
    ];

    /// Tells whether the VM does not own its CPUs without this stage; all else is tuning.
    pub fn is_essential(self) -> bool {
        matches!(
            self,
            Stage::Unit | Stage::Partition | Stage::Members | Stage::Slices | Stage::Threads
        )
    }

    /// Tells whether the stage is about settings that not every host has.
    pub fn is_setting(self) -> bool {
        matches!(self, Stage::Power | Stage::Host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stage: Stage) -> usize {
        let at = Stage::RELEASE.iter().position(|other| *other == stage);
        at.unwrap()
    }

    #[test]
    fn every_stage_is_given_back_and_after_what_narrows_it() {
        for stage in Stage::ACQUIRE {
            assert!(Stage::RELEASE.contains(&stage), "{stage:?}");
        }
        for (first, then) in [
            (Stage::Hotplug, Stage::Host),
            (Stage::Members, Stage::Partition),
            (Stage::Partition, Stage::Slices),
            (Stage::Partition, Stage::Threads),
            (Stage::Slices, Stage::Threads),
            (Stage::Partition, Stage::Containers),
            (Stage::Partition, Stage::Work),
            (Stage::Work, Stage::KernelThreads),
            (Stage::Partition, Stage::KernelThreads),
            (Stage::Partition, Stage::Unit),
        ] {
            assert!(place(first) < place(then), "{first:?} before {then:?}");
        }
    }
}
