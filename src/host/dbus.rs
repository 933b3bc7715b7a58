//! A client of a message bus, as far as one that is asked a few questions needs it (the D-Bus specification).
//!
//! It waits for nothing beyond the deadline of a call, without a thread: connecting, writing and reading have
//! timeouts. What it has to say first (authentication, `Hello`, the first calls) goes in one piece.

mod failure;
mod wire;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

pub use self::failure::Failure;
pub use self::wire::{Body, Call, Reader, Reply};
use self::wire::{HEADER, message, size_of};
use super::deadline::Deadline;

/// Size of the largest message that is read, in bytes.
const LARGEST: usize = 16 << 20;
/// Size of the longest line of the authentication, in bytes.
const LONGEST_LINE: usize = 512;
/// The shortest timeout that a socket takes.
const SHORTEST: Duration = Duration::from_millis(1);

/// A connection to a message bus.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Number of the last message that was sent.
    serial: u32,
    /// What is still to be sent before the next message.
    greeting: Vec<u8>,
    /// Whether the bus has accepted us.
    is_accepted: bool,
    /// What was read and not used yet.
    read: Vec<u8>,
}

impl Connection {
    /// Connects to the bus at a path; it is spoken to with the first call.
    ///
    /// # Errors
    /// [`Failure::Late`]; nobody listens there.
    pub fn open(path: &str, deadline: Deadline) -> Result<Self, Failure> {
        let flags = SocketFlags::CLOEXEC;
        let made = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = made.map_err(io::Error::from)?;
        // The queue of those who wait to be accepted may be full.
        let wait = Some(left(deadline)?);
        set_socket_timeout(&socket, Timeout::Send, wait).map_err(io::Error::from)?;
        let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        let connected = connect(&socket, &address);
        connected.map_err(|error| Failure::of_io(error.into()))?;
        let uid = nix::unistd::geteuid().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut connection = Connection {
            stream: socket.into(),
            serial: 0,
            greeting: format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").into_bytes(),
            is_accepted: false,
            read: Vec::new(),
        };
        let hello = connection.numbered(&Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            body: Body::default(),
        });
        connection.greeting.extend(hello);
        Ok(connection)
    }

    /// Makes a call and waits for the reply.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn call(&mut self, call: &Call<'_>, deadline: Deadline) -> Result<Reply, Failure> {
        let [reply] = self.calls([call], deadline);
        reply
    }

    /// Makes several calls at once and waits for their replies, which are in the same order.
    ///
    /// # Errors
    /// See [`Failure`], for each of them.
    pub fn calls<const N: usize>(
        &mut self,
        calls: [&Call<'_>; N],
        deadline: Deadline,
    ) -> [Result<Reply, Failure>; N] {
        let mut bytes = std::mem::take(&mut self.greeting);
        let first = self.serial + 1;
        for call in calls {
            bytes.extend(self.numbered(call));
        }
        let mut replies = [const { None }; N];
        let done = self.send(&bytes, deadline);
        let done = done.and_then(|()| self.await_all(&mut replies, first, deadline));
        let mut failure = done.err();
        replies.map(|reply| match (reply, failure.take()) {
            (Some(reply), kept) => {
                failure = kept;
                reply
            }
            (None, Some(error)) => Err(error),
            // Another one has told why.
            (None, None) => Err(Failure::Late),
        })
    }

    fn numbered(&mut self, call: &Call<'_>) -> Vec<u8> {
        self.serial += 1;
        message(call, self.serial)
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Failure> {
        self.stream
            .set_write_timeout(Some(left(deadline)?))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(Failure::of_io)
    }

    /// Reads until there is a reply to each message from the number `first` on.
    fn await_all(
        &mut self,
        replies: &mut [Option<Result<Reply, Failure>>],
        first: u32,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        if !self.is_accepted {
            self.await_acceptance(deadline)?;
        }
        while replies.iter().any(Option::is_none) {
            let message = self.next(deadline)?;
            let reply = Reply::of(message).ok_or_else(Failure::malformed)?;
            // A signal, or the reply to `Hello`.
            let place = reply.answers.and_then(|serial| serial.checked_sub(first));
            let place = place.and_then(|place| replies.get_mut(usize::try_from(place).ok()?));
            if let Some(place) = place {
                *place = Some(reply.accepted());
            } else if reply.answers.is_some() && reply.error.is_some() {
                // Without a name on the bus there is no reply to anything else.
                return Err(reply.accepted().err().unwrap_or_else(Failure::malformed));
            }
        }
        Ok(())
    }

    /// Reads the line by which the bus accepts us.
    fn await_acceptance(&mut self, deadline: Deadline) -> Result<(), Failure> {
        let end = loop {
            match self.read.windows(2).position(|end| end == b"\r\n") {
                Some(end) => break end,
                None if self.read.len() > LONGEST_LINE => return Err(Failure::malformed()),
                None => self.read_more(deadline)?,
            }
        };
        let line: Vec<u8> = self.read.drain(..end + 2).collect();
        if !line.starts_with(b"OK ") {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let text = format!("the bus does not accept this process: {text}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
        }
        self.is_accepted = true;
        Ok(())
    }

    /// Returns the next message.
    fn next(&mut self, deadline: Deadline) -> Result<Vec<u8>, Failure> {
        loop {
            if self.read.len() >= HEADER {
                let size = size_of(&self.read).filter(|size| *size <= LARGEST);
                let size = size.ok_or_else(Failure::malformed)?;
                if self.read.len() >= size {
                    return Ok(self.read.drain(..size).collect());
                }
            }
            self.read_more(deadline)?;
        }
    }

    fn read_more(&mut self, deadline: Deadline) -> Result<(), Failure> {
        let mut room = [0; 4096];
        let read = self
            .stream
            .set_read_timeout(Some(left(deadline)?))
            .and_then(|()| self.stream.read(&mut room));
        match read.map_err(Failure::of_io)? {
            0 => Err(Failure::Broken(io::ErrorKind::UnexpectedEof.into())),
            n => {
                self.read.extend(&room[..n]);
                Ok(())
            }
        }
    }
}

/// Returns the time that is left, as a socket takes it.
fn left(deadline: Deadline) -> Result<Duration, Failure> {
    match deadline.passed() {
        true => Err(Failure::Late),
        false => Ok(deadline.remaining().max(SHORTEST)),
    }
}
