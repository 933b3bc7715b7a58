//! Wishes that came while the host lock could not be had, for the next reconcile.

use super::state_dir::make_state_dir;
use crate::domain::vm::Vmid;
use crate::host::dirs::make_dir;
use crate::host::files::Files;
use crate::host::trouble::cannot;

/// One empty file for each VM.
const SPOOL: &str = "/run/pin-hook/spool";

/// Leaves a wish for a VM to the next reconcile, because the host lock could not be had.
pub fn spool(files: &dyn Files, vmid: Vmid) -> anyhow::Result<()> {
    make_state_dir(files)?;
    make_dir(files, SPOOL, 0o700).map_err(cannot("make", SPOOL))?;
    let path = format!("{SPOOL}/{vmid}");
    files
        .replace(&path, "", 0o600)
        .map_err(cannot("write", &path))
}

/// Tells whether a wish waits for the next reconcile.
pub fn has_spooled(files: &dyn Files) -> bool {
    !files.list(SPOOL).unwrap_or_default().is_empty()
}

/// Returns the wishes that were left.
pub fn spooled(files: &dyn Files) -> Vec<Vmid> {
    let names = files.list(SPOOL).unwrap_or_default();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Forgets a wish, once it was fulfilled or refused: whoever dies before leaves it to the next one.
pub fn unspool(files: &dyn Files, vmid: Vmid) {
    // One that stays is looked at again.
    let _ = files.remove(&format!("{SPOOL}/{vmid}"));
}
