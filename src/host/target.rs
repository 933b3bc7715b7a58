//! Reading and writing of targets on the host.
//!
//! Kernel files lie: a write can succeed and change nothing, or change something else. [`write()`]
//! therefore says only that the kernel took the value; what became of it is read by [`read`].
//!
//! Most writes take microseconds and are made here. Those that may sleep without bound are made by a child
//! ([`super::errand`]): `online` of a CPU, `run` of KSM where that unmerges, hugepages, and on Linux 7 whatever
//! changes which CPUs are isolated.

use std::io;
use std::time::Duration;

use super::Host;
use super::cgroup::{self, ROOT as CGROUP_ROOT};
use super::dirs::make_dir;
use super::errand::Errand;
use super::hugepages;
use super::irq;
use super::pci;
use super::probe;
use super::systemd;
use super::task;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::knob::{Reading, Row, Sleeps};
use crate::domain::partition::is_changed;
use crate::domain::target::{Place, Target, Value};
use crate::domain::thread::policy_of_class;
use crate::domain::vm::TaskId;

/// Text of the drop-in that makes systemd leave a scope's cpuset controller to us.
///
/// Without it any property that PVE sets on the scope makes systemd rewrite the scope's
/// `cgroup.subtree_control`, and the partition dies silently.
pub const DELEGATION: &str = "# Written by pin-hook(8); without it a change of the vm's cpu units \
                              ends its isolation.\n[Scope]\nDelegate=cpuset\n";

/// Text before the list in the drop-in that tells which NUMA nodes a scope may allocate from.
const MEMORY_NODES: &str = "# Written by pin-hook(8) while the vm is started and runs: memory.nodes of \
                            its table.\n[Scope]\nAllowedMemoryNodes=";

/// CPUs that the kernel may ever have.
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// How long one write is waited for that may sleep in the kernel without bound.
const SLOW_WAIT: Duration = Duration::from_secs(5);

/// Kind of a cgroup that is no partition.
const MEMBER: &str = "member";

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// The kernel took the value.
    Taken,
    /// The object has gone in the meantime.
    Gone,
    /// The kernel refuses every change of this object: a managed interrupt (`EIO`, later `EPERM`; since
    /// Linux 6.11 its file is read-only, which is `EACCES` for who has dropped `CAP_DAC_OVERRIDE` as we have),
    /// a thread that is bound to its CPUs (`EINVAL`).
    Unchangeable(io::Error),
}

/// Returns the value of a target; an object that does not exist has the value `Absent`.
pub fn read(host: &Host, target: &Target) -> io::Result<Value> {
    let value = match target {
        Target::Delegation(_) => host.files.read(&target.path()).map(|text| {
            if text == DELEGATION {
                Value::Present
            } else {
                Value::Text(text)
            }
        }),
        Target::MemoryNodes(_) => host.files.read(&target.path()).map(|text| {
            let nodes = text.strip_prefix(MEMORY_NODES).unwrap_or(&text);
            Value::Text(nodes.trim_end().to_owned())
        }),
        Target::Group(_) => match host.files.exists(&target.path()) {
            true => Ok(Value::Present),
            false => Ok(Value::Absent),
        },
        Target::Driver(address) => Ok(read_driver(host, address)),
        Target::Hugepages(pool) => {
            hugepages::persistent(&*host.files, *pool).map(|pages| Value::Text(pages.to_string()))
        }
        Target::Knob(knob, place) => read_knob(host, knob.row(), place, &target.path()),
        Target::Membership(id) => alive(host, *id)
            .and_then(|()| task::cgroup_of(&*host.files, id.tid, id.tid))
            .map(Value::Text),
        Target::Affinity(id) | Target::KernelThread(id) => alive(host, *id)
            .and_then(|()| host.sched.affinity(id.tid))
            .map(Value::Cpus),
        Target::DropIn(_) => host.files.read(&target.path()).map(Value::Text),
        Target::AllowedCpus(unit) => {
            let value = |bytes: Vec<u8>| Value::Cpus(CpuSet::from_bytes(&bytes));
            let allowed = host.systemd.allowed_cpus(unit);
            let allowed = allowed.map(|bytes| bytes.map_or(Value::Absent, value));
            allowed.map_err(|error| systemd::as_io(&error))
        }
        Target::Class(id) => alive(host, *id)
            .and_then(|()| task::class_of(&*host.files, id.tid))
            .map(Value::Text),
    };
    match value {
        Err(error) if is_gone(&error) => Ok(Value::Absent),
        value => value,
    }
}

