//! What the notes of a VM have done by another hookscript.

use crate::domain::guest::Guest;
use crate::domain::notes::commands;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::record;

/// Says which commands in the notes set what pin-hook sets, where a hookscript executes them: the
/// VM's own, or the one that is called in every phase because the VM had it before.
pub fn warning(host: &Host, vmid: Vmid, guest: &Guest) -> Option<String> {
    let found = commands(guest.description.as_deref()?);
    let own = guest.hookscript.clone().filter(|_| !guest.is_hooked());
    let former = || Some(record::former(&*host.files, vmid).ok()??.to_string());
    let hook = own.or_else(former)?;
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    (!list.is_empty()).then(|| {
        format!(
            "the notes of the vm have commands by which {hook} sets what pin-hook sets: {}; take \
             them out of the notes",
            list.join(", ")
        )
    })
}
