//! The service manager, over D-Bus (`org.freedesktop.systemd1`, man `org.freedesktop.systemd1`).
//!
//! Most of what a call takes is not the call: a bus and systemd have to wake up for each. So calls that do not depend
//! on each other are made together.

use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;

use super::clock::KernelClock;
use super::dbus::{Body, Call, Connection, Failure, Reader};
use super::deadline::Deadline;
use super::limit::Limit;
use crate::domain::advice::Advised;
use crate::domain::words::in_words;

/// How long systemd may take for a call.
pub const CALL_WAIT: Duration = Duration::from_secs(3);
/// How long systemd may take to read its unit files again: it asks every generator first.
pub const RELOAD_WAIT: Duration = Duration::from_secs(6);
/// How long a call may take when nothing of PVE waits for the run.
const PATIENT_CALL_WAIT: Duration = Duration::from_secs(10);
/// How long a reload may take then.
const PATIENT_RELOAD_WAIT: Duration = Duration::from_secs(30);

/// Where the system bus listens; its environment variable is not believed.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// The same as a file.
pub const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";
/// What stands before the path in the address of a bus.
const BY_PATH: &str = "unix:path=";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
const SLICE: &str = "org.freedesktop.systemd1.Slice";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const ALLOWED_CPUS: &str = "AllowedCPUs";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// What systemd and the bus say of a unit that is not there (any more).
const ABSENT: [&str; 2] = [
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.DBus.Error.UnknownObject",
];

/// A program to be run in a unit of its own, which lives on when this process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Name of the unit, ending in `.service`.
    pub unit: String,
    /// What it is for, as `systemctl status` shows it.
    pub description: String,
    /// Absolute path of the program.
    pub path: String,
    /// What it is called with, each as one argument.
    pub arguments: Vec<String>,
    /// How long it may run before systemd ends it; `None`: as long as it takes.
    pub limit: Option<Duration>,
    /// Whether processes that it leaves in the background live on when it has ended. They keep the
    /// unit's name from being used again.
    pub spares: bool,
}

/// What the program asks of systemd. Every call has a deadline of its own; a bus that hangs
/// costs that deadline and not the start of a VM.
pub trait Systemd: Debug {
    /// Makes systemd read its unit files again (`Manager.Reload`) and waits until it has.
    fn reload(&self) -> anyhow::Result<()>;
    /// Queues the start of a unit (`Manager.StartUnit`, mode `replace`) without waiting for it.
    fn start(&self, unit: &str) -> anyhow::Result<()>;
    /// Queues the stop of a unit (`Manager.StopUnit`, mode `replace`) without waiting for it.
    fn stop(&self, unit: &str) -> anyhow::Result<()>;
    /// Queues the starts of two units at once; what comes of one is nothing to the other.
    fn start_both(&self, units: [&str; 2]) -> [anyhow::Result<()>; 2] {
        units.map(|unit| self.start(unit))
    }
    /// Starts a program in a transient service (`Manager.StartTransientUnit`, mode `fail`) without
    /// waiting for it. The unit vanishes when the program has ended, however it ended.
    ///
    /// # Errors
    /// systemd refused, for example because a unit of that name is at work.
    fn run(&self, job: &Job) -> anyhow::Result<()>;
    /// Tells whether a unit is loaded and neither inactive nor failed (`Unit.ActiveState`).
    fn is_active(&self, unit: &str) -> anyhow::Result<bool>;
    /// Tells whether that is so of any unit whose name fits a pattern, as in a shell
    /// (`Manager.ListUnitsByPatterns`).
    fn is_any_active(&self, pattern: &str) -> anyhow::Result<bool>;
    /// Tells whether the host is going down (`Manager.SystemState` is `stopping`), which begins when
    /// that is queued.
    fn is_stopping(&self) -> anyhow::Result<bool>;
    /// Has a unit started at every boot (`Manager.EnableUnitFiles`); tells whether it was not yet.
    fn enable(&self, unit: &str) -> anyhow::Result<bool>;
    /// Returns the controllers that a loaded scope delegates (`Scope.DelegateControllers`), or
    /// `None` when there is no such unit.
    fn delegated(&self, scope: &str) -> anyhow::Result<Option<Vec<String>>>;
    /// Returns the CPUs that a loaded slice, scope or service leaves its tasks (`AllowedCPUs`) as a
    /// mask, byte 0 for the CPUs 0 to 7; an empty one stands for all. `None` when there is no such
    /// unit.
    fn allowed_cpus(&self, unit: &str) -> anyhow::Result<Option<Vec<u8>>>;
    /// Sets that property until the next boot (`Manager.SetUnitProperties`); tells whether there is
    /// such a unit. systemd answers before it has written to the unit's cgroup, but no later call
    /// before that.
    fn set_allowed_cpus(&self, unit: &str, cpus: &[u8]) -> anyhow::Result<bool>;
}