/// Returns the same right after it was written: whose the number is was looked at then.
pub fn read_back(host: &Host, target: &Target) -> io::Result<Value> {
    match target {
        Target::Affinity(id) | Target::KernelThread(id) => match host.sched.affinity(id.tid) {
            Err(error) if is_gone(&error) => Ok(Value::Absent),
            cpus => cpus.map(Value::Cpus),
        },
        _ => read(host, target),
    }
}

/// The file of a CPU on its way offline cannot be read before it is there (`Reading::Online`).
fn read_online(host: &Host, path: &str, cpu: CpuId) -> io::Result<Value> {
    let is_there = host.files.exists(path);
    online(host).map(|online| match (is_there, online.contains(cpu)) {
        (false, _) => Value::Absent,
        (true, is_online) => Value::Text(u8::from(is_online).to_string()),
    })
}

fn read_driver(host: &Host, address: &str) -> Value {
    match pci::function(&*host.files, address) {
        Some(function) => Value::Text(function.driver.unwrap_or_default()),
        None => Value::Absent,
    }
}

/// Gives a target a value. A write that may sleep in the kernel without bound is waited for as long as
/// the run may take, and no longer than `SLOW_WAIT`, because other runs wait for the host.
///
/// # Errors
/// Whatever the kernel answered, unless that says that the object is gone or unchangeable; that the
/// write is late.
pub fn write(host: &Host, target: &Target, before: &Value, value: &Value) -> io::Result<Outcome> {
    let written = match target {
        Target::Knob(knob, _) if may_sleep(host, target, [before, value]) => {
            let row = knob.row();
            let (first, text) = (revival(row, before), value.render(row.grammar));
            let texts: Vec<&str> = first.into_iter().chain([text.as_str()]).collect();
            let errand = Errand::of_file(&target.path(), &texts);
            let errand = match row.sleeps {
                Sleeps::Isolating(_) | Sleeps::Isolated => errand.unlimited(),
                _ => errand,
            };
            errand.complete(host, slow_wait(host))
        }
        // Memory may be compacted for pages, and one write waits for another (`mm/hugetlb.c`).
        Target::Hugepages(_) => {
            let text = value.to_string();
            Errand::of_file(&target.path(), &[&text]).complete(host, slow_wait(host))
        }
        Target::Group(group) if *value != Value::Present => {
            end_partition(host, group).and_then(|()| try_write(host, target, before, value))
        }
        _ => try_write(host, target, before, value),
    };
    match written {
        Ok(()) => Ok(Outcome::Taken),
        Err(error) if is_gone(&error) => Ok(Outcome::Gone),
        Err(error) if is_unchangeable(host, target, &error) => Ok(Outcome::Unchangeable(error)),
        Err(error) => Err(error),
    }
}

fn slow_wait(host: &Host) -> Duration {
    host.left().min(SLOW_WAIT)
}

/// Tells whether the write of a knob may sleep in the kernel without bound.
fn may_sleep(host: &Host, target: &Target, values: [&Value; 2]) -> bool {
    let files = &*host.files;
    let has = |is_meant: &dyn Fn(&str) -> bool| {
        let mut values = values.iter();
        values.any(|value| matches!(value, Value::Text(text) if is_meant(text)))
    };
    let sleeps = target.row().map_or(Sleeps::Never, |row| row.sleeps);
    match (sleeps, target.group()) {
        (Sleeps::Always, _) => true,
        (Sleeps::Around(meant), _) => has(&|text| text == meant),
        (Sleeps::Isolating(start), _) => {
            has(&|text| text.starts_with(start)) && probe::partitions_wait(files)
        }
        (Sleeps::Isolated, Some(group)) => {
            probe::partitions_wait(files) && changes_isolated(host, group, values)
        }
        (Sleeps::Isolated, None) | (Sleeps::Never, _) => false,
    }
}

