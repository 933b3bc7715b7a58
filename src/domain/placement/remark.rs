//! One line for the operator about CPUs of a VM.

/// What the operator should know about a choice or a placement; one line without a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The line.
    pub text: String,
    /// Whether the VM or the host will not have what it could have.
    pub is_warning: bool,
    /// What it is about.
    pub topic: Topic,
}

/// What a remark is about, for the doctor, who says some of it elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Topic {
    /// The CPUs, or the table.
    #[default]
    Placement,
    /// CPUs that the table names, against the rules by which CPUs are chosen.
    Cpus,
    /// NUMA nodes that the vCPUs are on, against the same rules.
    Nodes,
    /// Siblings that the guest does not know.
    Smt,
    /// A line of the VM's config that is a check of its own.
    Config,
    /// Memory that PVE or QEMU does not start the VM with.
    Memory,
    /// Devices that are passed to the VM.
    Devices,
    /// CPUs that tables of other VMs name as well.
    Overlap,
}

impl Remark {
    /// Tells whether it warns of the NUMA nodes that the vCPUs are on: then no notice has to name them again.
    pub fn warns_of_nodes(&self) -> bool {
        self.is_warning && self.topic == Topic::Nodes
    }

    /// Returns a remark on something that is as it should be, or as good as it can be.
    pub fn info(text: String) -> Self {
        Remark {
            text,
            is_warning: false,
            topic: Topic::default(),
        }
    }

    /// Returns a remark on something that will not be as wished.
    pub fn warning(text: String) -> Self {
        Remark {
            text,
            is_warning: true,
            topic: Topic::default(),
        }
    }

    /// Says what it is about.
    pub fn about(self, topic: Topic) -> Self {
        Remark { topic, ..self }
    }
}
