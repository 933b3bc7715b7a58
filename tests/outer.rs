//! What is outside: QEMU's monitor and the service manager, also when they misbehave, and tables
//! that others may have written.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::host::Clock;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::RootFiles;
use pin_hook::host::qmp::{Qmp, QmpSockets};
use pin_hook::host::systemd::{Bus, Job, Systemd};
use pin_hook::host::table::{Untrusted, read_table};
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
    assert_eq!(error, "vm 100: qmp query-status: no answer within 200 ms");
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
    assert_eq!(error, "vm 100: qmp query-status: no answer within 200 ms");
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

/// What the service manager of the tests was asked.
type Calls = mpsc::Sender<String>;

/// The part of a message bus that a client needs.
struct Names;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Names {
    fn hello(&self) -> String {
        ":1.7".to_owned()
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Failure {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchUnit(String),
}

struct Manager(Calls);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(property)]
    fn system_state(&self) -> String {
        "stopping".to_owned()
    }

    fn reload(&self) {
        self.0.send("reload".to_owned()).unwrap();
    }

    fn start_unit(&self, unit: String, mode: String) -> zbus::zvariant::OwnedObjectPath {
        self.0.send(format!("start {unit} {mode}")).unwrap();
        job()
    }

    /// Takes what systemd's own signature says, `ssa(sv)a(sa(sv))`.
    fn start_transient_unit(
        &self,
        unit: String,
        mode: String,
        properties: Vec<(String, zbus::zvariant::OwnedValue)>,
        _others: Vec<(String, Vec<(String, zbus::zvariant::OwnedValue)>)>,
    ) -> zbus::zvariant::OwnedObjectPath {
        let names: Vec<String> = properties.iter().map(|(name, _)| name.clone()).collect();
        let command = properties.iter().find(|(name, _)| name == "ExecStart");
        let command = command.map(|(_, value)| value.to_string());
        let told = format!("run {unit} {mode} {} {command:?}", names.join(" "));
        self.0.send(told).unwrap();
        job()
    }

    fn stop_unit(
        &self,
        unit: String,
        mode: String,
    ) -> Result<zbus::zvariant::OwnedObjectPath, Failure> {
        self.0.send(format!("stop {unit} {mode}")).unwrap();
        Err(Failure::NoSuchUnit(format!("Unit {unit} not loaded.")))
    }

    fn set_unit_properties(
        &self,
        unit: String,
        runtime: bool,
        properties: Vec<(String, zbus::zvariant::OwnedValue)>,
    ) -> Result<(), Failure> {
        let properties: Vec<String> = properties
            .into_iter()
            .map(|(name, value)| format!("{name}={:?}", Vec::<u8>::try_from(value).unwrap()))
            .collect();
        let told = format!("set {unit} {runtime} {}", properties.join(" "));
        self.0.send(told).unwrap();
        match unit.as_str() {
            "102.scope" => Err(Failure::NoSuchUnit(format!("Unit {unit} not loaded."))),
            _ => Ok(()),
        }
    }

    fn get_unit(&self, unit: String) -> Result<zbus::zvariant::OwnedObjectPath, Failure> {
        match unit.as_str() {
            "100.scope" => Ok(SCOPE.try_into().unwrap()),
            "system.slice" => Ok(SLICE.try_into().unwrap()),
            "pin-hook-a.service" => Ok(SERVICE.try_into().unwrap()),
            "101.scope" => Ok("/org/freedesktop/systemd1/unit/gone".try_into().unwrap()),
            _ => Err(Failure::NoSuchUnit(format!("Unit {unit} not loaded."))),
        }
    }
}

const SCOPE: &str = "/org/freedesktop/systemd1/unit/_3100_2escope";

const SERVICE: &str = "/org/freedesktop/systemd1/unit/pin_2dhook_2da_2eservice";

fn job() -> zbus::zvariant::OwnedObjectPath {
    "/org/freedesktop/systemd1/job/1".try_into().unwrap()
}

struct Scope;

