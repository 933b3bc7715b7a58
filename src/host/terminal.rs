//! The terminal, for somebody who watches: whole, without echo, and as it was afterwards.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::signals::{TO_END, taken};

/// Another screen, no cursor, and no line that goes on in the next one.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J";
const END: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Ctrl-C, which is a byte like any other meanwhile.
const INTERRUPT: u8 = 3;

/// The terminal while somebody watches; it is as before when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    before: Termios,
    signals: SignalFd,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The time is over.
    Time,
    /// The terminal has another size, or may have.
    Resized,
    /// Somebody has enough.
    Quit,
}

impl Terminal {
    /// Takes the whole terminal; nothing where standard input or output is none.
    ///
    /// # Errors
    /// The terminal does not let itself be taken.
    pub fn take() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(None);
        }
        // Whoever sends one of these gets the terminal back as it was.
        let signals = taken(TO_END.into_iter().chain([Signal::SIGWINCH]))?;
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        print(BEGIN);
        Ok(Some(Terminal { before, signals }))
    }

    /// Returns how many lines the terminal has.
    pub fn n_lines(&self) -> usize {
        let size = tcgetwinsize(stdout());
        let lines = size.map_or(0, |size| usize::from(size.ws_row));
        // One that was never told its size has 0.
        if lines == 0 { 24 } else { lines }
    }

    /// Writes to it.
    pub fn print(&self, text: &str) {
        print(text);
    }

    /// Waits until somebody has enough, the size changes, or `time` is over.
    pub fn wait(&self, time: Duration) -> Woken {
        let input = stdin();
        let mut polled = [
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let time = Timespec::try_from(time).ok();
        if poll(&mut polled, time.as_ref()).unwrap_or_default() == 0 {
            return Woken::Time;
        }
        let [has_input, has_signal] = polled.map(|one| !one.revents().is_empty());
        if has_signal && let Ok(Some(signal)) = self.signals.read_signal() {
            let is_size = i32::try_from(signal.ssi_signo) == Ok(Signal::SIGWINCH as i32);
            return if is_size { Woken::Resized } else { Woken::Quit };
        }
        match has_input {
            true => keys(),
            false => Woken::Time,
        }
    }
}

/// Reads what was typed; a terminal that has gone is as good as `q`.
fn keys() -> Woken {
    let mut typed = [0; 64];
    let n = rustix::io::read(stdin(), &mut typed).unwrap_or_default();
    let typed = &typed[..n];
    let is_end = |byte: &u8| matches!(byte, b'q' | b'Q') || *byte == INTERRUPT;
    match typed.is_empty() || typed.iter().any(is_end) {
        true => Woken::Quit,
        // Any other key has it look again.
        false => Woken::Time,
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        print(END);
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

fn print(text: &str) {
    let mut out = stdout();
    // Whoever closed it sees nothing more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
