//! Commands in the notes of a VM, which the hookscript `exec-cmds` of pve-helpers executes.

use std::fmt;

/// A command that sets what a table of pin-hook sets too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoteCommand {
    /// The first word of the line.
    pub name: &'static str,
    /// Key of the table.
    pub key: &'static str,
}

/// Names of commands, each with the key of the table that sets the same.
const COMMANDS: [(&str, &str); 8] = [
    ("cpu_taskset", "cpus"),
    ("cpu_chrt", "pin.scheduler"),
    ("set_halt_poll", "host.halt-poll"),
    ("assign_interrupts", "pci.irqs"),
    ("pci_unbind", "pci.bind"),
    ("pci_rebind", "pci.bind"),
    ("pci_rescan", "pci.reset"),
    ("qm_conflict", "yield.stop"),
];

impl fmt::Display for NoteCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.key)
    }
}

/// Returns the commands in the notes of a VM, each once.
pub fn commands(notes: &str) -> Vec<NoteCommand> {
    let words = notes
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let words: Vec<&str> = words.collect();
    let there = COMMANDS.iter().filter(|(name, _)| words.contains(name));
    there
        .map(|&(name, key)| NoteCommand { name, key })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_begin_with_a_command_count() {
        let notes = "#CPU pinning\ncpu_taskset 3-18\nassign_interrupts --sleep=10s 3-18 --all\n\
                     # cpu_chrt fifo 1\nwe had set_halt_poll here\n";
        let names: Vec<&str> = commands(notes).iter().map(|one| one.name).collect();
        assert_eq!(names, ["cpu_taskset", "assign_interrupts"]);
        assert!(commands("").is_empty());
    }
}
