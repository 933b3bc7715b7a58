//! What the operator can do about an error, whatever it is.

use std::io;

use super::look::{Hidden, is_denied};
use crate::domain::advice::Advised;
use crate::domain::enabling::EnableRefusal;
use crate::domain::vm::Vmid;
use crate::host::privilege::is_root;
use crate::host::table::Untrusted;

/// Returns what can be done about an error: what it knows itself, otherwise where to look.
pub fn help_for(error: &anyhow::Error) -> String {
    known_help(error).unwrap_or_else(|| SOMEWHERE.to_owned())
}

/// Returns what an error knows that can be done about it.
pub fn known_help(error: &anyhow::Error) -> Option<String> {
    let of_io = || error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    let advised = error.downcast_ref::<Advised>().or_else(of_io);
    let refused = error.downcast_ref::<EnableRefusal>();
    let untrusted = error.downcast_ref::<Untrusted>();
    let hidden = error.downcast_ref::<Hidden>();
    advised
        .map(|known| known.help.clone())
        .or_else(|| refused.map(EnableRefusal::help))
        .or_else(|| untrusted.map(Untrusted::remedy))
        .or_else(|| hidden.map(|hidden| hidden.help().to_owned()))
        .or_else(|| (is_denied(error) && !is_root()).then(|| Hidden.help().to_owned()))
}

/// Returns what can be done for a VM that runs without the CPUs that it was to own.
pub fn help_without_cpus(vmid: Vmid) -> String {
    format!(
        "the vm runs without cpus of its own; pin-hook plan {vmid} shows what is in the way, \
         pin-hook apply {vmid} tries again"
    )
}

/// For what nobody has foreseen: the host refuses what it has never refused before.
const SOMEWHERE: &str = "try again; dmesg and journalctl -t pin-hook may tell more, pin-hook \
                         status shows what is owned";