/// The running systemd, asked over the system bus.
///
/// The connection is made by the first call and used by all of them. A call that was late makes
/// the following ones fail at once: a bus that hangs costs one deadline, not one for each call.
#[derive(Debug)]
pub struct Bus {
    address: String,
    call_wait: Duration,
    reload_wait: Duration,
    limit: Limit,
    link: Mutex<Link>,
}

/// What is known about the way to systemd.
#[derive(Debug)]
enum Link {
    Unused,
    Open(Connection),
    Hung,
}

impl Default for Bus {
    fn default() -> Self {
        Self::at(SYSTEM_BUS, CALL_WAIT, RELOAD_WAIT)
    }
}

impl Bus {
    /// Returns the system bus for a run that is no phase, which gives systemd more time.
    pub fn patient() -> Self {
        Self::at(SYSTEM_BUS, PATIENT_CALL_WAIT, PATIENT_RELOAD_WAIT)
    }

    /// Returns the bus at a D-Bus address, with the deadlines for a call and for a reload.
    pub fn at(address: impl Into<String>, call_wait: Duration, reload_wait: Duration) -> Self {
        Self {
            address: address.into(),
            call_wait,
            reload_wait,
            limit: Limit::default(),
            link: Mutex::new(Link::Unused),
        }
    }

    /// Returns the bus for a run with a limit, which every call is cut to.
    pub fn within(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks systemd something; `what` names it in errors.
    fn ask<T>(
        &self,
        what: &str,
        wait: Duration,
        question: impl FnOnce(&mut Connection, Deadline) -> Result<T, Failure>,
    ) -> anyhow::Result<T> {
        let mut link = self.link();
        if matches!(*link, Link::Hung) {
            return Err(hung(format!("systemd did not answer before {what}")));
        }
        let wait = wait.min(self.limit.left(&KernelClock));
        let deadline = Deadline::after(wait);
        let opened = match std::mem::replace(&mut *link, Link::Unused) {
            Link::Open(connection) => Ok(connection),
            Link::Unused | Link::Hung => {
                let path = self.address.strip_prefix(BY_PATH);
                Connection::open(path.unwrap_or(&self.address), deadline)
            }
        };
        let (answer, connection) = match opened {
            Ok(mut connection) => (question(&mut connection, deadline), Some(connection)),
            Err(failure) => (Err(failure), None),
        };
        let is_open = connection.is_some();
        match (&answer, connection) {
            (Err(Failure::Late), _) => *link = Link::Hung,
            // The next call connects anew.
            (Err(Failure::Broken(_)), _) | (_, None) => {}
            (_, Some(connection)) => *link = Link::Open(connection),
        }
        answer.map_err(|failure| match failure {
            Failure::Late => hung(format!(
                "systemd did not answer {what} within {}",
                in_words(wait)
            )),
            Failure::Broken(error) if !is_open => anyhow!(error).context(self.unreachable(what)),
            failure => {
                let help = "journalctl _PID=1 -n 20 shows what systemd says";
                anyhow!("{failure}").context(Advised::new(format!("systemd failed {what}"), help))
            }
        })
    }

    fn unreachable(&self, what: &str) -> Advised {
        Advised::new(
            format!("cannot reach the bus at {} for {what}", self.address),
            "systemctl status dbus.socket shows whether it is active",
        )
    }

    /// Queues a job for a unit.
    fn queue(&self, method: &str, unit: &str) -> anyhow::Result<()> {
        let what = format!("Manager.{method} of {unit}");
        self.ask(&what, self.call_wait, |bus, deadline| {
            bus.call(&job_of(method, unit), deadline).map(drop)
        })
    }
}

impl Systemd for Bus {
    fn reload(&self) -> anyhow::Result<()> {
        // systemd answers when it has read everything, not when it begins.
        self.ask("Manager.Reload", self.reload_wait, |bus, deadline| {
            bus.call(&manager("Reload", Body::default()), deadline)
                .map(drop)
        })
    }

