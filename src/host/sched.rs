//! Affinity and scheduling class of tasks: which CPUs a task may run on, and before whom.
//!
//! `sched_getaffinity(2)` leaves out CPUs that are not active; `Cpus_allowed_list` in `/proc/<tid>/status` does not.
//!
//! glibc's wrappers and those of other crates stop at 1024 CPUs, so the system calls are made
//! with masks of any length ([`raw`]).

use std::fmt::Debug;
use std::io;

use super::files::Files;
use super::raw;
use super::task;
use crate::domain::cpuset::{CpuId, CpuSet};

/// Scheduling of the host's tasks.
pub trait Sched: Debug {
    /// Returns the CPUs that task `tid` may run on now (its effective affinity).
    ///
    /// # Errors
    /// `ESRCH` when there is no such task.
    fn affinity(&self, tid: i32) -> io::Result<CpuSet>;
    /// Requests that task `tid` runs on `cpus` only; the kernel cuts that to the task's cpuset.
    ///
    /// # Errors
    /// `ESRCH` when there is no such task; `EINVAL` when none of the CPUs is in its cpuset or the
    /// task is a kernel thread bound to its CPU.
    fn set_affinity(&self, tid: i32, cpus: &CpuSet) -> io::Result<()>;
    /// Gives task `tid` a scheduling class; what it makes later has the ordinary one again.
    ///
    /// # Errors
    /// `ESRCH` when there is no such task; `EPERM` without `CAP_SYS_NICE`, or where the task's
    /// cgroup has no time for real-time tasks (`CONFIG_RT_GROUP_SCHED`); `EINVAL` for a class
    /// that needs more than a priority.
    fn set_class(&self, tid: i32, policy: u32, priority: u32) -> io::Result<()>;
}

/// The running kernel's scheduler.
#[derive(Debug, Clone, Copy)]
pub struct KernelSched;

/// First size of the mask asked for, in bytes: enough for 1024 CPUs.
const FIRST_MASK_BYTES: usize = 128;
/// Size of the largest mask, in bytes.
const LARGEST_MASK_BYTES: usize = (CpuId::MAX.0 as usize + 1) / 8;

impl Sched for KernelSched {
    fn affinity(&self, tid: i32) -> io::Result<CpuSet> {
        let mut n_bytes = FIRST_MASK_BYTES;
        loop {
            let mut mask = vec![0u8; n_bytes];
            match raw::affinity(tid, &mut mask) {
                Ok(written) => return Ok(CpuSet::from_bytes(&mask[..written])),
                // The mask is shorter than the kernel's own.
                Err(error)
                    if error.raw_os_error() == Some(libc::EINVAL)
                        && n_bytes < LARGEST_MASK_BYTES =>
                {
                    n_bytes *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn set_affinity(&self, tid: i32, cpus: &CpuSet) -> io::Result<()> {
        raw::set_affinity(tid, &cpus.to_bytes())
    }

    fn set_class(&self, tid: i32, policy: u32, priority: u32) -> io::Result<()> {
        // Without the flag a kernel worker that a real-time vCPU makes would be one as well.
        let reset = match priority {
            0 => 0,
            _ => libc::SCHED_RESET_ON_FORK.unsigned_abs(),
        };
        raw::set_scheduler(tid, policy | reset, priority)
    }
}

/// Affinities in a captured tree, as `/proc/<tid>/status` told them; none can be changed.
#[derive(Debug)]
pub struct CapturedSched<F>(pub F);

impl<F: Files> Sched for CapturedSched<F> {
    fn affinity(&self, tid: i32) -> io::Result<CpuSet> {
        let requested = task::allowed_cpus(&self.0, tid)?;
        // sched_getaffinity(2) leaves out what is offline, this file does not.
        match self.0.read("/sys/devices/system/cpu/online")?.parse() {
            Ok(online) => Ok(requested.intersection(&online)),
            Err(_) => Ok(requested),
        }
    }

    fn set_affinity(&self, _tid: i32, _cpus: &CpuSet) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_class(&self, _tid: i32, _policy: u32, _priority: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_of_this_thread_can_be_read_and_written() {
        let cpus = KernelSched.affinity(0).unwrap();
        assert!(!cpus.is_empty());
        KernelSched.set_affinity(0, &cpus).unwrap();
        assert_eq!(KernelSched.affinity(0).unwrap(), cpus);
    }

    #[test]
    fn class_of_this_thread_can_be_written() {
        KernelSched.set_class(0, 3, 0).unwrap();
        KernelSched.set_class(0, 0, 0).unwrap();
        let error = KernelSched.set_class(0, 1, 100).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn an_absent_cpu_is_refused() {
        let error = KernelSched
            .set_affinity(0, &CpuSet::of(CpuId::MAX))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
