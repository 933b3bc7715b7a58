//! What a measurement has shown of a VM, kept until the next boot.

use crate::domain::measure::measurement::Measurement;
use crate::domain::measure::proof::Proof;
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::dirs::make_dirs;
use crate::host::files::Files;
use crate::host::trouble::cannot;
use crate::lifecycle::engine::journal::read_state;

const DIR: &str = "/run/pin-hook/measured";

/// Keeps what a measurement has shown of a VM that has what its table asks for.
///
/// # Errors
/// The file cannot be written.
pub fn keep(host: &Host, measurement: &Measurement) -> anyhow::Result<()> {
    let Some(vmid) = measurement.vmid else {
        return Ok(());
    };
    // Where the state is damaged, status says so; nothing is proven by then.
    let Ok(state) = read_state(&*host.files) else {
        return Ok(());
    };
    let claim = state.claims.get(&vmid).filter(|claim| claim.is_running());
    let proof = claim.and_then(|claim| Proof::of(measurement, &claim.wishes));
    let Some(proof) = proof else { return Ok(()) };
    let path = path(vmid);
    make_dirs(&*host.files, DIR, 0o700).map_err(cannot("make", DIR))?;
    let text = serde_json::to_string(&proof)?;
    let written = host.files.replace(&path, &text, 0o600);
    written.map_err(cannot("write", &path))
}

/// Returns what the last measurement of a VM since the boot has shown.
pub fn of_vm(files: &dyn Files, vmid: Vmid) -> Option<Proof> {
    serde_json::from_str(&files.read(&path(vmid)).ok()?).ok()
}

fn path(vmid: Vmid) -> String {
    format!("{DIR}/{vmid}.json")
}
