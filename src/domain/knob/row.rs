//! What a row of the knob table says.

use crate::domain::stage::Stage;

/// How the text of a knob is read, compared and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// A cpulist; compared as a set. The empty set is written as an empty line.
    CpuList,
    /// A hexadecimal cpumask in words of 32 bits; compared as a set.
    CpuMask,
    /// One line of text, compared as it is.
    Word,
    /// Words or numbers between blanks; compared word by word.
    Fields,
    /// All choices on one line with the one in force in brackets; written without.
    Choice,
    /// A name, or `(null)` where there is none, which is written as an empty line.
    Name,
    /// A list of words of which one is there or not; written as `+word` or `-word`.
    Switch(&'static str),
}

/// Which of several wishes for one file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// That of the VM that was started first, as long as it runs.
    First,
    /// The largest number.
    Highest,
    /// The smallest number.
    Lowest,
    /// The word that comes first in this list.
    Strongest(&'static [&'static str]),
}

impl Rule {
    /// Returns the rule in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Rule::First => "the vm that was started first wins",
            Rule::Highest => "the highest value wins",
            Rule::Lowest => "the lowest value wins",
            Rule::Strongest(_) => "the strongest value wins",
        }
    }
}

/// Where the value that was asked for is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// In the file itself.
    File,
    /// In a file beside it, where there is one: its name is that of the file with this behind it.
    Beside(&'static str),
    /// In the list of CPUs that are online: the file of one that is on its way offline cannot be read
    /// before it is there (`online_show()` takes the device lock that the write holds, `drivers/base/core.c`).
    Online,
    /// In the file itself, in which the text of this other file means what none means.
    AllIsNone(&'static str),
}

/// When a write may sleep in the kernel without bound, so that a child makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleeps {
    /// It does not.
    Never,
    /// Every one may.
    Always,
    /// When this is written, or waited for by whoever writes something else.
    Around(&'static str),
    /// When a text that starts so is written or replaced, on kernels whose partitions wait for probes
    /// (Linux 7.0 and later).
    Isolating(&'static str),
    /// When a list changes which CPUs are isolated, on the same kernels.
    Isolated,
}

/// Which words a file takes, where the driver lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Nobody lists them.
    Unlisted,
    /// Those in a file of this name beside it.
    Beside(&'static str),
    /// The same, and governors that the kernel loads as their name is written.
    Governors(&'static str),
    /// Frequencies that the hardware has, to which the kernel cuts all others.
    Limit(Limit),
}

/// Which end of the frequencies of a policy a file limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// They are not lower.
    Lowest,
    /// They are not higher.
    Highest,
}

/// Row of the knob table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Path of the file; `{}` stands for the place (a cgroup, an interrupt number).
    pub path: &'static str,
    /// How the file is read and written.
    pub grammar: Grammar,
    /// When it is written.
    pub stage: Stage,
    /// What it is for, in one line.
    pub doc: &'static str,
    /// Key of the VM's table that wishes for it; `{}` stands for the name of a sysctl.
    pub key: Option<&'static str>,
    /// Order of writing within its stage when it is taken; giving back goes through the table backwards.
    pub rank: u8,
    /// What holds when several VMs wish for different values.
    pub rule: Rule,
    /// Places that have another rule.
    pub rules: &'static [(&'static str, Rule)],
    /// Whether the kernel never gives it its former value by itself: who finds that there while a VM
    /// wishes for another one knows that somebody has set it back.
    pub is_kept: bool,
    /// Whether the kernel takes a value and applies it later, in work of its own.
    pub is_applied_later: bool,
    /// Where the value is read.
    pub reading: Reading,
    /// Whether a write may sleep.
    pub sleeps: Sleeps,
    /// What it accepts.
    pub words: Words,
    /// File that names all, which is written instead where the kernel refuses an empty list: that of a
    /// cgroup with tasks cannot be emptied any more (ENOSPC on 6.12, not on 7.3; `validate_change()` in
    /// `kernel/cgroup/cpuset.c`).
    pub all: Option<&'static str>,
    /// Whether it is the list of a cgroup that was there before and has tasks of others. One that names
    /// all CPUs is as good as an empty one.
    pub is_list_of_others: bool,
    /// Whether others go on exchanging CPUs in the list, and only a change of their number is a decision.
    pub is_balanced: bool,
    /// Whether what is born later inherits the value.
    pub is_inherited: bool,
    /// Whether it lacks the owned CPUs and nothing else, so that they can be told from it.
    pub tells_owned: bool,
    /// Whether a cgroup passes it on to the VMs below it.
    pub is_passed_on: bool,
    /// What has to be written before an invalid value becomes valid again.
    pub revived_by: Option<&'static str>,
}

/// The place of what does not depend on the others of its stage.
pub const LAST_RANK: u8 = 5;

/// A row that says nothing but the usual.
pub const PLAIN: Row = Row {
    path: "",
    grammar: Grammar::Word,
    stage: Stage::Host,
    doc: "",
    key: None,
    rank: LAST_RANK,
    rule: Rule::First,
    rules: &[],
    is_kept: false,
    is_applied_later: false,
    reading: Reading::File,
    sleeps: Sleeps::Never,
    words: Words::Unlisted,
    all: None,
    is_list_of_others: false,
    is_balanced: false,
    is_inherited: false,
    tells_owned: false,
    is_passed_on: false,
    revived_by: None,
};

/// A setting that a VM wishes for and the kernel leaves alone.
pub const SETTING: Row = Row {
    is_kept: true,
    ..PLAIN
};

/// The list of a cgroup outside of the VMs.
pub const LIST_OF_OTHERS: Row = Row {
    path: "/sys/fs/cgroup/{}/cpuset.cpus",
    grammar: Grammar::CpuList,
    all: Some("/sys/devices/system/cpu/possible"),
    is_list_of_others: true,
    ..PLAIN
};
