//! What PVE and QEMU have against a start by the VM's config, whatever its table says.

use crate::domain::guest::Guest;
use crate::domain::memory::refused::refused;
use crate::domain::pci::outlook::Outlook;
use crate::domain::topology::Topology;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::topology::read_topology;

/// Returns why a VM with this config would not start at all.
pub fn obstacle(host: &Host, vmid: Vmid, guest: &Guest) -> Option<Outlook> {
    locked(vmid, guest).or_else(|| memory(&read_topology(&*host.files).ok()?, vmid, guest))
}

/// PVE starts no VM that it is in the middle of something with; a suspended one it resumes
/// (`PVE::AbstractConfig::check_lock`).
pub fn locked(vmid: Vmid, guest: &Guest) -> Option<Outlook> {
    let lock = guest.lock.as_deref().filter(|lock| *lock != "suspended")?;
    Some(Outlook {
        reason: format!("the vm is locked ({lock})"),
        help: format!("wait for the task that is running; if there is none: qm unlock {vmid}"),
        warning: String::new(),
        summary: format!("vm {vmid} would not start: pve refuses it while it is locked"),
        what: "pve refuses it while it is locked".to_owned(),
        fails: true,
    })
}

/// Returns what PVE or QEMU have against its memory.
pub fn memory(topology: &Topology, vmid: Vmid, guest: &Guest) -> Option<Outlook> {
    let refused = refused(guest, topology)?;
    let what = format!("{} refuses its memory", refused.by);
    Some(Outlook {
        reason: refused.to_string(),
        help: refused.help(vmid),
        warning: refused.to_string(),
        summary: format!("vm {vmid} would not start: {what}"),
        what,
        fails: true,
    })
}
