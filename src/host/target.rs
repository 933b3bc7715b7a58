//! Reading and writing of targets on the host.
//!
//! Kernel files lie: a write can succeed and change nothing, or change something else. [`write`]
//! therefore says only that the kernel took the value; what became of it is read by [`read`].

use std::io;

use super::Host;
use super::task;
use crate::domain::knob::Knob;
use crate::domain::target::{Target, Value};
use crate::domain::thread::policy_of_class;
use crate::domain::vm::TaskId;

/// Text of the drop-in that makes systemd leave a scope's cpuset controller to us.
///
/// Without it any property that PVE sets on the scope makes systemd rewrite the scope's
/// `cgroup.subtree_control`, and the partition dies silently.
pub const DELEGATION: &str = "# Written by pin-hook(8); without it a change of the vm's cpu units \
                              ends its isolation.\n[Scope]\nDelegate=cpuset\n";

/// Path of the root of the cgroup hierarchy.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// The kernel took the value.
    Taken,
    /// The object has gone in the meantime.
    Gone,
    /// The kernel refuses every change of this object: a managed interrupt (`EIO`, or `EACCES`
    /// where its file is read-only), a thread that is bound to its CPUs (`EINVAL`).
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
        Target::Group(_) => {
            let exists = host.files.exists(&target.path());
            return Ok(if exists {
                Value::Present
            } else {
                Value::Absent
            });
        }
        Target::Knob(knob, _) => {
            let text = read_knob(host, *knob, &target.path());
            text.map(|text| Value::parse(knob.row().grammar, &text))
        }
        Target::Membership(id) => alive(host, *id)
            .and_then(|()| task::cgroup_of(&*host.files, id.tid, id.tid))
            .map(|path| Value::Text(path.trim_start_matches('/').to_owned())),
        Target::Affinity(id) | Target::KernelThread(id) => alive(host, *id)
            .and_then(|()| host.sched.affinity(id.tid))
            .map(Value::Cpus),
        Target::Class(id) => alive(host, *id)
            .and_then(|()| task::class_of(&*host.files, id.tid))
            .map(Value::Text),
    };
    match value {
        Err(error) if is_gone(&error) => Ok(Value::Absent),
        value => value,
    }
}

/// Gives a target a value.
///
/// # Errors
/// Whatever the kernel answered, unless that says that the object is gone or unchangeable.
pub fn write(host: &Host, target: &Target, before: &Value, value: &Value) -> io::Result<Outcome> {
    match try_write(host, target, before, value) {
        Ok(()) => Ok(Outcome::Taken),
        Err(error) if is_gone(&error) => Ok(Outcome::Gone),
        Err(error) if is_unchangeable(target, &error) => Ok(Outcome::Unchangeable(error)),
        Err(error) => Err(error),
    }
}

fn try_write(host: &Host, target: &Target, before: &Value, value: &Value) -> io::Result<()> {
    let path = target.path();
    match (target, value) {
        (Target::Delegation(_), Value::Present) => {
            let (dir, _) = path.rsplit_once('/').unwrap_or_default();
            make_unit_dir(host, dir)?;
            host.files.replace(&path, DELEGATION, 0o644)
        }
        (Target::Delegation(_), _) => {
            let (dir, _) = path.rsplit_once('/').unwrap_or_default();
            match host.files.remove(&path) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
            // Another drop-in of the same unit may be in there.
            let _ = host.files.remove_dir(dir);
            Ok(())
        }
        (Target::Group(_), Value::Present) => host.files.make_dir(&path, 0o755),
        (Target::Group(_), _) => {
            empty_group(host, &path);
            host.files.remove_dir(&path)
        }
        (Target::Knob(knob, _), value) => write_knob(host, *knob, &path, before, value),
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

/// The mask of unbound work shows what partitions of type isolated leave of it; what was asked for
/// is beside it (Linux 6.7 and later, where such partitions narrow it).
fn read_knob(host: &Host, knob: Knob, path: &str) -> io::Result<String> {
    if knob == Knob::UnboundCpus
        && let Ok(requested) = host.files.read(&format!("{path}_requested"))
    {
        return Ok(requested);
    }
    host.files.read(path)
}

fn write_knob(
    host: &Host,
    knob: Knob,
    path: &str,
    before: &Value,
    value: &Value,
) -> io::Result<()> {
    // A partition that went invalid does not become valid by writing its kind again.
    if knob == Knob::Partition && matches!(before, Value::Text(text) if text.contains(" invalid")) {
        host.files.write(path, "member")?;
    }
    host.files.write(path, &value.render(knob.row().grammar))
}

/// Moves the threads that are still in a cgroup to the one above it: they were born there after
/// its other threads had been looked at.
fn empty_group(host: &Host, path: &str) {
    let threads = host
        .files
        .read(&format!("{path}/cgroup.threads"))
        .unwrap_or_default();
    let above = path
        .rsplit_once('/')
        .map_or(CGROUP_ROOT, |(above, _)| above);
    for thread in threads.lines() {
        // One that has ended or is bound stays; then the cgroup cannot be removed, which is told.
        let _ = host.files.write(&format!("{above}/cgroup.threads"), thread);
    }
}

fn make_unit_dir(host: &Host, dir: &str) -> io::Result<()> {
    match host.files.make_dir(dir, 0o755) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn alive(host: &Host, id: TaskId) -> io::Result<()> {
    match task::alive(&*host.files, id) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)
    ) || error.kind() == io::ErrorKind::NotFound
}

fn is_unchangeable(target: &Target, error: &io::Error) -> bool {
    match target {
        Target::Knob(Knob::IrqAffinity, _) => {
            matches!(
                error.raw_os_error(),
                Some(libc::EIO | libc::EACCES | libc::EPERM)
            )
        }
        Target::KernelThread(_) => error.raw_os_error() == Some(libc::EINVAL),
        _ => false,
    }
}