    fn start(&self, unit: &str) -> anyhow::Result<()> {
        self.queue("StartUnit", unit)
    }

    fn stop(&self, unit: &str) -> anyhow::Result<()> {
        self.queue("StopUnit", unit)
    }

    fn start_both(&self, units: [&str; 2]) -> [anyhow::Result<()>; 2] {
        let method = "StartUnit";
        let [one, two] = units.map(|unit| job_of(method, unit));
        let mut second = None;
        let first = format!("Manager.{method} of {}", units[0]);
        let first = self.ask(&first, self.call_wait, |bus, deadline| {
            let [first, answer] = bus.calls([&one, &two], deadline);
            second = Some(answer);
            first.map(drop)
        });
        let what = format!("Manager.{method} of {}", units[1]);
        let second = match second {
            // The first one has told already that there is no bus, or that it hangs.
            None | Some(Err(Failure::Late)) => self.queue(method, units[1]),
            Some(answer) => self.ask(&what, self.call_wait, |_, _| answer.map(drop)),
        };
        [first, second]
    }

    fn run(&self, job: &Job) -> anyhow::Result<()> {
        let what = format!("Manager.StartTransientUnit of {}", job.unit);
        let call = manager("StartTransientUnit", transient(job));
        self.ask(&what, self.call_wait, |bus, deadline| {
            bus.call(&call, deadline).map(drop)
        })
    }

    fn is_active(&self, unit: &str) -> anyhow::Result<bool> {
        let what = format!("Unit.ActiveState of {unit}");
        self.ask(&what, self.call_wait, |bus, deadline| {
            let state = property(bus, deadline, unit, UNIT, "ActiveState", |value| {
                value.variant("s")?;
                value.text().map(is_at_work)
            });
            Ok(if_loaded(state)?.unwrap_or(false))
        })
    }

    fn is_any_active(&self, pattern: &str) -> anyhow::Result<bool> {
        let what = format!("Manager.ListUnitsByPatterns of {pattern}");
        let body = Body::of("asas").texts(&[]).texts(&[pattern]);
        let call = manager("ListUnitsByPatterns", body);
        self.ask(&what, self.call_wait, |bus, deadline| {
            let units = bus.call(&call, deadline)?;
            let units = units.read(|units| units.array(8, listed))?;
            Ok(units.into_iter().any(|is_at_work| is_at_work))
        })
    }

    fn is_stopping(&self) -> anyhow::Result<bool> {
        self.ask("Manager.SystemState", self.call_wait, |bus, deadline| {
            let state = bus.call(&get(MANAGER_PATH, MANAGER, "SystemState"), deadline)?;
            state.read(|value| {
                value.variant("s")?;
                value.text().map(|state| state == "stopping")
            })
        })
    }

    fn enable(&self, unit: &str) -> anyhow::Result<bool> {
        let what = format!("Manager.EnableUnitFiles of {unit}");
        let body = Body::of("asbb").texts(&[unit]).truth(false).truth(false);
        let call = manager("EnableUnitFiles", body);
        self.ask(&what, self.call_wait, |bus, deadline| {
            let links = bus.call(&call, deadline)?.read(|links| {
                links.number()?;
                links.array(8, |link| {
                    link.structure();
                    link.text().and(link.text()).and(link.text()).map(drop)
                })
            })?;
            Ok(!links.is_empty())
        })
    }

    fn delegated(&self, scope: &str) -> anyhow::Result<Option<Vec<String>>> {
        let what = format!("Scope.DelegateControllers of {scope}");
        self.ask(&what, self.call_wait, |bus, deadline| {
            // It lists nothing for a scope with `Delegate=no`.
            let name = "DelegateControllers";
            if_loaded(property(bus, deadline, scope, SCOPE, name, |value| {
                value.variant("as")?;
                value.array(4, |name| name.text().map(str::to_owned))
            }))
        })
    }

    fn allowed_cpus(&self, unit: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let what = format!("{ALLOWED_CPUS} of {unit}");
        let interface = cgroup_interface(unit);
        self.ask(&what, self.call_wait, |bus, deadline| {
            let read = |value: &mut Reader<'_>| {
                value.variant("ay")?;
                value.octets()
            };
            if_loaded(property(bus, deadline, unit, interface, ALLOWED_CPUS, read))
        })
    }

