//! The directory of the program's state, which nobody but root may have written.

use std::io;

use anyhow::bail;

use crate::domain::advice::Advised;
use crate::host::files::{Files, Owner};
use crate::host::trouble::cannot;

/// Directory of the program's state; gone after a reboot, as everything is that it describes.
pub const STATE_DIR: &str = "/run/pin-hook";

/// Makes the directory, unless it is there and belongs to root.
///
/// # Errors
/// It cannot be made, or somebody else may have written it.
pub fn make_state_dir(files: &dyn Files) -> anyhow::Result<()> {
    match files.make_dir(STATE_DIR, 0o700) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_owner(files),
        made => made.map_err(cannot("make", STATE_DIR)),
    }
}

/// Checks that nobody but root may have written the directory.
///
/// # Errors
/// Somebody may have, or that cannot be told.
pub(super) fn check_owner(files: &dyn Files) -> anyhow::Result<()> {
    // A captured host belongs to whoever made it.
    if files.owner("/").is_ok_and(|root| root.uid != 0) {
        return Ok(());
    }
    let owner = files.owner(STATE_DIR).map_err(cannot("read", STATE_DIR))?;
    if owner.uid != 0 || owner.mode & 0o022 != 0 {
        let Owner { uid, mode } = owner;
        bail!(Advised::new(
            format!(
                "{STATE_DIR} belongs to uid {uid} with mode {mode:o}, so someone other than root \
                 may have written it"
            ),
            format!("rm -r {STATE_DIR}, then pin-hook release --all"),
        ));
    }
    Ok(())
}
