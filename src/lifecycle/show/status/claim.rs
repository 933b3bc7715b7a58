//! What one VM owns: its CPUs, partitions, devices and threads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::in_force::{Own, level};
use crate::domain::advice::Advised;
use crate::domain::backend::Backend;
use crate::domain::claim::Claim;
use crate::domain::cpuset::CpuSet;
use crate::domain::desired::has_partition;
use crate::domain::facts::VmFacts;
use crate::domain::level::Level;
use crate::domain::state::State;
use crate::domain::target::{Target, Value};
use crate::domain::thread::{Role, Thread};
use crate::domain::vm::Vmid;
use crate::host::Host;
use crate::host::topology::smt;
use crate::lifecycle::case::outdated::{Outdated, outdated};
use crate::lifecycle::engine::look::{Look, is_over};
use crate::lifecycle::measuring::proof;

/// What one VM owns.
#[derive(Debug, Serialize)]
pub struct ClaimStatus {
    /// Which VM.
    pub vmid: Vmid,
    /// How far its run has come: `reserved`, `waiting`, `standby`, `running`, `failed` or `over`.
    pub state: String,
    /// Why the VM, which runs, has no CPUs of its own.
    pub failure: Option<String>,
    /// Why what it owns is not what its table says now.
    pub outdated: Option<String>,
    /// Whether the claimed run is over, and the host not given back yet.
    pub over: bool,
    /// CPUs that it owns, or would like to as long as it stands by.
    pub cpus: CpuSet,
    /// Those of them that somebody has taken offline.
    pub offline: CpuSet,
    /// What can be done about that.
    #[serde(skip)]
    pub offline_help: Option<String>,
    /// How they are taken.
    pub backend: Backend,
    /// Why that way.
    pub reason: String,
    /// How much of its CPUs is its own, while it runs with them.
    pub level: Option<Level>,
    /// Partitions of its threads.
    pub partitions: Vec<Partition>,
    /// Functions that are passed through, and their models.
    pub devices: BTreeMap<String, String>,
    /// Threads of the VM.
    pub threads: Vec<ThreadStatus>,
}

/// A cpuset partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Path of its cgroup below the root of the hierarchy.
    pub cgroup: String,
    /// Kind of partition that it should be.
    pub wanted: String,
    /// What the kernel says about it; nothing when there is no such cgroup.
    pub actual: Option<String>,
}

/// A thread of a VM.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ThreadStatus {
    /// Its thread id.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// What it is for: `vcpu`, `iothread`, `vhost` or `emulator`.
    pub role: &'static str,
    /// Index of its vCPU.
    pub vcpu: Option<usize>,
    /// Id of its iothread object.
    pub iothread: Option<String>,
    /// CPUs that it should run on; nothing when it is left alone.
    pub wanted: Option<CpuSet>,
    /// CPUs that it may run on.
    pub actual: CpuSet,
    /// Path of its cgroup below the root of the hierarchy.
    pub cgroup: String,
    /// Whether affinity and cgroup are as wished.
    pub ok: bool,
}

impl Partition {
    /// Tells whether it is as it should be.
    fn is_valid(&self) -> bool {
        self.actual.as_ref() == Some(&self.wanted)
    }
}

impl ThreadStatus {
    /// Tells whether it is a vCPU that is elsewhere.
    fn is_astray(&self) -> bool {
        self.vcpu.is_some() && !self.ok
    }
}

impl ClaimStatus {
    /// Returns what is wrong with what the VM owns, the worst of it, and what to do.
    pub fn amiss(&self) -> Option<Advised> {
        let vmid = self.vmid;
        if self.is_ok() {
            return None;
        }
        Some(if let Some(failure) = &self.failure {
            let help = format!(
                "pin-hook plan {vmid} shows what is in the way; then pin-hook apply {vmid}"
            );
            Advised::new(failure.clone(), help)
        } else if self.over {
            Advised::new(
                "it has stopped, but the host is not restored yet",
                "pin-hook reconcile",
            )
        } else if !self.offline.is_empty() {
            let fact = format!(
                "{} {} offline",
                self.offline.in_words(),
                self.offline.is_or_are()
            );
            Advised::new(fact, self.offline_help.clone().unwrap_or_default())
        } else {
            let fact = "partitions or threads are not as pin-hook has set them";
            let help = format!(
                "pin-hook status {vmid} shows which; pin-hook apply {vmid} sets them again"
            );
            Advised::new(fact, help)
        })
    }

