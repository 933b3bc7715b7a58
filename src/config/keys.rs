//! Every key that a table or `host.toml` may have: its type, its meaning, an example.
//!
//! The reader checks files against these lists, messages quote them, and the documentation is
//! made from them.

/// A key of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Section and name, joined by a dot.
    pub path: &'static str,
    /// What TOML value it takes.
    pub shape: Shape,
    /// What the value means, after "takes".
    pub takes: &'static str,
    /// A value in TOML.
    pub example: &'static str,
    /// What the key does.
    pub doc: &'static str,
}

/// Type of a value in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One of these texts.
    Word(&'static [&'static str]),
    /// A boolean.
    Switch,
    /// A boolean or `"auto"`.
    AutoSwitch,
    /// A text.
    Text,
    /// A whole number that is not negative.
    Number,
    /// A text or a whole number.
    TextOrNumber,
    /// A list of whole numbers.
    Numbers,
    /// A table of texts, with names of the operator's choice.
    Texts,
    /// A table of texts or whole numbers, with names of the operator's choice.
    TextsOrNumbers,
    /// A section for each node of the cluster, with the keys of the whole file.
    Nodes,
}

impl Key {
    /// Returns the name without its section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Tells whether the key is below `section`, which ends in a dot; nodes are read elsewhere.
    pub(super) fn is_below(&self, section: &str) -> bool {
        self.path.starts_with(section) && self.shape != Shape::Nodes
    }

    /// Names what the key takes: the words themselves where there are only some.
    pub(super) fn expected(&self) -> String {
        match self.shape {
            Shape::Word(words) => one_of(words),
            _ => self.takes.to_owned(),
        }
    }

    /// Tells what would be right, in one line.
    pub(super) fn help(&self) -> String {
        let Self { path, example, .. } = self;
        let (takes, name) = (self.expected(), self.name());
        match self.shape {
            Shape::Word(_) => format!("{path} takes {takes}"),
            _ => format!("{path} takes {takes}, for example {name} = {example}"),
        }
    }
}

/// Names words to choose from.
pub(super) fn one_of(words: &[&str]) -> String {
    let list: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    match list.as_slice() {
        [only] => only.clone(),
        list => format!("one of {}", list.join(", ")),
    }
}

const fn key(
    path: &'static str,
    shape: Shape,
    takes: &'static str,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        path,
        shape,
        takes,
        example,
        doc,
    }
}

const BACKENDS: Shape = Shape::Word(&["auto", "isolated", "root", "slices", "affinity"]);
const ON_REFUSAL: Shape = Shape::Word(&["auto", "abort", "warn"]);

