//! The service manager, over D-Bus (`org.freedesktop.systemd1`, man `org.freedesktop.systemd1`).
//!
//! The D-Bus library waits without bound for a bus that accepts and never answers, so every call
//! runs in a thread that is abandoned when its deadline passes.

use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::blocking::{Connection, connection};
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue, Type, Value};

use super::clock::KernelClock;
use super::deadline::within;
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

    /// Asks systemd one thing; `what` names it in errors.
    fn ask<T: Send + 'static>(
        &self,
        what: &str,
        wait: Duration,
        question: impl FnOnce(&Connection) -> zbus::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut link = self.link();
        let open = match &*link {
            Link::Hung => return Err(hung(format!("systemd did not answer before {what}"))),
            Link::Open(connection) if !connection.is_closed() => Some(connection.clone()),
            Link::Open(_) | Link::Unused => None,
        };
        let address = self.address.clone();
        let wait = wait.min(self.limit.left(&KernelClock));
        let answer = within(wait, move || {
            let connection = open.map_or_else(|| connect(&address), Ok)?;
            Ok((question(&connection), connection))
        });
        match answer {
            None => {
                *link = Link::Hung;
                Err(hung(format!(
                    "systemd did not answer {what} within {}",
                    in_words(wait)
                )))
            }
            Some(Err(error)) => Err(failure(error).context(self.unreachable(what))),
            Some(Ok((answer, connection))) => {
                *link = Link::Open(connection);
                let help = "journalctl _PID=1 -n 20 shows what systemd says";
                let fact = format!("systemd failed {what}");
                answer.map_err(|error| failure(error).context(Advised::new(fact, help)))
            }
        }
    }

    fn unreachable(&self, what: &str) -> Advised {
        Advised::new(
            format!("cannot reach the bus at {} for {what}", self.address),
            "systemctl status dbus.socket shows whether it is active",
        )
    }

    /// Queues a job for a unit.
    fn queue(&self, method: &'static str, unit: &str) -> anyhow::Result<()> {
        let name = unit.to_owned();
        self.ask(
            &format!("Manager.{method} of {unit}"),
            self.call_wait,
            move |bus| {
                manager::<_, OwnedObjectPath>(bus, method, &(name.as_str(), "replace")).map(drop)
            },
        )
    }
}

impl Systemd for Bus {
    fn reload(&self) -> anyhow::Result<()> {
        // systemd answers when it has read everything, not when it begins.
        self.ask("Manager.Reload", self.reload_wait, |bus| {
            manager::<_, ()>(bus, "Reload", &())
        })
    }

    fn start(&self, unit: &str) -> anyhow::Result<()> {
        self.queue("StartUnit", unit)
    }

    fn stop(&self, unit: &str) -> anyhow::Result<()> {
        self.queue("StopUnit", unit)
    }

    fn run(&self, job: &Job) -> anyhow::Result<()> {
        let job = job.clone();
        let what = format!("Manager.StartTransientUnit of {}", job.unit);
        self.ask(&what, self.call_wait, move |bus| start_job(bus, &job))
    }

    fn is_active(&self, unit: &str) -> anyhow::Result<bool> {
        let name = unit.to_owned();
        let what = format!("Unit.ActiveState of {unit}");
        self.ask(&what, self.call_wait, move |bus| {
            let state = if_loaded(property::<String>(bus, &name, UNIT, "ActiveState"))?;
            Ok(state.is_some_and(|state| is_at_work(&state)))
        })
    }

    fn is_any_active(&self, pattern: &str) -> anyhow::Result<bool> {
        let names = pattern.to_owned();
        let what = format!("Manager.ListUnitsByPatterns of {pattern}");
        self.ask(&what, self.call_wait, move |bus| {
            let (states, patterns): (Vec<&str>, _) = (Vec::new(), vec![names.as_str()]);
            let units: Vec<Listed> = manager(bus, "ListUnitsByPatterns", &(states, patterns))?;
            Ok(units.iter().any(|unit| is_at_work(&unit.3)))
        })
    }

    fn is_stopping(&self) -> anyhow::Result<bool> {
        self.ask("Manager.SystemState", self.call_wait, |bus| {
            let state: String = property_at(bus, MANAGER_PATH, MANAGER, "SystemState")?;
            Ok(state == "stopping")
        })
    }

