//! `init`: a table for a VM, with the reasons.

use super::args::Proposing;
use super::json;
use super::output::Output;
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::init::{Intent, Proposed, propose, write};

/// Shows, and writes if asked to, a table for a VM; fails when there is no room for it.
pub fn show(host: &Host, asked: &Proposing, output: &Output) -> anyhow::Result<Exit> {
    let intent = Intent {
        prefer: asked.prefer,
        smt: asked.smt,
    };
    let mut proposed = propose(host, asked.vmid, intent)?;
    if asked.write {
        write(host, &mut proposed, asked.force)?;
    }
    json::or_text(&proposed, asked.json, output, print)?;
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