/// Keys of `<vmid>.toml`.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("cpus", Shape::Text, "a cpulist or \"auto\"", "\"6-11,18-23\"",
        "CPUs that the VM owns while it runs, one vCPU each; this line alone isolates and pins."),
    key("prefer", Shape::Word(&["cache", "frequency", "performance", "efficiency"]), "a preference", "\"cache\"",
        "What counts when the CPUs are chosen (cpus = \"auto\")."),
    key("smt", Shape::Word(&["pairs", "idle-sibling"]), "a use of smt siblings", "\"idle-sibling\"",
        "Whether two vCPUs share a core, or each has one whose sibling is owned and idle."),
    key("profile", Shape::Word(&["low-latency"]), "the name of a profile", "\"low-latency\"",
        "Documented bundle of settings for keys that are not written."),
    key("pin.vcpus", Shape::Numbers, "a list of cpu numbers", "[6, 18, 7, 19]",
        "CPU of vCPU n at place n; all of them in cpus."),
    key("pin.emulator", Shape::Text, "a cpulist", "\"0-5,12-17\"",
        "CPUs of the emulator threads; the housekeeping CPUs if not written."),
    key("pin.iothreads", Shape::Texts, "a cpulist for each disk", "{ scsi0 = \"4,16\", \"*\" = \"5,17\" }",
        "CPUs of the iothread of a disk; \"*\" stands for all others."),
    key("pin.vhost", Shape::Texts, "a cpulist for each network device", "{ net0 = \"4\" }",
        "CPUs of the vhost workers of a network device."),
    key("pin.scheduler", Shape::Text, "\"other\", \"fifo:N\" or \"rr:N\"", "\"fifo:1\"",
        "Scheduling class and priority of the vCPU threads; \"other\" if not written."),
    key("isolate.backend", BACKENDS, "the name of a backend", "\"isolated\"",
        "How the CPUs are isolated; \"auto\" picks the strongest way that this host supports."),
    key("isolate.kthreads", Shape::Switch, "true or false", "true",
        "Whether kernel threads are moved off the owned CPUs; true if not written."),
    key("isolate.workqueues", Shape::AutoSwitch, "true, false or \"auto\"", "\"auto\"",
        "Whether unbound kernel work is moved off the owned CPUs."),
    key("isolate.irqs", Shape::Switch, "true or false", "true",
        "Whether interrupts are moved off the owned CPUs; true if not written."),
    key("isolate.watchdog", Shape::Switch, "true or false", "true",
        "Whether the soft lockup watchdog is kept off the owned CPUs; true if not written."),
    key("isolate.hotplug", Shape::Switch, "true or false", "false",
        "Whether the CPUs are taken offline and back once, before they are isolated."),
    key("isolate.also", Shape::Text, "a cpulist", "\"5,17\"",
        "CPUs that are owned as well, without a vCPU on them."),
    key("power.governor", Shape::Text, "the name of a cpufreq governor", "\"performance\"",
        "Governor of the owned CPUs."),
    key("power.energy-preference", Shape::Text, "an energy_performance_preference", "\"performance\"",
        "Energy preference of the owned CPUs."),
    key("power.max-idle-latency", Shape::Text, "a time with its unit", "\"2us\"",
        "Longest time that waking an owned CPU from idle may take."),
    key("power.min-frequency", Shape::Text, "a frequency with its unit", "\"3400MHz\"",
        "Lowest frequency of the owned CPUs."),
    key("power.max-frequency", Shape::Text, "a frequency with its unit", "\"4GHz\"",
        "Highest frequency of the owned CPUs."),
    key("power.boost", Shape::Switch, "true or false", "true",
        "Whether the owned CPUs may run faster than nominal; on some hosts one switch for all CPUs."),
    key("host.ksm", Shape::Word(&["stop", "unmerge"]), "what to do with merged memory pages", "\"stop\"",
        "What happens to the merging of memory pages (KSM) while the VM runs."),
    key("host.transparent-hugepages", Shape::Word(&["always", "madvise", "never"]), "a policy", "\"madvise\"",
        "Who gets transparent hugepages while the VM runs."),
    key("host.halt-poll", Shape::Text, "a time with its unit", "\"200us\"",
        "How long KVM polls for work of a vCPU before it sleeps; one value for all VMs."),
    key("host.sysctl", Shape::TextsOrNumbers, "a value for each quoted sysctl name", "{ \"vm.stat_interval\" = 120 }",
        "Settings of the whole host while the VM runs."),
    key("memory.nodes", Shape::Text, "numa nodes in quotes, or \"auto\"", "\"auto\"",
        "NUMA nodes that the guest's memory comes from, from its next start on."),
    key("memory.hugepages.compact", Shape::Switch, "true or false", "true",
        "Whether memory is compacted before the start when hugepages are short."),
    key("memory.hugepages.timeout", Shape::Text, "a time with its unit", "\"30s\"",
        "How long the start may wait for hugepages; 30s if not written."),
    key("pci.reset", Shape::Word(&["none", "flr", "remove-rescan", "auto"]), "the name of a reset method", "\"flr\"",
        "How passed-through devices are reset before the start; left to PVE if not written."),
    key("pci.irqs", Shape::Word(&["vcpus", "housekeeping"]), "a place for interrupts", "\"vcpus\"",
        "Where the interrupts of passed-through devices go: vector n to the CPU of vCPU n, or to the host's."),
    key("pci.bind", Shape::Texts, "\"stay\" or \"return\" for each device", "{ hostpci0 = \"return\", \"*\" = \"stay\" }",
        "Devices that are bound to vfio-pci before PVE does it, and whether they go back to their driver."),
    key("start.on-refusal", ON_REFUSAL, "a policy", "\"auto\"",
        "What happens to the start when the table cannot be applied."),
    key("yield.stop", Shape::Numbers, "a list of vm ids", "[107]",
        "VMs that are shut down before the start and started again after the stop."),
    key("yield.timeout", Shape::Text, "a time with its unit", "\"60s\"",
        "How long the start may wait for their shutdown; 60s if not written."),
    key("node.<name>", Shape::Nodes, "the keys of the whole file", "{ cpus = \"2-5\" }",
        "Keys that replace those above on the node of that name."),
];

/// Keys of `host.toml`.
#[rustfmt::skip]
pub const HOST_KEYS: &[Key] = &[
    key("reserve", Shape::TextOrNumber, "a number of cores or a cpulist in quotes", "2",
        "What stays with the host: a number counts cores with their SMT siblings, a text lists CPUs."),
    key("kernel-gate", Shape::Word(&["enforce", "ignore"]), "a policy", "\"enforce\"",
        "Whether a backend is avoided on kernel versions where it is known to do harm; \"ignore\" when the fix is known to be backported."),
    key("notify", Shape::Switch, "true or false", "true",
        "Whether PVE notifies an admin of starts that are refused, and of values that cannot be set; false if not written."),
    key("defaults.backend", BACKENDS, "the name of a backend", "\"auto\"",
        "isolate.backend of tables that do not write it."),
    key("defaults.on-refusal", ON_REFUSAL, "a policy", "\"auto\"",
        "start.on-refusal of tables that do not write it."),
];