    fn set_allowed_cpus(&self, unit: &str, cpus: &[u8]) -> anyhow::Result<bool> {
        let what = format!("Manager.SetUnitProperties of {unit}");
        let body = Body::of("sba(sv)").text(unit).truth(true).array(8, |body| {
            body.property(ALLOWED_CPUS, "ay", |value| value.octets(cpus))
        });
        let call = manager("SetUnitProperties", body);
        self.ask(&what, self.call_wait, |bus, deadline| {
            Ok(if_loaded(bus.call(&call, deadline))?.is_some())
        })
    }
}

/// Reads of a unit as systemd lists it whether it is at work: name, description, load state, active state, sub state,
/// whom it follows, object; then the job that is queued for it.
fn listed(unit: &mut Reader<'_>) -> Option<bool> {
    unit.structure();
    for _ in 0..3 {
        unit.text()?;
    }
    let is_at_work = is_at_work(unit.text()?);
    for _ in 0..3 {
        unit.text()?;
    }
    unit.number()?;
    unit.text()?;
    unit.text()?;
    Some(is_at_work)
}

/// Tells whether a unit in this state (`Unit.ActiveState`) is neither inactive nor failed.
fn is_at_work(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

/// Returns the interface that has the properties of a unit's cgroup.
fn cgroup_interface(unit: &str) -> &'static str {
    match unit.rsplit_once('.') {
        Some((_, "slice")) => SLICE,
        Some((_, "service")) => SERVICE,
        _ => SCOPE,
    }
}

/// Returns the call of a method of systemd's manager.
fn manager(member: &str, body: Body) -> Call<'_> {
    Call {
        destination: SYSTEMD,
        path: MANAGER_PATH,
        interface: MANAGER,
        member,
        body,
    }
}

/// Returns the call that queues a job for a unit.
fn job_of<'c>(method: &'c str, unit: &str) -> Call<'c> {
    manager(method, Body::of_texts(&[unit, "replace"]))
}

/// Returns the call that reads a property of an object of systemd.
fn get<'c>(path: &'c str, interface: &str, name: &str) -> Call<'c> {
    Call {
        destination: SYSTEMD,
        path,
        interface: PROPERTIES,
        member: "Get",
        body: Body::of_texts(&[interface, name]),
    }
}

/// Reads a property of a loaded unit.
fn property<T>(
    bus: &mut Connection,
    deadline: Deadline,
    unit: &str,
    interface: &str,
    name: &str,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, Failure> {
    let unit = bus.call(&manager("GetUnit", Body::of_texts(&[unit])), deadline)?;
    let path = unit.read(|unit| unit.text().map(str::to_owned))?;
    bus.call(&get(&path, interface, name), deadline)?.read(read)
}

/// Returns what starts a transient service; `CollectMode` lets systemd forget it also when it fails.
fn transient(job: &Job) -> Body {
    let mut command = vec![job.path.as_str()];
    command.extend(job.arguments.iter().map(String::as_str));
    let body = Body::of("ssa(sv)a(sa(sv))").text(&job.unit).text("fail");
    let body = body.array(8, |body| {
        let body = body.property("Description", "s", |value| value.text(&job.description));
        let body = body.property("CollectMode", "s", |value| value.text("inactive-or-failed"));
        let mut body = body.property("ExecStart", "a(sasb)", |value| {
            value.array(8, |commands| {
                commands.structure(|line| line.text(&job.path).texts(&command).truth(false))
            })
        });
        if let Some(limit) = job.limit {
            let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
            body = body.property("RuntimeMaxUSec", "t", |value| value.long(micros));
        }
        match job.spares {
            true => body.property("KillMode", "s", |value| value.text("process")),
            false => body,
        }
    });
    body.array(8, |others| others)
}

/// Returns what systemd answers about a unit, or `None` when there is no such unit.
fn if_loaded<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Err(Failure::Refused { name, .. }) if ABSENT.contains(&name.as_str()) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Returns the error of a service manager that does not answer in time.
fn hung(fact: String) -> anyhow::Error {
    let help = "try again; systemctl list-jobs shows what keeps systemd busy";
    let late = io::Error::new(io::ErrorKind::TimedOut, Advised::new(fact, help));
    anyhow::Error::new(late)
}

/// Tells whether an error says that systemd did not answer in time.
pub fn is_late(error: &anyhow::Error) -> bool {
    let io = error.root_cause().downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Returns an error of systemd as that of a write or read; one that is late has the kind `TimedOut`.
pub fn as_io(error: &anyhow::Error) -> io::Error {
    let kind = match is_late(error) {
        true => io::ErrorKind::TimedOut,
        false => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}