    /// Tells whether the VM owns what it should. Threads that were born a moment ago have yet to be moved;
    /// a vCPU that is elsewhere disturbs the guest.
    pub fn is_ok(&self) -> bool {
        self.failure.is_none()
            && !self.over
            && self.offline.is_empty()
            && self.partitions.iter().all(Partition::is_valid)
            && !self.threads.iter().any(ThreadStatus::is_astray)
    }
}

/// Returns what a claim owns, as it was seen.
pub(super) fn claim_status(host: &Host, claim: &Claim, state: &State, seen: &Look) -> ClaimStatus {
    let vm = seen.facts.vms.get(&claim.vmid);
    let threads = vm.iter().flat_map(|vm| &vm.threads);
    let threads: Vec<_> = threads.map(|thread| thread_status(thread, seen)).collect();
    let partitions = vm.map_or_else(Vec::new, |vm| partitions(claim, vm, seen));
    let own = Own {
        partitions: !partitions.is_empty() && partitions.iter().all(Partition::is_valid),
        vcpus: !threads.iter().any(ThreadStatus::is_astray),
    };
    let failure = claim.obstacle().map(str::to_owned);
    let over = is_over(host, claim);
    let offline = match seen.facts.cpus_at_work {
        true => CpuSet::new(),
        false => claim.offline_now(&seen.facts.online, &state.taken_offline()),
    };
    let outdated = outdated(host, state, claim);
    let to_apply = matches!(outdated, Some(Outdated::Pending(_)));
    ClaimStatus {
        vmid: claim.vmid,
        state: match over {
            true => "over".to_owned(),
            false => claim.name(),
        },
        failure,
        outdated: outdated.map(|how| how.to_string()),
        over,
        offline_help: offline_help(host, claim.vmid, &offline),
        cpus: claim.wishes.cpus.clone(),
        backend: claim.wishes.backend,
        reason: claim.wishes.reason.clone(),
        level: (claim.is_running() && !over).then(|| {
            let proof = proof::of_vm(&*host.files, claim.vmid);
            let now = Claim {
                offline: offline.clone(),
                ..claim.clone()
            };
            let level = level(&now, state, seen, own);
            let level = level.proven(claim.vmid, &claim.wishes, proof.as_ref());
            match to_apply {
                // What the table may say by now does not have to be written into it.
                true => level.after(format!("pin-hook apply {}", claim.vmid)),
                false => level,
            }
        }),
        offline,
        devices: claim.devices.clone(),
        partitions,
        threads,
    }
}

fn offline_help(host: &Host, vmid: Vmid, offline: &CpuSet) -> Option<String> {
    let smt = smt(&*host.files);
    let of_table = format!(
        "{} in its table and pin-hook apply {vmid}",
        smt.help(offline)
    );
    (!offline.is_empty()).then_some(of_table)
}

fn partitions(claim: &Claim, vm: &VmFacts, seen: &Look) -> Vec<Partition> {
    if !has_partition(&claim.wishes) {
        return Vec::new();
    }
    let groups = claim.wishes.groups().into_iter();
    let partitions = groups.map(|(name, _)| {
        let cgroup = format!("{}/{name}", vm.scope);
        let target = Target::partition(&cgroup);
        let wanted = seen.wishes.get(&target).map(|wish| wish.value.to_string());
        Partition {
            cgroup,
            wanted: wanted.unwrap_or_default(),
            actual: seen.live.get(&target).and_then(Value::shown),
        }
    });
    partitions.collect()
}

fn thread_status(thread: &Thread, seen: &Look) -> ThreadStatus {
    let wish = |target: &Target| seen.wishes.get(target).map(|wish| &wish.value);
    let wanted = wish(&Target::Affinity(thread.id)).and_then(Value::cpus);
    let group = wish(&Target::Membership(thread.id));
    let role = thread.role();
    let is_on = |cpus: &CpuSet| cpus.intersection(&seen.facts.online) == thread.affinity;
    let is_in = |group: &Value| *group == Value::Text(thread.group.clone());
    ThreadStatus {
        tid: thread.id.tid,
        name: thread.comm.clone(),
        ok: wanted.is_none_or(is_on) && group.is_none_or(is_in),
        wanted: wanted.cloned(),
        actual: thread.affinity.clone(),
        cgroup: thread.group.clone(),
        vcpu: match role {
            Role::Vcpu(n) => Some(n),
            _ => None,
        },
        iothread: thread.iothread.clone(),
        role: match role {
            Role::Vcpu(_) => "vcpu",
            Role::Iothread(_) => "iothread",
            Role::Vhost => "vhost",
            Role::Emulator => "emulator",
        },
    }
}