/// Tells whether a list of a cgroup changes which CPUs are isolated: its own, or those of cgroups below it.
fn changes_isolated(host: &Host, group: &str, values: [&Value; 2]) -> bool {
    let [before, after] = values.map(|value| value.cpus().cloned().unwrap_or_default());
    let list_of = |list: Target| {
        let list = read(host, &list).ok();
        list.and_then(|list| list.cpus().cloned())
            .unwrap_or_default()
    };
    let isolated = cgroup::isolated_within(&*host.files, group);
    isolated.iter().any(|one| {
        let wanted = match list_of(Target::exclusive(one)) {
            cpus if cpus.is_empty() => list_of(Target::cpus(one)),
            cpus => cpus,
        };
        one == group || is_changed(&wanted, &before, &after)
    })
}

/// Has a cgroup be no partition before it is removed, by a child where that may sleep: the removal itself
/// would, with a lock of all cgroups held.
fn end_partition(host: &Host, group: &str) -> io::Result<()> {
    let files = &*host.files;
    let is_isolated = |group: &str| !cgroup::isolated_within(files, group).is_empty();
    if !probe::partitions_wait(files) || !is_isolated(group) {
        return Ok(());
    }
    let partition = Target::partition(group);
    let errand = Errand::of_file(&partition.path(), &[MEMBER]).unlimited();
    errand.complete(host, slow_wait(host))
}

/// Returns what is written first because the kernel found the value invalid.
fn revival(row: &Row, before: &Value) -> Option<&'static str> {
    let is_invalid = matches!(before, Value::Text(text) if text.contains(" invalid"));
    row.revived_by.filter(|_| is_invalid)
}

