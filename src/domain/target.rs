//! Targets: the single things on the host that are changed and given back, and their values.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cpuset::{CpuId, CpuSet};
use super::knob::{Grammar, Knob, LAST_RANK, Row};
use super::memory::Pool;
use super::stage::Stage;
use super::vm::{TaskId, Vmid};

mod named;

/// Which of several files a knob is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// There is only one on the host.
    Host,
    /// That of a cgroup, named by its path below the root of the hierarchy.
    Group(String),
    /// That of a CPU.
    Cpu(CpuId),
    /// That of an interrupt: its number and the names of what handles it, because numbers are
    /// reused.
    Irq(u32, String),
    /// That of a cpufreq policy, by its number.
    Policy(u32),
    /// That of a sysctl, by its path below `/proc/sys`.
    Sysctl(String),
    /// That of a container's cgroup: its id and the start time of this run of it.
    Container(Vmid, u64),
    /// That of the cgroup in it that holds its processes.
    ContainerInside(Vmid, u64),
    /// That of a workqueue, by its name.
    Workqueue(String),
    /// That of a PCI function, by its address.
    Function(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => Ok(()),
            Place::Group(name)
            | Place::Sysctl(name)
            | Place::Workqueue(name)
            | Place::Function(name) => f.write_str(name),
            Place::Irq(number, _) | Place::Policy(number) => number.fmt(f),
            Place::Cpu(cpu) => cpu.fmt(f),
            Place::Container(ctid, _) => write!(f, "lxc/{ctid}"),
            Place::ContainerInside(ctid, _) => write!(f, "lxc/{ctid}/ns"),
        }
    }
}

/// One thing on the host that has a value.
///
/// The order of targets is the order of writing within a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Drop-in that delegates the cpuset controller of a VM's scope.
    Delegation(Vmid),
    /// Drop-in that tells systemd which NUMA nodes a VM's scope may allocate from.
    MemoryNodes(Vmid),
    /// Existence of a cgroup, named by its path below the root of the hierarchy.
    Group(String),
    /// Hugepages of a pool, in use or not. They are asked for without the host lock by the start
    /// that needs them: only what the pool had before is looked after like that of other targets.
    /// Before the knobs, so that they are given back after those of a device: freeing may take long.
    Hugepages(Pool),
    /// Kernel file of the knob table.
    Knob(Knob, Place),
    /// Driver that a function, named by its address, is bound to. It is bound, and goes back to what it
    /// had, without the host lock: only that is looked after like other targets.
    Driver(String),
    /// Cgroup that a thread is a member of.
    Membership(TaskId),
    /// Affinity of a thread of a VM.
    Affinity(TaskId),
    /// Affinity of a kernel thread.
    KernelThread(TaskId),
    /// Drop-in that systemd makes for [`Target::AllowedCpus`] and leaves behind; what it says
    /// meanwhile is systemd's business. Before the property, so that it is taken away after that
    /// was given back.
    DropIn(String),
    /// CPUs that a unit leaves its tasks (`AllowedCPUs=`); the empty set stands for all.
    AllowedCpus(String),
    /// Scheduling class of a thread of a VM.
    Class(TaskId),
}

/// Thread that makes all kernel threads.
pub const KTHREADD: i32 = 2;

