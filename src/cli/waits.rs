//! Long waits: who reads along is told what for, after 2 s; on a terminal with a clock that runs.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use crate::domain::vm::TaskId;
use crate::host::clock::{Clock, KernelClock};

/// How long a wait may take before a word is said about it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the clock on a terminal goes on.
const TICK: Duration = Duration::from_secs(1);

/// What is being waited for, and what was said about it.
#[derive(Debug, Default)]
struct Teller {
    is_terminal: bool,
    /// Waits that are not over, each within the one before; the first is what matters to people.
    waits: Vec<String>,
    since: Duration,
    is_told: bool,
}

impl Teller {
    fn begin(&mut self, what: String, now: Duration) {
        if self.waits.is_empty() {
            self.since = now;
            self.is_told = false;
        }
        self.waits.push(what);
    }

    /// Ends the innermost wait; returns what takes its line off the terminal.
    fn end(&mut self) -> Option<&'static str> {
        self.waits.pop();
        let is_over = self.waits.is_empty() && self.is_told;
        (is_over && self.is_terminal).then_some("\r\x1b[K")
    }

    /// Returns how long nothing has to be said; `None` when there is nothing to say any more.
    fn pause(&self, now: Duration) -> Option<Duration> {
        if self.waits.is_empty() || self.is_told && !self.is_terminal {
            return None;
        }
        Some(match self.is_told {
            true => TICK,
            false => (self.since + PATIENCE).saturating_sub(now),
        })
    }

    /// Returns what is to be printed now.
    fn tell(&mut self, now: Duration) -> Option<String> {
        let what = self.waits.first()?;
        let waited = now.saturating_sub(self.since);
        if waited < PATIENCE || self.is_told && !self.is_terminal {
            return None;
        }
        self.is_told = true;
        Some(match self.is_terminal {
            true => format!(
                "\r\x1b[Kpin-hook: waiting for {what}, {} s",
                waited.as_secs()
            ),
            false => format!("pin-hook: waiting for {what}\n"),
        })
    }
}

/// The running kernel's clocks, which tell whoever reads along what is waited for.
#[derive(Debug)]
pub struct TellingClock {
    shared: Arc<Shared>,
    begun: Once,
}

#[derive(Debug, Default)]
struct Shared {
    teller: Mutex<Teller>,
    changed: Condvar,
}

impl TellingClock {
    /// Returns clocks that tell standard output; `is_terminal` says whether lines may be written over.
    pub fn new(is_terminal: bool) -> Self {
        let teller = Teller {
            is_terminal,
            ..Teller::default()
        };
        TellingClock {
            shared: Arc::new(Shared {
                teller: Mutex::new(teller),
                changed: Condvar::new(),
            }),
            begun: Once::new(),
        }
    }
}

impl Clock for TellingClock {
    fn since_boot(&self) -> Duration {
        KernelClock.since_boot()
    }

    fn wait_for_end(&self, processes: &[TaskId], wait: Duration) {
        KernelClock.wait_for_end(processes, wait);
    }

    fn awaits(&self, what: Option<&str>) {
        let mut teller = self.shared.lock();
        match what {
            Some(what) => teller.begin(what.to_owned(), self.since_boot()),
            None => print(teller.end().unwrap_or_default()),
        }
        drop(teller);
        self.shared.changed.notify_all();
        self.begun.call_once(|| {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("pin-hook-tell".to_owned());
            // Without a thread nothing is told, and all else is done.
            let _ = thread.spawn(move || shared.tell());
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Teller> {
        self.teller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of waits as long as the process lives.
    fn tell(&self) {
        let mut teller = self.lock();
        loop {
            if let Some(text) = teller.tell(KernelClock.since_boot()) {
                print(&text);
            }
            let pause = teller.pause(KernelClock.since_boot());
            teller = match pause {
                None => self
                    .changed
                    .wait(teller)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let waited = self.changed.wait_timeout(teller, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout();
    // A closed standard output keeps nobody from waiting.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_terminal_a_long_wait_is_told_once() {
        let mut teller = Teller::default();
        assert_eq!(teller.pause(s(100)), None);
        teller.begin("vm 107 to shut down".to_owned(), s(100));
        assert_eq!(teller.pause(s(100)), Some(s(2)));
        assert_eq!(teller.tell(s(101)), None);
        let text = teller.tell(s(102));
        let expected = "pin-hook: waiting for vm 107 to shut down\n";
        assert_eq!(text.as_deref(), Some(expected));
        assert_eq!((teller.tell(s(110)), teller.pause(s(110))), (None, None));
        assert_eq!(teller.end(), None);
    }

    #[test]
    fn on_a_terminal_the_clock_runs_and_the_line_goes() {
        let mut teller = Teller {
            is_terminal: true,
            ..Teller::default()
        };
        teller.begin("qm set 100".to_owned(), s(100));
        for (now, waited) in [(102, 2), (103, 3), (131, 31)] {
            let expected = format!("\r\x1b[Kpin-hook: waiting for qm set 100, {waited} s");
            assert_eq!(teller.tell(s(now)), Some(expected));
            assert_eq!(teller.pause(s(now)), Some(TICK));
        }
        assert_eq!(teller.end(), Some("\r\x1b[K"));
        assert_eq!(teller.tell(s(140)), None);
    }

    #[test]
    fn a_short_wait_is_not_worth_a_word() {
        let mut teller = Teller::default();
        teller.begin("qm set 100".to_owned(), s(100));
        assert_eq!(teller.end(), None);
        teller.begin("qm set 101".to_owned(), s(103));
        assert_eq!(teller.tell(s(104)), None);
    }

    #[test]
    fn a_wait_within_another_is_part_of_it() {
        let mut teller = Teller::default();
        teller.begin("hugepages".to_owned(), s(100));
        teller.begin("compact_memory".to_owned(), s(101));
        assert_eq!(teller.end(), None);
        let text = teller.tell(s(102));
        assert_eq!(text.as_deref(), Some("pin-hook: waiting for hugepages\n"));
    }
}
