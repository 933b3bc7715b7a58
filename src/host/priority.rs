//! The priority of this process while somebody waits for it.

use rustix::process::setpriority_process;

/// The most that a task of the normal class can have.
const HIGHEST: i32 = -20;

/// Gives this thread, and the threads that it makes, precedence over programs of the same control group:
/// PVE waits for a phase, and a phase for whoever has the host lock.
///
/// On Linux the value is one of each thread, so the one that executes other programs, and is made before,
/// keeps what it had; so do the units of children, which systemd starts. Where it is not allowed nothing
/// changes: the run is slower then, and its deadlines hold nevertheless.
pub fn raise() {
    let _ = setpriority_process(None, HIGHEST);
}
