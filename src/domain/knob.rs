//! The knob table: every target that is a file of the kernel, as a row.
//!
//! A row says where the file is, how its text is to be read and when it is written. Adding a knob
//! is adding a row (and a line in [`super::desired`] that wishes for it); observing, comparing,
//! writing, reading back and giving back need no code of their own.

use serde::{Deserialize, Serialize};

use super::target::Stage;

/// Kernel file with a value; the order of the variants is the order of writing within a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knob {
    /// Whether a cgroup holds threads (`threaded`) or processes.
    GroupType,
    /// Whether the children of a cgroup have the cpuset controller.
    CpusetForChildren,
    /// CPUs that a cgroup may grant exclusively below it.
    CpusExclusive,
    /// CPUs that a cgroup asks for.
    Cpus,
    /// Kind of cpuset partition that a cgroup is the root of.
    Partition,
    /// CPUs that interrupts are given when they are set up.
    DefaultIrqAffinity,
    /// CPUs that one interrupt may be delivered to.
    IrqAffinity,
    /// CPUs that unbound kernel work may run on, as requested.
    UnboundCpus,
    /// CPUs that the work of one unbound workqueue may run on.
    QueueCpus,
    /// CPUs on which the kernel looks for soft lockups.
    WatchdogCpus,
}

/// How the text of a knob is read, compared and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// A cpulist; compared as a set. The empty set is written as an empty line.
    CpuList,
    /// A hexadecimal cpumask in words of 32 bits; compared as a set.
    CpuMask,
    /// One line of text, compared as it is.
    Word,
    /// A list of words of which one is there or not; written as `+word` or `-word`.
    Switch(&'static str),
}

/// Row of the knob table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which knob it is.
    pub knob: Knob,
    /// Path of the file; `{}` stands for the place (a cgroup, an interrupt number).
    pub path: &'static str,
    /// How the file is read and written.
    pub grammar: Grammar,
    /// When it is written.
    pub stage: Stage,
    /// What it is for, in one line.
    pub doc: &'static str,
}

/// The knob table, in the order of [`Knob`].
pub const ROWS: &[Row] = &[
    Row {
        knob: Knob::GroupType,
        path: "/sys/fs/cgroup/{}/cgroup.type",
        grammar: Grammar::Word,
        stage: Stage::Partition,
        doc: "lets single threads of the vm live in a cgroup of their own",
    },
    Row {
        knob: Knob::CpusetForChildren,
        path: "/sys/fs/cgroup/{}/cgroup.subtree_control",
        grammar: Grammar::Switch("cpuset"),
        stage: Stage::Partition,
        doc: "gives the cgroups of the vm's threads the cpuset controller",
    },
    Row {
        knob: Knob::CpusExclusive,
        path: "/sys/fs/cgroup/{}/cpuset.cpus.exclusive",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "passes the owned cpus down to the vm's partition",
    },
    Row {
        knob: Knob::Cpus,
        path: "/sys/fs/cgroup/{}/cpuset.cpus",
        grammar: Grammar::CpuList,
        stage: Stage::Partition,
        doc: "the cpus of the vm's partition",
    },
    Row {
        knob: Knob::Partition,
        path: "/sys/fs/cgroup/{}/cpuset.cpus.partition",
        grammar: Grammar::Word,
        stage: Stage::Partition,
        doc: "takes the cpus away from every other cgroup",
    },
    Row {
        knob: Knob::DefaultIrqAffinity,
        path: "/proc/irq/default_smp_affinity",
        grammar: Grammar::CpuMask,
        stage: Stage::Interrupts,
        doc: "keeps interrupts that are set up later off the owned cpus",
    },
    Row {
        knob: Knob::IrqAffinity,
        path: "/proc/irq/{}/smp_affinity_list",
        grammar: Grammar::CpuList,
        stage: Stage::Interrupts,
        doc: "keeps an interrupt off the owned cpus",
    },
    Row {
        knob: Knob::UnboundCpus,
        path: "/sys/devices/virtual/workqueue/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps unbound kernel work off the owned cpus",
    },
    Row {
        knob: Knob::QueueCpus,
        path: "/sys/devices/virtual/workqueue/{}/cpumask",
        grammar: Grammar::CpuMask,
        stage: Stage::Work,
        doc: "keeps the work of a workqueue off the owned cpus",
    },
    Row {
        knob: Knob::WatchdogCpus,
        path: "/proc/sys/kernel/watchdog_cpumask",
        grammar: Grammar::CpuList,
        stage: Stage::Work,
        doc: "keeps the soft lockup watchdog off the owned cpus",
    },
];

impl Knob {
    /// Returns the row of the knob.
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_knobs() {
        for (n, row) in ROWS.iter().enumerate() {
            assert_eq!(row.knob as usize, n, "{:?}", row.knob);
        }
    }
}