impl Target {
    /// Returns the row of the knob table that it is a file of.
    pub fn row(&self) -> Option<&'static Row> {
        match self {
            Target::Knob(knob, _) => Some(knob.row()),
            _ => None,
        }
    }

    /// Returns its place among those of its stage when it is taken; see [`Row::rank`].
    pub fn rank(&self) -> u8 {
        match self {
            Target::Knob(knob, _) => knob.row().rank,
            _ => LAST_RANK,
        }
    }

    /// Returns the stage in which the target is written.
    pub fn stage(&self) -> Stage {
        match self {
            Target::Delegation(_) | Target::MemoryNodes(_) => Stage::Unit,
            Target::Group(_) => Stage::Partition,
            Target::Hugepages(_) | Target::Driver(_) => Stage::Host,
            Target::Knob(knob, _) => knob.row().stage,
            Target::Membership(_) => Stage::Members,
            Target::Affinity(_) => Stage::Threads,
            Target::KernelThread(_) => Stage::KernelThreads,
            Target::DropIn(_) | Target::AllowedCpus(_) => Stage::Slices,
            Target::Class(_) => Stage::Work,
        }
    }

    /// Returns the path of the file that stands for the target.
    pub fn path(&self) -> String {
        match self {
            Target::Delegation(vmid) => {
                format!("/run/systemd/system/{vmid}.scope.d/50-pin-hook.conf")
            }
            Target::MemoryNodes(vmid) => {
                format!("/run/systemd/system/{vmid}.scope.d/50-pin-hook-memory.conf")
            }
            Target::Group(path) => format!("/sys/fs/cgroup/{path}"),
            Target::Hugepages(pool) => {
                format!("/sys/devices/system/node/node{pool}/nr_hugepages")
            }
            Target::Knob(knob, place) => knob.row().path.replacen("{}", &place.to_string(), 1),
            Target::Driver(address) => format!("/sys/bus/pci/devices/{address}/driver"),
            Target::Membership(task) => format!("/proc/{task}/cgroup"),
            Target::Affinity(task) | Target::KernelThread(task) => {
                format!("/proc/{task}/status")
            }
            Target::DropIn(unit) | Target::AllowedCpus(unit) => drop_in(unit),
            Target::Class(task) => format!("/proc/{task}/stat"),
        }
    }

    /// Returns what the target is good for, in a few words.
    pub fn purpose(&self) -> &'static str {
        match self {
            Target::Delegation(_) => "keeps systemd from undoing the vm's partition, until reboot",
            Target::MemoryNodes(_) => "limits the vm's memory to its nodes",
            Target::Group(_) => "creates the cgroup of the vm's threads",
            Target::Hugepages(_) => "reserves the hugepages that the vm needs to start",
            Target::Knob(knob, _) => knob.row().doc,
            Target::Driver(_) => "returns a device to its previous driver",
            Target::Membership(_) => "puts threads of the vm into their cgroup",
            Target::Affinity(_) => "keeps threads of the vm on their cpus",
            Target::KernelThread(_) => "keeps kernel threads off the owned cpus",
            Target::DropIn(_) => "makes systemd remember AllowedCPUs= of a unit",
            Target::AllowedCpus(_) => "keeps units off the owned cpus",
            Target::Class(_) => "gives vcpu threads their scheduling class",
        }
    }

    /// Tells whether it is written without the host lock, by whoever needs that, and not by settling.
    pub fn is_asked_elsewhere(&self) -> bool {
        matches!(self, Target::Hugepages(_) | Target::Driver(_))
    }

    /// Returns the VM that the target belongs to, where that can be told by its name.
    pub fn vmid(&self) -> Option<Vmid> {
        let group = match self {
            Target::Delegation(vmid) | Target::MemoryNodes(vmid) => return Some(*vmid),
            Target::Group(path) => path,
            _ => self.group()?,
        };
        let mut names = group.split('/');
        names.find_map(|name| name.strip_suffix(".scope")?.parse().ok())
    }

    /// Tells whether what is born later inherits the value of this target.
    pub fn is_inherited(&self) -> bool {
        match self {
            Target::KernelThread(id) => id.tid == KTHREADD,
            Target::Knob(knob, _) => knob.row().is_inherited,
            _ => false,
        }
    }

    /// Returns the cgroup that the target lives in and vanishes with.
    pub fn group(&self) -> Option<&str> {
        match self {
            Target::Knob(_, Place::Group(path)) => Some(path),
            _ => None,
        }
    }
}

/// Returns the file in which systemd keeps a property that was set until the next boot: scopes
/// are transient units, others have it beside their unit files.
fn drop_in(unit: &str) -> String {
    let dir = match unit.ends_with(".scope") {
        true => "transient",
        false => "system.control",
    };
    format!("/run/systemd/{dir}/{unit}.d/50-AllowedCPUs.conf")
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Affinity(task) => write!(f, "affinity of thread {task}"),
            Target::KernelThread(task) => write!(f, "affinity of kernel thread {task}"),
            Target::Membership(task) => write!(f, "cgroup of thread {task}"),
            Target::AllowedCpus(unit) => write!(f, "AllowedCPUs= of {unit}"),
            Target::Class(task) => write!(f, "scheduling class of thread {task}"),
            _ => f.write_str(&self.path()),
        }
    }
}

/// Value of a target; that there is none is a value too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// The object does not exist, or the switch is off.
    Absent,
    /// The object exists, or the switch is on.
    Present,
    /// A set of CPUs.
    Cpus(CpuSet),
    /// A word of the kernel, or the path of a cgroup.
    Text(String),
}

impl Value {
    /// Returns the value that a knob's file holds.
    ///
    /// Text that does not follow the grammar is kept as it is: it is nobody's wish, and it is
    /// shown as the kernel printed it.
    pub fn parse(grammar: Grammar, text: &str) -> Value {
        let text = text.trim_end();
        let as_text = || Value::Text(text.to_owned());
        match grammar {
            Grammar::CpuList => text.parse().map_or_else(|_| as_text(), Value::Cpus),
            Grammar::CpuMask => cpus_of_mask(text).map_or_else(as_text, Value::Cpus),
            Grammar::Word => as_text(),
            Grammar::Fields => {
                let fields: Vec<&str> = text.split_whitespace().collect();
                Value::Text(fields.join(" "))
            }
            Grammar::Choice => {
                let mut choices = text.split_whitespace();
                let chosen = choices.find_map(|c| c.strip_prefix('[')?.strip_suffix(']'));
                chosen.map_or_else(as_text, |chosen| Value::Text(chosen.to_owned()))
            }
            Grammar::Name if text == "(null)" => Value::Text(String::new()),
            Grammar::Name => as_text(),
            Grammar::Switch(word) if text.split_whitespace().any(|w| w == word) => Value::Present,
            Grammar::Switch(_) => Value::Absent,
        }
    }

