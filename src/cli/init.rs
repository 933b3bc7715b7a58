//! `init`: a table for a VM, with the reasons.

use super::json;
use super::output::Output;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::init::{Intent, Proposed, propose, write};

/// What to do with the table.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Whether it is written.
    pub write: bool,
    /// Whether a table that is there is replaced.
    pub force: bool,
    /// Whether JSON is printed.
    pub json: bool,
    /// What the CPUs are for.
    pub intent: Intent,
}

/// Shows, and writes if asked to, a table for a VM; fails when there is no room for it.
pub fn show(host: &Host, vmid: Vmid, wish: Wish, output: &Output) -> anyhow::Result<Exit> {
    let mut proposed = propose(host, vmid, wish.intent)?;
    if wish.write {
        write(host, &mut proposed, wish.force)?;
    }
    if wish.json {
        json::print(&proposed, output)?;
    } else {
        print(&proposed, output);
    }
    Ok(match proposed.error {
        None => Exit::Done,
        Some(_) => Exit::Refused,
    })
}

/// Prints the table as it would be in the file; what is said besides is a comment in it, or an
/// error instead of it.
fn print(proposed: &Proposed, output: &Output) {
    if let Some(error) = &proposed.error {
        output.complain(error);
        let warnings = proposed.warnings.iter();
        return warnings.for_each(|text| output.say(Level::Warning, text));
    }
    output.print(proposed.table.as_deref().unwrap_or_default());
    if let Some(path) = &proposed.written {
        let vmid = proposed.vmid;
        let hidden = proposed.existing.as_ref().filter(|other| *other != path);
        let hides =
            hidden.map(|other| format!(", which takes precedence over {other} on this node"));
        let hides = hides.unwrap_or_default();
        let text =
            format!("wrote {path}{hides}; pin-hook plan {vmid} shows what a start would change");
        output.say(Level::Info, &text);
    }
}
