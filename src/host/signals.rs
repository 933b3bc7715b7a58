//! Receives signals that end a program as events.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What asks a program to end: a process, the terminal that is gone, and Ctrl-C.
pub const TO_END: [Signal; 3] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT];

/// Takes these signals as messages from now on, in threads that are started later as well. No read of them waits.
///
/// # Errors
/// The kernel's, where a limit leaves no room for it.
pub fn taken(signals: impl IntoIterator<Item = Signal>) -> nix::Result<SignalFd> {
    let signals: SigSet = signals.into_iter().collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
