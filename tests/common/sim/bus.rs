//! The doors to systemd and to the monitors of VMs.

use std::io;

use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::vm::Vmid;
use pin_hook::host::qmp::{self, Qmp};
use pin_hook::host::systemd::{CALL_WAIT, Job, RELOAD_WAIT, Systemd};

use super::vm::{Vm, monitor};
use super::{Sim, errno};

impl Systemd for Sim {
    fn reload(&self) -> anyhow::Result<()> {
        self.bus(RELOAD_WAIT)?;
        Ok(self.change("reload", |state, torn| {
            if !torn {
                state.systemd_reload();
            }
            Ok(())
        })?)
    }

    fn start(&self, unit: &str) -> anyhow::Result<()> {
        self.bus(CALL_WAIT)?;
        Ok(self.change(&format!("start {unit}"), |state, torn| {
            if !torn {
                state.systemd.active.insert(unit.to_owned());
            }
            Ok(())
        })?)
    }

    fn stop(&self, unit: &str) -> anyhow::Result<()> {
        self.bus(CALL_WAIT)?;
        Ok(self.change(&format!("stop {unit}"), |state, torn| {
            if !torn {
                state.systemd.active.remove(unit);
            }
            Ok(())
        })?)
    }

    fn run(&self, job: &Job) -> anyhow::Result<()> {
        self.bus(CALL_WAIT)?;
        let op = format!("run {} {}", job.unit, job.arguments.join(" "));
        Ok(self.change(&op, |state, torn| {
            if !torn {
                let now = state.since_boot;
                state.systemd.begun.insert(job.unit.clone(), now);
                state.systemd.jobs.push(job.clone());
                state.run_child(job);
                // Who has answered has not ended yet.
                if job.unit.starts_with("pin-hook-write-") {
                    state.systemd.lingering.insert(job.unit.clone());
                }
            }
            Ok(())
        })?)
    }

    fn is_active(&self, unit: &str) -> anyhow::Result<bool> {
        self.bus(CALL_WAIT)?;
        Ok(self.ask(&format!("is_active {unit}"), |state| {
            let lingers = state.systemd.lingering.remove(unit);
            Ok(lingers || state.systemd.active.contains(unit))
        })?)
    }

    fn is_any_active(&self, pattern: &str) -> anyhow::Result<bool> {
        Ok(self.ask(&format!("is_any_active {pattern}"), |state| {
            let (start, end) = pattern.split_once('*').expect("a pattern with one star");
            let fits = |unit: &String| unit.starts_with(start) && unit.ends_with(end);
            Ok(state.systemd.active.iter().any(fits))
        })?)
    }

    fn is_stopping(&self) -> anyhow::Result<bool> {
        self.bus(CALL_WAIT)?;
        Ok(self.ask("is_stopping", |state| Ok(state.systemd.is_stopping))?)
    }

    fn enable(&self, unit: &str) -> anyhow::Result<bool> {
        self.bus(CALL_WAIT)?;
        Ok(self.change(&format!("enable {unit}"), |_, _| Ok(false))?)
    }

    fn delegated(&self, scope: &str) -> anyhow::Result<Option<Vec<String>>> {
        self.bus(CALL_WAIT)?;
        Ok(self.ask(&format!("delegated {scope}"), |state| {
            Ok(state.delegated(scope))
        })?)
    }

    fn allowed_cpus(&self, unit: &str) -> anyhow::Result<Option<Vec<u8>>> {
        self.bus(CALL_WAIT)?;
        Ok(self.ask(&format!("allowed_cpus {unit}"), |state| {
            Ok(state.allowed_cpus(unit).map(|cpus| cpus.to_bytes()))
        })?)
    }

    fn set_allowed_cpus(&self, unit: &str, cpus: &[u8]) -> anyhow::Result<bool> {
        self.bus(CALL_WAIT)?;
        let cpus = CpuSet::from_bytes(cpus);
        let op = format!("set_allowed_cpus {unit} {cpus}");
        Ok(self.change(&op, |state, torn| {
            let is_there = state.allowed_cpus(unit).is_some();
            if is_there && !torn {
                state.allow_cpus(unit, cpus.clone());
            }
            Ok(is_there)
        })?)
    }
}

impl Sim {
    fn monitor<T>(
        &self,
        what: &str,
        vmid: Vmid,
        answer: impl FnOnce(Vm) -> T,
    ) -> anyhow::Result<T> {
        if self.state().systemd.is_silent {
            Err(self.wait_in_vain(qmp::WAIT))?;
        }
        let vmid = vmid.to_string();
        let op = format!("{what} {vmid}");
        let answer = self.ask(&op, |state| monitor(state, &vmid).map(answer));
        self.let_others_act(&op);
        Ok(answer?)
    }
}

impl Qmp for Sim {
    fn run_state(&self, vmid: Vmid) -> anyhow::Result<String> {
        self.monitor("run_state", vmid, |vm| vm.run_state)
    }

    fn iothreads(&self, vmid: Vmid) -> anyhow::Result<Vec<(String, i32)>> {
        self.monitor("iothreads", vmid, |vm| vm.iothreads)
    }

    fn vcpus(&self, vmid: Vmid) -> anyhow::Result<Vec<(u32, i32)>> {
        self.monitor("vcpus", vmid, |vm| vm.vcpus)
    }
}
