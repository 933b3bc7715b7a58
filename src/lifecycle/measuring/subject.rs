//! What is measured: the vCPUs of a VM, or CPUs.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::domain::advice::Advised;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::measure::measurement::Seat;
use crate::domain::thread::{Role, Thread};
use crate::domain::vm::Vmid;
use crate::host::{Host, pve};
use crate::lifecycle::case::nothing::{check_there, next_guest};
use crate::lifecycle::engine::observe::threads_of;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeasureOf {
    /// The vCPUs of a VM that runs.
    Vm(Vmid),
    /// CPUs: whatever runs there but idle.
    Cpus(CpuSet),
    /// CPUs, each with a thread of this program that never sleeps, a real-time one perhaps.
    Spinning(CpuSet, bool),
}

/// What is measured.
#[derive(Debug)]
pub(super) struct Subject {
    pub vmid: Option<Vmid>,
    pub name: Option<String>,
    pub cpus: CpuSet,
    pub seats: Vec<Seat>,
}

impl Subject {
    /// Finds out what is to be measured; `online` are the CPUs that can be.
    ///
    /// # Errors
    /// The VM does not run, or there is no such CPU.
    pub fn find(host: &Host, asked: &MeasureOf, online: &CpuSet) -> anyhow::Result<Self> {
        match asked {
            MeasureOf::Vm(vmid) => of_vm(host, *vmid),
            MeasureOf::Cpus(cpus) | MeasureOf::Spinning(cpus, _) => of_cpus(cpus, online),
        }
    }

    /// Returns the threads whose time is measured.
    pub fn threads(&self) -> BTreeSet<i32> {
        self.seats.iter().map(|seat| seat.thread).collect()
    }

    /// Returns the CPUs, each with the thread that has it where nothing happens: its only vCPU, or idle.
    pub fn at_rest(&self) -> Vec<(CpuId, i32)> {
        let on = |cpu| {
            let mut here = self.seats.iter().filter(|seat| seat.cpus.contains(cpu));
            let only = here.next().filter(|_| here.next().is_none());
            (cpu, only.map_or(0, |seat| seat.thread))
        };
        self.cpus.iter().map(on).collect()
    }
}

fn of_vm(host: &Host, vmid: Vmid) -> anyhow::Result<Subject> {
    let Some(qemu) = pve::running(&*host.files, vmid)? else {
        check_there(host, vmid)?;
        bail!(Advised::new(
            format!("vm {vmid} is not running"),
            format!("qm start {vmid}, or measure its cpus: pin-hook measure --cpus LIST"),
        ));
    };
    let mut seats: Vec<Seat> = threads_of(host, qemu)
        .into_iter()
        .filter_map(seat)
        .collect();
    if seats.is_empty() {
        bail!(Advised::new(
            format!("no thread of the qemu of vm {vmid} is named as a vcpu (cpu n/kvm)"),
            "measure its cpus instead: pin-hook measure --cpus LIST".to_owned(),
        ));
    }
    seats.sort_by_key(|seat| seat.vcpu);
    let cpus = seats
        .iter()
        .fold(CpuSet::new(), |all, seat| all.union(&seat.cpus));
    Ok(Subject {
        vmid: Some(vmid),
        name: next_guest(&*host.files, vmid, "").and_then(|guest| guest.name),
        cpus,
        seats,
    })
}

fn seat(thread: Thread) -> Option<Seat> {
    let Role::Vcpu(vcpu) = thread.role() else {
        return None;
    };
    Some(Seat {
        vcpu: Some(vcpu),
        thread: thread.id.tid,
        cpus: thread.affinity,
        ..Seat::default()
    })
}

fn of_cpus(cpus: &CpuSet, online: &CpuSet) -> anyhow::Result<Subject> {
    let absent = cpus.difference(online);
    if cpus.is_empty() || !absent.is_empty() {
        let fact = match cpus.is_empty() {
            true => "no cpus to measure".to_owned(),
            false => format!("{} {} not online", absent.in_words(), absent.is_or_are()),
        };
        bail!(Advised::new(fact, format!("online are cpus {online}")));
    }
    let seat = |cpu| Seat {
        cpus: CpuSet::of(cpu),
        ..Seat::default()
    };
    Ok(Subject {
        vmid: None,
        name: None,
        cpus: cpus.clone(),
        seats: cpus.iter().map(seat).collect(),
    })
}