    /// Returns the text that gives a knob's file this value.
    pub fn render(&self, grammar: Grammar) -> String {
        match (grammar, self) {
            (Grammar::Switch(word), Value::Present) => format!("+{word}"),
            (Grammar::Switch(word), _) => format!("-{word}"),
            (Grammar::CpuMask, Value::Cpus(cpus)) => mask_of_cpus(cpus),
            // An empty write(2) never reaches the kernel; an empty line empties the list.
            (_, Value::Cpus(cpus)) if cpus.is_empty() => "\n".to_owned(),
            (Grammar::Name, Value::Text(name)) if name.is_empty() => "\n".to_owned(),
            (_, value) => value.to_string(),
        }
    }

    /// Returns the value as it is shown; nothing where its target does not exist.
    pub fn shown(&self) -> Option<String> {
        (*self != Value::Absent).then(|| self.to_string())
    }

    /// Returns the CPUs of a value that is a set of CPUs.
    pub fn cpus(&self) -> Option<&CpuSet> {
        match self {
            Value::Cpus(cpus) => Some(cpus),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Absent => f.write_str("absent"),
            Value::Present => f.write_str("present"),
            Value::Cpus(cpus) => cpus.fmt(f),
            Value::Text(text) => f.write_str(text),
        }
    }
}

/// Parses a cpumask: words of 32 bits in hexadecimal, highest first, separated by commas.
fn cpus_of_mask(text: &str) -> Option<CpuSet> {
    let words = text
        .split(',')
        .rev()
        .map(|word| u32::from_str_radix(word, 16).ok());
    let words = words.collect::<Option<Vec<u32>>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    Some(CpuSet::from_bytes(&bytes))
}

fn mask_of_cpus(cpus: &CpuSet) -> String {
    let n_words = cpus.last().map_or(1, |cpu| cpu.0 / 32 + 1);
    let word = |n: u32| -> u32 {
        (0..32)
            .filter(|bit| cpus.contains(CpuId(n * 32 + bit)))
            .map(|bit| 1 << bit)
            .sum()
    };
    let words: Vec<String> = (0..n_words)
        .rev()
        .map(|n| format!("{:08x}", word(n)))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_kernel() {
        let exclusive = Target::exclusive("qemu.slice");
        assert_eq!(
            exclusive.path(),
            "/sys/fs/cgroup/qemu.slice/cpuset.cpus.exclusive"
        );
        let irq = Target::irq(24, "nvme0q0");
        assert_eq!(irq.path(), "/proc/irq/24/smp_affinity_list");
    }

    #[test]
    fn a_switch_is_a_word_in_a_list() {
        let switch = Grammar::Switch("cpuset");
        assert_eq!(Value::parse(switch, "cpuset memory pids\n"), Value::Present);
        assert_eq!(Value::parse(switch, "memory\n"), Value::Absent);
        assert_eq!(Value::Present.render(switch), "+cpuset");
        assert_eq!(Value::Absent.render(switch), "-cpuset");
    }

    #[test]
    fn the_choice_in_force_is_in_brackets() {
        let word = |text: &str| Value::Text(text.to_owned());
        let choice = Value::parse(Grammar::Choice, "always [madvise] never\n");
        assert_eq!(choice, word("madvise"));
        assert_eq!(choice.render(Grammar::Choice), "madvise");
        assert_eq!(Value::parse(Grammar::Choice, "odd\n"), word("odd"));
        assert_eq!(Value::parse(Grammar::Fields, "4\t4  1\n"), word("4 4 1"));
    }

    #[test]
    fn a_name_may_be_none() {
        let none = Value::parse(Grammar::Name, "(null)\n");
        assert_eq!(none.render(Grammar::Name), "\n");
        let name = Value::parse(Grammar::Name, "vfio-pci\n");
        assert_eq!(name.render(Grammar::Name), "vfio-pci");
    }

    #[test]
    fn masks_have_words_of_32_bits() {
        let cpus: CpuSet = "0,33".parse().unwrap();
        assert_eq!(mask_of_cpus(&cpus), "00000002,00000001");
        assert_eq!(
            Value::parse(Grammar::CpuMask, "00000002,00000001\n"),
            Value::Cpus(cpus)
        );
        assert_eq!(
            Value::parse(Grammar::CpuMask, "ff\n"),
            Value::Cpus("0-7".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn a_mask_round_trips(cpus in proptest::collection::btree_set(0u32..=2000, 0..30)) {
            let cpus: CpuSet = cpus.into_iter().map(CpuId).collect();
            let text = Value::Cpus(cpus.clone()).render(Grammar::CpuMask);
            prop_assert_eq!(Value::parse(Grammar::CpuMask, &text), Value::Cpus(cpus));
        }
    }
}