#[zbus::interface(name = "org.freedesktop.systemd1.Scope")]
impl Scope {
    #[zbus(property)]
    fn delegate_controllers(&self) -> Vec<String> {
        vec!["cpuset".to_owned(), "pids".to_owned()]
    }

    #[zbus(property, name = "AllowedCPUs")]
    fn allowed_cpus(&self) -> Vec<u8> {
        Vec::new()
    }
}

const SLICE: &str = "/org/freedesktop/systemd1/unit/system_2eslice";

struct Slice;

#[zbus::interface(name = "org.freedesktop.systemd1.Slice")]
impl Slice {
    #[zbus(property, name = "AllowedCPUs")]
    fn allowed_cpus(&self) -> Vec<u8> {
        vec![0x03, 0x89, 0, 0, 0, 0, 0, 0]
    }
}

struct Service;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Service {
    #[zbus(property)]
    fn active_state(&self) -> String {
        "activating".to_owned()
    }
}

/// Serves one client as a message bus with systemd behind it.
fn serve(stream: UnixStream, calls: Calls) -> zbus::Result<zbus::blocking::Connection> {
    zbus::blocking::connection::Builder::async_io_unix_stream(stream)
        .server(zbus::Guid::generate())?
        .p2p()
        .serve_at("/org/freedesktop/DBus", Names)?
        .serve_at("/org/freedesktop/systemd1", Manager(calls))?
        .serve_at(SCOPE, Scope)?
        .serve_at(SLICE, Slice)?
        .serve_at(SERVICE, Service)?
        .build()
}

fn address(dir: &TempDir) -> String {
    format!("unix:path={}", dir.path().join("bus").display())
}

#[test]
fn systemd_is_asked_over_one_connection() {
    let (dir, listener) = listen("bus");
    let (calls, asked) = mpsc::channel();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0, calls).unwrap());
    let bus = Bus::at(address(&dir), PATIENT, PATIENT);
    bus.reload().unwrap();
    bus.start("pin-hook.timer").unwrap();
    let error = format!("{:#}", bus.stop("absent.timer").unwrap_err());
    assert_eq!(
        error,
        "systemd failed Manager.StopUnit of absent.timer: Unit absent.timer not loaded."
    );
    let controllers = bus.delegated("100.scope").unwrap().unwrap();
    assert_eq!(controllers, ["cpuset", "pids"]);
    // Not loaded, and unloaded between the two questions.
    assert_eq!(bus.delegated("102.scope").unwrap(), None);
    assert_eq!(bus.delegated("101.scope").unwrap(), None);
    drop(server.join().unwrap());
    let asked: Vec<String> = asked.try_iter().collect();
    let expected = [
        "reload",
        "start pin-hook.timer replace",
        "stop absent.timer replace",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn the_cpus_of_a_unit_are_bytes_and_those_of_no_unit_are_none() {
    let (dir, listener) = listen("bus");
    let (calls, asked) = mpsc::channel();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0, calls).unwrap());
    let bus = Bus::at(address(&dir), PATIENT, PATIENT);
    let cpus = bus.allowed_cpus("system.slice").unwrap().unwrap();
    assert_eq!(CpuSet::from_bytes(&cpus).to_string(), "0-1,8,11,15");
    assert_eq!(bus.allowed_cpus("100.scope").unwrap(), Some(Vec::new()));
    assert_eq!(bus.allowed_cpus("101.scope").unwrap(), None);
    assert_eq!(bus.allowed_cpus("102.scope").unwrap(), None);
    assert!(bus.set_allowed_cpus("system.slice", &[0xc3]).unwrap());
    assert!(bus.set_allowed_cpus("100.scope", &[]).unwrap());
    assert!(!bus.set_allowed_cpus("102.scope", &[1]).unwrap());
    drop(server.join().unwrap());
    let asked: Vec<String> = asked.try_iter().collect();
    let expected = [
        "set system.slice true AllowedCPUs=[195]",
        "set 100.scope true AllowedCPUs=[]",
        "set 102.scope true AllowedCPUs=[1]",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn a_program_gets_a_unit_of_its_own() {
    let (dir, listener) = listen("bus");
    let (calls, asked) = mpsc::channel();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0, calls).unwrap());
    let bus = Bus::at(address(&dir), PATIENT, PATIENT);
    let job = Job {
        unit: "pin-hook-a.service".to_owned(),
        description: "a job".to_owned(),
        path: "/usr/bin/env".to_owned(),
        arguments: vec!["true".to_owned()],
        limit: Some(SHORT),
        spares: true,
    };
    bus.run(&job).unwrap();
    assert!(bus.is_active("pin-hook-a.service").unwrap());
    assert!(!bus.is_active("absent.service").unwrap());
    assert!(bus.is_stopping().unwrap());
    drop(server.join().unwrap());
    let asked: Vec<String> = asked.try_iter().collect();
    let expected = "run pin-hook-a.service fail Description CollectMode ExecStart RuntimeMaxUSec KillMode \
                    Some(\"[(\\\"/usr/bin/env\\\", [\\\"/usr/bin/env\\\", \\\"true\\\"], false)]\")";
    assert_eq!(asked, [expected]);
}