fn try_write(host: &Host, target: &Target, before: &Value, value: &Value) -> io::Result<()> {
    let path = target.path();
    match (target, value) {
        (Target::Delegation(_), Value::Present) => put_drop_in(host, &path, DELEGATION),
        (Target::MemoryNodes(_), Value::Text(nodes)) => {
            put_drop_in(host, &path, &format!("{MEMORY_NODES}{nodes}\n"))
        }
        (Target::Delegation(_) | Target::MemoryNodes(_), _)
        | (Target::DropIn(_), Value::Absent) => remove_drop_in(host, &path),
        (Target::DropIn(_), Value::Text(text)) => host.files.replace(&path, text, 0o644),
        (Target::AllowedCpus(unit), Value::Cpus(cpus)) => allow_cpus(host, unit, before, cpus),
        (Target::Group(_), Value::Present) => host.files.make_dir(&path, 0o755),
        (Target::Group(_), _) => {
            empty_group(host, &path);
            host.files.remove_dir(&path)
        }
        // The number may be another device's by now.
        (Target::Knob(_, Place::Irq(number, actions)), _)
            if !irq::is_of(&*host.files, *number, actions).unwrap_or(false) =>
        {
            Err(io::ErrorKind::NotFound.into())
        }
        (Target::Knob(knob, _), value) => write_knob(host, knob.row(), &path, before, value),
        (Target::Membership(id), Value::Text(group)) => {
            alive(host, *id)?;
            let threads = format!("{CGROUP_ROOT}/{group}/cgroup.threads");
            host.files.write(&threads, &id.tid.to_string())
        }
        (Target::Affinity(id) | Target::KernelThread(id), Value::Cpus(cpus)) => {
            alive(host, *id)?;
            host.sched.set_affinity(id.tid, cpus)
        }
        (Target::Class(id), Value::Text(class)) => {
            alive(host, *id)?;
            let (policy, priority) = policy_of_class(class).ok_or(io::ErrorKind::InvalidInput)?;
            host.sched.set_class(id.tid, policy, priority)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn put_drop_in(host: &Host, path: &str, text: &str) -> io::Result<()> {
    let (dir, _) = path.rsplit_once('/').unwrap_or_default();
    make_dir(&*host.files, dir, 0o755)?;
    host.files.replace(path, text, 0o644)
}

fn remove_drop_in(host: &Host, path: &str) -> io::Result<()> {
    let (dir, _) = path.rsplit_once('/').unwrap_or_default();
    match host.files.remove(path) {
        Err(error) if !is_gone(&error) => return Err(error),
        _ => {}
    }
    // Another drop-in of the same unit may be in there.
    let _ = host.files.remove_dir(dir);
    Ok(())
}

/// systemd takes properties also for a slice that does not exist, and leaves a file behind then.
///
/// Before all are allowed again by none being named, they are named: the kernel does not empty the
/// list of a cgroup with tasks, and when the controller goes, tasks may keep what they had.
fn allow_cpus(host: &Host, unit: &str, before: &Value, cpus: &CpuSet) -> io::Result<()> {
    let set = |cpus: &CpuSet| match host.systemd.set_allowed_cpus(unit, &cpus.to_bytes()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(systemd::as_io(&error)),
    };
    if *before == Value::Absent {
        return Err(io::ErrorKind::NotFound.into());
    }
    if cpus.is_empty() {
        let all = host.files.read(POSSIBLE_CPUS)?;
        set(&all.parse().map_err(io::Error::other)?)?;
    }
    set(cpus)
}

fn read_knob(host: &Host, row: &Row, place: &Place, path: &str) -> io::Result<Value> {
    let files = &host.files;
    let text = match (row.reading, place) {
        (Reading::Online, Place::Cpu(cpu)) => return read_online(host, path, *cpu),
        (Reading::Beside(suffix), _) => {
            let requested = files.read(&format!("{path}{suffix}"));
            requested.or_else(|_| files.read(path))?
        }
        (Reading::AllIsNone(all), _) => {
            let text = files.read(path)?;
            let is_all = files.read(all).is_ok_and(|all| all == text);
            if is_all { String::new() } else { text }
        }
        (Reading::File | Reading::Online, _) => files.read(path)?,
    };
    Ok(Value::parse(row.grammar, &text))
}

fn write_knob(host: &Host, row: &Row, path: &str, before: &Value, value: &Value) -> io::Result<()> {
    if let Some(first) = revival(row, before) {
        host.files.write(path, first)?;
    }
    match (host.files.write(path, &value.render(row.grammar)), row.all) {
        (Err(error), Some(all)) if error.raw_os_error() == Some(libc::ENOSPC) => {
            let all = host.files.read(all)?;
            host.files.write(path, all.trim_end())
        }
        (result, _) => result,
    }
}

/// Moves the threads that are still in a cgroup to the one above it: they were born there after
/// its other threads had been looked at.
fn empty_group(host: &Host, path: &str) {
    let threads = host.files.read(&format!("{path}/cgroup.threads"));
    let (above, _) = path.rsplit_once('/').unwrap_or((CGROUP_ROOT, ""));
    for thread in threads.unwrap_or_default().lines() {
        // One that has ended or is bound stays; then the cgroup cannot be removed, which is told.
        let _ = host.files.write(&format!("{above}/cgroup.threads"), thread);
    }
}

/// Returns the CPUs that are online.
///
/// # Errors
/// The kernel does not tell.
pub fn online(host: &Host) -> io::Result<CpuSet> {
    let text = host.files.read("/sys/devices/system/cpu/online")?;
    text.parse().map_err(io::Error::other)
}

fn alive(host: &Host, id: TaskId) -> io::Result<()> {
    match task::alive(&*host.files, id) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Tells whether an error says that an object does not exist any more.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)
    ) || error.kind() == io::ErrorKind::NotFound
}

/// Tells whether an error is for good. `EINVAL` of an affinity is that only of a thread that may not be moved: it
/// also says that partitions and hotplug have left none of the CPUs (`__sched_setaffinity()` in `kernel/sched`).
fn is_unchangeable(host: &Host, target: &Target, error: &io::Error) -> bool {
    match target {
        Target::Knob(_, Place::Irq(..)) => {
            matches!(
                error.raw_os_error(),
                Some(libc::EIO | libc::EACCES | libc::EPERM)
            )
        }
        Target::KernelThread(id) => {
            error.raw_os_error() == Some(libc::EINVAL) && task::is_bound(&*host.files, *id)
        }
        _ => false,
    }
}
