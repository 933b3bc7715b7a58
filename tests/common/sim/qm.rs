//! PVE's `qm`, as far as the program has systemd run it: `shutdown` and `start` in units of their
//! own, which take their time.

use std::time::Duration;

use pin_hook::domain::vm::TaskId;
use pin_hook::host::systemd::Job;

use super::vm::VmSpec;
use super::{Sim, State};

/// How a guest and its `qm shutdown` behave.
#[derive(Debug, Clone, Copy)]
pub enum Guest {
    /// It shuts down after that time, whether `qm` waits so long or not.
    ObeysAfter(Duration),
    /// It runs on, and `qm` gives up after its `--timeout`.
    Deaf,
    /// `qm` gives up at once.
    Refuses,
}

impl State {
    /// Lets time pass until it is over or one of the processes ends.
    pub fn pass_time(&mut self, processes: &[TaskId], wait: Duration) {
        self.since_boot += wait;
        let is_gone = |id: &TaskId| self.tasks.get(id.tid).is_none();
        assert!(!processes.iter().any(is_gone), "waited for what has ended");
        self.work_on_jobs(false);
    }

    /// Does what is due of the jobs whose units are active; starts of VMs only `with_starts`,
    /// because they call hooks.
    fn work_on_jobs(&mut self, with_starts: bool) -> Vec<u32> {
        let mut started = Vec::new();
        for job in self.systemd.jobs.clone() {
            let is_of_qm = job.path.ends_with("/qm");
            if !is_of_qm || !self.systemd.active.contains(&job.unit) {
                continue;
            }
            let vmid: u32 = job.arguments[1].parse().expect("a number");
            let is_over = match job.arguments[0].as_str() {
                "shutdown" => self.work_on_shutdown(&job, vmid),
                _ => {
                    with_starts && {
                        started.push(vmid);
                        true
                    }
                }
            };
            if is_over {
                self.systemd.active.remove(&job.unit);
            }
        }
        started
    }

    /// Tells whether `qm` has ended.
    fn work_on_shutdown(&mut self, job: &Job, vmid: u32) -> bool {
        let passed = self.since_boot - self.systemd.begun[&job.unit];
        let timeout = job.arguments[3].parse().map(Duration::from_secs);
        let runs = self.vms.contains_key(&vmid.to_string());
        let guest = self.systemd.guests.get(&vmid).copied();
        match guest.unwrap_or(Guest::ObeysAfter(Duration::ZERO)) {
            Guest::ObeysAfter(time) if passed >= time => {
                if runs {
                    self.end_vm(vmid);
                }
                true
            }
            Guest::Refuses => true,
            Guest::ObeysAfter(_) | Guest::Deaf => passed >= timeout.expect("seconds") || !runs,
        }
    }
}

impl Sim {
    /// Says how a guest behaves; without that it shuts down at once.
    pub fn guest(&self, vmid: u32, guest: Guest) {
        self.state().systemd.guests.insert(vmid, guest);
    }

    /// `qm` does what is due of what it was asked for; VMs start without hooks.
    pub fn work_on_jobs(&self) {
        let started = self.state().work_on_jobs(true);
        for vmid in started {
            let runs = self.state().vms.contains_key(&vmid.to_string());
            if !runs {
                let _ = self.start_vm_as(vmid, &VmSpec::with_vcpus(2));
            }
        }
    }

    /// Tells whether a VM runs.
    pub fn runs(&self, vmid: u32) -> bool {
        self.state().vms.contains_key(&vmid.to_string())
    }
}