#[test]
fn a_bus_that_accepts_and_never_answers_costs_one_deadline() {
    let (dir, listener) = listen("bus");
    let bus = Bus::at(address(&dir), SHORT, SHORT);
    let error = format!("{:#}", bus.start("a.timer").unwrap_err());
    let expected = "systemd did not answer Manager.StartUnit of a.timer within 200 ms";
    assert_eq!(error, expected);
    // The abandoned worker still waits at the other end of this.
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    let error = format!("{:#}", bus.reload().unwrap_err());
    assert_eq!(error, "systemd did not answer before Manager.Reload");
}

#[test]
fn a_bus_that_is_not_there_is_an_error_at_once() {
    let bus = Bus::at("unix:path=/nonexistent/bus", PATIENT, PATIENT);
    let error = format!("{:#}", bus.reload().unwrap_err());
    assert!(
        error
            .starts_with("cannot reach the bus at unix:path=/nonexistent/bus for Manager.Reload: "),
        "{error}"
    );
}

#[test]
fn a_table_that_others_may_have_written_is_refused_on_a_host_of_root() {
    let dir = tempfile::tempdir().unwrap();
    let tables = dir.path().join("etc/pin-hook");
    std::fs::create_dir_all(&tables).unwrap();
    let table = tables.join("100.toml");
    std::fs::write(&table, "cpus = \"1\"").unwrap();
    let set_mode = |path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let files = RootFiles::new(dir.path());
    // A tree that belongs to a user needs no protection from that user.
    let is_roots = std::fs::metadata(dir.path()).unwrap().uid() == 0;
    for (directory, file, remedy) in [
        (0o755, 0o644, None),
        (0o755, 0o664, Some("chmod go-w /etc/pin-hook/100.toml")),
        (0o777, 0o644, Some("chmod go-w /etc/pin-hook")),
    ] {
        set_mode(&tables, directory);
        set_mode(&table, file);
        match (read_table(&files, vm()), remedy.filter(|_| is_roots)) {
            (Ok(Some(_)), None) => {}
            (Err(error), Some(remedy)) => {
                assert_eq!(error.downcast_ref::<Untrusted>().unwrap().remedy(), remedy);
            }
            (answer, remedy) => panic!("{answer:?} instead of {remedy:?}"),
        }
    }
}

#[test]
fn the_end_of_a_process_ends_the_wait_for_it() {
    let id = |pid: u32| TaskId {
        tid: i32::try_from(pid).unwrap(),
        start: 0,
    };
    let own = id(std::process::id());
    let brief = Duration::from_millis(20);
    let before = Instant::now();
    KernelClock.wait_for_end(&[own], brief);
    assert!(before.elapsed() >= brief);
    let child = std::process::Command::new("cat");
    let mut child = { child }.stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    KernelClock.wait_for_end(&[own, id(child.id())], PATIENT);
    assert!(child.wait().unwrap().success());
    KernelClock.wait_for_end(&[id(child.id()), own], PATIENT);
    assert!(before.elapsed() < PATIENT);
}
