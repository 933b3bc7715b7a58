//! What is outside: QEMU's monitor, also when it misbehaves.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pin_hook::domain::vm::Vmid;
use pin_hook::host::qmp::{Qmp, QmpSockets};
use tempfile::TempDir;

/// Long enough for every peer that answers.
const PATIENT: Duration = Duration::from_secs(60);
/// For peers that never answer.
const SHORT: Duration = Duration::from_millis(200);

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#;
const ACCEPTED: &str = r#"{"return": {}, "id": 0}"#;

fn vm() -> Vmid {
    "100".parse().unwrap()
}

fn listen(name: &str) -> (TempDir, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(name)).unwrap();
    (dir, listener)
}

/// Runs a monitor that does as `behave` says for its first client; returns what it was asked.
fn monitor(
    wait: Duration,
    behave: impl FnOnce(&mut UnixStream, &mut dyn FnMut()) + Send + 'static,
) -> (TempDir, QmpSockets, mpsc::Receiver<String>) {
    let (dir, listener) = listen("100.qmp");
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut next = || {
            if let Some(Ok(line)) = lines.next() {
                let _ = asked.send(line);
            }
        };
        behave(&mut stream, &mut next);
    });
    let sockets = QmpSockets::at(dir.path(), wait);
    (dir, sockets, questions)
}

/// Runs a monitor that greets and gives `reply` to the first command.
fn answering(reply: &'static str) -> (TempDir, QmpSockets, mpsc::Receiver<String>) {
    monitor(PATIENT, move |stream, next| {
        write!(stream, "{GREETING}\r\n").unwrap();
        next();
        write!(stream, "{ACCEPTED}\r\n").unwrap();
        next();
        write!(stream, "{reply}\r\n").unwrap();
    })
}

#[test]
fn a_monitor_is_asked_one_thing() {
    let reply = r#"{"return": {"status": "prelaunch", "singlestep": false}, "id": 1}"#;
    let (_dir, qmp, asked) = answering(reply);
    assert_eq!(qmp.run_state(vm()).unwrap(), "prelaunch");
    let asked: Vec<String> = asked.iter().collect();
    assert_eq!(
        asked,
        [
            r#"{"execute":"qmp_capabilities","id":0}"#,
            r#"{"execute":"query-status","id":1}"#,
        ]
    );
}

#[test]
fn threads_are_returned_with_their_names_and_numbers() {
    let reply = r#"{"return": [{"thread-id": 41, "cpu-index": 0, "target": "x86_64"},
        {"thread-id": 42, "cpu-index": 1}], "id": 1}"#;
    let one_line: &'static str = Box::leak(reply.replace('\n', "").into_boxed_str());
    let (_dir, qmp, _asked) = answering(one_line);
    assert_eq!(qmp.vcpus(vm()).unwrap(), [(0, 41), (1, 42)]);

    let reply = r#"{"return": [{"id": "iothread-virtio0", "thread-id": 43}], "id": 1}"#;
    let (_dir, qmp, _asked) = answering(reply);
    let iothreads = qmp.iothreads(vm()).unwrap();
    assert_eq!(iothreads, [("iothread-virtio0".to_owned(), 43)]);
}

#[test]
fn events_and_replies_to_others_are_skipped() {
    let (_dir, qmp, _asked) = monitor(PATIENT, |stream, next| {
        let event = r#"{"event": "RTC_CHANGE", "data": {"offset": 1}, "timestamp": {}}"#;
        write!(stream, "{GREETING}\r\n{event}\r\n").unwrap();
        next();
        write!(stream, "{event}\r\n{ACCEPTED}\r\n{event}\r\n").unwrap();
        next();
        let other = r#"{"return": {"status": "paused"}, "id": 7}"#;
        let own = r#"{"return": {"status": "running"}, "id": 1}"#;
        write!(stream, "{other}\r\n{event}\r\n{own}\r\n").unwrap();
    });
    assert_eq!(qmp.run_state(vm()).unwrap(), "running");
}

#[test]
fn an_error_reply_is_reported_with_class_and_text() {
    let reply = r#"{"error": {"class": "CommandNotFound", "desc": "unknown"}, "id": 1}"#;
    let (_dir, qmp, _asked) = answering(reply);
    let error = format!("{:#}", qmp.run_state(vm()).unwrap_err());
    assert_eq!(error, "vm 100: qmp query-status: CommandNotFound: unknown");
}

#[test]
fn a_monitor_that_never_greets_costs_the_deadline_and_is_let_go() {
    let (left, seen) = mpsc::channel();
    let (_dir, qmp, _asked) = monitor(SHORT, move |stream, _| {
        // Ends when the client closes its socket.
        let _ = left.send(stream.read_to_end(&mut Vec::new()).is_ok());
    });
    let error = format!("{:#}", qmp.run_state(vm()).unwrap_err());
    assert_eq!(error, "vm 100: qmp query-status: no answer within 200ms");
    assert!(seen.recv().unwrap());
}

#[test]
fn a_monitor_that_drips_costs_the_deadline_and_is_let_go() {
    let (left, seen) = mpsc::channel();
    let (_dir, qmp, _asked) = monitor(SHORT, move |stream, _| {
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        // A byte now and then, as long as the client listens.
        while stream.write_all(b" ").is_ok() {
            let _ = stream.read(&mut [0]);
        }
        let _ = left.send(());
    });
    let error = format!("{:#}", qmp.run_state(vm()).unwrap_err());
    assert_eq!(error, "vm 100: qmp query-status: no answer within 200ms");
    seen.recv().unwrap();
}

#[test]
fn a_line_without_end_is_refused() {
    let (_dir, qmp, _asked) = monitor(PATIENT, |stream, _| {
        while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
    });
    let error = format!("{:#}", qmp.run_state(vm()).unwrap_err());
    assert_eq!(
        error,
        "vm 100: qmp query-status: line of more than 4194304 bytes"
    );
}

#[test]
fn a_monitor_that_hangs_up_is_an_error_at_once() {
    let (_dir, qmp, _asked) = monitor(PATIENT, |stream, next| {
        write!(stream, "{GREETING}\r\n").unwrap();
        next();
        write!(stream, r#"{{"return": "#).unwrap();
    });
    let error = format!("{:#}", qmp.run_state(vm()).unwrap_err());
    assert_eq!(error, "vm 100: qmp query-status: unexpected end of file");

    let absent = QmpSockets::at("/nonexistent", PATIENT);
    let error = format!("{:#}", absent.run_state(vm()).unwrap_err());
    assert!(
        error.contains("cannot connect to /nonexistent/100.qmp"),
        "{error}"
    );
}
