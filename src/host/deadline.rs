//! Deadlines: nothing outside of this program may make it wait longer than it decided.
//!
//! Sockets block in `connect`, libraries block in handshakes that their own timeouts do not cover.
//! What may block runs in a thread of its own; the caller keeps the deadline.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A wait without end: the clock cannot tell a later time than it can hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The point in time at which a wait gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// Returns the deadline that ends `wait` from now, and in a year at the latest.
    pub fn after(wait: Duration) -> Self {
        Self {
            at: Instant::now() + wait.min(LONGEST),
        }
    }

    /// Returns the time that is left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Tells whether the deadline has passed.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }
}

/// Runs `work` in a thread of its own and returns its result, or `None` when it takes longer
/// than `wait`, or no thread can be had. A panic ends the program, as everywhere.
///
/// A late thread is abandoned: it may go on until the process ends, and its result is dropped.
/// Work that holds something others need must therefore have a deadline of its own as well.
pub fn within<T: Send + 'static>(
    wait: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let worker = thread::Builder::new().name("pin-hook-wait".to_owned());
    worker
        .spawn(move || {
            let _ = sender.send(work());
        })
        .ok()?;
    receiver.recv_timeout(wait).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_time_gives_its_result() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }

    #[test]
    fn late_work_is_abandoned_and_its_result_dropped() {
        let (go, held) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        let late = within(Duration::from_millis(10), move || {
            let _ = held.recv();
            let _ = done.send(());
        });
        assert_eq!(late, None);
        go.send(()).unwrap();
        finished.recv().unwrap();
    }

    #[test]
    fn a_deadline_passes() {
        assert!(Deadline::after(Duration::ZERO).passed());
        let later = Deadline::after(Duration::from_secs(60));
        assert!(!later.passed());
        assert!(later.remaining() > Duration::from_secs(30));
    }

    #[test]
    fn a_wait_without_end_has_a_deadline() {
        assert!(!Deadline::after(Duration::MAX).passed());
    }
}
