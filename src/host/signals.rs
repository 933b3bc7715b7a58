//! Signals that ask the program to end, taken as a wish instead of as a death.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Takes Ctrl-C and a request to end as a wish, in threads that are started from now on as well.
#[derive(Debug)]
pub struct Wishes(Option<SignalFd>);

impl Wishes {
    /// Begins to take them. Where the kernel has no room for it, they end the program as ever.
    pub fn begin() -> Self {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let Ok(taken) = SignalFd::with_flags(&signals, flags) else {
            return Wishes(None);
        };
        Wishes(signals.thread_block().ok().map(|()| taken))
    }

    /// Tells whether the end was wished for since the last time.
    pub fn to_end(&self) -> bool {
        let taken = self.0.as_ref().map(SignalFd::read_signal);
        matches!(taken, Some(Ok(Some(_))))
    }
}
