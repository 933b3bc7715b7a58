//! A file that says that nothing is held and no unit looks after it: it saves asking systemd for that in each phase of
//! a VM that owns nothing.
//!
//! It is made when the units were stopped, and removed right after the first record is written that there is something
//! to remember. Where somebody has removed the log, it is not there either, and systemd is asked.

use super::state_dir::STATE_DIR;
use crate::host::files::Files;

const AT_REST: &str = "/run/pin-hook/at-rest";

/// Tells whether nothing was held when a run last looked, and the units were stopped.
pub fn is_at_rest(files: &dyn Files) -> bool {
    files.exists(AT_REST)
}

/// Takes note of that nothing is held, and of that the units were stopped.
pub fn rest(files: &dyn Files) {
    // Without it systemd is asked, that is all.
    if files.exists(STATE_DIR) && !is_at_rest(files) {
        let _ = files.replace(AT_REST, "", 0o600);
    }
}

/// Takes that back.
pub fn disturb(files: &dyn Files) {
    if is_at_rest(files) {
        let _ = files.remove(AT_REST);
    }
}
