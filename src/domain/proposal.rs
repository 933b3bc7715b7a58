//! A table for a VM, and what its configuration has to say so that the guest fits the CPUs.
//!
//! Pure: text for the operator, made from a choice of CPUs. `qm` is never run from here.

mod fit;

pub use fit::{Command, Fit, fit, lacks_topoext};

use super::cpuset::CpuSet;
use super::placement::{Choice, Remark};

/// Columns of a comment; commands are longer, because they are copied whole.
const WIDTH: usize = 80;

/// Everything that a proposed table says.
#[derive(Debug, Clone)]
pub struct Proposal<'a> {
    /// First line, without the mark of a comment.
    pub title: &'a str,
    /// The CPUs.
    pub choice: &'a Choice,
    /// Why, and what is not as it could be.
    pub remarks: &'a [Remark],
    /// What has to be set in PVE.
    pub commands: &'a [Command],
}

impl Proposal<'_> {
    /// Returns the table as TOML, with the reasons as comments.
    pub fn text(&self) -> String {
        let of_kind = |is_warning| {
            let remarks = self.remarks.iter();
            remarks.filter(move |remark| remark.is_warning == is_warning)
        };
        let mut text = comment(self.title, "");
        text += "#\n# why these cpus:\n";
        for remark in of_kind(false) {
            text += &comment(&format!("- {}", remark.text), "  ");
        }
        if self.remarks.iter().any(|remark| remark.is_warning) {
            text += "#\n# note:\n";
        }
        for remark in of_kind(true) {
            text += &comment(&format!("- {}", remark.text), "  ");
        }
        text += &self.commands();
        text += &format!("cpus = \"{}\"\n", self.choice.cpus);
        text + &also(&self.choice.idle)
    }

    fn commands(&self) -> String {
        if self.commands.is_empty() {
            return "#\n# the vm's configuration fits as it is\n".to_owned();
        }
        let mut text = "#\n# so that the guest fits, while it is off:\n".to_owned();
        for Command { line, why } in self.commands {
            text += &comment(&format!("- {why}"), "  ");
            text += &format!("#     {}\n", printable(line));
        }
        text
    }
}

/// Returns the section for SMT siblings that stay without a vCPU.
fn also(idle: &CpuSet) -> String {
    match idle.is_empty() {
        true => String::new(),
        false => format!("\n[isolate]\nalso = \"{idle}\"   # smt siblings, idle\n"),
    }
}

/// Returns text in lines of a comment; those after the first begin with `indent`.
fn comment(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = "#".to_owned();
    for word in printable(text).split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &(line + "\n");
            line = format!("#{indent}");
        }
        line += " ";
        line += word;
    }
    lines + &line + "\n"
}

/// Returns text without what TOML does not allow in comments; a VM's name may have it.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::placement::Packing;

    #[test]
    fn a_table_has_its_reasons_as_comments() {
        let choice = Choice {
            cpus: "2-3".parse().unwrap(),
            idle: "6-7".parse().unwrap(),
            packing: Packing::OnePerCore,
        };
        let remark = |text: &str, is_warning| Remark {
            is_warning,
            ..Remark::info(text.to_owned())
        };
        let word = "x".repeat(50);
        let text = Proposal {
            title: "Table of a vm with a \u{7}bell.",
            choice: &choice,
            remarks: &[remark(&format!("{word} {word}"), false), remark("b", true)],
            commands: &[],
        }
        .text();
        let expected = format!(
            "# Table of a vm with a bell.\n#\n# why these cpus:\n# - {word}\n#   {word}\n\
             #\n# note:\n# - b\n#\n# the vm's configuration fits as it is\n\
             cpus = \"2-3\"\n\n[isolate]\nalso = \"6-7\"   # smt siblings, idle\n"
        );
        assert_eq!(text, expected);
    }
}