    fn enable(&self, unit: &str) -> anyhow::Result<bool> {
        let name = unit.to_owned();
        let what = format!("Manager.EnableUnitFiles of {unit}");
        self.ask(&what, self.call_wait, move |bus| {
            let units = vec![name.as_str()];
            let (_, links): (bool, Vec<(String, String, String)>) =
                manager(bus, "EnableUnitFiles", &(units, false, false))?;
            Ok(!links.is_empty())
        })
    }

    fn delegated(&self, scope: &str) -> anyhow::Result<Option<Vec<String>>> {
        let name = scope.to_owned();
        let what = format!("Scope.DelegateControllers of {scope}");
        self.ask(&what, self.call_wait, move |bus| {
            // It lists nothing for a scope with `Delegate=no`.
            if_loaded(property(bus, &name, SCOPE, "DelegateControllers"))
        })
    }

    fn allowed_cpus(&self, unit: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let name = unit.to_owned();
        let what = format!("{ALLOWED_CPUS} of {unit}");
        self.ask(&what, self.call_wait, move |bus| {
            if_loaded(property(bus, &name, cgroup_interface(&name), ALLOWED_CPUS))
        })
    }

    fn set_allowed_cpus(&self, unit: &str, cpus: &[u8]) -> anyhow::Result<bool> {
        let (name, cpus) = (unit.to_owned(), cpus.to_owned());
        let what = format!("Manager.SetUnitProperties of {unit}");
        self.ask(&what, self.call_wait, move |bus| {
            let properties: Vec<(&str, Value<'_>)> = vec![(ALLOWED_CPUS, cpus.into())];
            let set = manager::<_, ()>(bus, "SetUnitProperties", &(&name, true, properties));
            Ok(if_loaded(set)?.is_some())
        })
    }
}

/// A unit as systemd lists it: name, description, load state, active state, sub state, whom it
/// follows, object; then the job that is queued for it.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

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

fn connect(address: &str) -> zbus::Result<Connection> {
    connection::Builder::address(address)?.build()
}

/// Calls a method of systemd's manager.
fn manager<B, T>(bus: &Connection, method: &str, body: &B) -> zbus::Result<T>
where
    B: Serialize + DynamicType,
    T: DeserializeOwned + Type,
{
    bus.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body)?
        .body()
        .deserialize()
}

/// Reads a property of a loaded unit.
fn property<T>(bus: &Connection, unit: &str, interface: &str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    T::Error: Into<zbus::Error>,
{
    let unit: OwnedObjectPath = manager(bus, "GetUnit", &unit)?;
    property_at(bus, unit.as_str(), interface, name)
}

/// Reads a property of an object of systemd.
fn property_at<T>(bus: &Connection, path: &str, interface: &str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    T::Error: Into<zbus::Error>,
{
    let property = (interface, name);
    let reply = bus.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &property)?;
    let value: OwnedValue = reply.body().deserialize()?;
    value.try_into().map_err(Into::into)
}

/// Starts a transient service; `CollectMode` lets systemd forget it also when it fails.
fn start_job(bus: &Connection, job: &Job) -> zbus::Result<()> {
    let mut command = vec![job.path.as_str()];
    command.extend(job.arguments.iter().map(String::as_str));
    let mut properties: Vec<(&str, Value<'_>)> = vec![
        ("Description", job.description.as_str().into()),
        ("CollectMode", "inactive-or-failed".into()),
        (
            "ExecStart",
            vec![(job.path.as_str(), command, false)].into(),
        ),
    ];
    if let Some(limit) = job.limit {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        properties.push(("RuntimeMaxUSec", micros.into()));
    }
    if job.spares {
        properties.push(("KillMode", "process".into()));
    }
    let others: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let body = (job.unit.as_str(), "fail", properties, others);
    manager::<_, OwnedObjectPath>(bus, "StartTransientUnit", &body).map(drop)
}

/// Returns what systemd answers about a unit, or `None` when there is no such unit.
fn if_loaded<T>(answer: zbus::Result<T>) -> zbus::Result<Option<T>> {
    match answer {
        Err(zbus::Error::MethodError(name, ..)) if ABSENT.contains(&name.as_str()) => Ok(None),
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

/// Turns an error of the bus into one line: its name says less than its text.
fn failure(error: zbus::Error) -> anyhow::Error {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => anyhow!("{text}"),
        error => error.into(),
    }
}
