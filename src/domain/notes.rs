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

const COMMANDS: [NoteCommand; 8] = [
    NoteCommand {
        name: "cpu_taskset",
        key: "cpus",
    },
    NoteCommand {
        name: "cpu_chrt",
        key: "pin.scheduler",
    },
    NoteCommand {
        name: "set_halt_poll",
        key: "host.halt-poll",
    },
    NoteCommand {
        name: "assign_interrupts",
        key: "pci.irqs",
    },
    NoteCommand {
        name: "pci_unbind",
        key: "pci.bind",
    },
    NoteCommand {
        name: "pci_rebind",
        key: "pci.bind",
    },
    NoteCommand {
        name: "pci_rescan",
        key: "pci.reset",
    },
    NoteCommand {
        name: "qm_conflict",
        key: "yield.stop",
    },
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
    let is_there = |command: &NoteCommand| words.contains(&command.name);
    COMMANDS.into_iter().filter(is_there).collect()
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
