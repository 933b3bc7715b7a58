//! The journal: what a phase did, with fields, in the native protocol of journald
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! journald's socket blocks when journald hangs. Entries are therefore collected while a phase
//! runs and sent at its end, with a deadline for all of them.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::deadline::Deadline;
use crate::domain::vm::Vmid;

/// How long journald may take for all entries of a phase.
pub const WAIT: Duration = Duration::from_millis(300);

const SOCKET: &str = "/run/systemd/journal/socket";
/// Where a text is cut, in bytes: a datagram takes no more than some 200 KiB.
const LONGEST: usize = 64 << 10;

/// How grave an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// Something is not as wished.
    Warning = 4,
    /// Something was done.
    Notice = 5,
}

/// An entry of the journal; each field that is set becomes `PINHOOK_<NAME>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How grave it is.
    pub priority: Priority,
    /// The text, which carries the key facts: `journalctl -t pin-hook` shows nothing else.
    pub message: String,
    /// The VM it is about.
    pub vmid: Option<Vmid>,
    /// The phase or command that ran.
    pub phase: Option<String>,
    /// The backend in use.
    pub backend: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: Option<u64>,
}

/// Sends entries to journald and tells whether that was done in time.
///
/// Without a journald there is nobody to tell, which is no failure.
pub fn send(entries: &[Entry]) -> bool {
    deliver(entries, SOCKET, WAIT)
}

/// Sends entries to whoever listens at `path`, within `wait`.
fn deliver(entries: &[Entry], path: &str, wait: Duration) -> bool {
    if entries.is_empty() {
        return true;
    }
    let Ok(socket) = UnixDatagram::unbound() else {
        return true;
    };
    if socket.connect(path).is_err() {
        return true;
    }
    let deadline = Deadline::after(wait);
    let mut datagrams = entries.iter().map(datagram);
    datagrams.all(|datagram| {
        let left = deadline.remaining();
        let ready = !left.is_zero() && socket.set_write_timeout(Some(left)).is_ok();
        ready && !matches!(socket.send(&datagram), Err(error) if is_late(&error))
    })
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Returns an entry as journald takes it.
fn datagram(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut ends = (0..=LONGEST.min(entry.message.len())).rev();
    let end = ends.find(|end| entry.message.is_char_boundary(*end));
    let message = &entry.message[..end.unwrap_or_default()];
    field(&mut bytes, "PRIORITY", &(entry.priority as u8).to_string());
    field(&mut bytes, "SYSLOG_IDENTIFIER", "pin-hook");
    field(&mut bytes, "MESSAGE", message);
    let others = [
        ("PINHOOK_VMID", entry.vmid.map(|vmid| vmid.to_string())),
        ("PINHOOK_PHASE", entry.phase.clone()),
        ("PINHOOK_BACKEND", entry.backend.clone()),
        ("PINHOOK_MS", entry.ms.map(|ms| ms.to_string())),
    ];
    for (name, value) in others {
        if let Some(value) = value {
            field(&mut bytes, name, &value);
        }
    }
    bytes
}

/// Adds a field; a value of several lines has its length before it.
fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(priority: Priority, message: &str) -> Entry {
        Entry {
            priority,
            message: message.to_owned(),
            vmid: None,
            phase: None,
            backend: None,
            ms: None,
        }
    }

    #[test]
    fn fields_that_are_set_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let full = Entry {
            vmid: Some("100".parse().unwrap()),
            phase: Some("post-start".to_owned()),
            ms: Some(38),
            ..entry(Priority::Notice, "isolated {cpus} 8-15")
        };
        let entries = [full, entry(Priority::Warning, "two\nlines")];
        assert!(deliver(&entries, path.to_str().unwrap(), WAIT));
        let mut room = [0; 4096];
        let mut next = || {
            let n = journald.recv(&mut room).unwrap();
            String::from_utf8(room[..n].to_vec()).unwrap()
        };
        assert_eq!(
            next(),
            "PRIORITY=5\nSYSLOG_IDENTIFIER=pin-hook\nMESSAGE=isolated {cpus} 8-15\nPINHOOK_VMID=100\n\
             PINHOOK_PHASE=post-start\nPINHOOK_MS=38\n"
        );
        assert_eq!(
            next(),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=pin-hook\nMESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\n"
        );
    }

    #[test]
    fn a_journald_that_hangs_costs_the_deadline_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _hung = UnixDatagram::bind(&path).unwrap();
        // More than wait to be received (`net.unix.max_dgram_qlen`).
        let entries = vec![entry(Priority::Notice, &"text".repeat(1000)); 10_000];
        let path = path.to_str().unwrap();
        assert!(!deliver(&entries, path, Duration::from_millis(10)));
    }

    #[test]
    fn nothing_to_say_needs_nobody_and_nobody_listens_without_harm() {
        assert!(deliver(&[], "/nonexistent", Duration::ZERO));
        let entries = [entry(Priority::Error, "text")];
        assert!(deliver(&entries, "/nonexistent", WAIT));
    }
}
